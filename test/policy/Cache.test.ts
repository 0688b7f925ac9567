import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import { TestClock } from "effect/testing"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Interruption from "../../src/contract/Interruption.ts"
import * as Outcome from "../../src/contract/Outcome.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as Cache from "../../src/policy/Cache.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as Retry from "../../src/policy/Retry.ts"
import * as Timeout from "../../src/policy/Timeout.ts"
import * as Scenario from "../../src/testing/Scenario.ts"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"

const start = <A, E>(self: Effect.Effect<A, E>) => Effect.forkChild(self, { startImmediately: true })
const liveTimers = Effect.map(Clock.Clock, Timer.size)

/** A dependency that counts: the n-th answer is n, after `millis`. */
const counter = (millis = 0) => {
  const dependency: { runs: number; interrupted: Array<unknown>; call: Effect.Effect<number> } = {
    runs: 0,
    interrupted: [],
    call: Effect.suspend(() => {
      const n = ++dependency.runs
      return millis === 0
        ? Effect.succeed(n)
        : Effect.as(Effect.sleep(millis), n).pipe(Effect.onExit((exit) =>
          Effect.sync(() => {
            if (Exit.isFailure(exit)) dependency.interrupted.push(Interruption.fromCause(exit.cause))
          })
        ))
    })
  }
  return dependency
}

/** A call of `self` through the cache, as `GetUser` of a user. */
const of = <V, A extends V, E>(cache: Cache.Cache<V>, self: Effect.Effect<A, E>, key = "7") =>
  CallContext.annotate(cache.run(self), { name: "GetUser", key })

const tagged = <V, A extends V, E>(cache: Cache.Cache<V>, self: Effect.Effect<A, E>, key = "7") =>
  CallContext.annotate(cache.tagged(self), { name: "GetUser", key })

/** A call that has `millis` left, with nobody who guards that. */
const within = <A, E>(self: Effect.Effect<A, E>, millis: number) =>
  Effect.clockWith((clock) => CallContext.annotate(self, { deadline: Timer.nowOf(clock) + millis }))

const recorded = <A, E, R>(self: Effect.Effect<A, E, R>) => {
  const events: Array<CallEvent.CallEvent> = []
  return Effect.map(
    Effect.provideService(self, CallEvent.CurrentReceiver, { event: (event) => void events.push(event) }),
    (value) => [value, events] as const
  )
}

const errorOf = (exit: Exit.Exit<unknown, unknown> | undefined) => {
  if (exit === undefined || Exit.isSuccess(exit)) return undefined
  const error = exit.cause.reasons.find(Cause.isFailReason)?.error
  return CallError.isCallError(error) ? error.reason._tag : error
}

/** Nobody waits and nothing flies. */
const quiet = <V>(cache: Cache.Cache<V>) =>
  Effect.gen(function*() {
    assert.strictEqual((yield* cache.stats).inFlight, 0)
    assert.strictEqual(yield* liveTimers, 0)
  })

const minute: { readonly ttl: Duration.Input; readonly jitter: number } = { ttl: "1 minute", jitter: 0 }

