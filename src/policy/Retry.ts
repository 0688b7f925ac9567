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
 * A `Retry` inside a `Retry` would multiply attempts, so the inner one notices,
 * warns once and sends once. With `allowNested` it loops; what ends it
 * (`RetriesExhausted`, `BudgetExhausted`) is final for the outer one.
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
   * Throws a `RangeError` when the hedge brings a budget other than this one's.
   */
  hedged(hedge: Policy.OfKind<"hedge"> & Hedging): Retry<R>
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
  /** Releases a result nobody gets: one that was retried, or of a hedge that lost. Runs in a fiber of its own. */
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
 * Dies with a `RangeError` when a field is out of its range, or when `hedge` brings a budget other than `budget`.
 */
export const make = <R = never>(options: RetryOptions<R> = {}): Effect.Effect<Retry<R>> =>
  Effect.sync(() => {
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
  Policy.make<RetryError, R, "retry", Pick<Retry<R>, "attempts" | "hedged">>(
    {
      name: plan.hedge === undefined ? plan.name : `${plan.name} + ${plan.hedge.name}`,
      kind: "retry",
      run: runner(plan)
    },
    {
      attempts: plan.attempts,
      hedged: (hedge) => fromPlan(withHedge("Retry.hedged", plan, hedge))
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

const runner = <RS>(
  plan: Plan<RS>
): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | RetryError, R | RS> => {
  const { budget, hedge } = plan
  const inFirst = firstContext()
  const warnOnce = (() => {
    const warned = new Set<string>()
    return (fiber: Fiber.Fiber<unknown, unknown>, kind: string, why: () => string): void => {
      const receiver = CallEvent.receiverOf(fiber)
      if (receiver === undefined || warned.has(kind)) return
      warned.add(kind)
      receiver.event({ _tag: "Warning", policy: plan.name, why: why(), atMillis: Timer.now(fiber) })
    }
  })()
  const simple = budget === undefined && plan.retryIf === undefined && hedge === undefined

  return <A, E, R>(self: Effect.Effect<A, E, R>) => {
    const first: Effect.Effect<A, E, R> = Effect.updateContext(self, inFirst as never)
    return Effect.withFiber<A, E | RetryError, R | RS>((fiber) => {
      const call = fiber.getRef(CallContext.Current)
      if (call.insideRetry && !plan.allowNested) {
        warnOnce(
          fiber,
          "nested",
          () => `${call.name} is already inside a retry loop: this one sends it once, and says so once`
        )
        return self
      }
      // The state of the loop is made when there is something to decide: most calls have one attempt.
      const startedAt = Timer.now(fiber)
      if (simple) {
        return Effect.catchCause(
          first,
          (cause) => new Loop(plan, self, fiber, call, startedAt, 1).ended(Exit.failCause(cause))
        )
      }
      if (hedge !== undefined) {
        if (Outcome.isIdempotent(call)) return new Loop(plan, self, fiber, call, startedAt, 0).send(undefined)
        warnOnce(fiber, "hedge", () => `${call.name} is not idempotent, and so never hedged`)
      }
      return Effect.matchCauseEffect(first, {
        onFailure: (cause) => new Loop(plan, self, fiber, call, startedAt, 1).ended(Exit.failCause(cause)),
        onSuccess: (value) => {
          if (plan.retryIf?.(value) === true) {
            return new Loop(plan, self, fiber, call, startedAt, 1).ended(Exit.succeed(value))
          }
          budget?.depositUnsafe(true, startedAt)
          return Effect.succeed(value)
        }
      })
    })
  }
}

const isTimeout = (exit: Exit.Exit<unknown, unknown>): boolean => {
  if (Exit.isSuccess(exit)) return false
  const error = errorOf(exit.cause)
  return CallError.isCallError(error) && error.reason._tag === "AttemptTimeout"
}

/** The first error of a cause: what callers see of it. */
const errorOf = (cause: Cause.Cause<unknown>): unknown => cause.reasons.find(Cause.isFailReason)?.error

/** Rejections that were made in reaction to an earlier attempt say which. */
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

/** The state of one call's loop, from its first failure on (from its start, when it may be hedged). */
class Loop<A, E, R, RS> {
  readonly plan: Plan<RS>
  readonly self: Effect.Effect<A, E, R>
  readonly fiber: Fiber.Fiber<unknown, unknown>
  readonly call: CallContext.CallContext
  readonly startedAt: number
  /** What has been sent so far: retries, hedges and all. */
  sends: number

  private deposited = false
  private step:
    | ((now: number, input: unknown) => Pull.Pull<[unknown, Duration.Duration], never, unknown, RS>)
    | undefined
  /** A token of a retry that is not sent yet. */
  private reserved: RetryBudget.Token | undefined
  private sent: CallError.Sent = "no"
  /** The error of the attempt before, if there was one. */
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

  /** The one attempt there was has ended. */
  ended(exit: Exit.Exit<A, E>): Effect.Effect<A, E | RetryError, R | RS> {
    return this.settle({ exit, outcome: this.outcomeOf(exit) }, undefined)
  }

  outcomeOf(exit: Exit.Exit<A, E>): Outcome.Outcome {
    if (Exit.isSuccess(exit)) {
      return this.plan.retryIf?.(exit.value) === true ? Outcome.failure : Outcome.success
    }
    const { classify } = this.plan
    if (classify !== undefined && exit.cause.reasons.every(Cause.isFailReason)) {
      const outcome = classify(errorOf(exit.cause), this.call)
      if (outcome !== undefined) return outcome
    }
    return Outcome.ofCause(exit.cause, this.call)
  }

  /** The call's first attempt has ended, or was superseded. */
  deposit(succeeded: boolean): void {
    if (this.deposited || this.plan.budget === undefined) return
    this.deposited = true
    this.plan.budget.depositUnsafe(succeeded, this.now())
  }

  withdraw(budget: RetryBudget.RetryBudget): RetryBudget.Token | undefined {
    const token = budget.withdrawUnsafe(this.now())
    this.moved(budget, token === undefined ? "refused" : "withdrawn")
    return token
  }

  refund(token: RetryBudget.Token | undefined): void {
    const { budget } = this.plan
    if (token === undefined || budget === undefined) return
    budget.refundUnsafe(token, this.now())
    this.moved(budget, "refunded")
  }

  private moved(budget: RetryBudget.RetryBudget, change: CallEvent.BudgetMoved["change"]): void {
    const receiver = CallEvent.receiverOf(this.fiber)
    if (receiver === undefined) return
    const atMillis = this.now()
    receiver.event({
      _tag: "BudgetMoved",
      policy: budget.name,
      change,
      balance: budget.balanceUnsafe(atMillis),
      atMillis
    })
  }

  /** Sends the next attempt, which `token` has paid for, and goes on until the call has its answer. */
  send(token: RetryBudget.Token | undefined): Effect.Effect<A, E | RetryError, R | RS> {
    const { hedge } = this.plan
    const startedAt = this.now()
    // Asked for a call that may be hedged only, and a hedge that could not answer in time is none.
    const delay = hedge === undefined || this.sends + 1 >= this.plan.attempts || !Outcome.isIdempotent(this.call)
      ? undefined
      : hedge.delayUnsafe(startedAt)
    if (delay !== undefined && Attempts.fits(delay, startedAt, this.call.deadline)) {
      return Effect.flatMap(new Round(this, hedge!, delay, token).run(), (ended) => this.settle(ended, token))
    }
    const attempt = Effect.provideService(
      this.self,
      CallContext.Current,
      attemptOf(this.call, ++this.sends, false)
    ) as Effect.Effect<A, E, R>
    const settle = (exit: Exit.Exit<A, E>) => {
      const outcome = this.outcomeOf(exit)
      this.observe({ exit, outcome }, startedAt)
      return this.settle({ exit, outcome }, token)
    }
    return Effect.matchCauseEffect(attempt, {
      onFailure: (cause) => settle(Exit.failCause(cause)),
      onSuccess: (value) => settle(Exit.succeed(value))
    })
  }

  /** Latencies of answers and timeouts. A failure that comes fast would make the next hedge come faster still. */
  observe({ exit, outcome }: Ended<A, E>, startedAt: number): void {
    const observe = this.plan.hedge?.observeUnsafe
    if (observe === undefined || !(outcome.endpoint === "success" || isTimeout(exit))) return
    const now = this.now()
    observe(now - startedAt, now)
  }

  discard(value: A): void {
    const { discard } = this.plan
    if (discard !== undefined) Effect.runForkWith(this.fiber.context)(discard(value))
  }

  /** No attempt is in flight: `ended` is the answer, or what to react to. */
  private settle(ended: Ended<A, E>, token: RetryBudget.Token | undefined): Effect.Effect<A, E | RetryError, R | RS> {
    const { exit, outcome } = ended
    const { attempts, backoff } = this.plan
    this.deposit(outcome.endpoint === "success")
    if (Exit.isSuccess(exit) && outcome.endpoint === "success") return exit
    // A policy inside rejected it: what was paid for was not sent.
    if (outcome.retry === "elsewhere") this.refund(token)
    const verdict = backoff === undefined ? "final" : Attempts.decide({
      mayRetry: Outcome.mayRetry(outcome, this.call),
      retryAfterMillis: outcome.retryAfterMillis,
      sends: this.sends,
      attempts,
      nowMillis: this.now(),
      deadlineMillis: this.call.deadline
    })
    if (verdict === "final") return this.answer(exit)
    const error = Exit.isSuccess(exit) ? exit.value : errorOf(exit.cause)
    if (Exit.isFailure(exit)) {
      this.last = error
      if (!CallError.isCallError(error) || error.reason.sent === "maybe") this.sent = "maybe"
    } else {
      this.sent = "maybe"
    }
    if (verdict === "late") return this.late(exit)
    if (verdict === "exhausted") return this.exhausted(exit)
    const stepped = this.step === undefined
      ? Effect.flatMap(Schedule.toStep(backoff!), (step) => {
        this.step = step
        return this.stepped(step, error)
      })
      : this.stepped(this.step, error)
    return Effect.flatMap(stepped, (delay) => this.again(exit, outcome, delay))
  }

  /** The next delay of the Schedule, in milliseconds; `undefined` when it has ended. */
  private stepped(step: NonNullable<typeof this.step>, input: unknown): Effect.Effect<number | undefined, never, RS> {
    // Wall-clock time, which is what `Schedule.cron` and `Schedule.windowed` go by.
    return Effect.suspend(() =>
      Pull.matchEffect(step(this.fiber.getRef(Clock.Clock).currentTimeMillisUnsafe(), input), {
        onSuccess: ([, delay]) => Effect.succeed<number | undefined>(Duration.toMillis(delay)),
        onFailure: Effect.failCause,
        onDone: () => Effect.succeed(undefined)
      })
    )
  }

  private again(
    exit: Exit.Exit<A, E>,
    outcome: Outcome.Outcome,
    backoffMillis: number | undefined
  ): Effect.Effect<A, E | RetryError, R | RS> {
    if (backoffMillis === undefined || !Attempts.isDelay(backoffMillis)) return this.exhausted(exit)
    const { retryAfterMillis } = outcome
    const delay = Attempts.delay(
      backoffMillis,
      retryAfterMillis,
      this.plan.retryAfterCapMillis,
      retryAfterMillis === undefined ? 0 : this.fiber.getRef(Random.Random).nextDoubleUnsafe()
    )
    if (!Attempts.fits(delay, this.now(), this.call.deadline)) return this.late(exit)
    // The frame stands before the token is taken, and gives back what has not been sent by its end.
    return Effect.onExitPrimitive(Effect.suspend(() => this.wait(exit, delay)), () => {
      const token = this.reserved
      this.reserved = undefined
      this.refund(token)
      return undefined
    })
  }

  private wait(exit: Exit.Exit<A, E>, delay: number): Effect.Effect<A, E | RetryError, R | RS> {
    const { budget } = this.plan
    if (budget !== undefined) {
      this.reserved = this.withdraw(budget)
      if (this.reserved === undefined) return this.refused(exit, budget)
    }
    const receiver = CallEvent.receiverOf(this.fiber)
    if (receiver !== undefined) {
      receiver.event({
        _tag: "RetryScheduled",
        call: attemptOf(this.call, this.sends + 1, false),
        policy: this.plan.name,
        delayMillis: delay,
        error: Exit.isSuccess(exit) ? exit.value : errorOf(exit.cause),
        atMillis: this.now()
      })
    }
    const next = Effect.suspend(() => {
      // A clock may wake us late.
      if (this.now() >= this.call.deadline) return this.late(exit)
      if (Exit.isSuccess(exit)) this.discard(exit.value)
      const token = this.reserved
      this.reserved = undefined
      return this.send(token)
    })
    // No delay, no timer.
    return delay > 0 ? Effect.andThen(Effect.sleep(Duration.millis(delay)), next) : next
  }

  // The ends of a call ------------------------------------------------------------------------------

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

  private refused(exit: Exit.Exit<A, E>, budget: RetryBudget.RetryBudget): Effect.Effect<A, RetryError> {
    return this.end(exit, () => ({
      _tag: "BudgetExhausted",
      method: this.call.name,
      policy: budget.name,
      attempts: this.sends,
      sent: this.sent,
      last: this.last
    }))
  }

  /** A result is the answer after all; an error ends in `reason`, which carries it. */
  private end(exit: Exit.Exit<A, E>, reason: () => RetryError["reason"]): Effect.Effect<A, RetryError> {
    return Exit.isSuccess(exit)
      ? Effect.succeed(exit.value)
      : Effect.fail(new CallError.CallError(reason()) as RetryError)
  }
}

/** An attempt in flight. */
interface Flight<A, E> {
  readonly call: CallContext.CallContext
  readonly token: RetryBudget.Token | undefined
  startedAt: number
  fiber: Fiber.Fiber<A, E> | undefined
}

/**
 * An attempt and its hedges, each in a fiber of its own, until the first that settles the matter.
 *
 * Ends and the timer only queue up; the caller's fiber looks at them. So user code (classifiers, predicates) runs there,
 * and a defect of it ends the call like any other.
 */
class Round<A, E, R, RS> {
  private readonly loop: Loop<A, E, R, RS>
  private readonly hedge: Hedging
  private readonly delay: number
  private readonly token: RetryBudget.Token | undefined

  private readonly inFlight: Array<Flight<A, E>> = []
  private readonly landed: Array<readonly [Flight<A, E>, Exit.Exit<A, E>]> = []
  private hedgesLeft: number
  /** A hedge's token between being taken and the hedge being sent. */
  private reserved: RetryBudget.Token | undefined
  private timer: Timer.Timer | undefined
  private due = false
  private closed = false
  private wake: (() => void) | undefined
  private firstAt = 0
  private latestAt = 0
  /** Until when an answer asked us to stay away. */
  private awayUntil = -Infinity
  /** The latest failure, while others are in flight, and the causes of those before it. */
  private failed: Ended<A, E> | undefined
  private causes: Cause.Cause<E> = Cause.empty

  constructor(loop: Loop<A, E, R, RS>, hedge: Hedging, delay: number, token: RetryBudget.Token | undefined) {
    this.loop = loop
    this.hedge = hedge
    this.delay = delay
    this.token = token
    this.hedgesLeft = hedge.hedges
  }

  /** Succeeds with how the round ended; whatever is still in flight then is interrupted and not awaited. */
  run(): Effect.Effect<Ended<A, E>, never, R> {
    return Effect.onExitPrimitive(
      Effect.flatMap(this.launch(false, this.token), () => this.next()),
      (exit) => this.close(exit)
    )
  }

  private launch(hedge: boolean, token: RetryBudget.Token | undefined): Effect.Effect<void, never, R> {
    const { loop } = this
    const call = attemptOf(loop.call, loop.sends + 1, hedge)
    const flight: Flight<A, E> = { call, token, startedAt: 0, fiber: undefined }
    const attempt = Effect.provideService(loop.self, CallContext.Current, call)
    // Within its first step, which runs in ours: an interrupt cannot come between the fork and knowing what to interrupt.
    const started = Effect.withFiber<A, E, R>((fiber) => {
      if (this.closed) return Effect.interrupt
      loop.sends++
      this.reserved = undefined
      flight.fiber = fiber as Fiber.Fiber<A, E>
      flight.startedAt = this.latestAt = loop.now()
      if (!hedge) this.firstAt = flight.startedAt
      this.inFlight.push(flight)
      flight.fiber.addObserver((exit) => this.land(flight, exit))
      return attempt as Effect.Effect<A, E, R>
    })
    return Effect.asVoid(Effect.forkDetach(started, { startImmediately: true, uninterruptible: "inherit" }))
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

  /** Looks at what happened, until the round is over or there is nothing to do but wait. */
  private next(): Effect.Effect<Ended<A, E>, never, R> {
    for (let event = this.landed.shift(); event !== undefined; event = this.landed.shift()) {
      const ended = this.look(...event)
      if (ended !== undefined) return Effect.succeed(ended)
    }
    if (this.due) {
      this.due = false
      if (this.reserve()) return Effect.flatMap(this.launch(true, this.reserved), () => this.next())
    }
    this.arm()
    return Effect.callback<Ended<A, E>, never, R>((resume) => {
      const go = () => resume(Effect.suspend(() => this.next()))
      // The fiber may have been put off between the look and here.
      if (this.landed.length > 0 || this.due) go()
      else this.wake = go
    })
  }

  /** What an ended attempt means for the round: its end, or nothing yet. */
  private look(flight: Flight<A, E>, exit: Exit.Exit<A, E>): Ended<A, E> | undefined {
    const { loop } = this
    this.inFlight.splice(this.inFlight.indexOf(flight), 1)
    const ended: Ended<A, E> = { exit, outcome: loop.outcomeOf(exit) }
    const { outcome } = ended
    if (!flight.call.hedge && flight.call.attempt === 1) loop.deposit(outcome.endpoint === "success")
    loop.observe(ended, flight.startedAt)
    if (outcome.retry === "elsewhere" && this.inFlight.length > 0) {
      // Nothing was sent, and that is no reason to give up what was.
      loop.sends--
      loop.refund(flight.token)
      return undefined
    }
    if (outcome.retry === "never") return ended
    if (outcome.retryAfterMillis !== undefined) {
      if (!(outcome.retryAfterMillis >= 0)) this.hedgesLeft = 0
      else this.awayUntil = Math.max(this.awayUntil, loop.now() + outcome.retryAfterMillis)
    }
    return this.inFlight.length > 0 ? this.keep(ended) : this.allFailed(ended)
  }

  private keep(ended: Ended<A, E>): undefined {
    const before = this.failed
    if (before !== undefined) this.drop(before)
    this.failed = ended
    return undefined
  }

  private drop({ exit }: Ended<A, E>): void {
    if (Exit.isSuccess(exit)) this.loop.discard(exit.value)
    else this.causes = Cause.combine(exit.cause, this.causes)
  }

  /** The last to fail speaks for all, and the causes of the others come after its own. */
  private allFailed(ended: Ended<A, E>): Ended<A, E> {
    if (this.failed !== undefined) this.drop(this.failed)
    const asked = ended.outcome.retryAfterMillis
    const away = this.awayUntil - this.loop.now()
    const outcome = away > (asked ?? 0) && !(asked! < 0)
      ? { ...ended.outcome, retryAfterMillis: away }
      : ended.outcome
    return Exit.isSuccess(ended.exit)
      ? { exit: ended.exit, outcome }
      : { exit: Exit.failCause(Cause.combine(ended.exit.cause, this.causes)), outcome }
  }

  /** Takes what a hedge needs: an attempt, a token. Refused, the original goes on alone. */
  private reserve(): boolean {
    const { hedge, loop } = this
    if (this.hedgesLeft === 0 || loop.sends >= loop.plan.attempts) return false
    const { budget } = loop.plan
    if (budget !== undefined) {
      this.reserved = loop.withdraw(budget)
      if (this.reserved === undefined) {
        this.hedgesLeft = 0
        return false
      }
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

  /** Sets the timer of the next hedge, if there may be one. */
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
    const { inFlight, loop } = this
    this.closed = true
    this.timer?.cancel()
    loop.refund(this.reserved)
    for (const [, exit] of this.landed) {
      if (Exit.isSuccess(exit)) loop.discard(exit.value)
    }
    if (Exit.isSuccess(exit)) {
      if (this.failed !== undefined && this.failed.exit !== exit.value.exit) this.drop(this.failed)
      if (Exit.isSuccess(exit.value.exit)) this.superseded()
    }
    const interrupted = Exit.isFailure(exit) ? Interruption.fromCause(exit.cause) : undefined
    for (const { fiber } of inFlight) {
      fiber!.interruptUnsafe(loop.fiber.id, Interruption.annotations[interrupted ?? "hedgeLost"])
    }
    // Whoever interrupts the call waits for its finalizers, as without a hedge; whoever has an answer waits for nobody.
    return interrupted === undefined
      ? undefined
      : Effect.asVoid(Fiber.awaitAll(inFlight.map(({ fiber }) => fiber!)))
  }

  /** The first attempt did not succeed, and its time so far is a latency: without it the delay would learn only from winners. */
  private superseded(): void {
    const { inFlight, loop } = this
    loop.deposit(false)
    const now = loop.now()
    for (const { startedAt } of inFlight) this.hedge.observeUnsafe?.(now - startedAt, now)
  }
}
