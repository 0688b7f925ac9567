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
import type * as Fiber from "effect/Fiber"
import { identity } from "effect/Function"
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
import type { Endpoint } from "../balancer/Endpoint.ts"
import * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Contract from "../contract/Contract.ts"
import type { Criticality } from "../contract/Criticality.ts"
import * as Deadline from "../contract/Deadline.ts"
import * as Options from "../contract/Options.ts"
import * as Outcome from "../contract/Outcome.ts"
import * as Timer from "../contract/Timer.ts"
import * as Policy from "../policy/Policy.ts"
import * as Timeout from "../policy/Timeout.ts"
import * as Connection from "../transport/Connection.ts"
import { type Expiry, type Session, Transport } from "../transport/Transport.ts"
import * as BodyCodec from "../wire/BodyCodec.ts"
import type * as Frame from "../wire/Frame.ts"
import * as ClientStack from "./ClientStack.ts"
import * as Observed from "./internal/observed.ts"
import * as Reply from "./internal/reply.ts"

/** What one call may say. */
export interface CallOptions {
  /** How long the call may take in all, every attempt and every wait included. Default: the method's, then the client's. */
  readonly deadline?: Duration.Input | undefined
  /** The key the server deduplicates by: a call with one may be sent again. Default: derived from the payload, where annotated. */
  readonly idempotencyKey?: string | undefined
  /** Default: the method's, then that of the call this one is made for. */
  readonly criticality?: Criticality | undefined
  /** Metadata for the server. */
  readonly headers?: Readonly<Record<string, string>> | undefined
}

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

/** A method, ready to be called. */
interface Callable {
  readonly balancer: Balancer.Balancer
  readonly method: Contract.Method
  /** How long a call may take that does not say, in milliseconds. */
  readonly deadlineMillis: number
  readonly bodies: BodyCodec.Bodies
  /** For a server that does not know the codec of `bodies`. */
  readonly asJson: BodyCodec.Bodies
  /** Makes the payload's value: a class where the contract wants one, defaults filled in. */
  readonly construct: (payload: unknown) => Result.Result<unknown, string>
  readonly stack: ClientStack.CallLevel
  /** The index of its endpoint level. */
  readonly level: number
}

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
      const callable = {
        balancer,
        method,
        deadlineMillis: Duration.toMillis(Duration.fromInputUnsafe(method.defaultDeadline ?? defaultDeadline)),
        bodies,
        asJson: codec === BodyCodec.json ? bodies : bodiesOf(method, BodyCodec.json),
        construct: constructor(method.rpc),
        stack: stack.calls[level]!,
        level
      }
      place(client, method.name, (payload: unknown, given?: CallOptions) => call(callable, payload, given))
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

