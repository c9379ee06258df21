"use strict";

const element = (id) => document.getElementById(id);
const state = element("state");
// In memory only: gone with the page.
let secret = "";
let streams = [];
let asked = performance.now();

async function ask(method, path, body) {
  const headers = secret ? { Authorization: `Bearer ${secret}` } : {};
  if (method !== "GET") headers["Content-Type"] = "application/json";
  const response = await fetch(path, { method, headers, body: body && JSON.stringify(body), cache: "no-store" });
  const answer = await response.json();
  element("key").hidden = response.status !== 401;
  if (!response.ok) throw new Error(answer.detail ?? response.statusText);
  return answer;
}

function say(text, bad = false) {
  state.textContent = text;
  state.className = bad ? "bad" : "";
}

function span(seconds) {
  if (seconds === null) return "never";
  const whole = Math.max(0, Math.floor(seconds));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  if (h) return `${h} h ${m} min`;
  return m ? `${m} min ${s} s` : `${s} s`;
}

function size(bytes) {
  const unit = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  for (; bytes >= 1024 && at < unit.length - 1; at++) bytes /= 1024;
  return `${at ? bytes.toFixed(1) : bytes} ${unit[at]}`;
}

function button(text, question, what) {
  const button = document.createElement("button");
  button.textContent = text;
  button.addEventListener("click", async () => {
    if (!confirm(question)) return;
    try {
      await what();
      await refresh();
    } catch (error) {
      say(error.message, true);
    }
  });
  return button;
}

function row(head, buttons) {
  const row = document.createElement("tr");
  for (const cell of head.cells) row.insertCell().dataset.label = cell.textContent;
  row.cells[head.cells.length - 1].append(...buttons);
  return row;
}

// Rows that are there already stay as they are but for their texts: a button that is being pressed must not go away.
function sync(body, entries, cellsOf, buttonsOf) {
  const known = new Map([...body.rows].map((row) => [row.dataset.id, row]));
  const head = body.parentElement.tHead.rows[0];
  const rows = entries.map((entry) => {
    const shown = known.get(String(entry.id)) ?? row(head, buttonsOf(entry));
    shown.dataset.id = entry.id;
    cellsOf(entry).forEach((text, at) => { shown.cells[at].textContent = text; });
    return shown;
  });
  if (rows.length !== body.rows.length || rows.some((row, at) => row !== body.rows[at])) body.replaceChildren(...rows);
  return rows;
}

function buttonsOf(stream) {
  const end = button("End", `End stream ${stream.id}? Its client may come back.`, () =>
    ask("DELETE", `streams/${stream.id}`));
  if (stream.jti === null) return [end];
  const revoke = button("Revoke", `Revoke the token of stream ${stream.id}, and end whatever it opened?`, () =>
    ask("POST", "revocations", { stream: stream.id }));
  return [end, revoke];
}

function show() {
  const passed = (performance.now() - asked) / 1000;
  const left = (stream) => (stream.expires_in === null ? null : stream.expires_in - passed);
  const rows = sync(element("streams"), streams, (stream) => [stream.id, stream.route, stream.address,
    stream.principal, span(Date.now() / 1000 - stream.since), span(left(stream)), stream.renewals,
    `${stream.frames_up} (${size(stream.bytes_up)})`, `${stream.frames_down} (${size(stream.bytes_down)})`], buttonsOf);
  rows.forEach((row, at) => {
    const seconds = left(streams[at]);
    row.cells[5].className = seconds !== null && seconds < 10 ? "soon" : "";
  });
}

async function refresh() {
  const page = await ask("GET", "streams?limit=200");
  const bans = await ask("GET", "revocations?limit=200");
  const services = await ask("GET", "upstreams");
  asked = performance.now();
  streams = page.streams;
  show();
  element("more").hidden = page.next === null;
  const time = (seconds) => (seconds === null ? "" : new Date(seconds * 1000).toISOString().replace(".000", ""));
  sync(element("revocations"), bans.revocations, (ban) => {
    const kind = ["jti", "sid", "sub"].find((kind) => kind in ban);
    return [ban.iss, `${kind} ${ban[kind]}`, time(ban.issued_before), time(ban.until) || "no end"];
  }, (ban) => [button("Lift", "Lift this revocation?", () => ask("DELETE", `revocations/${ban.id}`))]);
  const places = services.upstreams.flatMap(({ upstream, endpoints }) =>
    endpoints.map((place) => ({ ...place, upstream, id: `${upstream} ${place.endpoint}` })));
  element("places").hidden = places.length === 0;
  sync(element("endpoints"), places, (place) => [place.upstream, place.endpoint, place.state,
    place.max_streams === null ? place.streams : `${place.streams} of ${place.max_streams}`, place.requests, place.dials,
    place.failed_dials, place.error ?? ""], () => []).forEach((row, at) => {
    row.cells[2].className = places[at].state === "up" ? "" : "soon";
  });
  say(`${page.total} live, ${bans.total} of at most ${bans.capacity} revocations${bans.kept ? "" : ", kept in memory only"}`);
}

async function go() {
  try {
    await refresh();
  } catch (error) {
    say(error.message, true);
  }
  setTimeout(go, 2000);
}

element("key").addEventListener("submit", (event) => {
  event.preventDefault();
  secret = element("secret").value;
  element("secret").value = "";
  refresh().catch((error) => say(error.message, true));
});
setInterval(show, 1000);
go();
