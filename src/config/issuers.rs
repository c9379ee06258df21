//! What `[[issuer]]` means: its rules and its keys.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::SigningKey;
use super::demands;
use super::file;
use super::files::Context;
use super::key_sets::key_set;
use super::problem::{Placed, Problem};
use super::server::{duration, name};
use crate::backend::printable;
use crate::jwks;
use crate::token::KeyRing;
use crate::token::keys::{Algorithm, KeyError, KeyStore, MAX_KID, SetRules, is_pem};
use crate::token::verify::Issuer;

/// What the issuers of a config come to.
#[derive(Default)]
pub(super) struct Issuers {
    pub(super) all: Vec<Arc<Issuer>>,
    /// Where the key sets of those that have one come from.
    pub(super) sources: Vec<Arc<jwks::Source>>,
    /// The shared secrets among their keys: with these, tokens can be made too.
    pub(super) signing: Vec<SigningKey>,
}

/// The issuers, and their keys.
pub(super) fn issuers(typed: &[file::Issuer], context: &Context<'_>) -> Issuers {
    let mut names = BTreeMap::new();
    let mut found = Issuers::default();
    for typed in typed {
        let name: Option<Arc<str>> = name(typed.name.as_ref(), "issuer", &mut names, context).map(Into::into);
        let algorithms = demands::algorithms(typed.algorithms.as_ref(), context);
        let keys = keys(typed, name.as_ref(), &algorithms, &mut found, context);
        let leeway = tolerance(typed.leeway.as_ref(), "leeway", 0, context);
        let skew = tolerance(typed.skew.as_ref(), "skew", 5_000, context);
        let aud = texts(typed.aud.as_ref(), "aud", context);
        if let Some(iss) = typed.iss.as_ref().filter(|iss| iss.value.is_empty()) {
            let problem = Problem::new(&iss.place, "`iss` is empty");
            context.add(problem.remedy("leave the key out if `iss` is not to be checked"));
        }
        let Some(name) = name else { continue };
        found.all.push(Arc::new(Issuer {
            name,
            iss: typed.iss.as_ref().or(typed.set.discovery.as_ref()).map(|iss| iss.value.clone()),
            aud,
            keys,
            leeway,
            skew,
            require_exp: typed.require_exp.as_ref().is_none_or(|require| require.value),
            max_lifetime: Some(duration(typed.max_lifetime.as_ref(), 24 * 3600 * 1000)).filter(|life| !life.is_zero()),
            max_age: typed.max_age.as_ref().map(|age| age.value).filter(|age| !age.is_zero()),
            algorithms,
            typ: demands::typ(typed.typ.as_ref(), context),
            azp: texts(typed.azp.as_ref(), "azp", context),
            allow_bound: typed.allow_bound_tokens.as_ref().is_some_and(|allow| allow.value),
            demands: demands::demands(&typed.demands, context),
        }));
    }
    found
}

fn keys(
    typed: &file::Issuer,
    name: Option<&Arc<str>>,
    algorithms: &[Algorithm],
    found: &mut Issuers,
    context: &Context<'_>,
) -> Arc<KeyStore> {
    let mut ring = KeyRing::default();
    if !typed.has_keys && !typed.set.is_there() {
        let problem = Problem::new(&typed.place, "[[issuer]] has no key");
        context.add(problem.remedy(
            "add [[issuer.key]] with algorithm and secret_file or pem_file; or discovery, jwks_url or jwks_file",
        ));
    }
    for key in &typed.keys {
        context.mask_secret(key.secret_file.as_ref(), key.secret_env.as_ref());
        add_key(&mut ring, key, typed.algorithms.as_ref(), name, &mut found.signing, context);
    }
    // Only what is on this machine may hold secrets.
    let rules = SetRules { algorithms: algorithms.to_vec(), secrets: typed.set.file.is_some() };
    let (Ok(Some(config)), name) = (key_set(typed, rules.clone(), context), name.cloned().unwrap_or_default()) else {
        return ring.into();
    };
    // By what revocations name it, too: streams may outlive the issuer's name in the config.
    let known_as =
        typed.iss.as_ref().or(typed.set.discovery.as_ref()).map_or(name.clone(), |iss| iss.value.as_str().into());
    let store = KeyStore::with_set(known_as, ring, rules.secrets).set_stands_in(config.origin.to_string());
    let store = Arc::new(store);
    if let Some(file) = &typed.set.file
        && let Some(json) = context.read(file, "the JWK set", "a JWK set (RFC 7517) as the issuer publishes it")
    {
        add_jwk_set(&store, &json, &rules, file, context);
    }
    found.sources.push(Arc::new(jwks::Source::new(name, config, store.clone())));
    store
}

