// What is read is byte for byte what was written.

import assert from "node:assert/strict"
import { test } from "node:test"
import { DurableStream, stream } from "@durable-streams/client"
import { noise, patience, readRaw, streamUrl } from "./support.mjs"

test("binary bytes, large and small, by every way of writing", patience, async () => {
  const url = streamUrl("binary")
  const handle = await DurableStream.create({ url, contentType: "application/octet-stream" })
  const every = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))
  const large = noise(3 * 1024 * 1024, 7)
  const streamed = noise(500_000, 8)
  const piped = noise(300_000, 9)

  await handle.append(every)
  await handle.append(large)
  await handle.appendStream((async function* () {
    for (let at = 0; at < streamed.length; at += 7_777) yield streamed.subarray(at, at + 7_777)
  })())
  await new Blob([piped]).stream().pipeTo(handle.writable({ maxBatchBytes: 10_000 }))

  const expected = Buffer.concat([every, large, streamed, piped])
  assert.ok(expected.equals(await readRaw(url)))
  const read = await (await stream({ url, live: false })).body()
  assert.ok(expected.equals(Buffer.from(read)))
})

for (const live of ["long-poll", "sse"]) {
  test(`binary bytes, live (${live})`, patience, async () => {
    const url = streamUrl("binary-live")
    const handle = await DurableStream.create({ url, contentType: "application/octet-stream" })
    const reader = await stream({ url, live })
    const parts = []
    const reading = (async () => {
      for await (const part of reader.bodyStream()) parts.push(Buffer.from(part))
    })()
    const written = []
    for (const length of [1, 2, 3, 255, 4096, 65_537, 300_000]) {
      written.push(noise(length, length))
      await handle.append(written.at(-1))
    }
    await handle.close()
    await reading
    assert.ok(Buffer.concat(parts).equals(Buffer.concat(written)))
  })
}

test("UTF-8 that is split between appends", patience, async () => {
  const url = streamUrl("utf8")
  const handle = await DurableStream.create({ url, contentType: "text/plain; charset=utf-8" })
  const text = "Wasser 💧 → मौसम, 水源\n".repeat(50)
  const bytes = Buffer.from(text)
  for (let at = 0; at < bytes.length; at += 7) await handle.append(bytes.subarray(at, at + 7))
  assert.equal(await (await stream({ url, live: false })).text(), text)
  assert.equal((await handle.head()).contentType, "text/plain; charset=utf-8")
})

test("JSON values come back as they were written", patience, async () => {
  const url = streamUrl("json")
  const handle = await DurableStream.create({ url, contentType: "application/json" })
  // A server that parses and prints them again would change every one of these.
  const values = [
    `{"id":9007199254740993}`,
    `{"max":18446744073709551615,"min":-9223372036854775808}`,
    `{"huge":123456789012345678901234567890}`,
    `{"float":1.0,"exp":1E400,"tiny":0.10000000000000000001,"zero":-0}`,
    `{"b":1,"a":2,"b":3}`,
    `{"escaped":"\\u00e9\\/\\ud83d\\ude80","raw":"é/🚀"}`,
    `[1,2]`,
    `"text"`,
    `null`,
    `{"spaced" : [ 1 , 2 ]}`,
  ]
  for (const value of values) await handle.append(value)
  const raw = (await readRaw(url)).toString()
  let from = 0
  for (const value of values) {
    const at = raw.indexOf(value, from)
    assert.notEqual(at, -1, `${value} is missing in ${raw}`)
    from = at + value.length
  }
  const items = await (await stream({ url, live: false })).json()
  assert.equal(items.length, values.length)
})

test("overlapping appends go as JSON batches and keep their order", patience, async () => {
  const url = streamUrl("batches")
  const handle = await DurableStream.create({ url, contentType: "application/json" })
  await Promise.all(Array.from({ length: 5_000 }, (_, n) => handle.append(JSON.stringify({ n }))))
  const seen = []
  for await (const item of (await stream({ url, live: false })).jsonStream()) seen.push(item.n)
  assert.deepEqual(seen, Array.from({ length: 5_000 }, (_, n) => n))
})

test("a batch is flattened by one level only", patience, async () => {
  const url = streamUrl("flattened")
  const handle = await DurableStream.create({ url, contentType: "application/json" })
  const post = (body) => fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body })
  assert.equal((await post(`[[1,2],[3]]`)).status, 204)
  assert.equal((await post(`{"a":[1]}`)).status, 204)
  assert.equal((await post(`[]`)).status, 400)
  assert.deepEqual(await (await handle.stream({ live: false })).json(), [[1, 2], [3], { a: [1] }])
})
