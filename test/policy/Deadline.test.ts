import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Duration, Effect, Exit, Fiber, Schedule, Schema } from "effect"
import { TestClock } from "effect/testing"
import * as CallContext from "../../src/contract/CallContext.ts"
import type * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Deadline from "../../src/contract/Deadline.ts"
import * as Interruption from "../../src/contract/Interruption.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as AdaptiveLimiter from "../../src/policy/AdaptiveLimiter.ts"
import * as Bulkhead from "../../src/policy/Bulkhead.ts"
import * as Progress from "../../src/policy/internal/progress.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as Retry from "../../src/policy/Retry.ts"
import * as Timeout from "../../src/policy/Timeout.ts"
import * as Scenario from "../../src/testing/Scenario.ts"

const drive = <A, E, R>(self: Effect.Effect<A, E, R>, millis = 10_000) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(Effect.timed(Effect.exit(self)), { startImmediately: true })
    yield* TestClock.adjust(millis)
    const [took, exit] = yield* Fiber.join(fiber)
    return [exit, Duration.toMillis(took)] as const
  })

const reasonOf = (exit: Exit.Exit<unknown, unknown>) => {
  if (Exit.isSuccess(exit)) return undefined
  const [reason] = exit.cause.reasons
  return reason !== undefined && Cause.isFailReason(reason) ? (reason.error as CallError.CallError).reason : undefined
}

const liveTimers = Effect.map(Clock.Clock, Timer.size)

/** The deadline that an effect sees, as milliseconds left. */
const remaining = Effect.withFiber((fiber) =>
  Effect.succeed(Deadline.remainingMillis(fiber.getRef(CallContext.Current).deadline, Timer.now(fiber)))
)

