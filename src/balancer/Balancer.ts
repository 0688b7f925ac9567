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

export interface Balancer {
  readonly target: string
  /** The endpoints known now. */
  readonly endpoints: () => ReadonlyArray<Endpoint>
  /**
   * Runs one attempt at an endpoint, inside that endpoint's policies of the given
   * level. Where the call has `been` is picked again only when nothing else is ready.
   * A `call` that is not in the context is put there for policies that look for it; where none does, the attempt is
   * given it, and made in the step of the pick.
   */
  readonly run: <A, E, R>(
    level: number,
    attempt: (endpoint: Endpoint, call?: CallContext.CallContext) => Effect.Effect<A, E, R>,
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

    return {
      target,
      endpoints: () =>
        endpoints,
      run: (level, attempt, been, call) =>
        Effect.withFiber((fiber) =>
          offer({ fiber, target, level, attempt, been, call, endpoints: () => endpoints }, none, undefined)
        ),
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

/** Who looks for an endpoint. */
interface Looking {
  readonly fiber: Fiber.Fiber<unknown, unknown>
  readonly target: string
  /** What the context does not say. */
  readonly call: CallContext.CallContext | undefined
}

/** One attempt looking for its endpoint. */
interface Offer<A, E, R> extends Looking {
  readonly level: number
  readonly attempt: (endpoint: Endpoint, call?: CallContext.CallContext) => Effect.Effect<A, E, R>
  readonly been: ReadonlyArray<Endpoint> | undefined
  readonly endpoints: () => ReadonlyArray<Endpoint>
}

/** A ready endpoint where the call has not been, or else whichever is fittest. */
const pick = <A, E, R>(
  self: Offer<A, E, R>,
  tried: ReadonlyArray<Endpoint>
): Endpoint | undefined => {
  const { been, fiber, level } = self
  const random = fiber.getRef(Random.Random)
  const draw = () => random.nextDoubleUnsafe()
  const now = Timer.now(fiber)
  if (been !== undefined) {
    const other = PowerOfTwo.pick(self.endpoints(), [...tried, ...been], level, now, draw)
    if (other !== undefined && rank(other, level, now) === Rank.ready) return other
  }
  return PowerOfTwo.pick(self.endpoints(), tried, level, now, draw)
}

const none: ReadonlyArray<Endpoint> = []

/** Offers the attempt to one endpoint, and to the next when nothing was sent. */
const offer = <A, E, R>(
  self: Offer<A, E, R>,
  tried: ReadonlyArray<Endpoint>,
  last: Cause.Cause<E> | undefined
): Effect.Effect<A, E | NoEndpoint, R> => {
  const { call } = self
  let endpoint: Endpoint | undefined
  let gate: Policy.Gate | undefined
  let pass: object | undefined
  const start = Effect.suspend((): Effect.Effect<A, E | NoEndpoint, R> => {
    endpoint = pick(self, tried)
    if (endpoint === undefined) return last === undefined ? noEndpoint(self) : Effect.failCause(last)
    endpoint.inFlight++
    const level = endpoint.levels[self.level]!
    if (call === undefined) return level.policy.run(self.attempt(endpoint)) as Effect.Effect<A, E, R>
    gate = level.gate
    pass = gate?.enter()
    if (pass !== undefined) return self.attempt(endpoint, call)
    const guarded = level.policy.run(self.attempt(endpoint)) as Effect.Effect<A, E, R>
    return Effect.provideService(guarded, CallContext.Current, call)
  })
  // Picked and counted where the release is already in place.
  const counted = Effect.onExitPrimitive(start, (exit) => {
    if (endpoint !== undefined) endpoint.inFlight--
    if (pass !== undefined) gate!.leave(pass, exit, call!)
    return undefined
  })
  // The last pick's answer is the answer, whatever it is.
  if (tried.length + 1 >= Math.min(self.endpoints().length, maxPicks)) {
    return Immediate.evaluate(counted, start, self.fiber)
  }
  return Effect.catchCause(counted, (cause) => {
    const error = elsewhereOf(cause)
    if (endpoint === undefined || error === undefined) return Effect.failCause(cause)
    repicked(self, endpoint, error)
    return offer(self, [...tried, endpoint], cause as Cause.Cause<E>)
  })
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

const repicked = (
  { call, fiber, target }: Looking,
  { address }: Endpoint,
  error: CallError.CallError
): void => {
  CallEvent.receiverOf(fiber)?.event({
    _tag: "Repicked",
    call: call ?? fiber.getRef(CallContext.Current),
    target,
    endpoint: address,
    error,
    atMillis: Timer.now(fiber)
  })
}

const noEndpoint = ({ call, fiber, target }: Looking): Effect.Effect<never, NoEndpoint> => {
  const detail = "discovery knows no address"
  const error = new CallError.CallError({ _tag: "NoEndpoint", target, detail, sent: "no" } as const)
  CallEvent.receiverOf(fiber)?.event({
    _tag: "Rejected",
    call: call ?? fiber.getRef(CallContext.Current),
    policy: target,
    reason: "NoEndpoint",
    error,
    state: undefined,
    atMillis: Timer.now(fiber)
  })
  return Effect.fail(error)
}
