import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { Correlation } from "../../../src/policy/internal/correlation.ts"
import {
  Average,
  changeOf,
  Gradient,
  type Kind,
  type Move,
  rejectionAt
} from "../../../src/policy/internal/gradient.ts"
import { Median, Sample } from "../../../src/policy/internal/quantile.ts"

const make = (options: Partial<ConstructorParameters<typeof Gradient>[0]> = {}) =>
  new Gradient({
    initial: 20,
    min: 1,
    max: 200,
    windowMillis: 1000,
    maxWindowMillis: 30_000,
    minimumCalls: 50,
    maxFactor: 5,
    stabilizationMillis: 60_000,
    ...options
  }, 0)

/** A limit that moves with every call, and whose baseline is warm at 1 s. */
const warm = (options: Partial<ConstructorParameters<typeof Gradient>[0]> = {}) => {
  const core = make({ minimumCalls: 1, maxWindowMillis: 1000, ...options })
  for (let i = 0; i < 10; i++) core.baseline.add(1000)
  let now = 0
  return {
    core,
    /** One call every 2 s. */
    call: (millis: number, inFlight: number, after = 2000) => {
      now += after
      core.record("answered", millis, inFlight, false, now)
      return core.limit
    }
  }
}

/** A window of calls that are alike. */
const window = (core: Gradient, kind: Kind, millis: number, inFlight: number, at: number, count = 50, full = false) => {
  let move: Move | undefined
  for (let i = 0; i < count; i++) move = core.record(kind, millis, inFlight, full, at) ?? move
  return move
}

const random = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
}

/**
 * Poisson arrivals at a limiter with a queue of twice the limit, in front of an
 * endpoint with `servers` that work on one call at a time, first come first
 * served. Returns the limit at every second, and the calls that ended per second.
 */
const simulate = (options: {
  readonly perSecond: number
  readonly servers: number
  readonly service: (uniform: number) => number
  readonly seconds: number
  readonly seed: number
}) => {
  const core = make()
  const uniform = random(options.seed)
  const limits: Array<number> = []
  let now = 0
  let inFlight = 0
  let queued = 0
  let ended = 0
  let nextArrival = 0
  /** When each server is free, and the calls in flight by when they end. */
  const free = Array.from({ length: options.servers }, () => 0)
  const calls: Array<{ readonly endsAt: number; readonly startedAt: number; readonly inFlight: number }> = []
  const start = () => {
    inFlight++
    const server = free.indexOf(Math.min(...free))
    const endsAt = Math.max(now, free[server]!) + options.service(uniform())
    free[server] = endsAt
    const call = { endsAt, startedAt: now, inFlight }
    let index = calls.length
    while (index > 0 && calls[index - 1]!.endsAt < endsAt) index--
    calls.splice(index, 0, call)
  }
  while (now < options.seconds * 1000) {
    const call = calls.at(-1)
    now = Math.min(nextArrival, call?.endsAt ?? Infinity)
    while (limits.length * 1000 < now) limits.push(core.limit)
    if (now === nextArrival) {
      nextArrival -= Math.log(1 - uniform()) * (1000 / options.perSecond)
      if (inFlight < core.limit) start()
      else if (queued < 2 * core.limit) queued++
      continue
    }
    const { inFlight: then, startedAt } = calls.pop()!
    ended++
    core.record("answered", now - startedAt, then, queued > 0 || inFlight >= core.limit, now)
    inFlight--
    for (; queued > 0 && inFlight < core.limit; queued--) start()
  }
  return { limits, endedPerSecond: ended / options.seconds }
}

const noisy = (millis: number) => (uniform: number) => millis * (0.75 + 0.5 * uniform)
const exponential = (millis: number) => (uniform: number) => -Math.log(1 - uniform) * millis
const mean = (values: ReadonlyArray<number>) => values.reduce((a, b) => a + b, 0) / values.length

