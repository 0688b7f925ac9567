/**
 * Reads a Schedule's delays without sleeping.
 *
 * A Schedule is stepped as a retry loop would step it, with time that only
 * passes by its own delays. What it would do after an hour is known at once.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Pull from "effect/Pull"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as Options from "../contract/Options.ts"

export interface ProbeOptions<Input> {
  /** What the Schedule is stepped with: the errors of a retry; the last is repeated. Default `undefined` for ever. */
  readonly inputs?: ReadonlyArray<Input> | undefined
  /** Where jitter comes from. Default: the chance of whoever asks. */
  readonly seed?: string | number | undefined
  /** Most delays that are read: an integer `>= 1`. Default 32. */
  readonly count?: number | undefined
  /** Wall-clock milliseconds at the first step, for what goes by the calendar. Default 0. */
  readonly startMillis?: number | undefined
}

/**
 * The delays of one run in milliseconds, as many as there are up to `count`. `Infinity` is one that never ends.
 *
 * Dies with a `RangeError` when an option is out of range.
 */
export const delays = <Output, Input, Error, R>(
  schedule: Schedule.Schedule<Output, Input, Error, R>,
  options: ProbeOptions<Input> = {}
): Effect.Effect<ReadonlyArray<number>, Error, R> => {
  const { inputs = [], seed } = options
  const read = Effect.gen(function*() {
    const count = Options.integer("ScheduleProbe.delays", "count", options.count ?? 32, 1)
    const step = yield* Schedule.toStep(schedule)
    const out: Array<number> = []
    let now = options.startMillis ?? 0
    while (out.length < count) {
      const input = inputs[Math.min(out.length, inputs.length - 1)] as Input
      const delay = yield* step(now, input).pipe(
        Effect.map(([, delay]) => Duration.toMillis(delay)),
        Pull.catchDone(() => Effect.undefined)
      )
      if (delay === undefined) break
      out.push(delay)
      now += Number.isFinite(delay) ? delay : 0
    }
    return out
  })
  return seed === undefined ? read : Random.withSeed(read, seed)
}
