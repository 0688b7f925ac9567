/**
 * The closed union of the ways a call can fail that are not the contract's own.
 *
 * One class, `CallError`, with a tagged `reason`; matched with
 * `Effect.catchReason("CallError", "CircuitOpen", …)`, so that a domain error
 * called `NotFound` cannot collide. The type parameter keeps the union exact: a
 * stack without a bulkhead cannot fail with `BulkheadFull`.
 *
 * Every reason says who, what, until when, and `sent`: `"no"` when the handler
 * provably did not start, `"maybe"` otherwise.
 *
 * A `CallError` captures no stack and builds its message when it is read:
 * capturing one costs 6.7 µs, which a rejection path cannot afford
 * (`Data.TaggedError` 6,697 ns, without the capture 331 ns). The schemas encode
 * reasons for logs and files; they do not construct them.
 */
import type * as Cause from "effect/Cause"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/** Whether the server may have seen the attempt. `"no"` only where it provably did not start. */
export const Sent = Schema.Literals(["no", "maybe"])
export type Sent = typeof Sent.Type

const sent = { sent: Sent }
const sentNo = { sent: Schema.Literal("no") }
const sentMaybe = { sent: Schema.Literal("maybe") }
const millis = Schema.Finite
const retryAfter = { retryAfterMillis: Schema.optional(millis) }
/** The error this reason reacted to: a policy never eats it. */
const last = { last: Schema.Defect() }
const lastIfAny = { last: Schema.optional(Schema.Defect()) }
/** `policy` names the policy (and its key or endpoint) that rejected. */
const rejection = { policy: Schema.String, ...sentNo, ...retryAfter, ...lastIfAny }
/** `target` names the dependency or the address. */
const remote = { target: Schema.String, detail: Schema.String }

// Transport ---------------------------------------------------------------------------------------

/** No session to the address could be opened. `kind` says at which step. */
export const ConnectFailed = Schema.TaggedStruct("ConnectFailed", {
  ...remote,
  kind: Schema.Literals(["dns", "refused", "tls", "timeout", "unreachable"]),
  ...sentNo,
  ...retryAfter
})
export type ConnectFailed = typeof ConnectFailed.Type

/** The session ended while the attempt was on it: before (`sent: "no"`) or after its bytes were written. */
export const ConnectionLost = Schema.TaggedStruct("ConnectionLost", { ...remote, ...sent })
export type ConnectionLost = typeof ConnectionLost.Type

/** A call that must not be sent twice was written and no answer came: it may or may not have happened. */
export const OutcomeUnknown = Schema.TaggedStruct("OutcomeUnknown", { method: Schema.String, ...last, ...sentMaybe })
export type OutcomeUnknown = typeof OutcomeUnknown.Type

/** One attempt took longer than its timeout. */
export const AttemptTimeout = Schema.TaggedStruct("AttemptTimeout", {
  policy: Schema.String,
  timeoutMillis: millis,
  ...sent
})
export type AttemptTimeout = typeof AttemptTimeout.Type

// The server's word -------------------------------------------------------------------------------

/** The server is not serving now: draining, starting, or without a dependency of its own. */
export const Unavailable = Schema.TaggedStruct("Unavailable", { ...remote, ...sent, ...retryAfter })
export type Unavailable = typeof Unavailable.Type

/** The server shed the request under load. */
export const Overloaded = Schema.TaggedStruct("Overloaded", { ...remote, ...sent, ...retryAfter })
export type Overloaded = typeof Overloaded.Type

/** The server's rate limit for this caller is used up. */
export const RateLimited = Schema.TaggedStruct("RateLimited", { ...remote, ...sent, ...retryAfter })
export type RateLimited = typeof RateLimited.Type

/** The server failed with a code of its own; `retry` is what the code's owner says about another attempt. */
export const Remote = Schema.TaggedStruct("Remote", {
  target: Schema.String,
  code: Schema.String,
  message: Schema.String,
  /** The codes beneath, nearest first. */
  causes: Schema.Array(Schema.String),
  traceId: Schema.optional(Schema.String),
  retry: Schema.Literals(["safe", "ifIdempotent", "never"]),
  ...sent,
  ...retryAfter
})
export type Remote = typeof Remote.Type

