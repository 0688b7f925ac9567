/** What other breakers' tests ask of a breaker, with our answers. The ids are those of the catalogue of scenarios. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Exit, Fiber, Schedule } from "effect"
import { TestClock } from "effect/testing"
import * as CallError from "../../src/contract/CallError.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as Timeout from "../../src/policy/Timeout.ts"
import { call, calls, hold, holdAll, reasonOf, recording, slow, transitions } from "../support/breaker.ts"

/**
 * 50 % of at least 5 calls in 20 s, half of them slower than 4 s, open 5 s, 4
 * probes. resilience4j closes below 50 % failed probes, which is 3 of 4 good ones.
 */
const fixture = (options: CircuitBreaker.CircuitBreakerOptions = {}) =>
  CircuitBreaker.make({
    failureRatio: 0.5,
    slowCallRatio: 0.5,
    slowThreshold: "4 seconds",
    window: { duration: "20 seconds", buckets: 20 },
    minimumCalls: 5,
    openFor: "5 seconds",
    jitter: 0,
    halfOpen: { probes: 4, successRatio: 0.75, maxWait: "1 second" },
    ...options
  })

/** A breaker that one failure opens for a second, half-open by now. */
const halfOpen = (options: CircuitBreaker.CircuitBreakerOptions) =>
  Effect.gen(function*() {
    const breaker = yield* CircuitBreaker.make({ consecutiveFailures: 1, openFor: "1 second", jitter: 0, ...options })
    yield* calls(breaker, "F")
    yield* TestClock.adjust("1 second")
    return breaker
  })

const tagOf = (breaker: CircuitBreaker.CircuitBreaker) => Effect.map(breaker.state, (state) => state._tag)

