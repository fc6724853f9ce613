// What a client gets through a record route is what the upstream sends, and what
// is recorded is that too.

import assert from "node:assert/strict"
import { execFile, spawn } from "node:child_process"
import { once } from "node:events"
import fs from "node:fs"
import http from "node:http"
import net from "node:net"
import { after, before, test } from "node:test"
import { setTimeout as sleep } from "node:timers/promises"
import { gunzipSync } from "node:zlib"
import { eventsText } from "../upstream/events.mjs"
import { endOf, parseEvents, patience, readAll, recordRoute, startBoth, startByHand, startUpstream, until, withoutIds } from "./support.mjs"

let both
let h2c
let byHand
before(async () => {
  h2c = await startUpstream("--h2c")
  byHand = await startByHand()
  both = await startBoth((upstream) =>
    recordRoute(h2c, "/h2", `http = "2"`)
    + recordRoute(byHand, "/by-hand")
    + recordRoute(upstream, "/lines", `content_types = ["application/x-ndjson"]`)
    + recordRoute(upstream, "/hurried", `headers_timeout = "500ms"`)
    + recordRoute(upstream, "/impatient", `inactivity_timeout = "3s"`)
    + recordRoute(upstream, "/small", `recording_bytes_max = "1KiB"`)
    + recordRoute(upstream, "/beating", `heartbeat = "50ms"`)
    + recordRoute(upstream, "/cancel", `on_disconnect = "cancel"`)
    + recordRoute(upstream, "/grace", `on_disconnect = "grace"\ngrace = "300ms"`)
    // Nobody is cut off for not reading: what waits for such a client waits for ever.
    + `
[limits]
write_timeout = "1h"
`)
})
after(async () => {
  await both.stop()
  h2c.stop()
  byHand.stop()
})

const curl = (...args) => new Promise((resolve) => {
  execFile("curl", ["--silent", "--no-buffer", ...args], { encoding: "buffer", maxBuffer: 1 << 30 },
    (error, stdout) => resolve({ code: error?.code ?? 0, stdout }))
})

const shapes = [
  "count=1", "count=50&delay=2", "count=20&end=crlf&split=7", "count=20&end=cr&split=1", "count=3&size=3000000",
  "count=20&split=1&ids=1", "count=20&ends=close", "count=0", "count=400&size=100",
]
for (const [route, from] of [["/plain", shapes], ["/h2", shapes.slice(0, 5)]]) {
  for (const shape of from) {
    test(`${route}: ${shape} comes and is recorded as it is`, patience, async () => {
      const response = await fetch(`${both.server.url}${route}/events?${shape}`)
      assert.equal(response.status, 200)
      assert.equal(response.headers.get("content-type"), "text/event-stream")
      assert.equal(response.headers.get("x-upstream"), "test")
      const url = response.headers.get("stream-url")
      assert.match(response.headers.get("link"), /rel="alternate"/)
      assert.ok(response.headers.get("link").includes(url))
      const { bytes, whole } = await readAll(response)
      assert.ok(whole)
      assert.equal(bytes.toString(), eventsText(shape))
      assert.equal(await recorded(url), eventsText(shape))
      assert.deepEqual(await endOf(url), { end: "completed", reason: null })
    })
  }
}

