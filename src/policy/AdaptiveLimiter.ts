/**
 * Limits how many attempts are in flight, and finds out how many that should be.
 *
 * The limit grows while attempts answer as fast as ever and falls when they
 * begin to queue at the endpoint, which shows in how long they take; when many
 * run out of time or are turned away it falls at once, in proportion. Every move
 * is a `LimitMoved` event that says why. What it learns from: answers, timeouts,
 * and the endpoint's word that it is overloaded, unavailable or rate limited.
 * What it does not: failures, which may be quick because nothing was done, and
 * attempts whose caller left.
 *
 * In front of it is a queue, first come first served, for what is more than the
 * limit for a moment. Up to twice the limit may wait; beyond, newcomers are
 * rejected with a probability that reaches 1 at three times the limit, so that
 * the pressure rises instead of jumping. Nobody waits longer than `maxWait`, nor
 * past its deadline: a wait that would not fit, at the present pace, is refused
 * at once.
 *
 * It does not limit how fast attempts follow each other (`RateLimiter`), and it
 * needs traffic to learn from: for a limit you know, use a `Bulkhead`. State is
 * per value: share one among all callers of one endpoint. Inside the circuit
 * breaker and outside the timeout, since waiting here is not the endpoint's
 * latency and attempts that time out are. Of an attempt that a timeout inside
 * has given up the permit is back when its work ends.
 *
 * Source: failsafe-go `adaptivelimiter`; `internal/gradient.ts` says what differs.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Random from "effect/Random"
import * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Criticality from "../contract/Criticality.ts"
import * as Interruption from "../contract/Interruption.ts"
import * as Options from "../contract/Options.ts"
import * as Outcome from "../contract/Outcome.ts"
import * as Timer from "../contract/Timer.ts"
import { Capacity } from "./internal/capacity.ts"
import { Gradient, type Kind, type Move, type Options as GradientOptions, rejectionAt } from "./internal/gradient.ts"
import * as Guard from "./internal/guard.ts"
import { Permits, RankedWaiter } from "./internal/permits.ts"
import * as Progress from "./internal/progress.ts"
import * as Stamp from "./internal/stamp.ts"
import * as Policy from "./Policy.ts"

export interface AdaptiveLimiterOptions {
  /**
   * The limit before anything is known: an integer in `[min, max]`. Default 20,
   * which at 100 ms per call is 200 calls per second.
   */
  readonly initial?: number | undefined
  /** An integer `>= 1`. Default 1: below there would be nothing to learn from. */
  readonly min?: number | undefined
  /** An integer `>= min`. Default 200. */
  readonly max?: number | undefined
  /**
   * Shortest time between two moves: positive and finite. Longer where calls take
   * longer: two of the fastest, up to 30 seconds. Default 1 second.
   */
  readonly window?: Duration.Input | undefined
  /** Attempts that a move must be founded on: an integer `>= 1`. Default 50: their 90th percentile leaves 5 above it. */
  readonly minimumCalls?: number | undefined
  /**
   * The limit stays within this many times the attempts that were in flight at most, but never below `initial` for that
   * reason: a number `>= 1`. Default 5.
   */
  readonly maxFactor?: number | undefined
  /** How long the most attempts in flight are remembered for `maxFactor`; 0 for the last window only. Default 1 minute. */
  readonly stabilization?: Duration.Input | undefined
  /** Attempts that may wait: an integer `>= 0`, 0 for none. Default 3 times `max`, where rejection is certain anyway. */
  readonly maxQueue?: number | undefined
  /** When to reject instead of queueing, in multiples of the limit: numbers with `0 <= from <= to`. Default 2 and 3. */
  readonly rejection?: { readonly from: number; readonly to: number } | undefined
  /** Longest wait for a permit: finite, 0 for none at all. Default 10 seconds. */
  readonly maxWait?: Duration.Input | undefined
  /** Name in errors, events and the dashboard. Default `"AdaptiveLimiter"`. */
  readonly name?: string | undefined
}

/** A limiter at one moment. */
export interface Stats {
  readonly limit: number
  /** Above `limit` for a while after it fell. */
  readonly inFlight: number
  readonly queued: number
  /** Since it was made. */
  readonly admitted: number
  /** Since it was made. */
  readonly rejected: number
  /** What attempts have taken of late, and what they take in the long run; `undefined` before the first window. */
  readonly recentMillis: number | undefined
  readonly baselineMillis: number | undefined
  /** Attempts at a time that the endpoint has been seen to answer without queueing, in the last 5 seconds. */
  readonly sustained: number
}

