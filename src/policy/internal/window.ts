/**
 * Counts of the last calls: by number of calls, or by time.
 *
 * A window is changed in place, because a copy per call would cost more than
 * the call's whole policy. It belongs to one state of one circuit and is read by
 * nobody else; `cells` copies what it holds for a snapshot.
 *
 * A call is counted when it ends: during an outage the slow failures must count
 * now, not in the bucket of the minute they began in. Times are milliseconds on
 * one monotonic clock.
 */

/** What both windows can do. `calls`, `failures` and `slow` are the totals, as of the last `add` or `expire`. */
export interface Window {
  calls: number
  failures: number
  slow: number
  /**
   * Whether it matters when the next call ends, if it succeeds and is not slow:
   * where it does not, a caller need not read the clock for it.
   */
  readonly timed: boolean
  /** Counts a call that ended at `now`, and forgets what is too old then. */
  add(failed: boolean, slow: boolean, now: number): void
  /** Forgets what is too old at `now`. */
  expire(now: number): void
  /** What the window holds, oldest first: plain data for a snapshot. */
  cells(now: number): Cells
  /** Takes over what a snapshot held, where it is of the same kind; else stays as it is. */
  load(cells: Cells, now: number): void
}

/**
 * A window as data. `calls`: 1 failed, 2 slow, 3 both, per call, with the age of
 * what is not 0. `time`: a row per bucket that holds something.
 */
export type Cells =
  | { readonly by: "calls"; readonly calls: ReadonlyArray<number>; readonly ageMillis: ReadonlyArray<number> }
  | {
    readonly by: "time"
    readonly buckets: ReadonlyArray<{
      readonly ageMillis: number
      readonly calls: number
      readonly failures: number
      readonly slow: number
    }>
  }

export type Shape =
  | { readonly by: "calls"; readonly size: number; readonly maxAgeMillis: number }
  | { readonly by: "time"; readonly millis: number; readonly buckets: number }

/** An empty window. */
export const make = (shape: Shape): Window =>
  shape.by === "calls"
    ? new CountWindow(shape.size, shape.maxAgeMillis)
    : new TimeWindow(shape.millis / shape.buckets, shape.buckets)

/**
 * The last `size` calls: a ring of bits and its totals.
 *
 * A call that failed or was slow is forgotten at `maxAge`, and with it what came
 * before. So the age of successes need not be known: one that no later failure
 * dates stays, and can only make a ratio milder.
 */
export class CountWindow implements Window {
  calls = 0
  failures = 0
  slow = 0
  private readonly ring: Uint8Array
  private readonly maxAge: number
  /** When the calls that are not 0 ended. Made for the first of them. */
  private times: Float64Array | undefined
  /** Before this nothing is too old. May be too early, where what it stood for has left the ring. */
  private agesAt = Infinity
  private next = 0

  constructor(size: number, maxAge: number) {
    this.ring = new Uint8Array(size)
    this.maxAge = maxAge
  }

  get timed(): boolean {
    return this.agesAt < Infinity
  }

  add(failed: boolean, slow: boolean, now: number): void {
    const { next, ring } = this
    this.expire(now)
    if (this.calls < ring.length) this.calls++
    else this.subtract(ring[next]!)
    let cell = 0
    if (failed) {
      cell = 1
      this.failures++
    }
    if (slow) {
      cell |= 2
      this.slow++
    }
    ring[next] = cell
    if (cell !== 0) {
      ;(this.times ??= new Float64Array(ring.length))[next] = now
      this.agesAt = Math.min(this.agesAt, now + this.maxAge)
    }
    this.next = next + 1 === ring.length ? 0 : next + 1
  }

  expire(now: number): void {
    if (now < this.agesAt) return
    let passed = 0
    this.agesAt = Infinity
    for (let i = 0; i < this.calls; i++) {
      const at = this.at(i)
      if (this.ring[at] === 0) continue
      const agesAt = this.times![at]! + this.maxAge
      if (now < agesAt) {
        this.agesAt = agesAt
        break
      }
      passed = i + 1
    }
    this.drop(passed)
  }

