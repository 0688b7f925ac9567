/**
 * Finds races between fibers: runs them in many orders, each decided by a seed,
 * and shrinks the first that goes wrong to the fewest departures from the plain
 * order.
 *
 * In JavaScript nothing runs in parallel, yet a fiber may be stopped between any
 * two of its steps: a look at a state and the change it decides are one step, or
 * a race. A test that runs fibers once sees one order of very many.
 *
 * ```ts
 * const trial = Effect.gen(function*() {
 *   const pool = yield* makePool(1)
 *   return {
 *     fibers: [pool.use(Effect.yieldNow), pool.use(Effect.yieldNow)],
 *     check: Effect.map(pool.inUse, (inUse) => assert.strictEqual(inUse, 0))
 *   }
 * })
 * it.effect("pool", () => Interleave.check(trial))
 * ```
 *
 * Time is virtual and chance is seeded, so a run is its seed. What waits for
 * real input or output never comes back, and is reported as stuck. It proves
 * nothing: what 200 orders do not show may be in the next.
 */
import * as Cause from "effect/Cause"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Options from "../contract/Options.ts"
import * as Interleaver from "./internal/interleaver.ts"
import { Dice } from "./internal/simDraw.ts"

/** Fibers that run at the same time, and what must hold when all have ended. */
export interface Trial {
  /** How each of them ends is nobody's business but theirs: what must not happen is for `check` to say. */
  readonly fibers: ReadonlyArray<Effect.Effect<unknown, unknown>>
  /** Fails, or dies of an assertion, where something does not hold. */
  readonly check: Effect.Effect<unknown, unknown>
}

export interface ExploreOptions {
  /** Orders that are tried: an integer `>= 1`. Default 200. */
  readonly runs?: number | undefined
  /** Where they come from. Default 0. */
  readonly seed?: string | number | undefined
  /** Steps after which a run counts as endless: an integer `>= 1`. Default 100,000. */
  readonly maxSteps?: number | undefined
}

/** A departure from the plain order, in which a fiber runs until it waits and the first that is ready goes first. */
export type Decision = Interleaver.Decision

/** An order in which something does not hold. Its `message` tells it. */
export class Race extends Data.TaggedError("Race")<{
  readonly message: string
  /** The fewest departures that were found to show it. */
  readonly decisions: ReadonlyArray<Decision>
  /** Which of the runs met it first, from 1. */
  readonly run: number
  /** What did not hold. */
  readonly failure: string
}> {}

/**
 * Fails with the first `Race` that it finds; `trial` is made anew for each run.
 *
 * Dies with a `RangeError` when an option is out of range.
 */
export const check = <E>(trial: Effect.Effect<Trial, E>, options: ExploreOptions = {}): Effect.Effect<void, Race> =>
  Effect.withFiber((fiber) => {
    const where = "Interleave.check"
    const runs = Options.integer(where, "runs", options.runs ?? 200, 1)
    const maxSteps = Options.integer(where, "maxSteps", options.maxSteps ?? 100_000, 1)
    const { seed = 0 } = options
    const once = (source: Interleaver.Source, run: number) =>
      Interleaver.run(whole(trial), fiber.context, source, `${seed}/${run}`, maxSteps)
    let best: Interleaver.Run | undefined
    let first = 0
    for (let run = 1; run <= (best === undefined ? runs : Math.min(runs, first + more)); run++) {
      // The plain order first: what fails there is no race, and simpler to read.
      const source = run === 1 ? Interleaver.by([]) : Interleaver.randomly(new Dice(seed, `order ${run}`))
      const found = once(source, run)
      if (failureOf(found) === undefined) continue
      const shrunk = shrink(found, (decisions) => once(Interleaver.by(decisions), run))
      if (best === undefined) first = run
      if (best === undefined || shrunk.decisions.length < best.decisions.length) best = shrunk
      if (best.decisions.length === 0) break
    }
    return best === undefined ? Effect.void : Effect.fail(raceOf(best, first))
  })

/** Orders tried after the first that fails: another may have the simpler story. */
const more = 50

const whole = <E>(trial: Effect.Effect<Trial, E>) =>
  Effect.gen(function*() {
    const { check, fibers } = yield* trial
    const running = yield* Effect.forEach(fibers, (fiber) => Effect.forkDetach(fiber))
    yield* Fiber.awaitAll(running)
    yield* check
  })

/** What did not hold in a run, if anything. */
const failureOf = ({ exit }: Interleaver.Run): string | undefined => {
  if (exit === undefined) return "it never ends: fibers wait for each other or go on for ever"
  return Exit.isSuccess(exit) ? undefined : Cause.pretty(exit.cause)
}

/** Leaves decisions out as long as the run still fails: halves first, then one by one. */
const shrink = (
  found: Interleaver.Run,
  again: (decisions: ReadonlyArray<Decision>) => Interleaver.Run
): Interleaver.Run => {
  let best = found
  for (let size = Math.ceil(best.decisions.length / 2); size >= 1;) {
    let progress = false
    for (let at = 0; at < best.decisions.length;) {
      const fewer = again(best.decisions.toSpliced(at, size))
      if (failureOf(fewer) !== undefined && fewer.decisions.length < best.decisions.length) {
        best = fewer
        progress = true
      } else at += size
    }
    if (size === 1 && !progress) break
    size = Math.max(1, Math.floor(size / 2))
  }
  return best
}

const raceOf = (run: Interleaver.Run, number: number): Race => {
  const failure = failureOf(run)!
  const { decisions } = run
  const told = decisions.map((decision) =>
    decision._tag === "Stop"
      ? `fiber ${decision.fiber} stops before its step ${decision.step} and lets others go on`
      : `of ${decision.of} that are ready, number ${decision.index + 1} goes first`
  )
  const order = told.length === 0 ? "in the plain order" : `when ${told.join(",\n  then ")}`
  return new Race({ message: `${failure}\n${order}`, decisions, run: number, failure })
}
