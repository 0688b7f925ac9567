import { assert, describe, it } from "@effect/vitest"
import * as Schema from "effect/Schema"
import { type Pending, ratioOf, Rejection } from "../../../src/policy/internal/rejection.ts"

const make = (options: Partial<ConstructorParameters<typeof Rejection>[0]> = {}) =>
  new Rejection({
    k: 2,
    kMin: options.k ?? 2,
    windowMillis: 30_000,
    minimumCalls: 5,
    maxRejection: 0.9,
    forcedPassMillis: 1000,
    ...options
  })

/** Attempts that take no time: nothing is ever in flight when a decision is made. */
const ended = (core: Rejection, count: number, accepted: boolean, now: number) => {
  for (let i = 0; i < count; i++) {
    core.end(core.admit(now), now)
    core.record(accepted)
  }
}

/** A generator of its own, so that a seed means the same for ever: mulberry32. */
const random = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
}

interface Load {
  readonly core: Rejection
  readonly perSecond: number
  readonly latency: (uniform: number) => number
  /** Whether the server accepts an attempt that starts now. */
  readonly accepts: (now: number) => boolean
  readonly until: number
  readonly seed: number
}

/** Poisson arrivals at a server, event by event: the times of all attempts, and whether the throttle let them pass. */
const simulate = ({ accepts, core, latency, perSecond, seed, until }: Load) => {
  const uniform = random(seed)
  const inFlight: Array<{ readonly at: number; readonly pending: Pending; readonly accepted: boolean }> = []
  const log: Array<{ readonly at: number; readonly passed: boolean }> = []
  let now = 0
  for (;;) {
    now -= Math.log(1 - uniform()) * (1000 / perSecond)
    // Sorted by insertion, latest first: the queue is short.
    while (inFlight.length > 0 && inFlight.at(-1)!.at <= now) {
      const { accepted, at, pending } = inFlight.pop()!
      core.end(pending, at)
      core.record(accepted)
    }
    if (now > until) return log
    const ratio = core.ratio(now)
    const passed = ratio === 0 || core.mustPass(now) || uniform() >= ratio
    log.push({ at: now, passed })
    if (!passed) {
      core.reject(now)
      continue
    }
    const entry = { at: now + latency(uniform()), pending: core.admit(now), accepted: accepts(now) }
    let index = inFlight.length
    while (index > 0 && inFlight[index - 1]!.at < entry.at) index--
    inFlight.splice(index, 0, entry)
  }
}

const admitted = (log: ReturnType<typeof simulate>, from: number, to: number) => {
  const within = log.filter(({ at }) => at >= from && at < to)
  return within.filter(({ passed }) => passed).length / within.length
}

const constant = (millis: number) => () => millis
const exponential = (millis: number) => (uniform: number) => -Math.log(1 - uniform) * millis
/** Nine of ten answers take a hundredth of the mean, the tenth ten times it: the first answers say nothing of the rest. */
const bimodal = (millis: number) => (uniform: number) => uniform < 0.9 ? 0.01 * millis : 9.91 * millis

const healthy = [
  { perSecond: 40, millis: 1200 },
  { perSecond: 100, millis: 100 },
  { perSecond: 1000, millis: 20 }
]
const shapes = { constant, exponential, bimodal }