describe("gradient", () => {
  // AD-01
  it("grows by one per window from 20 while calls take 1 s, then 0.5 s, over a baseline of 1 s", () => {
    const { call } = warm()
    assert.deepStrictEqual([call(1000, 5), call(500, 5)], [21, 22])
  })

  // AD-02
  it("falls by one per window while calls take 2 s over a baseline of 1 s", () => {
    const { call } = warm()
    assert.deepStrictEqual([call(2000, 10), call(2000, 10)], [19, 18])
  })

  it("holds while between 3 and 6 calls are queueing", () => {
    const { call } = warm()
    assert.deepStrictEqual([call(1300, 10), call(1300, 10)], [20, 20])
  })

  it("takes the 90th percentile of a window for its latency", () => {
    const core = make()
    for (let i = 1; i <= 50; i++) core.record("answered", 10 * i, 20, false, 1001)
    assert.strictEqual(core.recent.value, 450)
  })

  it("takes only answers for latencies", () => {
    for (const [kind, millis] of [["late", 5000], ["refused", 1]] as const) {
      const core = make()
      for (let i = 1; i <= 48; i++) core.record("answered", 10 * i, 20, false, 1001)
      window(core, kind, millis, 20, 1001, 2)
      assert.strictEqual(core.recent.value, 440)
    }
  })

  it("waits for two of the fastest call also where that was late, but not where it was refused", () => {
    const late = make({ minimumCalls: 20 })
    window(late, "late", 2000, 20, 1001, 20)
    assert.isUndefined(window(late, "late", 2000, 20, 5001, 20), "4 s are not over")
    assert.include(window(late, "late", 2000, 20, 5002, 1), { from: 10, to: 5 })
    const refused = make({ minimumCalls: 20 })
    window(refused, "refused", 1, 20, 1001, 1)
    window(refused, "answered", 2000, 20, 1001, 19)
    assert.isUndefined(window(refused, "answered", 2000, 20, 5001, 20), "4 s are not over")
    assert.isDefined(window(refused, "answered", 2000, 20, 5002, 1))
  })

  it("counts queueing in steps, which are of two calls from 100 on", () => {
    // Of 100 calls 10 are queueing: 5 steps' worth, where 6 would be one too many.
    const { call } = warm({ initial: 100 })
    assert.strictEqual(call(1130, 50), 100)
  })

  it("falls above 6 steps' worth of queueing, grows below 3, and else holds", () => {
    const still = { correlation: 0, variation: 0 }
    const steps = (queueing: number) => changeOf(queueing, true, still, still).steps
    assert.deepStrictEqual([-5, 2.9, 3, 6, 6.1].map(steps), [1, 1, 0, 0, -1])
  })

  it("listens to correlations while guarded, to throughput before latency", () => {
    const change = (guarded: boolean, throughput: number, variation: number, latency: number) =>
      changeOf(0, guarded, { correlation: throughput, variation }, { correlation: latency, variation: 1 }).why
    assert.strictEqual(change(true, -0.01, 1, 0), "throughput falls")
    assert.strictEqual(change(true, -0.01, 1, 0.9), "throughput falls")
    assert.strictEqual(change(true, 0, 1, 0.51), "latency grows without throughput")
    assert.strictEqual(change(true, 0.29, 1, 0.51), "latency grows without throughput")
    assert.strictEqual(change(true, 0.3, 0.19, 0.51), "latency grows without throughput")
    assert.strictEqual(change(true, 0.3, 0.2, 0.51), "room")
    assert.strictEqual(change(true, 0, 0, 0.5), "room")
    assert.strictEqual(change(false, -1, 0, 1), "room")
    const steady = { correlation: 0, variation: 1 }
    assert.deepStrictEqual(changeOf(6.01, true, steady, steady), { steps: -1, why: "queueing" })
  })

  // AD-04
  it("is not impressed by one window of 300 ms among 100, 200, 200 and 250", () => {
    const median = new Median(5)
    const { call, core } = warm()
    const medians = [100, 300, 200, 200, 250].map((millis) => {
      call(millis, 10)
      return median.add(millis)
    })
    assert.strictEqual(medians.at(-1), 200)
    assert.closeTo(core.recent.value, 200, 1e-9)
  })

  // AD-05
  it("remembers the most calls in flight for as long as it is told to", () => {
    const dip = (stabilizationMillis: number, after: number) => {
      const { call } = warm({ maxFactor: 1.5, stabilizationMillis })
      return [call(1000, 20), call(1000, 5, after)]
    }
    assert.deepStrictEqual(dip(300_000, 2000), [21, 22])
    assert.deepStrictEqual(dip(0, 2000), [21, 20])
    assert.deepStrictEqual(dip(10_000, 12_000), [21, 20])
    assert.deepStrictEqual(dip(10_000, 9999), [21, 22])
    assert.deepStrictEqual(dip(10_000, 10_000), [21, 20])
  })

  // AD-07
  it("rejects nobody while up to 60 wait, everybody while 100 wait, and in between in proportion", () => {
    assert.deepStrictEqual([60, 80, 100, 120].map((queued) => rejectionAt(queued, 60, 100)), [0, 0.5, 1, 1])
    assert.deepStrictEqual([59, 60].map((queued) => rejectionAt(queued, 60, 60)), [0, 1])
  })

  it("comes down to what is used a step at a time, and not below where it began", () => {
    const { call, core } = warm({ maxFactor: 2, stabilizationMillis: 0 })
    while (core.limit < 60) call(1000, 50)
    assert.strictEqual(call(1000, 12), 59)
    assert.strictEqual(call(1000, 29), 58)
    assert.strictEqual(call(1000, 29), 58, "used up to 58")
    assert.strictEqual(call(1000, 29), 58)
    for (let i = 0; i < 60; i++) call(1000, 1)
    assert.strictEqual(core.limit, 20)
  })

  it("says whether it comes down for what is used, or for what is queueing", () => {
    const move = (limit: number, millis: number, inFlight: number, maxFactor = 2) => {
      const { core } = warm({ maxFactor, stabilizationMillis: 0 })
      core.limit = limit
      const { to, why } = core.record("answered", millis, inFlight, false, 2000)!
      return [to, why]
    }
    assert.deepStrictEqual(move(60, 1000, 12), [59, "more than is used"])
    assert.deepStrictEqual(move(59, 2000, 29), [58, "queueing"], "which is what is used")
    assert.deepStrictEqual(move(100, 1000, 101, 1), [101, "room"], "as far as is used")
  })

  it("does not grow while idle", () => {
    const core = make()
    for (let now = 0; now < 600_000; now += 20) core.record("answered", 10, 1, false, now)
    assert.strictEqual(core.limit, 20)
  })

  it("moves once a window is over by time and by calls, and waits for two of the fastest call", () => {
    const core = make({ minimumCalls: 3 })
    const at = (now: number, millis = 100) => core.record("answered", millis, 10, false, now)?.to
    assert.deepStrictEqual([at(0), at(0), at(0), at(1)], [undefined, undefined, undefined, 21])
    assert.deepStrictEqual([at(500), at(1001), at(1001)], [undefined, undefined, undefined], "not before 1 s")
    assert.deepStrictEqual([at(1002)], [22])
    // The next window has a call of 2 s and one of 700 ms: 1.4 s.
    assert.deepStrictEqual([at(2003, 2000), at(2003, 700), at(2003, 900)], [undefined, undefined, 23])
    assert.deepStrictEqual([at(3403), at(3403), at(3403), at(3404)], [undefined, undefined, undefined, 24])
    // And of calls that take minutes at most 30 s.
    const slow = [4405, 4405, 4405].map((now) => at(now, 100_000))
    assert.isUndefined(slow[0])
    const limit = core.limit
    assert.deepStrictEqual([at(34_405), at(34_405), at(34_405)], [undefined, undefined, undefined])
    at(34_406)
    assert.notStrictEqual(core.limit, limit)
  })

  it("steps by one below 100 and by two from there", () => {
    const core = make({ initial: 99, minimumCalls: 1 })
    const limits: Array<number> = []
    for (let now = 1001; now < 6000; now += 1001) {
      core.record("answered", 100, 99, false, now)
      limits.push(core.limit)
    }
    assert.deepStrictEqual(limits, [100, 102, 104, 106, 108])
  })

  it("stays within its bounds", () => {
    const high = make({ initial: 9, max: 10, minimumCalls: 1 })
    for (let now = 1001; now < 9000; now += 1001) high.record("answered", 100, 9, false, now)
    assert.strictEqual(high.limit, 10)
    const low = make({ initial: 5, min: 4 })
    for (let now = 1001; now < 9000; now += 1001) window(low, "late", 100, 5, now)
    assert.strictEqual(low.limit, 4)
  })

  it("falls to the share that the endpoint served in time, at most by half and at least by one", () => {
    for (const [late, limit] of [[50, 50], [25, 50], [10, 80], [3, 94], [2, 102]] as const) {
      const core = make({ initial: 100 })
      window(core, "late", 100, 100, 1001, late)
      window(core, "answered", 100, 100, 1001, 50 - late)
      assert.strictEqual(core.limit, limit, `${late} of 50 late`)
    }
    const core = make({ initial: 3 })
    const tolerant = make({ minimumCalls: 20 })
    window(tolerant, "late", 100, 20, 1001, 1)
    window(tolerant, "answered", 100, 20, 1001, 19)
    assert.strictEqual(tolerant.limit, 21, "1 of 20")
    window(core, "refused", 1, 3, 1001, 3)
    const move = window(core, "answered", 100, 3, 1001, 47)
    assert.include(move, { from: 3, to: 2, why: "overload", overloaded: 0.06 })
  })

  it("shrinks while every call runs into the same timeout, which has no variation at all", () => {
    const core = make()
    const limits: Array<number> = []
    for (let now = 2001; now < 20_000; now += 2001) {
      window(core, "late", 1000, core.limit, now, 50, true)
      limits.push(core.limit)
    }
    assert.deepStrictEqual(limits, [10, 5, 2, 1, 1, 1, 1, 1, 1])
    assert.isNaN(core.baseline.value)
  })

  it("learns nothing of latency from a window of overload, nor from calls that were refused", () => {
    const core = make()
    window(core, "answered", 100, 20, 1001)
    window(core, "late", 5000, 20, 2002, 25)
    window(core, "answered", 4000, 20, 2002, 25)
    assert.strictEqual(core.recent.value, 100)
    assert.strictEqual(core.limit, 10)
    // 8 seconds, two of the fastest call, are over; and 1 of 50 is tolerated.
    window(core, "refused", 1, 10, 11_000, 1)
    window(core, "answered", 100, 10, 11_000, 49)
    assert.strictEqual(core.recent.value, 100)
    assert.strictEqual(core.limit, 11)
  })

  it("counts the next window after one of nothing but refusals from the time it ended", () => {
    const core = make({ minimumCalls: 1 })
    core.record("refused", 0, 20, false, 1)
    assert.strictEqual(core.limit, 10)
    core.record("refused", 0, 20, false, 1001)
    assert.strictEqual(core.limit, 10)
    core.record("refused", 0, 20, false, 1002)
    assert.strictEqual(core.limit, 5)
  })

  it("falls while full when more in flight comes with more latency and no more throughput", () => {
    const core = make({ minimumCalls: 1, maxFactor: 100 })
    const moves: Array<Move> = []
    for (let n = 1; n <= 12; n++) {
      // Latency in proportion to what is in flight, as of an endpoint that does 100 calls per second.
      const move = core.record("answered", 10 * core.limit, core.limit, true, n * 2000)
      if (move !== undefined) moves.push(move)
    }
    assert.deepStrictEqual(moves.slice(-2).map(({ from, to, why }) => [to - from, why]), [
      [-1, "latency grows without throughput"],
      [-1, "latency grows without throughput"]
    ])
    const notFull = make({ minimumCalls: 1, maxFactor: 100 })
    for (let n = 1; n <= 12; n++) notFull.record("answered", 10 * notFull.limit, notFull.limit, false, n * 2000)
    assert.isAbove(notFull.limit, core.limit)
  })

  it("falls while full when more in flight comes with less throughput", () => {
    const core = make({ minimumCalls: 1, maxFactor: 100 })
    const moves: Array<Move> = []
    for (let n = 1; n <= 30; n++) {
      const move = core.record("answered", 100 + core.limit ** 2, core.limit, true, n * 2000)
      if (move !== undefined) moves.push(move)
    }
    const because = moves.filter(({ why }) => why === "throughput falls")
    assert.isAbove(because.length, 0)
    because.forEach(({ from, to }) => assert.strictEqual(to, from - 1))
  })

  it("cuts no further once calls end at half the pace they had with more in flight", () => {
    const core = make({ minimumCalls: 1, maxFactor: 100 })
    let now = 0
    const limitAfter = (wait: number) => {
      now += wait
      core.record("answered", 100 + core.limit ** 2, core.limit, true, now)
      return core.limit
    }
    const before = Array.from({ length: 24 }, () => limitAfter(2000))
    assert.deepStrictEqual(before.slice(-4), [29, 28, 27, 26])
    const after = Array.from({ length: 24 }, () => limitAfter(4000))
    assert.strictEqual(Math.min(...after), 26)
  })

  for (
    const [name, service, seconds] of [["noisy", noisy(100), 300], ["exponential", exponential(100), 300]] as const
  ) {
    it(`neither drifts away from an overloaded endpoint's capacity nor wastes it, with ${name} service`, () => {
      const { endedPerSecond, limits } = simulate({ perSecond: 1000, servers: 50, service, seconds, seed: 1 })
      const settled = limits.slice(100)
      assert.isAtMost(Math.max(...settled), 85)
      assert.isAtLeast(Math.min(...settled), 35)
      assert.isAtLeast(endedPerSecond, 0.85 * 500)
    })
  }

  it("keeps the limit of an endpoint whose latency varies by 25 % and does not depend on load", () => {
    const { endedPerSecond, limits } = simulate({
      perSecond: 200,
      servers: 400,
      service: noisy(100),
      seconds: 120,
      seed: 2
    })
    limits.forEach((limit, second) => assert.isAtLeast(limit, 20, `after ${second} s`))
    // In flight are 20 on average, so 5 times the busiest moment is well above it.
    assert.isAbove(mean(limits.slice(60)), 80)
    assert.isAbove(endedPerSecond, 190)
  })

  it.prop(
    "moves one step at a time but for overload, within its bounds, and says from where to where",
    {
      calls: Schema.Array(Schema.Tuple([
        Schema.Literals(["answered", "answered", "answered", "late", "refused"]),
        Schema.Literals([1, 50, 100, 101, 400, 5000]),
        Schema.Literals([1, 5, 20, 60]),
        Schema.Boolean,
        Schema.Literals([0, 0, 1001, 5000, 40_000])
      ])),
      initial: Schema.Literals([2, 5, 20, 99, 100]),
      minimumCalls: Schema.Literals([1, 2])
    },
    ({ calls, initial, minimumCalls }) => {
      const core = make({ initial, minimumCalls, min: 2, max: 101 })
      let now = 1
      for (const [kind, millis, inFlight, full, gap] of calls) {
        const from = core.limit
        now += gap
        const move = core.record(kind, millis, inFlight, full, now)
        assert.strictEqual(move === undefined, core.limit === from)
        assert.isTrue(core.limit >= 2 && core.limit <= 101)
        if (move === undefined) continue
        assert.include(move, { from, to: core.limit })
        if (move.why === "overload") assert.isTrue(core.limit < from && core.limit >= Math.floor(from / 2))
        else assert.isAtMost(Math.abs(core.limit - from), from >= 100 ? 2 : 1)
        if (core.limit > from) assert.strictEqual(move.why, "room")
      }
    }
  )
})

