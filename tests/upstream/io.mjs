// What all answers share, in HTTP/1.1 and HTTP/2 alike.

import { constants } from "node:http2"
import { setTimeout as sleep } from "node:timers/promises"

const BODY_BYTES_MAX = 16 << 20

export async function readBody(request) {
  const parts = []
  let bytes = 0
  for await (const part of request) {
    bytes += part.length
    if (bytes > BODY_BYTES_MAX) throw new Error("the body is too large")
    parts.push(part)
  }
  return Buffer.concat(parts)
}

export function json(response, status, value, headers = {}) {
  const body = JSON.stringify(value)
  response.writeHead(status, { "content-type": "application/json", "content-length": Buffer.byteLength(body), ...headers })
  response.end(body)
}

/** Ends a connection, or an HTTP/2 stream, as a crash would. */
export function breakOff(response) {
  if (response.stream) response.stream.close(constants.NGHTTP2_INTERNAL_ERROR)
  else response.socket?.resetAndDestroy()
}

/**
 * Writes an answer's body. Resolves to false once the client has left, so that
 * an endless answer ends.
 */
export class Writer {
  #left = false

  constructor(response, sink = response) {
    this.response = response
    this.sink = sink
    response.once("close", () => { this.#left = true })
    response.on("error", () => {})
  }

  get left() {
    return this.#left || this.response.destroyed
  }

  async write(bytes) {
    if (this.left) return false
    if (!this.sink.write(bytes)) {
      await new Promise((resolve) => {
        const done = () => {
          this.sink.off("drain", done)
          this.response.off("close", done)
          resolve()
        }
        this.sink.on("drain", done)
        this.response.on("close", done)
      })
    }
    return !this.left
  }

  async pause(ms) {
    if (ms > 0) {
      const gone = new AbortController()
      const leave = () => gone.abort()
      this.response.once("close", leave)
      await sleep(ms, undefined, { signal: gone.signal }).catch(() => {})
      this.response.off("close", leave)
    }
    return !this.left
  }
}