const constructor = (rpc: Rpc.AnyWithProps): Callable["construct"] => {
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

type InvalidRequest = CallError.CallError<CallError.InvalidRequest>
const invalid = (target: string, detail: string): Effect.Effect<never, InvalidRequest> =>
  CallError.fail({ _tag: "InvalidRequest", target, detail, sent: "no" })

/** One call: everything from the payload to the answer. */
const call = (
  callable: Callable,
  payload: unknown,
  options: CallOptions = noOptions
): Effect.Effect<unknown, unknown> =>
  Effect.withFiber((fiber) => {
    const { method, stack } = callable
    const made = callable.construct(payload)
    if (Result.isFailure(made)) return invalid(method.name, made.failure)
    const body = callable.bodies.payload.encode(made.success)
    if (Result.isFailure(body)) return invalid(method.name, body.failure)

    const ambient = fiber.getRef(CallContext.Current)
    const startedAt = Timer.now(fiber)
    const limit = options.deadline === undefined
      ? startedAt + callable.deadlineMillis
      : Deadline.after(startedAt, options.deadline)
    const receiver = CallEvent.receiverOf(fiber)
    const stated: CallContext.CallContext = {
      name: method.name,
      key: ambient.key,
      idempotent: method.idempotent,
      idempotencyKey: options.idempotencyKey ?? method.keyOf?.(made.success),
      criticality: options.criticality ?? method.criticality ?? ambient.criticality,
      deadline: Deadline.combine(ambient.deadline, limit),
      attempt: 1,
      hedge: false,
      insideRetry: false,
      trace: ambient.trace,
      headers: options.headers ?? noHeaders,
      classify: method.classify
    }
    const context = receiver === undefined ? stated : Observed.decided(receiver, fiber, stated)
    // Where the latest attempt went, and from the second on where all before it did.
    let latest: Endpoint | undefined
    let been: Array<Endpoint> | undefined
    let attempts = 0
    const attemptOf = (
      running: Fiber.Fiber<unknown, unknown>,
      given?: CallContext.CallContext
    ): Effect.Effect<unknown, unknown> => {
      if (latest !== undefined) (been ??= []).push(latest)
      const at = (endpoint: Endpoint, call?: CallContext.CallContext): Effect.Effect<unknown, unknown> => {
        // Straight from the call to its first pick: one reading of the clock does for both.
        const attemptAt = latest === undefined ? startedAt : undefined
        latest = endpoint
        if (call !== undefined) {
          attempts = Math.max(attempts, call.attempt)
          return send(running, callable, endpoint, call, made.success, body, startedAt, attemptAt)
        }
        // An attempt begins, and its time, when the endpoint's policies have let it go.
        return Effect.withFiber((current) => {
          const call = current.getRef(CallContext.Current)
          attempts = Math.max(attempts, call.attempt)
          return send(current, callable, endpoint, call, made.success, body, startedAt)
        })
      }
      return callable.balancer.run(callable.level, at, been, given)
    }
    const attempt = Effect.withFiber((running) => attemptOf(running))
    const answered = Outcome.isIdempotent(context) ? identity : Effect.mapError(unknownOutcome(context))
    const isLate = Deadline.isExceeded(context.deadline, startedAt)
    const isPlain = stack.isPlain && !isLate && !CallEvent.mayWait(receiver)
    const observed = (self: Effect.Effect<unknown, unknown>): Effect.Effect<unknown, unknown> =>
      receiver === undefined ? self : Observed.call(receiver, fiber, self, context, startedAt, () => attempts)
    const loop = (
      running: Fiber.Fiber<unknown, unknown>,
      call: CallContext.CallContext
    ): Effect.Effect<unknown, unknown> => {
      const first = attemptOf(running, call)
      return stack.retry?.runCall(first, attempt, running, call, startedAt) ?? first
    }
    // Nothing looks for the call before something fails: to put it into the context costs a quarter of the call.
    if (isPlain && (receiver?.aroundCall === undefined || Observed.isLeftOut(receiver, context))) {
      return observed(answered(loop(fiber, context)))
    }
    const stacked = isPlain
      // Begun within what stands around the call, which may have given it another trace, or a fiber of its own.
      ? Effect.withFiber((running) => loop(running, running.getRef(CallContext.Current)))
      : stack.call.run(stack.attempt.run(attempt))
    const guarded = answered(
      stack.queues || CallEvent.mayWait(receiver) || isLate
        ? Timeout.guardAttempts(stacked, context.deadline)
        : stacked
    )
    return Effect.provideService(observed(guarded), CallContext.Current, context)
  })

const noHeaders: Readonly<Record<string, string>> = {}
const noOptions: CallOptions = {}

/** A call that must not be sent twice, was written, and got no answer: nobody knows whether it happened. */
const unknownOutcome = (call: CallContext.CallContext) => (error: unknown): unknown => {
  if (!CallError.isCallError(error)) return error
  const { reason } = error
  const silent = reason._tag === "ConnectionLost" || reason._tag === "AttemptTimeout"
  if (!silent || reason.sent === "no") return error
  return new CallError.CallError({ _tag: "OutcomeUnknown", method: call.name, last: error, sent: "maybe" })
}

/** When an attempt on an open session ends by itself: after its own timeout, or at the call's deadline where that is sooner. */
const expiryOf = (
  fiber: Fiber.Fiber<unknown, unknown>,
  timeout: Timeout.Timeout | undefined,
  call: CallContext.CallContext,
  calledAt: number,
  attemptAt: number | undefined
): Expiry<CallError.CallError> | undefined => {
  const limit = timeout === undefined ? Infinity : (attemptAt ?? Timer.now(fiber)) + timeout.timeoutMillis
  if (timeout !== undefined && limit <= call.deadline) {
    const { name: policy, timeoutMillis } = timeout
    return {
      atMillis: limit,
      reason: "attemptTimeout",
      error: (sent) => new CallError.CallError({ _tag: "AttemptTimeout", policy, timeoutMillis, sent })
    }
  }
  if (call.deadline === Deadline.none) return undefined
  return {
    atMillis: call.deadline,
    reason: "deadline",
    error: (sent) =>
      new CallError.CallError({
        _tag: "DeadlineExceeded",
        method: call.name,
        elapsedMillis: call.deadline - calledAt,
        sent,
        last: undefined
      })
  }
}

/** One attempt at one endpoint. */
const send = (
  fiber: Fiber.Fiber<unknown, unknown>,
  callable: Callable,
  endpoint: Endpoint,
  call: CallContext.CallContext,
  payload: unknown,
  body: Result.Result<Uint8Array, string>,
  calledAt: number,
  attemptAt?: number
): Effect.Effect<unknown, unknown> => {
  const { timeout } = endpoint.levels[callable.level]!
  const receiver = CallEvent.receiverOf(fiber)
  const on = (session: Session, trace: CallContext.TraceContext | undefined, expiry?: Expiry<unknown>) => {
    const bodies = session.codec.id === callable.bodies.id ? callable.bodies : callable.asJson
    const encoded = bodies === callable.bodies ? body : bodies.payload.encode(payload)
    if (Result.isFailure(encoded)) return invalid(call.name, encoded.failure)
    const request: Frame.Request = {
      method: call.name,
      codec: bodies.id,
      body: encoded.success,
      deadline: call.deadline,
      attempt: call.attempt,
      hedge: call.hedge,
      idempotent: Outcome.isIdempotent(call),
      criticality: call.criticality,
      idempotencyKey: call.idempotencyKey,
      trace,
      headers: call.headers
    }
    // For a guard outside; without one the session's own expiry says it.
    if (callable.stack.queues || CallEvent.mayWait(receiver)) Timeout.begun(fiber)
    return Effect.flatMap(
      session.send(request, expiry),
      (response) => Reply.read(response, call.name, endpoint.address, bodies, calledAt)
    )
  }
  const attempt = (trace: CallContext.TraceContext | undefined): Effect.Effect<unknown, unknown> => {
    const { connection } = endpoint
    if (CallEvent.mayWait(receiver)) {
      const hooks = Effect.flatMap(connection.acquire(), (session) => on(session, trace))
      return Timeout.withDeadlineAt(timeout === undefined ? hooks : timeout.run(hooks), call.deadline)
    }
    const expiry = expiryOf(fiber, timeout, call, calledAt, attemptAt)
    const { current } = connection
    return current === undefined
      ? Effect.flatMap(connection.acquire(expiry), (session) => on(session, trace, expiry))
      : on(current, trace, expiry)
  }
  return receiver === undefined
    ? attempt(call.trace)
    : Observed.attempt(receiver, fiber, attempt, call, endpoint.address, Observed.judged, attemptAt)
}
