// GET /feed/NAME: an endless feed that says the same to everybody. Event N, of
// id N, comes N intervals after the feed was first asked for. A client gets what
// comes after its `Last-Event-ID`, or else what comes from now on. By parameters:
//
//   interval=MS    between events (20); what the first client says counts
//   drop_after=N   end the connection after so many events
//   break_after=N  break it off instead
//   last=N         end after event N, and answer who comes after it with 204
//   since=start    from the first event on, where no Last-Event-ID says otherwise
//   ids=N          only event 1 and each Nth behind it has an id
//   size=BYTES     so many more bytes in each event

import { breakOff, Writer } from "./io.mjs"

export class Feeds {
  #feeds = new Map()

  reset() {
    this.#feeds.clear()
  }

  #feed(name, interval) {
    let feed = this.#feeds.get(name)
    if (!feed) {
      feed = { began: performance.now(), interval }
      this.#feeds.set(name, feed)
    }
    return feed
  }

  async answer({ request, response, url, call }, name) {
    const number = (parameter, otherwise) => Number(url.searchParams.get(parameter) ?? otherwise)
    const feed = this.#feed(name, number("interval", 20))
    const age = () => performance.now() - feed.began
    const last = request.headers["last-event-id"]
    const fromStart = url.searchParams.get("since") === "start"
    let n = last !== undefined ? Number(last) : fromStart ? 0 : Math.floor(age() / feed.interval)
    const lastOfAll = number("last", Infinity)
    if (n >= lastOfAll) {
      response.writeHead(204)
      return response.end()
    }
    const dropAfter = n + number("drop_after", Infinity)
    const breakAfter = n + number("break_after", Infinity)
    const ids = number("ids", 1)
    const size = number("size", 0)

    const writer = new Writer(response)
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" })
    response.flushHeaders?.()
    for (;;) {
      n++
      if (!(await writer.pause(n * feed.interval - age()))) return
      if (!(await writer.write(feedEvent(name, n, { ids, size })))) return
      if (n >= dropAfter || n >= lastOfAll) return response.end()
      if (n >= breakAfter) {
        await writer.pause(50)
        call.broken = true
        return breakOff(response)
      }
    }
  }
}

/** Event N of a feed. */
export function feedEvent(name, n, { ids = 1, size = 0 } = {}) {
  const id = (n - 1) % ids === 0 ? `id: ${n}\n` : ""
  const filler = size > 0 ? { filler: "x".repeat(size) } : {}
  return `${id}event: item\ndata: ${JSON.stringify({ feed: name, n, ...filler })}\n\n`
}
