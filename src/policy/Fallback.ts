/**
 * Answers with a substitute when a call has failed.
 *
 * The substitute is a fixed value, one computed from the error, another call, or
 * the last good answer. `when` says which errors it is for; without it, for all.
 * It is for failures only: a caller that leaves gets no substitute, and a defect
 * is a bug that a substitute would hide. For an answer that is no good, fail with
 * `Effect.filterOrFail` inside.
 *
 * One substitute per call, whatever becomes of the work behind it. When the
 * substitute fails itself, the call fails with what it failed with, and the
 * original error comes after it in the same cause: neither is eaten.
 *
 * A substitute takes time, and a call that uses up its deadline leaves none. So
 * of a call that has a deadline `reserve` is kept back: what is inside sees a
 * deadline that is sooner by as much and is ended there with `DeadlineExceeded`,
 * and the substitute has the rest. That is not done for a `when` that lists
 * reasons without `DeadlineExceeded`.
 *
 * It does not remember failures (`CircuitBreaker`) and does not save calls
 * (`Cache`). Only the last good answers are state, of each value its own. Outside
 * everything else: it has to see the final error.
 *
 * Source: the original as suppressed cause, cockatiel and failsafe-go; never on
 * cancellation, failsafe-go.
 */
import * as Cause from "effect/Cause"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Options from "../contract/Options.ts"
import * as Timer from "../contract/Timer.ts"
import { Bounded } from "./internal/bounded.ts"
import { keyOf } from "./internal/key.ts"
import * as Policy from "./Policy.ts"
import * as Timeout from "./Timeout.ts"

/** Answers a `B` instead of the errors `Handled`; may fail with `E`. With the last good answer it guards Effects of `In` only. */
export interface Fallback<in In, out B, Handled, out E = never, out R = never>
  extends Policy.SubstituteOfKind<"fallback", In, B, Handled, E, R>
{
  readonly stats: Effect.Effect<Stats>
}

/** Since it was made. */
export interface Stats {
  /** Calls that were answered with a substitute. */
  readonly substituted: number
  /** Calls whose substitute failed too. */
  readonly failed: number
}

/** For which errors: those with one of these reasons, or those of which this is true. Best a refinement: it changes the type. */
export type When =
  | Tags
  | ((error: unknown, call: CallContext.CallContext) => boolean)

type Tags = ReadonlyArray<CallError.Reason["_tag"]>

/** The errors that a `When` certainly takes out of the error channel: of a plain predicate none. */
export type Handled<W> = [Tags] extends [W] ? never
  : W extends ReadonlyArray<infer Tag> ? CallError.CallError<Extract<CallError.Reason, { readonly _tag: Tag }>>
  : W extends (error: any, ...rest: ReadonlyArray<any>) => error is infer H ? H
  : never

/** What the substitute is given. */
export type Given<W> = [Handled<W>] extends [never] ? unknown : Handled<W>

/** What ends a call to save the reserve, where `when` lets it through. */
export type Ended<W> = [Tags] extends [W] ? CallError.CallError<CallError.DeadlineExceeded>
  : W extends Tags ? never
  : Policy.Unhandled<CallError.CallError<CallError.DeadlineExceeded>, Handled<W>>

export interface FallbackOptions {
  /**
   * Of a call with a deadline, the time kept back for the substitute: finite, at
   * most half of what is left, and 0 for none. Default: a fifth of what is left, at
   * most 1 second, for `orElse`, which makes a call; 10 milliseconds for the rest.
   */
  readonly reserve?: Duration.Input | undefined
  /** Name in errors, events and the dashboard. Default `"Fallback"`. */
  readonly name?: string | undefined
}

/** For every error. */
export interface Always {
  readonly when?: undefined
}

/** For some errors. */
export interface Sometimes<W extends When> {
  readonly when: W
}

/** The last good answer, by key. */
export interface StaleOptions {
  /** How old it may be: positive and finite. */
  readonly maxAge: Duration.Input
  /** Answers remembered, those used longest ago going first: an integer `>= 1`. Default 1,000. */
  readonly capacity?: number | undefined
  /**
   * Which answers are the same. Default the call's `name` and `key`; a call
   * without a `key` has no last good answer. `undefined`: neither has this one.
   */
  readonly key?: ((call: CallContext.CallContext) => string | undefined) | undefined
}

