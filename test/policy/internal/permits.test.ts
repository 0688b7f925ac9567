import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { Permits, RankedWaiter } from "../../../src/policy/internal/permits.ts"

class Waiter extends RankedWaiter {
  readonly id: number
  readonly rank: number
  constructor(id: number, rank: number) {
    super()
    this.id = id
    this.rank = rank
  }
}

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

const Come = Schema.TaggedStruct("come", { rank: upTo(3) })
const Op = Schema.Union([
  Come,
  Come,
  Come,
  Schema.TaggedStruct("end", {}),
  Schema.TaggedStruct("leave", { which: upTo(5) }),
  Schema.TaggedStruct("resize", { limit: Schema.Literals([1, 2, 4]), maxQueue: upTo(4) })
])

describe("Permits", () => {
  it("gives as many permits as the limit, then places in the queue, then nothing", () => {
    const permits = new Permits<Waiter>(2, 1)
    assert.deepStrictEqual([permits.take(), permits.take(), permits.take()], [true, true, false])
    assert.isTrue(permits.hasPlace(0))
    permits.enqueue(new Waiter(1, 0))
    assert.isFalse(permits.hasPlace(0))
    assert.deepStrictEqual([permits.inFlight, permits.queued, permits.available], [2, 1, 0])
  })

  it("a permit that came back is the oldest waiter's, and no newcomer's", () => {
    const permits = new Permits<Waiter>(1, 10)
    permits.take()
    for (const [id, rank] of [[1, 3], [2, 0], [3, 2]] as const) permits.enqueue(new Waiter(id, rank))
    permits.giveBack()
    assert.isFalse(permits.take())
    assert.strictEqual(permits.next()?.id, 1)
    assert.isUndefined(permits.next())
    permits.giveBack()
    assert.strictEqual(permits.next()?.id, 2)
    permits.giveBack()
    assert.strictEqual(permits.next()?.id, 3)
  })

  it("one that is not in the queue cannot leave it", () => {
    const permits = new Permits<Waiter>(1, 2)
    const waiter = new Waiter(1, 0)
    assert.isFalse(permits.leave(waiter))
    permits.take()
    permits.enqueue(waiter)
    assert.isTrue(permits.leave(waiter))
    assert.isFalse(permits.leave(waiter))
    assert.strictEqual(permits.queued, 0)
  })

  it("in a full queue the youngest of the least critical makes place for a more critical one", () => {
    const permits = new Permits<Waiter>(1, 4)
    permits.take()
    for (const [id, rank] of [[1, 2], [2, 3], [3, 3], [4, 1]] as const) permits.enqueue(new Waiter(id, rank))
    assert.isFalse(permits.hasPlace(3))
    assert.strictEqual(permits.enqueue(new Waiter(5, 2))?.id, 3)
    assert.strictEqual(permits.enqueue(new Waiter(6, 0))?.id, 2)
    assert.strictEqual(permits.enqueue(new Waiter(7, 1))?.id, 5)
    assert.strictEqual(permits.enqueue(new Waiter(8, 1))?.id, 1)
    assert.isFalse(permits.hasPlace(1))
    assert.isTrue(permits.hasPlace(0))
    assert.strictEqual(permits.queued, 4)
  })

  it.prop(
    "behaves as a list does: never over the limit, oldest first, least critical out, nobody lost",
    { ops: Schema.Array(Op).check(Schema.isMinLength(30), Schema.isMaxLength(60)) },
    ({ ops }) => {
      const permits = new Permits<Waiter>(2, 2)
      let list: Array<Waiter> = []
      let inFlight = 0
      let id = 0
      const handOver = () => {
        for (let next = permits.next(); next !== undefined; next = permits.next()) {
          assert.isBelow(inFlight, permits.limit)
          assert.strictEqual(next, list.shift())
          assert.isFalse(next.queued)
          inFlight++
        }
        assert.isTrue(list.length === 0 || inFlight >= permits.limit)
      }
      for (const op of ops) {
        switch (op._tag) {
          case "come": {
            const free = inFlight < permits.limit && list.length === 0
            assert.strictEqual(permits.take(), free)
            if (free) {
              inFlight++
              break
            }
            const least = list.reduce<Waiter | undefined>(
              (least, waiter) => least === undefined || waiter.rank >= least.rank ? waiter : least,
              undefined
            )
            const displaces = list.length >= permits.maxQueue
            const place = !displaces || (least !== undefined && least.rank > op.rank)
            assert.strictEqual(permits.hasPlace(op.rank), place)
            if (!place) break
            const waiter = new Waiter(id++, op.rank)
            assert.strictEqual(permits.enqueue(waiter), displaces ? least : undefined)
            if (displaces) list = list.filter((waiter) => waiter !== least)
            list.push(waiter)
            break
          }
          case "end":
            if (inFlight === 0) break
            inFlight--
            permits.giveBack()
            handOver()
            break
          case "leave": {
            const waiter = list[op.which]
            if (waiter === undefined) break
            assert.isTrue(permits.leave(waiter))
            assert.isFalse(permits.leave(waiter))
            list = list.filter((other) => other !== waiter)
            break
          }
          case "resize":
            permits.limit = op.limit
            permits.maxQueue = op.maxQueue
            handOver()
        }
        assert.deepStrictEqual([permits.inFlight, permits.queued], [inFlight, list.length])
        assert.strictEqual(permits.available, list.length > 0 ? 0 : Math.max(0, permits.limit - inFlight))
      }
    }
  )
})
