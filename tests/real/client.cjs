// A client in Node: `ws`, driven by lines of JSON; the requests of client.py.
'use strict'
const fs = require('node:fs')
const readline = require('node:readline')
const WebSocket = require('ws')

const ca = fs.readFileSync(process.argv[2])
const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`)

/** Opens a stream; messages wait in `inbox`, the end is the promise `closed`. */
function open({ open: url, headers, subprotocols = [], compression = 'deflate' }) {
  const socket = new WebSocket(url, subprotocols, { ca, headers, perMessageDeflate: compression === 'deflate', maxPayload: 64 << 20 })
  const stream = { socket, inbox: [], waiting: [] }
  socket.on('message', (data, binary) => {
    const message = binary ? data.length : data.toString()
    const waiter = stream.waiting.shift()
    if (waiter) waiter(message)
    else stream.inbox.push(message)
  })
  stream.closed = new Promise((resolve) => socket.on('close', (code, reason) => resolve({ code, reason: reason.toString(), at: Date.now() / 1000 })))
  return new Promise((resolve, reject) => {
    socket.on('open', () => resolve(stream))
    socket.on('error', reject)
    socket.on('unexpected-response', (_, response) => {
      let body = ''
      response.on('data', (data) => { body += data }).on('end', () => resolve({ refused: response.statusCode, body }))
    })
  })
}

async function answer(ask, stream) {
  if ('send' in ask) return stream.socket.send(ask.send) ?? null
  if ('send_bytes' in ask) return stream.socket.send(Buffer.from(Array.from({ length: ask.send_bytes }, (_, index) => index % 251))) ?? null
  if ('receive' in ask) return stream.inbox.shift() ?? new Promise((resolve) => stream.waiting.push(resolve))
  if ('wait' in ask) return stream.closed
  if ('close' in ask) {
    stream.socket.close(...ask.close)
    const { code, reason } = await stream.closed
    return [code, reason]
  }
  throw new Error(`unknown request ${JSON.stringify(ask)}`)
}

async function main() {
  let stream
  say({ ready: `ws ${require('ws/package.json').version}` })
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const ask = JSON.parse(line)
    try {
      if ('open' in ask) {
        stream = await open(ask)
        if (stream.refused) say(stream)
        else say({ value: { subprotocol: stream.socket.protocol || null, extensions: Object.keys(stream.socket._extensions) } })
      } else say({ value: await answer(ask, stream) })
    } catch (error) {
      say({ error: String(error.message ?? error) })
    }
  }
}

main().then(() => process.exit(0))
