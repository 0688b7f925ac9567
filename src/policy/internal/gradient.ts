/**
 * How many calls an endpoint should have in flight, from how long they take.
 *
 * Calls are looked at a window at a time. The 90th percentile of a window's
 * latencies, smoothed, is the *recent* latency; the *baseline* follows it more
 * slowly. What the recent latency exceeds the baseline by is queueing somewhere:
 * `limit * (1 - baseline / recent)` calls' worth. Few of them, and the limit
 * grows by a step; many, and it falls by one.
 *
 * What keeps it from fooling itself:
 *
 * - A baseline learnt under load creeps up with the load. So while the limit is
 *   used up it also falls when more calls in flight come with less throughput,
 *   or with more latency and no more throughput. What correlates is 50 windows
 *   long, and goes on saying so when the load is gone: so it cuts no further once
 *   fewer calls end than did with more of them in flight. Without that the limit
 *   swings by a factor of two around an overloaded endpoint's capacity, and wastes
 *   a sixth of it (simulated: 50 servers at twice their load end 418 instead of
 *   469 of 500 calls per second).
 * - Latencies that all equal the timeout look perfectly steady. So calls that
 *   ran out of time or were turned away are counted, and where they are more
 *   than one in twenty the window teaches nothing else: the endpoint served only
 *   the other share of what the limit let through, and the limit is cut to that.
 * - Fast failures would teach that an overloaded endpoint is quick. They are not
 *   told to this module, nor are calls whose caller left.
 * - A limit that nobody needs would grow until it limits nothing. So it stays
 *   within a multiple of the most calls that were in flight lately; a limit above
 *   that comes down step by step, and not below where it began.
 *
 * Times are milliseconds on one monotonic clock.
 *
 * Source: failsafe-go `adaptivelimiter` (Vegas with correlation guards); cutting
 * on timeouts, Netflix concurrency-limits 137.
 */
import { Correlation, type Together } from "./correlation.ts"
import { Median, Sample } from "./quantile.ts"

export interface Options {
  readonly initial: number
  readonly min: number
  readonly max: number
  /** A window is over after this long, and after `minimumCalls`. */
  readonly windowMillis: number
  readonly minimumCalls: number
  /** But no window waits longer than this for two of the fastest call, which it takes to see what the last move did. */
  readonly maxWindowMillis: number
  /** The limit stays within this many times the calls in flight. */
  readonly maxFactor: number
  /** How long the most calls in flight are remembered for that. */
  readonly stabilizationMillis: number
}

const percentile = 0.9
/** Of a timeout set at the 99.5th percentile one in 200 calls runs out: of 50 calls, 3 or more once in 500 windows. */
const tolerated = 0.05

/** A limit that is cut below what the endpoint can do costs throughput: at 95 % of it no correlation cuts further. */
const enough = 0.95

/** What a call that has ended was: answered, out of time, or turned away by the endpoint. */
export type Kind = "answered" | "late" | "refused"

export type Why =
  | "room"
  | "queueing"
  | "overload"
  | "throughput falls"
  | "latency grows without throughput"
  | "more than is used"

/** The limit moved, and the figures that moved it. */
export interface Move {
  readonly from: number
  readonly to: number
  readonly why: Why
  readonly recentMillis: number
  readonly baselineMillis: number
  /** Calls that are queueing, by the latencies. */
  readonly queueing: number
  /** The share of calls late or refused. */
  readonly overloaded: number
  /** The most calls in flight of late. */
  readonly peak: number
}

/** One step, and the size of a queue that matters, grow with the limit's decimal digits. */
const magnitude = (limit: number): number => Math.max(1, Math.floor(Math.log10(limit)))

/** An average that forgets: plain over the first 10 values, exponential with the weight of `age` of them afterwards. */
export class Average {
  value = Number.NaN
  private count = 0
  private readonly weight: number

  constructor(age: number) {
    this.weight = 2 / (age + 1)
  }

  add(value: number): number {
    if (this.count < 10) {
      this.count++
      this.value = this.count === 1 ? value : this.value + (value - this.value) / this.count
    } else {
      this.value += this.weight * (value - this.value)
    }
    return this.value
  }
}

export class Gradient {
  limit: number
  readonly recent = new Average(5)
  readonly baseline = new Average(10)
  private options: Options
  private readonly median = new Median(5)
  private readonly throughputs = new Correlation(50)
  private readonly latencies = new Correlation(50)
  /** Calls ended per millisecond, by the most in flight. */
  private readonly rates = new Correlation(50)

