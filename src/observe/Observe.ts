/**
 * Installs who looks at the calls.
 *
 * Metrics, tracing, logging and the rest are receivers of `CallEvent`; this puts
 * several of them in place as one Layer. It does not export anything itself, and
 * without it nothing of `observe/` runs.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Policy from "../policy/Policy.ts"

/** Who looks at the calls, and with `policies` also at the state of every policy that is made under the layer. */
export interface Observer extends CallEvent.Receiver {
  readonly policies?: Policy.Registry
}

/**
 * Installs receivers, the first outermost, around whoever looks already.
 *
 * ```ts
 * const observed = Observe.layer(Metrics.make(), Tracing.make(), Logging.make())
 * ```
 *
 * One `Observe.layer` per application part: of two that are merged side by side
 * one is lost, as with any reference provided twice. Inside each other both count.
 * Policies are seen by those who look when they are made: provide the layer to
 * what makes clients and policies, not only to what calls them.
 */
export const layer = <Observers extends ReadonlyArray<Effect.Effect<Observer, any, any>>>(
  ...observers: Observers
): Layer.Layer<never, Effect.Error<Observers[number]>, Exclude<Effect.Services<Observers[number]>, Scope.Scope>> =>
  Layer.effectContext(installed(observers))

const installed = Effect.fnUntraced(function*<E, R>(observers: ReadonlyArray<Effect.Effect<Observer, E, R>>) {
  let receiver = yield* CallEvent.CurrentReceiver
  const registry = yield* Policy.CurrentRegistry
  const made = yield* Effect.all(observers)
  for (const outer of made.toReversed()) {
    receiver = receiver === undefined ? outer : CallEvent.combine(outer, receiver)
  }
  const registries = [...made.map(({ policies }) => policies), registry].filter((policies) => policies !== undefined)
  return Context.empty().pipe(
    Context.add(CallEvent.CurrentReceiver, receiver),
    Context.add(Policy.CurrentRegistry, registries.length > 1 ? everyOf(registries) : registries[0])
  )
})

/** A policy announced here is announced to all of them. */
const everyOf = (registries: ReadonlyArray<Policy.Registry>): Policy.Registry => ({
  register: (policy) => {
    const removals = registries.map((registry) => registry.register(policy))
    return () => {
      for (const remove of removals) remove()
    }
  }
})
