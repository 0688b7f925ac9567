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
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Pull from "effect/Pull"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Interruption from "../contract/Interruption.ts"
import * as Options from "../contract/Options.ts"
import * as Outcome from "../contract/Outcome.ts"
import * as Timer from "../contract/Timer.ts"
import * as Backoff from "./Backoff.ts"
import * as Attempts from "./internal/attempts.ts"
import * as Progress from "./internal/progress.ts"
import * as Policy from "./Policy.ts"
import type * as RetryBudget from "./RetryBudget.ts"

/** What a `Retry` may add to the error channel. */
export type RetryError = CallError.CallError<
  CallError.RetriesExhausted | CallError.BudgetExhausted | CallError.DeadlineExceeded
>

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

/** What the loop asks of a hedge: when to start one, and how long attempts take. `Hedge.make` makes one. */
export interface Hedging {
  readonly name: string
  /** How many hedges an attempt may have. */
  readonly hedges: number
  readonly budget: RetryBudget.RetryBudget | undefined
  /** How long an attempt may take before it is hedged, `undefined` for no hedge now. */
  delayUnsafe(nowMillis: number): number | undefined
  /** How long an attempt took. `undefined` where the delay does not depend on it. */
  readonly observeUnsafe: ((latencyMillis: number, nowMillis: number) => void) | undefined
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

interface Plan<R> {
  readonly name: string
  readonly attempts: number
  /** `undefined` for a hedge alone, which retries nothing. */
  readonly backoff: Schedule.Schedule<unknown, any, never, R> | undefined
  readonly budget: RetryBudget.RetryBudget | undefined
  readonly retryAfterCapMillis: number
  readonly retryIf: ((result: any) => boolean) | undefined
  readonly classify: RetryOptions["classify"]
  readonly discard: ((result: any) => Effect.Effect<void>) | undefined
  readonly hedge: Hedging | undefined
  readonly allowNested: boolean
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

/** The call as attempt `attempt` sees it. */
const attemptOf = (call: CallContext.CallContext, attempt: number, hedge: boolean): CallContext.CallContext => ({
  ...call,
  attempt,
  hedge,
  insideRetry: true
})

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

/** The first error of a cause: what its callers see. */
const errorOf = (cause: Cause.Cause<unknown>): unknown => cause.reasons.find(Cause.isFailReason)?.error

const isAttemptTimeout = (exit: Exit.Exit<unknown, unknown>): boolean => {
  const error = Exit.isFailure(exit) ? errorOf(exit.cause) : undefined
  return CallError.isCallError(error) && error.reason._tag === "AttemptTimeout"
}

/** What was made in reaction to an earlier attempt says which. */
const withLast = (error: unknown, last: unknown): unknown => {
  if (!CallError.isCallError(error)) return error
  const { reason } = error
  switch (reason._tag) {
    case "CircuitOpen":
    case "BulkheadFull":
    case "Throttled":
    case "LimitReached":
    case "DeadlineExceeded":
      return reason.last === undefined ? new CallError.CallError({ ...reason, last }) : error
    default:
      return error
  }
}

/** How an attempt ended, and what that means. */
interface Ended<A, E> {
  readonly exit: Exit.Exit<A, E>
  readonly outcome: Outcome.Outcome
}

/** A result that `retryIf` finds wanting: the server answered, and has done whatever it does. */
const unwanted = <A, E>(exit: Exit.Exit<A, E>): Ended<A, E> => ({ exit, outcome: Outcome.failure })

/** The state of one call's loop, from its first failure on; from its start, where it may be hedged. */
class Loop<A, E, R, RS> {
  readonly plan: Plan<RS>
  readonly self: Effect.Effect<A, E, R>
  readonly fiber: Fiber.Fiber<unknown, unknown>
  readonly call: CallContext.CallContext
  /** What has been sent so far: retries, hedges and all. */
  sends: number

