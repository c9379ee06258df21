//! Services whose client is a page, in Chromium, each behind the very config of its page in docs/recipes/.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::time::Duration;

use common::real::Program;
use common::recipe::Recipe;
use common::site::Site;
use common::{field, instant};
use serde_json::json;

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
