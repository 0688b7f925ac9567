import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Random from "effect/Random"
import { TestClock } from "effect/testing"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Interruption from "../../src/contract/Interruption.ts"
import * as Outcome from "../../src/contract/Outcome.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as AdaptiveThrottle from "../../src/policy/AdaptiveThrottle.ts"
import * as Policy from "../../src/policy/Policy.ts"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"

const overloaded = CallError.fail({ _tag: "Overloaded", target: "users", detail: "busy", sent: "no" })
const isThrottled = (error: unknown) => CallError.isCallError(error) && error.reason._tag === "Throttled"

/** Makes `count` attempts, `everyMillis` apart, and counts how many the throttle rejected. */
const push = <A, E>(
  throttle: AdaptiveThrottle.AdaptiveThrottle,
  count: number,
  attempt: Effect.Effect<A, E>,
  everyMillis = 0
) =>
  Effect.gen(function*() {
    let rejected = 0
    for (let i = 0; i < count; i++) {
      if (everyMillis > 0) yield* TestClock.adjust(everyMillis)
      const exit = yield* Effect.exit(Policy.apply(attempt, throttle))
      if (Exit.isFailure(exit) && isThrottled(Cause.squash(exit.cause))) rejected++
    }
    return rejected
  })

/** Open-loop arrivals in virtual time: of all attempts, which were rejected and when. */
const load = (
  throttle: AdaptiveThrottle.AdaptiveThrottle,
  perSecond: number,
  seconds: number,
  attempt: Effect.Effect<unknown, unknown>
) =>
  Effect.gen(function*() {
    const start = Timer.nowOf(yield* Clock.Clock)
    const log: Array<{ readonly at: number; passed: boolean }> = []
    const arrivals = Effect.gen(function*() {
      for (let i = 0; i < perSecond * seconds; i++) {
        const entry = { at: (i * 1000) / perSecond, passed: true }
        log.push(entry)
        yield* Policy.apply(attempt, throttle).pipe(
          Effect.catch((error) => Effect.sync(() => void (entry.passed = !isThrottled(error)))),
          Effect.forkDetach({ startImmediately: true })
        )
        const now = Timer.nowOf(yield* Clock.Clock) - start
        yield* Effect.sleep(Math.max(0, ((i + 1) * 1000) / perSecond - now))
      }
    })
    const fiber = yield* Effect.forkChild(arrivals)
    yield* TestClock.adjust(`${seconds} seconds`)
    yield* Fiber.join(fiber)
    return log
  })

const admitted = (log: ReadonlyArray<{ readonly at: number; readonly passed: boolean }>, fromMillis = 0) => {
  const within = log.filter(({ at }) => at >= fromMillis)
  return within.filter(({ passed }) => passed).length / within.length
}

/** Everything the calls inside report. */
const recorded = <A, E, R>(self: Effect.Effect<A, E, R>) => {
  const events: Array<CallEvent.CallEvent> = []
  return Effect.map(
    Effect.provideService(self, CallEvent.CurrentReceiver, { event: (event) => void events.push(event) }),
    (value) => [value, events] as const
  )
}

