/**
 * `npm run bench`: every group, a table, and with `--check` the targets.
 *
 *   --group NAME   only groups whose name contains NAME
 *   --short        fewer rounds: under 45 seconds
 *   --rounds N     rounds per group (default 7)
 *   --json FILE    the rows as data: group, name, nsPerOp, spread, bytesPerOp, ratioTo
 *   --check        compares with bench/targets.json and fails on a miss
 */
import * as Fs from "node:fs"
import * as Os from "node:os"
import { parseArgs } from "node:util"
import * as policies from "./groups/policies.ts"
import * as wire from "./groups/wire.ts"
import type { Contender } from "./harness.ts"
import { measure, type Row } from "./harness.ts"

const groups: ReadonlyArray<readonly [name: string, make: () => Promise<ReadonlyArray<Contender>>]> = [
  ["success", policies.success],
  ["timeout, suspending", policies.suspending],
  ["rejection", policies.rejection],
  ["stack", policies.stack],
  ["stack, suspending", policies.stackSuspending],
  ["one retry", policies.retried],
  ["wire, 64 in flight", wire.calls(64, true)],
  ["wire, 512 in flight", wire.calls(512, true)]
]

/** A bound on a figure of one contender, as a share of another's. `less` is taken off both first: the baseline. */
interface Target {
  readonly group: string
  readonly name: string
  readonly figure: "nsPerOp" | "bytesPerOp"
  readonly max: number
  readonly of?: string
  readonly less?: { readonly name: string; readonly of: string }
}

const { values } = parseArgs({
  options: {
    group: { type: "string" },
    short: { type: "boolean", default: false },
    rounds: { type: "string" },
    json: { type: "string" },
    check: { type: "boolean", default: false },
    help: { type: "boolean", default: false }
  }
})
if (values.help) {
  const source = Fs.readFileSync(import.meta.filename, "utf8")
  console.log(source.slice(source.indexOf("npm run bench") - 1, source.indexOf("*/")).replaceAll(/^ \* ?/gm, ""))
  process.exit(0)
}
const rounds = values.rounds === undefined ? (values.short ? 3 : 7) : Number(values.rounds)
if (!(Number.isInteger(rounds) && rounds >= 1)) {
  console.error(`--rounds must be an integer >= 1, got ${values.rounds}`)
  process.exit(1)
}

const version = (name: string): string =>
  JSON.parse(Fs.readFileSync(new URL(`../node_modules/${name}/package.json`, import.meta.url), "utf8")).version
const machine = {
  node: process.version,
  flags: process.execArgv.join(" "),
  cpu: `${Os.cpus().length} x ${Os.cpus()[0]?.model ?? "?"}`,
  effect: version("effect"),
  cockatiel: version("cockatiel"),
  opossum: version("opossum")
}
console.log(Object.entries(machine).map(([key, value]) => `${key} ${value}`).join(", "))

const progress = (text: string) => {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}

const rows: Array<Row> = []
for (const [name, make] of groups) {
  if (values.group !== undefined && !name.includes(values.group)) continue
  const measured = await measure(name, await make(), { rounds, roundMillis: values.short ? 40 : 100, progress })
  progress("")
  console.log(`\n${name}`)
  for (const row of measured) {
    const bytes = Number.isNaN(row.bytesPerOp) ? "" : `${Math.round(row.bytesPerOp)} B`
    console.log(
      `  ${row.name.padEnd(28)} ${Math.round(row.nsPerOp).toLocaleString("en").padStart(9)} ns ±${
        (row.spread * 100).toFixed(0).padStart(2)
      } % ${bytes.padStart(9)}`
    )
  }
  rows.push(...measured)
  wire.cleanup()
}

const find = (group: string, name: string): Row | undefined =>
  rows.find((row) => row.group === group && row.name === name)

if (values.json !== undefined) {
  const data = rows.map((row) => ({
    ...row,
    ratioTo: Object.fromEntries(
      rows.filter((other) => other.group === row.group && other !== row).map((other) => [
        other.name,
        row.nsPerOp / other.nsPerOp
      ])
    )
  }))
  Fs.writeFileSync(values.json, JSON.stringify({ machine, rows: data }, undefined, 2))
}

const targets: ReadonlyArray<Target> = JSON.parse(
  Fs.readFileSync(new URL("targets.json", import.meta.url), "utf8")
)
let missed = 0
console.log("\ntargets")
for (const target of targets) {
  const own = find(target.group, target.name)
  if (own === undefined) continue
  const less = target.less === undefined ? 0 : find(target.group, target.less.name)![target.figure]
  const lessOf = target.less === undefined ? 0 : find(target.group, target.less.of)![target.figure]
  const other = target.of === undefined ? 1 : find(target.group, target.of)![target.figure] - lessOf
  const value = (own[target.figure] - less) / other
  // Percentages move by as many points between runs of a shared machine.
  const holds = value <= target.max + (target.of === undefined ? target.max * 0.05 : 0.05)
  if (!holds) missed++
  const shown = target.of === undefined
    ? `${Math.round(value)} of ${target.max} B`
    : `${value.toFixed(3)} of ${target.max}`
  console.log(
    `  ${holds ? "ok  " : "MISS"} ${target.group}: ${target.name}${
      target.of === undefined ? "" : ` / ${target.of}`
    }: ${shown}`
  )
}
if (values.check && missed > 0) process.exit(1)
