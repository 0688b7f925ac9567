/**
 * The order of what happens to a call, and why.
 *
 * ```
 * entry            deadline guard
 * call level       Retry + Hedge
 * attempt level    RateLimiter > AdaptiveThrottle
 * pick             Balancer
 * endpoint level   CircuitBreaker > Bulkhead | AdaptiveLimiter > Timeout
 * ```
 *
 * - The deadline guard is outermost: queueing, backoff and everything else is
 *   inside the time the caller gave.
 * - `Retry` is outside the pick: each attempt may go elsewhere. Hedges belong to
 *   the same loop, the same counter and the same budget.
 * - `RateLimiter` and `AdaptiveThrottle` are inside the loop and outside the
 *   pick: the dependency counts attempts, whichever endpoint gets them.
 * - `CircuitBreaker` is outside the limiters and the timeout: it must see a
 *   timeout as a failure, and a rejection by a limiter as nothing at all.
 * - The limiters are outside `Timeout`: waiting for a permit is not the
 *   endpoint's latency.
 * - `Timeout` and the deadline need no fiber where only the session waits: the
 *   session gives the attempt up by its own timer. A guard with a fiber stands
 *   where somebody else's code or a queue may hold the call; the two guards cost
 *   9.4 µs of a call's 20.
 *
 * State at the call and attempt level is per dependency, at the endpoint level
 * per endpoint. A method that states a slot of its own has its own state there
 * and shares the rest.
 */
import * as Effect from "effect/Effect"
import type { Level } from "../balancer/Endpoint.ts"
import type * as CallError from "../contract/CallError.ts"
import type * as CircuitBreaker from "../policy/CircuitBreaker.ts"
import * as Policy from "../policy/Policy.ts"
import type * as PolicySpec from "../policy/PolicySpec.ts"
import type * as Retry from "../policy/Retry.ts"
import * as StackOptions from "../policy/StackOptions.ts"

/**
 * The slots a client may state, as code or as a `PolicySpec`'s data. By default
 * there are a retry (3 attempts, a budget of the target's own), a circuit
 * breaker per endpoint, which lets calls come back over 5 seconds, and an attempt
 * timeout of 2 seconds, so that three of them and their backoff fit a deadline of
 * 10; `false` leaves one out.
 */
export type Options = StackOptions.StackOptions

/**
 * The slots `P`, where no field is unknown: the compiler does not look for those in a literal that a type parameter takes.
 * What else a `PolicySpec` has may stand beside them, so that a profile is a policy.
 */
export type Exact<P> = StackOptions.Exact<P, Options & Partial<Record<keyof PolicySpec.PolicySpec, unknown>>>

/** What a method's slots make of the client's. */
export type Merge<P, M> = Omit<P, keyof M> & M

type Unless<O, K extends string, R> = K extends keyof O ? O[K & keyof O] extends false ? never : R : R
type If<O, K extends string, R> = K extends keyof O ? O[K & keyof O] extends undefined ? never : R : never

/** Why a stack of these slots can fail a call, exactly. */
export type Reasons<O> =
  | Unless<O, "retry", CallError.RetriesExhausted | CallError.BudgetExhausted>
  | If<O, "hedge", CallError.RetriesExhausted | CallError.BudgetExhausted>
  | If<O, "rateLimiter", CallError.LimitReached>
  | If<O, "adaptiveThrottle", CallError.Throttled>
  | Unless<O, "circuitBreaker", CallError.CircuitOpen>
  | If<O, "bulkhead", CallError.BulkheadFull>
  | If<O, "adaptiveLimiter", CallError.LimitReached>
  | Unless<O, "timeout", CallError.AttemptTimeout>

/** What stands around all attempts of a call, and around each. */
export interface CallLevel {
  readonly call: Policy.Policy<unknown>
  /** Whether something inside may hold the call in a queue of its own, so that its deadline needs a guard outside. */
  readonly queues: boolean
  readonly attempt: Policy.Policy<unknown>
  /** Whether there is nothing but the loop, so that a call may go straight from it to the pick. */
  readonly isPlain: boolean
  /** The loop alone. */
  readonly retry: Retry.Retry | undefined
}

/** A client's stack: level 0 is the client's own, the others belong to methods that state slots of their own. */
export interface ClientStack {
  readonly calls: ReadonlyArray<CallLevel>
  readonly levelOf: (method: string) => number
  /** Makes an endpoint's levels, with its own state. */
  readonly endpoint: (address: string) => Effect.Effect<ReadonlyArray<Level>>
}

const defaultTimeout = "2 seconds"
/**
 * How gradually calls come back to an endpoint: the shortest with which whatever
 * collapsed in the simulator came back, because the share that is held back fails
 * where there is no other endpoint; without, callers that probe together bring
 * down together what has just come back (`docs/decisions/0007`).
 */
const defaultRamp = { duration: "5 seconds" } as const

