/** The configurations that the field knows by heart, the defaults, and what is refused. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Random, Schedule } from "effect"
import { TestClock } from "effect/testing"
import * as CallError from "../../src/contract/CallError.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Policy from "../../src/policy/Policy.ts"
import { call, calls, holdAll, reasonOf, recording, slow } from "../support/breaker.ts"

const tagOf = (breaker: CircuitBreaker.CircuitBreaker) => Effect.map(breaker.state, (state) => state._tag)

/** How long the circuit is open, from now. */
const openFor = (breaker: CircuitBreaker.CircuitBreaker) =>
  Effect.map(breaker.state, ({ sinceMillis, untilMillis }) => untilMillis! - sinceMillis)

describe("CircuitBreaker, configurations known by heart", () => {
  it.effect("50 % of the last 10 calls, open 1 s", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        failureRatio: 0.5,
        window: { calls: 10 },
        openFor: "1 second",
        jitter: 0
      })
      // A full window decides, so five failures alone do not.
      yield* calls(breaker, "FFFFF SSSS")
      assert.strictEqual(yield* tagOf(breaker), "Closed")
      yield* calls(breaker, "S")
      assert.strictEqual((yield* breaker.state).why, "5 of 10 calls failed")
      yield* TestClock.adjust(999)
      assert.strictEqual(yield* calls(breaker, "S"), "-")
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* calls(breaker, "S"), "S")
    }))

  it.effect("at least 20 calls in the window, 50 %, open 5 s", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        failureRatio: 0.5,
        window: { duration: "10 seconds" },
        minimumCalls: 20,
        openFor: "5 seconds",
        jitter: 0
      })
      yield* calls(breaker, "F".repeat(19))
      assert.strictEqual(yield* tagOf(breaker), "Closed")
      yield* TestClock.adjust("10 seconds")
      yield* calls(breaker, "F".repeat(10) + "S".repeat(9))
      assert.strictEqual(yield* tagOf(breaker), "Closed")
      yield* calls(breaker, "S")
      assert.deepStrictEqual([yield* tagOf(breaker), yield* openFor(breaker)], ["Open", 5000])
    }))

  for (const more of [3, 5]) {
    it.effect(`more than ${more} failures in a row, counts reset every 60 s, open 5 s, 3 half-open calls`, () =>
      Effect.gen(function*() {
        const breaker = yield* CircuitBreaker.make({
          consecutiveFailures: { failures: more + 1, resetEvery: "60 seconds" },
          openFor: "5 seconds",
          jitter: 0,
          halfOpen: { probes: 3, successRatio: 1 }
        })
        yield* TestClock.adjust("59 seconds")
        yield* calls(breaker, "F".repeat(more))
        yield* TestClock.adjust("1 second")
        yield* calls(breaker, "F".repeat(more))
        assert.strictEqual(yield* tagOf(breaker), "Closed")
        yield* calls(breaker, "F")
        assert.deepStrictEqual([yield* tagOf(breaker), yield* openFor(breaker)], ["Open", 5000])
        yield* TestClock.adjust("5 seconds")
        const held = yield* holdAll(breaker, 4)
        assert.deepStrictEqual(held.map((one) => one.admitted), [true, true, true, false])
        yield* Effect.forEach(held.slice(0, 3), (one) => one.end("S"))
        assert.strictEqual(yield* tagOf(breaker), "Closed")
        // The period counts from closing.
        yield* TestClock.adjust("59 seconds")
        yield* calls(breaker, "F".repeat(more))
        yield* TestClock.adjust("1 second")
        yield* calls(breaker, "F")
        assert.strictEqual(yield* tagOf(breaker), "Closed")
      }))
  }

  it.effect("a slow-call ratio", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        slowCallRatio: 0.8,
        slowThreshold: "2 seconds",
        window: { calls: 5 },
        minimumCalls: 4,
        openFor: "1 second"
      })
      for (const millis of [2001, 2001, 2000, 2001]) yield* slow(breaker, "S", millis)
      const { _tag, failureRatio, slowCallRatio } = yield* breaker.state
      assert.deepStrictEqual([_tag, failureRatio, slowCallRatio], ["Closed", 0, 0.75])
      yield* slow(breaker, "S", 2001)
      assert.strictEqual((yield* breaker.state).why, "4 of 5 calls were slow")
    }))

  it.effect("an error ratio over 10 s in 1 s buckets", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        failureRatio: 0.5,
        minimumCalls: 10,
        window: { duration: "10 seconds", buckets: 10 }
      })
      yield* calls(breaker, "FFFF")
      yield* TestClock.adjust("9999 millis")
      yield* calls(breaker, "SSSSS")
      assert.strictEqual((yield* breaker.state).calls, 9)
      yield* TestClock.adjust("1 millis")
      assert.strictEqual((yield* breaker.state).calls, 5)
      yield* calls(breaker, "FFFF")
      assert.strictEqual(yield* tagOf(breaker), "Closed")
      yield* calls(breaker, "F")
      assert.strictEqual((yield* breaker.state).why, "5 of 10 calls failed")
    }))
})