export interface AdaptiveLimiter extends Policy.OfKind<"adaptiveLimiter", CallError.CallError<CallError.LimitReached>> {
  readonly stats: Effect.Effect<Stats>
  /**
   * Goes on by other options, all of them, under its name: with what it has learnt, and with the limit it has found as
   * far as `min` and `max` allow. Permits that are out stay out, and waiters keep their places. Dies on what `make` dies
   * on.
   */
  readonly reconfigure: (options: AdaptiveLimiterOptions) => Effect.Effect<void>
}

/**
 * Creates a limiter that knows nothing yet.
 *
 * Dies with a `RangeError` when an option is out of its range.
 */
export const make = (options: AdaptiveLimiterOptions = {}): Effect.Effect<AdaptiveLimiter> =>
  Effect.withFiber((fiber) => {
    const { name = "AdaptiveLimiter" } = options
    const state = new State(name, configOf("AdaptiveLimiter.make", options), Timer.now(fiber))
    // Of the clock it was made with: a reader outside any fiber has no other.
    const clock = fiber.getRef(Clock.Clock)
    const stats = () => state.stats(Timer.nowOf(clock))
    fiber.getRef(Policy.CurrentRegistry)?.register({ name, kind: "adaptiveLimiter", snapshot: stats })
    return Effect.succeed(
      Policy.make<
        CallError.CallError<CallError.LimitReached>,
        never,
        "adaptiveLimiter",
        Pick<AdaptiveLimiter, "stats" | "reconfigure">
      >(
        { name, kind: "adaptiveLimiter", run: (self) => run(state, self) },
        {
          stats: Effect.sync(stats),
          reconfigure: (options) =>
            Effect.withFiber((fiber) => {
              state.change(configOf("AdaptiveLimiter.reconfigure", options), fiber)
              return Effect.void
            })
        }
      )
    )
  })

const clamp = (value: number, min: number, max: number): number => Math.min(max, Math.max(min, value))

/** The options, checked. */
interface Config {
  readonly gradient: GradientOptions
  readonly maxQueue: number
  readonly rejection: { readonly from: number; readonly to: number }
  readonly maxWaitMillis: number
}

const configOf = (where: string, options: AdaptiveLimiterOptions): Config => {
  const { maxWait = "10 seconds", rejection = { from: 2, to: 3 } } = options
  const min = Options.integer(where, "min", options.min ?? 1, 1)
  const max = Options.integer(where, "max", options.max ?? Math.max(200, min), min)
  Options.finite(where, "rejection.from", rejection.from, 0)
  Options.finite(where, "rejection.to", rejection.to, rejection.from)
  const windowMillis = Options.millis(where, "window", options.window ?? "1 second")
  return {
    gradient: {
      initial: Options.integer(where, "initial", options.initial ?? clamp(20, min, max), min, max),
      min,
      max,
      windowMillis,
      maxWindowMillis: Math.max(30_000, windowMillis),
      minimumCalls: Options.integer(where, "minimumCalls", options.minimumCalls ?? 50, 1),
      maxFactor: Options.finite(where, "maxFactor", options.maxFactor ?? 5, 1),
      stabilizationMillis: Options.millis(where, "stabilization", options.stabilization ?? "1 minute", true)
    },
    maxQueue: Options.integer(where, "maxQueue", options.maxQueue ?? 3 * max, 0),
    rejection,
    maxWaitMillis: Options.millis(where, "maxWait", maxWait, true)
  }
}

/** A permit: from when on it was held, and how many were out then. */
interface Held {
  startedAt: number
  inFlight: number
}

const run = <A, E, R>(
  state: State,
  self: Effect.Effect<A, E, R>
): Effect.Effect<A, E | CallError.CallError<CallError.LimitReached>, R> =>
  Effect.withFiber((fiber) => {
    const held: Held = { startedAt: 0, inFlight: 0 }
    // The release is in place before the permit is taken: between two steps a fiber may be interrupted.
    return Effect.onExitPrimitive(
      Effect.suspend(() =>
        state.permits.take()
          ? (state.grant(held, Timer.now(fiber)), self)
          : Effect.flatMap(wait(state, held), () => self)
      ),
      (exit) => {
        if (held.inFlight > 0) state.settle(held, exit, fiber)
        return undefined
      }
    )
  })

