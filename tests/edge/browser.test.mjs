// Chromium reads a closed stream at an edge twice: the second time from its own cache.

import assert from "node:assert/strict"
import { test } from "node:test"
import { readTwice } from "../tools/browser.mjs"
import { metric } from "../tools/metrics.mjs"
import { startServer } from "../tools/server.mjs"
import { append, close, create, patience, readOn, startEdge, together, unique, until } from "./support.mjs"

const SEGMENT_BYTES = 64 * 1024

test("Chromium at an edge: what it has read it does not ask for again", patience, async () => {
  const { edge, stop } = await together(async (add) => {
    const env = { HEADWATER__LOG__SEGMENT_BYTES: String(SEGMENT_BYTES) }
    const origin = await add(startServer({ env }))
    return { edge: await add(startEdge(origin.url)) }
  })
  try {
    const url = edge.url + unique()
    await create(url, "")
    const line = `${"chromium ".repeat(120)}\n`
    for (let n = 0; n * line.length < 3 * SEGMENT_BYTES; n++) await append(url, `${n} ${line}`)
    await close(url)
    const asked = () => metric(edge, "headwater_requests_total", { method: "GET", mode: "catch_up" })
    // A request is counted when it ends, perhaps a moment after its answer is there.
    const counted = (count) => until(async () => (await asked()) >= count)
    const { body, answers } = await readOn(url)
    assert.ok(answers > 2, "more than one segment")
    await counted(answers)
    const { first, second } = await readTwice(url)
    assert.ok(first === body && second === body)
    await counted(2 * answers)
    assert.equal(await asked(), 2 * answers)
  } finally {
    await stop()
  }
})
