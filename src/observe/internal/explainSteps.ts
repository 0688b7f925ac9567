/** The decision log of a call as data: what `Explain` gives, keeps and encodes. */
import * as Schema from "effect/Schema"
import * as CallError from "../../contract/CallError.ts"

const millis = Schema.Finite
const maybe = <S extends Schema.Top>(schema: S) => Schema.optional(schema)

/** An error without its payload. */
export const Failure = Schema.Struct({
  /** The reason of a `CallError`, the tag of a domain error, the class of a defect. */
  tag: Schema.String,
  /** What of the reason says more than its tag: how connecting failed, another service's code. */
  detail: maybe(Schema.String),
  /** `CallError.describe`, of a `CallError` only: the messages of others may quote what was sent. */
  message: maybe(Schema.String),
  sent: maybe(CallError.Sent)
})
export type Failure = typeof Failure.Type

const InterruptReason = Schema.Literals(["caller", "deadline", "attemptTimeout", "hedgeLost", "shutdown"])

const place = {
  /** Since the start of the log. */
  atMillis: millis,
  /** Which of the log's `calls` it is of, from 1; 0 for a policy outside of any. */
  call: Schema.Int,
  /** Which attempt it is of, from 1: the latest, where the policy does not know. */
  attempt: Schema.Int
}

/** An attempt, at the time of its start. */
export const Attempt = Schema.TaggedStruct("Attempt", {
  ...place,
  hedge: Schema.Boolean,
  /** `undefined` for a plain Effect. */
  endpoint: maybe(Schema.String),
  /** `inFlight`: it had not ended with the log; `unknown`: nobody told, as of hedges of a plain Effect. */
  result: Schema.Literals(["success", "failure", "interrupted", "inFlight", "unknown"]),
  durationMillis: maybe(millis),
  error: maybe(Failure),
  /** Whether it failed in a way that this call must not repeat because it is not idempotent. */
  unrepeatable: Schema.Boolean,
  interrupted: maybe(InterruptReason)
})
export type Attempt = typeof Attempt.Type

/** A retry was decided, after `attempt`. */
export const Backoff = Schema.TaggedStruct("Backoff", {
  ...place,
  policy: Schema.String,
  delayMillis: millis,
  retryAfterMillis: maybe(millis),
  /** What is retried: an error, or a result that was found wanting. */
  error: Failure
})

/** `attempt` starts, because the one before it is slow. */
export const Hedge = Schema.TaggedStruct("Hedge", { ...place, policy: Schema.String, afterMillis: millis })

/** The retry budget. `balance` is what is left. */
export const Budget = Schema.TaggedStruct("Budget", {
  ...place,
  policy: Schema.String,
  change: Schema.Literals(["withdrawn", "refunded", "refused"]),
  balance: Schema.Finite
})

/** A policy rejected, and nothing was sent. */
export const Rejection = Schema.TaggedStruct("Rejection", {
  ...place,
  policy: Schema.String,
  error: Failure,
  /** A circuit's state, why it came about and how long ago. */
  state: maybe(Schema.String),
  why: maybe(Schema.String),
  forMillis: maybe(millis),
  limit: maybe(Schema.Finite),
  queued: maybe(Schema.Finite),
  ratio: maybe(Schema.Finite),
  /** When it may be different. */
  retryAfterMillis: maybe(millis)
})
export type Rejection = typeof Rejection.Type

/** The end of a wait in a limiter's queue. */
export const Queue = Schema.TaggedStruct("Queue", {
  ...place,
  policy: Schema.String,
  how: Schema.Literals(["admitted", "rejected", "interrupted"]),
  waitedMillis: millis
})

/** Nothing was sent to `endpoint`, and another is picked. */
export const Repick = Schema.TaggedStruct("Repick", { ...place, endpoint: Schema.String, error: Failure })

/** A fallback or a cache answered. */
export const Substitute = Schema.TaggedStruct("Substitute", {
  ...place,
  policy: Schema.String,
  how: Schema.Literals(["fallback", "fresh", "stale"]),
  ageMillis: maybe(millis)
})

/** What the call did to a circuit. */
export const Transition = Schema.TaggedStruct("Transition", {
  ...place,
  policy: Schema.String,
  from: Schema.String,
  to: Schema.String,
  why: Schema.String
})

/** What the call did to a limit. */
export const Limit = Schema.TaggedStruct("Limit", {
  ...place,
  policy: Schema.String,
  from: Schema.Finite,
  to: Schema.Finite,
  why: Schema.String
})

export const Warning = Schema.TaggedStruct("Warning", { ...place, policy: Schema.String, why: Schema.String })

/** One of the log's calls has ended. */
export const Ended = Schema.TaggedStruct("Ended", { ...place, error: maybe(Failure) })

/** What was decided, one thing at a time. */
export const Step = Schema.Union([
  Attempt,
  Backoff,
  Hedge,
  Budget,
  Rejection,
  Queue,
  Repick,
  Substitute,
  Transition,
  Limit,
  Warning,
  Ended
])
export type Step = typeof Step.Type

/** The decision log of one call, in the order of time. */
export const Explanation = Schema.Struct({
  /** The method, or what `CallContext.annotate` calls it. */
  name: Schema.String,
  traceId: maybe(Schema.String),
  /** Wall clock. */
  startedAtMillis: millis,
  durationMillis: millis,
  /** What it had in all, and what was left of it in the end. */
  deadlineMillis: maybe(millis),
  leftMillis: maybe(millis),
  result: Schema.Literals(["success", "failure", "interrupted"]),
  error: maybe(Failure),
  interrupted: maybe(InterruptReason),
  /** How many attempts were sent. */
  attempts: Schema.Int,
  /** The client calls made, in order: one, but for an Effect that makes several, or none. */
  calls: Schema.Array(Schema.String),
  steps: Schema.Array(Step),
  /** Steps that are left out, the oldest: a log keeps 200. */
  omitted: Schema.Int
})
export type Explanation = typeof Explanation.Type
