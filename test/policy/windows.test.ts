import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import * as Window from "../../src/policy/internal/window.ts"

interface Call {
  readonly at: number
  readonly failed: boolean
  readonly slow: boolean
}

const tally = (calls: ReadonlyArray<Call>) => [
  calls.length,
  calls.filter((call) => call.failed).length,
  calls.filter((call) => call.slow).length
]

const totals = ({ calls, failures, slow }: Window.Window) => [calls, failures, slow]

const int = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

/** What a call was (two bits), and how long after the one before it: mostly at once, sometimes much later. */
const Calls = Schema.Array(Schema.Struct({ bits: int(0, 3), gap: Schema.Literals([0, 0, 0, 1, 3, 10, 47]) })).check(
  Schema.isBetweenLength(20, 60)
)

/** Feeds a window, and checks it after each call and some time later, before anything else is counted. */
const feed = (
  window: Window.Window,
  calls: typeof Calls.Type,
  seen: (ended: ReadonlyArray<Call>, now: number) => ReadonlyArray<Call>,
  idle: number
): void => {
  const ended: Array<Call> = []
  let now = 0
  for (const { bits, gap } of calls) {
    now += gap
    const call = { at: now, failed: (bits & 1) !== 0, slow: (bits & 2) !== 0 }
    window.add(call.failed, call.slow, now)
    ended.push(call)
    window.expire(now)
    assert.deepStrictEqual(totals(window), tally(seen(ended, now)), `at ${now}`)
  }
  now += idle
  window.expire(now)
  assert.deepStrictEqual(totals(window), tally(seen(ended, now)), `idle until ${now}`)
}

describe("Window by calls", () => {
  it.prop(
    "holds the last calls",
    { calls: Calls, size: int(1, 7) },
    ({ calls, size }) =>
      feed(Window.make({ by: "calls", size, maxAgeMillis: Infinity }), calls, (ended) => ended.slice(-size), 1000)
  )

  it.prop(
    "forgets what failed or was slow at its age, and what came before",
    { calls: Calls, size: int(1, 7), age: int(1, 12) },
    ({ age, calls, size }) =>
      feed(
        Window.make({ by: "calls", size, maxAgeMillis: age }),
        calls,
        (ended, now) => {
          const last = ended.slice(-size)
          return last.slice(1 + last.findLastIndex((call) => (call.failed || call.slow) && now - call.at >= age))
        },
        5
      )
  )

  it("does not ask when a success ended unless something may age", () => {
    const window = Window.make({ by: "calls", size: 4, maxAgeMillis: 10 })
    window.add(false, false, Number.NaN)
    assert.isFalse(window.timed)
    window.add(true, false, 100)
    assert.isTrue(window.timed)
    window.add(false, false, 109)
    assert.deepStrictEqual(totals(window), [3, 1, 0])
    window.add(false, false, 110)
    assert.deepStrictEqual(totals(window), [2, 0, 0])
    assert.isFalse(window.timed)
    const ageless = Window.make({ by: "calls", size: 4, maxAgeMillis: Infinity })
    ageless.add(true, true, 100)
    assert.isFalse(ageless.timed)
  })

  it.prop("is the same whether or not anybody looked", { calls: Calls, size: int(1, 7), age: int(1, 12) }, (input) => {
    const { age, calls, size } = input
    const [seen, unseen] = [0, 1].map(() => Window.make({ by: "calls", size, maxAgeMillis: age }))
    let now = 0
    for (const { bits, gap } of calls) {
      now += gap
      for (const window of [seen!, unseen!]) {
        window.add((bits & 1) !== 0, (bits & 2) !== 0, window.timed || bits > 0 ? now : 0)
      }
      assert.deepStrictEqual(totals(unseen!), totals(seen!))
      seen!.expire(now)
    }
  })
})

