/** What one call's retries know: the state of the loop that `Retry` describes. */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Pull from "effect/Pull"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as CallContext from "../../contract/CallContext.ts"
import * as CallError from "../../contract/CallError.ts"
import * as CallEvent from "../../contract/CallEvent.ts"
import * as Outcome from "../../contract/Outcome.ts"
import * as Timer from "../../contract/Timer.ts"
import type * as RetryBudget from "../RetryBudget.ts"
import * as Attempts from "./attempts.ts"
import * as Progress from "./progress.ts"
import { attemptOf, type Calling, type Ended, type Hedging, Round } from "./round.ts"

/** What a `Retry` may add to the error channel. */
export type RetryError = CallError.CallError<
  CallError.RetriesExhausted | CallError.BudgetExhausted | CallError.DeadlineExceeded
>

/** What a `Retry` was made with. */
export interface Plan<R> {
  readonly name: string
  readonly attempts: number
  /** `undefined` for a hedge alone, which retries nothing. */
  readonly backoff: Schedule.Schedule<unknown, any, never, R> | undefined
  readonly budget: RetryBudget.RetryBudget | undefined
  readonly retryAfterCapMillis: number
  readonly retryIf: ((result: any) => boolean) | undefined
  readonly classify: ((error: any, call: CallContext.CallContext) => Outcome.Outcome | undefined) | undefined
  readonly discard: ((result: any) => Effect.Effect<void>) | undefined
  readonly hedge: Hedging | undefined
  readonly allowNested: boolean
}

/** The first error of a cause: what its callers see. */
export const errorOf = (cause: Cause.Cause<unknown>): unknown => cause.reasons.find(Cause.isFailReason)?.error

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

/** A result that `retryIf` finds wanting: the server answered, and has done whatever it does. */
export const unwanted = <A, E>(exit: Exit.Exit<A, E>): Ended<A, E> => ({ exit, outcome: Outcome.failure })

/** The state of one call's loop, from its first failure on; from its start, where it may be hedged. */
export class Loop<A, E, R, RS> implements Calling<A, E, R> {
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

  get attempts(): number {
    return this.plan.attempts
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
