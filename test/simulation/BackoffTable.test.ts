/**
 * The AWS backoff simulation, run with our Schedules: `N` clients each have to commit one write to one row under
 * optimistic concurrency. They start together; a client that loses waits for its backoff and reads again.
 *
 * The figures are means and standard errors of 300 trials of aws-samples/aws-arch-backoff-simulator (one way takes
 * `abs(Normal(10, 2))` ms, base 5, cap 2000).
 */
import { assert, describe, it } from "@effect/vitest"
import { Context, Duration, Effect, Random, Schedule } from "effect"
import * as Backoff from "../../src/policy/Backoff.ts"
import { normal, seeded, Simulation, stats } from "../support/sim.ts"

/** When the last of `clients` was done, and how many writes that took. */
const contend = (backoff: Schedule.Schedule<unknown>, clients: number, uniform: () => number) => {
  const simulation = new Simulation()
  const runSync = Effect.runSyncWith(
    Context.make(Random.Random, { nextDoubleUnsafe: uniform, nextIntUnsafe: () => 0 })
  )
  const oneWay = () => Math.abs(normal(uniform, 10, 2))
  let version = 0
  let writes = 0
  let done = 0
  for (let client = 0; client < clients; client++) {
    const step = runSync(Schedule.toStep(backoff))
    const read = () => {
      const seen = version
      simulation.after(oneWay() + oneWay(), () => {
        writes++
        const committed = seen === version
        if (committed) version++
        simulation.after(oneWay(), () => {
          done = simulation.now
          if (committed) return
          const [, delay] = runSync(step(simulation.now, undefined) as Effect.Effect<[unknown, Duration.Duration]>)
          simulation.after(oneWay() + Duration.toMillis(delay), read)
        })
      })
    }
    simulation.after(oneWay(), read)
  }
  simulation.run()
  return { done, writes }
}

// The first wait there is base × 2.
const bounds = { base: 10, cap: 2000 } as const
const rules = [
  ["none", Backoff.constant({ base: 0 }), [381, 2], [50.9, 0.2], [2029, 2], [2422.7, 1.9]],
  ["exponential", Backoff.exponential({ ...bounds, jitter: "none" }), [3585, 77], [51.3, 0.2], [63_535, 206], [
    1857.8,
    3.3
  ]],
  ["equal", Backoff.exponential({ ...bounds, jitter: "equal" }), [729, 10], [42.6, 0.1], [6663, 37], [812.2, 0.5]],
  ["full", Backoff.exponential({ ...bounds, jitter: "full" }), [464, 6], [39.1, 0.1], [4932, 32], [795.8, 0.4]],
  [
    "decorrelated",
    Backoff.exponential({ base: 5, cap: 2000, jitter: "decorrelated" }),
    [430, 5],
    [37.7, 0.1],
    [4646, 38],
    [999.3, 1.6]
  ],
  [
    "Effect's own jitter of a fifth",
    Schedule.exponential(10).pipe(
      Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.seconds(2)))),
      Schedule.jittered
    ),
    [988, 22],
    [43.7, 0.2],
    [9357, 61],
    [838.3, 0.7]
  ]
] as const

describe("the backoff table", () => {
  for (const [clients, trials, column] of [[10, 200, 0], [100, 24, 2]] as const) {
    it.each(rules)(
      `${clients} clients, %s: time and writes are within 3 standard errors`,
      (name, backoff, ...table) => {
        const uniform = seeded(clients * 1000 + name.length)
        const results = Array.from({ length: trials }, () => contend(backoff, clients, uniform))
        for (const [of, figure] of [["done", table[column]], ["writes", table[column + 1]!]] as const) {
          const [expected, theirs] = figure!
          const { error, mean } = stats(results.map((result) => result[of]))
          const deviation = Math.abs(mean - expected) / Math.hypot(theirs, error)
          assert.isAtMost(
            deviation,
            3,
            `${of}: ${mean.toFixed(1)} ± ${error.toFixed(1)}, expected ${expected} ± ${theirs}`
          )
        }
      }
    )
  }

  it("from 10 to 190 clients: jitter saves writes, full jitter is the first to be done, and among many no backoff writes most", () => {
    for (let clients = 10; clients <= 190; clients += 20) {
      const uniform = seeded(clients)
      const [none, exponential, equal, full] = rules.slice(0, 4).map(([, backoff]) => {
        const results = Array.from({ length: clients < 100 ? 12 : 4 }, () => contend(backoff, clients, uniform))
        return {
          time: stats(results.map(({ done }) => done)).mean,
          writes: stats(results.map(({ writes }) => writes)).mean
        }
      })
      const at = `${clients} clients`
      assert.isAbove(exponential!.writes, 1.15 * equal!.writes, at)
      assert.isAbove(exponential!.writes, 1.15 * full!.writes, at)
      assert.isAbove(exponential!.time, 4 * equal!.time, at)
      assert.isAbove(equal!.time, full!.time, at)
      // Everybody at once is soon done with a server that takes no time, and by far the most for it to do.
      if (clients >= 70) assert.isAbove(none!.writes, 1.15 * exponential!.writes, at)
    }
  })
})