/**
 * Creates a fallback.
 *
 * `when` says which errors get a substitute; without it, all. Exactly one of
 * `value`, `compute`, `orElse` and `stale` says what the substitute is. `compute` and `orElse` are given the error and the call.
 * `orElse` runs with the call's own deadline. With `stale` an error for which
 * nothing is remembered stays.
 *
 * Dies with a `RangeError` when an option is out of its range.
 */
export const make: {
  <B>(options: FallbackOptions & Always & { readonly value: B }): Effect.Effect<Fallback<unknown, B, unknown>>
  <B>(
    options: FallbackOptions & Always & { readonly compute: (error: unknown, call: CallContext.CallContext) => B }
  ): Effect.Effect<Fallback<unknown, B, unknown>>
  <B, E, R>(
    options: FallbackOptions & Always & {
      readonly orElse: (error: unknown, call: CallContext.CallContext) => Effect.Effect<B, E, R>
    }
  ): Effect.Effect<Fallback<unknown, B, unknown, E, R>>
  <B, const W extends When>(
    options: FallbackOptions & Sometimes<W> & { readonly value: B }
  ): Effect.Effect<Fallback<unknown, B, Handled<W>, Ended<W>>>
  <B, const W extends When>(
    options: FallbackOptions & Sometimes<W> & {
      readonly compute: (error: Given<W>, call: CallContext.CallContext) => B
    }
  ): Effect.Effect<Fallback<unknown, B, Handled<W>, Ended<W>>>
  <B, E, R, const W extends When>(
    options: FallbackOptions & Sometimes<W> & {
      readonly orElse: (error: Given<W>, call: CallContext.CallContext) => Effect.Effect<B, E, R>
    }
  ): Effect.Effect<Fallback<unknown, B, Handled<W>, E | Ended<W>, R>>
  <V>(
    options: FallbackOptions & { readonly when?: When | undefined; readonly stale: StaleOptions }
  ): Effect.Effect<Fallback<V, V, never, CallError.CallError<CallError.DeadlineExceeded>>>
} = (options: FallbackOptions & { readonly when?: When | undefined } & Partial<Plans>): Effect.Effect<any> =>
  Effect.withFiber((fiber) => {
    const where = "Fallback.make"
    const { name = "Fallback", when } = options
    const memory = options.stale === undefined ? undefined : new Memory(where, options.stale)
    const plan = planOf(options, memory)
    const handles = handlerOf(when)
    const reserveMillis = options.reserve === undefined
      ? undefined
      : Options.millis(where, "reserve", options.reserve, true)
    const endsEarly = reserveMillis !== 0 && (!Array.isArray(when) || when.includes("DeadlineExceeded"))
    const stats = { substituted: 0, failed: 0 }

    const substitute = (fiber: Fiber.Fiber<unknown, unknown>, cause: Cause.Cause<unknown>) => {
      if (Cause.hasInterrupts(cause) || Cause.hasDies(cause)) return Effect.failCause(cause)
      const error = cause.reasons.find(Cause.isFailReason)?.error
      const call = fiber.getRef(CallContext.Current)
      if (!handles(error, call)) return Effect.failCause(cause)
      const answer = plan(error, call, fiber)
      if (answer === undefined) return Effect.failCause(cause)
      return Effect.matchCauseEffect(answer, {
        onSuccess: (value) => {
          stats.substituted++
          CallEvent.receiverOf(fiber)?.event({
            _tag: "Substituted",
            call,
            policy: name,
            how: memory === undefined ? "fallback" : "stale",
            ageMillis: memory?.ageOf(call, fiber),
            atMillis: Timer.now(fiber)
          })
          return Effect.succeed(value)
        },
        onFailure: (own) => {
          stats.failed++
          return Effect.failCause(Cause.combine(own, cause))
        }
      })
    }

    fiber.getRef(Policy.CurrentRegistry)?.register({ name, kind: "fallback", snapshot: () => ({ ...stats }) })
    const fallback = Policy.makeSubstitute<
      "fallback",
      any,
      any,
      any,
      any,
      any,
      { readonly stats: Effect.Effect<Stats> }
    >(
      {
        name,
        kind: "fallback",
        run: (self) =>
          Effect.withFiber((fiber) => {
            const { deadline } = fiber.getRef(CallContext.Current)
            const remembered = memory === undefined ? self : memory.remember(self, fiber)
            const guarded = deadline === Infinity || !endsEarly
              ? remembered
              : Timeout.withDeadlineAt(
                remembered,
                deadline - reserveOf(reserveMillis, deadline - Timer.now(fiber), options.orElse !== undefined)
              )
            return Effect.catchCause(guarded, (cause) => substitute(fiber, cause))
          })
      },
      { stats: Effect.sync(() => ({ ...stats })) }
    )
    if (memory !== undefined) memories.set(fallback, memory)
    return Effect.succeed(fallback)
  })

