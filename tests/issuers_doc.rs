//! Every recipe of docs/issuers.md can be pasted as it stands.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use common::{SECRET, now, sign};
use portcullis::clock::Clock;
use portcullis::config;
use portcullis::secret::Token;
use portcullis::token::{Public, Verifier};
use serde_json::{Value, json};

const DOCUMENT: &str = include_str!("../docs/issuers.md");

/// Each `toml` block of the document, with the heading that it stands under.
fn recipes() -> Vec<(String, String)> {
    let (mut recipes, mut heading, mut block) = (Vec::new(), String::new(), None::<String>);
    for line in DOCUMENT.lines() {
        match (&mut block, line) {
            (None, "```toml") => block = Some(String::new()),
            (Some(text), "```") => {
                recipes.push((heading.clone(), std::mem::take(text)));
                block = None;
            }
            (Some(text), line) => text.push_str(&[line, "\n"].concat()),
            (None, line) => heading = line.strip_prefix("## ").map_or(heading, str::to_owned),
        }
    }
    recipes
}

#[test]
fn every_recipe_is_a_good_config() {
    let recipes = recipes();
    for (heading, recipe) in &recipes {
        let folder = tempfile::tempdir().expect("a folder");
        common::doc::write(recipe, folder.path());
        match config::load(&folder.path().join("config.toml"), std::iter::empty()) {
            // Whatever is noted would be noted for everyone who follows the recipe.
            Ok(config) => assert_eq!(config.notes, Vec::<String>::new(), "{heading}:\n{recipe}"),
            Err(problems) => panic!("{heading}:\n{problems}"),
        }
    }
    let headings: BTreeSet<&str> = recipes.iter().map(|(heading, _)| heading.as_str()).collect();
    for promised in [
        "Keycloak",
        "Auth0",
        "Microsoft Entra ID",
        "Amazon Cognito",
        "Supabase",
        "Kubernetes service accounts",
        "Google, Okta, Zitadel",
        "Your own",
    ] {
        assert!(headings.contains(promised), "no recipe for {promised}");
    }
}

#[test]
fn every_recipe_says_who_signs_and_for_whom() {
    for (heading, recipe) in recipes() {
        for needed in ["[[issuer]]\n", "\naud = "] {
            assert!(recipe.contains(needed), "{heading}: no {needed:?} in\n{recipe}");
        }
        let named = ["\ndiscovery = ", "\niss = "].iter().filter(|key| recipe.contains(**key)).count();
        assert_eq!(named, 1, "{heading}: the issuer is named once in\n{recipe}");
        assert!(!recipe.contains("audience"), "{heading}");
    }
}

#[test]
fn every_key_that_the_text_names_is_there() {
    let known = config::keys("[[issuer]]\n");
    let mut seen = BTreeSet::new();
    for word in DOCUMENT.split('`').skip(1).step_by(2) {
        let name = word.split(" = ").next().unwrap_or_default();
        let like_ours = ["jwks_", "start_", "on_key", "max_life"].iter().any(|start| name.starts_with(start));
        if like_ours && name != "jwks_uri" {
            assert!(known.contains(&format!("issuer.{name}")), "{name} is no key of an issuer");
            seen.insert(name);
        }
    }
    assert!(seen.len() >= 8, "only {seen:?} were seen");
}

#[test]
fn every_line_of_a_config_in_the_text_is_a_good_one() {
    let mut seen = 0;
    for line in DOCUMENT.split('`').skip(1).step_by(2).filter(|line| !line.contains('\n')) {
        let section = match line.split_once(" = ") {
            Some(("identity" | "required_claims", _)) => "route",
            Some(("aud" | "allow_bound_tokens" | "start_without_keys" | "typ", _)) => "issuer",
            _ => continue,
        };
        let upstream =
            if section == "route" { "upstream = \"ws://127.0.0.1:9001\"\n" } else { "jwks_file = \"keys\"\n" };
        let block = ["[[", section, "]]\nname = \"part\"\n", upstream, line, "\n"].concat();
        let folder = tempfile::tempdir().expect("a folder");
        common::doc::write(&block, folder.path());
        if let Err(problems) = config::load(&folder.path().join("config.toml"), std::iter::empty()) {
            panic!("{problems}");
        }
        seen += 1;
    }
    assert!(seen >= 6, "only {seen} lines were seen");
}

