//! A revoked token opens nothing, renews nothing, and ends what it has opened within a second; and that is not forgotten.
#![allow(clippy::expect_used, clippy::large_futures)] // a test that cannot go on fails, and says why

mod common;

use std::path::Path;
use std::time::Duration;

use common::{
    ADMIN, Admin, Backend, Gateway, ISSUER, Link, Reply, Signal, ban, claims, config, field, folder, instant, mint,
    now, within,
};
use serde_json::{Value, json};

const MINUTE: Duration = Duration::from_secs(60);

/// A token for a minute with these claims beside the usual ones.
fn token(more: &Value) -> String {
    let mut all = claims(MINUTE);
    all.as_object_mut().expect("claims").extend(more.as_object().expect("claims").clone());
    mint(&all)
}

async fn start(backend: &Backend, more: &str) -> (Gateway, Admin) {
    let gateway = Gateway::start(&config(&backend.url(), &format!("{ADMIN}{more}"))).await;
    let admin = Admin::of(&gateway).await;
    (gateway, admin)
}

async fn ask(gateway: &Gateway, token: &str) -> (Reply, Link) {
    gateway.ask(&format!("/?access_token={token}"), "").await
}

/// A stream and its handle.
async fn open(gateway: &Gateway, token: &str) -> (Link, String) {
    let (reply, link) = ask(gateway, token).await;
    assert_eq!(reply.status, 101, "{}\n{}", reply.head, reply.body_text());
    (link, reply.header("portcullis-stream").expect("a handle").to_owned())
}

async fn renew(gateway: &Gateway, handle: &str, token: &str) -> Reply {
    let port = gateway.address().port();
    let head = format!(
        "POST /.portcullis/renew HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 0\r\n\
         Portcullis-Stream: {handle}\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    gateway.connect().await.request(&head).await
}

fn reason(reply: &Reply) -> String {
    let body: Value = serde_json::from_str(reply.body_text()).unwrap_or_default();
    body["reason"].as_str().unwrap_or_default().to_owned()
}

/// Whether the stream still carries messages; what it was closed with if not.
async fn alive(link: &mut Link) -> Result<(), (u16, String)> {
    // A stream that was reset after its Close may refuse the write; the Close is read all the same.
    let ping = common::Frame::new(common::op::TEXT, "still there").encode(common::Role::Client);
    let _ = link.try_raw(&ping).await;
    let frame = link.frame().await;
    if frame.opcode == common::op::CLOSE {
        let (code, reason) = frame.close_code();
        return Err((code, reason.to_owned()));
    }
    assert_eq!(frame.text(), "still there");
    Ok(())
}

#[tokio::test]
async fn a_revoked_token_opens_no_stream_and_nothing_is_dialled_for_it() {
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, "").await;
    let iat = now().as_secs();
    admin.revoke(ban("jti", "stolen")).await;
    admin.revoke(ban("sub", "gone")).await;
    admin.revoke(ban("sid", "ended")).await;
    admin.revoke(json!({"iss": ISSUER, "sub": "fresh", "issued_before": iat})).await;
    for (claims, refused) in [
        (json!({"jti": "stolen"}), true),
        (json!({"jti": "mine"}), false),
        (json!({"sub": "gone"}), true),
        (json!({"sub": "stolen", "jti": "gone"}), false),
        (json!({"sid": "ended"}), true),
        (json!({"sid": "other"}), false),
        (json!({"sub": "fresh"}), true),
        (json!({"sub": "fresh", "iat": iat - 1}), true),
        (json!({"sub": "fresh", "iat": iat}), false),
    ] {
        let dialled = backend.dialled();
        let (reply, _link) = ask(&gateway, &token(&claims)).await;
        if refused {
            assert_eq!((reply.status, reason(&reply).as_str()), (401, "token_revoked"), "{claims}");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
            assert_eq!(backend.dialled(), dialled, "{claims}");
        } else {
            assert_eq!(reply.status, 101, "{claims}: {}", reply.body_text());
        }
    }
}

