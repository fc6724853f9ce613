// Starts the reference server with its data in files: node node-origin.mjs PORT DATA_DIR

import { DurableStreamTestServer } from "@durable-streams/server"

const [port, dataDir] = process.argv.slice(2)
const server = new DurableStreamTestServer({ port: Number(port), dataDir, longPollTimeout: 2000 })
await server.start()