/** The server could not make sense of the request: its payload, its codec, its headers. */
export const InvalidRequest = Schema.TaggedStruct("InvalidRequest", { ...remote, ...sentNo })
export type InvalidRequest = typeof InvalidRequest.Type

/** The server does not know who is calling. */
export const Unauthenticated = Schema.TaggedStruct("Unauthenticated", { ...remote, ...sentNo })
export type Unauthenticated = typeof Unauthenticated.Type

/** The server knows who is calling and refuses. */
export const PermissionDenied = Schema.TaggedStruct("PermissionDenied", { ...remote, ...sentNo })
export type PermissionDenied = typeof PermissionDenied.Type

/** What the call addresses does not exist (HTTP 404 and 410). */
export const NotFound = Schema.TaggedStruct("NotFound", { ...remote, ...sentNo })
export type NotFound = typeof NotFound.Type

/** The server has no such method. */
export const Unimplemented = Schema.TaggedStruct("Unimplemented", { ...remote, ...sentNo })
export type Unimplemented = typeof Unimplemented.Type

// Local rejections: nothing was sent --------------------------------------------------------------

/** The circuit is not closed. `state` is the state that rejected. */
export const CircuitOpen = Schema.TaggedStruct("CircuitOpen", {
  ...rejection,
  state: Schema.Literals(["Open", "HalfOpen", "Recovering", "ForcedOpen"])
})
export type CircuitOpen = typeof CircuitOpen.Type

/** As many calls are in flight as the bulkhead admits, and its queue is full or the wait was too long. */
export const BulkheadFull = Schema.TaggedStruct("BulkheadFull", {
  ...rejection,
  limit: millis,
  queued: millis
})
export type BulkheadFull = typeof BulkheadFull.Type

/** The adaptive throttle drew a rejection: the server has been refusing too much. */
export const Throttled = Schema.TaggedStruct("Throttled", { ...rejection, ratio: Schema.Finite })
export type Throttled = typeof Throttled.Type

/** A local limit on rate or on calls in flight is reached. */
export const LimitReached = Schema.TaggedStruct("LimitReached", { ...rejection, limit: millis })
export type LimitReached = typeof LimitReached.Type

/** Discovery knows no endpoint of the target, or none that may be picked. */
export const NoEndpoint = Schema.TaggedStruct("NoEndpoint", { ...remote, ...sentNo, ...retryAfter })
export type NoEndpoint = typeof NoEndpoint.Type

// The end of a call -------------------------------------------------------------------------------

/** The deadline passed, or what was left could not hold the next step. `last` is the last attempt's error. */
export const DeadlineExceeded = Schema.TaggedStruct("DeadlineExceeded", {
  method: Schema.String,
  elapsedMillis: millis,
  ...sent,
  ...lastIfAny
})
export type DeadlineExceeded = typeof DeadlineExceeded.Type

/** Every attempt that was allowed has failed. */
export const RetriesExhausted = Schema.TaggedStruct("RetriesExhausted", {
  method: Schema.String,
  attempts: Schema.Int,
  elapsedMillis: millis,
  ...sent,
  ...last
})
export type RetriesExhausted = typeof RetriesExhausted.Type

/** Another attempt would have been allowed, but the retry budget is empty: spent, or nothing earned yet. */
export const BudgetExhausted = Schema.TaggedStruct("BudgetExhausted", {
  method: Schema.String,
  policy: Schema.String,
  attempts: Schema.Int,
  ...sent,
  ...last
})
export type BudgetExhausted = typeof BudgetExhausted.Type

// Bytes that make no sense ------------------------------------------------------------------------

/** The peer broke the protocol; the session is closed. */
export const ProtocolViolation = Schema.TaggedStruct("ProtocolViolation", { ...remote, ...sent })
export type ProtocolViolation = typeof ProtocolViolation.Type

/** An answer arrived that the contract's schema does not accept. */
export const DecodeFailed = Schema.TaggedStruct("DecodeFailed", { ...remote, ...sentMaybe })
export type DecodeFailed = typeof DecodeFailed.Type

/** A payload is larger than the limit; ours before it was sent (`"no"`), or the answer. */
export const TooLarge = Schema.TaggedStruct("TooLarge", {
  target: Schema.String,
  sizeBytes: Schema.Int,
  limitBytes: Schema.Int,
  ...sent
})
export type TooLarge = typeof TooLarge.Type