#[tokio::test]
async fn a_claim_that_is_a_number_is_banned_by_its_digits_and_by_the_number() {
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, "").await;
    for (number, kind) in ["sub", "jti", "sid"].into_iter().enumerate() {
        let (mut by_text, mut by_number) = (json!({}), json!({}));
        by_text[kind] = json!(100 + number);
        by_number[kind] = json!(200 + number);
        let mut live = [open(&gateway, &token(&by_text)).await.0, open(&gateway, &token(&by_number)).await.0];
        assert_eq!(admin.revoke(ban(kind, &(100 + number).to_string())).await["ended"], 1, "{kind}");
        by_number["iss"] = ISSUER.into();
        let answer = admin.revoke(by_number.clone()).await;
        assert_eq!((&answer["ended"], &answer[kind]), (&json!(1), &json!((200 + number).to_string())));
        for (link, claims) in live.iter_mut().zip([by_text, by_number]) {
            assert_eq!(link.frame().await.close_code(), (3003, "token revoked"), "{claims}");
            assert_eq!(ask(&gateway, &token(&claims)).await.0.status, 401, "{claims}");
        }
    }
    let (mut link, _) = open(&gateway, &token(&json!({"jti": 7}))).await;
    let stream = &admin.streams().await[0];
    assert_eq!(stream["jti"], "7");
    assert_eq!(admin.revoke(json!({"stream": stream["id"]})).await["ended"], 1);
    assert_eq!(link.frame().await.close_code(), (3003, "token revoked"));
    let end = gateway.logged("the end", |line| field(line, "jti") == Some(&json!("7"))).await;
    assert_eq!(field(&end, "jti"), Some(&json!("7")), "{end}");
}

#[tokio::test]
async fn a_ban_ends_the_live_streams_that_it_names_and_no_other() {
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, "").await;
    let iat = now().as_secs();
    for (wish, named, spared) in [
        (ban("jti", "a"), json!({"jti": "a"}), json!({"jti": "b"})),
        (ban("sub", "ann"), json!({"sub": "ann"}), json!({"sub": "bob"})),
        (ban("sid", "s"), json!({"sid": "s"}), json!({"jti": "s"})),
        (
            json!({"iss": ISSUER, "sub": "cid", "issued_before": iat}),
            json!({"sub": "cid", "iat": iat - 5}),
            json!({"sub": "cid", "iat": iat}),
        ),
    ] {
        let (mut ends, _) = open(&gateway, &token(&named)).await;
        let (mut stays, _) = open(&gateway, &token(&spared)).await;
        let begun = instant();
        let answer = admin.revoke(wish.clone()).await;
        assert_eq!(answer["ended"], 1, "{wish}");
        assert_eq!(ends.frame().await.close_code(), (3003, "token revoked"), "{wish}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(alive(&mut stays).await, Ok(()), "{wish}");
    }
    let end = gateway.logged("the end", |line| field(line, "cause") == Some(&json!("token_revoked"))).await;
    assert_eq!(field(&end, "by"), Some(&json!("gateway")), "{end}");
    assert!(gateway.log_lines().iter().all(|line| field(line, "cause") != Some(&json!("drain"))));
}

#[tokio::test]
async fn a_thousand_live_streams_end_within_a_second() {
    const STREAMS: usize = 1_000;
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, "").await;
    let token = token(&json!({"sub": "crowd"}));
    let mut links = Vec::new();
    for _ in 0..STREAMS {
        links.push(open(&gateway, &token).await.0);
    }
    let mut waiting = tokio::task::JoinSet::new();
    for mut link in links {
        waiting.spawn(async move {
            let frame = link.frame().await;
            (instant(), frame.close_code().0)
        });
    }
    let begun = instant();
    let answer = admin.revoke(ban("sub", "crowd")).await;
    assert_eq!(answer["ended"], STREAMS);
    let mut slowest = Duration::ZERO;
    while let Some(told) = within(common::PATIENCE, "the Closes", waiting.join_next()).await {
        let (at, code) = told.expect("a Close");
        assert_eq!(code, 3003);
        slowest = slowest.max(at.saturating_duration_since(begun));
    }
    assert!(slowest < Duration::from_secs(1), "the last one after {slowest:?}");
}

