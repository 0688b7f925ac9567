/** What must not move a circuit, and what must never be lost: late results, interrupts, defects, hung probes, clocks. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as CallContext from "../../src/contract/CallContext.ts"
import type * as CallError from "../../src/contract/CallError.ts"
import * as Interruption from "../../src/contract/Interruption.ts"
import type * as Outcome from "../../src/contract/Outcome.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as Bulkhead from "../../src/policy/Bulkhead.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Stamp from "../../src/policy/internal/stamp.ts"
import * as Policy from "../../src/policy/Policy.ts"
import { call, calls, hold, holdAll, reasonOf, slow } from "../support/breaker.ts"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"

/** Opens on one failure for a second, and decides by `probes`. */
const make = (probes: number, options: CircuitBreaker.CircuitBreakerOptions = {}) =>
  CircuitBreaker.make({
    consecutiveFailures: 1,
    openFor: "1 second",
    jitter: 0,
    halfOpen: { probes, successRatio: 1, lease: "10 seconds", ...options.halfOpen },
    ...options
  })

const tagOf = (breaker: CircuitBreaker.CircuitBreaker) => Effect.map(breaker.state, (state) => state._tag)

describe("CircuitBreaker: late results", () => {
  // RX-01
  it.effect("is not closed by the success of a call that was admitted before the trip", () =>
    Effect.gen(function*() {
      const breaker = yield* make(1)
      const old = yield* hold(breaker)
      yield* calls(breaker, "F")
      yield* TestClock.adjust("1 second")
      const probe = yield* hold(breaker)
      const halfOpen = yield* breaker.state
      yield* old.end("S")
      assert.deepStrictEqual(yield* breaker.state, { ...halfOpen, late: 1 })
      yield* probe.end("S")
      assert.strictEqual(yield* tagOf(breaker), "Closed")
    }))

  // RX-02
  it.effect("is not opened by the failure of a call that was admitted before the trip", () =>
    Effect.gen(function*() {
      const breaker = yield* make(1)
      const old = yield* holdAll(breaker, 3)
      yield* calls(breaker, "F")
      yield* TestClock.adjust("1 second")
      const probe = yield* hold(breaker)
      yield* old[0]!.end("F")
      assert.strictEqual(yield* tagOf(breaker), "HalfOpen")
      yield* probe.end("S")
      yield* old[1]!.end("F")
      yield* old[2]!.end("D")
      const { _tag, calls: counted, late } = yield* breaker.state
      assert.deepStrictEqual([_tag, counted, late], ["Closed", 0, 3])
    }))

  it.effect("does not take a result of one half-open period for another's", () =>
    Effect.gen(function*() {
      const breaker = yield* make(2)
      const [first, second] = yield* holdAll(breaker, 0).pipe(
        Effect.andThen(calls(breaker, "F")),
        Effect.andThen(TestClock.adjust("1 second")),
        Effect.andThen(holdAll(breaker, 2))
      )
      yield* first!.end("F")
      yield* TestClock.adjust("1 second")
      const probe = yield* hold(breaker)
      yield* second!.end("F")
      assert.deepStrictEqual([yield* tagOf(breaker), (yield* breaker.state).probes], ["HalfOpen", 1])
      yield* probe.end("S")
      yield* calls(breaker, "S")
      assert.strictEqual(yield* tagOf(breaker), "Closed")
    }))
})

