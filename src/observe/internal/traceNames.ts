/**
 * Every name a trace of ours contains: spans, attributes, span events. The only
 * place they are written; `docs/observability.md` is compared with it.
 *
 * Those without the prefix `holdfast.` or `retry.` are OpenTelemetry's semantic
 * conventions for RPC, written out so that nothing of `@opentelemetry/*` is
 * loaded; a test compares them with the package.
 */

/** A span, when there is one, and what it carries. */
export interface SpanName {
  readonly name: string
  readonly kind: "client" | "server"
  readonly about: string
  readonly attributes: ReadonlyArray<Attribute>
}

/** What stands for the method in the name of a span. */
export const method = "{rpc.method}"

const always = [
  "rpc.system.name",
  "rpc.method",
  "rpc.status_code",
  "error.type",
  "holdfast.deadline_ms",
  "holdfast.interrupted"
] as const
const client = ["http.response.status_code", "holdfast.sent", "holdfast.last_error"] as const

export const spans = {
  call: {
    name: method,
    kind: "client",
    about: "one call, from its deadline guard to its answer, with all attempts and waits",
    attributes: [...always, ...client, "holdfast.attempts", "holdfast.retry_budget.balance"]
  },
  attempt: {
    name: `${method} attempt`,
    kind: "client",
    about: "one attempt at one endpoint, from its send to its answer; retries and hedges each",
    attributes: [
      ...always,
      ...client,
      "server.address",
      "server.port",
      "network.transport",
      "retry.is_retry",
      "retry.attempt",
      "retry.parent_id",
      "holdfast.hedge",
      "holdfast.endpoint",
      "holdfast.queued_ms",
      "holdfast.circuit_breaker.state"
    ]
  },
  handler: {
    name: method,
    kind: "server",
    about: "the handler and its middleware, a child of the attempt that asked",
    attributes: [...always, "client.address", "client.port", "retry.attempt"]
  }
} as const satisfies Record<string, SpanName>

/** Attributes, and what each says. */
export const attributes = {
  "rpc.system.name": "always `holdfast`",
  "rpc.method": "the method as the contract names it",
  "rpc.status_code": "`OK`, `Cancelled` for an interruption that is no error, or what `error.type` says",
  "error.type":
    "the reason of a `CallError`, the code of another service, the tag of a domain error, the class of a defect, an HTTP status from 400",
  "http.response.status_code": "the status of the response, of a request behind `HttpPolicy`",
  "server.address": "the host of the endpoint, or its name in memory",
  "server.port": "the port of the endpoint",
  "network.transport": "`tcp`, where it is",
  "client.address": "the host of the caller, on the server",
  "client.port": "the port of the caller, on the server",
  "retry.is_retry": "whether an attempt of the call came before this one",
  "retry.attempt": "which attempt of the call this is, from 1",
  "retry.parent_id": "the span of the attempt before this one",
  "holdfast.attempts": "how many attempts the call made",
  "holdfast.hedge": "whether the attempt is a hedge",
  "holdfast.endpoint": "the address as discovery gives it",
  "holdfast.deadline_ms": "how long the call had left at the start of the span",
  "holdfast.queued_ms": "how long it waited in a queue; of an attempt, from when it was due to when it was sent",
  "holdfast.sent": "whether the server may have seen what failed: `no` or `maybe`",
  "holdfast.last_error": "the `error.type` of the last attempt, where the call ended for another reason",
  "holdfast.interrupted": "why it was interrupted: `caller`, `deadline`, `attemptTimeout`, `hedgeLost` or `shutdown`",
  "holdfast.circuit_breaker.state": "the last known state of the circuit, where it is not `Closed`",
  "holdfast.retry_budget.balance": "the tokens left in the retry budget",
  "holdfast.policy": "the policy that speaks",
  "holdfast.reason": "why it rejected: the reason of the `CallError`",
  "holdfast.delay_ms": "the backoff before a retry, or how long a hedge waited for the first attempt",
  "holdfast.from": "the state or limit before",
  "holdfast.to": "the state or limit after",
  "holdfast.change": "what happened to the budget or the endpoint",
  "holdfast.how":
    "where the answer came from: `fallback`, `fresh` or `stale`; or how the call left a queue: `admitted`, `rejected` or `interrupted`",
  "holdfast.why": "the figures that decided"
} as const

export type Attribute = keyof typeof attributes

/** Attributes of one span or span event. */
export type Attributes = { readonly [Name in Attribute]?: string | number | boolean | undefined }

/** When a span event comes, and what it carries. */
export interface EventAbout {
  readonly about: string
  readonly attributes: ReadonlyArray<Attribute>
}

export const events = {
  "holdfast.retry": {
    about: "a retry was decided, and waits for its backoff",
    attributes: ["retry.attempt", "holdfast.policy", "holdfast.delay_ms", "error.type"]
  },
  "holdfast.hedge": {
    about: "a hedge starts, because the attempt before it is slow",
    attributes: ["retry.attempt", "holdfast.policy", "holdfast.delay_ms"]
  },
  "holdfast.queued": {
    about: "the call left the queue of a limiter",
    attributes: ["holdfast.policy", "holdfast.how", "holdfast.queued_ms"]
  },
  "holdfast.repicked": {
    about: "nothing was sent to the endpoint that was picked, and another is picked",
    attributes: ["holdfast.endpoint", "holdfast.reason"]
  },
  "holdfast.rejected": {
    about: "a policy rejected, and nothing was sent",
    attributes: ["holdfast.policy", "holdfast.reason", "holdfast.why", "holdfast.circuit_breaker.state"]
  },
  "holdfast.transition": {
    about: "a circuit or a switch moved",
    attributes: ["holdfast.policy", "holdfast.from", "holdfast.to", "holdfast.why"]
  },
  "holdfast.limit": {
    about: "a limit moved by itself",
    attributes: ["holdfast.policy", "holdfast.from", "holdfast.to", "holdfast.why"]
  },
  "holdfast.budget": {
    about: "the retry budget gave, took back or refused a token",
    attributes: ["holdfast.policy", "holdfast.change", "holdfast.retry_budget.balance"]
  },
  "holdfast.substituted": {
    about: "a fallback or a cache answered instead of the dependency",
    attributes: ["holdfast.policy", "holdfast.how"]
  },
  "holdfast.endpoint": {
    about: "an endpoint came, went, was ejected or readmitted",
    attributes: ["holdfast.endpoint", "holdfast.change", "holdfast.why"]
  },
  "holdfast.warning": {
    about: "a policy does what is allowed and rarely meant",
    attributes: ["holdfast.policy", "holdfast.why"]
  }
} as const satisfies Record<string, EventAbout>

export type EventName = keyof typeof events
