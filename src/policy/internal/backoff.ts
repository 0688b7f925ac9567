/**
 * The delays between attempts, as formulas: no clock, no randomness of their own.
 *
 * `attempt` counts from 0 (the delay after the first failure) and may grow for
 * ever: every result is finite and in `[0, cap]`. `draw` is uniform in `[0, 1)`.
 * All numbers are milliseconds.
 *
 * The cap is inside the jitter. Capping last would make every client wait
 * exactly `cap` and bring the herd back; jittering last would exceed the cap.
 */

/** The longest delay of a backoff without a cap: 24.8 days, the longest single timer of the platform. */
export const longestMillis = 0x7fff_ffff

/** How the undisturbed delay grows. */
export type Growth = "constant" | "linear" | "exponential" | "fibonacci"

const phi = (1 + Math.sqrt(5)) / 2

const multiple: Readonly<Record<Growth, (attempt: number, factor: number) => number>> = {
  constant: () => 1,
  linear: (attempt) => attempt + 1,
  exponential: (attempt, factor) => factor ** attempt,
  // 1, 1, 2, 3, 5, …: Binet's formula, exact to the 70th term and never a loop.
  fibonacci: (attempt) => Math.round(phi ** (attempt + 1) / Math.sqrt(5))
}

/** The delay before jitter, clamped. A zero base stays zero however large the multiple: 0 × ∞ is not a delay. */
export const grow = (growth: Growth, attempt: number, base: number, factor: number, cap: number): number =>
  base === 0 ? 0 : Math.min(cap, base * multiple[growth](attempt, factor))

/** Anywhere in `[0, delay)`. Source: AWS Architecture Blog, "Exponential Backoff And Jitter". */
export const full = (delay: number, draw: number): number => draw * delay

/** Half of it certain, half of it drawn. Source: as `full`. */
export const equal = (delay: number, draw: number): number => delay / 2 + (draw * delay) / 2

/**
 * `delay` ± `ratio`, and where that would pass the cap, the same relative spread below it:
 * `[cap (1 - ratio) / (1 + ratio), cap]`.
 */
export const proportional = (delay: number, draw: number, ratio: number, cap: number): number => {
  const high = Math.min(cap, delay * (1 + ratio))
  const low = (high * (1 - ratio)) / (1 + ratio)
  return low + draw * (high - low)
}

/**
 * Between `base` and three times the previous delay; the first previous delay is `base`. Grows by itself.
 *
 * Source: AWS Architecture Blog, "Exponential Backoff And Jitter" (`sleep = min(cap, random_between(base, sleep * 3))`).
 */
export const decorrelated = (previous: number, draw: number, base: number, cap: number): number =>
  Math.min(cap, base + draw * (previous * 3 - base))

/**
 * The curve `smooth` takes its differences from.
 *
 * Source: the decorrelated jitter of Polly.Contrib.WaitAndRetry, `2^t tanh(sqrt(4 t))`.
 */
const curve = (t: number): number => 2 ** t * Math.tanh(Math.sqrt(4 * t))

/** Puts the median of the first delay near `base`. Source: as `curve`. */
const scale = 1 / 1.4

/** Where the previous delay of `smooth` was drawn from; 0 before the first. */
export type Position = number

/**
 * Decorrelated jitter V2: the attempts come around base, 2 base, 4 base, … after the first failure, without the gaps and
 * clusters between them that jittered exponentials have. `position` is the previous `attempt + draw`.
 *
 * At the cap it is equal jitter: half of the cap certain, half drawn.
 */
export const smooth = (attempt: number, draw: number, position: Position, base: number, cap: number): number => {
  if (base === 0) return 0
  // From here on the curve leaves the doubles (∞ - ∞ is no delay), and has long been above every cap.
  const delay = attempt >= 1000 ? Infinity : base * scale * (curve(attempt + draw) - curve(position))
  return delay <= cap ? delay : equal(cap, draw)
}
