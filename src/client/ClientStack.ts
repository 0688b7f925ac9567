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
 *
 * State at the call and attempt level is per dependency, at the endpoint level
 * per endpoint. A method that states a slot of its own has its own state there
 * and shares the rest.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type { Level } from "../balancer/Endpoint.ts"
import type * as CallError from "../contract/CallError.ts"
import * as AdaptiveThrottle from "../policy/AdaptiveThrottle.ts"
import * as CircuitBreaker from "../policy/CircuitBreaker.ts"
import * as Hedge from "../policy/Hedge.ts"
import * as Policy from "../policy/Policy.ts"
import * as Retry from "../policy/Retry.ts"
import * as RetryBudget from "../policy/RetryBudget.ts"
import * as Timeout from "../policy/Timeout.ts"

type Unnamed<Options> = Omit<Options, "name">

/** A slot each. `false` leaves out what would be there by default. */
export interface Options {
  /** Default: 3 attempts, decorrelated backoff, a budget of the target's own. */
  readonly retry?: Unnamed<Retry.RetryOptions> | false | undefined
  readonly hedge?: Unnamed<Hedge.HedgeOptions> | undefined
  readonly adaptiveThrottle?: Unnamed<AdaptiveThrottle.AdaptiveThrottleOptions> | undefined
  /** Default: `CircuitBreaker`'s own conditions. */
  readonly circuitBreaker?: Unnamed<CircuitBreaker.CircuitBreakerOptions> | false | undefined
  /** Longest one attempt may take. Default 2 seconds, so that three of them and their backoff fit a deadline of 10. */
  readonly timeout?: Duration.Input | false | undefined
}

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
  readonly attempt: Policy.Policy<unknown>
}

/** A client's stack: level 0 is the client's own, the others belong to methods that state slots of their own. */
export interface ClientStack {
  readonly calls: ReadonlyArray<CallLevel>
  readonly levelOf: (method: string) => number
  /** Makes an endpoint's levels, with its own state. */
  readonly endpoint: (address: string) => Effect.Effect<ReadonlyArray<Level>>
}

/** Most attempts a call makes by default: the first and two more, as in the SRE book ("Handling Overload"). */
const defaultAttempts = 3
const defaultTimeout = "2 seconds"

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
    const budget = yield* RetryBudget.make({ name: `${target} retry budget` })
    const shared = makeShared()
    const calls: Array<CallLevel> = []
    for (const level of levels) {
      calls.push({
        call: yield* callPolicy(target, level, budget),
        attempt: Policy.stack({
          adaptiveThrottle: yield* shared(
            level.adaptiveThrottle,
            (slot) => AdaptiveThrottle.make({ ...slot, name: target })
          )
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

/** Makes one policy per slot object: levels that state the same slot share its state. */
const makeShared = () => {
  const made = new Map<object, unknown>()
  return <S extends object, P>(
    slot: S | undefined,
    make: (slot: S) => Effect.Effect<P>
  ): Effect.Effect<P | undefined> =>
    slot === undefined ? Effect.succeed(undefined) : Effect.suspend(() => {
      const known = made.get(slot) as P | undefined
      if (known !== undefined) return Effect.succeed(known)
      return Effect.tap(make(slot), (policy) => Effect.sync(() => made.set(slot, policy)))
    })
}

/** The slot of a client that states none: one object, so that its state is shared. */
const defaultBreaker: Unnamed<CircuitBreaker.CircuitBreakerOptions> = {}

const callPolicy = (
  target: string,
  level: Options,
  budget: RetryBudget.RetryBudget
): Effect.Effect<Policy.Policy<unknown>> =>
  Effect.gen(function*() {
    const retry = level.retry === false ? undefined : yield* Retry.make({
      attempts: defaultAttempts,
      budget,
      ...level.retry,
      name: target
    })
    const hedge = level.hedge === undefined ? undefined : yield* Hedge.make({ budget, ...level.hedge, name: target })
    return Policy.stack({ retry, hedge })
  })

const endpointLevel = (name: string, level: Options, shared: ReturnType<typeof makeShared>): Effect.Effect<Level> =>
  Effect.gen(function*() {
    const circuitBreaker = level.circuitBreaker === false
      ? undefined
      : yield* shared(level.circuitBreaker ?? defaultBreaker, (slot) => CircuitBreaker.make({ ...slot, name }))
    const policy = Policy.stack({
      circuitBreaker,
      timeout: level.timeout === false
        ? undefined
        : yield* Timeout.make({ timeout: level.timeout ?? defaultTimeout, name })
    })
    return { policy, wouldAdmit: circuitBreaker?.wouldAdmit ?? always }
  })

const always = (): boolean => true
