// A WebSocket whose token is renewed while the stream lives: see portcullis.d.ts.

const STEP = 30_000 // no timer is longer, so that sleep is noticed
const LOST = { code: 1006, reason: '', wasClean: false }

// A moment on two clocks, for one is stepped and the other may sleep.
const after = (ms) => [Date.now() + ms, performance.now() + ms]
const until = ([wall, steady]) => Math.min(wall - Date.now(), steady - performance.now())
const NEVER = after(Infinity)
const backoff = (count) => Math.random() * Math.min(STEP, 500 * 2 ** count)

const claims = (token) => {
  try {
    return JSON.parse(atob(/^[\w-]+\.([\w-]+)\.[\w-]+$/.exec(token)[1].replaceAll('-', '+').replaceAll('_', '/')))
  } catch {
    throw new TypeError('getToken gave no JWT') // the parser's own text quotes it
  }
}

export class Unauthorized extends Error {
  name = 'Unauthorized'
}

export const verdict = ({ code, reason }) =>
  /^(3000|3005|4403)$/.test(code) ? 'token'
  : /^(10(00|02|03|07|09|10)|3003|440[01]|[34][5-9]..)$/.test(code) || (code === 1008 && reason !== 'rate limited') ? 'no'
  : 'later'

/** The token of all sockets with the same options. */
class Source {
  reason = 'open'
  life = 0
  end = NEVER

  constructor(options) {
    this.getToken = options.getToken.bind(options)
  }

  async get() {
    if (this.stopped) throw this.stopped
    if (this.token && until(this.end) > this.life * 0.4) return this.token
    return this.asked ??= this.ask().finally(() => { this.asked = null })
  }

  async ask() {
    const signal = AbortSignal.timeout(STEP)
    try {
      const token = await Promise.race([
        this.getToken({ reason: this.reason, signal }),
        new Promise((_, reject) => { signal.onabort = () => reject(signal.reason) }),
      ])
      const { exp, iat } = claims(token)
      // Our clock may be wrong: a token is new, unless it seems old and yet alive.
      const left = exp * 1000 - Date.now()
      this.life = iat < exp ? (exp - iat) * 1000 : left > 0 ? left : 0
      this.end = exp ? after(left > 0 && left < this.life ? left : this.life) : NEVER
      this.reason = 'renew'
      return this.token = token
    } catch (error) {
      if (error?.name === 'Unauthorized') this.stopped = error
      throw error
    }
  }

  drop(token) {
    if (token !== this.token) return
    this.token = null
    this.reason = 'refused'
  }
}

const TYPES = ['open', 'message', 'error', 'close', 'expiring', 'renewed', 'refused', 'reconnecting']
const sources = new WeakMap()
const sourceOf = (options) => sources.get(options) ?? sources.set(options, new Source(options)).get(options)

export class PortcullisSocket extends EventTarget {
  #options
  #source
  #url
  #protocols
  #binaryType = 'blob'
  #on = {}
  #closed = new AbortController()
  #inner
  #state = 0
  #token
  #end = NEVER
  #next = NEVER // time to #act
  #act
  #timer
  #lost = 0 // connections without data
  #failed = 0 // renewals; Infinity: none is to be had
  #told
  #dropped = 0

