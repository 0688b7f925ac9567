/**
 * One attempt, one endpoint: picks, runs the endpoint's policies, and picks
 * again when nothing was sent.
 *
 * A rejection by an endpoint's own policy, and a failure that provably never
 * reached a server, send nothing and cost no attempt and no budget: the attempt
 * goes to another endpoint. At most `min(endpoints, 5)` picks; then the last
 * reason is the answer.
 *
 * A retry or a hedge goes where its call has not been yet, if such a place is
 * ready: three attempts that all draw the one bad endpoint of five would fail
 * one in 25 of the calls that meet it.
 *
 * State is per target: one balancer for all calls of a client.
 */
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Immediate from "../contract/Immediate.ts"
import * as Outcome from "../contract/Outcome.ts"
import * as Timer from "../contract/Timer.ts"
import * as Policy from "../policy/Policy.ts"
import { type Endpoint, type EndpointState, Rank, rank } from "./Endpoint.ts"
import * as PowerOfTwo from "./PowerOfTwo.ts"

/** Most endpoints one attempt is offered to. */
const maxPicks = 5

export interface BalancerOptions {
  /** Names the dependency in errors and events. */
  readonly target: string
  /** The addresses, whole, whenever they change. */
  readonly addresses: Stream.Stream<ReadonlyArray<string>>
  /** Makes what an address needs; its scope ends when the address has gone and what was in flight is answered. */
  readonly endpoint: (address: string) => Effect.Effect<Endpoint, never, Scope.Scope>
}

/** What is to be done at the endpoint that was picked. */
export type AttemptAt<A, E, R> = (
  endpoint: Endpoint,
  call?: CallContext.CallContext,
  fiber?: Fiber.Fiber<unknown, unknown>
) => Effect.Effect<A, E, R>

export interface Balancer {
  readonly target: string
  /** The endpoints known now. */
  readonly endpoints: () => ReadonlyArray<Endpoint>
  /**
   * Runs one attempt at an endpoint, inside that endpoint's policies of the given
   * level. Where the call has `been` is picked again only when nothing else is ready.
   * A `call` that is not in the context is put there for policies that look for it; where none does, the attempt is
   * given it with its fiber, and made in the step of the pick.
   */
  readonly run: <A, E, R>(
    level: number,
    attempt: AttemptAt<A, E, R>,
    been?: ReadonlyArray<Endpoint>,
    call?: CallContext.CallContext
  ) => Effect.Effect<A, E | CallError.CallError<CallError.NoEndpoint>, R>
  /** Finishes what is in flight everywhere and opens nothing more. */
  readonly drain: Effect.Effect<void>
}

/**
 * A balancer over a changing set of addresses, for the life of the scope. Waits
 * for the first set. Closing the scope drains every endpoint before it ends any.
 */
