// An origin behind TLS, by HTTP/1.1 and by HTTP/2: writes, what is kept, and what is followed. And
// what is kept, compressed.

import assert from "node:assert/strict"
import { test } from "node:test"
import { stream } from "@durable-streams/client"
import { startServer } from "../tools/server.mjs"
import { append, close, create, call, get, liveReaders, patience, readOn, startEdge, together, unique, until } from "./support.mjs"

const READERS = 20

/** An edge whose origin is believed for its authority alone. */
const startTlsEdge = (origin, http) => startServer({
  config: `
[[site.route]]
path = "/v1/stream/*"
[site.route.streams.origin]
upstreams = ["${origin.url}"]
http = "${http}"
tls = { ca = "${origin.ca}" }
`,
})

async function follow(url, live) {
  let text = ""
  for await (const part of (await stream({ url, offset: "-1", live })).textStream()) text += part
  return text
}

for (const http of ["1.1", "2"]) {
  test(`an origin by TLS and HTTP/${http}`, patience, async () => {
    const { origin, edge, stop } = await together(async (add) => {
      const origin = await add(startServer({ tls: true, longPollTimeout: "2s" }))
      return { origin, edge: await add(startTlsEdge(origin, http)) }
    })
    try {
      const url = edge.url + unique()
      await create(url, "from the beginning\n")
      const readers = Array.from({ length: READERS }, (_, n) => follow(url, n % 2 ? "sse" : "long-poll"))
      await until(async () => await liveReaders(edge) === READERS)
      assert.equal(await liveReaders(origin), 1, "it is followed once")
      let expected = "from the beginning\n"
      for (let n = 0; n < 50; n++) {
        const line = `${n} ${"x".repeat(n * 50)}\n`
        await append(url, line)
        expected += line
      }
      await close(url)
      for (const read of await Promise.all(readers)) assert.equal(read, expected)
      for (let n = 0; n < 2; n++) assert.equal((await readOn(url)).body, expected)
      const kept = await get(`${url}?offset=-1`)
      assert.match(kept.headers.get("cache-status"), /headwater; hit/)
    } finally {
      await stop()
    }
  })
}

test("what is kept is given compressed to those who accept it", patience, async () => {
  const { edge, stop } = await together(async (add) => {
    const origin = await add(startServer({}))
    return { edge: await add(startEdge(origin.url)) }
  })
  try {
    const url = edge.url + unique()
    const body = Array.from({ length: 3000 }, (_, n) => `line ${n} of many that are much alike\n`).join("")
    await create(url, body)
    await close(url)
    const plain = await get(`${url}?offset=-1`, { "accept-encoding": "identity" })
    assert.equal(plain.body, body)
    assert.equal(plain.headers.get("content-encoding"), null)
    assert.match(plain.headers.get("vary"), /accept-encoding/i)
    const tags = new Set([plain.headers.get("etag")])
    for (const coding of ["gzip", "br"]) {
      const headers = { "accept-encoding": coding }
      // It is made in the background, for the first who asks.
      const coded = await until(async () => {
        const answer = await get(`${url}?offset=-1`, headers)
        assert.equal(answer.body, body)
        return answer.headers.get("content-encoding") === coding && answer
      })
      assert.ok(Number(coded.headers.get("content-length")) < body.length / 4)
      assert.equal(coded.headers.get("stream-next-offset"), plain.headers.get("stream-next-offset"))
      const tag = coded.headers.get("etag")
      tags.add(tag)
      await call(304, "GET", `${url}?offset=-1`, { headers: { ...headers, "if-none-match": tag } })
    }
    assert.equal(tags.size, 3, "each form has a tag of its own")
  } finally {
    await stop()
  }
})
