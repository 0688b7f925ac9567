/**
 * Why something of ours was interrupted.
 *
 * The reason rides on the interrupt as an annotation, so a finalizer can tell a
 * hedge that lost from a caller that left. An interrupt without one came from
 * the caller.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Option from "effect/Option"

export type Reason = "caller" | "deadline" | "attemptTimeout" | "hedgeLost" | "shutdown"

/** The annotation that carries the reason. */
export class InterruptReason extends Context.Service<InterruptReason, Reason>()("holdfast/contract/InterruptReason") {}

const made = (reason: Reason): Context.Context<never> => Context.make(InterruptReason, reason) as Context.Context<never>

/** The annotations to interrupt with, one prebuilt context per reason. */
export const annotations: Readonly<Record<Reason, Context.Context<never>>> = {
  caller: made("caller"),
  deadline: made("deadline"),
  attemptTimeout: made("attemptTimeout"),
  hedgeLost: made("hedgeLost"),
  shutdown: made("shutdown")
}

/** The reason of the first interrupt in a cause, `undefined` where there is no interrupt. */
export const fromCause = (cause: Cause.Cause<unknown>): Reason | undefined => {
  for (const reason of cause.reasons) {
    if (Cause.isInterruptReason(reason)) {
      const annotated = Context.getOption(Cause.reasonAnnotations(reason) as Context.Context<never>, InterruptReason)
      return Option.getOrElse(annotated, () => "caller" as const)
    }
  }
  return undefined
}
