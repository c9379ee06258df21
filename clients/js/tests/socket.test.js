import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import { mint, record, settle, types, world } from './world.js'
import portcullis, { PortcullisSocket, Unauthorized, verdict } from '../portcullis.js'

const URL = 'wss://gate.example/chat'
const MINUTE = 60_000

/** A `getToken` that gives tokens of `life` seconds and remembers them. */
function issuer(life = 300, more) {
  const getToken = async ({ reason, signal }) => {
    getToken.reasons.push(reason)
    assert.ok(signal instanceof AbortSignal)
    const token = mint(life, more)
    getToken.tokens.push(token)
    return token
  }
  return Object.assign(getToken, { reasons: [], tokens: [] })
}

/** A socket of its own that is open, and what happens to it. */
async function opened(options = {}) {
  const socket = new PortcullisSocket(URL, [], { getToken: issuer(), ...options })
  const events = record(socket)
  await settle()
  world.last.accept()
  return { socket, events, inner: world.last }
}

const renewals = () => world.posts.filter(({ what }) => what === 'renew')

beforeEach(() => world.begin())

// The interface.

test('it is a WebSocket to those who look', () => {
  const Socket = portcullis({ getToken: issuer() })
  for (const Class of [PortcullisSocket, Socket]) {
    assert.deepEqual([Class.CONNECTING, Class.OPEN, Class.CLOSING, Class.CLOSED], [0, 1, 2, 3])
  }
  const socket = new Socket(URL)
  assert.ok(socket instanceof PortcullisSocket && socket instanceof EventTarget)
  assert.deepEqual([socket.CONNECTING, socket.OPEN, socket.CLOSING, socket.CLOSED], [0, 1, 2, 3])
  for (const name of ['onopen', 'onmessage', 'onerror', 'onclose']) {
    assert.ok(name in socket)
    assert.equal(socket[name], null)
    socket[name] = 'no function'
    assert.equal(socket[name], null)
  }
  assert.equal(socket.url, URL)
  assert.equal(socket.binaryType, 'blob')
  assert.equal(socket.readyState, 0)
  assert.equal(socket.protocol + socket.extensions, '')
  assert.equal(socket.bufferedAmount, 0)
})

test('handlers and listeners get events of the right classes, with this socket as their target', async () => {
  const socket = new PortcullisSocket(URL, ['chat'], { getToken: issuer() })
  const events = record(socket)
  const handled = []
  for (const type of ['open', 'message', 'close', 'error']) {
    socket[`on${type}`] = () => assert.fail('a handler that was replaced')
    socket[`on${type}`] = function (event) { handled.push(event); assert.equal(this, socket) }
  }
  await settle()
  assert.deepEqual(types(events), [])
  world.last.extensions = 'permessage-deflate'
  world.last.accept('chat')
  assert.deepEqual([socket.readyState, socket.protocol, socket.extensions], [1, 'chat', 'permessage-deflate'])
  world.last.say('hello')
  socket.close(4000, 'enough')
  assert.equal(socket.readyState, 2)
  assert.deepEqual(world.last.closed, [[4000, 'enough']])
  world.last.say('still on its way')
  world.last.end(4000, 'enough')
  assert.equal(socket.readyState, 3)
  assert.deepEqual(types(events), ['open', 'message', 'message', 'close'])
  assert.deepEqual(handled, events)
  for (const event of events) assert.equal(event.target, socket)
  const [, message, , close] = events
  assert.ok(message instanceof MessageEvent && message.data === 'hello')
  assert.ok(close instanceof CloseEvent)
  assert.deepEqual([close.code, close.reason, close.wasClean], [4000, 'enough', true])
})

test('a handler has its turn among the listeners, the one of the options comes first', async () => {
  const turns = []
  const socket = new PortcullisSocket(URL, [], { getToken: issuer(), onopen: () => turns.push('option') })
  socket.addEventListener('open', () => turns.push('listener'))
  socket.addEventListener('message', () => turns.push('listener'))
  socket.onmessage = () => turns.push('handler')
  await settle()
  world.last.accept().say('hello')
  assert.deepEqual(turns, ['option', 'listener', 'listener', 'handler'])
})

test('send throws until the stream is open, passes on, and drops what comes too late', async () => {
  const { socket, inner } = await opened({ reconnect: false })
  for (const data of ['text', new ArrayBuffer(3), new Uint8Array(4), new Blob(['x'])]) {
    socket.send(data)
    assert.equal(inner.sent.at(-1), data)
  }
  inner.bufferedAmount = 7
  assert.equal(socket.bufferedAmount, 7)
  inner.end(1000)
  socket.send('späť')
  assert.equal(socket.bufferedAmount, 13)

  const unborn = new PortcullisSocket(URL, [], { getToken: issuer() })
  assert.throws(() => unborn.send('early'), { name: 'InvalidStateError' })
  unborn.close()
  unborn.send('späť')
  unborn.send(new Uint16Array(2))
  assert.equal(unborn.bufferedAmount, 10)
})

