import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { gzipSync } from 'node:zlib'
import './world.js'
import * as module from '../portcullis.js'

const read = (name) => readFileSync(new URL(`../${name}`, import.meta.url), 'utf8')

test('the client takes at most 4 KiB, gzipped', () => {
  const size = gzipSync(read('portcullis.js'), { level: 9 }).length
  assert.ok(size <= 4096, `${size} bytes`)
})

test('it needs nothing, and every file that the package names is there', () => {
  const { dependencies, files, exports, types } = JSON.parse(read('package.json'))
  assert.equal(dependencies, undefined)
  for (const name of [...files, types, ...Object.values(exports['.'])]) assert.ok(read(name).length > 0)
  assert.doesNotMatch(read('portcullis.js'), /^import|import\(|require\(/m)
})

test('it keeps nothing where another page or another visit could find it', () => {
  assert.doesNotMatch(read('portcullis.js'), /Storage|indexedDB|cookie|caches|console|postMessage/)
})

test('the types tell of every public name', () => {
  const types = read('portcullis.d.ts')
  const { prototype } = module.PortcullisSocket
  const names = [...Object.keys(module), ...Object.getOwnPropertyNames(prototype), 'token']
  let seen = 0
  for (const name of names.filter((name) => name !== 'constructor')) {
    assert.match(types, new RegExp(`\\b${name}\\b`), name)
    seen++
  }
  assert.ok(seen > 25, `${seen} names`)
})

test('the recipes of the README are good modules and name what there is', () => {
  const readme = read('README.md')
  const blocks = [...readme.matchAll(/^```js\n(.*?)^```/gms)].map(([, block]) => block)
  assert.equal(blocks.length, 5)
  const folder = mkdtempSync(join(tmpdir(), 'recipes-'))
  try {
    for (const [index, block] of blocks.entries()) {
      const file = join(folder, `${index}.mjs`)
      writeFileSync(file, block)
      execFileSync(process.execPath, ['--check', file])
      for (const [, names] of block.matchAll(/import (.*) from '.\/portcullis.js'/g)) {
        for (const name of names.match(/\w+/g)) assert.ok(name in module || name === 'portcullis', name)
      }
    }
  } finally {
    rmSync(folder, { recursive: true })
  }
  const options = read('portcullis.d.ts').split('export interface Options {')[1].split('\n}\n')[0]
  const named = [...options.matchAll(/^ {2}(\w+)\??[(:]/gm)].map(([, name]) => name)
  assert.ok(named.length > 10)
  for (const name of named.filter((name) => !name.startsWith('on'))) assert.match(readme, new RegExp(`^\\| \`${name}\\b`, 'm'), name)
})
