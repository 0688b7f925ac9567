import { assert, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { TestClock } from "effect/testing"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Fallback from "../../src/policy/Fallback.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as Timeout from "../../src/policy/Timeout.ts"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"

const open = CallError.fail({ _tag: "CircuitOpen", policy: "users", sent: "no", state: "Open" })
const unavailable = CallError.fail({ _tag: "Unavailable", target: "users", detail: "draining", sent: "no" })
const liveTimers = Effect.map(Clock.Clock, Timer.size)

/** The exit of an effect and the virtual milliseconds it took. */
const timed = <A, E>(self: Effect.Effect<A, E>, millis = 60_000) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(Effect.timed(Effect.exit(self)), { startImmediately: true })
    yield* TestClock.adjust(millis)
    const [took, exit] = yield* Fiber.join(fiber)
    return [exit, Duration.toMillis(took)] as const
  })

const recorded = <A, E, R>(self: Effect.Effect<A, E, R>) => {
  const events: Array<CallEvent.CallEvent> = []
  return Effect.map(
    Effect.provideService(self, CallEvent.CurrentReceiver, { event: (event) => void events.push(event) }),
    (value) => [value, events] as const
  )
}

const failuresOf = (exit: Exit.Exit<unknown, unknown>) =>
  Exit.isSuccess(exit)
    ? []
    : exit.cause.reasons.map((reason) => Cause.isFailReason(reason) ? reason.error : reason._tag)

const isTag = (tag: CallError.Reason["_tag"], error: unknown) =>
  CallError.isCallError(error) && error.reason._tag === tag

