// What the test of names runs in its own namespaces: a name server, an upstream at a
// public address and one at 127.0.0.1, and Headwater with a `proxy` route. Prints what
// became of each request, as JSON.
//
//   node world.mjs PUBLIC_ADDRESS

import { randomUUID } from "node:crypto"
import dgram from "node:dgram"
import { once } from "node:events"
import { startServer } from "../../tools/server.mjs"
import { startUpstream } from "../../upstream/server.mjs"

const [publicAddress] = process.argv.slice(2)
const SECRET = "a-secret-of-the-tests"
const A = 1

/** What each name means: the addresses of its first look-up, its second, and so on. */
const names = {
  "public.test": [[publicAddress]],
  "moving.test": [[publicAddress], ["127.0.0.1"]],
  "both.test": [["127.0.0.1", publicAddress]],
  "loopback.test": [["127.0.0.1"]],
  "named.test": [["127.0.0.1"]],
}
const lookups = {}

function question(message) {
  const labels = []
  let at = 12
  while (message[at] > 0) {
    labels.push(message.toString("latin1", at + 1, at + 1 + message[at]))
    at += 1 + message[at]
  }
  return { name: labels.join(".").toLowerCase(), type: message.readUInt16BE(at + 1), end: at + 5 }
}

function answers(name, type) {
  const known = names[name]
  if (type !== A || !known) return []
  lookups[name] = (lookups[name] ?? 0) + 1
  return known[Math.min(lookups[name], known.length) - 1]
}

function reply(message) {
  const { name, type, end } = question(message)
  const addresses = answers(name, type)
  const head = Buffer.from(message.subarray(0, end))
  head.writeUInt16BE(names[name] ? 0x8180 : 0x8183, 2)
  head.writeUInt16BE(addresses.length, 6)
  head.writeUInt32BE(0, 8)
  const records = addresses.map((address) =>
    Buffer.from([0xc0, 12, 0, A, 0, 1, 0, 0, 0, 0, 0, 4, ...address.split(".").map(Number)]))
  return Buffer.concat([head, ...records])
}

const nameServer = dgram.createSocket("udp4")
nameServer.on("message", (message, { port, address }) => nameServer.send(reply(message), port, address))
nameServer.bind(53, "127.0.0.1")
await once(nameServer, "listening")

const open = await startUpstream({ host: publicAddress })
const inner = await startUpstream({ port: open.port })
const server = await startServer({ config: `
[[site.route]]
path = "/v1/proxy"
[site.route.proxy]
secret = "${SECRET}"
allow = ["http://*:*/events", "http://named.test:${open.port}/events"]
` })

async function calls(host, key) {
  const all = await (await fetch(`http://${host}:${open.port}/__calls`)).json()
  return all[key]?.calls ?? 0
}

async function ask(name) {
  const key = randomUUID()
  const headers = {
    authorization: `Bearer ${SECRET}`, "x-test-key": key, "upstream-method": "GET",
    "upstream-url": `http://${name}:${open.port}/events?count=1`,
  }
  const response = await fetch(`${server.url}/v1/proxy`, { method: "POST", headers })
  const text = await response.text()
  const code = response.ok ? {} : { code: JSON.parse(text).error.code }
  return { status: response.status, ...code, public: await calls(publicAddress, key), loopback: await calls("127.0.0.1", key) }
}

const seen = { public: await ask("public.test") }
const moved = await ask("moving.test")
seen.moved = { status: moved.status, lookups: lookups["moving.test"], public: moved.public, loopback: moved.loopback }
seen.movedAgain = await ask("moving.test")
seen.both = await ask("both.test")
seen.loopback = await ask("loopback.test")
seen.named = await ask("named.test")
console.log(JSON.stringify(seen))
await server.stop()
open.close()
inner.close()
nameServer.close()
