import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { Bursty } from "../../../src/policy/internal/bursty.ts"
import { Gcra } from "../../../src/policy/internal/gcra.ts"
import type { Meter, Rate } from "../../../src/policy/internal/meter.ts"

const gaps = Schema.Array(
  Schema.Struct({
    gap: Schema.Literals([0, 0, 0, 1, 3, 50, 99, 100, 101, 350]),
    permits: Schema.Literals([1, 1, 1, 2, 5]),
    // Whether it only takes what is there, or the future too.
    patient: Schema.Boolean
  })
).check(Schema.isMinLength(10), Schema.isMaxLength(40))

const rate = (limit: number, windowMillis: number, burst: number): Rate => ({ limit, windowMillis, burst })

describe("Gcra", () => {
  const smooth = (limit: number, windowMillis: number, burst = 1, now = 0) =>
    new Gcra(rate(limit, windowMillis, burst), now)

  it("gives one permit per interval, and an idle one saves up no more than its burst", () => {
    const meter = smooth(2, 1000)
    assert.deepStrictEqual([0, 0, 0].map(() => meter.take(0, 1)), [0, 500, 1000])
    assert.strictEqual(meter.available(10_000), 1)
    const bursts = smooth(2, 1000, 3)
    assert.strictEqual(bursts.available(0), 3)
    assert.deepStrictEqual([0, 0, 0, 0].map(() => Math.max(0, bursts.take(0, 1))), [0, 0, 0, 500])
    assert.deepStrictEqual([1400, 1500, 2000, 9000].map((now) => bursts.available(now)), [1, 2, 3, 3])
  })

  it("asking takes nothing", () => {
    const meter = smooth(10, 1000)
    for (let i = 0; i < 5; i++) assert.strictEqual(meter.dueAt(0, 3), 200)
    assert.strictEqual(meter.take(0, 3), 200)
  })

  it("does not drift over a million permits of a third of a millisecond", () => {
    const meter = smooth(3, 1)
    meter.take(0, 999_999)
    assert.strictEqual(meter.take(0, 1), 999_999 / 3)
    assert.strictEqual(meter.dueAt(1_000_000 / 3, 1), 1_000_000 / 3)
  })

  it("draining leaves the next permit to the next interval", () => {
    const meter = smooth(2, 1000, 5)
    meter.drain(700)
    assert.deepStrictEqual([meter.available(700), meter.dueAt(700, 1)], [0, 1000])
    meter.take(700, 3)
    meter.drain(700)
    assert.strictEqual(meter.dueAt(700, 1), 2500)
  })

  it("at another rate keeps what is there and as many intervals of waiting", () => {
    const meter = smooth(2, 1000, 4)
    meter.take(0, 1)
    meter.change(250, rate(10, 1000, 2))
    assert.deepStrictEqual([meter.available(250), meter.available(10_000)], [2, 2])
    const busy = smooth(1, 1000)
    busy.take(0, 3)
    // Due at 3000: 2.75 intervals from 250.
    busy.change(250, rate(10, 1000, 1))
    assert.strictEqual(busy.dueAt(250, 1), 525)
    assert.strictEqual(busy.dueAt(250, 2), 625)
    busy.change(500, rate(1, 1000, 1))
    assert.strictEqual(busy.dueAt(500, 1), 750)
  })

  it.prop(
    "permits fall due in turn, each in its own slot, and in any span at most span / interval + burst + 1",
    { gaps, limit: Schema.Literals([1, 3, 10]), burst: Schema.Literals([1, 2, 4]) },
    ({ burst, gaps, limit }) => {
      const interval = 1000 / limit
      const meter = smooth(limit, 1000, burst)
      const due: Array<number> = []
      let now = 0
      let slot = -Infinity
      for (const { gap, patient, permits } of gaps) {
        now += gap
        const at = meter.dueAt(now, permits)
        if (at > now && !patient) continue
        assert.strictEqual(meter.take(now, permits), at)
        const last = Math.round(at / interval)
        // Nothing is waited for without need: the slots are the next free ones.
        const first = Math.max(slot + 1, Math.floor(now / interval + 1e-9) - burst + 1)
        assert.strictEqual(last, first + permits - 1)
        slot = last
        for (let i = 0; i < permits; i++) due.push(Math.max(now, (first + i) * interval))
      }
      for (let from = 0; from < due.length; from++) {
        for (let to = from; to < due.length; to++) {
          assert.isAtMost(to - from + 1, (due[to]! - due[from]!) / interval + burst + 1 + 1e-9)
        }
      }
    }
  )
})

