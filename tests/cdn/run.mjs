// Runs the tests of CDNs before the binary, with nginx, Varnish and Chromium:
//   HEADWATER_BIN=… [CHROMIUM=…] node run.mjs [NAME]…
// NAME is that of a file here, such as `live`, or `clients`: the tests of the official TypeScript
// client, which must be installed there, through each CDN.

import path from "node:path"
import { runFiles, testNames } from "../tools/files.mjs"
import { startAll } from "./support.mjs"

const here = import.meta.dirname

async function clients() {
  const all = await startAll({ segmentBytes: 4 << 20 })
  let code = 0
  for (const cdn of Object.values(all.cdns)) {
    console.log(`client tests through ${cdn.name}`)
    code ||= await runFiles(path.join(here, "../clients/typescript"), [], { HEADWATER_URL: cdn.url })
  }
  await all.stop()
  return code
}

const all = [...testNames(here), "clients"]
const names = process.argv.length > 2 ? process.argv.slice(2) : all
const unknown = names.find((name) => !all.includes(name))
if (unknown) throw new Error(`unknown test: ${unknown}`)
const files = names.filter((name) => name !== "clients")
let code = 0
if (files.length) code ||= await runFiles(here, files)
if (names.includes("clients")) code ||= await clients()
process.exit(code)
