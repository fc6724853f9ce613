// What the metrics and the access log say of recordings.

import assert from "node:assert/strict"
import { randomUUID } from "node:crypto"
import { after, before, test } from "node:test"
import { eventsText } from "../upstream/events.mjs"
import { endOf, metric, parseEvents, patience, recordRoute, startBoth, until } from "./support.mjs"

let both
before(async () => {
  both = await startBoth((upstream) => recordRoute(upstream, "/shared", "share = true") + recordRoute(upstream, "/cancel", 'on_disconnect = "cancel"'))
})
after(() => both.stop())

const figure = (name, labels) => metric(both.server, `headwater_${name}`, labels)
const attached = (way) => figure("recording_attachments_total", { way })

/** Asks, reads the first piece, and leaves. */
async function leave(url, headers = {}) {
  const gone = new AbortController()
  const response = await fetch(url, { headers, signal: gone.signal })
  await response.body.getReader().read()
  gone.abort()
  return response.headers.get("stream-url")
}

test("each way to a recording is counted, and what it saved", patience, async () => {
  const key = randomUUID()
  const shape = "count=20&delay=50"
  const ask = (headers) => fetch(`${both.server.url}/ids/events?${shape}&key=${key}`, { headers: { "idempotency-key": key, ...headers } })

  const url = await leave(`${both.server.url}/ids/events?${shape}&key=${key}`, { "idempotency-key": key })
  await until(async () => await figure("recording_disconnects_total") === 1)
  assert.equal(await figure("running_recordings"), 1)
  const text = await (await ask({})).text()
  const last = parseEvents(Buffer.from(text))[3].id
  await (await ask({ "last-event-id": last })).text()
  await (await fetch(`${url}&offset=-1`)).text()
  await leave(`${both.server.url}/shared/feed/${key}`)
  await leave(`${both.server.url}/shared/feed/${key}`)

  assert.equal(await attached("key"), 1)
  assert.equal(await attached("last_event"), 1)
  assert.equal(await attached("stream_url"), 1)
  assert.equal(await attached("feed"), 1)
  assert.equal(await figure("recording_calls_total"), 2)
  assert.equal((await both.upstream.calls(key)).calls, 1)
  await until(async () => await figure("ended_recordings_total", { outcome: "completed" }) === 1)
  assert.ok(await figure("recorded_bytes_total") >= Buffer.byteLength(eventsText(shape)))
  assert.equal(await figure("recording_first_byte_seconds_count"), 1)
  assert.ok(await figure("recording_added_seconds_count") >= 20)
  assert.ok(await figure("recording_added_seconds_sum") > 0)
})

test("a client that leaves is counted where the recording goes on", patience, async () => {
  const before = await figure("recording_disconnects_total")
  const gone = new AbortController()
  const early = fetch(`${both.server.url}/plain/events?count=3&head_after=500&key=early`, { signal: gone.signal })
  await until(async () => (await both.upstream.calls("early"))?.calls === 1)
  gone.abort()
  await assert.rejects(early)
  await until(async () => await figure("recording_disconnects_total") === before + 1)

  const url = await leave(`${both.server.url}/cancel/events?count=endless&delay=20`)
  assert.equal((await endOf(url)).end, "aborted")
  await leave(`${both.server.url}/shared/feed/left`)
  await leave(`${both.server.url}/plain/events?count=20&delay=50`)
  await until(async () => await figure("recording_disconnects_total") === before + 2)
})

test("outcomes are told apart", patience, async () => {
  const failed = () => figure("ended_recordings_total", { outcome: "failed" })
  const aborted = () => figure("ended_recordings_total", { outcome: "aborted" })
  const before = { failed: await failed(), aborted: await aborted() }
  const broken = await fetch(`${both.server.url}/plain/events?count=3&break_at=2`)
  await endOf(broken.headers.get("stream-url"))
  await until(async () => await failed() === before.failed + 1)
  const stopped = await fetch(`${both.server.url}/plain/events?count=endless&delay=20`)
  await fetch(`${stopped.headers.get("stream-url")}&action=abort`, { method: "PATCH" })
  await until(async () => await aborted() === before.aborted + 1)
})

test("the access log joins a recording and its requests, and holds no signature", patience, async () => {
  const key = randomUUID()
  const response = await fetch(`${both.server.url}/plain/events?count=3`, { headers: { "idempotency-key": key, authorization: "Bearer of-a-client" } })
  await response.text()
  const url = new URL(response.headers.get("stream-url"))
  await (await fetch(url)).text()
  await (await fetch(`${url}&offset=-1&live=sse`)).text()
  const name = url.pathname.split("/").at(-1)
  const lines = await until(() => {
    const found = both.server.log().split("\n").filter((line) => line.includes(`stream="${name}"`))
    return found.length >= 4 && found
  })
  assert.equal(lines.filter((line) => line.includes("a recording ended")).length, 1)
  const requests = lines.filter((line) => line.includes("headwater::access"))
  assert.ok(requests.some((line) => line.includes(`path="/plain/events"`)), lines.join("\n"))
  assert.equal(requests.filter((line) => line.includes(`path="${url.pathname}"`)).length, 2)
  const said = both.server.log()
  for (const secret of [url.searchParams.get("signature"), key, "of-a-client"]) assert.ok(!said.includes(secret), secret)
})