describe("quantile", () => {
  it("is the smallest value that the share does not exceed", () => {
    const sample = new Sample()
    assert.isNaN(sample.quantile(0.9))
    for (let value = 10; value >= 1; value--) sample.add(value)
    assert.deepStrictEqual([0, 0.1, 0.11, 0.9, 0.91, 1].map((q) => sample.quantile(q)), [1, 1, 2, 9, 10, 10])
    sample.clear()
    assert.isNaN(sample.quantile(0.9))
    sample.add(7)
    assert.strictEqual(sample.quantile(0.5), 7)
  })

  it("keeps the latest 256 values", () => {
    const sample = new Sample()
    for (let i = 0; i < 300; i++) sample.add(i < 44 ? 1e6 : i)
    assert.deepStrictEqual([sample.quantile(0), sample.quantile(1)], [44, 299])
    sample.add(-1)
    assert.deepStrictEqual([sample.quantile(0), sample.quantile(1)], [-1, 299])
  })

  it("takes the median of the latest few, the upper one of an even number", () => {
    const median = new Median(3)
    assert.deepStrictEqual([5, 1, 9, 2, 3].map((value) => median.add(value)), [5, 5, 5, 2, 3])
  })

  it("averages the first ten values plainly and forgets from then on", () => {
    const average = new Average(10)
    assert.isNaN(average.value)
    for (let i = 1; i <= 10; i++) assert.closeTo(average.add(i), (i + 1) / 2, 1e-12)
    assert.closeTo(average.add(16.5), 7.5, 1e-12)
  })
})

