// The demo page: opens a stream through the gateway with the browser client, and shows what becomes of it and of its token.
// Tokens are kept in memory only, and are never shown.
import { PortcullisSocket, Unauthorized } from "/portcullis.js";

const byId = (id) => document.getElementById(id);
const MAX_LINES = 300;
const ABOUT = {
  "/verifier": "The verifier takes each message for a token, and shows the text that is in it. Here a good one renews the stream, too.",
  "/first": "No upgrade request holds the token: the page sends it as graphql-ws does, and the gate takes it out.",
  "/echo": "The echo service returns each message. The text “headers” shows what of the request reached it.",
};

let session = person(); // whose tokens these are: the claim `sid`
let stream = null; // the present or last one, see open()
const secrets = new Set(); // every token that this page got

function person() {
  return Array.from(crypto.getRandomValues(new Uint8Array(4)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function ask(path, wish, signal) {
  const query = Object.entries(wish).map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&");
  const answer = await fetch(`${path}?${query}`, { method: "POST", signal });
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error);
  return told;
}

async function mint(message, kind, who, signal) {
  const made = await ask("/token", { message, session: who, ttl: byId("ttl").value, kind }, signal);
  secrets.add(made.token);
  if (secrets.size > 100) secrets.delete(secrets.values().next().value);
  return made;
}

function open() {
  const mine = { asked: performance.now(), opened: null, end: null, life: 0, tokens: 0, other: false, live: true };
  const service = byId("service").value;
  const kind = byId("kind").value;
  stream = mine;
  byId("left").textContent = "opening";
  byId("left").classList.remove("over");
  byId("facts").textContent = "";

  // What the browser client asks for a token: before it opens a stream, and before the token ends.
  const getToken = async ({ reason, signal }) => {
    if (reason !== "open" && !byId("renewing").checked && !mine.other) throw new Unauthorized("renewal is off");
    const who = mine.other ? person() : session;
    const asked = performance.now();
    const made = await mint(byId("text").value, reason === "open" ? kind : "good", who, signal);
    // Counted from the question, not from the answer: the clock of the page must not run behind the gate's.
    mine.next = { end: asked + made.expires_in * 1000, life: made.lifetime * 1000 };
    mine.first = made.token;
    line("token", `${mine.other ? "somebody else’s" : `session ${who}`}, good for ${made.expires_in.toFixed(1)} s`, "");
    return made.token;
  };
  const socket = new PortcullisSocket(service, [], { getToken, carrier: byId("carrier").value, reconnect: false, notice: 3 });
  mine.socket = socket;
  show("connecting");

  socket.addEventListener("open", () => {
    mine.opened = performance.now();
    taken(mine);
    show("open");
    line("open", socket.protocol ? `${service}, subprotocol ${socket.protocol}` : service, "good");
    if (service === "/first") {
      socket.send(JSON.stringify({ type: "connection_init", payload: { token: mine.first } }));
      line("↑ text", '{"type":"connection_init","payload":{"token":(the token)}}', "out");
    }
    mine.first = null;
  });
  socket.addEventListener("renewed", () => {
    taken(mine);
    line("renewed", `token ${mine.tokens} on the same stream`, "good");
  });
  socket.addEventListener("refused", ({ status, reason }) => {
    if (!mine.other) {
      line("renewal", status ? `refused: ${status} ${reason}` : "none: it is turned off", status ? "bad" : "");
      return;
    }
    mine.other = false;
    line("renewal", `refused: ${status} ${reason}. The stream keeps its own token`, "bad");
    // The client stops at a refusal. This page knows better: its own next token will be taken.
    const wait = Math.min(2000, Math.max(0, mine.end - performance.now()) / 2);
    setTimeout(() => mine.live && byId("renewing").checked && socket.renew(), wait);
  });
  socket.addEventListener("expiring", ({ secondsLeft }) => line("client", `the token ends in ${secondsLeft.toFixed(1)} s`, ""));
  socket.addEventListener("message", ({ data }) => {
    line("↓ text", typeof data === "string" ? legible(data) : `${data.size} bytes`, "in");
    if (service === "/verifier") confirmed(mine, data);
  });
  socket.addEventListener("close", (event) => {
    update();
    mine.live = false;
    if (byId("left").textContent !== "expired") byId("left").textContent = "no stream";
    byId("bar").value = 0;
    byId("facts").textContent = mine.tokens > 0 ? `after ${mine.tokens === 1 ? "one token" : `${mine.tokens} tokens`}` : "";
    show("closed", event);
    line("↓ Close", `${event.code} ${event.reason || "(no reason)"}, wasClean ${event.wasClean}`, event.wasClean ? "good" : "bad");
    if (mine.opened === null) line("", "Refused before it opened. Of the gate’s answer, browsers tell a page no more than 1006.", "");
  });
}

// The stream has the token that was fetched last.
function taken(mine) {
  Object.assign(mine, mine.next);
  mine.tokens += 1;
  mine.told = false;
  flash();
}

// On this route a token that comes as a message renews, too: the service has verified the same token.
function confirmed(mine, data) {
  try {
    const { ok, expires_in: left } = JSON.parse(data);
    const end = performance.now() + left * 1000;
    if (ok && end > mine.end) {
      Object.assign(mine, { end, life: left * 1000, told: false });
      mine.tokens += 1;
      flash();
    }
  } catch {
    // Not an answer of the verifier's.
  }
}

async function send() {
  const mine = stream;
  if (!mine?.live || mine.socket.readyState !== PortcullisSocket.OPEN) return;
  const text = byId("text").value;
  const as = byId("as");
  const kind = as.value;
  try {
    const data = kind === "text" ? text : (await mint(text, kind, session)).token;
    if (!mine.live) return;
    mine.socket.send(data);
    line("↑ text", kind === "text" ? text : `(${as.selectedOptions[0].textContent}: “${text}”)`, "out");
  } catch (error) {
    line("token", `none: ${error.message}`, "bad");
  }
}

const actions = {
  close: () => stream.socket.close(1000),
  renew: () => {
    byId("renewing").checked = true;
    stream.socket.renew();
  },
  other: () => {
    stream.other = true;
    stream.socket.renew();
  },
  revoke: async () => {
    const banned = session;
    line("operator", `revokes session ${banned}`, "");
    await ask("/revoke", { session: banned });
    line("", "This session may not come back. Become another one, or try.", "");
  },
  another: () => {
    session = person();
    byId("session").textContent = session;
    line("you", `are session ${session} from the next token on`, "");
  },
};
for (const [id, act] of Object.entries(actions)) {
  byId(id).addEventListener("click", async () => {
    try {
      await act();
    } catch (error) {
      line(id, error.message, "bad");
    }
  });
}
byId("stream-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!stream?.live) open();
});
byId("send-form").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
byId("renewing").addEventListener("change", () => {
  const on = byId("renewing").checked;
  line("you", `turn renewal ${on ? "on" : "off"}`, "");
  if (on && stream?.live && stream.opened !== null) stream.socket.renew();
});
byId("service").addEventListener("change", () => {
  byId("as").value = byId("service").value === "/verifier" ? "good" : "text";
  chosen();
});
setInterval(() => byId("often").checked && send(), 1000);

function chosen() {
  const service = byId("service").value;
  byId("about").textContent = ABOUT[service];
  const carrier = byId("carrier");
  carrier.disabled = service === "/first";
  if (carrier.disabled) carrier.value = "message";
  else if (carrier.value === "message") carrier.value = "query";
}

function show(state, closed) {
  byId("ready").textContent = state;
  byId("now").dataset.state = state;
  byId("code").textContent = closed ? closed.code : "–";
  byId("reason").textContent = closed ? hidden(closed.reason) || "(none)" : "–";
  byId("clean").textContent = closed ? closed.wasClean : "–";
  for (const id of ["connect", "service", "carrier", "kind"]) byId(id).disabled = state !== "closed";
  if (state === "closed") chosen();
  for (const id of ["close", "renew", "other", "revoke", "send"]) byId(id).disabled = state !== "open";
}

// A long answer in JSON, one member a line.
function legible(text) {
  if (text.length < 200) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

// What comes back may hold a token: the echo service returns whatever it is sent.
function hidden(text) {
  for (const secret of secrets) text = text.replaceAll(secret, "(the token)");
  return text;
}

function line(name, text, kind) {
  text = hidden(text);
  const since = stream ? (performance.now() - stream.asked) / 1000 : 0;
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = since.toFixed(3).padStart(7);
  const who = document.createElement("span");
  who.textContent = name;
  const what = document.createElement("span");
  what.textContent = text.length > 2000 ? `${text.slice(0, 2000)}…` : text;
  if (kind) who.className = what.className = kind;
  item.append(time, who, what);
  const log = byId("log");
  const followed = log.scrollTop + log.clientHeight >= log.scrollHeight - 40;
  log.append(item);
  while (log.childElementCount > MAX_LINES) log.firstElementChild.remove();
  if (followed) log.scrollTop = log.scrollHeight;
}

function flash() {
  const bar = byId("bar");
  bar.classList.remove("refilled");
  void bar.offsetWidth; // begins the animation anew
  bar.classList.add("refilled");
}

// The countdown, and the line that tells of its end.
function update() {
  if (!stream || stream.end === null) return;
  const now = performance.now();
  const left = Math.max(0, stream.end - now);
  byId("left").textContent = left > 0 ? `${(left / 1000).toFixed(1)} s left` : "expired";
  byId("left").classList.toggle("over", left === 0);
  byId("bar").value = stream.life > 0 ? left / stream.life : 0;
  byId("facts").textContent = `token ${stream.tokens}, open for ${((now - stream.opened) / 1000).toFixed(0)} s`;
  if (left === 0 && !stream.told) {
    stream.told = true;
    line("clock", "the token has expired", "");
  }
}

function tick() {
  if (stream?.live) update();
  requestAnimationFrame(tick);
}

byId("session").textContent = session;
show("closed");
tick();