/// A recipe whose tokens are signed with the secret of the tests: its rules are what is looked at, and not its keys.
fn verifier(recipe: &str) -> Arc<Verifier> {
    let (issuer, route) = recipe.split_once("\n[[route]]").unwrap_or((recipe, ""));
    let mut text = String::new();
    for line in issuer.lines().filter(|line| !line.starts_with("jwks_")) {
        text.push_str(&[&line.replace("discovery = ", "iss = "), "\n"].concat());
    }
    text.push_str("[[issuer.key]]\nalgorithm = \"HS256\"\nsecret_file = \"certs/token.secret\"\n");
    if !route.is_empty() {
        text.push_str(&["[[route]]", route].concat());
    }
    let folder = tempfile::tempdir().expect("a folder");
    common::doc::write(&text, folder.path());
    let config = config::load(&folder.path().join("config.toml"), std::iter::empty());
    config.unwrap_or_else(|problems| panic!("{problems}")).verifiers.remove(0).1
}

/// The claims are those that the issuers' own documents show, as far as a rule looks at them.
#[test]
fn every_recipe_takes_the_tokens_of_its_issuer_that_are_for_it_and_no_others() {
    let now = now().as_secs();
    let life = json!({"iat": now, "nbf": now, "exp": now + 3600, "sub": "b3f0e6a2", "jti": "7c"});
    let recipes = recipes();
    let mut seen = BTreeSet::new();
    for (name, typ, claims, expected) in tokens() {
        let is_it = |recipe: &&(String, String)| recipe.1.contains(&format!("name = \"{name}\""));
        let (_, recipe) = recipes.iter().find(is_it).expect(name);
        let mut all = life.clone();
        for (claim, value) in claims.as_object().expect("claims") {
            all[claim] = value.clone();
        }
        let header = typ.map_or(json!({"alg": "HS256"}), |typ| json!({"alg": "HS256", "typ": typ}));
        let token = Token::new(sign(&header, &all, SECRET.as_bytes()));
        let verdict = verifier(recipe).verify(&token, Clock::system().now());
        let denial = verdict.err();
        assert_eq!(denial.as_ref().map(|denial| denial.public), expected, "{name}: {denial:?}: {claims}");
        seen.insert((name, expected.is_none()));
    }
    for (name, _) in &seen {
        assert!(seen.contains(&(*name, true)) && seen.contains(&(*name, false)), "{name}: one of each kind");
    }
}

type Row = (&'static str, Option<&'static str>, Value, Option<Public>);