/**
 * Compiles a client's slots and its methods' to policies.
 *
 * Dies with a `RangeError` when a policy's option is out of range.
 */
export const make = (
  target: string,
  own: Options,
  methods: ReadonlyArray<readonly [method: string, slots: Options | undefined]>
): Effect.Effect<ClientStack> =>
  Effect.gen(function*() {
    const levels: ReadonlyArray<Options> = [own, ...methods.map(([, slots]) => ({ ...own, ...slots }))]
    // One ledger for all that is sent more than once, also where only a method retries or a hedge stands alone.
    const budget = yield* StackOptions.budgetOf(target, own.retry === false ? undefined : own.retry)
    const shared = makeShared()
    const calls: Array<CallLevel> = []
    for (const level of levels) {
      const { retry } = level
      const states = retry !== own.retry && retry !== false && retry?.budget !== undefined
      const { adaptiveLimiter, adaptiveThrottle, bulkhead, hedge, rateLimiter } = level
      const ownBudget = states ? yield* StackOptions.budgetOf(target, retry) : budget
      const loop = retry === false ? undefined : yield* StackOptions.retry(target, retry ?? {}, ownBudget)
      const queues = (adaptiveLimiter ?? bulkhead ?? rateLimiter) !== undefined
      calls.push({
        queues,
        isPlain: !queues && (hedge ?? adaptiveThrottle) === undefined,
        retry: loop,
        call: Policy.stack({
          retry: loop,
          hedge: hedge === undefined ? undefined : yield* StackOptions.hedge(target, hedge, ownBudget)
        }),
        attempt: Policy.stack({
          rateLimiter: yield* shared(target, level.rateLimiter, StackOptions.simple.rateLimiter),
          adaptiveThrottle: yield* shared(target, level.adaptiveThrottle, StackOptions.simple.adaptiveThrottle)
        })
      })
    }
    const indexes = new Map(methods.map(([method], index) => [method, index + 1]))
    return {
      calls,
      levelOf: (method) => indexes.get(method) ?? 0,
      endpoint: (address) => {
        const shared = makeShared()
        return Effect.forEach(levels, (level) => endpointLevel(`${target}@${address}`, level, shared))
      }
    }
  })

/**
 * Makes one policy per slot object: levels that state the same slot share its
 * state. By constructor too: one object, an empty one say, may be stated in two slots.
 */
const makeShared = () => {
  const madeBy = new Map<unknown, Map<object, unknown>>()
  return <S extends object, P>(
    name: string,
    slot: S | undefined,
    make: (name: string, slot: S) => Effect.Effect<P>
  ): Effect.Effect<P | undefined> =>
    slot === undefined ? Effect.succeed(undefined) : Effect.suspend(() => {
      const made = madeBy.get(make) ?? new Map<object, unknown>()
      madeBy.set(make, made)
      const known = made.get(slot) as P | undefined
      if (known !== undefined) return Effect.succeed(known)
      return Effect.tap(make(name, slot), (policy) => Effect.sync(() => made.set(slot, policy)))
    })
}

/** The slot of a client that states none: one object, so that its state is shared. */
const defaultBreaker: StackOptions.CircuitBreakerSlot = {}

const endpointLevel = (name: string, level: Options, shared: ReturnType<typeof makeShared>): Effect.Effect<Level> =>
  Effect.gen(function*() {
    const { circuitBreaker = defaultBreaker, timeout = defaultTimeout } = level
    const breaker = circuitBreaker === false
      ? undefined
      : yield* shared(name, circuitBreaker, breakerOf)
    // A circuit per method has no door that is the same for all calls, and admits some of them or others.
    const one = breaker !== undefined && "gate" in breaker ? breaker : undefined
    const policy = Policy.stack({
      circuitBreaker: breaker,
      bulkhead: yield* shared(name, level.bulkhead, StackOptions.simple.bulkhead),
      adaptiveLimiter: yield* shared(name, level.adaptiveLimiter, StackOptions.simple.adaptiveLimiter)
    })
    const limit = timeout === false ? undefined : yield* StackOptions.simple.timeout(name, timeout)
    const gate = (level.bulkhead ?? level.adaptiveLimiter) !== undefined
      ? undefined
      : breaker === undefined
      ? openGate
      : one?.gate
    return { policy, gate, wouldAdmit: one?.wouldAdmit ?? always, timeout: limit }
  })

type Breaker = CircuitBreaker.CircuitBreaker | CircuitBreaker.KeyedCircuitBreaker

const breakerOf = (name: string, slot: StackOptions.CircuitBreakerSlot): Effect.Effect<Breaker> =>
  (slot.keyed === undefined ? StackOptions.circuitBreaker : StackOptions.keyedCircuitBreaker)(
    name,
    { ...slot, ramp: slot.ramp ?? defaultRamp }
  )

const always = (): boolean => true

/** Where no policy stands. */
const openGate: Policy.Gate = { enter: () => openGate, leave: () => {} }
