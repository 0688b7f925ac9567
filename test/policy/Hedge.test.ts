import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Deferred, Effect, Exit, Fiber, Scheduler, Schema } from "effect"
import { TestClock } from "effect/testing"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as Interruption from "../../src/contract/Interruption.ts"
import * as Outcome from "../../src/contract/Outcome.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as Backoff from "../../src/policy/Backoff.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Hedge from "../../src/policy/Hedge.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as Retry from "../../src/policy/Retry.ts"
import * as RetryBudget from "../../src/policy/RetryBudget.ts"
import * as Timeout from "../../src/policy/Timeout.ts"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"
import {
  circuitOpen,
  drive,
  idempotent,
  lost,
  now,
  overloaded,
  reasonOf,
  recording,
  refused,
  script
} from "../support/loop.ts"

const taking = (millis: number, result: string) => Effect.delay(Effect.succeed(result), millis)
const failing = (millis: number, error = "down") => Effect.delay(Effect.fail(error), millis)
const none = Backoff.constant({ base: 0 })

const budgetOf = (tokens: number) =>
  Effect.tap(
    RetryBudget.make({ ratio: 1, reserve: 0 }),
    (budget) => Effect.replicateEffect(budget.deposit(true), tokens, { discard: true })
  )

/** Lets others run before the first step of every fiber. */
class Reluctant extends Scheduler.MixedScheduler {
  private readonly seen = new WeakSet<object>()
  override shouldYield(fiber: Fiber.Fiber<unknown, unknown>) {
    if (this.seen.has(fiber)) return super.shouldYield(fiber)
    this.seen.add(fiber)
    return true
  }
}

/** Nothing of ours waits. */
const idle = Effect.map(Clock.Clock, (clock) => assert.strictEqual(Timer.size(clock), 0))

