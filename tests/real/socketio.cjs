// Two endpoints of one Socket.IO service that share nothing: whoever is polling must stay with the endpoint that knows the session.
// "who" is answered with X-User and the endpoint, "say" with its argument.
//
// Prints "listening ADDRESS ADDRESS" once they listen on ports that the system gave, then "ENDPOINT METHOD URL" for each request.
'use strict'
const { createServer } = require('node:http')
const { Server } = require('socket.io')

const say = (line) => process.stdout.write(`${line}\n`)

const endpoint = (name) => new Promise((resolve) => {
  const server = createServer()
  const service = new Server(server)
  service.on('connection', (socket) => {
    socket.on('who', (done) => done(socket.handshake.headers['x-user'], name))
    socket.on('say', (text, done) => done(text))
  })
  for (const event of ['request', 'upgrade']) {
    server.prependListener(event, ({ method, url }) => say(`${name} ${event === 'upgrade' ? event : method} ${url}`))
  }
  server.listen(0, '127.0.0.1', () => resolve(`127.0.0.1:${server.address().port}`))
})

Promise.all(['first', 'second'].map(endpoint)).then((addresses) => say(`listening ${addresses.join(' ')}`))
