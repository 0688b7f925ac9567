import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { Line, Waiter } from "../../../src/policy/internal/queue.ts"

class Named extends Waiter {
  readonly name: number
  constructor(name: number) {
    super()
    this.name = name
  }
}

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

describe("Line", () => {
  it.prop(
    "is a list from which anybody may leave, and which anybody may join again",
    { moves: Schema.Array(upTo(7)).check(Schema.isMinLength(20), Schema.isMaxLength(60)) },
    ({ moves }) => {
      const line = new Line<Named>()
      const waiters = Array.from({ length: 8 }, (_, name) => new Named(name))
      let list: Array<number> = []
      for (const name of moves) {
        const waiter = waiters[name]!
        assert.strictEqual(waiter.queued, list.includes(name))
        if (waiter.queued) {
          assert.isTrue(line.remove(waiter))
          list = list.filter((other) => other !== name)
        } else {
          assert.isFalse(line.remove(waiter))
          line.push(waiter)
          list.push(name)
        }
        const forwards: Array<number> = []
        for (let at = line.oldest; at !== undefined; at = at.younger) forwards.push(at.name)
        const backwards: Array<number> = []
        for (let at = line.youngest; at !== undefined; at = at.older) backwards.unshift(at.name)
        assert.deepStrictEqual([forwards, backwards, line.size], [list, list, list.length])
      }
    }
  )
})
