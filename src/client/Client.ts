/**
 * Typed methods from a contract.
 *
 * `client.UserService.GetUserInfo({ id: 1001 })` is an Effect of the contract's
 * own success and error, and of exactly the `CallError` reasons its stack can
 * produce. One client is one target: its endpoints, connections, budgets and
 * breakers belong to it and end with its scope, which drains first.
 *
 * The order of what happens to a call is in `ClientStack`.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import type * as Rpc from "effect/rpc/Rpc"
import type * as RpcGroup from "effect/rpc/RpcGroup"
import type * as Schema from "effect/Schema"
import type * as SchemaAST from "effect/SchemaAST"
import * as SchemaIssue from "effect/SchemaIssue"
import type * as Scope from "effect/Scope"
import * as Balancer from "../balancer/Balancer.ts"
import { Discovery } from "../balancer/Discovery.ts"
import type * as CallError from "../contract/CallError.ts"
import * as Contract from "../contract/Contract.ts"
import * as Options from "../contract/Options.ts"
import * as Policy from "../policy/Policy.ts"
import * as Connection from "../transport/Connection.ts"
import { Transport } from "../transport/Transport.ts"
import * as BodyCodec from "../wire/BodyCodec.ts"
import * as ClientStack from "./ClientStack.ts"
import * as Call from "./internal/call.ts"
import type { CallOptions } from "./internal/call.ts"
import type * as Reply from "./internal/reply.ts"

export type { CallOptions } from "./internal/call.ts"

export interface ClientOptions<
  Tag extends string,
  P extends ClientStack.Options,
  M extends { readonly [T in Tag]?: ClientStack.Options }
> {
  /** The name discovery knows the dependency by. */
  readonly target: string
  /** How calls are guarded. Default: `ClientStack`'s. */
  readonly policy?: ClientStack.Exact<P> | undefined
  /** What differs for single methods: a slot stated here is the method's own, the others it shares. */
  readonly methods?: { readonly [T in keyof M]: ClientStack.Exact<M[T]> } | undefined
  /** How long a call may take in all where neither it nor its method says. Default 10 seconds; `"Infinity"` for no limit. */
  readonly defaultDeadline?: Duration.Input | undefined
  /** How connections are reopened. */
  readonly connection?: Connection.ConnectionOptions | undefined
  /**
   * How bodies are written to a server whose hello names this codec; to others,
   * and before that hello, in JSON. Default `BodyCodec.json`.
   */
  readonly codec?: BodyCodec.BodyCodec | undefined
}

/** The first segment of what follows a prefix in a method's name. */
type Segment<Tag extends string, Prefix extends string> = Tag extends `${Prefix}${infer Rest}`
  ? Rest extends `${infer Head}.${string}` ? Head : Rest
  : never

type MethodOf<R extends Rpc.Any, Reasons extends CallError.Reason> = [void] extends [Rpc.PayloadConstructor<R>] ? (
    payload?: Rpc.PayloadConstructor<R>,
    options?: CallOptions
  ) => Effect.Effect<Rpc.SuccessExit<R>, Rpc.ErrorExit<R> | CallError.CallError<Reasons>>
  : (
    payload: Rpc.PayloadConstructor<R>,
    options?: CallOptions
  ) => Effect.Effect<Rpc.SuccessExit<R>, Rpc.ErrorExit<R> | CallError.CallError<Reasons>>

/** A group's methods, nested by the dots in their names, each with the reasons its own stack can fail for. */
export type Client<
  R extends Rpc.Any,
  P extends ClientStack.Options = {},
  M = {},
  Prefix extends string = ""
> = {
  readonly [Name in Segment<R["_tag"], Prefix>]: [Extract<R, { readonly _tag: `${Prefix}${Name}` }>] extends [never]
    ? Client<R, P, M, `${Prefix}${Name}.`>
    : MethodOf<
      Extract<R, { readonly _tag: `${Prefix}${Name}` }>,
      Reasons<`${Prefix}${Name}` extends keyof M ? ClientStack.Merge<P, M[`${Prefix}${Name}`]> : P>
    >
}

/** Why a call behind a stack can fail, besides the contract's own errors. */
export type Reasons<O> =
  | Reply.Reason
  | CallError.ConnectFailed
  | CallError.ConnectionLost
  | CallError.ProtocolViolation
  | CallError.LimitReached
  | CallError.NoEndpoint
  | CallError.OutcomeUnknown
  | ClientStack.Reasons<O>

/**
 * A client of a group, for the life of the scope: closing it finishes what is
 * in flight. Connections are opened at once, in the background.
 *
 * Dies with a `RangeError` when an option is out of range, the group has a
 * stream, a method's name is also a prefix of another's, `methods` names one
 * the group does not have, or the codec has no form for a method's schemas.
 */
export const make = <
  R extends Rpc.Any,
  const P extends ClientStack.Options = {},
  const M extends { readonly [T in R["_tag"]]?: ClientStack.Options } = {}