test('binaryType reaches the connection that is there, and the next one', async () => {
  const { socket, inner } = await opened()
  assert.equal(inner.binaryType, 'blob')
  socket.binaryType = 'arraybuffer'
  assert.equal(inner.binaryType, 'arraybuffer')
  inner.end(1006)
  await world.pass(MINUTE)
  assert.equal(world.last.binaryType, 'arraybuffer')
  assert.equal(socket.binaryType, 'arraybuffer')
})

test('an option that is undefined is as good as none', async () => {
  const getToken = issuer()
  const none = { carrier: undefined, name: undefined, renew: undefined, reconnect: undefined, notice: undefined, again: undefined, WebSocket: undefined }
  const { events } = await opened({ getToken, ...none })
  assert.equal(world.last.token, getToken.tokens[0])
  world.answer = () => ({ status: 403, body: {} })
  await world.pass(271_000)
  assert.deepEqual(types(events), ['open', 'refused', 'expiring'])
  world.last.end(1012)
  assert.equal(types(events).at(-1), 'reconnecting')
  const Socket = portcullis({ getToken, ...none })
  const socket = new Socket(URL)
  await settle()
  world.last.end(1012)
  assert.equal(socket.readyState, 3)
})

test('a URL that is none, options without getToken and impossible subprotocols are refused', async () => {
  assert.throws(() => new PortcullisSocket('http://[', [], { getToken: issuer() }))
  assert.throws(() => new PortcullisSocket(URL), TypeError)
  assert.throws(() => new PortcullisSocket(URL, [], {}), TypeError)
  const socket = new PortcullisSocket(URL, ['a b'], { getToken: issuer() })
  const events = record(socket)
  await world.pass(10 * MINUTE)
  assert.deepEqual(types(events), ['error', 'close'])
  assert.equal(world.sockets.length, 0)
})

test('close before there is a connection ends it, and none is made', async () => {
  const socket = new PortcullisSocket(URL, [], { getToken: issuer() })
  const events = record(socket)
  socket.close(1000)
  socket.close()
  assert.equal(socket.readyState, 2)
  assert.deepEqual(types(events), [], 'no event from within a call')
  await world.pass(MINUTE)
  assert.deepEqual(types(events), ['error', 'close'])
  assert.deepEqual([events[1].code, events[1].wasClean, socket.readyState], [1006, false, 3])
  socket.close()
  assert.equal(socket.readyState, 3)
  assert.deepEqual([world.sockets.length, world.timers, world.listeners], [0, 0, 0])
})

test('close while a token is awaited that does not come gives one close', async () => {
  let fail
  const getToken = () => new Promise((_, reject) => { fail = reject })
  const socket = new PortcullisSocket(URL, [], { getToken })
  const events = record(socket)
  socket.close()
  await world.pass(1)
  fail(new Error('no network'))
  await world.pass(MINUTE)
  assert.deepEqual(types(events), ['error', 'close'])
})

// Carriers.

test('the carrier query adds its pair and leaves every other byte of the query', async () => {
  const getToken = issuer()
  new PortcullisSocket('https://gate.example:8443/chat/?a=%20x+y&b&c=%27', 'chat', { getToken })
  await settle()
  const { url, handle, protocols } = world.last
  assert.equal(url, `wss://gate.example:8443/chat/?a=%20x+y&b&c=%27&portcullis_stream=${handle}&access_token=${getToken.tokens[0]}`)
  assert.deepEqual(protocols, ['chat'])
  new PortcullisSocket('ws://gate.example', [], { getToken, name: 'my&token', renew: false })
  await settle()
  assert.equal(world.last.url, `ws://gate.example/?my%26token=${getToken.tokens[1]}`)
})

test('the carrier subprotocol offers the pair first, and the page never sees it', async () => {
  const getToken = issuer()
  for (const [offered, chosen, seen] of [[[], 'bearer', ''], [['chat', 'v2'], 'v2', 'v2'], [['chat'], 'bearer', ''], [[], 'TOKEN', '']]) {
    const socket = new PortcullisSocket(URL, offered, { getToken, carrier: 'subprotocol' })
    await settle()
    const token = getToken.tokens.at(-1)
    assert.deepEqual(world.last.protocols, ['bearer', token, ...offered])
    assert.equal(world.last.token, null)
    assert.match(world.last.handle, /^[\w-]{22,64}$/)
    world.last.accept(chosen === 'TOKEN' ? token : chosen)
    assert.equal(socket.protocol, seen)
  }
})

test('the carrier ticket asks for one ticket for each connection, which then has neither token nor handle', async () => {
  let issued = 0
  world.answer = ({ what }) => what === 'ticket'
    ? { status: 200, body: { ticket: `ticket-${++issued}`, expires_in: 30, stream: `stream-${issued}` } }
    : { status: 200, body: { expires_in: 300 } }
  const getToken = issuer()
  const socket = new PortcullisSocket('wss://gate.example/chat/?a=1', [], { getToken, carrier: 'ticket', credentials: 'include' })
  await settle()
  const [{ url, method, token, handle, credentials, redirect }] = world.posts
  assert.deepEqual([method, url], ['POST', 'https://gate.example/chat/.portcullis/ticket'])
  assert.deepEqual([token, credentials, redirect], [getToken.tokens[0], 'include', 'error'])
  assert.match(handle, /^[\w-]{22,64}$/)
  assert.equal(world.last.url, 'wss://gate.example/chat/?a=1&ticket=ticket-1')
  world.last.accept()
  await world.pass(5 * MINUTE)
  assert.equal(renewals()[0].handle, 'stream-1', 'the handle of the answer')
  world.last.end(1012)
  await world.pass(MINUTE)
  assert.equal(world.last.query.get('ticket'), 'ticket-2')
  assert.equal(socket.url, 'wss://gate.example/chat/?a=1')
})

