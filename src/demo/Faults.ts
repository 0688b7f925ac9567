/**
 * Faults that a server of the demo injects into itself, because no signal can:
 * answers that come late, and answers that are errors.
 *
 * Killing and freezing are not here: those are real signals, and need nobody's
 * help. Without control lines nothing is injected.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import * as Server from "../server/Server.ts"

/** One line of control, as JSON: what is not said stays as it is. */
export const Control = Schema.Struct({
  /** Every answer comes this much later, at random between the two; `null` for no later. */
  latency: Schema.optionalKey(Schema.NullOr(Schema.Struct({ minMillis: Schema.Finite, maxMillis: Schema.Finite }))),
  /** Share of the calls that are answered with an error. */
  errorRatio: Schema.optionalKey(Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))),
  /** A process to kill when this one finds that its parent has gone: a frozen one cannot notice by itself. */
  warden: Schema.optionalKey(Schema.NullOr(Schema.Int))
})
export type Control = typeof Control.Type

/** What is injected now. */
export interface Faults {
  latency: { readonly minMillis: number; readonly maxMillis: number } | null
  errorRatio: number
  warden: number | null
}

export const none = (): Faults => ({ latency: null, errorRatio: 0, warden: null })

/** The faults the handlers consult. By default there are none, and nobody can reach them to add any. */
export const Current = Context.Reference<Faults>("holdfast/demo/Faults", { defaultValue: none })

/** Takes over what a control line says. */
export const control = (faults: Faults, line: Control): Faults => Object.assign(faults, line)

/** A handler as the present faults leave it. */
export const inject = <A, E, R>(faults: Faults, handler: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.withFiber((fiber) => {
    const { errorRatio, latency } = faults
    const answered = errorRatio > 0 && draw(fiber) < errorRatio ? failure(draw(fiber)) : handler
    if (latency === null) return answered
    const { maxMillis, minMillis } = latency
    return Effect.delay(answered, Duration.millis(minMillis + draw(fiber) * (maxMillis - minMillis)))
  })

const draw = (fiber: Fiber.Fiber<unknown, unknown>): number => fiber.getRef(Random.Random).nextDoubleUnsafe()

/** Half of them a refusal, half of them a handler that dies. */
const failure = (draw: number): Effect.Effect<never> =>
  draw < 0.5
    ? Server.refuse({ _tag: "Unavailable", target: "users", detail: "injected: the store is away", sent: "no" })
    : Effect.die(new Error("injected: the handler died"))
