// A server that is stopped and started again: recordings come to their end, or say that
// they did not, and feeds go on where they were.

import assert from "node:assert/strict"
import { randomUUID } from "node:crypto"
import { test } from "node:test"
import { eventsText } from "../upstream/events.mjs"
import { assertConsecutive, BEGIN, numbers, readFeed } from "./feeds.mjs"
import { endOf, parseEvents, patience, readAll, recordRoute, startBoth, startByHand, startRelay, startUpstream, until } from "./support.mjs"

/** Sends SIGTERM, and starts the server again with what it left; `meanwhile` begins once it is stopping. */
async function restart(server, meanwhile = () => {}) {
  const said = server.log().length
  process.kill(server.pid(), "SIGTERM")
  await until(() => / stopping$/m.test(server.log().slice(said)))
  await meanwhile()
  assert.equal(await until(() => server.ended()), "exit code 0")
  await server.crash()
}

/** All that a stream holds. */
const kept = async (streamUrl) => (await fetch(`${streamUrl}&offset=${BEGIN}`)).text()

/** An upstream whose answers have one event, and a second one, and their end, when `finish` is called. */
async function startHeld() {
  const held = await startByHand(eventsText("count=1"))
  const finish = () => held.answers.forEach((answer) => answer.end(eventsText("count=1&from=2")))
  return { ...held, finish }
}

test("a stop lets recordings come to their end, with and without their clients", patience, async (t) => {
  const held = await startHeld()
  t.after(held.stop)
  const both = await startBoth(() => recordRoute(held, "/held"), { HEADWATER__SHUTDOWN_TIMEOUT: "5m" })
  t.after(both.stop)
  const keys = Array.from({ length: 6 }, () => randomUUID())
  const ask = (key, more = {}) => fetch(`${both.server.url}/held/`, { headers: { "idempotency-key": key }, ...more })
  const gone = new AbortController()
  const [left, ...running] = await Promise.all(keys.map((key, n) => ask(key, n === 0 ? { signal: gone.signal } : {})))
  gone.abort()
  const reading = running.map(readAll)
  await restart(both.server, held.finish)

  const whole = eventsText("count=2")
  for (const answer of await Promise.all(reading)) {
    assert.ok(answer.whole)
    assert.equal(answer.bytes.toString(), whole)
  }
  for (const response of [left, ...running]) {
    const url = response.headers.get("stream-url")
    assert.deepEqual(await endOf(url), { end: "completed", reason: null })
    assert.equal(await kept(url), whole)
  }
  for (const key of keys) assert.equal(await (await ask(key)).text(), whole)
  assert.equal(held.answers.length, keys.length)
})

test("what does not end in time is closed as interrupted, with all that came", patience, async (t) => {
  const both = await startBoth()
  t.after(both.stop)
  const keys = Array.from({ length: 10 }, () => randomUUID())
  const ask = (key) => fetch(`${both.server.url}/plain/events?count=endless&delay=20&key=${key}`, { headers: { "idempotency-key": key } })
  const running = await Promise.all(keys.map(ask))
  const urls = running.map((response) => response.headers.get("stream-url"))
  const reading = running.map(readAll)
  const count = (text) => parseEvents(Buffer.from(text)).length
  const before = await until(async () => {
    const counts = (await Promise.all(urls.map(kept))).map(count)
    return counts.every((count) => count > 5) && counts
  })
  await restart(both.server)

  for (const [n, url] of urls.entries()) {
    const { bytes, whole } = await reading[n]
    assert.equal(whole, false)
    assert.deepEqual(await endOf(url), { end: "failed", reason: "interrupted" })
    const text = await kept(url)
    assert.ok(text.startsWith(bytes.toString()), "what a client saw is there")
    assert.ok(count(text) > before[n] + 20, "it went on while there was time")
    assert.equal(text, eventsText(`count=${count(text) + 1}`).slice(0, text.length))
    const again = await readAll(await ask(keys[n]))
    assert.equal(again.whole, false)
    assert.equal(again.bytes.toString(), text)
    assert.equal((await both.upstream.calls(keys[n])).calls, 1)
  }
  const ended = both.server.log().split("\n").filter((line) => line.includes("a recording ended"))
  assert.equal(ended.filter((line) => line.includes(`reason="interrupted"`)).length, keys.length, "closed by the stop, not by the start")
})

const urlOf = ({ response }) => response.headers.get("stream-url")
const lastOf = ({ events }) => events.at(-1).id
/** All that the stream of a feed holds. */
const keptEvents = async (feed) => ({ events: parseEvents(Buffer.from(await kept(urlOf(feed)))) })

for (const [how, again] of [["a stop", restart], ["a crash", (server) => server.crash()]]) {
  test(`a feed goes on in its stream after ${how}`, patience, async (t) => {
    const both = await startBoth((upstream) => recordRoute(upstream, "/shared", "share = true"))
    t.after(both.stop)
    const name = randomUUID()
    const url = `${both.server.url}/shared/feed/${name}?interval=20`
    const call = () => both.upstream.calls(`GET /feed/${name}`)
    const first = await readFeed(url, 20)
    await again(both.server)

    const before = numbers(await keptEvents(first))
    const second = await readFeed(url, 50, { "last-event-id": lastOf(first) })
    assertConsecutive([...numbers(first), ...numbers(second)])
    assert.equal(new URL(urlOf(second)).pathname, new URL(urlOf(first)).pathname)
    const all = numbers(await keptEvents(second))
    assert.ok(all.length > before.length)
    assertConsecutive(all)
    assert.equal(all[0], before[0])
    assert.equal((await call()).headers["last-event-id"], `${before.at(-1)}`)
    assert.equal((await call()).calls, 2)
  })
}

test("a feed loses nothing when its first connection after a restart gives no event", patience, async (t) => {
  const upstream = await startUpstream()
  t.after(upstream.stop)
  const relay = await startRelay(upstream.url, (n) => (n === 1 ? 0 : Infinity))
  t.after(relay.stop)
  const both = await startBoth(() => recordRoute(relay, "/shared", "share = true"))
  t.after(both.stop)
  const url = `${both.server.url}/shared/feed/${randomUUID()}?interval=20`
  const first = await readFeed(url, 20)
  await restart(both.server)
  const second = await readFeed(url, 50, { "last-event-id": lastOf(first) })
  assert.equal(relay.cuts, 1)
  assertConsecutive([...numbers(first), ...numbers(second)])
})

test("clients of a feed are sent away by a stop, with the end of their answer", patience, async (t) => {
  const both = await startBoth((upstream) => recordRoute(upstream, "/shared", "share = true"), { HEADWATER__SHUTDOWN_TIMEOUT: "5m" })
  t.after(both.stop)
  const response = await fetch(`${both.server.url}/shared/feed/${randomUUID()}?interval=20`)
  const reading = readAll(response)
  await until(async () => (await kept(response.headers.get("stream-url"))).length > 0)
  await restart(both.server)
  const { bytes, whole } = await reading
  assert.ok(whole)
  assertConsecutive(numbers({ events: parseEvents(bytes) }))
  const url = response.headers.get("stream-url")
  assert.equal((await fetch(url, { method: "HEAD" })).headers.get("stream-closed"), null)
})
