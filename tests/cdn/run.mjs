// Runs the tests of CDNs before the binary, with nginx, Varnish and Chromium:
//   HEADWATER_BIN=… [CHROMIUM=…] node run.mjs [NAME]…
// NAME is that of a file here, such as `live`.

import { runFiles } from "../tools/files.mjs"

process.exit(await runFiles(import.meta.dirname, process.argv.slice(2)))