test('the carrier ticket renews nothing where renewal is turned off, whatever handle the answer has', async () => {
  world.answer = () => ({ status: 200, body: { ticket: 'ticket', expires_in: 30, stream: 's'.repeat(22) } })
  const { events } = await opened({ carrier: 'ticket', renew: false })
  await world.pass(280_000)
  assert.deepEqual(types(events), ['open', 'expiring'])
  assert.deepEqual(world.posts.map(({ what, handle }) => [what, handle]), [['ticket', undefined]])
})

test('the carrier message opens without a token, which the class gives for the first message', async () => {
  const getToken = issuer()
  const Socket = portcullis({ getToken, carrier: 'message' })
  const socket = new Socket(URL)
  await settle()
  assert.equal(world.last.url, `${URL}?portcullis_stream=${world.last.handle}`)
  world.last.accept()
  assert.equal(await Socket.token(), getToken.tokens[0])
  assert.equal(getToken.tokens.length, 1)
  await world.pass(5 * MINUTE)
  assert.equal(renewals()[0].token, getToken.tokens[1])
  assert.equal(socket.readyState, 1)
})

test('a handle has at least 128 random bits and serves one connection', async () => {
  const { inner } = await opened()
  const handles = [inner.handle]
  for (let turn = 0; turn < 20; turn++) {
    world.last.accept().end(1006)
    await world.pass(MINUTE)
    handles.push(world.last.handle)
  }
  assert.equal(new Set(handles).size, 21)
  for (const handle of handles) assert.match(handle, /^[\w-]{22,64}$/)
  // Three numbers of 64 bits each: 192 bits, unless they are not random at all.
  for (const handle of handles) assert.ok(handle.split('-').filter((part) => BigInt(part) >> 48n).length >= 2)
})

// Renewal.

test('renews on the same stream before expiry, out of band, again and again', async () => {
  const getToken = issuer(10)
  const { socket, events, inner } = await opened({ getToken })
  let begun = world.steady
  for (let turn = 1; turn <= 5; turn++) {
    await world.pass(6000)
    assert.equal(renewals().length, turn - 1, 'not too early')
    while (renewals().length < turn) await world.pass(100)
    assert.ok(world.steady - begun <= 8000, 'not too late')
    begun = world.steady
    const { url, token, handle, redirect } = renewals().at(-1)
    assert.deepEqual([url, token, handle], ['https://gate.example/chat/.portcullis/renew', getToken.tokens[turn], inner.handle])
    assert.equal(redirect, 'error', 'a token goes nowhere else')
    assert.ok(socket.expiresIn > 8 && socket.expiresIn <= 10)
  }
  assert.equal(world.sockets.length, 1)
  assert.deepEqual(types(events), ['open', 'renewed', 'renewed', 'renewed', 'renewed', 'renewed'])
  assert.deepEqual(getToken.reasons, ['open', 'renew', 'renew', 'renew', 'renew', 'renew'])
})

test('renews at a random time between seven and eight tenths of the life', async () => {
  for (const [chance, earliest] of [[0, 240_000], [0.999, 210_000]]) {
    world.begin()
    world.chance = chance
    await opened()
    await world.pass(earliest - 500)
    assert.equal(renewals().length, 0)
    await world.pass(1500)
    assert.equal(renewals().length, 1)
  }
})

test('however many sockets share their options, one token is fetched, and each renews its own stream', async () => {
  const getToken = issuer()
  const Socket = portcullis({ getToken })
  for (let count = 0; count < 50; count++) new Socket(`${URL}/${count}`)
  await settle()
  const opened = world.sockets.map((inner) => inner.accept())
  assert.equal(getToken.tokens.length, 1)
  for (let turn = 1; turn <= 3; turn++) {
    await world.pass(4.1 * MINUTE)
    assert.equal(getToken.tokens.length, turn + 1)
    const posts = renewals().slice(-50)
    assert.equal(renewals().length, 50 * turn)
    assert.deepEqual(new Set(posts.map(({ handle }) => handle)), new Set(opened.map(({ handle }) => handle)))
    for (const { token } of posts) assert.equal(token, getToken.tokens[turn])
  }
  assert.equal(world.sockets.length, 50)
})

