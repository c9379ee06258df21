//! The table itself: rows from the data files, and families that are computed.

use std::collections::BTreeMap;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use num_bigint::BigUint;
use serde_json::{Value, json};

use super::common::now;
use super::keys::{self, ALGORITHMS, SECRET, keys};
use super::rsa;

/// A token that must be refused, or, with an empty reason, must pass.
pub struct Attack {
    pub family: String,
    pub name: String,
    /// The route that it is for.
    pub route: String,
    pub token: Vec<u8>,
    /// Why, as the log has it.
    pub reason: String,
}

/// All rows, by family.
#[derive(Default)]
pub struct Table {
    pub rows: Vec<Attack>,
}

impl Table {
    fn add(&mut self, family: &str, name: impl Into<String>, route: &str, token: impl Into<Vec<u8>>, reason: &str) {
        let (family, route, reason) = (family.to_owned(), route.to_owned(), reason.to_owned());
        self.rows.push(Attack { family, name: name.into(), route, token: token.into(), reason });
    }

    /// Every attack.
    pub fn attacks() -> Self {
        let mut table = Self::default();
        table.headers();
        table.claims();
        table.forms();
        table.text();
        table.spellings();
        table.confusion();
        table.issuers();
        table.signatures();
        table.elliptic();
        table.padding();
        table.sizes();
        table
    }

    /// Good tokens, each as near to the attacks of a family as a good one can be.
    pub fn neighbours() -> Self {
        let mut table = Self::default();
        table.good_texts();
        table.good_signatures();
        table
    }

    fn headers(&mut self) {
        for [family, name, header, reason] in rows::<4>(include_str!("headers.json")) {
            let route = if family == "kid" { "kid" } else { "hs256" };
            let claims = filled("{\"exp\":$later}");
            self.add(&family, &name, route, hs256(&header, &claims), &reason);
            if family == "none" {
                // With and without what is no signature then.
                let (signed, _) = split(&hs256(&header, &claims));
                let name = format!("{name}, no signature");
                self.add(&family, name, route, format!("{signed}."), &reason);
            }
        }
    }

