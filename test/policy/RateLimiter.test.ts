import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Duration, Effect, Exit, Fiber, Random, Scheduler, Schema } from "effect"
import { TestClock } from "effect/testing"
import * as CallContext from "../../src/contract/CallContext.ts"
import type * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as Stamp from "../../src/policy/internal/stamp.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as RateLimiter from "../../src/policy/RateLimiter.ts"
import * as Timeout from "../../src/policy/Timeout.ts"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"
import { ManualClock } from "../support/ManualClock.ts"

const start = <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.forkChild(self, { startImmediately: true })

const liveTimers = Effect.map(Clock.Clock, Timer.size)

const reasonOf = (exit: Exit.Exit<unknown, unknown> | undefined) => {
  if (exit === undefined || Exit.isSuccess(exit)) return undefined
  const [reason] = exit.cause.reasons
  return reason !== undefined && Cause.isFailReason(reason) ? (reason.error as CallError.CallError).reason : undefined
}

const messageOf = (exit: Exit.Exit<unknown, unknown>) =>
  Exit.isFailure(exit) ? (Cause.squash(exit.cause) as Error).message : undefined

/** The virtual milliseconds after which an effect's permits were given; -1 where they were refused. */
const waitOf = (self: Effect.Effect<unknown, unknown>) =>
  start(
    Effect.map(Effect.timed(Effect.exit(self)), ([took, exit]) => Exit.isSuccess(exit) ? Duration.toMillis(took) : -1)
  )

const at = (millis: number) => TestClock.setTime(millis)

