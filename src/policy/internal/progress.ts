/**
 * What a call has met so far, for whoever ends it from outside.
 *
 * A deadline interrupts the retry loop wherever it is, and must still carry the
 * last attempt's error and say whether anything was sent. The guard provides a
 * place: the loop notes errors there, and whoever sends notes that it does.
 */
import * as Context from "effect/Context"
import type * as Fiber from "effect/Fiber"
import type { Sent } from "../../contract/CallError.ts"
import type * as Deadline from "../../contract/Deadline.ts"

export interface Progress {
  /** When the guard answers, whatever happens inside it. */
  readonly deadline: Deadline.Deadline
  /** Whether the guard leaves the work alone: others wait for it too, and it may go on after the deadline. */
  readonly shared: boolean
  /** The last attempt's error; `undefined` while none has failed. */
  last: unknown
  /** `"no"` until an attempt begins, where the attempts of what is guarded say so (`begun`); else `"maybe"`. */
  sent: Sent
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

/** Notes that an attempt begins, to the guard whose attempts say so: from now on it may have been sent. */
export const begun = (fiber: Fiber.Fiber<unknown, unknown>): void => {
  const progress = fiber.getRef(Current)
  if (progress !== undefined) progress.sent = "maybe"
}

/** The same place for work that others wait for too. Which of them it was sent for, nobody asks. */
export const share = (progress: Progress): Progress => ({
  deadline: progress.deadline,
  shared: true,
  sent: progress.sent,
  get last() {
    return progress.last
  },
  set last(error) {
    progress.last = error
  }
})

/** Whether a guard outside answers at a deadline, or before. */
export const isAnswered = (fiber: Fiber.Fiber<unknown, unknown>, deadline: Deadline.Deadline): boolean => {
  const progress = fiber.getRef(Current)
  return progress !== undefined && progress.deadline <= deadline
}

/** Whether a guard outside ends what is inside at a deadline, or before: then nothing inside has to. */
export const isGuarded = (fiber: Fiber.Fiber<unknown, unknown>, deadline: Deadline.Deadline): boolean =>
  isAnswered(fiber, deadline) && !fiber.getRef(Current)!.shared
