// An issuer: npm's `oidc-provider`, driven by lines of JSON. Its argument is a folder with cert.pem, key.pem, bad-cert.pem and
// bad-key.pem. It knows one client, `robot` with the secret `robot-secret`, and gives it RS256 `at+jwt` for the audience `gate`; the
// resource `https://gate.test/10` asks for one that lives for ten seconds.
//
//   {"publish": [KEY, ..], "sign": KEY}    the keys of the set, by any names, and the one that signs
//   {"jwks": "ok" | "slow" | "endless" | "empty" | "html" | "oct" | "error", "discovery": likewise}
//   {"certificate": "good" | "bad"}
//   {"listen": true | false}
//   {"asked": true}                        how often each path was asked for
//   {"token": SECONDS, "kid": TEXT}        a token with this in its header, signed by the key that signs; RS256
'use strict'
const crypto = require('node:crypto')
const fs = require('node:fs')
const https = require('node:https')
const path = require('node:path')
const readline = require('node:readline')
const { pathToFileURL } = require('node:url')

const [folder] = process.argv.slice(2)
const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`)
const pair = (prefix) => ({
  cert: fs.readFileSync(path.join(folder, `${prefix}cert.pem`)),
  key: fs.readFileSync(path.join(folder, `${prefix}key.pem`)),
})

const asked = {}
const behaviour = { jwks: 'ok', discovery: 'ok' }
const keys = new Map()
let Provider, handle, issuer, signing

const key = (name) => {
  if (!keys.has(name)) {
    const { privateKey } = crypto.generateKeyPairSync('rsa', { modulusLength: 2048 })
    keys.set(name, { ...privateKey.export({ format: 'jwk' }), kid: name, use: 'sig' })
  }
  return keys.get(name)
}

// A provider has its keys for life: another set is another provider in the same place.
const publish = (names, sign) => {
  signing = sign
  const provider = new Provider(issuer, {
    jwks: { keys: names.map(key) },
    clients: [
      {
        client_id: 'robot',
        client_secret: 'robot-secret',
        grant_types: ['client_credentials'],
        redirect_uris: [],
        response_types: [],
      },
    ],
    scopes: ['chat'],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => 'https://gate.test/10',
        getResourceServerInfo: (_context, resource) => ({
          scope: 'chat',
          audience: 'gate',
          accessTokenFormat: 'jwt',
          accessTokenTTL: Number(new URL(resource).pathname.slice(1)),
          jwt: { sign: { alg: 'RS256', kid: sign } },
        }),
      },
    },
    cookies: { keys: ['of no use here'] },
    ttl: { ClientCredentials: (_context, token) => token.resourceServer.accessTokenTTL },
  })
  handle = provider.callback()
}

const misbehave = {
  slow: (request, response) => setTimeout(() => handle(request, response), 3000),
  endless: (_request, response) => {
    response.writeHead(200, { 'Content-Type': 'application/json' })
    response.write('{"keys":[')
    const more = () => response.destroyed || (response.write(' '.repeat(1 << 16)) ? setImmediate(more) : response.once('drain', more))
    more()
  },
  empty: (_request, response) => response.end('{"keys":[]}'),
  html: (_request, response) => response.end('<html>Welcome</html>'),
  oct: (_request, response) => {
    const secret = { kty: 'oct', kid: signing, alg: 'HS256', k: Buffer.alloc(32, 'k').toString('base64url') }
    response.end(JSON.stringify({ keys: [secret] }))
  },
  error: (_request, response) => response.writeHead(500).end('no'),
}

const server = https.createServer(pair(''), (request, response) => {
  const { pathname } = new URL(request.url, issuer)
  asked[pathname] = (asked[pathname] ?? 0) + 1
  const what = { '/jwks': behaviour.jwks, '/.well-known/openid-configuration': behaviour.discovery }[pathname] ?? 'ok'
  const answer = misbehave[what] ?? handle
  answer(request, response)
})
server.keepAliveTimeout = 1000

const listen = (at) => new Promise((resolve, reject) => server.once('error', reject).listen(at, '127.0.0.1', resolve))
const leave = () =>
  new Promise((resolve) => {
    server.close(resolve)
    server.closeAllConnections()
  })

const token = (life, kid) => {
  const now = Math.floor(Date.now() / 1000)
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const claims = { iss: issuer, aud: 'gate', sub: 'robot', iat: now, exp: now + life, jti: crypto.randomUUID() }
  const signed = `${part({ alg: 'RS256', typ: 'at+jwt', kid })}.${part(claims)}`
  const signature = crypto.sign('sha256', Buffer.from(signed), crypto.createPrivateKey({ key: key(signing), format: 'jwk' }))
  return `${signed}.${signature.toString('base64url')}`
}

const obey = async (ask) => {
  if (ask.publish) publish(ask.publish, ask.sign)
  if (ask.jwks) behaviour.jwks = ask.jwks
  if (ask.discovery) behaviour.discovery = ask.discovery
  if (ask.certificate) server.setSecureContext(pair(ask.certificate === 'bad' ? 'bad-' : ''))
  if (ask.listen === true) await listen(Number(new URL(issuer).port))
  if (ask.listen === false) await leave()
  if (ask.token) return token(ask.token, ask.kid)
  return ask.asked ? asked : null
}

const main = async () => {
  const module = path.join(process.env.NODE_PATH, 'oidc-provider/lib/index.js')
  Provider = (await import(pathToFileURL(module))).Provider
  await listen(0)
  issuer = `https://localhost:${server.address().port}`
  publish(['first'], 'first')
  say({ ready: issuer })
  for await (const line of readline.createInterface({ input: process.stdin })) {
    try {
      say({ value: await obey(JSON.parse(line)) })
    } catch (error) {
      say({ error: String(error) })
    }
  }
  process.exit()
}

main()
