import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import { TestClock } from "effect/testing"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Policy from "../../src/policy/Policy.ts"

describe("CircuitBreaker", () => {
  it.effect("trips, probes and closes", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        consecutiveFailures: 2,
        openFor: "5 seconds",
        jitter: 0,
        halfOpen: { probes: 1, successRatio: 1 }
      })
      const bad = Effect.exit(Policy.apply(Effect.fail("x"), breaker))
      const good = Effect.exit(Policy.apply(Effect.succeed(1), breaker))
      yield* bad
      yield* bad
      assert.strictEqual((yield* breaker.state)._tag, "Open")
      yield* Effect.flip(Policy.apply(Effect.fail("x"), breaker))
      yield* TestClock.adjust("5 seconds")
      yield* good
      assert.strictEqual((yield* breaker.state)._tag, "Closed")
    }))
})