describe("rejection", () => {
  // AD-08
  it("rejects the excess over the accepted share, up to the maximum", () => {
    const ratio = (requests: number, accepts: number) => ratioOf(requests, accepts, 1 / 0.9, 0, 0.8)
    assert.strictEqual(ratio(100, 95), 0)
    assert.closeTo(ratio(120, 90), 20 / 121, 1e-12)
    assert.isTrue(ratio(200, 50) > 0.7 && ratio(200, 50) < 0.8)
    assert.strictEqual(ratio(1000, 10), 0.8)
    assert.strictEqual(ratio(0, 0), 0)
  })

  it.prop(
    "the share is at most the maximum, 0 within k times the accepts, and falls with every accepted attempt",
    {
      requests: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 200 })),
      accepts: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 100 })),
      k: Schema.Literals([1, 1.1, 1.5, 2, 3]),
      forgiven: Schema.Literals([0, 1, 5]),
      max: Schema.Literals([0.5, 0.9, 1])
    },
    ({ accepts, forgiven, k, max, requests }) => {
      const ratio = ratioOf(requests, accepts, k, forgiven, max)
      assert.isTrue(ratio >= 0 && ratio <= max && ratio < 1)
      assert.strictEqual(ratio === 0, requests <= forgiven + k * accepts)
      assert.isAtMost(ratioOf(requests, accepts + 1, k, forgiven, max), ratio)
    }
  )

  it("admits everything for as long as no attempt has ended", () => {
    const core = make()
    for (let now = 0; now < 60_000; now += 10) {
      assert.strictEqual(core.ratio(now), 0)
      core.admit(now)
    }
    assert.strictEqual(core.status().requests, 0)
  })

  it("leaves out of the requests what is in flight for less than three times the expected time", () => {
    const core = make({ minimumCalls: 0 })
    const first = core.admit(0)
    core.end(first, 100)
    core.record(true)
    assert.strictEqual(core.status().expectedMillis, 100)
    for (let i = 0; i < 9; i++) core.admit(100)
    core.ratio(200)
    // 9 in flight for 100 ms each, on top of the 100 ms of the one that has ended.
    assert.strictEqual(core.status().expectedMillis, 1000)
    assert.strictEqual(core.status().requests, 1)
  })

  it("expects nothing before an attempt has ended, and then what those that ended took, well or not", () => {
    const core = make()
    assert.strictEqual(core.status().expectedMillis, Infinity)
    const [first, second] = [core.admit(0), core.admit(0)]
    core.end(first, 100)
    core.record(true)
    core.end(second, 200)
    core.record(false)
    assert.strictEqual(core.status().expectedMillis, 150)
  })

  it("is done with an attempt that was open for longer than the window, also when that ends", () => {
    const core = make()
    const stream = core.admit(0)
    core.ratio(30_000)
    const attempt = core.admit(30_000)
    core.end(stream, 30_000)
    core.end(attempt, 31_000)
    core.record(true)
    // 38 of 40 buckets that the first was open for, and a second of the other.
    assert.strictEqual(core.status().expectedMillis, 38 * 750 + 1000)
  })

  it("counts a rejection when it happens, whoever asked before", () => {
    const core = make()
    core.ratio(0)
    core.reject(20_000)
    core.ratio(40_000)
    assert.strictEqual(core.status().rejections, 1)
  })

  it("takes a bucket that is over for healthy from three quarters on, at a k of 2", () => {
    const ratio = (accepted: number) => {
      const core = make({ maxRejection: 1 })
      ended(core, 100, false, 0)
      ended(core, accepted, true, 750)
      ended(core, 4 - accepted, false, 750)
      return core.ratio(1500)
    }
    assert.closeTo(ratio(3), (104 - 5 - 2 * 3) / 105 * (1 - 2 / 40), 1e-12)
    assert.closeTo(ratio(2), (104 - 5 - 2 * 2) / 105, 1e-12)
  })

  it("counts what is in flight for longer than that as a request that nobody has accepted", () => {
    const core = make({ minimumCalls: 0 })
    for (let now = 0; now < 10_000; now += 100) ended(core, 10, true, now)
    const hung = core.admit(10_000)
    for (let i = 0; i < 99; i++) core.admit(10_000)
    assert.strictEqual(core.ratio(10_000), 0)
    assert.strictEqual(core.status().requests, 1000)
    // 1,000 answers in no time and 100 hanging for 10 ms: expected is 1 ms, late are 3.
    core.ratio(10_010)
    assert.strictEqual(core.status().requests, 1100)
    core.end(hung, 10_020)
    assert.strictEqual(core.status().requests, 1099)
    core.record(false)
    assert.strictEqual(core.status().requests, 1100)
    assert.strictEqual(core.status().inFlight, 99)
  })

  it("takes an attempt for late after three times the expected time, and no sooner", () => {
    const core = make({ minimumCalls: 0 })
    for (let i = 0; i < 100; i++) core.end(core.admit(0), 0)
    const slow = core.admit(0)
    core.end(slow, 100)
    for (let i = 0; i < 100; i++) core.record(true)
    // 100 ms in flight for 100 attempts, and then one more that adds its own age to the sum.
    core.admit(100)
    core.ratio(103.09)
    assert.strictEqual(core.status().requests, 100)
    core.ratio(103.1)
    assert.strictEqual(core.status().requests, 101)
  })

  it("leaves what has been open for longer than the window out of what is to be expected", () => {
    const core = make({ windowMillis: 40_000 })
    core.admit(0)
    for (let now = 0; now <= 80_500; now += 500) {
      core.ratio(now)
      ended(core, 1, true, now)
    }
    // Of the stream's own time the window still holds nothing; of the answers' it holds 0 ms each.
    assert.isBelow(core.status().expectedMillis, 5)
    assert.strictEqual(core.status().inFlight, 1)
  })

  it("sums up time in flight over the buckets of the window", () => {
    const core = make({ windowMillis: 40_000 })
    const slow = core.admit(500)
    core.ratio(1500)
    core.end(slow, 20_500)
    core.record(true)
    assert.strictEqual(core.status().expectedMillis, 20_000)
    core.ratio(45_000)
    // The bucket in which it started, and the four seconds after that, are over.
    assert.strictEqual(core.status().expectedMillis, 14_500)
  })

  // RX-34
  it("counts its own rejections as requests, so that the pressure of callers keeps it shut", () => {
    const core = make({ maxRejection: 1, minimumCalls: 0, forcedPassMillis: 1e9 })
    ended(core, 10, false, 0)
    assert.closeTo(core.ratio(0), 10 / 11, 1e-12)
    for (let i = 0; i < 90; i++) core.reject(0)
    assert.closeTo(core.ratio(0), 100 / 101, 1e-12)
  })

  it("tightens k to kMin over a window in which nothing was accepted", () => {
    const core = make({ k: 1.5, kMin: 1.1, windowMillis: 40_000, minimumCalls: 0, maxRejection: 1 })
    ended(core, 100, true, 0)
    ended(core, 60, false, 1000)
    // One bucket of 40 has only failures: k is 1.5 - 0.4 / 40.
    assert.closeTo(core.ratio(1000), (160 - 149) / 161, 1e-12)
    for (let second = 2; second <= 20; second++) ended(core, 1, false, second * 1000)
    assert.closeTo(core.ratio(20_000), (179 - 130) / 180, 1e-12)
    // Quiet buckets end no row, and one accepted attempt does.
    assert.closeTo(core.ratio(30_000), (179 - 130) / 180, 1e-12)
    ended(core, 1, true, 30_000)
    // The accepted one is also the first bucket of a recovery.
    assert.closeTo(core.ratio(30_000), ((180 - 151.5) / 181) * (1 - 2 / 40), 1e-12)
  })

  it("counts only the failing buckets that follow the last accepted attempt", () => {
    const core = make({ k: 2, kMin: 1, windowMillis: 40_000, minimumCalls: 0, maxRejection: 1 })
    ended(core, 10, false, 0)
    ended(core, 10, false, 1000)
    ended(core, 1, true, 2000)
    ended(core, 10, false, 3000)
    ended(core, 10, false, 4000)
    assert.closeTo(core.ratio(4000), (41 - (2 - 2 / 40)) / 42, 1e-12)
  })

  it("takes a bucket for healthy when more than halfway between 1/k and all were accepted", () => {
    for (const [k, fewest] of [[2, 15], [1.25, 18], [4, 13]] as const) {
      for (const accepted of [fewest - 1, fewest]) {
        const core = make({ k, windowMillis: 40_000, minimumCalls: 0, maxRejection: 1 })
        ended(core, 1000, false, 0)
        ended(core, accepted, true, 1000)
        ended(core, 20 - accepted, false, 1000)
        const factor = accepted === fewest ? 1 - 2 / 40 : 1
        assert.closeTo(core.ratio(1000), ((1020 - k * accepted) / 1021) * factor, 1e-12, `${accepted} of 20 at ${k}`)
      }
    }
  })

  it("lifts the rejection over half a window of attempts that end well, which a stray failure does not stop", () => {
    const core = make({ windowMillis: 40_000, minimumCalls: 0, maxRejection: 1 })
    ended(core, 1000, false, 0)
    const ratios: Array<number> = []
    for (let second = 1; second <= 20; second++) {
      ended(core, 9, true, second * 1000)
      ended(core, second % 2, false, second * 1000)
      ratios.push(
        core.ratio(second * 1000) /
          ((core.status().requests - 2 * core.status().accepts) / (core.status().requests + 1))
      )
    }
    ratios.forEach((ratio, index) => assert.closeTo(ratio, 1 - (2 * (index + 1)) / 40, 1e-9))
    // Half of them is no recovery for k = 2: it is where the throttle keeps a struggling server.
    ended(core, 20, false, 20_500)
    assert.closeTo(core.ratio(20_500), (1210 - 2 * 180) / 1211, 1e-2)
  })

  it("forgets what is older than the window, however long nothing happened", () => {
    for (const later of [40_000, 41_000, 79_000, 80_000, 1e9]) {
      const core = make({ windowMillis: 40_000, minimumCalls: 0 })
      core.admit(0)
      ended(core, 100, false, 500)
      assert.isAbove(core.ratio(39_000), 0.8, "still within the window")
      core.ratio(later)
      assert.strictEqual(core.status().rejections + core.status().accepts, 0)
      assert.strictEqual(core.ratio(later), 0)
    }
  })

  it("forces a pass when none was admitted for long enough", () => {
    const core = make({ forcedPassMillis: 1000 })
    assert.isTrue(core.mustPass(0))
    core.admit(0)
    assert.isFalse(core.mustPass(999))
    assert.isTrue(core.mustPass(1000))
  })

  it("ends an attempt once, whatever becomes of it in between", () => {
    const core = make()
    const one = core.admit(0)
    const two = core.admit(0)
    const three = core.admit(0)
    core.end(two, 10)
    core.end(two, 10)
    assert.strictEqual(core.status().inFlight, 2)
    core.end(three, 10)
    core.end(one, 20)
    assert.strictEqual(core.status().inFlight, 0)
  })

  for (const { millis, perSecond } of healthy) {
    it(`rejects at most 0.1 % of a healthy server's attempts at ${perSecond} per second of ${millis} ms`, () => {
      for (const shape of Object.values(shapes)) {
        for (const options of [{}, { k: 1.5, kMin: 1.1, windowMillis: 10_000 }]) {
          const log = simulate({
            core: make(options),
            perSecond,
            latency: shape(millis),
            accepts: () => true,
            until: 20_000,
            seed: perSecond
          })
          assert.isAtLeast(admitted(log, 0, 5000), 0.999, "the first seconds")
          assert.isAtLeast(admitted(log, 0, 20_000), 0.999, "all")
        }
      }
    })

    it(`admits more than 99 % within one window of a recovery at ${perSecond} per second of ${millis} ms`, () => {
      for (const shape of [constant, exponential]) {
        for (const options of [{}, { k: 1.5, kMin: 1.1 }]) {
          const window = 30_000
          const [failsAt, recoversAt] = [10_000, 50_000]
          const log = simulate({
            core: make(options),
            perSecond,
            latency: shape(millis),
            accepts: (now) => now < failsAt || now >= recoversAt,
            until: recoversAt + window + 10_000,
            seed: perSecond
          })
          assert.isBelow(admitted(log, recoversAt - 10_000, recoversAt), 0.2, "while it fails")
          assert.isAbove(admitted(log, recoversAt + window, recoversAt + window + 10_000), 0.99, "a window later")
        }
      }
    })
  }

  it("keeps an overloaded server at k times what it accepts", () => {
    let tokens = 0
    let last = 0
    let accepted = 0
    const log = simulate({
      core: make(),
      perSecond: 200,
      latency: exponential(100),
      accepts: (now) => {
        tokens = Math.min(5, tokens + ((now - last) * 50) / 1000)
        last = now
        if (tokens < 1) return false
        tokens--
        accepted++
        return true
      },
      until: 120_000,
      seed: 1
    })
    // 50 of 200 per second are accepted, and with k = 2 twice as many are sent.
    assert.closeTo(admitted(log, 30_000, 120_000), 0.5, 0.03)
    assert.closeTo(accepted / 120, 50, 1)
  })
})