describe("Cache", () => {
  it.effect("answers with what it kept until that has expired", () =>
    Effect.gen(function*() {
      const cache = yield* Cache.make<number>(minute)
      const { call } = counter()
      assert.strictEqual(yield* of(cache, call), 1)
      yield* TestClock.adjust(59_999)
      assert.strictEqual(yield* of(cache, call), 1)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* of(cache, call), 2)
      assert.deepStrictEqual(yield* cache.stats, {
        fresh: 1,
        stale: 0,
        fetched: 2,
        shared: 0,
        refreshed: 0,
        size: 1,
        inFlight: 0
      })
    }))

  it.effect("tells calls apart by method and key, and passes those without a key through", () =>
    Effect.gen(function*() {
      const cache = yield* Cache.make<number>(minute)
      const { call } = counter()
      assert.strictEqual(yield* of(cache, call, "7"), 1)
      assert.strictEqual(yield* of(cache, call, "8"), 2)
      assert.strictEqual(yield* CallContext.annotate(cache.run(call), { name: "GetOrder", key: "7" }), 3)
      assert.strictEqual(yield* cache.run(call), 4)
      assert.strictEqual(yield* cache.run(call), 5)
      assert.deepStrictEqual(yield* cache.tagged(call), { value: 6, how: "fetched", ageMillis: 0 })
      assert.strictEqual((yield* cache.stats).size, 3)

      const byUser = yield* Cache.make<number>({ ...minute, key: ({ headers }) => headers["user"] })
      const user = (name: string) => CallContext.annotate(byUser.run(call), { headers: { user: name } })
      assert.deepStrictEqual([yield* user("a"), yield* user("b"), yield* user("a")], [7, 8, 7])
    }))

  it.effect("shortens lifetimes by chance, by a twentieth at most and never beyond the ttl", () =>
    Effect.gen(function*() {
      for (const [uniform, lasts] of [[0, 60_000], [0.5, 58_500], [1, 57_000]] as const) {
        const cache = yield* Cache.make<number>({ ttl: "1 minute" })
        const { call } = counter()
        yield* Effect.provideService(of(cache, call), Random.Random, {
          nextIntUnsafe: () => 0,
          nextDoubleUnsafe: () => uniform
        })
        yield* TestClock.adjust(lasts - 1)
        assert.strictEqual(yield* of(cache, call), 1)
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* of(cache, call), 2)
      }
    }))

  it.effect("asks a function how long an answer lasts, and does not keep what has no lifetime", () =>
    Effect.gen(function*() {
      for (const [ttl, kept] of [[1000, true], [0, false], [-5, false], [Infinity, false]] as const) {
        const lifetime = (value: number, call: CallContext.CallContext) => (call.key === "7" ? ttl * value : 0)
        const cache = yield* Cache.make<number>({ ttl: lifetime, jitter: 0 })
        const { call } = counter()
        yield* of(cache, call)
        assert.strictEqual((yield* cache.stats).size, kept ? 1 : 0)
        yield* TestClock.adjust(999)
        assert.strictEqual(yield* of(cache, call), kept ? 1 : 2, String(ttl))
        const stale = yield* Cache.make<number>({ ttl: lifetime, staleIfError: "1 hour" })
        yield* of(stale, Effect.succeed(1))
        assert.strictEqual((yield* stale.stats).size, ttl >= 0 && ttl < Infinity ? 1 : 0)
      }
    }))

  it.effect("drops what was used longest ago when it is full", () =>
    Effect.gen(function*() {
      const cache = yield* Cache.make<number>({ ...minute, capacity: 2 })
      const { call } = counter()
      for (const key of ["a", "b", "a", "c"]) yield* of(cache, call, key)
      assert.strictEqual((yield* cache.stats).size, 2)
      assert.strictEqual(yield* of(cache, call, "a"), 1)
      assert.strictEqual(yield* of(cache, call, "b"), 4)
    }))

  it.effect("keeps the errors that are answers, for a shorter time", () =>
    Effect.gen(function*() {
      const cache = yield* Cache.make<number>({
        ...minute,
        negative: { when: (error, call) => error === "no such user" && call.name === "GetUser", ttl: "10 seconds" }
      })
      let runs = 0
      const failing = (error: string) => Effect.suspend(() => (runs++, Effect.fail(error)))
      for (const error of ["no such user", "boom"]) {
        for (let i = 0; i < 3; i++) assert.strictEqual(yield* Effect.flip(of(cache, failing(error), error)), error)
      }
      assert.strictEqual(runs, 1 + 3)
      assert.strictEqual((yield* cache.stats).fresh, 2)
      assert.isUndefined(yield* cache.peek("GetUser:no such user"))
      yield* TestClock.adjust("10 seconds")
      yield* Effect.flip(of(cache, failing("no such user"), "no such user"))
      assert.strictEqual(runs, 5)
      // Nothing else may have gone wrong at the same time, and what has expired is not served.
      const both = Effect.failCause(Cause.combine(Cause.fail("no such user"), Cause.fail("boom")))
      yield* Effect.exit(of(cache, both, "both"))
      assert.strictEqual(yield* of(cache, Effect.succeed(3), "both"), 3)
      const swr = yield* Cache.make<number>({
        ...minute,
        negative: { when: () => true },
        staleWhileRevalidate: "1 hour"
      })
      yield* Effect.flip(of(swr, Effect.fail("boom")))
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(yield* of(swr, Effect.succeed(4)), 4)
    }))

  it.effect("says how old an answer is, to the caller and to who looks", () =>
    Effect.gen(function*() {
      const cache = yield* Cache.make<number>({ ...minute, staleIfError: "1 hour" })
      const { call } = counter()
      assert.deepStrictEqual(yield* tagged(cache, call), { value: 1, how: "fetched", ageMillis: 0 })
      assert.deepStrictEqual(yield* cache.peek("GetUser:7"), { value: 1, how: "fresh", ageMillis: 0 })
      yield* TestClock.adjust(400)
      assert.deepStrictEqual(yield* tagged(cache, call), { value: 1, how: "fresh", ageMillis: 400 })
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* cache.peek("GetUser:7"), { value: 1, how: "stale", ageMillis: 60_400 })
      const [answer, events] = yield* recorded(tagged(cache, Effect.fail("boom")))
      assert.deepStrictEqual(answer, { value: 1, how: "stale", ageMillis: 60_400 })
      assert.deepStrictEqual(events, [{
        _tag: "Substituted",
        call: { ...CallContext.empty, name: "GetUser", key: "7" },
        policy: "Cache",
        how: "stale",
        ageMillis: 60_400,
        atMillis: 60_400
      }])
      const [, hit] = yield* recorded(Effect.andThen(of(cache, call), of(cache, call)))
      assert.deepInclude(hit[0], { _tag: "Substituted", how: "fresh" })
      assert.strictEqual(hit.length, 1)
      assert.isUndefined(yield* cache.peek("GetUser:8"))
    }))

  it.effect("forgets a key or all, and does not keep what a flight brings that began before", () =>
    Effect.gen(function*() {
      const cache = yield* Cache.make<number>(minute)
      const { call } = counter(100)
      const fetch = (key: string) =>
        Effect.gen(function*() {
          const fiber = yield* start(of(cache, call, key))
          yield* TestClock.adjust(100)
          return yield* Fiber.join(fiber)
        })
      assert.strictEqual(yield* fetch("7"), 1)
      yield* cache.invalidate("GetUser:7")
      assert.strictEqual(yield* fetch("7"), 2)
      yield* cache.clear
      const old = yield* start(of(cache, call))
      yield* TestClock.adjust(50)
      yield* cache.invalidate("GetUser:7")
      const young = yield* start(of(cache, call))
      yield* TestClock.adjust(50)
      assert.strictEqual(yield* Fiber.join(old), 3)
      assert.isUndefined(yield* cache.peek("GetUser:7"))
      yield* TestClock.adjust(50)
      assert.strictEqual(yield* Fiber.join(young), 4)
      assert.strictEqual(yield* of(cache, call), 4)
      // Who leaves an old flight does not take the young one along.
      yield* cache.clear
      const leaver = yield* start(of(cache, call))
      yield* cache.clear
      const stays = yield* start(of(cache, call))
      yield* Fiber.interrupt(leaver)
      const joins = yield* start(of(cache, call))
      yield* TestClock.adjust(100)
      assert.strictEqual(yield* Fiber.join(stays), 6)
      assert.strictEqual(yield* Fiber.join(joins), 6)
      yield* quiet(cache)
    }))

  describe("flights", () => {
    it.effect("make one call of many that ask the same at the same time", () =>
      Effect.gen(function*() {
        const cache = yield* Cache.make<number>(minute)
        const dependency = counter(100)
        const fibers = yield* Effect.forEach(Array.from({ length: 50 }), () => start(of(cache, dependency.call)))
        const other = yield* start(of(cache, dependency.call, "8"))
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(new Set(yield* Effect.forEach(fibers, Fiber.join)), new Set([1]))
        assert.strictEqual(yield* Fiber.join(other), 2)
        assert.include(yield* cache.stats, { fetched: 2, shared: 49 })
        yield* quiet(cache)
      }))

    it.effect("share a failure, a defect too", () =>
      Effect.gen(function*() {
        const cache = yield* Cache.make<number>(minute)
        let runs = 0
        const failures: ReadonlyArray<Effect.Effect<never, unknown>> = [
          Effect.fail("boom"),
          Effect.die("bug"),
          Effect.interrupt,
          CallError.fail({ _tag: "DeadlineExceeded", method: "m", elapsedMillis: 10, sent: "maybe" })
        ]
        for (const failure of failures) {
          const call = Effect.andThen(Effect.sleep(10), Effect.suspend(() => (runs++, failure)))
          const fibers = yield* Effect.forEach([1, 2, 3], () => start(Effect.exit(of(cache, call))))
          yield* TestClock.adjust(10)
          const [first, ...others] = yield* Effect.forEach(fibers, Fiber.join)
          assert.isTrue(Exit.isFailure(first!))
          others.forEach((exit) => assert.deepStrictEqual(exit, first))
        }
        assert.strictEqual(runs, failures.length)
        yield* quiet(cache)
      }))

    it.effect("go on when the call that began them leaves, and end when the last one does", () =>
      Effect.gen(function*() {
        const cache = yield* Cache.make<number>(minute)
        const dependency = counter(100)
        const [leader, second, third] = yield* Effect.forEach([1, 2, 3], () => start(of(cache, dependency.call)))
        yield* TestClock.adjust(50)
        yield* Fiber.interrupt(leader!)
        yield* Fiber.interrupt(third!)
        yield* TestClock.adjust(50)
        assert.strictEqual(yield* Fiber.join(second!), 1)

        yield* cache.clear
        const both = yield* Effect.forEach([1, 2], () => start(of(cache, dependency.call)))
        yield* Fiber.interrupt(both[0]!)
        assert.deepStrictEqual(dependency.interrupted, [])
        both[1]!.interruptUnsafe(undefined, Interruption.annotations.hedgeLost)
        yield* Fiber.await(both[1]!)
        assert.deepStrictEqual(dependency.interrupted, ["hedgeLost"])
        assert.isUndefined(yield* cache.peek("GetUser:7"))
        yield* quiet(cache)
      }))

    it.effect("are over when the last one that leaves has left, as without a cache", () =>
      Effect.gen(function*() {
        // A finalizer must not be the first to sleep on a TestClock: what then warns of it ends the sleep.
        yield* TestClock.adjust(1)
        const cache = yield* Cache.make<number>(minute)
        let cleaned = false
        const call = Effect.onInterrupt(
          Effect.never,
          () => Effect.andThen(Effect.sleep(30), Effect.sync(() => void (cleaned = true)))
        )
        const fiber = yield* start(of(cache, call))
        const interrupting = yield* start(Fiber.interrupt(fiber))
        // Who comes now begins anew.
        const next = yield* start(of(cache, Effect.succeed(5)))
        assert.strictEqual(yield* Fiber.join(next), 5)
        assert.isUndefined(interrupting.pollUnsafe())
        yield* TestClock.adjust(30)
        yield* Fiber.join(interrupting)
        assert.isTrue(cleaned)
        yield* quiet(cache)
      }))

    it.effect("keep nobody past its own deadline, which does not end them for the others", () =>
      Effect.gen(function*() {
        const cache = yield* Cache.make<number>(minute)
        const dependency = counter(100)
        const patient = yield* start(of(cache, dependency.call))
        const hurried = yield* start(Effect.exit(within(of(cache, dependency.call), 40)))
        yield* TestClock.adjust(40)
        const exit = yield* Fiber.join(hurried)
        assert.strictEqual(errorOf(exit), "DeadlineExceeded")
        yield* TestClock.adjust(60)
        assert.strictEqual(yield* Fiber.join(patient), 1)
        // A guard outside answers by itself, and when nobody is left the flight ends for that reason.
        const guarded = yield* start(Effect.exit(Timeout.withDeadline(of(cache, dependency.call, "8"), 40)))
        const alone = yield* start(Effect.exit(within(of(cache, dependency.call, "9"), 40)))
        yield* TestClock.adjust(40)
        assert.strictEqual(errorOf(yield* Fiber.join(guarded)), "DeadlineExceeded")
        assert.strictEqual(errorOf(yield* Fiber.join(alone)), "DeadlineExceeded")
        assert.deepStrictEqual(dependency.interrupted, ["deadline", "deadline"])
        yield* quiet(cache)
      }))

    it.effect("are begun again by a call with more time when the time of the one that began them was up", () =>
      Effect.gen(function*() {
        const cache = yield* Cache.make<number>(minute)
        let runs = 0
        // Stops at the deadline of the call it belongs to, as a retry loop or an attempt's timeout would.
        const call = (asTimeout: boolean) =>
          Effect.clockWith((clock) =>
            Effect.flatMap(CallContext.Current, ({ deadline }) => {
              runs++
              const left = deadline - Timer.nowOf(clock)
              if (left >= 100) return Effect.as(Effect.sleep(100), "answer")
              const error: Effect.Effect<never, CallError.CallError> = asTimeout
                ? CallError.fail({ _tag: "AttemptTimeout", policy: "t", timeoutMillis: left, sent: "maybe" })
                : CallError.fail({ _tag: "DeadlineExceeded", method: "m", elapsedMillis: left, sent: "maybe" })
              return Effect.andThen(Effect.sleep(asTimeout ? left : left - 20), error)
            })
          )
        const texts = yield* Cache.make<string>(minute)
        for (const asTimeout of [false, true]) {
          runs = 0
          yield* texts.clear
          const ask = (millis: number) => start(Effect.exit(within(of(texts, call(asTimeout)), millis)))
          const fibers = yield* Effect.forEach([50, 1000, 1000, 50], ask)
          yield* TestClock.adjust(500)
          const exits = yield* Effect.forEach(fibers, Fiber.join)
          assert.isTrue(Exit.isFailure(exits[0]!) && Exit.isFailure(exits[3]!))
          assert.deepStrictEqual(exits.slice(1, 3), [Exit.succeed("answer"), Exit.succeed("answer")])
          assert.strictEqual(runs, 2)
        }
        yield* quiet(cache)
        yield* quiet(texts)
      }))

    for (
      const limiter of [
        { bulkhead: { limit: 1, maxQueue: 5 } },
        { adaptiveLimiter: { initial: 1, max: 1, maxQueue: 5 } }
      ]
    ) {
      it.effect(`leave the queue of ${Object.keys(limiter)} with the call that began them, for one with more time`, () =>
        Effect.gen(function*() {
          const at = (at: number, key: string, after: number) =>
            ({ at, call: { does: "succeed", after }, context: { key } }) as const
          const { calls, timers } = yield* Scenario.run({ deadline: "1 s", cache: { ttl: "1 s" }, ...limiter }, [
            // Holds the permit for 1.2 s: its flight goes on for the second one that waits for it.
            at(0, "slow", 1200),
            at(10, "quick", 10),
            at(500, "slow", 1200),
            at(600, "quick", 10),
            at(1300, "quick", 10)
          ])
          assert.deepStrictEqual(calls.map(({ endedAt, result, sends }) => [endedAt, result, ...sends]), [
            [1000, "DeadlineExceeded", 0],
            [1010, "DeadlineExceeded"],
            [1200, "ok"],
            [1210, "ok", 1200],
            [1300, "ok"]
          ])
          assert.strictEqual(timers, 0)
        }))
    }

    it.effect("tell the deadline of the call that began them what failed, and go on without it", () =>
      Effect.gen(function*() {
        const cache = yield* Cache.make<number>(minute)
        const timeout = yield* Timeout.make({ timeout: 100 })
        const retry = yield* Retry.make({ attempts: 2, backoff: Schedule.spaced(10) })
        let runs = 0
        const answers = [Effect.fail("down"), Effect.never, Effect.succeed(7)]
        const attempt = Effect.suspend((): Effect.Effect<number, string> => answers[runs++]!)
        const call = CallContext.annotate(retry.run(timeout.run(attempt)), { idempotent: true })
        const hurried = yield* start(Effect.flip(Timeout.withDeadline(of(cache, call), 50)))
        const patient = yield* start(of(cache, call))
        yield* TestClock.adjust(50)
        const error = yield* Fiber.join(hurried)
        assert.isTrue(CallError.isCallError(error) && error.reason._tag === "DeadlineExceeded")
        assert.strictEqual((error as CallError.CallError<CallError.DeadlineExceeded>).reason.last, "down")
        // The second attempt's timeout stands, whoever it was sent for.
        yield* TestClock.adjust(59)
        assert.isUndefined(patient.pollUnsafe())
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* Fiber.join(patient), 7)
        yield* quiet(cache)
      }))

    it.effect("do not wait for themselves", () =>
      Effect.gen(function*() {
        const cache = yield* Cache.make<number>(minute)
        const { call } = counter()
        assert.strictEqual(yield* of(cache, cache.run(call)), 1)
        assert.strictEqual(yield* of(cache, of(cache, of(cache, call, "9"), "8"), "9"), 2)
        // But for those of another cache, and for one that is over: what it has left behind asks like anybody else.
        let left: Fiber.Fiber<number, unknown> | undefined
        const leaving = Effect.flatMap(
          Effect.forkDetach(Effect.andThen(Effect.sleep(10), cache.run(call))),
          (fiber) => Effect.as(Effect.sync(() => void (left = fiber)), 77)
        )
        assert.strictEqual(yield* of(cache, leaving, "11"), 77)
        yield* TestClock.adjust(10)
        assert.strictEqual(yield* Fiber.join(left!), 77)
        const outer = yield* Cache.make<number>(minute)
        assert.strictEqual(yield* of(outer, of(cache, call, "10"), "10"), 3)
        assert.strictEqual((yield* cache.peek("GetUser:10"))?.value, 3)
        yield* quiet(cache)
      }))

    it.effect("fail when what is asked about an answer throws", () =>
      Effect.gen(function*() {
        const bug = (): never => {
          throw new Error("bug")
        }
        const lifetimes = yield* Cache.make<number>({ ttl: bug })
        assert.isTrue(Exit.hasDies(yield* Effect.exit(of(lifetimes, Effect.succeed(1)))))
        yield* quiet(lifetimes)
        const errors = yield* Cache.make<number>({ ...minute, negative: { when: bug } })
        assert.isTrue(Exit.hasDies(yield* Effect.exit(of(errors, Effect.fail("x")))))
        yield* quiet(errors)
        const stale = yield* Cache.make<number>({ ttl: 0, staleIfError: "1 minute" })
        yield* of(stale, Effect.succeed(1))
        const classified = CallContext.annotate(of(stale, Effect.fail("x")), { classify: bug })
        assert.isTrue(Exit.hasDies(yield* Effect.exit(classified)))
        yield* quiet(stale)
      }))

    it.effect("are let go wherever a caller leaves, alone or among others", () =>
      Effect.gen(function*() {
        yield* interruptEverywhere(Effect.map(Cache.make<number>(minute), (cache) => {
          const dependency = counter(1000)
          return {
            work: within(of(cache, dependency.call), 10_000),
            check: (where) =>
              Effect.andThen(
                quiet(cache),
                Effect.sync(() => assert.strictEqual(dependency.interrupted.length, dependency.runs, where))
              )
          }
        }))
        yield* interruptEverywhere(Effect.gen(function*() {
          const cache = yield* Cache.make<number>(minute)
          const latch = yield* Deferred.make<number>()
          const other = yield* start(of(cache, Deferred.await(latch)))
          return {
            work: of(cache, Deferred.await(latch)),
            check: () =>
              Effect.gen(function*() {
                assert.isUndefined(other.pollUnsafe())
                yield* Deferred.succeed(latch, 3)
                assert.strictEqual(yield* Fiber.join(other), 3)
                yield* quiet(cache)
              })
          }
        }))
      }))
  })

  describe("staleWhileRevalidate", () => {
    const options = { ...minute, staleWhileRevalidate: "30 seconds" } as const

    it.effect("serves the old answer at once, and fetches one new one behind it", () =>
      Effect.gen(function*() {
        const cache = yield* Cache.make<number>(options)
        const { call } = counter()
        yield* of(cache, call)
        yield* TestClock.adjust("1 minute")
        const slow = counter(100)
        const [answers, events] = yield* recorded(
          Effect.forEach([1, 2, 3], () => tagged(cache, Effect.map(slow.call, (n) => n + 10)))
        )
        assert.deepStrictEqual(
          answers,
          Array.from({ length: 3 }, () => ({ value: 1, how: "stale", ageMillis: 60_000 }))
        )
        assert.strictEqual(events.length, 3)
        yield* TestClock.adjust(100)
        assert.strictEqual(slow.runs, 1)
        assert.deepStrictEqual(yield* tagged(cache, call), { value: 11, how: "fresh", ageMillis: 0 })
        assert.include(yield* cache.stats, { fetched: 1, refreshed: 1, stale: 3, fresh: 1 })
        yield* quiet(cache)
        // Not even the first step of the new call is made before the old answer has been given.
        yield* TestClock.adjust("1 minute")
        const order: Array<string> = []
        yield* Effect.tap(
          of(cache, Effect.sync(() => order.push("fetched"))),
          () => Effect.sync(() => void order.push("served"))
        )
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(order, ["served", "fetched"])
      }))

    it.effect("is over after its time: then callers wait", () =>
      Effect.gen(function*() {
        const cache = yield* Cache.make<number>(options)
        const { call } = counter()
        yield* of(cache, call)
        yield* TestClock.adjust("90 seconds")
        assert.strictEqual(yield* of(cache, call), 2)
        assert.include(yield* cache.stats, { fetched: 2, refreshed: 0, stale: 0 })
      }))

    it.effect("keeps the old answer when fetching fails, and tries again", () =>
      Effect.gen(function*() {
        const cache = yield* Cache.make<number>(options)
        yield* of(cache, Effect.succeed(1))
        yield* TestClock.adjust("1 minute")
        for (const failure of [Effect.fail("boom"), Effect.die("bug"), Effect.interrupt]) {
          assert.strictEqual(yield* of(cache, failure), 1)
          yield* TestClock.adjust(1)
        }
        assert.strictEqual((yield* cache.stats).refreshed, 3)
        yield* quiet(cache)
      }))

    it.effect("refreshes with a time of its own, as what matters least", () =>
      Effect.gen(function*() {
        const cache = yield* Cache.make<number>({ ...options, refreshTimeout: "5 seconds" })
        yield* of(cache, Effect.succeed(1))
        yield* TestClock.adjust("1 minute")
        const seen: Array<unknown> = []
        const stubborn = Effect.flatMap(CallContext.Current, ({ criticality, deadline }) => {
          seen.push([criticality, deadline])
          return Effect.as(Effect.uninterruptible(Effect.sleep("1 hour")), 2)
        })
        assert.strictEqual(yield* within(of(cache, stubborn), 10), 1)
        yield* TestClock.adjust(0)
        assert.deepStrictEqual(seen, [["sheddable", 65_000]])
        // Whoever has to wait shares it, and begins another when its time is up.
        yield* TestClock.adjust(4999)
        assert.strictEqual((yield* cache.stats).inFlight, 1)
        yield* TestClock.adjust(1)
        assert.strictEqual((yield* cache.stats).inFlight, 0)
        assert.strictEqual(yield* of(cache, Effect.succeed(3)), 1)
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* of(cache, Effect.succeed(4)), 3)
        yield* quiet(cache)
      }))

    it.effect("lets a caller that has to wait share the flight behind, which its leaving does not end", () =>
      Effect.gen(function*() {
        const cache = yield* Cache.make<number>({ ...options, refreshTimeout: "1 minute" })
        yield* of(cache, Effect.succeed(1))
        yield* TestClock.adjust("1 minute")
        const dependency = counter(40_000)
        yield* of(cache, Effect.map(dependency.call, (n) => n + 10))
        yield* TestClock.adjust("35 seconds")
        const [waits, leaves] = yield* Effect.forEach([1, 2], () => start(of(cache, Effect.succeed(99))))
        yield* Fiber.interrupt(leaves!)
        yield* TestClock.adjust("5 seconds")
        assert.strictEqual(yield* Fiber.join(waits!), 11)
        assert.strictEqual(dependency.runs, 1)
        yield* quiet(cache)

        yield* TestClock.adjust("1 minute")
        yield* of(cache, dependency.call)
        yield* TestClock.adjust("35 seconds")
        const only = yield* start(of(cache, Effect.succeed(99)))
        yield* Fiber.interrupt(only)
        yield* TestClock.adjust("5 seconds")
        assert.deepStrictEqual(dependency.interrupted, [])
        assert.strictEqual((yield* cache.peek("GetUser:7"))?.value, 2)
      }))
  })

  describe("staleIfError", () => {
    const options = { ...minute, staleIfError: "1 hour" } as const
    const error = (reason: CallError.Reason): Effect.Effect<never, unknown> => CallError.fail(reason)
    const remote = { target: "users", detail: "", sent: "maybe" } as const

    /** What a call that ends with `end` is answered once the answer has expired. */
    const after = (end: Effect.Effect<number, unknown>, classify?: CallContext.CallContext["classify"]) =>
      Effect.gen(function*() {
        const cache = yield* Cache.make<number>(options)
        yield* of(cache, Effect.succeed(1))
        yield* TestClock.adjust("2 minutes")
        return yield* Effect.exit(CallContext.annotate(of(cache, end), { classify }))
      })

    it.effect("serves the old answer when the endpoint fails, when we reject, and when time is short", () =>
      Effect.gen(function*() {
        const last = new CallError.CallError({ _tag: "Unavailable", ...remote })
        const excuses: ReadonlyArray<Effect.Effect<never, unknown>> = [
          Effect.fail("boom"),
          error({ _tag: "Unavailable", ...remote }),
          error({ _tag: "CircuitOpen", policy: "users", sent: "no", state: "Open" }),
          error({ _tag: "BulkheadFull", policy: "users", sent: "no", limit: 1, queued: 0 }),
          error({ _tag: "RetriesExhausted", method: "m", attempts: 3, elapsedMillis: 1, sent: "maybe", last }),
          error({ _tag: "DeadlineExceeded", method: "m", elapsedMillis: 1, sent: "maybe" })
        ]
        for (const excuse of excuses) assert.deepStrictEqual(yield* after(excuse), Exit.succeed(1))
      }))

    it.effect("passes on what is an answer, what is a bug and what was interrupted", () =>
      Effect.gen(function*() {
        assert.strictEqual(errorOf(yield* after(Effect.fail("no such user"), () => Outcome.success)), "no such user")
        assert.strictEqual(errorOf(yield* after(error({ _tag: "NotFound", ...remote, sent: "no" }))), "NotFound")
        assert.isTrue(Exit.hasDies(yield* after(Effect.die("bug"))))
        assert.isTrue(Exit.hasInterrupts(yield* after(Effect.interrupt)))
        const negative = yield* Cache.make<number>({ ...options, negative: { when: (error) => error === "gone" } })
        yield* of(negative, Effect.succeed(1))
        yield* TestClock.adjust("2 minutes")
        assert.strictEqual(yield* Effect.flip(of(negative, Effect.fail("gone"))), "gone")
        // And what has gone does not come back.
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(yield* Effect.flip(of(negative, Effect.fail("boom"))), "boom")
      }))

    it.effect("is over after its time", () =>
      Effect.gen(function*() {
        const cache = yield* Cache.make<number>(options)
        yield* of(cache, Effect.succeed(1))
        yield* TestClock.adjust(3_660_000 - 1)
        assert.strictEqual(yield* of(cache, Effect.fail("boom")), 1)
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* Effect.flip(of(cache, Effect.fail("boom"))), "boom")
      }))

    it.effect("with a ttl of 0 keeps answers for errors only", () =>
      Effect.gen(function*() {
        const cache = yield* Cache.make<number>({ ttl: 0, staleIfError: "1 hour" })
        const { call } = counter()
        assert.deepStrictEqual([yield* of(cache, call), yield* of(cache, call)], [1, 2])
        assert.strictEqual(yield* of(cache, Effect.fail("boom")), 2)
      }))

    it.effect("serves the old answer a little before the deadline, so that it arrives", () =>
      Effect.gen(function*() {
        const cache = yield* Cache.make<number>(options)
        yield* of(cache, Effect.succeed(1))
        yield* TestClock.adjust("2 minutes")
        const dependency = counter(10_000)
        for (const [deadline, early] of [[500, 50], [5000, 100]] as const) {
          const began = Timer.nowOf(yield* Clock.Clock)
          const fiber = yield* start(Timeout.withDeadline(tagged(cache, dependency.call), deadline))
          yield* TestClock.adjust(deadline - early - 1)
          assert.isUndefined(fiber.pollUnsafe())
          yield* TestClock.adjust(1)
          const ageMillis = began + deadline - early
          assert.deepStrictEqual(yield* Fiber.join(fiber), { value: 1, how: "stale", ageMillis })
        }
        assert.deepStrictEqual(dependency.interrupted, ["deadline", "deadline"])
        yield* quiet(cache)
      }))

    it.effect("is all there is for a call whose deadline has passed, which begins no flight", () =>
      Effect.gen(function*() {
        const cache = yield* Cache.make<number>(options)
        const dependency = counter()
        const late = yield* Effect.exit(within(of(cache, dependency.call), 0))
        assert.strictEqual(errorOf(late), "DeadlineExceeded")
        assert.isTrue(Exit.isFailure(late) && /"sent":"no"/.test(JSON.stringify(late.cause)))
        assert.strictEqual(dependency.runs, 0)
        yield* of(cache, dependency.call)
        yield* TestClock.adjust("2 minutes")
        assert.strictEqual(yield* within(of(cache, dependency.call), -1), 1)
        assert.strictEqual(dependency.runs, 1)
      }))
  })

  // RX-10
  it.effect("a breaker inside does not see 20 hits, and opens on 10 failures of 11 real calls", () =>
    Effect.gen(function*() {
      const cache = yield* Cache.make<number>(minute)
      const circuitBreaker = yield* CircuitBreaker.make({ failureRatio: 0.5, window: { calls: 11 } })
      const stack = Policy.stack({ cache, circuitBreaker })
      assert.strictEqual(stack.name, "Cache > CircuitBreaker")
      const ask = (self: Effect.Effect<number, string>, key: string) =>
        Effect.exit(CallContext.annotate(stack.run(self), { key }))
      yield* ask(Effect.succeed(1), "hit")
      for (let i = 0; i < 20; i++) yield* ask(Effect.fail("never asked"), "hit")
      assert.include(yield* circuitBreaker.state, { _tag: "Closed", calls: 1 })
      for (let i = 0; i < 10; i++) yield* ask(Effect.fail("boom"), `miss ${i}`)
      assert.strictEqual((yield* circuitBreaker.state)._tag, "Open")
      assert.deepStrictEqual(yield* ask(Effect.succeed(2), "hit"), Exit.succeed(1))
      assert.strictEqual(errorOf(yield* ask(Effect.succeed(2), "other")), "CircuitOpen")
    }))

  it.effect("announces itself with figures as plain data", () =>
    Effect.gen(function*() {
      const registered: Array<Policy.Registered> = []
      const registry: Policy.Registry = { register: (policy) => (registered.push(policy), () => {}) }
      const cache = yield* Effect.provideService(Cache.make<number>(minute), Policy.CurrentRegistry, registry)
      yield* of(cache, Effect.succeed(1))
      assert.deepInclude(registered[0], { name: "Cache", kind: "cache" })
      assert.deepStrictEqual(registered[0]!.snapshot(), yield* cache.stats)
    }))

  it.effect("dies when an option is out of its range", () =>
    Effect.gen(function*() {
      const message = (options: Partial<Cache.CacheOptions<number>>) =>
        Effect.map(Effect.exit(Cache.make<number>({ ...minute, ...options })), (exit) =>
          Exit.isFailure(exit) ? (Cause.squash(exit.cause) as Error).message : "made")
      assert.match(yield* message({ ttl: -1 }), /^Cache.make: ttl must be a duration >= 0 and finite/)
      assert.match(yield* message({ jitter: 1.1 }), /jitter must be in \[0, 1\]/)
      assert.match(
        yield* message({
          negative: {
            when: () =>
              true,
            ttl: 0
          }
        }),
        /negative.ttl must be/
      )
      assert.match(yield* message({ staleWhileRevalidate: -1 }), /staleWhileRevalidate must be/)
      assert.match(yield* message({ staleIfError: Infinity }), /staleIfError must be/)
      assert.match(yield* message({ refreshTimeout: 0 }), /refreshTimeout must be/)
      assert.match(yield* message({ capacity: 0 }), /capacity must be an integer >= 1/)
    }))
})

