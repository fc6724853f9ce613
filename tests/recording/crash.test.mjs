// Kill -9 in the middle of recordings: what was recorded is there, and says how it ended.

import assert from "node:assert/strict"
import { randomUUID } from "node:crypto"
import { after, before, test } from "node:test"
import { eventsText } from "../upstream/events.mjs"
import { endOf, parseEvents, patience, readAll, startBoth, until } from "./support.mjs"

let both
before(async () => { both = await startBoth() })
after(() => both.stop())

test("recordings that a crash interrupted are closed as failed, with all that clients saw", patience, async () => {
  const keys = Array.from({ length: 20 }, () => randomUUID())
  const ask = (key) => fetch(`${both.server.url}/ids/events?count=endless&delay=10&key=${key}`, { headers: { "idempotency-key": key } })
  const finished = await fetch(`${both.server.url}/ids/events?count=3`)
  const finishedBytes = (await readAll(finished)).bytes
  const running = await Promise.all(keys.map(ask))
  const reading = running.map(readAll)
  await until(async () => {
    const calls = await Promise.all(keys.map((key) => both.upstream.calls(key)))
    const texts = await Promise.all(running.map((response) => fetch(`${response.headers.get("stream-url")}&offset=-1`).then((r) => r.text())))
    return calls.every(Boolean) && texts.every((text) => text.split("\n\n").length > 10)
  })
  await both.server.crash()

  for (const [n, response] of running.entries()) {
    const { bytes, whole } = await reading[n]
    assert.equal(whole, false)
    const url = response.headers.get("stream-url")
    assert.deepEqual(await endOf(url), { end: "failed", reason: "interrupted" })
    const kept = await (await fetch(`${url}&offset=-1`)).text()
    assert.ok(kept.startsWith(bytes.toString()), "what a client saw is there")
    const events = parseEvents(Buffer.from(kept))
    const expected = parseEvents(Buffer.from(eventsText(`count=${events.length}`)))
    assert.deepEqual(events.map(({ data }) => data), expected.map(({ data }) => data))

    // The same request gets what there is, and is not run again behind the caller's back.
    const again = await readAll(await ask(keys[n]))
    assert.equal(again.whole, false)
    assert.equal(again.bytes.toString(), kept)
    assert.equal((await both.upstream.calls(keys[n])).calls, 1)
  }
  const url = finished.headers.get("stream-url")
  assert.deepEqual(await endOf(url), { end: "completed", reason: null })
  assert.equal(await (await fetch(`${url}&offset=-1`)).text(), finishedBytes.toString())
})
