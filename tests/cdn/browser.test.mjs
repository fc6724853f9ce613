// Chromium reads a closed stream twice: the second time from its own cache.

import assert from "node:assert/strict"
import { after, before, test } from "node:test"
import { readTwice } from "../tools/browser.mjs"
import { append, close, create, names, patience, readOn, SEGMENT_BYTES, startAll, unique, until } from "./support.mjs"

let all
before(async () => { all = await startAll() })
after(() => all.stop())

for (const name of ["no CDN", ...names]) {
  test(`Chromium with ${name}: what it has read it does not ask for again`, patience, async () => {
    const path = unique()
    const direct = all.server.url + path
    await create(direct, "")
    const line = `${"chromium ".repeat(120)}\n`
    for (let n = 0; n * line.length < 3 * SEGMENT_BYTES; n++) await append(direct, `${n} ${line}`)
    await close(direct)
    const asked = () => all.asked({ method: "GET", mode: "catch_up" })
    // A request is counted when it ends, perhaps a moment after its answer is there.
    const counted = (count) => until(async () => (await asked()) >= count)
    const before = await asked()
    const expected = await readOn(direct)
    await counted(before + expected.answers)
    const { first, second } = await readTwice((all.cdns[name]?.url ?? all.server.url) + path)
    assert.ok(first === expected.body && second === expected.body)
    await counted(before + 2 * expected.answers)
    assert.equal(await asked(), before + 2 * expected.answers)
  })
}
