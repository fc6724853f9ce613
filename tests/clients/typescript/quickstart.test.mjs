// The quick start of the TypeScript client's documentation, run for real.

import assert from "node:assert/strict"
import { test } from "node:test"
import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client"
import { Collected, patience, streamUrl } from "./support.mjs"

const events = [
  { event: "user.created", userId: "123" },
  { event: "user.updated", userId: "123" },
  { event: "user.deleted", userId: "123" },
]

test("create, append, read all", patience, async () => {
  const url = streamUrl("my-first-stream")
  const writer = await DurableStream.create({ url, contentType: "application/json" })
  assert.equal(writer.url, url)
  assert.equal(writer.contentType, "application/json")
  for (const event of events) await writer.append(JSON.stringify(event))

  const reader = new DurableStream({ url })
  const response = await reader.stream({ live: false })
  assert.deepEqual(await response.json(), events)
  assert.equal(response.upToDate, true)
  assert.equal(response.streamClosed, false)
})

test("creating a stream again with the same settings is no error", patience, async () => {
  const url = streamUrl("again")
  const first = await DurableStream.create({ url, contentType: "application/json" })
  await first.append(`{"n":1}`)
  const second = await DurableStream.create({ url, contentType: "application/json" })
  await second.append(`{"n":2}`)
  assert.deepEqual(await (await second.stream({ live: false })).json(), [{ n: 1 }, { n: 2 }])
})

test("the fetch-like function, and a text stream read from its start", patience, async () => {
  const url = streamUrl("lines")
  const writer = await DurableStream.create({ url, contentType: "text/plain" })
  await writer.append("Line 1\n")
  await writer.append("Line 2\n")
  const response = await stream({ url, offset: "-1", live: false })
  assert.equal(await response.text(), "Line 1\nLine 2\n")
})

test("resume from a saved offset gives what is new, and nothing twice", patience, async () => {
  const url = streamUrl("resume")
  const writer = await DurableStream.create({ url, contentType: "application/json" })
  for (const event of events) await writer.append(JSON.stringify(event))

  const first = await stream({ url, live: false })
  assert.equal((await first.json()).length, 3)
  const saved = first.offset

  const nothing = await stream({ url, offset: saved, live: false })
  assert.deepEqual(await nothing.json(), [])
  assert.equal(nothing.offset, saved)

  await writer.append(`{"event":"user.restored"}`)
  const second = await stream({ url, offset: saved, live: false })
  assert.deepEqual(await second.json(), [{ event: "user.restored" }])
  assert.ok(second.offset > saved, "offsets sort in the order of the stream")
})

for (const live of [true, "long-poll", "sse"]) {
  test(`live reading (${live}) sees what is there, then what comes`, patience, async () => {
    const url = streamUrl("ticks")
    const writer = await DurableStream.create({ url, contentType: "application/json" })
    await writer.append(`{"event":"tick","count":0}`)

    const seen = new Collected()
    const response = await new DurableStream({ url }).stream({ live })
    response.subscribeJson(({ items, streamClosed }) => seen.add(items, streamClosed))
    await seen.until(1)
    for (let count = 1; count <= 20; count++) {
      await writer.append(JSON.stringify({ event: "tick", count }))
    }
    await seen.until(21)
    await writer.close({ body: `{"event":"end"}` })
    await seen.until(22)
    await response.closed
    assert.equal(response.streamClosed, true)
    assert.deepEqual(
      seen.items,
      [...Array.from({ length: 21 }, (_, count) => ({ event: "tick", count })), { event: "end" }],
    )
  })

  test(`live reading (${live}) from now skips the past`, patience, async () => {
    const url = streamUrl("from-now")
    const writer = await DurableStream.create({ url, contentType: "application/json" })
    await writer.append(`{"past":true}`)
    const seen = new Collected()
    const response = await stream({ url, offset: "now", live })
    response.subscribeJson(({ items }) => seen.add(items))
    await writer.append(`{"future":true}`)
    await seen.until(1)
    response.cancel()
    assert.deepEqual(seen.items, [{ future: true }])
  })

  test(`live reading (${live}) resumes from the offset of a batch`, patience, async () => {
    const url = streamUrl("resume-live")
    const writer = await DurableStream.create({ url, contentType: "application/json" })
    const first = await stream({ url, live })
    const one = new Collected()
    let saved
    first.subscribeJson(({ items, offset }) => {
      if (items.length > 0) saved = offset
      one.add(items)
    })
    await writer.append(`{"n":1}`)
    await one.until(1)
    first.cancel()

    await writer.append(`{"n":2}`)
    const two = new Collected()
    const second = await stream({ url, offset: saved, live })
    second.subscribeJson(({ items }) => two.add(items))
    await two.until(1)
    await writer.append(`{"n":3}`)
    await two.until(2)
    second.cancel()
    assert.deepEqual([...one.items, ...two.items], [{ n: 1 }, { n: 2 }, { n: 3 }])
  })
}

for (const live of ["long-poll", "sse"]) {
  test(`token streaming with a reader that follows (${live})`, patience, async () => {
    const url = streamUrl("generation")
    const writer = await DurableStream.create({ url, contentType: "text/plain" })
    const errors = []
    const producer = new IdempotentProducer(writer, "generation", {
      autoClaim: true,
      lingerMs: 10,
      onError: (error) => errors.push(error),
    })

    const follower = await stream({ url, live })
    let followed = ""
    const following = (async () => {
      for await (const text of follower.textStream()) followed += text
    })()

    let story = ""
    for (let i = 0; i < 300; i++) {
      const token = `token ${i} – ünïcödé 🚰\r\n`
      story += token
      producer.append(token)
      if (i % 30 === 0) await new Promise((resolve) => setTimeout(resolve, 15))
    }
    const { finalOffset } = await producer.close()
    assert.deepEqual(errors, [])
    await following

    const late = await stream({ url, live: false })
    assert.equal(await late.text(), story)
    assert.equal(late.offset, finalOffset)
    // An SSE event cannot tell CR LF from LF; the client joins lines with LF.
    assert.equal(followed, live === "sse" ? story.replaceAll("\r\n", "\n") : story)
  })
}

test("many readers of one live stream, some of them late", patience, async () => {
  const url = streamUrl("shared")
  const writer = await DurableStream.create({ url, contentType: "application/json" })
  const readers = []
  const join = async (live) => {
    const seen = new Collected()
    const response = await stream({ url, live })
    response.subscribeJson(({ items }) => seen.add(items))
    readers.push({ seen, response })
  }
  const expected = []
  for (let n = 0; n < 60; n++) {
    if (n % 3 === 0) await join(n % 2 ? "sse" : "long-poll")
    expected.push({ n })
    await writer.append(JSON.stringify({ n }))
  }
  await writer.close()
  for (const { seen, response } of readers) {
    await response.closed
    // The client may say so before it hands out what came with the closing.
    await seen.until(expected.length)
    assert.deepEqual(seen.items, expected)
  }
})