  private readonly startedAt: number
  private deposited = false
  /** A token that was taken for an attempt that is not sent yet. */
  private reserved: RetryBudget.Token | undefined
  private step:
    | ((now: number, input: unknown) => Pull.Pull<[unknown, Duration.Duration], never, unknown, RS>)
    | undefined
  private sent: CallError.Sent = "no"
  /** The error of the latest attempt that failed. */
  private last: unknown

  constructor(
    plan: Plan<RS>,
    self: Effect.Effect<A, E, R>,
    fiber: Fiber.Fiber<unknown, unknown>,
    call: CallContext.CallContext,
    startedAt: number,
    sends: number
  ) {
    this.plan = plan
    this.self = self
    this.fiber = fiber
    this.call = call
    this.startedAt = startedAt
    this.sends = sends
  }

  now(): number {
    return Timer.now(this.fiber)
  }

  judge(exit: Exit.Exit<A, E>): Ended<A, E> {
    const { classify, retryIf } = this.plan
    if (Exit.isSuccess(exit)) {
      return retryIf?.(exit.value) === true ? unwanted(exit) : { exit, outcome: Outcome.success }
    }
    const outcome = classify !== undefined && exit.cause.reasons.every(Cause.isFailReason)
      ? classify(errorOf(exit.cause), this.call)
      : undefined
    return { exit, outcome: outcome ?? Outcome.ofCause(exit.cause, this.call) }
  }

  // The budget ---------------------------------------------------------------------------------------

  /** The call's first attempt has ended, or was superseded. */
  deposit(outcome: Outcome.Outcome): void {
    // One that was rejected inside, or interrupted, is no evidence that the target takes more.
    if (this.deposited || this.plan.budget === undefined || outcome.endpoint === "ignored") return
    this.deposited = true
    this.plan.budget.depositUnsafe(outcome.endpoint === "success", this.now())
  }

  /** Takes a token for the next attempt where there is a budget: whether it may be sent. */
  reserve(): boolean {
    const { budget } = this.plan
    if (budget === undefined) return true
    this.reserved = budget.withdrawUnsafe(this.now())
    this.moved(budget, this.reserved === undefined ? "refused" : "withdrawn")
    return this.reserved !== undefined
  }

  /** An attempt is being sent: what was taken for it is spent. */
  commit(): RetryBudget.Token | undefined {
    const token = this.reserved
    this.reserved = undefined
    this.sends++
    return token
  }

  /** What was taken for an attempt goes back, if it was not sent. */
  release(): void {
    const token = this.reserved
    this.reserved = undefined
    this.refund(token)
  }

  /** An attempt was rejected inside, before anything was sent: it costs nothing. */
  unsend(token: RetryBudget.Token | undefined): void {
    this.sends--
    this.refund(token)
  }

  private refund(token: RetryBudget.Token | undefined): void {
    const { budget } = this.plan
    if (token === undefined || budget === undefined) return
    budget.refundUnsafe(token, this.now())
    this.moved(budget, "refunded")
  }

  private moved(budget: RetryBudget.RetryBudget, change: CallEvent.BudgetMoved["change"]): void {
    const receiver = CallEvent.receiverOf(this.fiber)
    if (receiver === undefined) return
    const atMillis = this.now()
    const balance = budget.balanceUnsafe(atMillis)
    receiver.event({ _tag: "BudgetMoved", call: this.call, policy: budget.name, change, balance, atMillis })
  }

  // Attempts -----------------------------------------------------------------------------------------

  /** Sends the next attempt, and goes on until the call has its answer. */
  send(): Effect.Effect<A, E | RetryError, R | RS> {
    const { attempts, hedge } = this.plan
    const startedAt = this.now()
    const delay = hedge === undefined || this.sends + 1 >= attempts || !Outcome.isIdempotent(this.call)
      ? undefined
      : hedge.delayUnsafe(startedAt)
    // A hedge that would start after the deadline is none, and then the attempt needs no fiber of its own.
    if (delay !== undefined && Attempts.fits(delay, startedAt, this.call.deadline)) {
      return Effect.flatMap(new Round(this, hedge!, delay).run(), (ended) => this.settle(ended))
    }
    let token: RetryBudget.Token | undefined
    const attempt = Effect.updateContext(this.self, (context: Context.Context<R>) => {
      token = this.commit()
      return Context.add(
        context as Context.Context<never>,
        CallContext.Current,
        attemptOf(this.call, this.sends, false)
      ) as Context.Context<R>
    })
    const ended = (exit: Exit.Exit<A, E>) => {
      const ended = this.judge(exit)
      if (ended.outcome.retry === "elsewhere") this.unsend(token)
      this.observe(ended, startedAt)
      return this.settle(ended)
    }
    return Effect.matchCauseEffect(attempt, {
      onFailure: (cause) => ended(Exit.failCause(cause)),
      onSuccess: (value) => ended(Exit.succeed(value))
    })
  }

