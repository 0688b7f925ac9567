/**
 * What one method or one endpoint did of late, in constant memory.
 *
 * "Now" is the last ten seconds: ten slots of a second with a histogram each, so
 * that a quantile is of what they hold together, rounded up to the end of its
 * bucket: at most 4.5 % too long (a sixteenth of an octave), and never longer
 * than the longest. Of the sixty seconds before this one only the figures stay,
 * for a line. A series that is used takes 20 kB.
 *
 * Times are milliseconds on one monotonic clock. What ends late, in a second that
 * is over, counts for the present one.
 */

/** Seconds that "now" means. */
export const windowSeconds = 10
/** Seconds of the line. */
export const historySeconds = 60

const perOctave = 16
/** The lower end of the first bucket: shorter times are that. */
const shortestMillis = 0.0625
/** 24 octaves: to 17.5 minutes, and what is longer. */
const buckets = 24 * perOctave

/** What became of a call or an attempt: `ignored` says nothing about its success. */
export type Verdict = "answered" | "failed" | "ignored"

/** What came of one second. */
interface Point {
  readonly ended: number
  readonly failed: number
  readonly p50Millis: number | null
  readonly p99Millis: number | null
}

/** Columns, oldest first: one entry per second that is over. */
export interface History {
  readonly ended: ReadonlyArray<number>
  readonly failed: ReadonlyArray<number>
  readonly p50Millis: ReadonlyArray<number | null>
  readonly p99Millis: ReadonlyArray<number | null>
}

export interface Reason {
  readonly reason: string
  readonly count: number
  readonly agoMillis: number
}

export interface Figures {
  /** Ended per second. */
  readonly rate: number
  /** Share that was answered; `null` of none. */
  readonly success: number | null
  readonly p50Millis: number | null
  readonly p99Millis: number | null
  /** Attempts per call. */
  readonly attempts: number | null
  readonly inFlight: number
  /** Since the first: answered and failed ones, and the failed of them. */
  readonly total: number
  readonly failed: number
  readonly history: History
  /** Why it failed, the latest first. */
  readonly reasons: ReadonlyArray<Reason>
}

class Slot {
  ended = 0
  failed = 0
  attempts = 0
  longestMillis = 0
  private samples = 0
  private counts: Uint32Array | undefined

  clear(): void {
    this.ended =
      this.failed =
      this.attempts =
      this.longestMillis =
        0
    if (this.samples > 0) this.counts?.fill(0)
    this.samples = 0
  }

  add(millis: number): void {
    this.counts ??= new Uint32Array(buckets)
    this.counts[bucketOf(millis)]!++
    this.samples++
    if (millis > this.longestMillis) this.longestMillis = millis
  }

  static quantile(slots: ReadonlyArray<Slot>, share: number): number | null {
    const held = slots.filter((slot) => slot.samples > 0)
    const samples = held.reduce((sum, slot) => sum + slot.samples, 0)
    if (samples === 0) return null
    const rank = Math.ceil(share * samples)
    const longest = Math.max(...held.map((slot) => slot.longestMillis))
    let seen = 0
    for (let bucket = 0; bucket < buckets; bucket++) {
      for (const { counts } of held) seen += counts![bucket]!
      if (seen >= rank) return rounded(Math.min(longest, upperEnd(bucket)))
    }
    return rounded(longest)
  }
}

const bucketOf = (millis: number): number =>
  Math.min(buckets - 1, Math.max(0, Math.floor(Math.log2(millis / shortestMillis) * perOctave)))

/** The last bucket has no end. */
const upperEnd = (bucket: number): number =>
  bucket === buckets - 1 ? Infinity : shortestMillis * 2 ** ((bucket + 1) / perOctave)

/** A thousandth is enough for everybody, and shorter to write. */
const rounded = (value: number): number => Math.round(value * 1000) / 1000

/** Of what was never used. */
const none: Figures = {
  rate: 0,
  success: null,
  p50Millis: null,
  p99Millis: null,
  attempts: null,
  inFlight: 0,
  total: 0,
  failed: 0,
  history: { ended: [], failed: [], p50Millis: [], p99Millis: [] },
  reasons: []
}

/** Reasons kept of a series. */
const maxReasons = 5

export class Series {
  inFlight = 0
  private total = 0
  private failures = 0
  /** When it was first used. */
  private bornMillis: number | undefined
  /** The present second since time 0. */
  private present = 0
  private readonly slots = Array.from({ length: windowSeconds }, () => new Slot())
  private readonly points: Array<Point> = []
  private readonly reasons = new Map<string, { count: number; atMillis: number }>()
  private usedMillis = 0

  begin(nowMillis: number): void {
    this.use(nowMillis)
    this.inFlight++
  }

