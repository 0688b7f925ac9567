/**
 * What a call is made of where a step of the run loop and an allocation count.
 *
 * `evaluate` runs an effect with an exit handler within the present step of a
 * fiber, instead of returning both to the run loop to be taken up in the next two.
 *
 * A turn of the run loop costs about as much as a breaker's own work. What
 * `withFiber` and `onExitPrimitive` add to an effect: 250 ns, so: 170 ns.
 *
 * The name of the method that evaluates is read off a primitive made for the
 * purpose. Where an Effect to come has none, both are taken up in later steps as
 * usual, so nothing but speed may depend on it: a permit must not be taken
 * before a handler that only this installs, unless `isImmediate`.
 */
import * as Effect from "effect/Effect"
import * as Effectable from "effect/Effectable"
import * as Fiber from "effect/Fiber"

type Evaluate = (fiber: Fiber.Fiber<unknown, unknown>) => Effect.Effect<any, any, any>

const method: string | undefined = (() => {
  const evaluate: Evaluate = () => Effect.never
  const primitive = Effectable.Prototype({ label: "holdfast/contract/Immediate", evaluate })
  return Object.entries(primitive).find(([, value]) => value === evaluate)?.[0]
})()

/**
 * An effect that is an object: what `withFiber`, its closure and the closure's
 * variables are, in one allocation.
 */
export abstract class Step<A, E = never, R = never> extends Effectable.Class<A, E, R> {
  /** The next effect; runs in each of the fibers that run this one. */
  abstract step(fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<A, E, R>

  override asEffect(): Effect.Effect<A, E, R> {
    return this.step(Fiber.getCurrent()!)
  }
}

/** Whether the handler is in place when `evaluate` returns: an interrupt cannot come between. */
export const isImmediate = method !== undefined

/** Runs `handled`, which is `onExitPrimitive` of `self`. To be returned by what a fiber evaluates. */
export const evaluate = <A, E, R>(
  handled: Effect.Effect<A, E, R>,
  self: Effect.Effect<A, E, R>,
  fiber: Fiber.Fiber<unknown, unknown>
): Effect.Effect<A, E, R> => {
  if (method === undefined) return handled
  // The handler is in place now, and what is to be run next is `self`.
  const next = (handled as unknown as Record<string, Evaluate>)[method]!(fiber)
  return next === self ? (self as unknown as Record<string, Evaluate>)[method]!(fiber) : next
}
