/** How traffic comes back after an outage. */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Random } from "effect"
import { TestClock } from "effect/testing"
import type * as CallError from "../../src/contract/CallError.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import { call, calls, reasonOf, recording, slow, transitions } from "../support/breaker.ts"

/** Nine steps of a second: 10 %, 20 %, … and closed after nine. */
const make = (options: CircuitBreaker.CircuitBreakerOptions = {}) =>
  Effect.gen(function*() {
    const breaker = yield* CircuitBreaker.make({
      failureRatio: 0.5,
      minimumCalls: 20,
      window: { duration: "10 seconds" },
      openFor: "1 second",
      jitter: 0,
      halfOpen: { probes: 1 },
      ramp: { duration: "9 seconds" },
      ...options
    })
    yield* breaker.trip()
    yield* TestClock.adjust("1 second")
    yield* calls(breaker, "S")
    return breaker
  })

/** All draws are this, so that a share admits all or none. */
const drawing = (draw: number) =>
  Effect.provideService(Random.Random, { nextDoubleUnsafe: () => draw, nextIntUnsafe: () => 0 })

const admitted = (marks: string) => marks.replaceAll("-", "").length

describe("CircuitBreaker with a ramp", () => {
  it.effect("admits a growing share, until it is closed", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      const shares: Array<number> = []
      for (let i = 0; i < 10; i++) {
        shares.push(admitted(yield* calls(breaker, "S".repeat(500))) / 500)
        yield* TestClock.adjust("1 second")
      }
      for (const [i, share] of shares.entries()) {
        // Four standard errors of a share of 500 are at most 0.09.
        assert.approximately(share, Math.min(1, 0.1 * (i + 1)), 0.09)
      }
      assert.strictEqual((yield* breaker.state).why, "ramp completed")
    }).pipe(Random.withSeed("ramp")))

  it.effect("grows and closes without any call", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      yield* TestClock.adjust(8999)
      const { _tag, share } = yield* breaker.state
      assert.deepStrictEqual([_tag, Math.round(share * 100)], ["Recovering", 90])
      yield* TestClock.adjust(1)
      const { _tag: tag, sinceMillis } = yield* breaker.state
      assert.deepStrictEqual([tag, sinceMillis], ["Closed", 10_000])
      yield* TestClock.adjust("1 hour")
      assert.strictEqual((yield* breaker.state).sinceMillis, 10_000)
    }))

  it.effect("says to a rejected call when the share grows", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      yield* TestClock.adjust(300)
      const reason = reasonOf(yield* call(breaker, "S")) as CallError.CircuitOpen
      assert.deepStrictEqual([reason.state, reason.retryAfterMillis], ["Recovering", 700])
      assert.isTrue(breaker.wouldAdmit(1300))
    }).pipe(drawing(0.1)))

  it.effect("admits a draw below the share, not one at it", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      assert.strictEqual(yield* drawing(0.0999)(calls(breaker, "S")), "S")
      assert.strictEqual(yield* drawing(0.1)(calls(breaker, "S")), "-")
    }))

  it.effect("halves the share after a step that was as bad as a trip condition", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      const share = Effect.map(breaker.state, (state) => Math.round(state.share * 100))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(yield* share, 60)
      yield* calls(breaker, "FS")
      yield* TestClock.adjust("1 second")
      // Five steps of growth become two.
      assert.strictEqual(yield* share, 30)
      yield* calls(breaker, "FSS")
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* share, 40)
    }).pipe(drawing(0)))

  it.effect("opens for longer after a bad first step", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ openFor: "1 second" })
      yield* calls(breaker, "F")
      assert.strictEqual((yield* breaker.state)._tag, "Recovering")
      yield* TestClock.adjust("1 second")
      const { _tag, openings, sinceMillis, why } = yield* breaker.state
      assert.deepStrictEqual([_tag, openings, sinceMillis, why], [
        "Open",
        2,
        2000,
        "1 of 1 failed with a share of 0.1 admitted"
      ])
    }).pipe(drawing(0)))

  it.effect("opens at once when a condition trips, or a server says so", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ consecutiveFailures: 3 })
      yield* calls(breaker, "SFFF")
      assert.strictEqual((yield* breaker.state).why, "3 failures in a row")
    }).pipe(drawing(0)))

  it.effect("counts slow calls against a step", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ slowCallRatio: 0.5, slowThreshold: "100 millis" })
      yield* slow(breaker, "S", 101)
      yield* calls(breaker, "S")
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* breaker.state).why, "1 of 2 were slow with a share of 0.1 admitted")
    }).pipe(drawing(0)))

  it.effect("tells of each step, and of one transition at each end", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      const [, events] = yield* recording(Effect.gen(function*() {
        for (let i = 0; i < 10; i++) {
          yield* calls(breaker, "S")
          yield* TestClock.adjust("1 second")
        }
      }))
      assert.deepStrictEqual(transitions(events), ["Recovering>Closed"])
      const moves = events.flatMap((event) => event._tag === "LimitMoved" ? [Math.round(event.to * 10)] : [])
      assert.deepStrictEqual(moves, [2, 3, 4, 5, 6, 7, 8, 9])
    }).pipe(drawing(0)))

  it.effect("starts where it is told", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ ramp: { duration: "9 seconds", initialShare: 0.55 } })
      assert.strictEqual((yield* breaker.state).share, 0.55)
      yield* TestClock.adjust("1 second")
      assert.approximately((yield* breaker.state).share, 0.6, 1e-9)
    }))
})
