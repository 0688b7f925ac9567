/**
 * Shows what the simulator costs and that it does not grow: a million calls of
 * clients with the whole default policy, the heap on the way, and the calls per
 * second of real time. Then the hedging figures of The Tail at Scale in full: a
 * hundred reads for each request, and the 99.9th percentile of requests.
 *
 *   --calls N   calls of each simulation (default 1,000,000)
 *
 * Run with `node --expose-gc`, or the heap means nothing. Exits non-zero when the
 * heap has grown or a figure is missed; speed is only printed, because it is the
 * machine's.
 */
import * as Effect from "effect/Effect"
import { parseArgs } from "node:util"
import * as Simulator from "../src/testing/Simulator.ts"

const { values } = parseArgs({
  options: { calls: { type: "string", default: "1000000" }, help: { type: "boolean", default: false } }
})
if (values.help) {
  console.log("node --expose-gc scripts/simulate.ts [--calls N]")
  process.exit(0)
}
const calls = Number(values.calls)
if (!(Number.isInteger(calls) && calls >= 1000)) {
  console.error(`--calls must be an integer >= 1000, got ${values.calls}`)
  process.exit(1)
}
const collect = globalThis.gc
if (collect === undefined) {
  console.error("run with --expose-gc")
  process.exit(1)
}
const heap = (): number => {
  for (let i = 0; i < 3; i++) collect()
  return process.memoryUsage().heapUsed / 1024 / 1024
}

let broken = 0
const verdict = (holds: boolean, what: string): void => {
  if (!holds) broken++
  console.log(`${holds ? "ok    " : "MISSED"} ${what}`)
}
const k = (n: number): string => Math.round(n).toLocaleString("en")

const perSecond = 1000
const heaps: Array<number> = []
let collecting = 0
const began = performance.now()
const plain = await Effect.runPromise(Simulator.run({
  policy: Simulator.defaultPolicy,
  clients: 10,
  arrivals: { kind: "poisson", perSecond },
  dependency: { servers: 5, concurrency: 32, service: { lognormal: { p50: "50 ms", p99: "250 ms" } } },
  horizon: (calls / perSecond) * 1000,
  progress: (share) =>
    Effect.sync(() => {
      if (Math.round(share * 100) % 20 !== 0) return
      const from = performance.now()
      heaps.push(heap())
      collecting += performance.now() - from
    })
}))
const seconds = (performance.now() - began - collecting) / 1000
console.log(`       ${k(plain.totals.calls)} calls, ${k(plain.totals.calls / seconds)} per second of real time`)
verdict(
  heaps.at(-1)! - heaps[0]! <= 4,
  `heap at a fifth, two fifths, … of the calls: ${heaps.map((mb) => mb.toFixed(1)).join(", ")} MB`
)
verdict(plain.timers === 0 && plain.totals.pending === 0, "no timer and no call is left")

// 2 % of the reads take longer than 10 ms, and one in 100,000 longer than 1.8 s.
const alpha = Math.log(2000) / Math.log(180)
const tail = (hedge: object) =>
  Effect.runPromise(Simulator.run({
    policy: { name: "read", idempotent: true, ...hedge },
    clients: { fanOut: 100 },
    arrivals: { kind: "steady", perSecond: 20 },
    dependency: {
      service: { pareto: { minimum: 10 * 0.02 ** (1 / alpha), alpha, cap: "10 s" } },
      network: 0,
      cancels: "everything"
    },
    horizon: (calls / 100 / 20) * 1000
  }))
const bare = await tail({})
const hedged = await tail({ hedge: { delay: "10 ms" } })
const load = hedged.totals.hedges / hedged.totals.calls
verdict(
  bare.totals.latency.p999 > 1000 && hedged.totals.latency.p999 <= 74 && Math.abs(load - 0.02) < 0.003,
  `a hundred reads, 99.9th percentile: ${k(bare.totals.latency.p999)} ms, hedged after 10 ms ${
    k(hedged.totals.latency.p999)
  } ms for ${(load * 100).toFixed(1)} % more load (published: 1,800, 74, 2 %)`
)
if (broken > 0) process.exitCode = 1