>(
  group: RpcGroup.RpcGroup<R>,
  options: ClientOptions<R["_tag"], P, M>
): Effect.Effect<Client<R, P, M>, never, Transport | Discovery | Scope.Scope> =>
  Effect.gen(function*() {
    const where = "Client.make"
    const { target } = options
    Options.check(target !== "", where, "target", "a name", target)
    const { codec = BodyCodec.json, defaultDeadline = "10 seconds" } = options
    Options.check(BodyCodec.all.includes(codec), where, "codec", "a BodyCodec of this version", codec.name)
    const methods = Contract.methods(group)
    checkDeadline("defaultDeadline", defaultDeadline)
    for (const { defaultDeadline, name } of methods) checkDeadline(`the DefaultDeadline of ${name}`, defaultDeadline)
    const overrides = Object.entries<ClientStack.Options | undefined>(options.methods ?? {})
    const names = new Set(methods.map((method) => method.name))
    for (const [name] of overrides) Options.check(names.has(name), where, "methods", "names of the group", name)

    const transport = yield* Transport
    const discovery = yield* Discovery
    const stack = yield* Policy.registeredInScope(ClientStack.make(target, options.policy ?? {}, overrides))
    const balancer = yield* Balancer.make({
      target,
      addresses: discovery.watch(target),
      endpoint: (address) =>
        Effect.gen(function*() {
          const connection = yield* Connection.make(transport, address, options.connection)
          const levels = yield* Policy.registeredInScope(stack.endpoint(address))
          return { address, connection, levels, inFlight: 0, close: connection.drain }
        })
    })

    const client = node()
    for (const method of methods) {
      const level = stack.levelOf(method.name)
      const bodies = bodiesOf(method, codec)
      const callable: Call.Callable = {
        balancer,
        method,
        deadlineMillis: Duration.toMillis(Duration.fromInputUnsafe(method.defaultDeadline ?? defaultDeadline)),
        bodies,
        asJson: codec === BodyCodec.json ? bodies : bodiesOf(method, BodyCodec.json),
        construct: constructor(method.rpc),
        stack: stack.calls[level]!,
        level
      }
      place(client, method.name, (payload: unknown, given?: CallOptions) => new Call.Call(callable, payload, given))
    }
    return client as Client<R, P, M>
  })

const checkDeadline = (field: string, value: Duration.Input | undefined): void => {
  const isPositive = value === undefined || Option.exists(Duration.fromInput(value), Duration.isPositive)
  Options.check(isPositive, "Client.make", field, "a positive duration", value)
}

/** Without a prototype: a method may be called `toString`. */
const node = (): Record<string, unknown> => Object.create(null)

/** Puts a method where the dots in its name say. */
const place = (root: object, name: string, method: (payload: unknown, options?: CallOptions) => unknown): void => {
  const segments = name.split(".")
  const last = segments.pop()!
  let at = root as Record<string, unknown>
  for (const segment of segments) {
    const next = at[segment] ??= node()
    if (typeof next === "function") throw clash(name)
    at = next as Record<string, unknown>
  }
  if (last in at) throw clash(name)
  at[last] = method
}

const clash = (name: string): RangeError =>
  Options.invalid("Client.make", "group", "without a method whose name is also a prefix of another's", name)

const bodiesOf = ({ name, rpc }: Contract.Method, codec: BodyCodec.BodyCodec): BodyCodec.Bodies => {
  const bodies = BodyCodec.bodies(codec, rpc.payloadSchema, rpc.successSchema, Contract.errorSchema(rpc))
  if (Result.isSuccess(bodies)) return bodies.success
  throw Options.invalid("Client.make", "codec", `one that has a form for ${name}`, `${codec.name}: ${bodies.failure}`)
}

const formatIssue = SchemaIssue.makeFormatterDefault()

/** Encoding checks the value, so making it need not. */
const unchecked = { disableChecks: true }

/** Whether a value is what it is written as: no class to construct and no default to fill in anywhere in it. */
const isPlain = (ast: SchemaAST.AST): boolean => {
  if (ast.context?.constructorDefault !== undefined) return false
  switch (ast._tag) {
    case "String":
    case "Number":
    case "Boolean":
    case "Literal":
    case "Null":
    case "Undefined":
    case "Void":
      return true
    case "Objects":
      return ast.propertySignatures.every((property) => isPlain(property.type)) &&
        ast.indexSignatures.every((signature) => isPlain(signature.type))
    case "Arrays":
      return ast.elements.every(isPlain) && ast.rest.every(isPlain)
    case "Union":
      return ast.types.every(isPlain)
    default:
      return false
  }
}

const constructor = (rpc: Rpc.AnyWithProps): Call.Callable["construct"] => {
  const schema = rpc.payloadSchema as Schema.Codec<unknown, unknown>
  if (isPlain(schema.ast)) return Result.succeed
  return (payload) => {
    const making = schema.makeEffect(payload, unchecked)
    // What waits for nothing is made already; asking a fiber costs 0.4 µs.
    const made = (Exit.isExit(making) ? making : Effect.runSyncExit(making)) as Exit.Exit<unknown, SchemaIssue.Issue>
    if (Exit.isSuccess(made)) return Result.succeed(made.value)
    return Result.fail(Option.match(Cause.findErrorOption(made.cause), {
      onNone: () => Cause.pretty(made.cause),
      onSome: formatIssue
    }))
  }
}
