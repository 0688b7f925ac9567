import { assert, describe, it } from "@effect/vitest"
import { fuzz } from "../../scripts/fuzz.ts"
import * as Frame from "../../src/wire/Frame.ts"

describe("hostile bytes", () => {
  // `npm run fuzz` does the same a million times, and looks at the heap.
  const report = fuzz({ runs: 10_000, seed: 4 })

  it("ten thousand byte strings make nothing throw, and mean the same in any chunking", () => {
    assert.isUndefined(report.failure)
    assert.strictEqual(report.runs, 10_000)
  })

  it("they reach every frame type, every error, bodies good and bad, and frames cut short", () => {
    const { goingAway, hello, request, response, cancel, ping, pong } = Frame.Type
    for (const [name, type] of Object.entries({ goingAway, hello, request, response, cancel, ping, pong })) {
      assert.isAbove(report.reads[name] ?? 0, 100, `frames of type ${type}`)
    }
    for (const name of ["body", "body refused"]) assert.isAbove(report.reads[name] ?? 0, 100, name)
    const malformed = ["request", "response", "hello", "cancel"].map((type) => `BadPayload of a ${type}`)
    for (const end of ["complete", "half a frame", "BadMagic", "BadVersion", "TooLong", ...malformed]) {
      assert.isAbove(report.ends[end] ?? 0, 5, end)
    }
  })

  it("the same seed gives the same runs, and one of them can be repeated alone", () => {
    const [first, second] = [fuzz({ runs: 50, seed: 9 }), fuzz({ runs: 50, seed: 9 })]
    assert.deepStrictEqual({ ...first, slowestMillis: 0 }, { ...second, slowestMillis: 0 })
    const parts = [0, 1, 2].map((from) => fuzz({ runs: 1, seed: 9, from }).bytes)
    assert.strictEqual(parts[0]! + parts[1]! + parts[2]!, fuzz({ runs: 3, seed: 9 }).bytes)
  })
})
