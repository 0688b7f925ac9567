/**
 * A contract is Effect's own `RpcGroup`; this is what Holdfast lets it say.
 *
 * Annotations resolve from the rpc, then from its group, then to the default.
 * An application that has an `RpcGroup` changes nothing to be called through
 * Holdfast: without annotations a call is not idempotent, critical, and without
 * a deadline.
 */
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as PrimaryKey from "effect/PrimaryKey"
import type * as Rpc from "effect/rpc/Rpc"
import type * as RpcGroup from "effect/rpc/RpcGroup"
import * as RpcSchema from "effect/rpc/RpcSchema"
import * as Schema from "effect/Schema"
import type * as Criticality from "./Criticality.ts"
import * as Outcome from "./Outcome.ts"

/**
 * Whether a method may be sent twice: `true`, `false`, or the key derived from
 * its payload. An rpc with a `primaryKey` has its key from there.
 */
export class Idempotent
  extends Context.Service<Idempotent, boolean | ((payload: any) => string)>()("holdfast/contract/Idempotent")
{}

/** How much it matters that a call of the method is answered. */
export class CallCriticality
  extends Context.Service<CallCriticality, Criticality.Criticality>()("holdfast/contract/Criticality")
{}

/** How long a call of the method may take in all, when the caller says nothing. */
export class DefaultDeadline
  extends Context.Service<DefaultDeadline, Duration.Input>()("holdfast/contract/DefaultDeadline")
{}

/**
 * What the method's domain errors mean. Return `undefined` for those that are
 * answers like any other: not retried, and nothing against the endpoint.
 */
export class ErrorOutcome
  extends Context.Service<ErrorOutcome, (error: any) => Outcome.Outcome | undefined>()("holdfast/contract/ErrorOutcome")
{}

/** An annotation of an rpc, of its group, or the default. Group annotations do not reach rpcs by themselves. */
export const annotation = <I, S>(rpc: Rpc.Any, group: RpcGroup.RpcGroup<any>, key: Context.Key<I, S>, orElse: S): S => {
  const own = Context.getOrUndefined(rpc.annotations as Context.Context<I>, key)
  if (own !== undefined) return own
  return Context.getOrUndefined(group.annotations as Context.Context<I>, key) ?? orElse
}

/** A method with its annotations resolved, once per contract. */
export interface Method {
  /** The fully qualified name, `UserService.GetUserInfo`: what travels on the wire. */
  readonly name: string
  readonly rpc: Rpc.AnyWithProps
  readonly idempotent: boolean
  /** The key a payload is deduplicated by, `undefined` when the payload has none. */
  readonly keyOf: ((payload: any) => string) | undefined
  /** `undefined` where nothing is annotated: then a call has its caller's. */
  readonly criticality: Criticality.Criticality | undefined
  readonly defaultDeadline: Duration.Input | undefined
  /** Classifies the method's own errors: an answer like any other, unless annotated. */
  readonly classify: (error: unknown) => Outcome.Outcome
}

const primaryKeyOf = (payload: unknown): string => (payload as PrimaryKey.PrimaryKey)[PrimaryKey.symbol]()

const hasPrimaryKey = (rpc: Rpc.AnyWithProps): boolean => {
  const schema: unknown = rpc.payloadSchema
  return typeof schema === "function" && PrimaryKey.symbol in schema.prototype
}

/**
 * The methods of a contract.
 *
 * Dies with a `RangeError` on a streaming rpc: streams are not carried yet.
 */
export const methods = (group: RpcGroup.RpcGroup<any>): ReadonlyArray<Method> =>
  Array.from(group.requests.values() as Iterable<Rpc.AnyWithProps>, (rpc) => {
    if (RpcSchema.isStreamSchema(rpc.successSchema)) {
      throw new RangeError(
        `Contract: ${rpc._tag} is a stream, which this version does not carry; leave it out with group.omit`
      )
    }
    const idempotent = annotation(rpc, group, Idempotent, false)
    const errorOutcome = annotation(rpc, group, ErrorOutcome, () => undefined)
    const keyOf = typeof idempotent === "function" ? idempotent : hasPrimaryKey(rpc) ? primaryKeyOf : undefined
    return {
      name: rpc._tag,
      rpc,
      idempotent: idempotent === true,
      keyOf,
      criticality: annotation(
        rpc,
        group,
        CallCriticality as Context.Key<CallCriticality, Criticality.Criticality | undefined>,
        undefined
      ),
      defaultDeadline: annotation(
        rpc,
        group,
        DefaultDeadline as Context.Key<DefaultDeadline, Duration.Input | undefined>,
        undefined
      ),
      classify: (error) => errorOutcome(error) ?? Outcome.success
    }
  })

/** The schema of every error a method may answer with: its own and its middlewares'. */
export const errorSchema = (rpc: Rpc.AnyWithProps): Schema.Top => {
  const schemas = [rpc.errorSchema, ...Array.from(rpc.middlewares, (middleware) => middleware.error)]
    .filter((schema) => schema !== Schema.Never)
  return schemas.length === 0 ? Schema.Never : schemas.length === 1 ? schemas[0]! : Schema.Union(schemas)
}
