// Live reads through a CDN: long-polls are held back for one, events pass at once.

import assert from "node:assert/strict"
import { after, before, test } from "node:test"
import { append, call, close, create, get, names, patience, startAll, unique, until } from "./support.mjs"

const READERS = 200
const POLL = { method: "GET", mode: "long_poll" }

let all
before(async () => { all = await startAll() })
after(() => all.stop())

const tailOf = async (url) => (await call(200, "HEAD", url)).headers.get("stream-next-offset")

/** Starts `count` of the same request, and resolves to the function that awaits them. */
function start(count, url, headers = () => ({})) {
  const answers = Array.from({ length: count }, async (_, n) => {
    const response = await fetch(url, { headers: headers(n) })
    return { status: response.status, headers: response.headers, body: await response.text() }
  })
  return () => Promise.all(answers)
}

/** Waits until as many long-polls wait at the origin. */
const waiting = (count) => until(async () => (await all.waiting("long_poll")) >= count)

/** Reads events as they come. */
async function events(url) {
  const response = await fetch(url)
  assert.equal(response.status, 200)
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let text = ""
  return {
    headers: response.headers,
    /** Resolves when `part` has come. */
    async until(part) {
      while (!text.includes(part)) {
        const { value, done } = await reader.read()
        assert.ok(!done, `the events ended before ${part}: ${text}`)
        text += value
      }
      text = text.slice(text.indexOf(part) + part.length)
    },
    leave: () => reader.cancel(),
  }
}

for (const name of names) {
  const through = (path) => all.cdns[name].url + path
  const direct = (path) => all.server.url + path

  test(`${name}: long-polls at one offset with one cursor are one request`, patience, async () => {
    const path = unique()
    await create(direct(path), "begin")
    let offset = await tailOf(direct(path))
    let cursor = "1"
    const before = await all.asked(POLL)
    const rounds = ["one", "two", "three"]
    for (const data of rounds) {
      const answers = start(READERS, `${through(path)}?cursor=${cursor}&live=long-poll&offset=${offset}`)
      await waiting(1)
      await append(direct(path), data)
      for (const answer of await answers()) {
        assert.deepEqual([answer.status, answer.body], [200, data])
        offset = answer.headers.get("stream-next-offset")
        cursor = answer.headers.get("stream-cursor")
      }
    }
    const answers = start(READERS, `${through(path)}?cursor=${cursor}&live=long-poll&offset=${offset}`)
    await waiting(1)
    await close(direct(path))
    for (const answer of await answers()) {
      assert.deepEqual([answer.status, answer.headers.get("stream-closed")], [204, "true"])
    }
    assert.equal((await all.asked(POLL)) - before, rounds.length + 1)
  })

  test(`${name}: those who waited in vain together are told together`, patience, async () => {
    const path = unique("/idle")
    await create(direct(path), "begin")
    const offset = await tailOf(direct(path))
    const before = await all.asked(POLL)
    const answers = await start(READERS, `${through(path)}?cursor=1&live=long-poll&offset=${offset}`)()
    const cursors = new Set(answers.map(({ headers }) => headers.get("stream-cursor")))
    for (const answer of answers) {
      assert.equal(answer.status, 204)
      assert.equal(answer.headers.get("stream-next-offset"), offset)
    }
    const asked = (await all.asked(POLL)) - before
    // One, if they all came within the time of one long-poll.
    assert.ok(asked <= READERS / 20, `${asked} requests`)
    assert.ok(cursors.size <= asked && !cursors.has("1"))
    // Nobody who asks on is given that answer.
    await append(direct(path), "data")
    const next = await get(`${through(path)}?cursor=${[...cursors][0]}&live=long-poll&offset=${offset}`)
    assert.equal(next.body, "data")
  })

  test(`${name}: long-polls from \`now\`, and of callers with credentials, do not wait for each other`, patience, async () => {
    for (const [offset, headers] of [
      ["now", () => ({})],
      ["tail", (n) => ({ authorization: `Bearer ${n}` })],
    ]) {
      const path = unique(offset === "now" ? "/v1/stream" : "/private")
      await create(direct(path), "begin")
      const at = offset === "now" ? offset : await tailOf(direct(path))
      const answers = start(20, `${through(path)}?live=long-poll&offset=${at}`, headers)
      await waiting(20)
      await append(direct(path), "data")
      for (const answer of await answers()) assert.deepEqual([answer.status, answer.body], [200, "data"])
    }
  })

  test(`${name}: what came after \`now\` is not given to who asks later`, patience, async () => {
    const path = unique("/idle")
    await create(direct(path), "begin")
    const url = `${through(path)}?live=long-poll&offset=now`
    const first = start(1, url)
    await waiting(1)
    await append(direct(path), "data")
    assert.deepEqual((await first()).map(({ body }) => body), ["data"])
    assert.equal((await fetch(url)).status, 204)
  })

  test(`${name}: each event arrives before the next is sent`, patience, async () => {
    const path = unique()
    await create(direct(path), "begin")
    const url = `${through(path)}?live=sse&offset=-1`
    const readers = await Promise.all([events(url), events(url)])
    for (let n = 0; n < 20; n++) {
      await append(direct(path), `event ${n}.`)
      for (const reader of readers) await reader.until(`data:event ${n}.`)
    }
    await close(direct(path))
    for (const reader of readers) await reader.until('"streamClosed":true')
    for (const { headers } of readers) assert.match(headers.get("content-type"), /^text\/event-stream/)
  })

  test(`${name}: a reader of events that leaves is gone from the origin`, patience, async () => {
    const path = unique()
    await create(direct(path), "begin")
    const reader = await events(`${through(path)}?live=sse&offset=-1`)
    await reader.until("data:begin")
    assert.equal(await all.waiting("sse"), 1)
    await reader.leave()
    await until(async () => {
      // Some notice only when there is something to send.
      await append(direct(path), "more")
      return (await all.waiting("sse")) === 0
    })
  })
}
