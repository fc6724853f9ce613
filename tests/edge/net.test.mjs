// One origin, three edges, ten thousand readers; then links are cut, and servers killed.

import assert from "node:assert/strict"
import { after, before, test } from "node:test"
import { setTimeout as sleep } from "node:timers/promises"
import { metric } from "../tools/metrics.mjs"
import { call, close, create, liveReaders, patience, readOn, startNet, startProducer, unique, until } from "./support.mjs"
import { startReaders } from "./swarm.mjs"

const READERS = Number(process.env.EDGE_READERS ?? 10_000)
const EDGES = 3

let net
before(async () => { net = await startNet(EDGES) })
after(() => net.stop())

const line = (n) => `${n} ${"Wasser → ".repeat(n % 7)}.\n`

/** What a reader of raw bytes as latin1 sees of a text. */
const asBytes = (text) => Buffer.from(text).toString("latin1")

test(`${READERS} readers cost the origin ${EDGES} live connections`, patience, async () => {
  const path = unique()
  await create(net.origin.url + path, "")
  const readers = startReaders(READERS, net.edges.map(({ url }) => url), path, "")
  try {
    await readers.all("told")
    const live = await Promise.all(net.edges.map(liveReaders))
    assert.equal(live.reduce((sum, count) => sum + count), READERS)
    assert.equal(await liveReaders(net.origin), EDGES)
    const before = await metric(net.origin, "headwater_requests_total")
    const append = startProducer(() => net.origin.url + path)
    for (let n = 0; n < 20; n++) {
      await readers.expect(asBytes(line(n)))
      await append(line(n))
      if (n % 5 === 4) await readers.all("current")
    }
    await readers.all("current")
    assert.equal(await liveReaders(net.origin), EDGES)
    // What was written, and connections that were recycled meanwhile; nothing for each reader.
    const asked = (await metric(net.origin, "headwater_requests_total")) - before
    assert.ok(asked < 20 + READERS / 100, `${asked} requests`)
    await close(net.origin.url + path)
    await readers.all("closed")
  } finally {
    await readers.stop()
  }
})

test(`${READERS} readers get every byte once, whatever is cut and killed`, { timeout: 600_000 }, async () => {
  const path = unique()
  await create(net.origin.url + path, "begin\n")
  const readers = startReaders(READERS, net.edges.map(({ url }) => url), path, "begin\n")
  const any = () => net.edges[Math.floor(Math.random() * EDGES)]
  let writing = true
  let n = 0
  try {
    await readers.all("told")
    const writer = (async () => {
      // Through the edges in turn: an append that one of them could not pass on is sent again.
      const append = startProducer(() => any().url + path)
      while (writing) {
        await readers.expect(asBytes(line(n)))
        await append(line(n++))
        await sleep(Math.random() * 100)
      }
    })()
    const troubles = [
      ["a link is cut", async () => {
        const { link } = any()
        link.cut()
        await sleep(Math.random() * 3000)
        link.restore()
      }],
      ["connections of a link break", async () => any().link.drop()],
      ["an edge is killed", async () => any().crash()],
      ["the origin is killed", async () => net.origin.crash()],
    ]
    for (let round = 0; round < 8; round++) {
      const [what, trouble] = troubles[round % troubles.length]
      console.log(`# ${what}`)
      await trouble()
      await sleep(Math.random() * 1000)
    }
    writing = false
    await writer
    await readers.all("current")
    await close(net.origin.url + path)
    await readers.all("closed")
    const { connections } = await readers.state()
    console.log(`# ${n} appends, ${connections} connections of ${READERS} readers`)
    assert.ok(connections > READERS)
    await until(async () => (await liveReaders(net.origin)) === 0)
    for (const edge of net.edges) {
      const { body, closed } = await readOn(edge.url + path)
      assert.ok(closed && body === `begin\n${Array.from({ length: n }, (_, at) => line(at)).join("")}`)
      assert.equal(edge.ended(), undefined)
    }
  } finally {
    writing = false
    await readers.stop()
  }
})

test("an edge that was cut off serves what it has, and says when it cannot", patience, async () => {
  const path = unique()
  const [edge] = net.edges
  await create(net.origin.url + path, "kept")
  await close(net.origin.url + path)
  await readOn(edge.url + path)
  edge.link.cut()
  try {
    assert.equal((await readOn(edge.url + path)).body, "kept")
    const unknown = await call(503, "GET", `${edge.url}${unique()}?offset=-1`)
    assert.ok(Number(unknown.headers.get("retry-after")) > 0)
    assert.match(unknown.headers.get("content-type"), /problem\+json/)
  } finally {
    edge.link.restore()
  }
  // It is noticed by the next check of the origin's health.
  await until(async () => (await fetch(`${edge.url}${unique()}?offset=-1`)).status === 404)
})
