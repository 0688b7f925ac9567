/**
 * Laws every backoff has to hold, for your own Schedules.
 *
 * - Every delay is a number, finite and `>= 0`: a retry loop can sleep it.
 * - No delay exceeds the `cap`, and all of them together do not exceed `total`.
 * - Each delay lies `within` its range: the jitter is what it claims to be.
 * - There are as many delays as `count` says, however it is jittered.
 * - The same seed gives the same delays, and one run knows nothing of another:
 *   a Schedule is shared by all calls.
 *
 * A Schedule that uses a state outside its runs, the wall clock or a chance of
 * its own breaks the last one. What is not stated is not checked.
 */
import * as Arbitrary from "effect/Arbitrary"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Options from "../contract/Options.ts"
import * as StackOptions from "../policy/StackOptions.ts"
import * as Laws from "./Laws.ts"
import * as ScheduleProbe from "./ScheduleProbe.ts"

export interface ScheduleLawsOptions<Input> extends Laws.CheckOptions {
  /** The longest delay it may state. */
  readonly cap?: Duration.Input | undefined
  /** The longest that all delays may take together: what a deadline leaves for waiting. */
  readonly total?: Duration.Input | undefined
  /** How many delays there are exactly; `"endless"` for more than are read. */
  readonly count?: number | "endless" | undefined
  /** The range of a delay by its number, from 0, in milliseconds: both ends belong to it. */
  readonly within?: ((attempt: number) => readonly [least: number, most: number]) | undefined
  /** What it is stepped with. Default `undefined`. */
  readonly inputs?: Arbitrary.Arbitrary<Input> | undefined
  /** Delays that are read of each run: an integer `>= 1`. Default 64. */
  readonly read?: number | undefined
}

const seeds = Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1e9 })))

/**
 * Checks the laws on runs of many seeds; fails with the first that is broken.
 *
 * Dies where the Schedule fails, and with a `RangeError` when an option is out of range.
 */
export const check = <Output, Input, Error, R>(
  schedule: Schedule.Schedule<Output, Input, Error, R>,
  options: ScheduleLawsOptions<Input> = {}
): Effect.Effect<void, Laws.LawBroken, R> =>
  Effect.suspend(() => {
    const where = "ScheduleLaws.check"
    const read = Options.integer(where, "read", options.read ?? 64, 1)
    const bounds: Bounds = {
      cap: options.cap === undefined ? Infinity : Options.millis(where, "cap", options.cap, true),
      total: options.total === undefined ? Infinity : Options.millis(where, "total", options.total, true),
      count: options.count === undefined || options.count === "endless"
        ? options.count
        : Options.integer(where, "count", options.count, 0),
      within: options.within,
      read
    }
    const inputs = Arbitrary.array(options.inputs ?? Arbitrary.Constant(undefined as Input), {
      minLength: 1,
      maxLength: 8
    })
    return Laws.check(Arbitrary.all({ seed: seeds, inputs }), ({ inputs, seed }) =>
      Effect.gen(function*() {
        const probe = Effect.orDie(ScheduleProbe.delays(schedule, { inputs, seed, count: read }))
        const delays = yield* probe
        yield* obeys(delays, bounds)
        const again = yield* probe
        yield* Laws.holds(
          delays.length === again.length && delays.every((delay, i) => delay === again[i]),
          "the same seed gives the same delays",
          () => `first ${shown(delays)}, then ${shown(again)}`
        )
      }), options)
  })

interface Bounds {
  readonly cap: number
  readonly total: number
  readonly count: number | "endless" | undefined
  readonly within: ((attempt: number) => readonly [number, number]) | undefined
  readonly read: number
}

const obeys = (delays: ReadonlyArray<number>, bounds: Bounds): Effect.Effect<void, Laws.Breach> =>
  Effect.gen(function*() {
    const { cap, count, read, total, within } = bounds
    let sum = 0
    for (const [attempt, delay] of delays.entries()) {
      const told = () => `delay ${attempt} is ${delay} ms, of ${shown(delays)}`
      yield* Laws.holds(Number.isFinite(delay), "every delay is finite", told)
      yield* Laws.holds(delay >= 0, "no delay is negative", told)
      yield* Laws.holds(delay <= cap, `no delay exceeds the cap of ${cap} ms`, told)
      sum += delay
      yield* Laws.holds(sum <= total, `all delays fit ${total} ms`, () => `${sum} ms after delay ${attempt}`)
      if (within === undefined) continue
      const [least, most] = within(attempt)
      yield* Laws.holds(delay >= least && delay <= most, `delay ${attempt} lies in [${least}, ${most}]`, told)
    }
    const { length } = delays
    if (count === "endless") {
      yield* Laws.holds(length === read, "it does not end", () => `it ends after ${length} delays`)
    } else if (count !== undefined) {
      const most = Math.min(count, read)
      yield* Laws.holds(length === most, `there are ${count} delays`, () => `there are ${length}`)
    }
  })

const shown = (delays: ReadonlyArray<number>): string =>
  `[${delays.slice(0, 12).map((delay) => Math.round(delay * 1000) / 1000).join(", ")}${
    delays.length > 12 ? ", …" : ""
  }]`

const millis = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 60_000 }))

/** Descriptions of backoffs of every kind, for properties about whatever takes one; `StackOptions.backoff` makes the Schedule. */
export const backoffs: Arbitrary.Arbitrary<StackOptions.BackoffOptions> = Arbitrary.all({
  kind: Arbitrary.schema(Schema.Literals(["constant", "linear", "exponential", "fibonacci", "decorrelated"])),
  base: Arbitrary.schema(millis),
  over: Arbitrary.schema(millis),
  jitter: Arbitrary.schema(Schema.Literals(["none", "full", "equal", "proportional", "decorrelated"]))
}).pipe(Arbitrary.map(({ base, jitter, kind, over }) => ({
  kind,
  base,
  cap: base + over + 1,
  ...(kind === "decorrelated" ? {} : { jitter })
})))

/** The Schedule of a description. */
export const scheduleOf: (backoff: StackOptions.BackoffOptions) => Schedule.Schedule<Duration.Duration> =
  StackOptions.backoff
