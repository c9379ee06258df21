use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::clock::{Mono, Wall};
use crate::secret::Secret;
use crate::token::keys::Algorithm;
use crate::token::keys::tests::pairs;

const NOW: u64 = 1_700_000_000;

fn now() -> Now {
    at(NOW, 0)
}

fn at(seconds: u64, nanos: u32) -> Now {
    Now { wall: Wall::from_epoch(Duration::new(seconds, nanos)), mono: Mono::default() }
}

fn text(json: &str) -> String {
    URL_SAFE_NO_PAD.encode(json)
}

/// A token with this header and these claims, as they are written, signed for `algorithm`.
fn mint_raw(algorithm: Algorithm, header: &str, claims: &str) -> Token {
    let signed = format!("{}.{}", text(header), text(claims));
    let signature = URL_SAFE_NO_PAD.encode(pairs().sign(algorithm, signed.as_bytes()));
    Token::new(format!("{signed}.{signature}"))
}

fn mint(algorithm: Algorithm, claims: &Value) -> Token {
    mint_raw(algorithm, &json!({"alg": algorithm.as_str(), "typ": "JWT"}).to_string(), &claims.to_string())
}

fn issuer(name: &str, algorithm: Algorithm) -> Issuer {
    Issuer {
        name: name.into(),
        iss: None,
        aud: vec![],
        keys: pairs().ring(algorithm, None).into(),
        leeway: Duration::ZERO,
        skew: Duration::from_secs(5),
        require_exp: true,
        max_lifetime: Some(Duration::from_secs(24 * 3600)),
        required_claims: vec![],
    }
}

fn verifier(issuers: Vec<Issuer>) -> Verifier {
    Verifier { issuers: issuers.into_iter().map(Arc::new).collect(), same: vec!["iss".into(), "sub".into()] }
}

fn hs256() -> Verifier {
    verifier(vec![issuer("default", Algorithm::HS256)])
}

/// The reason for which the token is refused, or nothing.
fn reason(verifier: &Verifier, token: &Token, now: Now) -> &'static str {
    verifier.verify(token, now).map_or_else(|denial| denial.reason, |_| "")
}

#[test]
fn every_algorithm_is_verified_end_to_end() {
    for algorithm in Algorithm::ALL {
        let verifier = verifier(vec![issuer("default", algorithm)]);
        let token = mint(algorithm, &json!({"exp": NOW + 10, "sub": "ann", "jti": "7"}));
        let Answer::Ready(verdict) = verifier.judge(&token, Purpose::Handshake, now()) else {
            panic!("this judge never waits")
        };
        let grant = verdict.unwrap_or_else(|denial| panic!("{algorithm}: {denial}"));
        assert_eq!(grant.expiry, Some(at(NOW + 10, 0).wall));
        assert_eq!(grant.jti.as_deref(), Some("7"));
        assert_eq!(&*grant.issuer, "default");
        assert_eq!(grant.claims["sub"], "ann");
        assert_eq!(grant.fingerprint, token.fingerprint());
    }
}

#[test]
fn tokens_made_by_another_library_are_accepted() {
    let claims = json!({"exp": NOW + 10, "sub": "ann"});
    let key = jsonwebtoken::EncodingKey::from_secret(&pairs().secret);
    let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap();
    assert_eq!(reason(&hs256(), &Token::new(token), now()), "");
}

