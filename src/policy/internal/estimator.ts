/**
 * A quantile of the latencies of the last while, in constant memory.
 *
 * A histogram with logarithmic buckets, in three slices of the window, the
 * oldest of which is dropped as a whole: the answer is of the last 2/3 to 3/3
 * of the window, rounded up to the end of its bucket: at most 4.5 % too long (a
 * sixteenth of an octave).
 *
 * Times are milliseconds on one monotonic clock. Only these functions write an
 * estimator.
 *
 * Source: the shape is Finagle's `WindowedPercentileHistogram` (3 × 10 s).
 */

export interface Options {
  /** Which quantile, in `(0, 1)`. */
  readonly quantile: number
  readonly windowMillis: number
  /** Samples in the window before there is an answer. */
  readonly minimumCalls: number
}

const slices = 3
const perOctave = 16
/** The lower end of the first bucket: shorter latencies are that. */
const shortestMillis = 0.0625
/** 24 octaves: to 17.5 minutes. Longer latencies are counted, and a quantile among them is unknown. */
const buckets = 24 * perOctave
/** The longest latency that is told from longer ones. */
export const longestMillis = shortestMillis * 2 ** (buckets / perOctave)

export interface Estimator {
  readonly options: Options
  readonly counts: ReadonlyArray<Uint32Array>
  readonly totals: Array<number>
  /** The number of the present slice since time 0. */
  present: number
  /** The latest answer, and how many samples it was taken from: 0 when there is none. */
  cached: number | undefined
  cachedFor: number
}

export const make = (options: Options): Estimator => ({
  options,
  counts: Array.from({ length: slices }, () => new Uint32Array(buckets)),
  totals: Array.from({ length: slices }, () => 0),
  present: -Infinity,
  cached: undefined,
  cachedFor: 0
})

/** Takes over what another one of the same window has seen, before it has seen anything itself. */
export const inherit = (self: Estimator, from: Estimator): void => {
  if (from.options.windowMillis !== self.options.windowMillis) return
  for (let slice = 0; slice < slices; slice++) {
    self.counts[slice]!.set(from.counts[slice]!)
    self.totals[slice] = from.totals[slice]!
  }
  self.present = from.present
}

/** At `buckets` and above: too long to be told apart. */
const bucketOf = (millis: number): number => Math.max(0, Math.floor(Math.log2(millis / shortestMillis) * perOctave))

const upperEnd = (bucket: number): number => shortestMillis * 2 ** ((bucket + 1) / perOctave)

const slot = (number: number): number => ((number % slices) + slices) % slices

const roll = (self: Estimator, now: number): void => {
  const present = Math.floor(now / (self.options.windowMillis / slices))
  if (present <= self.present) return
  for (let number = Math.max(self.present + 1, present - slices + 1); number <= present; number++) {
    self.counts[slot(number)]!.fill(0)
    self.totals[slot(number)] = 0
  }
  self.present = present
  self.cachedFor = 0
}

/** How many samples the window holds. */
export const size = (self: Estimator, now: number): number => {
  roll(self, now)
  return self.totals[0]! + self.totals[1]! + self.totals[2]!
}

/** Adds a latency. */
export const observe = (self: Estimator, millis: number, now: number): void => {
  roll(self, now)
  const present = slot(self.present)
  const bucket = bucketOf(millis)
  if (bucket < buckets) self.counts[present]![bucket]!++
  self.totals[present]!++
}

/** The quantile; `undefined` before `minimumCalls` samples, and when it lies above what can be told apart. */
export const estimate = (self: Estimator, now: number): number | undefined => {
  const samples = size(self, now)
  if (samples < self.options.minimumCalls) return undefined
  // A scan costs a microsecond; one sample in sixty-four hardly moves a quantile.
  if (samples - self.cachedFor < samples / 64) return self.cached
  self.cachedFor = samples
  // The smallest latency that at least this many samples do not exceed.
  const rank = Math.ceil(self.options.quantile * samples)
  let seen = 0
  self.cached = undefined
  for (let bucket = 0; bucket < buckets; bucket++) {
    seen += self.counts[0]![bucket]! + self.counts[1]![bucket]! + self.counts[2]![bucket]!
    if (seen >= rank) {
      self.cached = upperEnd(bucket)
      break
    }
  }
  return self.cached
}
