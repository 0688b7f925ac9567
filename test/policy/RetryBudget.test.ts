import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit } from "effect"
import { TestClock } from "effect/testing"
import * as Policy from "../../src/policy/Policy.ts"
import * as RetryBudget from "../../src/policy/RetryBudget.ts"

const deposits = (budget: RetryBudget.RetryBudget, count: number, succeeded = true) =>
  Effect.replicateEffect(budget.deposit(succeeded), count, { discard: true })

describe("RetryBudget", () => {
  it.effect("grants a token per ten successes and per twenty first attempts, none before", () =>
    Effect.gen(function*() {
      const budget = yield* RetryBudget.make()
      assert.isFalse(yield* budget.tryWithdraw)
      yield* deposits(budget, 6)
      assert.isFalse(yield* budget.tryWithdraw)
      yield* deposits(budget, 1)
      assert.isTrue(yield* budget.tryWithdraw)
      assert.isFalse(yield* budget.tryWithdraw)
      // One token of the reserve per ttl, and 0.3 of one were spent.
      yield* TestClock.adjust("3 seconds")
      yield* deposits(budget, 19, false)
      assert.isTrue(yield* budget.tryWithdraw)
      const { balance, ...counts } = yield* budget.snapshot
      assert.closeTo(balance, 0, 1e-9)
      assert.deepStrictEqual(counts, { granted: 2, refused: 3, refunded: 0 })
    }))

  it.effect("forgets what was earned after 3 s", () =>
    Effect.gen(function*() {
      const budget = yield* RetryBudget.make({ reserve: 0 })
      yield* deposits(budget, 100)
      yield* TestClock.adjust("2600 millis")
      assert.strictEqual((yield* budget.snapshot).balance, 10)
      yield* TestClock.adjust("400 millis")
      assert.strictEqual((yield* budget.snapshot).balance, 0)
      assert.isFalse(yield* budget.tryWithdraw)
    }))

  it.effect("takes a token back", () =>
    Effect.gen(function*() {
      const budget = yield* RetryBudget.make({ ratio: 1, reserve: 0 })
      yield* deposits(budget, 1)
      const token = budget.withdrawUnsafe(0)!
      assert.strictEqual(budget.balanceUnsafe(0), 0)
      budget.refundUnsafe(token, 500)
      assert.deepStrictEqual(yield* budget.snapshot, { balance: 1, granted: 1, refused: 0, refunded: 1 })
    }))

  // RT-23
  it.effect("options out of range die at construction", () =>
    Effect.gen(function*() {
      const messages = yield* Effect.forEach(
        [{ ttl: 0 }, { ttl: "61 seconds" }, { ttl: "999 millis" }, { ratio: -1 }, { reserve: -1 }, {
          ratio: Number.NaN
        }] as const,
        (options) =>
          Effect.map(Effect.exit(RetryBudget.make(options)), (exit) =>
            Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "made")
      )
      assert.deepStrictEqual(messages, [
        "RangeError: RetryBudget.make: ttl must be a positive and finite duration, got 0",
        "RangeError: RetryBudget.make: ttl must be from 1 to 60 seconds, got \"61 seconds\"",
        "RangeError: RetryBudget.make: ttl must be from 1 to 60 seconds, got \"999 millis\"",
        "RangeError: RetryBudget.make: ratio must be a number >= 0, got -1",
        "RangeError: RetryBudget.make: reserve must be a number >= 0, got -1",
        "RangeError: RetryBudget.make: ratio must be a number >= 0, got NaN"
      ])
      assert.isDefined(yield* RetryBudget.make({ ttl: "1 second", ratio: 0, reserve: 0 }))
      assert.isDefined(yield* RetryBudget.make({ ttl: "60 seconds", ratio: 2 }))
    }))

  it.effect("is found in the registry, as of its last movement", () =>
    Effect.gen(function*() {
      const registered: Array<Policy.Registered> = []
      const registry: Policy.Registry = {
        register: (policy) => {
          registered.push(policy)
          return () => {}
        }
      }
      const budget = yield* Effect.provideService(
        RetryBudget.make({ name: "users", ratio: 1, reserve: 0 }),
        Policy.CurrentRegistry,
        registry
      )
      yield* deposits(budget, 3)
      assert.isTrue(yield* budget.tryWithdraw)
      assert.deepStrictEqual(registered.map(({ kind, name, snapshot }) => [name, kind, snapshot()]), [
        ["users", "custom", { balance: 2, granted: 1, refused: 0, refunded: 0 }]
      ])
    }))
})