/** All that a recording holds. */
async function recorded(url) {
  let text = ""
  let offset = "-1"
  for (;;) {
    const response = await fetch(`${url}&offset=${offset}`)
    assert.equal(response.status, 200)
    text += await response.text()
    offset = response.headers.get("stream-next-offset")
    if (response.headers.has("stream-closed")) return text
    if (response.headers.has("stream-up-to-date")) await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

test("a connection goes on after a recorded answer, also with what was sent ahead", patience, async () => {
  const { hostname, port } = new URL(both.server.url)
  const socket = net.connect(Number(port), hostname)
  let received = ""
  socket.setEncoding("utf8").on("data", (text) => { received += text })
  const get = (shape) => `GET /plain/events?${shape} HTTP/1.1\r\nhost: x\r\n\r\n`
  const answers = () => received.split("HTTP/1.1 200 OK\r\n").slice(1)
  const complete = () => answers().filter((answer) => answer.endsWith("\r\n0\r\n\r\n")).length
  socket.write(get("count=20&delay=5") + get("count=3"))
  await until(() => complete() === 2)
  socket.write(get("count=2"))
  await until(() => complete() === 3)
  const events = answers().map((answer) => answer.match(/^data:/gm).length)
  const expected = ["count=20", "count=3", "count=2"].map((shape) => eventsText(shape).match(/^data:/gm).length)
  assert.deepEqual(events, expected)
  socket.destroy()
})

test("curl -N gets each event when it comes", patience, async (t) => {
  const child = spawn("curl", ["--silent", "-N", `${both.server.url}/by-hand/`], { stdio: ["ignore", "pipe", "inherit"] })
  t.after(() => child.kill())
  let seen = ""
  child.stdout.setEncoding("utf8").on("data", (text) => { seen += text })
  const answer = await until(() => byHand.answers.shift())
  for (let n = 1; n <= 5; n++) {
    answer.write(eventsText(`count=1&from=${n}`))
    // The next event is not sent before this one was seen.
    await until(() => seen.length >= eventsText(`count=${n}`).length)
    assert.equal(seen, eventsText(`count=${n}`))
  }
  answer.end()
  assert.deepEqual(await once(child, "close"), [0, null])
  assert.equal(seen, eventsText("count=5"))
})

test("a client that reads late, and one beside it, get all in order", patience, async (t) => {
  const { hostname, port } = new URL(both.server.url)
  const late = net.connect(Number(port), hostname)
  t.after(() => late.destroy())
  let text = ""
  late.setEncoding("latin1").on("data", (piece) => { text += piece })
  late.write(`GET /by-hand/ HTTP/1.1\r\nhost: ${hostname}:${port}\r\n\r\n`)
  const answer = await until(() => byHand.answers.shift())
  await until(() => text.includes("\r\n\r\n"))
  const url = text.match(/^stream-url: (.*)\r$/im)[1]
  const beside = await fetch(`${url}&offset=-1&live=sse`)
  const reader = beside.body.getReader()
  let seen = 0
  // Each event is an append of its own, and some are larger than what is sent without a pause. What
  // is sent while the client does not read is more than its connection holds.
  const sizes = Array.from({ length: 1500 }, (_, n) => (n % 100 === 99 ? 20_000 : 3_000))
  const events = sizes.map((size, n) => eventsText(`count=1&from=${n + 1}&size=${size}`))
  for (const [n, event] of events.entries()) {
    if (n === 100) late.pause()
    if (n === 1300) late.resume()
    answer.write(event)
    for (seen -= sizes[n]; seen < 0;) seen += (await reader.read()).value.length
  }
  answer.end()
  await until(() => text.endsWith("\r\n0\r\n\r\n"))
  const body = text.slice(text.indexOf("\r\n\r\n") + 4)
  assert.equal(unchunked(Buffer.from(body, "latin1")).toString(), events.join(""))
  assert.equal(await recorded(url), events.join(""))
  await reader.cancel()
})

/** A body that came in chunks, without what frames them. */
function unchunked(bytes) {
  const pieces = []
  for (let at = 0; ;) {
    const line = bytes.indexOf("\r\n", at)
    const length = Number.parseInt(bytes.toString("latin1", at, line), 16)
    if (length === 0) return Buffer.concat(pieces)
    pieces.push(bytes.subarray(line + 2, line + 2 + length))
    at = line + 2 + length + 2
  }
}

test("ids are added to events that have none, in the event's own kind of line", patience, async () => {
  for (const shape of ["count=20", "count=20&end=crlf&split=3", "count=20&end=cr&split=5"]) {
    const response = await fetch(`${both.server.url}/ids/events?${shape}`)
    const { bytes } = await readAll(response)
    assert.equal(withoutIds(bytes), eventsText(shape))
    const ids = parseEvents(bytes).map(({ id }) => id)
    assert.equal(new Set(ids).size, 20)
  }
  const own = await readAll(await fetch(`${both.server.url}/ids/events?count=3&ids=1`))
  assert.equal(own.bytes.toString(), eventsText("count=3&ids=1"))
})

test("lines are recorded where the route says so", patience, async () => {
  const shape = "count=20&type=application/x-ndjson&split=9"
  const response = await fetch(`${both.server.url}/lines/events?${shape}`)
  const url = response.headers.get("stream-url")
  assert.equal(await response.text(), eventsText(shape))
  assert.equal(await recorded(url), eventsText(shape))
})

test("anything else passes through, unrecorded", patience, async () => {
  for (const [path, status] of [["/status/400", 400], ["/status/429", 429], ["/status/500", 500], ["/echo", 200],
    ["/redirect?to=/echo", 302], ["/events?type=text/plain", 200], ["/events?status=404", 404]]) {
    const direct = await fetch(`${both.upstream.url}${path}`, { redirect: "manual" })
    const response = await fetch(`${both.server.url}/plain${path}`, { redirect: "manual" })
    assert.equal(response.status, status, path)
    assert.equal(response.headers.get("stream-url"), null, path)
    assert.equal(response.headers.get("location"), direct.headers.get("location"), path)
    assert.equal(response.headers.get("retry-after"), direct.headers.get("retry-after"), path)
    const [expected, got] = [await direct.text(), await response.text()]
    if (path !== "/echo") assert.equal(got, expected, path)
  }
})

test("a compressed answer comes through whole", patience, async () => {
  const { code, stdout } = await curl("--compressed", "--dump-header", "-", `${both.server.url}/plain/events?count=20&gzip=always`)
  assert.equal(code, 0)
  const [head, body] = stdout.toString().split("\r\n\r\n")
  assert.match(head, /^content-encoding: gzip$/im)
  assert.equal(body, eventsText("count=20"))
})

for (const route of ["/plain", "/h2", "/ids"]) {
  test(`${route}: an answer that is compressed although nobody accepts it passes through as it is, unrecorded`, patience, async () => {
    const key = `zipped ${route}`
    for (let asked = 1; asked <= 2; asked++) {
      const url = `${both.server.url}${route}/events?count=20&gzip=always`
      const [response] = await once(http.get(url, { headers: { "x-test-key": key, "idempotency-key": key } }), "response")
      assert.equal(response.statusCode, 200)
      assert.equal(response.headers["content-type"], "text/event-stream")
      assert.equal(response.headers["content-encoding"], "gzip")
      assert.equal(response.headers["stream-url"], undefined)
      assert.equal(response.headers.link, undefined)
      assert.equal(gunzipSync(Buffer.concat(await response.toArray())).toString(), eventsText("count=20"))
      // There is no recording that the same key would find.
      const calls = await (await fetch(`${both.server.url}${route}/__calls`)).json()
      assert.equal(calls[key].calls, asked)
    }
  })
}

test("an upstream that compresses what is accepted is recorded uncompressed", patience, async () => {
  const url = `${both.server.url}/plain/events?count=20&gzip=1&key=unzipped`
  const response = await fetch(url, { headers: { "accept-encoding": "gzip" } })
  assert.equal(response.headers.get("content-encoding"), null)
  assert.equal(await response.text(), eventsText("count=20"))
  assert.equal(await recorded(response.headers.get("stream-url")), eventsText("count=20"))
  assert.equal((await both.upstream.calls("unzipped")).headers["accept-encoding"], "identity")
})

for (const route of ["/plain", "/h2"]) {
  test(`${route}: an upstream that breaks off is seen to have broken off, by all`, patience, async () => {
    const response = await fetch(`${both.server.url}${route}/events?count=10&break_at=5&break_bytes=9`)
    const url = response.headers.get("stream-url")
    const { bytes, whole } = await readAll(response)
    assert.equal(whole, false)
    assert.ok(eventsText("count=10").startsWith(bytes.toString()))
    assert.ok(bytes.toString().startsWith(eventsText("count=4")))
    const { end, reason } = await endOf(url)
    assert.equal(end, "failed")
    assert.ok(reason)
    assert.ok((await recorded(url)).startsWith(eventsText("count=4")))
    const sse = await (await fetch(`${url}&offset=-1&live=sse`)).text()
    assert.match(sse, /"streamClosed":true,"streamEnd":"failed"/)
  })
}

test("silence before the head is answered with 504, silence after it ends the recording", patience, async () => {
  const late = await fetch(`${both.server.url}/hurried/events?head_after=60000&key=late`)
  assert.equal(late.status, 504)
  const silent = await fetch(`${both.server.url}/impatient/events?count=10&pause_at=3`)
  const url = silent.headers.get("stream-url")
  const { bytes, whole } = await readAll(silent)
  assert.equal(whole, false)
  assert.equal(bytes.toString(), eventsText("count=2"))
  assert.equal((await endOf(url)).end, "failed")
  await until(async () => (await both.upstream.calls("late")).running === 0)
})

test("half an event is passed on, and half a character waited for without work", patience, async () => {
  const text = eventsText("count=2")
  const halfCharacter = Buffer.from(text).indexOf("\u{1f30a}") + 2
  const response = await fetch(`${both.server.url}/plain/events?count=2&pause_at=1&pause_bytes=${halfCharacter}&pause=3000`)
  const reader = response.body.getReader()
  const first = Buffer.from((await reader.read()).value)
  assert.ok(text.startsWith(first.toString()), first.toString())
  const before = cpuSeconds(both.server.pid())
  await sleep(1500)
  const used = cpuSeconds(both.server.pid()) - before
  assert.ok(used < 0.3, `${used} s`)
  const parts = [first]
  for (let next = await reader.read(); !next.done; next = await reader.read()) parts.push(next.value)
  assert.equal(Buffer.concat(parts).toString(), text)
})

/** The processor time that a process has used. */
function cpuSeconds(pid) {
  const fields = fs.readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ")
  return (Number(fields[11]) + Number(fields[12])) / 100
}

test("what is larger than allowed ends as failed, with all that came before", patience, async () => {
  const response = await fetch(`${both.server.url}/small/events?count=endless&delay=1&key=small`)
  const url = response.headers.get("stream-url")
  const { bytes, whole } = await readAll(response)
  assert.equal(whole, false)
  assert.ok(bytes.length > 500 && bytes.length <= 1024, `${bytes.length} bytes`)
  assert.equal((await endOf(url)).end, "failed")
  await until(async () => (await both.upstream.calls("small")).running === 0)
})

test("a silent upstream's client gets comments between events, and they are not recorded", patience, async () => {
  const response = await fetch(`${both.server.url}/beating/events?count=3&delay=400`)
  const url = response.headers.get("stream-url")
  const { bytes, whole } = await readAll(response)
  assert.ok(whole)
  const text = bytes.toString()
  assert.match(text, /^:/m)
  assert.equal(text.replace(/^:.*\n\n/gm, ""), eventsText("count=3"))
  assert.equal(await recorded(url), eventsText("count=3"))
})

test("a client that leaves does not end the upstream call, unless the route says so", patience, async () => {
  const leave = async (route, key) => {
    const gone = new AbortController()
    const response = await fetch(`${both.server.url}${route}/events?count=60&delay=50&key=${key}`, { signal: gone.signal })
    const url = response.headers.get("stream-url")
    await response.body.getReader().read()
    gone.abort()
    return { url, ended: await endOf(url) }
  }
  const [stays, cancel, grace] = await Promise.all([leave("/plain", "stays"), leave("/cancel", "cancel"), leave("/grace", "grace")])
  assert.equal(stays.ended.end, "completed")
  assert.equal(await recorded(stays.url), eventsText("count=60"))
  assert.equal((await both.upstream.calls("stays")).completed, 1)
  for (const [key, { ended }] of [["cancel", cancel], ["grace", grace]]) {
    assert.equal(ended.end, "aborted")
    await until(async () => (await both.upstream.calls(key)).cancelled === 1)
  }
})

// More than all buffers on the way to a client hold.
const large = "count=64&size=1000000"

test("a client that never reads holds nothing up", patience, async (t) => {
  const { hostname, port } = new URL(both.server.url)
  const socket = net.connect(Number(port), hostname).pause()
  t.after(() => socket.destroy())
  socket.write(`GET /plain/events?${large}&key=unread HTTP/1.1\r\nhost: x\r\nidempotency-key: unread\r\n\r\n`)
  await until(async () => (await both.upstream.calls("unread"))?.completed === 1)
  const response = await fetch(`${both.server.url}/plain/events?${large}&key=unread`, { headers: { "idempotency-key": "unread" } })
  const url = response.headers.get("stream-url")
  assert.ok(await response.text() === eventsText(large))
  assert.deepEqual(await endOf(url), { end: "completed", reason: null })
  assert.ok(await recorded(url) === eventsText(large))
  assert.equal((await both.upstream.calls("unread")).calls, 1)
  assert.equal(socket.bytesRead, 0)
})

test("a client that reads late holds nothing up, and gets all", patience, async () => {
  const [response] = await once(http.get(`${both.server.url}/plain/events?${large}`), "response")
  const url = response.headers["stream-url"]
  assert.deepEqual(await endOf(url), { end: "completed", reason: null })
  assert.ok(await recorded(url) === eventsText(large))
  assert.ok(Buffer.concat(await response.toArray()).toString() === eventsText(large))
})

test("a recording can be stopped from elsewhere", patience, async () => {
  const response = await fetch(`${both.server.url}/plain/events?count=endless&delay=20&key=stop`)
  const url = response.headers.get("stream-url")
  const reading = readAll(response)
  await until(async () => (await fetch(`${url}&offset=-1`).then((r) => r.text())).includes("token 3"))
  for (let n = 0; n < 2; n++) {
    const stopped = await fetch(`${url}&action=abort`, { method: "PATCH" })
    assert.equal(stopped.status, 204)
  }
  const { bytes, whole } = await reading
  assert.equal(whole, false)
  assert.equal((await endOf(url)).end, "aborted")
  assert.ok((await recorded(url)).startsWith(eventsText("count=3")))
  assert.ok(bytes.toString().startsWith(eventsText("count=3")))
  await until(async () => (await both.upstream.calls("stop")).cancelled === 1)
  const other = (first) => first === "A" ? "B" : "A"
  const signedOtherwise = url.replace(/(?<=signature=)./, other)
  const tampered = await fetch(`${signedOtherwise}&action=abort`, { method: "PATCH" })
  assert.equal(tampered.status, 401)
})
