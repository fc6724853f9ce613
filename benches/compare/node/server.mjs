// Starts the reference server with its data in files: node server.mjs PORT DATA_DIR
import { DurableStreamTestServer } from "@durable-streams/server"

const [port, dataDir] = process.argv.slice(2)
// Compression is an option of the others' proxies, not of the others.
const server = new DurableStreamTestServer({ port: Number(port), dataDir, compression: false })
await server.start()
