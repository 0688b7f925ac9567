/**
 * What a rate limiter counts with. Times are milliseconds on one monotonic clock.
 *
 * `now` may lie before a time seen earlier: a waiter's permits are taken as of
 * the moment it came, when those before it have taken theirs.
 */
export interface Rate {
  /** Permits per window. */
  readonly limit: number
  readonly windowMillis: number
  /** Permits that an idle meter saves up. */
  readonly burst: number
}

export interface Meter {
  /** When the last of so many permits would be due; not after `now` if all are there. */
  dueAt(now: number, permits: number): number
  /** Takes them, and says the same. */
  take(now: number, permits: number): number
  /** Gives back permits that were taken last and not used. */
  refund(permits: number): void
  /** Permits that are there. */
  available(now: number): number
  /** Takes all that are there. */
  drain(now: number): void
  /** Goes on at another rate. */
  change(now: number, rate: Rate): void
}