for (const [what, trouble] of [
  ['429', { status: 429, body: { reason: 'rate_limited' } }],
  ['503', { status: 503, body: { reason: 'draining' } }],
  ['502 without JSON', { status: 502 }],
  ['no network', null],
]) {
  test(`a renewal that ends in ${what} leaves the old token and is tried again before expiry`, async () => {
    const { socket, events, inner } = await opened({ getToken: issuer(60) })
    const good = () => ({ status: 200, body: { expires_in: 60 } })
    let left = 3
    world.answer = () => left-- > 0 ? trouble : good()
    await world.pass(60_000)
    assert.ok(renewals().length >= 4, `${renewals().length} tries`)
    assert.equal(socket.readyState, 1)
    assert.equal(world.sockets.length, 1)
    assert.deepEqual(inner.closed, [])
    assert.deepEqual(types(events).filter((type) => type !== 'expiring'), ['open', 'renewed'])
    const [first, second] = renewals()
    assert.ok(second.at > first.at)
  })
}

test('Retry-After is honoured', async () => {
  await opened()
  world.answer = () => ({ status: 429, body: {}, retryAfter: 20 })
  await world.pass(5 * MINUTE)
  const [first, second] = renewals()
  assert.ok(second.at - first.at >= 20_000, `${second.at - first.at} ms`)
})

test('a Retry-After that is no number does no harm', async () => {
  await opened()
  world.answer = () => ({ status: 503, body: {}, retryAfter: 'Wed, 21 Oct 2026 07:28:00 GMT' })
  await world.pass(4.5 * MINUTE)
  assert.ok(renewals().length > 2)
})

test('a getToken that fails is asked again, and one that hangs is given up', async () => {
  const tokens = [mint(60)]
  let asked = 0
  const getToken = ({ signal }) => {
    asked++
    if (tokens.length) return tokens.shift()
    if (asked === 2) throw new Error('no network')
    if (asked === 3) return new Promise(() => { signal.onabort ??= null })
    return mint(60)
  }
  const { events } = await opened({ getToken, notice: 1 })
  await world.pass(49_000)
  assert.equal(asked, 3)
  await world.pass(31_000)
  assert.equal(asked, 4)
  assert.ok(types(events).includes('renewed'))
})

test('409: the stream keeps its token, and the next one is brought in time', async () => {
  const lives = [300, 60, 300]
  const getToken = () => mint(lives.shift() ?? 300)
  const { events } = await opened({ getToken })
  world.answer = () => lives.length === 1 ? { status: 409, body: { reason: 'expiry_shorter' } } : { status: 200, body: { expires_in: 300 } }
  await world.pass(4 * MINUTE)
  assert.equal(renewals().length, 1)
  await world.pass(MINUTE - 1000)
  assert.equal(renewals().length, 2)
  assert.deepEqual(types(events), ['open', 'renewed'])
})

for (const [status, reason] of [[401, 'token_revoked'], [403, 'forbidden'], [404, 'no_route'], [400, 'bad_request']]) {
  test(`${status} ends the attempts to renew, and says so`, async () => {
    const getToken = issuer()
    const { socket, events, inner } = await opened({ getToken })
    world.answer = () => ({ status, body: { reason } })
    await world.pass(4.9 * MINUTE)
    assert.equal(renewals().length, 1)
    assert.equal(getToken.tokens.length, 2)
    assert.deepEqual(types(events), ['open', 'refused', 'expiring'])
    assert.deepEqual([events[1].status, events[1].reason], [status, reason])
    assert.equal(socket.readyState, 1)
    assert.deepEqual(inner.closed, [])
  })
}

test('renew() tries again after a refusal, with a token that is fetched for it', async () => {
  const getToken = issuer()
  const { socket, events } = await opened({ getToken })
  world.answer = () => ({ status: 403, body: { reason: 'forbidden' } })
  socket.renew()
  await settle()
  assert.deepEqual(types(events), ['open', 'refused'])
  world.answer = () => ({ status: 200, body: { expires_in: 300 } })
  socket.renew()
  await settle()
  assert.deepEqual(types(events), ['open', 'refused', 'renewed'])
  assert.deepEqual(renewals().map(({ token }) => token), getToken.tokens.slice(1))
  assert.deepEqual(getToken.reasons, ['open', 'refused', 'refused'])
})

test('410: the Close is awaited, and a connection that has died in silence is given up', async () => {
  const { socket, events, inner } = await opened()
  world.answer = () => ({ status: 410, body: { reason: 'stream_gone' } })
  await world.pass(3.8 * MINUTE)
  assert.equal(renewals().length, 1)
  assert.equal(socket.readyState, 1)
  await world.pass(5000)
  assert.deepEqual(types(events), ['open', 'reconnecting'])
  assert.equal(events[1].code, 1006)
  assert.equal(inner.closed.length, 1)
  inner.onmessage?.(new MessageEvent('message', { data: 'from the grave' }))
  inner.onclose?.(new CloseEvent('close', { code: 1000 }))
  await world.pass(2000)
  assert.equal(world.sockets.length, 2)
  world.last.accept()
  assert.deepEqual(types(events), ['open', 'reconnecting', 'open'])

  world.begin()
  const other = await opened({ reconnect: false })
  world.answer = () => ({ status: 410, body: { reason: 'stream_gone' } })
  await world.pass(3.8 * MINUTE)
  other.inner.end(3000, 'token expired')
  await world.pass(MINUTE)
  assert.deepEqual(types(other.events), ['open', 'close'], 'the Close came, so it counts')
  assert.equal(other.events[1].code, 3000)
})

