import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import * as Attempts from "../../../src/policy/internal/attempts.ts"

const failed = (fields: Partial<Attempts.Failed>): Attempts.Failed => ({
  mayRetry: true,
  retryAfterMillis: undefined,
  sends: 1,
  attempts: 3,
  nowMillis: 1000,
  deadlineMillis: Infinity,
  ...fields
})

describe("attempts", () => {
  it("asks in order: final, late, exhausted, retry", () => {
    const verdicts = ([
      [{}, "retry"],
      [{ sends: 2 }, "retry"],
      [{ sends: 3 }, "exhausted"],
      [{ mayRetry: false, sends: 3 }, "final"],
      [{ mayRetry: false, deadlineMillis: 0 }, "final"],
      [{ attempts: 1 }, "final"],
      [{ attempts: 1, deadlineMillis: 0 }, "final"],
      [{ deadlineMillis: 1000 }, "late"],
      [{ deadlineMillis: 1000, sends: 3 }, "late"],
      [{ deadlineMillis: 1001 }, "retry"],
      [{ deadlineMillis: 1000, retryAfterMillis: -1 }, "late"]
    ] as const).map(([fields, verdict]) => [Attempts.decide(failed(fields)), verdict])
    for (const [actual, expected] of verdicts) assert.strictEqual(actual, expected)
  })

  it("a retryAfter that is negative or no number is final, one beyond the deadline late", () => {
    assert.strictEqual(Attempts.decide(failed({ retryAfterMillis: 0 })), "retry")
    assert.strictEqual(Attempts.decide(failed({ retryAfterMillis: -1 })), "final")
    assert.strictEqual(Attempts.decide(failed({ retryAfterMillis: Number.NaN })), "final")
    assert.strictEqual(Attempts.decide(failed({ retryAfterMillis: Infinity })), "retry")
    assert.strictEqual(Attempts.decide(failed({ retryAfterMillis: 500, deadlineMillis: 1500 })), "late")
    assert.strictEqual(Attempts.decide(failed({ retryAfterMillis: 499, deadlineMillis: 1500 })), "retry")
    // What no further attempt waits for does not matter.
    assert.strictEqual(Attempts.decide(failed({ retryAfterMillis: 9e9, deadlineMillis: 1500, sends: 3 })), "exhausted")
  })

  // RX-28
  it.prop(
    "the delay is never below the backoff nor below what was asked for, up to the cap, nor above that by more than a fifth",
    {
      backoff: Schema.Literals([0, 10, 5000, 100_000]),
      asked: Schema.Literals([0, 1, 10_000, 86_400_000, Number.MAX_VALUE]),
      cap: Schema.Literals([1, 30_000]),
      draw: Schema.Literals([0, 0.5, 1])
    },
    ({ asked, backoff, cap, draw }) => {
      const delay = Attempts.delay(backoff, asked, cap, draw)
      const floor = Math.min(asked, cap)
      assert.isTrue(delay >= backoff && delay >= floor && delay <= Math.max(backoff, floor * 1.2))
      assert.strictEqual(Attempts.delay(backoff, undefined, cap, draw), backoff)
    }
  )

  it("herds that were sent away come back spread over a fifth of the time", () => {
    assert.deepStrictEqual([0, 0.5, 1].map((draw) => Attempts.delay(0, 10_000, 30_000, draw)), [10_000, 11_000, 12_000])
  })

  it("an attempt starts before the deadline or not at all", () => {
    assert.isTrue(Attempts.fits(499, 1000, 1500))
    assert.isFalse(Attempts.fits(500, 1000, 1500))
    assert.isTrue(Attempts.fits(1e12, 1000, Infinity))
  })

  it("a delay is neither negative nor endless", () => {
    assert.deepStrictEqual([0, 1e6, -1, Infinity, Number.NaN].map(Attempts.isDelay), [true, true, false, false, false])
  })
})
