import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as FaultScript from "../../src/testing/FaultScript.ts"
import { flipped, Lane, type Way } from "../../src/testing/internal/chaosLane.ts"
import { Dice } from "../../src/testing/internal/simDraw.ts"

type Phases = FaultScript.FaultScript["phases"]

/** Sends sizes at times through one lane, under a script. */
const lane = (phases: Phases, way: Way = "down", seed = "test") =>
  Effect.map(FaultScript.read({ phases }), (script) => {
    const lane = new Lane(way, new Dice(seed, "lane"))
    return (now: number, bytes: number) => lane.pass(now, bytes, FaultScript.faultsAt(script, now, {}))
  })

const one = (fault: Phases[0]["fault"]): Phases => [{ name: "p", to: 10_000, fault }]
const at = ({ pieces }: ReturnType<Lane["pass"]>) =>
  pieces.map(({ atMillis, bytes }) => `${bytes}@${atMillis}`).join(" ")

describe("chaosLane", () => {
  it.effect("bandwidth lets a tenth of a second through at a time, and what follows waits its turn", () =>
    Effect.gen(function*() {
      const pass = yield* lane(one({ kind: "bandwidth", bytesPerSecond: 100 }))
      assert.strictEqual(at(pass(0, 25)), "10@100 10@200 5@250")
      assert.strictEqual(at(pass(50, 10)), "10@350")
      assert.strictEqual(at(pass(1000, 1)), "1@1010")
    }))

  it.effect("slices are as long as they are told to be, with gaps between them", () =>
    Effect.gen(function*() {
      const pass = yield* lane(one({ kind: "slice", bytes: 4, gap: 5 }))
      assert.strictEqual(at(pass(0, 10)), "4@0 4@5 2@10")
      const varied = yield* lane(one({ kind: "slice", bytes: 10, variation: 3 }))
      const sizes = varied(0, 1000).pieces.map(({ bytes }) => bytes)
      assert.deepStrictEqual([...new Set(sizes.slice(0, -1))].toSorted((a, b) => a - b), [7, 8, 9, 10, 11, 12, 13])
    }))

  it.effect("what comes behind a stall waits for it", () =>
    Effect.gen(function*() {
      const pass = yield* lane(one({ kind: "stall", pause: 200, ratio: 0.5 }))
      const times = Array.from({ length: 40 }, (_, n) => pass(n * 10, 1).pieces[0]!.atMillis - n * 10)
      assert.isTrue(times.some((delay) => delay === 200))
      assert.isTrue(times.some((delay) => delay > 0 && delay < 200))
      assert.isTrue(times.every((delay) => delay >= 0 && delay <= 200))
    }))

  it.effect("each jitter is spread as it says, and none arrives before it was sent", () =>
    Effect.gen(function*() {
      const spread = (distribution: "uniform" | "normal" | "exponential" | "pareto") =>
        Effect.gen(function*() {
          const delays: Array<number> = []
          for (let n = 0; n < 400; n++) {
            const pass = yield* lane(one({ kind: "latency", delay: 100, jitter: 50, distribution }), "down", `${n}`)
            delays.push(pass(0, 1).pieces[0]!.atMillis)
          }
          delays.sort((a, b) => a - b)
          return { least: delays[0]!, median: delays[200]!, most: delays[399]! }
        })
      const uniform = yield* spread("uniform")
      assert.isTrue(uniform.least >= 50 && uniform.most <= 150 && Math.abs(uniform.median - 100) < 10)
      const normal = yield* spread("normal")
      assert.isTrue(normal.least >= 0 && normal.most > 180 && Math.abs(normal.median - 100) < 10)
      const exponential = yield* spread("exponential")
      assert.isTrue(exponential.least >= 100 && Math.abs(exponential.median - 100 - 50 * Math.LN2) < 8)
      const pareto = yield* spread("pareto")
      assert.isTrue(pareto.least >= 150 && pareto.most > 600)
    }))

  it.effect("a limit counts over all that passes, lets the last bytes through and closes", () =>
    Effect.gen(function*() {
      const pass = yield* lane(one({ kind: "limit", bytes: 10 }))
      assert.deepStrictEqual([at(pass(0, 6)), at(pass(0, 4))], ["6@0", "4@0"])
      const last = pass(0, 3)
      assert.deepStrictEqual([at(last), last.closes], ["0@0", true])
      const cut = (yield* lane(one({ kind: "limit", bytes: 10 })))(0, 25)
      assert.deepStrictEqual([at(cut), cut.closes], ["10@0", true])
    }))

  it.effect("corruption flips one bit, of a copy, by the dice of its seed", () =>
    Effect.gen(function*() {
      const bytes = Buffer.from(Array.from({ length: 64 }, (_, n) => n))
      const flips = (seed: string) =>
        Effect.map(lane(one({ kind: "corrupt" }), "down", seed), (pass) => pass(0, 64).flips)
      const changed = flipped(bytes, yield* flips("a"))
      const differences = [...changed].map((byte, n) => byte ^ n).filter((difference) => difference !== 0)
      assert.strictEqual(differences.length, 1)
      assert.strictEqual(Math.log2(differences[0]!) % 1, 0)
      assert.isTrue(bytes.every((byte, n) => byte === n))
      assert.deepStrictEqual(yield* flips("a"), yield* flips("a"))
      assert.notDeepEqual(yield* flips("a"), yield* flips("b"))
    }))

  it.effect("nothing happens the other way", () =>
    Effect.gen(function*() {
      for (const kind of ["corrupt", "blackHole", "stall"] as const) {
        assert.deepStrictEqual((yield* lane(one({ kind }), "up"))(5, 3), {
          pieces: [{ bytes: 3, atMillis: 5 }],
          flips: [],
          lostUntil: undefined,
          closes: false
        })
      }
    }))

  it.effect.prop(
    "every byte arrives once, in order, not before it was sent and not after the last phase that held it",
    {
      sends: Schema.Array(Schema.Struct({
        gap: Schema.Literals([0, 0, 1, 40, 400]),
        bytes: Schema.Literals([0, 1, 7, 100])
      })),
      kinds: Schema.NonEmptyArray(Schema.Struct({
        kind: Schema.Literals(["latency", "stall", "bandwidth", "slice"]),
        from: Schema.Literals([0, 50, 300]),
        to: Schema.Literals([350, 500, 900])
      }))
    },
    ({ kinds, sends }) =>
      Effect.gen(function*() {
        const faults = {
          latency: { kind: "latency", delay: 60, jitter: 60 },
          stall: { kind: "stall", pause: 500, ratio: 0.3 },
          bandwidth: { kind: "bandwidth", bytesPerSecond: 200 },
          slice: { kind: "slice", bytes: 3, variation: 2, gap: 20 }
        } as const
        const phases = kinds.map(({ from, kind, to }, n) => ({ name: `${n}`, from, to, fault: faults[kind] }))
        const pass = yield* lane(phases as never)
        const script = yield* FaultScript.read({ phases })
        let now = 0
        for (const { bytes, gap } of sends) {
          now += gap
          const { pieces } = pass(now, bytes)
          assert.strictEqual(pieces.reduce((sum, piece) => sum + piece.bytes, 0), bytes)
          const ends = FaultScript.faultsAt(script, now, {}).map(({ toMillis }) => toMillis)
          let before = now
          for (const { atMillis } of pieces) {
            assert.isAtLeast(atMillis, before)
            before = atMillis
          }
          assert.isAtMost(before, Math.max(now, ...ends))
        }
      })
  )
})
