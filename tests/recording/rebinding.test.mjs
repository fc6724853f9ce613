// A name server that changes its mind: what a client may name is looked up once, and
// what was found then is what is connected to. It runs in namespaces of its own, where
// names, and addresses that are public elsewhere, are the test's.

import assert from "node:assert/strict"
import { execFile, execFileSync } from "node:child_process"
import fs from "node:fs"
import os from "node:os"
import path from "node:path"
import { promisify } from "node:util"
import { test } from "node:test"
import { patience } from "./support.mjs"

const unshare = ["--user", "--map-root-user", "--mount", "--net"]

function namespaces() {
  try {
    execFileSync("unshare", [...unshare, "true"], { stdio: "pipe" })
    return true
  } catch {
    return false
  }
}

test("a name that moves to a private address leads nowhere", { ...patience, skip: !namespaces() && "this system lets nobody make namespaces" }, async () => {
  const dir = fs.mkdtempSync(path.join(os.tmpdir(), "headwater-names-"))
  const resolvConf = path.join(dir, "resolv.conf")
  fs.writeFileSync(resolvConf, "nameserver 127.0.0.1\noptions timeout:5 attempts:1\n")
  const script = path.join(import.meta.dirname, "rebinding/world.mjs")
  const prepare = `ip link set lo up && ip address add "$2/32" dev lo && mount --bind "$1" /etc/resolv.conf && exec "$3" "$4" "$2"`
  const args = ["sh", "-c", prepare, "sh", resolvConf, "93.184.215.14", process.execPath, script]
  const { stdout } = await promisify(execFile)("unshare", [...unshare, ...args])
  const seen = JSON.parse(stdout)
  fs.rmSync(dir, { recursive: true })

  assert.deepEqual(seen.public, { status: 201, public: 1, loopback: 0 })
  assert.deepEqual(seen.moved, { status: 201, lookups: 1, public: 1, loopback: 0 }, "it was looked up once")
  assert.deepEqual(seen.movedAgain, { status: 403, code: "UPSTREAM_NOT_ALLOWED", public: 0, loopback: 0 })
  assert.deepEqual(seen.both, { status: 201, public: 1, loopback: 0 })
  assert.deepEqual(seen.loopback, { status: 403, code: "UPSTREAM_NOT_ALLOWED", public: 0, loopback: 0 })
  assert.deepEqual(seen.named, { status: 201, public: 0, loopback: 1 }, "the list names it")
})
