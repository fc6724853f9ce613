import { randomUUID } from "node:crypto"

const base = process.env.HEADWATER_URL
if (!base) throw new Error("HEADWATER_URL must be the address of a running server")

/** The address of a stream that no other test uses. */
export const streamUrl = (name) => `${base}/v1/stream/${name}-${randomUUID()}`

/** No test waits for ever, and none fails because the machine is slow. */
export const patience = { timeout: 180_000 }

/** Reads everything that the stream holds now, without the client's help. */
export async function readRaw(url) {
  const parts = []
  let offset = "-1"
  for (;;) {
    const response = await fetch(`${url}?offset=${offset}`)
    if (response.status !== 200) throw new Error(`${response.status} at ${url}`)
    parts.push(Buffer.from(await response.arrayBuffer()))
    offset = response.headers.get("stream-next-offset")
    if (response.headers.has("stream-up-to-date")) return Buffer.concat(parts)
  }
}

/**
 * Collects what a live reader is given. `until(n)` resolves when n things
 * have arrived; `finished` when the reader has seen the end of the stream.
 */
export class Collected {
  items = []
  #waiting = []
  #finish
  finished = new Promise((resolve) => { this.#finish = resolve })

  add(more, closed = false) {
    this.items.push(...more)
    this.#waiting = this.#waiting.filter(({ count, resolve }) => {
      if (this.items.length >= count) resolve()
      return this.items.length < count
    })
    if (closed) this.#finish()
  }

  until(count) {
    if (this.items.length >= count) return Promise.resolve()
    return new Promise((resolve) => this.#waiting.push({ count, resolve }))
  }
}

/** Reproducible bytes that look random. */
export function noise(length, seed = 1) {
  const bytes = Buffer.alloc(length)
  let state = seed >>> 0 || 1
  for (let i = 0; i < length; i++) {
    state ^= state << 13; state >>>= 0
    state ^= state >>> 17
    state ^= state << 5; state >>>= 0
    bytes[i] = state & 0xff
  }
  return bytes
}