describe("CircuitBreaker, scenarios: Closed", () => {
  // CB-01
  it.effect("knows no ratio below the minimum, and opens on a success that reaches it", () =>
    Effect.gen(function*() {
      const breaker = yield* fixture()
      const [, events] = yield* recording(Effect.gen(function*() {
        for (const mark of ["F", "F", "F", "S"] as const) {
          yield* call(breaker, mark)
          const { _tag, failureRatio } = yield* breaker.state
          assert.deepStrictEqual([_tag, failureRatio], ["Closed", undefined])
        }
        yield* call(breaker, "S")
        assert.strictEqual(yield* calls(breaker, "S"), "-")
      }))
      assert.deepStrictEqual(transitions(events), ["Closed>Open"])
      const { _tag, calls: counted, rejected, why } = yield* breaker.state
      assert.deepStrictEqual([_tag, counted, rejected, why], ["Open", 0, 1, "3 of 5 calls failed"])
    }))

  // CB-02
  it.effect("stays closed at 40 % and opens at 50 %: the threshold is inclusive", () =>
    Effect.gen(function*() {
      const breaker = yield* fixture()
      for (const mark of ["S", "S", "S", "F", "F"] as const) {
        yield* call(breaker, mark)
        yield* TestClock.adjust("1 second")
      }
      const { _tag, failureRatio } = yield* breaker.state
      assert.deepStrictEqual([_tag, failureRatio], ["Closed", 0.4])
      yield* call(breaker, "F")
      assert.strictEqual((yield* breaker.state).why, "3 of 6 calls failed")
    }))

  // CB-20
  it.effect("opens at the sixth failure in a row, for a minute, again for a failed probe, and closes with nothing counted", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        consecutiveFailures: 6,
        openFor: "60 seconds",
        jitter: 0,
        halfOpen: { probes: 1 }
      })
      assert.strictEqual(yield* calls(breaker, "FFFFF S FFFFF F --"), "FFFFFSFFFFFF--")
      yield* TestClock.adjust(59_999)
      assert.strictEqual(yield* calls(breaker, "S"), "-")
      yield* TestClock.adjust(1)
      const probe = yield* hold(breaker)
      assert.strictEqual(yield* tagOf(breaker), "HalfOpen")
      yield* probe.end("F")
      assert.strictEqual(yield* calls(breaker, "S"), "-")
      yield* TestClock.adjust("60 seconds")
      assert.strictEqual(yield* calls(breaker, "S"), "S")
      const { _tag, calls: counted, failures } = yield* breaker.state
      assert.deepStrictEqual([_tag, counted, failures], ["Closed", 0, 0])
    }))

  // CB-25
  it.effect("drops the first of ten buckets when the eleventh begins, and opens at 14 failures of 23", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        failureRatio: 0.6,
        minimumCalls: 3,
        window: { duration: "30 seconds", buckets: 10 }
      })
      yield* calls(breaker, "SFI SFI SFI SFI SFI")
      yield* TestClock.adjust("3 seconds")
      for (let bucket = 1; bucket < 10; bucket++) {
        yield* calls(breaker, bucket === 1 ? "S" : bucket < 4 ? "SFI" : "SF")
        yield* TestClock.adjust("3 seconds")
      }
      const { calls: counted, failures } = yield* breaker.state
      // Ignored calls count nothing, so 17 where the peer counts 19.
      assert.deepStrictEqual([counted, failures], [17, 8])
      assert.strictEqual(yield* calls(breaker, "FFFFF"), "FFFFF")
      assert.strictEqual(yield* tagOf(breaker), "Closed")
      yield* calls(breaker, "F")
      assert.strictEqual((yield* breaker.state).why, "14 of 23 calls failed")
    }))

  // CB-26
  it.effect("counts a defect as a failure and passes it on", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ consecutiveFailures: 2 })
      const exit = yield* call(breaker, "D")
      assert.deepStrictEqual(exit, Exit.die("broken"))
      assert.strictEqual((yield* breaker.state).failures, 1)
    }))

  // CB-28
  it.effect("opens for the largest duration there is without overflowing", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        consecutiveFailures: 1,
        openFor: Duration.millis(Number.MAX_VALUE),
        jitter: 0
      })
      yield* TestClock.adjust("1000 days")
      yield* calls(breaker, "F")
      const { _tag, untilMillis } = yield* breaker.state
      assert.deepStrictEqual([_tag, untilMillis], ["Open", Number.MAX_SAFE_INTEGER])
      const rejection = reasonOf(yield* call(breaker, "S")) as CallError.CircuitOpen
      assert.isTrue(Number.isFinite(rejection.retryAfterMillis))
    }))

  // CB-31
  it.effect("expires what is old when it is read, without a call", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        failureRatio: 1,
        minimumCalls: 1,
        window: { duration: "10 seconds", buckets: 10 }
      })
      const read = Effect.map(breaker.state, (state) => [state.calls, state.failureRatio])
      const seen: Array<unknown> = []
      for (const round of ["SF", "SF", "SS", "SS", "SS"]) {
        yield* calls(breaker, round)
        yield* TestClock.adjust("2 seconds")
        seen.push(yield* read)
      }
      yield* TestClock.adjust("2 seconds")
      seen.push(yield* read)
      assert.deepStrictEqual(seen, [[2, 0.5], [4, 0.5], [6, 1 / 3], [8, 0.25], [8, 0.125], [6, 0]])
    }))

  // CB-35
  it.effect("forgets a failure after 200 ms", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        failureRatio: 0.6,
        minimumCalls: 3,
        window: { duration: "200 millis" },
        openFor: 0
      })
      yield* calls(breaker, "FS")
      yield* TestClock.adjust(210)
      yield* calls(breaker, "FS")
      yield* TestClock.adjust(50)
      assert.strictEqual(yield* tagOf(breaker), "Closed")
      yield* calls(breaker, "F")
      assert.strictEqual(yield* tagOf(breaker), "Open")
    }))

  // CB-40: the peer's test is a strict one, and opens at the 26th failure of 50.
  it.effect("opens at 25 failures of 50 where the threshold is a half", () =>
    Effect.gen(function*() {
      const options = { failureRatio: 0.5, window: { calls: 100 }, minimumCalls: 50 } as const
      const half = yield* CircuitBreaker.make(options)
      yield* calls(half, "S".repeat(25) + "F".repeat(24))
      assert.strictEqual(yield* tagOf(half), "Closed")
      yield* calls(half, "F")
      assert.strictEqual(yield* tagOf(half), "Open")
      const less = yield* CircuitBreaker.make(options)
      yield* calls(less, "S".repeat(26) + "F".repeat(24))
      assert.strictEqual(yield* tagOf(less), "Closed")
    }))

  // CB-41
  it.effect("opens on the third failure where the minimum is 3, and reopens on one, whatever the minimum", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        failureRatio: 0.01,
        minimumCalls: 3,
        window: { duration: "10 seconds" },
        openFor: "1 second",
        jitter: 0,
        halfOpen: { probes: 1 }
      })
      assert.strictEqual(yield* calls(breaker, "FFF"), "FFF")
      assert.strictEqual(yield* tagOf(breaker), "Open")
      yield* TestClock.adjust("1 second")
      yield* calls(breaker, "F")
      assert.strictEqual(yield* tagOf(breaker), "Open")
    }))

  // CB-44: the peer weighs by age and opens at the 70th failure; a window of 100 calls is half full of them at the 50th.
  it.effect("opens when half of the last 100 calls have failed, after 100 successes", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ failureRatio: 0.5, window: { calls: 100 } })
      yield* calls(breaker, "S".repeat(100) + "F".repeat(49))
      assert.strictEqual(yield* tagOf(breaker), "Closed")
      yield* calls(breaker, "F")
      assert.strictEqual(yield* tagOf(breaker), "Open")
    }))

  // CB-47
  it.effect("counts the timeout of an attempt inside it as a failure", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ consecutiveFailures: 1 })
      const timeout = yield* Timeout.make({ timeout: "50 millis" })
      const stack = Policy.stack({ circuitBreaker: breaker, timeout })
      const fiber = yield* Effect.forkChild(Effect.exit(Policy.apply(Effect.sleep("100 millis"), stack)), {
        startImmediately: true
      })
      yield* TestClock.adjust("50 millis")
      assert.strictEqual(reasonOf(yield* Fiber.join(fiber))?._tag, "AttemptTimeout")
      assert.strictEqual(yield* tagOf(breaker), "Open")
    }))
})

