//! What `algorithms`, `typ`, `scope` and `required_claims` mean.

use super::file;
use super::files::Context;
use super::problem::{Placed, Problem, nearest};
use super::section::Scalar;
use crate::token::claims::named::Claim;
use crate::token::keys::Algorithm;
use crate::token::verify::{Demands, RequiredClaim, Typ, Wanted};

/// What tokens must have.
pub(super) fn demands(typed: &file::Demands, context: &Context<'_>) -> Demands {
    Demands {
        scope: scope(typed.scope.as_ref(), context),
        claims: typed.required_claims.iter().filter_map(|typed| required_claim(typed, context)).collect(),
    }
}

fn scope(typed: Option<&Placed<Vec<Placed<String>>>>, context: &Context<'_>) -> Vec<String> {
    let mut scope = Vec::new();
    for typed in typed.iter().flat_map(|list| &list.value) {
        // RFC 6749, section 3.3.
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        if typed.value.is_empty() || !typed.value.bytes().all(plain) {
            let problem = Problem::new(&typed.place, format!("`{}` is no scope", typed.value));
            context
                .add(problem.remedy("each scope is a string of its own, without spaces: [\"chat\", \"chat:write\"]"));
        }
        scope.push(typed.value.clone());
    }
    scope
}

fn required_claim(typed: &file::RequiredClaim, context: &Context<'_>) -> Option<RequiredClaim> {
    let (name, any_of) = (typed.claim.as_ref()?, wanted(typed, context));
    Some(RequiredClaim { claim: claim(name, context)?, any_of })
}

/// A claim, by its name or by a pointer.
pub(super) fn claim(name: &Placed<String>, context: &Context<'_>) -> Option<Claim> {
    let claim = Claim::parse(&name.value);
    if claim.is_none() {
        let (message, remedy) = if name.value.is_empty() {
            ("the claim has no name".to_owned(), "a name such as \"sub\", or a pointer such as \"/realm_access/roles\"")
        } else {
            (format!("`{}` is no JSON pointer", name.value), "in a pointer `~` is written `~0`, and `/` in a name `~1`")
        };
        context.add(Problem::new(&name.place, message).remedy(remedy));
    }
    claim
}

fn wanted(typed: &file::RequiredClaim, context: &Context<'_>) -> Vec<Wanted> {
    match (&typed.equals, &typed.any_of) {
        (None, None) => Vec::new(),
        (Some(equals), None) => vec![value(&equals.value)],
        (None, Some(list)) => {
            if list.value.is_empty() {
                let problem = Problem::new(&list.place, "`any_of` is empty, so no token fits");
                context.add(problem.remedy("leave it out if any value will do"));
            }
            list.value.iter().map(|typed| value(&typed.value)).collect()
        }
        (Some(equals), Some(list)) => {
            let problem = Problem::new(&list.place, "the claim has `equals` and `any_of`");
            context.add(problem.other(&equals.place, "the other one").remedy("keep one of the two"));
            Vec::new()
        }
    }
}

fn value(typed: &Scalar) -> Wanted {
    match typed {
        Scalar::Boolean(value) => Wanted::Boolean(*value),
        Scalar::Fraction(value) => Wanted::Fraction(*value),
        Scalar::Integer(value) => Wanted::Integer(*value),
        Scalar::Text(value) => Wanted::Text(value.clone()),
    }
}

/// The kinds of token that count.
pub(super) fn typ(typed: Option<&Placed<Vec<Placed<String>>>>, context: &Context<'_>) -> Vec<Typ> {
    let Some(list) = typed else { return Typ::usual() };
    if list.value.is_empty() {
        let problem = Problem::new(&list.place, "`typ` is empty, so no token counts");
        context.add(problem.remedy("leave it out, or name the kinds that count: [\"at+jwt\", \"none\"]"));
    }
    let mut kinds = Vec::new();
    for typed in &list.value {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+/".contains(&byte);
        if typed.value.is_empty() || !typed.value.bytes().all(plain) {
            let problem = Problem::new(&typed.place, format!("`{}` is no media type", typed.value));
            context.add(
                problem.remedy("as the tokens' header has it: \"JWT\", \"at+jwt\"; \"none\" = the header has none"),
            );
        }
        kinds.push(if typed.value == "none" { Typ::Absent } else { Typ::named(&typed.value) });
    }
    kinds
}

/// The algorithms of an issuer.
pub(super) fn algorithms(typed: Option<&Placed<Vec<Placed<String>>>>, context: &Context<'_>) -> Vec<Algorithm> {
    typed.iter().flat_map(|list| &list.value).filter_map(|typed| algorithm(typed, context)).collect()
}

/// The algorithm of this name.
pub(super) fn algorithm(typed: &Placed<String>, context: &Context<'_>) -> Option<Algorithm> {
    let found = Algorithm::from_name(&typed.value);
    if found.is_none() {
        let known = Algorithm::ALL.map(Algorithm::as_str);
        let remedy = match typed.value.to_ascii_lowercase().as_str() {
            "none" => "tokens without a signature are never accepted".to_owned(),
            typed => {
                // A name of another family would steer to another kind of key.
                let family = known.into_iter().filter(|name| name.to_ascii_lowercase().get(..2) == typed.get(..2));
                nearest(typed, family).map_or_else(
                    || format!("known here: {}", known.join(", ")),
                    |near| format!("did you mean `{near}`?"),
                )
            }
        };
        let problem = Problem::new(&typed.place, format!("`{}` is no algorithm that is known", typed.value));
        context.add(problem.remedy(remedy));
    }
    found
}
