// An origin, and real CDN software before it with the examples' configurations as they are.

import assert from "node:assert/strict"
import { execFileSync, spawn } from "node:child_process"
import fs from "node:fs"
import net from "node:net"
import os from "node:os"
import path from "node:path"
import { metric } from "../tools/metrics.mjs"
import { until } from "../tools/patience.mjs"
import { startRelay } from "../tools/relay.mjs"
import { freePort, startServer } from "../tools/server.mjs"

export { patience, until } from "../tools/patience.mjs"
export { append, call, close, create, get, readOn, text, unique } from "../tools/streams.mjs"

const examples = path.join(import.meta.dirname, "../../conf/examples")
export const SEGMENT_BYTES = 64 * 1024

/** An example with addresses changed, each of which must be there exactly once. */
function example(name, changes) {
  let text = fs.readFileSync(path.join(examples, name), "utf8")
  for (const [from, to] of changes) {
    assert.equal(text.split(from).length, 2, `${name} should have ${from} once`)
    text = text.replace(from, to)
  }
  return text
}

// Where Debian has these, also for who is not root.
const env = { ...process.env, PATH: `${process.env.PATH}:/usr/local/sbin:/usr/sbin` }

/** Starts a program that says what it does in `dir`, and resolves once something listens at the port. */
async function launch(command, args, port, dir) {
  const said = path.join(dir, "said.log")
  const log = fs.openSync(said, "a")
  const child = spawn(command, args, { stdio: ["ignore", log, log], env })
  fs.closeSync(log)
  let ended
  const gone = new Promise((resolve) => {
    child.once("error", (error) => { ended = String(error); resolve() })
    child.once("exit", (code, signal) => { ended = signal ?? `exit code ${code}`; resolve() })
  })
  await until(() => {
    if (ended) throw new Error(`${command} ended: ${ended}; it said:\n${fs.readFileSync(said, "utf8")}`)
    return new Promise((resolve) => {
      const probe = net.connect(port, "127.0.0.1", () => resolve(true))
      probe.on("error", () => resolve(false))
      probe.on("close", () => probe.destroy())
      probe.end()
    })
  })
  return async () => {
    child.kill("SIGTERM")
    await gone
  }
}

const programs = {
  async nginx(dir, port, origin) {
    const file = path.join(dir, "nginx.conf")
    fs.writeFileSync(file, example("nginx.conf", [
      ["127.0.0.1:4437", new URL(origin).host],
      ["127.0.0.1:8080 backlog", `127.0.0.1:${port} backlog`],
    ]))
    const args = ["-p", dir, "-c", file, "-e", path.join(dir, "error.log"), "-g", "daemon off;"]
    const stop = await launch("nginx", args, port, dir)
    const purge = (tag) => execFileSync(path.join(examples, "nginx-purge.sh"), [path.join(dir, "cache"), tag])
    return { stop, purge }
  },

  async varnish(dir, port, origin) {
    const file = path.join(dir, "varnish.vcl")
    const { hostname, port: originPort } = new URL(origin)
    fs.writeFileSync(file, example("varnish.vcl", [
      ['.host = "127.0.0.1"', `.host = "${hostname}"`],
      ['.port = "4437"', `.port = "${originPort}"`],
    ]))
    // Clients drop idle connections before that, however late their timers fire: else they send a
    // request on one that is being closed.
    const args = ["-F", "-j", "none", "-n", path.join(dir, "work"), "-a", `127.0.0.1:${port}`,
      "-f", file, "-s", "malloc,512m", "-p", "timeout_idle=60"]
    const stop = await launch("varnishd", args, port, dir)
    const purge = async (tag) => {
      const response = await fetch(`http://127.0.0.1:${port}/`, { method: "PURGE", headers: { "cache-tag": tag } })
      assert.equal(response.status, 204)
    }
    return { stop, purge }
  },
}

export const names = Object.keys(programs)

/** Starts one of them before `origin`: its `url`, `purge(tag)` and `stop()`. */
export async function startCdn(name, origin) {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), `headwater-${name}-`))
  // Its workers may be another user.
  fs.chmodSync(dir, 0o755)
  const port = await freePort()
  const { stop, purge } = await programs[name](dir, port, origin)
  return {
    name,
    url: `http://127.0.0.1:${port}`,
    purge,
    async stop() {
      await stop()
      fs.rmSync(dir, { recursive: true, force: true })
    },
  }
}

const routes = `
[[site.route]]
path = "/v1/stream/*"
streams = { long_poll_timeout = "30s" }

[[site.route]]
path = "/idle/*"
streams = { long_poll_timeout = "1s" }

[[site.route]]
path = "/short/*"
streams = { tail_max_age = "1s", stale_while_revalidate = "1s" }

[[site.route]]
path = "/private/*"
streams = { cache = "private" }
`

/**
 * Starts Headwater, and each CDN before it. A relay between them counts connections; `asked(labels)`
 * is how many requests the origin has answered.
 */
export async function startAll({ segmentBytes = SEGMENT_BYTES } = {}) {
  const started = []
  const stop = async () => {
    for (const one of started.reverse()) await one.stop()
  }
  try {
    const server = await startServer({ config: routes, env: { HEADWATER__LOG__SEGMENT_BYTES: String(segmentBytes) } })
    started.push({ stop: async () => assert.equal(await server.stop(), "exit code 0") })
    const cdns = {}
    for (const name of names) {
      const relay = await startRelay(server.url)
      started.push(relay)
      cdns[name] = { ...(await startCdn(name, relay.url)), relay }
      started.push(cdns[name])
    }
    return {
      server,
      cdns,
      asked: (labels) => metric(server, "headwater_requests_total", labels),
      waiting: (mode) => metric(server, "headwater_live_readers", { mode }),
      stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}
