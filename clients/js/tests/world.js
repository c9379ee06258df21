// A world that a test decides: two clocks and their timers, a page's events, and a gateway behind `WebSocket` and `fetch`.

import { getEventListeners, setMaxListeners } from 'node:events'

/** What was asked by POST, oldest first. */
const posts = []
/** The sockets that were opened, oldest first. */
const sockets = []
let page = new EventTarget()
let wall = 0
let steady = 0
let timers = []
let answer

globalThis.CloseEvent ??= class CloseEvent extends Event {
  constructor(type, { code = 0, reason = '', wasClean = false } = {}) {
    super(type)
    Object.assign(this, { code, reason, wasClean })
  }
}
Date.now = () => wall
performance.now = () => steady
Math.random = () => world.chance
globalThis.setTimeout = (act, ms = 0) => {
  const timer = { act, at: steady + Math.max(0, ms) }
  timers.push(timer)
  return timer
}
globalThis.clearTimeout = (timer) => { timers = timers.filter((other) => other !== timer) }
AbortSignal.timeout = (ms) => {
  const controller = new AbortController()
  setTimeout(() => controller.abort(new DOMException('too late', 'TimeoutError')), ms)
  return controller.signal
}
globalThis.addEventListener = (...args) => page.addEventListener(...args)
globalThis.fetch = async (url, { method, headers, redirect, credentials, signal }) => {
  const what = url.split('/.portcullis/')[1]
  const post = { url, method, what, token: headers.authorization.replace(/^Bearer /, ''), handle: headers['portcullis-stream'], redirect, credentials, at: steady }
  posts.push(post)
  const { status, body, retryAfter } = await (answer(post, signal) ?? Promise.reject(new TypeError('no network')))
  return new Response(JSON.stringify(body), { status, headers: retryAfter ? { 'retry-after': `${retryAfter}` } : {} })
}

/** The browser's own class, as far as the gateway decides what it does. */
class Socket extends EventTarget {
  readyState = 0
  bufferedAmount = 0
  protocol = ''
  extensions = ''
  sent = []
  closed = []

  constructor(url, protocols) {
    super()
    if (protocols.some((name) => / /.test(name))) throw new DOMException('bad subprotocol', 'SyntaxError')
    this.url = String(url)
    this.protocols = protocols
    sockets.push(this)
    this.at = steady
  }

  get query() { return new URL(this.url).searchParams }
  get token() { return this.query.get('access_token') }
  get handle() { return this.query.get('portcullis_stream') }

  send(data) {
    if (this.readyState > 1) this.bufferedAmount += new Blob([data]).size
    else this.sent.push(data)
  }

  close(...args) {
    this.closed.push(args)
    if (this.readyState < 2) this.readyState = 2
  }

  // What the gateway does:
  accept(protocol = '') {
    this.readyState = 1
    this.protocol = protocol
    this.onopen?.(new Event('open'))
    return this
  }

  say(data) { this.onmessage?.(new MessageEvent('message', { data })) }

  end(code, reason = '', wasClean = code !== 1006) {
    this.readyState = 3
    if (code === 1006) this.onerror?.(new Event('error'))
    this.onclose?.(new CloseEvent('close', { code, reason, wasClean }))
  }
}
globalThis.WebSocket = Socket

/** Lets everything that waits for a promise go on. */
export const settle = async () => { for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate) }

export const world = {
  sockets,
  posts,
  chance: 0.5,
  get last() { return sockets.at(-1) },
  get timers() { return timers.length },
  /** What the page would call. */
  get listeners() { return ['online', 'pageshow', 'resume', 'visibilitychange'].flatMap((type) => getEventListeners(page, type)).length },
  /** Milliseconds that were lived through. */
  get steady() { return steady },
  set answer(how) { answer = how },

  begin() {
    sockets.length = posts.length = 0
    page = new EventTarget()
    setMaxListeners(0, page)
    timers = []
    wall = 1_800_000_000_000
    steady = 1000
    this.chance = 0.5
    answer = ({ token }) => ({ status: 200, body: { expires_in: Math.floor((decode(token).exp * 1000 - wall) / 1000) } })
  },

  /** Time goes by, timers fire. */
  async pass(ms) {
    const end = steady + ms
    await settle()
    for (;;) {
      const [next] = timers.filter(({ at }) => at <= end).sort((one, other) => one.at - other.at)
      if (!next) break
      timers = timers.filter((other) => other !== next)
      wall += Math.max(0, next.at - steady)
      steady = Math.max(steady, next.at)
      next.act()
      await settle()
    }
    wall += end - steady
    steady = end
  },

  /** The machine sleeps: the wall clock goes on, the other one and the timers do not. */
  sleep(ms) { wall += ms },

  /** Something happens to the page. */
  async happens(type) {
    page.dispatchEvent(new Event(type))
    await settle()
  },
}

/** A token as the client reads it, `life` seconds from now by the clock of its issuer, which is `skew` seconds ahead. */
let minted = 0
export const mint = (life, { skew = 0, age = 0, ...more } = {}) => {
  const iat = Math.floor(wall / 1000) + skew - age
  const claims = { iat, exp: iat + life, jti: `${++minted}`, ...more }
  return `${encode({ alg: 'HS256' })}.${encode(claims)}.c2lnbmF0dXJl`
}
const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
const decode = (token) => JSON.parse(Buffer.from(token.split('.')[1], 'base64url'))

/** Collects the events of a socket, in order. */
export const record = (socket) => {
  const events = []
  for (const type of ['open', 'message', 'error', 'close', 'expiring', 'renewed', 'refused', 'reconnecting']) {
    socket.addEventListener(type, (event) => events.push(event))
  }
  return events
}
export const types = (events) => events.map(({ type }) => type)
