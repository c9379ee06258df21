//! The browser client in Chromium and in Firefox, alone and as the socket of libraries that know nothing of the gateway.
#![allow(clippy::expect_used)] // a test that cannot go on fails, and says why
mod common;

use std::time::Duration;

use common::real::Program;
use common::site::Site;
use common::{Gateway, config, field};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

/// Browsers are heavy: one at a time.
static BROWSER: Mutex<()> = Mutex::const_new(());

#[tokio::test]
async fn chromium_loses_no_message_while_its_token_is_renewed_three_times() {
    loses_no_message("chromium").await;
}

#[tokio::test]
async fn firefox_loses_no_message_while_its_token_is_renewed_three_times() {
    loses_no_message("firefox").await;
}

/// Both sides count at once; two streams for each carrier.
async fn loses_no_message(kind: &str) {
    let mut stage = Stage::new(kind).await;
    let streams = ["query", "ticket", "subprotocol"].map(|carrier| [(carrier, 1), (carrier, 2)]);
    for (carrier, number) in streams.as_flattened() {
        let url = stage.url("/numbers?a=1&b=%20x");
        stage.page.eval(&format!("count('{carrier}{number}', '{url}', {{ carrier: '{carrier}', life: 8 }})")).await;
    }
    for (carrier, number) in streams.as_flattened() {
        let seen = stage.page.eval(&format!("counted('{carrier}{number}')")).await;
        let told = &seen["report"];
        assert_eq!(seen["events"], json!(["open", "renewed", "renewed", "renewed"]), "{carrier}: {seen}");
        assert!(seen["extensions"].as_str().is_some_and(|all| all.contains("permessage-deflate")), "{carrier}: {seen}");
        assert_eq!(seen["protocol"], "", "{carrier}");
        assert_eq!((&seen["wrong"], &seen["came"]), (&Value::Null, &told["sent"]), "{carrier}: downstream");
        assert_eq!((&told["wrong"], &told["came"]), (&Value::Null, &seen["sent"]), "{carrier}: upstream");
        for count in [&seen["came"], &seen["sent"]] {
            assert!(count.as_u64().is_some_and(|count| count > 500), "{carrier}: {seen}");
        }
        let opened = stage.service.line().await;
        assert_eq!(opened, "opened /numbers?a=1&b=%20x permessage-deflate", "all that the service sees");
    }
    assert_eq!(stage.site.minted(), 12, "two sockets share each token");
    let renewed =
        stage.gateway.log_lines().iter().filter(|line| field(line, "message") == Some(&"renewed".into())).count();
    assert_eq!(renewed, 18);
}

#[tokio::test]
async fn chromium_comes_back_with_a_new_token_after_a_sleep() {
    comes_back_after_a_sleep("chromium").await;
}

#[tokio::test]
async fn firefox_comes_back_with_a_new_token_after_a_sleep() {
    comes_back_after_a_sleep("firefox").await;
}

async fn comes_back_after_a_sleep(kind: &str) {
    let mut stage = Stage::new(kind).await;
    let url = stage.url("/echo");
    stage.page.eval(&format!("open_stream('sleeper', '{url}', {{ life: 6 }})")).await;
    assert_eq!(stage.page.eval("asked('sleeper', 'before')").await, "before");
    stage.page.call(json!({"signal": "SIGSTOP"})).await;
    assert_eq!(stage.service.line().await, "opened /echo permessage-deflate");
    assert_eq!(stage.service.line().await, "closed /echo 1001", "the gate has dropped");
    tokio::time::sleep(Duration::from_secs(5)).await;
    stage.page.call(json!({"signal": "SIGCONT"})).await;
    stage.page.eval("happened('sleeper', 'open', 2)").await;
    assert_eq!(stage.page.eval("asked('sleeper', 'after')").await, "after");
    assert_eq!(stage.page.eval("streams.sleeper.events.slice(0, 3)").await, json!(["open", "reconnecting", "open"]));
    let lines = stage.gateway.log_lines();
    let used = lines.iter().filter(|line| field(line, "status") == Some(&401.into()));
    assert_eq!(used.count(), 0, "an expired token was used\n{}", stage.gateway.log());
}