  /** Latencies of answers and of timeouts. A failure that comes fast would make the next hedge come faster still. */
  observe({ exit, outcome }: Ended<A, E>, startedAt: number): void {
    const observe = this.plan.hedge?.observeUnsafe
    if (observe === undefined || !(outcome.endpoint === "success" || isAttemptTimeout(exit))) return
    const now = this.now()
    observe(now - startedAt, now)
  }

  discard(value: A): void {
    const { discard } = this.plan
    if (discard !== undefined) Effect.runForkWith(this.fiber.context)(discard(value))
  }

  // Decisions ----------------------------------------------------------------------------------------

  failed(cause: Cause.Cause<E>): Effect.Effect<A, E | RetryError, R | RS> {
    return this.settle(this.judge(Exit.failCause(cause)))
  }

  /** An attempt did not give the answer: what it leaves in the errors of the call. */
  note(exit: Exit.Exit<A, E>): void {
    const error = Exit.isSuccess(exit) ? undefined : errorOf(exit.cause)
    if (!CallError.isCallError(error) || error.reason.sent === "maybe") this.sent = "maybe"
    if (Exit.isSuccess(exit)) return
    this.last = error
    // For the deadline, which may interrupt the loop wherever it is.
    Progress.failed(this.fiber, error)
  }

  /** Nothing is in flight: `ended` is the answer, or what to react to. */
  settle({ exit, outcome }: Ended<A, E>): Effect.Effect<A, E | RetryError, R | RS> {
    const { attempts, backoff } = this.plan
    this.deposit(outcome)
    if (Exit.isSuccess(exit) && outcome.endpoint === "success") return exit
    const verdict = backoff === undefined ? "final" : Attempts.decide({
      mayRetry: Outcome.mayRetry(outcome, this.call),
      retryAfterMillis: outcome.retryAfterMillis,
      sends: this.sends,
      attempts,
      nowMillis: this.now(),
      deadlineMillis: this.call.deadline
    })
    if (verdict === "final") return this.answer(exit)
    this.note(exit)
    if (verdict === "late") return this.late(exit)
    if (verdict === "exhausted") return this.exhausted(exit)
    return Effect.flatMap(this.backoff(backoff!, exit), (delay) => this.again(exit, outcome, delay))
  }

  /** The next delay of the Schedule, in milliseconds; `undefined` when it has ended. */
  private backoff(
    backoff: Schedule.Schedule<unknown, any, never, RS>,
    exit: Exit.Exit<A, E>
  ): Effect.Effect<number | undefined, never, RS> {
    const { step } = this
    if (step === undefined) {
      return Effect.flatMap(Schedule.toStep(backoff), (step) => {
        this.step = step
        return this.backoff(backoff, exit)
      })
    }
    // Wall-clock time, which is what `Schedule.cron` and `Schedule.windowed` go by.
    const wall = this.fiber.getRef(Clock.Clock).currentTimeMillisUnsafe()
    return Pull.matchEffect(step(wall, Exit.isSuccess(exit) ? exit.value : this.last), {
      onSuccess: ([, delay]) => Effect.succeed<number | undefined>(Duration.toMillis(delay)),
      onFailure: Effect.failCause,
      onDone: () => Effect.undefined
    })
  }