describe("CircuitBreaker: interruption and defects", () => {
  // RX-04
  it.effect("takes a probe's permit back when its caller leaves: no failure, no success", () =>
    Effect.gen(function*() {
      const breaker = yield* make(1)
      yield* calls(breaker, "F")
      yield* TestClock.adjust("1 second")
      const probe = yield* hold(breaker)
      assert.strictEqual((yield* breaker.state).probes, 1)
      yield* probe.interrupt
      const { _tag, calls: counted, probes } = yield* breaker.state
      assert.deepStrictEqual([_tag, probes, counted], ["HalfOpen", 0, 0])
      assert.isTrue((yield* hold(breaker)).admitted)
    }))

  // RX-38
  it.effect("counts a probe that dies as failed, and takes its permit back", () =>
    Effect.gen(function*() {
      const breaker = yield* make(2, { halfOpen: { probes: 2, successRatio: 0.5 } })
      yield* calls(breaker, "F")
      yield* TestClock.adjust("1 second")
      yield* calls(breaker, "D")
      const { _tag, failures, probes } = yield* breaker.state
      assert.deepStrictEqual([_tag, failures, probes], ["HalfOpen", 1, 0])
      yield* calls(breaker, "D")
      assert.strictEqual(yield* tagOf(breaker), "Open")
    }))

  it.effect("counts ten thousand callers who leave as nothing", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make()
      for (let i = 0; i < 100; i++) {
        const held = yield* holdAll(breaker, 100)
        yield* Effect.forEach(held, (one) => one.interrupt)
      }
      const { _tag, calls: counted, late } = yield* breaker.state
      assert.deepStrictEqual([_tag, counted, late], ["Closed", 0, 0])
    }))

  it.effect("counts an interrupt by our own attempt timeout outside as a failure", () =>
    Effect.gen(function*() {
      const breaker = yield* make(1)
      const fiber = yield* Effect.forkChild(Policy.apply(Effect.never, breaker), { startImmediately: true })
      fiber.interruptUnsafe(undefined, Interruption.annotations.attemptTimeout)
      yield* Fiber.await(fiber)
      assert.strictEqual(yield* tagOf(breaker), "Open")
    }))

  it.effect("counts a hedge that lost as nothing", () =>
    Effect.gen(function*() {
      const breaker = yield* make(1)
      const fiber = yield* Effect.forkChild(Policy.apply(Effect.never, breaker), { startImmediately: true })
      fiber.interruptUnsafe(undefined, Interruption.annotations.hedgeLost)
      yield* Fiber.await(fiber)
      assert.strictEqual((yield* breaker.state).calls, 0)
    }))

  it.effect("holds no probe after an interrupt at any step", () =>
    interruptEverywhere(Effect.gen(function*() {
      const breaker = yield* make(1)
      yield* calls(breaker, "F")
      yield* TestClock.adjust("1 second")
      return {
        work: Policy.apply(Effect.replicateEffect(Effect.sync(() => {}), 4), breaker),
        check: (where) =>
          Effect.gen(function*() {
            const { _tag, probes } = yield* breaker.state
            assert.strictEqual(probes, 0, where)
            assert.isTrue(["Open", "HalfOpen", "Closed"].includes(_tag), where)
            assert.strictEqual(yield* calls(breaker, "S"), "S", where)
          })
      }
    })))

  it.effect("gives the context back after an interrupt at any step of a measured call", () =>
    interruptEverywhere(Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ slowCallRatio: 1, slowThreshold: "1 second" })
      let seen: unknown = "not asked"
      const ask = Effect.withFiber((fiber) => Effect.sync(() => (seen = fiber.getRef(Stamp.Current))))
      return {
        work: Effect.ensuring(Policy.apply(Effect.sync(() => {}), breaker), ask),
        check: (where) => Effect.sync(() => assert.isTrue(seen === undefined || seen === "not asked", where))
      }
    })))

  it.effect("gives a probe's permit back, and dies, when the call's classifier throws", () =>
    Effect.gen(function*() {
      const breaker = yield* make(1)
      const broken = Policy.apply(Effect.fail("down"), breaker).pipe(
        CallContext.annotate({
          classify: () => {
            throw new Error("a bug")
          }
        }),
        Effect.exit
      )
      assert.isTrue(Exit.hasDies(yield* broken))
      assert.deepStrictEqual([yield* tagOf(breaker), (yield* breaker.state).calls], ["Closed", 0])
      yield* calls(breaker, "F")
      yield* TestClock.adjust("1 second")
      assert.isTrue(Exit.hasDies(yield* broken))
      const { _tag, probes } = yield* breaker.state
      assert.deepStrictEqual([_tag, probes], ["HalfOpen", 0])
    }))
})

