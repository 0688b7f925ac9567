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
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import { dual, identity } from "effect/Function"
import { type Pipeable, pipeArguments } from "effect/Pipeable"
import type * as Scope from "effect/Scope"
import type { Contravariant, Covariant } from "effect/Types"
import type * as CallContext from "../contract/CallContext.ts"
import type * as CallError from "../contract/CallError.ts"
import * as Options from "../contract/Options.ts"

const TypeId = "~holdfast/policy/Policy"
const SubstituteTypeId = "~holdfast/policy/Policy/Substitute"

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

/**
 * The door of a policy while its admission is one look at its state and holds nothing. Whoever stands around the attempt
 * anyway may use it instead of `run`, and saves a frame per call.
 *
 * @internal
 */
export interface Gate {
  /** What `leave` needs, or `undefined` where only `run` can decide. */
  enter(): object | undefined
  /** Records how the attempt ended. */
  leave(pass: object, exit: Exit.Exit<unknown, unknown>, call: CallContext.CallContext): void
}

/** A policy that fits one slot only. */
export interface OfKind<K extends Kind, out E = never, out R = never> extends Policy<E, R> {
  readonly kind: K
}

/** A retry loop that can take hedges into its counter, as `Retry.make` makes. */
export interface RetryLoop<out E = never, out R = never> extends OfKind<"retry", E, R> {
  hedged?(hedge: OfKind<"hedge", any, any>): OfKind<"retry", E, R>
}

/** Where the compiler reads a substitute's types from. */
export interface Substituting<in In, out Out, in Handled, out E, out R> {
  readonly [SubstituteTypeId]: {
    readonly _In: Contravariant<In>
    readonly _Out: Covariant<Out>
    readonly _Handled: Contravariant<Handled>
    readonly _E: Covariant<E>
    readonly _R: Covariant<R>
  }
}

/**
 * A policy that may answer in place of what it guards, so that the answer's type changes.
 *
 * It guards Effects that succeed with an `In`, may succeed with an `Out`
 * instead, takes the errors in `Handled` out of the error channel and may fail
 * with an `E`.
 */
export interface Substitute<
  in In = unknown,
  out Out = never,
  Handled = never,
  out E = never,
  out R = never
> extends Substituting<In, Out, Handled, E, R>, Pipeable {
  readonly name: string
  readonly kind: Kind
  run<A extends In, E1, R1>(
    self: Effect.Effect<A, E1, R1>
  ): Effect.Effect<A | Out, Unhandled<E1, Handled> | E, R | R1>
}

/** A substitute that fits one slot only. */
export interface SubstituteOfKind<
  K extends Kind,
  in In = unknown,
  out Out = never,
  Handled = never,
  out E = never,
  out R = never
> extends Substitute<In, Out, Handled, E, R> {
  readonly kind: K
}

/** Any substitute of a kind: what a slot takes. */
export interface AnySubstitute<K extends Kind> extends Pipeable {
  readonly [SubstituteTypeId]: object
  readonly name: string
  readonly kind: K
  run(self: Effect.Effect<any, any, any>): Effect.Effect<any, any, any>
}

/** What is left of the errors `E` when those in `Handled` are dealt with: of a `CallError`, the other reasons. */
export type Unhandled<E, Handled> = [Handled] extends [never] ? E
  : unknown extends Handled ? never
  : E extends CallError.CallError<infer R>
    ? [Exclude<R, ReasonOf<Handled>>] extends [never] ? never : CallError.CallError<Exclude<R, ReasonOf<Handled>>>
  : Exclude<E, Handled>

type ReasonOf<E> = E extends CallError.CallError<infer R> ? R : never

const pipe = {
  pipe() {
    return pipeArguments(this, arguments)
  }
}
const Proto = { [TypeId]: { _E: identity, _R: identity }, ...pipe }
const SubstituteProto = {
  [SubstituteTypeId]: { _In: identity, _Out: identity, _Handled: identity, _E: identity, _R: identity },
  ...pipe
}
/** Which of the two a stack is depends on its slots, and only the compiler asks. */
const StackProto = { ...Proto, ...SubstituteProto }

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

/** A substitute from what it does; `run` is trusted to keep the types promised. */
export const makeSubstitute = <
  const K extends Kind,
  In = unknown,
  Out = never,
  Handled = never,
  E = never,
  R = never,
  Extra extends object = {}
>(
  options: {
    readonly name: string
    readonly kind: K
    readonly run: <E1, R1>(self: Effect.Effect<In, E1, R1>) => Effect.Effect<In | Out, E | E1, R | R1>
  },
  extra?: Extra
): SubstituteOfKind<K, In, Out, Handled, E, R> & Extra =>
  Object.assign(Object.create(SubstituteProto), options, extra) as
    & SubstituteOfKind<K, In, Out, Handled, E, R>
    & Extra

/** Puts a policy around an Effect. */
export const apply: {
  <E, R>(policy: Policy<E, R>): <A, E1, R1>(self: Effect.Effect<A, E1, R1>) => Effect.Effect<A, E | E1, R | R1>
  <In, Out, Handled, E, R>(
    policy: Substituting<In, Out, Handled, E, R>
  ): <A extends In, E1, R1>(
    self: Effect.Effect<A, E1, R1>
  ) => Effect.Effect<A | Out, Unhandled<E1, Handled> | E, R | R1>
  <A, E1, R1, E, R>(self: Effect.Effect<A, E1, R1>, policy: Policy<E, R>): Effect.Effect<A, E | E1, R | R1>
  <A extends In, E1, R1, In, Out, Handled, E, R>(
    self: Effect.Effect<A, E1, R1>,
    policy: Substituting<In, Out, Handled, E, R>
  ): Effect.Effect<A | Out, Unhandled<E1, Handled> | E, R | R1>
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
  /** Outermost: it must see the final error, whoever raised it. */
  readonly fallback?: AnySubstitute<"fallback"> | undefined
  /** Outside everything that sends, counts or limits: a hit costs no attempt, no permit and no breaker's statistics. */
  readonly cache?: AnySubstitute<"cache"> | undefined
  /** Outside everything that retries: attempts are counted once, and each passes everything below. */
  readonly retry?: RetryLoop<any, any> | undefined
  /** In the same place, and beside a retry in its loop: two loops would multiply attempts and count them apart. */
  readonly hedge?: OfKind<"hedge", any, any> | undefined
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
  "fallback",
  "cache",
  "retry",
  "hedge",
  "rateLimiter",
  "adaptiveThrottle",
  "circuitBreaker",
  "bulkhead",
  "adaptiveLimiter",
  "timeout"
] as const satisfies ReadonlyArray<keyof Slots>