#[tokio::test]
async fn a_ban_that_lands_while_the_service_is_dialled_refuses_the_stream() {
    let mut backend = Backend::start().await;
    let (gateway, admin) = start(&backend, "").await;
    let token = token(&json!({"jti": "racing"}));
    let target = format!("/?access_token={token}");
    let asking = gateway.ask(&target, "");
    let landing = async {
        let asked = backend.asked().await;
        let answer = admin.revoke(ban("jti", "racing")).await;
        assert_eq!(answer["ended"], 1, "its place is taken already");
        asked.agree("").await
    };
    let ((reply, _link), _service) = tokio::join!(asking, landing);
    assert_eq!((reply.status, reason(&reply).as_str()), (401, "token_revoked"));
}

#[tokio::test]
async fn a_revoked_token_renews_nothing_and_the_stream_keeps_its_own() {
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, "").await;
    let (mut link, handle) = open(&gateway, &token(&json!({"jti": "first"}))).await;
    admin.revoke(ban("jti", "second")).await;
    let reply = renew(&gateway, &handle, &token(&json!({"jti": "second"}))).await;
    assert_eq!((reply.status, reason(&reply).as_str()), (401, "token_revoked"));
    assert_eq!(alive(&mut link).await, Ok(()));
    assert_eq!(admin.streams().await[0]["jti"], "first");
}

#[tokio::test]
async fn a_stream_is_judged_by_its_present_token() {
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, "").await;
    let (mut link, handle) = open(&gateway, &token(&json!({"jti": "old"}))).await;
    assert_eq!(renew(&gateway, &handle, &token(&json!({"jti": "new"}))).await.status, 200);
    assert_eq!(admin.revoke(ban("jti", "old")).await["ended"], 0);
    assert_eq!(alive(&mut link).await, Ok(()));
    assert_eq!(admin.streams().await[0]["jti"], "new");
    assert_eq!(admin.revoke(ban("jti", "new")).await["ended"], 1);
    assert_eq!(link.frame().await.close_code(), (3003, "token revoked"));
}

/// When to send a ban so that it races with a renewal, on any machine: after one that was late it is sent earlier, and the
/// other way round, so that both keep coming.
#[derive(Default)]
struct Aim {
    micros: u64,
}

impl Aim {
    fn wait(&self) -> Duration {
        Duration::from_micros(self.micros)
    }

    fn ban_was_late(&mut self, late: bool) {
        self.micros = if late { self.micros.saturating_sub(700) } else { self.micros + 400 };
    }
}

#[tokio::test]
async fn a_renewal_that_was_confirmed_is_not_undone_by_the_ban_of_the_old_token() {
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, "").await;
    let (mut kept, mut ended, mut aim) = (0, 0, Aim::default());
    for round in 0..150_u64 {
        let [old, new] = [format!("old-{round}"), format!("new-{round}")];
        let (mut link, handle) = open(&gateway, &token(&json!({"jti": old}))).await;
        let fresh = token(&json!({"jti": new}));
        let banning = async {
            tokio::time::sleep(aim.wait()).await;
            admin.revoke(ban("jti", &old)).await
        };
        let (reply, answer) = tokio::join!(renew(&gateway, &handle, &fresh), banning);
        aim.ban_was_late(reply.status == 200);
        if reply.status == 200 {
            kept += 1;
            assert_eq!(alive(&mut link).await, Ok(()), "round {round}: 200, and then ended ({answer})");
            assert_eq!(answer["ended"], 0, "round {round}");
        } else {
            ended += 1;
            assert_eq!((reply.status, answer["ended"].as_u64()), (410, Some(1)), "round {round}");
            assert_eq!(alive(&mut link).await, Err((3003, "token revoked".into())), "round {round}");
        }
    }
    assert!(kept > 0 && ended > 0, "no race: {kept} kept, {ended} ended");
}

