// Catch-up reads through a CDN: what it saves the origin, and what it must not hide.

import assert from "node:assert/strict"
import { after, before, test } from "node:test"
import { setTimeout as sleep } from "node:timers/promises"
import { append, call, close, create, get, names, patience, readOn, SEGMENT_BYTES, startAll, text, unique } from "./support.mjs"

const CLIENTS = 1000
const SEGMENTS = 4
const CATCH_UP = { method: "GET", mode: "catch_up" }

let all
before(async () => { all = await startAll() })
after(() => all.stop())

/** Makes requests, and tells how many of these came to the origin. */
async function counted(labels, requests) {
  const before = await all.asked(labels)
  await requests()
  return (await all.asked(labels)) - before
}

async function fill(url) {
  const line = `${"headwater ".repeat(102)}\n`
  await create(url, "")
  for (let n = 0; n * line.length < SEGMENTS * SEGMENT_BYTES; n++) await append(url, `${n} ${line}`)
}

for (const name of names) {
  const through = (path) => all.cdns[name].url + path
  const direct = (path) => all.server.url + path

  test(`${name}: ${CLIENTS} clients of a closed stream cost one request for each segment`, patience, async () => {
    const path = unique()
    await fill(direct(path))
    await close(direct(path))
    const expected = await readOn(direct(path))
    assert.ok(expected.closed && expected.answers > SEGMENTS)
    const asked = await counted(CATCH_UP, () =>
      Promise.all(Array.from({ length: CLIENTS }, async () => {
        const read = await readOn(through(path))
        assert.ok(read.body === expected.body && read.closed && read.offset === expected.offset)
      })))
    assert.equal(asked, expected.answers)
  })

  test(`${name}: the sealed part of an open stream costs as little, and its tail is always there`, patience, async () => {
    const path = unique()
    await fill(direct(path))
    const { offset, answers } = await readOn(through(path))
    for (let n = 0; n < 5; n++) {
      await append(direct(path), `more ${n}`)
      assert.equal((await get(`${through(path)}?offset=${offset}`)).body.slice(0, 6), "more 0")
    }
    // All but the last answer are fixed.
    const asked = await counted(CATCH_UP, () => readOn(through(path)))
    assert.ok(asked < answers && answers > SEGMENTS, `${asked} of ${answers}`)
  })

  test(`${name}: whoever is at the tail is never told an old one`, patience, async () => {
    const path = unique()
    await create(direct(path), "one ")
    let { offset } = await readOn(through(path))
    for (const next of ["two ", "three ", "four "]) {
      const at = `${through(path)}?offset=${offset}`
      for (let n = 0; n < 3; n++) assert.equal((await get(at)).body, "")
      await append(direct(path), next)
      const answer = await get(at)
      assert.equal(answer.body, next)
      offset = answer.headers.get("stream-next-offset")
    }
  })

  test(`${name}: an old answer is given as long as the origin says, and no longer`, patience, async () => {
    const path = unique("/short")
    const url = `${through(path)}?offset=-1`
    await create(direct(path), "one ")
    const first = await get(url)
    await append(direct(path), "two ")
    const soon = await get(url)
    assert.ok(["one ", "one two "].includes(soon.body))
    // What was left out follows at the offset that the old answer names.
    const rest = await get(`${through(path)}?offset=${first.headers.get("stream-next-offset")}`)
    assert.equal(rest.body, "two ")
    // Fresh for one second, and given while it is fetched anew for one more.
    await sleep(3500)
    assert.equal((await get(url)).body, "one two ")
  })

  test(`${name}: 304 from the cache, and from the origin when the copy is old`, patience, async () => {
    const path = unique("/short")
    const url = `${through(path)}?offset=-1`
    await create(direct(path), "one ")
    const etag = (await get(url)).headers.get("etag")
    await sleep(3500)
    const asked = await counted({ ...CATCH_UP, status: "304" }, async () => {
      await call(304, "GET", url, { headers: { "if-none-match": etag } })
    })
    assert.equal(asked, 1, "the origin is asked with the ETag")
    await append(direct(path), "two ")
    await sleep(3500)
    const more = await call(200, "GET", url, { headers: { "if-none-match": etag } })
    assert.equal(more.body, "one two ")
    await close(direct(path))
    await sleep(3500)
    const closed = await call(200, "GET", url, { headers: { "if-none-match": more.headers.get("etag") } })
    assert.equal(closed.headers.get("stream-closed"), "true")
    const last = closed.headers.get("etag")
    const none = await counted(CATCH_UP, async () => {
      const unchanged = await call(304, "GET", url, { headers: { "if-none-match": last } })
      assert.equal(unchanged.headers.get("stream-closed"), "true")
      assert.equal(unchanged.headers.get("etag"), last)
    })
    assert.equal(none, 0)
  })

  test(`${name}: the closing is seen, whatever was cached before`, patience, async () => {
    const path = unique()
    await create(direct(path), "all")
    const before = await readOn(through(path))
    assert.equal(before.closed, false)
    assert.equal((await get(`${through(path)}?offset=${before.offset}`)).headers.get("stream-closed"), null)
    await close(direct(path))
    const rest = await readOn(through(path), before.offset)
    assert.deepEqual([rest.body, rest.closed], ["", true])
  })

  test(`${name}: browsers keep only what never changes`, patience, async () => {
    const path = unique()
    await create(direct(path), "one ")
    await get(through(path))
    const { headers } = await get(through(path))
    // Either its age is told, or it is not to be kept.
    assert.ok(headers.has("age") || headers.get("cache-control") === "no-cache", JSON.stringify([...headers]))
    await close(direct(path))
    const end = `${through(path)}?offset=${headers.get("stream-next-offset")}`
    await get(end)
    const closed = await get(end)
    assert.equal(closed.headers.get("cache-control"), "public, max-age=31536000, immutable")
    assert.match(closed.headers.get("cache-status"), new RegExp(`^${name}; hit`))
  })

  test(`${name}: the query counts, cookies do not, callers with credentials are alone`, patience, async () => {
    const path = unique()
    await create(direct(path), "one ")
    await append(direct(path), "two ")
    await close(direct(path))
    const asked = await counted(CATCH_UP, async () => {
      for (const who of ["a", "b", "c"]) assert.equal((await readOn(through(path), "-1", { cookie: `who=${who}` })).body, "one two ")
    })
    assert.equal(asked, 1)
    const second = await get(`${through(path)}?offset=0000000000000000_0000000000000008`)
    assert.equal(second.body, "two ")
    const alone = await counted(CATCH_UP, async () => {
      for (let n = 0; n < 3; n++) await get(`${through(path)}?offset=-1`, { authorization: "Bearer x" })
    })
    assert.equal(alone, 3)
  })

  test(`${name}: HEAD tells where the tail is, though the beginning is cached`, patience, async () => {
    const path = unique()
    await fill(direct(path))
    await get(through(path))
    const cached = (await get(through(path))).headers.get("stream-next-offset")
    const tail = (await call(200, "HEAD", direct(path))).headers.get("stream-next-offset")
    assert.ok(cached < tail)
    assert.equal((await call(200, "HEAD", through(path))).headers.get("stream-next-offset"), tail)
  })

  test(`${name}: what is private is not shared`, patience, async () => {
    const path = unique("/private")
    await create(direct(path), "mine")
    await close(direct(path))
    const asked = await counted(CATCH_UP, async () => {
      for (let n = 0; n < 3; n++) await get(`${through(path)}?offset=-1`)
    })
    assert.equal(asked, 3)
  })

  test(`${name}: writes pass, and connections to the origin are kept`, patience, async () => {
    const path = unique()
    const created = await call(201, "PUT", through(path), { body: "0 " })
    assert.equal(created.headers.get("location"), through(path))
    const { relay } = all.cdns[name]
    const before = relay.connections
    for (let n = 1; n <= 100; n++) await append(through(path), `${n} `)
    assert.ok(relay.connections - before < 10, `${relay.connections - before} connections`)
    const large = "x".repeat(5 << 20)
    await append(through(path), large)
    await close(through(path))
    const refused = await call(409, "POST", through(path), { body: "late" })
    assert.equal(refused.headers.get("stream-closed"), "true")
    const { body } = await readOn(through(path))
    assert.equal(body, `${Array.from({ length: 101 }, (_, n) => `${n} `).join("")}${large}`)
    assert.equal((await call(204, "OPTIONS", through(path), { headers: text })).body, "")
  })
}
