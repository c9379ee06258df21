//! Services whose client is a page, in Chromium, each behind the very config of its page in docs/recipes/.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::time::Duration;

use common::real::{Program, free_address, installed, root};
use common::recipe::Recipe;
use common::site::Site;
use common::{Gateway, eventually, field, instant, token};
use serde_json::{Value, json};

/// Longer than the minute after which many proxies take a silent stream for dead.
const SILENCE: Duration = Duration::from_secs(65);

#[tokio::test]
async fn novnc_shows_a_desktop_that_outlives_its_tokens_in_silence_and_ends_without_a_new_one() {
    let (mut vnc, address) = Program::vnc_server().await;
    let (_websockify, listening) = Program::websockify(&address).await;
    let site = Site::start(NOVNC).await;
    let page = site.url().trim_end_matches('/');
    let recipe = Recipe::of("novnc").with("127.0.0.1:6080", &listening).with("https://app.example.com", page);
    let gateway = recipe.start().await;
    let mut browser = Program::browser("chromium", &gateway.path("ca.pem")).await;
    browser.call(json!({"go": site.url()})).await;
    let url = format!("wss://localhost:{}/websockify", gateway.address().port());

    browser.eval(&format!("open_screen('none', '{url}')")).await;
    assert_eq!(browser.eval("screens.none.left").await, json!({"clean": false}));
    gateway.logged("a refusal", |line| field(line, "cause") == Some(&"token_missing".into())).await;

    browser.eval(&format!("open_screen('stays', '{url}', {{ life: 10 }})")).await;
    browser.eval(&format!("open_screen('ends', '{url}', {{ life: 6, renew: false }})")).await;
    for name in ["stays", "ends"] {
        assert_eq!(browser.eval(&format!("shows('{name}', [255, 0, 0])")).await, true);
        browser.eval(&format!("press('{name}', 'g')")).await;
        assert_eq!(browser.eval(&format!("shows('{name}', [0, 255, 0])")).await, true);
        assert_eq!(vnc.line().await, "connected");
    }
    let silent = instant();
    assert_eq!(browser.eval("screens.ends.left").await, json!({"clean": true}));
    assert_eq!(browser.eval("screens.ends.end").await, json!({"code": 3000, "reason": "token expired"}));
    assert_eq!(vnc.line().await, "left");

    tokio::time::sleep(SILENCE.saturating_sub(silent.elapsed())).await;
    browser.eval("press('stays', 'b')").await;
    assert_eq!(browser.eval("shows('stays', [0, 0, 255])").await, true);
    let renewed = browser.eval("screens.stays.renewed").await;
    assert!(renewed.as_u64().is_some_and(|renewed| renewed >= 6), "{renewed}");
}

#[tokio::test]
async fn streamlit_serves_its_page_and_stream_comes_back_with_a_fresh_cookie_and_lives_on_when_renewed() {
    let (_streamlit, service) = Program::streamlit().await;
    let login = Site::start("").await;
    let address = free_address();
    let own = format!("https://localhost:{}", address.rsplit(':').next().expect("a port"));
    let login_address = login.url().trim_start_matches("http://").trim_end_matches('/');
    let recipe = Recipe::of("streamlit").with("127.0.0.1:0", &address).with("https://app.example.com", &own);
    let gateway = recipe.with("127.0.0.1:8501", &service).with("127.0.0.1:9000", login_address).start().await;
    let mut browser = Program::browser("chromium", &gateway.path("ca.pem")).await;
    browser.call(json!({"size": [1000, 500]})).await;

    // Without a token there is no page, but monitors may ask.
    browser.call(json!({"go": own})).await;
    shows(&mut browser, "token_missing").await;
    browser.call(json!({"go": format!("{own}/_stcore/health")})).await;
    shows(&mut browser, "ok").await;

    // Its token ends the stream, and a fresh one brings the session back as it was.
    browser.call(json!({"go": format!("{own}/login?12")})).await;
    browser.call(json!({"go": own})).await;
    shows(&mut browser, "counted 0").await;
    count_to(&mut browser, 1).await;
    shows(&mut browser, "Hello, someone").await;
    shot(&mut browser, "streamlit").await;
    expired(&gateway, 1).await;
    shows(&mut browser, "token_expired").await;
    shot(&mut browser, "streamlit-expired").await;
    browser.eval("fetch('/login?60')").await;
    opened(&gateway, 2).await;
    let text = "document.body.innerText";
    until(&mut browser, "the page again", text, |shown| !shown.to_string().contains("token_expired")).await;
    count_to(&mut browser, 2).await;

    // The same with the script of the page, which renews the stream.
    let script = Recipe::block_of("streamlit", "html").replace("60_000", "2_000");
    let script = script.trim().trim_start_matches("<script>").trim_end_matches("</script>").to_owned();
    browser.call(json!({"script": script})).await;
    browser.call(json!({"go": format!("{own}/login?9")})).await;
    browser.call(json!({"go": own})).await;
    shows(&mut browser, "counted 0").await;
    count_to(&mut browser, 1).await;
    gateway.logged("a renewal", |line| field(line, "message") == Some(&"renewed".into())).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    count_to(&mut browser, 2).await;
    expired(&gateway, 1).await;
    opened(&gateway, 3).await;
    assert!(!gateway.log().contains("eyJ"), "a token in the log");
}

