// The proxy protocol in more detail: which headers go where, upstreams that answer
// unusually or behind TLS, and what ends a recording.

import assert from "node:assert/strict"
import { randomUUID } from "node:crypto"
import { once } from "node:events"
import fs from "node:fs"
import http from "node:http"
import http2 from "node:http2"
import os from "node:os"
import path from "node:path"
import { after, before, test } from "node:test"
import { gzipSync } from "node:zlib"
import { eventsText } from "../upstream/events.mjs"
import { certificates, startServer } from "../tools/server.mjs"
import { endOf, listen, metric, patience, readAll, recordRoute, startUpstream, until } from "./support.mjs"

const SECRET = "a-secret-of-the-tests"
const asService = { authorization: `Bearer ${SECRET}` }

let dir
let upstream
let server
/** Upstreams within this process: one that answers unusually, one behind TLS. */
let odd
let secure
before(async () => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), "headwater-proxy-"))
  const { ca, cert, key } = certificates(dir)
  upstream = await startUpstream()
  odd = await listen(http.createServer(answerOddly))
  const identity = { cert: fs.readFileSync(cert), key: fs.readFileSync(key) }
  secure = await listen(http2.createSecureServer({ ...identity, allowHTTP1: true }, answerSecurely), "0.0.0.0")
  const route = (path, settings = "") => `
[[site.route]]
path = "${path}"
[site.route.proxy]
secret = "${SECRET}"
allow = ["http://127.0.0.1:*", "https://localhost:*", "https://127.0.0.2:*"]
${settings}
`
  const tls = (settings) => `[site.route.proxy.tls]\n${settings}`
  const believed = `ca = "${ca}"`
  const config = route("/open")
    + route("/closed", "cors = false")
    + route("/short", `error_bytes_max = "1KiB"`)
    + route("/hasty", `headers_timeout = "2s"\n${tls(believed)}`)
    + route("/believed", tls(believed))
    + route("/one", `http = "1.1"\n${tls(believed)}`)
    + route("/two", `http = "2"\n${tls(believed)}`)
    + route("/renamed", tls(`${believed}\nserver_name = "localhost"`))
    + route("/blind", tls("verify = false"))
    + recordRoute(upstream, "/shared", "share = true")
  server = await startServer({ config })
})
after(async () => {
  const how = await server.stop()
  upstream.stop()
  odd.stop()
  secure.stop()
  fs.rmSync(dir, { recursive: true })
  assert.equal(how, "exit code 0")
})

/** The call that was answered last with an error without an end. */
let dripping

/** Answers with an error whose body has no end, and no long silence. */
function drip(request, response) {
  const call = { http: request.httpVersion, over: false }
  dripping = call
  response.writeHead(500, { "content-type": "text/x-error" })
  response.write("x")
  const timer = setInterval(() => response.write("x"), 20)
  response.once("close", () => {
    clearInterval(timer)
    call.over = true
  })
}

/** Answers without a type, without an end, or compressed though nobody asked for that. */
function answerOddly(request, response) {
  if (request.url === "/dripping") return drip(request, response)
  if (request.url === "/untyped") return response.end("no type")
  const [, status] = /^\/zipped\/(\d+)$/.exec(request.url)
  response.writeHead(Number(status), { "content-type": "text/event-stream", "content-encoding": "gzip" })
  response.end(gzipSync("data: 1\n\n"))
}

/** How often the upstream behind TLS was asked. */
let secureCalls = 0

/** Says by which names it was asked for, or answers without an end. */
function answerSecurely(request, response) {
  if (request.url === "/dripping") return drip(request, response)
  secureCalls++
  const host = request.headers[":authority"] ?? request.headers.host
  response.setHeader("content-type", "text/plain")
  response.end(JSON.stringify({ http: request.httpVersion, host, serverName: request.socket.servername }))
}

function create(route, url, headers = {}, signal) {
  headers = { ...asService, "upstream-url": url, "upstream-method": "GET", ...headers }
  return fetch(server.url + route, { method: "POST", headers, signal })
}

/** The signed URL of what a request created. */
async function locate(...asked) {
  const created = await create(...asked)
  assert.equal(created.status, 201)
  return new URL(created.headers.get("location"), server.url)
}

async function refusal(response) {
  return `${response.status} ${(await response.json()).error.code}`
}