#[tokio::test]
async fn chromium_learns_from_a_close_that_its_token_was_refused() {
    learns_that_its_token_was_refused("chromium").await;
}

#[tokio::test]
async fn firefox_learns_from_a_close_that_its_token_was_refused() {
    learns_that_its_token_was_refused("firefox").await;
}

/// A script never sees the status of a refusal, so the route tells it by a Close.
async fn learns_that_its_token_was_refused(kind: &str) {
    let mut stage = Stage::new(kind).await;
    let url = stage.url("/told");
    stage.page.eval(&format!("void open_stream('told', '{url}', {{ life: 0 }})")).await;
    assert_eq!(stage.page.eval("happened('told', 'reconnecting', 3)").await, 3);
    let seen = stage.page.eval("streams.told").await;
    for (delay, most) in seen["delays"].as_array().expect("delays").iter().zip([500.0, 1000.0, 2000.0]) {
        assert!(delay.as_f64().is_some_and(|delay| delay <= most), "{seen}");
    }
    let end = json!({"code": 3000, "reason": "token_expired", "wasClean": true});
    assert_eq!(seen["ends"].as_array().expect("ends")[..3], [end.clone(), end.clone(), end]);
    let events = seen["events"].as_array().expect("events").iter().filter_map(Value::as_str);
    let ends: Vec<&str> = events.filter(|event| ["open", "reconnecting", "close"].contains(event)).take(4).collect();
    assert_eq!(ends, ["open", "reconnecting", "open", "reconnecting"]);
    assert!(stage.site.minted() >= 3, "each time with a new token");
    stage.page.eval("streams.told.socket.close()").await;
    stage.page.eval("happened('told', 'close', 1)").await;

    let url = stage.url("/elsewhere");
    stage.page.eval(&format!("void open_stream('elsewhere', '{url}', {{ life: 60 }})")).await;
    stage.page.eval("happened('elsewhere', 'close', 1)").await;
    let seen = stage.page.eval("streams.elsewhere").await;
    assert_eq!(seen["events"], json!(["open", "close"]), "it does not come back");
    assert_eq!(seen["ends"], json!([{"code": 3003, "reason": "forbidden", "wasClean": true}]));
}

#[tokio::test]
async fn chromiums_libraries_take_the_class_as_their_socket() {
    libraries_take_the_class("chromium").await;
}

#[tokio::test]
async fn firefoxs_libraries_take_the_class_as_their_socket() {
    libraries_take_the_class("firefox").await;
}

/// Each library twice, all at once: with renewal on one stream, and without, so that it has to come back by itself.
async fn libraries_take_the_class(kind: &str) {
    let mut stage = Stage::new(kind).await;
    let libraries = [("reconnecting", "/echo"), ("graphql", "/graphql"), ("mqtt", "/mqtt")];
    for (library, path) in libraries {
        let url = stage.url(path);
        for (name, more) in [("renewed", "life: 8, renew: true"), ("closed", "life: 6, renew: false")] {
            stage.page.eval(&format!("use('{library}_{name}', libraries.{library}, '{url}', {{ {more} }})")).await;
        }
    }
    for (library, expired) in [("reconnecting", 3000), ("graphql", 4403), ("mqtt", 3000)] {
        let renewed = stage.page.eval(&format!("used('{library}_renewed', 3, 1)")).await;
        assert_eq!(renewed["ends"], json!([]), "{library}: {renewed}");
        assert_eq!((&renewed["renewed"], &renewed["opened"]), (&json!(3), &json!(1)), "{library}: {renewed}");
        let closed = stage.page.eval(&format!("used('{library}_closed', 0, 3)")).await;
        let end = json!({"code": expired, "reason": "token expired", "wasClean": true});
        assert_eq!(closed["ends"], json!([end, end]), "{library}: {closed}");
        assert_eq!((&closed["renewed"], &closed["opened"]), (&json!(0), &json!(3)), "{library}: {closed}");
        for seen in [renewed, closed] {
            assert_eq!(seen["wrong"], Value::Null, "{library}: {seen}");
            assert!(seen["came"].as_u64().is_some_and(|came| came > 50), "{library}: {seen}");
        }
    }
    let lines = stage.gateway.log_lines();
    let refused = lines.iter().filter(|line| field(line, "message") == Some(&"refused".into()));
    assert_eq!(refused.count(), 0, "{}", stage.gateway.log());
}

