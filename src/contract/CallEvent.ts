/**
 * Everything observable, as one closed union, and the one receiver of it.
 *
 * With no receiver installed an event costs one reference read: it is not even
 * built. Nothing on the call path imports `observe/`; it installs a receiver.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type { CallContext, TraceContext } from "./CallContext.ts"
import type { CallError } from "./CallError.ts"
import type { Reason as InterruptReason } from "./Interruption.ts"
import type { Outcome } from "./Outcome.ts"

/** A call was made. */
export interface CallStarted {
  readonly _tag: "CallStarted"
  readonly call: CallContext
  readonly atMillis: number
}

/** An attempt is about to be sent. */
export interface AttemptStarted {
  readonly _tag: "AttemptStarted"
  readonly call: CallContext
  /** The endpoint's address, `undefined` for an Effect that is no Holdfast call. */
  readonly endpoint: string | undefined
  readonly atMillis: number
}

export interface AttemptEnded {
  readonly _tag: "AttemptEnded"
  readonly call: CallContext
  readonly endpoint: string | undefined
  readonly outcome: Outcome
  /** The error, where there was one. */
  readonly error: unknown
  /** Why it was interrupted, where it was. */
  readonly interrupted: InterruptReason | undefined
  readonly durationMillis: number
  readonly atMillis: number
}

/** A retry was decided and waits for its backoff. */
export interface RetryScheduled {
  readonly _tag: "RetryScheduled"
  /** As the attempt to come sees it. */
  readonly call: CallContext
  readonly policy: string
  readonly delayMillis: number
  /** How long the other side asked us to stay away, where it did; the delay is no shorter, up to the policy's cap. */
  readonly retryAfterMillis: number | undefined
  readonly error: unknown
  readonly atMillis: number
}

/** A hedge was started because the attempt before it is slow. */
export interface HedgeStarted {
  readonly _tag: "HedgeStarted"
  readonly call: CallContext
  readonly policy: string
  readonly afterMillis: number
  readonly atMillis: number
}

export interface CallEnded {
  readonly _tag: "CallEnded"
  readonly call: CallContext
  readonly attempts: number
  readonly outcome: Outcome
  readonly error: unknown
  /** Why it was interrupted, where it was. */
  readonly interrupted: InterruptReason | undefined
  readonly durationMillis: number
  readonly atMillis: number
}

/** A policy rejected before anything was sent. */
export interface Rejected {
  readonly _tag: "Rejected"
  readonly call: CallContext
  readonly policy: string
  /** The tag of the reason, such as `CircuitOpen`. */
  readonly reason: string
  /** What the call gets from here, with its figures. */
  readonly error: CallError
  /** How the state came about that rejects, and when, where there is one: a circuit's. */
  readonly state: { readonly why: string; readonly sinceMillis: number } | undefined
  readonly atMillis: number
}

/** A call has waited in the queue of a limiter, and left it. */
export interface QueueLeft {
  readonly _tag: "QueueLeft"
  readonly call: CallContext
  readonly policy: string
  readonly how: "admitted" | "rejected" | "interrupted"
  readonly waitedMillis: number
  readonly atMillis: number
}

/** Nothing was sent to the endpoint that was picked, so that another is picked: it costs no attempt. */
export interface Repicked {
  readonly _tag: "Repicked"
  readonly call: CallContext
  readonly target: string
  /** The one that is left. */
  readonly endpoint: string
  readonly error: CallError
  readonly atMillis: number
}

/** A state machine moved: a circuit, a switch. */
export interface Transition {
  readonly _tag: "Transition"
  readonly policy: string
  readonly from: string
  readonly to: string
  /** Why, with the figures that decided: `"6 of 10 failed"`. */
  readonly why: string
  readonly atMillis: number
}

/** A limit moved by itself. */
export interface LimitMoved {
  readonly _tag: "LimitMoved"
  readonly policy: string
  readonly from: number
  readonly to: number
  readonly why: string
  readonly atMillis: number
}