describe("CircuitBreaker, scenarios: Open", () => {
  // CB-04
  it.effect("rejects while open, then lets a call probe with nothing counted", () =>
    Effect.gen(function*() {
      const breaker = yield* fixture()
      yield* calls(breaker, "FF")
      yield* breaker.trip()
      assert.strictEqual(yield* calls(breaker, "S"), "-")
      yield* TestClock.adjust("3 seconds")
      assert.strictEqual(yield* calls(breaker, "S"), "-")
      yield* TestClock.adjust("3 seconds")
      yield* hold(breaker)
      const { _tag, calls: counted, failureRatio, failures, rejected } = yield* breaker.state
      assert.deepStrictEqual([_tag, counted, failures, failureRatio, rejected], ["HalfOpen", 0, 0, undefined, 2])
    }))

  // CB-05
  it.effect("opens by hand for as long as it is told", () =>
    Effect.gen(function*() {
      const breaker = yield* fixture()
      for (const minutes of [120, 30]) {
        yield* breaker.trip(Duration.minutes(minutes))
        yield* TestClock.adjust(Duration.minutes(minutes / 2))
        assert.strictEqual(yield* calls(breaker, "S"), "-")
        yield* TestClock.adjust(Duration.seconds(minutes * 30 + 1))
        assert.isTrue((yield* hold(breaker)).admitted)
        assert.strictEqual(yield* tagOf(breaker), "HalfOpen")
      }
    }))

  // CB-29
  it.effect("is not moved by what was admitted before, be it open, isolated or closed again", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ consecutiveFailures: 2, openFor: "1 second", jitter: 0 })
      const [one, two, three] = yield* holdAll(breaker, 3)
      yield* calls(breaker, "FF")
      const open = yield* breaker.state
      yield* one!.end("F")
      assert.deepStrictEqual(yield* breaker.state, { ...open, late: 1 })
      yield* breaker.force("open")
      const forced = yield* breaker.state
      yield* two!.end("S")
      assert.deepStrictEqual(yield* breaker.state, { ...forced, late: 2 })
      yield* breaker.force("none")
      yield* breaker.reset
      const closed = yield* breaker.state
      yield* three!.end("F")
      assert.deepStrictEqual(yield* breaker.state, { ...closed, late: 3 })
    }))

  // CB-46
  it.effect("goes on with the last of a list of durations, and begins again after staying closed", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        consecutiveFailures: 1,
        openFor: Schedule.exponential("75 seconds").pipe(Schedule.upTo({ times: 3 })),
        jitter: 0,
        halfOpen: { probes: 1 }
      })
      const lasted: Array<number> = []
      const openAgain = Effect.gen(function*() {
        yield* calls(breaker, "F")
        const { sinceMillis, untilMillis } = yield* breaker.state
        lasted.push((untilMillis! - sinceMillis) / 1000)
        yield* TestClock.adjust(untilMillis! - sinceMillis)
      })
      yield* Effect.replicateEffect(openAgain, 5)
      yield* calls(breaker, "S")
      yield* TestClock.adjust("300 seconds")
      yield* openAgain
      assert.deepStrictEqual(lasted, [75, 150, 300, 300, 300, 75])
    }))

  // CB-46, two policies or-ed: here a condition and the server's word
  it.effect("opens for the longer of two durations that apply", () =>
    Effect.gen(function*() {
      const unavailable = (retryAfterMillis: number) =>
        CallError.fail({ _tag: "Unavailable", target: "users", detail: "draining", sent: "maybe", retryAfterMillis })
      for (const [asked, lasts] of [[60_000, 60_000], [1000, 5000]] as const) {
        const breaker = yield* CircuitBreaker.make({ consecutiveFailures: 1, openFor: "5 seconds", jitter: 0 })
        const rejection = Effect.exit(Policy.apply(unavailable(asked), breaker))
        yield* rejection
        assert.strictEqual((reasonOf(yield* rejection) as CallError.CircuitOpen).retryAfterMillis, lasts)
      }
    }))
})