test("deleting a recording that runs ends the upstream's call and its readers", patience, async () => {
  const key = randomUUID()
  const url = await locate("/open", `${upstream.url}/events?count=endless&delay=20&key=${key}`)
  const bare = url.origin + url.pathname
  const follower = await fetch(`${url}&offset=-1&live=sse`)
  assert.equal(follower.status, 200)
  assert.equal((await upstream.calls(key)).running, 1)

  assert.equal((await fetch(bare, { method: "DELETE", headers: asService })).status, 204)
  await until(async () => (await upstream.calls(key)).cancelled === 1)
  await readAll(follower)
  for (let n = 0; n < 2; n++) {
    assert.equal(await refusal(await fetch(url)), "404 STREAM_NOT_FOUND")
    assert.equal(await refusal(await fetch(bare, { headers: asService })), "404 STREAM_NOT_FOUND")
    assert.equal((await fetch(bare, { method: "HEAD", headers: asService })).status, 404)
    assert.equal(await refusal(await fetch(`${url}&action=abort`, { method: "PATCH" })), "404 STREAM_NOT_FOUND")
    assert.equal((await fetch(bare, { method: "DELETE", headers: asService })).status, 204)
  }
  assert.equal((await upstream.calls(key)).calls, 1)
})

for (const [route, most] of [["/short", 1024], ["/open", 64 << 10]]) {
  test(`${route}: of an upstream's error come the first ${most} bytes`, patience, async () => {
    for (const [query, whole] of [["count=1", true], [`count=1&size=${most}`, false], ["count=endless&size=100", false]]) {
      const key = randomUUID()
      const asked = `status=503&type=text/x-error&${query}`
      const response = await create(route, `${upstream.url}/events?${asked}&key=${key}`)
      assert.equal(response.status, 502)
      assert.equal(response.headers.get("upstream-status"), "503")
      assert.equal(response.headers.get("content-type"), "text/x-error")
      assert.equal(response.headers.get("location"), null)
      const full = Buffer.from(eventsText(asked.replace("endless", "2000")))
      assert.equal(full.length <= most, whole)
      assert.deepEqual(Buffer.from(await response.arrayBuffer()), full.subarray(0, most), query)
      // The rest of it is not waited for.
      await until(async () => (await upstream.calls(key)).running === 0)
    }
  })
}

/** Less than the minute that the body of an error may take without a setting. */
const soon = { timeout: 30_000 }

for (const [version, url] of [
  ["1.1", () => `http://127.0.0.1:${odd.port}/dripping`], ["2.0", () => `https://localhost:${secure.port}/dripping`],
]) {
  test(`a client that leaves amid an upstream's error ends the call (HTTP/${version})`, soon, async () => {
    const calls = () => metric(server, "headwater_recording_calls_total")
    const before = await calls()
    const gone = new AbortController()
    const left = assert.rejects(create("/believed", url(), {}, gone.signal), { name: "AbortError" })
    // A call counts once the head of its answer has come: from then on it is the body that is awaited.
    await until(async () => (await calls()) > before)
    const call = dripping
    assert.deepEqual(call, { http: version, over: false })
    gone.abort()
    await left
    await until(() => call.over)
  })

  test(`an upstream's error without an end is waited for as long as a head, in all (HTTP/${version})`, soon, async () => {
    const response = await create("/hasty", url())
    assert.equal(response.status, 502)
    assert.equal(response.headers.get("upstream-status"), "500")
    assert.equal(response.headers.get("content-type"), "text/x-error")
    assert.equal(response.headers.get("location"), null)
    assert.match(await response.text(), /^x+$/)
    assert.equal(dripping.http, version)
    await until(() => dripping.over)
  })
}

/** Answers of each kind that a route gives, by what was asked. */
async function answersOf(route) {
  const origin = { origin: "https://app.example" }
  const service = { ...asService, ...origin }
  const at = server.url + route
  const created = await create(route, `${upstream.url}/events?count=2`, origin)
  const url = new URL(created.headers.get("location"), server.url)
  const bare = url.origin + url.pathname
  await endOf(`${bare}?secret=${SECRET}`)
  const answers = {
    created,
    preflight: await fetch(at, { method: "OPTIONS", headers: {
      ...origin, "access-control-request-method": "POST", "access-control-request-headers": "upstream-url",
    } }),
    "preflight of a stream": await fetch(bare, { method: "OPTIONS", headers: { ...origin, "access-control-request-method": "PATCH" } }),
    read: await fetch(`${url}&offset=-1`, { headers: origin }),
    followed: await fetch(`${url}&offset=-1&live=sse`, { headers: origin }),
    polled: await fetch(`${url}&offset=now&live=long-poll`, { headers: origin }),
    head: await fetch(bare, { method: "HEAD", headers: service }),
    stopped: await fetch(`${url}&action=abort`, { method: "PATCH", headers: origin }),
    health: await fetch(`${at}/health`, { headers: origin }),
    "the upstream's error": await create(route, `${upstream.url}/status/404`, origin),
    "not allowed": await create(route, "https://evil.example/", origin),
    "no secret": await fetch(at, { method: "POST", headers: origin }),
    "not there": await fetch(`${at}/${randomUUID()}`, { headers: service }),
    deleted: await fetch(bare, { method: "DELETE", headers: service }),
  }
  const statuses = Object.fromEntries(Object.entries(answers).map(([what, { status }]) => [what, status]))
  assert.deepEqual(statuses, {
    created: 201, preflight: 204, "preflight of a stream": 204, read: 200, followed: 200, polled: 204, head: 200, stopped: 204,
    health: 200, "the upstream's error": 502, "not allowed": 403, "no secret": 401, "not there": 404, deleted: 204,
  })
  for (const response of Object.values(answers)) await response.arrayBuffer()
  return answers
}