describe("CircuitBreaker: probes that hang", () => {
  it.effect("counts a probe as failed when its lease runs out, and lets another go", () =>
    Effect.gen(function*() {
      const breaker = yield* make(2, { halfOpen: { probes: 2, successRatio: 0.5, lease: "10 seconds" } })
      yield* calls(breaker, "F")
      yield* TestClock.adjust("1 second")
      const hung = yield* holdAll(breaker, 2)
      yield* TestClock.adjust(9999)
      assert.strictEqual((yield* breaker.state).probes, 2)
      assert.isFalse(breaker.wouldAdmit(yield* Clock.currentTimeMillis))
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* tagOf(breaker), "Open")
      yield* TestClock.adjust("1 second")
      // Two failed leases open it; what they say afterwards is too late.
      const before = yield* breaker.state
      yield* hung[0]!.end("S")
      assert.strictEqual((yield* breaker.state).late, before.late + 1)
      assert.strictEqual(yield* calls(breaker, "S"), "S")
    }))

  it.effect("does not take a success at the end of the lease", () =>
    Effect.gen(function*() {
      for (const [millis, tag] of [[9999, "Closed"], [10_000, "Open"]] as const) {
        const breaker = yield* make(1)
        yield* calls(breaker, "F")
        yield* TestClock.adjust("1 second")
        yield* slow(breaker, "S", millis)
        assert.strictEqual(yield* tagOf(breaker), tag)
      }
    }))

  it.effect("decides by the probes that ended when half-open has lasted long enough", () =>
    Effect.gen(function*() {
      for (const [script, tag] of [["SS", "Closed"], ["FS", "HalfOpen"], ["FSS", "Open"], ["", "HalfOpen"]] as const) {
        const breaker = yield* make(5, {
          halfOpen: { probes: 5, successRatio: 0.8, lease: "1 minute", maxWait: "10 seconds" }
        })
        yield* calls(breaker, "F")
        yield* TestClock.adjust("1 second")
        yield* calls(breaker, "I")
        yield* calls(breaker, script)
        yield* TestClock.adjust(9999)
        assert.strictEqual(yield* tagOf(breaker), "HalfOpen", script)
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* tagOf(breaker), tag === "HalfOpen" && script !== "" ? "Open" : tag, script)
      }
    }))

  it.effect("decides against probes of which enough were slow", () =>
    Effect.gen(function*() {
      for (const [millis, tag] of [[1001, "Open"], [1000, "Closed"]] as const) {
        const breaker = yield* make(5, {
          slowCallRatio: 0.5,
          slowThreshold: "1 second",
          halfOpen: { probes: 5, successRatio: 0.8, maxWait: "10 seconds" }
        })
        yield* breaker.trip("1 second")
        yield* TestClock.adjust("1 second")
        yield* slow(breaker, "S", millis)
        yield* calls(breaker, "S")
        yield* TestClock.adjust("9 seconds")
        assert.strictEqual(yield* tagOf(breaker), tag)
      }
    }))

  it.effect("takes a probe that has not ended by then for a failed one", () =>
    Effect.gen(function*() {
      const breaker = yield* make(5, {
        halfOpen: { probes: 5, successRatio: 0.8, lease: "1 minute", maxWait: "10 seconds" }
      })
      yield* calls(breaker, "F")
      yield* TestClock.adjust("1 second")
      yield* calls(breaker, "SS")
      yield* hold(breaker)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* breaker.state).why, "1 of 3 probes failed")
      assert.strictEqual(yield* tagOf(breaker), "Open")
    }))

  it.effect("says to a rejected call when the lease runs out, or when half-open does", () =>
    Effect.gen(function*() {
      const breaker = yield* make(1, { halfOpen: { probes: 1, lease: "10 seconds", maxWait: "8 seconds" } })
      yield* calls(breaker, "F")
      yield* TestClock.adjust("1 second")
      yield* hold(breaker)
      yield* TestClock.adjust("3 seconds")
      const reason = reasonOf(yield* call(breaker, "S")) as CallError.CircuitOpen
      assert.strictEqual(reason.retryAfterMillis, 5000)
    }))

  it.effect("does not let the lease run while the probe queues inside", () =>
    Effect.gen(function*() {
      const breaker = yield* make(1, { halfOpen: { probes: 1, lease: "2 seconds", maxWait: "1 minute" } })
      const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: 1, maxWait: "1 minute" })
      const stack = Policy.stack({ circuitBreaker: breaker, bulkhead })
      yield* calls(breaker, "F")
      const blocker = yield* hold(bulkhead)
      yield* TestClock.adjust("1 second")
      const probe = yield* hold(stack)
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual((yield* breaker.state).probes, 1)
      yield* blocker.end("S")
      yield* TestClock.adjust(1999)
      assert.strictEqual((yield* breaker.state).probes, 1)
      yield* TestClock.adjust(1)
      assert.strictEqual((yield* breaker.state).why, "1 of 1 probes failed")
      yield* probe.end("S")
      assert.strictEqual(yield* tagOf(breaker), "Open")
    }))
})

describe("CircuitBreaker: slow calls", () => {
  it.effect("does not count the wait for a permit inside as the endpoint's latency", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        slowCallRatio: 1,
        slowThreshold: "1 second",
        window: { calls: 10 },
        minimumCalls: 2
      })
      const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: 1, maxWait: "1 minute" })
      const stack = Policy.stack({ circuitBreaker: breaker, bulkhead })
      const blocker = yield* hold(bulkhead)
      const queued = yield* hold(stack)
      yield* TestClock.adjust("30 seconds")
      yield* blocker.end("S")
      yield* TestClock.adjust("1 second")
      yield* queued.end("S")
      assert.deepStrictEqual([(yield* breaker.state).calls, (yield* breaker.state).slowCalls], [1, 0])
      yield* slow(stack, "S", 1001)
      assert.strictEqual((yield* breaker.state).slowCalls, 1)
    }))

  it.effect("counts a call as slow above the threshold, whether it succeeds or fails", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        slowCallRatio: 0.5,
        slowThreshold: "1 second",
        window: { calls: 4 }
      })
      yield* slow(breaker, "S", 1000)
      assert.strictEqual((yield* breaker.state).slowCalls, 0)
      yield* slow(breaker, "S", 1001)
      yield* calls(breaker, "F")
      yield* slow(breaker, "F", 1001)
      const { _tag, why } = yield* breaker.state
      assert.deepStrictEqual([_tag, why], ["Open", "2 of 4 calls were slow"])
    }))
})