describe("Timeout.withDeadline", () => {
  it.effect("answers at the deadline whatever the work does, and says which call and after how long", () =>
    Effect.gen(function*() {
      const work = Effect.uninterruptible(Effect.sleep(5000)).pipe(
        Timeout.withDeadline("800 millis"),
        CallContext.annotate({ name: "UserService.GetUserInfo" })
      )
      const [exit, took] = yield* drive(work)
      assert.strictEqual(took, 800)
      assert.deepStrictEqual(reasonOf(exit), {
        _tag: "DeadlineExceeded",
        method: "UserService.GetUserInfo",
        elapsedMillis: 800,
        sent: "maybe",
        last: undefined
      })
      assert.strictEqual(
        (yield* Effect.flip(exit)).message,
        "UserService.GetUserInfo: deadline exceeded after 800ms"
      )
      assert.strictEqual(yield* liveTimers, 0)
    }))

  it.effect("carries the last attempt's error", () =>
    Effect.gen(function*() {
      const attempts = Effect.forEach(["first", "second"], (error) =>
        Effect.withFiber((fiber) => {
          Progress.failed(fiber, error)
          return Effect.sleep(300)
        }), { discard: true })
      const [exit] = yield* drive(Timeout.withDeadline(Effect.andThen(attempts, Effect.never), "1 second"))
      const reason = reasonOf(exit)
      assert.strictEqual(reason?._tag === "DeadlineExceeded" && reason.last, "second")
      assert.match((yield* Effect.flip(exit)).message, /; last: second$/)
    }))

  it.effect("carries the error of the attempt before the one it interrupts", () =>
    Effect.gen(function*() {
      const retry = yield* Retry.make({ attempts: 3, backoff: Schedule.spaced("100 millis") })
      let sends = 0
      const attempt = Effect.suspend(() => ++sends === 1 ? Effect.fail("refused") : Effect.never)
      const [exit, took] = yield* drive(
        attempt.pipe(
          Policy.apply(retry),
          Timeout.withDeadline("1 second"),
          CallContext.annotate({ idempotent: true })
        )
      )
      const reason = reasonOf(exit)
      assert.deepStrictEqual([sends, took], [2, 1000])
      assert.strictEqual(reason?._tag === "DeadlineExceeded" && reason.last, "refused")
    }))

  it.effect("states the deadline to everything inside, and takes it back outside", () =>
    Effect.gen(function*() {
      yield* TestClock.adjust(700)
      assert.strictEqual(yield* Timeout.withDeadline(remaining, "2 seconds"), 2000)
      assert.strictEqual(yield* remaining, Infinity)
    }))

  it.effect("only ever moves the deadline closer", () =>
    Effect.gen(function*() {
      const inner = (duration: Duration.Input) =>
        Timeout.withDeadline(Effect.andThen(Effect.sleep(400), Timeout.withDeadline(remaining, duration)), "1 second")
      assert.strictEqual((yield* drive(inner("5 seconds")))[0].pipe(Exit.getSuccess).valueOrUndefined, 600)
      assert.strictEqual((yield* drive(inner("1 milli")))[0].pipe(Exit.getSuccess).valueOrUndefined, 1)
      assert.strictEqual((yield* drive(inner("Infinity")))[0].pipe(Exit.getSuccess).valueOrUndefined, 600)
    }))

  it.effect("a nested deadline that is closer answers first, and the outer call goes on", () =>
    Effect.gen(function*() {
      const inner = Effect.exit(Timeout.withDeadline(Effect.never, "100 millis"))
      const [exit, took] = yield* drive(
        Timeout.withDeadline(Effect.andThen(inner, Effect.as(Effect.sleep(50), "went on")), "1 second")
      )
      assert.deepStrictEqual([exit, took], [Exit.succeed("went on"), 150])
    }))

  it.effect("guards a deadline that is inherited from a call being served", () =>
    Effect.gen(function*() {
      const [exit, took] = yield* Effect.provideService(
        drive(Timeout.withDeadline(Effect.never, "Infinity")),
        CallContext.Current,
        { ...CallContext.empty, deadline: 300 }
      )
      assert.deepStrictEqual([reasonOf(exit)?._tag, took], ["DeadlineExceeded", 300])
    }))

  it.effect("without any deadline nothing is guarded and nothing made", () =>
    Effect.gen(function*() {
      const self = Effect.withFiber((fiber) => Effect.succeed(fiber.id))
      assert.strictEqual(yield* Timeout.withDeadline(self, "Infinity"), yield* self)
      assert.strictEqual(yield* Timeout.withDeadlineAt(self, Deadline.none), yield* self)
    }))

  for (const duration of ["0 millis", "-3 seconds"] as const) {
    it.effect(`refuses a call with ${duration} left at once, runs nothing, and says so`, () =>
      Effect.gen(function*() {
        const events: Array<CallEvent.CallEvent> = []
        let ran = false
        const exit = yield* Effect.sync(() => void (ran = true)).pipe(
          Timeout.withDeadline(duration),
          CallContext.annotate({ name: "search" }),
          Effect.provideService(CallEvent.CurrentReceiver, { event: (event) => void events.push(event) }),
          Effect.exit
        )
        assert.isFalse(ran)
        assert.deepStrictEqual(reasonOf(exit), {
          _tag: "DeadlineExceeded",
          method: "search",
          elapsedMillis: 0,
          sent: "no"
        })
        assert.deepStrictEqual(events.map((event) => [event._tag, "reason" in event && event.reason]), [
          ["Rejected", "DeadlineExceeded"]
        ])
      }))
  }

  it.effect("interrupts the work with the reason deadline", () =>
    Effect.gen(function*() {
      const seen: Array<unknown> = []
      const work = Effect.onExit(Effect.never, (exit) =>
        Effect.sync(() => seen.push(Exit.isFailure(exit) && Interruption.fromCause(exit.cause))))
      yield* drive(Timeout.withDeadline(work, "1 second"))
      assert.deepStrictEqual(seen, ["deadline"])
    }))

  it.effect("a caller's interrupt is passed on, awaited, and no deadline", () =>
    Effect.gen(function*() {
      const seen: Array<unknown> = []
      const work = Effect.onExit(Effect.never, (exit) =>
        Effect.andThen(
          Effect.sleep(100),
          Effect.sync(() => seen.push(Exit.isFailure(exit) && Interruption.fromCause(exit.cause)))
        ))
      const fiber = yield* Effect.forkChild(Timeout.withDeadline(work, "50 millis"), { startImmediately: true })
      fiber.interruptUnsafe()
      yield* TestClock.adjust(99)
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
      assert.deepStrictEqual(seen, ["caller"])
      assert.strictEqual(yield* liveTimers, 0)
    }))

  // CP-05, with a deadline
  it.effect("what catches it runs exactly once, also when the work ends later", () =>
    Effect.gen(function*() {
      let caught = 0
      const [exit] = yield* drive(
        Effect.uninterruptible(Effect.sleep(500)).pipe(
          Timeout.withDeadline("100 millis"),
          Effect.catchReason("CallError", "DeadlineExceeded", () => Effect.sync(() => ++caught))
        )
      )
      assert.deepStrictEqual([exit, caught], [Exit.succeed(1), 1])
    }))

  it.effect.prop(
    "no call outlives its deadline, however guards nest",
    {
      outer: Schema.Literals([1, 2, 3, 5, 8]),
      inner: Schema.Literals([0, 1, 2, 3, 5, 8]),
      before: Schema.Literals([0, 1, 2]),
      work: Schema.Literals([0, 1, 2, 4, 9]),
      slow: Schema.Boolean
    },
    ({ before, inner, outer, slow, work }) =>
      Effect.gen(function*() {
        const attempt = slow ? Effect.uninterruptible(Effect.sleep(work)) : Effect.sleep(work)
        const call = Timeout.withDeadline(
          Effect.andThen(Effect.sleep(before), Timeout.withDeadline(attempt, inner)),
          outer
        )
        const [exit, took] = yield* drive(call, 30)
        assert.strictEqual(took, Math.min(outer, before + Math.min(inner, work)))
        if (before + work < outer && work < inner) assert.isTrue(Exit.isSuccess(exit))
        else if (Exit.isFailure(exit)) assert.strictEqual(reasonOf(exit)?._tag, "DeadlineExceeded")
        assert.strictEqual(yield* liveTimers, 0)
      })
  )

  it.effect("withDeadlineAt takes an instant of the monotonic clock", () =>
    Effect.gen(function*() {
      yield* TestClock.adjust(1000)
      const [exit, took] = yield* drive(Timeout.withDeadlineAt(Effect.never, Deadline.after(1000, "70 millis")))
      assert.deepStrictEqual([reasonOf(exit)?._tag, took], ["DeadlineExceeded", 70])
      assert.strictEqual(
        reasonOf(yield* Effect.exit(Timeout.withDeadlineAt(Effect.void, 1000)))?._tag,
        "DeadlineExceeded"
      )
    }))

  it.effect("dies of a duration that is none", () =>
    Effect.gen(function*() {
      const message = (exit: Exit.Exit<unknown, unknown>) =>
        Exit.isFailure(exit) ? (Cause.squash(exit.cause) as Error).message : ""
      assert.strictEqual(
        message(yield* Effect.exit(Timeout.withDeadline(Effect.void, "soon" as Duration.Input))),
        "Timeout.withDeadline: duration must be a duration, got \"soon\""
      )
      assert.strictEqual(
        message(yield* Effect.exit(Timeout.withDeadlineAt(Effect.void, Number.NaN))),
        "Timeout.withDeadlineAt: at must be an instant, got NaN"
      )
    }))
})

