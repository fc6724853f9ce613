// The official Durable Streams client on a recording's Stream-Url.

import assert from "node:assert/strict"
import { after, before, test } from "node:test"
import { DurableStream, stream } from "@durable-streams/client"
import { eventsText } from "../upstream/events.mjs"
import { patience, startBoth } from "./support.mjs"

let both
before(async () => { both = await startBoth() })
after(() => both.stop())

async function record(shape) {
  const response = await fetch(`${both.server.url}/plain/events?${shape}`)
  const body = response.text()
  return { url: response.headers.get("stream-url"), body }
}

/** All that a reader is given until the stream ends. */
async function follow(response) {
  let text = ""
  for await (const part of response.textStream()) text += part
  return text
}

for (const live of [false, "long-poll", "sse", true]) {
  test(`a finished recording is read whole (live: ${live})`, patience, async () => {
    const { url, body } = await record("count=200&size=300")
    await body
    const response = await stream({ url, offset: "-1", live })
    assert.equal(await response.text(), eventsText("count=200&size=300"))
    assert.equal(response.streamClosed, true)
  })
}

for (const live of ["long-poll", "sse", true]) {
  test(`a running recording is followed to its end (live: ${live})`, patience, async () => {
    const { url, body } = await record("count=100&delay=15")
    const response = await stream({ url, offset: "-1", live })
    const text = await follow(response)
    assert.equal(text, eventsText("count=100&delay=15"))
    assert.equal(await body, text)
  })
}

test("a reader goes on from where it was", patience, async () => {
  const { url, body } = await record("count=100&delay=15")
  const first = await stream({ url, offset: "-1", live: false })
  const begun = await first.text()
  const rest = await stream({ url, offset: first.offset, live: "long-poll" })
  assert.equal(begun + (await follow(rest)), eventsText("count=100&delay=15"))
  await body
})

test("nobody but the upstream writes", patience, async () => {
  const { url, body } = await record("count=3")
  await body
  const handle = new DurableStream({ url, contentType: "text/event-stream" })
  await assert.rejects(handle.append("data: forged\n\n"))
  await assert.rejects(handle.delete())
  assert.equal(await (await stream({ url, live: false })).text(), eventsText("count=3"))
})

test("a page of any origin may read and stop it", patience, async () => {
  const { url, body } = await record("count=3")
  await body
  const response = await fetch(url, { method: "OPTIONS" })
  assert.equal(response.status, 204)
  assert.equal(response.headers.get("access-control-allow-origin"), "*")
  assert.match(response.headers.get("access-control-allow-methods"), /GET.*PATCH/)
})

test("a URL that was changed opens nothing", patience, async () => {
  const { url, body } = await record("count=3")
  await body
  const at = new URL(url)
  const other = new URL((await record("count=3")).url)
  for (const change of [
    (u) => u.searchParams.delete("signature"),
    (u) => u.searchParams.set("expires", String(Number(u.searchParams.get("expires")) + 1)),
    (u) => u.searchParams.set("signature", other.searchParams.get("signature")),
    (u) => { u.pathname += "x" },
    (u) => { u.search = "" },
  ]) {
    const changed = new URL(at)
    change(changed)
    const response = await fetch(changed)
    assert.ok(response.status === 401 || response.status === 404, `${response.status} at ${changed}`)
    assert.match(response.headers.get("content-type") ?? "", /json/)
    await response.json()
  }
})