/// A browser on a page with the client, a gateway, and the services behind it.
struct Stage {
    page: Program,
    gateway: Gateway,
    service: Program,
    site: Site,
    _turn: MutexGuard<'static, ()>,
}

impl Stage {
    async fn new(kind: &str) -> Self {
        let turn = BROWSER.lock().await;
        let (service, upstream) = Program::node_service().await;
        let gateway = Gateway::start(&config(&upstream, &routes(&upstream))).await;
        let mut page = Program::browser(kind, &gateway.path("ca.pem")).await;
        let site = Site::start(PAGE).await;
        page.call(json!({"go": site.url()})).await;
        Self { page, gateway, service, site, _turn: turn }
    }

    /// The gateway's, with this target.
    fn url(&self, target: &str) -> String {
        format!("wss://localhost:{}{target}", self.gateway.address().port())
    }
}

fn routes(upstream: &str) -> String {
    format!(
        r#"carriers = ["query:access_token", "ticket:ticket", "subprotocol:pair"]

[[route]]
name = "graphql"
path = "/graphql"
upstream = "{upstream}"
carriers = ["message"]
first_message = {{ pointer = "/payload/token", type = "connection_init", forward = true }}
subprotocols = ["graphql-transport-ws"]
close.preset = "graphql-ws"

[[route]]
name = "told"
path = "/told"
upstream = "{upstream}"
reject = "close"

[[route]]
name = "elsewhere"
path = "/elsewhere"
upstream = "{upstream}"
origins = ["https://elsewhere.example"]
reject = "close"
"#
    )
}

const PAGE: &str = r#"<!doctype html><title>streams</title><script type="module">
import portcullis, { PortcullisSocket } from '/portcullis.js'
import ReconnectingWebSocket from '/lib/reconnecting-websocket/dist/reconnecting-websocket-mjs.js'
import { createClient } from '/lib/graphql-ws/dist/client.js'
import mqtt from '/lib/mqtt/dist/mqtt.esm.js'

const TYPES = ['open', 'error', 'close', 'expiring', 'renewed', 'refused', 'reconnecting']
const known = {}
const streams = {}

/** The same object each time, so that sockets with the same options share their token. */
const options = ({ life, ...more }) => known[JSON.stringify([life, more])] ??= {
  getToken: async ({ signal }) => (await fetch(`/token?${life}`, { signal })).text(),
  ...more,
}

function open_stream(name, url, more, protocols) {
  const socket = new PortcullisSocket(url, protocols, options(more))
  const stream = streams[name] = { socket, events: [], ends: [], delays: [], inbox: [], waiting: [] }
  for (const type of TYPES) {
    socket.addEventListener(type, ({ code, reason, wasClean, delay }) => {
      stream.events.push(type)
      if (delay !== undefined) stream.delays.push(delay)
      if (code) stream.ends.push({ code, reason, wasClean })
    })
  }
  socket.onmessage = ({ data }) => {
    const waiter = stream.waiting.shift()
    if (waiter) waiter(data)
    else stream.inbox.push(data)
  }
  return new Promise((resolve) => { socket.onopen = () => resolve(socket.protocol) })
}

/** Resolves when an event has come as often as this. */
const happened = (name, type, times) => new Promise((resolve) => {
  const { socket, events } = streams[name]
  const look = () => events.filter((other) => other === type).length >= times && resolve(times)
  socket.addEventListener(type, look)
  look()
})

/** Sends a message, and gives the next one that comes. */
const asked = (name, message) => new Promise((resolve) => {
  const { socket, inbox, waiting } = streams[name]
  if (inbox.length) resolve(inbox.shift())
  else waiting.push(resolve)
  socket.send(message)
})

