// Services in Node that know nothing of the gateway: `ws` with permessage-deflate, graphql-ws, and aedes (MQTT).
//
//   /echo      returns each message
//   /numbers   expects 0, 1, 2, ... and sends 0, 1, 2, ... by itself, every 10 ms; "report" is answered by how many came, and
//              the first that was out of turn
//   /close/CODE/REASON  closes at once
//   /graphql   graphql-ws; needs {"token": ...} in the payload of the first message, and tells its `sub` (not verified here)
//   /mqtt      a broker
//
// Prints "listening ADDRESS" once it listens on a port that the system gave; then, for each stream, "opened PATH EXTENSIONS"
// and "closed PATH CODE".
'use strict'
const { createServer } = require('node:http')
const { GraphQLInt, GraphQLObjectType, GraphQLSchema, GraphQLString } = require('graphql')
const { useServer } = require('graphql-ws/use/ws')
const { createWebSocketStream, WebSocketServer } = require('ws')

const say = (line) => process.stdout.write(`${line}\n`)
const options = { noServer: true, perMessageDeflate: { threshold: 0 }, maxPayload: 64 << 20 }

const schema = new GraphQLSchema({
  query: new GraphQLObjectType({
    name: 'Query',
    fields: {
      who: { type: GraphQLString, resolve: (_, __, { sub }) => sub },
      said: { type: GraphQLString, args: { text: { type: GraphQLString } }, resolve: (_, { text }) => text },
    },
  }),
  subscription: new GraphQLObjectType({
    name: 'Subscription',
    fields: {
      count: {
        type: GraphQLInt,
        async * subscribe() {
          for (let count = 0; ; count++) {
            yield { count }
            await new Promise((resolve) => setTimeout(resolve, 100))
          }
        },
      },
    },
  }),
})
const graphql = new WebSocketServer({ ...options, handleProtocols: () => 'graphql-transport-ws' })
useServer({
  schema,
  onConnect: ({ connectionParams }) => typeof connectionParams?.token === 'string',
  context: ({ connectionParams }) => JSON.parse(Buffer.from(connectionParams.token.split('.')[1], 'base64url')),
}, graphql)

const mqtt = new WebSocketServer({ ...options, handleProtocols: () => 'mqtt' })

const plain = new WebSocketServer(options)
plain.on('connection', (socket, { url }) => {
  const [, what, ...rest] = url.split('?')[0].split('/')
  if (what === 'close') socket.close(Number(rest[0]), decodeURIComponent(rest[1]))
  else if (what === 'numbers') numbers(socket)
  else socket.on('message', (data, binary) => socket.send(data, { binary }))
})

function numbers(socket) {
  let came = 0
  let wrong = null
  let sent = 0
  const timer = setInterval(() => socket.send(`${sent++} ${'down '.repeat(40)}`), 10)
  socket.on('close', () => clearInterval(timer))
  socket.on('message', (data) => {
    const message = String(data)
    if (message === 'report') {
      clearInterval(timer)
      socket.send(JSON.stringify({ came, wrong, sent }))
    } else {
      if (message.split(' ')[0] !== `${came}`) wrong ??= { at: came, message: message.slice(0, 20) }
      came++
    }
  })
}

const server = createServer()
server.on('upgrade', (request, socket, head) => {
  const path = request.url.split('?')[0]
  const service = { '/graphql': graphql, '/mqtt': mqtt }[path] ?? plain
  service.handleUpgrade(request, socket, head, (stream) => {
    say(`opened ${request.url} ${stream.extensions || '-'}`)
    stream.on('close', (code) => say(`closed ${path} ${code}`))
    service.emit('connection', stream, request)
  })
})

async function main() {
  const { Aedes } = await import(require.resolve('aedes'))
  const broker = await Aedes.createBroker()
  mqtt.on('connection', (socket) => broker.handle(createWebSocketStream(socket)))
  server.listen(0, '127.0.0.1', () => say(`listening 127.0.0.1:${server.address().port}`))
}

main()