describe("CircuitBreaker, scenarios: HalfOpen", () => {
  // CB-07
  it.effect("admits four of six probes, each time it is half-open", () =>
    Effect.gen(function*() {
      const breaker = yield* halfOpen({ halfOpen: { probes: 4 } })
      const first = yield* holdAll(breaker, 6)
      assert.deepStrictEqual(first.map((held) => held.admitted), [true, true, true, true, false, false])
      yield* Effect.forEach(first.slice(0, 4), (held) => held.end("F"))
      yield* TestClock.adjust("1 second")
      const second = yield* holdAll(breaker, 6)
      assert.deepStrictEqual(second.map((held) => held.admitted), [true, true, true, true, false, false])
    }))

  // CB-08
  it.effect("admits one more when one of four probes is given back", () =>
    Effect.gen(function*() {
      const breaker = yield* halfOpen({ halfOpen: { probes: 4 } })
      const [one] = yield* holdAll(breaker, 4)
      assert.isFalse((yield* hold(breaker)).admitted)
      yield* one!.interrupt
      assert.deepStrictEqual((yield* holdAll(breaker, 2)).map((held) => held.admitted), [true, false])
    }))

  // CB-10: the peer waits for the fourth probe; the second slow one settles it.
  it.effect("opens again for slow probes that all succeed", () =>
    Effect.gen(function*() {
      const breaker = yield* fixture({ halfOpen: { probes: 4, successRatio: 0.75, lease: "10 seconds" } })
      yield* breaker.trip()
      yield* TestClock.adjust("5 seconds")
      yield* slow(breaker, "S", 5000)
      const { _tag, failures, slowCalls } = yield* breaker.state
      assert.deepStrictEqual([_tag, failures, slowCalls], ["HalfOpen", 0, 1])
      yield* slow(breaker, "S", 5000)
      assert.strictEqual((yield* breaker.state).why, "0 of 2 probes failed, 2 were slow")
      assert.strictEqual(yield* tagOf(breaker), "Open")
    }))

  // CB-11
  it.effect("closes when one of four probes has failed, and counts from the next call", () =>
    Effect.gen(function*() {
      const breaker = yield* fixture()
      yield* breaker.trip()
      yield* TestClock.adjust("5 seconds")
      yield* calls(breaker, "FSSS")
      const { _tag, calls: counted } = yield* breaker.state
      assert.deepStrictEqual([_tag, counted], ["Closed", 0])
      yield* calls(breaker, "S")
      assert.strictEqual((yield* breaker.state).calls, 1)
    }))

  // CB-12: three good ones settle it here, so the ignored one comes third.
  it.effect("counts nothing for an ignored probe and takes its permit back", () =>
    Effect.gen(function*() {
      const breaker = yield* fixture()
      yield* breaker.trip()
      yield* TestClock.adjust("5 seconds")
      yield* calls(breaker, "SS")
      const before = yield* breaker.state
      yield* calls(breaker, "I")
      assert.deepStrictEqual(yield* breaker.state, before)
      yield* calls(breaker, "F")
      assert.strictEqual(yield* tagOf(breaker), "HalfOpen")
      yield* calls(breaker, "S")
      assert.strictEqual(yield* tagOf(breaker), "Closed")
    }))

  // CB-13: the third success settles it, where the peer waits for the fourth.
  it.effect("stays half-open after four ignored probes and closes on its successes", () =>
    Effect.gen(function*() {
      const breaker = yield* fixture()
      yield* breaker.trip()
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(yield* calls(breaker, "IIII SS"), "IIIISS")
      assert.strictEqual(yield* tagOf(breaker), "HalfOpen")
      yield* calls(breaker, "S")
      assert.strictEqual(yield* tagOf(breaker), "Closed")
    }))

  // CB-22
  it.effect("is not filled by ignored probes, rejects the fourth at once, and closes when the last one running succeeds", () =>
    Effect.gen(function*() {
      const breaker = yield* halfOpen({ halfOpen: { probes: 3, successRatio: 1 } })
      assert.strictEqual(yield* calls(breaker, "IIII"), "IIII")
      assert.strictEqual(yield* calls(breaker, "SS"), "SS")
      const running = yield* hold(breaker)
      assert.strictEqual(yield* calls(breaker, "S"), "-")
      yield* running.end("S")
      assert.strictEqual(yield* tagOf(breaker), "Closed")
    }))

  // CB-23
  it.effect("opens at the first failed probe where all must succeed", () =>
    Effect.gen(function*() {
      const breaker = yield* halfOpen({ halfOpen: { probes: 3, successRatio: 1 } })
      yield* calls(breaker, "SF")
      assert.strictEqual(yield* tagOf(breaker), "Open")
    }))

  // CB-32
  it.effect("rejects five calls while three probes run for a minute", () =>
    Effect.gen(function*() {
      const breaker = yield* halfOpen({ halfOpen: { probes: 3, lease: "2 minutes" } })
      yield* holdAll(breaker, 3)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* calls(breaker, "SSSSS"), "-----")
    }))

  // CB-34
  it.effect("closes exactly when enough of the probes have succeeded", () =>
    Effect.gen(function*() {
      for (const [successes, probes, script] of [[2, 3, "FSS"], [3, 4, "SSFS"]] as const) {
        const breaker = yield* halfOpen({ halfOpen: { probes, successRatio: successes / probes } })
        for (const [i, mark] of Array.from(script).entries()) {
          assert.strictEqual(yield* tagOf(breaker), i === 0 ? "Open" : "HalfOpen")
          yield* calls(breaker, mark)
        }
        assert.strictEqual(yield* tagOf(breaker), "Closed")
      }
    }))

  // CB-37: the peer lets b wait for a. Here it is rejected at once and told when to come back.
  it.effect("rejects a second call while the only probe runs, and admits it when that succeeded", () =>
    Effect.gen(function*() {
      for (const mark of ["S", "F"] as const) {
        const breaker = yield* halfOpen({ halfOpen: { probes: 1, lease: "10 seconds" } })
        const a = yield* hold(breaker)
        const reason = reasonOf(yield* call(breaker, "S")) as CallError.CircuitOpen
        assert.deepStrictEqual([reason.state, reason.retryAfterMillis], ["HalfOpen", 10_000])
        yield* a.end(mark)
        assert.strictEqual(yield* calls(breaker, "S"), mark === "S" ? "S" : "-")
      }
    }))

  // CB-38: with a sample of 2 the peer queues a third call; here it is rejected.
  it.effect("decides ten probes that tolerate three failures at the seventh success or the fourth failure", () =>
    Effect.gen(function*() {
      const options = { halfOpen: { probes: 10, successRatio: 0.7 } }
      const good = yield* halfOpen(options)
      yield* calls(good, "FFF SSSSSS")
      assert.strictEqual(yield* tagOf(good), "HalfOpen")
      yield* calls(good, "S")
      assert.strictEqual(yield* tagOf(good), "Closed")
      const bad = yield* halfOpen(options)
      yield* calls(bad, "FFF")
      assert.strictEqual(yield* tagOf(bad), "HalfOpen")
      yield* calls(bad, "F")
      assert.strictEqual(yield* tagOf(bad), "Open")
      const two = yield* halfOpen({ halfOpen: { probes: 2 } })
      assert.deepStrictEqual((yield* holdAll(two, 3)).map((held) => held.admitted), [true, true, false])
    }))

  // CB-43
  it.effect("goes on probing after a failure that decides nothing", () =>
    Effect.gen(function*() {
      const breaker = yield* halfOpen({ halfOpen: { probes: 3, successRatio: 0.5 } })
      yield* calls(breaker, "F")
      assert.strictEqual(yield* tagOf(breaker), "HalfOpen")
      assert.isTrue(breaker.wouldAdmit(yield* Clock.currentTimeMillis))
      assert.strictEqual(yield* calls(breaker, "SS"), "SS")
      assert.strictEqual(yield* tagOf(breaker), "Closed")
    }))
})

