// Settings of a record route, each against its default, and what is never stored.

import assert from "node:assert/strict"
import { randomUUID } from "node:crypto"
import fs from "node:fs"
import http from "node:http"
import os from "node:os"
import path from "node:path"
import { after, before, test } from "node:test"
import { setTimeout as sleep } from "node:timers/promises"
import { eventsText } from "../upstream/events.mjs"
import { endOf, listen, metric, parseEvents, patience, recordRoute, startBoth, until } from "./support.mjs"

const HEARTBEAT = ": heartbeat\n\n"

let both
let own
before(async () => {
  own = await startOwn()
  both = await startBoth((upstream) =>
    recordRoute(upstream, "/named", `idempotency_header = "X-Request-Key"`)
    + recordRoute(upstream, "/users", `credentials = ["X-User"]`)
    + recordRoute(upstream, "/based", `base_url = "https://proxy.example.com:8443"`)
    + recordRoute(upstream, "/brief", `ttl = "2s"`)
    + recordRoute(own, "/beating", `heartbeat = "50ms"`)
    + recordRoute(own, "/feed", "share = true"))
})
after(async () => {
  await both.stop()
  own.stop()
})

/** An upstream that answers as `answer(request, response)` says, which tests replace. */
async function startOwn() {
  const own = await listen(http.createServer((request, response) => own.answer(request, response)))
  return own
}

/** Asks with each of these headers, one after the other; how often that called the upstream. */
async function callsFor(route, ...requests) {
  const key = randomUUID()
  for (const headers of requests) {
    const response = await fetch(`${both.server.url}${route}/events?count=2&key=${key}`, { headers })
    assert.equal(await response.text(), eventsText("count=2"))
  }
  return (await both.upstream.calls(key)).calls
}

test("requests are named by the header that the route says, and by no other", patience, async () => {
  const key = randomUUID()
  assert.equal(await callsFor("/named", { "x-request-key": key }, { "x-request-key": key }), 1)
  assert.equal(await callsFor("/named", { "idempotency-key": key }, { "idempotency-key": key }), 2)
  assert.equal(await callsFor("/plain", { "x-request-key": key }, { "x-request-key": key }), 2)
})

test("callers are told apart by the headers that the route says, and by no other", patience, async () => {
  const as = (key, user, more = {}) => ({ "idempotency-key": key, "x-user": user, ...more })
  const [one, two, three] = Array.from({ length: 3 }, () => randomUUID())
  const [a, b] = [{ authorization: "Bearer a" }, { authorization: "Bearer b", cookie: "c=d" }]
  assert.equal(await callsFor("/users", as(one, "ann", a), as(one, "ann", b)), 1)
  assert.equal(await callsFor("/users", as(two, "ann"), as(two, "ben"), as(two, "ann"), as(two, "ben")), 2)
  assert.equal(await callsFor("/plain", as(three, "ann"), as(three, "ben")), 1)
})

test("the URL of a recording begins as the route says, or as the client came", patience, async () => {
  const urls = []
  for (const route of ["/based", "/plain"]) {
    const response = await fetch(`${both.server.url}${route}/events?count=2`)
    await response.text()
    const url = response.headers.get("stream-url")
    assert.ok(response.headers.get("link").includes(`<${url}>`))
    urls.push(new URL(url))
  }
  const [based, plain] = urls
  assert.equal(based.origin, "https://proxy.example.com:8443")
  assert.equal(plain.origin, both.server.url)
  const read = await fetch(`${both.server.url}${based.pathname}${based.search}&offset=-1`)
  assert.equal(await read.text(), eventsText("count=2"))
})

test("a recording is gone when its time is over, and its request calls the upstream again", patience, async () => {
  const key = randomUUID()
  const ask = () => fetch(`${both.server.url}/brief/events?count=2&key=${key}`, { headers: { "idempotency-key": key } })
  const response = await ask()
  const url = response.headers.get("stream-url")
  await response.text()
  const gone = await until(async () => {
    // Neither HEAD nor the wait keeps it.
    const head = await fetch(url, { method: "HEAD" })
    if (head.status !== 200) return head
    assert.equal(head.headers.get("stream-ttl"), "2")
  })
  assert.equal(gone.status, 404)
  assert.equal((await fetch(`${url}&offset=-1`)).status, 404)
  assert.equal(await (await ask()).text(), eventsText("count=2"))
  assert.equal((await both.upstream.calls(key)).calls, 2)
})

test("a recording is kept for a day unless the route says otherwise", patience, async () => {
  const response = await fetch(`${both.server.url}/plain/events?count=2`)
  await response.text()
  const head = await fetch(response.headers.get("stream-url"), { method: "HEAD" })
  assert.equal(head.headers.get("stream-ttl"), `${24 * 60 * 60}`)
})