  private again(
    exit: Exit.Exit<A, E>,
    { retryAfterMillis }: Outcome.Outcome,
    backoffMillis: number | undefined
  ): Effect.Effect<A, E | RetryError, R | RS> {
    if (backoffMillis === undefined || !Attempts.isDelay(backoffMillis)) return this.exhausted(exit)
    const draw = retryAfterMillis === undefined ? 0 : this.fiber.getRef(Random.Random).nextDoubleUnsafe()
    const delay = Attempts.delay(backoffMillis, retryAfterMillis, this.plan.retryAfterCapMillis, draw)
    if (!Attempts.fits(delay, this.now(), this.call.deadline)) return this.late(exit)
    // The frame stands before the token is taken, and gives back what is not sent by its end.
    return Effect.onExitPrimitive(Effect.suspend(() => this.wait(exit, delay, retryAfterMillis)), () => {
      this.release()
      return undefined
    })
  }

  private wait(
    exit: Exit.Exit<A, E>,
    delay: number,
    retryAfterMillis: number | undefined
  ): Effect.Effect<A, E | RetryError, R | RS> {
    if (!this.reserve()) return this.refused(exit)
    const receiver = CallEvent.receiverOf(this.fiber)
    if (receiver !== undefined) {
      receiver.event({
        _tag: "RetryScheduled",
        call: attemptOf(this.call, this.sends + 1, false),
        policy: this.plan.name,
        delayMillis: delay,
        retryAfterMillis,
        error: Exit.isSuccess(exit) ? exit.value : errorOf(exit.cause),
        atMillis: this.now()
      })
    }
    const next = Effect.suspend(() => {
      // A clock may wake us late.
      if (this.now() >= this.call.deadline) return this.late(exit)
      if (Exit.isSuccess(exit)) this.discard(exit.value)
      return this.send()
    })
    // No delay, no timer.
    return delay > 0 ? Effect.andThen(Effect.sleep(Duration.millis(delay)), next) : next
  }

  // The ends of a call -------------------------------------------------------------------------------

  private answer(exit: Exit.Exit<A, E>): Effect.Effect<A, E> {
    const { last } = this
    if (last === undefined || Exit.isSuccess(exit)) return exit
    return Effect.failCause(Cause.map(exit.cause, (error) => withLast(error, last) as E))
  }

  private late(exit: Exit.Exit<A, E>): Effect.Effect<A, RetryError> {
    return this.end(exit, () => ({
      _tag: "DeadlineExceeded",
      method: this.call.name,
      elapsedMillis: this.now() - this.startedAt,
      sent: this.sent,
      last: this.last
    }))
  }

  private exhausted(exit: Exit.Exit<A, E>): Effect.Effect<A, RetryError> {
    return this.end(exit, () => ({
      _tag: "RetriesExhausted",
      method: this.call.name,
      attempts: this.sends,
      elapsedMillis: this.now() - this.startedAt,
      sent: this.sent,
      last: this.last
    }))
  }

  private refused(exit: Exit.Exit<A, E>): Effect.Effect<A, RetryError> {
    return this.end(exit, () => ({
      _tag: "BudgetExhausted",
      method: this.call.name,
      policy: this.plan.budget!.name,
      attempts: this.sends,
      sent: this.sent,
      last: this.last
    }))
  }

  /** A result is the answer after all; an error ends in the reason, which carries it. */
  private end(exit: Exit.Exit<A, E>, reason: () => RetryError["reason"]): Effect.Effect<A, RetryError> {
    return Exit.isSuccess(exit)
      ? Effect.succeed(exit.value)
      : Effect.fail(new CallError.CallError(reason()) as RetryError)
  }
}

/** An attempt in flight. */
interface Flight<A, E> {
  readonly fiber: Fiber.Fiber<A, E>
  readonly token: RetryBudget.Token | undefined
  /** Which of the call's attempts it is. */
  readonly attempt: number
  readonly startedAt: number
}

/**
 * An attempt and its hedges, each in a fiber of its own, until the first that settles the matter.
 *
 * Their ends and the timer only queue up, and the call's own fiber looks at them: classifiers and predicates run there,
 * and a defect of theirs ends the call like any other.
 */
class Round<A, E, R, RS> {
  private readonly loop: Loop<A, E, R, RS>
  private readonly hedge: Hedging
  private readonly delay: number