describe("Hedge", () => {
  describe("when", () => {
    // HG-01
    it.effect("an attempt that is faster than the delay is the only one, and leaves no timer", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: "1 second" })
        for (const millis of [0, 999]) {
          const { call, sent } = script(taking(millis, "ok"))
          assert.deepStrictEqual(yield* drive(idempotent(hedge.run(call)), 999), [Exit.succeed("ok"), millis])
          assert.strictEqual(sent.length, 1)
          yield* idle
        }
      }))

    it.effect("a hedge is announced as one, with the time since its own call's first attempt", () =>
      Effect.gen(function*() {
        yield* TestClock.adjust("1 minute")
        const hedge = yield* Hedge.make({ delay: 10 })
        const { of, record } = recording()
        yield* drive(record(idempotent(hedge.run(taking(100, "ok")))))
        assert.deepStrictEqual(
          of("HedgeStarted").map((
            { afterMillis, atMillis, call }
          ) => [call.attempt, call.hedge, afterMillis, atMillis]),
          [[2, true, 10, 60_010]]
        )
      }))

    // HG-02
    it.effect("two hedges, 10 ms after each other, and the flag is true for them only", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10, hedges: 2 })
        const { of, record } = recording()
        const { call, sent } = script(taking(100, "ok"))
        assert.deepStrictEqual(yield* drive(record(idempotent(hedge.run(call)))), [Exit.succeed("ok"), 100])
        assert.deepStrictEqual(sent, [
          { attempt: 1, hedge: false, insideRetry: true, at: 0 },
          { attempt: 2, hedge: true, insideRetry: true, at: 10 },
          { attempt: 3, hedge: true, insideRetry: true, at: 20 }
        ])
        assert.deepStrictEqual(
          of("HedgeStarted").map((
            { afterMillis, atMillis, call, policy }
          ) => [policy, call.attempt, afterMillis, atMillis]),
          [["Hedge", 2, 10, 10], ["Hedge", 3, 20, 20]]
        )
        yield* idle
      }))

    it.effect("a delay of zero sends both at once", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 0 })
        const { call, sent } = script(taking(100, "slow"), taking(50, "fast"))
        assert.deepStrictEqual(yield* drive(idempotent(hedge.run(call))), [Exit.succeed("fast"), 50])
        assert.strictEqual(sent[1]!.at, 0)
      }))

    it.effect("a call that is not idempotent is never hedged, and that is said once", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10 })
        const { of, record } = recording()
        const { call, sent } = script(taking(100, "ok"))
        yield* drive(record(CallContext.annotate(hedge.run(call), { name: "orders.Create" })))
        yield* drive(record(hedge.run(call)))
        assert.strictEqual(sent.length, 2)
        assert.deepStrictEqual(of("Warning").map(({ policy, why }) => [policy, why]), [
          ["Hedge", "orders.Create is not idempotent, so it is never hedged"]
        ])
        yield* drive(CallContext.annotate(hedge.run(call), { idempotencyKey: "k" }))
        assert.strictEqual(sent.length, 4)
      }))

    it.effect("a call that is not idempotent is not hedged when it is retried either", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10 })
        const retry = yield* Retry.make({ attempts: 4, backoff: none, hedge })
        const { call, sent } = script<string, unknown, never>(refused, taking(100, "ok"))
        assert.deepStrictEqual((yield* drive(retry.run(call)))[0], Exit.succeed("ok"))
        assert.strictEqual(sent.length, 2)
      }))

    it.effect("a deadline nearer than the delay means no hedge and no timer", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: "1 second" })
        const gate = yield* Deferred.make<void>()
        const { call, sent } = script(Deferred.await(gate))
        const fiber = yield* Effect.forkChild(
          idempotent(CallContext.annotate(hedge.run(call), { deadline: 1000 })),
          { startImmediately: true }
        )
        yield* idle
        yield* TestClock.adjust("5 seconds")
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.join(fiber)
        assert.strictEqual(sent.length, 1)
      }))

    it.effect("the second of two hedges is not set up when it would start at the deadline", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10, hedges: 2 })
        const { call, sent } = script(taking(100, "ok"))
        yield* drive(idempotent(CallContext.annotate(hedge.run(call), { deadline: 20 })))
        assert.strictEqual(sent.length, 2)
      }))

    it.effect("inside a retry loop it steps aside: hedges belong into the loop", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10 })
        const outer = yield* Hedge.make({ delay: 20 })
        const { of, record } = recording()
        const { call, sent } = script(taking(100, "ok"))
        yield* drive(record(idempotent(call.pipe(Policy.apply(hedge), Policy.apply(outer)))))
        assert.deepStrictEqual(sent.map(({ at }) => at), [0, 20])
        assert.strictEqual(of("Warning").length, 1)
      }))
  })

  describe("whose answer", () => {
    // HG-08
    it.effect("the first success: apples 10 s, oranges 2 s and pears 3 s, started a second apart, give oranges at 4 s", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: "1 second", hedges: 3 })
        const { call, sent } = script(
          taking(86_400_000, "primary"),
          taking(10_000, "apples"),
          taking(2000, "oranges"),
          taking(3000, "pears")
        )
        assert.deepStrictEqual(yield* drive(idempotent(hedge.run(call))), [Exit.succeed("oranges"), 4000])
        assert.strictEqual(sent.length, 4)
        yield* idle
      }))

    it.effect("a first failure waits for the other, whichever it is", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10 })
        const original = script(failing(20), taking(100, "hedge"))
        assert.deepStrictEqual(yield* drive(idempotent(hedge.run(original.call))), [Exit.succeed("hedge"), 110])
        const second = script(taking(100, "original"), failing(20))
        assert.deepStrictEqual(yield* drive(idempotent(hedge.run(second.call))), [Exit.succeed("original"), 100])
      }))

    it.effect("a failure before the hedge ends the call: a hedge is not a retry", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10 })
        const { call, sent } = script(failing(5))
        assert.deepStrictEqual(yield* drive(idempotent(hedge.run(call))), [Exit.fail("down"), 5])
        assert.strictEqual(sent.length, 1)
        yield* idle
      }))

    it.effect("when all fail, the last to fail speaks, and the causes of the others are kept", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10, hedges: 2 })
        const { call } = script(failing(100, "first"), failing(200, "second"), failing(50, "third"))
        const [exit, took] = yield* drive(idempotent(hedge.run(call)))
        assert.strictEqual(took, 210)
        assert.deepStrictEqual(
          Exit.isFailure(exit) && exit.cause.reasons.map((reason) => Cause.isFailReason(reason) && reason.error),
          ["second", "first", "third"]
        )
      }))

    it.effect("a fatal outcome of either ends the call at once and interrupts the other", () =>
      Effect.gen(function*() {
        const notFound = CallError.fail({ _tag: "NotFound", target: "users", detail: "1001", sent: "no" })
        for (const [first, second] of [[15, 1000], [1000, 5]] as const) {
          let interrupted = 0
          const slow = Effect.onInterrupt(taking(1000, "ok"), () => Effect.sync(() => void interrupted++))
          const hedge = yield* Hedge.make({ delay: 10 })
          const answer = Effect.delay(notFound, Math.min(first, second))
          const { call } = first < second
            ? script<string, unknown, never>(answer, slow)
            : script<string, unknown, never>(slow, answer)
          const [exit, took] = yield* drive(idempotent(hedge.run(call)))
          assert.deepStrictEqual([reasonOf(exit)?._tag, took, interrupted], ["NotFound", 15, 1])
          yield* idle
        }
      }))

    it.effect("a defect of either is fatal", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10 })
        const { call } = script<string, never, never>(taking(100, "ok"), Effect.die("broken"))
        assert.deepStrictEqual(yield* drive(idempotent(hedge.run(call))), [Exit.die("broken"), 10])
      }))

    it.effect("a hedge that is rejected inside does not end what was sent, and costs nothing", () =>
      Effect.gen(function*() {
        const budget = yield* budgetOf(1)
        const hedge = yield* Hedge.make({ delay: 10, budget })
        const { call, sent } = script<string, unknown, never>(taking(100, "ok"), circuitOpen)
        assert.deepStrictEqual(yield* drive(idempotent(hedge.run(call)), 1000), [Exit.succeed("ok"), 100])
        assert.strictEqual(sent.length, 2)
        assert.deepInclude(yield* budget.snapshot, { granted: 1, refunded: 1 })
      }))

    it.effect("a hedge that is rejected inside costs no attempt", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10 })
        const retry = yield* Retry.make({ attempts: 2, backoff: none, hedge })
        const { call, sent } = script<string, unknown, never>(failing(20), circuitOpen, taking(5, "ok"))
        assert.deepStrictEqual(yield* drive(idempotent(retry.run(call))), [Exit.succeed("ok"), 25])
        assert.deepStrictEqual(sent.map(({ attempt, hedge }) => [attempt, hedge]), [[1, false], [2, true], [2, false]])
      }))

    it.effect("an original that failed speaks, when its hedge is rejected inside", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10 })
        const { call } = script<string, unknown, never>(failing(20), Effect.delay(circuitOpen, 50))
        assert.deepStrictEqual(yield* drive(idempotent(hedge.run(call))), [Exit.fail("down"), 60])
        const rejected = script<string, unknown, never>(circuitOpen)
        const [exit] = yield* drive(idempotent(hedge.run(rejected.call)))
        assert.strictEqual(reasonOf(exit)?._tag, "CircuitOpen")
      }))
  })

  describe("the loser", () => {
    // HG-10
    it.effect("is interrupted with the reason hedgeLost, as soon as the winner answers", () =>
      Effect.gen(function*() {
        const seen: Array<readonly [unknown, number]> = []
        const loser = Effect.onExit(Effect.never, (exit) =>
          Effect.map(now, (at) =>
            void seen.push([Exit.isFailure(exit) && Interruption.fromCause(exit.cause), at])))
        const hedge = yield* Hedge.make({ delay: 10 })
        assert.deepStrictEqual(
          yield* drive(idempotent(hedge.run(script<string, never, never>(loser, taking(30, "ok")).call))),
          [Exit.succeed("ok"), 40]
        )
        assert.deepStrictEqual(seen, [["hedgeLost", 40]])
      }))

    it.effect("is not awaited, however long it takes to clean up, and what it holds is released then", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10 })
        let cleaned = false
        const stubborn = Effect.onInterrupt(
          Effect.never,
          () => Effect.delay(Effect.sync(() => void (cleaned = true)), 5000)
        )
        const uninterruptible = Effect.uninterruptible(Effect.delay(Effect.succeed("late"), 9000))
        for (const loser of [stubborn, uninterruptible]) {
          const { call } = script<string, never, never>(loser, taking(30, "ok"))
          const fiber = yield* Effect.forkChild(idempotent(hedge.run(call)), { startImmediately: true })
          yield* TestClock.adjust(40)
          assert.deepStrictEqual(fiber.pollUnsafe(), Exit.succeed("ok"))
        }
        assert.isFalse(cleaned)
        yield* TestClock.adjust(5000)
        assert.isTrue(cleaned)
      }))

    // HG-10
    it.effect("is discarded when it succeeds although it lost; the winner is not", () =>
      Effect.gen(function*() {
        const discarded: Array<string> = []
        const hedge = yield* Hedge.make({
          delay: 10,
          discard: (result: string) => Effect.sync(() => void discarded.push(result))
        })
        const { call } = script(taking(100, "late"), taking(30, "winner"))
        const uninterruptible = Effect.uninterruptible(idempotent(hedge.run(call)))
        assert.deepStrictEqual(yield* drive(uninterruptible), [Exit.succeed("winner"), 40])
        assert.deepStrictEqual(discarded, ["late"])
      }))

    it.effect("is discarded when both answer in the same step", () =>
      Effect.gen(function*() {
        const discarded: Array<string> = []
        const hedge = yield* Hedge.make({
          delay: 10,
          discard: (result: string) => Effect.sync(() => void discarded.push(result))
        })
        const gate = yield* Deferred.make<string>()
        const { call } = script(Deferred.await(gate), Effect.as(Deferred.succeed(gate, "original"), "hedge"))
        assert.deepStrictEqual(yield* drive(idempotent(hedge.run(call))), [Exit.succeed("original"), 10])
        assert.deepStrictEqual(discarded, ["hedge"])
      }))

    // RX-30
    it.effect("leaves the counters of its breaker as they were", () =>
      Effect.gen(function*() {
        const circuitBreaker = yield* CircuitBreaker.make({ consecutiveFailures: 1 })
        const hedge = yield* Hedge.make({ delay: 10 })
        const { call } = script<string, never, never>(Effect.never, taking(30, "ok"))
        for (let i = 0; i < 5; i++) {
          assert.isTrue(
            Exit.isSuccess((yield* drive(idempotent(Policy.stack({ hedge, circuitBreaker }).run(call))))[0])
          )
        }
        assert.strictEqual((yield* circuitBreaker.state)._tag, "Closed")
      }))
  })

  describe("interruption", () => {
    it.effect("by the caller reaches every attempt with its reason, and is over when they are", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10 })
        const seen: Array<unknown> = []
        const attempt = Effect.onExit(
          Effect.never,
          (exit) =>
            Effect.delay(
              Effect.sync(() => void seen.push(Exit.isFailure(exit) && Interruption.fromCause(exit.cause))),
              100
            )
        )
        const { call } = script<never, never, never>(attempt)
        const fiber = yield* Effect.forkChild(idempotent(hedge.run(call)), { startImmediately: true })
        yield* TestClock.adjust(50)
        fiber.interruptUnsafe(1, Interruption.annotations.deadline)
        yield* TestClock.adjust(99)
        assert.isUndefined(fiber.pollUnsafe())
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(seen, ["deadline", "deadline"])
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
        yield* idle
      }))

    it.effect("before the hedge leaves no timer, and none is sent", () =>
      Effect.gen(function*() {
        const budget = yield* budgetOf(3)
        const hedge = yield* Hedge.make({ delay: 10, budget })
        const { call, sent } = script<never, never, never>(Effect.never)
        const fiber = yield* Effect.forkChild(idempotent(hedge.run(call)), { startImmediately: true })
        yield* TestClock.adjust(5)
        yield* Fiber.interrupt(fiber)
        yield* idle
        yield* TestClock.adjust(1000)
        assert.strictEqual(sent.length, 1)
        assert.strictEqual((yield* budget.snapshot).granted, 0)
      }))

    it.effect("between any two steps leaves no attempt behind and no token taken in vain", () =>
      interruptEverywhere(Effect.gen(function*() {
        const budget = yield* budgetOf(10)
        const hedge = yield* Hedge.make({ delay: 0, hedges: 2, budget })
        const clock = yield* Clock.Clock
        let [started, ended] = [0, 0]
        const attempt = Effect.onExit(
          Effect.suspend(() => {
            started++
            return Effect.never
          }),
          () => Effect.sync(() => void ended++)
        )
        return {
          work: idempotent(hedge.run(attempt)),
          check: (where: string) =>
            Effect.gen(function*() {
              assert.strictEqual(ended - started, Math.max(0, ended - started), where)
              assert.strictEqual(Timer.size(clock), 0, where)
              const { granted, refunded } = yield* budget.snapshot
              const spent = granted - refunded
              assert.isTrue(
                spent >= started - 1 && spent <= Math.max(started, ended),
                `${where}: ${spent} for ${started}`
              )
            })
        }
      })))

    it.effect("in the very moment a hedge's token is taken gives it back", () =>
      Effect.gen(function*() {
        const budget = yield* budgetOf(1)
        const interrupting: RetryBudget.RetryBudget = {
          ...budget,
          withdrawUnsafe: (now) => {
            Fiber.getCurrent()!.interruptUnsafe()
            return budget.withdrawUnsafe(now)
          }
        }
        const hedge = yield* Hedge.make({ delay: 10, budget: interrupting })
        const { call, sent } = script(taking(100, "ok"))
        const fiber = yield* Effect.forkChild(idempotent(hedge.run(call)), { startImmediately: true })
        yield* TestClock.adjust(10)
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
        assert.strictEqual(sent.length, 1)
        assert.deepInclude(yield* budget.snapshot, { granted: 1, refunded: 1 })
        yield* idle
      }))

    it.effect("by nobody: however often the scheduler lets others run, an answer is not lost", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 0, hedges: 2 })
        for (let operations = 3; operations < 9; operations++) {
          for (let turns = 0; turns < 9; turns++) {
            const attempt = Effect.as(Effect.replicateEffect(Effect.yieldNow, turns, { discard: true }), "ok")
            const [exit] = yield* drive(
              idempotent(hedge.run(attempt)).pipe(Effect.provideService(Scheduler.MaxOpsBeforeYield, operations)),
              1
            )
            assert.deepStrictEqual(exit, Exit.succeed("ok"))
          }
        }
        yield* idle
      }))

    it.effect("leaves no attempt behind that the scheduler has put off", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10 })
        for (let turns = 0; turns < 8; turns++) {
          let [started, ended] = [0, 0]
          const attempt = Effect.suspend(() => {
            started++
            return Effect.onExit(Effect.never, () => Effect.sync(() => void ended++))
          })
          const fiber = yield* idempotent(hedge.run(attempt)).pipe(
            Effect.provideService(Scheduler.Scheduler, new Reluctant()),
            Effect.forkChild({ startImmediately: true })
          )
          for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
          yield* Fiber.interrupt(fiber)
          for (let turn = 0; turn < 8; turn++) yield* Effect.yieldNow
          assert.strictEqual(started, ended)
        }
        yield* idle
      }))

    it.effect("is impossible for the attempts of an uninterruptible call, and they all end", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10 })
        let ended = 0
        const { call } = script(
          Effect.tap(taking(100, "slow"), () => Effect.sync(() => void ended++)),
          taking(30, "ok")
        )
        const [exit, took] = yield* drive(Effect.uninterruptible(idempotent(hedge.run(call))))
        assert.deepStrictEqual([exit, took, ended], [Exit.succeed("ok"), 40, 1])
      }))
  })

  describe("the delay from a quantile", () => {
    /** `count` calls of `millis` each; how many were sent. */
    const calls = (
      hedge: Hedge.Hedge,
      count: number,
      millis: number,
      result: Effect.Effect<string, unknown> = Effect.succeed("ok")
    ) =>
      Effect.gen(function*() {
        const { call, sent } = script(Effect.delay(result, millis))
        for (let i = 0; i < count; i++) yield* drive(idempotent(hedge.run(call)), millis)
        return sent.length
      })

    // HG-05
    it.effect("needs 20 latencies at .95, and hedges the one call of 200 ms after 25 of 5 ms", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ minimumCalls: 20 })
        assert.strictEqual(yield* calls(hedge, 20, 5), 20)
        assert.strictEqual(yield* calls(hedge, 5, 5), 5)
        assert.closeTo((yield* hedge.delay)!, 5, 0.25)
        assert.strictEqual(yield* calls(hedge, 1, 200), 2)
      }))

    it.effect("is unknown before the first of its latencies lies beyond the quantile", () =>
      Effect.gen(function*() {
        for (const [quantile, needed] of [[0.5, 20], [0.95, 20], [0.99, 100], [0.999, 1000]] as const) {
          const hedge = yield* Hedge.make({ quantile })
          for (let i = 1; i < needed; i++) hedge.observeUnsafe!(5, 0)
          assert.isUndefined(yield* hedge.delay)
          hedge.observeUnsafe!(5, 0)
          assert.isDefined(yield* hedge.delay)
        }
      }))

    it.effect("hears how long the winner took, and the others until then, whatever the clock says", () =>
      Effect.gen(function*() {
        yield* TestClock.adjust("1 minute")
        const heard: Array<readonly [latencyMillis: number, nowMillis: number]> = []
        const hedge: Retry.Hedging = {
          name: "hedge",
          hedges: 1,
          budget: undefined,
          delayUnsafe: () => 10,
          observeUnsafe: (latency, now) => heard.push([latency, now])
        }
        const retry = yield* Retry.make({ attempts: 2, hedge })
        const { call } = script<string, never, never>(Effect.never, taking(100, "hedge"))
        yield* drive(idempotent(retry.run(call)))
        assert.deepStrictEqual(heard, [[100, 60_110], [110, 60_110]])
      }))

    // HG-11
    it.effect("counts the time of the attempt that was superseded", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ minimumCalls: 4, quantile: 0.8 })
        yield* calls(hedge, 4, 1000)
        const { of, record } = recording()
        let interrupted: unknown
        const original = Effect.onExit(Effect.never, (exit) =>
          Effect.sync(() => void (interrupted = Exit.isFailure(exit) && Interruption.fromCause(exit.cause))))
        const { call, sent } = script<string, never, never>(original, taking(1000, "hedge"))
        const [exit, took] = yield* drive(record(idempotent(hedge.run(call))), 5000)
        assert.deepStrictEqual(exit, Exit.succeed("hedge"))
        assert.closeTo(took, 2000, 50)
        assert.strictEqual(interrupted, "hedgeLost")
        assert.deepStrictEqual([sent.length, of("HedgeStarted").length], [2, 1])
        // Five of 1 s with the hedge's own, and the original's 2 s: one more of those, and two in seven are beyond.
        assert.closeTo((yield* hedge.delay)!, 1000, 50)
        hedge.observeUnsafe!(2000, yield* now)
        assert.closeTo((yield* hedge.delay)!, 2000, 90)
      }))

    it.effect("counts the attempts that might have been hedged", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ minimumCalls: 1, quantile: 0.5 })
        yield* calls(hedge, 1, 100)
        assert.closeTo((yield* hedge.delay)!, 100, 5)
        assert.strictEqual(yield* calls(hedge, 3, 10), 3)
        assert.closeTo((yield* hedge.delay)!, 10, 0.5)
      }))

    it.effect("counts answers and timeouts, and no failure that is fast", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ minimumCalls: 2, quantile: 0.5 })
        const timeout = CallError.fail({ _tag: "AttemptTimeout", policy: "t", timeoutMillis: 500, sent: "maybe" })
        yield* calls(hedge, 20, 1, Effect.fail("down"))
        yield* calls(hedge, 20, 1, lost)
        assert.isUndefined(yield* hedge.delay)
        yield* calls(hedge, 1, 500, timeout)
        assert.isUndefined(yield* hedge.delay)
        yield* calls(hedge, 1, 500, CallError.fail({ _tag: "NotFound", target: "users", detail: "1", sent: "no" }))
        assert.closeTo((yield* hedge.delay)!, 500, 25)
      }))

    // HG-14
    it.effect("is at least the minimum", () =>
      Effect.gen(function*() {
        for (const [minimum, expected] of [[undefined, 1], ["10 millis", 10]] as const) {
          const hedge = yield* Hedge.make({ minimum })
          assert.strictEqual(yield* calls(hedge, 50, 0), 50)
          assert.strictEqual(yield* hedge.delay, expected)
        }
      }))

    it.effect("forgets latencies after its window", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ window: "3 seconds" })
        yield* calls(hedge, 20, 5)
        assert.isDefined(yield* hedge.delay)
        yield* TestClock.adjust("4 seconds")
        assert.isUndefined(yield* hedge.delay)
      }))

    it.effect("is found in the registry", () =>
      Effect.gen(function*() {
        const registered: Array<Policy.Registered> = []
        const hedge = yield* Effect.provideService(
          Hedge.make({ name: "get", minimumCalls: 1 }),
          Policy.CurrentRegistry,
          {
            register: (policy) => {
              registered.push(policy)
              return () => {}
            }
          }
        )
        assert.deepStrictEqual(registered[0]!.snapshot(), { delayMillis: undefined, samples: 0, quantile: 0.95 })
        hedge.observeUnsafe!(0, 0)
        assert.deepStrictEqual(registered[0]!.snapshot(), { delayMillis: 1, samples: 1, quantile: 0.95 })
      }))
  })

  describe("in a retry loop", () => {
    // HG-07: there retries and hedges are counted apart, and 3 are 6.
    it.effect("six attempts of 20 ms that fail, hedged after 10, are three originals and three hedges; three are three", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10 })
        for (const [attempts, expected] of [[6, "ohohoh"], [3, "oho"], [2, "oh"]] as const) {
          const retry = yield* Retry.make({ attempts, backoff: none })
          const { call, sent } = script(failing(20))
          const [exit] = yield* drive(idempotent(Policy.stack({ retry, hedge }).run(call)))
          assert.strictEqual(sent.map((attempt) => (attempt.hedge ? "h" : "o")).join(""), expected)
          assert.deepStrictEqual(sent.map(({ attempt }) => attempt), sent.map((_, index) => index + 1))
          assert.deepInclude(reasonOf(exit), { _tag: "RetriesExhausted", attempts, last: "down" })
          yield* idle
        }
      }))

    // HG-04: with a result nobody wants, and nothing left to send, that result is the answer.
    it.effect("a result that is found wanting waits for the other, and is the answer when that is no better", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10 })
        const discarded: Array<string> = []
        const retry = yield* Retry.make({
          attempts: 2,
          backoff: none,
          hedge,
          retryIf: (result: string) => result.startsWith("bad"),
          discard: (result) => Effect.sync(() => void discarded.push(result))
        })
        const better = script(taking(20, "bad 1"), taking(50, "good"))
        assert.deepStrictEqual(yield* drive(idempotent(retry.run(better.call))), [Exit.succeed("good"), 60])
        assert.deepStrictEqual(discarded.splice(0), ["bad 1"])
        const worse = script(taking(20, "bad 1"), taking(50, "bad 2"))
        assert.deepStrictEqual(yield* drive(idempotent(retry.run(worse.call))), [Exit.succeed("bad 2"), 60])
        assert.deepStrictEqual(discarded.splice(0), ["bad 1"])
        const early = script(taking(5, "bad 1"), taking(5, "bad 2"))
        assert.deepStrictEqual(yield* drive(idempotent(retry.run(early.call))), [Exit.succeed("bad 2"), 10])
        assert.deepStrictEqual(discarded, ["bad 1"])
      }))

    it.effect("the last attempt there is needs no fiber and no timer", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10 })
        const retry = yield* Retry.make({ attempts: 2, backoff: none, hedge })
        const clock = yield* Clock.Clock
        const timers: Array<number> = []
        const look = Effect.sync(() => void timers.push(Timer.size(clock)))
        const { call } = script<void, string, never>(Effect.delay(Effect.fail("down"), 5), Effect.delay(look, 5))
        yield* drive(idempotent(retry.run(call)))
        assert.deepStrictEqual(timers, [0])
      }))

    it.effect("nothing is retried while an attempt is in flight, nor more than one without hedges", () =>
      Effect.gen(function*() {
        let inFlight = 0
        let most = 0
        const counted = (attempt: Effect.Effect<string, string>) =>
          Effect.suspend(() => {
            most = Math.max(most, ++inFlight)
            return Effect.ensuring(attempt, Effect.sync(() => void inFlight--))
          })
        const retry = yield* Retry.make({ attempts: 4, backoff: none })
        const { call } = script(counted(failing(20)), counted(failing(20)), counted(taking(20, "ok")))
        assert.deepStrictEqual(yield* drive(idempotent(retry.run(call))), [Exit.succeed("ok"), 60])
        assert.strictEqual(most, 1)
        const hedged = retry.hedged(yield* Hedge.make({ delay: 10 }))
        const again = script(counted(failing(20)), counted(failing(20)), counted(taking(20, "ok")))
        assert.deepStrictEqual(yield* drive(idempotent(hedged.run(again.call))), [Exit.succeed("ok"), 50])
        assert.strictEqual(most, 2)
      }))

    it.effect("what an attempt in flight was told to stay away delays the hedge, and the retry after both", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10, hedges: 2 })
        const retry = yield* Retry.make({ attempts: 4, backoff: none, hedge })
        const { call, sent } = script<string, unknown, never>(
          taking(500, "ok"),
          Effect.delay(overloaded(100), 5),
          Effect.fail("down")
        )
        yield* drive(idempotent(retry.run(call)))
        // Asked at 15 ms to stay away for 100.
        assert.deepStrictEqual(sent.map(({ at }) => at), [0, 10, 115])
        const gone = script<string, unknown, never>(Effect.delay(overloaded(100), 12), Effect.delay(overloaded(-1), 10))
        const [exit] = yield* drive(idempotent(retry.run(gone.call)))
        assert.deepStrictEqual([gone.sent.length, reasonOf(exit)?._tag], [2, "Overloaded"])
        const both = script<string, unknown, never>(Effect.delay(overloaded(100), 12), failing(10), taking(1, "ok"))
        const start = yield* now
        yield* drive(idempotent(retry.run(both.call)))
        const third = both.sent[2]!.at - start
        assert.isAtLeast(third, 112)
        // All have failed at 20 ms, 92 before the end of that, which is jittered by a fifth.
        assert.isAtMost(third, 20 + 92 * 1.2)
      }))

    it.effect("an attempt that was told not to come back ends the hedging", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10, hedges: 2 })
        const { call, sent } = script<string, unknown, never>(taking(500, "ok"), Effect.delay(overloaded(-1), 5))
        assert.deepStrictEqual(yield* drive(idempotent(hedge.run(call))), [Exit.succeed("ok"), 500])
        assert.strictEqual(sent.length, 2)
        const late = script<string, unknown, never>(taking(500, "ok"), Effect.delay(overloaded(-1), 15))
        yield* drive(idempotent(hedge.run(late.call)))
        // The third was already sent at 20 ms.
        assert.strictEqual(late.sent.length, 3)
      }))

    it.effect("both failures count for whether the server may have seen the call", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10 })
        const retry = yield* Retry.make({ attempts: 2, hedge })
        const { call } = script<string, unknown, never>(Effect.delay(lost, 15), Effect.delay(overloaded(), 20))
        const [exit] = yield* drive(idempotent(retry.run(call)))
        assert.deepInclude(reasonOf(exit), { _tag: "RetriesExhausted", sent: "maybe", attempts: 2 })
      }))

    it.effect("the stack's name shows it, and a loop that takes no hedges is refused", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make()
        const retry = yield* Retry.make()
        const timeout = yield* Timeout.make({ timeout: "1 second" })
        assert.strictEqual(Policy.stack({ retry, hedge, timeout }).name, "Retry + Hedge > Timeout")
        assert.strictEqual(Policy.stack({ hedge, timeout }).name, "Hedge > Timeout")
        const foreign = Policy.make({ name: "mine", kind: "retry", run: (self) => self })
        assert.throws(
          () => Policy.stack({ retry: foreign, hedge }),
          RangeError,
          "Policy.stack: retry must be a loop that takes hedges, got \"mine\""
        )
      }))

    it.effect("a breaking classifier ends the call, and nothing stays behind", () =>
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 10 })
        let interrupted = 0
        const retry = yield* Retry.make({
          hedge,
          classify: () => {
            throw new Error("broken")
          }
        })
        const slow = Effect.onInterrupt(taking(100, "ok"), () => Effect.sync(() => void interrupted++))
        const { call } = script<string, string, never>(slow, failing(5))
        const [exit, took] = yield* drive(idempotent(retry.run(call)))
        assert.isTrue(Exit.hasDies(exit))
        assert.deepStrictEqual([took, interrupted], [15, 1])
        yield* idle
      }))
  })

  describe("the budget", () => {
    // RX-14, HG-14
    it.effect("refuses the hedge without a token, and the original stands", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({ reserve: 0 })
        const hedge = yield* Hedge.make({ delay: 10, hedges: 3, budget })
        const { of, record } = recording()
        const { call, sent } = script(taking(100, "ok"))
        assert.deepStrictEqual(yield* drive(record(idempotent(hedge.run(call)))), [Exit.succeed("ok"), 100])
        assert.strictEqual(sent.length, 1)
        assert.deepStrictEqual(of("BudgetMoved").map(({ change }) => change), ["refused"])
        yield* idle
      }))

    // HG-13: there are two budgets; here one ledger, which earns once per call.
    it.effect("earns a tenth per call of a hundred, hedged or retried or not", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({ reserve: 0 })
        const hedge = yield* Hedge.make({ delay: 10, budget })
        const retry = yield* Retry.make({ budget, hedge })
        const { call } = script(Effect.succeed("ok"))
        for (let i = 0; i < 100; i++) yield* idempotent(retry.run(call))
        assert.closeTo((yield* budget.snapshot).balance, 10, 1e-9)
      }))

    it.effect("pays for hedges and retries from the same ledger", () =>
      Effect.gen(function*() {
        const budget = yield* budgetOf(2)
        const hedge = yield* Hedge.make({ delay: 10 })
        const retry = yield* Retry.make({ attempts: 9, backoff: none, budget, hedge })
        const { call, sent } = script(failing(20))
        const [exit] = yield* drive(idempotent(retry.run(call)), 1000)
        assert.strictEqual(sent.map((attempt) => (attempt.hedge ? "h" : "o")).join(""), "oho")
        assert.strictEqual(reasonOf(exit)?._tag, "BudgetExhausted")
        assert.deepInclude(yield* budget.snapshot, { granted: 2, refunded: 0 })
      }))

    it.effect("is told of a first attempt that lost: no success, but an attempt", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({ ratio: 1, reserve: 0.5 })
        const hedge = yield* Hedge.make({ delay: 10, budget })
        yield* budget.deposit(true)
        const { call } = script<string, never, never>(Effect.never, taking(10, "ok"))
        yield* drive(idempotent(hedge.run(call)), 1000)
        // 1.5 earned before, 1 spent on the hedge, 0.5 earned by the loser.
        assert.closeTo((yield* budget.snapshot).balance, 1, 1e-9)
      }))
  })

  it.effect.prop(
    "whatever happens, no more is sent than allowed, each send but the first is paid for, and nothing stays behind",
    {
      plan: Schema.Struct({
        attempts: Schema.Literals([2, 3, 5]),
        hedges: Schema.Literals([1, 2]),
        tokens: Schema.Literals([0, 1, 9]),
        deadline: Schema.Literals([25, 1e9]),
        interruptAt: Schema.Literals([0, 15, 1000])
      }),
      script: Schema.NonEmptyArray(Schema.Struct({
        millis: Schema.Literals([0, 5, 10, 15, 30, 100]),
        end: Schema.Literals(["ok", "down", "down", "down", "open", "fatal", "die", "bad"])
      }))
    },
    ({ plan: { attempts, deadline, hedges, interruptAt, tokens }, script: ends }) =>
      Effect.gen(function*() {
        const budget = yield* budgetOf(tokens)
        let [started, ended, rejected] = [0, 0, 0]
        const ways = {
          ok: Effect.succeed("ok"),
          bad: Effect.succeed("bad"),
          down: Effect.fail("down"),
          open: Effect.suspend(() => {
            rejected++
            return circuitOpen
          }),
          fatal: CallError.fail({ _tag: "NotFound", target: "users", detail: "1", sent: "no" }),
          die: Effect.die("broken")
        }
        const attempt = Effect.suspend(() => {
          const { end, millis } = ends[Math.min(started++, ends.length - 1)]!
          return Effect.ensuring(
            Effect.delay<string, unknown, never>(ways[end], millis),
            Effect.sync(() => void ended++)
          )
        })
        const retry = yield* Retry.make({ attempts, backoff: none, budget, retryIf: (result) => result === "bad" })
        const hedge = yield* Hedge.make({ delay: 10, hedges })
        const call = idempotent(CallContext.annotate(Policy.stack({ retry, hedge }).run(attempt), { deadline }))
        const fiber = yield* Effect.forkChild(call, { startImmediately: true })
        yield* TestClock.adjust(interruptAt)
        yield* Fiber.interrupt(fiber)
        const sends = started - rejected
        const { granted, refunded } = yield* budget.snapshot
        assert.isAtMost(sends, attempts)
        assert.strictEqual(ended, started)
        // A hedge may be all that was sent, when the original was rejected.
        assert.include([sends - 1, sends], granted - refunded)
        assert.isAtMost(granted - refunded, tokens)
        yield* idle
        const exit = yield* Fiber.await(fiber)
        if (interruptAt === 1000) assert.isFalse(Exit.hasInterrupts(exit))
      })
  )

  // CP-04
  it.effect("two hedges over a timeout of 100 ms: three attempts, three timeouts, a timeout", () =>
    Effect.gen(function*() {
      const hedge = yield* Hedge.make({ delay: 10, hedges: 2 })
      const timeout = yield* Timeout.make({ timeout: "100 millis" })
      const { call, sent } = script<never, never, never>(Effect.never)
      const [exit, took] = yield* drive(idempotent(Policy.stack({ hedge, timeout }).run(call)))
      assert.deepStrictEqual([sent.length, took], [3, 120])
      assert.strictEqual(reasonOf(exit)?._tag, "AttemptTimeout")
      yield* idle
    }))

  it.effect("options out of range die at construction", () =>
    Effect.gen(function*() {
      const messages = yield* Effect.forEach(
        [
          { delay: -1 },
          { quantile: 0 },
          { quantile: 1 },
          { hedges: 0 },
          { hedges: 11 },
          { minimumCalls: 0 },
          { window: 0 },
          { minimum: -1 },
          { idempotent: false }
        ] as const,
        (options) =>
          Effect.map(Effect.exit(Hedge.make(options)), (exit) =>
            Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "made")
      )
      assert.deepStrictEqual(messages, [
        "RangeError: Hedge.make: delay must be a duration >= 0 and finite, got -1",
        "RangeError: Hedge.make: quantile must be in (0, 1), got 0",
        "RangeError: Hedge.make: quantile must be in (0, 1), got 1",
        "RangeError: Hedge.make: hedges must be an integer in [1, 10], got 0",
        "RangeError: Hedge.make: hedges must be an integer in [1, 10], got 11",
        "RangeError: Hedge.make: minimumCalls must be an integer >= 1, got 0",
        "RangeError: Hedge.make: window must be a positive and finite duration, got 0",
        "RangeError: Hedge.make: minimum must be a duration >= 0 and finite, got -1",
        "RangeError: Hedge.make: idempotent must be true, for a hedge sends twice, got false"
      ])
      const other = yield* RetryBudget.make({ name: "other" })
      const hedge = yield* Hedge.make({ budget: other, idempotent: true })
      const retry = yield* Retry.make({ budget: yield* RetryBudget.make() })
      assert.throws(
        () =>
          Policy.stack({ retry, hedge }),
        RangeError,
        "Retry.hedged: hedge.budget must be the retry's budget, for there is one ledger per target, got \"other\""
      )
      assert.strictEqual(Outcome.isIdempotent(CallContext.empty), false)
    }))
})