  cells(now: number): Cells {
    this.expire(now)
    const places = Array.from({ length: this.calls }, (_, i) => this.at(i))
    const calls = places.map((at) => this.ring[at]!)
    const ageMillis = places.filter((at) => this.ring[at] !== 0).map((at) => Math.max(0, now - this.times![at]!))
    return { by: "calls", calls, ageMillis }
  }

  load(cells: Cells, now: number): void {
    if (cells.by !== "calls") return
    let aged = 0
    for (const cell of cells.calls) {
      const at = cell === 0 ? now : now - (cells.ageMillis[aged++] ?? 0)
      this.add((cell & 1) !== 0, (cell & 2) !== 0, at)
    }
    this.expire(now)
  }

  /** Where the `i`th oldest call is. */
  private at(i: number): number {
    const { length } = this.ring
    return (this.next - this.calls + i + length) % length
  }

  /** Forgets the oldest. */
  private drop(count: number): void {
    for (let i = 0; i < count; i++) {
      this.subtract(this.ring[this.at(0)]!)
      this.calls--
    }
  }

  private subtract(cell: number): void {
    this.failures -= cell & 1
    this.slow -= cell >> 1
  }
}

/**
 * The last `buckets` spans of `width`: partial sums and their totals.
 *
 * A bucket is `floor(now / width)`, so the window reaches back between
 * `buckets - 1` and `buckets` widths. Buckets that have passed are cleared when
 * somebody looks, however long nobody did.
 */
export class TimeWindow implements Window {
  calls = 0
  failures = 0
  slow = 0
  readonly timed = true
  private readonly width: number
  private readonly length: number
  /** `length` rows of calls, failures, slow. */
  private readonly sums: Uint32Array
  /** Number of the newest bucket. */
  private head = 0

  constructor(width: number, length: number) {
    this.width = width
    this.length = length
    this.sums = new Uint32Array(length * 3)
  }

  add(failed: boolean, slow: boolean, now: number): void {
    this.expire(now)
    this.put(this.head, 1, failed ? 1 : 0, slow ? 1 : 0)
  }

  expire(now: number): void {
    const index = Math.floor(now / this.width)
    if (index > this.head) this.advance(index)
  }

  cells(now: number): Cells {
    this.expire(now)
    const buckets: Array<{ ageMillis: number; calls: number; failures: number; slow: number }> = []
    for (let index = this.head - this.length + 1; index <= this.head; index++) {
      const at = this.rowOf(index)
      const calls = this.sums[at]!
      if (calls === 0) continue
      const ageMillis = Math.max(0, now - index * this.width)
      buckets.push({ ageMillis, calls, failures: this.sums[at + 1]!, slow: this.sums[at + 2]! })
    }
    return { by: "time", buckets }
  }

  load(cells: Cells, now: number): void {
    if (cells.by !== "time") return
    this.expire(now)
    for (const { ageMillis, calls, failures, slow } of cells.buckets) {
      const index = Math.floor((now - ageMillis) / this.width)
      if (index > this.head - this.length) this.put(Math.min(index, this.head), calls, failures, slow)
    }
  }

  private put(index: number, calls: number, failures: number, slow: number): void {
    const at = this.rowOf(index)
    this.sums[at]! += calls
    this.calls += calls
    this.sums[at + 1]! += failures
    this.failures += failures
    this.sums[at + 2]! += slow
    this.slow += slow
  }

  private rowOf(index: number): number {
    const { length } = this
    return (((index % length) + length) % length) * 3
  }

  private advance(index: number): void {
    const passed = Math.min(index - this.head, this.length)
    for (let i = 0; i < passed; i++) {
      const at = this.rowOf(index - i)
      this.calls -= this.sums[at]!
      this.failures -= this.sums[at + 1]!
      this.slow -= this.sums[at + 2]!
      this.sums[at] = this.sums[at + 1] = this.sums[at + 2] = 0
    }
    this.head = index
  }
}
