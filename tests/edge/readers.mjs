// Many readers of server-sent events in one process: raw sockets, for a few KiB each. It is started
// by `startReaders` (swarm.mjs), which says what to do and is told how far they are.
//
// A reader takes what a `data` event brought only when its `control` event has come; when it loses
// its connection, it goes on from its last one, at the next server in turn. What it took must be the
// stream's text, byte for byte.

import net from "node:net"

const CONNECTING_MAX = 500
const RETRY_MS = 200

/** What the stream should hold, as far as it is known here. */
let expected = ""
let servers = []
let path = ""
const readers = []
const waiting = []
let connecting = 0

class Reader {
  taken = 0
  offset = "-1"
  closed = false
  connections = 0

  constructor(n) {
    this.n = n
    this.connect()
  }

  connect() {
    if (connecting >= CONNECTING_MAX) return void waiting.push(this)
    connecting++
    this.connections++
    this.answered = false
    this.pending = ""
    this.data = []
    this.rest = ""
    this.chunk = undefined
    const { hostname, port, host } = servers[(this.n + this.connections) % servers.length]
    const socket = net.connect(Number(port), hostname)
    socket.setEncoding("latin1")
    socket.on("error", () => {})
    socket.on("close", () => this.lost())
    socket.on("data", (bytes) => this.take(bytes))
    socket.write(`GET ${path}?live=sse&offset=${this.offset} HTTP/1.1\r\nHost: ${host}\r\nAccept: text/event-stream\r\n\r\n`)
    this.socket = socket
  }

  settled() {
    if (this.answered) return
    this.answered = true
    connecting--
    waiting.shift()?.connect()
  }

  lost() {
    this.settled()
    if (!this.closed) setTimeout(() => this.connect(), RETRY_MS * (0.5 + Math.random()))
  }

  take(bytes) {
    let text = this.rest + bytes
    if (!this.answered) {
      const end = text.indexOf("\r\n\r\n")
      if (end < 0) return void (this.rest = text)
      this.settled()
      const status = Number(text.slice(9, 12))
      if (status !== 200) {
        if (![502, 503, 504].includes(status)) fail(`reader ${this.n} was answered ${text.slice(0, 500)}`)
        return this.socket.destroy()
      }
      text = text.slice(end + 4)
      this.chunk = 0
    }
    this.rest = this.dechunk(text)
  }

  /** Takes chunks apart; what is left over is an incomplete size line. */
  dechunk(text) {
    let at = 0
    while (at < text.length) {
      if (this.chunk > 0) {
        // A chunk's bytes are followed by a line's end.
        const part = text.slice(at, at + this.chunk)
        at += part.length
        this.chunk -= part.length
        const body = this.chunk >= 2 ? part : part.slice(0, Math.max(0, part.length - (2 - this.chunk)))
        this.events(body)
        if (this.closed) return ""
      } else {
        const end = text.indexOf("\r\n", at)
        if (end < 0) return text.slice(at)
        const size = Number.parseInt(text.slice(at, end), 16)
        at = end + 2
        if (size === 0) {
          this.socket.destroy()
          return ""
        }
        this.chunk = size + 2
      }
    }
    return ""
  }

  events(body) {
    this.pending += body
    let at = 0
    for (let end; (end = this.pending.indexOf("\n\n", at)) >= 0; at = end + 2) {
      this.event(this.pending.slice(at, end))
    }
    this.pending = this.pending.slice(at)
  }

  event(event) {
    if (event.startsWith("event: data\n")) {
      this.data.push(event.slice("event: data\n".length).replace(/^data:/gm, ""))
    } else if (event.startsWith("event: control\n")) {
      this.commit(JSON.parse(event.slice("event: control\ndata:".length)))
    } else if (!event.startsWith(":")) {
      fail(`reader ${this.n} was sent ${event}`)
    }
  }

  commit(control) {
    for (const data of this.data) {
      if (!expected.startsWith(data, this.taken)) {
        fail(`reader ${this.n} got ${JSON.stringify(data.slice(0, 300))} at ${this.taken} (offset ${this.offset})`)
      }
      this.taken += data.length
    }
    this.data = []
    this.offset = control.streamNextOffset
    if (control.streamClosed) {
      if (this.taken !== expected.length) fail(`reader ${this.n} ended at ${this.taken} of ${expected.length}`)
      this.closed = true
      this.socket.destroy()
    }
  }
}

function fail(message) {
  process.send({ failed: message })
  process.exit(1)
}

const told = () => readers.filter(({ offset }) => offset !== "-1").length

process.on("message", (message) => {
  if (message.start) {
    servers = message.start.servers.map((url) => new URL(url))
    path = message.start.path
    expected = message.start.expected
    for (let n = 0; n < message.start.count; n++) readers.push(new Reader(n))
  } else if (message.expected) {
    // Before it is written, so that no reader has it earlier than this process.
    expected += message.expected
    process.send({ expecting: true })
  } else if (message.ask) {
    process.send({
      state: {
        told: told(),
        current: readers.filter(({ taken }) => taken === expected.length).length,
        closed: readers.filter(({ closed }) => closed).length,
        connected: readers.filter(({ socket, answered }) => answered && socket?.readyState === "open").length,
        connections: readers.reduce((sum, { connections }) => sum + connections, 0),
      },
    })
  }
})
