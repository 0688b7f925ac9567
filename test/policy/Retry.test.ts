import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Deferred, Duration, Effect, Exit, Fiber, Random, Schedule } from "effect"
import { TestClock } from "effect/testing"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as Outcome from "../../src/contract/Outcome.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as Backoff from "../../src/policy/Backoff.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as Retry from "../../src/policy/Retry.ts"
import * as RetryBudget from "../../src/policy/RetryBudget.ts"
import { drawing } from "../support/drawing.ts"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"
import {
  circuitOpen,
  drive,
  errorOf,
  idempotent,
  lost,
  now,
  overloaded,
  reasonOf,
  recording,
  refused,
  script
} from "../support/loop.ts"

const down = Effect.fail("down")
const ok = Effect.succeed("ok")
const second = Backoff.constant({ base: "1 second", jitter: "none" })
const atOnce = Backoff.constant({ base: 0 })

/** A budget that has `tokens` to give. */
const budgetOf = (tokens: number) =>
  Effect.tap(
    RetryBudget.make({ ratio: 1, reserve: 0 }),
    (budget) => Effect.replicateEffect(budget.deposit(true), tokens, { discard: true })
  )

describe("Retry", () => {
  describe("counting", () => {
    // RT-13
    it.effect("sends three times by default and ends with how often, how long and the last error", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ backoff: second })
        const { call, sent } = script(
          Effect.delay(down, 100),
          Effect.delay(down, 100),
          Effect.delay(Effect.fail("still down"), 100)
        )
        const [exit, took] = yield* drive(idempotent(retry.run(call)))
        assert.deepStrictEqual(sent.map(({ at }) => at), [0, 1100, 2200])
        assert.deepStrictEqual(reasonOf(exit), {
          _tag: "RetriesExhausted",
          method: "users.Get",
          attempts: 3,
          elapsedMillis: 2300,
          sent: "maybe",
          last: "still down"
        })
        assert.strictEqual(took, 2300)
      }))

    it.effect("counts time from the call's own start, and a retry that is announced is no hedge", () =>
      Effect.gen(function*() {
        yield* TestClock.adjust("1 minute")
        const retry = yield* Retry.make({ attempts: 2, backoff: second })
        const { of, record } = recording()
        const [exit] = yield* drive(record(idempotent(retry.run(Effect.delay(down, 100)))))
        assert.strictEqual((reasonOf(exit) as CallError.RetriesExhausted).elapsedMillis, 1200)
        assert.deepStrictEqual(
          of("RetryScheduled").map(({ atMillis, call }) => [call.attempt, call.hedge, atMillis]),
          [[2, false, 60_100]]
        )
        const late = idempotent(retry.run(Effect.delay(down, 100))).pipe(
          CallContext.annotate({ deadline: (yield* now) + 500 })
        )
        const [ended] = yield* drive(late)
        assert.deepInclude(reasonOf(ended), { _tag: "DeadlineExceeded", elapsedMillis: 100 })
      }))

    it.effect("a rejection inside, after an attempt that failed, carries the error of that attempt", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ backoff: atOnce })
        const rejections = [
          { _tag: "CircuitOpen", policy: "p", state: "Open", sent: "no" },
          { _tag: "BulkheadFull", policy: "p", limit: 1, queued: 0, sent: "no" },
          { _tag: "Throttled", policy: "p", ratio: 0.5, sent: "no" },
          { _tag: "LimitReached", policy: "p", limit: 1, sent: "no" },
          { _tag: "DeadlineExceeded", method: "m", elapsedMillis: 1, sent: "no", last: undefined }
        ] as ReadonlyArray<CallError.Reason>
        for (const rejection of rejections) {
          const { call } = script<string, unknown, never>(down, CallError.fail(rejection))
          const [exit] = yield* drive(idempotent(retry.run(call)))
          assert.deepInclude(reasonOf(exit), { _tag: rejection._tag, last: "down" })
        }
      }))

    // RT-13
    it.effect("passes the error as it is when one attempt is all there is", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ attempts: 1 })
        const { call, sent } = script(down)
        const [exit, took] = yield* drive(idempotent(retry.run(call)))
        assert.deepStrictEqual(exit, Exit.fail("down"))
        assert.deepStrictEqual([sent.length, took], [1, 0])
      }))

    // RT-13
    it.effect("succeeds with the sixth of six attempts", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ attempts: 6, backoff: second })
        const { call, sent } = script<string, string, never>(down, down, down, down, down, ok)
        assert.deepStrictEqual(yield* drive(idempotent(retry.run(call))), [Exit.succeed("ok"), 5000])
        assert.strictEqual(sent.length, 6)
      }))

    // RT-20: there a channel caps what a call asks for; here the call's number is the number.
    it.effect("a server that recovers for the seventh attempt is missed by five attempts and met by eight", () =>
      Effect.gen(function*() {
        for (const [attempts, sends] of [[5, 5], [8, 7]] as const) {
          const retry = yield* Retry.make({ attempts, backoff: second })
          const { call, sent } = script<string, string, never>(down, down, down, down, down, down, ok)
          const [exit] = yield* drive(idempotent(retry.run(call)))
          assert.strictEqual(sent.length, sends)
          assert.strictEqual(Exit.isSuccess(exit), attempts === 8)
        }
      }))

    it.effect("numbers the attempts for whoever sends them, and leaves the caller's context alone", () =>
      Effect.gen(function*() {
        const budget = yield* budgetOf(9)
        const retry = yield* Retry.make({ backoff: second, budget })
        const { call, sent } = script<string, string, never>(down, down, ok)
        const after = yield* drive(idempotent(Effect.andThen(retry.run(call), CallContext.Current)))
        assert.deepStrictEqual(sent.map(({ attempt, hedge, insideRetry }) => [attempt, hedge, insideRetry]), [
          [1, false, true],
          [2, false, true],
          [3, false, true]
        ])
        assert.isTrue(Exit.isSuccess(after[0]) && after[0].value.attempt === 1 && !after[0].value.insideRetry)
      }))

    it.effect("each call has its own context, whoever called before", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ budget: yield* budgetOf(1) })
        const name = retry.run(
          Effect.map(CallContext.Current, ({ attempt, insideRetry, name }) => [name, attempt, insideRetry])
        )
        for (const called of ["a", "b", "a"]) {
          assert.deepStrictEqual(yield* CallContext.annotate(name, { name: called }), [called, 1, true])
        }
      }))

    it.effect("two calls at a time share nothing", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ backoff: Backoff.exponential({ base: "1 second", jitter: "none" }) })
        const a = script(down)
        const b = script(down)
        yield* drive(Effect.forEach([a, b], ({ call }) => Effect.exit(idempotent(retry.run(call))), { concurrency: 2 }))
        assert.deepStrictEqual(a.sent.map(({ at }) => at), [0, 1000, 3000])
        assert.deepStrictEqual(b.sent.map(({ at }) => at), [0, 1000, 3000])
      }))
  })

  describe("what may be sent again", () => {
    it.effect("a call that is not idempotent is sent again only when the server provably did nothing", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ backoff: second })
        for (const [error, sends] of [[lost, 1], [down, 1], [refused, 3], [overloaded(), 3]] as const) {
          const { call, sent } = script<never, unknown, never>(error)
          const [exit] = yield* drive(retry.run(call))
          assert.strictEqual(sent.length, sends)
          assert.strictEqual(reasonOf(exit)?._tag === "RetriesExhausted", sends === 3)
        }
      }))

    it.effect("a key the server deduplicates by makes a call repeatable", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ backoff: second })
        const { call, sent } = script<never, unknown, never>(lost)
        yield* drive(CallContext.annotate(retry.run(call), { idempotencyKey: "k1" }))
        assert.strictEqual(sent.length, 3)
      }))

    // RT-19
    it.effect("of statuses 14 and 8 as retryable, 5 and 300 are not sent again", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({
          backoff: second,
          classify: (status: number) => (status === 14 || status === 8 ? Outcome.failureSafe : Outcome.failureFinal)
        })
        for (const [status, sends] of [[14, 3], [8, 3], [5, 1], [300, 1]] as const) {
          const { call, sent } = script(Effect.fail(status))
          const [exit] = yield* drive(idempotent(retry.run(call)))
          assert.strictEqual(sent.length, sends)
          if (sends === 1) assert.deepStrictEqual(exit, Exit.fail(status))
        }
      }))

    it.effect("a classifier that does not know leaves an error to the call and to the table", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ backoff: second, classify: () => undefined })
        const domain = script(Effect.fail("no such user"))
        yield* drive(idempotent(CallContext.annotate(retry.run(domain.call), { classify: () => Outcome.success })))
        assert.strictEqual(domain.sent.length, 1)
        const transport = script(lost)
        yield* drive(idempotent(retry.run(transport.call)))
        assert.strictEqual(transport.sent.length, 3)
      }))

    it.effect("a rejection by a policy inside ends the call, and says which error led to it", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ backoff: second, attempts: 5 })
        const first = script<never, unknown, never>(circuitOpen)
        const [rejected] = yield* drive(idempotent(retry.run(first.call)))
        assert.deepStrictEqual(reasonOf(rejected), {
          _tag: "CircuitOpen",
          policy: "breaker",
          state: "Open",
          sent: "no"
        })
        const later = script<never, unknown, never>(Effect.fail("first"), Effect.fail("second"), circuitOpen)
        const [exit] = yield* drive(idempotent(retry.run(later.call)))
        assert.strictEqual(later.sent.length, 3)
        assert.deepStrictEqual(reasonOf(exit), {
          _tag: "CircuitOpen",
          policy: "breaker",
          state: "Open",
          sent: "no",
          last: "second"
        })
      }))

    it.effect("an error that already says what led to it keeps that", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ backoff: second })
        const informed = CallError.fail({
          _tag: "DeadlineExceeded",
          method: "m",
          elapsedMillis: 1,
          sent: "no",
          last: "inner"
        })
        const [exit] = yield* drive(idempotent(retry.run(script<never, unknown, never>(down, informed).call)))
        assert.deepInclude(reasonOf(exit), { _tag: "DeadlineExceeded", last: "inner" })
      }))

    it.effect("a defect is not sent again, whatever a classifier says of errors", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ backoff: second, classify: () => Outcome.failureSafe })
        const { call, sent } = script<never, string, never>(Effect.die("broken"))
        assert.deepStrictEqual((yield* drive(idempotent(retry.run(call))))[0], Exit.die("broken"))
        assert.strictEqual(sent.length, 1)
      }))

    it.effect("a defect is not sent again and stays a defect", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ backoff: second })
        const { call, sent } = script<never, unknown, never>(down, Effect.die("broken"))
        const [exit] = yield* drive(idempotent(retry.run(call)))
        assert.deepStrictEqual(exit, Exit.die("broken"))
        assert.strictEqual(sent.length, 2)
      }))

    it.effect("says that the server may have seen the call when any attempt may have arrived", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ backoff: second })
        const sentOf = (exit: Exit.Exit<unknown, unknown>) => reasonOf(exit)?.sent
        const [never] = yield* drive(idempotent(retry.run(script(refused).call)))
        const [early] = yield* drive(idempotent(retry.run(script<never, unknown, never>(lost, refused, refused).call)))
        assert.deepStrictEqual([sentOf(never), sentOf(early)], ["no", "maybe"])
      }))
  })

  describe("delays", () => {
    it.effect("come from 100 ms with decorrelated jitter by default", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make()
        const { call, sent } = script(down)
        yield* drive(idempotent(retry.run(call)).pipe(drawing(0.5)))
        // 100 / 1.4 × 2^0.5 tanh(√2), and × 2^1.5 tanh(√6).
        assert.closeTo(sent[1]!.at, 89.74, 0.01)
        assert.closeTo(sent[2]!.at, 199.04, 0.01)
      }))

    // RT-17
    it.effect("of zero create no timer", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ backoff: atOnce })
        const clock = yield* Clock.Clock
        const sleepless: Clock.Clock = Object.assign(Object.create(clock), { sleep: () => Effect.die("slept") })
        const { call, sent } = script<string, string, never>(down, down, ok)
        assert.strictEqual(yield* Effect.provideService(idempotent(retry.run(call)), Clock.Clock, sleepless), "ok")
        assert.strictEqual(sent.length, 3)
      }))

    it.effect("may come from any Schedule, which is stepped with each error", () =>
      Effect.gen(function*() {
        const seen: Array<string> = []
        const backoff = Schedule.spaced("1 second").pipe(
          Schedule.setInputType<string>(),
          Schedule.tap(({ input }) => Effect.sync(() => void seen.push(input)))
        )
        const retry = yield* Retry.make({ attempts: 4, backoff })
        const { call, sent } = script(Effect.fail("a"), Effect.fail("b"), Effect.fail("c"), Effect.fail("d"))
        yield* drive(idempotent(retry.run(call)))
        assert.deepStrictEqual(seen, ["a", "b", "c"])
        assert.deepStrictEqual(sent.map(({ at }) => at), [0, 1000, 2000, 3000])
      }))

    it.effect("end with their Schedule, before the attempts do", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ attempts: 9, backoff: Backoff.constant({ base: 1, recurs: 2 }) })
        const { call, sent } = script(down)
        const [exit] = yield* drive(idempotent(retry.run(call)))
        assert.strictEqual(sent.length, 3)
        assert.deepInclude(reasonOf(exit), { _tag: "RetriesExhausted", attempts: 3 })
      }))

    // RX-18
    it.effect("that are endless or negative are no delays: the call ends", () =>
      Effect.gen(function*() {
        for (const delay of [Duration.infinity, Duration.millis(-1)]) {
          const backoff = Schedule.modifyDelay(Schedule.forever, () => Effect.succeed(delay))
          const { call, sent } = script(down)
          const [exit, took] = yield* drive(idempotent((yield* Retry.make({ backoff })).run(call)))
          assert.deepStrictEqual([sent.length, took, reasonOf(exit)?._tag], [1, 0, "RetriesExhausted"])
        }
      }))

    it.effect("of a calendar go by the wall clock", () =>
      Effect.gen(function*() {
        const seen: Array<number> = []
        const backoff = Schedule.fromStep(Effect.succeed((wall: number) =>
          Effect.sync((): [void, Duration.Duration] => [void seen.push(wall), Duration.zero])
        ))
        const clock = yield* Clock.Clock
        const summer: Clock.Clock = Object.assign(Object.create(clock), {
          currentTimeMillisUnsafe: () =>
            1_750_000_000_000
        })
        const retry = yield* Retry.make({ attempts: 2, backoff })
        yield* Effect.exit(Effect.provideService(idempotent(retry.run(down)), Clock.Clock, summer))
        assert.deepStrictEqual(seen, [1_750_000_000_000])
      }))
  })

  describe("retryAfter", () => {
    // RX-28
    it.effect("of 10 s is waited for, and up to a fifth more", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ attempts: 2, backoff: second })
        for (const [draw, at] of [[0, 10_000], [0.5, 11_000], [1, 12_000]] as const) {
          const { call, sent } = script(overloaded(10_000))
          yield* drive(retry.run(call).pipe(drawing(draw)))
          assert.strictEqual(sent[1]!.at - sent[0]!.at, at)
        }
      }))

    it.effect("below the backoff changes nothing", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ attempts: 2, backoff: second })
        const { call, sent } = script(overloaded(10))
        yield* drive(retry.run(call).pipe(drawing(1)))
        assert.strictEqual(sent[1]!.at, 1000)
      }))

    it.effect("of a day counts as the cap", () =>
      Effect.gen(function*() {
        for (const [retryAfterCap, at] of [[undefined, 30_000], ["5 seconds", 5000]] as const) {
          const retry = yield* Retry.make({ attempts: 2, backoff: second, retryAfterCap })
          const { call, sent } = script(overloaded(86_400_000))
          yield* drive(retry.run(call).pipe(drawing(0)))
          assert.strictEqual(sent[1]!.at - sent[0]!.at, at)
        }
      }))

    it.effect("beyond the deadline ends the call at once", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ backoff: second })
        const { call, sent } = script(overloaded(5000))
        const [exit, took] = yield* drive(CallContext.annotate(retry.run(call), { deadline: 4000 }))
        assert.deepStrictEqual([sent.length, took], [1, 0])
        const reason = reasonOf(exit)
        assert.isTrue(reason?._tag === "DeadlineExceeded" && reason.sent === "no")
        assert.deepStrictEqual(
          reason?._tag === "DeadlineExceeded" && reasonOf(Exit.fail(reason.last))?._tag,
          "Overloaded"
        )
      }))

    it.effect("that is negative or no number means: do not come back", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ backoff: second })
        for (const retryAfterMillis of [-1, Number.NaN]) {
          const { call, sent } = script(overloaded(retryAfterMillis))
          const [exit] = yield* drive(retry.run(call))
          assert.strictEqual(sent.length, 1)
          assert.strictEqual(reasonOf(exit)?._tag, "Overloaded")
          assert.include((yield* Effect.flip(exit)).message, "do not come back")
        }
      }))
  })

  describe("deadline", () => {
    // RX-20
    it.effect("of 10 s: with delays of 1, 2, 4 and 8 s no attempt starts after it, and the call ends before the sleep", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({
          attempts: 99,
          backoff: Backoff.exponential({ base: "1 second", jitter: "none" })
        })
        const { call, sent } = script(down)
        const [exit, took] = yield* drive(
          CallContext.annotate(retry.run(call), { name: "users.Get", idempotent: true, deadline: 10_000 })
        )
        assert.deepStrictEqual(sent.map(({ at }) => at), [0, 1000, 3000, 7000])
        assert.strictEqual(took, 7000)
        assert.deepStrictEqual(reasonOf(exit), {
          _tag: "DeadlineExceeded",
          method: "users.Get",
          elapsedMillis: 7000,
          sent: "maybe",
          last: "down"
        })
      }))

    it.effect("that has passed when the last attempt ends is what ended the call", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ attempts: 2, backoff: second })
        const { call } = script<never, unknown, never>(down, Effect.delay(down, 5000))
        const [exit] = yield* drive(idempotent(CallContext.annotate(retry.run(call), { deadline: 3000 })))
        assert.strictEqual(reasonOf(exit)?._tag, "DeadlineExceeded")
      }))

    it.effect("does not turn an answer into an error", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ backoff: second })
        const late = CallError.fail({ _tag: "NotFound", target: "users", detail: "1001", sent: "no" })
        const { call } = script(Effect.delay(late, 5000))
        const [exit] = yield* drive(idempotent(CallContext.annotate(retry.run(call), { deadline: 3000 })))
        assert.strictEqual(reasonOf(exit)?._tag, "NotFound")
      }))

    it.effect("is asked again after the sleep, for a clock may wake us late", () =>
      Effect.gen(function*() {
        const budget = yield* budgetOf(1)
        const retry = yield* Retry.make({ backoff: second, budget })
        const clock = yield* Clock.Clock
        const lateBy = (millis: number): Clock.Clock =>
          Object.assign(Object.create(clock), {
            sleep: (duration: Duration.Duration) => clock.sleep(Duration.sum(duration, Duration.millis(millis)))
          })
        const { call, sent } = script(down)
        const [exit] = yield* drive(
          idempotent(CallContext.annotate(retry.run(call), { deadline: 1500 })).pipe(
            Effect.provideService(Clock.Clock, lateBy(600))
          )
        )
        assert.strictEqual(sent.length, 1)
        assert.strictEqual(reasonOf(exit)?._tag, "DeadlineExceeded")
        assert.strictEqual((yield* budget.snapshot).refunded, 1)
      }))
  })

  describe("budget", () => {
    it.effect("without a token the call ends at once, with the error it would have repeated", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({ name: "users" })
        const retry = yield* Retry.make({ backoff: second, budget })
        const { events, record } = recording()
        const { call, sent } = script(down)
        const [exit, took] = yield* drive(record(idempotent(retry.run(call))))
        assert.deepStrictEqual([sent.length, took], [1, 0])
        assert.deepStrictEqual(reasonOf(exit), {
          _tag: "BudgetExhausted",
          method: "users.Get",
          policy: "users",
          attempts: 1,
          sent: "maybe",
          last: "down"
        })
        assert.deepStrictEqual(events, [
          {
            _tag: "BudgetMoved",
            call: { ...CallContext.empty, name: "users.Get", idempotent: true },
            policy: "users",
            change: "refused",
            balance: 0.05,
            atMillis: 0
          }
        ])
      }))

    it.effect("earns when the first attempt succeeds, and not when that began", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({ ratio: 1, reserve: 0, ttl: "1 second" })
        const retry = yield* Retry.make({ budget })
        const fiber = yield* Effect.forkChild(retry.run(Effect.sleep("5 seconds")), { startImmediately: true })
        yield* TestClock.adjust("5 seconds")
        yield* Fiber.join(fiber)
        assert.strictEqual((yield* budget.snapshot).balance, 1)
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* budget.snapshot).balance, 0)
      }))

    it.effect("earns once per call, by the first attempt: a success, an answer or a failure", () =>
      Effect.gen(function*() {
        const answer = CallContext.annotate({ classify: () => Outcome.success })
        const cases: Array<readonly [Effect.Effect<unknown, unknown>, number]> = [
          [ok, 1.5],
          [answer(Effect.fail("no such user")), 1.5],
          [down, 0.5],
          // Not sent, so no evidence of anything.
          [circuitOpen, 0],
          // The second attempt's success is the first one's failure.
          [script<string, string, never>(down, ok).call, 0.5],
          [Effect.die("broken"), 0.5]
        ]
        for (const [attempt, balance] of cases) {
          const budget = yield* RetryBudget.make({ ratio: 1, reserve: 0.5 })
          const retry = yield* Retry.make({ attempts: 2, backoff: atOnce, budget })
          const call = attempt === cases[1]![0]
            ? CallContext.annotate(retry.run(Effect.fail("no such user")), { classify: () => Outcome.success })
            : retry.run(attempt)
          yield* Effect.exit(idempotent(call))
          assert.strictEqual((yield* budget.snapshot).balance, balance)
        }
      }))

    it.effect("pays for each retry, and is told to receivers", () =>
      Effect.gen(function*() {
        const budget = yield* budgetOf(5)
        const retry = yield* Retry.make({ name: "get", backoff: second, budget })
        const { of, record } = recording()
        yield* drive(record(idempotent(retry.run(script<string, string, never>(down, down, ok).call))))
        assert.deepStrictEqual(of("BudgetMoved").map(({ balance, change }) => [change, balance]), [
          ["withdrawn", 4],
          ["withdrawn", 3]
        ])
        assert.deepStrictEqual(
          of("RetryScheduled").map((
            { atMillis, call, delayMillis, error, policy }
          ) => [call.name, call.attempt, policy, delayMillis, error, atMillis]),
          [["users.Get", 2, "get", 1000, "down", 0], ["users.Get", 3, "get", 1000, "down", 1000]]
        )
      }))

    it.effect("is not asked for a retry that will not happen", () =>
      Effect.gen(function*() {
        const budget = yield* budgetOf(9)
        const options = { backoff: second, budget, attempts: 2 } as const
        const cases: Array<Effect.Effect<unknown, unknown>> = [
          // Exhausted attempts and an ended Schedule, a deadline too near, an error that is final.
          idempotent((yield* Retry.make({ ...options, backoff: Backoff.constant({ base: 1, recurs: 0 }) })).run(down)),
          idempotent(CallContext.annotate((yield* Retry.make(options)).run(down), { deadline: 500 })),
          (yield* Retry.make(options)).run(down),
          (yield* Retry.make(options)).run(overloaded(-1))
        ]
        for (const call of cases) yield* drive(call, 100)
        assert.strictEqual((yield* budget.snapshot).granted, 0)
        yield* drive(idempotent((yield* Retry.make(options)).run(down)), 2000)
        assert.strictEqual((yield* budget.snapshot).granted, 1)
      }))

    it.effect("gets its token back when the sleep is interrupted", () =>
      Effect.gen(function*() {
        const budget = yield* budgetOf(1)
        const retry = yield* Retry.make({ backoff: second, budget })
        const { of, record } = recording()
        const fiber = yield* Effect.forkChild(record(idempotent(retry.run(down))), { startImmediately: true })
        assert.strictEqual((yield* budget.snapshot).balance, 0)
        yield* TestClock.adjust(500)
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(yield* budget.snapshot, { balance: 1, granted: 1, refused: 0, refunded: 1 })
        assert.deepStrictEqual(of("BudgetMoved").map(({ change }) => change), ["withdrawn", "refunded"])
      }))

    it.effect("gets its token back when a policy inside rejects the retry", () =>
      Effect.gen(function*() {
        const budget = yield* budgetOf(1)
        const retry = yield* Retry.make({ backoff: second, budget })
        yield* drive(idempotent(retry.run(script<never, unknown, never>(down, circuitOpen).call)), 2000)
        assert.deepInclude(yield* budget.snapshot, { balance: 1, refunded: 1 })
      }))

    it.effect("does not get its token back when the retry was sent, whatever became of it", () =>
      Effect.gen(function*() {
        for (const second of [ok, down, Effect.die("broken")] as Array<Effect.Effect<string, string>>) {
          const budget = yield* budgetOf(1)
          const retry = yield* Retry.make({ attempts: 2, backoff: atOnce, budget })
          yield* drive(idempotent(retry.run(script(down, second).call)))
          assert.deepInclude(yield* budget.snapshot, { balance: 0, granted: 1, refunded: 0 })
        }
        const budget = yield* budgetOf(1)
        const retry = yield* Retry.make({ backoff: atOnce, budget })
        const { call, sent } = script<never, string, never>(down, Effect.never)
        const fiber = yield* Effect.forkChild(idempotent(retry.run(call)), { startImmediately: true })
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(sent.length, 2)
        assert.deepInclude(yield* budget.snapshot, { balance: 0, refunded: 0 })
      }))

    it.effect("gets its token back from an interrupt in the very moment it is taken", () =>
      Effect.gen(function*() {
        const budget = yield* budgetOf(1)
        const interrupting: RetryBudget.RetryBudget = {
          ...budget,
          withdrawUnsafe: (now) => {
            Fiber.getCurrent()!.interruptUnsafe()
            return budget.withdrawUnsafe(now)
          }
        }
        const retry = yield* Retry.make({ backoff: atOnce, budget: interrupting })
        const { call, sent } = script(down)
        const fiber = yield* Effect.forkChild(idempotent(retry.run(call)), { startImmediately: true })
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
        assert.strictEqual(sent.length, 1)
        assert.deepInclude(yield* budget.snapshot, { granted: 1, refunded: 1 })
      }))

    it.effect("loses no token to an interrupt between any two steps: each is sent or given back", () =>
      interruptEverywhere(Effect.gen(function*() {
        const budget = yield* budgetOf(10)
        const retry = yield* Retry.make({ attempts: 3, backoff: atOnce, budget })
        let sends = 0
        const attempt = Effect.suspend(() => {
          sends++
          return Effect.andThen(Effect.yieldNow, down)
        })
        return {
          work: idempotent(retry.run(attempt)),
          check: (where: string) =>
            Effect.map(
              budget.snapshot,
              ({ granted, refunded }) => {
                const spent = granted - refunded
                // One that was being sent when the interrupt came, before its own first step, counts as sent.
                assert.isTrue(
                  spent === Math.max(0, sends - 1) || spent === sends,
                  `${where}: ${spent} for ${sends} sends`
                )
              }
            )
        }
      })))
  })

  describe("interruption", () => {
    // RX-12
    it.effect("at 50 ms in a backoff of 300 ends the call then, and nothing is sent any more", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ backoff: Backoff.constant({ base: 300, jitter: "none" }) })
        const { call, sent } = script(down)
        const fiber = yield* Effect.forkChild(idempotent(retry.run(call)), { startImmediately: true })
        yield* TestClock.adjust(50)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(yield* now, 50)
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
        yield* TestClock.adjust(10_000)
        assert.strictEqual(sent.length, 1)
      }))

    // RT-14: there the answer is the attempt's own error; here an interrupted caller has none.
    it.effect("during the first attempt means no second one, even if that attempt goes on to fail", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ attempts: 3, backoff: second })
        const { call, sent } = script(Effect.uninterruptible(Effect.delay(down, 100)))
        const fiber = yield* Effect.forkChild(idempotent(retry.run(call)), { startImmediately: true })
        yield* TestClock.adjust(50)
        fiber.interruptUnsafe()
        yield* TestClock.adjust(10_000)
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
        assert.strictEqual(sent.length, 1)
      }))

    it.effect("of an attempt from within is no failure, and is not retried", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({ reserve: 1 })
        const retry = yield* Retry.make({ backoff: second, budget })
        const { call, sent } = script(Effect.interrupt)
        const [exit] = yield* drive(idempotent(retry.run(call)))
        assert.isTrue(Exit.hasInterrupts(exit))
        assert.deepStrictEqual([sent.length, (yield* budget.snapshot).balance], [1, 0])
      }))
  })

  describe("results", () => {
    it.effect("that are found wanting are retried like failures", () =>
      Effect.gen(function*() {
        const budget = yield* budgetOf(5)
        const retry = yield* Retry.make({ backoff: second, budget, retryIf: (status: number) => status === 503 })
        const { call, sent } = script(Effect.succeed(503), Effect.succeed(503), Effect.succeed(200))
        assert.deepStrictEqual(yield* drive(idempotent(retry.run(call)), 2200), [Exit.succeed(200), 2000])
        assert.strictEqual(sent.length, 3)
        assert.strictEqual((yield* budget.snapshot).balance, 3)
      }))

    // RT-13
    it.effect("are the answer when nothing more may be sent, for whatever reason", () =>
      Effect.gen(function*() {
        const options = { backoff: second, retryIf: (status: number) => status === 503 } as const
        const busy = Effect.succeed(503)
        const exits = [
          yield* drive(idempotent((yield* Retry.make(options)).run(busy))),
          yield* drive((yield* Retry.make(options)).run(busy)),
          yield* drive(idempotent((yield* Retry.make({ ...options, attempts: 1 })).run(busy))),
          yield* drive(idempotent(CallContext.annotate((yield* Retry.make(options)).run(busy), { deadline: 500 }))),
          yield* drive(idempotent((yield* Retry.make({ ...options, budget: yield* budgetOf(0) })).run(busy)))
        ]
        assert.deepStrictEqual(exits, [
          [Exit.succeed(503), 2000],
          ...Array.from({ length: 4 }, () => [Exit.succeed(503), 0] as const)
        ])
      }))

    it.effect("and errors share the one counter", () =>
      Effect.gen(function*() {
        const retry = yield* Retry.make({ attempts: 4, backoff: second, retryIf: (status: number) => status === 503 })
        const busy = Effect.succeed(503)
        const { call, sent } = script<number, string, never>(busy, busy, busy, down)
        const [exit] = yield* drive(idempotent(retry.run(call)))
        assert.strictEqual(sent.length, 4)
        assert.deepInclude(reasonOf(exit), { _tag: "RetriesExhausted", attempts: 4, last: "down" })
      }))

    // RT-16
    it.effect("that were retried are discarded, the returned one is not", () =>
      Effect.gen(function*() {
        const discarded: Array<string> = []
        const retry = yield* Retry.make({
          backoff: second,
          retryIf: (result: string) => result !== "S",
          discard: (result) => Effect.sync(() => void discarded.push(result))
        })
        const { call } = script(Effect.succeed("F1"), Effect.succeed("F2"), Effect.succeed("S"))
        assert.deepStrictEqual((yield* drive(idempotent(retry.run(call))))[0], Exit.succeed("S"))
        assert.deepStrictEqual(discarded, ["F1", "F2"])
        yield* drive(idempotent(retry.run(script(Effect.succeed("G")).call)))
        assert.deepStrictEqual(discarded, ["F1", "F2", "G", "G"])
      }))
  })

  describe("a retry inside a retry", () => {
    const nested = (options: Retry.RetryOptions, inner: Retry.RetryOptions = {}) =>
      Effect.gen(function*() {
        const { of, record } = recording()
        const { call, sent } = script(down)
        const outside = yield* Retry.make({ name: "outer", backoff: second, ...options })
        const inside = yield* Retry.make({ name: "inner", backoff: second, ...inner })
        const [exit] = yield* drive(record(idempotent(call.pipe(Policy.apply(inside), Policy.apply(outside)))))
        yield* drive(record(idempotent(call.pipe(Policy.apply(inside), Policy.apply(outside)))))
        return {
          sends: sent.length / 2,
          reason: reasonOf(exit),
          warned: of("Warning").map(({ policy, why }) => [policy, why])
        }
      })

    // RT-25: there it is 5, here 3: nothing is multiplied or added.
    it.effect("of three sends each is three sends, and says so once", () =>
      Effect.gen(function*() {
        const { reason, sends, warned } = yield* nested({})
        assert.strictEqual(sends, 3)
        assert.deepInclude(reason, { _tag: "RetriesExhausted", attempts: 3, last: "down" })
        assert.deepStrictEqual(warned, [
          ["outer", "users.Get has a retry loop inside this one, and is not sent again"]
        ])
      }))

    it.effect("knows from the first attempt on where the outer one has a budget, and deposits nothing", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({ ratio: 0, reserve: 1 })
        const { reason, sends, warned } = yield* nested({ budget }, { attempts: 9, budget })
        // Each call earned one token: one retry.
        assert.strictEqual(sends, 2)
        assert.deepInclude(reason, { _tag: "BudgetExhausted", attempts: 2 })
        assert.deepStrictEqual(warned, [["inner", "users.Get is inside a retry loop already: this one sends it once"]])
      }))

    it.effect("does not loop in what the outer one repeats", () =>
      Effect.gen(function*() {
        // The inner one takes errors for final that the outer one repeats.
        const { sends, warned } = yield* nested({}, { attempts: 4, classify: () => Outcome.failureFinal })
        assert.strictEqual(sends, 3)
        assert.deepStrictEqual(warned.map(([policy]) => policy), ["inner"])
      }))

    it.effect("loops when it says why it may, and its end is final for the outer one", () =>
      Effect.gen(function*() {
        const { reason, sends, warned } = yield* nested(
          { allowNested: "a test", retryIf: () => false },
          { attempts: 4, allowNested: "a test" }
        )
        assert.strictEqual(sends, 4)
        assert.deepInclude(reason, { _tag: "RetriesExhausted", attempts: 4 })
        assert.deepStrictEqual(warned, [])
      }))

    it.effect("costs a success nothing and is not noticed then", () =>
      Effect.gen(function*() {
        const { events, record } = recording()
        const retry = yield* Retry.make()
        assert.strictEqual(yield* record(ok.pipe(Policy.apply(retry), Policy.apply(retry))), "ok")
        assert.deepStrictEqual(events, [])
      }))
  })

  describe("user code that breaks", () => {
    const broken = () => {
      throw new Error("broken")
    }

    it.effect("ends the call with its defect and gives every token back", () =>
      Effect.gen(function*() {
        const budget = yield* budgetOf(3)
        const options = { backoff: second, budget } as const
        const retries = [
          yield* Retry.make({ ...options, classify: broken }),
          yield* Retry.make({ ...options, backoff: Schedule.tap(Schedule.forever, broken) }),
          yield* Retry.make({ ...options, retryIf: broken })
        ]
        for (const [index, retry] of retries.entries()) {
          const [exit] = yield* drive(idempotent(retry.run(index === 2 ? Effect.succeed("ok") : down)))
          assert.isTrue(Exit.hasDies(exit))
        }
        const { granted, refunded } = yield* budget.snapshot
        assert.strictEqual(granted, refunded)
      }))

    it.effect("in a second attempt's classification leaves the token spent, for that was sent", () =>
      Effect.gen(function*() {
        const budget = yield* budgetOf(3)
        let classified = 0
        const retry = yield* Retry.make({
          backoff: second,
          budget,
          classify: () => (++classified === 1 ? Outcome.failureSafe : broken())
        })
        const { call, sent } = script(down)
        const [exit] = yield* drive(idempotent(retry.run(call)))
        assert.isTrue(Exit.hasDies(exit))
        assert.strictEqual(sent.length, 2)
        assert.deepInclude(yield* budget.snapshot, { granted: 1, refunded: 0 })
      }))
  })

  it.effect("options out of range die at construction", () =>
    Effect.gen(function*() {
      const hedge = { name: "h", hedges: 1, delayUnsafe: () => 1, observeUnsafe: undefined }
      const budget = yield* RetryBudget.make({ name: "a" })
      const messages = yield* Effect.forEach(
        [
          { attempts: 0 },
          { attempts: 1.5 },
          { attempts: Number.NaN },
          { attempts: Infinity },
          { retryAfterCap: Duration.infinity },
          { allowNested: "" },
          { budget: false },
          { attempts: 1, hedge },
          { budget, hedge: { ...hedge, budget: yield* RetryBudget.make({ name: "b" }) } }
        ] as Array<any>,
        (options) =>
          Effect.map(Effect.exit(Retry.make(options)), (exit) =>
            Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "made")
      )
      assert.deepStrictEqual(messages, [
        "RangeError: Retry.make: attempts must be an integer >= 1, got 0",
        "RangeError: Retry.make: attempts must be an integer >= 1, got 1.5",
        "RangeError: Retry.make: attempts must be an integer >= 1, got NaN",
        "RangeError: Retry.make: attempts must be an integer >= 1, got Infinity",
        "RangeError: Retry.make: retryAfterCap must be a positive and finite duration, got Infinity",
        "RangeError: Retry.make: allowNested must be the reason why, got \"\"",
        "RangeError: Retry.make: budget must be a RetryBudget, or left out, got false",
        "RangeError: Retry.make: attempts must be >= 2, for a hedge is one of them, got 1",
        "RangeError: Retry.make: hedge.budget must be the retry's budget, for there is one ledger per target, got \"b\""
      ])
    }))

  describe("with a circuit breaker", () => {
    const trips = { consecutiveFailures: 3, openFor: "1 minute" } as const

    // CP-01: there 7 attempts are made, of which 4 meet the open circuit.
    it.effect("inside, seven attempts stop at the one that meets the open circuit: three sends, counted three times", () =>
      Effect.gen(function*() {
        const circuitBreaker = yield* CircuitBreaker.make(trips)
        const retry = yield* Retry.make({ attempts: 7, backoff: second })
        const { call, sent } = script(down)
        const [exit] = yield* drive(idempotent(Policy.stack({ retry, circuitBreaker }).run(call)))
        assert.strictEqual(sent.length, 3)
        assert.deepInclude(reasonOf(exit), { _tag: "CircuitOpen", state: "Open", last: "down" })
      }))

    // CP-02: `RetriesExhausted` is one failure to whoever is outside.
    it.effect("outside, three attempts count as one failure", () =>
      Effect.gen(function*() {
        const circuitBreaker = yield* CircuitBreaker.make(trips)
        const retry = yield* Retry.make({ attempts: 3, backoff: second })
        const { call, sent } = script(down)
        const guarded = idempotent(call.pipe(Policy.apply(retry), Policy.apply(circuitBreaker)))
        yield* drive(guarded, 5000)
        assert.strictEqual(sent.length, 3)
        yield* drive(guarded, 5000)
        assert.strictEqual(sent.length, 6)
        yield* drive(guarded, 5000)
        assert.strictEqual(sent.length, 9)
        const [exit] = yield* drive(guarded, 5000)
        assert.deepStrictEqual([reasonOf(exit)?._tag, sent.length], ["CircuitOpen", 9])
      }))
  })

  it.effect("what it does is done when it ends: no timer, no fiber, no token is left", () =>
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      const budget = yield* budgetOf(50)
      const retry = yield* Retry.make({ budget, attempts: 5 })
      const gate = yield* Deferred.make<void>()
      const fibers = yield* Effect.forEach(
        Array.from({ length: 8 }),
        () => Effect.forkChild(idempotent(retry.run(script<void, string, never>(down, Deferred.await(gate)).call))),
        {}
      )
      yield* TestClock.adjust(1000)
      yield* Fiber.interruptAll(fibers.slice(0, 4))
      yield* Deferred.succeed(gate, undefined)
      yield* TestClock.adjust(1000)
      for (const fiber of fibers) assert.isDefined(fiber.pollUnsafe())
      assert.strictEqual(Timer.size(clock), 0)
      assert.deepInclude(yield* budget.snapshot, { granted: 8, refunded: 0 })
    }).pipe(Random.withSeed("end")))

  it.effect("errorOf and causes: the error is found among several", () =>
    Effect.gen(function*() {
      const retry = yield* Retry.make({ attempts: 2, backoff: atOnce })
      const both = Effect.failCause(Cause.combine(Cause.fail("first"), Cause.fail("second")))
      const [exit] = yield* drive(idempotent(retry.run(both)))
      assert.deepInclude(reasonOf(exit), { _tag: "RetriesExhausted", last: "first" })
      assert.instanceOf(errorOf(exit), CallError.CallError)
    }))
})