test('a refusal without a body is one', async () => {
  const { events } = await opened()
  world.answer = () => ({ status: 403 })
  await world.pass(3.8 * MINUTE)
  assert.deepEqual(types(events), ['open', 'refused'])
})

test('a token that is refused with 401 is not given to another stream', async () => {
  const getToken = issuer()
  const Socket = portcullis({ getToken })
  new Socket(URL)
  await settle()
  world.last.accept()
  world.answer = () => ({ status: 401, body: { reason: 'token_revoked' } })
  await world.pass(3.8 * MINUTE)
  new Socket(URL)
  await settle()
  assert.deepEqual(getToken.reasons, ['open', 'renew', 'refused'])
  assert.equal(world.last.token, getToken.tokens[2])
})

test('an answer that comes after the end says nothing', async () => {
  for (const outcome of ['resolve', 'reject']) {
    world.begin()
    const { events, inner } = await opened()
    const late = {}
    world.answer = () => new Promise((resolve, reject) => Object.assign(late, { resolve, reject }))
    await world.pass(3.8 * MINUTE)
    inner.end(1000)
    late[outcome]({ status: 200, body: { expires_in: 300 } })
    await world.pass(10 * MINUTE)
    assert.deepEqual(types(events), ['open', 'close'])
    assert.equal(world.timers, 0)
  }
})

test('nothing is renewed while the stream closes', async () => {
  const { socket } = await opened()
  socket.close()
  await world.pass(3.8 * MINUTE)
  await world.happens('visibilitychange')
  assert.equal(renewals().length, 0)
})

test('a renewal that fails late does not shorten the wait to come back', async () => {
  const { inner } = await opened()
  let fail
  world.answer = () => new Promise((_, reject) => { fail = reject })
  await world.pass(3.8 * MINUTE)
  world.chance = 0.999
  inner.end(1012)
  fail(new TypeError('no network'))
  await world.pass(1900)
  assert.equal(world.sockets.length, 1)
  await world.pass(200)
  assert.equal(world.sockets.length, 2)
})

test('one timer a socket, however often the page is shown', async () => {
  await opened()
  await world.pass(MINUTE)
  for (let turn = 0; turn < 10; turn++) await world.happens('visibilitychange')
  assert.equal(world.timers, 1)
})

test('an answer that is not the gateway\'s is no renewal', async () => {
  const { events } = await opened()
  world.answer = () => ({ status: 200, body: 'an index page' })
  await world.pass(4.9 * MINUTE)
  assert.deepEqual(types(events), ['open', 'refused', 'expiring'])
})

test('a token without expiry is not renewed, nor one that has become so', async () => {
  const { socket } = await opened({ getToken: () => mint(NaN) })
  await world.pass(1000 * MINUTE)
  assert.equal(socket.expiresIn, Infinity)
  assert.equal(world.posts.length, 0)
  world.begin()
  await opened()
  world.answer = () => ({ status: 200, body: { expires_in: null } })
  await world.pass(1000 * MINUTE)
  assert.equal(renewals().length, 1)
})

test('a stream that ends by its own limit does not make the token look short', async () => {
  const getToken = issuer()
  const Socket = portcullis({ getToken })
  new Socket(URL)
  await settle()
  world.last.accept()
  let limit = 6 * MINUTE
  world.answer = () => ({ status: 200, body: { expires_in: Math.min(300, Math.floor((limit - world.steady) / 1000)) } })
  await world.pass(limit - 5000)
  assert.ok(getToken.tokens.length <= 5, `${getToken.tokens.length} tokens`)
})

// The page is told.

test('expiring is told once, in time, when nobody is signed in, and getToken is left alone', async () => {
  let asked = 0
  const getToken = () => {
    if (asked++) throw new Unauthorized()
    return mint(300)
  }
  const told = []
  const { events, inner } = await opened({ getToken, notice: 20, onexpiring: (event) => told.push(event) })
  await world.pass(279_000)
  assert.deepEqual(types(events), ['open', 'refused'])
  await world.pass(2000)
  assert.deepEqual(types(events), ['open', 'refused', 'expiring'])
  assert.equal(events[2].secondsLeft, 20)
  await world.pass(18_000)
  assert.deepEqual(told, [events[2]])
  assert.equal(asked, 2)
  inner.end(3000, 'token expired')
  await world.pass(10 * MINUTE)
  assert.equal(asked, 2)
  assert.deepEqual(types(events).slice(3), ['reconnecting', 'error', 'close'])
  assert.deepEqual([events[5].code, events[5].wasClean], [4401, false])
  assert.equal(world.sockets.length, 1)
})

test('renew() asks again after nobody was signed in', async () => {
  let signedIn = true
  const getToken = () => {
    if (!signedIn) throw new Unauthorized()
    return mint(300)
  }
  const { socket, events } = await opened({ getToken })
  signedIn = false
  await world.pass(3.8 * MINUTE)
  signedIn = true
  socket.renew()
  await settle()
  assert.deepEqual(types(events), ['open', 'refused', 'renewed'])
})