  end(nowMillis: number, verdict: Verdict, durationMillis: number, attempts: number): void {
    this.use(nowMillis)
    // One that began before anybody looked.
    if (this.inFlight > 0) this.inFlight--
    if (verdict === "ignored") return
    const slot = this.slotAt(nowMillis)
    slot.ended++
    slot.attempts += attempts
    slot.add(durationMillis)
    this.total++
    if (verdict === "answered") return
    slot.failed++
    this.failures++
  }

  because(reason: string, nowMillis: number): void {
    const count = (this.reasons.get(reason)?.count ?? 0) + 1
    this.reasons.delete(reason)
    this.reasons.set(reason, { count, atMillis: nowMillis })
    if (this.reasons.size > maxReasons) this.reasons.delete(this.reasons.keys().next().value!)
  }

  private use(nowMillis: number): void {
    this.usedMillis = nowMillis
    if (this.bornMillis !== undefined) return
    this.bornMillis = nowMillis
    this.present = Math.floor(nowMillis / 1000)
  }

  /** Since when nothing has happened; `undefined` while something is in flight. */
  idleSince(): number | undefined {
    return this.inFlight > 0 ? undefined : this.usedMillis
  }

  figures(nowMillis: number): Figures {
    if (this.bornMillis === undefined) return none
    this.slotAt(nowMillis)
    const sum = (of: (slot: Slot) => number) => this.slots.reduce((total, slot) => total + of(slot), 0)
    const ended = sum((slot) => slot.ended)
    const from = Math.max(this.bornMillis, (this.present - windowSeconds + 1) * 1000)
    return {
      // Of less than a second nobody can say what a second brings.
      rate: rounded(ended / Math.max(1, (nowMillis - from) / 1000)),
      success: ended === 0 ? null : 1 - sum((slot) => slot.failed) / ended,
      p50Millis: Slot.quantile(this.slots, 0.5),
      p99Millis: Slot.quantile(this.slots, 0.99),
      attempts: ended === 0 ? null : rounded(sum((slot) => slot.attempts) / ended),
      inFlight: this.inFlight,
      total: this.total,
      failed: this.failures,
      history: {
        ended: this.points.map((point) => point.ended),
        failed: this.points.map((point) => point.failed),
        p50Millis: this.points.map((point) => point.p50Millis),
        p99Millis: this.points.map((point) => point.p99Millis)
      },
      reasons: Array.from(this.reasons, ([reason, { atMillis, count }]) => ({
        reason,
        count,
        agoMillis: Math.max(0, nowMillis - atMillis)
      })).toReversed()
    }
  }

  /** The slot of the present second, when those that are over have been put into the line. */
  private slotAt(nowMillis: number): Slot {
    const second = Math.floor(nowMillis / 1000)
    if (second > this.present) {
      // A gap longer than the line leaves nothing of it.
      for (let over = Math.max(this.present, second - historySeconds); over < second; over++) this.seal(over)
      this.present = second
      this.slots[second % windowSeconds]!.clear()
    }
    return this.slots[this.present % windowSeconds]!
  }

  private seal(second: number): void {
    const slot = this.slots[second % windowSeconds]!
    // Nothing has happened in the seconds after the present one.
    if (second > this.present) slot.clear()
    this.points.push({
      ended: slot.ended,
      failed: slot.failed,
      p50Millis: Slot.quantile([slot], 0.5),
      p99Millis: Slot.quantile([slot], 0.99)
    })
    if (this.points.length > historySeconds) this.points.shift()
  }
}

/** Where what finds no room is counted. */
export const overflow = "(others)"

/** Series by name, at most so many: one that nobody has used for the line's length makes room for a new name. */
export class Table {
  private readonly max: number
  private readonly series = new Map<string, Series>()

  constructor(max: number) {
    this.max = max
  }

  of(name: string, nowMillis: number): Series {
    return this.series.get(name) ?? this.add(name, nowMillis)
  }

  /** By name. */
  entries(): ReadonlyArray<readonly [string, Series]> {
    return [...this.series].toSorted(([a], [b]) => a < b ? -1 : 1)
  }

  get(name: string): Series | undefined {
    return this.series.get(name)
  }

  /** Forgets those that are idle and not `wanted`. */
  sweep(nowMillis: number, isWanted: (name: string) => boolean): void {
    for (const [name, series] of this.series) {
      if (isIdle(series, nowMillis) && !isWanted(name)) this.series.delete(name)
    }
  }

  private add(name: string, nowMillis: number): Series {
    if (this.series.size >= this.max && !this.makeRoom(nowMillis)) {
      const shared = this.series.get(overflow)
      if (shared !== undefined) return shared
      name = overflow
    }
    const series = new Series()
    this.series.set(name, series)
    return series
  }

  private makeRoom(nowMillis: number): boolean {
    for (const [name, series] of this.series) {
      if (isIdle(series, nowMillis)) return this.series.delete(name)
    }
    return false
  }
}

const isIdle = (series: Series, nowMillis: number): boolean => {
  const since = series.idleSince()
  return since !== undefined && nowMillis - since > historySeconds * 1000
}
