import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Context, Deferred, Duration, Effect, Exit, Fiber, Schedule, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as CallContext from "../../src/contract/CallContext.ts"
import type * as CallError from "../../src/contract/CallError.ts"
import * as Interruption from "../../src/contract/Interruption.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as Guard from "../../src/policy/internal/guard.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as Retry from "../../src/policy/Retry.ts"
import * as Timeout from "../../src/policy/Timeout.ts"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"

/** Runs an effect for some virtual time: its exit, and the milliseconds it took. */
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

const interruptReasonOf = (exit: Exit.Exit<unknown, unknown>) =>
  Exit.isFailure(exit) ? Interruption.fromCause(exit.cause) : undefined

const liveTimers = Effect.map(Clock.Clock, Timer.size)

const attemptTimeout = (timeoutMillis: number, policy = "Timeout"): CallError.AttemptTimeout => ({
  _tag: "AttemptTimeout",
  policy,
  timeoutMillis,
  sent: "maybe"
})

describe("Timeout", () => {
  it.effect("answers what the attempt answers: a value, an error, a defect", () =>
    Effect.gen(function*() {
      const timeout = yield* Timeout.make({ timeout: "1 second" })
      const defect = new Error("defect")
      for (const before of [Effect.void, Effect.yieldNow, Effect.sleep(999)]) {
        const after = <A, E>(self: Effect.Effect<A, E>) => drive(Policy.apply(Effect.andThen(before, self), timeout))
        assert.deepStrictEqual((yield* after(Effect.succeed(1)))[0], Exit.succeed(1))
        assert.deepStrictEqual((yield* after(Effect.fail("no")))[0], Exit.fail("no"))
        assert.deepStrictEqual((yield* after(Effect.die(defect)))[0], Exit.die(defect))
        assert.strictEqual(interruptReasonOf((yield* after(Effect.interrupt))[0]), "caller")
      }
      assert.strictEqual(yield* liveTimers, 0)
    }))

  it.effect("fails at the timeout, and says whose it was and how long", () =>
    Effect.gen(function*() {
      const timeout = yield* Timeout.make({ timeout: "250 millis", name: "payments timeout" })
      const [exit, took] = yield* drive(Policy.apply(Effect.never, timeout))
      assert.strictEqual(took, 250)
      assert.deepStrictEqual(reasonOf(exit), attemptTimeout(250, "payments timeout"))
      assert.strictEqual((yield* Effect.flip(exit)).message, "payments timeout: no answer within 250ms")
    }))

  it.effect("makes no timer for an attempt that does not suspend", () =>
    Effect.gen(function*() {
      const timeout = yield* Timeout.make({ timeout: "1 second" })
      const during = yield* Policy.apply(liveTimers, timeout)
      assert.deepStrictEqual([during, yield* liveTimers], [0, 0])
    }))

  // DL-04
  it.effect("the attempt sees an interrupt with the reason attemptTimeout", () =>
    Effect.gen(function*() {
      const timeout = yield* Timeout.make({ timeout: "50 millis" })
      const seen: Array<unknown> = []
      const work = Effect.onExit(Effect.never, (exit) => Effect.sync(() => seen.push(interruptReasonOf(exit))))
      yield* drive(Policy.apply(work, timeout))
      assert.deepStrictEqual(seen, ["attemptTimeout"])
    }))

  // DL-04
  it.effect("the caller is answered at once however slowly the attempt cleans up", () =>
    Effect.gen(function*() {
      const timeout = yield* Timeout.make({ timeout: "50 millis" })
      let cleaned = false
      const work = Effect.onInterrupt(Effect.never, () =>
        Effect.andThen(Effect.sleep(1000), Effect.sync(() => void (cleaned = true))))
      const [exit, took] = yield* drive(Policy.apply(work, timeout), 50)
      assert.deepStrictEqual([reasonOf(exit), took, cleaned], [attemptTimeout(50), 50, false])
      yield* TestClock.adjust(1000)
      assert.isTrue(cleaned)
    }))

  // DL-04
  it.effect("after 1000 attempts, in time or not, no timer is left", () =>
    Effect.gen(function*() {
      const timeout = yield* Timeout.make({ timeout: "50 millis" })
      yield* drive(Effect.forEach(
        Array.from({ length: 1000 }, (_, i) => i % 100),
        (millis) => Effect.exit(Policy.apply(Effect.sleep(millis), timeout)),
        { concurrency: 100, discard: true }
      ))
      assert.strictEqual(yield* liveTimers, 0)
    }))

  // RX-26
  it.effect("answers at 50 ms around 400 ms of uninterruptible work, and a permit inside is back when the work ends", () =>
    Effect.gen(function*() {
      const timeout = yield* Timeout.make({ timeout: "50 millis" })
      let permits = 1
      const work = Effect.acquireUseRelease(
        Effect.sync(() => void permits--),
        () => Effect.uninterruptible(Effect.sleep(400)),
        () => Effect.sync(() => void permits++)
      )
      const [exit, took] = yield* drive(Policy.apply(work, timeout), 50)
      assert.deepStrictEqual([reasonOf(exit), took, permits], [attemptTimeout(50), 50, 0])
      yield* TestClock.adjust(349)
      assert.strictEqual(permits, 0)
      yield* TestClock.adjust(1)
      assert.strictEqual(permits, 1)
      assert.strictEqual(yield* liveTimers, 0)
    }))

  it.effect("an answer at the very instant of the timeout comes first when it was due first", () =>
    Effect.gen(function*() {
      const timeout = yield* Timeout.make({ timeout: "50 millis" })
      // The sleep of the attempt is asked for before the timer is armed.
      const [exit] = yield* drive(Policy.apply(Effect.as(Effect.sleep(50), "in time"), timeout))
      assert.deepStrictEqual(exit, Exit.succeed("in time"))
      const [late] = yield* drive(Policy.apply(Effect.andThen(Effect.sleep(25), Effect.sleep(25)), timeout))
      assert.isTrue(Exit.isSuccess(late) || reasonOf(late)?._tag === "AttemptTimeout")
      assert.strictEqual(yield* liveTimers, 0)
    }))

  it.effect("a loser that answers, fails or dies afterwards changes nothing", () =>
    Effect.gen(function*() {
      const timeout = yield* Timeout.make({ timeout: "50 millis" })
      for (const end of [Effect.succeed("late"), Effect.fail("late"), Effect.die("late")]) {
        const exits: Array<Exit.Exit<unknown, unknown>> = []
        const work = Effect.uninterruptible(Effect.andThen(Effect.sleep(100), end))
        yield* drive(Effect.onExit(Policy.apply(work, timeout), (exit) => Effect.sync(() => exits.push(exit))))
        assert.deepStrictEqual(exits.map(reasonOf), [attemptTimeout(50)])
      }
    }))

  // CP-05
  it.effect("what catches it runs exactly once, also when the work ends later", () =>
    Effect.gen(function*() {
      const timeout = yield* Timeout.make({ timeout: "50 millis" })
      let caught = 0
      const [exit] = yield* drive(
        Effect.uninterruptible(Effect.sleep(500)).pipe(
          Policy.apply(timeout),
          Effect.catchReason("CallError", "AttemptTimeout", () => Effect.sync(() => ++caught))
        )
      )
      assert.deepStrictEqual([exit, caught], [Exit.succeed(1), 1])
    }))

  it.effect("the attempt sees the caller's services and references", () =>
    Effect.gen(function*() {
      const Tenant = Context.Reference<string>("test/Tenant", { defaultValue: () => "nobody" })
      const timeout = yield* Timeout.make({ timeout: "50 millis" })
      const tenant = Policy.apply(Effect.andThen(Effect.yieldNow, Tenant), timeout)
      assert.strictEqual(yield* Effect.provideService(tenant, Tenant, "acme"), "acme")
      const span = yield* Effect.withSpan(
        Effect.all([Effect.currentSpan, Policy.apply(Effect.currentSpan, timeout)]),
        "outer"
      )
      assert.strictEqual(span[0], span[1])
    }))

  it.effect("fibers that the attempt forks end with it", () =>
    Effect.gen(function*() {
      const timeout = yield* Timeout.make({ timeout: "50 millis" })
      const ended: Array<string> = []
      const child = Effect.onInterrupt(Effect.never, () => Effect.sync(() => ended.push("child")))
      const work = Effect.andThen(Effect.forkChild(child, { startImmediately: true }), Effect.never)
      yield* drive(Policy.apply(work, timeout))
      assert.deepStrictEqual(ended, ["child"])
    }))

  it.effect("is interruptible from inside where the caller is not: an abandoned acquisition does not go on", () =>
    Effect.gen(function*() {
      const timeout = yield* Timeout.make({ timeout: "50 millis" })
      let acquired = false
      const acquire = Effect.andThen(Effect.sleep(100), Effect.sync(() => void (acquired = true)))
      const [exit, took] = yield* drive(Effect.uninterruptible(Policy.apply(acquire, timeout)))
      assert.deepStrictEqual([reasonOf(exit), took, acquired], [attemptTimeout(50), 50, false])
    }))

  it.effect("a caller that may not be interrupted gets its answer before its interrupt", () =>
    Effect.gen(function*() {
      const timeout = yield* Timeout.make({ timeout: "50 millis" })
      let answer: string | undefined
      const fiber = yield* Effect.forkChild(
        Effect.uninterruptible(Effect.map(Policy.apply(Effect.as(Effect.sleep(20), "yes"), timeout), (a) => {
          answer = a
        })),
        { startImmediately: true }
      )
      fiber.interruptUnsafe()
      yield* TestClock.adjust(20)
      assert.strictEqual(answer, "yes")
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
    }))

  describe("interrupted by its caller", () => {
    for (const reason of ["caller", "deadline", "hedgeLost", "shutdown"] as const) {
      it.effect(`passes the interrupt on with its reason: ${reason}`, () =>
        Effect.gen(function*() {
          const outer = yield* Timeout.make({ timeout: "1 second" })
          const inner = yield* Timeout.make({ timeout: "50 millis" })
          const seen = yield* Deferred.make<unknown>()
          const work = Effect.onExit(Effect.never, (exit) => Deferred.succeed(seen, interruptReasonOf(exit)))
          const nested = work.pipe(Policy.apply(inner), Policy.apply(outer))
          const fiber = yield* Effect.forkChild(nested, { startImmediately: true })
          fiber.interruptUnsafe(1, Interruption.annotations[reason])
          assert.strictEqual(yield* Deferred.await(seen), reason)
          assert.strictEqual(interruptReasonOf(yield* Fiber.await(fiber)), reason)
          assert.strictEqual(yield* liveTimers, 0)
        }))
    }

    it.effect("waits for the attempt's finalizers, and no timeout is reported meanwhile", () =>
      Effect.gen(function*() {
        const timeout = yield* Timeout.make({ timeout: "50 millis" })
        const fiber = yield* Effect.forkChild(Policy.apply(Effect.uninterruptible(Effect.sleep(400)), timeout), {
          startImmediately: true
        })
        yield* TestClock.adjust(10)
        fiber.interruptUnsafe()
        yield* TestClock.adjust(389)
        assert.isUndefined(fiber.pollUnsafe())
        yield* TestClock.adjust(1)
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
        assert.strictEqual(yield* liveTimers, 0)
      }))

    it.effect("between any two of its steps: the attempt is over, and no timer is left", () =>
      interruptEverywhere(Effect.gen(function*() {
        const timeout = yield* Timeout.make({ timeout: "1 second" })
        let inside = 0
        const work = Effect.acquireUseRelease(
          Effect.sync(() => void inside++),
          () => Effect.andThen(Effect.yieldNow, Effect.yieldNow),
          () => Effect.andThen(Effect.yieldNow, Effect.sync(() => void inside--))
        )
        return {
          work: work.pipe(Policy.apply(timeout), Timeout.withDeadline("1 minute")),
          check: (where) =>
            Effect.map(
              liveTimers,
              (timers) => assert.deepStrictEqual({ inside, timers }, { inside: 0, timers: 0 }, where)
            )
        }
      })))

    it.effect("before it starts, nothing runs", () =>
      Effect.gen(function*() {
        const timeout = yield* Timeout.make({ timeout: "50 millis" })
        let ran = false
        const fiber = yield* Effect.forkChild(Policy.apply(Effect.sync(() => void (ran = true)), timeout))
        yield* Fiber.interrupt(fiber)
        assert.isFalse(ran)
      }))
  })

  describe("with a deadline of the call", () => {
    it.effect("the deadline ends the attempt where it comes first, and its guard answers", () =>
      Effect.gen(function*() {
        const timeout = yield* Timeout.make({ timeout: "100 millis" })
        const seen: Array<unknown> = []
        const work = Effect.onExit(Effect.never, (exit) => Effect.sync(() => seen.push(interruptReasonOf(exit))))
        const [exit, took] = yield* drive(work.pipe(Policy.apply(timeout), Timeout.withDeadline("60 millis")))
        assert.deepStrictEqual([reasonOf(exit)?._tag, took, seen], ["DeadlineExceeded", 60, ["deadline"]])
        const [own] = yield* drive(work.pipe(Policy.apply(timeout), Timeout.withDeadline("101 millis")))
        assert.deepStrictEqual([reasonOf(own), seen[1]], [attemptTimeout(100), "attemptTimeout"])
      }))

    it.effect("work that outlives the call it was started for still has its timeout", () =>
      Effect.gen(function*() {
        const timeout = yield* Timeout.make({ timeout: "100 millis" })
        const shared: Array<Fiber.Fiber<unknown, unknown>> = []
        const call = Effect.flatMap(Effect.forkDetach(Policy.apply(Effect.never, timeout)), (fiber) => {
          shared.push(fiber)
          return Fiber.join(fiber)
        })
        const [exit] = yield* drive(Timeout.withDeadline(call, "60 millis"), 99)
        assert.strictEqual(reasonOf(exit)?._tag, "DeadlineExceeded")
        assert.isUndefined(shared[0]!.pollUnsafe())
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(reasonOf(yield* Fiber.await(shared[0]!)), attemptTimeout(100))
      }))

    it.effect("a deadline that nobody guards ends the attempt too", () =>
      Effect.gen(function*() {
        const timeout = yield* Timeout.make({ timeout: "100 millis" })
        yield* TestClock.adjust(1000)
        const call = Policy.apply(Effect.never, timeout).pipe(CallContext.annotate({ deadline: 1060 }))
        const [exit, took] = yield* drive(call, 100)
        assert.deepStrictEqual([reasonOf(exit), took], [attemptTimeout(60), 60])
        const [passed, none] = yield* drive(call, 100)
        assert.deepStrictEqual([reasonOf(passed), none], [attemptTimeout(0), 0])
      }))
  })

  it.effect.prop(
    "answers at the sooner of the attempt's end and the timeout, always leaving no timer",
    { timeout: Schema.Literals([1, 2, 3, 5]), work: Schema.Literals([0, 1, 2, 3, 4, 5, 6]), slow: Schema.Boolean },
    ({ slow, timeout, work }) =>
      Effect.gen(function*() {
        const policy = yield* Timeout.make({ timeout })
        const attempt = slow ? Effect.uninterruptible(Effect.sleep(work)) : Effect.sleep(work)
        const [exit, took] = yield* drive(Policy.apply(attempt, policy), 20)
        assert.strictEqual(took, Math.min(timeout, work))
        if (work < timeout) assert.isTrue(Exit.isSuccess(exit))
        if (work > timeout) assert.strictEqual(reasonOf(exit)?._tag, "AttemptTimeout")
        assert.strictEqual(yield* liveTimers, 0)
      })
  )

  for (const timeout of [0, -1, Infinity, Number.NaN, "2s" as Duration.Input]) {
    it.effect(`refuses a timeout of ${timeout} when made`, () =>
      Effect.gen(function*() {
        const exit = yield* Effect.exit(Timeout.make({ timeout: timeout as Duration.Input }))
        assert.isTrue(Exit.isFailure(exit))
        assert.match(
          String(Exit.isFailure(exit) && Cause.squash(exit.cause)),
          /^RangeError: Timeout\.make: timeout must be a positive and finite duration(, got [-\dIN]| such as "2 seconds", got "2s"$)/
        )
      }))
  }
})

