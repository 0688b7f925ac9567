/**
 * The instant a call must be answered by.
 *
 * A deadline is an absolute time on the monotonic clock, in milliseconds, and
 * `Infinity` where there is none. It is fixed once, when the call is made, and
 * only ever moves closer: a call made on behalf of another inherits the other's
 * deadline. On the wire it travels as the time remaining, so that the clocks of
 * two machines need not agree.
 */
import * as Duration from "effect/Duration"

/** Milliseconds on the monotonic clock; `Infinity` for none. */
export type Deadline = number

/** No deadline. */
export const none: Deadline = Infinity

/** The deadline `duration` after `nowMillis`. An infinite duration is no deadline. */
export const after = (nowMillis: number, duration: Duration.Input): Deadline =>
  nowMillis + Duration.toMillis(Duration.fromInputUnsafe(duration))

/** The earlier of the two: commutative, with `none` as its identity. */
export const combine = (self: Deadline, that: Deadline): Deadline => Math.min(self, that)

/** Milliseconds left, never negative; `Infinity` without a deadline. */
export const remainingMillis = (self: Deadline, nowMillis: number): number => Math.max(0, self - nowMillis)

/** Whether the deadline has passed. */
export const isExceeded = (self: Deadline, nowMillis: number): boolean => nowMillis >= self

/** Largest remaining time the wire can state; also its mark for "no deadline". 49.7 days. */
const wireNone = 0xffff_ffff

/**
 * Time remaining in whole milliseconds, as the wire carries it.
 *
 * Rounded down, so that a callee never believes it has more time than the
 * caller will wait; at least 1, because 0 would be refused on arrival although
 * the caller is still there.
 */
export const toWire = (self: Deadline, nowMillis: number): number => {
  if (self === Infinity) return wireNone
  return Math.min(wireNone - 1, Math.max(1, Math.floor(self - nowMillis)))
}

/** The receiver's deadline for a remaining time that arrived at `nowMillis`. */
export const fromWire = (remaining: number, nowMillis: number): Deadline =>
  remaining === wireNone ? none : nowMillis + remaining
