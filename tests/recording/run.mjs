// Runs the tests of recording with real clients against the binary:
//   HEADWATER_BIN=… [PYTHON=…] [CHROMIUM=…] node run.mjs [NAME]…
// NAME is `python` or that of a file here, such as `browser`. PYTHON is an
// interpreter that has python/requirements.txt installed.

import fs from "node:fs"
import path from "node:path"
import { run } from "../tools/server.mjs"
import { startBoth } from "./support.mjs"

const here = import.meta.dirname
const suffix = ".test.mjs"
const files = fs.readdirSync(here).filter((name) => name.endsWith(suffix)).sort()

/** One file after the other: some measure what the machine can take. */
function node(names) {
  const args = ["--test", "--test-force-exit", "--test-concurrency=1", "--test-reporter=spec"]
  return run(process.execPath, [...args, ...names.map((name) => name + suffix)], { cwd: here })
}

async function python() {
  const both = await startBoth()
  const env = { HEADWATER_URL: both.server.url, UPSTREAM_URL: both.upstream.url }
  const code = await run(process.env.PYTHON ?? "python3", ["-m", "unittest", "--verbose"], { env, cwd: path.join(here, "python") })
  if (code !== 0) console.error(`--- the end of what the server said ---\n${both.server.log().slice(-20_000)}`)
  await both.stop()
  return code
}

const all = [...files.map((name) => name.slice(0, -suffix.length)), "python"]
const names = process.argv.length > 2 ? process.argv.slice(2) : all
const unknown = names.find((name) => !all.includes(name))
if (unknown) throw new Error(`unknown test: ${unknown}`)
const withNode = names.filter((name) => name !== "python")
let code = 0
if (withNode.length) code ||= await node(withNode)
if (names.includes("python")) code ||= await python()
process.exit(code)
