/**
 * Simulated servers against queueing theory: Erlang's C, Little's law and Pollaczek and Khinchine's formula. A simulated
 * figure is the mean of runs with different seeds, and agrees when theory is within three of its standard errors.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Simulator from "../../src/testing/Simulator.ts"
import { stats } from "../support/sim.ts"

const runs = 12
const seconds = 300

/** A queue without a network, a limit or a policy. Times are milliseconds. */
const simulated = (workers: number, perSecond: number, service: Simulator.Latency) =>
  Effect.gen(function*() {
    const latency: Array<number> = []
    const busy: Array<number> = []
    const held: Array<number> = []
    for (let seed = 1; seed <= runs; seed++) {
      const { series, tiers, totals } = yield* Simulator.run({
        policy: { name: "none" },
        arrivals: { kind: "poisson", perSecond },
        dependency: { concurrency: workers, queue: "unlimited", service, network: 0 },
        horizon: seconds * 1000,
        interval: "300 ms",
        seed
      })
      latency.push(totals.latency.mean)
      busy.push(tiers[0]!.busyMillis / (workers * seconds * 1000))
      held.push(stats(series.map(({ queued, running }) => queued + running)).mean)
    }
    return { latency: stats(latency), busy: stats(busy), held: stats(held) }
  })

const agrees = ({ error, mean }: { readonly mean: number; readonly error: number }, theory: number, what: string) => {
  assert.closeTo(mean, theory, 3 * error, `${what}: ${mean} ± ${error}, in theory ${theory}`)
  // Or three standard errors would be no statement.
  assert.isBelow(error, 0.05 * theory, what)
}

/** The share of the calls that wait for one of `k` workers that are offered `a` of work (Erlang's C). */
const erlangC = (k: number, a: number): number => {
  let blocked = 1
  for (let n = 1; n <= k; n++) blocked = (a * blocked) / (n + a * blocked)
  return blocked / (1 - (a / k) * (1 - blocked))
}

describe("servers are queues", () => {
  it.effect.each([[1, 0.5], [2, 0.8], [5, 0.7], [20, 0.9]] as const)(
    "M/M/%d: time in the system by Erlang's C, workers as busy as they are asked to be, and as many held as Little says",
    ([workers, load]) =>
      Effect.gen(function*() {
        const mean = 25 * workers
        const perSecond = (load * workers * 1000) / mean
        const found = yield* simulated(workers, perSecond, { exponential: mean })
        const inSystem = mean + (erlangC(workers, load * workers) * mean) / (workers * (1 - load))
        agrees(found.latency, inSystem, "time in the system")
        agrees(found.busy, load, "utilisation")
        agrees(found.held, (perSecond * inSystem) / 1000, "held")
      })
  )

  it.effect("M/G/1: the wait grows with the spread of the work, by Pollaczek and Khinchine's formula", () =>
    Effect.gen(function*() {
      const load = 0.6
      // 90 % take 10 ms and 10 % take 100: on average 19 ms, and of squares 1,090.
      const [mean, square] = [19, 1090]
      const perMilli = load / mean
      const { latency } = yield* simulated(1, perMilli * 1000, {
        mixture: [{ weight: 9, of: 10 }, { weight: 1, of: 100 }]
      })
      agrees(latency, mean + (perMilli * square) / (2 * (1 - load)), "time in the system")
    }))
})
