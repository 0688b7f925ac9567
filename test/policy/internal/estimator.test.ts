import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import * as Estimator from "../../../src/policy/internal/estimator.ts"

const make = (options: Partial<Estimator.Options> = {}) =>
  Estimator.make({ quantile: 0.95, windowMillis: 30_000, minimumCalls: 1, ...options })

describe("estimator", () => {
  it.prop(
    "is at most a sixteenth of an octave above the exact quantile, and never below it",
    {
      samples: Schema.Array(Schema.Literals([0.07, 0.5, 1, 3, 5, 5, 5, 40, 200, 1500, 60_000])),
      quantile: Schema.Literals([0.5, 0.9, 0.95, 0.99])
    },
    ({ quantile, samples }) => {
      const estimator = make({ quantile })
      for (const sample of samples) Estimator.observe(estimator, sample, 0)
      const estimate = Estimator.estimate(estimator, 0)
      if (samples.length === 0) return assert.isUndefined(estimate)
      const exact = samples.toSorted((a, b) => a - b)[Math.ceil(quantile * samples.length) - 1]!
      assert.isTrue(estimate! >= exact * (1 - 1e-9) && estimate! <= exact * 2 ** (1 / 16) * (1 + 1e-9))
    }
  )

  it("says nothing before it has seen enough", () => {
    const estimator = make({ minimumCalls: 20 })
    for (let i = 0; i < 19; i++) Estimator.observe(estimator, 5, 0)
    assert.isUndefined(Estimator.estimate(estimator, 0))
    Estimator.observe(estimator, 5, 0)
    assert.closeTo(Estimator.estimate(estimator, 0)!, 5, 0.25)
  })

  it("forgets a third of the window at a time", () => {
    const estimator = make({ quantile: 0.5 })
    for (let i = 0; i < 10; i++) Estimator.observe(estimator, 1000, 0)
    for (let i = 0; i < 4; i++) Estimator.observe(estimator, 1, 10_000)
    assert.isAbove(Estimator.estimate(estimator, 29_999)!, 900)
    assert.strictEqual(Estimator.size(estimator, 29_999), 14)
    assert.isBelow(Estimator.estimate(estimator, 30_000)!, 2)
    assert.strictEqual(Estimator.size(estimator, 30_000), 4)
    assert.strictEqual(Estimator.size(estimator, 1_000_000), 0)
    assert.isUndefined(Estimator.estimate(estimator, 1_000_000))
  })

  it("has nothing left of the latencies it has forgotten", () => {
    const estimator = make({ quantile: 0.5 })
    for (let i = 0; i < 10; i++) Estimator.observe(estimator, 1, 0)
    for (let i = 0; i < 4; i++) Estimator.observe(estimator, 1000, 30_000)
    assert.isAbove(Estimator.estimate(estimator, 30_000)!, 900)
  })

  it.each([3, 4, 5, 100])("a jump of %d slices forgets everything", (jump) => {
    const estimator = make()
    for (const slice of [7, 8, 9]) Estimator.observe(estimator, 5, slice * 10_000)
    assert.strictEqual(Estimator.size(estimator, 99_999), 3)
    assert.strictEqual(Estimator.size(estimator, (9 + jump) * 10_000), 0)
  })

  // HG-14
  it("says nothing when the quantile lies above what it tells apart", () => {
    const estimator = make()
    for (let i = 0; i < 94; i++) Estimator.observe(estimator, 5, 0)
    for (let i = 0; i < 6; i++) Estimator.observe(estimator, Estimator.longestMillis, 0)
    assert.isUndefined(Estimator.estimate(estimator, 0))
    for (let i = 0; i < 60; i++) Estimator.observe(estimator, 5, 0)
    assert.isBelow(Estimator.estimate(estimator, 0)!, 6)
  })

  it("tells latencies up to 17 minutes apart", () => {
    assert.strictEqual(Estimator.longestMillis, 2 ** 20)
    const estimator = make()
    Estimator.observe(estimator, Estimator.longestMillis - 1, 0)
    assert.strictEqual(Estimator.estimate(estimator, 0), Estimator.longestMillis)
  })

  it("takes every length of time, and a clock that goes back", () => {
    const estimator = make({ quantile: 0.5 })
    for (const sample of [0, 1e-9, 0.0625]) Estimator.observe(estimator, sample, 50_000)
    assert.closeTo(Estimator.estimate(estimator, 50_000)!, 0.0653, 1e-4)
    Estimator.observe(estimator, Infinity, 0)
    assert.strictEqual(Estimator.size(estimator, 50_000), 4)
  })

  it("looks again when a sixty-fourth of its samples is new, and no later", () => {
    // The quantile is the greatest of 64, and the second greatest of 65.
    const estimator = make({ quantile: 63.5 / 64 })
    for (let i = 0; i < 63; i++) Estimator.observe(estimator, 1, 0)
    assert.isBelow(Estimator.estimate(estimator, 0)!, 2)
    Estimator.observe(estimator, 1000, 0)
    assert.isAbove(Estimator.estimate(estimator, 0)!, 900)
  })

  it("follows a change within a sixty-fourth of its samples", () => {
    const estimator = make({ quantile: 0.5 })
    for (let i = 0; i < 640; i++) Estimator.observe(estimator, 5, 0)
    assert.isBelow(Estimator.estimate(estimator, 0)!, 6)
    for (let i = 0; i < 660; i++) Estimator.observe(estimator, 500, 0)
    assert.isAbove(Estimator.estimate(estimator, 0)!, 400)
    // Nine more samples are too few to look again, a tenth is enough.
    for (let i = 0; i < 20; i++) Estimator.observe(estimator, 5, 0)
    assert.isAbove(Estimator.estimate(estimator, 0)!, 400)
    Estimator.observe(estimator, 5, 0)
    assert.isBelow(Estimator.estimate(estimator, 0)!, 6)
  })

  it("takes over what another one of the same window has seen, and nothing of one of another", () => {
    const from = make({ quantile: 0.9 })
    for (const [at, sample] of [[0, 5], [11_000, 50], [21_000, 500]] as const) Estimator.observe(from, sample, at)
    const to = make({ quantile: 0.5, minimumCalls: 1 })
    Estimator.inherit(to, from)
    assert.strictEqual(Estimator.size(to, 21_000), 3)
    assert.closeTo(Estimator.estimate(to, 21_000)!, 50, 3)
    // In the slices it was seen in.
    assert.strictEqual(Estimator.size(to, 30_000), 2)
    Estimator.observe(to, 5, 30_000)
    assert.strictEqual(Estimator.size(from, 29_000), 3)
    const other = make({ windowMillis: 60_000 })
    Estimator.inherit(other, from)
    assert.strictEqual(Estimator.size(other, 21_000), 0)
  })
})
