/**
 * Runs an effect and interrupts it between any two of its steps.
 *
 * A fiber yields after so many operations; by padding it with operations of its
 * own and by waiting for so many turns every boundary comes to be the one at
 * which the interrupt arrives.
 */
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Scheduler from "effect/Scheduler"

/** Calls `scenario` for each boundary: it makes what is to be interrupted, and what must hold afterwards. */
export const interruptEverywhere = <E>(
  scenario: Effect.Effect<{
    readonly work: Effect.Effect<unknown, unknown>
    readonly check: (where: string) => Effect.Effect<void, E>
  }, E>
): Effect.Effect<void, E> =>
  Effect.gen(function*() {
    for (let padding = 0; padding < 6; padding++) {
      for (let budget = 3; budget < 8; budget++) {
        for (let turns = 0; turns < 12; turns++) {
          const { check, work } = yield* scenario
          let padded = work
          for (let i = 0; i < padding; i++) padded = Effect.andThen(Effect.sync(() => {}), padded)
          const fiber = yield* padded.pipe(
            Effect.provideService(Scheduler.MaxOpsBeforeYield, budget),
            Effect.forkChild({ startImmediately: true })
          )
          for (let i = 0; i < turns; i++) yield* Effect.yieldNow
          yield* Fiber.interrupt(fiber)
          yield* check(`interrupted after ${turns} turns of ${budget} operations, padded by ${padding}`)
        }
      }
    }
  })
