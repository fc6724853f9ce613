// Runs files of tests with Node's own runner.

import fs from "node:fs"
import { run } from "./server.mjs"

const suffix = ".test.mjs"

/** The names of a directory's tests: those of its files without `.test.mjs`. */
const testNames = (dir) =>
  fs.readdirSync(dir).filter((name) => name.endsWith(suffix)).sort().map((name) => name.slice(0, -suffix.length))

/** Runs these tests, or all, and resolves to the exit code. One file after the other: some are large. */
export function runFiles(dir, names = testNames(dir), env = {}) {
  const args = ["--test", "--test-force-exit", "--test-concurrency=1", "--test-reporter=spec"]
  return run(process.execPath, [...args, ...names.map((name) => name + suffix)], { cwd: dir, env })
}

/**
 * Runs what the command line names, or everything: files of tests in `dir`, and then the `others`, by
 * name, each of which resolves to an exit code. Ends the process with the first that is not 0.
 */
export async function runNamed(dir, others) {
  const files = testNames(dir)
  const all = [...files, ...Object.keys(others)]
  const names = process.argv.length > 2 ? process.argv.slice(2) : all
  const unknown = names.find((name) => !all.includes(name))
  if (unknown) throw new Error(`unknown test: ${unknown}`)
  const chosen = names.filter((name) => files.includes(name))
  let code = chosen.length ? await runFiles(dir, chosen) : 0
  for (const [name, other] of Object.entries(others)) {
    if (names.includes(name)) code ||= await other()
  }
  process.exit(code)
}
