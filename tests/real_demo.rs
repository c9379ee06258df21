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
    let url = format!("https://localhost:{port}/");
    let mut page = Program::browser(kind, &folder.path().join(format!("certs/demo-ca-{port}.pem"))).await;
    page.call(json!({"size": [1280, 900]})).await;
    page.call(json!({"go": url})).await;
    page.eval(HELPERS).await;

    // Echo, the token in the query, until it expires.
    page.eval("set('ttl', '3'), set('carrier', 'query'), set('service', '/echo'), press('#token-form button')").await;
    page.eval("until(() => text('left').includes('s left'))").await;
    page.eval("press('#connect'), until(() => text('ready') === 'open')").await;
    page.eval("set('text', 'hello from the page'), press('#send')").await;
    page.eval("until(() => text('log').split('hello from the page').length > 2)").await;
    // The echo service returns the token; neither way it is shown.
    page.eval("press('#send-token'), until(() => text('log').split('(the token)').length > 2)").await;
    shot(&mut page, kind, "desktop-open").await;
    page.eval("until(() => text('ready') === 'closed')").await;
    assert_eq!(
        page.eval("[text('code'), text('reason'), text('clean')]").await,
        json!(["3000", "token expired", "true"])
    );
    assert_eq!(page.eval("text('left')").await, "expired");
    shot(&mut page, kind, "desktop-closed").await;

    // The verifier, the token in a subprotocol and as a message, closed by the page; on a phone.
    page.call(json!({"size": [390, 844]})).await;
    page.eval("set('ttl', '60'), set('message', 'grüße'), set('carrier', 'subprotocol'), set('service', '/verifier')")
        .await;
    page.eval("press('#token-form button'), until(() => text('left').includes('s left'))").await;
    page.eval("press('#connect'), until(() => text('ready') === 'open')").await;
    page.eval("press('#send-token'), until(() => text('log').split('grüße').length > 1)").await;
    shot(&mut page, kind, "phone").await;
    let wide = page.eval("document.documentElement.scrollWidth - innerWidth").await;
    assert!(wide.as_i64().is_some_and(|wide| wide <= 0), "the page is {wide} px wider than a phone");
    page.eval("press('#close'), until(() => text('ready') === 'closed')").await;
    assert_eq!(page.eval("[text('code'), text('clean')]").await, json!(["1000", "true"]));
    assert_eq!(page.eval("text('log').includes('eyJ')").await, false, "a token stands on the page");

    // A token of somebody else's making.
    page.eval(
        "set('kind', 'forged'), press('#token-form button'), until(() => text('log').split('good for').length > 3)",
    )
    .await;
    page.eval("press('#connect'), until(() => text('code') === '1006')").await;
}

/// What the page is asked with: a person's hands and eyes.
const HELPERS: &str = r"void (globalThis.set = (id, value) => { document.getElementById(id).value = value },
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