export const make = (options: BalancerOptions): Effect.Effect<Balancer, never, Scope.Scope> =>
  Effect.gen(function*() {
    const { target } = options
    let endpoints: ReadonlyArray<Endpoint> = []
    /** Those in use, and those that have gone from the set and finish what they have. */
    const open = new Set<Endpoint>()
    let leaving = false
    const drain = Effect.suspend(() => {
      leaving = true
      return Effect.forEach(open, (endpoint) => endpoint.connection.drain, { concurrency: "unbounded", discard: true })
    })
    // Of its own, so that an endpoint found later than a caller's other finalizers is drained all the same.
    const scope = yield* Effect.acquireRelease(
      Scope.make(),
      (scope, exit) => Effect.ensuring(drain, Scope.close(scope, exit))
    )

    const changed = (endpoint: string, change: "added" | "removed") =>
      Effect.withFiber((fiber) => {
        CallEvent.receiverOf(fiber)?.event({
          _tag: "EndpointChanged",
          target,
          endpoint,
          change,
          why: "discovery",
          atMillis: Timer.now(fiber)
        })
        return Effect.void
      })

    const add = Effect.fnUntraced(function*(address: string) {
      const own = yield* Scope.fork(scope)
      const endpoint = yield* Scope.provide(options.endpoint(address), own)
      yield* changed(address, "added")
      const owned: Endpoint = {
        ...endpoint,
        close: endpoint.close.pipe(
          Effect.ensuring(Scope.close(own, Exit.void)),
          Effect.ensuring(Effect.sync(() => open.delete(owned)))
        )
      }
      open.add(owned)
      yield* Scope.provide(announced(target, owned), own)
      return owned
    })

    const update = Effect.fnUntraced(function*(addresses: ReadonlyArray<string>) {
      if (leaving) return
      const wanted = new Set(addresses)
      const known = new Set(endpoints.map((endpoint) => endpoint.address))
      const gone = endpoints.filter((endpoint) => !wanted.has(endpoint.address))
      const added = yield* Effect.forEach([...wanted].filter((address) => !known.has(address)), add)
      endpoints = [...endpoints.filter((endpoint) => wanted.has(endpoint.address)), ...added]
      for (const endpoint of added) endpoint.connection.prepare()
      for (const endpoint of gone) {
        yield* changed(endpoint.address, "removed")
        yield* Effect.forkIn(endpoint.close, scope)
      }
    })

    const first = yield* Deferred.make<void>()
    yield* Stream.runForEach(options.addresses, (addresses) =>
      Effect.andThen(update(addresses), Deferred.succeed(first, undefined))).pipe(
        // A source that dies before its first set is a mistake of whoever asked; later, the last set stands. One that
        // ends without a set knows of no address.
        Effect.onExit((exit) =>
          Exit.isSuccess(exit)
            ? Deferred.succeed(first, undefined)
            : Effect.flatMap(Deferred.failCause(first, exit.cause), (early) =>
              early || Cause.hasInterrupts(exit.cause)
                ? Effect.void
                : Effect.logError(`discovery of ${target} has died, its last addresses stand`, exit.cause))
        ),
        Effect.forkIn(scope, { startImmediately: true })
      )
    yield* Deferred.await(first)

    const from: Source = {
      target,
      endpoints: () =>
        endpoints
    }
    return {
      ...from,
      run: (level, attempt, been, call) => new Run(from, level, attempt, been, call),
      drain
    }
  })

/** Puts an endpoint into the registry, if somebody keeps one, until its scope closes. */
const announced = (target: string, endpoint: Endpoint) =>
  Policy.registeredInScope(Effect.withFiber((fiber) => {
    const { clock } = Timer.sourceOf(fiber)
    fiber.getRef(Policy.CurrentRegistry)?.register({
      name: `${target}@${endpoint.address}`,
      kind: "endpoint",
      snapshot: () => stateOf(target, endpoint, Timer.nowOf(clock))
    })
    return Effect.void
  }))

const stateOf = (target: string, { address, connection, inFlight }: Endpoint, now: number): EndpointState => ({
  target,
  address,
  connection: connection.current !== undefined ? "open" : connection.backoffUntil > now ? "backoff" : "closed",
  inFlight
})

type NoEndpoint = CallError.CallError<CallError.NoEndpoint>

/** Where endpoints come from. */
type Source = Pick<Balancer, "target" | "endpoints">

const none: ReadonlyArray<Endpoint> = []

/** One attempt, until an endpoint has taken it. */
class Run<A, E, R> extends Immediate.Step<A, E | NoEndpoint, R> {
  readonly from: Source
  readonly level: number
  readonly attempt: AttemptAt<A, E, R>
  readonly been: ReadonlyArray<Endpoint> | undefined
  /** What the context does not say. */
  readonly call: CallContext.CallContext | undefined

  constructor(
    from: Source,
    level: number,
    attempt: AttemptAt<A, E, R>,
    been: ReadonlyArray<Endpoint> | undefined,
    call: CallContext.CallContext | undefined
  ) {
    super()
    this.from = from
    this.level = level
    this.attempt = attempt
    this.been = been
    this.call = call
  }

  override step(fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<A, E | NoEndpoint, R> {
    return new Offer(this, fiber, none, undefined).made()
  }
}

/** An attempt offered to one endpoint, and to the next when nothing was sent. */
class Offer<A, E, R> extends Immediate.Step<A, E | NoEndpoint, R> {
  private readonly of: Run<A, E, R>
  private readonly fiber: Fiber.Fiber<unknown, unknown>
  /** Who has had this attempt before, and what the last of them made of it. */
  private readonly tried: ReadonlyArray<Endpoint>
  private readonly last: Cause.Cause<E> | undefined
  private endpoint: Endpoint | undefined
  private gate: Policy.Gate | undefined
  private pass: object | undefined

  constructor(
    of: Run<A, E, R>,
    fiber: Fiber.Fiber<unknown, unknown>,
    tried: ReadonlyArray<Endpoint>,
    last: Cause.Cause<E> | undefined
  ) {
    super()
    this.of = of
    this.fiber = fiber
    this.tried = tried
    this.last = last
  }