describe("Window by time", () => {
  it.prop(
    "holds the calls of the last buckets, however long nobody looked",
    { calls: Calls, width: int(1, 9), buckets: int(1, 6), idle: int(0, 60) },
    ({ buckets, calls, idle, width }) =>
      feed(
        Window.make({ by: "time", millis: width * buckets, buckets }),
        calls,
        (ended, now) => ended.filter(({ at }) => Math.floor(at / width) > Math.floor(now / width) - buckets),
        idle
      )
  )

  // The edge of a tumbling window: 9 failures of 100 at the end of one and 1 of 10 in the next read as 9 %, never 90 %.
  it("keeps the ratio across the edge of a bucket", () => {
    const window = Window.make({ by: "time", millis: 10_000, buckets: 10 })
    for (let i = 0; i < 100; i++) window.add(i >= 91, false, 9000 + i)
    window.add(true, false, 10_000)
    assert.isBelow(window.failures / window.calls, 0.1)
  })

  it("goes on where the clock stands still or steps back", () => {
    const window = Window.make({ by: "time", millis: 100, buckets: 10 })
    window.add(true, false, 500)
    window.add(true, false, 100)
    assert.deepStrictEqual(totals(window), [2, 2, 0])
    window.expire(1590)
    assert.deepStrictEqual(totals(window), [0, 0, 0])
  })

  it("keeps its buckets apart after a century", () => {
    const window = Window.make({ by: "time", millis: 100, buckets: 10 })
    const late = 3_155_760_000_000
    window.add(true, false, late)
    window.add(false, false, late + 10)
    window.expire(late + 100)
    assert.deepStrictEqual(totals(window), [1, 0, 0])
  })
})

describe("Window as data", () => {
  const shapes: ReadonlyArray<Window.Shape> = [
    { by: "calls", size: 5, maxAgeMillis: Infinity },
    { by: "calls", size: 5, maxAgeMillis: 20 },
    { by: "time", millis: 30, buckets: 3 }
  ]
  for (const shape of shapes) {
    const name = shape.by === "time" ? "time" : `calls, ${shape.maxAgeMillis} ms at most`
    it.prop(`comes back as it was: by ${name}`, { calls: Calls, later: int(0, 40) }, ({ calls, later }) => {
      const window = Window.make(shape)
      let now = 0
      for (const { bits, gap } of calls) {
        now += gap
        window.add((bits & 1) !== 0, (bits & 2) !== 0, now)
      }
      const copy = Window.make(shape)
      copy.load(window.cells(now), now)
      assert.deepStrictEqual(totals(copy), totals(window))
      for (const at of [now + later, now + later + 5]) {
        window.expire(at)
        copy.expire(at)
        assert.deepStrictEqual(totals(copy), totals(window))
        window.add(true, false, at)
        copy.add(true, false, at)
        assert.deepStrictEqual(copy.cells(at), window.cells(at))
      }
    })
  }

  it("starts empty from a window of the other kind", () => {
    const [byCalls, , byTime] = shapes.map(Window.make)
    byCalls!.add(true, false, 0)
    byTime!.add(true, false, 0)
    for (const [from, to] of [[byCalls!, shapes[2]!], [byTime!, shapes[0]!]] as const) {
      const window = Window.make(to)
      window.load(from.cells(0), 0)
      assert.deepStrictEqual(totals(window), [0, 0, 0])
    }
  })

  it("takes no more than it holds, and nothing that is too old", () => {
    const few = Window.make({ by: "calls", size: 2, maxAgeMillis: 10 })
    few.load({ by: "calls", calls: [1, 1, 3], ageMillis: [11, 10, 9] }, 100)
    assert.deepStrictEqual(totals(few), [1, 1, 1])
    const short = Window.make({ by: "time", millis: 20, buckets: 2 })
    const bucket = { calls: 1, failures: 1, slow: 0 }
    short.load({ by: "time", buckets: [25, 5, 0].map((ageMillis) => ({ ageMillis, ...bucket })) }, 100)
    assert.deepStrictEqual(totals(short), [2, 2, 0])
  })
})