/// Adds the keys of a set; those that cannot be used are noted.
fn add_jwk_set(store: &KeyStore, json: &[u8], rules: &SetRules, file: &Placed<String>, context: &Context<'_>) {
    match KeyRing::from_jwk_set(json, rules) {
        Ok((ring, report)) => {
            for skipped in &report.skipped {
                let kid = skipped.kid.as_ref().map_or_else(String::new, |kid| format!(" ({})", printable(kid, 64)));
                let number = skipped.index + 1;
                context.report.note(format!("{}: key {number}{kid} is not used: {}", file.value, skipped.reason));
            }
            store.install(ring, report, None);
        }
        Err(error) => context.add(
            Problem::new(&file.place, format!("the JWK set cannot be used: {error}"))
                .remedy("public keys for signatures count: RSA, EC (P-256, P-384, P-521) or OKP (Ed25519)"),
        ),
    }
}

/// Adds one key to the ring; each has an algorithm and exactly one place that it comes from.
fn add_key(
    ring: &mut KeyRing,
    typed: &file::IssuerKey,
    listed: Option<&Placed<Vec<Placed<String>>>>,
    name: Option<&Arc<str>>,
    signing: &mut Vec<SigningKey>,
    context: &Context<'_>,
) {
    let Some(algorithm) = &typed.algorithm else { return };
    let Some(alg) = demands::algorithm(algorithm, context) else { return };
    if let Some(list) =
        listed.filter(|list| !list.value.is_empty() && !list.value.iter().any(|one| one.value == algorithm.value))
    {
        let problem = Problem::new(&algorithm.place, format!("`{alg}` is none of the issuer's `algorithms`"));
        context.add(problem.other(&list.place, "these").remedy("add it there, or take the key out"));
    }
    if let Some(kid) = typed.kid.as_ref().filter(|kid| kid.value.is_empty() || kid.value.len() > MAX_KID) {
        let problem = Problem::new(&kid.place, "`kid` is empty, or longer than 256 bytes");
        context.add(problem.remedy("leave it out if the tokens name no key"));
    }
    let shared = algorithm.value.starts_with("HS");
    let (wanted, unwanted) = if shared { ("secret", "pem") } else { ("pem", "secret") };
    let secret = [("secret_file", typed.secret_file.as_ref()), ("secret_env", typed.secret_env.as_ref())];
    let pem = [("pem_file", typed.pem_file.as_ref()), ("pem_env", typed.pem_env.as_ref())];
    let (fitting, other) = if shared { (secret, pem) } else { (pem, secret) };
    for (key, source) in other {
        let Some(source) = source else { continue };
        let kind = if shared { "a shared secret" } else { "a public key in PEM" };
        let problem = Problem::new(&source.place, format!("{} needs {kind}, so `{key}` does not fit", algorithm.value));
        context.add(
            problem
                .other(&algorithm.place, "this algorithm")
                .remedy(format!("use {wanted}_file or {wanted}_env instead of {unwanted}_*, or another algorithm")),
        );
    }
    let mismatch = other.iter().any(|(_, source)| source.is_some());
    let source = match fitting {
        [(_, Some(file)), (_, None)] => Source::File(file),
        [(_, None), (_, Some(variable))] => Source::Variable(variable),
        [(_, Some(file)), (_, Some(variable))] => {
            let problem = Problem::new(&variable.place, "the key comes from a file and from a variable");
            context.add(problem.other(&file.place, "the file").remedy("keep one of the two"));
            return;
        }
        [(_, None), (_, None)] => {
            if !mismatch {
                let problem = Problem::new(&typed.place, format!("[[issuer.key]] has no `{wanted}_file`"));
                context.add(problem.remedy(format!("{} needs {wanted}_file or {wanted}_env", algorithm.value)));
            }
            return;
        }
    };
    let kid = typed.kid.as_ref().map(|kid| kid.value.clone());
    let mut remedy = "the public key or certificate, PEM, of the kind that the algorithm names";
    let (place, added) = match (shared, source) {
        (true, source) => {
            let Some(secret) = source.secret(context) else { return };
            remedy = if is_pem(secret.expose()) {
                "a public key goes to `pem_file`, with RS256, ES256, ..."
            } else {
                "`portcullis cert` makes a good secret in certs/token.secret; or: openssl rand -base64 48"
            };
            let added = ring.add_secret(alg, kid.clone(), &secret);
            if let (Ok(()), Some(name)) = (&added, name) {
                signing.push(SigningKey { issuer: name.clone(), algorithm: alg, kid, secret });
            }
            (source.place(), added)
        }
        (false, source) => {
            let Some(pem) = source.pem(context) else { return };
            (source.place(), ring.add_pem(alg, kid, &pem))
        }
    };
    ring.stands_in(&source.name());
    if let Err(KeyError(text)) = added {
        let problem = Problem::new(&place.place, format!("the key cannot be used for {}: {text}", algorithm.value));
        context.add(problem.other(&algorithm.place, "this algorithm").remedy(remedy));
    }
}

