// Readers in a process of their own, seen from the test.

import { fork } from "node:child_process"
import { once } from "node:events"
import path from "node:path"
import { until } from "../tools/patience.mjs"

/** Starts `count` readers of the stream at `path`, spread over `servers`, that holds `expected`. */
export function startReaders(count, servers, path_, expected) {
  const child = fork(path.join(import.meta.dirname, "readers.mjs"))
  let failure
  child.on("message", (message) => { failure ??= message.failed })
  child.once("exit", (code) => { failure ??= `the readers ended with ${code}` })
  child.send({ start: { count, servers, path: path_, expected } })

  const ask = async (message, field) => {
    if (failure) throw new Error(failure)
    const answered = new Promise((resolve, reject) => {
      const listen = (said) => {
        if (!(field in said) && !said.failed) return
        child.off("message", listen)
        if (said.failed) reject(new Error(said.failed))
        else resolve(said[field])
      }
      child.on("message", listen)
    })
    child.send(message)
    return answered
  }
  const state = () => ask({ ask: true }, "state")
  return {
    state,
    /** Says what is going to be appended. */
    expect: (text) => ask({ expected: text }, "expecting"),
    /** Waits until all of them are so far: `told` where they are, `current`, `closed`. */
    all: (field) => until(async () => (await state())[field] === count),
    async stop() {
      if (child.exitCode !== null || child.signalCode !== null) return
      const gone = once(child, "exit")
      child.kill("SIGKILL")
      await gone
    },
  }
}