describe("a deadline at which a permit comes free", () => {
  const slots: ReadonlyArray<readonly [string, object]> = [
    ["BulkheadFull", { bulkhead: { limit: 1, maxQueue: 5 } }],
    ["LimitReached", { adaptiveLimiter: { initial: 1, min: 1, max: 1 } }]
  ]
  for (const [rejection, slot] of slots) {
    it.effect(`is too late for who waits for it: nothing is sent (${rejection})`, () =>
      Effect.gen(function*() {
        const script = [
          { at: 0, call: { does: "succeed", after: 400 } },
          { at: 0, call: { does: "succeed", after: 400 } },
          { at: 0, call: "succeed", times: 2 },
          { at: 1000, call: "succeed" }
        ] as const
        const lines = (result: Scenario.Result) =>
          result.calls.map(({ endedAt, result, sends }) => `${endedAt} ${result} [${sends.join()}]`)
        const guarded = yield* Scenario.run({ deadline: "500ms", ...slot }, script)
        const late = ["400 ok [0]", "500 DeadlineExceeded [400]"]
        const too = "500 DeadlineExceeded []"
        assert.deepStrictEqual(lines(guarded), [...late, too, too, "1000 ok [1000]"])
        assert.strictEqual(guarded.timers, 0)
        // Where nobody guards it, the one that waits ends its wait by itself.
        const context = { deadline: 500 }
        const unguarded = yield* Scenario.run(slot, [
          { at: 0, call: { does: "succeed", after: 500 } },
          { at: 0, call: "succeed", context, times: 2 },
          { at: 1000, call: "succeed" }
        ])
        const rejected = `500 ${rejection} []`
        assert.deepStrictEqual(lines(unguarded), ["500 ok [0]", rejected, rejected, "1000 ok [1000]"])
      }))
  }

  const limiters: ReadonlyArray<readonly [string, Effect.Effect<Policy.Policy<CallError.CallError>>]> = [
    ["BulkheadFull", Bulkhead.make({ limit: 1, maxQueue: 1 })],
    ["LimitReached", AdaptiveLimiter.make({ initial: 1, max: 1, maxQueue: 1 })]
  ]
  for (const [rejection, make] of limiters) {
    it.effect(`ends a wait that is to be over before the guard's own deadline (${rejection})`, () =>
      Effect.gen(function*() {
        const limiter = yield* make
        yield* Effect.forkChild(Policy.apply(Effect.sleep(1000), limiter), { startImmediately: true })
        const hurried = CallContext.annotate(Policy.apply(Effect.void, limiter), { deadline: 50 })
        const [exit, took] = yield* drive(Timeout.withDeadline(hurried, 500), 500)
        assert.deepStrictEqual([reasonOf(exit)?._tag, took], [rejection, 50])
      }))

    it.effect(`is too late for what the guarded call has left running, which nobody ends (${rejection})`, () =>
      Effect.gen(function*() {
        const limiter = yield* make
        yield* Effect.forkChild(Policy.apply(Effect.sleep(1000), limiter), { startImmediately: true })
        const [left] = yield* drive(Timeout.withDeadline(Effect.forkDetach(Policy.apply(Effect.void, limiter)), 500), 0)
        yield* TestClock.adjust(1001)
        assert.isTrue(Exit.isSuccess(left))
        const exit = Exit.isSuccess(left) ? left.value.pollUnsafe() : undefined
        assert.strictEqual(exit && reasonOf(exit)?._tag, rejection)
      }))
  }
})