describe("Fallback", () => {
  it.effect("leaves a good answer alone", () =>
    Effect.gen(function*() {
      const fallback = yield* Fallback.make({ value: "none" })
      const [answer, events] = yield* recorded(Policy.apply(Effect.succeed("ada"), fallback))
      assert.strictEqual(answer, "ada")
      assert.deepStrictEqual(events, [])
      assert.deepStrictEqual(yield* fallback.stats, { substituted: 0, failed: 0 })
    }))

  it.effect("answers with a value when a call has failed, and says so", () =>
    Effect.gen(function*() {
      const fallback = yield* Fallback.make({ value: "none", name: "no user" })
      yield* TestClock.adjust(7)
      const call = CallContext.annotate(Policy.apply(open, fallback), { name: "GetUser" })
      const [answer, events] = yield* recorded(call)
      assert.strictEqual(answer, "none")
      assert.deepStrictEqual(events, [{
        _tag: "Substituted",
        call: { ...CallContext.empty, name: "GetUser" },
        policy: "no user",
        how: "fallback",
        ageMillis: undefined,
        atMillis: 7
      }])
      assert.deepStrictEqual(yield* fallback.stats, { substituted: 1, failed: 0 })
    }))

  it.effect("computes the substitute from the error and the call", () =>
    Effect.gen(function*() {
      const fallback = yield* Fallback.make({ compute: (error, call) => `${call.name}: ${String(error)}` })
      const call = CallContext.annotate(Policy.apply(Effect.fail("gone"), fallback), { name: "GetUser" })
      assert.strictEqual(yield* call, "GetUser: gone")
    }))

  it.effect("makes another call, with what it is given", () =>
    Effect.gen(function*() {
      const seen: Array<unknown> = []
      const fallback = yield* Fallback.make({
        orElse: (error, call) => Effect.as(Effect.sleep(20), (seen.push(error, call.name), "replica"))
      })
      const [exit, took] = yield* timed(Policy.apply(Effect.andThen(Effect.sleep(10), Effect.fail("gone")), fallback))
      assert.deepStrictEqual(exit, Exit.succeed("replica"))
      assert.strictEqual(took, 30)
      assert.deepStrictEqual(seen, ["gone", "call"])
    }))

  it.effect("is for the errors that `when` names: by reason, by predicate, by refinement", () =>
    Effect.gen(function*() {
      const reasons = yield* Fallback.make({ when: ["CircuitOpen", "BulkheadFull"], value: "none" })
      assert.strictEqual(yield* Policy.apply(open, reasons), "none")
      assert.isTrue(isTag("Unavailable", yield* Effect.flip(Policy.apply(unavailable, reasons))))
      assert.strictEqual(yield* Effect.flip(Policy.apply(Effect.fail("own"), reasons)), "own")

      const named = yield* Fallback.make({ when: (_, call) => call.name === "search", value: "none" })
      const call = Policy.apply(Effect.fail("own"), named)
      assert.strictEqual(yield* CallContext.annotate(call, { name: "search" }), "none")
      assert.strictEqual(yield* Effect.flip(call), "own")

      const ours = yield* Fallback.make({ when: CallError.isCallError, compute: (error) => error.reason._tag })
      assert.strictEqual(yield* Policy.apply(open, ours), "CircuitOpen")
      assert.strictEqual(yield* Effect.flip(Policy.apply(Effect.fail("own"), ours)), "own")
      assert.deepStrictEqual(yield* reasons.stats, { substituted: 1, failed: 0 })
    }))

  it.effect("is not for defects, and not for a caller that leaves", () =>
    Effect.gen(function*() {
      let ran = 0
      const fallback = yield* Fallback.make({ compute: () => ran++ })
      const died = yield* Effect.exit(Policy.apply(Effect.die("bug"), fallback))
      assert.deepStrictEqual(failuresOf(died), ["Die"])
      const fiber = yield* Effect.forkChild(Policy.apply(Effect.never, fallback), { startImmediately: true })
      yield* Fiber.interrupt(fiber)
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
      // Nor when the interrupt reaches it from inside, alone or next to a failure.
      const inside = yield* Effect.exit(Policy.apply(Effect.interrupt, fallback))
      assert.isTrue(Exit.hasInterrupts(inside))
      const both = Cause.combine(Cause.fail("gone"), Cause.interrupt())
      assert.isTrue(Exit.hasInterrupts(yield* Effect.exit(Policy.apply(Effect.failCause(both), fallback))))
      const bug = Cause.combine(Cause.fail("gone"), Cause.die("bug"))
      assert.isTrue(Exit.hasDies(yield* Effect.exit(Policy.apply(Effect.failCause(bug), fallback))))
      assert.strictEqual(ran, 0)
    }))

  it.effect("fails with its own error before the original one when it fails too", () =>
    Effect.gen(function*() {
      const fallback = yield* Fallback.make({ orElse: () => Effect.fail("replica down") })
      const [exit, events] = yield* recorded(Effect.exit(Policy.apply(Effect.fail("gone"), fallback)))
      assert.deepStrictEqual(failuresOf(exit), ["replica down", "gone"])
      assert.deepStrictEqual(events, [])
      assert.deepStrictEqual(yield* fallback.stats, { substituted: 0, failed: 1 })
      assert.strictEqual(yield* Effect.flip(Policy.apply(Effect.fail("gone"), fallback)), "replica down")
    }))

  it.effect("keeps the original error next to the defect of a substitute that throws", () =>
    Effect.gen(function*() {
      const bug = (): never => {
        throw new Error("bug")
      }
      const calling = yield* Fallback.make({ orElse: (): Effect.Effect<string> => bug() })
      for (const fallback of [yield* Fallback.make({ compute: bug }), calling]) {
        const exit = yield* Effect.exit(Policy.apply(Effect.fail("gone"), fallback))
        assert.deepStrictEqual(failuresOf(exit), ["Die", "gone"])
      }
    }))

  describe("stale", () => {
    const users = (maxAge: Duration.Input = "1 minute") => Fallback.make<string>({ stale: { maxAge } })
    const call = (
      self: Effect.Effect<string, unknown>,
      fallback: Effect.Success<ReturnType<typeof users>>,
      key = "7"
    ) => CallContext.annotate(Policy.apply(self, fallback), { name: "GetUser", key })

    it.effect("answers with the last good answer of the same call, if it is young enough", () =>
      Effect.gen(function*() {
        const fallback = yield* users()
        assert.strictEqual(yield* Effect.flip(call(Effect.fail("gone"), fallback)), "gone")
        assert.strictEqual(yield* call(Effect.succeed("ada"), fallback), "ada")
        assert.strictEqual(yield* call(Effect.succeed("bea"), fallback), "bea")
        assert.strictEqual(yield* Effect.flip(call(Effect.fail("gone"), fallback, "8")), "gone")
        yield* TestClock.adjust("1 minute")
        const [answer, events] = yield* recorded(call(Effect.fail("gone"), fallback))
        assert.strictEqual(answer, "bea")
        assert.deepInclude(events[0], { _tag: "Substituted", how: "stale", ageMillis: 60_000 })
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* Effect.flip(call(Effect.fail("gone"), fallback)), "gone")
      }))

    it.effect("remembers nothing of a call without a key, and the last used of more than its capacity", () =>
      Effect.gen(function*() {
        const fallback = yield* users()
        yield* Policy.apply(Effect.succeed("ada"), fallback)
        assert.strictEqual(yield* Effect.flip(Policy.apply(Effect.fail("gone"), fallback)), "gone")

        const two = yield* Fallback.make<string>({
          stale: { maxAge: "1 minute", capacity: 2, key: ({ headers }) => headers["user"] }
        })
        const of = (user: string, self: Effect.Effect<string, unknown>) =>
          CallContext.annotate(Policy.apply(self, two), { headers: { user } })
        for (const user of ["a", "b"]) yield* of(user, Effect.succeed(user))
        assert.strictEqual(yield* of("a", Effect.fail("gone")), "a")
        yield* of("c", Effect.succeed("c"))
        assert.strictEqual(yield* Effect.flip(of("b", Effect.fail("gone"))), "gone")
        assert.strictEqual(yield* of("a", Effect.fail("gone")), "a")
      }))
  })

  describe("in place of another", () => {
    it.effect("goes on with its last good answers, as many as it remembers, and those of calls in flight", () =>
      Effect.gen(function*() {
        const before = yield* Fallback.make({ stale: { maxAge: "1 minute" } })
        const after = yield* Fallback.make({ stale: { maxAge: "1 minute", capacity: 2 } })
        const of = (key: string) => CallContext.annotate({ key })
        for (const key of ["a", "b", "c"]) yield* before.run(Effect.succeed(key)).pipe(of(key))
        const late = yield* Effect.forkChild(before.run(Effect.delay(Effect.succeed("d"), 10)).pipe(of("d")))
        Fallback.succeed(before, after)
        const recalled = (key: string) => Effect.exit(after.run(Effect.fail("down")).pipe(of(key)))
        assert.deepStrictEqual(yield* recalled("a"), Exit.fail("down"))
        assert.deepStrictEqual([yield* recalled("b"), yield* recalled("c")], [Exit.succeed("b"), Exit.succeed("c")])
        yield* TestClock.adjust(10)
        yield* Fiber.join(late)
        assert.deepStrictEqual(yield* recalled("d"), Exit.succeed("d"))
        // One without a memory has nothing to hand over, and takes nothing.
        const fixed = yield* Fallback.make({ value: 0 })
        Fallback.succeed(fixed, after)
        Fallback.succeed(after, fixed)
        assert.deepStrictEqual(yield* recalled("d"), Exit.succeed("d"))
      }))
  })

  describe("reserve", () => {
    const never = Effect.never as Effect.Effect<string>

    it.effect("is kept back from the call's deadline, so that a value comes in time", () =>
      Effect.gen(function*() {
        const fallback = yield* Fallback.make({ value: "none" })
        const [exit, took] = yield* timed(Timeout.withDeadline(Policy.apply(never, fallback), "1 second"))
        assert.deepStrictEqual(exit, Exit.succeed("none"))
        assert.strictEqual(took, 990)
        assert.strictEqual(yield* liveTimers, 0)
      }))

    it.effect("is a fifth of the time for another call, at most a second, and that call has the deadline itself", () =>
      Effect.gen(function*() {
        const deadlines: Array<number> = []
        const seen = Effect.map(CallContext.Current, ({ deadline }) => void deadlines.push(deadline))
        const fallback = yield* Fallback.make({
          orElse: () => Effect.andThen(seen, Effect.as(Effect.sleep(150), "replica"))
        })
        const call = Policy.apply(Effect.andThen(seen, never), fallback)
        const [exit, took] = yield* timed(Timeout.withDeadline(call, "1 second"), 1000)
        assert.deepStrictEqual(exit, Exit.succeed("replica"))
        assert.strictEqual(took, 950)
        assert.deepStrictEqual(deadlines, [800, 1000])
        const [, long] = yield* timed(Timeout.withDeadline(call, "1 minute"))
        assert.strictEqual(long, 59_150)
      }))

    it.effect("is as stated, but at most half of what is left", () =>
      Effect.gen(function*() {
        const fallback = yield* Fallback.make({ value: "none", reserve: "300 millis" })
        const took = (millis: number) =>
          Effect.map(timed(Timeout.withDeadline(Policy.apply(never, fallback), millis)), ([, took]) => took)
        assert.strictEqual(yield* took(1000), 700)
        assert.strictEqual(yield* took(400), 200)
        const none = yield* Fallback.make({ value: "none", reserve: 0 })
        const [exit] = yield* timed(Timeout.withDeadline(Policy.apply(never, none), 100))
        assert.isTrue(isTag("DeadlineExceeded", failuresOf(exit)[0]))
      }))

    it.effect("is not needed by a fallback that is not for DeadlineExceeded, nor by a call without a deadline", () =>
      Effect.gen(function*() {
        const fallback = yield* Fallback.make({ when: ["CircuitOpen"], value: "none" })
        const [exit, took] = yield* timed(Timeout.withDeadline(Policy.apply(never, fallback), 100))
        assert.isTrue(isTag("DeadlineExceeded", failuresOf(exit)[0]))
        assert.strictEqual(took, 100)
        const both = yield* Fallback.make({ when: ["CircuitOpen", "DeadlineExceeded"], value: "none" })
        const [late] = yield* timed(Timeout.withDeadline(Policy.apply(never, both), 100))
        assert.deepStrictEqual(late, Exit.succeed("none"))
        const inside = yield* Policy.apply(Effect.map(CallContext.Current, ({ deadline }) => deadline), both)
        assert.strictEqual(inside, Infinity)
      }))

    it.effect("answers at once when the deadline has passed already", () =>
      Effect.gen(function*() {
        yield* TestClock.adjust(100)
        const fallback = yield* Fallback.make({ value: "none" })
        let ran = 0
        const call = CallContext.annotate(Policy.apply(Effect.sync(() => ran++), fallback), { deadline: 50 })
        assert.strictEqual(yield* call, "none")
        assert.strictEqual(ran, 0)
      }))
  })

  // CP-05
  it.effect("is called exactly once for a timeout whose work ends later", () =>
    Effect.gen(function*() {
      let ran = 0
      let ended = 0
      const timeout = yield* Timeout.make({ timeout: "50 millis" })
      const fallback = yield* Fallback.make({ compute: () => ++ran })
      const work = Effect.uninterruptible(
        Effect.andThen(Effect.sleep("400 millis"), Effect.andThen(Effect.sync(() => ended++), Effect.fail("late")))
      )
      const [exit, took] = yield* timed(Policy.stack({ fallback, timeout }).run(work), 50)
      assert.deepStrictEqual([exit, took], [Exit.succeed(1), 50])
      yield* TestClock.adjust("1 second")
      assert.strictEqual(ended, 1)
      assert.strictEqual(ran, 1)
      assert.strictEqual(yield* liveTimers, 0)
    }))

  it.effect("sees the final error of a stack, whichever slot raised it", () =>
    Effect.gen(function*() {
      const circuitBreaker = yield* CircuitBreaker.make({ consecutiveFailures: 1 })
      const fallback = yield* Fallback.make({
        when: CallError.isCallError,
        compute: (error): string => error.reason._tag
      })
      const stack = Policy.stack({ circuitBreaker, fallback })
      assert.strictEqual(stack.name, "Fallback > CircuitBreaker")
      assert.strictEqual(yield* Effect.flip(stack.run(Effect.fail("gone"))), "gone")
      assert.strictEqual(yield* stack.run(Effect.fail("gone")), "CircuitOpen")
    }))

  it.effect("leaves nothing behind wherever a caller leaves, before the failure or during the substitute", () =>
    interruptEverywhere(Effect.gen(function*() {
      let running = 0
      const fallback = yield* Fallback.make({
        orElse: () =>
          Effect.acquireUseRelease(
            Effect.sync(() => running++),
            () => Effect.never,
            () => Effect.sync(() => running--)
          )
      })
      const failing = Effect.andThen(Effect.yieldNow, Effect.fail("gone"))
      return {
        work: Timeout.withDeadline(Policy.apply(failing, fallback), "1 minute"),
        check: (where) => Effect.map(liveTimers, (timers) => assert.deepStrictEqual([running, timers], [0, 0], where))
      }
    })))

  it.effect("announces itself", () =>
    Effect.gen(function*() {
      const registered: Array<Policy.Registered> = []
      const registry: Policy.Registry = { register: (policy) => (registered.push(policy), () => {}) }
      const fallback = yield* Effect.provideService(Fallback.make({ value: 1 }), Policy.CurrentRegistry, registry)
      yield* Policy.apply(Effect.fail("gone"), fallback)
      assert.deepInclude(registered[0], { name: "Fallback", kind: "fallback" })
      assert.deepStrictEqual(registered[0]!.snapshot(), { substituted: 1, failed: 0 })
    }))

  it.effect("dies when an option is out of its range", () =>
    Effect.gen(function*() {
      const message = <A>(made: Effect.Effect<A>) =>
        Effect.map(Effect.exit(made), (exit) =>
          Exit.isFailure(exit) ? (Cause.squash(exit.cause) as Error).message : "made")
      assert.match(yield* message(Fallback.make({ value: 1, reserve: -1 })), /^Fallback.make: reserve must be/)
      assert.match(yield* message(Fallback.make({ stale: { maxAge: 0 } })), /^Fallback.make: stale.maxAge must be/)
      assert.match(
        yield* message(Fallback.make({ stale: { maxAge: 1, capacity: 0 } })),
        /stale.capacity must be an integer >= 1, got 0/
      )
    }))
})
