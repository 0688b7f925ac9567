/** The named scenarios, small, with what each shows of a policy that retries three times at fixed intervals and of ours. */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import type * as PolicySpec from "../../src/policy/PolicySpec.ts"
import * as Scenarios from "../../src/testing/Scenarios.ts"
import * as Simulator from "../../src/testing/Simulator.ts"

/** A fifth of the servers, of the workers' load and of the clients. */
const small = { servers: 3, workers: 4, clients: 3, rate: 100, queue: 60, start: 10 }

const naive = {
  name: "naive",
  idempotent: true,
  timeout: "2 s",
  retry: { attempts: 3, backoff: { kind: "constant", base: "500 ms" }, budget: false }
} as const satisfies PolicySpec.PolicySpec

const both = (situation: Simulator.Situation, horizon = "40 s") =>
  Effect.gen(function*() {
    const options = { ...situation, horizon, interval: "500 ms" }
    const plain = yield* Simulator.run({ ...options, policy: naive })
    const ours = yield* Simulator.run({ ...options, policy: Simulator.defaultPolicy })
    for (const { timers, totals } of [plain, ours]) {
      assert.strictEqual(timers, 0)
      assert.strictEqual(totals.answered + totals.failed, totals.calls)
      assert.isAbove(totals.successBefore!, 0.99)
    }
    return { plain: plain.totals, ours: ours.totals }
  })