/** What fallbacks remember. */
const memories = new WeakMap<object, Memory>()

/**
 * Hands the last good answers over to the fallback that takes another's place.
 *
 * @internal
 */
export const succeed = (from: object, to: object): void => {
  const known = memories.get(from)
  if (known !== undefined) memories.get(to)?.inherit(known)
}

interface Plans {
  readonly value: unknown
  readonly compute: (error: any, call: CallContext.CallContext) => unknown
  readonly orElse: (error: any, call: CallContext.CallContext) => Effect.Effect<unknown, unknown, unknown>
  readonly stale: StaleOptions
}

/** The substitute for an error, as an Effect that starts with the user's code; `undefined` where there is none. */
type Plan = (
  error: unknown,
  call: CallContext.CallContext,
  fiber: Fiber.Fiber<unknown, unknown>
) => Effect.Effect<unknown, unknown, unknown> | undefined

const planOf = (options: Partial<Plans>, memory: Memory | undefined): Plan => {
  const { compute, orElse, value } = options
  if (memory !== undefined) return (_, call, fiber) => memory.recall(call, fiber)
  if (orElse !== undefined) return (error, call) => Effect.suspend(() => orElse(error, call))
  if (compute !== undefined) return (error, call) => Effect.sync(() => compute(error, call))
  const fixed = Effect.succeed(value)
  return () => fixed
}

const handlerOf = (when: When | undefined): (error: unknown, call: CallContext.CallContext) => boolean => {
  if (when === undefined) return () => true
  if (typeof when === "function") return when
  return (error) => CallError.isCallError(error) && when.includes(error.reason._tag)
}

/** At most half: the call has to have a chance. */
const reserveOf = (reserveMillis: number | undefined, remaining: number, calls: boolean): number =>
  Math.min(
    remaining / 2,
    reserveMillis ?? (calls ? Math.min(1000, remaining / 5) : 10)
  )

/** The last good answers. */
class Memory {
  private readonly maxAgeMillis: number
  private readonly keyOf: (call: CallContext.CallContext) => string | undefined
  private readonly capacity: number
  private answers: Bounded<{ readonly value: unknown; readonly atMillis: number }>

  constructor(where: string, options: StaleOptions) {
    this.maxAgeMillis = Options.millis(where, "stale.maxAge", options.maxAge)
    this.capacity = Options.integer(where, "stale.capacity", options.capacity ?? 1000, 1)
    this.answers = new Bounded(this.capacity)
    this.keyOf = options.key ?? keyOf
  }

  /** Goes on with the answers of another, which its calls in flight still add to. */
  inherit(from: Memory): void {
    this.answers = from.answers
    this.answers.resize(this.capacity)
  }

  remember<A, E, R>(self: Effect.Effect<A, E, R>, fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<A, E, R> {
    const key = this.keyOf(fiber.getRef(CallContext.Current))
    if (key === undefined) return self
    return Effect.map(self, (value) => {
      this.answers.set(key, { value, atMillis: Timer.now(fiber) })
      return value
    })
  }

  /** How old the answer is. */
  ageOf(call: CallContext.CallContext, fiber: Fiber.Fiber<unknown, unknown>): number | undefined {
    const key = this.keyOf(call)
    const answer = key === undefined ? undefined : this.answers.peek(key)
    return answer === undefined ? undefined : Timer.now(fiber) - answer.atMillis
  }

  recall(call: CallContext.CallContext, fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<unknown> | undefined {
    const key = this.keyOf(call)
    const answer = key === undefined ? undefined : this.answers.get(key)
    if (answer === undefined || Timer.now(fiber) - answer.atMillis > this.maxAgeMillis) return undefined
    return Effect.succeed(answer.value)
  }
}
