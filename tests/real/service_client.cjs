// The own npm clients of several services, driven by lines of JSON: one request per line of standard input, one answer per line
// of standard output. Authorities beside the system's are named by NODE_EXTRA_CA_CERTS.
//
//   {"open": NAME, "library": LIBRARY, "url": URL, "token": TOKEN, "handle": HANDLE}  opens a stream with the library's own means
//                             for a token -> what the service said first, or {"refused": ...}
//   {"use": NAME, "text": TEXT}  has the service answer a text -> its answer
//   {"end": NAME}             awaits the end of the stream -> {"code", "reason", "at"}
// Without a token none is sent. The handle, by which the stream can be renewed, goes into the query.
'use strict'
const readline = require('node:readline')
const WebSocket = require('ws')

/** Each opens `url` and gives `first`, what the service said first, and `use`, which has it answer a text. No library comes back by itself. */
const libraries = {
  async graphql({ url, handled, token, Socket }) {
    const { createClient } = require('graphql-ws')
    const client = createClient({ url: handled(url), webSocketImpl: Socket, connectionParams: token ? { token } : {}, retryAttempts: 0, lazy: false, onNonLazyError() {} })
    const ask = async (query, variables) => {
      for await (const { data } of client.iterate({ query, variables })) return data
    }
    return {
      first: (await ask('{ who }')).who,
      use: async (text) => (await ask('query ($text: String) { said(text: $text) }', { text })).said,
    }
  },

  async mqtt({ url, handled, query, Socket }) {
    const mqtt = require('mqtt')
    const client = mqtt.connect(url, {
      transformWsUrl: (url) => handled(query(url)),
      createWebsocket: (url, protocols) => new Socket(url, protocols),
      reconnectPeriod: 0,
    })
    client.on('error', () => {}) // the socket tells
    await new Promise((resolve) => client.once('connect', resolve))
    await client.subscribeAsync('there', { qos: 1 })
    const use = async (text) => {
      const came = new Promise((resolve) => client.once('message', (_, payload) => resolve(String(payload))))
      await client.publishAsync('there', text, { qos: 1 })
      return came
    }
    return { first: await use('hello'), use }
  },

  async phoenix({ url, handle, token, Socket }) {
    const { Socket: Phoenix } = require('phoenix')
    const socket = new Phoenix(url, { transport: Socket, authToken: token, params: { portcullis_stream: handle }, reconnectAfterMs: () => 1e9 })
    socket.connect()
    const channel = socket.channel('room:lobby')
    const answered = (push) => new Promise((resolve) => push.receive('ok', resolve))
    const { user } = await answered(channel.join())
    return { first: user, use: async (text) => (await answered(channel.push('shout', { text }))).text }
  },

  async signalr({ url, handled, token, Socket }) {
    const { HubConnectionBuilder, LogLevel } = require('@microsoft/signalr')
    const connection = new HubConnectionBuilder()
      .withUrl(handled(url.replace('wss:', 'https:')), { WebSocket: Socket, ...(token && { accessTokenFactory: () => token }) })
      .configureLogging(LogLevel.None)
      .build()
    await connection.start()
    return { first: await connection.invoke('Who'), use: (text) => connection.invoke('Say', text) }
  },

  async socketio({ url, handle, token, end }) {
    const { io } = require('socket.io-client')
    const socket = io(url, { query: { ...(token && { access_token: token }), portcullis_stream: handle }, reconnection: false })
    await new Promise((resolve, reject) => {
      socket.on('connect', resolve)
      socket.on('connect_error', ({ message, description }) => reject(new Error(`${message} ${description}`)))
    })
    const { engine } = socket.io
    engine.on('close', (_, { context: { code, reason } }) => end({ code, reason, at: Date.now() / 1000 }))
    if (engine.transport.name !== 'websocket') await new Promise((resolve) => engine.once('upgrade', resolve))
    const who = await new Promise((resolve) => socket.emit('who', (...who) => resolve(who)))
    return { first: who, use: (text) => socket.emitWithAck('say', text) }
  },

  async jupyter({ url, handled, query, token, Socket }) {
    const { KernelManager, ServerConnection } = require('@jupyterlab/services')
    const serverSettings = ServerConnection.makeSettings({
      baseUrl: url.replace('wss:', 'https:'),
      appendToken: false,
      fetch: (request) => {
        if (token) request.headers.set('Authorization', `Bearer ${token}`)
        return fetch(request)
      },
      WebSocket: class extends Socket {
        constructor(url, protocols) {
          super(handled(query(url)), protocols)
        }
      },
    })
    const kernel = await new KernelManager({ serverSettings }).startNew({ name: 'python3' })
    const run = async (code) => {
      let output = ''
      const future = kernel.requestExecute({ code })
      future.onIOPub = ({ header, content }) => { if (header.msg_type === 'stream') output += content.text }
      await future.done
      return output
    }
    return { first: await run('print(6 * 7, end="")'), use: (text) => run(`print(${JSON.stringify(text)}, end="")`) }
  },
}

/** A class as libraries take it, which tells how the first of its kind failed or ended. */
function watched() {
  const watch = {}
  watch.failed = new Promise((resolve) => { watch.fail = resolve })
  watch.ended = new Promise((resolve) => { watch.end = resolve })
  watch.Socket = class extends WebSocket {
    constructor(url, protocols, options) {
      super(url, protocols, options)
      let open = false
      this.on('open', () => { open = true })
      this.on('error', ({ message }) => watch.fail(message))
      this.on('close', (code, reason) => {
        if (open) watch.end({ code, reason: String(reason), at: Date.now() / 1000 })
      })
    }
  }
  return watch
}

const streams = new Map()

async function open({ open: name, library, url, token, handle }) {
  const watch = watched()
  const parameter = (key, value) => (url) => value ? `${url}${url.includes('?') ? '&' : '?'}${key}=${value}` : url
  const opening = libraries[library]({
    url, token, handle, Socket: watch.Socket, end: watch.end, handled: parameter('portcullis_stream', handle), query: parameter('access_token', token),
  })
  // A library may never tell that it was refused.
  const refused = Promise.race([watch.failed, watch.ended.then(({ code, reason }) => `${code} ${reason}`)])
  const outcome = await Promise.race([opening.catch(({ message }) => ({ refused: message })), refused.then((refused) => ({ refused }))])
  if (outcome.refused) return outcome
  streams.set(name, { ...outcome, ended: watch.ended })
  return { value: outcome.first }
}

async function answer(ask) {
  if ('open' in ask) return open(ask)
  if ('use' in ask) return { value: await streams.get(ask.use).use(ask.text) }
  if ('end' in ask) return { value: await streams.get(ask.end).ended }
  return { error: `unknown request ${JSON.stringify(ask)}` }
}

async function main() {
  const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`)
  // What a library says by the way stays out of the answers, and what it leaves unhandled is no reason to leave.
  for (const name of ['debug', 'error', 'info', 'log', 'warn']) console[name] = () => {}
  process.on('unhandledRejection', (error) => process.stderr.write(`${error?.stack ?? error}\n`))
  say({ ready: 'libraries' })
  for await (const line of readline.createInterface({ input: process.stdin })) {
    say(await answer(JSON.parse(line)).catch((error) => ({ error: String(error?.message ?? error) })))
  }
}

main().then(() => process.exit(0))
