/**
 * How cost grows: `npm run bench:growth` writes `reports/growth.json`, which
 * `npm run bench:docs` draws.
 *
 *   --only ID     one family of curves: inflight, sessions, endpoints, payloads, keys
 *   --short       fewer points and rounds
 *   --json FILE   default reports/growth.json; families that are not measured now stay in it
 */
import * as Effect from "effect/Effect"
import { fork } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { parseArgs } from "node:util"
import * as CallContext from "../src/contract/CallContext.ts"
import * as CircuitBreaker from "../src/policy/CircuitBreaker.ts"
import * as BodyCodec from "../src/wire/BodyCodec.ts"
import { timedAwaitedBy, timedInFibers } from "./contenders.ts"
import * as Balancer from "./groups/balancer.ts"
import * as Wire from "./groups/wire.ts"
import { type Contender, measure, type Row } from "./harness.ts"
import { machine } from "./machine.ts"
import type { Chart, Growth } from "./plot.ts"

const { values } = parseArgs({
  options: {
    only: { type: "string" },
    short: { type: "boolean", default: false },
    json: { type: "string", default: "reports/growth.json" },
    /** What a child process is told. */
    child: { type: "boolean", default: false }
  }
})
const { short } = values

const progress = (text: string) => {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}
const timed = (group: string, contenders: ReadonlyArray<Contender>): Promise<ReadonlyArray<Row>> =>
  measure(group, contenders, { rounds: short ? 1 : 5, roundMillis: short ? 20 : 100, progress })

/** Curves of one figure over `xs`: the rows of each x, by contender. */
const chart = (
  about: Omit<Chart, "series">,
  measured: ReadonlyArray<readonly [x: number, rows: ReadonlyArray<Row>]>,
  figure: (row: Row, x: number) => number | undefined
): Chart => {
  const names = measured[0]![1].map(({ name }) => name)
  const series = names.map((name) => ({
    name,
    points: measured.flatMap(([x, rows]) => {
      const row = rows.find((row) => row.name === name)
      const y = row === undefined ? undefined : figure(row, x)
      return y === undefined ? [] : [[x, y] as const]
    })
  })).filter(({ points }) => points.length > 0)
  return { ...about, series }
}

type Measured = Array<readonly [x: number, rows: ReadonlyArray<Row>]>

const inflight = async (): Promise<ReadonlyArray<Chart>> => {
  const raw = await Wire.rawOf("raw")
  const [toRaw, toHoldfast] = [await Wire.clientOf("raw"), await Wire.clientOf("holdfast")]
  const measured: Measured = []
  for (const width of short ? [1, 64, 4096] : [1, 4, 16, 64, 256, 1024, 4096]) {
    measured.push([
      width,
      await timed(`${width} in flight`, [
        timedAwaitedBy("raw > raw", () => raw.call("Users.Get", { id: 1 }), width),
        timedInFibers("Holdfast > raw", toRaw.Users.Get({ id: 1 }), width),
        timedInFibers("Holdfast > Holdfast", toHoldfast.Users.Get({ id: 1 }), width)
      ])
    ])
  }
  const x = { label: "calls in flight on one connection", log: true }
  return [
    chart(
      { id: "inflight-p50", title: "Latency, median", x, y: { label: "µs", log: true } },
      measured,
      (row) => row.p50Micros
    ),
    chart(
      { id: "inflight-p99", title: "Latency, 99th percentile", x, y: { label: "µs", log: true } },
      measured,
      (row) => row.p99Micros
    ),
    chart(
      { id: "inflight-cpu", title: "CPU of the client per call", x, y: { label: "µs", log: true } },
      measured,
      (row) => row.cpuMicrosPerOp
    )
  ]
}

const sessions = async (): Promise<ReadonlyArray<Chart>> => {
  const measured: Measured = []
  const clients: Array<Awaited<ReturnType<typeof Wire.clientOf>>> = []
  const raws: Array<Awaited<ReturnType<typeof Wire.rawOf>>> = []
  const inFlight = 512
  for (const count of short ? [1, 16, 64] : [1, 2, 4, 8, 16, 32, 64]) {
    while (clients.length < count) {
      clients.push(await Wire.clientOf("holdfast"))
      raws.push(await Wire.rawOf("raw"))
    }
    let [turn, rawTurn] = [0, 0]
    measured.push([
      count,
      await timed(`${count} sessions`, [
        timedAwaitedBy("raw > raw", () => raws[rawTurn++ % count]!.call("Users.Get", { id: 1 }), inFlight),
        timedInFibers(
          "Holdfast > Holdfast",
          Effect.suspend(() => clients[turn++ % count]!.Users.Get({ id: 1 })),
          inFlight
        )
      ])
    ])
  }
  const x = { label: "sessions, 512 calls in flight in all", log: true }
  return [
    chart(
      { id: "sessions-rate", title: "Calls per second", x, y: { label: "1/s", log: false } },
      measured,
      (row) => row.opsPerSecond
    ),
    chart(
      { id: "sessions-cpu", title: "CPU of the client per call", x, y: { label: "µs", log: false } },
      measured,
      (row) => row.cpuMicrosPerOp
    )
  ]
}

