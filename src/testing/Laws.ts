/**
 * What the law kits have in common: how a broken law is told.
 *
 * A kit (`ScheduleLaws`, `PolicyLaws`, `StoreLaws`) checks its laws on many
 * generated cases and shrinks the first that breaks one. `check` is an Effect, so
 * it runs in any test runner and in none:
 *
 * ```ts
 * it.effect("my schedule", () => ScheduleLaws.check(mine, { cap: "10 seconds" }))
 * await Effect.runPromise(ScheduleLaws.check(mine, { cap: "10 seconds" }))
 * ```
 */
import * as Arbitrary from "effect/Arbitrary"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Options from "../contract/Options.ts"

/** A law that does not hold, and the smallest case found that shows it. Its `message` tells both. */
export class LawBroken extends Data.TaggedError("LawBroken")<{
  readonly message: string
  /** The law's own words. */
  readonly law: string
  readonly counterexample: unknown
  /** Finds the case again: give it as `replay`. */
  readonly replay: string
}> {}

export interface CheckOptions {
  /** Cases that are generated: an integer `>= 1`. Default 100. */
  readonly runs?: number | undefined
  /** Where they come from. Default 0. */
  readonly seed?: string | number | undefined
  /** Checks one case again: that of a `LawBroken`. */
  readonly replay?: string | undefined
}

/** What a case shows: which law is broken, and how. */
export interface Breach {
  readonly law: string
  readonly why: string
}

/**
 * Checks laws on generated cases: `property` fails with the `Breach` it sees.
 *
 * Dies with a `RangeError` when an option is out of range.
 */
export const check = <A, R>(
  cases: Arbitrary.Arbitrary<A>,
  property: (value: A) => Effect.Effect<void, Breach, R>,
  options: CheckOptions = {}
): Effect.Effect<void, LawBroken, R> =>
  Effect.gen(function*() {
    const runs = Options.integer("Laws.check", "runs", options.runs ?? 100, 1)
    const { replay, seed = 0 } = options
    const result = yield* Arbitrary.checkEffect(cases, (value) => Effect.as(property(value), true), {
      runs,
      seed,
      replay
    })
    if (result._tag === "Passed") return
    if (result._tag !== "Falsified" || result.failure._tag !== "PropertyError") {
      return yield* Effect.die(new RangeError(`Laws.check: ${Arbitrary.formatCheckFailure(result) ?? result._tag}`))
    }
    const { failure: { error: { law, why } }, replay: again, shrunkInput } = result
    const shown = JSON.stringify(shrunkInput)
    const message = `${law}: ${why}\n  for ${shown}\n  replay: ${again}`
    return yield* new LawBroken({ message, law, counterexample: shrunkInput, replay: again })
  })

/** Fails with a breach of a law where it does not hold. */
export const holds = (isSo: boolean, law: string, why: () => string): Effect.Effect<void, Breach> =>
  isSo ? Effect.void : Effect.fail({ law, why: why() })