#[test]
fn headers_that_ask_for_more_than_a_signature_are_refused_by_name() {
    let rows: &[(&str, &str)] = &[
        (r#"{"alg":"HS256"}"#, ""),
        (r#"{"alg":"HS256","typ":"JWT"}"#, ""),
        (r#"{"alg":"HS256","typ":"jwt"}"#, ""),
        (r#"{"alg":"HS256","typ":"at+jwt"}"#, ""),
        (r#"{"alg":"HS256","typ":"Application/AT+JWT"}"#, ""),
        (r#"{"alg":"HS256","kid":"any"}"#, ""),
        (r#"{"alg":"HS256","x5t":"AA","cty":"x","own":[1]}"#, ""),
        (r#"{"alg":"HS256","typ":"JWE"}"#, "typ_not_allowed"),
        (r#"{"alg":"HS256","typ":"dpop+jwt"}"#, "typ_not_allowed"),
        (r#"{"alg":"HS256","typ":"application/"}"#, "typ_not_allowed"),
        (r#"{"alg":"HS256","typ":"äpplication/jwt"}"#, "typ_not_allowed"),
        (r#"{"alg":"HS256","typ":null}"#, "typ_not_allowed"),
        (r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, "crit_present"),
        (r#"{"alg":"HS256","crit":[]}"#, "crit_present"),
        (r#"{"alg":"HS256","crit":null}"#, "crit_present"),
        (r#"{"alg":"HS256","b64":true}"#, "b64_present"),
        (r#"{"alg":"HS256","b64":false}"#, "b64_present"),
        (r#"{"alg":"HS256","jku":"https://a.example/"}"#, "jku_present"),
        (r#"{"alg":"HS256","x5u":"https://a.example/"}"#, "x5u_present"),
        (r#"{"alg":"HS256","jwk":{"kty":"oct","k":"AA"}}"#, "jwk_present"),
        (r#"{"alg":"HS256","x5c":[]}"#, "x5c_present"),
        (r#"{"alg":"HS256","zip":"DEF"}"#, "zip_present"),
        (r#"{"alg":"HS256","kid":1}"#, "kid_not_string"),
        (r#"{"alg":"HS256","kid":null}"#, "kid_not_string"),
        (r#"{"alg":"none"}"#, "alg_none"),
        (r#"{"alg":"None"}"#, "alg_none"),
        (r#"{"alg":"NONE"}"#, "alg_none"),
        (r#"{"alg":"nOnE"}"#, "alg_none"),
        (r#"{"alg":"hs256"}"#, "alg_unknown"),
        (r#"{"alg":"HS256 "}"#, "alg_unknown"),
        (r#"{"alg":""}"#, "alg_unknown"),
        (r#"{"alg":"ES512"}"#, "alg_not_allowed"),
        (r#"{"alg":"ES521"}"#, "alg_unknown"),
        (r#"{"alg":"ES256K"}"#, "alg_unknown"),
        (r#"{"alg":"Ed25519"}"#, "alg_not_allowed"),
        (r#"{"alg":"Ed448"}"#, "alg_unknown"),
        (r#"{"alg":"ML-DSA-44"}"#, "alg_unknown"),
        (r#"{"alg":null}"#, "alg_not_string"),
        (r#"{"alg":["HS256"]}"#, "alg_not_string"),
        (r#"{"typ":"JWT"}"#, "alg_missing"),
        ("{}", "alg_missing"),
        (r#"{"alg":"HS384"}"#, "alg_not_allowed"),
        (r#"{"alg":"RS256"}"#, "alg_not_allowed"),
        (r#"{"alg":"HS256","alg":"HS256"}"#, "header_duplicate_member"),
        (r#"{"alg":"none","alg":"HS256"}"#, "header_duplicate_member"),
        (r#"["HS256"]"#, "header_not_json"),
    ];
    let claims = json!({"exp": NOW + 10}).to_string();
    for (header, expected) in rows {
        let token = mint_raw(Algorithm::HS256, header, &claims);
        assert_eq!(reason(&hs256(), &token, now()), *expected, "{header}");
    }
    let unsigned = Token::new(format!("{}.{}.", text(r#"{"alg":"none"}"#), text(&claims)));
    assert_eq!(reason(&hs256(), &unsigned, now()), "alg_none");
}

#[test]
fn a_public_key_never_serves_as_a_shared_secret() {
    let rs256 = verifier(vec![issuer("default", Algorithm::RS256)]);
    let pem = pairs().pem(Algorithm::RS256);
    let signed = format!("{}.{}", text(r#"{"alg":"HS256"}"#), text(&json!({"exp": NOW + 10}).to_string()));
    for secret in [pem.as_bytes(), pem.trim_end().as_bytes()] {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
        let signature = aws_lc_rs::hmac::sign(&key, signed.as_bytes());
        let token = Token::new(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)));
        assert_eq!(reason(&rs256, &token, now()), "alg_not_allowed");
    }
    // The same RSA key under another padding is another algorithm.
    let pss = mint(Algorithm::PS256, &json!({"exp": NOW + 10}));
    assert_eq!(reason(&rs256, &pss, now()), "alg_not_allowed");
    let disguised = mint_raw(Algorithm::PS256, r#"{"alg":"RS256"}"#, &json!({"exp": NOW + 10}).to_string());
    assert_eq!(reason(&rs256, &disguised, now()), "signature_invalid");
}

#[test]
fn times_are_judged_to_the_nanosecond_and_never_wrap() {
    // Claims as they are written, the time (seconds and nanoseconds from NOW), the reason.
    let rows: &[(&str, u64, u32, &str)] = &[
        (r#"{"exp":1700000000}"#, 0, 0, "expired"),
        (r#"{"exp":1700000001}"#, 0, 999_999_999, ""),
        (r#"{"exp":1700000001}"#, 1, 0, "expired"),
        (r#"{"exp":1700000000.5}"#, 0, 499_999_999, ""),
        (r#"{"exp":1700000000.5}"#, 0, 500_000_000, "expired"),
        (r#"{"exp":1700000000.000000001}"#, 0, 0, ""),
        (r#"{"exp":1700000000.000000001}"#, 0, 1, "expired"),
        (r#"{"exp":1.7000000005e9}"#, 0, 499_999_999, ""),
        (r#"{"exp":1.7000000005e9}"#, 0, 500_000_000, "expired"),
        (r#"{"exp":0}"#, 0, 0, "expired"),
        ("{}", 0, 0, "exp_missing"),
        (r#"{"exp":null}"#, 0, 0, "exp_not_a_number"),
        (r#"{"exp":"1700000010"}"#, 0, 0, "exp_not_a_number"),
        (r#"{"exp":true}"#, 0, 0, "exp_not_a_number"),
        (r#"{"exp":[1700000010]}"#, 0, 0, "exp_not_a_number"),
        (r#"{"exp":{"a":1}}"#, 0, 0, "exp_not_a_number"),
        (r#"{"exp":-1}"#, 0, 0, "exp_negative"),
        (r#"{"exp":-0.5}"#, 0, 0, "exp_negative"),
        (r#"{"exp":NaN}"#, 0, 0, "claims_not_json"),
        (r#"{"exp":1e300}"#, 0, 0, "exp_too_large"),
        (r#"{"exp":1e999}"#, 0, 0, "exp_too_large"),
        (r#"{"exp":18446744073709551616}"#, 0, 0, "exp_too_large"),
        (r#"{"exp":18446744073709551615}"#, 0, 0, "lifetime_too_long"),
        (r#"{"exp":9223372036854775807}"#, 0, 0, "lifetime_too_long"),
        (r#"{"exp":1700000010000}"#, 0, 0, "lifetime_too_long"),
        (r#"{"exp":1700000010,"exp":1700000010}"#, 0, 0, "claims_duplicate_member"),
        (r#"{"exp":1700000010,"sub":{"a":1,"a":1}}"#, 0, 0, "claims_duplicate_member"),
        (r#"{"exp":1700086400}"#, 0, 0, ""),
        (r#"{"exp":1700086400.1}"#, 0, 0, "lifetime_too_long"),
        (r#"{"exp":1700086400,"iat":1700000000}"#, 0, 0, ""),
        (r#"{"exp":1700086400,"iat":1699999999}"#, 0, 0, "lifetime_too_long"),
        (r#"{"exp":1700000010,"iat":0}"#, 0, 0, "lifetime_too_long"),
        (r#"{"exp":1700000010,"nbf":1700000005}"#, 0, 0, ""),
        (r#"{"exp":1700000010,"nbf":1700000005.000000001}"#, 0, 0, "not_yet_valid"),
        (r#"{"exp":1700000010,"nbf":1700000006}"#, 1, 0, ""),
        (r#"{"exp":1700000010,"nbf":18446744073709551615}"#, 0, 0, "not_yet_valid"),
        (r#"{"exp":1700000010,"nbf":"0"}"#, 0, 0, "nbf_not_a_number"),
        (r#"{"exp":1700000010,"nbf":-1}"#, 0, 0, "nbf_negative"),
        (r#"{"exp":1700000010,"nbf":1e20}"#, 0, 0, "nbf_too_large"),
        (r#"{"exp":1700000010,"iat":1700000005}"#, 0, 0, ""),
        (r#"{"exp":1700000010,"iat":1700000006}"#, 0, 0, "issued_in_future"),
        (r#"{"exp":1700000010,"iat":null}"#, 0, 0, "iat_not_a_number"),
        (r#"{"exp":1700000010,"iat":-1}"#, 0, 0, "iat_negative"),
        (r#"{"exp":1700000010,"iat":1e99}"#, 0, 0, "iat_too_large"),
    ];
    for (claims, seconds, nanos, expected) in rows {
        let token = mint_raw(Algorithm::HS256, r#"{"alg":"HS256"}"#, claims);
        assert_eq!(reason(&hs256(), &token, at(NOW + seconds, *nanos)), *expected, "{claims} at +{seconds}.{nanos:09}");
    }
}

#[test]
fn an_exp_in_milliseconds_is_told_so() {
    let denial = |claims: &str| {
        let token = mint_raw(Algorithm::HS256, r#"{"alg":"HS256"}"#, claims);
        hs256().verify(&token, at(NOW, 0)).unwrap_err().to_string()
    };
    assert!(denial(r#"{"exp":1700000010000}"#).contains("milliseconds"));
    assert!(!denial(r#"{"exp":1800000000}"#).contains("milliseconds"));
}

#[test]
fn leeway_counts_for_exp_only_and_skew_for_nbf_and_iat_only() {
    let mut lenient = issuer("default", Algorithm::HS256);
    lenient.leeway = Duration::from_secs(3);
    let lenient = verifier(vec![lenient]);
    let token = mint(Algorithm::HS256, &json!({"exp": NOW}));
    assert_eq!(reason(&lenient, &token, at(NOW + 2, 999_999_999)), "");
    assert_eq!(lenient.verify(&token, now()).unwrap().expiry, Some(at(NOW + 3, 0).wall), "also on the live stream");
    assert_eq!(reason(&lenient, &token, at(NOW + 3, 0)), "expired");
    assert_eq!(reason(&hs256(), &token, now()), "expired", "skew does not count for exp");

    let mut strict = issuer("default", Algorithm::HS256);
    strict.leeway = Duration::from_secs(3);
    strict.skew = Duration::ZERO;
    let strict = verifier(vec![strict]);
    assert_eq!(
        reason(&strict, &mint(Algorithm::HS256, &json!({"exp": NOW + 9, "nbf": NOW + 1})), now()),
        "not_yet_valid"
    );
    assert_eq!(
        reason(&strict, &mint(Algorithm::HS256, &json!({"exp": NOW + 9, "iat": NOW + 1})), now()),
        "issued_in_future"
    );
}

#[test]
fn a_far_expiry_is_brought_near_enough_for_any_timer() {
    let mut unlimited = issuer("default", Algorithm::HS256);
    unlimited.max_lifetime = None;
    unlimited.leeway = Duration::from_secs(300);
    unlimited.require_exp = false;
    let unlimited = verifier(vec![unlimited]);
    let far = mint_raw(Algorithm::HS256, r#"{"alg":"HS256"}"#, r#"{"exp":18446744073709551615.999999999}"#);
    let grant = unlimited.verify(&far, now()).unwrap();
    assert_eq!(grant.expiry, Some(now().wall.saturating_add(FAR)));
    let endless = unlimited.verify(&mint(Algorithm::HS256, &json!({})), now()).unwrap();
    assert_eq!(endless.expiry, None);
    let late = Now { wall: Wall::from_epoch(Duration::MAX), mono: Mono::default() };
    assert_eq!(reason(&unlimited, &far, late), "expired", "no arithmetic on time wraps");
}

#[test]
fn issuer_and_audience_must_be_those_of_the_config() {
    let with = |iss: Option<&str>, aud: &[&str]| {
        let mut issuer = issuer("default", Algorithm::HS256);
        issuer.iss = iss.map(str::to_owned);
        issuer.aud = aud.iter().map(|aud| (*aud).to_owned()).collect();
        verifier(vec![issuer])
    };
    let both = with(Some("https://a.example"), &["x", "y"]);
    let rows: &[(&Verifier, Value, &str)] = &[
        (&both, json!({"iss": "https://a.example", "aud": "x"}), ""),
        (&both, json!({"iss": "https://a.example", "aud": ["z", "y"]}), ""),
        (&both, json!({"aud": "x"}), "iss_missing"),
        (&both, json!({"iss": null, "aud": "x"}), "iss_malformed"),
        (&both, json!({"iss": ["https://a.example"], "aud": "x"}), "iss_malformed"),
        (&both, json!({"iss": "https://a.example/", "aud": "x"}), "iss_unknown"),
        (&both, json!({"iss": "HTTPS://A.EXAMPLE", "aud": "x"}), "iss_unknown"),
        (&both, json!({"iss": "", "aud": "x"}), "iss_unknown"),
        (&both, json!({"iss": "https://a.example"}), "aud_missing"),
        (&both, json!({"iss": "https://a.example", "aud": "z"}), "aud_mismatch"),
        (&both, json!({"iss": "https://a.example", "aud": "X"}), "aud_mismatch"),
        (&both, json!({"iss": "https://a.example", "aud": []}), "aud_mismatch"),
        (&both, json!({"iss": "https://a.example", "aud": null}), "aud_malformed"),
        (&both, json!({"iss": "https://a.example", "aud": 1}), "aud_malformed"),
        (&both, json!({"iss": "https://a.example", "aud": ["x", 1]}), "aud_malformed"),
        (&both, json!({"iss": "https://a.example", "aud": {"x": 1}}), "aud_malformed"),
        (&with(None, &[]), json!({}), ""),
        (&with(None, &[]), json!({"iss": "anyone"}), ""),
        (&with(None, &[]), json!({"aud": "x"}), "aud_unexpected"),
        (&with(None, &[]), json!({"aud": []}), "aud_unexpected"),
    ];
    for (verifier, claims, expected) in rows {
        let mut all = claims.clone();
        all["exp"] = (NOW + 10).into();
        assert_eq!(reason(verifier, &mint(Algorithm::HS256, &all), now()), *expected, "{claims}");
    }
}

#[test]
fn issuers_of_one_route_never_share_keys() {
    let named = |name: &str, algorithm, iss: Option<&str>| Issuer {
        iss: iss.map(str::to_owned),
        max_lifetime: None,
        ..issuer(name, algorithm)
    };
    let route = verifier(vec![
        named("a", Algorithm::HS256, Some("a")),
        named("b", Algorithm::RS256, Some("b")),
        named("other", Algorithm::ES256, None),
    ]);
    let minted = |algorithm, iss: Option<&str>| mint(algorithm, &json!({"exp": NOW + 10, "iss": iss, "sub": "ann"}));
    let issuer_of = |token: &Token| route.verify(token, now()).map(|grant| grant.issuer.to_string());
    assert_eq!(issuer_of(&minted(Algorithm::HS256, Some("a"))).unwrap(), "a");
    assert_eq!(issuer_of(&minted(Algorithm::RS256, Some("b"))).unwrap(), "b");
    assert_eq!(issuer_of(&minted(Algorithm::ES256, Some("c"))).unwrap(), "other");
    assert_eq!(issuer_of(&minted(Algorithm::ES256, None)).unwrap(), "other");
    for (algorithm, iss) in [
        (Algorithm::HS256, Some("b")),
        (Algorithm::RS256, Some("a")),
        (Algorithm::ES256, Some("a")),
        (Algorithm::HS256, Some("c")),
        (Algorithm::HS256, None),
    ] {
        assert_eq!(reason(&route, &minted(algorithm, iss), now()), "alg_not_allowed", "{algorithm} {iss:?}");
    }

    // Two entries for one `iss`, such as two audiences: the one that fits counts.
    let mut first = named("first", Algorithm::HS256, Some("a"));
    first.aud = vec!["x".into()];
    let mut second = named("second", Algorithm::HS256, Some("a"));
    second.aud = vec!["y".into()];
    let shared = verifier(vec![named("rsa", Algorithm::RS256, Some("a")), first, second]);
    let token = |aud: &str| mint(Algorithm::HS256, &json!({"exp": NOW + 10, "iss": "a", "aud": aud}));
    assert_eq!(&*shared.verify(&token("y"), now()).unwrap().issuer, "second");
    assert_eq!(reason(&shared, &token("z"), now()), "aud_mismatch", "the denial of an issuer that signed it counts");
}

#[test]
fn the_kid_selects_the_key() {
    let mut ring = pairs().ring(Algorithm::HS256, Some("good"));
    ring.add_secret(Algorithm::HS256, Some("other".into()), &Secret::new((0..32).collect())).unwrap();
    let route = verifier(vec![Issuer { keys: ring.into(), ..issuer("default", Algorithm::HS256) }]);
    for (header, expected) in [
        (r#"{"alg":"HS256","kid":"good"}"#, ""),
        (r#"{"alg":"HS256","kid":"other"}"#, "signature_invalid"),
        (r#"{"alg":"HS256","kid":"unknown"}"#, "kid_unknown"),
        (r#"{"alg":"HS256","kid":"../../dev/null"}"#, "kid_unknown"),
        (r#"{"alg":"HS256"}"#, "kid_missing"),
    ] {
        let token = mint_raw(Algorithm::HS256, header, &json!({"exp": NOW + 10}).to_string());
        assert_eq!(reason(&route, &token, now()), expected, "{header}");
    }
}

#[test]
fn the_client_learns_only_the_public_reason() {
    let mut strict = issuer("default", Algorithm::HS256);
    strict.required_claims = vec!["scope".into(), "sid".into()];
    let strict = verifier(vec![strict]);
    for (claims, expected) in [
        (json!({"exp": NOW, "scope": 1, "sid": 1}), Public::TokenExpired),
        (json!({"exp": NOW + 9, "nbf": NOW + 8, "scope": 1, "sid": 1}), Public::TokenNotYetValid),
        (json!({"exp": NOW + 9, "iat": NOW + 8, "scope": 1, "sid": 1}), Public::TokenNotYetValid),
        (json!({"exp": "x", "scope": 1, "sid": 1}), Public::TokenInvalid),
        (json!({"exp": NOW + 9, "scope": 1}), Public::Forbidden),
        (json!({"exp": NOW + 9, "scope": null, "sid": 1}), Public::Forbidden),
        (json!({"exp": NOW, "scope": null}), Public::TokenExpired),
    ] {
        let denial = strict.verify(&mint(Algorithm::HS256, &claims), now()).unwrap_err();
        assert_eq!(denial.public, expected, "{claims}: {denial}");
    }
    let good = mint(Algorithm::HS256, &json!({"exp": NOW + 9, "scope": "", "sid": false}));
    assert_eq!(reason(&strict, &good, now()), "");
    let large = Token::new("x".repeat(8 * 1024 + 1));
    assert_eq!(strict.verify(&large, now()).unwrap_err().public, Public::BadRequest);
}

#[test]
fn equal_claims_make_equal_principals_and_nothing_else_does() {
    let principal = |claims: Value| {
        let mut all = claims;
        all["exp"] = (NOW + 10).into();
        hs256().verify(&mint(Algorithm::HS256, &all), now()).unwrap().principal
    };
    let ann = principal(json!({"iss": "a", "sub": "ann"}));
    assert_eq!(ann, principal(json!({"sub": "ann", "iss": "a", "jti": "2", "extra": 1.5})));
    let others = [
        json!({"iss": "a", "sub": "bob"}),
        json!({"iss": "b", "sub": "ann"}),
        json!({"iss": "a"}),
        json!({"sub": "ann"}),
        json!({"iss": "a", "sub": 1}),
        json!({"iss": "a", "sub": "1"}),
        json!({"iss": "a", "sub": ["ann"]}),
        json!({"iss": "a\",\"ann", "sub": ""}),
        json!({"iss": "", "sub": "a ann"}),
    ];
    let mut seen = std::collections::HashSet::from([ann]);
    for other in others {
        assert!(seen.insert(principal(other.clone())), "{other}");
    }
    for sub in ["1.0", "18446744073709551616", "[18446744073709551617]"] {
        let claims = format!("{{\"exp\":{},\"sub\":{sub}}}", NOW + 10);
        let token = mint_raw(Algorithm::HS256, r#"{"alg":"HS256"}"#, &claims);
        assert_eq!(reason(&hs256(), &token, now()), "principal_not_exact", "{sub}");
    }
    // Whoever may write any `iss` cannot speak for the users of another issuer.
    let one = verifier(vec![issuer("one", Algorithm::HS256)]);
    let two = verifier(vec![issuer("two", Algorithm::HS256)]);
    let token = mint(Algorithm::HS256, &json!({"exp": NOW + 10, "iss": "a", "sub": "ann"}));
    assert_ne!(one.verify(&token, now()).unwrap().principal, two.verify(&token, now()).unwrap().principal);
}

#[test]
fn a_denial_never_holds_the_token_or_its_claims() {
    let mut strict = issuer("default", Algorithm::HS256);
    strict.iss = Some("a".into());
    let strict = verifier(vec![strict]);
    let headers =
        [r#"{"alg":"swordfish"}"#, r#"{"alg":"HS256","kid":"swordfish"}"#, r#"{"alg":"HS256","typ":"swordfish"}"#];
    let claims = [
        r#"{"sub":"swordfish"}"#,
        r#"{"iss":"swordfish","sub":"swordfish"}"#,
        r#"{"iss":"a","exp":"swordfish"}"#,
        r#"{"iss":"a","exp":1700000010,"aud":"swordfish"}"#,
        r#"{"iss":"a","sub":"swordfish","exp":1}"#,
        r#"{"swordfish":1,"swordfish":1}"#,
        r#"{"swordfish"}"#,
    ];
    let mut refused = 0;
    for header in headers.iter().chain(&[r#"{"alg":"HS256"}"#, "swordfish"]) {
        for claims in claims {
            let token = mint_raw(Algorithm::HS256, header, claims);
            let denial = strict.verify(&token, now()).unwrap_err();
            let printed = format!("{denial} {denial:?} {:?}", strict.explain(&token, now()));
            assert!(!printed.contains("swordfish"), "{printed}");
            refused += 1;
        }
    }
    assert_eq!(refused, 35);
}

#[test]
fn explain_tries_every_rule_also_after_one_has_failed() {
    let mut strict = issuer("default", Algorithm::HS256);
    strict.iss = Some("a".into());
    strict.aud = vec!["x".into()];
    strict.required_claims = vec!["scope".into()];
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