test('any error named Unauthorized stops, and a new socket asks anew', async () => {
  let asked = 0
  const options = { getToken: () => { asked++; throw Object.assign(new Error(), { name: 'Unauthorized' }) } }
  const Socket = portcullis(options)
  const events = record(new Socket(URL))
  await world.pass(10 * MINUTE)
  assert.deepEqual([types(events), asked], [['error', 'close'], 1])
  assert.equal(events[1].code, 4401)
  new Socket(URL)
  await world.pass(10 * MINUTE)
  assert.equal(asked, 2)
})

test('expiring is told when getToken keeps failing, and again for the next deadline, but not while renewal works', async () => {
  let broken = true
  let asked = 0
  const getToken = () => {
    if (asked++ && broken) throw new Error('no network')
    return mint(300)
  }
  const { socket, events } = await opened({ getToken })
  await world.pass(271_000)
  assert.deepEqual(types(events), ['open', 'expiring'])
  assert.ok(Math.abs(events[1].secondsLeft - 30) < 0.01)
  broken = false
  await world.pass(29_000)
  assert.deepEqual(types(events), ['open', 'expiring', 'renewed'])
  await world.pass(20 * MINUTE)
  assert.equal(types(events).filter((type) => type === 'expiring').length, 1)
  broken = true
  await world.pass(5 * MINUTE)
  assert.equal(types(events).filter((type) => type === 'expiring').length, 2)
  assert.ok(socket.expiresIn < 30)
})

test('expiring is told where renewal is turned off', async () => {
  const { events } = await opened({ renew: false })
  assert.equal(world.last.handle, null)
  await world.pass(269_000)
  assert.deepEqual(types(events), ['open'])
  await world.pass(1000)
  assert.deepEqual(types(events), ['open', 'expiring'])
  assert.equal(world.posts.length, 0)
})

test('a handler of the options that throws stops nothing', async () => {
  const thrown = []
  const { nextTick } = process
  // Here, an error of a listener is thrown in a turn of its own.
  process.nextTick = (act, ...args) => nextTick(() => { try { act(...args) } catch (error) { thrown.push(error.message) } })
  try {
    await opened({ onrenewed: () => { throw new Error('a fault of the page') } })
    await world.pass(20 * MINUTE)
  } finally {
    process.nextTick = nextTick
  }
  assert.ok(renewals().length >= 4)
  assert.equal(thrown.length, renewals().length)
})

test('a stream that is short from the start opens before it is told to expire', async () => {
  const { events } = await opened({ getToken: issuer(10), renew: false })
  await settle()
  assert.deepEqual(types(events), ['open', 'expiring'])
})

// Closes.

for (const [wanted, codes] of [
  ['token', [3000, 3005, 4403]],
  ['later', [1001, 1005, 1006, 1011, 1012, 1013, 1014, 3001, 3008, 4000, 4499]],
  ['no', [1000, 1002, 1003, 1007, 1009, 1010, 3003, 3500, 3999, 4400, 4401, 4500, 4999]],
]) {
  test(`${codes.join(', ')}: ${wanted}`, async () => {
    for (const code of codes) {
      world.begin()
      assert.equal(verdict({ code, reason: '' }), wanted)
      const getToken = issuer()
      const { socket, events, inner } = await opened({ getToken })
      inner.end(code, 'why')
      await world.pass(10_000)
      const again = wanted !== 'no'
      assert.equal(world.sockets.length, again ? 2 : 1, `${code}`)
      assert.equal(getToken.tokens.length, wanted === 'token' ? 2 : 1, `${code}`)
      assert.equal(socket.readyState, again ? 0 : 3)
      assert.deepEqual(types(events).filter((type) => type !== 'error'), ['open', again ? 'reconnecting' : 'close'])
      const end = events.at(-1)
      assert.deepEqual([end.code, end.reason, end.wasClean], [code, 'why', code !== 1006])
    }
  })
}

test('1008 is for good, unless it is the gateway\'s limit on messages', () => {
  assert.equal(verdict({ code: 1008, reason: 'rate limited' }), 'later')
  assert.equal(verdict({ code: 1008, reason: 'first message' }), 'no')
})

test('the page may judge a Close itself', async () => {
  const judged = []
  const { socket, inner } = await opened({ again: (end) => { judged.push(end); return end.code === 4999 ? 'later' : undefined } })
  inner.end(4999, 'mine')
  await world.pass(10_000)
  world.last.accept().end(1000, 'done')
  assert.deepEqual(judged, [{ code: 4999, reason: 'mine', wasClean: true }, { code: 1000, reason: 'done', wasClean: true }])
  assert.equal(socket.readyState, 3)
})

test('after 3000 it comes back at once, without a wait that would be felt', async () => {
  const { events, inner } = await opened()
  inner.end(3000, 'token expired')
  await world.pass(500)
  assert.equal(world.sockets.length, 2)
  assert.ok(events[1].delay <= 500)
})

test('one socket\'s dead token does not cost the others the new one', async () => {
  const getToken = issuer()
  const Socket = portcullis({ getToken, reconnect: true })
  new Socket(`${URL}/1`)
  new Socket(`${URL}/2`)
  await settle()
  const [one, two] = world.sockets.map((inner) => inner.accept())
  one.end(3000)
  await world.pass(1000)
  two.end(3000)
  await world.pass(1000)
  assert.equal(world.sockets.length, 4)
  assert.deepEqual(getToken.reasons, ['open', 'refused'])
  assert.deepEqual(world.sockets.slice(2).map(({ token }) => token), [getToken.tokens[1], getToken.tokens[1]])
})

