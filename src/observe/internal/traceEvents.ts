/** What a `CallEvent` is on a span. Pure: the event goes in, a name and attributes come out. */
import type { CallEvent } from "../../contract/CallEvent.ts"
import type { Attributes, EventName } from "./traceNames.ts"
import { typeOf } from "./traceStatus.ts"

export interface SpanEvent {
  readonly name: EventName
  readonly attributes: Attributes
}

type Cases = {
  readonly [Tag in CallEvent["_tag"]]: ((event: Extract<CallEvent, { readonly _tag: Tag }>) => SpanEvent) | undefined
}

/** An event added to the union does not compile until it is here. */
const cases: Cases = {
  // The spans themselves.
  CallStarted: undefined,
  AttemptStarted: undefined,
  AttemptEnded: undefined,
  CallEnded: undefined,
  RetryScheduled: ({ call, delayMillis, error, policy }) => ({
    name: "holdfast.retry",
    attributes: {
      "retry.attempt": call.attempt,
      "holdfast.policy": policy,
      "holdfast.delay_ms": delayMillis,
      "error.type": typeOf(error)
    }
  }),
  HedgeStarted: ({ afterMillis, call, policy }) => ({
    name: "holdfast.hedge",
    attributes: { "retry.attempt": call.attempt, "holdfast.policy": policy, "holdfast.delay_ms": afterMillis }
  }),
  QueueLeft: ({ how, policy, waitedMillis }) => ({
    name: "holdfast.queued",
    attributes: { "holdfast.policy": policy, "holdfast.how": how, "holdfast.queued_ms": waitedMillis }
  }),
  Repicked: ({ endpoint, error }) => ({
    name: "holdfast.repicked",
    attributes: { "holdfast.endpoint": endpoint, "holdfast.reason": typeOf(error) }
  }),
  Rejected: ({ error, policy, reason, state }) => ({
    name: "holdfast.rejected",
    attributes: {
      "holdfast.policy": policy,
      "holdfast.reason": reason,
      "holdfast.why": state?.why,
      "holdfast.circuit_breaker.state": error.reason._tag === "CircuitOpen" ? error.reason.state : undefined
    }
  }),
  Transition: ({ from, policy, to, why }) => ({
    name: "holdfast.transition",
    attributes: { "holdfast.policy": policy, "holdfast.from": from, "holdfast.to": to, "holdfast.why": why }
  }),
  LimitMoved: ({ from, policy, to, why }) => ({
    name: "holdfast.limit",
    attributes: { "holdfast.policy": policy, "holdfast.from": from, "holdfast.to": to, "holdfast.why": why }
  }),
  BudgetMoved: ({ balance, change, policy }) => ({
    name: "holdfast.budget",
    attributes: { "holdfast.policy": policy, "holdfast.change": change, "holdfast.retry_budget.balance": balance }
  }),
  Substituted: ({ how, policy }) => ({
    name: "holdfast.substituted",
    attributes: { "holdfast.policy": policy, "holdfast.how": how }
  }),
  EndpointChanged: ({ change, endpoint, why }) => ({
    name: "holdfast.endpoint",
    attributes: { "holdfast.endpoint": endpoint, "holdfast.change": change, "holdfast.why": why }
  }),
  Warning: ({ policy, why }) => ({
    name: "holdfast.warning",
    attributes: { "holdfast.policy": policy, "holdfast.why": why }
  }),
  // Of no one call.
  Reloaded: undefined,
  SessionChanged: undefined,
  RequestRefused: undefined
}

/** Whether an event is one on a span at all. */
export const isTold = (event: CallEvent): boolean => cases[event._tag] !== undefined

/** The span event, `undefined` where there is none. */
export const of = (event: CallEvent): SpanEvent | undefined =>
  (cases[event._tag] as ((event: CallEvent) => SpanEvent) | undefined)?.(event)