describe("CircuitBreaker, defaults", () => {
  it.effect("opens at 10 failures in a row", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make()
      yield* calls(breaker, "S".repeat(30) + "F".repeat(9) + "S" + "F".repeat(9))
      assert.strictEqual(yield* tagOf(breaker), "Closed")
      yield* calls(breaker, "F")
      assert.strictEqual((yield* breaker.state).why, "10 failures in a row")
    }))

  it.effect("opens at half of 20 calls, not of 19", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make()
      yield* calls(breaker, "FFFFFFFFF SSSSSSSSSS")
      assert.strictEqual(yield* tagOf(breaker), "Closed")
      yield* calls(breaker, "F")
      assert.strictEqual((yield* breaker.state).why, "10 of 20 calls failed")
    }))

  it.effect("takes the last 100 calls, and forgets a failure after a minute", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make()
      yield* calls(breaker, "FS".repeat(9))
      yield* calls(breaker, "S".repeat(200))
      assert.deepStrictEqual([(yield* breaker.state).calls, (yield* breaker.state).failures], [100, 0])
      yield* calls(breaker, "FS")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual([(yield* breaker.state).calls, (yield* breaker.state).failures], [1, 0])
    }))

  it.effect("states a condition and has that one only", () =>
    Effect.gen(function*() {
      const ratio = yield* CircuitBreaker.make({ failureRatio: 1, window: { calls: 100 } })
      yield* calls(ratio, "F".repeat(99))
      assert.strictEqual(yield* tagOf(ratio), "Closed")
      const row = yield* CircuitBreaker.make({ consecutiveFailures: 3 })
      yield* calls(row, "FFS".repeat(50))
      assert.strictEqual(yield* tagOf(row), "Closed")
    }))

  it.effect("opens for 1, 2, 4, … 32, 60, 60 s, less a fifth at most, which is random", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ consecutiveFailures: 1 })
      const lasted: Array<number> = []
      for (let i = 0; i < 8; i++) {
        yield* calls(breaker, i === 0 ? "F" : "FF")
        const millis = yield* openFor(breaker)
        lasted.push(millis)
        yield* TestClock.adjust(Math.ceil(millis))
      }
      for (const [i, seconds] of [1, 2, 4, 8, 16, 32, 60, 60].entries()) {
        assert.isTrue(lasted[i]! <= seconds * 1000 && lasted[i]! > seconds * 800, `${i}: ${lasted[i]}`)
      }
    }).pipe(Random.withSeed("ladder")))

  // RX-36, a breaker's part of it
  it.effect("does not let a thousand instances probe at the same time", () =>
    Effect.gen(function*() {
      const lasted = yield* Effect.replicateEffect(
        Effect.gen(function*() {
          const breaker = yield* CircuitBreaker.make({ consecutiveFailures: 1 })
          yield* calls(breaker, "F")
          return yield* openFor(breaker)
        }),
        1000
      )
      lasted.sort((a, b) => a - b)
      assert.isAtLeast(lasted[899]! - lasted[100]!, 140)
    }).pipe(Random.withSeed("herd")))

  it.effect("probes with five calls, of which four must succeed", () =>
    Effect.gen(function*() {
      for (
        const [script, tag] of [["FSSS", "HalfOpen"], ["FSSSS", "Closed"], ["SFF", "Open"], ["SSSS", "Closed"]] as const
      ) {
        const breaker = yield* CircuitBreaker.make()
        yield* breaker.trip("1 second")
        yield* TestClock.adjust("1 second")
        yield* calls(breaker, script)
        assert.strictEqual(yield* tagOf(breaker), tag, script)
      }
      const breaker = yield* CircuitBreaker.make()
      yield* breaker.trip("1 second")
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* holdAll(breaker, 7)).filter((held) => held.admitted).length, 5)
      yield* TestClock.adjust(9999)
      assert.strictEqual((yield* breaker.state).probes, 5)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* tagOf(breaker), "Open")
    }))

  it.effect("admits fewer probes at once where it is told", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ halfOpen: { probes: 5, concurrency: 2 } })
      yield* breaker.trip("1 second")
      yield* TestClock.adjust("1 second")
      const [one] = yield* holdAll(breaker, 2)
      assert.strictEqual(yield* calls(breaker, "S"), "-")
      yield* one!.end("S")
      assert.strictEqual(yield* calls(breaker, "SS"), "SS")
    }))
})