describe("Cache.reconfigure", () => {
  it.effect("goes on under its name, with what is kept and what is under way, and forgets what is too much", () =>
    Effect.gen(function*() {
      const cache = yield* Cache.make<number>({ name: "users", ttl: "1 minute", jitter: 0 })
      const ask = (key: string, value: number, millis = 0) =>
        cache.run(Effect.delay(Effect.succeed(value), millis)).pipe(CallContext.annotate({ key }))
      for (const [index, key] of ["a", "b", "c"].entries()) yield* ask(key, index)
      const flight = yield* start(ask("d", 3, 100))
      yield* cache.reconfigure({ name: "others", ttl: "30 seconds", capacity: 2, jitter: 0 })
      assert.deepInclude(yield* cache.stats, { size: 2, inFlight: 1 })
      const events: Array<CallEvent.CallEvent> = []
      const looked = Effect.provideService(CallEvent.CurrentReceiver, { event: (event) => void events.push(event) })
      assert.strictEqual(yield* ask("c", 9).pipe(looked), 2)
      assert.deepInclude(events[0], { _tag: "Substituted", policy: "users", how: "fresh" })
      yield* TestClock.adjust(100)
      assert.strictEqual(yield* Fiber.join(flight), 3)
      // What was kept is fresh for no longer than the new lifetime, counted from when it was fetched.
      yield* TestClock.adjust(29_899)
      assert.deepInclude(yield* cache.peek("call:c"), { how: "fresh" })
      yield* TestClock.adjust(1)
      assert.deepInclude(yield* cache.peek("call:c"), { how: "stale" })
      assert.deepInclude(yield* cache.peek("call:d"), { how: "fresh" })
    }))

  it.effect("dies on what make dies on, and then changes nothing", () =>
    Effect.gen(function*() {
      const cache = yield* Cache.make<number>({ ttl: "1 minute" })
      const exit = yield* Effect.exit(cache.reconfigure({ ttl: "1 minute", capacity: 0 }))
      assert.include(String(Exit.isFailure(exit) && Cause.squash(exit.cause)), "Cache.reconfigure: capacity must be")
    }))
})
