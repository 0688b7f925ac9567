/**
 * How many attempts the other side is about to refuse, from what became of the
 * ones before.
 *
 * `requests` are the attempts that have ended, the ones rejected here, and those
 * in flight for longer than is to be expected; `accepts` are the ones that ended
 * well. While `requests` stay within `k` times the `accepts` nothing is
 * rejected; beyond, the excess is.
 *
 * - Local rejections are requests: the pressure is the callers', and it has not
 *   gone because we hold it back.
 * - What is in flight and young is no request yet. Counting it as one on
 *   admission, while its acceptance is still on its way, rejects 88 % of a
 *   healthy server's first seconds at 40 attempts per second of 1.2 s each;
 *   counting it when it has ended is blind for as long as it takes. How long is
 *   to be expected comes from Little's law over the same window: time in flight,
 *   summed, over endings. It errs on the long side while answers are still
 *   outstanding, where a mean of the answers so far has seen only the fast ones.
 * - Buckets whose attempts ended well lift the rejection step by step: after a
 *   half a window of nothing but those it is gone, whatever the window still holds. Well
 *   means better than halfway between all and the `1/k` at which the throttle
 *   keeps a struggling server, so a stray failure does not stop a recovery.
 * - With `kMin` below `k` a server that fails everything is shut off faster: `k`
 *   falls towards `kMin` as buckets with nothing but failures follow each other.
 *
 * Times are milliseconds on one monotonic clock that never goes back.
 *
 * Source: Google SRE, "Handling Overload" (client-side throttling); the bucket
 * rules and the forced pass, go-zero `googlebreaker`.
 */

/** The window's resolution: 2.5 % of it is forgotten at a time. */
const buckets = 40

/** An attempt is late after three times the expected time: of exponential latencies one in twenty is. */
const late = 3

/** A recovery takes half a window, which leaves the other half for the first answers to arrive. */
const recovery = 2

export interface Options {
  readonly k: number
  readonly kMin: number
  readonly windowMillis: number
  readonly minimumCalls: number
  readonly maxRejection: number
  readonly forcedPassMillis: number
}

/** The share to reject: 0 within `k` times the accepts, and `minimumCalls` more are forgiven. */
export const ratioOf = (
  requests: number,
  accepts: number,
  k: number,
  minimumCalls: number,
  maxRejection: number
): number => Math.min(maxRejection, Math.max(0, (requests - minimumCalls - k * accepts) / (requests + 1)))

/** An admitted attempt; those admitted within the window are linked, oldest first. */
export interface Pending {
  readonly startedAt: number
  state: "young" | "late" | "forgotten" | "ended"
  older: Pending | undefined
  younger: Pending | undefined
}

/** Halfway between all and the share of accepts at which the throttle keeps a struggling server. */
const healthyAt = (k: number): number => (1 + 1 / k) / 2

export class Rejection {
  private options: Options
  private readonly width: number
  private healthy: number

  private readonly accepted = new Float64Array(buckets)
  private readonly failed = new Float64Array(buckets)
  private readonly rejected = new Float64Array(buckets)
  /** Milliseconds spent in flight, summed over attempts. */
  private readonly busy = new Float64Array(buckets)

  /** Up to when everything above is accounted for, and the number of its bucket since time zero. */
  private at = -Infinity
  private bucket = 0

  // Sums over the window.
  private accepts = 0
  private failures = 0
  private rejections = 0
  private busyMillis = 0
  /** Buckets in a row, up to the one before the present, in which attempts ended well, or only failed. */
  private working = 0
  private failing = 0

  private inFlight = 0
  /** Those in flight that were admitted within the window. */
  private linked = 0
  private lateCount = 0
  private oldest: Pending | undefined
  /** Older ones are late. */
  private oldestYoung: Pending | undefined
  private youngest: Pending | undefined
  private admittedAt = -Infinity

  constructor(options: Options) {
    this.options = options
    this.width = options.windowMillis / buckets
    this.healthy = healthyAt(options.k)
  }

  /** Goes on with other options of the same window: whether they are. */
  change(options: Options): boolean {
    if (options.windowMillis !== this.options.windowMillis) return false
    this.options = options
    this.healthy = healthyAt(options.k)
    return true
  }

  /** The share of attempts to reject now. */
  ratio(now: number): number {
    this.advance(now)
    this.overtake(now)
    const { k, kMin, maxRejection, minimumCalls } = this.options
    const strictness = this.failingNow() / buckets
    const ratio = ratioOf(
      this.requests,
      this.accepts,
      k - (k - kMin) * strictness,
      minimumCalls,
      maxRejection
    )
    return ratio === 0 ? 0 : ratio * Math.max(0, 1 - (recovery * this.workingNow()) / buckets)
  }

  /** Whether an attempt must pass, however high the ratio: without one nobody would see the server recover. */
  mustPass(now: number): boolean {
    return now - this.admittedAt >= this.options.forcedPassMillis
  }

