// Runs the tests of CDNs before the binary, with nginx, Varnish and Chromium:
//   HEADWATER_BIN=… [CHROMIUM=…] node run.mjs [NAME]…
// NAME is that of a file here, such as `live`, or `clients`: the tests of the official TypeScript
// client, which must be installed there, through each CDN.

import path from "node:path"
import { runFiles, runNamed } from "../tools/files.mjs"
import { startAll } from "./support.mjs"

const here = import.meta.dirname

async function clients() {
  const all = await startAll({ segmentBytes: 4 << 20 })
  let code = 0
  for (const cdn of Object.values(all.cdns)) {
    console.log(`client tests through ${cdn.name}`)
    code ||= await runFiles(path.join(here, "../clients/typescript"), undefined, { HEADWATER_URL: cdn.url })
  }
  await all.stop()
  return code
}

await runNamed(here, { clients })
