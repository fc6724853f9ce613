// A client that lost its connection goes on, and the upstream is called once.

import assert from "node:assert/strict"
import { randomUUID } from "node:crypto"
import { after, before, test } from "node:test"
import { eventsText } from "../upstream/events.mjs"
import { parseEvents, patience, readAll, startBoth, startRelay, until, withoutIds } from "./support.mjs"

let both
before(async () => { both = await startBoth() })
after(() => both.stop())

test("by Last-Event-ID, after any byte, again and again", patience, async () => {
  for (const shape of ["count=40&delay=2", "count=40&delay=2&end=crlf&split=11", "count=40&end=cr"]) {
    const key = randomUUID()
    let bytesLeft = 100
    const relay = await startRelay(both.server.url, () => (bytesLeft += 173))
    const events = []
    let last
    let text = ""
    for (;;) {
      const headers = last ? { "last-event-id": last } : {}
      const response = await fetch(`${relay.url}/ids/events?${shape}&key=${key}`, { headers })
      if (response.status === 204) break
      assert.equal(response.status, 200)
      const { bytes, whole } = await readAll(response)
      const got = parseEvents(bytes)
      events.push(...got)
      last = got.at(-1)?.id ?? last
      text += withoutIds(bytes)
      if (whole) break
    }
    assert.ok(relay.cuts > 3)
    const expected = parseEvents(Buffer.from(eventsText(shape)))
    assert.deepEqual(events.map(({ data }) => data), expected.map(({ data }) => data))
    assert.ok(text.endsWith(eventsText(shape).slice(-20)))
    assert.equal((await both.upstream.calls(key)).calls, 1)
    relay.stop()
  }
})

test("by the same Idempotency-Key, from the start, while it runs and later, byte for byte", patience, async () => {
  const key = randomUUID()
  const ask = (base, more = {}) =>
    fetch(`${base}/plain/events?count=40&delay=20&key=${key}`, { headers: { "idempotency-key": key, ...more } })
  const relay = await startRelay(both.server.url, (n) => (n === 0 ? 300 : Infinity))
  const first = await readAll(await ask(relay.url))
  assert.equal(first.whole, false)
  const running = await readAll(await ask(relay.url))
  assert.equal(running.bytes.toString(), eventsText("count=40"))
  const later = await ask(relay.url)
  assert.equal(later.headers.get("x-upstream"), "test")
  assert.equal(await later.text(), eventsText("count=40"))
  assert.ok(running.bytes.toString().startsWith(first.bytes.toString()))
  assert.equal((await both.upstream.calls(key)).calls, 1)
  relay.stop()
})

test("a key attaches before the upstream has answered", patience, async () => {
  const key = randomUUID()
  const ask = () => fetch(`${both.server.url}/plain/events?count=5&head_after=1000&key=${key}`, { headers: { "idempotency-key": key } })
  const answers = await Promise.all(Array.from({ length: 20 }, ask))
  const texts = await Promise.all(answers.map((answer) => answer.text()))
  for (const text of texts) assert.equal(text, eventsText("count=5"))
  assert.equal((await both.upstream.calls(key)).calls, 1)
})

test("a key is of its caller, its route and its request", patience, async () => {
  const key = randomUUID()
  const ask = (path, headers = {}) => fetch(`${both.server.url}${path}&key=${key}`, { headers: { "idempotency-key": key, ...headers } })
  await (await ask("/plain/events?count=3")).text()
  await (await ask("/plain/events?count=3", { authorization: "Bearer other" })).text()
  await (await ask("/ids/events?count=3")).text()
  assert.equal((await both.upstream.calls(key)).calls, 3)
  const other = await ask("/plain/events?count=4")
  assert.ok(other.status === 409 || other.status === 422, `${other.status}`)
  assert.equal((await both.upstream.calls(key)).calls, 3)
})

test("another caller's Last-Event-ID opens nothing", patience, async () => {
  const key = randomUUID()
  const ask = (headers) => fetch(`${both.server.url}/ids/events?count=3&key=${key}`, { headers })
  const mine = await readAll(await ask({ authorization: "Bearer me" }))
  const [first] = parseEvents(mine.bytes)
  const other = await readAll(await ask({ authorization: "Bearer other", "last-event-id": first.id }))
  assert.equal(parseEvents(other.bytes).length, 3)
  assert.ok(parseEvents(other.bytes).every(({ id }) => id.split(".")[0] !== first.id.split(".")[0]))
  assert.equal((await both.upstream.calls(key)).calls, 2)
})

test("an upstream's own ids resume a keyed request", patience, async () => {
  const key = randomUUID()
  const ask = (headers) => fetch(`${both.server.url}/plain/events?count=9&ids=1&key=${key}`, { headers: { "idempotency-key": key, ...headers } })
  await (await ask({})).text()
  const rest = await (await ask({ "last-event-id": "4" })).text()
  assert.equal(rest, eventsText("count=5&from=5&ids=1"))
  assert.equal((await both.upstream.calls(key)).calls, 1)
})

test("a client that has seen all is told that there is no more", patience, async () => {
  const ask = (headers) => fetch(`${both.server.url}/ids/events?count=3`, { headers })
  const { bytes } = await readAll(await ask({}))
  const last = parseEvents(bytes).at(-1).id
  const response = await ask({ "last-event-id": last })
  assert.equal(response.status, 204)
  assert.equal(response.headers.get("stream-end"), "completed")
})

test("many watch one recording along", patience, async () => {
  const key = randomUUID()
  const response = await fetch(`${both.server.url}/plain/events?count=100&delay=10&key=${key}`)
  const url = response.headers.get("stream-url")
  const watch = async () => {
    let text = ""
    for (const match of (await (await fetch(`${url}&offset=-1&live=sse`)).text()).matchAll(/^event: data\n((?:data:.*\n)+)/gm)) {
      text += match[1].replace(/\n$/, "").split("\n").map((line) => line.slice(5).replace(/^ /, "")).join("\n")
    }
    return text
  }
  const texts = await Promise.all([response.text(), ...Array.from({ length: 50 }, watch)])
  for (const text of texts) assert.equal(text, eventsText("count=100"))
  await until(async () => (await both.upstream.calls(key)).completed === 1)
})
