import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect } from "effect"
import * as PolicySpec from "../../src/policy/PolicySpec.ts"
import * as FaultScript from "../../src/testing/FaultScript.ts"
import * as Generators from "../../src/testing/Generators.ts"
import * as PolicyLaws from "../../src/testing/PolicyLaws.ts"
import * as Simulator from "../../src/testing/Simulator.ts"

const sampled = (documents: Arbitrary.Arbitrary<Generators.Document>) =>
  Arbitrary.sampleEffect(documents, { count: 200, seed: 3 })

describe("Generators", () => {
  it.effect("make policies that compile, of every slot", () =>
    Effect.gen(function*() {
      const policies = yield* sampled(Generators.policies)
      for (const policy of policies) yield* PolicySpec.compile(policy)
      assert.deepStrictEqual([...new Set(policies.flatMap(Object.keys))].toSorted(), [
        "adaptiveThrottle",
        "bulkhead",
        "circuitBreaker",
        "deadline",
        "hedge",
        "idempotent",
        "rateLimiter",
        "retry",
        "timeout"
      ])
    }))

  it.effect("make policies that hold the laws", () =>
    Effect.gen(function*() {
      const policies = yield* Arbitrary.sampleEffect(Generators.policies, { count: 25, seed: 11 })
      for (const policy of policies) {
        yield* PolicyLaws.check(Effect.orDie(PolicySpec.compile(policy)), { runs: 8 })
      }
    }))

  it.effect("make fault scripts that can be read, of every fault there is, and without bytes of all the simulator runs", () =>
    Effect.gen(function*() {
      const kindsOf = (documents: Arbitrary.Arbitrary<Generators.Document>) =>
        Effect.gen(function*() {
          const kinds = new Set<string>()
          for (const script of yield* sampled(documents)) {
            for (const { fault } of (yield* FaultScript.read(script)).phases) kinds.add(fault.kind)
          }
          return kinds
        })
      const known = FaultScript.Fault.members.map(({ fields }) => fields.kind.literal)
      const all = yield* kindsOf(Generators.faultScriptsOfBytes)
      assert.deepStrictEqual([...all].toSorted(), known.toSorted())
      const some = yield* kindsOf(Generators.faultScripts)
      assert.deepStrictEqual([...all].filter((kind) => !some.has(kind)).toSorted(), [
        "bandwidth",
        "corrupt",
        "limit",
        "slice"
      ])
    }))

  it.effect("make scripts that the simulator runs", () =>
    Effect.gen(function*() {
      for (const script of yield* Arbitrary.sampleEffect(Generators.faultScripts, { count: 10, seed: 1 })) {
        const { timers, totals } = yield* Simulator.run({
          policy: Simulator.defaultPolicy,
          clients: 3,
          arrivals: { kind: "poisson", perSecond: 20 },
          dependency: { servers: 2, service: "10 ms" },
          faults: yield* FaultScript.read(script),
          horizon: "1 minute"
        })
        assert.deepStrictEqual([timers, totals.pending], [0, 0])
      }
    }))
})
