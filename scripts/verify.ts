/**
 * Runs the long checks in turn: what is too slow for `npm test` and is run
 * before a release. One line per check, its output in `reports/verify/`.
 *
 * `node scripts/verify.ts` runs all, `node scripts/verify.ts soak fuzz` the
 * named ones, `node scripts/verify.ts --list` says what there is.
 */
import { spawn } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"

interface Check {
  readonly name: string
  /** What a pass shows, as a sentence. */
  readonly shows: string
  /** The file that must exist: a check whose program is not written yet is left out. */
  readonly file: string
  readonly args?: ReadonlyArray<string>
}

const checks: ReadonlyArray<Check> = [
  { name: "fuzz", shows: "a million hostile byte strings neither crash nor hang the decoder", file: "scripts/fuzz.ts" },
  { name: "kill", shows: "killing a server fails its calls in flight within 100 ms", file: "scripts/kill.ts" },
  { name: "soak", shows: "the heap is flat and nothing is left behind after a million calls", file: "scripts/soak.ts" },
  {
    name: "simulate",
    shows: "a million simulated calls take no more memory than two hundred thousand",
    file: "scripts/simulate.ts"
  },
  {
    name: "demo",
    shows: "the default stack survives a minute of faults that the naive client does not",
    file: "src/cli/bin.ts",
    args: ["demo", "--seconds", "60"]
  },
  {
    name: "startup",
    shows: "import \"holdfast\" takes at most 150 ms more than import \"effect\"",
    file: "scripts/startup.ts"
  },
  { name: "bench", shows: "every figure with a target holds it", file: "bench/main.ts", args: ["--check"] }
]

const root = Path.resolve(import.meta.dirname, "..")
const reports = Path.join(root, "reports", "verify")
const there = checks.filter((check) => Fs.existsSync(Path.join(root, check.file)))
const asked = process.argv.slice(2)

const run = (check: Check) =>
  new Promise<boolean>((resolve) => {
    const log = Path.join(reports, `${check.name}.log`)
    const out = Fs.openSync(log, "w")
    const begun = performance.now()
    const seconds = () => `${((performance.now() - begun) / 1000).toFixed(0)} s`
    const child = spawn(process.execPath, ["--expose-gc", check.file, ...(check.args ?? [])], {
      cwd: root,
      stdio: ["ignore", out, out]
    })
    const progress = process.stdout.isTTY
      ? setInterval(() => process.stdout.write(`\r${check.name.padEnd(8)} running, ${seconds()}`), 1000)
      : undefined
    child.on("close", (code) => {
      clearInterval(progress)
      Fs.closeSync(out)
      const passed = code === 0
      const verdict = passed ? `ok      ${check.shows}` : `FAILED  see ${Path.relative(root, log)}`
      console.log(`${progress ? "\r" : ""}${check.name.padEnd(8)} ${seconds().padStart(6)}  ${verdict}`)
      resolve(passed)
    })
  })

if (asked.includes("--list")) {
  for (const check of there) console.log(`${check.name.padEnd(8)} ${check.shows}`)
} else {
  const unknown = asked.filter((name) => !there.some((check) => check.name === name))
  if (unknown.length > 0) {
    throw new RangeError(`verify: no check named ${unknown.join(", ")}; there are ${there.map((check) => check.name)}`)
  }
  Fs.mkdirSync(reports, { recursive: true })
  let failed = 0
  for (const check of there) {
    if (asked.length > 0 && !asked.includes(check.name)) continue
    if (!(await run(check))) failed++
  }
  process.exitCode = failed === 0 ? 0 : 1
}