describe("RateLimiter", () => {
  const patient = { maxWait: "1 hour" } as const
  const smooth = (window: Duration.Input) => RateLimiter.make({ limit: 1, window, mode: "smooth", ...patient })
  const reserve = (limiter: RateLimiter.RateLimiter, permits: number, times = 1) =>
    Effect.map(
      Effect.replicateEffect(Effect.orDie(limiter.reserve(permits)), times),
      (reservations) => reservations.at(-1)!.waitMillis
    )

  // RL-01
  it.effect("smooth, one per 500 ms: the last of seven at once waits 3 s, and time that passed unused is not saved up", () =>
    Effect.gen(function*() {
      const limiter = yield* smooth("500 millis")
      const waits = [yield* reserve(limiter, 1, 7)]
      for (const [time, permits] of [[800, 3], [2300, 1], [3500, 3], [9100, 3], [11_000, 1]] as const) {
        yield* at(time)
        waits.push(yield* reserve(limiter, permits))
      }
      assert.deepStrictEqual(waits, [3000, 3700, 2700, 3000, 900, 0])
    }))

  // RL-02
  it.effect("smooth, one per 200 ms: waits of 400, 250 and 190 ms", () =>
    Effect.gen(function*() {
      const limiter = yield* smooth("200 millis")
      const waits = [yield* reserve(limiter, 1, 3)]
      for (const [time, permits] of [[550, 2], [2210, 2]] as const) {
        yield* at(time)
        waits.push(yield* reserve(limiter, permits))
      }
      assert.deepStrictEqual(waits, [400, 250, 190])
    }))

  // RL-04
  it.effect("bursty, five per second: waits of 0, 450 and 790 ms, and a debt that the next second pays", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ limit: 5, ...patient })
      yield* at(300)
      assert.strictEqual(yield* reserve(limiter, 3), 0)
      assert.strictEqual((yield* limiter.stats).available, 2)
      yield* at(1550)
      assert.strictEqual(yield* reserve(limiter, 10), 450)
      yield* at(2210)
      assert.strictEqual(yield* reserve(limiter, 2), 790)
      yield* at(3000)
      assert.strictEqual((yield* limiter.stats).available, 3)
    }))

  // RL-05
  for (const mode of ["smooth", "bursty"] as const) {
    it.effect(`${mode}: seven permits in one go take as long as seven one by one`, () =>
      Effect.gen(function*() {
        const make = RateLimiter.make({ limit: 2, mode, ...patient })
        const once = yield* waitOf((yield* make).acquire(7))
        const limiter = yield* make
        const singly = yield* Effect.forEach(Array.from({ length: 7 }), () => waitOf(limiter.acquire()))
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* Fiber.join(once), yield* Fiber.join(singly.at(-1)!))
        assert.strictEqual(yield* liveTimers, 0)
      }))
  }

  // RL-07
  it.effect("of a hundred takes of a quota of five per second four are allowed, one is the last, 95 are over", () =>
    Effect.gen(function*() {
      const count = (limit: number) =>
        Effect.gen(function*() {
          const limiter = yield* RateLimiter.make({ limit })
          const taken = yield* Effect.replicateEffect(limiter.tryAcquire(), 100)
          const { admitted, rejected } = yield* limiter.stats
          assert.deepStrictEqual([admitted, rejected], [limit, 100 - limit])
          return {
            first: taken[0],
            allowed: taken.filter((taken) => taken.admitted && taken.remaining > 0).length,
            last: taken.filter((taken) => taken.admitted && taken.remaining === 0).length,
            over: taken.filter((taken) => !taken.admitted && taken.retryAfterMillis === 1000).length
          }
        })
      assert.deepStrictEqual(yield* count(5), {
        first: { admitted: true, remaining: 4, retryAfterMillis: 0 },
        allowed: 4,
        last: 1,
        over: 95
      })
      assert.deepStrictEqual(yield* count(1), {
        first: { admitted: true, remaining: 0, retryAfterMillis: 0 },
        allowed: 0,
        last: 1,
        over: 99
      })
    }))

  // RX-06
  it.effect("setting the wall clock back an hour changes nothing", () =>
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      let offset = 0
      const shifted: Clock.Clock = {
        ...clock,
        currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe() + offset,
        currentTimeMillis: Effect.map(clock.currentTimeMillis, (millis) => millis + offset),
        currentTimeNanosUnsafe: () => clock.currentTimeNanosUnsafe() + BigInt(offset) * 1_000_000n,
        currentTimeNanos: Effect.map(clock.currentTimeNanos, (nanos) => nanos + BigInt(offset) * 1_000_000n)
      }
      yield* Effect.gen(function*() {
        const limiter = yield* RateLimiter.make({ limit: 1, mode: "smooth", ...patient })
        yield* limiter.acquire()
        offset = -3_600_000
        const waits = yield* Effect.forEach([1, 2, 3], () => waitOf(limiter.acquire()))
        yield* TestClock.adjust("3 seconds")
        assert.deepStrictEqual(yield* Effect.forEach(waits, (fiber) => Fiber.join(fiber)), [1000, 2000, 3000])
      }).pipe(Effect.provideService(Clock.Clock, shifted))
    }))

  // RX-22
  for (const mode of ["smooth", "bursty"] as const) {
    it.effect(`${mode}, one per second and a wait of at most 5 s: of 101 callers one starts, five wait, the others are rejected now`, () =>
      Effect.gen(function*() {
        const limiter = yield* RateLimiter.make({ limit: 1, mode, maxWait: "5 seconds" })
        const fibers = yield* Effect.forEach(
          Array.from({ length: 101 }),
          () => waitOf(Policy.apply(Effect.void, limiter))
        )
        const now = fibers.map((fiber) => fiber.pollUnsafe())
        assert.deepStrictEqual(now.filter((exit) => exit === undefined).length, 5)
        assert.deepStrictEqual(
          now.filter((exit) => exit !== undefined && Exit.isSuccess(exit) && exit.value === -1).length,
          95
        )
        yield* TestClock.adjust("5 seconds")
        const waits = yield* Effect.forEach(fibers.slice(0, 7), (fiber) => Fiber.join(fiber))
        assert.deepStrictEqual(waits, [0, 1000, 2000, 3000, 4000, 5000, -1])
        assert.strictEqual(yield* liveTimers, 0)
      }))
  }

  it.effect("rejects at once by default, says when to come back, and what it rejects takes nothing", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ limit: 2, window: "4 seconds", mode: "smooth", name: "quota" })
      yield* Policy.apply(Effect.void, limiter)
      yield* at(500)
      for (let i = 0; i < 50; i++) {
        const error = yield* Effect.flip(Policy.apply(Effect.die("not run"), limiter))
        assert.deepStrictEqual(error.reason, {
          _tag: "LimitReached",
          policy: "quota",
          sent: "no",
          limit: 2,
          retryAfterMillis: 1500
        })
        assert.strictEqual(error.message, "quota: limit of 2 reached, next permit in 1.5s")
        const { admitted, retryAfterMillis } = yield* limiter.tryAcquire()
        assert.deepStrictEqual({ admitted, retryAfterMillis }, { admitted: false, retryAfterMillis: 1500 })
        yield* Effect.flip(limiter.acquire(5))
        yield* Effect.flip(limiter.reserve(5))
      }
      yield* at(2000)
      assert.strictEqual(yield* Policy.apply(Effect.succeed("ok"), limiter), "ok")
    }))

  it.effect("gives a window's permits at once; more are there when the next begins, but never more than a window's", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ limit: 3 })
      const admitted = () =>
        Effect.map(
          Effect.replicateEffect(Effect.exit(Policy.apply(Effect.void, limiter)), 10),
          (exits) => exits.filter(Exit.isSuccess).length
        )
      assert.strictEqual(yield* admitted(), 3)
      yield* at(999)
      assert.strictEqual(yield* admitted(), 0)
      yield* at(1000)
      assert.strictEqual(yield* admitted(), 3)
      yield* at(60_000)
      assert.strictEqual(yield* admitted(), 3)
    }))

  it.effect("saves up as many as burst says", () =>
    Effect.gen(function*() {
      for (const mode of ["smooth", "bursty"] as const) {
        const limiter = yield* RateLimiter.make({ limit: 2, burst: 5, mode })
        assert.strictEqual((yield* limiter.stats).available, 5)
        yield* limiter.acquire(5)
        assert.strictEqual((yield* limiter.stats).available, 0)
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* limiter.stats).available, 2)
        yield* TestClock.adjust("1 hour")
        assert.strictEqual((yield* limiter.stats).available, 5)
      }
    }))

  describe("waiting", () => {
    it.effect("is in order of coming, however many permits each wants", () =>
      Effect.gen(function*() {
        const limiter = yield* RateLimiter.make({ limit: 1, mode: "smooth", ...patient })
        const fibers = yield* Effect.forEach([1, 3, 1, 2, 1], (permits) => waitOf(limiter.acquire(permits)))
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* Effect.forEach(fibers, (fiber) => Fiber.join(fiber)), [0, 3000, 4000, 6000, 7000])
      }))

    it.effect("keeps its rate when it is called back late", () =>
      Effect.gen(function*() {
        const clock = new ManualClock()
        yield* Effect.gen(function*() {
          const limiter = yield* RateLimiter.make({ limit: 1000, mode: "smooth", ...patient })
          const fibers = yield* Effect.forEach(Array.from({ length: 500 }), () => start(limiter.acquire()))
          const begun = () => fibers.filter((fiber) => fiber.pollUnsafe() !== undefined).length
          assert.strictEqual(begun(), 1)
          clock.advance(400)
          assert.strictEqual(begun(), 401)
          clock.advance(98)
          assert.strictEqual(begun(), 499)
          clock.advance(1000)
          assert.strictEqual(begun(), 500)
          assert.strictEqual(Timer.size(clock), 0)
        }).pipe(Effect.provideService(Clock.Clock, clock))
      }))

    it.effect("nobody overtakes those who wait, and nothing is there for others", () =>
      Effect.gen(function*() {
        const limiter = yield* RateLimiter.make({ limit: 2 })
        const waiter = yield* waitOf(limiter.acquire(4, "5 seconds"))
        yield* TestClock.adjust(500)
        assert.deepStrictEqual(yield* limiter.tryAcquire(), { admitted: false, remaining: 0, retryAfterMillis: 1500 })
        const { available, waiting } = yield* limiter.stats
        assert.deepStrictEqual([available, waiting], [0, 1])
        yield* TestClock.adjust(500)
        assert.strictEqual(yield* Fiber.join(waiter), 1000)
      }))

    it.effect("that would end at the deadline or after it is refused now", () =>
      Effect.gen(function*() {
        yield* at(7000)
        const brief = yield* RateLimiter.make({ limit: 1, maxWait: "1 second" })
        yield* brief.acquire()
        assert.strictEqual(
          reasonOf(yield* Effect.exit(Timeout.withDeadline(brief.acquire(), "1 second")))?._tag,
          "LimitReached"
        )
        const limiter = yield* RateLimiter.make({ limit: 1, mode: "smooth", ...patient })
        yield* limiter.acquire()
        const call = Policy.apply(Effect.void, limiter)
        const exit = yield* Effect.exit(Timeout.withDeadline(call, "1 second"))
        assert.strictEqual(reasonOf(exit)?._tag, "LimitReached")
        const fits = yield* waitOf(Timeout.withDeadline(call, "1001 millis"))
        const second = yield* Effect.exit(Timeout.withDeadline(call, "1999 millis"))
        assert.deepStrictEqual(second, Exit.fail(yield* Effect.flip(second)))
        assert.strictEqual((reasonOf(second) as CallError.LimitReached).retryAfterMillis, 2000)
        yield* TestClock.adjust(1000)
        assert.strictEqual(yield* Fiber.join(fits), 1000)
        assert.strictEqual(yield* liveTimers, 0)
      }))

    it.effect("is not the call's own time: a breaker outside is told how long it was", () =>
      Effect.gen(function*() {
        yield* at(7000)
        const limiter = yield* RateLimiter.make({ limit: 1, mode: "smooth", ...patient })
        const stamped = () => {
          const stamp: Stamp.Stamp = { startedAt: 0, waiting: 0 }
          return [stamp, Effect.provideService(Policy.apply(Effect.void, limiter), Stamp.Current, stamp)] as const
        }
        const [first, admitted] = stamped()
        const [second, waits] = stamped()
        const [third, leaves] = stamped()
        yield* admitted
        yield* start(waits)
        const leaving = yield* start(leaves)
        assert.deepStrictEqual([first.waiting, second.waiting, third.waiting], [0, 1, 1])
        yield* TestClock.adjust(300)
        yield* Fiber.interrupt(leaving)
        yield* TestClock.adjust(700)
        assert.deepStrictEqual([first.startedAt, second.startedAt, third.startedAt], [0, 1000, 300])
        assert.deepStrictEqual([first.waiting, second.waiting, third.waiting], [0, 0, 0])
      }))
  })

  describe("interrupted", () => {
    it.effect("a waiter leaves no trace: the next one waits 900 ms, not 1900", () =>
      Effect.gen(function*() {
        for (const mode of ["smooth", "bursty"] as const) {
          const limiter = yield* RateLimiter.make({ limit: 1, mode, ...patient })
          yield* limiter.acquire()
          const waiter = yield* start(limiter.acquire())
          yield* TestClock.adjust(100)
          yield* Fiber.interrupt(waiter)
          const next = yield* waitOf(limiter.acquire())
          yield* TestClock.adjust("1 minute")
          assert.strictEqual(yield* Fiber.join(next), 900)
          assert.strictEqual(yield* liveTimers, 0)
        }
      }))

    it.effect("the first or one in the middle: those behind move up", () =>
      Effect.gen(function*() {
        const limiter = yield* RateLimiter.make({ limit: 1, mode: "smooth", ...patient })
        yield* limiter.acquire()
        const [first, , middle, ...behind] = yield* Effect.forEach([1, 1, 2, 1, 1], (n) => waitOf(limiter.acquire(n)))
        const late = yield* limiter.reserve()
        assert.strictEqual(late.waitMillis, 7000)
        yield* TestClock.adjust(500)
        yield* Fiber.interrupt(middle!)
        yield* Fiber.interrupt(first!)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* Effect.forEach(behind, (fiber) => Fiber.join(fiber)), [2000, 3000])
        assert.strictEqual((yield* limiter.stats).waiting, 0)
        assert.strictEqual(yield* liveTimers, 0)
      }))

    it.effect("before it starts, or while its attempt runs: a permit that was used stays used", () =>
      Effect.gen(function*() {
        const limiter = yield* RateLimiter.make({ limit: 2 })
        let ran = false
        const before = yield* Effect.forkChild(Policy.apply(Effect.sync(() => void (ran = true)), limiter))
        yield* Fiber.interrupt(before)
        assert.deepStrictEqual([ran, (yield* limiter.stats).available], [false, 2])
        const during = yield* start(Policy.apply(Effect.never, limiter))
        yield* Fiber.interrupt(during)
        assert.strictEqual((yield* limiter.stats).available, 1)
        assert.isTrue(Exit.isFailure(yield* Effect.exit(Policy.apply(Effect.die("defect"), limiter))))
        assert.strictEqual((yield* limiter.stats).available, 0)
      }))

    it.effect("in the same step in which its turn comes: the wait ends once", () =>
      Effect.gen(function*() {
        for (let maxOps = 3; maxOps < 12; maxOps++) {
          const clock = new ManualClock()
          yield* Effect.gen(function*() {
            const limiter = yield* RateLimiter.make({ limit: 1, mode: "smooth", ...patient })
            yield* limiter.acquire()
            const stamp: Stamp.Stamp = { startedAt: 0, waiting: 0 }
            const fiber = yield* limiter.acquire().pipe(
              Effect.provideService(Stamp.Current, stamp),
              Effect.provideService(Scheduler.MaxOpsBeforeYield, maxOps),
              Effect.forkChild
            )
            while (stamp.waiting === 0) yield* Effect.yieldNow
            fiber.interruptUnsafe()
            clock.advance(1000)
            assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
            assert.strictEqual(stamp.waiting, 0)
            assert.deepStrictEqual([(yield* limiter.stats).waiting, Timer.size(clock)], [0, 0])
          }).pipe(Effect.provideService(Clock.Clock, clock))
        }
      }))

    it.effect("between any two of its steps while it waits: its turn is somebody else's", () =>
      interruptEverywhere(Effect.gen(function*() {
        const limiter = yield* RateLimiter.make({ limit: 1, mode: "smooth", ...patient })
        yield* limiter.acquire()
        return {
          work: Policy.apply(Effect.die("not its turn"), limiter),
          check: (where) =>
            Effect.gen(function*() {
              assert.strictEqual((yield* limiter.stats).waiting, 0, where)
              assert.strictEqual(yield* liveTimers, 0, where)
              assert.strictEqual((yield* limiter.tryAcquire()).retryAfterMillis, 1000, where)
            })
        }
      })))

    for (const maxOps of [3, 4, 5, 6, 7, 8, 13, 64]) {
      it.effect(`at any step of a fiber that yields every ${maxOps} steps: no turn is lost`, () =>
        Effect.gen(function*() {
          for (const mode of ["smooth", "bursty"] as const) {
            const limiter = yield* RateLimiter.make({ limit: 3, window: 12, mode, maxWait: 20 })
            const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
            for (let n = 0; n < 60; n++) {
              const fiber = yield* Effect.forkDetach(
                Effect.provideService(Policy.apply(Effect.sleep(n % 4), limiter), Scheduler.MaxOpsBeforeYield, maxOps),
                { startImmediately: true }
              )
              fibers.push(fiber)
              for (let hops = yield* Random.nextIntBetween(0, 6); hops > 0; hops--) yield* Effect.yieldNow
              if (yield* Random.nextBoolean) fiber.interruptUnsafe()
              if (n % 4 === 0) yield* TestClock.adjust(3)
            }
            // With so few operations per turn a fiber needs many turns, some of them before it sleeps.
            while (fibers.some((fiber) => fiber.pollUnsafe() === undefined)) yield* TestClock.adjust(10)
            yield* TestClock.adjust("1 minute")
            const { available, waiting } = yield* limiter.stats
            assert.deepStrictEqual({ available, waiting }, { available: mode === "smooth" ? 1 : 3, waiting: 0 })
            assert.strictEqual(yield* liveTimers, 0)
            // The rate is what it was.
            const reservations = yield* Effect.replicateEffect(limiter.reserve(1, "1 second"), 4)
            assert.isAtMost(reservations.at(-1)!.waitMillis, 12)
            yield* TestClock.adjust("1 minute")
          }
        }).pipe(Random.withSeed(`sweep ${maxOps}`)))
    }

    it.effect.prop(
      "those who leave before their turn change nobody else's",
      {
        mode: Schema.Literals(["smooth", "bursty"]),
        limit: Schema.Literals([1, 4]),
        calls: Schema.Array(Schema.Struct({
          after: Schema.Literals([0, 0, 0, 40, 100, 250]),
          // Leaves so long after it has come; -1: never.
          leaves: Schema.Literals([-1, -1, 1, 33, 61])
        })).check(Schema.isMinLength(6), Schema.isMaxLength(15))
      },
      ({ calls, limit, mode }) =>
        Effect.gen(function*() {
          const options = { limit, window: 100, mode, ...patient } as const
          /** When each call's turn came, of those that come at all. */
          const turns = (comes: (index: number) => boolean) =>
            Effect.gen(function*() {
              const limiter = yield* RateLimiter.make(options)
              const turns = calls.map(() => -1)
              const begin = Timer.nowOf(yield* Clock.Clock)
              for (const [index, { after, leaves }] of calls.entries()) {
                yield* TestClock.adjust(after)
                if (!comes(index)) continue
                const fiber = yield* start(Effect.andThen(
                  limiter.acquire(),
                  Effect.withFiber((fiber) =>
                    Effect.sync(() => {
                      turns[index] = Timer.now(fiber) - begin
                    })
                  )
                ))
                if (leaves >= 0) yield* start(Effect.andThen(Effect.sleep(leaves), Fiber.interrupt(fiber)))
              }
              yield* TestClock.adjust("10 seconds")
              assert.strictEqual(yield* liveTimers, 0)
              return turns
            })
          const all = yield* turns(() => true)
          // A multiple of the window, so that both begin alike.
          yield* TestClock.setTime(Math.ceil(Timer.nowOf(yield* Clock.Clock) / 10_000) * 10_000)
          assert.deepStrictEqual(yield* turns((index) => all[index]! >= 0), all)
        })
    )
  })

  describe("reserve", () => {
    it.effect("takes a turn without waiting for it; cancelled before it is due, it never was", () =>
      Effect.gen(function*() {
        const limiter = yield* RateLimiter.make({ limit: 1, mode: "smooth", ...patient })
        yield* at(7000)
        const [now, soon] = yield* Effect.replicateEffect(limiter.reserve(), 2)
        const { reason } = yield* Effect.flip(limiter.reserve(1, "1999 millis"))
        assert.strictEqual(reason.retryAfterMillis, 2000)
        const later: RateLimiter.Reservation | undefined = yield* limiter.reserve(1, "2 seconds")
        assert.deepStrictEqual([now!.waitMillis, soon!.waitMillis, later!.waitMillis], [0, 1000, 2000])
        yield* soon!.cancel
        yield* soon!.cancel
        assert.strictEqual((yield* limiter.reserve()).waitMillis, 2000)
        yield* TestClock.adjust(1000)
        // Due already: cancelling it takes nothing back.
        yield* later!.cancel
        yield* now!.cancel
        assert.strictEqual((yield* limiter.reserve()).waitMillis, 2000)
        yield* TestClock.adjust(2000)
        assert.deepStrictEqual([(yield* limiter.stats).waiting, yield* liveTimers], [0, 0])
      }))

    it.effect("stands in line with those who wait, also when the fiber that made it has ended", () =>
      Effect.gen(function*() {
        const limiter = yield* RateLimiter.make({ limit: 1, mode: "smooth", ...patient })
        yield* limiter.acquire()
        yield* Fiber.join(yield* start(limiter.reserve()))
        const waiter = yield* waitOf(limiter.acquire())
        yield* TestClock.adjust(2000)
        assert.strictEqual(yield* Fiber.join(waiter), 2000)
      }))
  })

  it.effect("drain takes what is there, for when the other side says it is used up", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ limit: 5 })
      yield* limiter.acquire()
      yield* at(400)
      yield* limiter.drain
      assert.deepStrictEqual(yield* limiter.tryAcquire(), { admitted: false, remaining: 0, retryAfterMillis: 600 })
      yield* at(1000)
      assert.strictEqual((yield* limiter.stats).available, 5)
    }))

  describe("changeLimit", () => {
    it.effect("faster: waiters move up in their order; what was used stays used", () =>
      Effect.gen(function*() {
        const limiter = yield* RateLimiter.make({ limit: 1, ...patient })
        const fibers = yield* Effect.forEach([1, 1, 1, 1, 1, 1], () => waitOf(limiter.acquire()))
        yield* TestClock.adjust(500)
        yield* limiter.changeLimit(4)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* Effect.forEach(fibers, (fiber) => Fiber.join(fiber)), [
          0,
          500,
          500,
          500,
          1000,
          1000
        ])
        assert.deepStrictEqual([(yield* limiter.stats).available, yield* liveTimers], [4, 0])
      }))

    it.effect("slower: those who would wait longer than they may are rejected now, and told how long", () =>
      Effect.gen(function*() {
        yield* at(7000)
        const limiter = yield* RateLimiter.make({ limit: 2, mode: "smooth", maxWait: "2 seconds" })
        const stamp: Stamp.Stamp = { startedAt: 0, waiting: 0 }
        const fibers = yield* Effect.forEach(
          [1, 1, 1, 1, 1],
          () => start(Effect.provideService(limiter.acquire(), Stamp.Current, stamp))
        )
        assert.strictEqual(stamp.waiting, 4)
        const reserved = yield* limiter.reserve(1, "1 hour")
        assert.strictEqual(reserved.waitMillis, 2500)
        yield* limiter.changeLimit(1)
        assert.deepStrictEqual(
          fibers.map((fiber) => (reasonOf(fiber.pollUnsafe()) as CallError.LimitReached | undefined)?.retryAfterMillis),
          [undefined, undefined, undefined, 3000, 3000]
        )
        assert.strictEqual(stamp.waiting, 2)
        // What has been promised to the caller of `reserve` is kept in order.
        assert.strictEqual((yield* limiter.stats).waiting, 3)
        yield* TestClock.adjust(2000)
        assert.isTrue(fibers.every((fiber) => fiber.pollUnsafe() !== undefined))
        yield* TestClock.adjust(1000)
        assert.deepStrictEqual([(yield* limiter.stats).waiting, yield* liveTimers], [0, 0])
      }))

    it.effect("changes the window too, and tells who looks", () =>
      Effect.gen(function*() {
        const events: Array<CallEvent.CallEvent> = []
        const limiter = yield* RateLimiter.make({ limit: 2 })
        yield* Effect.provideService(
          limiter.changeLimit(1, "10 seconds"),
          CallEvent.CurrentReceiver,
          { event: (event) => void events.push(event) }
        )
        assert.deepStrictEqual(events, [{
          _tag: "LimitMoved",
          policy: "RateLimiter",
          from: 2,
          to: 1,
          why: "changed from 2 per 1000ms to 1 per 10000ms",
          atMillis: 0
        }])
        yield* limiter.acquire()
        assert.strictEqual((yield* limiter.tryAcquire()).retryAfterMillis, 10_000)
      }))

    it.effect("a burst that was stated stays, and is never less than a window of a bursty limiter", () =>
      Effect.gen(function*() {
        const available = (options: RateLimiter.RateLimiterOptions, limit: number) =>
          Effect.gen(function*() {
            const limiter = yield* RateLimiter.make(options)
            yield* limiter.changeLimit(limit)
            yield* TestClock.adjust("1 hour")
            return (yield* limiter.stats).available
          })
        assert.strictEqual(yield* available({ limit: 2 }, 7), 7)
        assert.strictEqual(yield* available({ limit: 2, burst: 4 }, 3), 4)
        assert.strictEqual(yield* available({ limit: 2, burst: 4 }, 7), 7)
        assert.strictEqual(yield* available({ limit: 1, mode: "smooth" }, 7), 1)
        assert.strictEqual(yield* available({ limit: 1, mode: "smooth", burst: 3 }, 7), 3)
      }))
  })

  it.effect("a waiter whose attempt begins may change everything: nobody is lost", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ limit: 1, mode: "smooth", ...patient })
      yield* limiter.acquire()
      const ran: Array<string> = []
      const victim = Effect.onInterrupt(limiter.acquire(), () => Effect.sync(() => ran.push("left")))
      const second: { fiber?: Fiber.Fiber<unknown, unknown> } = {}
      yield* start(Policy.apply(
        Effect.gen(function*() {
          ran.push("first")
          yield* Fiber.interrupt(second.fiber!)
          yield* limiter.changeLimit(2)
          yield* Effect.forkDetach(Policy.apply(Effect.sync(() => ran.push("nested")), limiter))
        }),
        limiter
      ))
      second.fiber = yield* start(victim)
      yield* start(Policy.apply(Effect.sync(() => ran.push("third")), limiter))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(ran, ["first", "left", "third", "nested"])
      assert.deepStrictEqual([(yield* limiter.stats).waiting, yield* liveTimers], [0, 0])
    }))

  it.effect("tells who looks about a rejection, and announces itself to a registry", () =>
    Effect.gen(function*() {
      const events: Array<CallEvent.CallEvent> = []
      const policies: Array<Policy.Registered> = []
      const limiter = yield* Effect.provideService(
        RateLimiter.make({ limit: 1, name: "quota" }),
        Policy.CurrentRegistry,
        {
          register: (policy) => {
            policies.push(policy)
            return () => {}
          }
        }
      )
      yield* limiter.acquire()
      const call: CallContext.CallContext = { ...CallContext.empty, name: "search" }
      yield* Effect.exit(Policy.apply(Effect.void, limiter)).pipe(
        Effect.provideService(CallContext.Current, call),
        Effect.provideService(CallEvent.CurrentReceiver, { event: (event) => void events.push(event) })
      )
      const [rejected] = events
      if (rejected?._tag !== "Rejected") return assert.fail("it says nothing")
      assert.deepStrictEqual({ ...rejected, error: rejected.error.reason }, {
        _tag: "Rejected",
        call,
        policy: "quota",
        reason: "LimitReached",
        error: { _tag: "LimitReached", policy: "quota", sent: "no", limit: 1, retryAfterMillis: 1000 },
        state: undefined,
        atMillis: 0
      })
      assert.deepStrictEqual(policies.map(({ kind, name }) => [name, kind]), [["quota", "rateLimiter"]])
      assert.deepStrictEqual(policies[0]!.snapshot(), {
        limit: 1,
        windowMillis: 1000,
        available: 0,
        waiting: 0,
        admitted: 1,
        rejected: 1
      })
    }))

  for (
    const [options, message] of [
      [{ limit: 0 }, "RateLimiter.make: limit must be an integer >= 1, got 0"],
      [{ limit: 1, window: 0 }, "RateLimiter.make: window must be a positive and finite duration, got 0"],
      [{ limit: 3, burst: 2 }, "RateLimiter.make: burst must be an integer >= 3, got 2"],
      [{ limit: 3, burst: 0, mode: "smooth" }, "RateLimiter.make: burst must be an integer >= 1, got 0"],
      [{ limit: 1, mode: "odd" as "smooth" }, "RateLimiter.make: mode must be smooth or bursty, got \"odd\""],
      [{ limit: 1, maxWait: Infinity }, "RateLimiter.make: maxWait must be a duration >= 0 and finite, got Infinity"]
    ] as const
  ) {
    it.effect(`dies when made: ${message}`, () =>
      Effect.gen(function*() {
        assert.strictEqual(messageOf(yield* Effect.exit(RateLimiter.make(options))), message)
      }))
  }

  it.effect("dies of permits, waits and limits that are none, and takes nothing", () =>
    Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ limit: 1 })
      for (
        const [effect, message] of [
          [limiter.acquire(0), "RateLimiter.acquire: permits must be an integer >= 1, got 0"],
          [
            limiter.acquire(1, "-1 second"),
            "RateLimiter.acquire: maxWait must be a duration >= 0 and finite, got \"-1 second\""
          ],
          [limiter.tryAcquire(0.5), "RateLimiter.tryAcquire: permits must be an integer >= 1, got 0.5"],
          [
            limiter.reserve(1, Infinity),
            "RateLimiter.reserve: maxWait must be a duration >= 0 and finite, got Infinity"
          ],
          [limiter.changeLimit(-1), "RateLimiter.changeLimit: limit must be an integer >= 1, got -1"],
          [limiter.changeLimit(1, 0), "RateLimiter.changeLimit: window must be a positive and finite duration, got 0"]
        ] as const
      ) {
        assert.strictEqual(messageOf(yield* Effect.exit<unknown, unknown, never>(effect)), message)
      }
      assert.strictEqual((yield* limiter.stats).available, 1)
    }))
})