test('a class for libraries passes every Close through and stays closed', async () => {
  const getToken = issuer()
  const Socket = portcullis({ getToken })
  for (const [code, reason, wasClean] of [[3000, 'token expired', true], [1012, 'service restart', false], [1006, '', false], [4321, 'own', true]]) {
    const socket = new Socket(URL, 'chat')
    const events = record(socket)
    await settle()
    world.last.accept('chat').end(code, reason, wasClean)
    assert.deepEqual(types(events), code === 1006 ? ['open', 'error', 'close'] : ['open', 'close'])
    const end = events.at(-1)
    assert.deepEqual([end.code, end.reason, end.wasClean, socket.readyState], [code, reason, wasClean, 3])
  }
  await world.pass(10 * MINUTE)
  assert.equal(world.sockets.length, 4)
  assert.deepEqual(getToken.reasons, ['open', 'refused'], 'after 3000 the next socket brings a new token')
})

test('the wait grows until data comes, not until the stream opens', async () => {
  world.chance = 0.999
  const { events } = await opened()
  for (let turn = 0; turn < 12; turn++) {
    world.last.end(3000, 'token expired')
    await world.pass(MINUTE)
    world.last.accept()
  }
  const waits = () => events.filter(({ type }) => type === 'reconnecting').map(({ delay }) => Math.round(delay / 100) / 10)
  assert.deepEqual(waits(), [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30])
  world.last.say('data')
  world.last.end(3000, 'token expired')
  assert.equal(waits().at(-1), 0.5)
  await world.pass(MINUTE)
  world.last.accept()
  await world.pass(5 * MINUTE)
  world.last.end(3000, 'token expired')
  assert.equal(waits().at(-1), 0.5, 'a stream that was renewed is a good one')
})

test('the wait is random', async () => {
  const waits = []
  for (const chance of [0, 0.25, 1]) {
    world.begin()
    world.chance = chance
    const { events, inner } = await opened()
    inner.end(1012, 'service restart')
    waits.push(events[1].delay)
  }
  assert.deepEqual(waits, [0, 500, 2000])
})

test('a handshake that fails is tried again, with a new token unless the last one was new', async () => {
  const getToken = issuer()
  new PortcullisSocket(URL, [], { getToken })
  await settle()
  world.last.end(1006)
  await world.pass(10_000)
  assert.equal(world.sockets.length, 2)
  assert.equal(getToken.tokens.length, 1)
  world.last.accept()
  await world.pass(MINUTE)
  world.last.end(1006)
  await world.pass(10_000)
  assert.equal(getToken.tokens.length, 1, 'it had been accepted: not the token\'s fault')
  world.last.end(1006)
  await world.pass(10_000)
  assert.deepEqual(getToken.reasons, ['open', 'refused'])
})

test('a ticket that is refused: 401 asks for a new token, 403 is for good, 429 waits as told', async () => {
  for (const [status, code, asked, sockets] of [[401, 3000, 2, 1], [403, 3003, 1, 0], [429, 1013, 1, 1]]) {
    world.begin()
    const getToken = issuer()
    const good = () => ({ status: 200, body: { ticket: 'ticket', expires_in: 30, stream: 's'.repeat(22) } })
    let first = true
    world.answer = () => first ? (first = false, { status, body: {}, retryAfter: status === 429 ? 20 : 0 }) : good()
    const events = record(new PortcullisSocket(URL, [], { getToken, carrier: 'ticket' }))
    await world.pass(19_000)
    if (status === 429) assert.equal(world.sockets.length, 0)
    await world.pass(2000)
    assert.deepEqual([events.at(-1).code, getToken.tokens.length, world.sockets.length], [code, asked, sockets])
  }
})

test('close while it waits to come back ends it', async () => {
  const { socket, events, inner } = await opened()
  inner.end(1012)
  assert.equal(socket.readyState, 0)
  assert.throws(() => socket.send('x'), { name: 'InvalidStateError' })
  socket.close()
  await world.pass(10 * MINUTE)
  assert.deepEqual(types(events), ['open', 'reconnecting', 'error', 'close'])
  assert.equal(world.sockets.length, 1)
  assert.equal(world.timers, 0)
  await world.happens('online')
  assert.equal(world.sockets.length + world.timers, 1)
})

test('after close by the page no Close brings it back', async () => {
  for (const code of [3000, 1006, 1001]) {
    world.begin()
    const { socket, inner } = await opened()
    await world.pass(MINUTE)
    socket.close()
    inner.end(code)
    assert.deepEqual([world.timers, world.listeners], [0, 0])
    await world.pass(10 * MINUTE)
    assert.deepEqual([socket.readyState, world.sockets.length, world.timers], [3, 1, 0])
  }
})

// Clocks.