  private readonly inFlight: Array<Flight<A, E>> = []
  private readonly landed: Array<readonly [Flight<A, E>, Exit.Exit<A, E>]> = []
  private timer: Timer.Timer | undefined
  private due = false
  private closed = false
  private wake: (() => void) | undefined
  private hedgesLeft: number
  private firstAt = 0
  private latestAt = 0
  /** Until when an answer asked us to stay away. */
  private awayUntil = -Infinity
  /** The latest to fail, and the causes of those before it, latest first. */
  private failed: Ended<A, E> | undefined
  private causes: Cause.Cause<E> = Cause.empty

  constructor(loop: Loop<A, E, R, RS>, hedge: Hedging, delay: number) {
    this.loop = loop
    this.hedge = hedge
    this.delay = delay
    this.hedgesLeft = hedge.hedges
  }

  /** Succeeds with how the round ended. What is in flight then is interrupted and not awaited. */
  run(): Effect.Effect<Ended<A, E>, never, R> {
    return Effect.onExitPrimitive(
      Effect.flatMap(this.launch(false), () => this.next()),
      (exit) => this.close(exit)
    )
  }

  private launch(hedge: boolean): Effect.Effect<unknown, never, R> {
    const { loop } = this
    const startedAt = this.latestAt = loop.now()
    if (!hedge) this.firstAt = startedAt
    // Known in its first step, which runs within ours: no interrupt comes between forking and knowing what to interrupt.
    // A scheduler that puts even that off meets `closed`.
    const started = Effect.withFiber<A, E, R>((current) => {
      if (this.closed) return Effect.interrupt
      const fiber = current as Fiber.Fiber<A, E>
      const token = loop.commit()
      const flight: Flight<A, E> = { fiber, token, attempt: loop.sends, startedAt }
      this.inFlight.push(flight)
      fiber.addObserver((exit) => this.land(flight, exit))
      return Effect.provideService(
        loop.self,
        CallContext.Current,
        attemptOf(loop.call, loop.sends, hedge)
      ) as Effect.Effect<A, E, R>
    })
    return Effect.forkDetach(started, { startImmediately: true, uninterruptible: "inherit" })
  }

  private land(flight: Flight<A, E>, exit: Exit.Exit<A, E>): void {
    if (this.closed) {
      if (Exit.isSuccess(exit)) this.loop.discard(exit.value)
      return
    }
    this.landed.push([flight, exit])
    this.signal()
  }

  private signal(): void {
    const { wake } = this
    this.wake = undefined
    wake?.()
  }

  /** Looks at what has happened, until the round is over or there is nothing to do but wait. */
  private next(): Effect.Effect<Ended<A, E>, never, R> {
    for (let event = this.landed.shift(); event !== undefined; event = this.landed.shift()) {
      const ended = this.look(...event)
      if (ended !== undefined) return Effect.succeed(ended)
    }
    if (this.due) {
      this.due = false
      // An answer may have asked us to stay away since the timer was set.
      if (this.hedgesLeft > 0 && this.awayUntil <= this.loop.now() && this.mayHedge()) {
        return Effect.flatMap(this.launch(true), () => this.next())
      }
    }
    this.arm()
    return Effect.callback<Ended<A, E>, never, R>((resume) => {
      const go = () => resume(Effect.suspend(() => this.next()))
      // The scheduler may have let others run between the look and here.
      if (this.landed.length > 0 || this.due) go()
      else this.wake = go
    })
  }

