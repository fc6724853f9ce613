// Clients of HTTP/2 over TLS, and of HTTP/1.0, at a record route.

import assert from "node:assert/strict"
import { randomUUID } from "node:crypto"
import { once } from "node:events"
import fs from "node:fs"
import http2 from "node:http2"
import net from "node:net"
import { after, before, test } from "node:test"
import tls from "node:tls"
import { startServer } from "../tools/server.mjs"
import { eventsText } from "../upstream/events.mjs"
import { parseEvents, patience, readAll, recordRoute, startBoth, startUpstream, until, withoutIds } from "./support.mjs"

const { NGHTTP2_CANCEL, NGHTTP2_NO_ERROR } = http2.constants

let both
let h2c
let encrypted
let ca
let session
before(async () => {
  h2c = await startUpstream("--h2c")
  both = await startBoth()
  const config = recordRoute(both.upstream, "/plain") + recordRoute(both.upstream, "/ids", "event_ids = true")
    + recordRoute(h2c, "/h2", `http = "2"`)
    // Nobody is cut off for not reading: what waits for such a client waits for ever.
    + `
[limits]
write_timeout = "1h"
`
  encrypted = await startServer({ tls: true, config })
  ca = fs.readFileSync(encrypted.ca)
  session = connect()
})
after(async () => {
  session.destroy()
  const how = await encrypted.stop()
  await both.stop()
  h2c.stop()
  assert.equal(how, "exit code 0")
})

const connect = () => http2.connect(encrypted.url, { ca })

/** Sends a request over HTTP/2. */
function send(path, { headers = {}, body, over = session } = {}) {
  const stream = over.request({ ":path": path, ...headers }, { endStream: body === undefined })
  // That it broke off is seen by its code.
  stream.on("error", () => {})
  if (body !== undefined) stream.end(body)
  return stream
}

/** Sends a request over HTTP/2, and resolves to its `stream` and the `head` of the answer. */
async function ask(path, options) {
  const stream = send(path, options)
  const [head] = await once(stream, "response")
  return { head, stream }
}

/** Whether a stream that is over ended as it should. */
const isWhole = (stream) => stream.rstCode === NGHTTP2_NO_ERROR && !stream.aborted

/** Sends a request over HTTP/2, and reads the answer as far as it goes; `whole` is whether it ended as it should. */
async function read(path, options) {
  const stream = send(path, options)
  // From the beginning: what nobody has taken when a stream breaks off is lost.
  const parts = []
  stream.on("data", (part) => parts.push(part))
  const closed = new Promise((resolve) => stream.once("close", resolve))
  const [head] = await once(stream, "response")
  await closed
  return { head, text: Buffer.concat(parts).toString(), whole: isWhole(stream) }
}

/** A request at a Stream-Url, over HTTP/2 if that is one of https. */
async function atStream(url, method = "GET") {
  if (new URL(url).protocol === "http:") {
    const response = await fetch(url, { method })
    return { status: response.status, headers: Object.fromEntries(response.headers), text: await response.text() }
  }
  const { origin, pathname, search } = new URL(url)
  assert.equal(origin, encrypted.url)
  const { head, text } = await read(pathname + search, { headers: { ":method": method } })
  return { status: head[":status"], headers: head, text }
}

/** How a recording ended, and all that it holds. */
async function ended(url) {
  const last = await until(async () => {
    const answer = await atStream(url, "HEAD")
    assert.equal(answer.status, 200)
    return answer.headers["stream-closed"] && answer.headers
  })
  let text = ""
  for (let offset = "-1"; ;) {
    const answer = await atStream(`${url}&offset=${offset}`)
    assert.equal(answer.status, 200)
    text += answer.text
    offset = answer.headers["stream-next-offset"]
    if (answer.headers["stream-closed"]) return { end: last["stream-end"], reason: last["stream-end-reason"], text }
  }
}

/** The headers that are the upstream's own. */
function ownHeaders(headers) {
  const others = [":status", "connection", "keep-alive", "transfer-encoding", "date", "stream-url", "link", "access-control-expose-headers"]
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !others.includes(name)))
}

async function headersOf(path) {
  const response = await fetch(both.upstream.url + path)
  await response.text()
  return Object.fromEntries(response.headers)
}

