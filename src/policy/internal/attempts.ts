/**
 * The decisions of the loop that sends a call more than once: whether another
 * attempt may be made, and when.
 *
 * One counter for retries and hedges: `sends` is what has been sent so far,
 * `attempts` what may be sent in all. Times are milliseconds on one monotonic
 * clock. The order is the point: each refusal names the true cause, and nothing
 * is taken from the budget for a retry that will not happen.
 *
 * Source: the order is Finagle's `RequeueFilter`, with the deadline asked before
 * the sleep and the budget asked last.
 */

/** An attempt that has failed, as far as the decision needs it. */
export interface Failed {
  /** Whether its outcome allows another attempt of this call. */
  readonly mayRetry: boolean
  /** How long the other side asks us to stay away. */
  readonly retryAfterMillis: number | undefined
  readonly sends: number
  readonly attempts: number
  readonly nowMillis: number
  readonly deadlineMillis: number
}

/**
 * - `final`: the attempt's own answer is the call's.
 * - `late`: the deadline has passed, or is nearer than the time the other side asked for.
 * - `exhausted`: everything that may be sent has been.
 * - `retry`: as far as the attempts go; the delay has to fit and the budget to allow it.
 */
export type Verdict = "final" | "late" | "exhausted" | "retry"

export const decide = (failed: Failed): Verdict => {
  const { attempts, deadlineMillis, mayRetry, nowMillis, retryAfterMillis, sends } = failed
  if (!mayRetry || attempts === 1) return "final"
  if (nowMillis >= deadlineMillis) return "late"
  if (retryAfterMillis !== undefined) {
    // Negative: do not come back. Not a number: nobody knows what was meant, and guessing sends.
    if (!(retryAfterMillis >= 0)) return "final"
    if (sends < attempts && deadlineMillis < Infinity && !fits(retryAfterMillis, nowMillis, deadlineMillis)) {
      return "late"
    }
  }
  return sends >= attempts ? "exhausted" : "retry"
}

/** How far above the time asked for a client may come back, as a share of it: the server that asked sees no herd. */
const spread = 0.2

/**
 * The delay before the next attempt: the backoff's, but not before the other side wants us back. What it asks for
 * counts up to `cap`, and is only ever jittered upwards.
 */
export const delay = (
  backoffMillis: number,
  retryAfterMillis: number | undefined,
  capMillis: number,
  draw: number
): number =>
  retryAfterMillis === undefined
    ? backoffMillis
    : Math.max(backoffMillis, Math.min(retryAfterMillis, capMillis) * (1 + spread * draw))

/** Whether an attempt after `delayMillis` would start before the deadline. */
export const fits = (delayMillis: number, nowMillis: number, deadlineMillis: number): boolean =>
  nowMillis + delayMillis < deadlineMillis

/** A delay a Schedule may state. A negative or endless one says that there is no next attempt. */
export const isDelay = (delayMillis: number): boolean => delayMillis >= 0 && delayMillis < Infinity
