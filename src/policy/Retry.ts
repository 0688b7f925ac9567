/**
 * Sends a call again when an attempt failed in a way that another may mend.
 *
 * One loop and one counter for retries and hedges: `attempts: 3` is three sends,
 * whatever they are. What an error means comes from `Outcome`, so only what is
 * safe to repeat is repeated, and a call that must not be sent twice is not.
 * After a failure, in this order:
 *
 * 1. the caller was interrupted: nothing more happens;
 * 2. the outcome is final for this call, or a policy inside rejected it: that error, unchanged but for `last`;
 * 3. the deadline has passed, or the other side asks us to stay away for longer: `DeadlineExceeded`;
 * 4. everything that may be sent was sent, or the Schedule has ended: `RetriesExhausted`;
 * 5. the delay does not fit before the deadline: `DeadlineExceeded`, now and not after the sleep;
 * 6. the budget has no token: `BudgetExhausted`;
 * 7. it sleeps, and sends again. An interrupt of the sleep gives the token back.
 *
 * Every error it makes carries the one it reacted to. With `attempts: 1` nothing
 * can be retried and errors pass as they are. A result that `retryIf` finds
 * wanting is retried like a failure of an idempotent call, but never becomes an
 * error: when nothing more may be sent, the last result is the answer.
 *
 * A `Retry` inside a `Retry` does not multiply attempts. How an inner loop ends is
 * final for the outer one, and what the outer one repeats (with a budget, a hedge
 * or `retryIf` its first attempt too) the inner one sends once. The one that
 * notices warns, the first time that anybody looks. `allowNested` lets the inner
 * one loop in every attempt, and silences the outer one.
 *
 * What it does not do: pick another endpoint when one rejects locally or a
 * request provably never left, which costs no attempt, is the client's business.
 * It reports `RetryScheduled`, `HedgeStarted` and `BudgetMoved`; the attempts
 * themselves are reported by whoever sends them.
 *
 * A `Retry` has no state but its warning; share the `RetryBudget`. Outside
 * everything that limits, counts or times one attempt.
 *
 * Source: the order of decisions, Finagle `RequeueFilter`; a hedge that waits
 * for a first failure, Polly and Finagle.
 */
import type * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type * as Schedule from "effect/Schedule"
import * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Options from "../contract/Options.ts"
import * as Outcome from "../contract/Outcome.ts"
import * as Timer from "../contract/Timer.ts"
import * as Backoff from "./Backoff.ts"
import { errorOf, Loop, type Plan, type RetryError, unwanted } from "./internal/loop.ts"
import { attemptOf, type Hedging } from "./internal/round.ts"
import * as Policy from "./Policy.ts"
import type * as RetryBudget from "./RetryBudget.ts"

export type { RetryError } from "./internal/loop.ts"
export type { Hedging } from "./internal/round.ts"

/** A policy that sends again. `R` is what its Schedule needs. */
export interface Retry<out R = never> extends Policy.OfKind<"retry", RetryError, R> {
  /** How often a call is sent at most. */
  readonly attempts: number
  /**
   * The same policy, whose loop also starts hedges.
   *
   * Throws a `RangeError` when the hedge brings a budget other than this one's, or when `attempts` leaves no room for it.
   */
  hedged(hedge: Policy.OfKind<"hedge"> & Hedging): Retry<R>
  /**
   * Guards one call of somebody who knows it, so that its first attempt needs no context of its own: that costs more than
   * the loop. What is sent after that is asked for when it is needed, and runs in a context that says which attempt it is.
   * Starts no hedges.
   *
   * @internal
   */
  runCall<A, E1, R1>(
    first: Effect.Effect<A, E1, R1>,
    sender: Sender<A, E1, R1>,
    fiber: Fiber.Fiber<unknown, unknown>,
    call: CallContext.CallContext,
    startedAt: number
  ): Effect.Effect<A, E1 | RetryError, R | R1>
}

/** Who sends an attempt, and another. */
export interface Sender<out A, out E, out R> {
  readonly again: Effect.Effect<A, E, R>
}