for (const type of ['online', 'pageshow', 'resume', 'visibilitychange', undefined]) {
  test(`after a sleep a new token is fetched first, by ${type ?? 'the clock alone'}`, async () => {
    const getToken = issuer()
    const { events, inner } = await opened({ getToken })
    world.answer = () => ({ status: 410, body: { reason: 'stream_gone' } })
    await world.pass(10_000)
    world.sleep(3600_000)
    if (type) await world.happens(type)
    else await world.pass(30_000)
    assert.equal(renewals().length, 1)
    assert.equal(renewals()[0].token, getToken.tokens[1])
    inner.end(3000, 'token expired')
    await world.pass(1000)
    assert.equal(world.sockets.length, 2)
    assert.equal(world.last.token, getToken.tokens[1])
    assert.equal(getToken.tokens.length, 2)
    assert.deepEqual(types(events), ['open', 'reconnecting'])
  })
}

test('a token that expired in sleep is not used for a connection that was waiting', async () => {
  const getToken = issuer()
  const { inner } = await opened({ getToken })
  world.chance = 0.9
  inner.end(1012)
  world.sleep(3600_000)
  await world.happens('visibilitychange')
  assert.equal(world.sockets.length, 2)
  assert.equal(world.last.token, getToken.tokens[1])
})

test('a timer that a throttled page gets late is in time for tokens of five minutes', async () => {
  const { events } = await opened()
  const prompt = globalThis.setTimeout
  globalThis.setTimeout = (act, ms) => prompt(act, Math.max(ms, 60_000))
  try {
    await world.pass(60 * MINUTE)
  } finally {
    globalThis.setTimeout = prompt
  }
  assert.ok(types(events).filter((type) => type === 'renewed').length >= 12)
  assert.ok(!types(events).includes('expiring'))
})

test('a wall clock that is set back does not delay a renewal', async () => {
  await opened()
  await world.pass(MINUTE)
  world.sleep(-3600_000)
  await world.pass(3.1 * MINUTE)
  assert.equal(renewals().length, 1)
})

for (const skew of [-86_400, -200, 200, 86_400]) {
  test(`an issuer whose clock is ${skew} s off is served as well`, async () => {
    const { socket, events, inner } = await opened({ getToken: issuer(300, { skew }) })
    world.answer = () => ({ status: 200, body: { expires_in: 300 } })
    await world.pass(60 * MINUTE)
    const count = types(events).filter((type) => type === 'renewed').length
    assert.ok(count >= 12 && count <= 20, `${count} renewals`)
    assert.deepEqual([inner.closed, socket.readyState], [[], 1])
  })
}

test('a token that was minted a while ago is renewed by what is left of it', async () => {
  const { socket } = await opened({ getToken: issuer(300, { age: 200 }) })
  assert.ok(Math.abs(socket.expiresIn - 100) < 1)
  await world.pass(41_000)
  assert.equal(renewals().length, 1)
})

test('a token whose life is nearly over serves no new connection', async () => {
  const getToken = issuer()
  const Socket = portcullis({ getToken })
  new Socket(URL)
  await world.pass(2.9 * MINUTE)
  new Socket(URL)
  await settle()
  assert.equal(getToken.tokens.length, 1)
  await world.pass(0.2 * MINUTE)
  new Socket(URL)
  await settle()
  assert.equal(world.last.token, getToken.tokens[1])
})

test('online ends the wait to come back', async () => {
  world.chance = 0.999
  const { inner } = await opened()
  inner.end(1006)
  await world.happens('visibilitychange')
  assert.equal(world.sockets.length, 1)
  await world.happens('online')
  assert.equal(world.sockets.length, 2)
  await world.happens('online')
  assert.equal(world.sockets.length, 2, 'it is under way')
  world.last.accept()
  await world.happens('online')
  await world.pass(3 * MINUTE)
  assert.equal(renewals().length, 0, 'an open stream needs nothing')
})

test('the gateway\'s word on how long a token lasts counts for the next one too', async () => {
  const { socket } = await opened({ getToken: issuer(300, { skew: 86_400, age: 140 }) })
  world.answer = () => ({ status: 200, body: { expires_in: 160 } })
  socket.renew()
  await world.pass(100_000)
  assert.equal(renewals().length, 2)
})

// Secrets.

test('a token is in no error, no event and no URL that the page sees', async () => {
  const bad = `${'x'.repeat(30)}.${Buffer.from('no JSON, but a secret').toString('base64url')}.secret`
  const getToken = issuer(60)
  const { socket, events } = await opened({ getToken, notice: 60 })
  world.answer = () => ({ status: 500, body: {} })
  await world.pass(60_000)
  world.last.end(1006)
  for (const token of [bad, `${mint(60)}\n`, 'an opaque token', '', undefined]) {
    events.push(...record(new PortcullisSocket(URL, [], { getToken: () => token, reconnect: false })))
    const one = new PortcullisSocket(URL, [], { getToken: () => token, reconnect: false })
    one.onerror = (event) => events.push(event)
    await settle()
    assert.ok(events.at(-1).cause instanceof TypeError, 'the page learns what is wrong')
  }
  const seen = JSON.stringify([...events].map((event) => [event.type, event.reason, String(event.cause?.stack), event.message])) + socket.url
  for (const secret of [...getToken.tokens, bad, 'secret', 'opaque', world.sockets[0].handle]) assert.ok(!seen.includes(secret), secret)
})
