//! What `token inspect` shows.

use proptest::prelude::*;

use super::*;
use crate::token::KeyRing;
use crate::token::keys::SetRules;

#[test]
fn explain_tries_every_rule_also_after_one_has_failed() {
    let mut strict = issuer("default", Algorithm::HS256);
    strict.iss = Some("a".into());
    strict.aud = vec!["x".into()];
    strict.demands = required(&["scope"]);
    let strict = verifier(vec![strict]);
    let outcome = |token: &Token, rule: &str| {
        let all = strict.explain(token, now());
        let found: Vec<_> = all.iter().filter(|outcome| outcome.rule == rule).collect();
        assert_eq!(found.len(), 1, "{rule} in {all:#?}");
        (found[0].passed, found[0].detail.clone())
    };

    let claims = r#"{"iss":"a","aud":"x","exp":1700000009.5,"scope":"s"}"#;
    let good = mint_raw(Algorithm::HS256, r#"{"alg":"HS256"}"#, claims);
    assert_eq!(reason(&strict, &good, now()), "");
    assert!(strict.explain(&good, now()).iter().all(|outcome| outcome.passed != Some(false)));
    assert_eq!(outcome(&good, "exp"), (Some(true), "1700000009.5, expires in 9.5s (leeway 0s)".into()));
    assert_eq!(outcome(&good, "alg"), (Some(true), "HS256".into()));
    let (passed, detail) = outcome(&good, "principal");
    assert!(passed == Some(true) && detail.starts_with("iss, sub absent -> "), "{detail}");
    assert_eq!(outcome(&good, "nbf"), (None, "absent, and not required".into()));

    // Everything is wrong with this one, its signature too.
    let claims = r#"{"iss":"a","aud":"y","exp":1,"nbf":"x","iat":-1,"sub":1.5}"#;
    let bad = mint_raw(Algorithm::HS384, r#"{"alg":"HS256","crit":[],"typ":"x"}"#, claims);
    for (rule, reason) in [
        ("crit", "crit_present"),
        ("typ", "typ_not_allowed"),
        ("signature", "signature_invalid"),
        ("aud", "aud_mismatch"),
        ("exp", "expired"),
        ("nbf", "nbf_not_a_number"),
        ("iat", "iat_negative"),
        ("required_claims", "required_claim_missing"),
        ("principal", "principal_not_exact"),
    ] {
        let (passed, detail) = outcome(&bad, rule);
        assert_eq!(passed, Some(false), "{rule}");
        assert!(detail.starts_with(reason), "{rule}: {detail}");
    }
    assert_eq!(outcome(&bad, "iss").0, Some(true));

    let unread = mint_raw(Algorithm::HS256, "no JSON", claims);
    assert_eq!(outcome(&unread, "header").0, Some(false));
    assert_eq!(outcome(&unread, "signature").0, None);
    assert_eq!(outcome(&unread, "exp").0, Some(false));
    let foreign = mint(Algorithm::HS256, &json!({"iss": "b", "exp": NOW + 10}));
    assert_eq!(outcome(&foreign, "issuer").0, Some(false));
    assert_eq!(outcome(&foreign, "signature").0, Some(true), "all issuers are tried when none is named");
    assert_eq!(outcome(&Token::new("x".into()), "form").0, Some(false));
}

#[test]
fn explain_names_the_keys_that_were_tried_and_shows_nothing_of_a_secret() {
    let mut ring = pairs().ring(Algorithm::ES256, None);
    ring.stands_in("certs/old.pem");
    ring.add_secret(Algorithm::HS256, Some("shared".into()), &Secret::new(pairs().secret.clone())).unwrap();
    ring.stands_in("certs/token.secret");
    let store = KeyStore::with_set("default".into(), ring, true).set_stands_in("https://a.example/jwks");
    let jwk = |algorithm, kid: &str| {
        let mut jwk = pairs().jwk(algorithm);
        jwk["kid"] = kid.into();
        jwk
    };
    let set = json!({"keys": [jwk(Algorithm::ES384, "new"), jwk(Algorithm::HS512, "local")]}).to_string();
    let (set, report) = KeyRing::from_jwk_set(
        set.as_bytes(),
        &SetRules { algorithms: vec![Algorithm::ES384, Algorithm::HS512], secrets: true },
    )
    .unwrap();
    store.install(set, report, None);
    let route = verifier(vec![Issuer::new("default".into(), store)]);
    let keys = |header: &str, signer| {
        let token = mint_raw(signer, header, &json!({"exp": NOW + 10}).to_string());
        let all = route.explain(&token, now());
        let keys = all.into_iter().filter(|outcome| outcome.rule == "key");
        keys.map(|outcome| (outcome.passed, outcome.detail)).collect::<Vec<_>>()
    };
    let thumbprint = |algorithm| {
        let jwk = pairs().jwk(algorithm);
        let text = format!(r#"{{"crv":{},"kty":"EC","x":{},"y":{}}}"#, jwk["crv"], jwk["x"], jwk["y"]);
        URL_SAFE_NO_PAD.encode(crate::secret::sha256(text.as_bytes()))
    };
    let (old, new) = (thumbprint(Algorithm::ES256), thumbprint(Algorithm::ES384));
    let expected = format!("ES256 from certs/old.pem, thumbprint {old}: has signed the token");
    assert_eq!(keys(r#"{"alg":"ES256"}"#, Algorithm::ES256), [(Some(true), expected)]);
    let expected = format!("kid \"new\", ES384 from https://a.example/jwks, thumbprint {new}: has signed the token");
    assert_eq!(keys(r#"{"alg":"ES384","kid":"new"}"#, Algorithm::ES384), [(Some(true), expected)]);
    let expected = "kid \"shared\", HS256 from certs/token.secret: has not signed the token".to_owned();
    assert_eq!(keys(r#"{"alg":"HS256","kid":"shared"}"#, Algorithm::HS512), [(None, expected)]);
    let none = keys(r#"{"alg":"ES256K","kid":"new"}"#, Algorithm::ES256);
    assert!(none.is_empty(), "{none:?}");
    let others = keys(r#"{"alg":"RS256"}"#, Algorithm::RS256);
    assert_eq!(others.len(), 4, "{others:?}");
    assert!(others.iter().all(|(passed, detail)| passed.is_none() && detail.contains("not tried")), "{others:?}");
    assert!(!format!("{others:?}").contains(pairs().jwk(Algorithm::HS512)["k"].as_str().unwrap()));
    assert_eq!(
        others[3].1,
        "kid \"local\", HS512 from https://a.example/jwks: not tried, it is for another algorithm or kid"
    );
}

#[test]
fn many_keys_that_do_not_fit_are_counted() {
    let mut ring = KeyRing::default();
    for number in 0..30 {
        ring.add_secret(Algorithm::HS256, Some(number.to_string()), &Secret::new(pairs().secret.clone())).unwrap();
    }
    let route = verifier(vec![Issuer::new("default".into(), ring)]);
    let all = route.explain(&mint(Algorithm::HS256, &json!({"exp": NOW + 10})), now());
    let keys: Vec<_> = all.iter().filter(|outcome| outcome.rule == "key").collect();
    assert_eq!((keys.len(), keys[10].detail.as_str()), (11, "and 20 more"));
}

proptest! {
    #[test]
    fn explain_and_verify_agree(
        exp in prop::option::of(NOW - 2..NOW + 3),
        nbf in prop::option::of(NOW..NOW + 10),
        aud in prop::option::of("[xy]"),
        iss in prop::option::of("[ab]"),
        good_signature in any::<bool>(),
    ) {
        let mut strict = issuer("default", Algorithm::HS256);
        strict.iss = Some("a".into());
        strict.aud = vec!["x".into()];
        let strict = verifier(vec![strict]);
        let mut claims = json!({});
        for (name, value) in [("exp", exp.map(Value::from)), ("nbf", nbf.map(Value::from)), ("aud", aud.map(Value::from)), ("iss", iss.map(Value::from))] {
            if let Some(value) = value {
                claims[name] = value;
            }
        }
        let signer = if good_signature { Algorithm::HS256 } else { Algorithm::HS512 };
        let token = mint_raw(signer, r#"{"alg":"HS256"}"#, &claims.to_string());
        let all_passed = strict.explain(&token, now()).iter().all(|outcome| outcome.passed != Some(false));
        prop_assert_eq!(strict.verify(&token, now()).is_ok(), all_passed);
    }

    #[test]
    fn no_token_makes_the_judge_panic(header in "\\PC{0,40}", claims in "\\PC{0,40}", tail in "\\PC{0,10}") {
        let token = mint_raw(Algorithm::HS256, &header, &claims);
        let _ = hs256().verify(&token, now());
        let _ = hs256().explain(&token, now());
        let token = Token::new(format!("{}{tail}", token.expose()));
        let _ = hs256().verify(&token, now());
    }

    #[test]
    fn no_changed_byte_goes_unnoticed(at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.=-]") {
        let token = mint(Algorithm::HS256, &json!({"exp": NOW + 10, "sub": "ann"}));
        let mut text = token.expose().to_owned();
        let at = at.index(text.len());
        text.replace_range(at..=at, &to);
        prop_assume!(text != token.expose());
        prop_assert!(hs256().verify(&Token::new(text), now()).is_err());
    }
}