    fn claims(&mut self) {
        for [family, name, claims, reason, route] in rows::<5>(include_str!("claims.json")) {
            let header = if route == "strict" { r#"{"alg":"HS256","typ":"at+jwt"}"# } else { r#"{"alg":"HS256"}"# };
            self.add(&family, name, &route, hs256(header, &filled(&claims)), &reason);
        }
        for header in [r#"{"alg":"HS256"}"#, r#"{"alg":"HS256","typ":"JWT"}"#, r#"{"alg":"HS256","typ":"id+jwt"}"#] {
            self.add(
                "typ",
                format!("{header} for an access token"),
                "strict",
                hs256(header, &strict()),
                "typ_not_allowed",
            );
        }
    }

    fn forms(&mut self) {
        let good = hs256(r#"{"alg":"HS256"}"#, &filled("{\"exp\":$later}"));
        let (signed, signature) = split(&good);
        let (header, claims) = signed.split_once('.').expect("two parts");
        for [family, name, form, reason] in rows::<4>(include_str!("forms.json")) {
            let token = form.replace("$header", header).replace("$claims", claims).replace("$signature", &signature);
            self.add(&family, name, "hs256", token, &reason);
        }
        let nested = hs256(r#"{"alg":"HS256","cty":"JWT"}"#, &good);
        self.add("encryption", "a token in a token", "hs256", nested, "claims_not_json");
    }

    /// What is not UTF-8, or in another encoding (RFC 8725, section 3.7).
    fn text(&mut self) {
        let utf16 = |text: &str, big: bool| -> Vec<u8> {
            text.encode_utf16().flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
        };
        let broken: [(&str, &[u8]); 14] = [
            ("an overlong slash", b"\xc0\xaf"),
            ("an overlong letter", b"\xc1\x81"),
            ("an overlong NUL", b"\xc0\x80"),
            ("overlong in three bytes", b"\xe0\x80\xaf"),
            ("overlong in four bytes", b"\xf0\x80\x80\xaf"),
            ("a surrogate", b"\xed\xa0\x80"),
            ("two surrogates", b"\xed\xa0\xbd\xed\xb8\x80"),
            ("beyond Unicode", b"\xf4\x90\x80\x80"),
            ("FE", b"\xfe"),
            ("FF", b"\xff"),
            ("the end of nothing", b"\x80"),
            ("cut off", b"\xe2\x82"),
            ("Latin-1", b"caf\xe9"),
            ("five bytes", b"\xf8\x88\x80\x80\x80"),
        ];
        let (header, claims) = (r#"{"alg":"HS256"}"#, filled("{\"exp\":$later}"));
        for (name, bytes) in broken {
            let bad = |text: &str| [&text.as_bytes()[..text.len() - 1], b",\"a\":\"", bytes, b"\"}"].concat();
            let in_header = sign_bytes(&bad(header), claims.as_bytes());
            self.add("UTF-8", format!("header: {name}"), "hs256", in_header, "header_not_base64url");
            let in_claims = sign_bytes(header.as_bytes(), &bad(&claims));
            self.add("UTF-8", format!("claims: {name}"), "hs256", in_claims, "claims_not_base64url");
            let token = [hs256(header, &claims).as_bytes(), bytes].concat();
            self.add("UTF-8", format!("the token: {name}"), "hs256", token, "token_not_text");
        }
        for (name, big, mark) in [
            ("LE", false, ""),
            ("BE", true, ""),
            ("LE with a mark", false, "\u{feff}"),
            ("BE with a mark", true, "\u{feff}"),
        ] {
            // Without a mark it happens to be UTF-8, full of NULs.
            let read = if mark.is_empty() { "not_json" } else { "not_base64url" };
            let in_header = sign_bytes(&utf16(&format!("{mark}{header}"), big), claims.as_bytes());
            self.add("UTF-8", format!("header: UTF-16 {name}"), "hs256", in_header, &format!("header_{read}"));
            let in_claims = sign_bytes(header.as_bytes(), &utf16(&format!("{mark}{claims}"), big));
            self.add("UTF-8", format!("claims: UTF-16 {name}"), "hs256", in_claims, &format!("claims_{read}"));
        }
    }

    /// Other texts for the same bytes: bits that do not count (RFC 4648, section 3.5), and padding where it would be right.
    fn spellings(&mut self) {
        for fill in 0..3 {
            let spaces = " ".repeat(fill);
            let token =
                hs256(&format!("{{\"alg\":\"HS256\"{spaces}}}"), &filled(&format!("{{\"exp\":$later{spaces}}}")));
            let parts: Vec<&str> = token.split('.').collect();
            for (at, part) in ["header", "claims", "signature"].into_iter().enumerate() {
                if part == "signature" && fill > 0 {
                    continue;
                }
                let spare = match parts[at].len() % 4 {
                    2 => 4,
                    3 => 2,
                    _ => 0,
                };
                let reason = format!("{part}_not_base64url");
                let mut with = |name: String, text: String| {
                    let mut changed: Vec<&str> = parts.clone();
                    changed[at] = &text;
                    self.add(
                        "spare bits",
                        format!("{part}, {fill} spaces: {name}"),
                        "hs256",
                        changed.join("."),
                        &reason,
                    );
                };
                let last = parts[at].bytes().last().expect("not empty");
                let value = ALPHABET.bytes().position(|letter| letter == last).expect("base64url");
                for bits in 1..1_usize << spare {
                    let letter = &ALPHABET[value | bits..=value | bits];
                    with(format!("bits {bits}"), format!("{}{letter}", &parts[at][..parts[at].len() - 1]));
                }
                if spare > 0 && fill > 0 {
                    with("the padding that fits".to_owned(), format!("{}{}", parts[at], "=".repeat(spare / 2)));
                }
            }
        }
        // The standard alphabet, where the two differ.
        let header = r#"{"alg":"HS256","a":"???>>>~~~"}"#;
        let claims = filled("{\"exp\":$later,\"a\":\"???>>>~~~\"}");
        let token = hs256(header, &claims);
        let parts: Vec<&str> = token.split('.').collect();
        let standard = |part: &str| part.replace('-', "+").replace('_', "/");
        assert!(parts[0] != standard(parts[0]) && parts[1] != standard(parts[1]), "both alphabets write it alike");
        let in_header = format!("{}.{}.{}", standard(parts[0]), parts[1], parts[2]);
        self.add("spare bits", "header: the standard alphabet", "hs256", in_header, "header_not_base64url");
        let in_claims = format!("{}.{}.{}", parts[0], standard(parts[1]), parts[2]);
        self.add("spare bits", "claims: the standard alphabet", "hs256", in_claims, "claims_not_base64url");
        let signed = [header, &claims].map(|part| STANDARD_NO_PAD.encode(part)).join(".");
        let own = URL_SAFE_NO_PAD.encode(keys::mac("HS256", SECRET.as_bytes(), signed.as_bytes()));
        self.add(
            "spare bits",
            "signed in the standard alphabet",
            "hs256",
            format!("{signed}.{own}"),
            "header_not_base64url",
        );
    }

    /// A key of one algorithm is used for another.
    fn confusion(&mut self) {
        let claims = |id: &str| json!({"exp": now().as_secs() + 3600, "jti": id}).to_string();
        for own in ALGORITHMS {
            for other in ALGORITHMS.into_iter().filter(|other| *other != own) {
                let name = format!("{other} where only {own} is known");
                let token = token_of(other, &claims(&name), |signed| keys().sign(other, signed));
                self.add("pinned keys", name, &own.to_lowercase(), token, "alg_not_allowed");
                let name = format!("{other} in the name of {own}");
                let token = token_of(own, &claims(&name), |signed| keys().sign(other, signed));
                self.add("another algorithm's signature", name, "mixed", token, "signature_invalid");
            }
        }
        for public in ["RS256", "ES256", "ES384", "EdDSA"] {
            for (shape, secret) in keys().shapes(public) {
                for (hmac, route, reason) in [
                    ("HS256", public.to_lowercase().as_str(), "alg_not_allowed"),
                    ("HS256", "mixed", "signature_invalid"),
                    ("HS512", "mixed", "signature_invalid"),
                ] {
                    let name = format!("{hmac} by the {public} key, {shape}, {route}");
                    let token = token_of(hmac, &claims(&name), |signed| keys::mac(hmac, &secret, signed));
                    self.add("a public key as a secret", name, route, token, reason);
                }
            }
        }
        let weak = [
            "",
            " ",
            "secret",
            "password",
            "changeme",
            "your-256-bit-secret",
            "your-384-bit-secret",
            "jwt",
            "key",
            "test",
            "0",
            "null",
            "undefined",
            "HS256",
            "admin",
            "supersecret",
            "a secret for tests",
            "00000000000000000000000000000000",
        ];
        for secret in weak {
            let name = format!("{secret:?}");
            let token = token_of("HS256", &claims(&name), |signed| keys::mac("HS256", secret.as_bytes(), signed));
            self.add("secrets that are guessed", name, "hs256", token, "signature_invalid");
        }
        let zeros = [0_u8; 64];
        for length in [1, 32, 64] {
            let name = format!("{length} zeros");
            let token = token_of("HS256", &claims(&name), |signed| keys::mac("HS256", &zeros[..length], signed));
            // HMAC fills a short key up with zeros: one that is nothing but zeros is the empty one (RFC 2104, section 2).
            self.add("secrets that are guessed", name, "hs256", token, "signature_invalid");
        }
    }

    /// Keys of one issuer for tokens of another (RFC 8725, section 3.8).
    fn issuers(&mut self) {
        let claims = |iss: &Value| {
            let exp = now().as_secs() + 3600;
            if iss.is_null() { format!("{{\"exp\":{exp}}}") } else { format!("{{\"exp\":{exp},\"iss\":{iss}}}") }
        };
        let (a, b) = (json!("https://a.test"), json!("https://b.test"));
        let ours = |signed: &[u8]| keys().sign("ES256", signed);
        let theirs = |signed: &[u8]| {
            let random = aws_lc_rs::rand::SystemRandom::new();
            keys().other_p256.sign(&random, signed).expect("a signature").as_ref().to_vec()
        };
        let rsa = |signed: &[u8]| keys().sign("RS256", signed);
        type Signer<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
        // The issuer that the token names, alg, kid, who has signed it.
        let rows: [(&str, Value, &str, Option<&str>, Signer<'_>, &str); 14] = [
            ("b's key for a", a.clone(), "ES256", Some("b"), &theirs, "kid_unknown"),
            ("b's key under a's kid", a.clone(), "ES256", Some("a"), &theirs, "signature_invalid"),
            ("b's key without a kid", a.clone(), "ES256", None, &theirs, "kid_missing"),
            ("a's key for b", b.clone(), "ES256", Some("a"), &ours, "kid_unknown"),
            ("a's key under b's kid", b.clone(), "ES256", Some("b"), &ours, "signature_invalid"),
            ("a's other algorithm for b", b.clone(), "RS256", Some("r"), &rsa, "alg_not_allowed"),
            ("a's kid for another algorithm of a", a.clone(), "RS256", Some("a"), &rsa, "kid_unknown"),
            ("a's RSA kid for ES256", a.clone(), "ES256", Some("r"), &ours, "kid_unknown"),
            ("an issuer that nobody knows", json!("https://c.test"), "ES256", Some("a"), &ours, "iss_unknown"),
            ("no issuer", Value::Null, "ES256", Some("a"), &ours, "iss_missing"),
            ("both issuers", json!(["https://a.test", "https://b.test"]), "ES256", Some("a"), &ours, "iss_malformed"),
            ("both in one string", json!("https://a.test https://b.test"), "ES256", Some("a"), &ours, "iss_unknown"),
            ("a slash behind", json!("https://a.test/"), "ES256", Some("a"), &ours, "iss_unknown"),
            ("capitals", json!("https://A.test"), "ES256", Some("a"), &ours, "iss_unknown"),
        ];
        for (name, iss, alg, kid, sign, reason) in rows {
            let mut header = json!({"alg": alg});
            if let Some(kid) = kid {
                header["kid"] = kid.into();
            }
            let token = sign_text(&header.to_string(), &claims(&iss), sign);
            self.add("another issuer's key", name, "two", token, reason);
        }
    }

    /// A good signature, changed; or one of something else.
    fn signatures(&mut self) {
        let good = hs256(r#"{"alg":"HS256"}"#, &filled("{\"exp\":$later}"));
        let (signed, text) = split(&good);
        let signature = URL_SAFE_NO_PAD.decode(&text).expect("base64url");
        let mut with = |family: &str, name: String, bytes: &[u8]| {
            let reason = if bytes.is_empty() { "signature_missing" } else { "signature_invalid" };
            self.add(family, name, "hs256", format!("{signed}.{}", URL_SAFE_NO_PAD.encode(bytes)), reason);
        };
        for length in 1..32 {
            with("truncated signatures", format!("the first {length} bytes"), &signature[..length]);
            with("truncated signatures", format!("the last {length} bytes"), &signature[32 - length..]);
        }
        for more in [1, 2, 16, 32, 33, 1000] {
            with("extended signatures", format!("{more} zeros more"), &[signature.clone(), vec![0; more]].concat());
            with("extended signatures", format!("{more} zeros in front"), &[vec![0; more], signature.clone()].concat());
        }
        with("extended signatures", "twice".into(), &signature.repeat(2));
        for bit in 0..64 {
            let mut flipped = signature.clone();
            flipped[bit / 2] ^= 1 << (bit * 3 % 8);
            with("flipped bits", format!("signature, bit {bit}"), &flipped);
        }
        with("signatures of something else", "zeros".into(), &[0; 32]);
        with("signatures of something else", "ones".into(), &[0xff; 32]);
        with("signatures of something else", "in hexadecimal".into(), hex(&signature).as_bytes());
        with("signatures of something else", "encoded twice".into(), text.as_bytes());
        let reversed: Vec<u8> = signature.iter().rev().copied().collect();
        with("signatures of something else", "backwards".into(), &reversed);
        let (header, claims) = signed.split_once('.').expect("two parts");
        let mac = |bytes: &[u8]| keys::mac("HS256", SECRET.as_bytes(), bytes);
        let of: [(&str, Vec<u8>); 9] = [
            ("the header only", mac(header.as_bytes())),
            ("the claims only", mac(claims.as_bytes())),
            ("no dot between", mac(format!("{header}{claims}").as_bytes())),
            ("claims, then header", mac(format!("{claims}.{header}").as_bytes())),
            ("a dot behind", mac(format!("{signed}.").as_bytes())),
            ("what is encoded", mac(&[decode(header), b".".to_vec(), decode(claims)].concat())),
            ("a hash of it", mac(&keys::sha256(signed.as_bytes()))),
            ("it, without a key", keys::sha256(signed.as_bytes())),
            ("it, key in front", keys::sha256(&[SECRET.as_bytes(), signed.as_bytes()].concat())),
        ];
        for (name, bytes) in of {
            with("signatures of something else", format!("of {name}"), &bytes);
        }
        let sha1 =
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, SECRET.as_bytes()), signed.as_bytes());
        with("signatures of something else", "by SHA-1".into(), sha1.as_ref());
        for secret in [
            format!("{SECRET}\n"),
            format!(" {SECRET}"),
            SECRET.to_uppercase(),
            SECRET[1..].to_owned(),
            URL_SAFE_NO_PAD.encode(SECRET),
        ] {
            let name = format!("by nearly the secret: {} bytes, {}", secret.len(), &secret[..2]);
            with("signatures of something else", name, &keys::mac("HS256", secret.as_bytes(), signed.as_bytes()));
        }
        // Another token's parts.
        let other = hs256(r#"{"alg":"HS256","typ":"JWT"}"#, &filled("{\"exp\":$later,\"sub\":\"root\"}"));
        let (other_signed, other_signature) = split(&other);
        let (other_header, other_claims) = other_signed.split_once('.').expect("two parts");
        for (name, token) in [
            ("another's signature", format!("{signed}.{other_signature}")),
            ("another's claims", format!("{header}.{other_claims}.{text}")),
            ("another's header", format!("{other_header}.{claims}.{text}")),
            ("another's header and claims", format!("{other_signed}.{text}")),
        ] {
            self.add("signatures of something else", name, "hs256", token, "signature_invalid");
        }
        // Claims that are changed after they were signed, one character each.
        let claims_text = filled("{\"exp\":$later,\"sub\":\"someone\",\"scope\":\"chat\"}");
        let (signed, text) = split(&hs256(r#"{"alg":"HS256"}"#, &claims_text));
        let header = signed.split_once('.').expect("two parts").0;
        let at = claims_text.find("someone").expect("a name");
        for (offset, to) in "abcdefg".chars().enumerate() {
            let mut changed = claims_text.clone();
            changed.replace_range(at + offset..=at + offset, &to.to_string());
            let token = format!("{header}.{}.{text}", URL_SAFE_NO_PAD.encode(&changed));
            self.add("flipped bits", format!("claims, letter {offset}"), "hs256", token, "signature_invalid");
        }
    }

    /// Numbers that no signature has (CVE-2022-21449), and forms that are not JWS's (RFC 7518, section 3.4).
    fn elliptic(&mut self) {
        let claims = |id: &str| json!({"exp": now().as_secs() + 3600, "jti": id}).to_string();
        let order = number(P256_ORDER);
        let values: [(&str, BigUint); 9] = [
            ("0", number("00")),
            ("1", number("01")),
            ("n-1", &order - 1_u32),
            ("n", order.clone()),
            ("n+1", &order + 1_u32),
            ("p", number(P256_PRIME)),
            ("p-n", number(P256_PRIME) - &order),
            ("half of n", &order >> 1),
            ("ones", number(&"ff".repeat(32))),
        ];
        for (r_name, r) in &values {
            for (s_name, s) in &values {
                let name = format!("r = {r_name}, s = {s_name}");
                let signature = [rsa::bytes(r, 32), rsa::bytes(s, 32)].concat();
                let token = token_of("ES256", &claims(&name), |_| signature.clone());
                self.add("ES256 numbers", name, "es256", token, "signature_invalid");
            }
        }
        let good = |signed: &[u8]| keys().sign("ES256", signed);
        type Change<'a> = (&'a str, &'a dyn Fn(&[u8]) -> Vec<u8>);
        let s_beyond = |signed: &[u8]| {
            let signature = good(signed);
            let s = BigUint::from_bytes_be(&signature[32..]) + &order;
            [&signature[..32], &s.to_bytes_be()].concat()
        };
        let changes: [Change<'_>; 12] = [
            ("as DER", &|signed| der(&good(signed))),
            ("cut by a byte", &|signed| good(signed)[..63].to_vec()),
            ("a byte longer", &|signed| [good(signed), vec![0]].concat()),
            ("a zero in front", &|signed| [vec![0], good(signed)].concat()),
            ("a zero in front of each number", &|signed| {
                let signature = good(signed);
                [&[0], &signature[..32], &[0], &signature[32..]].concat()
            }),
            ("the numbers exchanged", &|signed| good(signed).rotate(32)),
            ("the first number only", &|signed| good(signed)[..32].to_vec()),
            ("twice", &|signed| good(signed).repeat(2)),
            ("s + n", &s_beyond),
            ("of ES384's length", &|signed| [good(signed), vec![0; 32]].concat()),
            ("of another token", &|_| good(b"another token")),
            ("by another key", &|signed| {
                let random = aws_lc_rs::rand::SystemRandom::new();
                keys().other_p256.sign(&random, signed).expect("a signature").as_ref().to_vec()
            }),
        ];
        for (name, sign) in changes {
            self.add("ES256 forms", name, "es256", token_of("ES256", &claims(name), sign), "signature_invalid");
        }
        for (algorithm, length) in [("ES384", 96), ("ES512", 132)] {
            for (name, byte, length) in
                [("zeros", 0, length), ("ones", 0xff, length), ("one byte", 0, 1), ("a byte more", 0, length + 1)]
            {
                let token = token_of(algorithm, &claims(name), |_| vec![byte; length]);
                let name = format!("{algorithm}, {name}");
                self.add("ES384 and ES512 numbers", name, &algorithm.to_lowercase(), token, "signature_invalid");
            }
        }
        // S beyond the order of the group (RFC 8032, section 5.1.7), and points of small order.
        let order = number(ED25519_ORDER);
        let ed = |change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
            token_of("EdDSA", &claims("ed"), |signed| change(keys().sign("EdDSA", signed)))
        };
        let little = |n: &BigUint| {
            let mut bytes = n.to_bytes_le();
            bytes.resize(32, 0);
            bytes
        };
        let beyond = ed(&|good| {
            let s = BigUint::from_bytes_le(&good[32..]) + &order;
            [&good[..32], &little(&s)].concat()
        });
        self.add("Ed25519 numbers", "S + L", "eddsa", beyond, "signature_invalid");
        let mut identity = vec![0; 32];
        identity[0] = 1;
        let points: [(&str, Vec<u8>); 4] = [
            ("the neutral point", identity.clone()),
            ("zeros", vec![0; 32]),
            ("ones", vec![0xff; 32]),
            ("the neutral point, not reduced", {
                let mut point = vec![0xff; 32];
                (point[0], point[31]) = (0xee, 0x7f);
                point
            }),
        ];
        for (r_name, r) in &points {
            for (s_name, s) in
                [("0", vec![0; 32]), ("1", identity.clone()), ("L", little(&order)), ("ones", vec![0xff; 32])]
            {
                let token =
                    token_of("EdDSA", &claims(&format!("{r_name} {s_name}")), |_| [r.clone(), s.clone()].concat());
                self.add("Ed25519 numbers", format!("R = {r_name}, S = {s_name}"), "eddsa", token, "signature_invalid");
            }
        }
        self.add("Ed25519 numbers", "halves exchanged", "eddsa", ed(&|good| good.rotate(32)), "signature_invalid");
        self.add("Ed25519 numbers", "cut by a byte", "eddsa", ed(&|good| good[..63].to_vec()), "signature_invalid");
    }

    /// Padded blocks that the private key itself has signed.
    fn padding(&mut self) {
        let private = rsa::Private::new();
        let claims = filled("{\"exp\":$later}");
        let mut with = |family: &str, alg: &str, name: String, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
            let token = token_of(alg, &claims, sign);
            self.add(family, name, &alg.to_lowercase(), token, "signature_invalid");
        };
        let signed = format!("{}.{}", encode(r#"{"alg":"RS256"}"#), encode(&claims));
        for (name, block) in rsa::bad_pkcs1(signed.as_bytes()) {
            with("PKCS#1 blocks", "RS256", name.into(), &|_| private.sign(&block));
        }
        let good = private.sign(&rsa::pkcs1(signed.as_bytes()));
        let value = BigUint::from_bytes_be(&good);
        let numbers: [(&str, Vec<u8>); 8] = [
            ("0", vec![0; rsa::LENGTH]),
            ("1", rsa::bytes(&number("01"), rsa::LENGTH)),
            ("n-1", rsa::bytes(&(&private.n - 1_u32), rsa::LENGTH)),
            ("n", rsa::bytes(&private.n, rsa::LENGTH)),
            ("n-s", rsa::bytes(&(&private.n - &value), rsa::LENGTH)),
            ("s+n, a byte longer", rsa::bytes(&(&private.n + &value), rsa::LENGTH + 1)),
            ("a zero in front", [vec![0], good.clone()].concat()),
            ("a zero behind", [good.clone(), vec![0]].concat()),
        ];
        for (name, bytes) in numbers {
            with("RSA numbers", "RS256", format!("s = {name}"), &|_| bytes.clone());
        }
        with("RSA numbers", "RS256", "cut by a byte".into(), &|_| good[..rsa::LENGTH - 1].to_vec());
        with("RSA numbers", "RS256", "by another key".into(), &|signed| {
            keys::sign_rsa(&keys().other_rsa, "RS256", signed)
        });
        with("RSA numbers", "RS256", "the block itself".into(), &|signed| rsa::pkcs1(signed));
        let signed = format!("{}.{}", encode(r#"{"alg":"PS256"}"#), encode(&claims));
        for (name, block) in rsa::bad_pss(signed.as_bytes()) {
            with("PSS encodings", "PS256", name, &|_| private.sign(&block));
        }
    }

    fn sizes(&mut self) {
        let header = r#"{"alg":"HS256"}"#;
        for (name, length) in [("8 KiB of sub", 8 * 1024), ("12 KiB of sub", 12 * 1024)] {
            let claims = filled(&format!("{{\"exp\":$later,\"sub\":\"{}\"}}", "x".repeat(length)));
            self.add("sizes", name, "hs256", hs256(header, &claims), "token_too_large");
        }
        let spaces = filled(&format!("{{\"exp\":$later{}}}", " ".repeat(7000)));
        self.add("sizes", "spaces", "hs256", hs256(header, &spaces), "token_too_large");
        let good = hs256(header, &filled("{\"exp\":$later}"));
        let exact = format!("{good}{}", "A".repeat(8 * 1024 + 1 - good.len()));
        self.add("sizes", "a byte too many", "hs256", exact, "token_too_large");
        self.add("sizes", "dots", "hs256", ".".repeat(8 * 1024), "token_malformed");
        self.add("sizes", "letters", "hs256", "A".repeat(8 * 1024), "token_malformed");
        self.add(
            "sizes",
            "a header of 8 KiB",
            "hs256",
            format!("{}.AA.AA", "A".repeat(8 * 1024 - 6)),
            "header_not_json",
        );
    }

    fn good_texts(&mut self) {
        let plain = filled("{\"exp\":$later}");
        let wide = format!(r#"{{"alg":"HS256","a":{}{}}}"#, "[".repeat(15), "]".repeat(15));
        let headers: [(&[&str], &str); 12] = [
            (&["none", "algorithms", "crit", "b64", "compression"], r#"{"alg":"HS256"}"#),
            (&["keys in the header"], r#"{"alg":"HS256","x5t":"AA","x5t#S256":"AA","kid":"any"}"#),
            (&["encryption"], r#"{"alg":"HS256","cty":"application/json"}"#),
            (&["typ"], r#"{"alg":"HS256","typ":"JWT"}"#),
            (&["typ"], r#"{"alg":"HS256","typ":"application/AT+jwt"}"#),
            (&["duplicates"], r#"{"alg":"HS256","x":{"alg":"none","a":{"a":1}}}"#),
            (&["json", "UTF-8"], "\t{ \"\\u0061lg\" :\r\n\"HS\\u003256\", \"a\":\"\\ud83d\\udd11 é \u{1f511}\" } "),
            (&["depth"], &wide),
            (&["parts", "base64", "json serialisation", "sizes"], r#"{"alg":"HS256","a":1}"#),
            (&["spare bits"], "{\"alg\":\"HS256\" }"),
            (&["spare bits"], "{\"alg\":\"HS256\"  }"),
            (
                &[
                    "secrets that are guessed",
                    "truncated signatures",
                    "extended signatures",
                    "flipped bits",
                    "signatures of something else",
                ],
                r#"{"alg":"HS256","a":2}"#,
            ),
        ];
        for (families, header) in headers {
            for family in families {
                self.add(family, header, "hs256", hs256(header, &plain), "");
            }
        }
        let kid = format!(r#"{{"alg":"HS256","kid":"{}"}}"#, "k".repeat(256));
        self.add("kid", "256 bytes, where the key has none", "hs256", hs256(&kid, &plain), "");
        self.add("kid", "the key's own", "kid", hs256(r#"{"alg":"HS256","kid":"a"}"#, &plain), "");
        self.add("kid", "the key's own, escaped", "kid", hs256(r#"{"alg":"HS256","kid":"\u0061"}"#, &plain), "");
        let deep = format!("{{\"exp\":$later,\"a\":{}{}}}", "[".repeat(15), "]".repeat(15));
        for (family, claims) in [
            ("exp", "{\"exp\":$later.5}"),
            ("exp", "{\"exp\":$latere0}"),
            ("exp", "{\"exp\":$later0e-1}"),
            ("exp", "{\"exp\":$later.000000000000000000000000001}"),
            ("nbf", "{\"exp\":$later,\"nbf\":$now}"),
            ("nbf", "{\"exp\":$later,\"nbf\":0}"),
            ("iat", "{\"exp\":$later,\"iat\":$now.25}"),
            ("duplicates", "{\"exp\":$later,\"sub\":\"a\",\"act\":{\"sub\":\"a\",\"exp\":1}}"),
            ("json", "{ \"\\u0065xp\" : $later , \"a\":[true,null,-1.5e3,\"\\u0000\"] }\n"),
            ("UTF-8", "{\"exp\":$later,\"sub\":\"J\u{fc}rgen \u{1f511}\"}"),
            ("depth", deep.as_str()),
            ("principal", "{\"exp\":$later,\"sub\":18446744073709551615}"),
        ] {
            self.add(family, claims, "hs256", hs256(r#"{"alg":"HS256"}"#, &filled(claims)), "");
        }
        let families = ["iss", "aud", "azp", "scope", "required claims", "max_age", "typ"];
        let header = r#"{"alg":"HS256","typ":"at+jwt"}"#;
        for family in families {
            self.add(family, "all that is asked for", "strict", hs256(header, &strict()), "");
        }
        for (family, from, to) in [
            ("aud", r#""aud":["ws"]"#, r#""aud":["other","ws"]"#),
            ("aud", r#""aud":["ws"]"#, r#""aud":"ws""#),
            ("scope", r#""scope":"chat chat:write""#, r#""scp":["mail","chat:write","chat"]"#),
            ("required claims", r#""tier":7"#, r#""tier":7.0"#),
            ("required claims", r#""tier":7"#, r#""tier":[1,70e-1]"#),
            ("required claims", r#"{"roles":["user","admin"]}"#, r#"{"roles":"admin"}"#),
        ] {
            let claims = strict();
            assert!(claims.contains(from), "{from}");
            self.add(family, to, "strict", hs256(header, &claims.replace(from, to)), "");
        }
    }

    fn good_signatures(&mut self) {
        let claims = filled("{\"exp\":$later}");
        for algorithm in ALGORITHMS {
            let token = token_of(algorithm, &claims, |signed| keys().sign(algorithm, signed));
            self.add("pinned keys", algorithm, &algorithm.to_lowercase(), token.clone(), "");
            self.add("another algorithm's signature", algorithm, "mixed", token.clone(), "");
            self.add("a public key as a secret", algorithm, "mixed", token.clone(), "");
            let family = match algorithm {
                "ES256" => "ES256 forms",
                "ES384" | "ES512" => "ES384 and ES512 numbers",
                "EdDSA" => "Ed25519 numbers",
                _ => continue,
            };
            self.add(family, algorithm, &algorithm.to_lowercase(), token, "");
        }
        // JWS does not ask for the smaller of the two values that `s` may have.
        let order = number(P256_ORDER);
        for high in [false, true] {
            let token = token_of("ES256", &claims, |signed| {
                let signature = keys().sign("ES256", signed);
                let s = BigUint::from_bytes_be(&signature[32..]);
                let s = if (s > &order >> 1) == high { s } else { &order - s };
                [&signature[..32], &rsa::bytes(&s, 32)].concat()
            });
            self.add("ES256 numbers", format!("high s: {high}"), "es256", token, "");
        }
        // The blocks that are made here are taken when they are as they must be.
        let private = rsa::Private::new();
        let rs256 = token_of("RS256", &claims, |signed| private.sign(&rsa::pkcs1(signed)));
        self.add("PKCS#1 blocks", "as it must be", "rs256", rs256.clone(), "");
        self.add("RSA numbers", "as it must be", "rs256", rs256, "");
        let ps256 =
            token_of("PS256", &claims, |signed| private.sign(&rsa::pss(signed, 32, &aws_lc_rs::digest::SHA256, 0xbc)));
        self.add("PSS encodings", "a salt of 32 bytes", "ps256", ps256, "");
        for (iss, alg, kid) in
            [("https://a.test", "ES256", "a"), ("https://a.test", "RS256", "r"), ("https://b.test", "ES256", "b")]
        {
            let claims = filled(&format!("{{\"exp\":$later,\"iss\":\"{iss}\"}}"));
            let header = json!({"alg": alg, "kid": kid}).to_string();
            let token = sign_text(&header, &claims, &|signed| {
                if kid == "b" {
                    let random = aws_lc_rs::rand::SystemRandom::new();
                    return keys().other_p256.sign(&random, signed).expect("a signature").as_ref().to_vec();
                }
                keys().sign(alg, signed)
            });
            self.add("another issuer's key", format!("{iss} {alg}"), "two", token, "");
        }
    }

    /// How many rows each family has.
    pub fn families(&self) -> BTreeMap<&str, usize> {
        let mut families = BTreeMap::new();
        for row in &self.rows {
            *families.entry(row.family.as_str()).or_default() += 1;
        }
        families
    }
}

/// The rows of a data file: lists of strings.
fn rows<const N: usize>(json: &str) -> Vec<[String; N]> {
    let rows: Vec<Vec<String>> = serde_json::from_str(json).expect("a data file");
    rows.into_iter().map(|row| row.try_into().expect("a row")).collect()
}

/// Times for their names; what follows a name belongs to the number.
fn filled(text: &str) -> String {
    let now = now().as_secs();
    let times = [
        ("$hourago", now - 3601),
        ("$yesterday", now - 24 * 3600),
        ("$tomorrow", now + 25 * 3600),
        ("$later", now + 3600),
        ("$soon", now + 600),
        ("$past", now - 10),
        ("$old", now - 7200),
        ("$now", now),
    ];
    times.into_iter().fold(text.to_owned(), |text, (name, time)| text.replace(name, &time.to_string()))
}

/// Claims that have all that the strict route asks for.
fn strict() -> String {
    filled(concat!(
        r#"{"iss":"https://issuer.test","aud":["ws"],"exp":$later,"iat":$now,"sub":"ann","azp":"app","#,
        r#""scope":"chat chat:write","tier":7,"realm":{"roles":["user","admin"]},"level":9007199254740992}"#
    ))
}

fn encode(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

fn decode(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).expect("base64url")
}

/// Header and claims as they are, signed with the usual secret.
fn hs256(header: &str, claims: &str) -> String {
    sign_bytes(header.as_bytes(), claims.as_bytes())
}

fn sign_bytes(header: &[u8], claims: &[u8]) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = keys::mac("HS256", SECRET.as_bytes(), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A token that names this algorithm, with any signature.
fn token_of(algorithm: &str, claims: &str, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    sign_text(&format!("{{\"alg\":\"{algorithm}\"}}"), claims, &sign)
}

fn sign_text(header: &str, claims: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>) -> String {
    let signed = format!("{}.{}", encode(header), encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// What is signed, and the signature.
fn split(token: &str) -> (String, String) {
    let (signed, signature) = token.rsplit_once('.').expect("three parts");
    (signed.to_owned(), signature.to_owned())
}

/// Both numbers as ASN.1 has them (RFC 3279, section 2.2.3).
fn der(signature: &[u8]) -> Vec<u8> {
    let integer = |half: &[u8]| {
        let zeros = half.iter().take_while(|byte| **byte == 0).count();
        let sign = if half[zeros] >= 0x80 { vec![0] } else { Vec::new() };
        let number = [sign, half[zeros..].to_vec()].concat();
        [vec![2, u8::try_from(number.len()).expect("short")], number].concat()
    };
    let (r, s) = signature.split_at(signature.len() / 2);
    let both = [integer(r), integer(s)].concat();
    [vec![0x30, u8::try_from(both.len()).expect("short")], both].concat()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn number(hex: &str) -> BigUint {
    BigUint::parse_bytes(hex.as_bytes(), 16).expect("a number")
}

/// Two halves exchanged.
trait Rotate {
    fn rotate(self, by: usize) -> Self;
}

impl Rotate for Vec<u8> {
    fn rotate(mut self, by: usize) -> Self {
        self.rotate_left(by);
        self
    }
}

const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const P256_ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
const P256_PRIME: &str = "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff";
const ED25519_ORDER: &str = "1000000000000000000000000000000014def9dea2f79cd65812631a5cf5d3ed";
