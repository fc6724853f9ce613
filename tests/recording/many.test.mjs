// A thousand recordings at once, whose clients leave when they like: all complete.

import assert from "node:assert/strict"
import { randomUUID } from "node:crypto"
import fs from "node:fs"
import http from "node:http"
import { after, before, test } from "node:test"
import { eventsText } from "../upstream/events.mjs"
import { patience, startBoth, until } from "./support.mjs"

const RECORDINGS = 1000
const EVENTS = 50
const MEMORY_BYTES_MAX = 512 << 20

let both
before(async () => { both = await startBoth() })
after(() => both.stop())

/** Asks, and leaves after so many bytes; resolves when the connection is gone. */
function ask(url, key, bytesMax) {
  return new Promise((resolve) => {
    const request = http.get(url, { agent: false, headers: { "idempotency-key": key } }, (response) => {
      const parts = []
      let bytes = 0
      response.on("data", (part) => {
        parts.push(part)
        bytes += part.length
        if (bytes > bytesMax) request.destroy()
      })
      response.on("error", () => {})
      response.on("close", () => resolve({ whole: response.complete, status: response.statusCode, text: Buffer.concat(parts).toString() }))
    })
    request.on("error", () => resolve({ whole: false, text: "" }))
    if (bytesMax < 0) setTimeout(() => request.destroy(), Math.random() * 2000)
  })
}

/** The most memory that a process has held. */
function peakBytes(pid) {
  const [, kib] = /^VmHWM:\s+(\d+) kB$/m.exec(fs.readFileSync(`/proc/${pid}/status`, "utf8"))
  return Number(kib) * 1024
}

test(`${RECORDINGS} recordings complete while their clients leave`, patience, async () => {
  const shape = `count=${EVENTS}&delay=200&size=200`
  const name = randomUUID()
  const expected = eventsText(shape)
  const url = `${both.server.url}/plain/events?${shape}&key=${name}`
  const keys = Array.from({ length: RECORDINGS }, () => randomUUID())
  await Promise.all(keys.map(async (key) => {
    // A quarter stays, a quarter leaves before the first byte or soon after.
    const share = Math.random()
    const bytesMax = share < 0.25 ? Infinity : share < 0.5 ? -1 : Math.random() * expected.length
    const { whole, text } = await ask(url, key, bytesMax)
    assert.ok(expected.startsWith(text))
    if (bytesMax === Infinity) assert.ok(whole && text === expected)
  }))
  const calls = await until(async () => {
    const entry = await both.upstream.calls(name)
    return entry.running === 0 && entry
  })
  assert.equal(calls.cancelled, 0)
  assert.equal(calls.completed, calls.calls)

  // Those whose request never came to the server begin now; all others are there.
  const answers = await Promise.all(keys.map((key) => ask(url, key, Infinity)))
  for (const { whole, text } of answers) assert.ok(whole && text === expected)
  assert.equal((await both.upstream.calls(name)).calls, RECORDINGS)
  const peak = peakBytes(both.server.pid())
  assert.ok(peak < MEMORY_BYTES_MAX, `${Math.round(peak / (1 << 20))} MiB`)
})
