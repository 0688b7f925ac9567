/**
 * Installs who looks at the calls.
 *
 * Metrics, tracing, logging and the rest are receivers of `CallEvent`; this puts
 * several of them in place as one Layer. It does not export anything itself, and
 * without it nothing of `observe/` runs.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as CallEvent from "../contract/CallEvent.ts"

/**
 * Installs receivers, the first outermost, around whoever looks already.
 *
 * ```ts
 * const observed = Observe.layer(Metrics.make(), Tracing.make(), Logging.make())
 * ```
 *
 * One `Observe.layer` per application part: of two that are merged side by side
 * one is lost, as with any reference provided twice. Inside each other both count.
 */
export const layer = <Receivers extends ReadonlyArray<Effect.Effect<CallEvent.Receiver, any, any>>>(
  ...receivers: Receivers
): Layer.Layer<never, Effect.Error<Receivers[number]>, Exclude<Effect.Services<Receivers[number]>, Scope.Scope>> =>
  Layer.effect(CallEvent.CurrentReceiver, installed(receivers))

const installed = Effect.fnUntraced(function*<E, R>(receivers: ReadonlyArray<Effect.Effect<CallEvent.Receiver, E, R>>) {
  let inner = yield* CallEvent.CurrentReceiver
  for (const receiver of (yield* Effect.all(receivers)).toReversed()) {
    inner = inner === undefined ? receiver : CallEvent.combine(receiver, inner)
  }
  return inner
})