describe("CircuitBreaker, open duration", () => {
  it.effect("begins anew only after staying closed as long as it was last open", () =>
    Effect.gen(function*() {
      for (const [closedFor, next] of [[3999, 8000], [4000, 1000]] as const) {
        const breaker = yield* CircuitBreaker.make({
          consecutiveFailures: 1,
          openFor: Schedule.exponential("1 second"),
          jitter: 0,
          halfOpen: { probes: 1 }
        })
        for (const seconds of [1, 2, 4]) {
          yield* calls(breaker, "F")
          yield* TestClock.adjust(Duration.seconds(seconds))
        }
        yield* calls(breaker, "S")
        yield* TestClock.adjust(closedFor)
        yield* calls(breaker, "F")
        assert.strictEqual(yield* openFor(breaker), next)
      }
    }))

  it.effect("is capped, also where the Schedule grows for ever", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        consecutiveFailures: 1,
        openFor: Schedule.exponential("1 minute"),
        jitter: 0,
        halfOpen: { probes: 1 }
      })
      for (let i = 0; i < 60; i++) {
        yield* calls(breaker, "F")
        yield* TestClock.adjust("5 minutes")
      }
      yield* calls(breaker, "F")
      assert.strictEqual(yield* openFor(breaker), 300_000)
    }))

  it.effect("is not capped below a duration that is stated", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ consecutiveFailures: 1, openFor: "1 hour", jitter: 0 })
      yield* calls(breaker, "F")
      assert.strictEqual(yield* openFor(breaker), 3_600_000)
    }))
})

describe("CircuitBreaker and the server's word", () => {
  const saying = (reason: CallError.Reason) => CallError.fail(reason)
  const unavailable = (retryAfterMillis: number | undefined) =>
    saying({ _tag: "Unavailable", target: "users", detail: "draining", sent: "maybe", retryAfterMillis })

  it.effect("opens at one Unavailable, for as long as it says", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ jitter: 0 })
      const [, events] = yield* recording(Effect.exit(Policy.apply(unavailable(30_000), breaker)))
      assert.strictEqual(events[0]?._tag === "Transition" && events[0].why, "asked to stay away for 30000ms")
      yield* TestClock.adjust("29999 millis")
      assert.strictEqual((reasonOf(yield* call(breaker, "S")) as CallError.CircuitOpen).retryAfterMillis, 1)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* calls(breaker, "S"), "S")
    }))

  it.effect("comes back no earlier than asked, with jitter, and no later than the cap", () =>
    Effect.gen(function*() {
      for (const [asked, least, most] of [[10_000, 10_000, 12_000], [86_400_000, 300_000, 300_000]] as const) {
        const lasted = yield* Effect.replicateEffect(
          Effect.gen(function*() {
            const breaker = yield* CircuitBreaker.make()
            yield* Effect.exit(Policy.apply(unavailable(asked), breaker))
            return yield* openFor(breaker)
          }),
          100
        )
        assert.isAtLeast(Math.min(...lasted), least)
        assert.isAtMost(Math.max(...lasted), most)
        assert.isTrue(new Set(lasted).size > 1 || least === most)
      }
    }).pipe(Random.withSeed("asked")))

  it.effect("opens again for a probe that is told to stay away", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ jitter: 0, halfOpen: { probes: 5 } })
      yield* breaker.trip("1 second")
      yield* TestClock.adjust("1 second")
      yield* Effect.exit(Policy.apply(unavailable(20_000), breaker))
      assert.deepStrictEqual([yield* tagOf(breaker), yield* openFor(breaker)], ["Open", 20_000])
    }))

  it.effect("does not open for overload, for a rate limit, without a time, or where it is told not to listen", () =>
    Effect.gen(function*() {
      const from = { target: "users", detail: "busy", sent: "no", retryAfterMillis: 5000 } as const
      const breaker = yield* CircuitBreaker.make()
      for (
        const failing of [
          saying({ _tag: "Overloaded", ...from }),
          saying({ _tag: "RateLimited", ...from }),
          unavailable(undefined),
          unavailable(0)
        ]
      ) yield* Effect.exit(Policy.apply(failing, breaker))
      const { _tag, failures } = yield* breaker.state
      assert.deepStrictEqual([_tag, failures], ["Closed", 4])
      const deaf = yield* CircuitBreaker.make({ retryAfter: false })
      yield* Effect.exit(Policy.apply(unavailable(5000), deaf))
      assert.strictEqual(yield* tagOf(deaf), "Closed")
    }))
})

