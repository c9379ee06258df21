// A browser without a window, driven by lines of JSON: one request per line of standard input, one answer per line of
// standard output. Chromium is spoken to by its DevTools protocol, Firefox by WebDriver BiDi, both over a WebSocket.
//
//   node browser.cjs chromium|firefox FOLDER CA.pem
//   {"go": URL}              loads a page
//   {"eval": EXPRESSION}     evaluates it in the page, awaits a promise -> {"value": ...} (as JSON.stringify has it)
//   {"size": [WIDTH, HEIGHT]} sets the size of the page
//   {"shot": FILE}           saves a picture of the page
//   {"script": TEXT}         runs it in each page from now on, before the page's own (Chromium)
//   {"signal": NAME}         sends a signal to all processes of the browser
// FOLDER is empty and holds the profile, in which the authority CA.pem is trusted. No further trust is given.
'use strict'
const { spawn, execFileSync } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const readline = require('node:readline')
const WebSocket = require('ws')

const [kind, folder, authority] = process.argv.slice(2)
let signal

/** Sends commands and awaits their answers over one WebSocket. */
class Wire {
  constructor(socket) {
    this.socket = socket
    this.last = 0
    this.waiting = new Map()
    socket.on('message', (data) => {
      const answer = JSON.parse(data)
      const waiter = this.waiting.get(answer.id)
      if (!waiter) return
      this.waiting.delete(answer.id)
      if (answer.error || answer.type === 'error') waiter.reject(new Error(JSON.stringify(answer.error ?? answer)))
      else waiter.resolve(answer.result)
    })
    socket.on('close', () => process.exit(3))
  }

  static async open(url) {
    const socket = new WebSocket(url, { perMessageDeflate: false, maxPayload: 256 << 20 })
    await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
    return new Wire(socket)
  }

  call(method, params = {}, sessionId = undefined) {
    const id = ++this.last
    this.socket.send(JSON.stringify({ id, method, params, sessionId }))
    return new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }))
  }
}

/** Trusts the authority in the certificate database of a profile. */
function trust(database) {
  fs.mkdirSync(database, { recursive: true })
  const certutil = (...args) => execFileSync('certutil', ['-d', `sql:${database}`, ...args])
  certutil('-N', '--empty-password')
  certutil('-A', '-n', 'test', '-t', 'C,,', '-i', authority)
}

/** All processes that come from this one, itself included. */
function tree(root) {
  const parents = fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name)).flatMap((pid) => {
    try {
      // The name in parentheses may hold anything; the parent is the second field after it.
      const stat = fs.readFileSync(`/proc/${pid}/stat`, 'latin1')
      return [[Number(pid), Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])]]
    } catch {
      return [] // it has left
    }
  })
  const found = [root]
  for (const one of found) found.push(...parents.filter(([, parent]) => parent === one).map(([pid]) => pid))
  return found
}

/** Starts the program and waits for the line in its output that says where it can be reached. */
function start(program, args, environment) {
  const child = spawn(program, args, { env: { ...process.env, ...environment }, stdio: ['ignore', 'ignore', 'pipe'], detached: true })
  const end = () => { try { process.kill(-child.pid, 'SIGKILL') } catch { /* it has left */ } }
  signal = (name) => { for (const pid of tree(child.pid)) process.kill(pid, name) }
  process.on('exit', end)
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => process.exit(2))
  let output = ''
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('exit', (code) => reject(new Error(`${program} left with ${code}:\n${output}`)))
    child.stderr.on('data', (data) => {
      output += data
      const address = /(?:DevTools|WebDriver BiDi) listening on (ws:\S+)/.exec(output)
      if (address) resolve(address[1])
      output = output.slice(-4000)
    })
  })
}

