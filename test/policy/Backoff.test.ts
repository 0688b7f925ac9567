import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Random } from "effect"
import * as Backoff from "../../src/policy/Backoff.ts"
import * as ScheduleProbe from "../../src/testing/ScheduleProbe.ts"
import { drawing } from "../support/drawing.ts"

const delays = (backoff: Backoff.Backoff, count: number) => ScheduleProbe.delays(backoff, { count })

const at = (backoff: Backoff.Backoff, draw: number, count: number) =>
  Effect.map(delays(backoff, count).pipe(drawing(draw)), (delays) => delays.map((delay) => Number(delay.toFixed(6))))

const jitters = ["none", "full", "equal", "proportional", "decorrelated"] as const
const kinds = {
  constant: Backoff.constant,
  linear: Backoff.linear,
  exponential: Backoff.exponential,
  fibonacci: Backoff.fibonacci
}

/** Every backoff with a random part, by name. */
const jittered = (bounds: Backoff.Bounds): Array<readonly [string, Backoff.Backoff]> => [
  ["decorrelated V2", Backoff.decorrelated(bounds)],
  ...Object.entries({ constant: Backoff.constant, exponential: Backoff.exponential }).flatMap(([kind, make]) =>
    jitters.slice(1).map((jitter) => [`${kind} ${jitter}`, make({ ...bounds, jitter })] as const)
  )
]

const quantile = (values: ReadonlyArray<number>, q: number) =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length * q)]!