/** Counts in both directions until the token was renewed three times, and a little longer. */
async function count(name, url, more) {
  await open_stream(name, url, more)
  const stream = streams[name]
  const { socket, events } = stream
  const { protocol, extensions } = socket
  let came = 0
  let wrong = null
  let sent = 0
  const timer = setInterval(() => socket.send(`${sent++} ${'up '.repeat(40)}`), 10)
  stream.counted = new Promise((resolve) => {
    socket.onmessage = ({ data }) => {
      if (data.startsWith('{')) return resolve({ came, wrong, sent, protocol, extensions, events, report: JSON.parse(data) })
      if (!data.startsWith(`${came} `)) wrong ??= { at: came, data }
      came++
    }
    happened(name, 'renewed', 3).then(() => setTimeout(() => {
      clearInterval(timer)
      socket.send('report')
    }, 500))
    for (const type of ['close', 'reconnecting']) happened(name, type, 1).then(() => resolve({ broken: type, ends: stream.ends, events }))
  })
}
const counted = (name) => streams[name].counted

/** What each library does with the class: something numbered goes by, and `saw` is told each number. */
const libraries = {
  reconnecting(Socket, url, saw) {
    const socket = new ReconnectingWebSocket(url, [], { WebSocket: Socket, minReconnectionDelay: 100 })
    let next
    socket.onopen = () => socket.send(`${next = 0}`)
    socket.onmessage = ({ data }) => {
      saw(Number(data), next)
      setTimeout(() => socket.readyState === 1 && socket.send(`${++next}`), 20)
    }
    return () => socket.close()
  },

  graphql(Socket, url, saw) {
    const client = createClient({
      url,
      webSocketImpl: Socket,
      connectionParams: async () => ({ token: await Socket.token() }),
      retryWait: () => new Promise((resolve) => setTimeout(resolve, 100)),
    })
    let next
    client.on('connected', () => { next = 0 })
    client.subscribe({ query: 'subscription { count }' }, { next: ({ data }) => saw(data.count, next++), error() {}, complete() {} })
    return () => client.dispose()
  },

  mqtt(Socket, url, saw, name) {
    const client = mqtt.connect(url, { createWebsocket: (url, protocols) => new Socket(url, protocols), reconnectPeriod: 100, clean: true })
    let next
    client.on('connect', async () => {
      next = 0
      await client.subscribeAsync(name, { qos: 1 })
      client.publish(name, '0', { qos: 1 })
    })
    client.on('message', (_, payload) => {
      saw(Number(payload), next)
      setTimeout(() => client.connected && client.publish(name, `${++next}`, { qos: 1 }), 20)
    })
    return () => client.end(true)
  },
}

const uses = {}

function use(name, library, url, more) {
  const seen = uses[name] = { opened: 0, renewed: 0, came: 0, wrong: null, ends: [] }
  const bound = {
    ...options(more),
    carrier: { graphql: 'message', mqtt: 'subprotocol' }[name.split('_')[0]],
  }
  class Socket extends portcullis(bound) {
    constructor(...args) {
      super(...args)
      this.addEventListener('open', () => seen.opened++)
      this.addEventListener('renewed', () => seen.renewed++)
      this.addEventListener('close', ({ code, reason, wasClean }) => seen.ends.push({ code, reason, wasClean }))
    }
  }
  seen.end = library(Socket, url, (number, expected) => {
    seen.came++
    if (number !== expected) seen.wrong ??= { number, expected }
  }, name)
}

/** What was seen once the token was renewed, and the stream opened, as often as this, and data came since; or so far. */
async function used(name, renewed, opened) {
  const seen = uses[name]
  const end = Date.now() + 50_000
  const wait = async (enough) => { while (!enough() && Date.now() < end) await new Promise((resolve) => setTimeout(resolve, 50)) }
  await wait(() => seen.renewed >= renewed && seen.opened >= opened)
  const { came } = seen
  await wait(() => seen.came >= came + 3)
  const told = JSON.parse(JSON.stringify(seen))
  seen.end()
  return told
}

Object.assign(globalThis, { streams, open_stream, happened, asked, count, counted, libraries, use, used })
</script>"#;
