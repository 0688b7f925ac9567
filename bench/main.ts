/**
 * `npm run bench`: every group, a table, and how the targets are kept.
 *
 *   --group NAME   only groups whose name contains NAME
 *   --short        small rounds, without the two longest groups: within 45 seconds, to see that nothing broke
 *   --rounds N     rounds per group (default 7, 2 with --short)
 *   --json FILE    the rows as data: group, name, nsPerOp, opsPerSecond, spread, bytesPerOp, ratioTo, ...
 *   --check        each group in three processes; fails when the median of a target's figure misses its bound
 *
 * A group is measured in a process of its own, its contenders in turn.
 */
import { spawn } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { parseArgs } from "node:util"
import { groups } from "./groups/index.ts"
import { median, type Row } from "./harness.ts"
import { describe, machine } from "./machine.ts"
import * as Targets from "./targets.ts"

const { values } = parseArgs({
  options: {
    group: { type: "string" },
    short: { type: "boolean", default: false },
    rounds: { type: "string" },
    json: { type: "string" },
    check: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
    /** What a child process is told: the one group it measures. */
    only: { type: "string" }
  }
})
if (values.help) {
  const source = Fs.readFileSync(import.meta.filename, "utf8")
  console.log(source.slice(source.indexOf("npm run bench") - 1, source.indexOf("*/")).replaceAll(/^ \* ?/gm, ""))
  process.exit(0)
}
const rounds = values.rounds === undefined ? (values.short ? 2 : 7) : Number(values.rounds)
if (!(Number.isInteger(rounds) && rounds >= 1)) {
  console.error(`--rounds must be an integer >= 1, got ${values.rounds}`)
  process.exit(1)
}

const progress = (text: string) => {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}

if (values.only !== undefined) {
  const group = groups.find(({ name }) => name === values.only)!
  const rows = await group.rows({ rounds, roundMillis: values.short ? 10 : 100, progress }, values.short)
  process.send!(rows, () => process.exit(0))
} else {
  await main()
}

/** One group in a process of its own. What hangs is given up: a benchmark must not. */
function measured(group: string): Promise<ReadonlyArray<Row>> {
  return new Promise((resolve, reject) => {
    const args = [
      ...process.execArgv,
      import.meta.filename,
      "--only",
      group,
      "--rounds",
      String(rounds),
      ...values.short ? ["--short"] : []
    ]
    const child = spawn(process.execPath, args, { stdio: ["ignore", "inherit", "inherit", "ipc"], detached: true })
    let rows: ReadonlyArray<Row> | undefined
    // The servers it started are of its process group.
    const end = () => {
      try {
        process.kill(-child.pid!, "SIGKILL")
      } catch {
        // All of it has ended.
      }
    }
    const timer = setTimeout(end, values.short ? 40_000 : 300_000)
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
      process.once(signal, () => {
        end()
        process.exit(1)
      })
    }
    child.once("message", (message) => rows = message as ReadonlyArray<Row>)
    child.once("exit", (code, signal) => {
      clearTimeout(timer)
      end()
      if (rows === undefined) reject(new Error(`${group}: the process that measures it ended with ${signal ?? code}`))
      else resolve(rows)
    })
  })
}

/** The rows of several runs as one: the median of each figure. */
function merged(runs: ReadonlyArray<ReadonlyArray<Row>>): ReadonlyArray<Row> {
  return runs[0]!.map((first, index) => {
    const same = runs.map((rows) => rows[index]!)
    const figures = Object.keys(first).filter((key) => typeof first[key as keyof Row] === "number")
    const medians = figures.map((key) => [key, median(same.map((row) => row[key as keyof Row] as number))])
    return { ...first, ...Object.fromEntries(medians) }
  })
}

function line(row: Row): string {
  const number = (value: number) => Math.round(value).toLocaleString("en")
  const time = row.nsPerOp === undefined ? "" : `${number(row.nsPerOp)} ns`
  const spread = row.spread === undefined ? "" : `±${(row.spread * 100).toFixed(0)} %`
  const bytes = row.bytesPerOp === undefined ? "" : `${number(row.bytesPerOp)} B`
  const body = row.bodyBytes === undefined ? "" : `body ${number(row.bodyBytes)} B`
  const wire = row.p99Micros === undefined ? "" : [
    `${number(row.opsPerSecond!)}/s`,
    `p50 ${number(row.p50Micros!)} µs`,
    `p99 ${number(row.p99Micros)} µs`,
    `CPU ${row.cpuMicrosPerOp!.toFixed(1)} µs`
  ].join("  ")
  return `  ${row.name.padEnd(42)} ${time.padStart(12)} ${spread.padStart(7)} ${bytes.padStart(10)}  ${body}${wire}`
    .trimEnd()
}

async function main(): Promise<void> {
  const on = machine()
  console.log(describe(on))
  const runs: Array<Array<Row>> = Array.from({ length: values.check ? 3 : 1 }, () => [])
  const rows: Array<Row> = []
  for (const { long = false, name } of groups) {
    if (values.group === undefined ? values.short && long : !name.includes(values.group)) continue
    const own: Array<ReadonlyArray<Row>> = []
    const begun = performance.now()
    for (const run of runs) {
      own.push(await measured(name))
      run.push(...own.at(-1)!)
    }
    progress("")
    const shown = merged(own)
    rows.push(...shown)
    console.log(`\n${name} (${((performance.now() - begun) / 1000).toFixed(1)} s)`)
    for (const row of shown) console.log(line(row))
  }
  const verdicts = Targets.compare(runs)
  console.log(`\ntargets, ${verdicts.filter(({ verdict }) => verdict === "holds").length} of ${verdicts.length} hold`)
  for (const verdict of verdicts) console.log(`  ${Targets.show(verdict)}`)
  if (values.json !== undefined) write(values.json, { machine: on, processes: runs.length, rounds, rows, verdicts })
  if (values.check && verdicts.some(({ verdict }) => verdict === "misses")) process.exitCode = 1
}

interface Report {
  readonly machine: ReturnType<typeof machine>
  readonly processes: number
  readonly rounds: number
  readonly rows: ReadonlyArray<Row>
  readonly verdicts: ReadonlyArray<Targets.Verdict>
}

function write(file: string, report: Report): void {
  const { rows } = report
  const ratios = (row: Row) => {
    const others = rows.filter((other) => other.group === row.group && other !== row && other.nsPerOp !== undefined)
    return Object.fromEntries(others.map((other) => [other.name, row.nsPerOp! / other.nsPerOp!]))
  }
  const data = rows.map((row) => row.nsPerOp === undefined ? row : { ...row, ratioTo: ratios(row) })
  Fs.mkdirSync(Path.dirname(file), { recursive: true })
  Fs.writeFileSync(file, JSON.stringify({ ...report, rows: data }, undefined, 2))
}
