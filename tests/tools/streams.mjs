// Streams by plain requests, each of which must be answered as expected.

import assert from "node:assert/strict"
import { randomUUID } from "node:crypto"

/** A path that no other test uses. */
export const unique = (route = "/v1/stream") => `${route}/${randomUUID()}`

export const text = { "content-type": "text/plain" }

/** Sends a request that must be answered with `status`. */
export async function call(status, method, url, { headers = text, body } = {}) {
  const response = await fetch(url, { method, headers, body })
  const answer = { status: response.status, headers: response.headers, body: await response.text() }
  assert.equal(answer.status, status, `${method} ${url}: ${answer.status} ${answer.body}`)
  return answer
}

export const create = (url, body) => call(201, "PUT", url, { body })
export const append = (url, body) => call(204, "POST", url, { body })
export const close = (url) => call(204, "POST", url, { headers: { "stream-closed": "true" } })
export const get = (url, headers = {}) => call(200, "GET", url, { headers })

/** Reads as catch-up does, from `offset` to where it is told that this is all. */
export async function readOn(url, offset = "-1", headers = {}) {
  let body = ""
  for (let answers = 1; ; answers++) {
    const answer = await get(`${url}?offset=${offset}`, headers)
    body += answer.body
    offset = answer.headers.get("stream-next-offset")
    const closed = answer.headers.has("stream-closed")
    if (closed || answer.headers.has("stream-up-to-date")) return { body, offset, closed, answers }
  }
}
