/**
 * Serves a contract's handlers on one address.
 *
 * Handlers are the group's own `toLayer`, middleware included. Each request runs
 * in a fiber of its own, in the handlers' context with the request's on top: its
 * `CallContext` (deadline, criticality, key, trace), which a call made inside
 * inherits, and its scope. It is interrupted when the caller cancels, when the
 * deadline passes, and when the session ends; one that dies fails its own call
 * and no other.
 *
 * Closing the scope drains: peers are told, what is in flight is answered within
 * the grace, and what is left is interrupted. Shedding and admission are not
 * here.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Headers from "effect/http/Headers"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Rpc from "effect/rpc/Rpc"
import type * as RpcGroup from "effect/rpc/RpcGroup"
import { RequestId } from "effect/rpc/RpcMessage"
import * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Contract from "../contract/Contract.ts"
import * as Deadline from "../contract/Deadline.ts"
import * as Interruption from "../contract/Interruption.ts"
import * as Options from "../contract/Options.ts"
import * as Timer from "../contract/Timer.ts"
import type { ConnectError, ListeningStats, Peer, Serve } from "../transport/Transport.ts"
import { Transport } from "../transport/Transport.ts"
import * as BodyCodec from "../wire/BodyCodec.ts"
import type * as Frame from "../wire/Frame.ts"
import * as Answer from "./internal/answer.ts"

export interface ServerOptions {
  /** Where to listen: `tcp://host:port` (port 0 for any free one), `memory://name`. */
  readonly listen: string
  /** How long closing waits for what is in flight. Default 10 seconds; 0 waits for nothing. */
  readonly drainGrace?: Duration.Input | undefined
}

/** What a server has seen since it began. */
export interface ServerStats extends ListeningStats {
  /** Requests for a method the contract does not have. */
  readonly unimplemented: number
  /** Requests whose codec, payload or headers made no sense. */
  readonly invalid: number
  /** Requests that arrived after their deadline. */
  readonly late: number
  /** Handlers that died of a defect. */
  readonly defects: number
}

/** A running server. */
export class Server extends Context.Service<Server, {
  /** Where it listens, with the port that was assigned. */
  readonly address: string
  readonly stats: () => ServerStats
  /** Stops accepting and waits until nothing is in flight. */
  readonly drain: Effect.Effect<void>
}>()("holdfast/server/Server") {}

/**
 * Ends the present request with a reason of ours instead of an answer of the
 * contract: a middleware's `PermissionDenied`, a handler's `Overloaded`. `sent:
 * "no"` promises that nothing has been done: the caller may send it again.
 */
export const refuse = (reason: CallError.Refusal): Effect.Effect<never> => Effect.die(new CallError.Refused(reason))

/** What a server needs to run a group: its handlers, its middleware, and what its schemas need. */
export type Needs<Rpcs extends Rpc.Any> = Rpc.ToHandler<Rpcs> | Rpc.Middleware<Rpcs> | Transport

/** A method as it is served. */
interface Served {
  readonly method: Contract.Method
  readonly entry: Rpc.Handler<string>
  /** The handlers' context over the listener's: what a request's own is added to. */
  readonly context: Context.Context<never>
  /** Its bodies by the number of the codec, or why that codec has no form for them. */
  readonly bodies: ReadonlyArray<Result.Result<BodyCodec.Bodies, string> | undefined>
}

/**
 * Serves a group until the scope closes, then drains.
 *
 * Dies with a `RangeError` when an option is out of range, the group has a
 * stream, or a method has no handler.
 */
export const make = Effect.fnUntraced(function*<Rpcs extends Rpc.Any>(
  group: RpcGroup.RpcGroup<Rpcs>,
  options: ServerOptions
): Effect.fn.Return<Server["Service"], ConnectError, Needs<Rpcs> | Scope.Scope> {
  const graceMillis = Options.millis("Server.make", "drainGrace", options.drainGrace ?? "10 seconds", true)
  const context = yield* Effect.context<never>()
  const transport = yield* Transport
  const served = serve(group, context)
  const listening = yield* transport.listen(options.listen, served.serve)
  const server: Server["Service"] = {
    address: listening.address,
    stats: () => ({ ...listening.stats(), ...served.counts }),
    drain: listening.drain
  }
  // Runs before the listener's own finalizer, which ends what is left.
  yield* Effect.addFinalizer(() => graceMillis === 0 ? Effect.void : Effect.timeoutOption(listening.drain, graceMillis))
  return server
})

/** `make` as a layer: the server runs as long as the layer does. */
export const layer = <Rpcs extends Rpc.Any>(
  group: RpcGroup.RpcGroup<Rpcs>,
  options: ServerOptions
): Layer.Layer<Server, ConnectError, Needs<Rpcs>> => Layer.effect(Server, make(group, options))