  /** What an ended attempt means for the round: its end, or nothing yet. */
  private look(flight: Flight<A, E>, exit: Exit.Exit<A, E>): Ended<A, E> | undefined {
    const { inFlight, loop } = this
    inFlight.splice(inFlight.indexOf(flight), 1)
    const ended = loop.judge(exit)
    const { retry, retryAfterMillis } = ended.outcome
    if (flight.attempt === 1) loop.deposit(ended.outcome)
    loop.observe(ended, flight.startedAt)
    if (retry === "never") return ended
    if (retry === "elsewhere") {
      loop.unsend(flight.token)
      // Not sent: no reason to give up those that were, nor to forget how they ended.
      if (inFlight.length === 0 && this.failed === undefined) return ended
    } else {
      if (retryAfterMillis !== undefined) {
        if (retryAfterMillis >= 0) this.awayUntil = Math.max(this.awayUntil, loop.now() + retryAfterMillis)
        else this.hedgesLeft = 0
      }
      loop.note(exit)
      if (this.failed !== undefined) this.drop(this.failed)
      this.failed = ended
    }
    return inFlight.length === 0 ? this.allFailed() : undefined
  }

  private drop({ exit }: Ended<A, E>): void {
    if (Exit.isSuccess(exit)) this.loop.discard(exit.value)
    else this.causes = Cause.combine(exit.cause, this.causes)
  }

  /** The last to fail speaks for all; the causes of the others come after its own. */
  private allFailed(): Ended<A, E> {
    const { exit, outcome } = this.failed!
    this.failed = undefined
    const asked = outcome.retryAfterMillis ?? 0
    const away = this.awayUntil - this.loop.now()
    return {
      exit: Exit.isSuccess(exit) ? exit : Exit.failCause(Cause.combine(exit.cause, this.causes)),
      outcome: asked >= 0 && asked < away ? { ...outcome, retryAfterMillis: away } : outcome
    }
  }

  /** Takes what a hedge needs: an attempt, a token. Refused, what is in flight goes on without one. */
  private mayHedge(): boolean {
    const { hedge, loop } = this
    if (!loop.reserve()) {
      this.hedgesLeft = 0
      return false
    }
    this.hedgesLeft--
    const receiver = CallEvent.receiverOf(loop.fiber)
    if (receiver !== undefined) {
      const atMillis = loop.now()
      receiver.event({
        _tag: "HedgeStarted",
        call: attemptOf(loop.call, loop.sends + 1, true),
        policy: hedge.name,
        afterMillis: atMillis - this.firstAt,
        atMillis
      })
    }
    return true
  }

  /** Sets the timer of the next hedge, if there is to be one. */
  private arm(): void {
    const { loop } = this
    if (this.timer !== undefined || this.hedgesLeft === 0 || loop.sends >= loop.plan.attempts) return
    const at = Math.max(this.latestAt + this.delay, this.awayUntil)
    if (at >= loop.call.deadline) return
    this.timer = Timer.schedule(loop.fiber, at, () => {
      this.timer = undefined
      this.due = true
      this.signal()
    })
  }

  private close(exit: Exit.Exit<Ended<A, E>>): Effect.Effect<void> | undefined {
    const { inFlight, landed, loop } = this
    this.closed = true
    this.timer?.cancel()
    loop.release()
    for (const [, late] of landed) {
      if (Exit.isSuccess(late)) loop.discard(late.value)
    }
    if (this.failed !== undefined) this.drop(this.failed)
    if (Exit.isSuccess(exit) && Exit.isSuccess(exit.value.exit)) this.superseded()
    const interrupted = Exit.isFailure(exit) ? Interruption.fromCause(exit.cause) : undefined
    for (const { fiber } of inFlight) {
      fiber.interruptUnsafe(loop.fiber.id, Interruption.annotations[interrupted ?? "hedgeLost"])
    }
    // Whoever interrupts the call waits for its finalizers, as without a hedge; whoever has an answer waits for nobody.
    return interrupted === undefined
      ? undefined
      : Effect.asVoid(Fiber.awaitAll(inFlight.map(({ fiber }) => fiber)))
  }

  /** What the others took so far are latencies too: from winners alone the delay would learn to be ever shorter. */
  private superseded(): void {
    const { hedge, inFlight, loop } = this
    loop.deposit(Outcome.failure)
    const now = loop.now()
    for (const { startedAt } of inFlight) hedge.observeUnsafe?.(now - startedAt, now)
  }
}
