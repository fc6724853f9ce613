// The proxy protocol: a client names the upstream, and reads its answer from a stream.

import assert from "node:assert/strict"
import { randomUUID } from "node:crypto"
import { after, before, test } from "node:test"
import { stream } from "@durable-streams/client"
import { eventsText } from "../upstream/events.mjs"
import { startServer } from "../tools/server.mjs"
import { endOf, patience, startUpstream, until } from "./support.mjs"

const SECRET = "a-secret-of-the-tests"
const OLD_SECRET = "a-secret-that-was-before"

let upstream
// Not named by the list, but reached by its wildcards.
let inner
let gone
let server
before(async () => {
  upstream = await startUpstream()
  inner = await startUpstream()
  gone = await startUpstream()
  gone.stop()
  const { port } = new URL(upstream.url)
  const config = `
[[site.route]]
path = "/v1/proxy"
[site.route.proxy]
secret = "${SECRET}"
previous_secrets = ["${OLD_SECRET}"]
allow = [
  "http://127.0.0.1:${port}/**",
  "http://localhost:${port}/echo",
  "http://*:*/anywhere/**",
  "https://api.example.com/v1/*",
  "${gone.url}",
]

[[site.route]]
path = "/hurried"
proxy = { secret = "${SECRET}", allow = ["http://127.0.0.1:${port}/**"], headers_timeout = "1s" }

[[site.route]]
path = "/brief"
proxy = { secret = "${SECRET}", allow = ["${upstream.url}"], url_ttl = "1s" }
`
  server = await startServer({ config })
})
after(async () => {
  const how = await server.stop()
  upstream.stop()
  inner.stop()
  assert.equal(how, "exit code 0")
})

const proxyUrl = () => `${server.url}/v1/proxy`
const asService = { authorization: `Bearer ${SECRET}` }

function create(url, { method = "GET", headers = {}, body, at = proxyUrl() } = {}) {
  return fetch(at, { method: "POST", headers: { ...asService, "upstream-url": url, "upstream-method": method, ...headers }, body })
}

async function refusal(response) {
  assert.match(response.headers.get("content-type"), /json/)
  const { error } = await response.json()
  assert.ok(error.message)
  return `${response.status} ${error.code}`
}

test("an answer is read from its stream, as text, in all modes", patience, async () => {
  const created = await create(`${upstream.url}/events?count=50&delay=5`)
  assert.equal(created.status, 201)
  assert.equal(created.headers.get("upstream-content-type"), "text/event-stream")
  assert.equal(await created.text(), "")
  const url = new URL(created.headers.get("location"), proxyUrl()).href
  assert.match(url, /[?&]expires=\d+/)
  for (const live of ["sse", "long-poll"]) {
    let text = ""
    for await (const part of (await stream({ url, offset: "-1", live })).textStream()) text += part
    assert.equal(text, eventsText("count=50"))
  }
  const sse = await fetch(`${url}&offset=-1&live=sse`)
  assert.equal(sse.headers.get("stream-sse-data-encoding"), null)
  await sse.text()
  const whole = await fetch(`${url}&offset=-1`)
  assert.equal(whole.headers.get("upstream-content-type"), "text/event-stream")
  assert.equal(await whole.text(), eventsText("count=50"))
})

test("the upstream gets the method, the body and the headers that are for it", patience, async () => {
  const key = randomUUID()
  const headers = {
    "upstream-authorization": "Bearer upstream", "content-type": "text/x-test", "x-custom": "1", connection: "keep-alive",
    te: "trailers", "x-test-key": key,
  }
  const created = await create(`${upstream.url}/events?count=1&q=a%20b`, { method: "put", headers, body: "hello" })
  assert.equal(created.status, 201)
  const call = await upstream.calls(key)
  assert.equal(call.method, "PUT")
  assert.equal(call.url, "/events?count=1&q=a%20b")
  assert.equal(call.body, "hello")
  assert.equal(call.headers.authorization, "Bearer upstream")
  assert.equal(call.headers["content-type"], "text/x-test")
  assert.equal(call.headers["x-custom"], "1")
  assert.equal(call.headers.host, new URL(upstream.url).host)
  for (const name of ["te", "upstream-url", "upstream-method", "upstream-authorization"]) assert.equal(call.headers[name], undefined)

  await create(`${upstream.url}/events?count=1`, { headers: { "x-test-key": key } })
  const { headers: bare } = await upstream.calls(key)
  assert.equal(bare.authorization, undefined, "the service's secret stays here")
})