describe("Bursty", () => {
  const bursty = (limit: number, windowMillis: number, burst = limit, now = 0) =>
    new Bursty(rate(limit, windowMillis, burst), now)

  it("gives the permits of a window at once, those of future windows at their start", () => {
    const meter = bursty(2, 1000)
    assert.deepStrictEqual([0, 0, 0, 0, 0].map(() => meter.take(100, 1)), [0, 0, 1000, 1000, 2000])
  })

  it("ten idle windows pay a debt once and save up one window's permits", () => {
    const meter = bursty(2, 1000)
    meter.take(0, 3)
    assert.deepStrictEqual([meter.available(1000), meter.available(10_500)], [1, 2])
    const saving = bursty(2, 1000, 5)
    saving.take(0, 6)
    assert.deepStrictEqual([1000, 2000, 3000, 10_000].map((now) => saving.available(now)), [1, 3, 5, 5])
  })

  it("draining leaves the next permit to the next window, and pays no debt", () => {
    const meter = bursty(2, 1000)
    meter.drain(500)
    assert.deepStrictEqual([meter.available(500), meter.dueAt(500, 1), meter.available(1000)], [0, 1000, 2])
    meter.take(1000, 3)
    meter.drain(1000)
    assert.strictEqual(meter.dueAt(1000, 2), 3000)
  })

  it("at another rate what has been used of the window stays used", () => {
    const meter = bursty(5, 1000)
    meter.take(0, 3)
    meter.change(300, rate(10, 1000, 10))
    assert.deepStrictEqual([meter.available(300), meter.available(1000)], [7, 10])
    meter.take(1000, 8)
    meter.change(1000, rate(4, 1000, 4))
    // Eight used of four: the debt is one window's permits.
    assert.deepStrictEqual([meter.dueAt(1000, 1), meter.available(2000), meter.available(3000)], [3000, 0, 4])
    const idle = bursty(5, 1000)
    idle.change(400, rate(2, 5000, 2))
    assert.deepStrictEqual([idle.available(400), idle.take(400, 2), idle.dueAt(400, 1)], [2, 400, 5400])
  })

  it.prop(
    "is a balance that each window tops up",
    { gaps, limit: Schema.Literals([1, 2, 5]), saves: Schema.Literals([0, 1, 7]) },
    ({ gaps, limit, saves }) => {
      const burst = limit + saves
      const meter = bursty(limit, 100, burst, 7)
      let now = 7
      let windowEnd = 107
      let balance = burst
      for (const { gap, patient, permits } of gaps) {
        now += gap
        for (; now >= windowEnd; windowEnd += 100) balance = Math.min(burst, balance + limit)
        let due = now
        for (let [paid, at] = [balance, windowEnd]; paid < permits; paid += limit, at += 100) due = at
        assert.strictEqual(Math.max(now, meter.dueAt(now, permits)), due)
        assert.strictEqual(meter.available(now), Math.max(0, balance))
        if (due > now && !patient) continue
        meter.take(now, permits)
        balance -= permits
      }
    }
  )
})

for (
  const [name, make] of [
    ["Gcra", (now: number) => new Gcra(rate(10, 1000, 2), now)],
    ["Bursty", (now: number) => new Bursty(rate(10, 1000, 12), now)]
  ] as const
) {
  describe(`${name}, like the other`, () => {
    // RL-05
    it("seven permits in one go take as long as the last of seven one by one", () => {
      const [once, singly] = [make(0), make(0)]
      for (const now of [0, 30, 1234]) {
        const last = Array.from({ length: 7 }, () => singly.take(now, 1)).at(-1)!
        assert.strictEqual(once.take(now, 7), last)
      }
    })

    it.prop(
      "what is refunded was never taken",
      { gaps, refunded: Schema.Literals([1, 3, 8]) },
      ({ gaps, refunded }) => {
        const [one, other]: [Meter, Meter] = [make(0), make(0)]
        let now = 0
        for (const { gap, permits } of gaps) {
          now += gap
          one.take(now, refunded)
          // Time passes, and somebody looks.
          one.available(now + gap)
          other.available(now + gap)
          one.refund(refunded)
          assert.strictEqual(one.dueAt(now, permits), other.dueAt(now, permits))
          assert.strictEqual(one.take(now + gap, permits), other.take(now + gap, permits))
          now += gap
        }
      }
    )

    it("counts from the moment it was made", () => {
      const meter = make(123_456_789.25)
      meter.take(123_456_789.25, 12)
      assert.isAtMost(meter.dueAt(123_456_789.25, 1) - 123_456_789.25, 1200)
      assert.isAbove(meter.dueAt(123_456_789.25, 1), 123_456_789.25)
    })
  })
}
