import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Clock, Duration, Effect, Schedule } from "effect"
import * as Backoff from "../../src/policy/Backoff.ts"
import type * as Laws from "../../src/testing/Laws.ts"
import * as ScheduleLaws from "../../src/testing/ScheduleLaws.ts"
import * as ScheduleProbe from "../../src/testing/ScheduleProbe.ts"

const broken = (check: Effect.Effect<void, Laws.LawBroken>) => Effect.flip(check)

describe("ScheduleProbe", () => {
  it.effect("reads the delays of an hour without sleeping", () =>
    Effect.gen(function*() {
      const doubling = Backoff.exponential({ base: "1 second", cap: "20 minutes", jitter: "none", recurs: 12 })
      const delays = yield* ScheduleProbe.delays(doubling)
      assert.deepStrictEqual(delays.slice(0, 4), [1000, 2000, 4000, 8000])
      assert.deepStrictEqual([delays.length, delays.at(-1)], [12, 1_200_000])
    }))

  it.effect("steps with the given inputs, repeats the last, and reads no more than was asked", () =>
    Effect.gen(function*() {
      const asked = Schedule.identity<number>().pipe(
        Schedule.addDelay(({ input }) => Effect.succeed(Duration.millis(input)))
      )
      assert.deepStrictEqual(yield* ScheduleProbe.delays(asked, { inputs: [5, 7], count: 4 }), [5, 7, 7, 7])
    }))

  it.effect("draws by the seed", () =>
    Effect.gen(function*() {
      const jittered = Backoff.exponential({ base: 100, jitter: "full" })
      const read = (seed: string) => ScheduleProbe.delays(jittered, { seed, count: 8 })
      assert.deepStrictEqual(yield* read("a"), yield* read("a"))
      assert.notDeepEqual(yield* read("a"), yield* read("b"))
    }))
})

describe("ScheduleLaws", () => {
  it.effect("hold for every backoff there is", () =>
    Effect.gen(function*() {
      const backoffs = yield* Arbitrary.sampleEffect(ScheduleLaws.backoffs, { count: 150, seed: 7 })
      assert.strictEqual(new Set(backoffs.map(({ kind }) => kind)).size, 5)
      for (const backoff of backoffs) {
        yield* ScheduleLaws.check(ScheduleLaws.scheduleOf(backoff), { cap: backoff.cap, count: "endless", runs: 5 })
      }
    }))

  it.effect("know the range of a jitter and the number of delays", () =>
    ScheduleLaws.check(Backoff.linear({ base: 100, cap: 250, jitter: "equal", recurs: 6 }), {
      count: 6,
      total: 100 + 200 + 4 * 250,
      within: (attempt) => {
        const most = Math.min(250, 100 * (attempt + 1))
        return [most / 2, most]
      }
    }))

  it.effect("find what a Schedule does wrong, each by its name", () =>
    Effect.gen(function*() {
      const doubling = Schedule.exponential("100 millis")
      const stated = (millis: number) => Schedule.forever.pipe(Schedule.addDelay(() => Effect.succeed(millis)))
      const cases = [
        [ScheduleLaws.check(doubling, { cap: "10 seconds" }), "no delay exceeds the cap of 10000 ms"],
        [ScheduleLaws.check(stated(Infinity)), "every delay is finite"],
        [ScheduleLaws.check(Schedule.recurs(3), { count: 4 }), "there are 4 delays"],
        [ScheduleLaws.check(Schedule.recurs(3), { count: "endless" }), "it does not end"],
        [ScheduleLaws.check(Schedule.spaced(100), { total: "1 second" }), "all delays fit 1000 ms"],
        [
          ScheduleLaws.check(Schedule.spaced(100), { within: (n) => [0, n === 3 ? 99 : 100] }),
          "delay 3 lies in [0, 99]"
        ]
      ] as const
      for (const [check, law] of cases) assert.strictEqual((yield* broken(check)).law, law)
    }))

  it.effect("find a state that outlives a run, and a clock of its own", () =>
    Effect.gen(function*() {
      let calls = 0
      const shared = Schedule.forever.pipe(Schedule.addDelay(() => Effect.sync(() => Duration.millis(calls++))))
      const law = "the same seed gives the same delays"
      const lawBroken = yield* broken(ScheduleLaws.check(shared))
      assert.strictEqual(lawBroken.law, law)
      assert.match(lawBroken.message, /: first \[.*, …\], then \[.*, …\]\n {2}for \{.*\}\n {2}replay: /)
      const own = Schedule.forever.pipe(
        Schedule.addDelay(() => Effect.map(Clock.currentTimeNanos, () => Duration.millis(performance.now())))
      )
      assert.strictEqual((yield* broken(ScheduleLaws.check(own))).law, law)
    }))

  it.effect("check one case again by what a broken law tells", () =>
    Effect.gen(function*() {
      const check = (replay?: string) =>
        broken(ScheduleLaws.check(Backoff.exponential({ base: 100, jitter: "full" }), { cap: 900, replay }))
      const first = yield* check()
      assert.deepStrictEqual((yield* check(first.replay)).counterexample, first.counterexample)
    }))
})
