// Runs the tests of edges as processes of the binary:
//   HEADWATER_BIN=… [EDGE_READERS=…] node run.mjs [NAME]…
// NAME is that of a file here, such as `net`, or `clients`: the tests of the official TypeScript
// client, which must be installed there, through an edge, through an edge behind another, and
// through nginx before an edge.

import path from "node:path"
import { startCdn } from "../cdn/support.mjs"
import { runFiles, runNamed } from "../tools/files.mjs"
import { startServer } from "../tools/server.mjs"
import { startEdge, together } from "./support.mjs"

const here = import.meta.dirname

async function clients() {
  const net = await together(async (add) => {
    const origin = await add(startServer({ longPollTimeout: "2s" }))
    const edge = await add(startEdge(origin.url))
    const far = await add(startEdge(edge.url))
    const nginx = await add(startCdn("nginx", edge.url))
    return { ways: { "an edge": edge, "an edge behind an edge": far, "nginx before an edge": nginx } }
  })
  let code = 0
  for (const [way, { url }] of Object.entries(net.ways)) {
    console.log(`client tests through ${way}`)
    code ||= await runFiles(path.join(here, "../clients/typescript"), undefined, { HEADWATER_URL: url })
  }
  await net.stop()
  return code
}

await runNamed(here, { clients })
