// Upstreams behind TLS: whose certificates are believed, and that nothing is sent to
// the others.

import assert from "node:assert/strict"
import { randomUUID } from "node:crypto"
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { after, before, test } from "node:test"
import { eventsText } from "../upstream/events.mjs"
import { certificates, startServer } from "../tools/server.mjs"
import { endOf, patience, readAll, recordRoute, startUpstream } from "./support.mjs"

let dir
let upstream
let server
before(async () => {
  dir = fs.mkdtempSync(path.join(os.tmpdir(), "headwater-tls-"))
  const { ca, cert, key } = certificates(dir)
  const started = await startUpstream("--tls", "--host", "0.0.0.0", cert, key)
  const { port } = new URL(started.url)
  upstream = { ...started, url: `https://localhost:${port}` }
  const named = { url: `https://127.0.0.2:${port}` }
  const tls = (settings) => `[site.route.record.tls]\n${settings}`
  const believed = `ca = "${ca}"`
  const config = recordRoute(upstream, "/one", `http = "1.1"\n${tls(believed)}`)
    + recordRoute(upstream, "/two", `http = "2"\n${tls(believed)}`)
    + recordRoute(upstream, "/strangers")
    + recordRoute(named, "/misnamed", tls(believed))
    + recordRoute(named, "/renamed", tls(`${believed}\nserver_name = "localhost"`))
    + recordRoute(named, "/blind", tls("verify = false"))
  server = await startServer({ config })
})
after(async () => {
  const how = await server.stop()
  upstream.stop()
  fs.rmSync(dir, { recursive: true })
  assert.equal(how, "exit code 0")
})

/** What the upstream says of the requests with this key. */
async function callsOf(key) {
  const all = await (await fetch(`${server.url}/blind/__calls`)).json()
  return all[key]
}

for (const [route, version] of [["/one", "1.1"], ["/two", "2.0"], ["/renamed"], ["/blind"]]) {
  test(`${route}: an upstream that is believed is recorded`, patience, async () => {
    const key = randomUUID()
    const response = await fetch(`${server.url}${route}/events?count=50`, { headers: { "x-test-key": key } })
    assert.equal(response.status, 200)
    const { bytes, whole } = await readAll(response)
    assert.ok(whole)
    assert.equal(bytes.toString(), eventsText("count=50"))
    const url = response.headers.get("stream-url")
    assert.deepEqual(await endOf(url), { end: "completed", reason: null })
    assert.equal(await (await fetch(url)).text(), eventsText("count=50"))
    if (version) assert.equal((await callsOf(key)).http, version)
  })
}

for (const route of ["/strangers", "/misnamed"]) {
  test(`${route}: an upstream that is not believed gets nothing`, patience, async () => {
    const key = randomUUID()
    const response = await fetch(`${server.url}${route}/events?count=1`, { headers: { "x-test-key": key, authorization: "Bearer secret" } })
    assert.equal(response.status, 502)
    assert.equal((await response.json()).code, "UPSTREAM_TLS_FAILED")
    assert.equal(response.headers.get("stream-url"), null)
    assert.equal(await callsOf(key), undefined)
  })
}