describe("CircuitBreaker, scenarios: operators", () => {
  // CB-14
  it.effect("stays forced open whatever time it is", () =>
    Effect.gen(function*() {
      const breaker = yield* fixture()
      yield* breaker.force("open")
      assert.strictEqual(yield* calls(breaker, "S"), "-")
      yield* TestClock.adjust("6 seconds")
      assert.strictEqual(yield* calls(breaker, "S"), "-")
      const { _tag, rejected } = yield* breaker.state
      assert.deepStrictEqual([_tag, rejected], ["ForcedOpen", 2])
    }))

  // CB-16
  it.effect("counts and never opens in metrics only, and says once that it would have", () =>
    Effect.gen(function*() {
      const breaker = yield* fixture()
      yield* breaker.force("metricsOnly")
      const [, events] = yield* recording(Effect.gen(function*() {
        yield* calls(breaker, "FFFSS")
        assert.strictEqual((yield* breaker.state).failureRatio, 0.6)
        yield* calls(breaker, "F")
      }))
      assert.deepStrictEqual(events.map((event) => [event._tag, "why" in event && event.why]), [
        ["Warning", "would open: 3 of 5 calls failed"]
      ])
      assert.strictEqual(yield* tagOf(breaker), "MetricsOnly")
    }))

  // CB-17
  it.effect("cannot be forced half-open", () =>
    Effect.gen(function*() {
      const breaker = yield* fixture()
      // @ts-expect-error half-open is not for an operator to say
      const exit = yield* Effect.exit(breaker.force("halfOpen"))
      assert.include(
        String(Exit.isFailure(exit) && exit.cause),
        "CircuitBreaker.force: mode must be one of none, open, disabled, metricsOnly, got \"halfOpen\""
      )
      assert.strictEqual(yield* tagOf(breaker), "Closed")
    }))

  // CB-19
  it.effect("says nothing about a transition to the state it is in", () =>
    Effect.gen(function*() {
      const breaker = yield* fixture()
      const [, events] = yield* recording(Effect.gen(function*() {
        yield* breaker.force("none")
        yield* breaker.reset
        yield* breaker.force("open")
        yield* breaker.force("open")
        yield* breaker.force("none")
        yield* breaker.trip()
        yield* breaker.trip()
      }))
      assert.deepStrictEqual(transitions(events), ["Closed>ForcedOpen", "ForcedOpen>Closed", "Closed>Open"])
    }))
})