const endpoints = async (): Promise<ReadonlyArray<Chart>> => {
  const measured: Measured = []
  for (const count of short ? [1, 100, 1000] : [1, 3, 10, 30, 100, 300, 1000]) {
    const contenders = await Balancer.among(count)
    const named = contenders.map((contender) => ({ ...contender, name: contender.name.split(",")[0]! }))
    measured.push([count, await timed(`${count} endpoints`, named)])
  }
  const x = { label: "endpoints, all ready", log: true }
  return [
    chart(
      { id: "endpoints", title: "One pick, and a call through the balancer", x, y: { label: "ns", log: true } },
      measured,
      (
        row
      ) => row.nsPerOp
    )
  ]
}

const payloads = async (): Promise<ReadonlyArray<Chart>> => {
  const raw = await Wire.rawOf("raw")
  const json = await Wire.clientOf("holdfast")
  const binary = await Wire.clientOf("holdfast", BodyCodec.binary)
  const measured: Measured = []
  // The last is what still fits the default limit of 4 MiB with its frame and its quotes.
  const most = 4 * 1024 * 1024 - 1024
  for (const size of short ? [0, 65_536, most] : [0, 256, 4096, 65_536, 262_144, 1_048_576, most]) {
    const data = "x".repeat(size)
    measured.push([
      Math.max(size, 1),
      await timed(`${size} bytes`, [
        timedAwaitedBy("raw > raw", () => raw.call("Users.Echo", { data }), 4),
        timedInFibers("Holdfast > Holdfast, JSON", json.Users.Echo({ data }), 4),
        timedInFibers("Holdfast > Holdfast, binary", binary.Users.Echo({ data }), 4)
      ])
    ])
  }
  const x = { label: "bytes of text, there and back, 4 calls in flight (0 is drawn at 1)", log: true }
  return [
    chart({ id: "payloads-rate", title: "Throughput, one direction", x, y: { label: "MB/s", log: true } }, measured, (
      row,
      size
    ) => size <= 1 ? undefined : row.opsPerSecond! * size / 1e6),
    chart(
      { id: "payloads-time", title: "Time per call", x, y: { label: "µs", log: true } },
      measured,
      (row) => row.nsPerOp! / 1000
    )
  ]
}

const keys = async (): Promise<ReadonlyArray<Chart>> => {
  const measured: Measured = []
  const one = Effect.void
  for (const count of short ? [1, 10_000, 1_000_000] : [1, 10, 100, 1000, 10_000, 100_000, 1_000_000]) {
    const breaker = await Effect.runPromise(CircuitBreaker.keyed({ maxKeys: Math.max(count, 1) }))
    const calls = Array.from(
      { length: count },
      (_, i) => CallContext.annotate(breaker.run(one), { key: `tenant-${i}` })
    )
    let at = 0
    // In no order that a cache of the processor would like.
    const next = Effect.suspend(() => calls[at = (at + 7919) % count]!)
    await Effect.runPromise(Effect.forEach(calls, (call) => call, { discard: true }))
    measured.push([count, await timed(`${count} keys`, [timedInFibers("CircuitBreaker.keyed", next, 1)])])
  }
  const x = { label: "keys in use", log: true }
  return [
    chart(
      { id: "keys", title: "A call through a breaker per key", x, y: { label: "ns", log: true } },
      measured,
      (row) => row.nsPerOp
    )
  ]
}

const families = { inflight, sessions, endpoints, payloads, keys }
type Family = keyof typeof families

if (values.child) {
  const charts = await families[values.only as Family]()
  Wire.cleanup()
  process.send!(charts, () => process.exit(0))
} else {
  const known = Object.keys(families)
  if (values.only !== undefined && !known.includes(values.only)) {
    console.error(`--only must be one of ${known.join(", ")}, got ${values.only}`)
    process.exit(1)
  }
  const old: Growth | undefined = Fs.existsSync(values.json)
    ? JSON.parse(Fs.readFileSync(values.json, "utf8"))
    : undefined
  const charts: Record<string, ReadonlyArray<Chart>> = { ...old?.families }
  for (const family of values.only === undefined ? known : [values.only]) {
    const { charts: measured, seconds } = await inChild(family)
    charts[family] = measured
    progress("")
    console.log(`${family}: ${measured.length} charts, ${seconds.toFixed(0)} s`)
  }
  Fs.mkdirSync(Path.dirname(values.json), { recursive: true })
  const growth: Growth = { machine: machine(), families: charts }
  Fs.writeFileSync(values.json, JSON.stringify(growth, undefined, 2))
}

/** One family in a process of its own. */
async function inChild(family: string): Promise<{ readonly charts: ReadonlyArray<Chart>; readonly seconds: number }> {
  const begun = performance.now()
  const args = ["--child", "--only", family, ...short ? ["--short"] : []]
  const child = fork(import.meta.filename, args, { execArgv: process.execArgv })
  const timer = setTimeout(() => child.kill("SIGKILL"), 300_000)
  const charts = await new Promise<ReadonlyArray<Chart>>((resolve, reject) => {
    child.once("message", (message) => resolve(message as ReadonlyArray<Chart>))
    child.once("exit", (code, signal) => reject(new Error(`${family} ended with ${signal ?? code}`)))
  })
  clearTimeout(timer)
  return { charts, seconds: (performance.now() - begun) / 1000 }
}