fn tokens() -> Vec<Row> {
    let (invalid, forbidden) = (Some(Public::TokenInvalid), Some(Public::Forbidden));
    let mut rows = Vec::new();
    let mut add = |name, typ, claims, expected| rows.push((name, typ, claims, expected));

    let keycloak = |aud: Value, azp: &str, role: &str| {
        json!({"iss": "https://sso.example.com/realms/main", "aud": aud, "azp": azp, "typ": "Bearer", "sid": "5e",
            "realm_access": {"roles": ["offline_access", role]}, "scope": "openid profile"})
    };
    add("keycloak", Some("JWT"), keycloak(json!(["chat", "account"]), "web", "chat-user"), None);
    add("keycloak", Some("JWT"), keycloak(json!("account"), "web", "chat-user"), invalid);
    add("keycloak", Some("JWT"), keycloak(json!("chat"), "other", "chat-user"), forbidden);
    add("keycloak", Some("JWT"), keycloak(json!("chat"), "web", "guest"), forbidden);
    // An ID token, as it comes, and of a client whose own name is the audience.
    for (aud, expected) in [("web", invalid), ("chat", forbidden)] {
        let mut id = keycloak(json!(aud), "web", "chat-user");
        (id["typ"], id["nonce"], id["at_hash"]) = (json!("ID"), json!("n"), json!("h"));
        add("keycloak", Some("JWT"), id, expected);
    }

    let auth0 = |aud: Value| json!({"iss": "https://example.eu.auth0.com/", "aud": aud, "azp": "c", "scope": "openid"});
    let (ours, userinfo) = ("https://chat.example.com", "https://example.eu.auth0.com/userinfo");
    add("auth0", Some("JWT"), auth0(json!([ours, userinfo])), None);
    add("auth0", Some("at+jwt"), auth0(json!(ours)), None);
    add("auth0", Some("JWT"), auth0(json!(userinfo)), invalid);

    let (tenant, api) = ("11111111-2222-3333-4444-555555555555", "66666666-7777-8888-9999-000000000000");
    let entra = |iss: String, scp: &str| json!({"iss": iss, "aud": api, "azp": "c", "scp": scp, "tid": tenant});
    let v2 = format!("https://login.microsoftonline.com/{tenant}/v2.0");
    add("entra", Some("JWT"), entra(v2.clone(), "access_as_user other"), None);
    add("entra", Some("JWT"), entra(v2.clone(), "other"), forbidden);
    // ID tokens have the API's client ID as their `aud` where the page that signs in shares its registration.
    let id = json!({"iss": v2, "aud": api, "tid": tenant, "nonce": "n", "ver": "2.0", "preferred_username": "ann@example.com",
        "roles": ["Chat.Use"]});
    add("entra", Some("JWT"), id.clone(), forbidden);
    let app = |azp: &str, role: &str| json!({"iss": v2, "aud": api, "azp": azp, "azpacr": "1", "tid": tenant, "ver": "2.0", "roles": [role]});
    let caller = "77777777-8888-9999-0000-111111111111";
    add("entra-roles", Some("JWT"), app(caller, "Chat.Use"), None);
    add("entra-roles", Some("JWT"), app(caller, "Other.Use"), forbidden);
    add("entra-roles", Some("JWT"), app("another", "Chat.Use"), forbidden);
    add("entra-roles", Some("JWT"), id, forbidden);
    add("entra", Some("JWT"), entra(format!("https://sts.windows.net/{tenant}/"), "access_as_user"), invalid);

    let pool = "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_EXAMPLE";
    let cognito = |client: &str| json!({"iss": pool, "client_id": client, "token_use": "access", "scope": "openid"});
    add("cognito", None, cognito("1example23456789"), None);
    add("cognito", None, cognito("another"), forbidden);
    add("cognito", None, json!({"iss": pool, "aud": "1example23456789", "token_use": "id"}), invalid);

    let supabase = |anonymous: bool| {
        json!({"iss": "https://abcdefghijklmnopqrst.supabase.co/auth/v1", "aud": "authenticated",
            "role": "authenticated", "session_id": "5e", "is_anonymous": anonymous})
    };
    add("supabase", Some("JWT"), supabase(false), None);
    add("supabase", Some("JWT"), supabase(true), forbidden);
    add("supabase", Some("JWT"), json!({"iss": "supabase", "role": "anon"}), invalid);

    let server = "https://kubernetes.default.svc.cluster.local";
    let cluster = |aud: &str, namespace: &str| {
        json!({"iss": server, "aud": [aud], "sub": format!("system:serviceaccount:{namespace}:s"), "kubernetes.io":
            {"namespace": namespace, "pod": {"name": "p", "uid": "u"}, "serviceaccount": {"name": "s", "uid": "v"}}})
    };
    add("cluster", None, cluster("chat", "shop"), None);
    add("cluster", None, cluster("chat", "kube-system"), forbidden);
    add("cluster", None, cluster(server, "shop"), invalid);

    let client = "1234567890-abcdefg.apps.googleusercontent.com";
    let google =
        |azp: &str, hd: Value| json!({"iss": "https://accounts.google.com", "aud": client, "azp": azp, "hd": hd});
    add("google", Some("JWT"), google(client, json!("example.com")), None);
    add("google", Some("JWT"), google(client, Value::Null), forbidden);
    // A service account of anybody's project may ask for any `aud`; who asked is in `azp`.
    add("google", Some("JWT"), google("112233445566778899001", json!("example.com")), forbidden);

    let issuer = "https://example.okta.com/oauth2/default";
    let okta = |scp: Value| json!({"iss": issuer, "aud": "api://default", "cid": "c", "ver": 1, "scp": scp});
    add("okta", None, okta(json!(["openid", "chat"])), None);
    add("okta", None, okta(json!(["openid"])), forbidden);

    let project = "123456789012345678";
    let zitadel = |aud: Value, role: &str| {
        json!({"iss": "https://example.zitadel.cloud", "aud": aud, "azp": "client",
            format!("urn:zitadel:iam:org:project:{project}:roles"): {role: {"234": "acme.example.zitadel.cloud"}}})
    };
    add("zitadel", None, zitadel(json!(["client", project]), "chat-user"), None);
    add("zitadel", None, zitadel(json!(["client", project]), "guest"), forbidden);
    add("zitadel", None, zitadel(json!(["client"]), "chat-user"), invalid);
    // An ID token lists the project too, and has the roles if the application asks for them there; it has no `jti`.
    let mut id = zitadel(json!(["client", project]), "chat-user");
    (id["jti"], id["amr"], id["at_hash"]) = (Value::Null, json!(["pwd"]), json!("h"));
    add("zitadel", None, id, forbidden);
    rows
}
