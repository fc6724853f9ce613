// A TCP relay: counts what is connected through it, and cuts it.

import { once } from "node:events"
import net from "node:net"

/**
 * Listens, and connects each client to `target`, the URL of a server. `cut()` breaks all
 * connections and refuses further ones until `restore()`; `drop()` only breaks them; `lead(url)`
 * connects further ones to another server.
 */
export async function startRelay(target) {
  let { hostname, port } = new URL(target)
  const sockets = new Set()
  const relay = { connections: 0, open: 0 }
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
      socket.pipe(other)
    }
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
