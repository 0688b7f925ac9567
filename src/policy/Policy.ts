/**
 * The one noun and the one verb: a policy is a value with a name, and `apply`
 * puts it around an Effect.
 *
 * ```
 * call level       Fallback > Cache > Retry + Hedge (one loop)
 * attempt level    RateLimiter > AdaptiveThrottle
 * endpoint level   CircuitBreaker > Bulkhead | AdaptiveLimiter > Timeout
 * ```
 *
 * `stack` takes policies by slot, so the order is not the user's puzzle. What a
 * policy needs to know of the call it reads from `CallContext`.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import { dual, identity } from "effect/Function"
import { type Pipeable, pipeArguments } from "effect/Pipeable"
import type { Covariant } from "effect/Types"

const TypeId = "~holdfast/policy/Policy"

/** What a policy does, which is also the slot of a stack it fits. */
export type Kind =
  | "fallback"
  | "cache"
  | "retry"
  | "hedge"
  | "rateLimiter"
  | "adaptiveThrottle"
  | "circuitBreaker"
  | "bulkhead"
  | "adaptiveLimiter"
  | "timeout"
  | "stack"
  | "custom"

export interface Policy<out E = never, out R = never> extends Pipeable {
  /** Where the compiler reads `E` and `R` from: it cannot infer them from the generic `run`. */
  readonly [TypeId]: { readonly _E: Covariant<E>; readonly _R: Covariant<R> }
  /** Names it in errors, events, metrics and the dashboard. */
  readonly name: string
  readonly kind: Kind
  /** Guards one Effect. May be called for any number of Effects, at the same time: the policy's state is shared by all. */
  run<A, E1, R1>(self: Effect.Effect<A, E1, R1>): Effect.Effect<A, E | E1, R | R1>
}

/** A policy that fits one slot only. */
export interface OfKind<K extends Kind, out E = never, out R = never> extends Policy<E, R> {
  readonly kind: K
}

const Proto = {
  [TypeId]: { _E: identity, _R: identity },
  pipe() {
    return pipeArguments(this, arguments)
  }
}

/** A policy from what it does. Extra fields become the policy's own: `state`, `snapshot`, `isolate`. */
export const make = <E = never, R = never, const K extends Kind = "custom", Extra extends object = {}>(
  options: {
    readonly name: string
    readonly kind?: K
    readonly run: <A, E1, R1>(self: Effect.Effect<A, E1, R1>) => Effect.Effect<A, E | E1, R | R1>
  },
  extra?: Extra
): OfKind<K, E, R> & Extra =>
  Object.assign(Object.create(Proto), { kind: "custom" }, options, extra) as OfKind<K, E, R> & Extra

/** Puts a policy around an Effect. */
export const apply: {
  <E, R>(policy: Policy<E, R>): <A, E1, R1>(self: Effect.Effect<A, E1, R1>) => Effect.Effect<A, E | E1, R | R1>
  <A, E1, R1, E, R>(self: Effect.Effect<A, E1, R1>, policy: Policy<E, R>): Effect.Effect<A, E | E1, R | R1>
} = dual(
  2,
  <A, E1, R1, E, R>(self: Effect.Effect<A, E1, R1>, policy: Policy<E, R>): Effect.Effect<A, E | E1, R | R1> =>
    policy.run(self)
)

/**
 * The slots of a stack, outermost first. The order is fixed; each line says why
 * it stands where it stands.
 */
export interface Slots {
  /** Outside everything that retries: attempts are counted once, and each passes everything below. */
  readonly retry?: OfKind<"retry", any, any> | undefined
  /** Inside the loop: the other side counts attempts, so must we. */
  readonly rateLimiter?: OfKind<"rateLimiter", any, any> | undefined
  readonly adaptiveThrottle?: OfKind<"adaptiveThrottle", any, any> | undefined
  /** Outside the timeout: a timeout must count as a failure, and from inside it would look like an interruption. */
  readonly circuitBreaker?: OfKind<"circuitBreaker", any, any> | undefined
  /** Outside the timeout: queueing for a permit is not the endpoint's latency. */
  readonly bulkhead?: OfKind<"bulkhead", any, any> | undefined
  readonly adaptiveLimiter?: OfKind<"adaptiveLimiter", any, any> | undefined
  /** Innermost: it limits one attempt. */
  readonly timeout?: OfKind<"timeout", any, any> | undefined
}

/** The slots' names, outermost first. */
export const order = [
  "retry",
  "rateLimiter",
  "adaptiveThrottle",
  "circuitBreaker",
  "bulkhead",
  "adaptiveLimiter",
  "timeout"
] as const satisfies ReadonlyArray<keyof Slots>

type ErrorOf<P> = P extends Policy<infer E, any> ? E : never
type ServicesOf<P> = P extends Policy<any, infer R> ? R : never

/** What a stack of these slots may add to the error channel, exactly. */
export type StackError<S extends Slots> = ErrorOf<S[keyof S]>
/** What a stack of these slots needs. */
export type StackServices<S extends Slots> = ServicesOf<S[keyof S]>

/** Policies in the order above, as one policy. Its name prints the order: `retry > breaker > timeout`. */
export const stack = <const S extends Slots>(slots: S): OfKind<"stack", StackError<S>, StackServices<S>> => {
  const policies = order.flatMap((slot) => slots[slot] ?? [])
  return make<StackError<S>, StackServices<S>, "stack">({
    name: policies.map((policy) => policy.name).join(" > "),
    kind: "stack",
    run: (self) => policies.reduceRight<Effect.Effect<any, any, any>>((inner, policy) => policy.run(inner), self)
  })
}

/** A policy as the registry knows it. */
export interface Registered {
  readonly name: string
  readonly kind: Kind
  /** Its present state as plain JSON data. Reading it changes nothing. */
  readonly snapshot: () => unknown
}

/** Where policies announce themselves, for a dashboard and for operators. */
export interface Registry {
  /** Adds a policy and returns what removes it again. */
  readonly register: (policy: Registered) => () => void
}

/** The registry in force; `undefined`, the default, means that nobody keeps one. */
export const CurrentRegistry = Context.Reference<Registry | undefined>("holdfast/policy/Registry", {
  defaultValue: () => undefined
})
