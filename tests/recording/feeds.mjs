// What tests of feeds have in common.

import assert from "node:assert/strict"
import { parseEvents } from "./support.mjs"

/** Where every stream begins. `-1` is where begins what is kept of it. */
export const BEGIN = "0000000000000000_0000000000000000"

/** Reads a feed until it has `count` events, or its connection ends; `{ response, events, whole }`. */
export async function readFeed(url, count, headers = {}) {
  const gone = new AbortController()
  const response = await fetch(url, { headers, signal: gone.signal })
  assert.equal(response.status, 200)
  let bytes = Buffer.alloc(0)
  try {
    for await (const part of response.body) {
      bytes = Buffer.concat([bytes, part])
      const events = parseEvents(bytes)
      if (events.length >= count) return { response, events: events.slice(0, count), whole: true }
    }
  } catch {
    // Cut.
  } finally {
    gone.abort()
  }
  return { response, events: parseEvents(bytes), whole: false }
}

export const numbers = ({ events }) => events.map(({ data }) => JSON.parse(data).n)

/** That events are there one after the other, each once. */
export function assertConsecutive(found) {
  assert.deepEqual(found, found.map((_, at) => found[0] + at))
}