#[tokio::test]
async fn signalr_in_a_page_brings_its_token_in_the_query_and_is_told_why_it_ends() {
    let (mut service, hub) = Program::standins().await;
    let address = free_address();
    let own = format!("https://localhost:{}", address.rsplit(':').next().expect("a port"));
    let recipe = Recipe::of("signalr").with("127.0.0.1:0", &address).with("https://app.example.com", &own);
    let gateway = recipe.with("127.0.0.1:5000", &hub).start().await;
    let mut browser = Program::browser("chromium", &gateway.path("ca.pem")).await;
    let library = installed("node_modules/@microsoft/signalr/dist/browser/signalr.js");
    browser.call(json!({"script": std::fs::read_to_string(library).expect("signalr.js")})).await;
    // Any page of the same origin.
    browser.call(json!({"go": format!("{own}/hub")})).await;
    browser
        .eval(
            "void (globalThis.open_hub = async (options) => {
                const hub = new signalR.HubConnectionBuilder().withUrl('/hub', options).configureLogging('none').build()
                globalThis.ended = new Promise((resolve) => hub.onclose(({ message }) => resolve(message)))
                await hub.start()
                return hub.invoke('Who')
            })",
        )
        .await;
    let refused = browser.eval("open_hub({}).catch(({ message }) => message)").await;
    assert!(refused.as_str().is_some_and(|why| why.contains("Status code '401'")), "{refused}");
    let short = token(Duration::from_secs(5));
    assert_eq!(browser.eval(&format!("open_hub({{ accessTokenFactory: () => '{short}' }})")).await, "someone");
    assert_eq!(service.line().await, "negotiated ?negotiateVersion=1");
    let opened = service.line().await;
    assert!(opened.starts_with("opened /hub?id=") && !opened.contains('&'), "{opened}");
    let why = browser.eval("ended").await;
    assert_eq!(why, "WebSocket closed with status code: 3000 (token expired).");
}

/// Presses the button, once it is there, after which the page shows this count.
async fn count_to(browser: &mut Program, count: u32) {
    shows(browser, &format!("counted {}", count - 1)).await;
    let press = "(() => {
        const button = [...document.querySelectorAll('button')].find((button) => button.innerText === 'Count')
        button?.click()
        return button !== undefined
    })()";
    until(browser, "the button", press, |pressed| *pressed == true).await;
    shows(browser, &format!("counted {count}")).await;
}

/// Waits until the page shows this text.
async fn shows(browser: &mut Program, text: &str) {
    until(browser, text, "document.body.innerText", |shown| shown.as_str().is_some_and(|shown| shown.contains(text)))
        .await;
}

/// Evaluates an expression in the page until `holds` says so of its value.
async fn until(browser: &mut Program, what: &str, expression: &str, holds: impl Fn(&Value) -> bool) {
    let start = instant();
    loop {
        let value = browser.eval(expression).await;
        if holds(&value) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{what}: {value}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until as many streams have ended with their token as this, and no more.
async fn expired(gateway: &Gateway, count: usize) {
    told(gateway, "\"cause\":\"token_expired\"", count).await;
}

/// Waits until as many streams were opened as this, and no more.
async fn opened(gateway: &Gateway, count: usize) {
    told(gateway, "\"stream opened\"", count).await;
}

async fn told(gateway: &Gateway, what: &str, count: usize) {
    let so_far = || gateway.log().matches(what).count();
    eventually(what, || so_far() >= count).await;
    assert_eq!(so_far(), count, "{what}\n{}", gateway.log());
}

/// Saves a picture of the page under target/real/.
async fn shot(browser: &mut Program, name: &str) {
    let folder = root().join("target/real/screenshots");
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join(name).with_extension("png");
    browser.call(json!({"shot": file})).await;
    assert!(std::fs::metadata(&file).is_ok_and(|file| file.len() > 5_000), "{}", file.display());
}

const NOVNC: &str = r"<!doctype html><title>screens</title><script>
const modules = Promise.all([import('/portcullis.js'), import('/lib/@novnc/novnc/core/rfb.js')])
const screens = {}

/** Without `life` as anybody would, with a URL and no token. */
async function open_screen(name, url, { life, renew } = {}) {
  const [{ PortcullisSocket }, { default: RFB }] = await modules
  const place = document.body.appendChild(document.createElement('div'))
  const screen = screens[name] = { place, renewed: 0 }
  let channel = url
  if (life) {
    const getToken = async ({ signal }) => (await fetch(`/token?${life}`, { signal })).text()
    channel = new PortcullisSocket(url, [], { getToken, carrier: 'ticket', reconnect: false, renew: renew ?? true })
    channel.addEventListener('renewed', () => screen.renewed++)
    screen.end = new Promise((resolve) => channel.addEventListener('close', ({ code, reason }) => resolve({ code, reason })))
  }
  screen.rfb = new RFB(place, channel)
  screen.left = new Promise((resolve) => screen.rfb.addEventListener('disconnect', ({ detail: { clean } }) => resolve({ clean })))
}

const press = (name, key) => screens[name].rfb.sendKey(key.charCodeAt(0), `Key${key.toUpperCase()}`)

/** Whether the whole screen is of this colour, within ten seconds. */
async function shows(name, [red, green, blue]) {
  for (const end = Date.now() + 10_000; Date.now() < end;) {
    const canvas = screens[name].place.querySelector('canvas')
    if (canvas?.width === 64) {
      const { data } = canvas.getContext('2d').getImageData(0, 0, 64, 48)
      const is = (index) => data[index] === red && data[index + 1] === green && data[index + 2] === blue
      if (Array.from({ length: 64 * 48 }, (_, pixel) => 4 * pixel).every(is)) return true
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  return false
}
</script>";
