import { assert, describe, it } from "@effect/vitest"
import { Clock, Context, Effect, Fiber, Scheduler } from "effect"
import * as Timer from "../../../src/contract/Timer.ts"
import * as Arrivals from "../../../src/testing/internal/simArrivals.ts"
import * as Draw from "../../../src/testing/internal/simDraw.ts"
import * as Stats from "../../../src/testing/internal/simStats.ts"
import { World } from "../../../src/testing/internal/simTime.ts"

describe("a histogram", () => {
  it("has quantiles within half a per cent, and the largest exactly", () => {
    const histogram = new Stats.Histogram()
    assert.strictEqual(histogram.quantile(0.99), 0)
    for (let i = 1; i <= 10_000; i++) histogram.record(i)
    for (const share of [0.001, 0.5, 0.9, 0.99, 0.999]) {
      assert.closeTo(histogram.quantile(share) / (share * 10_000), 1, 0.0051)
    }
    assert.deepStrictEqual([histogram.max, histogram.mean()], [10_000, 5000.5])
  })
})

describe("recovery", () => {
  const of = (answered: ReadonlyArray<number | undefined>, baseline = 1) => Stats.recovered(answered, 1, baseline)

  it("is the first interval of five in a row that are as good as before, or of those until the end", () => {
    assert.strictEqual(of([1, 0, 0.95, 0.95, 0.5, 0.95, 1, 1, 1, 1, 0]), 5)
    assert.strictEqual(of([1, 0, 0, 0.9, 1]), 3)
    assert.strictEqual(of([1, 1, undefined, 1, 1, 1, 1]), 1)
    assert.isUndefined(of([1, 0.89, 0.89]))
    assert.strictEqual(of([0.5, 0.46, 0.46], 0.5), 1)
  })
})

describe("circuits", () => {
  it("are counted by state, weighted by time", () => {
    const circuits = new Stats.Circuits(4)
    circuits.move("Closed", "Open", 250)
    circuits.move("Open", "HalfOpen", 750)
    circuits.move("full", "empty", 800)
    assert.deepStrictEqual(circuits.take(1000), {
      Closed: 3.25,
      Open: 0.5,
      HalfOpen: 0.25,
      Recovering: 0,
      ForcedOpen: 0
    })
    assert.deepStrictEqual(circuits.take(2000), { Closed: 3, Open: 0, HalfOpen: 1, Recovering: 0, ForcedOpen: 0 })
  })
})

describe("a rate", () => {
  it("moves linearly between points, jumps where two are at one instant, and stays after the last", () => {
    const points = [
      { atMillis: 0, perSecond: 10 },
      { atMillis: 100, perSecond: 20 },
      { atMillis: 100, perSecond: 50 },
      { atMillis: 200, perSecond: 0 }
    ]
    const rates = [0, 50, 99, 100, 150, 200, 900].map((at) => Arrivals.rateAt(points, at))
    assert.deepStrictEqual(rates, [10, 15, 19.9, 50, 25, 0, 0])
  })
})

describe("draws", () => {
  it("have the mean their distribution says, and a stream of their own for each name", () => {
    const distributions: ReadonlyArray<Draw.Distribution> = [
      { kind: "constant", millis: 7 },
      { kind: "uniform", from: 2, to: 4 },
      { kind: "exponential", mean: 30 },
      { kind: "normal", mean: 10, deviation: 2 },
      { kind: "lognormal", mu: 1, sigma: 0.5 },
      { kind: "pareto", minimum: 1, alpha: 2.5, cap: 1000 },
      { kind: "mixture", of: [[3, { kind: "constant", millis: 1 }], [1, { kind: "constant", millis: 5 }]] }
    ]
    for (const of of distributions) {
      const dice = new Draw.Dice("means", of.kind)
      let sum = 0
      for (let i = 0; i < 40_000; i++) sum += Draw.draw(of, dice)
      assert.closeTo(sum / 40_000 / Draw.mean(of), 1, 0.03, of.kind)
    }
    const first = (seed: string | number, name: string) => new Draw.Dice(seed, name).nextDoubleUnsafe()
    assert.strictEqual(first(1, "a"), first(1, "a"))
    assert.strictEqual(new Set([first(1, "a"), first(1, "b"), first(2, "a"), first("1", "a")]).size, 4)
  })
})

describe("virtual time", () => {
  const context = (world: World) =>
    Context.make(Clock.Clock, world as Clock.Clock).pipe(Context.add(Scheduler.Scheduler, world))

  it("wakes sleepers in the order of their times, and of one time in the order in which they lay down", () => {
    const world = new World()
    const woken: Array<string> = []
    const run = Effect.runForkWith(context(world))
    for (const [name, millis] of [["c", 30], ["a", 10], ["b", 10], ["never", Infinity]] as const) {
      run(Effect.andThen(Effect.sleep(millis), Effect.sync(() => woken.push(`${name}${world.now}`))))
    }
    world.advance(1000, () => woken.length === 2)
    assert.deepStrictEqual([woken, world.now], [["a10", "b10"], 10])
    world.advance(1000, () => false)
    assert.deepStrictEqual([woken, world.now], [["a10", "b10", "c30"], 1000])
  })

  it("forgets a sleeper that is interrupted, lets busy fibers take turns, and rings timers on time", () => {
    const world = new World()
    const rung: Array<number> = []
    const program = Effect.gen(function*() {
      const sleeper = yield* Effect.forkChild(Effect.sleep("1 hour"), { startImmediately: true })
      yield* Fiber.interrupt(sleeper)
      const turns: Array<string> = []
      const spin = (name: string) =>
        Effect.gen(function*() {
          for (let i = 0; i < 3000; i++) yield* Effect.void
          turns.push(name)
          yield* Effect.yieldNow
          turns.push(name)
        })
      yield* Effect.all([spin("a"), spin("b")], { concurrency: 2 })
      Timer.scheduleOn({ clock: world, scheduler: world }, Timer.nowOf(world) + 0.1, () => rung.push(world.now))
      yield* Effect.sleep(5)
      return turns
    })
    const fiber = Effect.runForkWith(context(world))(program)
    world.advance(1000, () => fiber.pollUnsafe() !== undefined)
    assert.deepStrictEqual(fiber.pollUnsafe(), Effect.runSyncExit(Effect.succeed(["a", "b", "a", "b"])))
    assert.deepStrictEqual([rung, world.now], [[0.1], 5])
    assert.strictEqual(Timer.size(world), 0)
  })
})
