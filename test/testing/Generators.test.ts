import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect } from "effect"
import * as PolicySpec from "../../src/policy/PolicySpec.ts"
import * as FaultScript from "../../src/testing/FaultScript.ts"
import * as Generators from "../../src/testing/Generators.ts"
import * as PolicyLaws from "../../src/testing/PolicyLaws.ts"

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

  it.effect("make fault scripts that can be read, of every fault that all runners know", () =>
    Effect.gen(function*() {
      const scripts = yield* sampled(Generators.faultScripts)
      const kinds = new Set<string>()
      for (const script of scripts) {
        for (const { fault } of (yield* FaultScript.read(script)).phases) kinds.add(fault.kind)
      }
      assert.deepStrictEqual([...kinds].toSorted(), ["blackHole", "error", "latency", "refuse", "reset", "stall"])
    }))
})
