/**
 * What travels with a call.
 *
 * One reference, read by every policy: the method and the key it partitions by,
 * whether it may be sent twice, its deadline, and which attempt this is. A
 * Holdfast client fills it in; for any other Effect, `annotate` does.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import { type Criticality, defaultCriticality } from "./Criticality.ts"
import * as Deadline from "./Deadline.ts"
import type { Outcome } from "./Outcome.ts"

/** W3C trace context: ids of 32 and 16 hex digits. */
export interface TraceContext {
  readonly traceId: string
  readonly spanId: string
  readonly sampled: boolean
  /** `tracestate`: what tracing systems pass on besides. */
  readonly state?: string | undefined
}

export interface CallContext {
  /** The fully qualified method, such as `UserService.GetUserInfo`; `"call"` for an Effect that states none. */
  readonly name: string
  /** What keyed policies partition by: a tenant, a shard, an endpoint. */
  readonly key: string | undefined
  /** Whether the call may be sent twice. */
  readonly idempotent: boolean
  /** The key a server deduplicates by; constant over all attempts of a call. */
  readonly idempotencyKey: string | undefined
  readonly criticality: Criticality
  /** Monotonic milliseconds; `Infinity` for none. */
  readonly deadline: Deadline.Deadline
  /** Which attempt of the call this is, from 1. */
  readonly attempt: number
  /** Whether this attempt is a hedge. */
  readonly hedge: boolean
  /** Whether a retry loop already surrounds this effect: a second one would multiply attempts. */
  readonly insideRetry: boolean
  readonly trace: TraceContext | undefined
  /** Metadata for the server, at most 64 KiB on the wire. */
  readonly headers: Readonly<Record<string, string>>
  /** What the call's own errors mean. Without it they are failures that only an idempotent call may repeat. */
  readonly classify: ((error: unknown) => Outcome) | undefined
}

/** The context of an Effect nobody annotated. */
export const empty: CallContext = {
  name: "call",
  key: undefined,
  idempotent: false,
  idempotencyKey: undefined,
  criticality: defaultCriticality,
  deadline: Deadline.none,
  attempt: 1,
  hedge: false,
  insideRetry: false,
  trace: undefined,
  headers: {},
  classify: undefined
}

/** The call being made, or being served. */
export const Current = Context.Reference<CallContext>("holdfast/contract/CallContext", { defaultValue: () => empty })

/** What a call made on behalf of `self` inherits: the time left, the criticality, the trace. */
export const inherit = (self: CallContext): CallContext =>
  self === empty ? empty : {
    ...empty,
    deadline: self.deadline,
    criticality: self.criticality,
    trace: self.trace
  }

/** Says what a plain Effect is to the policies around it. Put it outside `Policy.apply`. */
export const annotate: {
  (
    fields: Partial<CallContext>
  ): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  <A, E, R>(self: Effect.Effect<A, E, R>, fields: Partial<CallContext>): Effect.Effect<A, E, R>
} = dual(
  2,
  <A, E, R>(self: Effect.Effect<A, E, R>, fields: Partial<CallContext>): Effect.Effect<A, E, R> =>
    Effect.withFiber((fiber) => Effect.provideService(self, Current, { ...fiber.getRef(Current), ...fields }))
)