/** Every reason: the closed union. A member added here does not compile until `Outcome.classify` and `describe` know it. */
export const Reason = Schema.Union([
  ConnectFailed,
  ConnectionLost,
  OutcomeUnknown,
  AttemptTimeout,
  Unavailable,
  Overloaded,
  RateLimited,
  Remote,
  InvalidRequest,
  Unauthenticated,
  PermissionDenied,
  NotFound,
  Unimplemented,
  CircuitOpen,
  BulkheadFull,
  Throttled,
  LimitReached,
  NoEndpoint,
  DeadlineExceeded,
  RetriesExhausted,
  BudgetExhausted,
  ProtocolViolation,
  DecodeFailed,
  TooLarge
])
export type Reason = typeof Reason.Type

/** A handler for every tag: what makes a total function over the union a type error when a member is missing. */
export type Cases<A> = { readonly [Tag in Reason["_tag"]]: (reason: Extract<Reason, { readonly _tag: Tag }>) => A }

/** Reasons after which another attempt may be made (`ifIdempotent` ones only for an idempotent call). */
export type Retryable =
  | ConnectFailed
  | ConnectionLost
  | AttemptTimeout
  | Unavailable
  | Overloaded
  | RateLimited
  | Remote

/** Reasons that end the call. Local rejections are here: the balancer may pick elsewhere, a retry loop does not. */
export type NonRetryable = Exclude<Reason, Retryable>

/** Reasons made here, before anything was sent. */
export type LocalRejection = CircuitOpen | BulkheadFull | Throttled | LimitReached | NoEndpoint

/** Reasons a server may end a request with. */
export type Refusal =
  | Unavailable
  | Overloaded
  | RateLimited
  | Remote
  | InvalidRequest
  | Unauthenticated
  | PermissionDenied
  | NotFound
  | Unimplemented

const seconds = (millis: number): string =>
  millis < 1000 ? `${Math.ceil(millis)}ms` : `${Number((millis / 1000).toFixed(1))}s`
const until = (what: string, millis: number | undefined): string =>
  millis === undefined ? "" : millis >= 0 ? `, ${what} in ${seconds(millis)}` : `, do not ${what}`
const because = (error: unknown): string => {
  if (error === undefined) return ""
  const message = error instanceof Error ? error.message : undefined
  const tag = typeof error === "object" && error !== null && "_tag" in error ? String(error._tag) : undefined
  const said = message || tag || String(error)
  const code = codeOf(error)
  return `; last: ${said}${code === undefined || said.includes(code) ? "" : ` (${code})`}`
}

/** What the system called it, beneath wrappers that say no more than that something failed. */
const codeOf = (error: unknown): string | undefined => {
  let at = error
  for (let depth = 0; depth < 5 && at instanceof Error; depth++, at = at.cause) {
    if ("code" in at && typeof at.code === "string") return at.code
  }
  return undefined
}