/** A retry budget gave, took back or refused a token. */
export interface BudgetMoved {
  readonly _tag: "BudgetMoved"
  readonly call: CallContext
  readonly policy: string
  readonly change: "withdrawn" | "refunded" | "refused"
  /** Tokens that are left: a fraction. A token withdrawn made it one less. */
  readonly balance: number
  readonly atMillis: number
}

/** A fallback or a cache answered instead of the dependency. */
export interface Substituted {
  readonly _tag: "Substituted"
  readonly call: CallContext
  readonly policy: string
  readonly how: "fallback" | "fresh" | "stale"
  /** How long ago the answer was fetched; `undefined` for one that never was. */
  readonly ageMillis: number | undefined
  readonly atMillis: number
}

/** A running policy took a new spec, or refused one and went on with the old. */
export interface Reloaded {
  readonly _tag: "Reloaded"
  readonly policy: string
  readonly accepted: boolean
  readonly why: string
  readonly atMillis: number
}

/** A user's policy setup does something that is allowed and rarely meant. */
export interface Warning {
  readonly _tag: "Warning"
  readonly policy: string
  readonly why: string
  readonly atMillis: number
}

/** An endpoint came, went, was ejected or readmitted. */
export interface EndpointChanged {
  readonly _tag: "EndpointChanged"
  readonly target: string
  readonly endpoint: string
  readonly change: "added" | "removed" | "ejected" | "readmitted"
  readonly why: string
  readonly atMillis: number
}

/** What went over a session since it was opened. */
export interface SessionStats {
  readonly bytesRead: number
  /** Handed to the socket, whether or not the peer has read them. */
  readonly bytesWritten: number
  /** Requests refused because too many were in flight; 0 on the client's side. */
  readonly refused: number
}

/** A session was opened, or ended with what ended it. */
export interface SessionChanged {
  readonly _tag: "SessionChanged"
  readonly side: "client" | "server"
  readonly peer: string
  readonly change: "opened" | "closed"
  readonly why: string
  /** Tells what went over it, at any time and for the last time when it is closed; the same function for both. */
  readonly stats: () => SessionStats
  readonly atMillis: number
}

/**
 * A server refused a request before its handler, or a peer's bytes.
 *
 * `late`: its deadline had passed; `protocol`: the bytes were not this protocol,
 * and the session is closed. `method` is what the peer sent, which may be anything.
 */
export interface RequestRefused {
  readonly _tag: "RequestRefused"
  readonly peer: string
  readonly method: string | undefined
  readonly reason: "unimplemented" | "invalid" | "late" | "protocol"
  readonly why: string
  readonly atMillis: number
}

export type CallEvent =
  | CallStarted
  | AttemptStarted
  | AttemptEnded
  | RetryScheduled
  | HedgeStarted
  | CallEnded
  | Rejected
  | QueueLeft
  | Repicked
  | Transition
  | LimitMoved
  | BudgetMoved
  | Substituted
  | Reloaded
  | Warning
  | EndpointChanged
  | SessionChanged
  | RequestRefused

/**
 * Who is told. `event` must not throw and must not wait; the `around` hooks wrap
 * what they name, for spans, and the last two give and take the trace context.
 */
export interface Receiver {
  readonly event: (event: CallEvent) => void
  /** Who is told of one client call instead of `event`, from its `CallStarted` on: what tells calls apart that overlap. */
  readonly forCall?: (call: CallContext) => (event: CallEvent) => void
  /** Whether the hooks wait for nothing, so that a call needs no guard on their account. Default: they may wait. */
  readonly prompt?: boolean
  /** Whether it is told of calls and attempts that begin and end. Default `true`; who has hooks may need no telling. */
  readonly hearsCalls?: boolean
  /**
   * The trace that a call is to carry with which the hooks have nothing to do: one that is not sampled. `undefined` for a
   * call with which they have. Asked once, before a call; of one that is left out no hook is called.
   */
  readonly leavesOut?: (fiber: Fiber.Fiber<unknown, unknown>, call: CallContext) => TraceContext | undefined
  readonly aroundCall?: <A, E, R>(self: Effect.Effect<A, E, R>, call: CallContext) => Effect.Effect<A, E, R>
  readonly aroundAttempt?: <A, E, R>(
    self: (trace: TraceContext | undefined) => Effect.Effect<A, E, R>,
    call: CallContext,
    endpoint: string | undefined
  ) => Effect.Effect<A, E, R>
  readonly aroundHandler?: <A, E, R>(
    self: Effect.Effect<A, E, R>,
    call: CallContext,
    peer: string
  ) => Effect.Effect<A, E, R>
}