const shapes = ["count=50&delay=2", "count=20&end=crlf&split=7", "count=3&size=3000000", "count=20&ends=close", "count=0"]
for (const [route, from] of [["/plain", shapes], ["/h2", shapes.slice(0, 3)]]) {
  for (const shape of from) {
    test(`${route}: ${shape} comes over HTTP/2 and is recorded as it is`, patience, async () => {
      const { head, text, whole } = await read(`${route}/events?${shape}`)
      assert.equal(head[":status"], 200)
      assert.deepEqual(ownHeaders(head), ownHeaders(await headersOf(`/events?${shape}`)))
      assert.ok(head.link.includes(head["stream-url"]))
      assert.ok(whole)
      assert.ok(text === eventsText(shape))
      const recorded = await ended(head["stream-url"])
      assert.equal(recorded.end, "completed")
      assert.ok(recorded.text === eventsText(shape))
    })
  }

  test(`${route}: an upstream that breaks off is a stream that breaks off`, patience, async () => {
    const { head, text, whole } = await read(`${route}/events?count=10&break_at=5&break_bytes=9`)
    assert.equal(head[":status"], 200)
    assert.equal(whole, false)
    assert.ok(text.startsWith(eventsText("count=4")))
    assert.ok(eventsText("count=10").startsWith(text))
    const recorded = await ended(head["stream-url"])
    assert.equal(recorded.end, "failed")
    assert.equal(recorded.reason, "upstream_broke")
    assert.ok(recorded.text.startsWith(eventsText("count=4")))
    // Its connection goes on.
    assert.equal((await read(`${route}/events?count=3`)).text, eventsText("count=3"))
  })
}

test("each event comes over HTTP/2 before the next is sent", patience, async () => {
  const { head, stream } = await ask("/plain/events?count=5&pause_at=3")
  const closed = new Promise((resolve) => stream.once("close", resolve))
  let seen = ""
  stream.setEncoding("utf8").on("data", (text) => { seen += text })
  await until(() => seen === eventsText("count=2"))
  assert.equal((await atStream(`${head["stream-url"]}&action=abort`, "PATCH")).status, 204)
  await closed
  assert.equal(isWhole(stream), false)
  const recorded = await ended(head["stream-url"])
  assert.equal(recorded.end, "aborted")
  assert.equal(recorded.text, eventsText("count=2"))
})

test("a body is sent over HTTP/2, and many answers come at once", patience, async () => {
  const asked = Array.from({ length: 20 }, async (_, n) => {
    const key = randomUUID()
    const { head, text, whole } = await read(`/plain/events?count=${n}&delay=5&key=${key}`,
      { headers: { ":method": "POST", "content-type": "text/plain" }, body: `body ${n}` })
    assert.ok(whole)
    assert.equal(text, eventsText(`count=${n}`))
    assert.equal((await both.upstream.calls(key)).body, `body ${n}`)
    return head["stream-url"]
  })
  assert.equal(new Set(await Promise.all(asked)).size, 20)
})

test("an error passes through over HTTP/2, unrecorded", patience, async () => {
  for (const [path, status] of [["/status/429", 429], ["/events?count=2&status=404", 404], ["/events?count=2&type=text/plain", 200]]) {
    const { head, text, whole } = await read(`/plain${path}`)
    const direct = await fetch(both.upstream.url + path)
    assert.equal(head[":status"], status)
    assert.deepEqual(ownHeaders(head), ownHeaders(Object.fromEntries(direct.headers)))
    assert.equal(head["stream-url"], undefined)
    assert.ok(whole)
    assert.equal(text, await direct.text())
  }
})

// How a client leaves: its stream alone, or its connection.
const ways = {
  "ends its stream": (stream) => stream.close(NGHTTP2_CANCEL),
  "ends its connection": (_, over) => over.destroy(),
}
for (const [way, leave] of Object.entries(ways)) {
  /** Reads some events over a connection of its own, and leaves. */
  const readSome = async (path, headers) => {
    const over = connect()
    const { head, stream } = await ask(path, { headers, over })
    let text = ""
    stream.setEncoding("utf8").on("data", (part) => { text += part })
    await until(() => parseEvents(text).length >= 3)
    const closed = new Promise((resolve) => stream.once("close", resolve))
    leave(stream, over)
    await closed
    over.destroy()
    return { url: head["stream-url"], text }
  }

  test(`a client that ${way} resumes over HTTP/2 with the same Idempotency-Key`, patience, async () => {
    const key = randomUUID()
    const path = `/plain/events?count=40&delay=30&key=${key}`
    const headers = { "idempotency-key": key }
    const { url, text } = await readSome(path, headers)
    const again = await read(path, { headers })
    assert.ok(again.whole)
    assert.equal(again.text, eventsText("count=40"))
    assert.ok(again.text.startsWith(text))
    assert.deepEqual(await ended(url), { end: "completed", reason: undefined, text: eventsText("count=40") })
    const { calls, completed } = await both.upstream.calls(key)
    assert.deepEqual({ calls, completed }, { calls: 1, completed: 1 })
  })

  test(`a client that ${way} resumes over HTTP/2 with Last-Event-ID`, patience, async () => {
    const key = randomUUID()
    const path = `/ids/events?count=40&delay=30&key=${key}`
    const { url, text } = await readSome(path, {})
    const seen = parseEvents(text)
    const rest = await read(path, { headers: { "last-event-id": seen.at(-1).id } })
    assert.ok(rest.whole)
    const events = [...seen, ...parseEvents(rest.text)]
    assert.deepEqual(events.map(({ data }) => data), parseEvents(eventsText("count=40")).map(({ data }) => data))
    const recorded = await ended(url)
    assert.equal(recorded.end, "completed")
    assert.equal(withoutIds(recorded.text), eventsText("count=40"))
    const { calls, completed } = await both.upstream.calls(key)
    assert.deepEqual({ calls, completed }, { calls: 1, completed: 1 })
    const over = await read(path, { headers: { "last-event-id": events.at(-1).id } })
    assert.equal(over.head[":status"], 204)
    assert.equal(over.head["stream-end"], "completed")
  })

  test(`a client that ${way} and does not come back loses nothing`, patience, async () => {
    const key = randomUUID()
    const { url } = await readSome(`/plain/events?count=40&delay=30&key=${key}`, {})
    assert.deepEqual(await ended(url), { end: "completed", reason: undefined, text: eventsText("count=40") })
    assert.equal((await both.upstream.calls(key)).completed, 1)
  })
}

