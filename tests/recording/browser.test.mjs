// A page in Chromium with a plain EventSource: its connection is cut again and
// again, it reconnects by itself, and every event arrives once and in order.

import assert from "node:assert/strict"
import { randomUUID } from "node:crypto"
import { after, before, test } from "node:test"
import { openBrowser, servePage } from "../tools/browser.mjs"
import { eventsText } from "../upstream/events.mjs"
import { parseEvents, patience, startBoth, startRelay } from "./support.mjs"

const CUTS = 10
const EVENTS = 400

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

test(`an EventSource loses its connection ${CUTS} times and no event`, patience, async () => {
  const key = randomUUID()
  const shape = `count=${EVENTS}&delay=20&size=100&retry=30&key=${key}`
  const relay = await startRelay(both.server.url, (n) => (n < CUTS ? 300 + Math.floor(Math.random() * 4000) : Infinity))
  const pages = await servePage(page(`${relay.url}/ids/events?${shape}`))
  const browser = openBrowser(pages.url)
  try {
    const { events, errors } = await Promise.race([pages.report, browser.failed])
    const expected = parseEvents(Buffer.from(eventsText(shape)))
    assert.deepEqual(events.map(({ data }) => data), expected.map(({ data }) => data))
    assert.equal(new Set(events.map(({ id }) => id)).size, EVENTS)
    assert.equal(relay.cuts, CUTS)
    assert.ok(errors >= CUTS)
    assert.equal((await both.upstream.calls(key)).calls, 1)
  } finally {
    await browser.close()
    pages.stop()
    relay.stop()
  }
})
