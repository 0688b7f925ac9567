/** An attempt and its hedges: the part of a loop in which several attempts of one call are in flight. */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as CallContext from "../../contract/CallContext.ts"
import * as CallEvent from "../../contract/CallEvent.ts"
import * as Interruption from "../../contract/Interruption.ts"
import * as Outcome from "../../contract/Outcome.ts"
import * as Timer from "../../contract/Timer.ts"
import type * as RetryBudget from "../RetryBudget.ts"

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

/** How an attempt ended, and what that means. */
export interface Ended<A, E> {
  readonly exit: Exit.Exit<A, E>
  readonly outcome: Outcome.Outcome
}

/** The call as attempt `attempt` sees it. */
export const attemptOf = (call: CallContext.CallContext, attempt: number, hedge: boolean): CallContext.CallContext => ({
  ...call,
  attempt,
  hedge,
  insideRetry: true
})

/** The call whose attempts they are: what it keeps count of for all of them. */
export interface Calling<A, E, R> {
  readonly self: Effect.Effect<A, E, R>
  readonly fiber: Fiber.Fiber<unknown, unknown>
  readonly call: CallContext.CallContext
  /** How often it may be sent, and how often it has been. */
  readonly attempts: number
  readonly sends: number
  now(): number
  /** What an end means. */
  judge(exit: Exit.Exit<A, E>): Ended<A, E>
  /** The first attempt has ended, or was superseded. */
  deposit(outcome: Outcome.Outcome): void
  /** Takes a token for the next attempt: whether it may be sent. */
  reserve(): boolean
  /** An attempt is being sent, with the token that was taken for it. */
  commit(): RetryBudget.Token | undefined
  /** What was taken goes back: of an attempt that was not sent after all, or that was rejected before it was. */
  release(): void
  unsend(token: RetryBudget.Token | undefined): void
  /** How long an attempt took. */
  observe(ended: Ended<A, E>, startedAt: number): void
  /** An attempt did not give the answer. */
  note(exit: Exit.Exit<A, E>): void
  /** A result that nobody gets. */
  discard(value: A): void
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
export class Round<A, E, R> {
  private readonly loop: Calling<A, E, R>
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

  constructor(loop: Calling<A, E, R>, hedge: Hedging, delay: number) {
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
    if (this.timer !== undefined || this.hedgesLeft === 0 || loop.sends >= loop.attempts) return
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
