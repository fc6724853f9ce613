// A TCP relay: counts what is connected through it, and cuts it, at once or after so many bytes.

import { once } from "node:events"
import net from "node:net"

/**
 * Listens, and connects each client to `target`, the URL of a server. `cut()` breaks all
 * connections and refuses further ones until `restore()`; `drop()` only breaks them; `lead(url)`
 * connects further ones to another server. `bytesBefore(n)` says after how many bytes of its body
 * the n-th event stream (from 0) is cut, which `cuts` counts; `Infinity` spares it.
 */
export async function startRelay(target, bytesBefore) {
  let { hostname, port } = new URL(target)
  const sockets = new Set()
  const relay = { connections: 0, open: 0, cuts: 0 }
  let streams = 0
  let through = true
  const server = net.createServer((client) => {
    if (!through) return client.resetAndDestroy()
    relay.connections++
    relay.open++
    const origin = net.connect(Number(port), hostname)
    client.once("close", () => { relay.open-- })
    for (const [socket, other] of [[client, origin], [origin, client]]) {
      sockets.add(socket)
      socket.setNoDelay(true)
      socket.on("error", () => {})
      socket.on("close", () => {
        sockets.delete(socket)
        other.destroy()
      })
    }
    client.pipe(origin)
    if (!bytesBefore) return void origin.pipe(client)
    passEvents(origin, client, () => bytesBefore(streams++), () => { relay.cuts++ })
  })
  server.listen(0, "127.0.0.1")
  await once(server, "listening")
  relay.url = `http://127.0.0.1:${server.address().port}`
  relay.drop = () => {
    for (const socket of sockets) socket.destroy()
  }
  relay.cut = () => {
    through = false
    relay.drop()
  }
  relay.lead = (to) => { ({ hostname, port } = new URL(to)) }
  relay.restore = () => { through = true }
  relay.stop = () => {
    server.close()
    relay.drop()
  }
  return relay
}

/** Passes an answer on; the first event stream in it as far as `allowance()` goes. */
function passEvents(origin, client, allowance, onCut) {
  let left
  origin.on("data", (bytes) => {
    let at = 0
    if (left === undefined) {
      const found = bytes.indexOf("text/event-stream")
      if (found < 0) return client.write(bytes)
      at = bytes.indexOf("\r\n\r\n", found) + 4
      left = allowance()
    }
    const allowed = at + left
    if (bytes.length < allowed) {
      left -= bytes.length - at
      return client.write(bytes)
    }
    onCut()
    origin.destroy()
    client.end(bytes.subarray(0, allowed), () => client.destroy())
  })
  origin.on("end", () => client.end())
}
