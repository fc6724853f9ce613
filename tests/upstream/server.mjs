// An upstream for tests: server-sent events with every way to behave and to
// misbehave, an OpenAI-compatible chat, a feed, and a record of who called.
//
//   node server.mjs [--port N] [--tls CERT KEY | --h2c]
//
// prints its port, a line, when it listens. In the clear it speaks HTTP/1.1, or
// HTTP/2 by prior knowledge with --h2c; over TLS both.
//
//   /events               server-sent events; see events.mjs
//   /v1/chat/completions  see chat.mjs
//   /feed/NAME            an endless feed; see feed.mjs
//   /status/CODE          a JSON error, with Retry-After
//   /redirect?to=URL      a redirect
//   /echo                 what was received, as JSON
//   /__calls, /__reset    who called; see calls.mjs

import fs from "node:fs"
import http from "node:http"
import http2 from "node:http2"
import { parseArgs } from "node:util"
import { Calls } from "./calls.mjs"
import { chat } from "./chat.mjs"
import { events } from "./events.mjs"
import { Feeds } from "./feed.mjs"
import { json, readBody } from "./io.mjs"

/** Starts an upstream; resolves to its `port`, and `close()`. */
export async function startUpstream({ port = 0, host = "127.0.0.1", tls, h2c } = {}) {
  const handler = handlerWith(new Calls(), new Feeds())
  const server = tls
    ? http2.createSecureServer({ allowHTTP1: true, cert: fs.readFileSync(tls.cert), key: fs.readFileSync(tls.key) }, handler)
    : h2c ? http2.createServer(handler) : http.createServer(handler)
  // A client that leaves in the middle is part of the tests.
  server.on("sessionError", () => {})
  server.on("clientError", (_, socket) => socket.destroy())
  const sockets = new Set()
  server.on(tls ? "secureConnection" : "connection", (socket) => {
    sockets.add(socket)
    socket.on("error", () => {})
    socket.once("close", () => sockets.delete(socket))
  })
  await new Promise((resolve, reject) => {
    server.once("error", reject)
    server.listen(port, host, 4096, resolve)
  })
  return {
    port: server.address().port,
    close() {
      server.close()
      for (const socket of sockets) socket.destroy()
    },
  }
}

function handlerWith(calls, feeds) {
  return async (request, response) => {
    const url = new URL(request.url, "http://upstream")
    try {
      const body = await readBody(request)
      if (url.pathname === "/__calls") return json(response, 200, calls)
      if (url.pathname === "/__reset") {
        calls.reset()
        feeds.reset()
        return json(response, 200, {})
      }
      const call = calls.begin(request, response, url, body)
      await answer({ request, response, url, body, call, feeds })
    } catch (error) {
      // Written to a client that left.
      if (response.destroyed || response.writableEnded || request.destroyed) return
      if (!response.headersSent) json(response, 500, { error: { message: String(error?.stack ?? error) } })
      else response.destroy?.()
    }
  }
}

async function answer(exchange) {
  const { request, response, url, body } = exchange
  const [, first, ...rest] = url.pathname.split("/")
  if (first === "events") return events(exchange)
  if (url.pathname === "/v1/chat/completions") return chat(exchange)
  if (first === "feed") return exchange.feeds.answer(exchange, rest.join("/"))
  if (first === "status") {
    const status = Number(rest[0])
    return json(response, status, { error: { message: `status ${status}`, type: "test" } }, { "retry-after": "1" })
  }
  if (first === "redirect") {
    response.writeHead(Number(url.searchParams.get("status") ?? 302), { location: url.searchParams.get("to") ?? "/echo" })
    return response.end()
  }
  if (first === "echo") {
    return json(response, 200, { method: request.method, url: request.url, headers: request.headers, body: body.toString() })
  }
  json(response, 404, { error: { message: `nothing at ${url.pathname}`, type: "not_found" } })
}

if (import.meta.filename === process.argv[1]) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { port: { type: "string", default: "0" }, host: { type: "string" }, tls: { type: "boolean" }, h2c: { type: "boolean" } },
  })
  const tls = values.tls ? { cert: positionals[0], key: positionals[1] } : undefined
  const upstream = await startUpstream({ port: Number(values.port), host: values.host, tls, h2c: values.h2c })
  console.log(upstream.port)
}