describe("CircuitBreaker: clocks and timers", () => {
  // RX-06, a breaker's part of it
  it.effect("does not notice the wall clock being set back an hour", () =>
    Effect.gen(function*() {
      const test = yield* Clock.Clock
      let skew = 0
      const skewed: Clock.Clock = {
        currentTimeMillisUnsafe: () => test.currentTimeMillisUnsafe() + skew,
        currentTimeMillis: Effect.sync(() => test.currentTimeMillisUnsafe() + skew),
        currentTimeNanosUnsafe: () => test.currentTimeNanosUnsafe() + BigInt(skew) * 1_000_000n,
        currentTimeNanos: Effect.sync(() => test.currentTimeNanosUnsafe() + BigInt(skew) * 1_000_000n),
        monotonicTimeNanosUnsafe: () => test.monotonicTimeNanosUnsafe(),
        monotonicTimeNanos: test.monotonicTimeNanos,
        sleep: (duration) => test.sleep(duration)
      }
      const breaker = yield* make(1)
      const skewedly = Effect.provideService(Clock.Clock, skewed)
      yield* skewedly(calls(breaker, "F"))
      skew = -3_600_000
      const reason = reasonOf(yield* skewedly(call(breaker, "S"))) as CallError.CircuitOpen
      assert.strictEqual(reason.retryAfterMillis, 1000)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* skewedly(calls(breaker, "S")), "S")
    }))

  // RX-08
  it.effect("does not open for a failure of 59 minutes ago", () =>
    Effect.gen(function*() {
      const timed = yield* CircuitBreaker.make({
        failureRatio: 0.5,
        window: { duration: "1 minute" },
        minimumCalls: 2
      })
      const aged = yield* CircuitBreaker.make({
        failureRatio: 0.5,
        window: { calls: 10, maxAge: "1 minute" },
        minimumCalls: 2
      })
      const ageless = yield* CircuitBreaker.make({ failureRatio: 0.5, window: { calls: 10 }, minimumCalls: 2 })
      const all = [timed, aged, ageless]
      yield* Effect.forEach(all, (breaker) => calls(breaker, "F"))
      yield* TestClock.adjust("59 minutes")
      yield* Effect.forEach(all, (breaker) => calls(breaker, "S"))
      assert.deepStrictEqual(yield* Effect.forEach(all, tagOf), ["Closed", "Closed", "Open"])
    }))

  it.effect("keeps no timer, in no state", () =>
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      const breaker = yield* make(1, { ramp: { duration: "9 seconds" } })
      yield* calls(breaker, "F")
      assert.strictEqual(Timer.size(clock), 0)
      yield* TestClock.adjust("1 second")
      const probe = yield* hold(breaker)
      assert.strictEqual(Timer.size(clock), 0)
      yield* probe.end("S")
      assert.strictEqual(yield* tagOf(breaker), "Recovering")
      assert.strictEqual(Timer.size(clock), 0)
    }))

  it.effect("leaves other users' classifications to the call, and may have its own", () =>
    Effect.gen(function*() {
      const statusOf = (exit: Exit.Exit<unknown, unknown>): Outcome.Outcome =>
        Exit.isSuccess(exit) && exit.value === 503
          ? { endpoint: "failure", retry: "ifIdempotent", retryAfterMillis: 7000 }
          : { endpoint: "success", retry: "never" }
      const breaker = yield* CircuitBreaker.make({ classify: statusOf, jitter: 0 })
      yield* Policy.apply(Effect.succeed(200), breaker)
      assert.strictEqual((yield* breaker.state).failures, 0)
      yield* Policy.apply(Effect.succeed(503), breaker)
      const { _tag, sinceMillis, untilMillis } = yield* breaker.state
      assert.deepStrictEqual([_tag, untilMillis! - sinceMillis], ["Open", 7000])
      // A success that says when to come back is a success.
      const polite = yield* CircuitBreaker.make({
        classify: () => ({ endpoint: "success", retry: "never", retryAfterMillis: 7000 })
      })
      yield* Policy.apply(Effect.void, polite)
      assert.strictEqual(yield* tagOf(polite), "Closed")
      const domain = yield* make(1)
      yield* Effect.exit(
        Policy.apply(Effect.fail("not found"), domain).pipe(
          CallContext.annotate({ classify: () => ({ endpoint: "success", retry: "never" }) })
        )
      )
      assert.deepStrictEqual([yield* tagOf(domain), (yield* domain.state).calls], ["Closed", 1])
    }))
})