export interface RetryOptions<R = never> {
  /** Name in errors, events and the dashboard. Default `"Retry"`. */
  readonly name?: string | undefined
  /**
   * How often the call is sent in all, hedges included: an integer `>= 1`. Default 3, Google SRE's limit per request: at
   * a failure ratio of 0.1 a third attempt leaves 1 call in 1,000 failed.
   */
  readonly attempts?: number | undefined
  /**
   * The delays: a Schedule that is stepped with the error (or the result) and starts anew for every call. It bounds the
   * attempts too: when it ends, or states a negative or infinite delay, so does the call.
   *
   * Default: `Backoff.decorrelated` from 100 ms (a lost packet or a moved connection is mended after two round trips
   * around the world, and a person does not notice) to at most 10 s (beyond that nobody waits).
   */
  readonly backoff?: Schedule.Schedule<unknown, any, never, R> | undefined
  /** Pays for retries, and for hedges that bring none of their own. Default: nothing bounds them but `attempts`. */
  readonly budget?: RetryBudget.RetryBudget | undefined
  /**
   * The longest `retryAfter` of the other side that is honoured; what exceeds it counts as this. Default 30 seconds.
   * It is a floor for the delay, and jittered upwards by up to a fifth. A negative one, or one that is not a number,
   * ends the call: the other side does not want it back.
   */
  readonly retryAfterCap?: Duration.Input | undefined
  /** Whether a result is worth another attempt, although it is no error. */
  readonly retryIf?: ((result: any) => boolean) | undefined
  /** What an error means, before the table is asked; `undefined` leaves it to the table and to the call. */
  readonly classify?: ((error: any, call: CallContext.CallContext) => Outcome.Outcome | undefined) | undefined
  /**
   * Releases a result nobody gets: one that was retried, or of a hedge that lost and could not be interrupted. Runs in a
   * fiber of its own.
   */
  readonly discard?: ((result: any) => Effect.Effect<void>) | undefined
  /** Starts an attempt while another is slow; in a `Policy.stack`, use the slot. */
  readonly hedge?: Hedging | undefined
  /** Why this one may loop inside another: say what keeps the product of attempts bounded. */
  readonly allowNested?: string | undefined
}

const defaultBackoff = Backoff.decorrelated({ base: 100, cap: "10 seconds" })

/**
 * Creates a retry policy.
 *
 * Dies with a `RangeError` when a field is out of its range, or when `hedge` brings a budget other than `budget` or finds
 * no attempt left for it.
 */
export const make: {
  // Without services first: a slot that takes any policy would otherwise make `R` anything.
  (options?: RetryOptions): Effect.Effect<Retry>
  <R>(options: RetryOptions<R>): Effect.Effect<Retry<R>>
} = <R>(options: RetryOptions<R> = {}): Effect.Effect<any> =>
  Effect.sync((): Retry<R> => {
    const where = "Retry.make"
    const { allowNested, budget, classify, discard, hedge, name = "Retry", retryIf } = options
    Options.check(allowNested !== "", where, "allowNested", "the reason why", allowNested)
    // A spec takes `false`, so somebody will write it here.
    Options.check(
      budget === undefined || typeof budget === "object",
      where,
      "budget",
      "a RetryBudget, or left out",
      budget
    )
    const plan: Plan<R> = {
      name,
      attempts: Options.integer(where, "attempts", options.attempts ?? 3, 1),
      backoff: options.backoff ?? defaultBackoff,
      budget,
      retryAfterCapMillis: Options.millis(where, "retryAfterCap", options.retryAfterCap ?? "30 seconds"),
      retryIf,
      classify,
      discard,
      hedge: undefined,
      allowNested: allowNested !== undefined
    }
    return hedge === undefined ? fromPlan(plan) : fromPlan(withHedge(where, plan, hedge))
  })

const withHedge = <R>(where: string, plan: Plan<R>, hedge: Hedging): Plan<R> => {
  Options.check(plan.attempts > 1, where, "attempts", ">= 2, for a hedge is one of them", plan.attempts)
  Options.check(
    plan.budget === undefined || hedge.budget === undefined || plan.budget === hedge.budget,
    where,
    "hedge.budget",
    "the retry's budget, for there is one ledger per target",
    hedge.budget?.name
  )
  return { ...plan, hedge, budget: plan.budget ?? hedge.budget }
}

const fromPlan = <R>(plan: Plan<R>): Retry<R> =>
  Policy.make<RetryError, R, "retry", Pick<Retry<R>, "attempts" | "hedged" | "runCall">>(
    {
      name: plan.hedge === undefined ? plan.name : `${plan.name} + ${plan.hedge.name}`,
      kind: "retry",
      run: runner(plan)
    },
    {
      attempts: plan.attempts,
      hedged: (hedge) => fromPlan(withHedge("Retry.hedged", plan, hedge)),
      runCall: (first, sender, fiber, call, startedAt) => afterFirst(plan, first, sender, fiber, call, startedAt)
    }
  )

/**
 * The loop of a hedge alone: it sends `1 + hedges` times, and only while another attempt is in flight.
 *
 * @internal
 */
export const hedgesOnly = (
  hedge: Hedging,
  discard: RetryOptions["discard"]
): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R> =>
  runner<never>({
    name: hedge.name,
    attempts: 1 + hedge.hedges,
    backoff: undefined,
    budget: hedge.budget,
    retryAfterCapMillis: 0,
    retryIf: undefined,
    classify: undefined,
    discard,
    hedge,
    allowNested: false
    // Without a backoff nothing is retried, so the loop makes no error of its own.
  }) as <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

/** The context of a first attempt, remembered for the callers that call again with the context they had. */
const firstContext = () => {
  let from: Context.Context<never> | undefined
  let to: Context.Context<never> = Context.empty()
  return (context: Context.Context<never>): Context.Context<never> => {
    if (context !== from) {
      to = Context.add(context, CallContext.Current, attemptOf(Context.get(context, CallContext.Current), 1, false))
      from = context
    }
    return to
  }
}

