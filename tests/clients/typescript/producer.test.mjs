// The idempotent producer of the official client, which batches, pipelines
// and does not retry: the server has to take what it sends.

import assert from "node:assert/strict"
import { test } from "node:test"
import { DurableStream, IdempotentProducer, StaleEpochError, stream } from "@durable-streams/client"
import { patience, streamUrl } from "./support.mjs"

const readJson = async (url) => (await stream({ url, live: false })).json()

test("20,000 messages arrive once and in order", patience, async () => {
  const url = streamUrl("events")
  const handle = await DurableStream.create({ url, contentType: "application/json" })
  const errors = []
  const producer = new IdempotentProducer(handle, "my-producer", {
    lingerMs: 1,
    maxBatchBytes: 4096,
    onError: (error) => errors.push(error),
  })
  for (let n = 0; n < 20_000; n++) {
    producer.append(JSON.stringify({ n, text: `message ${n}` }))
    // Let batches go out between, so that five are in flight at a time.
    if (n % 500 === 0) await new Promise((resolve) => setImmediate(resolve))
  }
  await producer.flush()
  assert.deepEqual(errors, [])
  const items = await readJson(url)
  assert.equal(items.length, 20_000)
  items.forEach((item, n) => assert.deepEqual(item, { n, text: `message ${n}` }))
})

test("autoClaim takes over from an older session, which is fenced", patience, async () => {
  const url = streamUrl("claimed")
  const handle = await DurableStream.create({ url, contentType: "application/json" })
  const old = new IdempotentProducer(handle, "worker", { lingerMs: 0 })
  old.append(`{"from":"old","n":0}`)
  await old.flush()
  old.append(`{"from":"old","n":1}`)
  await old.flush()

  // Epoch 0 and seq 0 again: a duplicate for the server, so claim the next epoch.
  const taking = new IdempotentProducer(handle, "worker", { epoch: 1, autoClaim: true, lingerMs: 0 })
  taking.append(`{"from":"new","n":0}`)
  await taking.flush()

  const errors = []
  const zombie = new IdempotentProducer(handle, "worker", {
    lingerMs: 0,
    onError: (error) => errors.push(error),
  })
  zombie.append(`{"from":"zombie"}`)
  await zombie.flush().catch(() => {})
  assert.equal(errors.length, 1)
  assert.ok(errors[0] instanceof StaleEpochError)
  assert.equal(errors[0].currentEpoch, 1)

  const claiming = new IdempotentProducer(handle, "worker", { autoClaim: true, lingerMs: 0 })
  for (let n = 0; n < 100; n++) claiming.append(JSON.stringify({ from: "claiming", n }))
  await claiming.flush()
  assert.equal(claiming.epoch, 2)

  assert.deepEqual(await readJson(url), [
    { from: "old", n: 0 },
    { from: "old", n: 1 },
    { from: "new", n: 0 },
    ...Array.from({ length: 100 }, (_, n) => ({ from: "claiming", n })),
  ])
})

test("restart opens a new epoch", patience, async () => {
  const url = streamUrl("restarted")
  const handle = await DurableStream.create({ url, contentType: "text/plain" })
  const producer = new IdempotentProducer(handle, "p", { lingerMs: 0 })
  producer.append("a")
  await producer.restart()
  producer.append("b")
  await producer.flush()
  assert.equal(producer.epoch, 1)
  assert.equal(await (await stream({ url, live: false })).text(), "ab")
})

test("close with a final message is idempotent", patience, async () => {
  const url = streamUrl("closing")
  const handle = await DurableStream.create({ url, contentType: "application/json" })
  const producer = new IdempotentProducer(handle, "p")
  producer.append(`{"n":1}`)
  const closed = await producer.close(`{"n":2}`)
  assert.deepEqual(await producer.close(`{"n":2}`), closed)

  // The same request once more on the wire, as after a lost answer.
  const retried = await fetch(url, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      "producer-id": "p", "producer-epoch": "0", "producer-seq": "1",
      "stream-closed": "true",
    },
    body: `[{"n":2}]`,
  })
  assert.equal(retried.status, 204)
  assert.equal(retried.headers.get("stream-closed"), "true")
  assert.equal(retried.headers.get("stream-next-offset"), closed.finalOffset)
  assert.deepEqual(await readJson(url), [{ n: 1 }, { n: 2 }])
})

test("an append to a closed stream fails and does not spin", patience, async ({ signal }) => {
  const url = streamUrl("closed")
  const handle = await DurableStream.create({ url, contentType: "application/json" })
  const producer = new IdempotentProducer(handle, "p", { lingerMs: 0, signal })
  producer.append(`{"n":1}`)
  await producer.flush()
  await handle.close()

  let requests = 0
  const errors = []
  const late = new IdempotentProducer(handle, "q", {
    lingerMs: 0,
    signal,
    onError: (error) => errors.push(error),
    fetch: (...args) => { requests++; return fetch(...args) },
  })
  late.append(`{"n":2}`)
  await late.flush().catch(() => {})
  producer.append(`{"n":2}`)
  await producer.flush().catch(() => {})
  assert.equal(errors.length, 1)
  assert.equal(requests, 1)
  assert.deepEqual(await readJson(url), [{ n: 1 }])
})

test("two producers write one stream", patience, async () => {
  const url = streamUrl("together")
  const handle = await DurableStream.create({ url, contentType: "application/json" })
  const write = async (id) => {
    const producer = new IdempotentProducer(handle, id, { autoClaim: true, maxBatchBytes: 512 })
    for (let n = 0; n < 2_000; n++) {
      producer.append(JSON.stringify({ id, n }))
      if (n % 100 === 0) await new Promise((resolve) => setImmediate(resolve))
    }
    await producer.flush()
  }
  await Promise.all(["a", "b", "c"].map(write))
  const items = await readJson(url)
  for (const id of ["a", "b", "c"]) {
    const own = items.filter((item) => item.id === id)
    assert.deepEqual(own.map(({ n }) => n), Array.from({ length: 2_000 }, (_, n) => n))
  }
})