describe("Timeout, what it leaves behind", () => {
  const run = (work: Effect.Effect<unknown, unknown>) =>
    Effect.gen(function*() {
      const timeout = yield* Timeout.make({ timeout: "50 millis" })
      const [exit] = yield* drive(Policy.apply(work, timeout), 50)
      let over = false
      assert.isTrue(Exit.isFailure(exit))
      if (Exit.isFailure(exit)) Guard.whenOver(exit.cause, () => void (over = true))
      return () => over
    })

  it.effect("is over at once when the attempt ended on its interrupt", () =>
    Effect.gen(function*() {
      const over = yield* run(Effect.never)
      assert.isTrue(over())
    }))

  it.effect("is over when the attempt is, also behind an error that carries the timeout's", () =>
    Effect.gen(function*() {
      const over = yield* run(
        Effect.uninterruptible(Effect.sleep(100)).pipe(
          Timeout.withDeadline("20 millis"),
          Effect.ensuring(Effect.void)
        )
      )
      assert.isFalse(over())
      yield* TestClock.adjust(49)
      assert.isFalse(over())
      yield* TestClock.adjust(1)
      assert.isTrue(over())
    }))

  it.effect("is over when the last attempt is that a retry loop gave up", () =>
    Effect.gen(function*() {
      const timeout = yield* Timeout.make({ timeout: 20 })
      const retry = yield* Retry.make({ attempts: 2, backoff: Schedule.spaced(0) })
      const call = CallContext.annotate(retry.run(timeout.run(Effect.uninterruptible(Effect.sleep(100)))), {
        idempotent: true
      })
      const [exit, took] = yield* drive(call, 40)
      assert.deepStrictEqual([reasonOf(exit)?._tag, took], ["RetriesExhausted", 40])
      let over = false
      if (Exit.isFailure(exit)) Guard.whenOver(exit.cause, () => void (over = true))
      yield* TestClock.adjust(79)
      assert.isFalse(over)
      yield* TestClock.adjust(1)
      assert.isTrue(over)
    }))

  it("is over at once behind any other failure", () => {
    for (const cause of [Cause.fail("no"), Cause.die("no"), Cause.interrupt(1), Cause.empty]) {
      let over = 0
      Guard.whenOver(cause, () => void over++)
      assert.strictEqual(over, 1)
    }
  })
})

