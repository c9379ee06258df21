//! The demo as a person meets it: in a terminal, and on its page in Chromium and in Firefox.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::path::PathBuf;
use std::process::Command;

use common::real::{Program, root};
use serde_json::json;
use tempfile::TempDir;

#[tokio::test]
async fn a_person_tries_the_demos_page_in_chromium() {
    try_the_page("chromium").await;
}

#[tokio::test]
async fn a_person_tries_the_demos_page_in_firefox() {
    try_the_page("firefox").await;
}

async fn try_the_page(kind: &str) {
    let (folder, _demo, port) = demo().await;
    let mut page = Program::browser(kind, &folder.path().join(format!("certs/demo-ca-{port}.pem"))).await;
    page.call(json!({"size": [1280, 900]})).await;
    page.call(json!({"go": format!("https://localhost:{port}/")})).await;
    page.eval(HELPERS).await;
    shot(&mut page, kind, "desktop-begin").await;
    renewal(&mut page, kind).await;
    verifier(&mut page, kind).await;
    // On a phone.
    page.call(json!({"size": [390, 844]})).await;
    shot(&mut page, kind, "phone-top").await;
    other_ways(&mut page).await;
    revocation(&mut page, kind).await;
    refusals(&mut page).await;
    let wide = page.eval("document.documentElement.scrollWidth - innerWidth").await;
    assert!(wide.as_i64().is_some_and(|wide| wide <= 0), "the page is {wide} px wider than a phone");
    assert_eq!(page.eval("document.body.textContent.includes('eyJ')").await, false, "a token stands on the page");
}

/// One stream through several tokens, messages both ways; then nobody renews, and the gate drops.
async fn renewal(page: &mut Program, kind: &str) {
    page.eval("set('ttl', '3'), set('service', '/echo'), press('#connect'), until(() => text('ready') === 'open')")
        .await;
    page.eval("set('text', 'hello from the page'), press('#send')").await;
    page.eval("until(() => told('hello from the page') === 2)").await;
    page.eval("press('#often'), until(() => text('facts').startsWith('token 4, '))").await;
    assert_eq!(page.eval("told('on the same stream')").await, 3);
    shot(page, kind, "desktop-open").await;
    page.eval("press('#often'), press('#renewing'), until(() => text('ready') === 'closed')").await;
    assert_eq!(page.eval(END).await, json!(["3000", "token expired", "true"]));
    assert_eq!(page.eval("text('left')").await, "expired");
    assert_eq!(page.eval("told('none: it is turned off')").await, 1);
    shot(page, kind, "desktop-closed").await;
    page.eval("press('#renewing')").await;
}

/// A message that is a token renews; a forged one and somebody else's do not.
async fn verifier(page: &mut Program, kind: &str) {
    page.eval("set('ttl', '60'), set('service', '/verifier'), set('carrier', 'subprotocol')").await;
    page.eval("press('#connect'), until(() => text('ready') === 'open')").await;
    page.eval("set('text', 'grüße'), set('as', 'good'), press('#send')").await;
    page.eval("until(() => told('\"message\":\"grüße\"') === 1 && text('facts').startsWith('token 2, '))").await;
    page.eval("set('as', 'forged'), press('#send'), until(() => told('\"reason\":\"token_invalid\"') === 1)").await;
    page.eval("press('#other'), until(() => told('refused: 403 forbidden. The stream keeps its own token') === 1)")
        .await;
    // The page then renews with a token of its own.
    page.eval("until(() => text('facts').startsWith('token 3, '))").await;
    assert_eq!(page.eval("text('ready')").await, "open");
    shot(page, kind, "desktop-verifier").await;
    page.eval("press('#close'), until(() => text('ready') === 'closed')").await;
    assert_eq!(page.eval(END).await, json!(["1000", "(none)", "true"]));
}