async function chromium() {
  trust(path.join(folder, '.pki/nssdb'))
  const profile = path.join(folder, 'profile')
  const address = await start('chromium', [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage', '--disable-default-apps', '--hide-scrollbars',
    `--user-data-dir=${profile}`, '--remote-debugging-port=0', 'about:blank',
  ], { HOME: folder, XDG_DATA_HOME: path.join(folder, 'data'), XDG_CONFIG_HOME: path.join(folder, 'config') })
  const wire = await Wire.open(address)
  const { targetId } = await wire.call('Target.createTarget', { url: 'about:blank' })
  const { sessionId } = await wire.call('Target.attachToTarget', { targetId, flatten: true })
  const call = (method, params) => wire.call(method, params, sessionId)
  await call('Page.enable')
  const evaluate = async (expression) => {
    const answer = await call('Runtime.evaluate', { expression, awaitPromise: true, returnByValue: true })
    if (answer.exceptionDetails) throw new Error(JSON.stringify(answer.exceptionDetails.exception ?? answer.exceptionDetails))
    return answer.result.value
  }
  return {
    evaluate,
    go: async (url) => {
      const { errorText } = await call('Page.navigate', { url })
      if (errorText) throw new Error(errorText)
      while (await evaluate('document.readyState') !== 'complete') await new Promise((resolve) => setTimeout(resolve, 20))
    },
    size: ([width, height]) => call('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: width < 600 }),
    script: (source) => call('Page.addScriptToEvaluateOnNewDocument', { source }),
    shot: async () => (await call('Page.captureScreenshot', { format: 'png' })).data,
  }
}

async function firefox() {
  const profile = path.join(folder, 'profile')
  trust(profile)
  fs.writeFileSync(path.join(profile, 'user.js'), [
    ['browser.shell.checkDefaultBrowser', false],
    ['browser.startup.page', 0],
    ['app.update.enabled', false],
    ['datareporting.policy.dataSubmissionEnabled', false],
    ['toolkit.telemetry.enabled', false],
    ['network.captive-portal-service.enabled', false],
    ['network.connectivity-service.enabled', false],
    ['services.settings.server', 'http://127.0.0.1:9'],
    ['extensions.getAddons.cache.enabled', false],
    // A failed socket must fail at once: Firefox delays reconnections to a server that failed.
    ['network.websocket.delay-failed-reconnects', false],
  ].map(([key, value]) => `user_pref(${JSON.stringify(key)}, ${JSON.stringify(value)});\n`).join(''))
  const address = await start('firefox-esr', ['--headless', '--no-remote', '--profile', profile, '--remote-debugging-port', '0', 'about:blank'],
    { HOME: folder, MOZ_HEADLESS: '1', MOZ_CRASHREPORTER_DISABLE: '1' })
  const wire = await Wire.open(`${address}/session`)
  await wire.call('session.new', { capabilities: {} })
  const { contexts: [{ context }] } = await wire.call('browsingContext.getTree', {})
  return {
    evaluate: async (expression) => {
      const wrapped = `Promise.resolve((${expression})).then((value) => JSON.stringify(value))`
      const answer = await wire.call('script.evaluate', { expression: wrapped, target: { context }, awaitPromise: true })
      if (answer.type !== 'success') throw new Error(JSON.stringify(answer.exceptionDetails))
      return answer.result.type === 'undefined' ? undefined : JSON.parse(answer.result.value)
    },
    go: (url) => wire.call('browsingContext.navigate', { context, url, wait: 'complete' }),
    size: ([width, height]) => wire.call('browsingContext.setViewport', { context, viewport: { width, height }, devicePixelRatio: 1 }),
    shot: async () => (await wire.call('browsingContext.captureScreenshot', { context })).data,
  }
}

async function main() {
  const browser = await { chromium, firefox }[kind]()
  const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`)
  say({ ready: kind })
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(line)
    try {
      if ('go' in request) say({ value: (await browser.go(request.go), null) })
      else if ('eval' in request) say({ value: (await browser.evaluate(request.eval)) ?? null })
      else if ('size' in request) say({ value: (await browser.size(request.size), null) })
      else if ('shot' in request) say({ value: (fs.writeFileSync(request.shot, Buffer.from(await browser.shot(), 'base64')), null) })
      else if ('script' in request) say({ value: (await browser.script(request.script), null) })
      else if ('signal' in request) say({ value: (signal(request.signal), null) })
      else say({ error: `unknown request ${line}` })
    } catch (error) {
      say({ error: String(error.message ?? error) })
    }
  }
}

main().then(() => process.exit(0), (error) => {
  process.stderr.write(`${error.stack ?? error}\n`)
  process.exit(1)
})