type ErrorOf<P> = P extends Policy<infer E, any> ? E : never
type ServicesOf<P> = P extends Policy<any, infer R> ? R : never
/** The policies of a stack that leave the answer alone. */
type Kept<S extends Slots> = S[Exclude<keyof S, "fallback" | "cache">]

/** What a stack of these slots may add to the error channel, exactly; not counting what its fallback takes out. */
export type StackError<S extends Slots> =
  | ErrorOf<Kept<S>>
  | SubstituteErrorOf<At<S, "cache">>
  | SubstituteErrorOf<At<S, "fallback">>
/** What a stack of these slots needs. */
export type StackServices<S extends Slots> =
  | ServicesOf<Kept<S>>
  | SubstituteServicesOf<At<S, "cache">>
  | SubstituteServicesOf<At<S, "fallback">>

type At<S, Slot extends string> = Slot extends keyof S ? S[Slot] : undefined
type OutOf<P> = P extends Substituting<never, infer Out, never, unknown, unknown> ? Out : never
/** Without a substitute `unknown`: any answer will do. */
type InOf<P> = [P] extends [undefined] ? unknown
  : Exclude<P, undefined> extends Substituting<infer In, unknown, never, unknown, unknown> ? In
  : unknown
/** A fallback that may be absent takes no error out for certain. */
type HandledOf<P> = undefined extends P ? never
  : P extends Substituting<never, unknown, infer Handled, unknown, unknown> ? Handled
  : never
type SubstituteErrorOf<P> = P extends Substituting<never, unknown, never, infer E, unknown> ? E : never
type SubstituteServicesOf<P> = P extends Substituting<never, unknown, never, unknown, infer R> ? R : never

/** A stack: a policy, or with a fallback or a cache among its slots a substitute. */
export type Stack<S extends Slots> = [Exclude<At<S, "fallback"> | At<S, "cache">, undefined>] extends [never]
  ? OfKind<"stack", StackError<S>, StackServices<S>>
  : SubstituteOfKind<
    "stack",
    InOf<At<S, "cache">> & InOf<At<S, "fallback">>,
    OutOf<At<S, "cache">> | OutOf<At<S, "fallback">>,
    HandledOf<At<S, "fallback">>,
    | Unhandled<ErrorOf<Kept<S>> | SubstituteErrorOf<At<S, "cache">>, HandledOf<At<S, "fallback">>>
    | SubstituteErrorOf<At<S, "fallback">>,
    StackServices<S>
  >

/** One loop for both, where there are both. */
const inOneLoop = (slots: Slots): Slots => {
  const { hedge, retry } = slots
  if (retry === undefined || hedge === undefined) return slots
  if (retry.hedged === undefined) throw Options.invalid("Policy.stack", "retry", "a loop that takes hedges", retry.name)
  return { ...slots, retry: retry.hedged(hedge), hedge: undefined }
}

/**
 * Policies in the order above, as one policy. Its name prints the order: `retry > breaker > timeout`.
 *
 * Throws a `RangeError` when the retry cannot take the hedge into its loop.
 */
export const stack = <const S extends Slots>(slots: S): Stack<S> => {
  const looped = inOneLoop(slots)
  const policies: ReadonlyArray<{ readonly name: string; readonly run: Policy<any, any>["run"] }> = order
    .flatMap((slot) => looped[slot] ?? [])
  return Object.assign(Object.create(StackProto), {
    name: policies.map((policy) => policy.name).join(" > "),
    kind: "stack",
    run: (self: Effect.Effect<any, any, any>) =>
      policies.reduceRight<Effect.Effect<any, any, any>>((inner, policy) => policy.run(inner), self)
  })
}

/** A policy as the registry knows it, or an endpoint of a balancer. */
export interface Registered {
  readonly name: string
  readonly kind: Kind | "endpoint"
  /** Its present state as plain JSON data. Reading it changes nothing. */
  readonly snapshot: () => unknown
  /** What it has counted since it was made, for a state that forgets what it has seen. Figures that only grow. */
  readonly counts?: (() => Readonly<Record<string, number>>) | undefined
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

/** Takes what `make` announces out of the registry again when the scope closes: the policies of an endpoint that goes. */
export const registeredInScope = <A, E, R>(make: Effect.Effect<A, E, R>): Effect.Effect<A, E, R | Scope.Scope> =>
  Effect.withFiber((fiber) => {
    const registry = fiber.getRef(CurrentRegistry)
    if (registry === undefined) return make
    const removals: Array<() => void> = []
    const register = (policy: Registered) => {
      const remove = registry.register(policy)
      removals.push(remove)
      return remove
    }
    const removeAll = Effect.sync(() => {
      for (const remove of removals) remove()
    })
    return Effect.andThen(
      Effect.addFinalizer(() => removeAll),
      Effect.provideService(make, CurrentRegistry, { register })
    )
  })
