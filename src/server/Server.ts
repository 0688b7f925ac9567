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
import * as Exit from "effect/Exit"
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
import * as Immediate from "../contract/Immediate.ts"
import * as Interruption from "../contract/Interruption.ts"
import * as Options from "../contract/Options.ts"
import * as Timer from "../contract/Timer.ts"
import type { ConnectError, ListeningStats, Peer, Serve } from "../transport/Transport.ts"
import { Transport } from "../transport/Transport.ts"
import * as BodyCodec from "../wire/BodyCodec.ts"
import type * as Frame from "../wire/Frame.ts"
import * as TraceState from "../wire/TraceState.ts"
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

/** How a method is served, to callers who use one codec. */
interface Way {
  readonly rpc: Rpc.AnyWithProps
  readonly entry: Rpc.Handler<string>
  /** What the server was made in: where its middleware is. */
  readonly given: Context.Context<never>
  /** The handlers' context over the listener's: what a request's own is added to. */
  readonly context: Context.Context<never>
  readonly bodies: BodyCodec.Bodies
  readonly client: Rpc.ServerClient
  readonly counts: Counts
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

/** Most lines of log about refusals in a while, whoever asks: a peer that sends nonsense does not fill a disk. */
const maxLines = 10
const linesEveryMillis = 10_000

/** The handlers of a group as a `Serve`, with what it counts. */
const serve = (
  group: RpcGroup.RpcGroup<any>,
  context: Context.Context<never>
): { readonly serve: Serve; readonly counts: Counts } => {
  const counts: Counts = { unimplemented: 0, invalid: 0, late: 0, defects: 0 }
  const client = new Rpc.ServerClient(0)
  /** Ways by the number of the codec, or why that codec has no form for the method. */
  const methods = new Map<string, ReadonlyArray<Result.Result<Way, string> | undefined>>()
  for (const { name, rpc } of Contract.methods(group)) {
    const entry = context.mapUnsafe.get(rpc.key) as Rpc.Handler<string> | undefined
    if (entry === undefined) throw new RangeError(`Server.make: ${name} has no handler; provide the group's toLayer`)
    // What the handlers were given goes before what the server has; what belongs to the start of either is left out.
    const both = Context.omit(Tracer.ParentSpan, Scope.Scope)(Context.merge(context, entry.context))
    const way = { rpc, entry, given: context, context: both as Context.Context<never>, client, counts }
    const ways: Array<Result.Result<Way, string>> = []
    for (const codec of BodyCodec.all) {
      const bodies = BodyCodec.bodies(codec, rpc.payloadSchema, rpc.successSchema, Contract.errorSchema(rpc))
      ways[codec.id] = Result.map(bodies, (bodies) => ({ ...way, bodies }))
    }
    methods.set(name, ways)
  }
  let requests = 0
  const said = { sinceMillis: -Infinity, lines: 0, unsaid: 0 }

  /** The line of log about a refusal, if there is to be one. */
  const lineOf = (what: string, atMillis: number): Effect.Effect<void> => {
    if (atMillis - said.sinceMillis >= linesEveryMillis) {
      said.sinceMillis = atMillis
      said.lines = 0
    }
    if (said.lines === maxLines) {
      said.unsaid++
      return Effect.void
    }
    const { unsaid } = said
    said.lines++
    said.unsaid = 0
    return Effect.logWarning(unsaid === 0 ? what : `${what} (and ${unsaid} more that no line was written of)`)
  }

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
      return Effect.as(
        lineOf(`refused ${printable(method)} of ${peer}: ${why.replaceAll(/\s*\n\s*/g, " ")}`, atMillis),
        response
      )
    })

  return {
    counts,
    serve: (request, peer) => {
      const ways = methods.get(request.method)
      if (ways === undefined) {
        counts.unimplemented++
        return refused(
          request,
          peer,
          Answer.unimplemented(printable(request.method)),
          "unimplemented",
          "no such method"
        )
      }
      const known = ways[request.codec] ?? Result.fail(`unknown body codec ${request.codec}`)
      if (Result.isFailure(known)) {
        counts.invalid++
        const why = known.failure
        return refused(request, peer, Answer.invalid(why), "invalid", why)
      }
      const way = known.success
      const payload = way.bodies.payload.decode(request.body)
      if (payload._tag === "Failure") {
        counts.invalid++
        return refused(request, peer, Answer.invalid(payload.failure), "invalid", payload.failure)
      }
      return new Request(way, payload.success, request, peer, ++requests)
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

/**
 * A handler, run in the request's context, within its scope and until its deadline, and what came of it. The frame that
 * closes the scope also puts the context back: `Effect.updateContext` would be a second one.
 */
class Request extends Immediate.Step<Frame.Response> {
  private readonly way: Way
  private readonly payload: unknown
  private readonly request: Frame.Request
  private readonly peer: Peer
  private readonly id: number
  private scope: Scope.Closeable | undefined
  private outer: Context.Context<never> | undefined
  private timer: Timer.Timer | undefined

  constructor(way: Way, payload: unknown, request: Frame.Request, peer: Peer, id: number) {
    super()
    this.way = way
    this.payload = payload
    this.request = request
    this.peer = peer
    this.id = id
  }

  override step(fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<Frame.Response> {
    const { peer, request: { deadline, method }, way: { counts } } = this
    const atMillis = Timer.now(fiber)
    if (Deadline.isExceeded(deadline, atMillis)) {
      counts.late++
      const event = { _tag: "RequestRefused", peer, method, reason: "late" } as const
      CallEvent.receiverOf(fiber)?.event({ ...event, why: "its deadline had passed", atMillis })
      return Effect.succeed(Answer.late)
    }
    // Around the step that takes the timer: it is given back wherever that is interrupted.
    const ended = Effect.onExitPrimitive(Effect.suspend(() => this.run(fiber)), (exit) => this.ended(fiber, exit))
    return Effect.matchCauseEffect(ended, {
      onSuccess: (value) => this.succeeded(value),
      onFailure: (cause) => failed(this.way, cause, this.request, this.peer)
    })
  }

  private run(fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<unknown, unknown> {
    const { peer, request: { deadline }, way: { context } } = this
    if (deadline !== Deadline.none) {
      this.timer = Timer.schedule(fiber, deadline, () => {
        fiber.interruptUnsafe(undefined, Interruption.annotations.deadline)
      })
    }
    const around = CallEvent.receiverOf(fiber)?.aroundHandler
    const call = callOf(this.request)
    const scope = this.scope = Scope.makeUnsafe()
    this.outer = fiber.context
    fiber.setContext(Context.add(Context.add(context, CallContext.Current, call), Scope.Scope, scope))
    return around === undefined ? this.handle() : around(Effect.suspend(() => this.handle()), call, peer)
  }

  private ended(
    fiber: Fiber.Fiber<unknown, unknown>,
    exit: Exit.Exit<unknown, unknown>
  ): Effect.Effect<void> | undefined {
    this.timer?.cancel()
    // Interrupted before it began.
    if (this.scope === undefined) return undefined
    fiber.setContext(this.outer!)
    return Scope.closeUnsafe(this.scope, exit)
  }

  /** The handler's effect, inside the group's middleware, with the wrappers `Rpc.fork` and `Rpc.uninterruptible` understood. */
  private handle(): Effect.Effect<unknown, unknown> {
    const { id, payload, request, way: { client, entry, given, rpc } } = this
    const metadata = { client, requestId: RequestId(id), headers: headersOf(request.headers), rpc }
    const result: unknown = entry.handler(payload, metadata)
    const wrapped = Rpc.isWrapper(result as object) ? result as Rpc.Wrapper<unknown> : undefined
    let effect = awaited((wrapped === undefined ? result : wrapped.value) as Effect.Effect<unknown, unknown>)
    for (const service of rpc.middlewares) {
      const middleware = Context.getUnsafe(given, service)
      effect = middleware(effect as never, { ...metadata, payload }) as Effect.Effect<unknown, unknown>
    }
    return wrapped?.uninterruptible === true ? Effect.uninterruptible(effect) : effect
  }

  private succeeded(value: unknown): Effect.Effect<Frame.Response> {
    const { peer, request, way: { bodies, counts } } = this
    const encoded = bodies.success.encode(value)
    return encoded._tag === "Success"
      ? Effect.succeed(Answer.ok(bodies.id, encoded.success))
      : unencodable("answer", encoded.failure, request, peer, counts)
  }
}

/** A request as what runs for it finds it in its context, and calls made there inherit. */
const callOf = (request: Frame.Request): CallContext.CallContext => ({
  ...CallContext.empty,
  name: request.method,
  idempotent: request.idempotent,
  idempotencyKey: request.idempotencyKey,
  criticality: request.criticality,
  deadline: request.deadline,
  attempt: request.attempt,
  hedge: request.hedge,
  trace: TraceState.received(request),
  headers: request.headers
})

/** The answer of a handler that may give a promise of one. */
const awaited = (self: Effect.Effect<unknown, unknown>): Effect.Effect<unknown, unknown> =>
  // Known already, as it is of a handler that waits for nothing.
  Exit.isExit(self) && !(Exit.isSuccess(self) && Deferred.isDeferred(self.value)) ? self : Effect.flatMap(
    self,
    (value) =>
      Deferred.isDeferred(value) ? Deferred.await(value as Deferred.Deferred<unknown, unknown>) : Effect.succeed(value)
  )

/** What a handler's failure is on the wire. */
const failed = (
  { bodies, counts }: Way,
  cause: Cause.Cause<unknown>,
  request: Frame.Request,
  peer: Peer
): Effect.Effect<Frame.Response> => {
  const died = cause.reasons.filter(Cause.isDieReason)
  if (died.length > 0) {
    const refusal = died.find(({ defect }) => defect instanceof CallError.Refused)?.defect as
      | CallError.Refused
      | undefined
    if (refusal !== undefined) return Effect.succeed(Answer.refused(refusal.reason))
    counts.defects++
    return Effect.as(
      Effect.logError(`${request.method} of ${peer}: the handler died`, cause),
      Answer.defect(request.trace?.traceId)
    )
  }
  const error = Cause.findErrorOption(cause)
  if (Option.isSome(error) && !Cause.hasInterrupts(cause)) {
    const encoded = bodies.error.encode(error.value)
    return encoded._tag === "Success"
      ? Effect.succeed(Answer.failed(bodies.id, encoded.success))
      : unencodable("error", encoded.failure, request, peer, counts)
  }
  // Ours (a cancel, the deadline) never come here: they end the fiber, and the transport answers.
  return Effect.succeed(Answer.interrupted(request.trace?.traceId))
}

/** A handler whose answer its own contract refuses. */
const unencodable = (
  what: "answer" | "error",
  why: string,
  { method, trace }: Frame.Request,
  peer: Peer,
  counts: Counts
): Effect.Effect<Frame.Response> => {
  counts.defects++
  return Effect.as(
    Effect.logError(`${method} of ${peer}: cannot encode the handler's ${what}: ${why}`),
    Answer.encodeFailed(why, trace?.traceId)
  )
}
