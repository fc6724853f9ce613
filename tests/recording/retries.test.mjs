// What is sent again to an upstream that ends the connection before it answers.

import assert from "node:assert/strict"
import { createServer } from "node:http"
import { test } from "node:test"
import { eventsText } from "../upstream/events.mjs"
import { startServer } from "../tools/server.mjs"
import { listen, metric, patience, recordRoute } from "./support.mjs"

/** Starts an upstream that breaks off every other request before it answers, and Headwater before it. */
async function startFlaky(settings) {
  const asked = []
  const flaky = await listen(createServer((request, response) => {
    asked.push(request.method)
    if (asked.length % 2) return request.socket.destroy()
    response.writeHead(200, { "content-type": "text/event-stream" })
    response.end(eventsText("count=3"))
  }))
  const server = await startServer({ config: recordRoute(flaky, "/flaky", settings) })
  return {
    asked,
    server,
    ask: (method, body) => fetch(`${server.url}/flaky/x`, { method, body }),
    async stop() {
      await server.stop()
      flaky.stop()
    },
  }
}

test("a request that may be repeated is sent again, and recorded once", patience, async () => {
  const upstream = await startFlaky("retries = 1")
  try {
    for (const [method, body] of [["GET"], ["PUT", "x"]]) {
      const response = await upstream.ask(method, body)
      assert.equal(response.status, 200)
      assert.equal(await response.text(), eventsText("count=3"))
    }
    assert.deepEqual(upstream.asked, ["GET", "GET", "PUT", "PUT"])
    assert.equal(await metric(upstream.server, "headwater_recording_calls_total"), 2)
  } finally {
    await upstream.stop()
  }
})

test("a request that an upstream may have acted upon is not sent again", patience, async () => {
  const upstream = await startFlaky("retries = 1")
  try {
    assert.equal((await upstream.ask("POST", "x")).status, 502)
    assert.deepEqual(upstream.asked, ["POST"])
  } finally {
    await upstream.stop()
  }
})

test("without retries nothing is sent again", patience, async () => {
  const upstream = await startFlaky("retries = 0")
  try {
    assert.equal((await upstream.ask("GET")).status, 502)
    assert.deepEqual(upstream.asked, ["GET"])
  } finally {
    await upstream.stop()
  }
})
