// A VNC server, small: RFB 3.8 (RFC 6143) without a password, and one screen of 64 by 48 that is red, until a key is pressed: `g` makes
// it green, `b` blue. Between keys it says nothing.
//
// Prints "listening ADDRESS" once it listens on a port that the system gave, then "connected" and "left" for each client.
'use strict'
const { createServer } = require('node:net')

const [WIDTH, HEIGHT] = [64, 48]
const COLOURS = { g: [0, 255, 0], b: [0, 0, 255] }
const say = (line) => process.stdout.write(`${line}\n`)

/** 32 bits, little-endian, red in the first byte: what noVNC asks for too. */
const PIXELS = Buffer.from([32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 0, 8, 16, 0, 0, 0])

const number = (bits, value) => {
  const bytes = Buffer.alloc(bits / 8)
  bytes.writeUIntBE(value, 0, bits / 8)
  return bytes
}

const initialisation = () => {
  const name = Buffer.from('a small screen')
  return Buffer.concat([number(16, WIDTH), number(16, HEIGHT), PIXELS, number(32, name.length), name])
}

const update = (colour) => Buffer.concat([
  Buffer.from([0, 0]), number(16, 1),
  number(16, 0), number(16, 0), number(16, WIDTH), number(16, HEIGHT), number(32, 0),
  ...Array(WIDTH * HEIGHT).fill(Buffer.from([...colour, 255])),
])

/** The length of a client's message, as soon as its beginning tells. */
const length = (bytes) => {
  const least = { 0: 20, 2: 4, 3: 10, 4: 8, 5: 6, 6: 8 }[bytes[0]]
  if (!least) throw new Error(`unknown message ${bytes[0]}`)
  if (bytes.length < least) return least
  return least + ({ 2: () => 4 * bytes.readUInt16BE(2), 6: () => bytes.readUInt32BE(4) }[bytes[0]]?.() ?? 0)
}

createServer((socket) => {
  say('connected')
  let held = Buffer.alloc(0)
  let colour = [255, 0, 0]
  let [dirty, wanted] = [true, false]
  const paint = () => {
    if (!dirty || !wanted) return
    socket.write(update(colour))
    dirty = wanted = false
  }
  // What the client must send next, how much of it, and what it is answered: first the handshake, then messages.
  const steps = [
    [12, () => socket.write(Buffer.from([1, 1]))],
    [1, () => socket.write(number(32, 0))],
    [1, () => socket.write(initialisation())],
  ]
  const message = (bytes) => {
    if (bytes[0] === 3) {
      wanted = true
      dirty ||= bytes[1] === 0
    }
    if (bytes[0] === 4 && bytes[1] === 1) {
      colour = COLOURS[String.fromCharCode(bytes.readUInt32BE(4))] ?? colour
      dirty = true
    }
    paint()
  }
  socket.on('data', (data) => {
    held = Buffer.concat([held, data])
    while (held.length > 0) {
      const need = steps.length > 0 ? steps[0][0] : length(held)
      if (held.length < need) return
      const bytes = held.subarray(0, need)
      held = held.subarray(need)
      if (steps.length > 0) steps.shift()[1]()
      else message(bytes)
    }
  })
  socket.on('error', () => {})
  socket.on('close', () => say('left'))
  socket.write('RFB 003.008\n')
}).listen(0, '127.0.0.1', function () { say(`listening 127.0.0.1:${this.address().port}`) })