describe("AdaptiveThrottle", () => {
  it.effect("rejects the excess of what the server does not accept, saying by how much", () =>
    Effect.gen(function*() {
      const throttle = yield* AdaptiveThrottle.make({ maxRejection: 1, name: "users" })
      yield* push(throttle, 5, Effect.void)
      yield* push(throttle, 200, overloaded)
      const { accepts, ratio, rejections, requests } = yield* throttle.status
      assert.strictEqual(requests, 205)
      assert.strictEqual(accepts, 5)
      assert.isAbove(rejections, 100)
      assert.closeTo(ratio, (205 - 5 - 10) / 206, 1e-12)
      const [error, events] = yield* recorded(Effect.flip(
        Effect.flip(Policy.apply(overloaded, throttle)).pipe(
          Effect.repeat({ until: isThrottled }),
          Effect.flip
        )
      ))
      assert.isTrue(CallError.isCallError(error))
      assert.match((error as CallError.CallError).message, /^users: throttled, 9\d\.\d % of attempts are rejected$/)
      assert.deepInclude(events.at(-1), { _tag: "Rejected", policy: "users", reason: "Throttled" })
    }).pipe(Random.withSeed("throttle")))

  for (const [perSecond, millis, seconds] of [[40, 1200, 10], [100, 100, 10], [1000, 20, 3]] as const) {
    it.effect(`rejects nothing of a healthy server from the first of ${perSecond} attempts per second of ${millis} ms`, () =>
      Effect.gen(function*() {
        const throttle = yield* AdaptiveThrottle.make()
        const log = yield* load(throttle, perSecond, seconds, Effect.sleep(millis))
        assert.strictEqual(log.length, perSecond * seconds)
        assert.isAtLeast(admitted(log), 0.999)
      }))
  }

  it.effect("admits more than 99 % within one window of the server's recovery", () =>
    Effect.gen(function*() {
      const throttle = yield* AdaptiveThrottle.make({ window: "10 seconds" })
      yield* load(throttle, 50, 10, Effect.sleep(100))
      const down = yield* load(throttle, 50, 20, Effect.andThen(Effect.sleep(100), overloaded))
      assert.isBelow(admitted(down, 15_000), 0.2)
      const up = yield* load(throttle, 50, 20, Effect.sleep(100))
      assert.isAbove(admitted(up, 10_000), 0.99)
    }).pipe(Random.withSeed("recovery")))

  // AD-10
  it.effect("accepts after 4 failures and after 80 and 120 successes, and refuses after 100,000 failures", () =>
    Effect.gen(function*() {
      const options = { k: 1.5, kMin: 1.1, window: "10 seconds", maxRejection: 1 } as const
      const few = yield* AdaptiveThrottle.make(options)
      assert.strictEqual(yield* push(few, 4, overloaded), 0)
      assert.strictEqual(yield* push(few, 1, Effect.void), 0)
      const good = yield* AdaptiveThrottle.make(options)
      assert.strictEqual(yield* push(good, 81, Effect.void), 0)
      assert.strictEqual(yield* push(good, 121, Effect.void), 0)
      const bad = yield* AdaptiveThrottle.make(options)
      yield* push(bad, 10, Effect.void)
      assert.isAbove(yield* push(bad, 100_000, overloaded), 99_000)
    }).pipe(Random.withSeed("google")))

  // AD-11
  it.effect("does not count an acceptable error as a failure, and counts a defect, which it passes on", () =>
    Effect.gen(function*() {
      const throttle = yield* AdaptiveThrottle.make({ minimumCalls: 0, maxRejection: 1 })
      const acceptable = CallContext.annotate(Policy.apply(Effect.fail("no such user"), throttle), {
        classify: () => Outcome.success
      })
      for (let i = 0; i < 50; i++) assert.strictEqual(yield* Effect.flip(acceptable), "no such user")
      assert.strictEqual((yield* throttle.status).accepts, 50)
      const exit = yield* Effect.exit(Policy.apply(Effect.die("bug"), throttle))
      assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) === "bug")
      assert.include(yield* throttle.status, { requests: 51, accepts: 50, inFlight: 0 })
    }))

  // AD-16
  it.effect("drops about the maximum of 0.75 of 1,000 refused attempts, 1 s apart, and recovers within as many accepted", () =>
    Effect.gen(function*() {
      const throttle = yield* AdaptiveThrottle.make({
        window: "2 minutes",
        maxRejection: 0.75,
        forcedPass: "10 minutes"
      })
      const dropped = yield* push(throttle, 1000, overloaded, 1000)
      assert.isAtLeast(dropped, 650)
      assert.isAtMost(dropped, 850)
      yield* push(throttle, 1000, Effect.void, 1000)
      const { accepts, ratio, requests } = yield* throttle.status
      assert.strictEqual(ratio, 0)
      assert.isAbove(accepts / requests, 0.9)
    }).pipe(Random.withSeed("nack")))

  // RX-34
  it.effect("stays shut while callers push constantly, since what it drops are requests too", () =>
    Effect.gen(function*() {
      const throttle = yield* AdaptiveThrottle.make({ maxRejection: 1, forcedPass: "1 minute" })
      yield* push(throttle, 1000, overloaded, 10)
      const rejected = yield* push(throttle, 1000, overloaded, 10)
      assert.isAtLeast(rejected, 990)
      const { accepts, rejections, requests } = yield* throttle.status
      assert.isAbove(rejections, 1900)
      assert.strictEqual(accepts, 0)
      assert.strictEqual(requests, 2000)
    }).pipe(Random.withSeed("push")))

  it.effect("lets one attempt pass per second, whatever the ratio", () =>
    Effect.gen(function*() {
      const throttle = yield* AdaptiveThrottle.make({ maxRejection: 1 })
      yield* push(throttle, 10_000, overloaded)
      let passed = 0
      for (let tick = 0; tick < 100; tick++) {
        passed += 1 - (yield* push(throttle, 1, overloaded, 100))
      }
      assert.isAtLeast(passed, 10)
      assert.isAtMost(passed, 12)
    }).pipe(Random.withSeed("forced")))

  it.effect("counts neither a caller that leaves nor a rejection by a policy inside", () =>
    Effect.gen(function*() {
      const throttle = yield* AdaptiveThrottle.make()
      const inside = CallError.fail({ _tag: "BulkheadFull", policy: "b", sent: "no", limit: 1, queued: 0 })
      yield* Effect.exit(Policy.apply(inside, throttle))
      const fiber = yield* Effect.forkChild(Policy.apply(Effect.never, throttle), { startImmediately: true })
      assert.include(yield* throttle.status, { requests: 0, inFlight: 1 })
      yield* Fiber.interrupt(fiber)
      assert.include(yield* throttle.status, { requests: 0, accepts: 0, rejections: 0, inFlight: 0 })
      const timedOut = yield* Effect.forkChild(Policy.apply(Effect.never, throttle), { startImmediately: true })
      timedOut.interruptUnsafe(undefined, Interruption.annotations.attemptTimeout)
      yield* Fiber.await(timedOut)
      assert.include(yield* throttle.status, { requests: 1, accepts: 0, inFlight: 0 })
    }))

  it.effect("ends every attempt once, wherever its fiber is interrupted", () =>
    Effect.gen(function*() {
      yield* interruptEverywhere(Effect.map(AdaptiveThrottle.make(), (throttle) => ({
        work: Policy.apply(Effect.never, throttle),
        check: (where) =>
          Effect.map(throttle.status, (status) => assert.include(status, { inFlight: 0, requests: 0 }, where))
      })))
      assert.strictEqual(Timer.size(yield* Clock.Clock), 0)
    }))

  it.effect("is done with an attempt even if the caller's classifier throws", () =>
    Effect.gen(function*() {
      const throttle = yield* AdaptiveThrottle.make()
      const call = CallContext.annotate(Policy.apply(Effect.fail("x"), throttle), {
        classify: () => {
          throw new Error("classifier")
        }
      })
      assert.isTrue(Exit.hasDies(yield* Effect.exit(call)))
      assert.strictEqual((yield* throttle.status).inFlight, 0)
    }))

  it.effect("announces itself with figures as plain data", () =>
    Effect.gen(function*() {
      const registered: Array<Policy.Registered> = []
      const registry: Policy.Registry = { register: (policy) => (registered.push(policy), () => {}) }
      const throttle = yield* Effect.provideService(
        AdaptiveThrottle.make({ name: "users" }),
        Policy.CurrentRegistry,
        registry
      )
      yield* push(throttle, 3, Effect.void)
      assert.deepInclude(registered[0], { name: "users", kind: "adaptiveThrottle" })
      assert.deepInclude(registered[0]!.snapshot(), { requests: 3, accepts: 3, ratio: 0 })
    }))

  it.effect("dies when an option is out of its range", () =>
    Effect.gen(function*() {
      const message = (options: AdaptiveThrottle.AdaptiveThrottleOptions) =>
        Effect.map(Effect.exit(AdaptiveThrottle.make(options)), (exit) =>
          Exit.isFailure(exit) ? (Cause.squash(exit.cause) as Error).message : "made")
      assert.strictEqual(
        yield* message({ k: 0.9 }),
        "AdaptiveThrottle.make: k must be a number >= 1, got 0.9"
      )
      assert.strictEqual(
        yield* message({ k: 1.5, kMin: 1.6 }),
        "AdaptiveThrottle.make: kMin must be a number in [1, 1.5], got 1.6"
      )
      assert.match(yield* message({ window: 0 }), /window must be a positive and finite duration/)
      assert.match(yield* message({ minimumCalls: 1.5 }), /minimumCalls must be an integer >= 0/)
      assert.match(yield* message({ maxRejection: Number.NaN }), /maxRejection must be in \(0, 1\]/)
      assert.match(yield* message({ forcedPass: "Infinity" as never }), /forcedPass must be/)
    }))
})
