// What the official client makes of the server's refusals. Its fetch wrapper
// throws FetchError for each of them, with the answer's status and headers.

import assert from "node:assert/strict"
import { test } from "node:test"
import { DurableStream, FetchError, stream } from "@durable-streams/client"
import { patience, streamUrl } from "./support.mjs"

async function refusal(promise) {
  const error = await promise.then(
    () => assert.fail("was not refused"),
    (error) => error,
  )
  assert.ok(error instanceof FetchError, String(error))
  // The stream's own content type on an error makes the client retry for ever.
  assert.match(error.headers["content-type"], /^application\/problem\+json/)
  assert.equal(typeof JSON.parse(error.text).code, "string")
  return error
}

test("a stream that is not there: 404", patience, async () => {
  const url = streamUrl("missing")
  assert.deepEqual(await DurableStream.head({ url }), { exists: false })
  const handle = new DurableStream({ url, contentType: "text/plain" })
  assert.equal((await refusal(handle.append("x"))).status, 404)
  assert.equal((await refusal(handle.close())).status, 404)
  assert.equal((await refusal(handle.delete())).status, 404)
  for (const live of [false, "long-poll", "sse"]) {
    assert.equal((await refusal(stream({ url, live }))).status, 404)
  }
})

test("created differently: 409 without Stream-Closed", patience, async () => {
  const url = streamUrl("exists")
  await DurableStream.create({ url, contentType: "application/json" })
  const error = await refusal(DurableStream.create({ url, contentType: "text/plain" }))
  assert.equal(error.status, 409)
  assert.equal(error.headers["stream-closed"], undefined)
})

test("another content type, a Stream-Seq that does not grow: 409", patience, async () => {
  const url = streamUrl("conflicts")
  const handle = await DurableStream.create({ url, contentType: "text/plain" })
  assert.equal((await refusal(handle.append("x", { contentType: "text/html" }))).status, 409)
  await handle.append("b", { seq: "b" })
  assert.equal((await refusal(handle.append("a", { seq: "a" }))).status, 409)
  assert.equal((await refusal(handle.append("b", { seq: "b" }))).status, 409)
  await handle.append("c", { seq: "c" })
  assert.equal(await (await handle.stream({ live: false })).text(), "bc")
})

test("malformed JSON, malformed offset: 400", patience, async () => {
  const url = streamUrl("malformed")
  const handle = await DurableStream.create({ url, contentType: "application/json" })
  assert.equal((await refusal(handle.append(`{"a":`))).status, 400)
  assert.equal((await refusal(stream({ url, offset: "no/offset", live: false }))).status, 400)
  assert.deepEqual(await (await handle.stream({ live: false })).json(), [])
})

test("closed: readable, closable again, and refuses appends with the final offset", patience, async () => {
  const url = streamUrl("closed")
  const handle = await DurableStream.create({ url, contentType: "application/json" })
  await handle.append(`{"n":1}`)
  const { finalOffset } = await handle.close({ body: `{"event":"stream.completed"}` })
  assert.deepEqual(await handle.close(), { finalOffset })
  assert.deepEqual(await handle.close(), { finalOffset })

  for (const attempt of [() => handle.append(`{"n":2}`), () => handle.close({ body: `{"n":2}` })]) {
    const error = await refusal(attempt())
    assert.equal(error.status, 409)
    assert.equal(error.headers["stream-closed"], "true")
    assert.equal(error.headers["stream-next-offset"], finalOffset)
  }

  const head = await handle.head()
  assert.equal(head.streamClosed, true)
  assert.equal(head.offset, finalOffset)
  for (const live of [false, true, "long-poll", "sse"]) {
    const response = await stream({ url, live })
    assert.deepEqual(await response.json(), [{ n: 1 }, { event: "stream.completed" }])
    assert.equal(response.offset, finalOffset)
    assert.equal(response.streamClosed, true)
  }
})

test("created closed, with its whole content", patience, async () => {
  const url = streamUrl("one-shot")
  await DurableStream.create({ url, contentType: "text/plain", body: "all of it", closed: true })
  const response = await stream({ url, live: false })
  assert.equal(await response.text(), "all of it")
  assert.equal(response.streamClosed, true)
})

test("deleted: gone, and its readers are told", patience, async () => {
  const url = streamUrl("deleted")
  const handle = await DurableStream.create({ url, contentType: "text/plain" })
  await handle.append("x")
  const reader = await stream({ url, live: "long-poll" })
  reader.closed.catch(() => {})
  const ending = (async () => {
    for await (const _ of reader.textStream());
  })().catch((error) => error)
  await handle.delete()
  assert.equal((await ending)?.status, 404)
  assert.deepEqual(await DurableStream.head({ url }), { exists: false })
})

test("connect knows the content type", patience, async () => {
  const url = streamUrl("connect")
  await DurableStream.create({ url, contentType: "application/vnd.example+cbor" })
  const handle = await DurableStream.connect({ url })
  assert.equal(handle.contentType, "application/vnd.example+cbor")
})

test("expired: 404", patience, async () => {
  const url = streamUrl("expiring")
  await DurableStream.create({ url, contentType: "text/plain", ttlSeconds: 1, body: "x" })
  // HEAD does not renew the time to live.
  while ((await DurableStream.head({ url })).exists) {
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
  assert.equal((await refusal(stream({ url, live: false }))).status, 404)
})
