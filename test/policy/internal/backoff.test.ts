import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import * as Backoff from "../../../src/policy/internal/backoff.ts"

const growths = ["constant", "linear", "exponential", "fibonacci"] as const
const draw = Schema.Literals([0, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 1 - 2 ** -53])
const attempt = Schema.Literals([0, 1, 2, 3, 7, 40, 70, 500, 999, 1000, 1023, 1024, 1500, 3000, 1e9])
const millis = Schema.Literals([0, 0.5, 1, 100, 1000, 86_400_000])
const cap = Schema.Literals([1, 99, 1000, 30_000, Backoff.longestMillis])

describe("backoff", () => {
  it.prop(
    "every delay is in [0, cap], for ever",
    { attempt, base: millis, cap, draw, growth: Schema.Literals(growths) },
    ({ attempt, base, cap, draw, growth }) => {
      const plain = Backoff.grow(growth, attempt, base, 2, cap)
      const all = [
        plain,
        Backoff.full(plain, draw),
        Backoff.equal(plain, draw),
        Backoff.proportional(plain, draw, 0.25, cap),
        Backoff.proportional(plain, draw, 1, cap),
        Backoff.decorrelated(Math.min(base, cap), draw, base, cap),
        Backoff.decorrelated(cap, draw, base, cap),
        Backoff.smooth(attempt, draw, attempt === 0 ? 0 : attempt - 1 + draw, base, cap)
      ]
      for (const delay of all) assert.isTrue(delay >= 0 && delay <= cap, `${delay} of ${all.join()}`)
    }
  )

  it.prop("a zero base stays zero in every growth", { attempt, draw }, ({ attempt, draw }) => {
    for (const growth of growths) assert.strictEqual(Backoff.grow(growth, attempt, 0, 2, 1000), 0)
    assert.strictEqual(Backoff.smooth(attempt, draw, 0, 0, 1000), 0)
  })

  it("growths give their own sequences", () => {
    const of = (growth: Backoff.Growth, factor = 2) =>
      [0, 1, 2, 3, 4, 5, 6].map((attempt) => Backoff.grow(growth, attempt, 10, factor, 1e9))
    assert.deepStrictEqual(of("constant"), [10, 10, 10, 10, 10, 10, 10])
    assert.deepStrictEqual(of("linear"), [10, 20, 30, 40, 50, 60, 70])
    assert.deepStrictEqual(of("exponential"), [10, 20, 40, 80, 160, 320, 640])
    assert.deepStrictEqual(of("exponential", 3), [10, 30, 90, 270, 810, 2430, 7290])
    assert.deepStrictEqual(of("fibonacci"), [10, 10, 20, 30, 50, 80, 130])
  })

  // RT-07
  it.prop("proportional jitter stays within ± a quarter", { base: millis, draw }, ({ base, draw }) => {
    const delay = Backoff.proportional(base, draw, 0.25, Backoff.longestMillis)
    assert.isTrue(delay >= base * 0.75 - 1e-9 && delay <= base * 1.25 + 1e-9)
  })

  it("jitters span exactly their intervals", () => {
    const ends = (jitter: (draw: number) => number) => [jitter(0), jitter(1)]
    assert.deepStrictEqual(ends((draw) => Backoff.full(80, draw)), [0, 80])
    assert.deepStrictEqual(ends((draw) => Backoff.equal(80, draw)), [40, 80])
    assert.deepStrictEqual(ends((draw) => Backoff.proportional(80, draw, 0.5, 1000)), [40, 120])
    assert.deepStrictEqual(ends((draw) => Backoff.decorrelated(20, draw, 10, 1000)), [10, 60])
    // At the cap the same relative spread below it: (1 - 0.25) / (1 + 0.25) = 0.6.
    assert.deepStrictEqual(ends((draw) => Backoff.proportional(1000, draw, 0.25, 1000)), [600, 1000])
  })

  // RT-08
  it.prop(
    "decorrelated jitter V2 is below 4 base 2^attempt, and does not go back in time",
    { attempt: Schema.Literals([0, 1, 2, 5, 20]), before: draw, draw },
    ({ attempt, before, draw }) => {
      const position = attempt === 0 ? 0 : attempt - 1 + before
      const delay = Backoff.smooth(attempt, draw, position, 100, Backoff.longestMillis)
      assert.isTrue(delay >= 0 && delay < 400 * 2 ** attempt)
    }
  )

  it("decorrelated jitter V2 takes up where the previous delay was drawn", () => {
    // Σ of the delays telescopes: it depends on the last draw alone.
    const total = (draws: ReadonlyArray<number>) =>
      draws.reduce(
        (sum, draw, attempt) =>
          sum + Backoff.smooth(attempt, draw, attempt === 0 ? 0 : attempt - 1 + draws[attempt - 1]!, 100, 1e9),
        0
      )
    assert.closeTo(total([0.1, 0.9, 0.5]), total([0.8, 0.2, 0.5]), 1e-9)
    // 2^2.5 tanh(sqrt(10)) / 1.4 × 100
    assert.closeTo(total([0.3, 0.3, 0.5]), 402.62, 0.01)
  })

  it("decorrelated jitter V2 is equal jitter at the cap", () => {
    assert.strictEqual(Backoff.smooth(20, 0, 19.5, 100, 1000), 500)
    assert.strictEqual(Backoff.smooth(5000, 0.5, 4999.5, 100, 1000), 750)
    // Up to the cap it is itself.
    assert.isAbove(Backoff.smooth(2, 0.99, 1, 100, 1000), 300)
  })
})
