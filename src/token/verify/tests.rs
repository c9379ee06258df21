mod inspect;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::demands::SCOPE_MISSING;
use super::*;
use crate::clock::{Mono, Wall};
use crate::secret::Secret;
use crate::token::claims::named::Claim;
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
    Issuer::new(name.into(), pairs().ring(algorithm, None))
}

fn verifier(issuers: Vec<Issuer>) -> Verifier {
    Verifier::new(issuers.into_iter().map(Arc::new).collect())
}

/// Claims that must be there, whatever they are.
fn required(names: &[&str]) -> Demands {
    let claims = names.iter().map(|name| RequiredClaim { claim: Claim::parse(name).unwrap(), any_of: vec![] });
    Demands { claims: claims.collect(), ..Demands::default() }
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
        (r#"{"alg":"HS256","kid":""}"#, "kid_empty"),
        (r#"{"alg":"HS256","enc":"A128GCM"}"#, "enc_present"),
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
fn a_kid_has_a_length() {
    for (length, expected) in [(256, ""), (257, "kid_too_long")] {
        let header = json!({"alg": "HS256", "kid": "k".repeat(length)}).to_string();
        let token = mint_raw(Algorithm::HS256, &header, &json!({"exp": NOW + 10}).to_string());
        assert_eq!(reason(&hs256(), &token, now()), expected, "{length}");
    }
}

#[test]
fn the_kinds_of_token_that_count_are_the_issuers() {
    let with = |typ: &[Typ]| verifier(vec![Issuer { typ: typ.to_vec(), ..issuer("default", Algorithm::HS256) }]);
    let access = with(&[Typ::named("application/AT+jwt")]);
    let absent = with(&[Typ::Absent]);
    let rows = [
        (&access, r#"{"alg":"HS256","typ":"at+jwt"}"#, ""),
        (&access, r#"{"alg":"HS256","typ":"application/at+JWT"}"#, ""),
        (&access, r#"{"alg":"HS256","typ":"JWT"}"#, "typ_not_allowed"),
        (&access, r#"{"alg":"HS256"}"#, "typ_not_allowed"),
        (&access, r#"{"alg":"HS256","typ":null}"#, "typ_not_allowed"),
        (&absent, r#"{"alg":"HS256"}"#, ""),
        (&absent, r#"{"alg":"HS256","typ":"none"}"#, "typ_not_allowed"),
        (&absent, r#"{"alg":"HS256","typ":"JWT"}"#, "typ_not_allowed"),
        (&with(&[]), r#"{"alg":"HS256"}"#, "typ_not_allowed"),
    ];
    for (verifier, header, expected) in rows {
        let token = mint_raw(Algorithm::HS256, header, &json!({"exp": NOW + 10}).to_string());
        assert_eq!(reason(verifier, &token, now()), expected, "{header}");
    }
}

#[test]
fn an_algorithm_that_is_not_the_issuers_waits_for_no_key() {
    let keys = KeyStore::with_set("default".into(), pairs().ring(Algorithm::HS256, None), false);
    let listed = Issuer { algorithms: vec![Algorithm::HS256], ..Issuer::new("default".into(), keys) };
    let listed = verifier(vec![listed]);
    assert_eq!(reason(&listed, &mint(Algorithm::HS256, &json!({"exp": NOW + 10})), now()), "");
    let other = mint(Algorithm::ES256, &json!({"exp": NOW + 10}));
    let Err(Refusal::Denied(denial)) = listed.attempt(&other, now()) else { panic!("it must be denied at once") };
    assert_eq!(denial.reason, "alg_not_allowed");
}

#[test]
fn a_token_counts_no_longer_than_its_age_allows() {
    let aged = |max_age, leeway| {
        let (max_age, leeway) = (Some(Duration::from_secs(max_age)), Duration::from_secs(leeway));
        verifier(vec![Issuer { leeway, max_age, ..issuer("default", Algorithm::HS256) }])
    };
    let rows: &[(u64, u64, Value, u32, &str, Option<u64>)] = &[
        // max_age, leeway, claims, nanoseconds after NOW, the reason, and the expiry from NOW
        (60, 0, json!({"exp": NOW + 600, "iat": NOW - 59}), 0, "", Some(1)),
        (60, 0, json!({"exp": NOW + 600, "iat": NOW - 60}), 0, "max_age_exceeded", None),
        (60, 0, json!({"exp": NOW + 600, "iat": 1_699_999_940.5}), 499_999_999, "", Some(0)),
        (60, 0, json!({"exp": NOW + 600, "iat": 1_699_999_940.5}), 500_000_000, "max_age_exceeded", None),
        (60, 9, json!({"exp": NOW + 600, "iat": NOW - 60}), 0, "", Some(9)),
        (60, 0, json!({"exp": NOW + 5, "iat": NOW - 10}), 0, "", Some(5)),
        (60, 0, json!({"exp": NOW + 600, "iat": NOW + 5}), 0, "", Some(65)),
        (60, 0, json!({"exp": NOW + 600}), 0, "iat_missing", None),
        (60, 0, json!({"exp": NOW + 600, "iat": "x"}), 0, "iat_not_a_number", None),
        (60, 0, json!({"exp": NOW - 1, "iat": NOW - 600}), 0, "expired", None),
    ];
    for (max_age, leeway, claims, nanos, expected, expiry) in rows {
        let verifier = aged(*max_age, *leeway);
        let token = mint(Algorithm::HS256, claims);
        let verdict = verifier.verify(&token, at(NOW, *nanos));
        assert_eq!(verdict.as_ref().map_or_else(|denial| denial.reason, |_| ""), *expected, "{claims}");
        if let (Ok(grant), Some(expiry)) = (&verdict, expiry) {
            assert_eq!(grant.expiry.unwrap().as_secs(), NOW + expiry, "{claims}");
        }
    }
    let denial = aged(60, 0).verify(&mint(Algorithm::HS256, &json!({"exp": NOW + 9, "iat": NOW - 99})), now());
    assert_eq!(denial.unwrap_err().public, Public::TokenExpired);
    let endless =
        Issuer { require_exp: false, max_age: Some(Duration::from_secs(60)), ..issuer("a", Algorithm::HS256) };
    assert_eq!(endless.longest_life(), Some(Duration::from_secs(65)), "a ban need not outlive it");
    let endless = verifier(vec![endless]);
    let grant = endless.verify(&mint(Algorithm::HS256, &json!({"iat": NOW - 10})), now()).unwrap();
    assert_eq!(grant.expiry, Some(at(NOW + 50, 0).wall));
}

#[test]
fn what_the_issuer_and_then_the_route_ask_for_must_be_there() {
    let wants = |claim: &str, any_of: Vec<Wanted>| RequiredClaim { claim: Claim::parse(claim).unwrap(), any_of };
    let mut strict = issuer("default", Algorithm::HS256);
    strict.azp = vec!["app".into(), "cli".into()];
    strict.demands.scope = vec!["chat".into()];
    strict.demands.claims = vec![wants("tier", vec![Wanted::Integer(2), Wanted::Text("gold".into())])];
    let mut route = verifier(vec![strict]);
    route.demands.scope = vec!["chat:write".into()];
    route.demands.claims = vec![wants("/realm_access/roles", vec![Wanted::Text("admin".into())]), wants("sid", vec![])];
    let good = json!({
        "exp": NOW + 10, "azp": "cli", "scope": "chat chat:write", "tier": 2.0, "sid": false,
        "realm_access": {"roles": ["user", "admin"]}
    });
    assert_eq!(reason(&route, &mint(Algorithm::HS256, &good), now()), "");
    assert!(route.explain(&mint(Algorithm::HS256, &good), now()).iter().all(|outcome| outcome.passed != Some(false)));
    for (name, value, expected, rule) in [
        ("azp", json!("other"), "azp_mismatch", "azp"),
        ("azp", json!(null), "azp_mismatch", "azp"),
        ("azp", json!(["cli"]), "azp_mismatch", "azp"),
        ("scope", json!("chat:write"), SCOPE_MISSING, "scope"),
        ("scope", json!("chat"), SCOPE_MISSING, "route scope"),
        ("tier", json!(3), "required_claim_mismatch", "required_claims"),
        ("tier", json!("2"), "required_claim_mismatch", "required_claims"),
        ("tier", json!(null), "required_claim_missing", "required_claims"),
        ("realm_access", json!({"roles": ["user"]}), "required_claim_mismatch", "route required_claims"),
        ("realm_access", json!({"roles": []}), "required_claim_mismatch", "route required_claims"),
        ("realm_access", json!(["admin"]), "required_claim_missing", "route required_claims"),
        ("sid", json!(null), "required_claim_missing", "route required_claims"),
    ] {
        let mut claims = good.clone();
        claims[name] = value;
        let token = mint(Algorithm::HS256, &claims);
        let denial = route.verify(&token, now()).unwrap_err();
        assert_eq!((denial.reason, denial.public), (expected, Public::Forbidden), "{name}");
        let outcomes = route.explain(&token, now());
        let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.passed == Some(false)).collect();
        assert_eq!(failed.len(), 1, "{failed:?}");
        assert_eq!(failed[0].rule, rule);
        let expired = json!({"exp": NOW, "azp": "other"});
        assert_eq!(reason(&route, &mint(Algorithm::HS256, &expired), now()), "expired", "what is worse is told");
    }
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
fn a_token_that_is_bound_to_a_key_or_tells_of_an_event_is_no_bearer_token() {
    let rows = [
        (json!({"cnf": {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}), "cnf_present"),
        (json!({"cnf": {"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}}), "cnf_present"),
        (json!({"cnf": {}}), "cnf_present"),
        (json!({"cnf": null}), "cnf_present"),
        (json!({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}), "events_present"),
        (json!({"events": {}}), "events_present"),
        (json!({"events": ["signed-up"]}), ""),
        (json!({"extra": {"cnf": {"jkt": "a"}, "events": {}}, "Cnf": 1}), ""),
    ];
    for (claims, expected) in rows {
        let mut all = claims.clone();
        (all["exp"], all["sub"]) = ((NOW + 10).into(), "ann".into());
        for typ in ["JWT", "at+jwt"] {
            let header = json!({"alg": "HS256", "typ": typ}).to_string();
            let token = mint_raw(Algorithm::HS256, &header, &all.to_string());
            assert_eq!(reason(&hs256(), &token, now()), expected, "{claims}");
            let failed: Vec<_> =
                hs256().explain(&token, now()).into_iter().filter(|outcome| outcome.passed == Some(false)).collect();
            assert_eq!(failed.len(), usize::from(!expected.is_empty()), "{failed:?}");
            assert!(failed.iter().all(|failed| expected.starts_with(failed.rule)), "{failed:?}");
            let lenient = verifier(vec![Issuer { allow_bound: true, ..issuer("default", Algorithm::HS256) }]);
            let expected = if expected == "cnf_present" { "" } else { expected };
            assert_eq!(reason(&lenient, &token, now()), expected, "{claims}");
        }
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
    strict.demands = required(&["scope", "sid"]);
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