/** Waits for a permit, or is rejected; `held` is filled in in the step that hands the permit over. */
const wait = (state: State, held: Held) =>
  Effect.callback<void, CallError.CallError<CallError.LimitReached>>((resume) => {
    const fiber = Guard.currentFiber()
    const { permits } = state
    const call = fiber.getRef(CallContext.Current)
    const now = Timer.now(fiber)
    const rank = Criticality.rank(call.criticality)
    if (!permits.hasPlace(rank) || !state.mayWait(call.deadline - now, fiber)) {
      return resume(state.reject(fiber, call))
    }
    const waiter = new Waiter(state, fiber, call, rank, now, held, resume)
    const displaced = permits.enqueue(waiter)
    // A guarded deadline interrupts the waiter by itself.
    const deadline = Progress.isGuarded(fiber, call.deadline) ? Infinity : call.deadline
    waiter.timer = Timer.schedule(fiber, Math.min(now + state.maxWaitMillis, deadline), () => {
      permits.leave(waiter)
      waiter.reject()
    })
    // Last: it goes on at once, and what it does may give this one its permit.
    displaced?.reject()
    return Effect.sync(() => {
      // One that has left the queue already was handed a permit, which its exit gives back.
      if (permits.leave(waiter)) waiter.left("interrupted")
    })
  })

class Waiter extends RankedWaiter {
  readonly rank: number
  timer: Timer.Timer | undefined
  private readonly state: State
  private readonly fiber: Fiber.Fiber<unknown, unknown>
  private readonly call: CallContext.CallContext
  private readonly since: number
  private readonly held: Held
  private readonly resume: (answer: Effect.Effect<void, CallError.CallError<CallError.LimitReached>>) => void
  private readonly stamp: Stamp.Stamp | undefined

  constructor(
    state: State,
    fiber: Fiber.Fiber<unknown, unknown>,
    call: CallContext.CallContext,
    rank: number,
    since: number,
    held: Held,
    resume: (answer: Effect.Effect<void, CallError.CallError<CallError.LimitReached>>) => void
  ) {
    super()
    this.state = state
    this.fiber = fiber
    this.call = call
    this.rank = rank
    this.since = since
    this.held = held
    this.resume = resume
    this.stamp = Stamp.of(fiber)
    Stamp.wait(this.stamp)
  }

  admit(): void {
    this.state.grant(this.held, this.left("admitted"))
    this.resume(Effect.void)
  }

  reject(): void {
    this.left("rejected")
    this.resume(this.state.reject(this.fiber, this.call))
  }

  /** Whether its call's time is up: a permit would come too late. */
  isLate(): boolean {
    return Timer.now(this.fiber) >= this.call.deadline
  }

  /** Its time is up in this very step: whoever guards its deadline answers, or else nobody but this. */
  expire(): void {
    if (!Progress.isGuarded(this.fiber, this.call.deadline)) return this.reject()
    this.left("interrupted")
    this.resume(Guard.leaveToGuard(Effect.suspend(() => this.state.reject(this.fiber, this.call))))
  }

  /** The wait is over; returns when. */
  left(how: CallEvent.QueueLeft["how"]): number {
    this.timer?.cancel()
    const { call, fiber, state } = this
    const atMillis = Timer.now(fiber)
    const waitedMillis = atMillis - this.since
    Stamp.go(this.stamp, waitedMillis)
    CallEvent.receiverOf(fiber)?.event({ _tag: "QueueLeft", call, policy: state.name, how, waitedMillis, atMillis })
    return atMillis
  }
}

class State {
  readonly permits: Permits<Waiter>
  private config: Config
  readonly name: string
  private readonly core: Gradient
  private readonly capacity = new Capacity(5000, 50)
  private admitted = 0
  private rejected = 0
  private handing = false

  constructor(name: string, config: Config, now: number) {
    this.name = name
    this.config = config
    this.core = new Gradient(config.gradient, now)
    this.permits = new Permits(this.core.limit, config.maxQueue)
  }

  get maxWaitMillis(): number {
    return this.config.maxWaitMillis
  }

  change(config: Config, fiber: Fiber.Fiber<unknown, unknown>): void {
    const from = this.core.limit
    this.config = config
    this.core.change(config.gradient)
    this.permits.maxQueue = config.maxQueue
    this.move(from, this.core.limit, "reconfigured", fiber)
  }

  /** A permit was taken. */
  grant(held: Held, now: number): void {
    held.startedAt = now
    held.inFlight = this.permits.inFlight
    this.admitted++
  }

  /** Whether a newcomer may queue: by chance where many do, and if its turn comes in time. */
  mayWait(remainingMillis: number, fiber: Fiber.Fiber<unknown, unknown>): boolean {
    const { limit, queued } = this.permits
    if (this.maxWaitMillis === 0 || remainingMillis <= 0) return false
    // The permits come back at a pace of `limit` per latency. Unknown, it is NaN, and refuses nobody.
    if (((queued + 1) / limit) * this.core.recent.value > remainingMillis) return false
    const { from, to } = this.config.rejection
    const chance = rejectionAt(queued, from * limit, to * limit)
    return chance === 0 || (chance < 1 && fiber.getRef(Random.Random).nextDoubleUnsafe() >= chance)
  }

