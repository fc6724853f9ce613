// Runs the tests of recording with real clients against the binary:
//   HEADWATER_BIN=… [PYTHON=…] [CHROMIUM=…] node run.mjs [NAME]…
// NAME is `python` or that of a file here, such as `browser`. PYTHON is an
// interpreter that has python/requirements.txt installed.

import path from "node:path"
import { runFiles, testNames } from "../tools/files.mjs"
import { run } from "../tools/server.mjs"
import { startBoth } from "./support.mjs"

const here = import.meta.dirname

async function python() {
  const both = await startBoth()
  const env = { HEADWATER_URL: both.server.url, UPSTREAM_URL: both.upstream.url }
  const code = await run(process.env.PYTHON ?? "python3", ["-m", "unittest", "--verbose"], { env, cwd: path.join(here, "python") })
  if (code !== 0) console.error(`--- the end of what the server said ---\n${both.server.log().slice(-20_000)}`)
  await both.stop()
  return code
}

const all = [...testNames(here), "python"]
const names = process.argv.length > 2 ? process.argv.slice(2) : all
const unknown = names.find((name) => !all.includes(name))
if (unknown) throw new Error(`unknown test: ${unknown}`)
const withNode = names.filter((name) => name !== "python")
let code = 0
if (withNode.length) code ||= await runFiles(here, withNode)
if (names.includes("python")) code ||= await python()
process.exit(code)