test("what is wrong with a request is said", patience, async () => {
  const post = (headers, query = "") => fetch(proxyUrl() + query, { method: "POST", headers }).then(refusal)
  const good = { "upstream-url": `${upstream.url}/events?count=1`, "upstream-method": "GET" }
  assert.equal(await post(good), "401 MISSING_SECRET")
  assert.equal(await post({ ...good, authorization: "Bearer wrong" }), "401 INVALID_SECRET")
  assert.equal(await post(good, "?secret=wrong"), "401 INVALID_SECRET")
  assert.equal(await post({ ...asService, "upstream-method": "GET" }), "400 MISSING_UPSTREAM_URL")
  assert.equal(await post({ ...asService, "upstream-url": good["upstream-url"] }), "400 MISSING_UPSTREAM_METHOD")
  assert.equal(await post({ ...asService, ...good, "upstream-method": "TRACE" }), "400 INVALID_UPSTREAM_METHOD")
  for (const secret of [SECRET, OLD_SECRET]) {
    const created = await fetch(`${proxyUrl()}?secret=${secret}`, { method: "POST", headers: good })
    assert.equal(created.status, 201)
  }
  const created = await fetch(`${proxyUrl()}?secret=`, { method: "POST", headers: { ...asService, ...good } })
  assert.equal(created.status, 201, "an empty secret is none")
})

test("no trick reaches what is not allowed", patience, async () => {
  const { port } = new URL(upstream.url)
  const innerPort = new URL(inner.url).port
  const key = randomUUID()
  const tricks = [
    "", "not a url", "file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1/",
    "https://evil.example/", "https://api.example.com.evil.example/v1/a", "https://api.example.com:8443/v1/a",
    "http://api.example.com/v1/a", "https://api.example.com/v1/../v2", "https://api.example.com/v1/..%2fv2",
    "https://api.example.com@evil.example/v1/a", `http://user:pass@127.0.0.1:${port}/events`,
    `http://127.0.0.1:${port}@evil.example/events`, "https://api.example.com\\@evil.example/v1/a",
    // Any host is allowed for this path, but none that is not public.
    ...["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0.0.0.0", "[::]", "[::1]",
      "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "127.0.0.1.", "localhost.",
      "10.0.0.1", "192.168.0.1", "172.16.0.1", "100.64.0.1", "169.254.169.254", "[fe80::1]", "[fd00:ec2::254]"]
      .map((host) => `http://${host}:${innerPort}/anywhere/events`),
  ]
  for (const trick of tricks) {
    const response = await create(trick, { headers: { "x-test-key": key } })
    const expected = trick === "" ? ["400 MISSING_UPSTREAM_URL", "403 UPSTREAM_NOT_ALLOWED"] : ["403 UPSTREAM_NOT_ALLOWED"]
    assert.ok(expected.includes(await refusal(response)), trick)
  }
  for (const called of [upstream, inner]) assert.equal(await called.calls(key), undefined)
  // Named without a wildcard, a private host is what the owner wants; in whatever form it is written.
  for (const url of [`http://localhost:${port}/echo`, `http://2130706433:${port}/events?count=1`]) {
    assert.equal((await create(url)).status, 201, url)
  }
})

test("redirects are not followed", patience, async () => {
  for (const status of [301, 302, 303, 307, 308]) {
    const to = encodeURIComponent(`${upstream.url}/events?key=redirected`)
    assert.equal(await refusal(await create(`${upstream.url}/redirect?status=${status}&to=${to}`)), "400 REDIRECT_NOT_ALLOWED")
  }
  assert.equal(await upstream.calls("redirected"), undefined)
})

test("an upstream's error comes with its status and body", patience, async () => {
  for (const status of [400, 404, 429, 500, 503]) {
    const response = await create(`${upstream.url}/status/${status}`)
    assert.equal(response.status, 502)
    assert.equal(response.headers.get("upstream-status"), String(status))
    assert.equal((await response.json()).error.message, `status ${status}`)
  }
  const late = await create(`${upstream.url}/events?head_after=60000`, { at: `${server.url}/hurried` })
  assert.equal(await refusal(late), "504 UPSTREAM_TIMEOUT")
})

test("every answer with 502 has Upstream-Status", patience, async () => {
  const response = await create(`${gone.url}/events`)
  assert.equal(response.headers.get("upstream-status"), "502")
  assert.equal(await refusal(response), "502 UPSTREAM_ERROR")
})

test("what is not there is told in the protocol's words", patience, async () => {
  for (const [method, at, expected] of [
    ["GET", "", "404 NOT_FOUND"], ["PUT", "", "404 NOT_FOUND"], ["POST", `/${randomUUID()}`, "404 NOT_FOUND"],
    ["GET", `/${randomUUID()}`, "404 STREAM_NOT_FOUND"],
  ]) {
    assert.equal(await refusal(await fetch(proxyUrl() + at, { method, headers: asService })), expected, `${method} ${at}`)
  }
  const deleted = await fetch(`${proxyUrl()}/${randomUUID()}`, { method: "DELETE", headers: asService })
  assert.equal(deleted.status, 204, "deleting what is not there changes nothing")
})

