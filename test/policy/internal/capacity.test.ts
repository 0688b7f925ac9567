import { assert, describe, it } from "@effect/vitest"
import { Capacity } from "../../../src/policy/internal/capacity.ts"

/** Ten buckets of 100 ms; `f` says how many calls end in each, and how long each of them took. */
const filled = (f: (bucket: number) => ReadonlyArray<number>) => {
  const capacity = new Capacity(1000, 10)
  for (let bucket = 0; bucket < 10; bucket++) {
    for (const millis of f(bucket)) capacity.add(millis, bucket * 100)
  }
  return capacity
}
const times = (count: number, millis: number) => Array.from({ length: count }, () => millis)

describe("capacity", () => {
  // AD-12
  it("is the most calls of a bucket times the shortest mean latency, the present bucket ignored", () => {
    const passes = filled((bucket) => times((bucket + 1) * 100, 1))
    assert.strictEqual(passes.most(900), 900)
    assert.strictEqual(passes.most(1000), 1000)

    const latencies = filled((bucket) => Array.from({ length: 10 }, (_, i) => bucket * 10 + i + 1))
    // The mean of 1 to 10 is 5.5.
    assert.strictEqual(latencies.shortest(900), 6)

    const both = filled((bucket) => Array.from({ length: (bucket + 1) * 100 }, (_, i) => bucket * 10 + (i % 10) + 1))
    assert.strictEqual(both.atATime(900), 54)
  })

  it("takes one call and one second for granted where nothing has ended", () => {
    const capacity = new Capacity(1000, 10)
    assert.deepStrictEqual([capacity.most(0), capacity.shortest(0), capacity.atATime(0)], [1, 1000, 10])
    capacity.add(50, 10)
    assert.strictEqual(capacity.shortest(99), 1000, "the present bucket")
    assert.strictEqual(capacity.shortest(100), 50)
  })

  it("is at least 1", () => {
    const capacity = new Capacity(1000, 10)
    capacity.add(3, 0)
    assert.strictEqual(capacity.atATime(100), 1)
  })

  it("forgets what is older than the window, however long nothing happened", () => {
    for (const later of [1000, 1099, 5000, 1e9]) {
      const capacity = filled((bucket) => bucket === 0 ? times(7, 30) : [])
      assert.strictEqual(capacity.most(999), 7)
      assert.strictEqual(capacity.most(later), 1)
      assert.strictEqual(capacity.shortest(later), 1000)
    }
  })
})
