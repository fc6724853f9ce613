// The official OpenAI client, through a record route, with a connection that breaks.

import assert from "node:assert/strict"
import { randomUUID } from "node:crypto"
import { after, before, test } from "node:test"
import OpenAI from "openai"
import { tokens } from "../upstream/chat.mjs"
import { endOf, parseEvents, patience, readAll, startBoth, startRelay, until } from "./support.mjs"

let both
before(async () => { both = await startBoth() })
after(() => both.stop())

const prompt = "What does the sea say?"
const asked = { model: "test", stream: true, max_tokens: 60, messages: [{ role: "user", content: prompt }] }
const client = (base, options = {}) => new OpenAI({ baseURL: `${base}/v1`, apiKey: "test", maxRetries: 0, ...options })

/** What a stream says, and the error in which it ended. */
async function listen(stream) {
  const said = { text: "", finish: undefined, error: undefined, chunks: [] }
  try {
    for await (const chunk of stream) {
      said.chunks.push(chunk)
      said.text += chunk.choices[0]?.delta.content ?? ""
      said.finish ??= chunk.choices[0]?.finish_reason ?? undefined
    }
  } catch (error) {
    said.error = error
  }
  return said
}

test("a completion streams through as it is", patience, async () => {
  const direct = await listen(await client(both.upstream.url).chat.completions.create(asked))
  const { data, response } = await client(`${both.server.url}/ids`).chat.completions.create(asked).withResponse()
  assert.ok(response.headers.get("stream-url"))
  assert.equal(response.headers.get("x-request-id"), "req_test")
  const through = await listen(data)
  assert.deepEqual(through, direct)
  assert.equal(through.text, tokens(prompt, 60).join(""))
  assert.equal(through.finish, "stop")
})

test("cut mid-way, it is asked again with the same Idempotency-Key, and nothing is lost", patience, async () => {
  const key = randomUUID()
  const headers = { "Idempotency-Key": key, "x-test-key": key, "x-test-delay": "10" }
  const relay = await startRelay(both.server.url, (n) => (n < 2 ? 1000 + n * 2000 : Infinity))
  const api = client(`${relay.url}/plain`)
  const attempts = []
  do {
    attempts.push(await listen(await api.chat.completions.create(asked, { headers })))
  } while (attempts.at(-1).error)
  assert.equal(attempts.length, 3)
  assert.equal(relay.cuts, 2)
  const whole = attempts.at(-1)
  assert.equal(whole.text, tokens(prompt, 60).join(""))
  for (const attempt of attempts) assert.ok(whole.text.startsWith(attempt.text))

  const raw = (base, more) => fetch(`${base}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: "Bearer test", "content-type": "application/json", ...more },
    body: JSON.stringify(asked),
  }).then((response) => response.text())
  // The client's own body, so that it is the same request.
  const sent = JSON.parse((await both.upstream.calls(key)).body)
  assert.deepEqual(sent, asked)
  assert.equal(await raw(`${both.server.url}/plain`, headers), await raw(both.upstream.url))
  assert.equal((await both.upstream.calls(key)).calls, 1)
  relay.stop()
})

/**
 * A fetch that resumes: when the body breaks, it asks again with the id of the last
 * event that came whole, and passes on whole events alone.
 */
function resumingFetch(onResume) {
  return async (url, options) => {
    let response = await fetch(url, options)
    if (!response.headers.get("content-type")?.startsWith("text/event-stream")) return response
    const events = async function* () {
      let last
      for (;;) {
        const { bytes, whole } = await readAll(response)
        const got = parseEvents(bytes)
        last = got.at(-1)?.id ?? last
        for (const { data } of got) yield new TextEncoder().encode(`data: ${data}\n\n`)
        if (whole) return
        const headers = new Headers(options.headers)
        if (last) headers.set("last-event-id", last)
        onResume()
        response = await fetch(url, { ...options, headers })
        if (response.status === 204) return
      }
    }
    return new Response(ReadableStream.from(events()), { status: response.status, headers: response.headers })
  }
}

test("cut mid-way, it goes on by Last-Event-ID without the client noticing", patience, async () => {
  const key = randomUUID()
  const relay = await startRelay(both.server.url, (n) => 1000 + n * 1500)
  let resumes = 0
  const api = client(`${relay.url}/ids`, { fetch: resumingFetch(() => resumes++) })
  const stream = await api.chat.completions.create(asked, { headers: { "x-test-key": key, "x-test-delay": "5" } })
  const said = await listen(stream)
  assert.equal(said.error, undefined)
  assert.equal(said.text, tokens(prompt, 60).join(""))
  assert.ok(resumes >= 2)
  assert.equal((await both.upstream.calls(key)).calls, 1)
  relay.stop()
})

test("errors, and answers that do not stream, come through", patience, async () => {
  const api = client(`${both.server.url}/plain`)
  for (const status of [400, 401, 429, 500]) {
    const failing = api.chat.completions.create(asked, { headers: { "x-test-status": String(status) } })
    await assert.rejects(failing, (error) => {
      assert.equal(error.status, status)
      assert.equal(error.code, "test")
      assert.equal(error.headers.get("stream-url"), null)
      return true
    })
  }
  const { data, response } = await api.chat.completions.create({ ...asked, stream: false }).withResponse()
  assert.equal(response.headers.get("stream-url"), null)
  assert.equal(data.choices[0].message.content, tokens(prompt, 60).join(""))
})

test("an upstream that breaks off is an error for the client too", patience, async () => {
  const api = client(`${both.server.url}/plain`)
  const headers = { "x-test-break-at": "30", "x-test-delay": "2" }
  const { data, response } = await api.chat.completions.create(asked, { headers }).withResponse()
  const said = await listen(data)
  assert.ok(said.error)
  assert.equal(said.text, tokens(prompt, 30).join(""))
  assert.equal((await endOf(response.headers.get("stream-url"))).end, "failed")
})

test("it can be stopped from elsewhere", patience, async () => {
  const key = randomUUID()
  const api = client(`${both.server.url}/plain`)
  const headers = { "x-test-key": key, "x-test-delay": "100" }
  const { data, response } = await api.chat.completions.create({ ...asked, max_tokens: 10_000 }, { headers }).withResponse()
  const url = response.headers.get("stream-url")
  const said = listen(data)
  await until(async () => (await (await fetch(`${url}&offset=-1`)).text()).split("\n\n").length > 5)
  assert.equal((await fetch(`${url}&action=abort`, { method: "PATCH" })).status, 204)
  assert.ok((await said).error)
  assert.equal((await endOf(url)).end, "aborted")
  await until(async () => (await both.upstream.calls(key)).cancelled === 1)
})
