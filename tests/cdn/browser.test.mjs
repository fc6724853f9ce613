// Chromium reads a closed stream twice: the second time from its own cache.

import assert from "node:assert/strict"
import { after, before, test } from "node:test"
import { openBrowser, servePage } from "../tools/browser.mjs"
import { append, close, create, names, patience, readOn, SEGMENT_BYTES, startAll, unique } from "./support.mjs"

let all
before(async () => { all = await startAll() })
after(() => all.stop())

/** The page reads the stream twice and reports both; between the two it waits for `/between`. */
const page = (url) => `<!doctype html>
<script>
  async function read() {
    let body = ""
    for (let offset = "-1";;) {
      const response = await fetch(${JSON.stringify(url)} + "?offset=" + offset)
      body += await response.text()
      offset = response.headers.get("stream-next-offset")
      if (response.headers.get("stream-closed")) return body
    }
  }
  (async () => {
    const first = await read()
    const requests = performance.getEntriesByType("resource").length
    const second = await read()
    fetch("/report", { method: "POST", body: JSON.stringify({ first, second, requests }) })
  })()
</script>`

for (const name of ["no CDN", ...names]) {
  test(`Chromium with ${name}: what it has read it does not ask for again`, patience, async () => {
    const path = unique()
    const direct = all.server.url + path
    await create(direct, "")
    const line = `${"chromium ".repeat(120)}\n`
    for (let n = 0; n * line.length < 3 * SEGMENT_BYTES; n++) await append(direct, `${n} ${line}`)
    await close(direct)
    const expected = await readOn(direct)
    const asked = () => all.asked({ method: "GET", mode: "catch_up" })
    const before = await asked()
    const pages = await servePage(page((all.cdns[name]?.url ?? all.server.url) + path))
    const browser = openBrowser(pages.url)
    try {
      const { first, second } = await Promise.race([pages.report, browser.failed])
      assert.ok(first === expected.body && second === expected.body)
      assert.equal((await asked()) - before, expected.answers)
    } finally {
      await browser.close()
      pages.stop()
    }
  })
}