  // The present window.
  private readonly sample = new Sample()
  private calls = 0
  private overloads = 0
  private fastest = Infinity
  private busiest = 0
  private until: number
  private began: number

  /** Busiest moments of the windows lately, oldest first, and when they ended. */
  private peaks: Array<{ readonly at: number; readonly inFlight: number }> = []

  constructor(options: Options, now: number) {
    this.options = options
    this.limit = options.initial
    this.until = this.began = now
  }

  /** Goes on with other options, from the limit it has found as far as they allow. */
  change(options: Options): void {
    this.options = options
    this.limit = Math.max(options.min, Math.min(options.max, this.limit))
  }

  /**
   * A call has ended after `millis`; `inFlight` calls, itself included, were in
   * flight when it began, and `full` says whether calls have to wait now.
   */
  record(kind: Kind, millis: number, inFlight: number, full: boolean, now: number): Move | undefined {
    this.calls++
    this.busiest = Math.max(this.busiest, inFlight)
    if (kind !== "answered") this.overloads++
    else this.sample.add(millis)
    if (kind !== "refused") this.fastest = Math.min(this.fastest, millis)
    if (now <= this.until || this.calls < this.options.minimumCalls) return undefined
    const move = this.update(full, now)
    const { maxWindowMillis, windowMillis } = this.options
    this.until = now + (this.fastest === Infinity
      ? windowMillis
      : Math.min(maxWindowMillis, Math.max(2 * this.fastest, windowMillis)))
    this.began = now
    this.sample.clear()
    this.calls = this.overloads = this.busiest = 0
    this.fastest = Infinity
    return move
  }

  private update(full: boolean, now: number): Move | undefined {
    const { limit, options } = this
    const inFlight = this.busiest
    const peak = this.peakOf(inFlight, now)
    const overloaded = this.overloads / this.calls
    const step = magnitude(limit)
    let to = limit
    let why: Why
    let queueing = 0
    if (overloaded > tolerated) {
      to = Math.floor(limit * Math.max(0.5, 1 - overloaded))
      why = "overload"
    } else {
      const recent = this.recent.add(this.median.add(this.sample.quantile(percentile)))
      const baseline = this.baseline.add(recent)
      queueing = Math.ceil(limit * (1 - baseline / recent))
      const throughput = this.throughputs.add(inFlight, inFlight / recent)
      const latency = this.latencies.add(inFlight, recent)
      const rate = this.calls / (now - this.began)
      this.rates.add(inFlight, rate)
      const guarded = full && rate >= enough * this.rates.meanAbove(inFlight)
      const change = changeOf(queueing / step, guarded, throughput, latency)
      to += change.steps * step
      why = change.why
      const used = Math.max(options.initial, Math.floor(peak * options.maxFactor))
      if (to > used) {
        to = Math.min(to, Math.max(used, limit - step))
        if (to < limit) why = "more than is used"
      }
    }
    to = Math.max(options.min, Math.min(options.max, to))
    if (to === limit) return undefined
    this.limit = to
    return {
      from: limit,
      to,
      why,
      recentMillis: this.recent.value,
      baselineMillis: this.baseline.value,
      queueing,
      overloaded,
      peak
    }
  }

  private peakOf(inFlight: number, now: number): number {
    this.peaks = this.peaks.filter(({ at }) => now - at < this.options.stabilizationMillis)
    this.peaks.push({ at: now, inFlight })
    return this.peaks.reduce((peak, { inFlight }) => Math.max(peak, inFlight), 0)
  }
}

/**
 * Which way to go. `queueing` is in steps; `guarded` is whether what correlates
 * with the calls in flight may speak at all.
 */
export const changeOf = (
  queueing: number,
  guarded: boolean,
  throughput: Together,
  latency: Together
): { readonly steps: -1 | 0 | 1; readonly why: Why } => {
  if (queueing > 6) return { steps: -1, why: "queueing" }
  if (guarded && throughput.correlation < 0) return { steps: -1, why: "throughput falls" }
  if (guarded && latency.correlation > 0.5 && (throughput.correlation < 0.3 || throughput.variation < 0.2)) {
    return { steps: -1, why: "latency grows without throughput" }
  }
  return { steps: queueing < 3 ? 1 : 0, why: "room" }
}

/** The chance of a call to be turned away when `queued` calls wait: none up to `from`, all of them from `to`. */
export const rejectionAt = (queued: number, from: number, to: number): number =>
  queued < from ? 0 : queued >= to ? 1 : (queued - from) / (to - from)
