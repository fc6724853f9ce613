// A page in Chromium with a WebSocket: it passes through, at routes that record too.

import assert from "node:assert/strict"
import { createHash } from "node:crypto"
import { once } from "node:events"
import http from "node:http"
import { after, before, test } from "node:test"
import { openBrowser, servePage } from "../tools/browser.mjs"
import { patience, recordRoute, startBoth } from "./support.mjs"

// RFC 6455, section 1.3.
const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

/** A WebSocket server that sends back what it gets: unmasked, and otherwise byte for byte. */
async function startEcho() {
  const server = http.createServer()
  server.on("upgrade", (request, socket) => {
    const accept = createHash("sha1").update(request.headers["sec-websocket-key"] + GUID).digest("base64")
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: ${accept}\r\n\r\n`)
    socket.on("error", () => {})
    let unread = Buffer.alloc(0)
    socket.on("data", (bytes) => {
      unread = Buffer.concat([unread, bytes])
      for (let frame = takeFrame(unread); frame; frame = takeFrame(unread)) {
        unread = unread.subarray(frame.bytes)
        socket.write(Buffer.concat([frame.head, frame.payload]))
      }
    })
  })
  server.listen(0, "127.0.0.1")
  await once(server, "listening")
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    stop() {
      server.close()
      server.closeAllConnections()
    },
  }
}

/** The first frame of a client, as the server would send it; nothing while it is not whole. */
function takeFrame(bytes) {
  if (bytes.length < 2) return
  const short = bytes[1] & 127
  const at = 2 + (short === 126 ? 2 : short === 127 ? 8 : 0)
  if (bytes.length < at + 4) return
  const length = short === 126 ? bytes.readUInt16BE(2) : short === 127 ? Number(bytes.readBigUInt64BE(2)) : short
  if (bytes.length < at + 4 + length) return
  const mask = bytes.subarray(at, at + 4)
  const head = Buffer.from(bytes.subarray(0, at))
  head[1] &= 127
  return { bytes: at + 4 + length, head, payload: bytes.subarray(at + 4, at + 4 + length).map((byte, n) => byte ^ mask[n % 4]) }
}

let echo
let both
before(async () => {
  echo = await startEcho()
  both = await startBoth(() => recordRoute(echo, "/recorded") + `
[[site.route]]
path = "/passed/*"
reverse_proxy = { upstreams = ["${echo.url}"], strip_prefix = "/passed" }
`)
})
after(async () => {
  echo.stop()
  await both.stop()
})

/** The page: sends text of several lengths, one message after the other, and reports what came back. */
const page = (url) => `<!doctype html>
<script>
  const sent = [0, 1, 125, 126, 65535, 65536, 300000].map((length) => "~".repeat(length))
  const got = []
  const socket = new WebSocket(${JSON.stringify(url)})
  const tell = (end) => fetch("/report", { method: "POST", body: JSON.stringify({ end, same: got.map((text, n) => text === sent[n]), sent: sent.length }) })
  socket.onopen = () => { for (const text of sent) socket.send(text) }
  socket.onmessage = ({ data }) => {
    got.push(data)
    if (got.length === sent.length) socket.close(1000)
  }
  socket.onclose = ({ code, wasClean }) => tell({ code, wasClean })
</script>`

for (const route of ["/passed", "/recorded"]) {
  test(`${route}: a WebSocket sends back what it gets, and closes cleanly`, patience, async () => {
    const pages = await servePage(page(`${both.server.url.replace("http", "ws")}${route}/echo`))
    const browser = openBrowser(pages.url)
    try {
      const { end, same, sent } = await Promise.race([pages.report, browser.failed])
      assert.deepEqual(same, Array(sent).fill(true))
      assert.deepEqual(end, { code: 1000, wasClean: true })
    } finally {
      await browser.close()
      pages.stop()
    }
  })
}
