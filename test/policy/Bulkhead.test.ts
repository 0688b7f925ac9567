import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  Clock,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Latch,
  Random,
  Schedule,
  Scheduler,
  Schema
} from "effect"
import { TestClock } from "effect/testing"
import * as CallContext from "../../src/contract/CallContext.ts"
import type * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import type { Criticality } from "../../src/contract/Criticality.ts"
import * as Interruption from "../../src/contract/Interruption.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as Bulkhead from "../../src/policy/Bulkhead.ts"
import * as Stamp from "../../src/policy/internal/stamp.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as Retry from "../../src/policy/Retry.ts"
import * as Timeout from "../../src/policy/Timeout.ts"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"

const start = <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.forkChild(self, { startImmediately: true })

const liveTimers = Effect.map(Clock.Clock, Timer.size)

const reasonOf = (exit: Exit.Exit<unknown, unknown> | undefined) => {
  if (exit === undefined || Exit.isSuccess(exit)) return undefined
  const [reason] = exit.cause.reasons
  return reason !== undefined && Cause.isFailReason(reason) ? (reason.error as CallError.CallError).reason : undefined
}

const rejected = (fiber: Fiber.Fiber<unknown, unknown>) => reasonOf(fiber.pollUnsafe())?._tag === "BulkheadFull"

/** Work that says when it enters and exits, and ends when told. */
const script = () => {
  const log: Array<string> = []
  const latches = new Map<number, Latch.Latch>()
  return {
    log,
    work: (n: number) =>
      Effect.suspend(() => {
        const latch = Latch.makeUnsafe()
        latches.set(n, latch)
        log.push(`${n}-enter`)
        return Effect.andThen(latch.await, Effect.sync(() => log.push(`${n}-exit`)))
      }),
    end: (n: number) => Effect.andThen(latches.get(n)!.open, Effect.yieldNow)
  }
}

/** Everything is back: permits, places in the queue, timers. */
const allBack = (bulkhead: Bulkhead.Bulkhead) =>
  Effect.gen(function*() {
    const { available, inFlight, limit, queued } = yield* bulkhead.stats
    assert.deepStrictEqual({ available, inFlight, queued }, { available: limit, inFlight: 0, queued: 0 })
    assert.strictEqual(yield* liveTimers, 0)
  })

