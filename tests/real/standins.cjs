// Two servers that do not run here, as far as their npm clients meet them; neither looks at a token.
//
//   /socket/websocket  Phoenix: channels of the V2 serializer; a join is answered with X-User, any other event with its own
//                      payload. It chooses no subprotocol: Phoenix does so only if it finds its own token there.
//   /hub               ASP.NET Core SignalR: /hub/negotiate, then the JSON protocol; "Who" is answered with X-User, "Say"
//                      with its argument
//
// Prints "listening ADDRESS" once it listens on a port that the system gave, then "negotiated QUERY" and "opened URL" as they come.
'use strict'
const { createServer } = require('node:http')
const { randomUUID } = require('node:crypto')
const { WebSocketServer } = require('ws')

const say = (line) => process.stdout.write(`${line}\n`)
const streams = new WebSocketServer({ noServer: true, handleProtocols: () => false })

function phoenix(socket, user) {
  socket.on('message', (data) => {
    const [join, ref, topic, event, payload] = JSON.parse(data)
    const response = event === 'phx_join' ? { user } : payload
    socket.send(JSON.stringify([join, ref, topic, 'phx_reply', { status: 'ok', response }]))
  })
}

/** Records end with this character. */
const END = '\x1e'

function signalr(socket, user) {
  const answer = (record) => socket.send(JSON.stringify(record) + END)
  socket.on('message', (data) => {
    for (const record of String(data).split(END).slice(0, -1).map((text) => JSON.parse(text))) {
      if (record.protocol) answer({})
      else if (record.type === 1) answer({ type: 3, invocationId: record.invocationId, result: record.target === 'Who' ? user : record.arguments[0] })
    }
  })
}

const connections = new Set()

const server = createServer((request, response) => {
  const { pathname, search } = new URL(request.url, 'http://here')
  if (request.method !== 'POST' || pathname !== '/hub/negotiate') return response.writeHead(404).end()
  say(`negotiated ${search}`)
  const connectionToken = randomUUID()
  connections.add(connectionToken)
  const availableTransports = [{ transport: 'WebSockets', transferFormats: ['Text', 'Binary'] }]
  response.writeHead(200, { 'content-type': 'application/json' })
  response.end(JSON.stringify({ negotiateVersion: 1, connectionId: randomUUID(), connectionToken, availableTransports }))
})
server.on('upgrade', (request, socket, head) => {
  const { pathname, searchParams } = new URL(request.url, 'http://here')
  say(`opened ${request.url}`)
  const service = { '/socket/websocket': phoenix, '/hub': signalr }[pathname]
  // A connection that was negotiated is known by its token; SignalR also takes one that was not.
  const known = !searchParams.has('id') || connections.delete(searchParams.get('id'))
  if (!service || !known) return socket.end('HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n')
  streams.handleUpgrade(request, socket, head, (stream) => service(stream, request.headers['x-user']))
})
server.listen(0, '127.0.0.1', () => say(`listening 127.0.0.1:${server.address().port}`))
