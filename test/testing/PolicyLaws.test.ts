import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect } from "effect"
import * as Timer from "../../src/contract/Timer.ts"
import * as AdaptiveLimiter from "../../src/policy/AdaptiveLimiter.ts"
import * as AdaptiveThrottle from "../../src/policy/AdaptiveThrottle.ts"
import * as Bulkhead from "../../src/policy/Bulkhead.ts"
import * as Cache from "../../src/policy/Cache.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Fallback from "../../src/policy/Fallback.ts"
import * as Hedge from "../../src/policy/Hedge.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as RateLimiter from "../../src/policy/RateLimiter.ts"
import * as Retry from "../../src/policy/Retry.ts"
import * as RetryBudget from "../../src/policy/RetryBudget.ts"
import * as Timeout from "../../src/policy/Timeout.ts"
import * as PolicyLaws from "../../src/testing/PolicyLaws.ts"

const queue = { maxQueue: 3, maxWait: "200 millis" } as const
const budgeted = Effect.gen(function*() {
  const budget = yield* RetryBudget.make({ reserve: 1 })
  return yield* Retry.make({ attempts: 3, budget })
})
const whole = Effect.gen(function*() {
  return Policy.stack({
    retry: yield* budgeted,
    hedge: yield* Hedge.make({ delay: "40 millis" }),
    rateLimiter: yield* RateLimiter.make({ limit: 20, maxWait: "100 millis" }),
    circuitBreaker: yield* CircuitBreaker.make({
      consecutiveFailures: 2,
      openFor: "50 millis",
      slowThreshold: "100 millis"
    }),
    bulkhead: yield* Bulkhead.make({ limit: 2, ...queue }),
    timeout: yield* Timeout.make({ timeout: "150 millis" })
  })
})

/** A limit of two that only looks right, in every way that a law finds. */
const limit = (wrong: "leaks" | "races" | "eats" | "invents" | "wall" | "timer" | "stuck") =>
  Effect.sync(() => {
    let inUse = 0
    const run = <A, E, R>(self: Effect.Effect<A, E, R>) => {
      const take = wrong === "races"
        ? Effect.flatMap(Effect.sync(() => inUse), (n) => Effect.sync(() => void (inUse = n + 1)))
        : Effect.sync(() => void inUse++)
      const giveBack = Effect.sync(() => void inUse--)
      const counted = wrong === "leaks"
        ? Effect.tap(Effect.andThen(take, self), () => giveBack)
        : Effect.acquireUseRelease(take, () => self, () => giveBack)
      switch (wrong) {
        case "eats":
          return Effect.mapError(counted, () => "something went wrong") as Effect.Effect<A, E, R>
        case "invents":
          return Effect.as(counted, "fine") as unknown as Effect.Effect<A, E, R>
        case "wall":
          return Effect.flatMap(Clock.currentTimeMillis, (now) => now > 1000 ? Effect.delay(counted, 50) : counted)
        case "timer":
          return Effect.withFiber<A, E, R>((fiber) => {
            Timer.schedule(fiber, Timer.now(fiber) + 3_600_000, () => {})
            return counted
          })
        case "stuck":
          return Effect.flatMap(counted, (value) => inUse > 1 ? Effect.never : Effect.succeed(value))
        default:
          return counted
      }
    }
    return { ...Policy.make({ name: "limit", run }), run, inUse: Effect.sync(() => inUse) }
  })

describe("PolicyLaws", () => {
  const ours = {
    retry: Retry.make(),
    "retry with a budget": budgeted,
    hedge: Hedge.make({ delay: "30 millis", hedges: 2 }),
    "rate limiter": RateLimiter.make({ limit: 10, maxWait: "300 millis" }),
    "smooth rate limiter": RateLimiter.make({ limit: 10, mode: "smooth", maxWait: "300 millis" }),
    "adaptive throttle": AdaptiveThrottle.make(),
    "circuit breaker": CircuitBreaker.make({ consecutiveFailures: 2, openFor: "50 millis" }),
    "circuit breaker that measures": CircuitBreaker.make({
      slowCallRatio: 0.5,
      slowThreshold: "100 millis",
      window: { calls: 4 },
      openFor: "50 millis",
      ramp: { duration: "100 millis" }
    }),
    bulkhead: Bulkhead.make({ limit: 2, ...queue }),
    "adaptive limiter": AdaptiveLimiter.make(),
    timeout: Timeout.make({ timeout: "100 millis" }),
    stack: whole
  }
  for (const [name, make] of Object.entries(ours)) {
    it.effect(`hold for ours: ${name}`, () =>
      PolicyLaws.check(make as Effect.Effect<Policy.Policy<unknown>>, { runs: 60 }))
  }

  it.effect("hold for what answers in place of others, but for the answers", () =>
    Effect.gen(function*() {
      const options = { substitutes: true, runs: 60 }
      yield* PolicyLaws.check(Fallback.make({ value: 1 }), options)
      yield* PolicyLaws.check(Cache.make({ ttl: "100 millis", capacity: 2 }), options)
      const lawBroken = yield* Effect.flip(PolicyLaws.check(Fallback.make({ value: 1 })))
      assert.strictEqual(lawBroken.law, "what is guarded ends as it would without the policy")
    }))

  const found = {
    leaks: ["everything is given back", "limit holds"],
    races: ["everything is given back", "limit holds"],
    eats: ["what is guarded ends as it would without the policy", "a call that fails ended with its error"],
    invents: ["what is guarded ends as it would without the policy", "a call that succeeds ended with its answer"],
    wall: ["the wall clock decides nothing", "at 0 ms, then its "],
    timer: ["no timer is left", "1 run"],
    stuck: ["everybody is answered", "some call never ends"]
  } as const
  for (const [wrong, [law, why]] of Object.entries(found)) {
    it.effect(`find one that ${wrong}, and tell it by the fewest calls`, () =>
      Effect.gen(function*() {
        const check = PolicyLaws.check(limit(wrong as keyof typeof found), {
          held: (policy) => policy.inUse,
          runs: 300
        })
        const lawBroken = yield* Effect.flip(check)
        assert.strictEqual(lawBroken.law, law)
        assert.include(lawBroken.message, why)
        const { calls } = lawBroken.counterexample as PolicyLaws.Case
        assert.isAtMost(calls.length, wrong === "races" ? 2 : wrong === "stuck" ? 3 : 1)
      }))
  }
})
