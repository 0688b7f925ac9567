import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Deferred, Duration, Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as Interruption from "../../src/contract/Interruption.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as Timeout from "../../src/policy/Timeout.ts"

/** The exit of an effect and the virtual milliseconds it took. */
const timed = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.timed(Effect.exit(self)), ([took, exit]) => [exit, Duration.toMillis(took)] as const)

const run = <A, E, R>(self: Effect.Effect<A, E, R>, millis = 10_000) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(timed(self), { startImmediately: true })
    yield* TestClock.adjust(millis)
    return yield* Fiber.join(fiber)
  })

describe("Timeout", () => {
  // RX-26
  it.effect("answers at 50 ms around 400 ms of uninterruptible work", () =>
    Effect.gen(function*() {
      const timeout = yield* Timeout.make({ timeout: "50 millis" })
      let ended = false
      const work = Effect.uninterruptible(Effect.andThen(Effect.sleep(400), Effect.sync(() => void (ended = true))))
      const fiber = yield* Effect.forkChild(timed(Policy.apply(work, timeout)), { startImmediately: true })
      yield* TestClock.adjust(50)
      const [exit, took] = yield* Fiber.join(fiber)
      assert.strictEqual(took, 50)
      assert.strictEqual(ended, false)
      assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof Error)
      yield* TestClock.adjust(350)
      assert.strictEqual(ended, true)
      assert.strictEqual(Timer.size(yield* Clock.Clock), 0)
    }))

  it.effect("passes a caller's interrupt on with its reason", () =>
    Effect.gen(function*() {
      const timeout = yield* Timeout.make({ timeout: "50 millis" })
      const seen = yield* Deferred.make<unknown>()
      const work = Effect.onExit(Effect.never, (exit) =>
        Deferred.succeed(seen, Exit.isFailure(exit) && Interruption.fromCause(exit.cause)))
      const fiber = yield* Effect.forkChild(Policy.apply(work, timeout), { startImmediately: true })
      fiber.interruptUnsafe(1, Interruption.annotations.hedgeLost)
      assert.strictEqual(yield* Deferred.await(seen), "hedgeLost")
      assert.strictEqual(Timer.size(yield* Clock.Clock), 0)
    }))
})
void run
