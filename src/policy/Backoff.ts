/**
 * Makes the Effect Schedules that say how long to wait before the next attempt.
 *
 * Four ways to grow, five to jitter, and `decorrelated`, the default of
 * `Retry`: a smooth random sequence that does both. Every delay is finite and
 * at most `cap`, however many attempts there are, and at the cap the delays of
 * many clients still spread. The first delay is jittered too.
 *
 * A backoff says when, not whether: without `recurs` it never ends, and `Retry`
 * bounds it by its `attempts`. Any other Schedule may stand in its place.
 * State belongs to one run of the Schedule; a Schedule is shared freely.
 *
 * Source: the formulas and their origins are in `internal/backoff.ts`.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Pull from "effect/Pull"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as Options from "../contract/Options.ts"
import * as Core from "./internal/backoff.ts"

/**
 * The random part of a delay `d`.
 *
 * - `none`: `d`. Clients that failed together come back together.
 * - `full`: `[0, d)`. Fewest collisions, and some retries come at once.
 * - `equal`: `[d/2, d)`.
 * - `proportional`: `d` ± `ratio`; below the cap where it would pass it.
 * - `decorrelated`: `[base, 3 × previous)`, capped (AWS). It grows by itself and replaces the growth.
 */
export type Jitter = "none" | "full" | "equal" | "proportional" | "decorrelated"

export interface Bounds {
  /** The first delay before jitter. Zero is allowed, and then every delay is zero. */
  readonly base: Duration.Input
  /** No delay exceeds it. Default: the longest timer of the platform, 24.8 days. */
  readonly cap?: Duration.Input | undefined
  /** How many delays there are before the Schedule ends. Default: no end. */
  readonly recurs?: number | undefined
}

export interface BackoffOptions extends Bounds {
  /** Default `"equal"`: never much too early, and spread at the cap. */
  readonly jitter?: Jitter | undefined
  /** The ± of `proportional` jitter, in `[0, 1]`. Default 0.25. */
  readonly ratio?: number | undefined
}

export interface ExponentialOptions extends BackoffOptions {
  /** What each delay is multiplied by: at least 1. Default 2. */
  readonly factor?: number | undefined
}

/** A Schedule of delays; its output is the delay. */
export type Backoff = Schedule.Schedule<Duration.Duration>

/** One run: from the number of the attempt (from 0) and a draw in `[0, 1)` to milliseconds. */
type Run = (attempt: number, draw: number) => number

const schedule = (where: string, bounds: Bounds, run: (base: number, cap: number) => () => Run): Backoff => {
  const base = Options.millis(where, "base", bounds.base, true)
  const cap = Math.min(
    Core.longestMillis,
    bounds.cap === undefined ? Infinity : Options.millis(where, "cap", bounds.cap)
  )
  const recurs = bounds.recurs === undefined ? Infinity : Options.integer(where, "recurs", bounds.recurs, 0)
  const start = run(base, cap)
  return Schedule.fromStep(Effect.sync(() => {
    const next = start()
    let attempt = 0
    return (): Pull.Pull<[Duration.Duration, Duration.Duration], never, Duration.Duration> =>
      Effect.withFiber((fiber) => {
        if (attempt >= recurs) return Cause.done(Duration.zero)
        const delay = Duration.millis(next(attempt++, fiber.getRef(Random.Random).nextDoubleUnsafe()))
        return Effect.succeed([delay, delay])
      })
  }))
}

const growing = (where: string, growth: Core.Growth, options: BackoffOptions, factor: number): Backoff => {
  const { jitter = "equal" } = options
  const ratio = Options.ratio(where, "ratio", options.ratio ?? 0.25, true)
  return schedule(where, options, (base, cap) => {
    const plain = (attempt: number): number => Core.grow(growth, attempt, base, factor, cap)
    switch (jitter) {
      case "none":
        return () => plain
      case "full":
        return () => (attempt, draw) => Core.full(plain(attempt), draw)
      case "equal":
        return () => (attempt, draw) => Core.equal(plain(attempt), draw)
      case "proportional":
        return () => (attempt, draw) => Core.proportional(plain(attempt), draw, ratio, cap)
      case "decorrelated":
        return () => {
          let previous = base
          return (_, draw) => previous = Core.decorrelated(previous, draw, base, cap)
        }
      default:
        throw Options.invalid(where, "jitter", "none, full, equal, proportional or decorrelated", jitter)
    }
  })
}

/** The same delay every time: `base`. Throws a `RangeError` on options out of range, as all of these do. */
export const constant = (options: BackoffOptions): Backoff => growing("Backoff.constant", "constant", options, 1)

/** `base`, 2 `base`, 3 `base`, …. */
export const linear = (options: BackoffOptions): Backoff => growing("Backoff.linear", "linear", options, 1)

/** `base`, `base` × `factor`, `base` × `factor`², …. */
export const exponential = (options: ExponentialOptions): Backoff =>
  growing(
    "Backoff.exponential",
    "exponential",
    options,
    Options.finite("Backoff.exponential", "factor", options.factor ?? 2, 1)
  )

/** `base`, `base`, 2 `base`, 3 `base`, 5 `base`, …. */
export const fibonacci = (options: BackoffOptions): Backoff => growing("Backoff.fibonacci", "fibonacci", options, 1)

/**
 * Decorrelated jitter V2: the attempts come around `base`, 2 `base`, 4 `base`, … after the first failure, evenly spread
 * over time whatever the number of clients. At the cap, equal jitter. The best choice when nothing speaks for another.
 */
export const decorrelated = (bounds: Bounds): Backoff =>
  schedule("Backoff.decorrelated", bounds, (base, cap) => () => {
    let position = 0
    return (attempt, draw) => {
      const delay = Core.smooth(attempt, draw, position, base, cap)
      position = attempt + draw
      return delay
    }
  })
