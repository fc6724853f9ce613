// Starts the reference server: node node-origin.mjs PORT
//
// Its data is in memory: in files, it lets an append be read before its tail says so, and then sends
// readers back to where they were.

import { DurableStreamTestServer } from "@durable-streams/server"

const server = new DurableStreamTestServer({ port: Number(process.argv[2]), longPollTimeout: 2000 })
await server.start()
