/**
 * Tells a receiver of a call and of its attempts, and puts its hooks around them.
 *
 * Nothing here is run where nobody looks.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type * as CallContext from "../../contract/CallContext.ts"
import * as CallEvent from "../../contract/CallEvent.ts"
import * as Immediate from "../../contract/Immediate.ts"
import * as Interruption from "../../contract/Interruption.ts"
import * as Outcome from "../../contract/Outcome.ts"
import * as Timer from "../../contract/Timer.ts"

/** What an exit is told as. */
export interface Told {
  readonly outcome: Outcome.Outcome
  readonly error: unknown
}

/** What to tell of the end of a call or an attempt. */
type Judge<A> = (exit: Exit.Exit<A, unknown>, call: CallContext.CallContext) => Told

export const judged: Judge<unknown> = (exit, call) =>
  Exit.isSuccess(exit) ? succeeded : { outcome: Outcome.ofExit(exit, call), error: Cause.squash(exit.cause) }

const succeeded: Told = { outcome: Outcome.success, error: undefined }

const interruptOf = (exit: Exit.Exit<unknown, unknown>): Interruption.Reason | undefined =>
  Exit.isSuccess(exit) ? undefined : Interruption.fromCause(exit.cause)

/** The call as it goes on: with the trace it is to carry where the receiver's hooks have nothing to do with it. */
export const decided = (
  receiver: CallEvent.Receiver,
  fiber: Fiber.Fiber<unknown, unknown>,
  call: CallContext.CallContext
): CallContext.CallContext => {
  if (receiver.leavesOut === undefined) return call
  const trace = receiver.leavesOut(fiber, call)
  if (trace !== undefined) return { ...call, trace }
  // The hooks know of a parent that is: what was inherited must not look as if they had been asked about it.
  return call.trace?.sampled === false ? { ...call, trace: undefined } : call
}

/** Whether a call was decided to be none of the hooks' business. */
export const isLeftOut = (receiver: CallEvent.Receiver, { trace }: CallContext.CallContext): boolean =>
  receiver.leavesOut !== undefined && trace?.sampled === false

/** A call, everything around it included; `attempts` says how many there were. */
export const call = <A, E, R>(
  receiver: CallEvent.Receiver,
  fiber: Fiber.Fiber<unknown, unknown>,
  self: Effect.Effect<A, E, R>,
  call: CallContext.CallContext,
  startedAt: number,
  attempts: () => number,
  judge: Judge<A> = judged
): Effect.Effect<A, E, R> => {
  const { aroundCall, forCall, hearsCalls } = receiver
  const hook = isLeftOut(receiver, call) ? undefined : aroundCall
  if (hearsCalls === false && forCall === undefined) return hook === undefined ? self : hook(self, call)
  const tell = CallEvent.eventOf(receiver, call)
  tell({ _tag: "CallStarted", call, atMillis: startedAt })
  // A frame that changes the context costs a tenth of a call: only for a receiver that hears each call apart.
  const heard = forCall === undefined
    ? self
    : Effect.provideService(self, CallEvent.CurrentReceiver, { ...receiver, event: tell })
  const around = hook === undefined ? heard : hook(heard, call)
  return Effect.onExitPrimitive(around, (exit) => {
    const atMillis = Timer.now(fiber)
    const { error, outcome } = judge(exit, call)
    tell({
      _tag: "CallEnded",
      call,
      attempts: attempts(),
      outcome,
      error,
      interrupted: interruptOf(exit),
      durationMillis: atMillis - startedAt,
      atMillis
    })
    return undefined
  })
}

/**
 * One attempt at one endpoint; `self` is given the trace that it is to carry. To be returned by what a fiber evaluates:
 * its frame is installed in the present step.
 */
export const attempt = <A, E, R>(
  receiver: CallEvent.Receiver,
  fiber: Fiber.Fiber<unknown, unknown>,
  self: (trace: CallContext.TraceContext | undefined) => Effect.Effect<A, E, R>,
  call: CallContext.CallContext,
  endpoint: string,
  judge: Judge<A> = judged,
  startedAt: number = Timer.now(fiber)
): Effect.Effect<A, E, R> => {
  const { aroundAttempt, hearsCalls } = receiver
  const hooked = aroundAttempt !== undefined && !isLeftOut(receiver, call)
  if (hearsCalls === false) return hooked ? aroundAttempt(self, call, endpoint) : self(call.trace)
  receiver.event({ _tag: "AttemptStarted", call, endpoint, atMillis: startedAt })
  const around = hooked ? aroundAttempt(self, call, endpoint) : self(call.trace)
  const ended = Effect.onExitPrimitive(around, (exit) => {
    const atMillis = Timer.now(fiber)
    const { error, outcome } = judge(exit, call)
    receiver.event({
      _tag: "AttemptEnded",
      call,
      endpoint,
      outcome,
      error,
      interrupted: interruptOf(exit),
      durationMillis: atMillis - startedAt,
      atMillis
    })
    return undefined
  })
  return Immediate.evaluate(ended, around, fiber)
}
