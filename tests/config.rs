//! The config keeps its word: every example is read, every mistake is told with its place and remedy, and
//! `config.toml` says nothing that is not so.
//!
//! `UPDATE_EXPECTED=1 cargo test --test config` writes what is told of the bad configs anew; read the difference.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that panics is a test that fails
#![allow(clippy::format_push_string, clippy::assigning_clones, clippy::map_unwrap_or)] // tests are short and not hot

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis::config::{self, Config};
use portcullis::token::claims::named::Claim;

/// A folder with certificates, keys and secrets as the configs of the corpus name them.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let certs = folder.path().join("certs");
        make_certificates(&certs);
        make_certificates(&folder.path().join("other"));
        std::fs::copy(folder.path().join("other/key.pem"), certs.join("other-key.pem")).unwrap();
        std::fs::write(certs.join("short.secret"), "short\n").unwrap();
        std::fs::write(certs.join("zeros.secret"), [b'0'; 32]).unwrap();
        std::fs::write(certs.join("jwks.json"), JWK_SET).unwrap();
        for (name, credential) in [
            ("upstream", "Bearer swordfish-and-more\n"),
            ("lines", "Bearer swordfish\nX-Admin: 1\n"),
            ("spaced", " swordfish\n"),
            ("empty", "\n"),
            ("large", &"s".repeat(8193)),
        ] {
            std::fs::write(certs.join(format!("{name}.credential")), credential).unwrap();
        }
        Self(folder)
    }

    fn parse(&self, name: &str, text: &str) -> Result<Config, String> {
        let env = text.lines().filter_map(|line| line.strip_prefix("# env: ")?.split_once('='));
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let base = self.0.path();
        config::parse(text, name, base, env).map_err(|problems| {
            let text = problems.to_string().replace(&format!("{}/", base.display()), "");
            text.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
        })
    }
}

