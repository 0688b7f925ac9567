import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Ref, Semaphore } from "effect"
import * as Bulkhead from "../../src/policy/Bulkhead.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as Interleave from "../../src/testing/Interleave.ts"

/** A pool that looks, does something else, and then takes: between the two steps another may have taken the same. */
const racy = Effect.gen(function*() {
  const free = yield* Ref.make(1)
  const least = yield* Ref.make(1)
  const take = Effect.gen(function*() {
    if ((yield* Ref.get(free)) === 0) return
    yield* Effect.void
    const left = yield* Ref.updateAndGet(free, (n) => n - 1)
    yield* Ref.update(least, (n) => Math.min(n, left))
    yield* Ref.update(free, (n) => n + 1)
  })
  return {
    fibers: [take, take],
    check: Effect.map(Ref.get(least), (n) => assert.isAtLeast(n, 0, "taken twice"))
  }
})

describe("Interleave", () => {
  it.effect("finds a check that is not one step with its act, and tells it by the two stops that it takes", () =>
    Effect.gen(function*() {
      const race = yield* Effect.flip(Interleave.check(racy))
      assert.include(race.failure, "taken twice")
      // One inside `take` after it has looked, and the other after it has taken.
      assert.strictEqual(race.decisions.length, 2)
      assert.match(race.message, /when fiber \d stops before its step \d+ and lets others go on/)
    }))

  it.effect("finds the same race by the same seed", () =>
    Effect.gen(function*() {
      const races = yield* Effect.replicateEffect(Effect.flip(Interleave.check(racy, { seed: "one" })), 2)
      assert.deepStrictEqual(races[0]!.decisions, races[1]!.decisions)
      assert.strictEqual(races[0]!.run, races[1]!.run)
    }))

  it.effect("finds nothing where the look and the act are one step", () =>
    Interleave.check(Effect.gen(function*() {
      const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: 4, maxWait: "1 second" })
      let inside = 0
      let most = 0
      const work = Effect.acquireUseRelease(
        Effect.sync(() => most = Math.max(most, ++inside)),
        () => Effect.sleep(Duration.millis(5)),
        () => Effect.sync(() => inside--)
      )
      return {
        fibers: Array.from({ length: 4 }, () => Policy.apply(work, bulkhead)),
        check: Effect.map(bulkhead.stats, ({ inFlight, queued }) => {
          assert.deepStrictEqual([inside, most, inFlight, queued], [0, 1, 0, 0])
        })
      }
    })))

  it.effect("tells a deadlock, which no check would ever see", () =>
    Effect.gen(function*() {
      const trial = Effect.gen(function*() {
        const [a, b] = [yield* Semaphore.make(1), yield* Semaphore.make(1)]
        const inOrder = (first: Semaphore.Semaphore, second: Semaphore.Semaphore) =>
          first.withPermits(1)(Effect.andThen(Effect.void, second.withPermits(1)(Effect.void)))
        return { fibers: [inOrder(a, b), inOrder(b, a)], check: Effect.void }
      })
      const race = yield* Effect.flip(Interleave.check(trial))
      assert.include(race.failure, "it never ends")
      assert.strictEqual(race.decisions.length, 1)
    }))

  it.effect("runs fibers that sleep for hours in virtual time", () =>
    Effect.gen(function*() {
      const trial = Effect.sync(() => {
        let woke = 0
        return {
          fibers: [Effect.andThen(Effect.sleep("5 hours"), Effect.map(Clock.currentTimeMillis, (now) => woke = now))],
          check: Effect.sync(() => assert.strictEqual(woke, 5 * 3_600_000))
        }
      })
      yield* Interleave.check(trial, { runs: 5 })
    }))

  it.effect("dies of options out of range", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(Interleave.check(racy, { runs: 0 }))
      assert.include(String(exit), "Interleave.check: runs must be")
    }))
})
