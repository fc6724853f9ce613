// How many recordings may run, how long each may take, and what is told when one ends for it.

import assert from "node:assert/strict"
import { after, before, test } from "node:test"
import { endOf, patience, readAll, recordRoute, startBoth, startUpstream, until } from "./support.mjs"

const RECORDINGS_MAX = 6

let both
let nobody
before(async () => {
  nobody = await startUpstream()
  nobody.stop()
  both = await startBoth((upstream) =>
    recordRoute(upstream, "/timed", `total_timeout = "500ms"`)
    + recordRoute(upstream, "/brief", `url_ttl = "1s"\nname = "chat/{id}"`)
    + recordRoute(upstream, "/few").replace("per_caller_max = 10000", "per_caller_max = 2")
    + recordRoute({ url: `${nobody.url}", "${upstream.url}` }, "/other")
    + recordRoute(nobody, "/nobody")
    + `
[limits]
recordings_max = ${RECORDINGS_MAX}
`)
})
after(() => both.stop())

const endless = (route, headers = {}) =>
  fetch(`${both.server.url}${route}/events?count=endless&delay=50`, { headers })

async function refusal(response) {
  assert.equal(response.headers.get("stream-url"), null)
  return `${response.status} ${(await response.json()).code}`
}

/** Ends recordings whose answers have begun. */
async function stopAll(responses) {
  await Promise.all(responses.map(async (response) => {
    const stopped = await fetch(`${response.headers.get("stream-url")}&action=abort`, { method: "PATCH" })
    assert.equal(stopped.status, 204)
    assert.equal((await readAll(response)).whole, false)
  }))
}

test("one caller has so many recordings at once, and others theirs", patience, async () => {
  for (const [one, other] of [[{}, { authorization: "Bearer a" }], [{ "x-api-key": "a" }, { "x-api-key": "b" }]]) {
    const running = [await endless("/few", one), await endless("/few", one)]
    const refused = await endless("/few", one)
    assert.equal(refused.headers.get("retry-after"), "1")
    assert.equal(await refusal(refused), "429 CALLER_BUSY")
    running.push(await endless("/few", other))
    await stopAll(running)
    // A place is free when the recording is over.
    const again = await until(async () => {
      const response = await endless("/few", one)
      if (response.status === 200) return response
      await response.arrayBuffer()
    })
    await stopAll([again])
  }
})

test("all together have so many", patience, async () => {
  const running = []
  await until(async () => {
    const response = await endless("/plain")
    if (response.status === 200) return void running.push(response)
    assert.equal(response.headers.get("retry-after"), "1")
    assert.equal(await refusal(response), "503 TOO_MANY_RECORDINGS")
    return true
  })
  assert.equal(running.length, RECORDINGS_MAX)
  await stopAll(running)
})

test("a recording that takes too long ends as failed, with all that came before", patience, async () => {
  const response = await endless("/timed")
  const url = response.headers.get("stream-url")
  const { bytes, whole } = await readAll(response)
  assert.equal(whole, false)
  assert.match(bytes.toString(), /"n":1,/)
  assert.deepEqual(await endOf(url), { end: "failed", reason: "total_timeout" })
  assert.equal(await (await fetch(`${url}&offset=-1`)).text(), bytes.toString())
})

test("a URL expires, and its stream is named as the route says", patience, async () => {
  const response = await fetch(`${both.server.url}/brief/events?count=1`)
  const url = response.headers.get("stream-url")
  await response.text()
  assert.match(new URL(url).pathname, /^\/_recordings\/recordings\/chat\/[\w-]{20,}$/)
  const expired = await until(async () => {
    const answer = await fetch(url)
    return answer.status === 401 && answer
  })
  assert.equal((await expired.json()).code, "SIGNATURE_EXPIRED")
})

test("an upstream that cannot be reached is passed over, or told", patience, async () => {
  for (let n = 0; n < 4; n++) {
    const response = await fetch(`${both.server.url}/other/events?count=1`, { method: "POST", body: "once" })
    assert.equal(response.status, 200)
    assert.ok(response.headers.get("stream-url"))
    await response.text()
  }
  assert.equal(await refusal(await fetch(`${both.server.url}/nobody/events`)), "502 UPSTREAM_UNREACHABLE")
})