#[tokio::test]
async fn no_stream_lives_on_by_a_token_that_was_revoked_while_it_was_applied() {
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, "").await;
    let (mut applied, mut refused, mut aim) = (0, 0, Aim::default());
    for round in 0..150_u64 {
        let [old, new] = [format!("old-{round}"), format!("new-{round}")];
        let (mut link, handle) = open(&gateway, &token(&json!({"jti": old}))).await;
        let fresh = token(&json!({"jti": new}));
        let banning = async {
            tokio::time::sleep(aim.wait()).await;
            admin.revoke(ban("jti", &new)).await
        };
        let (reply, answer) = tokio::join!(renew(&gateway, &handle, &fresh), banning);
        aim.ban_was_late(reply.status == 200);
        match (reply.status, alive(&mut link).await) {
            (200, Err((3003, _))) => applied += 1,
            // Refused before it was applied: the old token still counts. Or in the moment in which it was: then it ends.
            (401, Ok(()) | Err((3003, _))) => refused += 1,
            other => panic!("round {round}: {other:?} {answer}"),
        }
    }
    assert!(applied > 0 && refused > 0, "no race: {applied} applied, {refused} refused");
}

#[tokio::test]
async fn bans_survive_a_restart_and_a_kill_and_what_was_lifted_stays_lifted() {
    let backend = Backend::echo().await;
    let place = tempfile::tempdir().expect("a folder");
    let file = format!("[revocation]\nfile = \"{}\"\n", place.path().join("bans").display());
    let lifted;
    {
        let (mut gateway, admin) = start(&backend, &file).await;
        admin.revoke(ban("sub", "first")).await;
        lifted = admin.revoke(ban("sub", "lifted")).await["id"].as_str().expect("an id").to_owned();
        gateway.signal(Signal::TERM);
        assert!(gateway.exit(Duration::from_secs(10)).await.success());
    }
    {
        let (mut gateway, admin) = start(&backend, &file).await;
        assert_eq!(ask(&gateway, &token(&json!({"sub": "first"}))).await.0.status, 401);
        assert_eq!(admin.ask("DELETE", &format!("/revocations/{lifted}"), None).await.0, 200);
        for number in 0..50 {
            admin.revoke(ban("jti", &format!("kept-{number}"))).await;
        }
        // What was answered is on the disk: nothing is done at the end.
        gateway.signal(Signal::KILL);
        gateway.exit(Duration::from_secs(10)).await;
    }
    let (gateway, admin) = start(&backend, &file).await;
    let (_, answer) = admin.ask("GET", "/revocations", None).await;
    assert_eq!((answer["total"].as_u64(), answer["kept"].as_bool()), (Some(51), Some(true)), "{answer}");
    for (claims, status) in
        [(json!({"sub": "first"}), 401), (json!({"jti": "kept-49"}), 401), (json!({"sub": "lifted"}), 101)]
    {
        assert_eq!(ask(&gateway, &token(&claims)).await.0.status, status, "{claims}");
    }
}