describe("CircuitBreaker, refused options", () => {
  const refused: ReadonlyArray<readonly [CircuitBreaker.CircuitBreakerOptions, string]> = [
    [{ consecutiveFailures: 0 }, "consecutiveFailures must be an integer >= 1, got 0"],
    [{ consecutiveFailures: { failures: 1.5 } }, "consecutiveFailures must be an integer >= 1, got 1.5"],
    [
      { consecutiveFailures: { failures: 1, resetEvery: 0 } },
      "consecutiveFailures.resetEvery must be a positive and finite duration, got 0"
    ],
    [{ failureRatio: 0 }, "failureRatio must be in (0, 1], got 0"],
    [{ failureRatio: Number.NaN }, "failureRatio must be in (0, 1], got NaN"],
    [{ slowCallRatio: 1.1, slowThreshold: 1 }, "slowCallRatio must be in (0, 1], got 1.1"],
    [{ slowCallRatio: 0.5 }, "slowThreshold must be stated for a slowCallRatio, got undefined"],
    [{ slowThreshold: 0 }, "slowThreshold must be a positive and finite duration, got 0"],
    [{ window: { calls: 0 } }, "window.calls must be an integer in [1, 1000000], got 0"],
    [{ window: { calls: 5, maxAge: 0 } }, "window.maxAge must be a positive and finite duration, got 0"],
    [{ window: { duration: 0 } }, "window.duration must be a positive and finite duration, got 0"],
    [{ window: { duration: 10, buckets: 0 } }, "window.buckets must be an integer in [1, 10000], got 0"],
    [{ window: { calls: 5 }, minimumCalls: 6 }, "minimumCalls must be an integer in [1, 5], got 6"],
    [{ minimumCalls: 0, window: { duration: 10 } }, "minimumCalls must be an integer >= 1, got 0"],
    [{ openFor: Duration.infinity }, "openFor must be a duration >= 0 and finite, got Infinity"],
    [{ openFor: Schedule.recurs(0) }, "openFor must be a Schedule of at least one delay, got 0"],
    [{ openFor: Schedule.spaced(Duration.millis(-1)) }, "openFor must be a Schedule of delays >= 0, got -1"],
    [{ maxOpenFor: 0 }, "maxOpenFor must be a positive and finite duration, got 0"],
    [{ jitter: 1.5 }, "jitter must be in [0, 1], got 1.5"],
    [{ halfOpen: { probes: 0 } }, "halfOpen.probes must be an integer >= 1, got 0"],
    [{ halfOpen: { probes: 3, concurrency: 4 } }, "halfOpen.concurrency must be an integer in [1, 3], got 4"],
    [{ halfOpen: { successRatio: 0 } }, "halfOpen.successRatio must be in (0, 1], got 0"],
    [{ halfOpen: { lease: 0 } }, "halfOpen.lease must be a positive and finite duration, got 0"],
    [{ halfOpen: { maxWait: 0 } }, "halfOpen.maxWait must be a positive and finite duration, got 0"],
    [{ ramp: { duration: 0 } }, "ramp.duration must be a positive and finite duration, got 0"],
    [{ ramp: { duration: 1, initialShare: 0 } }, "ramp.initialShare must be in (0, 1], got 0"]
  ]
  for (const [options, message] of refused) {
    it.effect(message, () =>
      Effect.gen(function*() {
        const exit = yield* Effect.exit(CircuitBreaker.make(options))
        assert.deepStrictEqual(exit, Exit.die(new RangeError(`CircuitBreaker.make: ${message}`)))
      }))
  }
})
