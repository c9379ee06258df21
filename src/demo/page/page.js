// The demo page: gets a token from the demo, opens a stream with it, and shows what becomes of both.
// The token is kept in memory only, and is never shown.

const byId = (id) => document.getElementById(id);
const MAX_LINES = 300;

let token = null; // { text, expiresAt, issuedAt, lifetime } in milliseconds of performance.now()
let socket = null;
const secrets = new Set(); // every token that this page got

byId("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const wish = ["message", "ttl", "kind"].map((name) => `${name}=${encodeURIComponent(byId(name).value)}`).join("&");
  // Counted from the question, not from the answer: the clock of the page must not run behind the gate's.
  const asked = performance.now();
  try {
    const answer = await fetch(`/token?${wish}`, { method: "POST" });
    const made = await answer.json();
    if (!answer.ok) throw new Error(made.error);
    const expiresAt = asked + made.expires_in * 1000;
    token = { text: made.token, expiresAt, issuedAt: asked, lifetime: made.lifetime * 1000, told: made.expires_in === 0 };
    secrets.add(made.token);
    showClaims(made.token);
    line("token", `good for ${made.expires_in.toFixed(3)} s`, made.expires_in > 0 ? "good" : "bad");
  } catch (error) {
    line("token", `none: ${error.message}`, "bad");
  }
});

byId("stream-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (socket) return;
  const carrier = byId("carrier").value;
  if (!token && carrier !== "none") {
    line("stream", "get a token first, or choose to travel without one", "bad");
    return;
  }
  const url = new URL(byId("service").value, location.href);
  url.protocol = "wss:";
  if (carrier === "query") url.searchParams.set("access_token", token.text);
  socket = carrier === "subprotocol" ? new WebSocket(url, ["bearer", token.text]) : new WebSocket(url);
  const mine = socket;
  let opened = false;
  show("connecting");
  mine.addEventListener("open", () => {
    opened = true;
    show("open");
    line("open", mine.protocol ? `subprotocol ${mine.protocol}` : "no subprotocol", "good");
  });
  mine.addEventListener("message", (event) => {
    line("received", typeof event.data === "string" ? legible(event.data) : `${event.data.size} bytes`, "in");
  });
  mine.addEventListener("close", (event) => {
    socket = null;
    update();
    show("closed", event);
    line("closed", `${event.code} ${event.reason || "(no reason)"}, wasClean ${event.wasClean}`, event.wasClean ? "good" : "bad");
    if (!opened) line("", "Refused before it opened. Of the gate's answer, browsers tell a page no more than 1006.", "");
  });
});

byId("close").addEventListener("click", () => socket?.close(1000));
byId("send-form").addEventListener("submit", (event) => {
  event.preventDefault();
  send(byId("text").value, byId("text").value);
});
byId("send-token").addEventListener("click", () => token && send(token.text, "(the token)"));

function send(text, shown) {
  if (socket?.readyState !== WebSocket.OPEN) return;
  socket.send(text);
  line("sent", shown, "");
}

function show(state, closed) {
  byId("ready").textContent = state;
  byId("code").textContent = closed ? closed.code : "–";
  byId("reason").textContent = closed ? hidden(closed.reason) || "(none)" : "–";
  byId("clean").textContent = closed ? closed.wasClean : "–";
  byId("connect").disabled = state !== "closed";
  byId("close").disabled = state !== "open";
  byId("send").disabled = state !== "open";
  byId("send-token").disabled = state !== "open";
}

function showClaims(text) {
  const part = text.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
  const bytes = Uint8Array.from(atob(part), (character) => character.charCodeAt(0));
  byId("claims").textContent = JSON.stringify(JSON.parse(new TextDecoder().decode(bytes)), null, 2);
  byId("claims").hidden = false;
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
  const since = token ? (performance.now() - token.issuedAt) / 1000 : 0;
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = `+${since.toFixed(3).padStart(7)} s`;
  const who = document.createElement("span");
  who.textContent = name;
  const what = document.createElement("span");
  what.textContent = text.length > 2000 ? `${text.slice(0, 2000)}…` : text;
  if (kind) who.className = what.className = kind;
  item.append(time, who, what);
  const log = byId("log");
  log.append(item);
  while (log.childElementCount > MAX_LINES) log.firstElementChild.remove();
  log.scrollTop = log.scrollHeight;
}

// The countdown, and the line that tells of its end.
function update() {
  if (token) {
    const left = Math.max(0, token.expiresAt - performance.now());
    byId("left").textContent = left > 0 ? `${(left / 1000).toFixed(1)} s left` : "expired";
    byId("left").classList.toggle("over", left === 0);
    byId("bar").value = token.lifetime > 0 ? left / token.lifetime : 0;
    if (left === 0 && !token.told) {
      token.told = true;
      line("clock", "the token expires", "");
    }
  }
}

function tick() {
  update();
  requestAnimationFrame(tick);
}

show("closed");
tick();
