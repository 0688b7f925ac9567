/**
 * Whether a client's breaker should let calls come back gradually by default: the
 * default policy with ramps of several lengths, in every scenario, as it stands
 * and nearer to what the servers can do, with an endpoint for each server and with
 * one for all. Prints the rows of the table in `docs/decisions`, Markdown.
 *
 *   --seeds N          runs of each (default 5)
 *   --scenario NAME    that one alone
 *
 * Takes a quarter of an hour.
 */
import * as Effect from "effect/Effect"
import { parseArgs } from "node:util"
import * as Scenarios from "../src/testing/Scenarios.ts"
import * as Simulator from "../src/testing/Simulator.ts"

const { values } = parseArgs({
  options: { seeds: { type: "string", default: "5" }, scenario: { type: "string" } }
})
const seeds = Array.from({ length: Number(values.seeds) }, (_, i) => i + 1)
const ramps = [undefined, "3 s", "5 s", "10 s"]
/** Four fifths of the 840 calls per second that the servers can do; the scenarios themselves ask for half of it, or 600. */
const near = 670

const percent = (share: number): string => (100 * share).toFixed(1)
const mean = (values: ReadonlyArray<number>): number => values.reduce((sum, value) => sum + value, 0) / values.length
/** Answered on average, in the worst run, and the longest time to recover. */
const cell = (results: ReadonlyArray<Simulator.Result>): string => {
  const shares = results.map(({ totals }) => totals.success)
  const recoveries = results.map(({ totals }) => totals.recoveryMillis ?? Infinity)
  const longest = Math.max(...recoveries)
  return `${percent(mean(shares))} (${percent(Math.min(...shares))}) ${
    longest === Infinity ? "never" : `${(longest / 1000).toFixed(0)} s`
  }`
}

for (const balancer of ["client", "proxy"] as const) {
  const all = ramps.map((): Array<number> => [])
  const unrecovered = ramps.map(() => 0)
  console.log(`\n| ${balancer}, calls per second | ${ramps.map((ramp) => ramp ?? "none").join(" | ")} |`)
  console.log(`|---|${ramps.map(() => "---|").join("")}`)
  for (const { make, name, parameters } of Object.values(Scenarios.all)) {
    if (name !== (values.scenario ?? name)) continue
    for (const rate of [parameters["rate"]!.default, near]) {
      const cells: Array<string> = []
      for (const [i, duration] of ramps.entries()) {
        const results: Array<Simulator.Result> = []
        for (const seed of seeds) {
          const situation = make({ rate })
          const result = await Effect.runPromise(Simulator.run({
            ...situation,
            dependency: { ...situation.dependency, balancer },
            policy: {
              ...Simulator.defaultPolicy,
              circuitBreaker: duration === undefined ? { ramp: false } : { ramp: { duration } }
            },
            seed
          }))
          results.push(result)
          all[i]!.push(result.totals.success)
          if (result.totals.recoveryMillis === null) unrecovered[i]!++
        }
        cells.push(cell(results))
      }
      console.log(`| ${name}, ${rate} | ${cells.join(" | ")} |`)
    }
  }
  console.log(
    `| mean (not recovered) | ${all.map((shares, i) => `${percent(mean(shares))} (${unrecovered[i]})`).join(" | ")} |`
  )
}