/** The handlers of a group as a `Serve`, with what it counts. */
const serve = (
  group: RpcGroup.RpcGroup<any>,
  context: Context.Context<never>
): { readonly serve: Serve; readonly counts: Counts } => {
  const counts: Counts = { unimplemented: 0, invalid: 0, late: 0, defects: 0 }
  const methods = new Map<string, Served>()
  for (const method of Contract.methods(group)) {
    const entry = context.mapUnsafe.get(method.rpc.key) as Rpc.Handler<string> | undefined
    if (entry === undefined) {
      throw new RangeError(`Server.make: ${method.name} has no handler; provide the group's toLayer`)
    }
    methods.set(method.name, {
      method,
      entry,
      // What the handlers were given goes before what the server has; what belongs to the start of either is left out.
      context: Context.omit(Tracer.ParentSpan, Scope.Scope)(Context.merge(context, entry.context)) as Context.Context<
        never
      >,
      bodies: bodiesOf(method.rpc)
    })
  }
  const client = new Rpc.ServerClient(0)
  let requests = 0

  const refused = (
    { method }: Frame.Request,
    peer: Peer,
    response: Frame.Response,
    reason: CallEvent.RequestRefused["reason"],
    why: string
  ) =>
    Effect.withFiber<Frame.Response>((fiber) => {
      const atMillis = Timer.now(fiber)
      CallEvent.receiverOf(fiber)?.event({ _tag: "RequestRefused", peer, method, reason, why, atMillis })
      return Effect.as(Effect.logWarning(`refused ${printable(method)} of ${peer}: ${why}`), response)
    })

  return {
    counts,
    serve: (request, peer) => {
      const method = methods.get(request.method)
      if (method === undefined) {
        counts.unimplemented++
        return refused(
          request,
          peer,
          Answer.unimplemented(printable(request.method)),
          "unimplemented",
          "no such method"
        )
      }
      const known = method.bodies[request.codec] ?? Result.fail(`unknown body codec ${request.codec}`)
      if (Result.isFailure(known)) {
        counts.invalid++
        const why = known.failure
        return refused(request, peer, Answer.invalid(why), "invalid", why)
      }
      const bodies = known.success
      const payload = bodies.payload.decode(request.body)
      if (payload._tag === "Failure") {
        counts.invalid++
        return refused(request, peer, Answer.invalid(payload.failure), "invalid", payload.failure)
      }
      const call: CallContext.CallContext = {
        ...CallContext.empty,
        name: request.method,
        idempotent: request.idempotent,
        idempotencyKey: request.idempotencyKey,
        criticality: request.criticality,
        deadline: request.deadline,
        attempt: request.attempt,
        hedge: request.hedge,
        trace: request.trace,
        headers: request.headers
      }
      return Effect.withFiber((fiber) => {
        const atMillis = Timer.now(fiber)
        if (Deadline.isExceeded(request.deadline, atMillis)) {
          counts.late++
          const event = { _tag: "RequestRefused", peer, method: request.method, reason: "late" } as const
          CallEvent.receiverOf(fiber)?.event({ ...event, why: "its deadline had passed", atMillis })
          return Effect.succeed(Answer.late)
        }
        return answer(
          fiber,
          method,
          bodies,
          () =>
            handle(method, payload.success, {
              client,
              requestId: RequestId(++requests),
              headers: headersOf(request.headers),
              rpc: method.method.rpc
            }, context),
          call,
          peer,
          counts
        )
      })
    }
  }
}

/** Most requests have none. */
const headersOf = (headers: Frame.Request["headers"]): Headers.Headers => {
  for (const _ in headers) return Headers.fromInput(headers)
  return Headers.empty
}

interface Counts {
  unimplemented: number
  invalid: number
  late: number
  defects: number
}

/** A name as a peer sent it, for a line of a log: short, and one line. */
const printable = (name: string): string => /^[\w.\-/]{1,200}$/.test(name) ? name : JSON.stringify(name.slice(0, 200))

const bodiesOf = (rpc: Rpc.AnyWithProps): Served["bodies"] => {
  const bodies: Array<Result.Result<BodyCodec.Bodies, string>> = []
  for (const codec of BodyCodec.all) {
    bodies[codec.id] = BodyCodec.bodies(codec, rpc.payloadSchema, rpc.successSchema, Contract.errorSchema(rpc))
  }
  return bodies
}

/**
 * Runs a handler in the request's context, within its scope and until its deadline, and says what came of it. The frame
 * that closes the scope also puts the context back: `Effect.updateContext` would be a second one.
 */