describe("correlation", () => {
  const of = (pairs: ReadonlyArray<readonly [number, number]>, size = 50) => {
    const correlation = new Correlation(size)
    let last = { correlation: Number.NaN, variation: Number.NaN }
    for (const [x, y] of pairs) last = correlation.add(x, y)
    return last
  }
  const line = (count: number, f: (x: number) => number) =>
    Array.from({ length: count }, (_, x) => [x + 1, f(x + 1)] as const)

  it("is 1 on a rising line, -1 on a falling one, and 0 before ten pairs", () => {
    assert.closeTo(of(line(10, (x) => 3 * x + 1)).correlation, 1, 1e-12)
    assert.closeTo(of(line(10, (x) => 100 - x)).correlation, -1, 1e-12)
    assert.deepStrictEqual(of(line(9, (x) => x)), { correlation: 0, variation: 0 })
  })

  it("is 0 where one of the two varies by less than 1 %", () => {
    assert.strictEqual(of(line(20, (x) => 1000 + x)).correlation, 0)
    assert.strictEqual(of(line(20, (x) => x).map(([x, y]) => [1000 + x, y] as const)).correlation, 0)
    assert.strictEqual(of(line(20, () => 0)).correlation, 0)
    assert.closeTo(of(line(20, (x) => 400 + x)).correlation, 1, 1e-12, "by 1.4 %")
  })

  it("says how much the second varies", () => {
    assert.closeTo(of(line(10, (x) => x % 2 === 0 ? 90 : 110)).variation, 0.1, 1e-12)
  })

  it("is of the latest pairs", () => {
    assert.closeTo(of([...line(15, (x) => x), ...line(10, (x) => -x)], 10).correlation, -1, 1e-12)
  })

  it("means the second over the pairs whose first is greater", () => {
    const correlation = new Correlation(3)
    assert.strictEqual(correlation.meanAbove(0), 0)
    for (const [x, y] of [[9, 1000], [1, 10], [2, 20], [3, 40]] as const) correlation.add(x, y)
    assert.deepStrictEqual([correlation.meanAbove(0), correlation.meanAbove(1), correlation.meanAbove(3)], [
      70 / 3,
      30,
      0
    ])
  })
})
