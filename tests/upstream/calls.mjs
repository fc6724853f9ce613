// Who called: GET /__calls answers, for each key, how many calls there were, how
// many are running, how many ended whole and how many the client cancelled, with
// the headers and the body of the last one. The key of a request is its
// `x-test-key` header, its `key` parameter, or its method and path.

const SHOWN_BODY_BYTES_MAX = 64 << 10

export class Calls {
  #byKey = new Map()

  begin(request, response, url, body) {
    const key = request.headers["x-test-key"] ?? url.searchParams.get("key") ?? `${request.method} ${url.pathname}`
    let entry = this.#byKey.get(key)
    if (!entry) {
      entry = { calls: 0, running: 0, completed: 0, cancelled: 0, broken: 0 }
      this.#byKey.set(key, entry)
    }
    entry.calls++
    entry.running++
    entry.method = request.method
    entry.url = request.url
    entry.http = request.httpVersion
    entry.headers = request.headers
    entry.body = body.subarray(0, SHOWN_BODY_BYTES_MAX).toString()
    const call = { broken: false }
    // An HTTP/2 stream that was cancelled is "finished" too; what counts is whether all was written.
    response.once("close", () => {
      entry.running--
      if (call.broken) entry.broken++
      else if (response.writableEnded) entry.completed++
      else entry.cancelled++
    })
    return call
  }

  reset() {
    this.#byKey.clear()
  }

  toJSON() {
    return Object.fromEntries(this.#byKey)
  }
}
