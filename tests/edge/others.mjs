// The servers of others, as origins, where they are installed.

import { spawn } from "node:child_process"
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { until } from "../tools/patience.mjs"
import { freePort } from "../tools/server.mjs"

// Where the benchmarks install them: compiling them takes longer than all tests.
const crates = path.join(os.homedir(), ".cache/headwater/competitors")
const crate = (name) => path.join(crates, name, "bin/durable-streams-server")

const servers = {
  "@durable-streams/server": (_, port) =>
    [process.execPath, path.join(import.meta.dirname, "node-origin.mjs"), String(port)],
  "durable-streams-0.1.5": (dir, port) =>
    [crate("durable-streams-0.1.5"), "--port", String(port), "--data-dir", path.join(dir, "data")],
  "durable-streams-server-0.3.0": (dir, port) => {
    const file = path.join(dir, "axum.toml")
    fs.writeFileSync(file, `
[server]
bind_address = "127.0.0.1:${port}"
[storage]
mode = "file-durable"
data_dir = "${dir}/data"
`)
    return [crate("durable-streams-server-0.3.0"), "--config", file]
  },
}

export const names = Object.keys(servers)

/** Whether a server can be started here. */
export const installed = (name) => name.startsWith("@") || fs.existsSync(crate(name))

/** Starts one of them: its `url` and `stop()`. */
export async function startOther(name) {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "headwater-other-"))
  const port = await freePort()
  const [command, ...args] = servers[name](dir, port)
  const child = spawn(command, args, { stdio: ["ignore", "ignore", "inherit"] })
  const gone = new Promise((resolve) => {
    child.once("error", resolve)
    child.once("exit", resolve)
  })
  let ended = false
  gone.then(() => { ended = true })
  const url = `http://127.0.0.1:${port}`
  await until(async () => {
    if (ended) throw new Error(`${name} did not start`)
    return fetch(`${url}/v1/stream/none`).then((response) => response.arrayBuffer(), () => false)
  })
  return {
    url,
    async stop() {
      child.kill("SIGKILL")
      await gone
      fs.rmSync(dir, { recursive: true, force: true })
    },
  }
}
