/** What a simulated call costs: clients with the whole default policy against simulated servers, in virtual time. */
import * as Effect from "effect/Effect"
import * as Simulator from "../../src/testing/Simulator.ts"
import { median, type Options, type Row } from "../harness.ts"

const perSecond = 1000

/** So many calls, set-up included: the calls per second of real time. */
const simulate = async (calls: number): Promise<number> => {
  const began = performance.now()
  const { totals } = await Effect.runPromise(Simulator.run({
    policy: Simulator.defaultPolicy,
    clients: 10,
    arrivals: { kind: "poisson", perSecond },
    dependency: { servers: 5, concurrency: 32, service: { lognormal: { p50: "50 ms", p99: "250 ms" } } },
    horizon: calls / perSecond * 1000
  }))
  return totals.calls / (performance.now() - began) * 1000
}

export const rows = async (
  group: string,
  { progress, rounds }: Options,
  short: boolean
): Promise<ReadonlyArray<Row>> => {
  const calls = short ? 20_000 : 100_000
  await simulate(20_000)
  const rates: Array<number> = []
  for (let round = 1; round <= rounds; round++) {
    progress(`${group}: round ${round} of ${rounds}`)
    rates.push(await simulate(calls))
  }
  const opsPerSecond = median(rates)
  const spread = (Math.max(...rates) - Math.min(...rates)) / 2 / opsPerSecond
  return [{ group, name: "Simulator.run", nsPerOp: 1e9 / opsPerSecond, opsPerSecond, spread }]
}
