// Runs the tests of the official clients against the binary:
//   HEADWATER_BIN=… [PYTHON=…] node run.mjs [typescript|python]…
// PYTHON is an interpreter that has python/requirements.txt installed.

import fs from "node:fs"
import path from "node:path"
import { run, withServer } from "../tools/server.mjs"

const here = import.meta.dirname
const clients = {
  typescript(env) {
    const dir = path.join(here, "typescript")
    const files = fs.readdirSync(dir).filter((name) => name.endsWith(".test.mjs")).sort()
    return run(process.execPath, ["--test", "--test-force-exit", "--test-reporter=spec", ...files], { env, cwd: dir })
  },
  python(env) {
    const dir = path.join(here, "python")
    return run(process.env.PYTHON ?? "python3", ["-m", "unittest", "--verbose"], { env, cwd: dir })
  },
}

const names = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(clients)
for (const name of names) {
  const tests = clients[name]
  if (!tests) throw new Error(`unknown client: ${name}`)
  console.log(`client tests (${name})`)
  const good = await withServer({ longPollTimeout: "2s" }, async (server) => {
    return (await tests({ HEADWATER_URL: server.url })) === 0
  })
  if (!good) process.exit(1)
}
