// conf/examples/llm-proxy.toml works as it is.

import assert from "node:assert/strict"
import path from "node:path"
import { after, before, test } from "node:test"
import OpenAI from "openai"
import { tokens } from "../upstream/chat.mjs"
import { startServer } from "../tools/server.mjs"
import { patience, startUpstream } from "./support.mjs"

let upstream
let server
before(async () => {
  upstream = await startUpstream()
  const file = path.join(import.meta.dirname, "../../conf/examples/llm-proxy.toml")
  server = await startServer({ file, env: { LLM_UPSTREAM: upstream.url, LLM_API_KEY: "key-of-the-route" } })
})
after(async () => {
  await server.stop()
  upstream.stop()
})

test("the example records, with the route's own key", patience, async () => {
  const api = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "key-of-the-client", maxRetries: 0 })
  const asked = { model: "test", stream: true, messages: [{ role: "user", content: "Hello" }] }
  const headers = { "x-test-key": "example" }
  const { data, response } = await api.chat.completions.create(asked, { headers }).withResponse()
  let text = ""
  for await (const chunk of data) text += chunk.choices[0].delta.content ?? ""
  assert.equal(text, tokens("Hello").join(""))
  const recorded = await fetch(`${response.headers.get("stream-url")}&offset=-1`)
  assert.match(await recorded.text(), /data: \[DONE\]\nid: \S+\n\n$/)
  assert.equal((await upstream.calls("example")).headers.authorization, "Bearer key-of-the-route")
  assert.doesNotMatch(server.log(), /key-of-the/)
})
