import { spawn } from "node:child_process"
import { once } from "node:events"
import http from "node:http"
import path from "node:path"
import { until } from "../tools/patience.mjs"
import { startServer } from "../tools/server.mjs"

export { metric } from "../tools/metrics.mjs"
export { patience, until } from "../tools/patience.mjs"
export { startRelay } from "../tools/relay.mjs"

/** Starts the test upstream as a process of its own; resolves to its `url` and `stop()`. */
export async function startUpstream(...flags) {
  const script = path.join(import.meta.dirname, "../upstream/server.mjs")
  const child = spawn(process.execPath, [script, ...flags], { stdio: ["ignore", "pipe", "inherit"] })
  const [line] = await once(child.stdout, "data")
  const url = `http://127.0.0.1:${Number(line)}`
  return {
    url,
    /** What /__calls says of the requests with this key. */
    async calls(key) {
      const all = await (await fetch(`${url}/__calls`)).json()
      return all[key]
    },
    stop: () => child.kill("SIGKILL"),
  }
}

/** Lets an HTTP server of this process listen; resolves to its `port`, its `url` and `stop()`. */
export async function listen(server, host = "127.0.0.1") {
  const sockets = new Set()
  server.on("connection", (socket) => {
    sockets.add(socket)
    socket.on("error", () => {})
    socket.once("close", () => sockets.delete(socket))
  })
  server.listen(0, host)
  await once(server, "listening")
  const { port } = server.address()
  return {
    port,
    url: `http://127.0.0.1:${port}`,
    stop() {
      server.close()
      for (const socket of sockets) socket.destroy()
    },
  }
}

/** An upstream whose answers are events that the test writes behind `first`, to each of `answers`. */
export async function startByHand(first = "") {
  const answers = []
  const upstream = await listen(http.createServer((_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" })
    response.flushHeaders()
    response.write(first)
    answers.push(response)
  }))
  return { ...upstream, answers }
}

/** A route that records what the upstream answers below `path`. */
export function recordRoute(upstream, path, settings = "") {
  return `
[[site.route]]
path = "${path}/*"
[site.route.record]
upstreams = ["${upstream.url}"]
strip_prefix = "${path}"
recordings_per_caller_max = 10000
${settings}
`
}

/**
 * Starts an upstream, and Headwater before it: what it streams is recorded below
 * /plain as it is, and below /ids with ids for its events; `more(upstream)` adds
 * routes, and `env` settings.
 */
export async function startBoth(more = () => "", env = {}) {
  const upstream = await startUpstream()
  const config = recordRoute(upstream, "/plain") + recordRoute(upstream, "/ids", "event_ids = true") + more(upstream)
  try {
    const server = await startServer({ config, env })
    return {
      upstream,
      server,
      async stop() {
        const ended = server.ended()
        const how = await server.stop()
        upstream.stop()
        if (ended || how !== "exit code 0") throw new Error(`the server did not end cleanly: ${ended ?? how}`)
      },
    }
  } catch (error) {
    upstream.stop()
    throw error
  }
}

/** Reads a body as far as it goes: its bytes, and whether it ended as it should. */
export async function readAll(response) {
  const parts = []
  try {
    for await (const part of response.body) parts.push(part)
    return { bytes: Buffer.concat(parts), whole: true }
  } catch {
    return { bytes: Buffer.concat(parts), whole: false }
  }
}

/** Server-sent events as a browser would take them: `{ id, data }`, whole ones only. */
export function parseEvents(bytes) {
  const lines = bytes.toString().replace(/^\ufeff/, "").split(/\r\n|\r|\n/)
  lines.pop()
  const events = []
  let id = ""
  let data = []
  for (const line of lines) {
    const [, field, value] = /^([^:]*)(?:: ?(.*))?$/s.exec(line)
    if (line === "") {
      if (data.length) events.push({ id, data: data.join("\n") })
      data = []
    } else if (field === "id") id = value ?? ""
    else if (field === "data") data.push(value ?? "")
  }
  return events
}

/** Events without the ids that a route with `event_ids` added. */
export const withoutIds = (bytes) => bytes.toString().replace(/^id: .*(\r\n|\r|\n)/gm, "")

/** How a stream ended, from the head of an answer about its end. */
export async function endOf(streamUrl) {
  return until(async () => {
    const response = await fetch(streamUrl, { method: "HEAD" })
    if (!response.ok) throw new Error(`${response.status} at ${streamUrl}`)
    if (response.headers.get("stream-closed") !== "true") return undefined
    return { end: response.headers.get("stream-end"), reason: response.headers.get("stream-end-reason") }
  })
}
