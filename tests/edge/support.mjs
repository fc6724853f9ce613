// An origin and edges before it, each a process of its own; links between them that can be cut.

import assert from "node:assert/strict"
import { randomUUID } from "node:crypto"
import path from "node:path"
import { metric } from "../tools/metrics.mjs"
import { startRelay } from "../tools/relay.mjs"
import { startServer } from "../tools/server.mjs"

export { patience, until } from "../tools/patience.mjs"
export { append, call, close, create, get, readOn, text, unique } from "../tools/streams.mjs"

const file = path.join(import.meta.dirname, "../../conf/examples/edge.toml")

/** Starts an edge before `origin`, with the example's configuration as it is. */
export const startEdge = (origin, env) =>
  startServer({ file, env: { HEADWATER_ORIGIN: origin, HEADWATER_LONG_POLL: "2s", ...env } })

/** Starts what is asked for in turn, and stops all of it when one of them fails. */
export async function together(start) {
  const started = []
  const stop = async () => {
    for (const one of started.reverse()) {
      const said = one.log?.()
      const how = await one.stop()
      if (said !== undefined) assert.equal(how, "exit code 0", said.slice(-5000))
    }
  }
  const add = async (starting) => {
    const one = await starting
    started.push(one)
    return one
  }
  try {
    return { ...(await start(add)), stop }
  } catch (error) {
    await stop().catch(() => {})
    throw error
  }
}

/** Starts a Headwater origin and `count` edges, each with a link of its own to the origin. */
export function startNet(count) {
  return together(async (add) => {
    const origin = await add(startServer({ longPollTimeout: "2s" }))
    const edges = []
    for (let n = 0; n < count; n++) {
      const link = await add(startRelay(origin.url))
      const edge = await add(startEdge(link.url))
      edges.push(Object.assign(edge, { link }))
    }
    return { origin, edges }
  })
}

/** The live readers of a server, of either kind. */
export const liveReaders = (server) => metric(server, "headwater_live_readers")

/** A writer whose appends are there once, however often they are sent. */
export function startProducer(url) {
  const id = randomUUID()
  let seq = 0
  return async function append(body) {
    const headers = { "content-type": "text/plain", "producer-id": id, "producer-epoch": "0", "producer-seq": String(seq) }
    for (;;) {
      try {
        const response = await fetch(url(), { method: "POST", headers, body, signal: AbortSignal.timeout(20_000) })
        await response.arrayBuffer()
        if (response.ok) break
        assert.ok(response.status >= 500 || response.status === 429, `${response.status} to an append`)
      } catch (error) {
        if (error instanceof assert.AssertionError) throw error
      }
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
    seq++
  }
}