describe("Timeout.stream", () => {
  /** A stream of the pauses before its items. */
  const paced = (...pauses: ReadonlyArray<number>) =>
    Stream.mapEffect(Stream.fromIterable(pauses), (millis) => Effect.as(Effect.sleep(millis), millis), {
      concurrency: 1
    }).pipe(Stream.rechunk(1))

  const collect = (self: Stream.Stream<number, unknown>, millis = 3_600_000) =>
    Effect.gen(function*() {
      const items: Array<number> = []
      const [exit, took] = yield* drive(
        Stream.runForEach(self, (item) => Effect.sync(() => items.push(item))),
        millis
      )
      return { items, took, reason: reasonOf(exit) }
    })

  const options = { firstItem: "3 seconds", idle: "1 second", max: "1 minute" } as const

  it.effect("lets a stream that goes on go on: every item starts the idle time anew", () =>
    Effect.gen(function*() {
      const pauses = [2500, 900, 900, 900, 900]
      const got = yield* collect(paced(...pauses).pipe(Timeout.stream(options)))
      assert.deepStrictEqual(got, { items: pauses, took: 6100, reason: undefined })
      assert.strictEqual(yield* liveTimers, 0)
    }))

  it.effect("ends at the first item's timeout, or at the idle timeout after it, and says which it was", () =>
    Effect.gen(function*() {
      const first = yield* collect(Timeout.stream(paced(3001), options))
      assert.deepStrictEqual(first, {
        items: [],
        took: 3000,
        reason: attemptTimeout(3000, "Timeout (firstItem)")
      })
      const idle = yield* collect(Timeout.stream(paced(2000, 500, 1001), { ...options, name: "feed" }))
      assert.deepStrictEqual(idle, {
        items: [2000, 500],
        took: 3500,
        reason: attemptTimeout(1000, "feed (idle)")
      })
      assert.strictEqual(yield* liveTimers, 0)
    }))

  it.effect("waits for the first item as long as for any other, if nothing else is said", () =>
    Effect.gen(function*() {
      const got = yield* collect(Timeout.stream(paced(1500), { idle: "1 second" }))
      assert.strictEqual(got.took, 1000)
    }))

  it.effect("ends at the hard maximum however busy the stream is", () =>
    Effect.gen(function*() {
      const busy = paced(...Array.from({ length: 100 }, () => 900))
      const got = yield* collect(Timeout.stream(busy, options))
      assert.deepStrictEqual([got.items.length, got.took], [66, 60_000])
      assert.deepStrictEqual(got.reason, attemptTimeout(60_000, "Timeout (max)"))
    }))

  it.effect("ends at the deadline of the call that runs it", () =>
    Effect.gen(function*() {
      const busy = paced(...Array.from({ length: 100 }, () => 900))
      const { items, reason, took } = yield* Effect.provideService(
        collect(Timeout.stream(busy, options)),
        CallContext.Current,
        { ...CallContext.empty, name: "Feed.Watch", deadline: 2000 }
      )
      assert.deepStrictEqual([items.length, took], [2, 2000])
      assert.deepStrictEqual(reason, {
        _tag: "DeadlineExceeded",
        method: "Feed.Watch",
        elapsedMillis: 2000,
        sent: "maybe"
      })
    }))

  it.effect("does not count the consumer's time, except against the maximum", () =>
    Effect.gen(function*() {
      const slow = (max: Duration.Input) =>
        drive(
          Stream.runForEach(Timeout.stream(paced(0, 0, 0), { idle: 100, max }), () => Effect.sleep(1000)),
          5000
        )
      assert.deepStrictEqual(yield* slow(3500), [Exit.void, 3000])
      const [exit, took] = yield* slow(1500)
      assert.deepStrictEqual([reasonOf(exit), took], [attemptTimeout(1500, "Timeout (max)"), 2000])
    }))

  it.effect("answers in time around an uninterruptible wait, and interrupts it with its reason", () =>
    Effect.gen(function*() {
      const got = yield* collect(
        Timeout.stream(Stream.fromEffect(Effect.as(Effect.uninterruptible(Effect.sleep(5000)), 1)), options)
      )
      assert.strictEqual(got.took, 3000)
      const seen: Array<unknown> = []
      const watched = Effect.onExit(Effect.never, (exit) => Effect.sync(() => seen.push(interruptReasonOf(exit))))
      yield* collect(Timeout.stream(Stream.fromEffect(watched), options))
      assert.deepStrictEqual(seen, ["attemptTimeout"])
    }))

  it.effect("passes errors and the end on", () =>
    Effect.gen(function*() {
      const [exit] = yield* drive(Stream.runCollect(Timeout.stream(Stream.fail("no"), options)))
      assert.deepStrictEqual(exit, Exit.fail("no"))
      const [empty] = yield* drive(Stream.runCollect(Timeout.stream(Stream.empty, options)))
      assert.deepStrictEqual(empty, Exit.succeed([]))
    }))

  for (
    const [bad, message] of [
      [{}, "Timeout.stream: options must be a firstItem, idle or max, got \"none\""],
      [{ firstItem: 0 }, "Timeout.stream: firstItem must be a positive and finite duration, got 0"],
      [{ firstItem: 1, idle: -1 }, "Timeout.stream: idle must be a positive and finite duration, got -1"],
      [{ max: Infinity }, "Timeout.stream: max must be a positive and finite duration, got Infinity"]
    ] as const
  ) {
    it.effect(`dies when run: ${message}`, () =>
      Effect.gen(function*() {
        const exit = yield* Effect.exit(Stream.runDrain(Timeout.stream(Stream.empty, bad)))
        assert.strictEqual(Exit.isFailure(exit) && (Cause.squash(exit.cause) as Error).message, message)
      }))
  }
})