describe("scenarios", () => {
  it.effect("retry storm: three tries send 1.75 times what fails by half, a budget a tenth more and less", () =>
    Effect.gen(function*() {
      const { ours, plain } = yield* both(Scenarios.retryStorm({ ...small, lasts: 15 }))
      assert.closeTo(plain.retries / (15 * 100), 0.75, 0.1)
      assert.isAbove(plain.successDuring!, 0.8)
      assert.isAtMost(ours.retries / ours.calls, 0.15)
      assert.isAtMost(ours.amplification, 1.1)
    }))

  it.effect("cold start: retries add a half to what is too much already; without them more is answered", () =>
    Effect.gen(function*() {
      const { ours, plain } = yield* both(Scenarios.coldStart({ ...small, lasts: 15, factor: 6 }))
      assert.isAbove(plain.amplification, 1.2)
      assert.isBelow(ours.amplification, 1.05)
      assert.isAbove(ours.successDuring!, plain.successDuring!)
      assert.isAbove(ours.successAfter!, 0.97)
      assert.isBelow(ours.wasted, plain.wasted)
    }))

  it.effect("slow endpoint: nobody fails, and the breaker takes the tail away", () =>
    Effect.gen(function*() {
      const { ours, plain } = yield* both(Scenarios.slowEndpoint({ ...small, lasts: 25, factor: 40 }))
      assert.isAbove(plain.success, 0.97)
      assert.isAbove(ours.success, 0.97)
      assert.isAbove(ours.trips, 0)
      assert.isBelow(ours.wasted, plain.wasted)
    }))

  it.effect("flapping: an endpoint that comes and goes costs no more than a tenth of the calls", () =>
    Effect.gen(function*() {
      const { ours } = yield* both(Scenarios.flapping({ ...small, times: 3 }))
      assert.isAbove(ours.successDuring!, 0.9)
      assert.isAbove(ours.trips, 2)
      assert.isAtMost(ours.amplification, 1.1)
    }))

  it.effect("spike: what is too much is refused, and a second later all is as before", () =>
    Effect.gen(function*() {
      const { ours, plain } = yield* both(Scenarios.spike({ ...small, factor: 6 }))
      assert.isAbove(plain.amplification, 1.3)
      assert.isAtMost(ours.amplification, 1)
      assert.isAtMost(ours.recoveryMillis!, 6000)
    }))

  it.effect("ramp: amplification stays at one where three tries add a third", () =>
    Effect.gen(function*() {
      const { ours, plain } = yield* both(Scenarios.ramp({ ...small, factor: 5, lasts: 20 }))
      assert.isAbove(plain.amplification, 1.2)
      assert.isAtMost(ours.amplification, 1.02)
      assert.isAtMost(ours.recoveryMillis!, 6000)
    }))

  it.effect("partition: nothing says so, and yet nearly every call is answered elsewhere", () =>
    Effect.gen(function*() {
      const { ours } = yield* both(Scenarios.partition({ ...small, cut: 1, lasts: 15 }))
      assert.isAbove(ours.successDuring!, 0.97)
      assert.isAbove(ours.successAfter!, 0.99)
    }))

  it.effect("thundering herd: probes of many clients do not keep down what comes back", () =>
    Effect.gen(function*() {
      const { ours, plain } = yield* both(Scenarios.thunderingHerd({ ...small, clients: 12, lasts: 5, cold: 5 }))
      assert.isAtMost(ours.recoveryMillis!, 6000)
      assert.isBelow(ours.amplification, 1)
      assert.isAbove(plain.amplification, 1.2)
    }))

  it.effect("correlated failure: the servers that are left have the load, and nobody notices", () =>
    Effect.gen(function*() {
      const { ours } = yield* both(Scenarios.correlatedFailure({ ...small, killed: 1, lasts: 10 }))
      assert.isAbove(ours.success, 0.999)
    }))

  it.effect("deploy: one server after the other restarts, and no call fails", () =>
    Effect.gen(function*() {
      const { ours, plain } = yield* both(Scenarios.deploy({ ...small, every: 7 }))
      assert.isAbove(ours.success, 0.999)
      assert.isAbove(plain.success, 0.999)
    }))

  it.effect("metastable collapse: three tries keep down for ever what a trigger of 5 s brought down; a budget does not", () =>
    Effect.gen(function*() {
      const trigger = { servers: 3, workers: 4, clients: 3, queue: 80, start: 5, lasts: 5, rate: 120, contention: 0.05 }
      const { ours, plain } = yield* both(Scenarios.metastableCollapse(trigger), "60 s")
      assert.isBelow(plain.successAfter!, 0.05)
      assert.strictEqual(plain.recoveryMillis, null)
      assert.isAbove(plain.amplification, 2.3)
      assert.isAbove(ours.successAfter!, 0.7)
      assert.isAtMost(ours.recoveryMillis!, 20_000)
    }))

  it.effect("metastable collapse near the limit: circuits that close together bring down what has come back, a ramp does not", () =>
    Effect.gen(function*() {
      const situation = { ...Scenarios.metastableCollapse({ rate: 670, start: 10 }), horizon: "60 s", seed: 3 }
      const after = (circuitBreaker: NonNullable<PolicySpec.PolicySpec["circuitBreaker"]>) =>
        Effect.map(
          Simulator.run({ ...situation, policy: { ...Simulator.defaultPolicy, circuitBreaker } }),
          ({ totals }) => totals
        )
      const abrupt = yield* after({ ramp: false })
      assert.strictEqual(abrupt.recoveryMillis, null)
      assert.isBelow(abrupt.successAfter!, 0.2)
      const gradual = yield* after({})
      assert.isAtMost(gradual.recoveryMillis!, 11_000)
      assert.isAbove(gradual.successAfter!, 0.75)
    }))

  it("a parameter that is not there is refused with those that are, and the list has every scenario", () => {
    assert.throws(
      () => Scenarios.all["spike"]!.make({ size: 3 }),
      "Scenarios.spike: size must be one of rate, clients, servers, workers, p50, p99, queue, start, factor, lasts, got \"size\""
    )
    assert.throws(() => Scenarios.spike({ rate: -1 }), "Scenarios.spike: rate must be a number >= 0, got -1")
    assert.deepStrictEqual(Object.keys(Scenarios.all), [
      "retryStorm",
      "coldStart",
      "slowEndpoint",
      "flapping",
      "spike",
      "ramp",
      "partition",
      "thunderingHerd",
      "correlatedFailure",
      "deploy",
      "metastableCollapse"
    ])
    for (const [name, named] of Object.entries(Scenarios.all)) {
      assert.strictEqual(named.make({}).scenario?.name, name)
    }
  })
})