const descriptions: Cases<string> = {
  ConnectFailed: (r) => `${r.target}: cannot connect (${r.kind}): ${r.detail}${until("next try", r.retryAfterMillis)}`,
  ConnectionLost: (r) =>
    `${r.target}: connection lost ${r.sent === "no" ? "before" : "after"} the request was written: ${r.detail}`,
  OutcomeUnknown: (r) =>
    `${r.method}: sent once, no answer, and not idempotent: it may or may not have happened${because(r.last)}`,
  AttemptTimeout: (r) => `${r.policy}: no answer within ${seconds(r.timeoutMillis)}`,
  Unavailable: (r) => `${r.target}: unavailable: ${r.detail}${until("come back", r.retryAfterMillis)}`,
  Overloaded: (r) => `${r.target}: overloaded: ${r.detail}${until("come back", r.retryAfterMillis)}`,
  RateLimited: (r) => `${r.target}: rate limited: ${r.detail}${until("come back", r.retryAfterMillis)}`,
  Remote: (r) =>
    `${r.target}: ${r.code}: ${r.message}${r.causes.length > 0 ? ` (because of ${r.causes.join(" < ")})` : ""}`,
  InvalidRequest: (r) => `${r.target}: invalid request: ${r.detail}`,
  Unauthenticated: (r) => `${r.target}: unauthenticated: ${r.detail}`,
  PermissionDenied: (r) => `${r.target}: permission denied: ${r.detail}`,
  NotFound: (r) => `${r.target}: not found: ${r.detail}`,
  Unimplemented: (r) => `${r.target}: not implemented: ${r.detail}`,
  CircuitOpen: (r) =>
    `${r.policy}: circuit ${circuitWords[r.state]}${until("next probe", r.retryAfterMillis)}${because(r.last)}`,
  BulkheadFull: (r) => `${r.policy}: bulkhead full, ${r.limit} in flight and ${r.queued} queued${because(r.last)}`,
  Throttled: (r) =>
    `${r.policy}: throttled, ${(r.ratio * 100).toFixed(1)} % of attempts are rejected${because(r.last)}`,
  LimitReached: (r) =>
    `${r.policy}: limit of ${r.limit} reached${until("next permit", r.retryAfterMillis)}${because(r.last)}`,
  NoEndpoint: (r) => `${r.target}: no endpoint: ${r.detail}${until("next try", r.retryAfterMillis)}`,
  DeadlineExceeded: (r) => `${r.method}: deadline exceeded after ${seconds(r.elapsedMillis)}${because(r.last)}`,
  RetriesExhausted: (r) =>
    `${r.method}: gave up after ${sends(r.attempts)} in ${seconds(r.elapsedMillis)}${because(r.last)}`,
  BudgetExhausted: (r) => `${r.method}: no retry, ${r.policy} is empty, after ${sends(r.attempts)}${because(r.last)}`,
  ProtocolViolation: (r) => `${r.target}: protocol violation: ${r.detail}`,
  DecodeFailed: (r) => `${r.target}: cannot decode the answer: ${r.detail}`,
  TooLarge: (r) => `${r.target}: ${r.sizeBytes} bytes exceed the limit of ${r.limitBytes}`
}

const sends = (attempts: number): string => `${attempts} attempt${attempts === 1 ? "" : "s"}`

const circuitWords: Readonly<Record<CircuitOpen["state"], string>> = {
  Open: "open",
  HalfOpen: "half-open and its probes are taken",
  Recovering: "recovering",
  ForcedOpen: "forced open"
}

/** The reason as one readable line: keys and addresses yes, payloads never. */
export const describe = (reason: Reason): string => (descriptions[reason._tag] as (reason: Reason) => string)(reason)

/**
 * `Data.Error`'s prototype without its constructor: `new` makes a plain object,
 * so no stack is captured, and it still is an `Error` and an Effect that fails.
 */
const Base: new() => Cause.YieldableError = (() => {
  function Base() {}
  Base.prototype = Object.create(Data.Error.prototype, { constructor: { value: Base } })
  return Base as never
})()

const TypeId = "~holdfast/contract/CallError"

/** A call failed for one of `R`. Yieldable: `yield* new CallError(reason)` fails with it. */
export class CallError<out R extends Reason = Reason> extends Base {
  declare readonly [TypeId]: typeof TypeId
  declare readonly _tag: "CallError"
  declare readonly name: "CallError"
  readonly reason: R

  constructor(reason: R) {
    super()
    this.reason = reason
  }

  override get message(): string {
    return describe(this.reason)
  }

  /** No frames were captured; printers that want a stack get the first line of one. */
  override get stack(): string {
    return `CallError: ${this.message}`
  }

  override toJSON(): unknown {
    return { _tag: "CallError", message: this.message, reason: encode(this.reason) }
  }

  override toString(): string {
    return this.stack
  }
}
Object.assign(CallError.prototype, { [TypeId]: TypeId, _tag: "CallError", name: "CallError" })

/** A failed Effect with the reason. */
export const fail = <R extends Reason>(reason: R): Effect.Effect<never, CallError<R>> =>
  Effect.fail(new CallError(reason))

/** Whether a value is a `CallError` of any reason. */
export const isCallError = (u: unknown): u is CallError => typeof u === "object" && u !== null && TypeId in u

/**
 * The defect with which a handler refuses its request. Not the `CallError` of the
 * reason: that would be what a handler dies of when a call of its own failed, and
 * another server's word, `sent` above all, says nothing about this request.
 */
export class Refused {
  readonly reason: Refusal
  constructor(reason: Refusal) {
    this.reason = reason
  }
}

/** The reason as plain JSON data: what logs, reports and the CLI print. */
export const encode = (reason: Reason): unknown => encodeReason(reason)

const encodeReason = Schema.encodeUnknownSync(Schema.toCodecJson(Reason))