describe("Backoff", () => {
  // RT-01
  it.effect("±25 % of a constant second is 0.75, 0.95, 1.05 and 1.25 s at draws of 0, 0.4, 0.6 and 1", () =>
    Effect.gen(function*() {
      const backoff = Backoff.constant({ base: "1 second", jitter: "proportional" })
      const seen = yield* Effect.forEach([0, 0.4, 0.6, 1], (draw) => at(backoff, draw, 1))
      assert.deepStrictEqual(seen.flat(), [750, 950, 1050, 1250])
      const zero = Backoff.constant({ base: 0, jitter: "proportional" })
      assert.deepStrictEqual(yield* at(zero, 0.9, 3), [0, 0, 0])
    }))

  // RT-02
  it.effect("linear counts up by its base, and jitters around that", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* at(Backoff.linear({ base: "1 second", jitter: "none" }), 0, 3), [1000, 2000, 3000])
      const backoff = Backoff.linear({ base: "1 second", jitter: "proportional" })
      const third = yield* Effect.forEach(
        [0, 0.4, 0.5, 0.6, 1],
        (draw) => Effect.map(at(backoff, draw, 3), (d) => d[2])
      )
      assert.deepStrictEqual(third, [2250, 2850, 3000, 3150, 3750])
    }))

  // RT-04: there all are exactly the cap; here only what has no jitter is, see RX-16.
  it.effect("a base of 10 s under a cap of 1 s waits 1 s, less the jitter", () =>
    Effect.gen(function*() {
      const bounds = { base: "10 seconds", cap: "1 second" } as const
      for (const make of Object.values(kinds)) {
        assert.deepStrictEqual(yield* at(make({ ...bounds, jitter: "none" }), 0.5, 3), [1000, 1000, 1000])
        assert.deepStrictEqual(yield* at(make({ ...bounds, jitter: "full" }), 0.5, 3), [500, 500, 500])
        assert.deepStrictEqual(yield* at(make({ ...bounds, jitter: "equal" }), 0.5, 3), [750, 750, 750])
        assert.deepStrictEqual(yield* at(make({ ...bounds, jitter: "proportional" }), 0.5, 3), [800, 800, 800])
      }
      assert.deepStrictEqual(yield* at(Backoff.decorrelated(bounds), 0.5, 3), [750, 750, 750])
    }))

  // RT-05, RX-18
  it.effect("a day, doubled a thousand times, is the longest timer, and under a cap of two days it is two days", () =>
    Effect.gen(function*() {
      const uncapped = yield* at(Backoff.exponential({ base: "1 day", jitter: "none" }), 0, 1100)
      assert.strictEqual(uncapped.at(-1), 0x7fff_ffff)
      const capped = yield* at(Backoff.exponential({ base: "1 day", cap: "2 days", jitter: "none" }), 0, 1100)
      assert.deepStrictEqual(capped.slice(-2), [172_800_000, 172_800_000])
    }))

  // RX-18
  it.effect("the 1,500th delay of an uncapped backoff is finite, whatever its kind", () =>
    Effect.gen(function*() {
      for (const [name, backoff] of jittered({ base: "1 second" })) {
        const all = yield* delays(backoff, 1500).pipe(Random.withSeed(name))
        assert.isTrue(all.every((delay) => delay >= 0 && delay <= 0x7fff_ffff), name)
      }
    }))

  // RT-10
  it.effect("from 1 ms to 10 ms six retries wait 1, 2, 4, 8, 10 and 10 ms", () =>
    Effect.gen(function*() {
      const backoff = Backoff.exponential({ base: 1, cap: 10, jitter: "none", recurs: 6 })
      assert.deepStrictEqual(yield* at(backoff, 0, 99), [1, 2, 4, 8, 10, 10])
    }))

  // RT-11
  it.effect("100 ms doubled under a cap of 100 s rises for eleven steps and then stays", () =>
    Effect.gen(function*() {
      const all = yield* at(Backoff.exponential({ base: 100, cap: 100_000, jitter: "none" }), 0, 13)
      for (let n = 1; n < 11; n++) assert.isAbove(all[n]!, all[n - 1]!)
      assert.deepStrictEqual(all.slice(10), [100_000, 100_000, 100_000])
    }))

  it("a negative base, a cap of zero, a factor below 1, a ratio above 1 and an unknown jitter die", () => {
    const message = (make: () => unknown) => {
      try {
        make()
      } catch (error) {
        assert.instanceOf(error, RangeError)
        return (error as Error).message
      }
      return undefined
    }
    assert.deepStrictEqual(
      [
        message(() => Backoff.constant({ base: -1 })),
        message(() => Backoff.linear({ base: "1 second", cap: 0 })),
        message(() => Backoff.exponential({ base: "1 second", factor: 0.5 })),
        message(() => Backoff.fibonacci({ base: "1 second", ratio: 1.1 })),
        message(() => Backoff.decorrelated({ base: Duration.infinity })),
        message(() => Backoff.decorrelated({ base: 1, recurs: -1 })),
        message(() => Backoff.constant({ base: 1, jitter: "half" as never }))
      ],
      [
        "Backoff.constant: base must be a duration >= 0 and finite, got -1",
        "Backoff.linear: cap must be a positive and finite duration, got 0",
        "Backoff.exponential: factor must be a number >= 1, got 0.5",
        "Backoff.fibonacci: ratio must be in [0, 1], got 1.1",
        "Backoff.decorrelated: base must be a duration >= 0 and finite, got Infinity",
        "Backoff.decorrelated: recurs must be an integer >= 0, got -1",
        "Backoff.constant: jitter must be none, full, equal, proportional or decorrelated, got \"half\""
      ]
    )
  })

  // RT-26
  it.effect("the same seed gives the same delays, another seed others, and two runs share nothing", () =>
    Effect.gen(function*() {
      for (const [name, backoff] of jittered({ base: 100, cap: 5000 })) {
        const run = (seed: string) => delays(backoff, 7).pipe(Random.withSeed(seed))
        const first = yield* run("a")
        assert.deepStrictEqual(yield* run("a"), first, name)
        assert.notDeepEqual(yield* run("b"), first, name)
      }
    }))

  it.effect("the attempts of decorrelated V2 come around base, 2 base, 4 base, … after the first failure", () =>
    Effect.gen(function*() {
      const runs = yield* Effect.replicateEffect(delays(Backoff.decorrelated({ base: 100 }), 5), 1001)
      for (const n of [0, 1, 2, 3, 4]) {
        const after = runs.map((run) => run.slice(0, n + 1).reduce((sum, delay) => sum + delay, 0))
        const median = quantile(after, 0.5)
        assert.isTrue(Math.abs(median / (100 * 2 ** n) - 1) < 0.15, `${n}: ${median}`)
      }
    }).pipe(Random.withSeed("medians")))

  // RX-16
  it.effect("at the cap the delays of 1,000 clients spread over a tenth of it and more, and none exceeds it", () =>
    Effect.gen(function*() {
      for (const [name, backoff] of jittered({ base: 500, cap: 1000 })) {
        const late = yield* Effect.map(
          Effect.replicateEffect(delays(backoff, 8), 1000),
          (runs) => runs.map((run) => run.at(-1)!)
        )
        assert.isTrue(late.every((delay) => delay <= 1000), name)
        // A constant half of the cap never reaches it, and spreads around itself.
        assert.isAtLeast(quantile(late, 0.9) - quantile(late, 0.1), 100, name)
      }
    }).pipe(Random.withSeed("cap")))

  // RX-36
  it.effect("the first retries of 1,000 clients that failed together are not simultaneous", () =>
    Effect.gen(function*() {
      for (const [name, backoff] of jittered({ base: 100, cap: 5000 })) {
        const first = (yield* Effect.replicateEffect(delays(backoff, 1), 1000)).flat()
        assert.isAtLeast(quantile(first, 0.9) - quantile(first, 0.1), 20, name)
        assert.isAbove(new Set(first).size, 900, name)
      }
    }).pipe(Random.withSeed("first")))
})