/** The names that a header lists. */
const listed = (response, name) => response.headers.get(name).toLowerCase().split(/\s*,\s*/)

test("pages of any origin may see all of an answer, whatever it is", patience, async () => {
  const answers = await answersOf("/open")
  for (const [what, response] of Object.entries(answers)) {
    assert.equal(response.headers.get("access-control-allow-origin"), "*", what)
    const exposed = listed(response, "access-control-expose-headers")
    for (const name of response.headers.keys()) {
      if (/^(location|(stream|upstream)-.*)$/.test(name)) assert.ok(exposed.includes(name), `${what}: ${name}`)
    }
  }
  for (const what of ["preflight", "preflight of a stream"]) {
    const methods = listed(answers[what], "access-control-allow-methods")
    for (const method of ["get", "post", "head", "patch", "delete"]) assert.ok(methods.includes(method), method)
    const headers = listed(answers[what], "access-control-allow-headers")
    for (const name of ["upstream-url", "upstream-method", "upstream-authorization", "authorization", "content-type"]) {
      assert.ok(headers.includes(name), name)
    }
  }
})

test("cors = false: nothing is said to pages", patience, async () => {
  for (const [what, response] of Object.entries(await answersOf("/closed"))) {
    assert.deepEqual([...response.headers.keys()].filter((name) => name.startsWith("access-control-")), [], what)
  }
})

test("every answer of a read says what the upstream's type was", patience, async () => {
  const type = "text/event-stream"
  const url = await locate("/open", `${upstream.url}/events?count=2&pause_at=2`)
  const text = eventsText("count=1")
  const first = await until(async () => {
    const response = await fetch(`${url}&offset=-1`)
    assert.equal(response.headers.get("upstream-content-type"), type)
    return (await response.text()) === text && response
  })
  assert.match(first.headers.get("content-type"), /^text\/plain/)
  const polled = await fetch(`${url}&offset=-1&live=long-poll`)
  assert.equal(polled.status, 200)
  assert.equal(polled.headers.get("upstream-content-type"), type)
  assert.equal(await polled.text(), text)
  const followed = await fetch(`${url}&offset=-1&live=sse`)
  assert.equal(followed.headers.get("content-type"), "text/event-stream")
  assert.equal(followed.headers.get("upstream-content-type"), type)

  assert.equal((await fetch(`${url}&action=abort`, { method: "PATCH" })).status, 204)
  await readAll(followed)
  const atEnd = await fetch(`${url}&offset=${first.headers.get("stream-next-offset")}&live=long-poll`)
  assert.equal(atEnd.status, 204)
  assert.equal(atEnd.headers.get("stream-closed"), "true")
  assert.equal(atEnd.headers.get("upstream-content-type"), type)
})

test("an answer with parameters in its type has them in Upstream-Content-Type", patience, async () => {
  const type = "application/json; charset=utf-8"
  const created = await create("/open", `${upstream.url}/events?count=2&type=${encodeURIComponent(type)}`)
  assert.equal(created.headers.get("upstream-content-type"), type)
  const response = await fetch(new URL(created.headers.get("location"), server.url))
  assert.equal(response.headers.get("upstream-content-type"), type)
  await response.arrayBuffer()
})

test("an answer without a type is recorded as bytes", patience, async () => {
  const url = await locate("/open", `http://127.0.0.1:${odd.port}/untyped`)
  assert.equal((await endOf(`${url.origin}${url.pathname}?secret=${SECRET}`)).end, "completed")
  const whole = await fetch(url)
  assert.equal(whole.headers.get("content-type"), "application/octet-stream")
  assert.equal(await whole.text(), "no type")
  const followed = await fetch(`${url}&offset=-1&live=sse`)
  assert.equal(followed.headers.get("stream-sse-data-encoding"), "base64")
  assert.ok((await followed.text()).includes(Buffer.from("no type").toString("base64")))
})

