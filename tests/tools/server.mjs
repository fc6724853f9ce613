// Starts the headwater binary for the test runners: free ports, a fresh data
// directory, and patience until it says that it is ready.

import { spawn, execFileSync } from "node:child_process"
import { once } from "node:events"
import fs from "node:fs"
import net from "node:net"
import os from "node:os"
import path from "node:path"

const READY_TIMEOUT_MS = 120_000
const START_ATTEMPTS = 5

/** The path of the binary under test; `make` sets it. */
export function binary() {
  const found = process.env.HEADWATER_BIN
  if (!found) throw new Error("HEADWATER_BIN must name the headwater binary")
  return path.resolve(found)
}

/**
 * A port that nobody listens on, from below the kernel's ephemeral range, so
 * that no outgoing connection of another test can take it before the server, and
 * above 10080, the last one that `fetch` refuses to connect to as a bad port.
 */
export async function freePort() {
  for (;;) {
    const port = 10_081 + Math.floor(Math.random() * 20_000)
    const probe = net.createServer()
    const free = await new Promise((resolve) => {
      probe.once("error", () => resolve(false))
      probe.listen(port, "127.0.0.1", () => resolve(true))
    })
    if (free) {
      probe.close()
      await once(probe, "close")
      return port
    }
  }
}

/** A certificate authority of our own, and a certificate of it for localhost. */
export function certificates(dir) {
  const openssl = (...args) => execFileSync("openssl", args, { cwd: dir, stdio: "pipe" })
  const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
  openssl("req", "-x509", ...key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2",
    "-subj", "/CN=Headwater test authority",
    "-addext", "keyUsage=critical,keyCertSign")
  openssl("req", "-x509", ...key, "-keyout", "localhost.key", "-out", "localhost.pem", "-days", "2",
    "-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=localhost",
    "-addext", "basicConstraints=critical,CA:FALSE",
    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
  return {
    ca: path.join(dir, "ca.pem"),
    cert: path.join(dir, "localhost.pem"),
    key: path.join(dir, "localhost.key"),
  }
}

async function isReady(admin) {
  try {
    const response = await fetch(`http://${admin}/readyz`, { signal: AbortSignal.timeout(5_000) })
    await response.arrayBuffer()
    return response.status === 200
  } catch {
    return false
  }
}

/** The flags that start the server as the options say. */
function flags({ dir, data, listen, admin, certified, file, config, longPollTimeout, durability }) {
  if (file) return ["run", "--config", file]
  if (!certified && !config) {
    return ["dev", "--listen", listen, "--admin", admin, "--data", data,
      "--long-poll-timeout", longPollTimeout, "--durability", durability]
  }
  const tls = certified ? `tls = { certificates = [{ cert = "${certified.cert}", key = "${certified.key}" }] }` : ""
  const routes = config ?? `
[[site.route]]
path = "/v1/stream/*"
streams = { long_poll_timeout = "${longPollTimeout}" }
`
  const written = path.join(dir, "headwater.toml")
  fs.writeFileSync(written, `
data_dir = "${data}"
admin = "${admin}"

[log]
durability = "${durability}"

[[site]]
listen = ["${listen}"]
${tls}
${routes}`)
  return ["run", "--config", written]
}

/** Starts the process; resolves to it once it is ready or has ended. */
async function launch(args, { admin, logPath, env }) {
  const log = fs.openSync(logPath, "a")
  const child = spawn(binary(), args, { stdio: ["ignore", log, log], env: { ...process.env, ...env } })
  fs.closeSync(log)
  const running = { child, pid: child.pid, ended: undefined, ready: false }
  running.exited = new Promise((resolve) => {
    child.once("error", (error) => resolve(String(error)))
    child.once("exit", (code, signal) => resolve(signal ?? `exit code ${code}`))
  })
  running.exited.then((how) => { running.ended = how })
  const deadline = Date.now() + READY_TIMEOUT_MS
  while (!running.ended && Date.now() < deadline) {
    if (await isReady(admin)) {
      running.ready = true
      return running
    }
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  child.kill("SIGKILL")
  await running.exited
  return running
}

/**
 * Starts a server and resolves when it is ready, to its `url`, its `admin`
 * address, the `ca` to trust when it speaks TLS, and `stop()`. `config` is the
 * text of a site's routes, in place of the one with the official suite's paths;
 * `file` is a whole configuration, which takes HEADWATER_LISTEN, HEADWATER_ADMIN
 * and HEADWATER_DATA from the environment, beside what `env` adds.
 */
export async function startServer({ tls = false, longPollTimeout = "500ms", durability = "sync", config, file, env } = {}) {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "headwater-test-"))
  const certified = tls ? certificates(dir) : undefined
  const logPath = path.join(dir, "server.log")
  for (let attempt = 1; ; attempt++) {
    const listen = `127.0.0.1:${await freePort()}`
    const admin = `127.0.0.1:${await freePort()}`
    const data = path.join(dir, "data")
    const args = flags({ dir, data, listen, admin, certified, file, config, longPollTimeout, durability })
    const places = file && { HEADWATER_LISTEN: listen, HEADWATER_ADMIN: admin, HEADWATER_DATA: data }
    const setting = { admin, logPath, env: { ...places, ...env } }
    let running = await launch(args, setting)
    if (running.ready) {
      return {
        url: tls ? `https://localhost:${listen.split(":")[1]}` : `http://${listen}`,
        admin: `http://${admin}`,
        ca: certified?.ca,
        pid: () => running.pid,
        log: () => fs.readFileSync(logPath, "utf8"),
        /** How the server ended; `undefined` while it runs. */
        ended: () => running.ended,
        /** Kills the server, and starts it again with what it left on disk. */
        async crash() {
          running.child.kill("SIGKILL")
          await running.exited
          running = await launch(args, setting)
          if (!running.ready) throw new Error(`the server did not come back (${running.ended})`)
        },
        async stop() {
          running.child.kill("SIGTERM")
          const force = setTimeout(() => running.child.kill("SIGKILL"), 60_000)
          const how = await running.exited
          clearTimeout(force)
          fs.rmSync(dir, { recursive: true, force: true })
          return how
        },
      }
    }
    if (attempt === START_ATTEMPTS) {
      const said = fs.readFileSync(logPath, "utf8")
      fs.rmSync(dir, { recursive: true, force: true })
      throw new Error(`the server did not become ready (${running.ended ?? "timed out"}); it said:\n${said}`)
    }
  }
}

/** Runs a command with the test's output shown, and resolves to its exit code. */
export async function run(command, args, { env, cwd } = {}) {
  const child = spawn(command, args, { stdio: ["ignore", "inherit", "inherit"], env: { ...process.env, ...env }, cwd })
  const [code] = await once(child, "exit")
  return code ?? 1
}

/**
 * Starts a server, runs `body` against it, and stops it. Resolves to whether
 * the body succeeded and the server was alive at its end and stopped cleanly;
 * what the server said is shown when not.
 */
export async function withServer(options, body) {
  const server = await startServer(options)
  let good = false
  let said = ""
  try {
    good = await body(server)
    if (server.ended()) {
      console.error(`the server ended during the tests: ${server.ended()}`)
      good = false
    }
  } finally {
    said = server.log()
    const how = await server.stop()
    if (how !== "exit code 0") {
      console.error(`the server did not stop cleanly: ${how}`)
      good = false
    }
    if (!good) console.error(`--- the end of what the server said ---\n${said.slice(-20_000)}`)
  }
  return good
}
