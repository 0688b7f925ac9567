/**
 * What each slot of a stack may say, and the policy it makes.
 *
 * The one reading of a slot's options, shared by `PolicySpec`, which has them as
 * data, and by a client's stack, which has them per endpoint. A slot set to
 * `false` is left out where a default would stand; a retry's backoff may be a
 * Schedule or the description of one.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schedule from "effect/Schedule"
import * as AdaptiveLimiter from "./AdaptiveLimiter.ts"
import * as AdaptiveThrottle from "./AdaptiveThrottle.ts"
import * as Backoff from "./Backoff.ts"
import * as Bulkhead from "./Bulkhead.ts"
import * as CircuitBreaker from "./CircuitBreaker.ts"
import * as Hedge from "./Hedge.ts"
import * as RateLimiter from "./RateLimiter.ts"
import * as Retry from "./Retry.ts"
import * as RetryBudget from "./RetryBudget.ts"
import * as Timeout from "./Timeout.ts"

type Unnamed<Options> = Omit<Options, "name">

/** A backoff described: `Backoff`'s constructor of that name with these options. */
export interface BackoffOptions {
  readonly kind: "constant" | "linear" | "exponential" | "fibonacci" | "decorrelated"
  readonly base: Duration.Input
  readonly cap?: Duration.Input | undefined
  /** Only for `exponential`. */
  readonly factor?: number | undefined
  /** Not for `decorrelated`, which is jitter itself. */
  readonly jitter?: Backoff.Jitter | undefined
  /** Only for the jitter `proportional`. */
  readonly ratio?: number | undefined
}

export interface RetrySlot extends Omit<Retry.RetryOptions, "name" | "backoff" | "budget" | "hedge"> {
  readonly backoff?: Retry.RetryOptions["backoff"] | BackoffOptions
  /** `false` for none. Default: one of the stack's own. */
  readonly budget?: Unnamed<RetryBudget.RetryBudgetOptions> | false | undefined
}

export type HedgeSlot = Omit<Hedge.HedgeOptions, "name" | "budget">

export interface CircuitBreakerSlot extends Omit<CircuitBreaker.CircuitBreakerOptions, "name" | "openFor"> {
  readonly openFor?: CircuitBreaker.CircuitBreakerOptions["openFor"] | BackoffOptions
  /** A circuit per key, by default per method, instead of one for all calls. */
  readonly keyed?: KeyedSlot | undefined
}

/** What the keys are, and how many circuits are kept. */
export type KeyedSlot = Pick<CircuitBreaker.KeyedOptions, "key" | "maxKeys" | "idleTimeToLive">

/** The slots, outermost first. */
export interface StackOptions {
  readonly retry?: RetrySlot | false | undefined
  readonly hedge?: HedgeSlot | undefined
  readonly rateLimiter?: Unnamed<RateLimiter.RateLimiterOptions> | undefined
  readonly adaptiveThrottle?: Unnamed<AdaptiveThrottle.AdaptiveThrottleOptions> | undefined
  readonly circuitBreaker?: CircuitBreakerSlot | false | undefined
  readonly bulkhead?: Unnamed<Bulkhead.BulkheadOptions> | undefined
  readonly adaptiveLimiter?: Unnamed<AdaptiveLimiter.AdaptiveLimiterOptions> | undefined
  readonly timeout?: Duration.Input | false | undefined
}

/** The Schedule a description means. Dies with a `RangeError` on what its constructor refuses. */
export const backoff = (options: BackoffOptions): Backoff.Backoff => {
  const { base, cap, factor, jitter, kind, ratio } = options
  switch (kind) {
    case "constant":
      return Backoff.constant({ base, cap, jitter, ratio })
    case "linear":
      return Backoff.linear({ base, cap, jitter, ratio })
    case "exponential":
      return Backoff.exponential({ base, cap, factor, jitter, ratio })
    case "fibonacci":
      return Backoff.fibonacci({ base, cap, jitter, ratio })
    case "decorrelated":
      return Backoff.decorrelated({ base, cap })
  }
}

const isDescribed = (value: object): value is BackoffOptions => "kind" in value && !Schedule.isSchedule(value)

const scheduleOf = <S>(value: S | BackoffOptions | undefined): S | Backoff.Backoff | undefined =>
  typeof value === "object" && value !== null && isDescribed(value) ? backoff(value) : value as S | undefined

/** The budget a retry slot asks for. */
export const budgetOf = (
  name: string,
  slot: RetrySlot | false | undefined
): Effect.Effect<RetryBudget.RetryBudget | undefined> =>
  slot === false || slot?.budget === false
    ? Effect.succeed(undefined)
    : RetryBudget.make({ ...slot?.budget, name: `${name} budget` })

export const retry = (
  name: string,
  slot: RetrySlot,
  budget: RetryBudget.RetryBudget | undefined
): Effect.Effect<Retry.Retry> =>
  Effect.suspend(() => Retry.make({ ...slot, backoff: scheduleOf(slot.backoff), budget, name }))

export const hedge = (
  name: string,
  slot: HedgeSlot,
  budget: RetryBudget.RetryBudget | undefined
): Effect.Effect<Hedge.Hedge> => Hedge.make({ ...slot, budget, name })

/** A breaker's options, its backoff made a Schedule. Throws a `RangeError` on what a backoff's constructor refuses. */
export const breakerOptions = (
  { keyed, openFor, ...slot }: CircuitBreakerSlot
): Omit<CircuitBreaker.KeyedOptions, "name"> => ({ ...slot, ...keyed, openFor: scheduleOf(openFor) })

export const circuitBreaker = (name: string, slot: CircuitBreakerSlot): Effect.Effect<CircuitBreaker.CircuitBreaker> =>
  Effect.suspend(() => CircuitBreaker.make({ ...breakerOptions(slot), name }))

export const keyedCircuitBreaker = (
  name: string,
  slot: CircuitBreakerSlot
): Effect.Effect<CircuitBreaker.KeyedCircuitBreaker> =>
  Effect.suspend(() => CircuitBreaker.keyed({ ...breakerOptions(slot), name }))

/** The slots that are made from their options alone. */
export const simple = {
  rateLimiter: (name: string, slot: Unnamed<RateLimiter.RateLimiterOptions>) => RateLimiter.make({ ...slot, name }),
  adaptiveThrottle: (name: string, slot: Unnamed<AdaptiveThrottle.AdaptiveThrottleOptions>) =>
    AdaptiveThrottle.make({ ...slot, name }),
  bulkhead: (name: string, slot: Unnamed<Bulkhead.BulkheadOptions>) => Bulkhead.make({ ...slot, name }),
  adaptiveLimiter: (name: string, slot: Unnamed<AdaptiveLimiter.AdaptiveLimiterOptions>) =>
    AdaptiveLimiter.make({ ...slot, name }),
  timeout: (name: string, timeout: Duration.Input) => Timeout.make({ timeout, name })
}

/** `T`, but `never` in place of each field, at any depth, that `S` and its alternatives do not have. */
export type Exact<T, S> = T extends Whole ? T
  : { readonly [K in keyof T]: K extends FieldOf<S> ? Exact<T[K], At<S, K>> : never }

/** Values that are not looked into. */
type Whole =
  | string
  | number
  | bigint
  | boolean
  | undefined
  | null
  | ReadonlyArray<unknown>
  | ((...args: never) => unknown)
  | Duration.Duration
  | Schedule.Schedule<any, any, any, any>
type FieldOf<S> = S extends Whole ? never : S extends object ? keyof S : never
type At<S, K> = S extends Whole ? never : S extends object ? K extends keyof S ? NonNullable<S[K]> : never : never
