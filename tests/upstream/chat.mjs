// POST /v1/chat/completions, as OpenAI has it: the same words for the same
// prompt, `max_tokens` of them (20). Headers of the request say how it goes:
//
//   x-test-delay: MS      before each token
//   x-test-think: MS      silence before the first token, after the head
//   x-test-break-at: N    break off before token N
//   x-test-status: CODE   an error
//
// Without an Authorization header the answer is 401.

import { createHash } from "node:crypto"
import { breakOff, json, Writer } from "./io.mjs"

const WORDS = "tide foam reef shore swell brine harbour current eddy kelp gull spray wave drift anchor lighthouse".split(" ")
const CREATED_UNIX_S = 1_700_000_000

/** The tokens that answer a prompt. */
export function tokens(prompt, count = 20) {
  const seed = createHash("sha256").update(prompt).digest()
  return Array.from({ length: count }, (_, n) => `${n ? " " : ""}${WORDS[seed[n % seed.length] % WORDS.length]}-${n}\u{1f30a}`)
}

export async function chat({ request, response, body, call }) {
  const setting = (name) => Number(request.headers[`x-test-${name}`] ?? 0)
  if (request.method !== "POST") return json(response, 405, fault("method_not_allowed", "use POST"))
  if (!request.headers.authorization) return json(response, 401, fault("invalid_api_key", "no API key was given"))
  if (setting("status")) {
    return json(response, setting("status"), fault("test", "as asked for"), { "retry-after": "0", "x-request-id": "req_test" })
  }
  let asked
  try {
    asked = JSON.parse(body)
  } catch {
    return json(response, 400, fault("invalid_json", "the body is no JSON"))
  }
  const prompt = (asked.messages ?? []).map(({ content }) => content).join("\n")
  const words = tokens(prompt, asked.max_completion_tokens ?? asked.max_tokens)
  const id = `chatcmpl-${createHash("sha256").update(prompt).digest("hex").slice(0, 24)}`
  const usage = { prompt_tokens: prompt.length, completion_tokens: words.length, total_tokens: prompt.length + words.length }
  const answer = { id, created: CREATED_UNIX_S, model: asked.model ?? "test", system_fingerprint: "fp_test" }
  if (!asked.stream) {
    const message = { role: "assistant", content: words.join(""), refusal: null }
    const choices = [{ index: 0, message, logprobs: null, finish_reason: "stop" }]
    return json(response, 200, { ...answer, object: "chat.completion", choices, usage })
  }
  await stream({ response, call, answer, words, setting, usage: asked.stream_options?.include_usage && usage })
}

async function stream({ response, call, answer, words, setting, usage }) {
  const writer = new Writer(response)
  const chunk = (choices, more) => {
    const text = JSON.stringify({ ...answer, object: "chat.completion.chunk", choices, ...more })
    return writer.write(`data: ${text}\n\n`)
  }
  const choice = (delta, finish_reason = null) => [{ index: 0, delta, logprobs: null, finish_reason }]
  response.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-request-id": "req_test" })
  response.flushHeaders?.()
  if (!(await writer.pause(setting("think")))) return
  await chunk(choice({ role: "assistant", content: "", refusal: null }))
  for (const [n, content] of words.entries()) {
    if (!(await writer.pause(setting("delay")))) return
    if (setting("break-at") && n === setting("break-at")) {
      await writer.pause(50)
      call.broken = true
      return breakOff(response)
    }
    if (!(await chunk(choice({ content })))) return
  }
  await chunk(choice({}, "stop"))
  if (usage) await chunk([], { usage })
  await writer.write("data: [DONE]\n\n")
  response.end()
}

function fault(code, message) {
  return { error: { message, type: "invalid_request_error", param: null, code } }
}