  /** The attempt has ended. */
  settle(held: Held, exit: Exit.Exit<unknown, unknown>, fiber: Fiber.Fiber<unknown, unknown>): void {
    const now = Timer.now(fiber)
    const full = this.permits.queued > 0 || this.permits.inFlight >= this.permits.limit
    if (Exit.isSuccess(exit)) this.release()
    else Guard.whenOver(exit.cause, this.release)
    // Classifying may run the caller's code, and that may throw: the permit is on its way by then.
    const kind = kindOf(exit, fiber.getRef(CallContext.Current))
    if (kind === undefined) return
    const millis = now - held.startedAt
    if (kind === "answered") this.capacity.add(millis, now)
    const move = this.core.record(kind, millis, held.inFlight, full, now)
    if (move !== undefined) this.move(move.from, move.to, describe(move), fiber)
  }

  private move(from: number, to: number, why: string, fiber: Fiber.Fiber<unknown, unknown>): void {
    if (from === to) return
    this.permits.limit = to
    CallEvent.receiverOf(fiber)?.event({
      _tag: "LimitMoved",
      policy: this.name,
      from,
      to,
      why,
      atMillis: Timer.now(fiber)
    })
    this.handOver()
  }

  reject(
    fiber: Fiber.Fiber<unknown, unknown>,
    call: CallContext.CallContext
  ): Effect.Effect<never, CallError.CallError<CallError.LimitReached>> {
    this.rejected++
    const { limit } = this.permits
    const error = new CallError.CallError({ _tag: "LimitReached", policy: this.name, sent: "no", limit })
    CallEvent.receiverOf(fiber)?.event({
      _tag: "Rejected",
      call,
      policy: this.name,
      reason: "LimitReached",
      error,
      state: undefined,
      atMillis: Timer.now(fiber)
    })
    return Effect.fail(error)
  }

  stats(now: number): Stats {
    const { inFlight, limit, queued } = this.permits
    const { admitted, rejected } = this
    return {
      limit,
      inFlight,
      queued,
      admitted,
      rejected,
      recentMillis: known(this.core.recent.value),
      baselineMillis: known(this.core.baseline.value),
      sustained: this.capacity.atATime(now)
    }
  }

  private readonly release = (): void => {
    this.permits.giveBack()
    this.handOver()
  }

  /** Work that is admitted may end, and release, before `admit` returns: the outermost call goes on with the next. */
  private handOver(): void {
    if (this.handing) return
    this.handing = true
    for (let next = this.permits.next(); next !== undefined; next = this.permits.next()) {
      if (next.isLate()) {
        this.permits.giveBack()
        next.expire()
      } else next.admit()
    }
    this.handing = false
  }
}

const known = (value: number): number | undefined => Number.isNaN(value) ? undefined : value

/** What there is to learn from an attempt; `undefined` for nothing. */
const kindOf = (exit: Exit.Exit<unknown, unknown>, call: CallContext.CallContext): Kind | undefined => {
  if (Exit.isSuccess(exit)) return "answered"
  const { cause } = exit
  if (Cause.hasInterrupts(cause)) return Interruption.fromCause(cause) === "attemptTimeout" ? "late" : undefined
  if (Cause.hasDies(cause)) return undefined
  const error = cause.reasons.find(Cause.isFailReason)?.error
  if (CallError.isCallError(error)) {
    const special = kinds[error.reason._tag]
    if (special !== undefined) return special
  } else if (Cause.isTimeoutError(error)) {
    return "late"
  }
  return Outcome.ofError(error, call).endpoint === "success" ? "answered" : undefined
}

const kinds: { readonly [Tag in CallError.Reason["_tag"]]?: Kind } = {
  AttemptTimeout: "late",
  Overloaded: "refused",
  RateLimited: "refused",
  Unavailable: "refused"
}

const describe = ({ baselineMillis, overloaded, peak, queueing, recentMillis, why }: Move): string =>
  why === "overload"
    ? `overload: ${(100 * overloaded).toFixed(0)} % late or refused`
    : why === "more than is used"
    ? `more than is used: ${peak} in flight at most`
    : `${why}: ${recentMillis.toFixed(1)}ms of late, ${baselineMillis.toFixed(1)}ms in the long run, ${
      Math.max(0, queueing)
    } queueing`