fn make_certificates(dir: &Path) {
    let made = Command::new(env!("CARGO_BIN_EXE_portcullis")).arg("cert").arg("--dir").arg(dir).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// The configs in a folder of the corpus; none at all is a failure, since a test that saw nothing says nothing.
fn corpus(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    assert!(!files.is_empty(), "no config in {}", folder.display());
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
#[should_panic(expected = "no config in")]
fn a_corpus_without_files_is_a_failure() {
    corpus(tempfile::tempdir().unwrap().path());
}

#[test]
fn every_good_config_is_read() {
    let folder = Folder::new();
    for (path, text) in corpus(&root().join("tests/config/valid")) {
        let name = path.file_name().unwrap().to_string_lossy();
        if let Err(problems) = folder.parse(&name, &text) {
            panic!("{problems}");
        }
    }
}

#[test]
fn every_mistake_of_a_bad_config_is_told_with_place_and_remedy() {
    let folder = Folder::new();
    let update = std::env::var_os("UPDATE_EXPECTED").is_some();
    let mut different = String::new();
    for (path, text) in corpus(&root().join("tests/config/invalid")) {
        let name = path.file_name().unwrap().to_string_lossy();
        let Err(told) = folder.parse(&name, &text) else { panic!("{name} was taken for good") };
        let expected_path = path.with_extension("expected");
        if update {
            std::fs::write(&expected_path, &told).unwrap();
        }
        let expected = std::fs::read_to_string(&expected_path).unwrap_or_default();
        if told != expected {
            different.push_str(&format!("{name}: expected\n{expected}\nbut was told\n{told}\n"));
        }
        let secret = ["swordfish", "1122334455"].iter().any(|secret| told.contains(secret));
        assert!(!secret, "{name} shows what may be a secret:\n{told}");
    }
    assert!(different.is_empty(), "{different}");
}

#[test]
fn the_environment_wins_over_the_file() {
    let folder = Folder::new();
    let text = std::fs::read_to_string(root().join("tests/config/valid/environment.toml")).unwrap();
    let config = folder.parse("environment.toml", &text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.server.workers, 3);
    assert_eq!(config.listeners[0].certificates, None);
    assert_eq!(config.issuers[0].aud, ["a", "b"]);
    assert_eq!(config.signing[0].kid.as_deref(), Some("2026"), "a text that looks like a number is still a text");
    assert_eq!(config.signing[0].secret.expose().len(), 32);
    let route = &config.routes[0];
    let endpoints = route.upstream.endpoints();
    let service = endpoints[0].config();
    assert_eq!((service.host.as_str(), service.port), ("10.0.0.7", 9001));
    assert_eq!(route.limits.max_stream, Some(std::time::Duration::from_secs(3600)));
    assert_eq!(route.introduction.identity[0].claim, Claim::parse("sub").unwrap());
    assert_eq!((route.codes.expired.code(), route.codes.expired.reason()), (4403, "token expired"));
}

#[test]
fn one_newline_at_the_end_is_not_part_of_a_secret() {
    let folder = Folder::new();
    let text = std::fs::read_to_string(root().join("tests/config/valid/minimal.toml")).unwrap();
    let secret = "0123456789abcdef0123456789abcdef";
    for (written, taken) in [("", ""), ("\n", ""), ("\r\n", ""), ("\n\n", "\n"), (" \n", " ")] {
        std::fs::write(folder.0.path().join("certs/token.secret"), format!("{secret}{written}")).unwrap();
        let config = folder.parse("minimal.toml", &text).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(config.signing[0].secret.expose(), format!("{secret}{taken}").as_bytes(), "{written:?}");
    }
}

#[test]
fn every_key_of_the_default_config_is_known_and_every_known_key_stands_in_it() {
    let text = default_config();
    let written = written_keys(&text);
    assert!(written.len() > 50, "only {} keys were seen", written.len());
    let containers = [
        "server",
        "log",
        "probes",
        "admin",
        "revocation",
        "listener",
        "issuer",
        "upstream",
        "route",
        "issuer.key",
        "route.close",
    ];
    // What stands in inline tables is shown by an example in the same line.
    let inline = [
        "listener.more_certificates.certificate",
        "listener.more_certificates.key",
        "issuer.required_claims.claim",
        "issuer.required_claims.equals",
        "issuer.required_claims.any_of",
        "route.first_message.pointer",
        "route.first_message.type",
        "route.first_message.type_at",
        "route.first_message.forward",
        "route.identity.*.claim",
        "route.identity.*.list",
        "route.identity.*.separator",
        "route.identity.*.encoding",
        "route.close.*.code",
        "route.close.*.reason",
    ];
    let mut known = config::keys(&uncommented(&text, |_| true));
    for key in containers.iter().chain(&inline) {
        assert!(known.remove(*key), "{key} is not asked for any more: mend this test");
    }
    assert_eq!(written, known);
}

#[test]
fn every_default_that_the_default_config_states_is_the_real_one() {
    let folder = Folder::new();
    let text = default_config();
    // These have no default: what is commented out is an example.
    let examples = [
        "admin.certificate",
        "admin.client_ca",
        "admin.key",
        "admin.secret_env",
        "admin.secret_file",
        "issuer.discovery",
        "issuer.iss",
        "issuer.jwks_bearer_file",
        "issuer.jwks_ca",
        "issuer.jwks_file",
        "issuer.jwks_url",
        "issuer.key.kid",
        "issuer.key.pem_env",
        "issuer.key.pem_file",
        "issuer.key.secret_env",
        "issuer.required_claims",
        "listener.more_certificates",
        "route.first_message",
        "route.identity",
        "route.upstream_credential_file",
        "route.upstream_credential_header",
        "route.upstream_ca",
        "route.upstream_name",
        "upstream.ca",
        "upstream.server_name",
    ];
    let written = written_keys(&text);
    assert!(examples.iter().all(|example| written.contains(*example)), "an example is gone: mend this test");
    let stated = uncommented(&text, |key| !examples.contains(&key));
    assert!(
        stated.lines().filter(|line| line.starts_with('#')).count()
            < text.lines().filter(|line| line.starts_with('#')).count() - 30
    );
    let [shipped, stated] = [&text, &stated].map(|text| {
        folder.parse("config.toml", text).map(|config| shown(&config)).unwrap_or_else(|problems| panic!("{problems}"))
    });
    assert_eq!(shipped, stated);
}

#[test]
fn what_the_default_config_says_of_an_upstream_is_so() {
    let folder = Folder::new();
    let text = default_config().replace("upstream = \"ws://127.0.0.1:9001\"", "upstream = \"chat\"");
    let shown = |chosen: &dyn Fn(&str) -> bool| {
        let config =
            folder.parse("config.toml", &uncommented(&text, chosen)).unwrap_or_else(|problems| panic!("{problems}"));
        let service = &config.routes[0].upstream;
        assert_eq!(service.endpoints().len(), 2);
        format!("{service:?}")
    };
    let least = ["upstream", "upstream.name", "upstream.endpoints"];
    let all = |key: &str| key.starts_with("upstream") && key != "upstream.ca" && key != "upstream.server_name";
    assert_eq!(shown(&|key| least.contains(&key)), shown(&all));
}

#[test]
fn the_default_config_fronts_a_service_on_port_9001() {
    let config = Folder::new().parse("config.toml", &default_config()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.routes[0].upstream.endpoints()[0].config().url, "ws://127.0.0.1:9001");
    assert_eq!(config.listeners[0].address, "127.0.0.1:8443".parse().unwrap());
    assert_eq!(config.server.max_connections, 10_000);
    assert_eq!(config.issuers[0].max_lifetime, Some(std::time::Duration::from_secs(24 * 3600)));
}

#[test]
fn a_bad_config_ends_the_program_with_64_and_a_good_one_with_0() {
    let folder = Folder::new();
    let check = |text: &str| {
        let path = folder.0.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        let out =
            Command::new(env!("CARGO_BIN_EXE_portcullis")).arg("check").arg("--config").arg(path).output().unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    let (code, out, err) = check(&default_config());
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert_eq!(out.lines().count(), 1, "{out}");
    let (code, out, err) = check(&default_config().replace("upstream =", "upstrem ="));
    assert_eq!((code, out.as_str()), (Some(64), ""));
    assert!(err.contains("did you mean `upstream`?") && err.contains("2 problems"), "{err}");
    assert!(!err.contains('\u{1b}'), "colour is for terminals: {err}");
    let (code, _, err) = check("[[route]]\nname = \"é\0\"\n");
    assert_eq!(code, Some(64), "{err}");
}

#[test]
fn the_name_of_a_key_in_a_file_does_nothing_to_a_terminal() {
    let folder = Folder::new();
    let kid = "\u{1b}]0;pwn\u{7}\u{1b}[2J\u{9b}2J\u{202e}\nportcullis: all good";
    let mut set: serde_json::Value = serde_json::from_str(JWK_SET).unwrap();
    let skipped = serde_json::json!({"kty": "EC", "kid": kid});
    set["keys"].as_array_mut().unwrap().push(skipped);
    let base = folder.0.path();
    std::fs::write(base.join("certs/jwks.json"), set.to_string()).unwrap();
    let minimal = std::fs::read_to_string(root().join("tests/config/valid/minimal.toml")).unwrap();
    let text = format!("[[issuer]]\nname = \"filed\"\njwks_file = \"certs/jwks.json\"\n{minimal}");
    std::fs::write(base.join("config.toml"), text).unwrap();
    for arguments in [&["check"][..], &["keys", "--fetch"], &["keys", "--fetch", "--json"]] {
        let out = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(arguments)
            .arg("--config")
            .arg(base.join("config.toml"))
            .output()
            .unwrap();
        let said = String::from_utf8(out.stdout).unwrap();
        assert!(said.contains("pwn") && said.contains("all good"), "{arguments:?}: {said:?}");
        let moving = |character: char| character != '\n' && character.is_control() || character == '\u{202e}';
        assert!(!said.contains(moving), "{arguments:?}: {said:?}");
        assert!(said.lines().all(|line| !line.starts_with("portcullis: ")), "{said}");
        if arguments.contains(&"--json") {
            let values: Vec<serde_json::Value> =
                said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            assert_eq!(values[0]["set"]["not_used"][0]["kid"], kid);
        }
    }
}

#[test]
fn what_a_key_file_calls_itself_does_nothing_to_a_terminal() {
    let folder = Folder::new();
    let label = "\u{1b}[2J\u{9b}2J\u{202e}KEY";
    let pem = format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
    std::fs::write(folder.0.path().join("certs/bad.pem"), pem).unwrap();
    let minimal = std::fs::read_to_string(root().join("tests/config/valid/minimal.toml")).unwrap();
    let text = minimal
        .replace("HS256", "ES256")
        .replace("secret_file = \"certs/token.secret\"", "pem_file = \"certs/bad.pem\"");
    let problems = folder.parse("config.toml", &text).err().unwrap();
    assert!(problems.contains("\\u{9b}2J\\u{202e}KEY"), "{problems}");
    assert!(!problems.contains(|character: char| character != '\n' && character.is_control()), "{problems:?}");
}

#[test]
fn a_route_that_anyone_may_use_as_a_way_around_another_is_noted() {
    let folder = Folder::new();
    let text = default_config().replace("#http = \"refuse\"", "http = \"pass\"");
    let notes = |text: &str| folder.parse("config.toml", text).unwrap_or_else(|problems| panic!("{problems}")).notes;
    assert_eq!(notes(&text), [""; 0]);
    let lax = text.replace("#strict_path = true", "strict_path = false");
    assert_ne!(text, lax);
    assert!(notes(&lax)[0].contains("passes requests without a token, with strict_path = false"), "{:?}", notes(&lax));
}

#[test]
fn a_certificate_that_has_expired_or_covers_no_host_of_a_route_is_noted() {
    let folder = Folder::new();
    let text =
        default_config().replace("#hosts = [\"*\"]", "hosts = [\"localhost\", \"other.example.com\", \"*.a.b\"]");
    assert!(text.contains("other.example.com"), "the default config has no hosts: mend this test");
    let notes = || folder.parse("config.toml", &text).unwrap_or_else(|problems| panic!("{problems}")).notes;
    assert_eq!(notes(), ["no certificate covers the route's host other.example.com"]);
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2021, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 6, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let certs = folder.0.path().join("certs");
    std::fs::write(certs.join("cert.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(certs.join("key.pem"), key.serialize_pem()).unwrap();
    let notes = notes();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].starts_with("certificate certs/cert.pem expired "), "{notes:?}");
    assert!(notes[0].ends_with(" days ago (2021-06-01T00:00:00Z): clients will refuse it"), "{notes:?}");
}

#[test]
fn what_is_secret_and_goes_to_another_machine_in_clear_is_noted() {
    let folder = Folder::new();
    let notes = |upstream: &str, more: &str| {
        let text = default_config().replace("ws://127.0.0.1:9001", upstream) + more;
        folder.parse("config.toml", &text).unwrap_or_else(|problems| panic!("{problems}")).notes
    };
    let (token, credential) = ("pass_token = true\n", "upstream_credential_file = \"certs/upstream.credential\"\n");
    assert_eq!(
        notes("ws://service:9001", token),
        ["the route default sends its clients' tokens to service in clear: use wss://"]
    );
    assert_eq!(
        notes("ws://192.0.2.7:9001", credential),
        ["the route default sends its credential to 192.0.2.7 in clear: use wss://"]
    );
    for upstream in ["ws://127.0.0.1:9001", "ws://[::1]:9001", "ws://localhost:9001", "wss://service:9001"] {
        assert!(notes(upstream, token).is_empty(), "{upstream}");
    }
    assert!(notes("ws://service:9001", "").is_empty());
}

#[test]
fn a_token_is_not_minted_with_what_is_no_secret() {
    let folder = Folder::new();
    let mint = |file: &str| {
        let mut mint = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        let out = mint.args(["token", "mint", "--secret-file"]).arg(folder.0.path().join(file)).output().unwrap();
        (out.status.code(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    for (file, why) in [
        ("certs/cert.pem", "this is PEM, not a shared secret"),
        ("certs/key.pem", "this is PEM, not a shared secret"),
        ("certs/zeros.secret", "one byte repeated"),
    ] {
        let (code, out, err) = mint(file);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{file}: {err}");
        assert!(err.contains(why), "{file}: {err}");
    }
    assert_eq!(mint("certs/token.secret").0, Some(0));
}

#[test]
fn inspect_knows_the_value_of_a_header_from_a_token() {
    let folder = Folder::new();
    let (config, token) = (folder.0.path().join("config.toml"), folder.0.path().join("token"));
    std::fs::write(&config, default_config()).unwrap();
    std::fs::write(&token, "Bearer abcdefghijklmnop.b.c\n").unwrap();
    let mut inspect = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let out = inspect.args(["token", "inspect", "--config"]).arg(&config).arg("--file").arg(&token).output().unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(1), "{err}");
    assert!(err.contains("leave out `Bearer `") && !err.contains("abcdefgh"), "{err}");
}

#[test]
fn a_certificate_is_made_only_for_what_is_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("certs");
    let mut cert = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let out = cert.args(["cert", "--name", "bad name", "--dir"]).arg(&dir).output().unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(64), "{err}");
    assert!(err.contains("neither a host name nor an address") && !dir.exists(), "{err}");
}

fn default_config() -> String {
    std::fs::read_to_string(root().join("config.toml")).unwrap()
}

/// A line that holds a key, commented out or not.
fn key_of(line: &str) -> Option<&str> {
    let line = line.strip_prefix('#').unwrap_or(line);
    let (key, _) = line.split_once(" = ")?;
    (!key.is_empty()
        && key.bytes().all(|byte| byte.is_ascii_lowercase() || b"_.".contains(&byte) || byte.is_ascii_digit()))
    .then_some(key)
}

/// Each line of the text and the whole path of its key.
fn lines(text: &str) -> impl Iterator<Item = (&str, Option<String>)> {
    let mut section = String::new();
    text.lines().map(move |line| {
        let header = line.strip_prefix('#').filter(|rest| rest.starts_with("[[")).unwrap_or(line);
        if header.starts_with('[') {
            section = header.trim_matches(['[', ']']).to_owned();
            // A whole section may be commented out.
            return (line, (header != line).then(|| section.clone()));
        }
        (line, key_of(line).map(|key| format!("{section}.{key}")))
    })
}

fn written_keys(text: &str) -> BTreeSet<String> {
    lines(text).filter_map(|(_, key)| key).filter(|key| key != "upstream").collect()
}

/// The text with the keys that are chosen no longer commented out.
fn uncommented(text: &str, chosen: impl Fn(&str) -> bool) -> String {
    lines(text)
        .map(|(line, key)| match key {
            Some(key) if chosen(&key) => line.strip_prefix('#').unwrap_or(line).to_owned() + "\n",
            _ => line.to_owned() + "\n",
        })
        .collect()
}

/// All that a config means, as a text to compare.
fn shown(config: &Config) -> String {
    let mut text = format!("{:#?}\n{:#?}\n{:#?}\n", config.server, config.log, config.listeners);
    text.push_str(&format!("{:#?}\n{:#?}\n", config.admin, config.revocation));
    for issuer in &config.issuers {
        text.push_str(&format!(
            "{} {:?} {:?} {:?} {:?} {} {:?} {:?}\n",
            issuer.name,
            issuer.iss,
            issuer.aud,
            issuer.leeway,
            issuer.skew,
            issuer.require_exp,
            issuer.max_lifetime,
            issuer.max_age
        ));
        text.push_str(&format!("{:?} {:?} {:?} ", issuer.algorithms, issuer.typ, issuer.azp));
        text.push_str(&format!("{} {:?}\n", issuer.allow_bound, issuer.demands));
    }
    for (route, (name, verifier)) in config.routes.iter().zip(&config.verifiers) {
        assert_eq!(route.name, *name);
        let issuers: Vec<_> = verifier.issuers.iter().map(|issuer| &issuer.name).collect();
        text.push_str(&format!(
            "{name} {:?} {:?} {issuers:?} {:?} {:?} {} {:?} {:?} {:?} {:?} {:#?} {:?} {:?} {} {} {:?} {:#?} {:#?} {:#?} {:?} {:?}\n",
            verifier.same,
            verifier.demands,
            route.hosts,
            route.path,
            route.strict_path,
            route.carriers,
            route.first_message,
            route.reject,
            route.origins,
            route.upstream,
            route.host,
            route.origin,
            route.forwarded,
            route.strip_prefix,
            route.introduction,
            route.limits,
            route.policies,
            route.crowds,
            route.codes,
            route.max_streams
        ));
    }
    text
}

/// The public key of RFC 8037, appendix A.2.
const JWK_SET: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
