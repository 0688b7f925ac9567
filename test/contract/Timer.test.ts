import { assert, describe, it } from "@effect/vitest"
import { Clock, Deferred, Duration, Effect, type Fiber, Schema } from "effect"
import { TestClock } from "effect/testing"
import * as Timer from "../../src/contract/Timer.ts"
import { ManualClock } from "../support/ManualClock.ts"

const fiber = Effect.withFiber((fiber) => Effect.succeed(fiber as Fiber.Fiber<unknown, unknown>))

/** Native timers that keep the process alive. */
const referenced = () => process.getActiveResourcesInfo().filter((resource) => resource === "Timeout").length

describe("Timer", () => {
  it.effect("calls back at the instant and not before, earliest first", () =>
    Effect.gen(function*() {
      const self = yield* fiber
      const rang: Array<string> = []
      for (const [at, name] of [[30, "c"], [10, "a"], [20, "b"]] as const) {
        Timer.schedule(self, at, () => rang.push(`${name}@${Timer.now(self)}`))
      }
      yield* TestClock.adjust(9.999)
      assert.deepStrictEqual(rang, [])
      yield* TestClock.adjust(20.001)
      assert.deepStrictEqual(rang, ["a@10", "b@20", "c@30"])
    }))

  it.effect("at one instant the timer made first goes first", () =>
    Effect.gen(function*() {
      const self = yield* fiber
      const rang: Array<number> = []
      for (let i = 0; i < 50; i++) Timer.schedule(self, 10, () => rang.push(i))
      yield* TestClock.adjust(10)
      assert.deepStrictEqual(rang, Array.from({ length: 50 }, (_, i) => i))
    }))

  it.effect("a cancelled timer does not call back, not even when cancelled at its instant", () =>
    Effect.gen(function*() {
      const self = yield* fiber
      const rang: Array<string> = []
      const early = Timer.schedule(self, 10, () => rang.push("early"))
      const late: Timer.Timer = Timer.schedule(self, 20, () => rang.push("late"))
      const first = Timer.schedule(self, 20, () => rang.push("never"))
      early.cancel()
      Timer.schedule(self, 15, () => {
        first.cancel()
        first.cancel()
      })
      yield* TestClock.adjust(20)
      assert.deepStrictEqual(rang, ["late"])
      late.cancel()
      assert.strictEqual(Timer.size(yield* Clock.Clock), 0)
    }))

  it.effect("an instant that has passed calls back on the next turn, never within the call", () =>
    Effect.gen(function*() {
      yield* TestClock.adjust(100)
      const self = yield* fiber
      let rang = false
      Timer.schedule(self, 50, () => void (rang = true))
      assert.strictEqual(rang, false)
      yield* TestClock.adjust(0)
      assert.strictEqual(rang, true)
    }))

  it.effect("a callback that schedules at an instant that has passed waits for another turn", () =>
    Effect.gen(function*() {
      const self = yield* fiber
      const done = yield* Deferred.make<void>()
      let turns = 0
      const again = () => {
        if (++turns < 3) Timer.schedule(self, 0, again)
        else Deferred.doneUnsafe(done, Effect.void)
      }
      const clock = yield* Clock.Clock
      let after = 0
      Timer.schedule(self, 10, again)
      Timer.schedule(self, 10, () => void (after = turns))
      yield* TestClock.adjust(10)
      assert.strictEqual(after, 1)
      yield* Deferred.await(done)
      assert.strictEqual(Timer.size(clock), 0)
    }))

  it.effect("a callback may schedule earlier than everything that waits", () =>
    Effect.gen(function*() {
      const self = yield* fiber
      const rang: Array<number> = []
      Timer.schedule(self, 10, () => {
        Timer.schedule(self, 15, () => rang.push(15))
        Timer.schedule(self, 12, () => rang.push(12))
      })
      Timer.schedule(self, 20, () => rang.push(20))
      yield* TestClock.adjust(20)
      assert.deepStrictEqual(rang, [12, 15, 20])
    }))

  it.effect("reaches an instant beyond Node's longest timer", () =>
    Effect.gen(function*() {
      const self = yield* fiber
      const days60 = Duration.toMillis("60 days")
      let rang: number | undefined
      Timer.schedule(self, days60, () => void (rang = Timer.now(self)))
      yield* TestClock.adjust("59 days")
      assert.isUndefined(rang)
      yield* TestClock.adjust("1 day")
      assert.strictEqual(rang, days60)
    }))

  it.effect("sleeps once for all timers of a clock, and not at all when none is live", () =>
    Effect.gen(function*() {
      const clock = new ManualClock()
      const self = yield* fiber
      yield* Effect.gen(function*() {
        const self = yield* fiber
        const timers = [30, 20, 10].map((at) => Timer.schedule(self, at, () => {}))
        assert.deepStrictEqual([clock.sleepers.size, Timer.size(clock)], [1, 3])
        for (const timer of timers) timer.cancel()
        assert.deepStrictEqual([clock.sleepers.size, Timer.size(clock)], [0, 0])
        Timer.schedule(self, 10, () => {})
        const cancelled = Timer.schedule(self, 20, () => {})
        cancelled.cancel()
        clock.advance(10)
        // What was cancelled does not arm the clock again.
        assert.deepStrictEqual([clock.sleepers.size, Timer.size(clock)], [0, 0])
      }).pipe(Effect.provideService(Clock.Clock, clock))
      assert.strictEqual(Timer.size(self.getRef(Clock.Clock)), 0)
    }))

  const Op = Schema.Union([
    Schema.TaggedStruct("add", { after: Schema.Literals([0, 1, 1, 2, 5, 50]) }),
    Schema.TaggedStruct("cancel", { which: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 300 })) }),
    Schema.TaggedStruct("advance", { by: Schema.Literals([0, 1, 3]) })
  ])

  it.prop(
    "rings exactly what is due and live, in order of instant and then of making",
    { ops: Schema.Array(Op).check(Schema.isMinLength(30), Schema.isMaxLength(80)), bulk: Schema.Literals([0, 200]) },
    ({ bulk, ops }) => {
      const clock = new ManualClock()
      const source = { clock, scheduler: undefined! }
      const rang: Array<number> = []
      const timers: Array<Timer.Timer> = []
      let waiting: Array<{ readonly at: number; readonly id: number }> = []
      const expected: Array<number> = []
      const add = (after: number) => {
        const id = timers.length
        const at = clock.millis + after
        waiting.push({ at, id })
        timers.push(Timer.scheduleOn(source, at, () => rang.push(id)))
      }
      // Enough entries that cancelling most of them compacts the heap.
      for (let i = 0; i < bulk; i++) add(5 + ((i * 7) % 50))
      for (let i = 0; i < bulk; i++) {
        if (i % 4 !== 1) {
          timers[i]!.cancel()
          waiting = waiting.filter((entry) => entry.id !== i)
        }
      }
      for (const op of ops) {
        if (op._tag === "add") add(op.after + 1)
        else if (op._tag === "cancel") {
          timers[op.which]?.cancel()
          waiting = waiting.filter((entry) => entry.id !== op.which)
        } else {
          clock.advance(op.by)
          const due = waiting.filter((entry) => entry.at <= clock.millis)
          due.sort((a, b) => a.at - b.at || a.id - b.id)
          for (const entry of due) expected.push(entry.id)
          waiting = waiting.filter((entry) => entry.at > clock.millis)
        }
        assert.deepStrictEqual(rang, expected)
        assert.strictEqual(Timer.size(clock), waiting.length)
        assert.strictEqual(clock.sleepers.size, waiting.length === 0 ? 0 : 1)
      }
    }
  )

  describe("on the live clock", () => {
    it.live("calls back at the instant", () =>
      Effect.gen(function*() {
        const self = yield* fiber
        const rang = yield* Deferred.make<number>()
        const start = Timer.now(self)
        Timer.schedule(self, start + 8, () => Deferred.doneUnsafe(rang, Effect.succeed(Timer.now(self))))
        Timer.schedule(self, start + 4000, () => {}).cancel()
        // A native timer may ring up to a millisecond early.
        assert.isAtLeast((yield* Deferred.await(rang)) - start, 7)
        assert.strictEqual(Timer.size(self.getRef(Clock.Clock)), 0)
      }))

    it.live("an earlier timer rings first though it was made later", () =>
      Effect.gen(function*() {
        const self = yield* fiber
        const start = Timer.now(self)
        const rang: Array<string> = []
        const done = yield* Deferred.make<void>()
        Timer.schedule(self, start + 12, () => {
          rang.push("late")
          Deferred.doneUnsafe(done, Effect.void)
        })
        Timer.schedule(self, start + 2, () => rang.push("early"))
        yield* Deferred.await(done)
        assert.deepStrictEqual(rang, ["early", "late"])
      }))

    it.live("keeps the process alive exactly while a timer is live", () =>
      Effect.gen(function*() {
        const self = yield* fiber
        const before = referenced()
        const first = Timer.schedule(self, Timer.now(self) + 60_000, () => {})
        const second = Timer.schedule(self, Timer.now(self) + 30_000, () => {})
        assert.strictEqual(referenced(), before + 1)
        first.cancel()
        assert.strictEqual(referenced(), before + 1)
        second.cancel()
        assert.strictEqual(referenced(), before)
        const rang = yield* Deferred.make<void>()
        const cancelled = Timer.schedule(self, Timer.now(self) + 60_000, () => {})
        Timer.schedule(self, Timer.now(self) + 1, () => Deferred.doneUnsafe(rang, Effect.void))
        cancelled.cancel()
        assert.strictEqual(referenced(), before + 1)
        yield* Deferred.await(rang)
        // Node counts the timer that is calling back until it has; one of somebody else's may have ended meanwhile.
        yield* Effect.yieldNow
        assert.isAtMost(referenced(), before)
      }))
  })
})