describe("Bulkhead", () => {
  // BH-01
  it.effect("of three calls at a limit of two the third is rejected, and says why", () =>
    Effect.gen(function*() {
      const { end, log, work } = script()
      const bulkhead = yield* Bulkhead.make({ limit: 2 })
      const fibers = yield* Effect.forEach([0, 1, 2], (n) => start(Policy.apply(work(n), bulkhead)))
      assert.deepStrictEqual(reasonOf(fibers[2]!.pollUnsafe()), {
        _tag: "BulkheadFull",
        policy: "Bulkhead",
        sent: "no",
        limit: 2,
        queued: 0
      })
      yield* end(0)
      yield* end(1)
      assert.deepStrictEqual(log, ["0-enter", "1-enter", "0-exit", "1-exit"])
      yield* allBack(bulkhead)
    }))

  // BH-02
  it.effect("of five calls at a limit of two and a queue of two the fifth is rejected, the others run in order", () =>
    Effect.gen(function*() {
      const { end, log, work } = script()
      const bulkhead = yield* Bulkhead.make({ limit: 2, maxQueue: 2 })
      const fibers = yield* Effect.forEach([0, 1, 2, 3, 4], (n) => start(Policy.apply(work(n), bulkhead)))
      assert.deepStrictEqual(fibers.map(rejected), [false, false, false, false, true])
      for (const n of [0, 1, 2, 3]) yield* end(n)
      assert.deepStrictEqual(log, [
        "0-enter",
        "1-enter",
        "0-exit",
        "2-enter",
        "1-exit",
        "3-enter",
        "2-exit",
        "3-exit"
      ])
      yield* allBack(bulkhead)
    }))

  // BH-04
  it.effect("a waiter that is interrupted leaves its place, and the one behind it runs next", () =>
    Effect.gen(function*() {
      const { end, log, work } = script()
      const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: 10 })
      const [, aborted] = yield* Effect.forEach([0, 1, 2], (n) => start(Policy.apply(work(n), bulkhead)))
      yield* Fiber.interrupt(aborted!)
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(aborted!)))
      assert.strictEqual((yield* bulkhead.stats).queued, 1)
      yield* end(0)
      yield* end(2)
      assert.deepStrictEqual(log, ["0-enter", "0-exit", "2-enter", "2-exit"])
      const { available, maxQueue, queued } = yield* bulkhead.stats
      assert.deepStrictEqual([available, maxQueue - queued], [1, 10])
      yield* allBack(bulkhead)
    }))

  // BH-05
  it.effect("of two permits three are asked for: permitted, permitted, rejected, two end, permitted", () =>
    Effect.gen(function*() {
      const { end, work } = script()
      const events: Array<string> = []
      const bulkhead = yield* Bulkhead.make({ limit: 2, maxWait: 0 })
      const call = (n: number) =>
        Effect.map(start(Policy.apply(work(n), bulkhead)), (fiber) => {
          events.push(rejected(fiber) ? "rejected" : "permitted")
        })
      const available = Effect.map(bulkhead.stats, (stats) => void events.push(`available ${stats.available}`))
      yield* call(0)
      yield* call(1)
      yield* call(2)
      yield* available
      yield* end(0)
      yield* available
      yield* end(1)
      yield* available
      yield* call(3)
      assert.deepStrictEqual(events, [
        "permitted",
        "permitted",
        "rejected",
        "available 0",
        "available 1",
        "available 2",
        "permitted"
      ])
      yield* end(3)
    }))

  // BH-07, with our number: what is rejected here is not sent, so it is no attempt, and asking again at once cannot help.
  it.effect("a retry of seven attempts outside a full bulkhead asks once, sends nothing, and fails with the rejection", () =>
    Effect.gen(function*() {
      const bulkhead = yield* Bulkhead.make({ limit: 1 })
      const retry = yield* Retry.make({ attempts: 7, backoff: Schedule.spaced("1 second") })
      let calls = 0
      const holder = yield* start(Policy.apply(Effect.never, bulkhead))
      const exit = yield* Effect.sync(() => void calls++).pipe(
        Policy.apply(Policy.stack({ retry, bulkhead })),
        CallContext.annotate({ idempotent: true }),
        Effect.exit
      )
      const { rejected } = yield* bulkhead.stats
      assert.deepStrictEqual([reasonOf(exit)?._tag, calls, rejected], ["BulkheadFull", 0, 1])
      yield* Fiber.interrupt(holder)
    }))

  // RX-24
  it.effect("the one that is queued runs next, also when two arrive as the running one ends", () =>
    Effect.gen(function*() {
      const { end, log, work } = script()
      const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: 1 })
      yield* start(
        Effect.andThen(
          Policy.apply(work(0), bulkhead),
          Effect.forEach([2, 3], (n) => start(Policy.apply(work(n), bulkhead)))
        )
      )
      yield* start(Policy.apply(work(1), bulkhead))
      yield* end(0)
      assert.deepStrictEqual(log, ["0-enter", "0-exit", "1-enter"])
      const { queued, rejected } = yield* bulkhead.stats
      assert.deepStrictEqual({ queued, rejected }, { queued: 0, rejected: 1 })
    }))

  // RX-26
  it.effect("keeps the permit of an attempt that timed out until its work ends", () =>
    Effect.gen(function*() {
      const bulkhead = yield* Bulkhead.make({ limit: 1 })
      const timeout = yield* Timeout.make({ timeout: "50 millis" })
      const stack = Policy.stack({ bulkhead, timeout })
      const fiber = yield* start(
        Effect.timed(Effect.exit(Policy.apply(Effect.uninterruptible(Effect.sleep(400)), stack)))
      )
      yield* TestClock.adjust(50)
      const [took, exit] = yield* Fiber.join(fiber)
      assert.deepStrictEqual([Duration.toMillis(took), reasonOf(exit)?._tag], [50, "AttemptTimeout"])
      assert.strictEqual(reasonOf(yield* Effect.exit(Policy.apply(Effect.void, stack)))?._tag, "BulkheadFull")
      yield* TestClock.adjust(349)
      assert.strictEqual((yield* bulkhead.stats).inFlight, 1)
      yield* TestClock.adjust(1)
      yield* allBack(bulkhead)
      yield* Policy.apply(Effect.void, stack)
    }))

  // RX-38
  it.effect("a holder that dies, fails, is interrupted from inside or throws gives its permit back", () =>
    Effect.gen(function*() {
      const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: 1 })
      const ends: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
        Effect.die("defect"),
        Effect.fail("no"),
        Effect.interrupt,
        Effect.sync(() => {
          throw new Error("thrown")
        })
      ]
      for (const end of ends) {
        for (const before of [Effect.void, Effect.yieldNow]) {
          const holder = yield* start(Policy.apply(Effect.andThen(before, end), bulkhead))
          const waiter = yield* start(Policy.apply(Effect.succeed("next"), bulkhead))
          assert.isTrue(Exit.isFailure(yield* Fiber.await(holder)))
          assert.strictEqual(yield* Fiber.join(waiter), "next")
          yield* allBack(bulkhead)
        }
      }
    }))

  describe("waiting", () => {
    it.effect("lasts maxWait at most, 10 seconds if nothing is said", () =>
      Effect.gen(function*() {
        for (const [maxWait, millis] of [["300 millis", 300], [undefined, 10_000]] as const) {
          const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: 1, maxWait, name: "db" })
          const holder = yield* start(Policy.apply(Effect.never, bulkhead))
          const waiter = yield* start(Policy.apply(Effect.void, bulkhead))
          yield* TestClock.adjust(millis - 1)
          assert.isUndefined(waiter.pollUnsafe())
          yield* TestClock.adjust(1)
          assert.strictEqual(
            (yield* Effect.flip(Fiber.join(waiter))).message,
            "db: bulkhead full, 1 in flight and 0 queued"
          )
          yield* Fiber.interrupt(holder)
          yield* allBack(bulkhead)
        }
      }))

    it.effect("is refused when there is no time for it, but a free permit is always taken", () =>
      Effect.gen(function*() {
        const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: 5, maxWait: 0 })
        yield* Policy.apply(Effect.void, bulkhead)
        const holder = yield* start(Policy.apply(Effect.never, bulkhead))
        // Now, not on the next turn.
        assert.isTrue(rejected(yield* start(Policy.apply(Effect.void, bulkhead))))
        yield* Fiber.interrupt(holder)
        const patient = yield* Bulkhead.make({ limit: 1, maxQueue: 5 })
        yield* TestClock.adjust(100)
        const late = Policy.apply(Effect.void, patient).pipe(CallContext.annotate({ deadline: 100 }))
        yield* late
        yield* start(Policy.apply(Effect.never, patient))
        assert.isTrue(rejected(yield* start(late)))
        assert.strictEqual((yield* patient.stats).queued, 0)
      }))

    it.effect("ends at the deadline of the call, guarded or not", () =>
      Effect.gen(function*() {
        const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: 5 })
        const holder = yield* start(Policy.apply(Effect.never, bulkhead))
        const call = Policy.apply(Effect.void, bulkhead)
        const unguarded = yield* start(CallContext.annotate(call, { deadline: 40 }))
        const guarded = yield* start(Timeout.withDeadline(call, 40))
        yield* TestClock.adjust(39)
        assert.deepStrictEqual([unguarded.pollUnsafe(), guarded.pollUnsafe()], [undefined, undefined])
        yield* TestClock.adjust(1)
        assert.strictEqual(reasonOf(yield* Fiber.await(unguarded))?._tag, "BulkheadFull")
        assert.strictEqual(reasonOf(yield* Fiber.await(guarded))?._tag, "DeadlineExceeded")
        assert.strictEqual((yield* bulkhead.stats).queued, 0)
        yield* Fiber.interrupt(holder)
        yield* allBack(bulkhead)
      }))

    it.effect("is not the call's own time: a breaker outside is told how long it was", () =>
      Effect.gen(function*() {
        const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: 5, maxWait: 500 })
        const stamped = () => {
          const stamp: Stamp.Stamp = { startedAt: 0, waiting: 0 }
          return [
            stamp,
            Effect.provideService(Policy.apply(Effect.sleep(100), bulkhead), Stamp.Current, stamp)
          ] as const
        }
        const [first, holder] = stamped()
        const [second, granted] = stamped()
        const [third, interrupted] = stamped()
        const [fourth, timedOut] = stamped()
        yield* start(holder)
        assert.deepStrictEqual(first, { startedAt: 0, waiting: 0 })
        yield* start(granted)
        const leaving = yield* start(interrupted)
        assert.deepStrictEqual([second.waiting, third.waiting], [1, 1])
        yield* TestClock.adjust(60)
        yield* Fiber.interrupt(leaving)
        assert.deepStrictEqual(third, { startedAt: 60, waiting: 0 })
        yield* TestClock.adjust(140)
        assert.deepStrictEqual([first, second], [{ startedAt: 0, waiting: 0 }, { startedAt: 100, waiting: 0 }])
        yield* start(Policy.apply(Effect.never, bulkhead))
        yield* start(timedOut)
        yield* TestClock.adjust(500)
        assert.deepStrictEqual(fourth, { startedAt: 500, waiting: 0 })
      }))

    it.effect("ends when a permit comes back, at whatever step of a fiber that is", () =>
      Effect.gen(function*() {
        for (let maxOps = 3; maxOps < 20; maxOps++) {
          const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: 100 })
          const job = (n: number) => Policy.apply(Effect.replicateEffect(Effect.void, n), bulkhead)
          const fibers = yield* Effect.forEach(
            Array.from({ length: 40 }, (_, n) => n % 7),
            (n) => start(Effect.provideService(job(n), Scheduler.MaxOpsBeforeYield, maxOps))
          )
          // No time passes, so nobody is rejected for having waited.
          for (const fiber of fibers) yield* Fiber.join(fiber)
          yield* allBack(bulkhead)
        }
      }))

    it.effect("50,000 queued jobs that never suspend are handed the permit one after another, in order", () =>
      Effect.gen(function*() {
        const jobs = 50_000
        const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: jobs })
        const gate = yield* Deferred.make<void>()
        const ran: Array<number> = []
        yield* start(Policy.apply(Deferred.await(gate), bulkhead))
        const fork = Effect.runForkWith(yield* Effect.context<never>())
        const fibers = Array.from(
          { length: jobs },
          (_, n) => fork(Policy.apply(Effect.sync(() => ran.push(n)), bulkhead))
        )
        yield* Deferred.succeed(gate, undefined)
        yield* Effect.yieldNow
        assert.isTrue(ran.length === jobs && ran.every((n, i) => n === i))
        assert.isTrue(fibers.every((fiber) => Exit.isSuccess(fiber.pollUnsafe()!)))
        yield* allBack(bulkhead)
      }))
  })

  describe("criticality", () => {
    it.effect("in a full queue a call takes the place of a less critical one; who waits is served in order", () =>
      Effect.gen(function*() {
        const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: 2 })
        const gate = yield* Deferred.make<void>()
        const ran: Array<string> = []
        const call = (name: string, criticality: Criticality) =>
          start(CallContext.annotate(Policy.apply(Effect.sync(() => ran.push(name)), bulkhead), { criticality }))
        yield* start(Policy.apply(Deferred.await(gate), bulkhead))
        const old = yield* call("old sheddable", "sheddable")
        const young = yield* call("young sheddable", "sheddable")
        const another = yield* call("another sheddable", "sheddable")
        assert.deepStrictEqual([old, young, another].map(rejected), [false, false, true])
        yield* call("critical", "critical")
        assert.deepStrictEqual([old, young].map(rejected), [false, true])
        yield* Deferred.succeed(gate, undefined)
        yield* Effect.yieldNow
        assert.deepStrictEqual(ran, ["old sheddable", "critical"])
        yield* allBack(bulkhead)
      }))

    it.effect("a displaced call that gives up what it holds lets the displacing one in at once", () =>
      Effect.gen(function*() {
        const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: 1 })
        const holder = yield* start(Policy.apply(Effect.never, bulkhead))
        yield* start(
          CallContext.annotate(Policy.apply(Effect.void, bulkhead), { criticality: "sheddable" }).pipe(
            Effect.catch(() => Fiber.interrupt(holder))
          )
        )
        const critical = yield* start(Policy.apply(Effect.succeed("in"), bulkhead))
        assert.strictEqual(yield* Fiber.join(critical), "in")
        yield* TestClock.adjust("1 minute")
        const { rejected } = yield* bulkhead.stats
        assert.strictEqual(rejected, 1)
        yield* allBack(bulkhead)
      }))
  })

  describe("resize", () => {
    it.effect("growing admits waiters at once; shrinking takes nothing away and admits when enough have ended", () =>
      Effect.gen(function*() {
        const { end, log, work } = script()
        const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: 10 })
        yield* Effect.forEach([0, 1, 2, 3], (n) => start(Policy.apply(work(n), bulkhead)))
        yield* bulkhead.resize(3)
        assert.deepStrictEqual(log, ["0-enter", "1-enter", "2-enter"])
        yield* bulkhead.resize(1)
        const { available, inFlight, limit, queued } = yield* bulkhead.stats
        assert.deepStrictEqual({ available, inFlight, limit, queued }, {
          available: 0,
          inFlight: 3,
          limit: 1,
          queued: 1
        })
        yield* end(0)
        yield* end(1)
        assert.notInclude(log, "3-enter")
        yield* end(2)
        assert.include(log, "3-enter")
        yield* end(3)
        yield* allBack(bulkhead)
      }))

    it.effect("changes the queue and its wait too, and tells who looks", () =>
      Effect.gen(function*() {
        const events: Array<CallEvent.CallEvent> = []
        const bulkhead = yield* Bulkhead.make({ limit: 1 })
        yield* Effect.provideService(
          bulkhead.resize(2, { maxQueue: 1, maxWait: 20 }),
          CallEvent.CurrentReceiver,
          { event: (event) => void events.push(event) }
        )
        assert.deepStrictEqual(events, [
          { _tag: "LimitMoved", policy: "Bulkhead", from: 1, to: 2, why: "resized", atMillis: 0 }
        ])
        yield* start(Policy.apply(Effect.never, bulkhead))
        yield* start(Policy.apply(Effect.never, bulkhead))
        const waiter = yield* start(Policy.apply(Effect.void, bulkhead))
        yield* TestClock.adjust(19)
        assert.isUndefined(waiter.pollUnsafe())
        yield* TestClock.adjust(1)
        assert.isTrue(rejected(waiter))
      }))

    it.effect("refuses what make refuses and changes nothing", () =>
      Effect.gen(function*() {
        const bulkhead = yield* Bulkhead.make({ limit: 2, maxQueue: 3 })
        const before = yield* bulkhead.stats
        for (
          const [resize, message] of [
            [bulkhead.resize(0), "Bulkhead.resize: limit must be an integer >= 1, got 0"],
            [bulkhead.resize(1, { maxQueue: -1 }), "Bulkhead.resize: maxQueue must be an integer >= 0, got -1"],
            [
              bulkhead.resize(1, { maxQueue: 1, maxWait: "-1 second" }),
              "Bulkhead.resize: maxWait must be a duration >= 0 and finite, got \"-1 second\""
            ]
          ] as const
        ) {
          const exit = yield* Effect.exit(resize)
          assert.strictEqual(Exit.isFailure(exit) && (Cause.squash(exit.cause) as Error).message, message)
          assert.deepStrictEqual(yield* bulkhead.stats, before)
        }
      }))
  })

  describe("interrupted by its caller", () => {
    it.effect("before, during, while queued, or just as it is handed the permit: everything is back", () =>
      Effect.gen(function*() {
        const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: 3 })
        let ran = 0
        const call = Policy.apply(Effect.andThen(Effect.sync(() => void ran++), Effect.never), bulkhead)
        const before = yield* Effect.forkChild(call)
        yield* Fiber.interrupt(before)
        assert.strictEqual(ran, 0)
        yield* allBack(bulkhead)
        const during = yield* start(call)
        const queued = yield* start(call)
        yield* Fiber.interrupt(queued)
        assert.strictEqual(ran, 1)
        const handed = yield* start(call)
        // Both in one step: the interrupt of the holder hands the permit to one that is being interrupted.
        during.interruptUnsafe()
        handed.interruptUnsafe()
        yield* Fiber.await(handed)
        yield* allBack(bulkhead)
      }))

    it.effect("its finalizers run while it holds the permit", () =>
      Effect.gen(function*() {
        const bulkhead = yield* Bulkhead.make({ limit: 1 })
        const cleaned = yield* Deferred.make<void>()
        const holder = yield* start(
          Policy.apply(Effect.onInterrupt(Effect.never, () => Deferred.await(cleaned)), bulkhead)
        )
        holder.interruptUnsafe(1, Interruption.annotations.hedgeLost)
        yield* Effect.yieldNow
        assert.strictEqual((yield* bulkhead.stats).inFlight, 1)
        yield* Deferred.succeed(cleaned, undefined)
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(holder)))
        yield* allBack(bulkhead)
      }))

    it.effect("between any two of its steps, holding or queued: everything is back", () =>
      interruptEverywhere(Effect.gen(function*() {
        const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: 2 })
        let inside = 0
        const work = Effect.acquireUseRelease(
          Effect.sync(() => void inside++),
          () => Effect.yieldNow,
          () => Effect.sync(() => void inside--)
        )
        const held = Effect.andThen(Effect.yieldNow, Effect.yieldNow)
        const holder = yield* start(Policy.apply(held, bulkhead))
        const behind = yield* Effect.forkChild(Policy.apply(work, bulkhead))
        return {
          // First queued, then free.
          work: Effect.andThen(Policy.apply(work, bulkhead), Policy.apply(work, bulkhead)),
          check: (where) =>
            Effect.gen(function*() {
              yield* Effect.exit(Fiber.join(holder))
              yield* Effect.exit(Fiber.join(behind))
              const { available, inFlight, queued } = yield* bulkhead.stats
              assert.deepStrictEqual({ available, inFlight, inside, queued }, {
                available: 1,
                inFlight: 0,
                inside: 0,
                queued: 0
              }, where)
              assert.strictEqual(yield* liveTimers, 0, where)
            })
        }
      })))

    // Yields at every possible step, and interrupts at random ones.
    for (const maxOps of [3, 4, 5, 6, 7, 8, 11, 16, 64]) {
      it.effect(`at any step of a fiber that yields every ${maxOps} steps: everything is back`, () =>
        Effect.gen(function*() {
          const bulkhead = yield* Bulkhead.make({ limit: 2, maxQueue: 3, maxWait: 5 })
          const timeout = yield* Timeout.make({ timeout: 4 })
          const stack = Policy.stack({ bulkhead, timeout })
          let inside = 0
          let most = 0
          const work = (n: number) =>
            Effect.acquireUseRelease(
              Effect.sync(() => {
                inside++
                most = Math.max(most, inside)
              }),
              () =>
                n % 4 === 0
                  ? Effect.die("defect")
                  : n % 4 === 1
                  ? Effect.sleep(n % 7)
                  : Effect.replicateEffect(Effect.yieldNow, n % 3),
              () => Effect.sync(() => void inside--)
            )
          const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
          for (let n = 0; n < 60; n++) {
            const fiber = yield* Effect.forkDetach(
              Effect.provideService(Policy.apply(work(n), stack), Scheduler.MaxOpsBeforeYield, maxOps),
              { startImmediately: true }
            )
            fibers.push(fiber)
            for (let hops = yield* Random.nextIntBetween(0, 6); hops > 0; hops--) yield* Effect.yieldNow
            if (yield* Random.nextBoolean) fiber.interruptUnsafe()
            if (n % 5 === 0) yield* TestClock.adjust(2)
          }
          // With so few operations per turn a fiber needs many turns, and one that timed out is followed by its work.
          const isOver = Effect.map(
            bulkhead.stats,
            ({ inFlight }) => inFlight === 0 && fibers.every((fiber) => fiber.pollUnsafe() !== undefined)
          )
          for (let turns = 0; turns < 500 && !(yield* isOver); turns++) yield* TestClock.adjust(10)
          assert.isAtMost(most, 2)
          assert.strictEqual(inside, 0)
          yield* allBack(bulkhead)
        }).pipe(Random.withSeed(`sweep ${maxOps}`)))
    }
  })

  it.effect.prop(
    "never runs more than its limit, runs everything it does not reject, and takes everything back",
    {
      limit: Schema.Literals([1, 2, 3]),
      maxQueue: Schema.Literals([0, 1, 3]),
      jobs: Schema.Array(Schema.Struct({
        after: Schema.Literals([0, 0, 1, 2]),
        takes: Schema.Literals([0, 1, 3, 10]),
        interruptedAfter: Schema.Literals([-1, -1, 0, 1, 2])
      })).check(Schema.isMinLength(6), Schema.isMaxLength(12))
    },
    ({ jobs, limit, maxQueue }) =>
      Effect.gen(function*() {
        const bulkhead = yield* Bulkhead.make({ limit, maxQueue, maxWait: 4 })
        let inside = 0
        let ran = 0
        for (const { after, interruptedAfter, takes } of jobs) {
          yield* TestClock.adjust(after)
          const work = Effect.acquireUseRelease(
            Effect.sync(() => {
              ran++
              assert.isAtMost(++inside, limit)
            }),
            () => Effect.sleep(takes),
            () => Effect.sync(() => void inside--)
          )
          const fiber = yield* start(Effect.exit(Policy.apply(work, bulkhead)))
          if (interruptedAfter >= 0) {
            yield* start(Effect.andThen(Effect.sleep(interruptedAfter), Fiber.interrupt(fiber)))
          }
        }
        yield* TestClock.adjust("1 minute")
        const { admitted, rejected } = yield* bulkhead.stats
        assert.strictEqual(admitted, ran)
        assert.isAtMost(admitted + rejected, jobs.length)
        yield* allBack(bulkhead)
      })
  )

  it.effect("tells who looks about a rejection, and announces itself to a registry", () =>
    Effect.gen(function*() {
      const events: Array<CallEvent.CallEvent> = []
      const policies: Array<Policy.Registered> = []
      const bulkhead = yield* Effect.provideService(Bulkhead.make({ limit: 1, name: "db" }), Policy.CurrentRegistry, {
        register: (policy) => {
          policies.push(policy)
          return () => {}
        }
      })
      const holder = yield* start(Policy.apply(Effect.never, bulkhead))
      const call: CallContext.CallContext = { ...CallContext.empty, name: "search" }
      yield* Effect.exit(Policy.apply(Effect.void, bulkhead)).pipe(
        Effect.provideService(CallContext.Current, call),
        Effect.provideService(CallEvent.CurrentReceiver, { event: (event) => void events.push(event) })
      )
      const [rejected] = events
      if (rejected?._tag !== "Rejected") return assert.fail("it says nothing")
      assert.deepStrictEqual({ ...rejected, error: rejected.error.reason }, {
        _tag: "Rejected",
        call,
        policy: "db",
        reason: "BulkheadFull",
        error: { _tag: "BulkheadFull", policy: "db", sent: "no", limit: 1, queued: 0 },
        state: undefined,
        atMillis: 0
      })
      yield* bulkhead.resize(1, { maxQueue: 1, maxWait: 50 })
      yield* start(
        Effect.exit(Policy.apply(Effect.void, bulkhead)).pipe(
          Effect.provideService(CallContext.Current, call),
          Effect.provideService(CallEvent.CurrentReceiver, { event: (event) => void events.push(event) })
        )
      )
      yield* TestClock.adjust(50)
      assert.deepStrictEqual(events.slice(1), [
        { _tag: "QueueLeft", call, policy: "db", how: "rejected", waitedMillis: 50, atMillis: 50 },
        { ...rejected, atMillis: 50 }
      ])
      assert.deepStrictEqual(policies.map(({ kind, name }) => [name, kind]), [["db", "bulkhead"]])
      assert.deepStrictEqual(policies[0]!.snapshot(), yield* bulkhead.stats)
      assert.deepStrictEqual(yield* bulkhead.stats, {
        limit: 1,
        available: 0,
        inFlight: 1,
        maxQueue: 1,
        queued: 0,
        admitted: 1,
        rejected: 2,
        waitedMillis: 50
      })
      yield* Fiber.interrupt(holder)
    }))

  for (
    const [options, message] of [
      [{ limit: 0 }, "Bulkhead.make: limit must be an integer >= 1, got 0"],
      [{ limit: 1.5 }, "Bulkhead.make: limit must be an integer >= 1, got 1.5"],
      [{ limit: Number.NaN }, "Bulkhead.make: limit must be an integer >= 1, got NaN"],
      [{ limit: 1, maxQueue: -1 }, "Bulkhead.make: maxQueue must be an integer >= 0, got -1"],
      [{ limit: 1, maxWait: Infinity }, "Bulkhead.make: maxWait must be a duration >= 0 and finite, got Infinity"]
    ] as const
  ) {
    it.effect(`dies when made: ${message}`, () =>
      Effect.gen(function*() {
        const exit = yield* Effect.exit(Bulkhead.make(options))
        assert.strictEqual(Exit.isFailure(exit) && (Cause.squash(exit.cause) as Error).message, message)
      }))
  }
})
