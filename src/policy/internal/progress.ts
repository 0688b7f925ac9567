/**
 * What a call has met so far, for whoever ends it from outside.
 *
 * A deadline interrupts the retry loop wherever it is, and must still carry the
 * last attempt's error. The guard provides a place, the loop notes errors there.
 */
import * as Context from "effect/Context"
import type * as Fiber from "effect/Fiber"
import type * as Deadline from "../../contract/Deadline.ts"

export interface Progress {
  /** When the guard answers, whatever happens inside it. */
  readonly deadline: Deadline.Deadline
  /** The last attempt's error; `undefined` while none has failed. */
  last: unknown
}

/** The innermost guarded call's progress; `undefined` where no deadline guards one. */
export const Current = Context.Reference<Progress | undefined>("holdfast/policy/internal/Progress", {
  defaultValue: () => undefined
})

/** Notes an attempt's error. */
export const failed = (fiber: Fiber.Fiber<unknown, unknown>, error: unknown): void => {
  const progress = fiber.getRef(Current)
  if (progress !== undefined) progress.last = error
}

/** Whether a guard outside answers at a deadline, or before. */
export const isGuarded = (fiber: Fiber.Fiber<unknown, unknown>, deadline: Deadline.Deadline): boolean => {
  const progress = fiber.getRef(Current)
  return progress !== undefined && progress.deadline <= deadline
}
