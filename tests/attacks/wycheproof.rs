//! The vectors of Project Wycheproof for signed tokens (see SOURCE.txt). Their payloads are no claims, so that the gateway
//! refuses them all; what it makes of their signatures is shown by the explanation.

use portcullis::clock::Clock;
use portcullis::secret::Token;
use portcullis::token::KeyRing;
use portcullis::token::keys::SetRules;
use portcullis::token::verify::{Issuer, Verifier};
use serde_json::{Value, json};

use super::common::{Backend, Gateway};
use super::table::Attack;

/// A vector, and the key set of its group.
struct Vector {
    id: u64,
    comment: String,
    token: String,
    valid: bool,
    group: usize,
}

fn vectors() -> (Vec<Value>, Vec<Vector>) {
    let file: Value = serde_json::from_str(include_str!("wycheproof.json")).expect("the vectors");
    let mut sets = Vec::new();
    let mut vectors = Vec::new();
    for (group, value) in file["testGroups"].as_array().expect("groups").iter().enumerate() {
        let key = value.get("public").unwrap_or(&value["private"]);
        // Some of the keys must not be used; a set needs one that can be. Secrets count among their like only; the other one
        // is of RFC 8037, appendix A.2.
        let usable = if key["kty"] == "oct" {
            json!({"kty": "oct", "alg": "HS384", "kid": "-",
                "k": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4v"})
        } else {
            json!({"kty": "OKP", "crv": "Ed25519", "kid": "-", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
        };
        sets.push(json!({"keys": [key, usable]}));
        for test in value["tests"].as_array().expect("tests") {
            let text = |name: &str| test[name].as_str().expect("a text").to_owned();
            vectors.push(Vector {
                id: test["tcId"].as_u64().expect("a number"),
                comment: format!("{}, {}", value["comment"].as_str().expect("a comment"), text("comment")),
                token: text("jws"),
                valid: test["result"] == "valid",
                group,
            });
        }
    }
    assert_eq!((vectors.len(), vectors.iter().filter(|vector| vector.valid).count()), (401, 46));
    (sets, vectors)
}

#[test]
fn each_vector_of_wycheproof_is_judged_by_its_signature() {
    let (sets, vectors) = vectors();
    let rules = SetRules { algorithms: Vec::new(), secrets: true };
    let verifiers: Vec<Verifier> = sets
        .iter()
        .map(|set| {
            let (ring, _) = KeyRing::from_jwk_set(set.to_string().as_bytes(), &rules).expect("a set");
            Verifier::new(vec![Issuer::new("wycheproof".into(), ring).into()])
        })
        .collect();
    let now = Clock::system().now();
    let mut wrong = Vec::new();
    for Vector { id, comment, token, valid, group } in &vectors {
        let outcomes = verifiers[*group].explain(&Token::new(token.clone()), now);
        let failed = outcomes.iter().find(|outcome| outcome.passed == Some(false) && !AFTER.contains(&outcome.rule));
        let signed = outcomes.iter().any(|outcome| outcome.rule == "signature" && outcome.passed == Some(true));
        let good = failed.is_none() && signed;
        let exception = EXCEPTIONS.iter().any(|(exception, _)| exception == id);
        if good != (*valid && !exception) || (exception && !valid) {
            wrong.push(format!("{id} {comment}: valid: {valid}, but: {failed:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The rules that are about what a token says.
const AFTER: [&str; 17] = [
    "claims",
    "issuer",
    "iss",
    "aud",
    "cnf",
    "events",
    "exp",
    "nbf",
    "iat",
    "max_lifetime",
    "max_age",
    "azp",
    "scope",
    "required_claims",
    "route scope",
    "route required_claims",
    "principal",
];

/// Vectors that count as valid there and are refused here, each with the reason.
const EXCEPTIONS: [(u64, &str); 11] = [
    (346, "the key says PS256, the token PS384: a key counts for one algorithm"),
    (347, "the key says ES521, which is no algorithm (RFC 7518, section 3.1, has ES512)"),
    (350, "the key says PS256, the token PS384"),
    (351, "the key says ES521"),
    (357, "the secret is thirty-two zeros, which anyone could guess"),
    (358, "the secret is thirty-two zeros"),
    (359, "the secret is thirty-two zeros"),
    (372, "a character that is not base64url in the header; and the secret is thirty-two zeros"),
    (373, "a character that is not base64url in the payload; and the secret is thirty-two zeros"),
    (376, "the secret is thirty-two zeros"),
    (377, "the secret is thirty-two zeros"),
];

#[tokio::test]
async fn each_vector_of_wycheproof_is_refused_by_the_gateway_and_nothing_is_dialled() {
    let (sets, vectors) = vectors();
    let backend = Backend::echo().await;
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = "[log]\nlevel = \"info\"\nformat = \"json\"\n".to_owned();
    config += "[[listener]]\nname = \"public\"\naddress = \"127.0.0.1:0\"\nplaintext = true\n";
    for (group, set) in sets.iter().enumerate() {
        let path = folder.path().join(format!("{group}.json"));
        std::fs::write(&path, set.to_string()).expect("a set");
        let (path, upstream) = (path.display(), backend.url());
        config += &format!("[[issuer]]\nname = \"g{group}\"\njwks_file = \"{path}\"\n");
        config += &format!(
            "[[route]]\nname = \"g{group}\"\npath = \"/g{group}\"\nupstream = \"{upstream}\"\nissuers = [\"g{group}\"]\n"
        );
    }
    let gateway = Gateway::start(&config).await;
    let attacks: Vec<Attack> = vectors
        .into_iter()
        .map(|vector| Attack {
            reason: reason(vector.id).to_owned(),
            family: format!("wycheproof {}", vector.id),
            name: vector.comment,
            route: format!("g{}", vector.group),
            token: vector.token.into_bytes(),
        })
        .collect();
    let wrong = super::refused(&gateway, &attacks).await;
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), attacks.len(), wrong.join("\n"));
    assert_eq!(backend.dialled(), 0);
}

fn reason(id: u64) -> &'static str {
    REASONS.iter().find(|(_, ids)| ids.contains(&id)).map_or("claims_not_json", |(reason, _)| reason)
}

/// Why those are refused whose form or header is at fault; all others have a payload that is no claims.
const REASONS: [(&str, &[u64]); 7] = [
    ("alg_none", &[16, 341, 342, 343, 344]),
    ("claims_not_base64url", &[263, 267, 271, 275, 323, 328, 368, 369, 371, 373, 374, 375]),
    ("header_not_base64url", &[365, 366, 372]),
    ("header_not_json", &[9, 11, 26, 28, 41, 43]),
    ("jwk_present", &[32]),
    ("token_malformed", &[4, 7, 10, 12, 14, 15, 17, 21, 24, 27, 29, 36, 39, 42, 44]),
    ("token_missing", &[13, 30, 45]),
];