test("a URL expires", patience, async () => {
  const headers = { ...asService, "upstream-url": `${upstream.url}/events?count=1`, "upstream-method": "GET" }
  const created = await fetch(`${server.url}/brief`, { method: "POST", headers })
  const url = new URL(created.headers.get("location"), server.url)
  const expired = await until(async () => {
    const response = await fetch(url)
    return response.status === 401 && response
  })
  assert.equal(await refusal(expired), "401 SIGNATURE_EXPIRED")
})

test("a URL that was signed with the secret before is valid, one with another is not", patience, async () => {
  const route = (secret) => `
[[site.route]]
path = "/v1/proxy"
proxy = { secret = "${secret}", allow = ["${upstream.url}"] }
`
  for (const [secret, expected] of [[OLD_SECRET, "404 STREAM_NOT_FOUND"], ["a-secret-of-somebody", "401 SIGNATURE_INVALID"]]) {
    const other = await startServer({ config: route(secret) })
    const headers = { authorization: `Bearer ${secret}`, "upstream-url": `${upstream.url}/events?count=1`, "upstream-method": "GET" }
    const created = await fetch(`${other.url}/v1/proxy`, { method: "POST", headers })
    const { pathname, search } = new URL(created.headers.get("location"), other.url)
    assert.equal((await fetch(other.url + pathname + search)).status, 200)
    assert.equal(await refusal(await fetch(server.url + pathname + search)), expected)
    assert.equal(await other.stop(), "exit code 0")
  }
})

test("a URL is for one stream, for reading and stopping", patience, async () => {
  const key = randomUUID()
  const locate = async (query) => new URL((await create(`${upstream.url}/events?${query}`)).headers.get("location"), proxyUrl())
  const running = await locate(`count=endless&delay=20&key=${key}`)
  const other = await locate("count=1")
  const on = (url, method, more = "", headers = {}) => fetch(url.href + more, { method, headers })
  const without = (url, name) => {
    const changed = new URL(url)
    changed.searchParams.delete(name)
    return changed
  }
  const bare = new URL(running.pathname, running)
  assert.equal(await refusal(await on(bare, "GET")), "401 MISSING_SECRET")
  assert.equal((await on(bare, "GET", "?offset=-1", asService)).status, 200)
  assert.equal(await refusal(await on(without(running, "signature"), "GET")), "401 MISSING_SIGNATURE")
  const mixed = new URL(running)
  mixed.searchParams.set("signature", other.searchParams.get("signature"))
  assert.equal(await refusal(await on(mixed, "GET")), "401 SIGNATURE_INVALID")
  const later = new URL(running)
  later.searchParams.set("expires", "99999999999")
  assert.equal(await refusal(await on(later, "GET")), "401 SIGNATURE_INVALID")

  assert.equal((await on(running, "HEAD")).status, 401, "a signed URL is not for HEAD")
  assert.equal((await on(bare, "HEAD", "", asService)).headers.get("upstream-content-type"), "text/event-stream")
  assert.equal(await refusal(await on(running, "DELETE")), "401 MISSING_SECRET")
  assert.equal(await refusal(await on(bare, "PATCH", "?action=abort", asService)), "401 MISSING_SIGNATURE")
  assert.equal(await refusal(await on(running, "PATCH", "&action=pause")), "400 INVALID_ACTION")
  for (let n = 0; n < 2; n++) assert.equal((await on(running, "PATCH", "&action=abort")).status, 204)
  assert.equal((await endOf(`${bare.href}?secret=${SECRET}`)).end, "aborted")
  await until(async () => (await upstream.calls(key)).cancelled === 1)

  assert.equal((await on(bare, "DELETE", "", asService)).status, 204)
  assert.equal(await refusal(await on(running, "GET")), "404 STREAM_NOT_FOUND")
})

test("pages of any origin may use it", patience, async () => {
  const preflight = await fetch(proxyUrl(), { method: "OPTIONS", headers: {
    origin: "https://app.example", "access-control-request-method": "POST", "access-control-request-headers": "upstream-url",
  } })
  assert.equal(preflight.status, 204)
  assert.match(preflight.headers.get("access-control-allow-headers"), /upstream-url/i)
  const created = await create(`${upstream.url}/events?count=1`, { headers: { origin: "https://app.example" } })
  assert.equal(created.headers.get("access-control-allow-origin"), "*")
  assert.match(created.headers.get("access-control-expose-headers"), /upstream-content-type/i)
  const health = await fetch(`${proxyUrl()}/health`)
  assert.equal(health.status, 200)
})