const answer = (
  fiber: Fiber.Fiber<unknown, unknown>,
  served: Served,
  bodies: BodyCodec.Bodies,
  handler: () => Effect.Effect<unknown, unknown>,
  call: CallContext.CallContext,
  peer: Peer,
  counts: Counts
): Effect.Effect<Frame.Response> => {
  const outer = fiber.context
  const scope = Scope.makeUnsafe()
  let timer: Timer.Timer | undefined
  const run = Effect.suspend(() => {
    if (call.deadline !== Deadline.none) {
      timer = Timer.schedule(fiber, call.deadline, () => {
        fiber.interruptUnsafe(undefined, Interruption.annotations.deadline)
      })
    }
    const around = CallEvent.receiverOf(fiber)?.aroundHandler
    fiber.setContext(Context.add(Context.add(served.context, CallContext.Current, call), Scope.Scope, scope))
    return around === undefined ? handler() : around(Effect.suspend(handler), call, peer)
  })
  // Around the step that takes the timer: it is given back wherever that is interrupted.
  const ended = Effect.onExitPrimitive(run, (exit) => {
    timer?.cancel()
    fiber.setContext(outer)
    return Scope.closeUnsafe(scope, exit)
  })
  return Effect.matchCauseEffect(ended, {
    onSuccess: (value) => {
      const encoded = bodies.success.encode(value)
      return encoded._tag === "Success"
        ? Effect.succeed(Answer.ok(bodies.id, encoded.success))
        : unencodable("answer", encoded.failure, call, peer, counts)
    },
    onFailure: (cause) => failed(bodies, cause, call, peer, counts)
  })
}

/** One handler's effect, inside the group's middleware, with the wrappers `Rpc.fork` and `Rpc.uninterruptible` understood. */
const handle = (
  served: Served,
  payload: unknown,
  metadata: Parameters<Rpc.Handler<string>["handler"]>[1] & { readonly rpc: Rpc.AnyWithProps },
  context: Context.Context<never>
): Effect.Effect<unknown, unknown> => {
  const result: unknown = served.entry.handler(payload, metadata)
  const wrapped = Rpc.isWrapper(result as object) ? result as Rpc.Wrapper<unknown> : undefined
  let effect = (wrapped === undefined ? result : wrapped.value) as Effect.Effect<unknown, unknown>
  effect = Effect.flatMap(
    effect,
    (value) =>
      Deferred.isDeferred(value) ? Deferred.await(value as Deferred.Deferred<unknown, unknown>) : Effect.succeed(value)
  )
  for (const service of served.method.rpc.middlewares) {
    const middleware = Context.getUnsafe(context, service)
    effect = middleware(effect as never, { ...metadata, payload }) as Effect.Effect<unknown, unknown>
  }
  return wrapped?.uninterruptible === true ? Effect.uninterruptible(effect) : effect
}

/** What a handler's failure is on the wire. */
const failed = (
  bodies: BodyCodec.Bodies,
  cause: Cause.Cause<unknown>,
  call: CallContext.CallContext,
  peer: Peer,
  counts: Counts
): Effect.Effect<Frame.Response> => {
  const died = cause.reasons.filter(Cause.isDieReason)
  if (died.length > 0) {
    const refusal = died.find(({ defect }) => defect instanceof CallError.Refused)?.defect as
      | CallError.Refused
      | undefined
    if (refusal !== undefined) return Effect.succeed(Answer.refused(refusal.reason))
    counts.defects++
    return Effect.as(
      Effect.logError(`${call.name} of ${peer}: the handler died`, cause),
      Answer.defect(call.trace?.traceId)
    )
  }
  const error = Cause.findErrorOption(cause)
  if (Option.isSome(error) && !Cause.hasInterrupts(cause)) {
    const encoded = bodies.error.encode(error.value)
    return encoded._tag === "Success"
      ? Effect.succeed(Answer.failed(bodies.id, encoded.success))
      : unencodable("error", encoded.failure, call, peer, counts)
  }
  // Ours (a cancel, the deadline) never come here: they end the fiber, and the transport answers.
  return Effect.succeed(Answer.interrupted(call.trace?.traceId))
}

/** A handler whose answer its own contract refuses. */
const unencodable = (
  what: "answer" | "error",
  why: string,
  call: CallContext.CallContext,
  peer: Peer,
  counts: Counts
): Effect.Effect<Frame.Response> => {
  counts.defects++
  return Effect.as(
    Effect.logError(`${call.name} of ${peer}: cannot encode the handler's ${what}: ${why}`),
    Answer.encodeFailed(why, call.trace?.traceId)
  )
}