/// Where a key comes from.
#[derive(Clone, Copy)]
enum Source<'a> {
    File(&'a Placed<String>),
    Variable(&'a Placed<String>),
}

impl<'a> Source<'a> {
    fn place(self) -> &'a Placed<String> {
        match self {
            Self::File(typed) | Self::Variable(typed) => typed,
        }
    }

    /// How people know it.
    fn name(self) -> String {
        match self {
            Self::File(typed) => typed.value.clone(),
            Self::Variable(typed) => format!("the variable {}", typed.value),
        }
    }

    fn secret(self, context: &Context<'_>) -> Option<crate::secret::Secret> {
        match self {
            Self::File(file) => context.secret_file(file),
            Self::Variable(name) => {
                context.variable(name).map(|text| crate::secret::Secret::new(text.as_bytes().to_vec()))
            }
        }
    }

    fn pem(self, context: &Context<'_>) -> Option<Vec<u8>> {
        match self {
            Self::File(file) => context.read(file, "the key", "ask the issuer for its public key"),
            Self::Variable(name) => context.variable(name).map(|text| text.as_bytes().to_vec()),
        }
    }
}

/// A tolerance of at most 5 min.
fn tolerance(typed: Option<&Placed<Duration>>, key: &str, default: u64, context: &Context<'_>) -> Duration {
    if let Some(typed) = typed.filter(|typed| typed.value > LARGEST_TOLERANCE) {
        let problem = Problem::new(&typed.place, format!("`{key}` is more than 5m"));
        context.add(problem.remedy("clocks that are further apart want NTP, not tolerance"));
    }
    duration(typed, default)
}

/// A list of claims or values, none of them empty.
fn texts(typed: Option<&Placed<Vec<Placed<String>>>>, key: &str, context: &Context<'_>) -> Vec<String> {
    let mut texts = Vec::new();
    for typed in typed.iter().flat_map(|list| &list.value) {
        if typed.value.is_empty() {
            context.add(Problem::new(&typed.place, format!("an empty string in `{key}`")));
        }
        texts.push(typed.value.clone());
    }
    texts
}

const LARGEST_TOLERANCE: Duration = Duration::from_secs(300);
