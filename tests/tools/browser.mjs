// Chromium without a window, with a profile of its own, and pages for it.

import { spawn } from "node:child_process"
import { once } from "node:events"
import fs from "node:fs"
import http from "node:http"
import os from "node:os"
import path from "node:path"

const BROWSER = process.env.CHROMIUM ?? "chromium"

/** Opens a page. `failed` is rejected when the browser ends; `close()` ends it. */
export function openBrowser(url) {
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

/** Serves a page, and resolves `report` with the JSON that it posts to `/report`. */
export async function servePage(page) {
  let found
  const report = new Promise((resolve) => { found = resolve })
  const server = http.createServer((request, response) => {
    if (request.method !== "POST") {
      response.writeHead(200, { "content-type": "text/html" })
      return response.end(page)
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

/** A page that reads the stream at `url` twice, one after the other, and reports what it got. */
const twice = (url) => `<!doctype html>
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
    const second = await read()
    fetch("/report", { method: "POST", body: JSON.stringify({ first, second }) })
  })()
</script>`

/** Has the browser read a closed stream twice, and resolves to what it got. */
export async function readTwice(url) {
  const pages = await servePage(twice(url))
  const browser = openBrowser(pages.url)
  try {
    return await Promise.race([pages.report, browser.failed])
  } finally {
    await browser.close()
    pages.stop()
  }
}
