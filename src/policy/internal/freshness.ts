/**
 * What an answer that was kept is good for at a given time.
 *
 * Times are milliseconds on one monotonic clock.
 *
 * Source: RFC 5861 (stale-while-revalidate, stale-if-error); shortened lifetimes
 * against expiry in step, go-zero `mathx/unstable`.
 */

export interface Windows {
  /** How long after it has expired an answer may be served while a new one is fetched. */
  readonly revalidateMillis: number
  /** How long after it has expired an answer may be served when no new one can be had. */
  readonly onErrorMillis: number
}

/** As an answer; as an answer while it is fetched anew; as an answer if that fails; as nothing. */
export type Freshness = "fresh" | "revalidate" | "onError" | "gone"

export const freshnessOf = (freshUntil: number, now: number, windows: Windows): Freshness =>
  now < freshUntil
    ? "fresh"
    : now < freshUntil + windows.revalidateMillis
    ? "revalidate"
    : now < freshUntil + windows.onErrorMillis
    ? "onError"
    : "gone"

/** A lifetime, shortened by up to `jitter` of it: what was stored together does not expire together. */
export const jittered = (millis: number, jitter: number, uniform: number): number => millis * (1 - jitter * uniform)
