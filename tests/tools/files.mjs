// Runs files of tests with Node's own runner.

import fs from "node:fs"
import { run } from "./server.mjs"

const suffix = ".test.mjs"

/** The names of a directory's tests: those of its files without `.test.mjs`. */
export const testNames = (dir) =>
  fs.readdirSync(dir).filter((name) => name.endsWith(suffix)).sort().map((name) => name.slice(0, -suffix.length))

/** Runs these tests, or all, and resolves to the exit code. One file after the other: some are large. */
export function runFiles(dir, names, env) {
  const all = testNames(dir)
  const unknown = names.find((name) => !all.includes(name))
  if (unknown) throw new Error(`unknown test: ${unknown}`)
  const chosen = names.length ? names : all
  const args = ["--test", "--test-force-exit", "--test-concurrency=1", "--test-reporter=spec"]
  return run(process.execPath, [...args, ...chosen.map((name) => name + suffix)], { cwd: dir, env })
}