#[tokio::test]
async fn bans_follow_an_issuer_that_gets_an_iss_and_those_that_cannot_follow_are_told() {
    let backend = Backend::echo().await;
    let place = tempfile::tempdir().expect("a folder");
    let more = format!("{ADMIN}[revocation]\nfile = \"{}\"\n", place.path().join("bans").display());
    let named = config(&backend.url(), &more);
    let nameless = named.replace(&format!("iss = \"{ISSUER}\""), "");
    let mut gateway = Gateway::start(&nameless).await;
    let admin = Admin::of(&gateway).await;
    let user = |name: &str| token(&json!({"sub": name, "jti": name}));
    let mut live = Vec::new();
    for name in ["ann", "eve"] {
        live.push(open(&gateway, &user(name)).await);
    }
    admin.revoke(json!({"iss": "default", "sub": "bob"})).await;
    let until = async |gateway: &Gateway, wanted: &str| {
        gateway.logged(wanted, |line| line.to_string().contains(wanted)).await;
    };
    let reload = async |text: &str, wanted: &str| {
        std::fs::write(gateway.path("config.toml"), text).expect("the config");
        gateway.signal(Signal::HUP);
        until(&gateway, wanted).await;
    };
    reload(&named.replace("[[route]]", "[[route]]\nmax_renewals = 7"), "reloaded").await;
    assert_eq!(ask(&gateway, &user("bob")).await.0.status, 401, "under the iss");
    assert_eq!(ask(&gateway, &user("cid")).await.0.status, 101);
    assert!(gateway.log_lines().iter().all(|line| line["level"] != "ERROR"), "{}", gateway.log());
    // Streams from before the change are found by bans from after it.
    assert_eq!(admin.revoke(ban("sub", "ann")).await["ended"], 1);
    assert_eq!(live[0].0.frame().await.close_code(), (3003, "token revoked"));
    let reply = renew(&gateway, &live[1].1, &user("ann")).await;
    assert_eq!(reply.status, 401, "{}", reply.body_text());
    let eve = admin.streams().await.iter().find(|stream| stream["jti"] == "eve").expect("a stream")["id"].clone();
    assert_eq!(admin.revoke(json!({ "stream": eve })).await["ended"], 1);

    reload(
        &named.replace("name = \"default\"\niss = \"https://issuer.test", "name = \"other\"\niss = \"https://new.test"),
        "ban nobody",
    )
    .await;
    let error = gateway.logged("an error", |line| line["level"] == "ERROR").await;
    assert_eq!(field(&error, "revocations"), Some(&json!(3)), "{error}");
    assert!(error.to_string().contains("https://issuer.test") && error.to_string().contains("default"), "{error}");
    gateway.signal(Signal::TERM);
    assert!(gateway.exit(Duration::from_secs(10)).await.success());
    let gateway = Gateway::start(&named).await;
    for name in ["ann", "bob", "eve"] {
        assert_eq!(ask(&gateway, &user(name)).await.0.status, 401, "{name} after a restart");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_trusted_or_is_in_use_keeps_the_gateway_from_starting() {
    let backend = Backend::echo().await;
    let spoil: [(&str, fn(&Path)); 3] = [
        ("is damaged", |file| std::fs::write(file, "").expect("write")),
        ("is damaged", |file| {
            let mut bytes = std::fs::read(file).expect("read");
            let at = bytes.len() - 20;
            bytes[at] ^= 1;
            std::fs::write(file, bytes).expect("write");
        }),
        ("Its folder must be there", |file| {
            std::fs::remove_dir_all(file.parent().expect("a folder")).expect("remove");
        }),
    ];
    for (words, spoil) in spoil {
        let place = tempfile::tempdir().expect("a folder");
        let file = place.path().join("state/bans");
        std::fs::create_dir(file.parent().expect("a folder")).expect("a folder");
        let section = format!("{ADMIN}[revocation]\nfile = \"{}\"\n", file.display());
        let text = config(&backend.url(), &section);
        {
            let mut gateway = Gateway::start(&text).await;
            Admin::of(&gateway).await.revoke(ban("sub", "x")).await;
            let said = refused(&text);
            assert!(said.contains("another process holds the revocation file"), "{said}");
            gateway.signal(Signal::TERM);
            gateway.exit(Duration::from_secs(10)).await;
        }
        spoil(&file);
        let said = refused(&text);
        assert!(said.contains(words) && said.contains(&file.display().to_string()), "{said}");
    }
}

/// What the program says when it does not start.
fn refused(text: &str) -> String {
    let (files, _) = folder(text);
    let output = Gateway::command(files.path()).output().expect("the program");
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_full_store_refuses_with_507_says_so_and_gives_nothing_up() {
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, "[revocation]\nmax_entries = 3\n").await;
    for number in 0..3 {
        admin.revoke(ban("sub", &format!("user-{number}"))).await;
    }
    let (status, answer) = admin.ask("POST", "/revocations", Some(ban("sub", "one-too-many"))).await;
    assert_eq!((status, answer["reason"].as_str()), (507, Some("full")), "{answer}");
    let line = gateway.logged("an error", |line| line["level"] == "ERROR").await;
    assert!(line.to_string().contains("max_entries"), "{line}");
    assert!((admin.metric("portcullis_revocations").await - 3.0).abs() < f64::EPSILON);
    assert!((admin.metric("portcullis_revocations_capacity").await - 3.0).abs() < f64::EPSILON);
    assert!((admin.metric("portcullis_revocations_refused_total").await - 1.0).abs() < f64::EPSILON);
    for number in 0..3 {
        assert_eq!(ask(&gateway, &token(&json!({"sub": format!("user-{number}")}))).await.0.status, 401);
    }
    assert_eq!(ask(&gateway, &token(&json!({"sub": "one-too-many"}))).await.0.status, 101);
    // What stands there already takes no more room.
    admin.revoke(ban("sub", "user-1")).await;
}

#[tokio::test]
async fn a_ban_ends_by_itself_and_can_be_lifted() {
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, "").await;
    let until = now().as_secs() + 2;
    admin.revoke(json!({"iss": ISSUER, "sub": "soon", "until": until})).await;
    let id = admin.revoke(ban("sub", "lifted")).await["id"].as_str().expect("an id").to_owned();
    assert_eq!(ask(&gateway, &token(&json!({"sub": "soon"}))).await.0.status, 401);
    assert_eq!(admin.ask("DELETE", &format!("/revocations/{id}"), None).await.0, 200);
    assert_eq!(admin.ask("DELETE", &format!("/revocations/{id}"), None).await.0, 404);
    assert_eq!(ask(&gateway, &token(&json!({"sub": "lifted"}))).await.0.status, 101);
    tokio::time::sleep(Duration::from_secs(until).saturating_sub(now())).await;
    assert_eq!(ask(&gateway, &token(&json!({"sub": "soon"}))).await.0.status, 101);
    admin.metric_becomes("portcullis_revocations", 0.0).await;
}

#[tokio::test]
async fn a_ban_lives_as_long_as_a_token_of_its_issuer_may() {
    let backend = Backend::echo().await;
    let other = |name: &str, rules: &str| {
        format!(
            "[[issuer]]\nname = \"{name}\"\n{rules}[[issuer.key]]\nalgorithm = \"HS256\"\nsecret_file = \"token.secret\"\n"
        )
    };
    let more = [
        other("endless", "max_lifetime = \"0s\"\nrequired_claims = [\"iat\"]\n"),
        other("undying", "max_lifetime = \"1h\"\nrequire_exp = false\n"),
    ];
    let rules = "max_lifetime = \"1h\"\nleeway = \"10s\"\nskew = \"5s\"\nrequired_claims = [\"iat\"]\n";
    let text = config(&backend.url(), &format!("{ADMIN}{}", more.concat()))
        .replace("name = \"default\"\niss", &format!("name = \"default\"\n{rules}iss"));
    let gateway = Gateway::start(&text).await;
    let admin = Admin::of(&gateway).await;
    for kind in ["jti", "sub", "sid"] {
        let before = now().as_secs();
        let until = admin.revoke(ban(kind, "x")).await["until"].as_u64().expect("an end");
        assert!((before + 3615..=now().as_secs() + 3616).contains(&until), "{until}");
        for issuer in ["endless", "undying"] {
            let answer = admin.revoke(json!({"iss": issuer, kind: "x"})).await;
            assert_eq!(answer["until"], Value::Null, "{issuer}: nothing bounds the life of its tokens");
        }
    }
}

#[tokio::test]
async fn a_wish_that_means_no_token_is_refused_and_says_why() {
    let backend = Backend::echo().await;
    let (_gateway, admin) = start(&backend, "").await;
    let soon = now().as_secs() + 60;
    for (wish, status, reason) in [
        (json!({"iss": "https://other.test", "sub": "x"}), 422, "unknown_issuer"),
        (json!({"iss": "default", "sub": "x"}), 422, "unknown_issuer"),
        (json!({"sub": "x"}), 422, "iss"),
        (json!({"iss": ISSUER}), 422, "body"),
        (json!({"iss": ISSUER, "sub": "x", "jti": "y"}), 422, "body"),
        (json!({"iss": ISSUER, "sub": ""}), 422, "body"),
        (json!({"iss": ISSUER, "jti": "x", "issued_before": soon}), 422, "issued_before"),
        (json!({"iss": ISSUER, "sub": "x", "issued_before": -1}), 422, "issued_before"),
        (json!({"iss": ISSUER, "sub": "x", "until": soon - 61}), 422, "until"),
        (json!({"iss": ISSUER, "sub": "x", "until": soon * 1000}), 422, "until"),
        (json!({"iss": ISSUER, "sub": "x", "untill": soon}), 400, "body"),
        (json!({"iss": ISSUER, "sub": null}), 422, "body"),
        (json!({"stream": 12345}), 422, "stream_gone"),
        (json!([]), 400, "body"),
    ] {
        let (got, answer) = admin.ask("POST", "/revocations", Some(wish.clone())).await;
        assert_eq!((got, answer["reason"].as_str()), (status, Some(reason)), "{wish}: {answer}");
    }
    let (_, known) = admin.ask("POST", "/revocations", Some(json!({"iss": "nobody", "sub": "x"}))).await;
    assert!(known["detail"].as_str().is_some_and(|detail| detail.contains(ISSUER)), "{known}");
    assert_eq!(admin.ask("GET", "/revocations", None).await.1["total"], 0);
}

#[tokio::test]
async fn the_token_of_a_stream_that_is_seen_can_be_revoked_without_knowing_it() {
    let backend = Backend::echo().await;
    let (gateway, admin) = start(&backend, "").await;
    let token = token(&json!({"jti": "seen"}));
    let (mut link, _) = open(&gateway, &token).await;
    let id = admin.streams().await[0]["id"].clone();
    let answer = admin.revoke(json!({ "stream": id })).await;
    assert_eq!((&answer["jti"], &answer["iss"]), (&json!("seen"), &json!(ISSUER)));
    assert_eq!(link.frame().await.close_code(), (3003, "token revoked"));
    assert_eq!(ask(&gateway, &token).await.0.status, 401);
    let (_link, _) = open(&gateway, &mint(&claims(MINUTE))).await;
    let id = admin.streams().await.last().expect("a stream")["id"].clone();
    let (status, answer) = admin.ask("POST", "/revocations", Some(json!({ "stream": id }))).await;
    assert_eq!((status, answer["reason"].as_str()), (422, Some("no_jti")), "{answer}");
}

#[tokio::test]
async fn a_ticket_is_neither_handed_out_nor_taken_for_a_revoked_token() {
    let backend = Backend::echo().await;
    let carriers = "carriers = [\"ticket:ticket\", \"header\"]\n";
    let gateway = Gateway::start(&config(&backend.url(), &format!("{carriers}{ADMIN}"))).await;
    let admin = Admin::of(&gateway).await;
    let port = gateway.address().port();
    let ticket = async |token: &str| {
        let head = format!(
            "POST /.portcullis/ticket HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: 0\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        gateway.connect().await.request(&head).await
    };
    let token = token(&json!({"jti": "t"}));
    let reply = ticket(&token).await;
    assert_eq!(reply.status, 200, "{}", reply.body_text());
    let handed: Value = serde_json::from_str(reply.body_text()).expect("JSON");
    admin.revoke(ban("jti", "t")).await;
    assert_eq!(reason(&ticket(&token).await), "token_revoked");
    let target = format!("/?ticket={}", handed["ticket"].as_str().expect("a ticket"));
    let (reply, _link) = gateway.ask(&target, "").await;
    assert_eq!((reply.status, reason(&reply).as_str()), (401, "token_revoked"));
    assert_eq!(backend.dialled(), 0);
}

#[tokio::test]
async fn a_revoked_token_among_messages_renews_nothing_and_is_answered() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), &format!("renew_in_band = \"consume\"\n{ADMIN}"))).await;
    let admin = Admin::of(&gateway).await;
    let (mut link, _) = open(&gateway, &token(&json!({"jti": "first"}))).await;
    admin.revoke(ban("jti", "second")).await;
    link.text(&token(&json!({"jti": "second"}))).await;
    let told: Value = serde_json::from_str(link.frame().await.text()).expect("JSON");
    assert_eq!(told, json!({"portcullis": "refused", "reason": "token_revoked"}));
    assert_eq!(alive(&mut link).await, Ok(()));
    let series = "portcullis_token_renewals_total{route=\"default\",result=\"token_revoked\"}";
    admin.metric_becomes(series, 1.0).await;
}

#[tokio::test]
async fn a_revoked_token_in_the_first_message_opens_nothing() {
    let backend = Backend::echo().await;
    let gateway = Gateway::start(&config(&backend.url(), &format!("carriers = [\"message\"]\n{ADMIN}"))).await;
    let admin = Admin::of(&gateway).await;
    admin.revoke(ban("sub", "gone")).await;
    let (reply, mut link) = gateway.ask("/", "").await;
    assert_eq!(reply.status, 101);
    link.text(&token(&json!({"sub": "gone"}))).await;
    assert_eq!(link.frame().await.close_code().0, 3003);
    assert_eq!(backend.dialled(), 0);
}
