/**
 * Sends a second attempt when the first is slow, and takes the first success.
 *
 * The hedge goes out after a delay: fixed, or a quantile of the latencies of the
 * last while, so that one attempt in twenty is hedged. The first success is the
 * answer; a failing one waits for the other, and one that no further attempt may
 * mend ends the call at once. The loser is interrupted with the reason
 * `hedgeLost` and not awaited: breakers and limiters inside see an interruption,
 * which says nothing about their endpoint.
 *
 * Only a call that may be sent twice is hedged, and only before its deadline. A
 * call that is not idempotent passes as it is, and the policy warns once. A hedge
 * costs a token of the budget where there is one; refused, the original goes on.
 * Inside a retry loop, another hedge included, it steps aside.
 *
 * Beside a `Retry` it belongs into its loop, which has one counter: in the slots
 * of a `Policy.stack`, or with `retry.hedged(hedge)`. Alone it sends at most
 * `1 + hedges` times and retries nothing.
 *
 * Each attempt runs in a fiber of its own while a hedge may come. The latencies
 * are per instance: share one per method.
 *
 * Source: Dean and Barroso, "The Tail at Scale": a hedge at the 95th percentile
 * cut a 99.9th from 1,800 to 74 ms for 2 % more load. Which latencies count:
 * Finagle `BackupRequestFilter`.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Options from "../contract/Options.ts"
import * as Timer from "../contract/Timer.ts"
import * as Estimator from "./internal/estimator.ts"
import * as Policy from "./Policy.ts"
import * as Retry from "./Retry.ts"
import type * as RetryBudget from "./RetryBudget.ts"

/** A policy that hedges; it adds nothing to the error channel. */
export interface Hedge extends Policy.OfKind<"hedge">, Retry.Hedging {
  /** How long an attempt may take now before it is hedged, in milliseconds; `undefined` while that is unknown. */
  readonly delay: Effect.Effect<number | undefined>
}

export interface HedgeOptions {
  /** Name in errors, events and the dashboard. Default `"Hedge"`. */
  readonly name?: string | undefined
  /** A fixed delay, zero included. Default: the `quantile`. */
  readonly delay?: Duration.Input | undefined
  /** The delay is this quantile of observed latencies: in `(0, 1)`. Default 0.95, which hedges one attempt in twenty. */
  readonly quantile?: number | undefined
  /** The delay is never shorter than this. Default 1 ms. */
  readonly minimum?: Duration.Input | undefined
  /**
   * Latencies to see before the first hedge: an integer `>= 1`. Default: as many as it takes for one to lie beyond the
   * quantile, and 20 at least.
   */
  readonly minimumCalls?: number | undefined
  /** How long latencies are remembered. Default 30 seconds. */
  readonly window?: Duration.Input | undefined
  /** Hedges per attempt: an integer in `[1, 10]`. Default 1. Each waits for the delay after the one before. */
  readonly hedges?: number | undefined
  /** Pays for the hedges. In a retry loop it must be the loop's. Default: nothing bounds them but `hedges`. */
  readonly budget?: RetryBudget.RetryBudget | undefined
  /** What its calls are declared to be. `false` dies at construction: a hedge is a second send. Default: as each call says. */
  readonly idempotent?: boolean | undefined
  /** Releases the result of an attempt that lost and could not be interrupted. Used where the hedge stands alone. */
  readonly discard?: ((result: any) => Effect.Effect<void>) | undefined
}

/**
 * Creates a hedge.
 *
 * Dies with a `RangeError` when a field is out of its range, or when its calls are declared not to be idempotent.
 */
export const make = (options: HedgeOptions = {}): Effect.Effect<Hedge> =>
  Effect.withFiber((fiber) => {
    const where = "Hedge.make"
    const { budget, discard, name = "Hedge" } = options
    Options.check(
      options.idempotent !== false,
      where,
      "idempotent",
      "true, for a hedge sends twice",
      options.idempotent
    )
    const hedges = Options.integer(where, "hedges", options.hedges ?? 1, 1, 10)
    const minimum = Options.millis(where, "minimum", options.minimum ?? "1 millis", true)
    const timing = options.delay === undefined
      ? fromQuantile(where, options, minimum)
      : fixed(Options.millis(where, "delay", options.delay, true))
    const { delayUnsafe, observeUnsafe } = timing
    const hedging: Retry.Hedging = { name, hedges, budget, delayUnsafe, observeUnsafe }
    const hedge: Hedge = Policy.make<never, never, "hedge", Omit<Hedge, keyof Policy.OfKind<"hedge">>>(
      { name, kind: "hedge", run: Retry.hedgesOnly(hedging, discard) },
      { ...hedging, delay: Effect.withFiber((fiber) => Effect.succeed(delayUnsafe(Timer.now(fiber)))) }
    )
    fiber.getRef(Policy.CurrentRegistry)?.register({ name, kind: "hedge", snapshot: timing.snapshot })
    if (timing.estimator !== undefined) estimators.set(hedge, timing.estimator)
    return Effect.succeed(hedge)
  })

/** What hedges have seen. */
const estimators = new WeakMap<Hedge, Estimator.Estimator>()

/**
 * Hands the latencies over to the hedge that takes another's place, where both remember them for as long.
 *
 * @internal
 */
export const succeed = (from: Hedge, to: Hedge): void => {
  const [known, empty] = [estimators.get(from), estimators.get(to)]
  if (known !== undefined && empty !== undefined) Estimator.inherit(empty, known)
}

interface Timing extends Pick<Retry.Hedging, "delayUnsafe" | "observeUnsafe"> {
  readonly snapshot: () => unknown
  readonly estimator: Estimator.Estimator | undefined
}

const fixed = (delayMillis: number): Timing => ({
  delayUnsafe: () => delayMillis,
  observeUnsafe: undefined,
  estimator: undefined,
  snapshot: () => ({ delayMillis })
})

const fromQuantile = (where: string, options: HedgeOptions, minimum: number): Timing => {
  const quantile = Options.finite(where, "quantile", options.quantile ?? 0.95, 0, 1)
  Options.check(quantile > 0 && quantile < 1, where, "quantile", "in (0, 1)", quantile)
  const estimator = Estimator.make({
    quantile,
    windowMillis: Options.millis(where, "window", options.window ?? "30 seconds"),
    minimumCalls: Options.integer(
      where,
      "minimumCalls",
      options.minimumCalls ?? Math.max(20, Math.ceil(1 / (1 - quantile) - 1e-6)),
      1
    )
  })
  let latest = 0
  const delayUnsafe = (now: number): number | undefined => {
    const delay = Estimator.estimate(estimator, latest = now)
    return delay === undefined ? undefined : Math.max(minimum, delay)
  }
  return {
    delayUnsafe,
    estimator,
    observeUnsafe: (latency, now) => Estimator.observe(estimator, latency, latest = now),
    // A registry asks without a clock: as of the last call.
    snapshot: () => ({ delayMillis: delayUnsafe(latest), samples: Estimator.size(estimator, latest), quantile })
  }
}
