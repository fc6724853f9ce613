// Runs the tests of recording with real clients against the binary:
//   HEADWATER_BIN=… [PYTHON=…] [CHROMIUM=…] node run.mjs [NAME]…
// NAME is `python` or that of a file here, such as `browser`. PYTHON is an
// interpreter that has python/requirements.txt installed.

import path from "node:path"
import { runNamed } from "../tools/files.mjs"
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

await runNamed(here, { python })
