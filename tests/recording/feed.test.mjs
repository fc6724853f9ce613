// A feed that says the same to everybody: one upstream connection, however many
// clients there are and however often it drops.

import assert from "node:assert/strict"
import { randomUUID } from "node:crypto"
import { after, before, test } from "node:test"
import { assertConsecutive, BEGIN, numbers, readFeed } from "./feeds.mjs"
import { parseEvents, patience, recordRoute, startBoth, startRelay, until } from "./support.mjs"

let both
before(async () => {
  both = await startBoth((upstream) =>
    recordRoute(upstream, "/shared", "share = true")
    + recordRoute(upstream, "/idle", `share = true\nidle_stop = "300ms"`)
    + recordRoute(upstream, "/brief", `share = true\nretention = { bytes = "64KiB" }`)
    + recordRoute(upstream, "/short", `share = true\nevent_ids = true\nretention = { bytes = "64KiB" }`)
    + recordRoute(upstream, "/feed", "share = true\nalways = true").replace("/feed/*", "/feed/kept").replace('strip_prefix = "/feed"', ""),
  { HEADWATER__LOG__SEGMENT_BYTES: "64KiB" })
})
after(() => both.stop())

test("a hundred clients are one for the upstream, which sees nobody's credentials", patience, async () => {
  const name = randomUUID()
  const ask = (n) => readFeed(`${both.server.url}/shared/feed/${name}?interval=10`, 50, { authorization: `Bearer ${n}`, cookie: `id=${n}` })
  for (const client of await Promise.all(Array.from({ length: 100 }, (_, n) => ask(n)))) {
    assert.ok(client.whole)
    assertConsecutive(numbers(client))
  }
  const call = await both.upstream.calls(`GET /feed/${name}`)
  assert.equal(call.calls, 1)
  assert.equal(call.headers.authorization, undefined)
  assert.equal(call.headers.cookie, undefined)
})

for (const how of ["drop_after", "break_after"]) {
  test(`an upstream that drops (${how}) is called again, and clients notice nothing`, patience, async () => {
    const name = randomUUID()
    const url = `${both.server.url}/shared/feed/${name}?interval=20&${how}=15`
    const clients = await Promise.all(Array.from({ length: 5 }, () => readFeed(url, 60)))
    for (const client of clients) {
      assert.ok(client.whole)
      assertConsecutive(numbers(client))
    }
    const call = await both.upstream.calls(`GET /feed/${name}`)
    assert.ok(call.calls >= 4)
    assert.match(call.headers["last-event-id"], /^\d+$/)
  })
}

test("a client that was cut goes on by Last-Event-ID", patience, async () => {
  const name = randomUUID()
  const relay = await startRelay(both.server.url, (n) => 200 + n * 150)
  const stay = readFeed(`${both.server.url}/shared/feed/${name}?interval=10`, 200)
  const found = []
  let last
  while (found.length < 150) {
    const { events } = await readFeed(`${relay.url}/shared/feed/${name}?interval=10`, 1000, last ? { "last-event-id": last } : {})
    found.push(...events)
    last = events.at(-1)?.id ?? last
  }
  assertConsecutive(numbers({ events: found }))
  assert.ok(relay.cuts > 2)
  await stay
  assert.equal((await both.upstream.calls(`GET /feed/${name}`)).calls, 1)
  relay.stop()
})

test("a feed that nobody reads is left, and taken up again where it was", patience, async () => {
  const name = randomUUID()
  const url = `${both.server.url}/idle/feed/${name}?interval=20`
  const first = await readFeed(url, 10)
  await until(async () => (await both.upstream.calls(`GET /feed/${name}`)).cancelled === 1)
  const last = first.events.at(-1).id
  const second = await readFeed(url, 40, { "last-event-id": last })
  assertConsecutive([...numbers(first), ...numbers(second)])
  assert.equal((await both.upstream.calls(`GET /feed/${name}`)).calls, 2)
})

test("an upstream that gives ids rarely is told its last one, wherever that is", patience, async () => {
  const name = randomUUID()
  const url = `${both.server.url}/idle/feed/${name}?interval=2&ids=100000&size=2000`
  // Four segments behind the only id.
  await readFeed(url, 130)
  await until(async () => (await both.upstream.calls(`GET /feed/${name}`)).cancelled === 1)
  await readFeed(url, 1)
  const call = await both.upstream.calls(`GET /feed/${name}`)
  assert.equal(call.calls, 2)
  assert.equal(call.headers["last-event-id"], "1")
})

test("a client whose event is looked for while the feed is trimmed is answered", patience, async () => {
  const url = `${both.server.url}/brief/feed/${randomUUID()}?interval=1&size=8000`
  const gone = new AbortController()
  const stay = await fetch(url, { signal: gone.signal })
  const drain = stay.body.pipeTo(new WritableStream()).catch(() => {})
  const ask = async () => {
    for (let n = 0; n < 50; n++) await readFeed(url, 1, { "last-event-id": "none" })
  }
  await Promise.all(Array.from({ length: 8 }, ask))
  gone.abort()
  await drain
})

test("an upstream that wants nobody back ends the answers of all clients", patience, async () => {
  const url = `${both.server.url}/shared/feed/${randomUUID()}?interval=20&since=start&last=20`
  const clients = await Promise.all(Array.from({ length: 3 }, () => fetch(url)))
  for (const client of clients) {
    const events = parseEvents(Buffer.from(await client.arrayBuffer()))
    assert.equal(JSON.parse(events.at(-1).data).n, 20)
  }
})

test("a feed that is always kept is recorded before anybody asks, and goes on when all have left", patience, async () => {
  const calls = () => both.upstream.calls("GET /feed/kept")
  await until(async () => (await calls())?.running === 1)
  const { response, events } = await readFeed(`${both.server.url}/feed/kept`, 5)
  const url = response.headers.get("stream-url")
  const seen = events.at(-1).data
  const kept = await until(async () => {
    const kept = parseEvents(Buffer.from(await (await fetch(`${url}&offset=-1`)).text())).map(({ data }) => data)
    return kept.length > kept.indexOf(seen) + 20 && kept
  })
  assert.equal(JSON.parse(kept[0]).n, 1, "from the upstream's first event on")
  assert.equal((await calls()).calls, 1)
})

test("a feed keeps its last bytes; what comes from before them is told", patience, async () => {
  const url = `${both.server.url}/short/events?count=endless&delay=1&size=2000`
  const first = await readFeed(url, 3)
  const streamUrl = first.response.headers.get("stream-url")
  const gone = new AbortController()
  const stay = await fetch(url, { signal: gone.signal })
  const trimmed = await until(async () => {
    const response = await fetch(`${streamUrl}&offset=${BEGIN}`)
    if (response.status === 410) return response
    await response.arrayBuffer()
  })
  assert.equal((await trimmed.json()).code, "OFFSET_TRIMMED")
  assert.match(trimmed.headers.get("stream-earliest-offset"), /^\d{16}_\d{16}$/)
  const earliest = await fetch(`${streamUrl}&offset=${trimmed.headers.get("stream-earliest-offset")}`)
  assert.ok([200, 410].includes(earliest.status), "it may have moved on")
  // Whose last event is trimmed, which that of others is not at once, goes on from the earliest that is kept.
  await until(async () => {
    const on = await readFeed(url, 10, { "last-event-id": first.events.at(-1).id })
    assertConsecutive(numbers(on))
    return numbers(on)[0] > numbers(first).at(-1) + 1
  })
  gone.abort()
  await stay.body.cancel().catch(() => {})
})