  admit(now: number): Pending {
    this.advance(now)
    this.admittedAt = now
    this.inFlight++
    this.linked++
    const pending: Pending = { startedAt: now, state: "young", older: this.youngest, younger: undefined }
    if (this.youngest === undefined) this.oldest = pending
    else this.youngest.younger = pending
    this.oldestYoung ??= pending
    this.youngest = pending
    return pending
  }

  reject(now: number): void {
    this.advance(now)
    this.rejected[this.bucket % buckets]!++
    this.rejections++
  }

  /** The attempt is over; what it was worth is told to `record`. */
  end(pending: Pending, now: number): void {
    if (pending.state === "ended") return
    this.advance(now)
    this.inFlight--
    if (pending.state !== "forgotten") this.unlink(pending)
    pending.state = "ended"
  }

  /** An attempt that has just ended was accepted by the server, or was not. */
  record(accepted: boolean): void {
    if (accepted) {
      this.accepted[this.bucket % buckets]!++
      this.accepts++
    } else {
      this.failed[this.bucket % buckets]!++
      this.failures++
    }
  }

  /** The figures as of the last event. */
  status(): {
    readonly requests: number
    readonly accepts: number
    readonly rejections: number
    readonly inFlight: number
    readonly expectedMillis: number
  } {
    return {
      requests: this.requests,
      accepts: this.accepts,
      rejections: this.rejections,
      inFlight: this.inFlight,
      expectedMillis: this.expected
    }
  }

  private get requests(): number {
    return this.accepts + this.failures + this.rejections + this.lateCount
  }

  /** How long an attempt is expected to take: unknown, so for ever, before the first has ended. */
  private get expected(): number {
    const ended = this.accepts + this.failures
    return ended === 0 ? Infinity : this.busyMillis / ended
  }

  private overtake(now: number): void {
    const lateBefore = now - late * this.expected
    while (this.oldestYoung !== undefined && this.oldestYoung.startedAt < lateBefore) {
      this.oldestYoung.state = "late"
      this.oldestYoung = this.oldestYoung.younger
      this.lateCount++
    }
    // A stream that has been open for an hour says nothing of the last half minute.
    const windowStart = now - this.options.windowMillis
    while (this.oldest !== undefined && this.oldest.startedAt <= windowStart) {
      const { oldest } = this
      this.unlink(oldest)
      oldest.state = "forgotten"
    }
  }

  private unlink(pending: Pending): void {
    const { older, younger } = pending
    this.linked--
    if (pending.state === "late") this.lateCount--
    if (this.oldestYoung === pending) this.oldestYoung = younger
    if (older === undefined) this.oldest = younger
    else older.younger = younger
    if (younger === undefined) this.youngest = older
    else younger.older = older
    pending.older = pending.younger = undefined
  }

  private workingNow(): number {
    const accepts = this.accepted[this.bucket % buckets]!
    const ended = accepts + this.failed[this.bucket % buckets]!
    if (ended === 0) return this.working
    return accepts >= this.healthy * ended ? this.working + 1 : 0
  }

  private failingNow(): number {
    if (this.accepted[this.bucket % buckets]! > 0) return 0
    return this.failed[this.bucket % buckets]! > 0 ? this.failing + 1 : this.failing
  }

  private advance(now: number): void {
    if (now <= this.at) return
    const target = Math.floor(now / this.width)
    if (this.at === -Infinity) {
      this.at = now
      this.bucket = target
    }
    if (target > this.bucket) this.turn(target)
    const millis = this.linked * (now - this.at)
    this.busy[this.bucket % buckets]! += millis
    this.busyMillis += millis
    this.at = now
  }

  /** Moves to a later bucket, emptying the ones on the way, and sums the window up afresh. */
  private turn(target: number): void {
    if (target - this.bucket > buckets) {
      // Longer ago than the window reaches.
      this.bucket = target - buckets
      this.at = this.bucket * this.width
    }
    while (this.bucket < target) {
      const end = (this.bucket + 1) * this.width
      this.busy[this.bucket % buckets]! += this.linked * (end - this.at)
      this.at = end
      this.bucket++
      const index = this.bucket % buckets
      for (const counts of [this.accepted, this.failed, this.rejected, this.busy]) counts[index] = 0
    }
    this.accepts = this.failures = this.rejections = 0
    this.busyMillis = this.working = this.failing = 0
    let wellSoFar = true
    let badSoFar = true
    // From the present backwards; the present one is empty, and adds nothing.
    for (let back = 0; back < buckets; back++) {
      const index = (this.bucket - back + buckets) % buckets
      const accepts = this.accepted[index]!
      const ended = accepts + this.failed[index]!
      this.accepts += accepts
      this.failures += this.failed[index]!
      this.rejections += this.rejected[index]!
      this.busyMillis += this.busy[index]!
      if (ended === 0) continue
      wellSoFar &&= accepts >= this.healthy * ended
      badSoFar &&= accepts === 0
      if (wellSoFar) this.working++
      if (badSoFar) this.failing++
    }
  }
}
