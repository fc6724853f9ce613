// GET or POST /events: server-sent events, the same bytes for the same numbers,
// whatever the pace. By parameters:
//
//   count=N        how many events (10); `count=endless` never ends
//   delay=MS       before each event but the first
//   size=BYTES     the least size of an event's data
//   end=lf|crlf|cr how lines end
//   ids=1          each event has an id, its number from 1
//   from=N         the number of the first event (1)
//   split=BYTES    write in pieces of this size, each by itself
//   head_after=MS  silence before the head
//   pause_at=N     silence before event N, of pause=MS (for ever without it); with
//                  pause_bytes=N, in its middle
//   break_at=N     break off before event N; with break_bytes=N, in its middle
//   ends=close     delimited by the connection's end instead of chunked
//   retry=MS       the first event says how soon to reconnect
//   gzip=1         compressed, if the client accepts it; `gzip=always`: even if not
//   type=TYPE      another content type; application/x-ndjson sends lines
//   status=CODE    another status

import { constants, createGzip } from "node:zlib"
import { breakOff, Writer } from "./io.mjs"

const LINE_ENDS = { lf: "\n", crlf: "\r\n", cr: "\r" }
const FOREVER_MS = 2 ** 31 - 1

/** The settings of a query. */
function settings(parameters) {
  const number = (name, otherwise) => (parameters.has(name) ? Number(parameters.get(name)) : otherwise)
  const from = number("from", 1)
  const endless = parameters.get("count") === "endless"
  return {
    from,
    to: endless ? Infinity : from + number("count", 10),
    delay: number("delay", 0),
    size: number("size", 0),
    end: LINE_ENDS[parameters.get("end") ?? "lf"],
    ids: parameters.has("ids"),
    split: number("split", 0),
    headAfter: number("head_after", 0),
    pauseAt: number("pause_at"),
    pause: number("pause", FOREVER_MS),
    pauseBytes: number("pause_bytes", 0),
    breakAt: number("break_at"),
    breakBytes: number("break_bytes", 0),
    retry: number("retry"),
    closes: parameters.get("ends") === "close",
    gzip: parameters.get("gzip"),
    type: parameters.get("type") ?? "text/event-stream",
    status: number("status", 200),
  }
}

function eventText(n, { type, from, ids, retry, end, size }) {
  const data = JSON.stringify({ n, text: `token ${n} \u{1f30a}`.padEnd(size, "~") })
  if (type.startsWith("application/x-ndjson")) return data + "\n"
  if (type !== "text/event-stream") return data
  const head = (ids ? `id: ${n}${end}` : "") + (retry && n === from ? `retry: ${retry}${end}` : "")
  return `${head}data: ${data}${end}${end}`
}

/** All that /events with this query sends, if it comes to its end. */
export function eventsText(query) {
  const how = settings(new URLSearchParams(query))
  let text = ""
  for (let n = how.from; n < how.to; n++) text += eventText(n, how)
  return text
}

export async function events({ request, response, url, call }) {
  const how = settings(url.searchParams)
  const zips = how.gzip === "always" || (how.gzip && /\bgzip\b/.test(request.headers["accept-encoding"] ?? ""))
  const writer = new Writer(response, zips ? zip(response) : response)
  if (!(await writer.pause(how.headAfter))) return
  const headers = { "content-type": how.type, "cache-control": "no-cache", "access-control-allow-origin": "*", "x-upstream": "test" }
  if (zips) headers["content-encoding"] = "gzip"
  if (how.closes && !response.stream) {
    response.useChunkedEncodingByDefault = false
    response.shouldKeepAlive = false
    headers.connection = "close"
  }
  response.writeHead(how.status, headers)
  response.flushHeaders?.()

  for (let n = how.from; n < how.to; n++) {
    if (n > how.from && !(await writer.pause(how.delay))) return
    let bytes = Buffer.from(eventText(n, how))
    if (n === how.pauseAt) {
      if (!(await send(writer, bytes.subarray(0, how.pauseBytes), how.split))) return
      if (!(await writer.pause(how.pause))) return
      bytes = bytes.subarray(how.pauseBytes)
    }
    const breaks = n === how.breakAt
    if (breaks) bytes = bytes.subarray(0, how.breakBytes)
    if (!(await send(writer, bytes, how.split))) return
    if (breaks) {
      // What was written should leave first.
      await writer.pause(50)
      call.broken = true
      return breakOff(response)
    }
  }
  writer.sink.end()
}

async function send(writer, bytes, split) {
  if (!split) return bytes.length === 0 || writer.write(bytes)
  for (let at = 0; at < bytes.length; at += split) {
    if (!(await writer.write(bytes.subarray(at, at + split)))) return false
    await writer.pause(1)
  }
  return true
}

/** Compresses, each event by itself, so that none waits for the next. */
function zip(response) {
  const gzip = createGzip({ flush: constants.Z_SYNC_FLUSH })
  gzip.pipe(response)
  response.once("close", () => gzip.destroy())
  gzip.on("error", () => {})
  return gzip
}
