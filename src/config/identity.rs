//! What a route tells its service: `identity`, `pass_token` and `upstream_credential_*`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};

use super::demands::claim;
use super::file;
use super::files::{Context, trim_newline};
use super::problem::{Place, Placed, Problem};
use crate::gateway::headers::spelling;
use crate::gateway::identity::{Credential, Encoding, Form, Identity, Introduction};
use crate::names;
use crate::secret::Secret;
use crate::upstream;

pub(super) fn introduction(typed: &file::Introduction, context: &Context<'_>) -> Introduction {
    let mut names = Names { taken: BTreeMap::new(), context };
    let pass_token = typed.pass_token.as_ref().is_some_and(|pass| pass.value);
    if let Some(pass) = typed.pass_token.as_ref().filter(|pass| pass.value) {
        names.take(&AUTHORIZATION, &pass.place, "pass_token");
    }
    let credential = credential(typed, &mut names, context);
    let identity = typed.identity.iter().filter_map(|(header, claim)| {
        let name = names.own(header)?;
        names.take(&name, &header.place, "identity");
        identity(name, claim, context)
    });
    Introduction { identity: identity.collect(), pass_token, credential }
}

/// Notes what is secret and goes to another machine without TLS.
pub(super) fn note_in_clear(
    route: &str,
    introduction: &Introduction,
    upstream: &upstream::Config,
    context: &Context<'_>,
) {
    let what = match introduction {
        Introduction { pass_token: true, .. } => "its clients' tokens",
        Introduction { credential: Some(_), .. } => "its credential",
        _ => return,
    };
    let host = &upstream.host;
    let here = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    if upstream.tls.is_none() && !here {
        context.report.note(format!("the route {route} sends {what} to {host} in clear: use wss://"));
    }
}

/// The headers that are spoken for, by what services may read them as.
struct Names<'a> {
    taken: BTreeMap<String, (Place, &'static str)>,
    context: &'a Context<'a>,
}

impl Names<'_> {
    /// A name that the route may have for itself.
    fn own(&self, typed: &Placed<String>) -> Option<HeaderName> {
        let Ok(name) = HeaderName::try_from(typed.value.as_str()) else {
            self.context.add(Problem::new(&typed.place, format!("`{}` is no header name", typed.value)));
            return None;
        };
        let folded = spelling(name.as_str());
        let own = OWN_HEADERS.contains(&folded.as_str())
            || folded.starts_with("sec-websocket-")
            || folded.starts_with(names::HEADER_PREFIX);
        if own {
            let problem = Problem::new(&typed.place, format!("`{}` carries the request itself", typed.value));
            self.context.add(problem.remedy("choose a header of your own, such as \"X-User\""));
        }
        Some(name)
    }

    /// Keeps the name for `by`.
    fn take(&mut self, name: &HeaderName, place: &Place, by: &'static str) {
        let Some((first, other)) = self.taken.insert(spelling(name.as_str()), (place.clone(), by)) else { return };
        let problem = if by == other {
            let problem = Problem::new(place, format!("the header `{name}` stands here twice"));
            problem.remedy("services read `-` and `_`, upper and lower case alike")
        } else {
            let problem = Problem::new(place, format!("`{other}` and `{by}` both set the header `{name}`"));
            problem.remedy("a header says one thing: name another one, or leave one of the two out")
        };
        self.context.add(problem.other(&first, "the first one"));
    }
}

fn identity(header: HeaderName, typed: &file::Identity, context: &Context<'_>) -> Option<Identity> {
    let claim = claim(typed.claim.as_ref()?, context);
    let form = form(typed, context);
    let encoding = match typed.encoding.as_ref().map(|typed| (typed.value.as_str(), typed)) {
        None | Some(("percent", _)) => Encoding::Percent,
        Some(("base64", _)) => Encoding::Base64,
        Some((_, typed)) => {
            context.add(Problem::new(&typed.place, "`encoding` is neither \"percent\" nor \"base64\""));
            Encoding::Percent
        }
    };
    Some(Identity { header, claim: claim?, form, encoding })
}

fn form(typed: &file::Identity, context: &Context<'_>) -> Form {
    let single = typed.list.is_some() || typed.separator.is_some();
    let separator = typed.separator.as_ref().map_or(",", |separator| &separator.value);
    let join = Form::Join { separator: separator.to_owned(), single };
    if let Some(typed) = &typed.separator {
        let fits = |byte: u8| byte == b' ' || (byte.is_ascii_punctuation() && byte != b'%');
        if !(1..=LONGEST_SEPARATOR).contains(&typed.value.len()) || !typed.value.bytes().all(fits) {
            let problem = Problem::new(&typed.place, "the separator cannot stand between texts");
            context.add(problem.remedy(
                "1 to 8 spaces or ASCII punctuation, without \"%\", which marks what of a text was encoded: \",\" or \" \"",
            ));
        }
    }
    match typed.list.as_ref().map(|list| (list.value.as_str(), list)) {
        None | Some(("join", _)) => join,
        Some(("json", list)) => {
            if let Some(separator) = &typed.separator {
                let problem = Problem::new(&separator.place, "JSON has separators of its own");
                context.add(problem.other(&list.place, "JSON is wanted").remedy("leave `separator` out"));
            }
            Form::Json
        }
        Some((_, list)) => {
            context.add(Problem::new(&list.place, "`list` is neither \"join\" nor \"json\""));
            join
        }
    }
}

fn credential(typed: &file::Introduction, names: &mut Names<'_>, context: &Context<'_>) -> Option<Credential> {
    let header = match &typed.credential_header {
        Some(header) => names.own(header),
        None => Some(AUTHORIZATION),
    };
    let Some(file) = &typed.credential_file else {
        if let Some(header) = &typed.credential_header {
            let problem = Problem::new(&header.place, "a header for a credential, and no credential");
            context.add(problem.remedy("add a line: upstream_credential_file = \"certs/upstream.credential\""));
        }
        return None;
    };
    if let Some(header) = &header {
        let place = typed.credential_header.as_ref().map_or(&file.place, |header| &header.place);
        names.take(header, place, "upstream_credential_file");
    }
    context.mask_secret(Some(file), None);
    let remedy = "a file with the whole value of the header: \"Bearer ...\", \"token ...\" or \"Basic ...\"";
    let mut value = context.read(file, "the credential", remedy)?;
    trim_newline(&mut value);
    let value = Secret::new(value);
    if let Some(wrong) = wrong_value(value.expose()) {
        context.add(Problem::new(&file.place, format!("the credential {wrong}")).remedy(remedy));
    }
    Some(Credential { header: header?, value })
}

/// What keeps it from being the value of a header; never any of its text.
fn wrong_value(value: &[u8]) -> Option<&'static str> {
    let spaced = value.starts_with(b" ") || value.ends_with(b" ");
    match value.len() {
        0 => Some("is empty"),
        _ if value.iter().any(|byte| *byte != b' ' && !byte.is_ascii_graphic()) => {
            Some("holds something else than visible ASCII in one line")
        }
        _ if spaced || HeaderValue::from_bytes(value).is_err() => Some("begins or ends with a space"),
        1..=LARGEST_CREDENTIAL => None,
        _ => Some("is larger than 8 KiB"),
    }
}

/// What the upgrade itself needs, what says where it came from, and what is meant for one hop only.
const OWN_HEADERS: [&str; 22] = [
    "connection",
    "content-length",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "origin",
    "proxy",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-real-ip",
];
/// The longest separator, bytes.
const LONGEST_SEPARATOR: usize = 8;
/// The largest credential, bytes.
const LARGEST_CREDENTIAL: usize = 8 * 1024;
