// A page in Chromium with a plain EventSource: its connection is cut again and
// again, it reconnects by itself, and every event arrives once and in order.

import assert from "node:assert/strict"
import { spawn } from "node:child_process"
import { randomUUID } from "node:crypto"
import { once } from "node:events"
import fs from "node:fs"
import http from "node:http"
import os from "node:os"
import path from "node:path"
import { after, before, test } from "node:test"
import { eventsText } from "../upstream/events.mjs"
import { parseEvents, patience, startBoth, startCutter } from "./support.mjs"

const CUTS = 10
const EVENTS = 400
const BROWSER = process.env.CHROMIUM ?? "chromium"

let both
before(async () => { both = await startBoth() })
after(() => both.stop())

/** The page: reports all that it got once it has the last event. */
const page = (url) => `<!doctype html>
<script>
  const events = []
  let errors = 0
  const source = new EventSource(${JSON.stringify(url)})
  source.onerror = () => { errors++ }
  source.onmessage = (event) => {
    events.push({ id: event.lastEventId, data: event.data })
    if (JSON.parse(event.data).n < ${EVENTS}) return
    source.close()
    fetch("/report", { method: "POST", body: JSON.stringify({ events, errors }) })
  }
</script>`

/** Serves the page, and resolves `report` with what it reports. */
async function servePage(url) {
  let found
  const report = new Promise((resolve) => { found = resolve })
  const server = http.createServer((request, response) => {
    if (request.method !== "POST") {
      response.writeHead(200, { "content-type": "text/html" })
      return response.end(page(url))
    }
    let body = ""
    request.on("data", (part) => { body += part })
    request.on("end", () => {
      response.end()
      found(JSON.parse(body))
    })
  })
  server.listen(0, "127.0.0.1")
  await once(server, "listening")
  return { url: `http://127.0.0.1:${server.address().port}/`, report, stop: () => server.close() }
}

function openBrowser(url) {
  const profile = fs.mkdtempSync(path.join(os.tmpdir(), "headwater-chromium-"))
  const flags = ["--headless", "--disable-gpu", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", `--user-data-dir=${profile}`, "--remote-debugging-port=0"]
  // A group of its own, so that all its processes end with it.
  const child = spawn(BROWSER, [...flags, url], { stdio: "ignore", detached: true })
  return {
    failed: new Promise((_, reject) => {
      child.once("error", reject)
      child.once("exit", (code, signal) => reject(new Error(`${BROWSER} ended: ${signal ?? code}`)))
    }),
    async close() {
      child.removeAllListeners("exit")
      const gone = once(child, "exit")
      process.kill(-child.pid, "SIGKILL")
      await gone
      await fs.promises.rm(profile, { recursive: true, force: true, maxRetries: 50, retryDelay: 100 })
    },
  }
}

test(`an EventSource loses its connection ${CUTS} times and no event`, patience, async () => {
  const key = randomUUID()
  const shape = `count=${EVENTS}&delay=20&size=100&retry=30&key=${key}`
  const cutter = await startCutter(both.server.url, (n) => (n < CUTS ? 300 + Math.floor(Math.random() * 4000) : Infinity))
  const pages = await servePage(`${cutter.url}/ids/events?${shape}`)
  const browser = openBrowser(pages.url)
  try {
    const { events, errors } = await Promise.race([pages.report, browser.failed])
    const expected = parseEvents(Buffer.from(eventsText(shape)))
    assert.deepEqual(events.map(({ data }) => data), expected.map(({ data }) => data))
    assert.equal(new Set(events.map(({ id }) => id)).size, EVENTS)
    assert.equal(cutter.cuts, CUTS)
    assert.ok(errors >= CUTS)
    assert.equal((await both.upstream.calls(key)).calls, 1)
  } finally {
    await browser.close()
    pages.stop()
    cutter.stop()
  }
})
