/** Steps Schedules without sleeping, and makes chance certain. */
import { Duration, Effect, Pull, Random, Schedule } from "effect"

/** The first `count` delays of a Schedule in milliseconds; fewer where it ends. */
export const delays = <R>(
  schedule: Schedule.Schedule<unknown, unknown, never, R>,
  count: number,
  input: unknown = "down"
): Effect.Effect<Array<number>, never, R> =>
  Effect.gen(function*() {
    const step = yield* Schedule.toStep(schedule)
    const out: Array<number> = []
    for (let now = 0; out.length < count; now += out.at(-1)!) {
      const delay = yield* step(now, input).pipe(
        Effect.map(([, delay]) => Duration.toMillis(delay)),
        Pull.catchDone(() => Effect.undefined)
      )
      if (delay === undefined) break
      out.push(delay)
    }
    return out
  })

/** Every draw is this one; of several, the last is repeated. */
export const drawing = (...draws: ReadonlyArray<number>) => {
  let drawn = 0
  const nextDoubleUnsafe = () => draws[Math.min(drawn++, draws.length - 1)]!
  return Effect.provideService(Random.Random, { nextDoubleUnsafe, nextIntUnsafe: () => 0 })
}