test("an answer that is compressed all the same is refused, and can be read", patience, async () => {
  for (const status of ["200", "500"]) {
    const response = await create("/open", `http://127.0.0.1:${odd.port}/zipped/${status}`)
    assert.equal(response.status, 502)
    assert.equal(response.headers.get("upstream-status"), status)
    assert.equal(response.headers.get("location"), null)
    assert.equal(await response.text(), "data: 1\n\n")
  }
})

for (const [route, host, version] of [
  ["/believed", "localhost", "2.0"], ["/one", "localhost", "1.1"], ["/two", "localhost", "2.0"],
  ["/renamed", "127.0.0.2", "2.0"], ["/blind", "localhost", "2.0"],
]) {
  test(`${route}: an upstream behind TLS that is believed is asked by its name`, patience, async () => {
    const url = await locate(route, `https://${host}:${secure.port}/`)
    await endOf(`${url.origin}${url.pathname}?secret=${SECRET}`)
    const said = await (await fetch(url)).json()
    assert.deepEqual(said, { http: version, host: `${host}:${secure.port}`, serverName: "localhost" })
  })
}

for (const [route, host, why] of [["/open", "localhost", "of an unknown authority"], ["/believed", "127.0.0.2", "with another name"]]) {
  test(`an upstream ${why} gets nothing`, patience, async () => {
    const before = secureCalls
    const response = await create(route, `https://${host}:${secure.port}/`, { "upstream-authorization": "Bearer upstream" })
    assert.equal(response.headers.get("upstream-status"), "502")
    assert.equal(response.headers.get("location"), null)
    assert.equal(await refusal(response), "502 UPSTREAM_ERROR")
    assert.equal(secureCalls, before)
  })
}

/** Sends what `fetch` forbids; resolves to the status. */
async function sendRaw(headers, body) {
  const request = http.request(`${server.url}/open`, { method: "POST", headers: { ...asService, ...headers } })
  request.end(body)
  const [response] = await once(request, "response")
  response.resume()
  return response.statusCode
}

for (const how of ["keep-alive", "upgrade"]) {
  test(`what is between two neighbours stays between them (connection: ${how})`, patience, async () => {
    const key = randomUUID()
    const between = {
      connection: `${how}, x-nominated`, "x-nominated": "1", "keep-alive": "timeout=77", "proxy-authenticate": "Basic",
      "proxy-authorization": "Basic eA==", "proxy-connection": "keep-alive", te: "trailers", trailer: "x-checksum",
      trailers: "x-checksum", "transfer-encoding": "chunked", ...(how === "upgrade" && { upgrade: "websocket" }),
    }
    const host = new URL(upstream.url).host
    const status = await sendRaw({
      ...between, host: "proxy.example", "x-test-key": key, cookie: "a=b", "x-kept": "1",
      "upstream-url": `${upstream.url}/events?count=1`, "upstream-method": "POST", "upstream-authorization": "Bearer upstream",
    }, "hello")
    assert.equal(status, 201)
    const { headers, body } = await upstream.calls(key)
    assert.equal(body, "hello")
    assert.equal(headers.host, host)
    assert.equal(headers.authorization, "Bearer upstream")
    assert.equal(headers.cookie, "a=b")
    assert.equal(headers["x-kept"], "1")
    const others = ["upstream-url", "upstream-method", "upstream-authorization"]
    assert.deepEqual([...Object.keys(between), ...others].filter((name) => name in headers), [])
  })
}

test("a reader cannot stop a feed that others read too", patience, async () => {
  const name = randomUUID()
  const gone = new AbortController()
  const response = await fetch(`${server.url}/shared/feed/${name}?interval=20`, { signal: gone.signal })
  const parts = response.body.getReader()
  await parts.read()
  const streamUrl = response.headers.get("stream-url")
  const refused = await fetch(`${streamUrl}&action=abort`, { method: "PATCH" })
  assert.equal(refused.status, 409)
  assert.equal((await refused.json()).code, "FEED_SHARED")
  const head = await fetch(streamUrl, { method: "HEAD" })
  assert.equal(head.headers.get("stream-closed"), null)
  // What comes now was not on its way when it was refused.
  const upTo = head.headers.get("stream-next-offset")
  const later = await fetch(`${streamUrl}&offset=${upTo}&live=long-poll`)
  assert.equal(later.status, 200)
  assert.match(await later.text(), /data:/)
  assert.equal((await upstream.calls(`GET /feed/${name}`)).running, 1)
  gone.abort()
})
