import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Latch from "effect/Latch"
import * as Random from "effect/Random"
import { TestClock } from "effect/testing"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Interruption from "../../src/contract/Interruption.ts"
import * as Outcome from "../../src/contract/Outcome.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as AdaptiveLimiter from "../../src/policy/AdaptiveLimiter.ts"
import * as Stamp from "../../src/policy/internal/stamp.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as Timeout from "../../src/policy/Timeout.ts"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"

const start = <A, E>(self: Effect.Effect<A, E>) => Effect.forkChild(self, { startImmediately: true })
const liveTimers = Effect.map(Clock.Clock, Timer.size)
const overloaded = CallError.fail({ _tag: "Overloaded", target: "users", detail: "busy", sent: "no" })
const timedOut = CallError.fail({ _tag: "AttemptTimeout", policy: "t", timeoutMillis: 100, sent: "maybe" })

const rejected = (fiber: Fiber.Fiber<unknown, unknown>) => {
  const exit = fiber.pollUnsafe()
  if (exit === undefined || Exit.isSuccess(exit)) return false
  const error = Cause.squash(exit.cause)
  return CallError.isCallError(error) && error.reason._tag === "LimitReached"
}

/** Everything is back: permits, places in the queue, timers. */
const allBack = (limiter: AdaptiveLimiter.AdaptiveLimiter) =>
  Effect.gen(function*() {
    const { inFlight, queued } = yield* limiter.stats
    assert.deepStrictEqual({ inFlight, queued }, { inFlight: 0, queued: 0 })
    assert.strictEqual(yield* liveTimers, 0)
  })

/** A window of 50 attempts in flight together, one of which ends when a second is over, and the limit after it. */
const window = <A, E>(limiter: AdaptiveLimiter.AdaptiveLimiter, attempt: Effect.Effect<A, E>, count = 50) =>
  Effect.gen(function*() {
    const fibers = yield* Effect.forEach(Array.from({ length: count }), () => start(Policy.apply(attempt, limiter)))
    yield* TestClock.adjust("1001 millis")
    yield* Effect.forEach(fibers, Fiber.await)
    return (yield* limiter.stats).limit
  })

const recorded = <A, E, R>(self: Effect.Effect<A, E, R>) => {
  const events: Array<CallEvent.CallEvent> = []
  return Effect.map(
    Effect.provideService(self, CallEvent.CurrentReceiver, { event: (event) => void events.push(event) }),
    () => events
  )
}