test("no comment is put into an event, however long its end takes, and none is recorded", patience, async () => {
  const [first, second] = [eventsText("count=1"), eventsText("count=1&from=2")]
  let upstream
  own.answer = (_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" })
    response.write(first)
    upstream = response
  }
  const response = await fetch(`${both.server.url}/beating/`)
  let text = ""
  const reading = (async () => {
    for await (const part of response.body.pipeThrough(new TextDecoderStream())) text += part
  })()
  await until(() => text.startsWith(first + HEARTBEAT))
  for (const half of [second.slice(0, 3), second.slice(3, -1)]) {
    upstream.write(half)
    await until(() => text.endsWith(half))
    await sleep(500)
    assert.ok(text.endsWith(half), text)
  }
  upstream.write(second.slice(-1))
  await until(() => text.endsWith(second + HEARTBEAT))
  upstream.end()
  await reading
  assert.equal(text.replaceAll(HEARTBEAT, ""), first + second)
  const recorded = await fetch(`${response.headers.get("stream-url")}&offset=-1`)
  assert.equal(await recorded.text(), first + second)
})

test("a feed's connections that are made again are counted, and come less and less often", patience, async () => {
  const reconnects = () => metric(both.server, "headwater_feed_reconnects_total")
  const before = await reconnects()
  const calls = []
  own.answer = (request, response) => {
    calls.push({ at: performance.now(), last: request.headers["last-event-id"] })
    if (calls.length > 1 && calls.length < 5) return response.writeHead(503).end()
    response.writeHead(200, { "content-type": "text/event-stream" })
    response.write(`id: ${calls.length}\ndata: ${calls.length}\n\n`)
    if (calls.length === 1) response.end()
  }
  const response = await fetch(`${both.server.url}/feed/one`)
  let bytes = Buffer.alloc(0)
  for await (const part of response.body) {
    bytes = Buffer.concat([bytes, part])
    if (parseEvents(bytes).at(-1)?.data === "5") break
  }
  assert.equal(await reconnects(), before + 4)
  assert.deepEqual(calls.map(({ last }) => last), [undefined, "1", "1", "1", "1"])
  // Chance takes at most half of a wait.
  for (const [n, least] of [250, 500, 1000, 2000].entries()) {
    const waited = calls[n + 1].at - calls[n].at
    assert.ok(waited >= least, `${waited} ms before call ${n + 2}`)
  }
})

/** Which of these texts lie in the files below a directory. */
function foundBelow(dir, texts) {
  const entries = fs.readdirSync(dir, { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile())
  const contents = files.map((entry) => fs.readFileSync(path.join(entry.parentPath ?? entry.path, entry.name)))
  return Object.keys(texts).filter((what) => contents.some((bytes) => bytes.includes(texts[what])))
}

test("nothing of a request, and no credentials, are in the database", patience, async (t) => {
  const dataDir = fs.mkdtempSync(path.join(os.tmpdir(), "headwater-recorded-"))
  t.after(() => fs.rmSync(dataDir, { recursive: true, force: true }))
  // Random, so that what is written compressed is found all the same.
  const kept = { text: randomUUID(), header: randomUUID() }
  const secret = {
    keyOfRoute: randomUUID(), authorization: randomUUID(), cookie: randomUUID(), apiKey: randomUUID(), setCookie: randomUUID(),
    idempotencyKey: randomUUID(), path: randomUUID(), query: randomUUID(), body: randomUUID(), upstream: new URL(own.url).host,
  }
  let said = ""
  own.answer = async (request, response) => {
    said += JSON.stringify([request.url, request.headers]) + (await request.toArray()).join("")
    response.writeHead(200, { "content-type": "text/event-stream", "x-kept": kept.header, "set-cookie": `session=${secret.setCookie}` })
    response.end(`data: ${kept.text}\n\n`)
  }
  const recording = await startBoth(
    () => recordRoute(own, "/keys", `[site.route.record.request_headers]\nset = { Authorization = "Bearer \${KEY_OF_ROUTE}" }`)
      + recordRoute(own, "/passed"),
    { HEADWATER__DATA_DIR: dataDir, KEY_OF_ROUTE: secret.keyOfRoute })
  try {
    for (const route of ["/keys", "/passed"]) {
      const response = await fetch(`${recording.server.url}${route}/${secret.path}?query=${secret.query}`, {
        method: "POST",
        body: secret.body,
        headers: {
          authorization: `Bearer ${secret.authorization}`,
          cookie: `session=${secret.cookie}`,
          "x-api-key": secret.apiKey,
          "idempotency-key": secret.idempotencyKey,
        },
      })
      assert.equal(response.headers.get("set-cookie"), `session=${secret.setCookie}`)
      await response.text()
      kept[`the name of ${route}`] = new URL(response.headers.get("stream-url")).pathname.split("/").at(-1)
      assert.equal((await endOf(response.headers.get("stream-url"))).end, "completed")
    }
  } finally {
    await recording.stop()
  }
  // All of it went through.
  for (const what of Object.keys(secret).filter((what) => what !== "setCookie")) {
    assert.ok(said.includes(secret[what]), what)
  }
  assert.deepEqual(foundBelow(dataDir, kept), Object.keys(kept), "what is stored is found")
  assert.deepEqual(foundBelow(dataDir, secret), [])
})