/// A ticket, and a token in the first message.
async fn other_ways(page: &mut Program) {
    for (service, carrier) in [("/echo", "ticket"), ("/first", "message")] {
        page.eval(&format!("set('service', '{service}'), set('carrier', '{carrier}'), press('#connect')")).await;
        page.eval("until(() => text('ready') === 'open')").await;
        page.eval("set('text', 'headers'), set('as', 'text'), press('#send')").await;
        page.eval("until(() => told('\"token_seen\": false') === 1)").await;
        assert_eq!(page.eval("document.getElementById('carrier').value").await, carrier);
        page.eval("press('#close'), until(() => text('ready') === 'closed').then(clear)").await;
    }
}

/// A session that is banned loses its stream and gets no other one; another session does.
async fn revocation(page: &mut Program, kind: &str) {
    page.eval("set('service', '/echo'), set('carrier', 'query'), press('#connect')").await;
    page.eval("until(() => text('ready') === 'open')").await;
    shot(page, kind, "phone-open").await;
    page.eval("press('#revoke'), until(() => text('ready') === 'closed')").await;
    assert_eq!(page.eval(END).await, json!(["3003", "token revoked", "true"]));
    shot(page, kind, "phone-revoked").await;
    page.eval("document.getElementById('log-title').scrollIntoView()").await;
    shot(page, kind, "phone-log").await;
    page.eval("press('#connect'), until(() => text('code') === '1006')").await;
    page.eval("press('#another'), press('#connect'), until(() => text('ready') === 'open')").await;
    page.eval("press('#close'), until(() => text('code') === '1000')").await;
}

/// Tokens that open nothing: over HTTP the page learns no more than 1006, behind an early `101` it learns why.
async fn refusals(page: &mut Program) {
    for token in ["forged", "expired", "audience"] {
        page.eval(&format!("set('kind', '{token}'), press('#connect'), until(() => text('ready') !== 'closed')")).await;
        page.eval("until(() => text('ready') === 'closed')").await;
        assert_eq!(page.eval("text('code')").await, "1006", "{token}");
    }
    page.eval("set('service', '/first'), set('kind', 'forged'), press('#connect')").await;
    page.eval("until(() => text('code') === '3000')").await;
    assert_eq!(page.eval(END).await, json!(["3000", "token_invalid", "true"]));
}

/// What the page shows of the last end.
const END: &str = "[text('code'), text('reason'), text('clean')]";

/// What the page is asked with: a person's hands and eyes.
const HELPERS: &str = r"void (globalThis.set = (id, value) => {
    const input = document.getElementById(id)
    input.value = value
    input.dispatchEvent(new Event('change'))
  },
  globalThis.told = (what) => text('log').split(what).length - 1,
  globalThis.clear = () => document.getElementById('log').replaceChildren(),
  globalThis.text = (id) => document.getElementById(id).textContent,
  globalThis.press = (selector) => { document.querySelector(selector).click() },
  globalThis.until = async (holds) => {
    for (let tries = 0; !holds(); tries++) {
      if (tries > 750) throw new Error('waited in vain for ' + holds + '; the log: ' + text('log'))
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  })";

/// Saves a picture of the page under target/real/.
async fn shot(page: &mut Program, kind: &str, name: &str) {
    let folder = root().join("target/real/screenshots");
    std::fs::create_dir_all(&folder).expect("a folder");
    let file: PathBuf = folder.join(format!("demo-{kind}-{name}.png"));
    page.call(json!({"shot": file})).await;
    assert!(std::fs::metadata(&file).is_ok_and(|file| file.len() > 10_000), "{}", file.display());
}

/// The demo on a terminal, which `script` makes, once it stays up; its folder and the port of its page.
async fn demo() -> (TempDir, Program, u16) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new("script");
    let demo = format!("exec '{}' demo --ttl 2s", env!("CARGO_BIN_EXE_portcullis"));
    command.args(["-qfec", &demo, "/dev/null"]).current_dir(folder.path()).stderr(std::process::Stdio::null());
    let mut program = Program::spawn("the demo", command, None);
    let mut told = String::new();
    loop {
        let line = program.line().await;
        assert!(!line.contains("did not come out"), "{told}{line}");
        if let Some((_, rest)) = line.split_once("Open https://localhost:") {
            assert!(told.contains("came out as expected"), "{told}");
            let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
            return (folder, program, port.parse().expect("a port"));
        }
        told.push_str(&line);
        told.push('\n');
    }
}