describe("AdaptiveLimiter", () => {
  it.effect("admits up to the limit, queues what is more, and rejects what the queue has no room for", () =>
    Effect.gen(function*() {
      const limiter = yield* AdaptiveLimiter.make({ initial: 2, maxQueue: 3, name: "users" })
      const latch = Latch.makeUnsafe()
      const fibers = yield* Effect.forEach([1, 2, 3, 4, 5, 6], () => start(Policy.apply(latch.await, limiter)))
      assert.include(yield* limiter.stats, { limit: 2, inFlight: 2, queued: 3, admitted: 2, rejected: 1 })
      assert.deepStrictEqual(fibers.map(rejected), [false, false, false, false, false, true])
      const error = yield* Effect.flip(Fiber.join(fibers[5]!))
      assert.strictEqual(error.message, "users: limit of 2 reached")
      yield* latch.open
      yield* Effect.forEach(fibers.slice(0, 5), Fiber.join)
      yield* allBack(limiter)
      assert.include(yield* limiter.stats, { admitted: 5, rejected: 1 })
    }))

  // AD-07
  it.effect("rejects nobody up to twice the limit queued, some up to three times, and everybody beyond", () =>
    Effect.gen(function*() {
      const limiter = yield* AdaptiveLimiter.make({ initial: 20, maxFactor: 1 })
      const push = (count: number) =>
        Effect.forEach(Array.from({ length: count }), () => start(Policy.apply(Effect.never, limiter)))
      const first = yield* push(20 + 40)
      assert.include(yield* limiter.stats, { inFlight: 20, queued: 40, rejected: 0 })
      const second = yield* push(1000)
      const { queued } = yield* limiter.stats
      assert.strictEqual(queued, 60)
      const third = yield* push(10)
      assert.isTrue(third.every(rejected))
      // To fill 20 places at a chance of (20 - n) / 20 takes about 20 * (1 + 1/2 + … + 1/20) newcomers.
      const needed = second.findLastIndex((fiber) => !rejected(fiber)) + 1
      assert.isTrue(needed > 40 && needed < 200, `${needed}`)
      yield* Fiber.interruptAll([...first, ...second])
      yield* allBack(limiter)
    }).pipe(Random.withSeed("ramp")))

  it.effect("takes the chance of a place in the queue from the fiber's Random", () =>
    Effect.gen(function*() {
      const limiter = yield* AdaptiveLimiter.make({ initial: 20 })
      const fibers = yield* Effect.forEach(
        Array.from({ length: 100 }),
        () => start(Policy.apply(Effect.never, limiter))
      )
      // At 51 in the queue of 20 the chance to be rejected is 0.55.
      assert.include(yield* limiter.stats, { inFlight: 20, queued: 51, rejected: 29 })
      yield* Fiber.interruptAll(fibers)
    }).pipe(Effect.provideService(Random.Random, { nextIntUnsafe: () => 0, nextDoubleUnsafe: () => 0.5 })))

  it.effect("hands a permit to who has waited longest, before anybody who comes later", () =>
    Effect.gen(function*() {
      const limiter = yield* AdaptiveLimiter.make({ initial: 1 })
      const order: Array<number> = []
      const latches = [1, 2, 3].map(() => Latch.makeUnsafe())
      const work = (n: number) => Effect.suspend(() => (order.push(n), latches[n - 1]?.await ?? Effect.void))
      yield* Effect.forEach([1, 2, 3], (n) => start(Policy.apply(work(n), limiter)))
      assert.deepStrictEqual(order, [1])
      yield* latches[0]!.open
      yield* Effect.yieldNow
      // A newcomer in the very step after the release finds the permit with the second.
      yield* start(Policy.apply(work(4), limiter))
      assert.deepStrictEqual(order, [1, 2])
      yield* latches[1]!.open
      yield* latches[2]!.open
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(order, [1, 2, 3, 4])
      yield* allBack(limiter)
    }))

  it.effect("waits no longer than maxWait, nor past the deadline, and not at all for a deadline that has passed", () =>
    Effect.gen(function*() {
      const limiter = yield* AdaptiveLimiter.make({ initial: 1, maxWait: "2 seconds" })
      const holder = yield* start(Policy.apply(Effect.never, limiter))
      const waiter = yield* start(Policy.apply(Effect.void, limiter))
      const hurried = yield* start(CallContext.annotate(Policy.apply(Effect.void, limiter), { deadline: 500 }))
      yield* TestClock.adjust(500)
      assert.deepStrictEqual([rejected(waiter), rejected(hurried)], [false, true])
      const late = yield* start(CallContext.annotate(Policy.apply(Effect.void, limiter), { deadline: 500 }))
      assert.isTrue(rejected(late))
      yield* TestClock.adjust(1499)
      assert.isFalse(rejected(waiter))
      yield* TestClock.adjust(1)
      assert.isTrue(rejected(waiter))
      yield* Fiber.interrupt(holder)
      yield* allBack(limiter)
    }))

  it.effect("refuses at once a wait that would end after the deadline at the present pace", () =>
    Effect.gen(function*() {
      const limiter = yield* AdaptiveLimiter.make({
        initial: 2,
        max: 2,
        minimumCalls: 1,
        rejection: { from: 9, to: 9 }
      })
      yield* TestClock.adjust(1)
      const first = yield* start(Policy.apply(Effect.sleep(1000), limiter))
      yield* TestClock.adjust(1000)
      yield* Fiber.join(first)
      assert.strictEqual((yield* limiter.stats).recentMillis, 1000)
      // Two permits that come back every second: the third in line gets one after 1.5 s.
      const holders = yield* Effect.forEach([1, 2, 3, 4], () => start(Policy.apply(Effect.never, limiter)))
      const at = (deadline: number) => start(CallContext.annotate(Policy.apply(Effect.void, limiter), { deadline }))
      assert.isTrue(rejected(yield* at(1001 + 1499)))
      const fits = yield* at(1001 + 1500)
      assert.isFalse(rejected(fits))
      yield* Fiber.interruptAll([...holders, fits])
      yield* allBack(limiter)
    }))

  it.effect("never queues with a queue or a wait of 0", () =>
    Effect.gen(function*() {
      for (const options of [{ maxQueue: 0 }, { maxWait: 0 }]) {
        const limiter = yield* AdaptiveLimiter.make({ initial: 1, ...options })
        const holder = yield* start(Policy.apply(Effect.never, limiter))
        assert.isTrue(rejected(yield* start(Policy.apply(Effect.void, limiter))))
        yield* Fiber.interrupt(holder)
        yield* Policy.apply(Effect.void, limiter)
        yield* allBack(limiter)
      }
    }))

  it.effect("in a full queue gives a critical call the place of a sheddable one", () =>
    Effect.gen(function*() {
      const limiter = yield* AdaptiveLimiter.make({ initial: 1, maxQueue: 1 })
      const holder = yield* start(Policy.apply(Effect.never, limiter))
      const sheddable = yield* start(
        CallContext.annotate(Policy.apply(Effect.void, limiter), { criticality: "sheddable" })
      )
      const critical = yield* start(Policy.apply(Effect.void, limiter))
      assert.deepStrictEqual([rejected(sheddable), rejected(critical)], [true, false])
      yield* Fiber.interrupt(holder)
      yield* Fiber.join(critical)
      yield* allBack(limiter)
    }))

  it.effect("grows while attempts answer as ever, and says why", () =>
    Effect.gen(function*() {
      const limiter = yield* AdaptiveLimiter.make({ initial: 50, name: "users" })
      const events = yield* recorded(Effect.gen(function*() {
        assert.strictEqual(yield* window(limiter, Effect.sleep("1001 millis")), 51)
      }))
      assert.deepStrictEqual(events, [{
        _tag: "LimitMoved",
        policy: "users",
        from: 50,
        to: 51,
        why: "room: 1001.0ms of late, 1001.0ms in the long run, 0 queueing",
        atMillis: 1001
      }])
      assert.include(yield* limiter.stats, { recentMillis: 1001, baselineMillis: 1001 })
    }))

  it.effect("falls at once, by what was late or refused, and says so", () =>
    Effect.gen(function*() {
      const failures: ReadonlyArray<Effect.Effect<never, unknown>> = [
        overloaded,
        timedOut,
        Effect.fail(new Cause.TimeoutError())
      ]
      for (const failure of failures) {
        const limiter = yield* AdaptiveLimiter.make({ initial: 50, name: "users" })
        const events = yield* recorded(Effect.gen(function*() {
          assert.strictEqual(yield* window(limiter, Effect.andThen(Effect.sleep("1001 millis"), failure)), 25)
        }))
        const { why } = events.find(({ _tag }) => _tag === "LimitMoved") as CallEvent.LimitMoved
        assert.strictEqual(why, "overload: 100 % late or refused")
      }
    }))

  it.effect("shrinks to the minimum while everything runs into the timeout inside it", () =>
    Effect.gen(function*() {
      const limiter = yield* AdaptiveLimiter.make({
        initial: 20,
        min: 2,
        minimumCalls: 10,
        rejection: { from: 99, to: 99 }
      })
      const timeout = yield* Timeout.make({ timeout: "100 millis" })
      const stack = Policy.stack({ adaptiveLimiter: limiter, timeout })
      for (let round = 0; round < 12; round++) {
        const fibers = yield* Effect.forEach(Array.from({ length: 40 }), () => start(stack.run(Effect.never)))
        yield* TestClock.adjust("2 seconds")
        yield* Effect.forEach(fibers, Fiber.await)
      }
      assert.strictEqual((yield* limiter.stats).limit, 2)
      yield* allBack(limiter)
    }))

  it.effect("learns nothing from failures, defects, callers that leave, and rejections by policies inside", () =>
    Effect.gen(function*() {
      const limiter = yield* AdaptiveLimiter.make({ initial: 50, minimumCalls: 1 })
      yield* TestClock.adjust("2 seconds")
      const ends: ReadonlyArray<Effect.Effect<never, unknown>> = [
        Effect.fail("boom"),
        Effect.die("bug"),
        CallError.fail({ _tag: "CircuitOpen", policy: "c", sent: "no", state: "Open" }),
        CallError.fail({
          _tag: "Remote",
          target: "u",
          code: "X-E-1",
          message: "",
          causes: [],
          retry: "never",
          sent: "maybe"
        })
      ]
      for (const end of ends) yield* Effect.exit(Policy.apply(end, limiter))
      const left = yield* start(Policy.apply(Effect.never, limiter))
      yield* Fiber.interrupt(left)
      assert.include(yield* limiter.stats, { limit: 50, recentMillis: undefined, inFlight: 0 })
      const lenient = { classify: () => Outcome.success }
      yield* Effect.exit(CallContext.annotate(Policy.apply(Effect.die("bug"), limiter), lenient))
      assert.strictEqual((yield* limiter.stats).recentMillis, undefined)
      // But from an answer that was of no use to the caller, and from an attempt that a timeout outside ended.
      yield* Effect.exit(CallContext.annotate(Policy.apply(Effect.fail("no such user"), limiter), lenient))
      assert.strictEqual((yield* limiter.stats).recentMillis, 0)
      yield* TestClock.adjust("2 seconds")
      const timed = yield* start(Policy.apply(Effect.never, limiter))
      timed.interruptUnsafe(undefined, Interruption.annotations.attemptTimeout)
      yield* Fiber.await(timed)
      assert.strictEqual((yield* limiter.stats).limit, 25)
      yield* allBack(limiter)
    }))

  it.effect("does not count the wait for a permit as the endpoint's latency", () =>
    Effect.gen(function*() {
      const limiter = yield* AdaptiveLimiter.make({ initial: 1, max: 1, minimumCalls: 3 })
      const fibers = yield* Effect.forEach([1, 2, 3], () => start(Policy.apply(Effect.sleep(500), limiter)))
      yield* TestClock.adjust("2 seconds")
      yield* Effect.forEach(fibers, Fiber.join)
      assert.strictEqual((yield* limiter.stats).recentMillis, 500)
      assert.strictEqual((yield* limiter.stats).sustained, 5)
    }))

  it.effect("tells a breaker outside that measures how long a call has waited", () =>
    Effect.gen(function*() {
      const limiter = yield* AdaptiveLimiter.make({ initial: 1 })
      const holder = yield* start(Policy.apply(Effect.never, limiter))
      const stamps = [1, 2].map((): Stamp.Stamp => ({ startedAt: 0, waiting: 0 }))
      const [served, left] = yield* Effect.forEach(stamps, (stamp) =>
        start(Effect.provideService(Policy.apply(Effect.void, limiter), Stamp.Current, stamp)))
      assert.deepStrictEqual(
        stamps.map(({ waiting }) =>
          waiting
        ),
        [1, 1]
      )
      yield* TestClock.adjust(300)
      yield* Fiber.interrupt(left!)
      yield* TestClock.adjust(200)
      yield* Fiber.interrupt(holder)
      yield* Fiber.join(served!)
      assert.deepStrictEqual(stamps, [{ startedAt: 500, waiting: 0 }, { startedAt: 300, waiting: 0 }])
      yield* allBack(limiter)
    }))

  it.effect("keeps the permit of work that a timeout inside has left to itself until that ends", () =>
    Effect.gen(function*() {
      const limiter = yield* AdaptiveLimiter.make({ initial: 1 })
      const timeout = yield* Timeout.make({ timeout: 50 })
      const stubborn = Effect.uninterruptible(Effect.sleep(400))
      const fiber = yield* start(Policy.stack({ adaptiveLimiter: limiter, timeout }).run(stubborn))
      yield* TestClock.adjust(50)
      assert.isDefined(fiber.pollUnsafe())
      assert.strictEqual((yield* limiter.stats).inFlight, 1)
      yield* TestClock.adjust(350)
      yield* allBack(limiter)
    }))

  it.effect("releases every permit once, wherever a fiber is interrupted, holding or waiting", () =>
    Effect.gen(function*() {
      yield* interruptEverywhere(Effect.map(AdaptiveLimiter.make({ initial: 1 }), (limiter) => ({
        work: Policy.apply(Effect.never, limiter),
        check: () => allBack(limiter)
      })))
      yield* interruptEverywhere(Effect.gen(function*() {
        const limiter = yield* AdaptiveLimiter.make({ initial: 1 })
        const holder = yield* start(Policy.apply(Effect.yieldNow, limiter))
        return {
          work: Policy.apply(Effect.never, limiter),
          check: () => Effect.andThen(Fiber.await(holder), allBack(limiter))
        }
      }))
    }))

  it.effect("releases the permit of a defect, and even if the caller's classifier throws", () =>
    Effect.gen(function*() {
      const limiter = yield* AdaptiveLimiter.make({ initial: 1 })
      assert.isTrue(Exit.hasDies(yield* Effect.exit(Policy.apply(Effect.die("bug"), limiter))))
      const call = CallContext.annotate(Policy.apply(Effect.fail("x"), limiter), {
        classify: () => {
          throw new Error("classifier")
        }
      })
      assert.isTrue(Exit.hasDies(yield* Effect.exit(call)))
      yield* allBack(limiter)
    }))

  it.effect("goes on with the queue when the limit grows, and admits nobody until it is met when it falls", () =>
    Effect.gen(function*() {
      const limiter = yield* AdaptiveLimiter.make({ initial: 2, minimumCalls: 1, rejection: { from: 99, to: 99 } })
      const gates = yield* Effect.forEach(Array.from({ length: 6 }), () => Deferred.make<void>())
      const fibers = yield* Effect.forEach(gates, (gate) => start(Policy.apply(Deferred.await(gate), limiter)))
      yield* TestClock.adjust("2 seconds")
      yield* Deferred.succeed(gates[0]!, undefined)
      yield* Fiber.await(fibers[0]!)
      assert.include(yield* limiter.stats, { limit: 3, inFlight: 3, queued: 2 })
      yield* TestClock.adjust("10 seconds")
      yield* Effect.forEach(fibers.slice(1), (fiber) => Fiber.interrupt(fiber))
      yield* allBack(limiter)

      const shrinking = yield* AdaptiveLimiter.make({ initial: 4, minimumCalls: 1, rejection: { from: 99, to: 99 } })
      const refused = yield* Effect.forEach(gates, () => Deferred.make<void, unknown>())
      const held = yield* Effect.forEach(refused, (gate) => start(Policy.apply(Deferred.await(gate), shrinking)))
      yield* TestClock.adjust("2 seconds")
      yield* Deferred.failSync(refused[0]!, () => new Cause.TimeoutError())
      yield* Fiber.await(held[0]!)
      // The fifth was handed the permit before the limit fell to half of 4.
      assert.include(yield* shrinking.stats, { limit: 2, inFlight: 4, queued: 1 })
      yield* Deferred.succeed(refused[1]!, undefined)
      yield* Deferred.succeed(refused[2]!, undefined)
      yield* Effect.forEach([held[1]!, held[2]!], Fiber.await)
      assert.include(yield* shrinking.stats, { inFlight: 2, queued: 1 })
      yield* Deferred.succeed(refused[3]!, undefined)
      yield* Fiber.await(held[3]!)
      assert.include(yield* shrinking.stats, { inFlight: 2, queued: 0 })
      yield* Fiber.interruptAll(held)
      yield* allBack(shrinking)
    }))

  it.effect("does not grow over an endpoint that works on one call at a time, however many callers there are", () =>
    Effect.gen(function*() {
      const limiter = yield* AdaptiveLimiter.make({ minimumCalls: 10, rejection: { from: 99, to: 99 } })
      let freeAt = 0
      const attempt = Policy.apply(
        Effect.clockWith((clock) => {
          freeAt = Math.max(freeAt, Timer.nowOf(clock)) + 20
          return Effect.sleep(freeAt - Timer.nowOf(clock))
        }),
        limiter
      )
      const events = yield* recorded(Effect.gen(function*() {
        const callers = yield* Effect.forEach(Array.from({ length: 60 }), () => start(Effect.forever(attempt)))
        yield* TestClock.adjust("40 seconds")
        yield* Fiber.interruptAll(callers)
      }))
      const moves = events.filter((event) => event._tag === "LimitMoved")
      assert.isBelow(Math.max(...moves.map(({ to }) => to)), 50)
      assert.isTrue(moves.some(({ why }) => why.startsWith("latency grows without throughput: ")))
      yield* allBack(limiter)
    }))

  it.effect("goes through a long queue of attempts that take no time without a stack to overflow", () =>
    Effect.gen(function*() {
      const limiter = yield* AdaptiveLimiter.make({
        initial: 1,
        max: 1,
        maxQueue: 3000,
        rejection: { from: 1e6, to: 1e6 }
      })
      const holder = yield* start(Policy.apply(Effect.never, limiter))
      let ran = 0
      const work = Effect.sync(() => void ran++)
      for (let i = 0; i < 3000; i++) yield* start(Policy.apply(work, limiter))
      yield* Fiber.interrupt(holder)
      assert.strictEqual(ran, 3000)
      yield* allBack(limiter)
    }))

  it.effect("announces itself with figures as plain data", () =>
    Effect.gen(function*() {
      const registered: Array<Policy.Registered> = []
      const registry: Policy.Registry = { register: (policy) => (registered.push(policy), () => {}) }
      const limiter = yield* Effect.provideService(AdaptiveLimiter.make(), Policy.CurrentRegistry, registry)
      yield* Policy.apply(Effect.void, limiter)
      assert.deepInclude(registered[0], { name: "AdaptiveLimiter", kind: "adaptiveLimiter" })
      assert.deepStrictEqual(registered[0]!.snapshot(), yield* limiter.stats)
    }))

  it.effect("dies when an option is out of its range", () =>
    Effect.gen(function*() {
      const message = (options: AdaptiveLimiter.AdaptiveLimiterOptions) =>
        Effect.map(Effect.exit(AdaptiveLimiter.make(options)), (exit) =>
          Exit.isFailure(exit) ? (Cause.squash(exit.cause) as Error).message : "made")
      assert.strictEqual(yield* message({ min: 0 }), "AdaptiveLimiter.make: min must be an integer >= 1, got 0")
      assert.match(yield* message({ min: 5, max: 4 }), /max must be an integer >= 5/)
      assert.match(yield* message({ max: 50, initial: 51 }), /initial must be an integer in \[1, 50\], got 51/)
      assert.match(yield* message({ window: 0 }), /window must be/)
      assert.match(yield* message({ minimumCalls: 0 }), /minimumCalls must be/)
      assert.match(yield* message({ maxFactor: 0.5 }), /maxFactor must be/)
      assert.match(yield* message({ stabilization: -1 }), /stabilization must be/)
      assert.match(yield* message({ maxQueue: -1 }), /maxQueue must be/)
      assert.match(yield* message({ rejection: { from: 3, to: 2 } }), /rejection.to must be a number >= 3/)
      assert.match(yield* message({ maxWait: "Infinity" as never }), /maxWait must be/)
      for (const options of [{ max: 5 }, { min: 300 }]) {
        assert.strictEqual(yield* message(options), "made")
      }
    }))
})
