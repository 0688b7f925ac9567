import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { Bounded } from "../../../src/policy/internal/bounded.ts"

describe("bounded", () => {
  it("drops what was used longest ago for a new key", () => {
    const values = new Bounded<number>(2)
    values.set("a", 1)
    values.set("b", 2)
    assert.strictEqual(values.get("a"), 1)
    values.set("c", 3)
    assert.deepStrictEqual(["a", "b", "c"].map((key) => values.peek(key)), [1, undefined, 3])
    // Setting is a use, looking is none.
    values.set("a", 4)
    values.peek("c")
    values.set("d", 5)
    assert.deepStrictEqual(["a", "c", "d"].map((key) => values.peek(key)), [4, undefined, 5])
  })

  it("forgets one key or all", () => {
    const values = new Bounded<number>(3)
    for (const key of ["a", "b", "c"]) values.set(key, 0)
    values.delete("b")
    values.delete("b")
    assert.strictEqual(values.size, 2)
    values.clear()
    assert.strictEqual(values.size, 0)
    values.set("a", 1)
    assert.strictEqual(values.get("a"), 1)
  })

  const step = Schema.Struct({
    key: Schema.Literals(["a", "b", "c", "d", "e"]),
    use: Schema.Literals(["get", "set", "set", "delete"])
  })

  it.prop(
    "holds what a list in order of use would hold",
    { steps: Schema.Array(step), capacity: Schema.Literals([1, 2, 3, 5]) },
    ({ capacity, steps }) => {
      const values = new Bounded<number>(capacity)
      let model: Array<readonly [string, number]> = []
      steps.forEach(({ key, use }, index) => {
        const found = model.find(([name]) => name === key)
        const rest = model.filter(([name]) => name !== key)
        if (use === "get") {
          assert.strictEqual(values.get(key), found?.[1])
          if (found !== undefined) model = [...rest, found]
        } else if (use === "set") {
          values.set(key, index)
          model = [...rest, [key, index] as const].slice(-capacity)
        } else {
          values.delete(key)
          model = rest
        }
        assert.strictEqual(values.size, model.length)
        for (const [name, value] of model) assert.strictEqual(values.peek(name), value)
      })
    }
  )

  it("shrinks by what was used longest ago, grows, and replaces values without using them", () => {
    const values = new Bounded<number>(3)
    for (const [index, key] of ["a", "b", "c"].entries()) values.set(key, index)
    values.get("a")
    values.update((value) => value * 10)
    values.resize(2)
    assert.deepStrictEqual(["a", "b", "c"].map((key) => values.peek(key)), [0, undefined, 20])
    values.set("d", 3)
    assert.deepStrictEqual(["a", "c", "d"].map((key) => values.peek(key)), [0, undefined, 3])
    values.resize(3)
    values.set("e", 4)
    assert.strictEqual(values.size, 3)
  })
})
