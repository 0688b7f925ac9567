/**
 * When the call inside really started, told to a breaker outside by a limiter
 * inside.
 *
 * A call that queues for a permit is not slow because of its endpoint, and a
 * probe that queues is not hung. So a breaker that measures (one with a
 * slow-call condition, or one whose call is a probe) puts a stamp into the
 * context, and a limiter that makes a call wait moves it:
 *
 * ```ts
 * const stamp = Stamp.of(fiber)   // only when the call has to queue
 * Stamp.wait(stamp)               // in the step that enqueues it
 * Stamp.go(stamp, waitedMillis)   // in the step that ends its waiting, for whatever reason
 * ```
 *
 * A limiter that grants at once does nothing, so its fast path pays nothing.
 * Every `wait` is followed by one `go`, also where the waiting ends in a
 * rejection or an interrupt.
 */
import * as Context from "effect/Context"
import type * as Fiber from "effect/Fiber"

export interface Stamp {
  /** Milliseconds of the monotonic clock; what the call has waited since is added to it. */
  startedAt: number
  /** How many waits go on: while it is not 0, no lease runs out. */
  waiting: number
}

/** The stamp of the innermost breaker that measures; `undefined`, the default, where none does. */
export const Current = Context.Reference<Stamp | undefined>("holdfast/policy/internal/Stamp", {
  defaultValue: () => undefined
})

/** The stamp that a wait of this fiber's call has to move, if any. */
export const of = (fiber: Fiber.Fiber<unknown, unknown>): Stamp | undefined => fiber.getRef(Current)

/** A wait begins. */
export const wait = (stamp: Stamp | undefined): void => {
  if (stamp !== undefined) stamp.waiting++
}

/** A wait is over: granted, rejected or interrupted. */
export const go = (stamp: Stamp | undefined, waitedMillis: number): void => {
  if (stamp === undefined) return
  stamp.waiting--
  stamp.startedAt += waitedMillis
}
