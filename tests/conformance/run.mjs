// Runs the official conformance suite against the binary:
//   HEADWATER_BIN=… node run.mjs [plain|tls|edge]…
// All by default: HTTP/1.1 in the clear, then HTTP/1.1 over TLS (Node's fetch
// speaks no HTTP/2), then through an edge before another server. Fewer tests passed than expected is a failure, since a
// suite that silently leaves tests out would look green.

import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { run, withServer } from "../tools/server.mjs"

const EXPECTED_TESTS = 332
const here = import.meta.dirname

// The suite's tests for an idle long-poll wait less than the default timeout.
const longPollTimeout = "500ms"

const edgeOf = (origin) => `
[[site.route]]
path = "/v1/stream/*"
streams = { long_poll_timeout = "${longPollTimeout}", origin = { upstreams = ["${origin.url}"] } }
`

/** Runs `suite` against what the mode asks for. */
const modes = {
  plain: (suite) => withServer({ longPollTimeout }, suite),
  tls: (suite) => withServer({ longPollTimeout, tls: true }, suite),
  edge: (suite) => withServer({ longPollTimeout }, (origin) => withServer({ config: edgeOf(origin) }, suite)),
}

async function conformance(mode) {
  const report = path.join(os.tmpdir(), `headwater-conformance-${process.pid}-${mode}.json`)
  return modes[mode](async (server) => {
    console.log(`conformance (${mode}): ${server.url}`)
    const code = await run(
      process.execPath,
      [
        path.join(here, "node_modules/vitest/vitest.mjs"), "run", "--root", here,
        "--reporter=dot", "--reporter=json", `--outputFile.json=${report}`,
      ],
      {
        env: {
          HEADWATER_URL: server.url,
          NO_COLOR: "1",
          FORCE_COLOR: undefined,
          ...(server.ca && { NODE_EXTRA_CA_CERTS: server.ca }),
        },
      },
    )
    const { numPassedTests, numFailedTests, numTotalTests } = JSON.parse(fs.readFileSync(report, "utf8"))
    fs.rmSync(report)
    const skipped = numTotalTests - numPassedTests - numFailedTests
    console.log(`conformance (${mode}):`)
    console.log(`${numPassedTests} passed, ${numFailedTests} failed, ${skipped} skipped`)
    if (numPassedTests < EXPECTED_TESTS) {
      console.error(`expected at least ${EXPECTED_TESTS} tests to pass`)
      return false
    }
    return code === 0
  })
}

const names = process.argv.length > 2 ? process.argv.slice(2) : Object.keys(modes)
for (const name of names) {
  if (!modes[name]) throw new Error(`unknown mode: ${name}`)
  if (!(await conformance(name))) process.exit(1)
}