test("a client that reads its stream late holds nothing up, and gets all", patience, async () => {
  const shape = "count=64&size=1000000"
  const { head, stream } = await ask(`/plain/events?${shape}`)
  // Over the same connection.
  const recorded = await ended(head["stream-url"])
  assert.equal(recorded.end, "completed")
  assert.ok(recorded.text === eventsText(shape))
  const { bytes, whole } = await readAll({ body: stream })
  assert.ok(whole && isWhole(stream))
  assert.ok(bytes.toString() === eventsText(shape))
})

/** Sends a request of HTTP/1.0, and reads to the end of the connection. */
async function askOld(server, path, more = "") {
  const { hostname, host, port, protocol } = new URL(server.url)
  const place = { host: hostname, port: Number(port) }
  const socket = protocol === "https:" ? tls.connect({ ...place, servername: hostname, ca }) : net.connect(place)
  socket.write(`GET ${path} HTTP/1.0\r\nhost: ${host}\r\n${more}\r\n`)
  const answer = Buffer.concat(await socket.toArray())
  const headEnd = answer.indexOf("\r\n\r\n")
  const [statusLine, ...lines] = answer.subarray(0, headEnd).toString().split("\r\n")
  const fields = lines.map((line) => /^([^:]*): ?(.*)$/.exec(line).slice(1))
  return {
    status: Number(statusLine.split(" ")[1]),
    headers: Object.fromEntries(fields.map(([name, value]) => [name.toLowerCase(), value])),
    text: answer.subarray(headEnd + 4).toString(),
  }
}

const places = { "in the clear": () => both.server, "over TLS": () => encrypted }
for (const [place, server] of Object.entries(places)) {
  for (const [shape, more] of [...shapes.map((shape) => [shape]), ["count=20", "connection: keep-alive\r\n"]]) {
    const asking = more ? ", asking to keep its connection" : ""
    test(`HTTP/1.0 ${place}${asking}: ${shape} comes and is recorded as it is`, patience, async () => {
      const { status, headers, text } = await askOld(server(), `/plain/events?${shape}`, more)
      assert.equal(status, 200)
      // It knows no chunks: the end of the connection is the answer's.
      assert.equal(headers["transfer-encoding"], undefined)
      assert.equal(headers.connection?.toLowerCase(), "close")
      assert.deepEqual(ownHeaders(headers), ownHeaders(await headersOf(`/events?${shape}`)))
      assert.ok(text === eventsText(shape))
      const url = headers["stream-url"]
      assert.equal(new URL(url).origin, server().url)
      const recorded = await ended(url)
      assert.equal(recorded.end, "completed")
      assert.ok(recorded.text === eventsText(shape))
    })
  }

  test(`HTTP/1.0 ${place}: the Stream-Url tells that an answer broke off`, patience, async () => {
    const { status, headers, text } = await askOld(server(), "/plain/events?count=10&break_at=5&break_bytes=9")
    assert.equal(status, 200)
    assert.ok(text.startsWith(eventsText("count=4")))
    assert.ok(eventsText("count=10").startsWith(text))
    const recorded = await ended(headers["stream-url"])
    assert.equal(recorded.end, "failed")
    assert.equal(recorded.reason, "upstream_broke")
  })
}
