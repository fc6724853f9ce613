// Servers of others as origins: an edge needs only what the protocol says.

import assert from "node:assert/strict"
import { test } from "node:test"
import { DurableStream, stream } from "@durable-streams/client"
import { startRelay } from "../tools/relay.mjs"
import { installed, names, startOther } from "./others.mjs"
import { call, patience, readOn, startEdge, startNet, together, unique, until } from "./support.mjs"

const READERS = 20
const APPENDS = 60

const kinds = [
  ["text/plain", (n) => `${n} Wasser\r\n  → ${"x".repeat(n * 7)}\n`],
  ["application/json", (n) => JSON.stringify({ n, text: "Wasser".repeat(n) })],
  ["application/octet-stream", (n) => Uint8Array.from({ length: n * 5 + 1 }, (_, at) => (at * 7 + n) % 256)],
]

/** All that a live reader is given until the end, as one buffer or a list of JSON values. */
async function follow(url, live, contentType) {
  const response = await stream({ url, offset: "-1", live })
  const parts = []
  if (contentType === "application/json") {
    for await (const item of response.jsonStream()) parts.push(item)
    return parts
  }
  for await (const part of response.bodyStream()) parts.push(Buffer.from(part))
  return Buffer.concat(parts)
}

async function exactly(origin, edge, contentType, body) {
  // The events of text cannot say which of the three ends of a line there was.
  const ways = contentType === "text/plain" ? ["long-poll"] : ["long-poll", "sse"]
  const path = unique()
  const handle = await DurableStream.create({ url: edge.url + path, contentType })
  const bodies = Array.from({ length: APPENDS }, (_, n) => body(n))
  for (const part of bodies.slice(0, 10)) await handle.append(part)
  const readers = ways.flatMap((live) =>
    Array.from({ length: READERS / ways.length }, () => follow(edge.url + path, live, contentType)))
  // Some through the edge, some where the edge learns of them only from the origin.
  const direct = new DurableStream({ url: origin.url + path, contentType })
  for (const [n, part] of bodies.slice(10).entries()) await (n % 2 ? handle : direct).append(part)
  await direct.close()
  const expected = contentType === "application/json"
    ? bodies.map((part) => JSON.parse(part))
    : Buffer.concat(bodies.map((part) => Buffer.from(part)))
  for (const read of await Promise.all(readers)) assert.deepEqual(read, expected)
  // And once more, when nothing is live.
  assert.deepEqual(await follow(edge.url + path, "long-poll", contentType), expected)
}

for (const name of names) {
  const skip = installed(name) ? false : `${name} is not installed (make bench installs it)`
  for (const [contentType, body] of kinds) {
    test(`${name}: ${contentType}, every byte once and in order`, { ...patience, skip }, async () => {
      const { origin, edge, stop } = await together(async (add) => {
        const origin = await add(startOther(name))
        return { origin, edge: await add(startEdge(origin.url)) }
      })
      try {
        await exactly(origin, edge, contentType, body)
      } finally {
        await stop()
      }
    })
  }

  test(`${name}: deleted, created again, refused`, { ...patience, skip }, async () => {
    const { edge, stop } = await together(async (add) => {
      const origin = await add(startOther(name))
      return { edge: await add(startEdge(origin.url)) }
    })
    try {
      const url = edge.url + unique()
      await call(404, "GET", `${url}?offset=-1`)
      const created = await call(201, "PUT", url, { body: "old" })
      assert.equal(created.headers.get("location"), url)
      await call(204, "POST", url, { headers: { "stream-closed": "true" } })
      assert.equal((await readOn(url)).body, "old")
      await call(409, "POST", url, { body: "late" })
      await call(204, "DELETE", url)
      await call(404, "GET", `${url}?offset=-1`)
      await call(201, "PUT", url, { body: "new" })
      assert.equal((await readOn(url)).body, "new")
    } finally {
      await stop()
    }
  })
}

for (const [contentType, body] of kinds) {
  test(`an edge behind an edge: ${contentType}`, patience, async () => {
    const { origin, edges, stop } = await startNet(1)
    const far = await startEdge(edges[0].url)
    try {
      await exactly(origin, far, contentType, body)
    } finally {
      assert.equal(await far.stop(), "exit code 0")
      await stop()
    }
  })
}

test("a circle of edges is ended", patience, async () => {
  // The relay is there before what it leads to.
  const { edges, stop } = await together(async (add) => {
    const link = await add(startRelay("http://127.0.0.1:9"))
    const first = await add(startEdge(link.url))
    const second = await add(startEdge(first.url))
    link.lead(second.url)
    return { edges: [first, second] }
  })
  try {
    for (const edge of edges) {
      await until(async () => (await fetch(`${edge.url}${unique()}?offset=-1`)).status === 508)
    }
  } finally {
    await stop()
  }
})
