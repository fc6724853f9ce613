// The official suite. Its own command-line runner finds no tests when it is
// installed normally (vitest leaves node_modules out), hence this file.

import { runConformanceTests } from "@durable-streams/server-conformance-tests"

runConformanceTests({
  baseUrl: process.env.HEADWATER_URL,
  // Sections 6 and 7 of the protocol are not served yet.
  subscriptions: false,
  longPollTimeoutMs: 500,
})