  static {
    ['CONNECTING', 'OPEN', 'CLOSING', 'CLOSED'].forEach((name, value) => { this[name] = this.prototype[name] = value })
    for (const type of TYPES) {
      Object.defineProperty(this.prototype, 'on' + type, {
        enumerable: true,
        get() { return this.#on[type] ?? null },
        set(handler) {
          if (!(type in this.#on)) this.addEventListener(type, (event) => this.#on[type]?.call(this, event))
          this.#on[type] = typeof handler === 'function' ? handler : null
        },
      })
    }
  }

  constructor(url, protocols = [], options) {
    super()
    this.#url = new URL(url, globalThis.location?.href)
    this.#url.protocol = this.#url.protocol.replace('http', 'ws')
    this.#protocols = [].concat(protocols)
    this.#options = options
    this.#source = sourceOf(options)
    this.#source.stopped = null
    for (const type of TYPES) if (options['on' + type]) this['on' + type] = options['on' + type]
    for (const type of ['online', 'pageshow', 'resume', 'visibilitychange']) {
      globalThis.addEventListener?.(type, () => {
        if (type === 'online' && !this.#state && this.#next !== NEVER) this.#next = after(0)
        this.#tick()
      }, { capture: true, signal: this.#closed.signal })
    }
    this.#connect()
  }

  get url() { return this.#url.href }
  get readyState() { return this.#state === 1 ? this.#inner.readyState : this.#state }
  get extensions() { return this.#inner?.extensions ?? '' }
  get protocol() { return this.#protocols.find((name) => name === this.#inner?.protocol) ?? '' }
  get bufferedAmount() { return this.#dropped + (this.#inner?.bufferedAmount ?? 0) }
  get expiresIn() { return until(this.#end) / 1000 }
  get binaryType() { return this.#binaryType }
  set binaryType(type) {
    this.#binaryType = type
    if (this.#inner) this.#inner.binaryType = type
  }

  send(data) {
    if (!this.#state) throw new DOMException('not open', 'InvalidStateError')
    if (this.#inner) this.#inner.send(data)
    else this.#dropped += new Blob([data]).size
  }

  close(...args) {
    this.#inner?.close(...args)
    if (this.#state > 1) return
    this.#state = 2
    if (!this.#inner) setTimeout(() => this.#ended(LOST))
  }

  renew() {
    this.#source.drop(this.#source.token)
    this.#source.stopped = null
    if (this.#state === 1) this.#next = after(0)
    this.#tick()
  }

  #refused(reason, status) {
    this.#failed = Infinity
    this.#emit('refused', { status, reason })
  }

  #emit(type, more) {
    this.dispatchEvent(Object.assign(new Event(type), more))
  }

  #tick() {
    if (this.#state < 2 && until(this.#next) <= 0) {
      this.#next = NEVER
      this.#act()
    }
    let wait = Math.min(STEP, until(this.#next))
    if (this.#state === 1 && this.#failed && !this.#told) {
      const early = until(this.#end) - (this.#options.notice ?? 30) * 1000
      wait = Math.min(wait, early)
      if (early <= 0) {
        this.#told = true
        this.#emit('expiring', { secondsLeft: Math.max(0, this.expiresIn) })
      }
    }
    clearTimeout(this.#timer)
    if (this.#state < 2) this.#timer = setTimeout(() => this.#tick(), wait)
  }

  #extend(end, failed) {
    this.#end = end
    this.#failed = failed
    this.#told = false
    if (!failed) this.#plan(end)
  }

  #plan(end) {
    this.#next = after(until(end) - this.#source.life * (0.2 + Math.random() / 10))
  }

  async #post(what, token, handle) {
    const url = this.#url.origin.replace('ws', 'http') + this.#url.pathname.replace(/\/+$/, '') + '/.portcullis/' + what
    const answer = await fetch(url, {
      method: 'POST',
      headers: { authorization: 'Bearer ' + token, ...(handle && { 'portcullis-stream': handle }) },
      credentials: this.#options.credentials,
      redirect: 'error',
      signal: AbortSignal.timeout(10_000),
    })
    const { status, headers } = answer
    return { ...await answer.json().catch(() => {}), status, wait: headers.get('retry-after') * 1000 || 0 }
  }

  async #connect() {
    const { carrier = 'query', name, renew = true, WebSocket = globalThis.WebSocket } = this.#options
    const source = this.#source
    let code = 1006
    let wait = 0
    try {
      const token = this.#token = await source.get()
      const { end } = source
      let handle = renew && crypto.getRandomValues(new BigUint64Array(3)).join('-')
      const url = new URL(this.#url)
      const add = (name, value) => { url.search += (url.search && '&') + encodeURIComponent(name) + '=' + value }
      if (carrier === 'ticket') {
        const answer = await this.#post(carrier, token, handle)
        if (!answer.ticket) {
          code = { 401: 3000, 403: 3003 }[answer.status] ?? 1013
          wait = answer.wait
          throw new Error(answer.status)
        }
        handle &&= answer.stream
        add(name ?? carrier, answer.ticket)
      } else if (handle) add('portcullis_stream', handle)
      if (carrier === 'query') add(name ?? 'access_token', token)
      if (this.#state) return
      const inner = this.#inner = new WebSocket(url, [...(carrier === 'subprotocol' ? ['bearer', token] : []), ...this.#protocols])
      let failed = false
      inner.binaryType = this.#binaryType
      inner.onopen = () => {
        this.#state = 1
        this.#act = () => this.#renew(inner, handle)
        this.#extend(end, handle ? 0 : Infinity)
        this.#emit('open')
        this.#tick()
      }
      inner.onmessage = (event) => {
        this.#lost = 0
        this.dispatchEvent(new MessageEvent('message', event))
      }
      inner.onerror = () => { failed = true }
      inner.onclose = (event) => this.#ended(event, failed)
    } catch (error) {
      if (this.#state > 1) return
      if (error === source.stopped) code = 4401
      if (error?.name === 'SyntaxError') this.#state = 2
      this.#ended({ ...LOST, code }, true, wait, error)
    }
  }

  async #renew(inner, handle) {
    const source = this.#source
    const over = () => this.#state !== 1 || this.#inner !== inner
    let wait = 0
    try {
      const token = await source.get()
      if (token === this.#token) throw new Error('no new token')
      const answer = await this.#post('renew', token, handle)
      const { status, reason, expires_in } = answer
      if (over()) return
      wait = answer.wait
      if (expires_in !== undefined) {
        const ms = (expires_in ?? Infinity) * 1000
        // The limit of this one stream is not the token's.
        if (token === source.token) source.end = after(Math.max(ms, source.life / 2))
        this.#token = token
        this.#lost = 0
        this.#extend(after(ms), 0)
        this.#emit('renewed')
      } else if (status === 409) {
        this.#plan(source.end) // the old token lasts longer
      } else if (status === 410) {
        this.#next = after(5000) // its Close may be on the way
        this.#act = () => {
          inner.onmessage = inner.onclose = null
          inner.close()
          this.#ended(LOST)
        }
      } else if (status === 429 || status >= 500) {
        throw new Error(status)
      } else {
        if (status === 401) source.drop(token)
        this.#refused(reason, status)
      }
    } catch (error) {
      if (over()) return
      if (error === source.stopped) this.#refused('unauthorized')
      else this.#next = after(Math.max(wait, backoff(this.#failed++)))
    }
    this.#tick()
  }

  #ended({ code, reason, wasClean }, failed = true, wait = 0, cause = null) {
    const end = { code, reason, wasClean }
    const what = this.#state === 2 ? 'no' : this.#options.again?.(end) ?? verdict(end)
    // Nobody tells why a handshake failed: an older token is not tried again.
    const doubtful = !this.#state && code === 1006 && until(this.#source.end) < this.#source.life * 0.9
    if (what === 'token' || doubtful) this.#source.drop(this.#token)
    if ((this.#options.reconnect ?? true) && what !== 'no') {
      const delay = Math.max(wait, backoff(this.#lost++ + (what === 'later') * 2))
      this.#state = 0
      this.#inner = null
      this.#act = this.#connect
      this.#next = after(delay)
      this.#emit('reconnecting', { ...end, delay, cause })
      return this.#tick()
    }
    this.#state = 3
    this.#closed.abort()
    clearTimeout(this.#timer)
    if (failed) this.#emit('error', { cause })
    this.dispatchEvent(new CloseEvent('close', end))
  }
}

export default (options) => {
  const bound = { ...options, reconnect: options.reconnect ?? false }
  return class extends PortcullisSocket {
    static token() { return sourceOf(bound).get() }

    constructor(url, protocols) {
      super(url, protocols, bound)
    }
  }
}