  /** To be returned by what the fiber evaluates. */
  made(): Effect.Effect<A, E | NoEndpoint, R> {
    // Picked and counted where the release is already in place.
    const counted = Effect.onExitPrimitive(this, (exit) => this.ended(exit))
    // The last pick's answer is the answer, whatever it is.
    if (this.tried.length + 1 >= Math.min(this.of.from.endpoints().length, maxPicks)) {
      return Immediate.evaluate(counted, this, this.fiber)
    }
    return Effect.catchCause(counted, (cause) => this.elsewhere(cause))
  }

  override step(fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<A, E | NoEndpoint, R> {
    const { last, of: { attempt, call, level } } = this
    const endpoint = this.pick()
    if (endpoint === undefined) return last === undefined ? this.noEndpoint() : Effect.failCause(last)
    this.endpoint = endpoint
    endpoint.inFlight++
    const { gate, policy } = endpoint.levels[level]!
    if (call === undefined) return policy.run(attempt(endpoint)) as Effect.Effect<A, E, R>
    this.gate = gate
    this.pass = gate?.enter()
    if (this.pass !== undefined) return attempt(endpoint, call, fiber)
    const guarded = policy.run(attempt(endpoint)) as Effect.Effect<A, E, R>
    return Effect.provideService(guarded, CallContext.Current, call)
  }

  private ended(exit: Exit.Exit<A, E | NoEndpoint>): undefined {
    const { endpoint, gate, of, pass } = this
    if (endpoint !== undefined) endpoint.inFlight--
    if (pass !== undefined) gate!.leave(pass, exit, of.call!)
    return undefined
  }

  private elsewhere(cause: Cause.Cause<E | NoEndpoint>): Effect.Effect<A, E | NoEndpoint, R> {
    const { endpoint, fiber, of, tried } = this
    const error = elsewhereOf(cause)
    if (endpoint === undefined || error === undefined) return Effect.failCause(cause)
    CallEvent.receiverOf(fiber)?.event({
      _tag: "Repicked",
      call: this.called(),
      target: of.from.target,
      endpoint: endpoint.address,
      error,
      atMillis: Timer.now(fiber)
    })
    return new Offer(of, fiber, [...tried, endpoint], cause as Cause.Cause<E>).made()
  }

  /** A ready endpoint where the call has not been, or else whichever is fittest. */
  private pick(): Endpoint | undefined {
    const { fiber, of: { been, from, level }, tried } = this
    const endpoints = from.endpoints()
    // Most often the only one, and then nothing has to be known of it.
    if (endpoints.length === 1) return tried.includes(endpoints[0]!) ? undefined : endpoints[0]
    const random = fiber.getRef(Random.Random)
    const draw = () => random.nextDoubleUnsafe()
    const now = Timer.now(fiber)
    if (been !== undefined) {
      const other = PowerOfTwo.pick(endpoints, [...tried, ...been], level, now, draw)
      if (other !== undefined && rank(other, level, now) === Rank.ready) return other
    }
    return PowerOfTwo.pick(endpoints, tried, level, now, draw)
  }

  private called(): CallContext.CallContext {
    return this.of.call ?? this.fiber.getRef(CallContext.Current)
  }

  private noEndpoint(): Effect.Effect<never, NoEndpoint> {
    const { fiber, of: { from: { target } } } = this
    const detail = "discovery knows no address"
    const error = new CallError.CallError({ _tag: "NoEndpoint", target, detail, sent: "no" } as const)
    CallEvent.receiverOf(fiber)?.event({
      _tag: "Rejected",
      call: this.called(),
      policy: target,
      reason: "NoEndpoint",
      error,
      state: undefined,
      atMillis: Timer.now(fiber)
    })
    return Effect.fail(error)
  }
}

/** The error that says that nothing was sent, so that another endpoint costs nothing. */
const elsewhereOf = (cause: Cause.Cause<unknown>): CallError.CallError | undefined => {
  const [reason] = cause.reasons
  if (cause.reasons.length !== 1 || !Cause.isFailReason(reason!) || !CallError.isCallError(reason.error)) {
    return undefined
  }
  const { error } = reason
  const { _tag } = error.reason
  if (_tag === "ConnectFailed") return error
  if (_tag === "ConnectionLost") return error.reason.sent === "no" ? error : undefined
  return Outcome.classify(error.reason).retry === "elsewhere" ? error : undefined
}
