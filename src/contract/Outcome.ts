/**
 * What an exit means: for the endpoint's health, and for another attempt.
 *
 * Breakers, limiters and balancers read `endpoint`; retries and hedges read
 * `retry`. Both come from one classification, so no two policies can disagree
 * about the same error. The table over `CallError`'s reasons is total by type.
 */
import * as Cause from "effect/Cause"
import * as Exit from "effect/Exit"
import * as CallError from "./CallError.ts"
import * as Interruption from "./Interruption.ts"

/** What the exit says about the endpoint. `ignored` says nothing: a permit goes back and nothing is counted. */
export type EndpointOutcome = "success" | "failure" | "ignored"

/**
 * Whether another attempt may be made: `safe` always, `ifIdempotent` for calls
 * that may be sent twice, `elsewhere` at another endpoint without counting an
 * attempt, `never`.
 */
export type RetryOutcome = "safe" | "ifIdempotent" | "elsewhere" | "never"

export interface Outcome {
  readonly endpoint: EndpointOutcome
  readonly retry: RetryOutcome
  /** How long the other side asks us to stay away, in milliseconds: a floor for the next delay. */
  readonly retryAfterMillis?: number | undefined
}

/** What classification reads of a `CallContext`, which imports this module and so cannot be imported here. */
export interface Call {
  readonly idempotent: boolean
  readonly idempotencyKey: string | undefined
  readonly classify: ((error: unknown) => Outcome) | undefined
}

/** The endpoint answered, whatever the answer was worth to the caller. */
export const success: Outcome = { endpoint: "success", retry: "never" }
/** Says nothing about the endpoint and ends the call. */
export const ignored: Outcome = { endpoint: "ignored", retry: "never" }
/** The endpoint failed; only a call that may be sent twice is sent again. */
export const failure: Outcome = { endpoint: "failure", retry: "ifIdempotent" }
/** The endpoint failed, and the attempt may be repeated whatever the call is. */
export const failureSafe: Outcome = { endpoint: "failure", retry: "safe" }
/** The endpoint failed, and repeating would not help. */
export const failureFinal: Outcome = { endpoint: "failure", retry: "never" }
/** A policy of ours rejected before anything was sent. */
export const elsewhere: Outcome = { endpoint: "ignored", retry: "elsewhere" }

const asked = (outcome: Outcome, retryAfterMillis: number | undefined): Outcome =>
  retryAfterMillis === undefined ? outcome : { ...outcome, retryAfterMillis }

const pushback = (
  reason: CallError.Unavailable | CallError.Overloaded | CallError.RateLimited
): Outcome => asked(reason.sent === "no" ? failureSafe : failure, reason.retryAfterMillis)

const cases: CallError.Cases<Outcome> = {
  ConnectFailed: () => failureSafe,
  ConnectionLost: (reason) => (reason.sent === "no" ? failureSafe : failure),
  OutcomeUnknown: () => failureFinal,
  AttemptTimeout: (reason) => (reason.sent === "no" ? failureSafe : failure),
  Unavailable: pushback,
  Overloaded: pushback,
  RateLimited: pushback,
  Remote: (reason) => asked({ endpoint: "failure", retry: reason.retry }, reason.retryAfterMillis),
  InvalidRequest: () => success,
  Unauthenticated: () => success,
  PermissionDenied: () => success,
  NotFound: () => success,
  Unimplemented: () => success,
  CircuitOpen: (reason) => asked(elsewhere, reason.retryAfterMillis),
  BulkheadFull: () => elsewhere,
  Throttled: () => elsewhere,
  LimitReached: (reason) => asked(elsewhere, reason.retryAfterMillis),
  NoEndpoint: (reason) => asked(elsewhere, reason.retryAfterMillis),
  // The caller's time ran out, which says nothing about one endpoint: an attempt that used up its own time is an
  // AttemptTimeout, and that is a failure.
  DeadlineExceeded: () => ignored,
  // What is inside has already been counted where it happened.
  RetriesExhausted: () => failureFinal,
  BudgetExhausted: () => failureFinal,
  ProtocolViolation: () => failureFinal,
  DecodeFailed: () => failureFinal,
  TooLarge: (reason) => (reason.sent === "no" ? ignored : failureFinal)
}

/** Classifies a reason. Total: a reason without a row does not compile. */
export const classify = (reason: CallError.Reason): Outcome =>
  (cases[reason._tag] as (reason: CallError.Reason) => Outcome)(reason)

/**
 * Classifies an error of the failure channel: ours by the table, a foreign one
 * by the call's own `classify`, and without one as a failure that only an
 * idempotent call may repeat.
 */
export const ofError = (error: unknown, call: Call): Outcome => {
  if (CallError.isCallError(error)) return classify(error.reason)
  return call.classify === undefined ? failure : call.classify(error)
}

/**
 * Classifies a cause. A caller's interruption says nothing; a defect is the
 * endpoint's failure and never repeated.
 *
 * Our own attempt timeout interrupts what is inside it, so a policy inside sees
 * an interrupt with the reason `attemptTimeout`: that one is a failure.
 */
export const ofCause = (cause: Cause.Cause<unknown>, call: Call): Outcome => {
  let failed: Outcome | undefined
  let interrupted = false
  for (const reason of cause.reasons) {
    if (Cause.isDieReason(reason)) return failureFinal
    if (Cause.isInterruptReason(reason)) interrupted = true
    else failed ??= ofError(reason.error, call)
  }
  if (interrupted) return Interruption.fromCause(cause) === "attemptTimeout" ? failure : ignored
  return failed ?? ignored
}

/** Classifies an exit: any success is a success of the endpoint. */
export const ofExit = (exit: Exit.Exit<unknown, unknown>, call: Call): Outcome =>
  Exit.isSuccess(exit) ? success : ofCause(exit.cause, call)

/** Whether another attempt may be made after this outcome, for this call. */
export const mayRetry = (outcome: Outcome, call: Call): boolean =>
  outcome.retry === "safe" || (outcome.retry === "ifIdempotent" && isIdempotent(call))

/** Whether the call may be sent twice: declared idempotent, or carrying a key the server deduplicates by. */
export const isIdempotent = (call: Call): boolean => call.idempotent || call.idempotencyKey !== undefined

/**
 * Narrows an error to the half that may be retried, deciding the middle case
 * (`ifIdempotent`) by the call.
 */
export const isRetryable = (
  error: CallError.CallError,
  call: Call
): error is CallError.CallError<CallError.Retryable> => mayRetry(classify(error.reason), call)
