import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { freshnessOf, jittered } from "../../../src/policy/internal/freshness.ts"

describe("freshness", () => {
  it("ends each period at its instant", () => {
    const windows = { revalidateMillis: 10, onErrorMillis: 30 }
    assert.deepStrictEqual(
      [0, 99, 100, 109, 110, 129, 130].map((now) => freshnessOf(100, now, windows)),
      ["fresh", "fresh", "revalidate", "revalidate", "onError", "onError", "gone"]
    )
  })

  it("serves whatever is within either period, the longer of which counts", () => {
    assert.strictEqual(freshnessOf(100, 125, { revalidateMillis: 30, onErrorMillis: 10 }), "revalidate")
    assert.strictEqual(freshnessOf(100, 130, { revalidateMillis: 30, onErrorMillis: 10 }), "gone")
    assert.strictEqual(freshnessOf(100, 100, { revalidateMillis: 0, onErrorMillis: 0 }), "gone")
  })

  const millis = Schema.Literals([0, 1, 2, 10])

  it.prop(
    "never gets fresher",
    { freshUntil: millis, revalidateMillis: millis, onErrorMillis: millis, now: millis, later: millis },
    ({ freshUntil, later, now, ...windows }) => {
      const order = ["fresh", "revalidate", "onError", "gone"]
      const at = (now: number) => order.indexOf(freshnessOf(freshUntil, now, windows))
      assert.isAtLeast(at(now + later), at(now))
      assert.strictEqual(at(now) === 0, now < freshUntil)
      assert.strictEqual(at(now) === 3, now >= freshUntil + Math.max(windows.revalidateMillis, windows.onErrorMillis))
    }
  )

  it("shortens a lifetime by up to the jitter's share", () => {
    assert.deepStrictEqual([0, 0.5, 1].map((uniform) => jittered(1000, 0.1, uniform)), [1000, 950, 900])
    assert.strictEqual(jittered(1000, 0, 0.7), 1000)
  })
})
