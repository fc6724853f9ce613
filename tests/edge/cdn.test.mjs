// CDNs before an edge: long-polls collapse there as they do before an origin.

import assert from "node:assert/strict"
import { test } from "node:test"
import { names, startCdn } from "../cdn/support.mjs"
import { metric } from "../tools/metrics.mjs"
import { startServer } from "../tools/server.mjs"
import { append, call, close, create, patience, startEdge, together, unique, until } from "./support.mjs"

const READERS = 200

for (const name of names) {
  test(`${name} before an edge: long-polls at one offset are few requests`, patience, async () => {
    const { origin, edge, cdn, stop } = await together(async (add) => {
      const origin = await add(startServer({ longPollTimeout: "30s" }))
      const edge = await add(startEdge(origin.url, { HEADWATER_LONG_POLL: "30s" }))
      return { origin, edge, cdn: await add(startCdn(name, edge.url)) }
    })
    try {
      const path = unique()
      await create(origin.url + path, "begin")
      let offset = (await call(200, "HEAD", origin.url + path)).headers.get("stream-next-offset")
      let cursor = "1"
      const asked = () => metric(edge, "headwater_requests_total", { method: "GET", mode: "long_poll" })
      const poll = async () => {
        const url = `${cdn.url}${path}?cursor=${cursor}&live=long-poll&offset=${offset}`
        const response = await fetch(url)
        return { status: response.status, headers: response.headers, body: await response.text() }
      }
      const change = [
        [200, "one", () => append(origin.url + path, "one")],
        [200, "two", () => append(edge.url + path, "two")],
        [204, "", () => close(origin.url + path)],
      ]
      for (const [status, body, happens] of change) {
        const answers = Array.from({ length: READERS }, poll)
        await until(async () => (await metric(edge, "headwater_live_readers", { mode: "long_poll" })) > 0)
        await until(async () => (await metric(edge, "headwater_unfollowed_streams")) === 0)
        await happens()
        for (const answer of await Promise.all(answers)) {
          assert.deepEqual([answer.status, answer.body], [status, body])
          if (status === 200) {
            offset = answer.headers.get("stream-next-offset")
            cursor = answer.headers.get("stream-cursor")
          } else {
            assert.equal(answer.headers.get("stream-closed"), "true")
          }
        }
      }
      // One for each, if none came later than a second after its answer.
      assert.ok((await asked()) <= change.length * READERS / 20, `${await asked()} requests`)
    } finally {
      await stop()
    }
  })
}