/** The receiver in force; `undefined`, the default, means that nobody looks. */
export const CurrentReceiver = Context.Reference<Receiver | undefined>("holdfast/contract/CallEvent/Receiver", {
  defaultValue: () => undefined
})

/** The receiver of a fiber, if anybody looks: build the event only then. */
export const receiverOf = (fiber: Fiber.Fiber<unknown, unknown>): Receiver | undefined => fiber.getRef(CurrentReceiver)

/** Both are told, `outer` first; its hooks stand around those of `inner`. */
export const combine = (outer: Receiver, inner: Receiver): Receiver => {
  const call = nested(outer.aroundCall, inner.aroundCall)
  const handler = nested(outer.aroundHandler, inner.aroundHandler)
  const attempt = nestedAttempt(outer.aroundAttempt, inner.aroundAttempt)
  return {
    event: both(outer.event, inner.event),
    ...((outer.forCall || inner.forCall) && {
      forCall: (context) => both(eventOf(outer, context), eventOf(inner, context))
    }),
    ...(call && { aroundCall: call }),
    ...(attempt && { aroundAttempt: attempt }),
    ...(handler && { aroundHandler: handler }),
    ...(outer.hearsCalls === false && inner.hearsCalls === false && { hearsCalls: false }),
    ...leaver(outer, inner),
    ...((call || attempt) && !mayWait(outer) && !mayWait(inner) && { prompt: true })
  }
}

/** Whether hooks of somebody else stand around a call and its attempts, which may wait for what they like. */
export const mayWait = (receiver: Receiver | undefined): boolean =>
  receiver !== undefined && receiver.prompt !== true && hasHooks(receiver)

/** Who is told of a client call. */
export const eventOf = (receiver: Receiver, call: CallContext): Receiver["event"] =>
  receiver.forCall === undefined ? receiver.event : receiver.forCall(call)

/** What the hooks of both leave out; where one has none, what the other's do. */
const leaver = (outer: Receiver, inner: Receiver): Pick<Receiver, "leavesOut"> => {
  if (!hasHooks(inner)) return outer.leavesOut === undefined ? {} : { leavesOut: outer.leavesOut }
  if (!hasHooks(outer)) return inner.leavesOut === undefined ? {} : { leavesOut: inner.leavesOut }
  // With two that decide apart, each has to see every call.
  return {}
}

const hasHooks = (receiver: Receiver): boolean =>
  receiver.aroundCall !== undefined || receiver.aroundAttempt !== undefined

const both = (outer: Receiver["event"], inner: Receiver["event"]): Receiver["event"] => (event) => {
  outer(event)
  inner(event)
}

type Around<Args extends ReadonlyArray<unknown>> = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  ...args: Args
) => Effect.Effect<A, E, R>

const nested = <Args extends ReadonlyArray<unknown>>(
  outer: Around<Args> | undefined,
  inner: Around<Args> | undefined
): Around<Args> | undefined =>
  outer === undefined || inner === undefined
    ? outer ?? inner
    : (self, ...args) => outer(inner(self, ...args), ...args)

const nestedAttempt = (
  outer: Receiver["aroundAttempt"],
  inner: Receiver["aroundAttempt"]
): Receiver["aroundAttempt"] =>
  outer === undefined || inner === undefined
    ? outer ?? inner
    // The inner hook sees the trace the outer one chose, and may choose another.
    : (self, call, endpoint) =>
      outer((trace) => inner(self, { ...call, trace: trace ?? call.trace }, endpoint), call, endpoint)