/** Tells a receiver of something once per policy: the first time that anybody looks. */
const teller = (policy: string) => {
  let told = false
  return (fiber: Fiber.Fiber<unknown, unknown>, call: CallContext.CallContext, why: string): void => {
    const receiver = told ? undefined : CallEvent.receiverOf(fiber)
    if (receiver === undefined) return
    told = true
    receiver.event({ _tag: "Warning", policy, why: `${call.name} ${why}`, atMillis: Timer.now(fiber) })
  }
}

const runner = <RS>(
  plan: Plan<RS>
): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | RetryError, R | RS> =>
  plan.budget === undefined && plan.retryIf === undefined && plan.hedge === undefined
    ? failuresOnly(plan)
    : everything(plan)

/**
 * The loop that has nothing to do with a success: it costs a clock read and a frame. What is inside is not told that a
 * loop surrounds it before the second attempt, because a frame that restores the context costs more than the rest; how
 * an inner loop ends is final for this one anyway.
 */
const failuresOnly = <RS>(plan: Plan<RS>) => {
  const passes = passer(plan)
  const tell = teller(plan.name)
  const hasLoopInside = (
    fiber: Fiber.Fiber<unknown, unknown>,
    call: CallContext.CallContext,
    cause: Cause.Cause<unknown>
  ): boolean => {
    const error = errorOf(cause)
    if (plan.allowNested || !CallError.isCallError(error)) return false
    const { _tag } = error.reason
    if (_tag !== "RetriesExhausted" && _tag !== "BudgetExhausted") return false
    tell(fiber, call, "has a retry loop inside this one, and is not sent again")
    return true
  }
  return <A, E, R>(self: Effect.Effect<A, E, R>) =>
    Effect.withFiber<A, E | RetryError, R | RS>((fiber) => {
      const startedAt = Timer.now(fiber)
      return Effect.catchCause(self, (cause) => {
        const call = fiber.getRef(CallContext.Current)
        if (passes(fiber, call) || hasLoopInside(fiber, call, cause)) return Effect.failCause(cause)
        return new Loop(plan, self, fiber, call, startedAt, 1).failed(cause)
      })
    })
}

const everything = <RS>(plan: Plan<RS>) => {
  const { hedge } = plan
  const passes = passer(plan)
  const inFirst = firstContext()
  const tellUnhedged = teller(plan.name)
  return <A, E, R>(self: Effect.Effect<A, E, R>) => {
    const first: Effect.Effect<A, E, R> = Effect.updateContext(self, inFirst as never)
    const sender = { again: self }
    return Effect.withFiber<A, E | RetryError, R | RS>((fiber) => {
      const call = fiber.getRef(CallContext.Current)
      if (passes(fiber, call)) return self
      const startedAt = Timer.now(fiber)
      if (hedge !== undefined) {
        if (Outcome.isIdempotent(call)) return new Loop(plan, self, fiber, call, startedAt, 0).send()
        tellUnhedged(fiber, call, "is not idempotent, so it is never hedged")
      }
      return afterFirst(plan, first, sender, fiber, call, startedAt)
    })
  }
}

/** Most calls have one attempt: the state of the loop is made when there is something to decide. */
const afterFirst = <A, E, R, RS>(
  plan: Plan<RS>,
  first: Effect.Effect<A, E, R>,
  sender: Sender<A, E, R>,
  fiber: Fiber.Fiber<unknown, unknown>,
  call: CallContext.CallContext,
  startedAt: number
): Effect.Effect<A, E | RetryError, R | RS> =>
  Effect.matchCauseEffect(first, {
    onFailure: (cause) => inCall(new Loop(plan, sender.again, fiber, call, startedAt, 1), (loop) => loop.failed(cause)),
    onSuccess: (value) => {
      if (plan.retryIf?.(value) === true) {
        const loop = new Loop(plan, sender.again, fiber, call, startedAt, 1)
        return inCall(loop, (loop) => loop.settle(unwanted(Exit.succeed(value))))
      }
      plan.budget?.depositUnsafe(true, Timer.now(fiber))
      return Effect.succeed(value)
    }
  })

/** What a loop decides, where a user's Schedule finds the call: a client's first attempt had no context of its own. */
const inCall = <A, E, R, RS>(
  loop: Loop<A, E, R, RS>,
  decide: (loop: Loop<A, E, R, RS>) => Effect.Effect<A, E | RetryError, R | RS>
): Effect.Effect<A, E | RetryError, R | RS> =>
  loop.fiber.getRef(CallContext.Current) === loop.call
    ? decide(loop)
    : Effect.provideService(Effect.suspend(() => decide(loop)), CallContext.Current, loop.call)

/** Whether a loop leaves a call to the one that surrounds it. It says so the first time. */
const passer = (plan: Pick<Plan<never>, "name" | "allowNested">) => {
  const tell = teller(plan.name)
  return (fiber: Fiber.Fiber<unknown, unknown>, call: CallContext.CallContext): boolean => {
    if (!call.insideRetry || plan.allowNested) return false
    tell(fiber, call, "is inside a retry loop already: this one sends it once")
    return true
  }
}