describe("other options of the same window", () => {
  it("are those of a throttle that had them from the start, from the next bucket on", () => {
    const was = { k: 1.1, kMin: 1.05, minimumCalls: 50, maxRejection: 0.2, forcedPassMillis: 5000 }
    const wanted = { k: 2, kMin: 1.5, windowMillis: 30_000, minimumCalls: 0, maxRejection: 0.8, forcedPassMillis: 10 }
    const [changed, made] = [make(was), make(wanted)]
    for (const core of [changed, made]) {
      ended(core, 80, false, 0)
      // Eight of ten are accepted: well for a `k` of 2, and not for one of 1.1.
      for (let bucket = 1; bucket < 8; bucket++) {
        ended(core, 8, true, bucket * 750)
        ended(core, 2, false, bucket * 750)
      }
    }
    assert.isTrue(changed.change(wanted))
    assert.isAbove(made.ratio(8 * 750), 0)
    for (let bucket = 8; bucket < 16; bucket++) {
      assert.strictEqual(changed.ratio(bucket * 750), made.ratio(bucket * 750))
      assert.strictEqual(changed.mustPass(bucket * 750), made.mustPass(bucket * 750))
      for (const core of [changed, made]) ended(core, 2, true, bucket * 750)
    }
  })

  it("are refused with another window, and change nothing", () => {
    const core = make()
    ended(core, 40, false, 0)
    const ratio = core.ratio(0)
    assert.isFalse(
      core.change({ k: 9, kMin: 9, windowMillis: 1, minimumCalls: 5, maxRejection: 0.9, forcedPassMillis: 1 })
    )
    assert.strictEqual(core.ratio(0), ratio)
  })
})
