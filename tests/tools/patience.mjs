// Waiting in tests: for what is to happen, never for a time.

import { setTimeout as sleep } from "node:timers/promises"

/** No test waits for ever, and none fails because the machine is slow. */
export const patience = { timeout: 300_000 }

/** Waits until `check` gives something, however long that takes. */
export async function until(check) {
  for (;;) {
    const found = await check()
    if (found) return found
    await sleep(20)
  }
}
