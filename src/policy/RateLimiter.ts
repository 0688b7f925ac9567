/**
 * Limits how many attempts start per span of time.
 *
 * `bursty` gives `limit` permits per window, all at once if asked; `smooth` gives
 * one per `window / limit`. An attempt that finds none waits for its turn, up to
 * `maxWait`, and is rejected at once with `LimitReached` and the time until a
 * permit when its turn would come later than that, or than its deadline.
 *
 * Waiters are served in the order in which they came, however many permits each
 * wants. They take their permits when their turn comes: one that is interrupted
 * before leaves no trace, and those behind it move up. A rejection takes nothing.
 *
 * It does not limit how many attempts are in flight (`Bulkhead`). Time is
 * monotonic: setting the wall clock changes nothing. State is per value: share
 * one among all callers of one quota. Inside the retry loop, since the other side
 * counts attempts; outside the circuit breaker.
 *
 * Source: reservations, resilience4j; the two kinds, failsafe-go; see
 * `internal/gcra.ts` and `internal/bursty.ts`.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Options from "../contract/Options.ts"
import * as Timer from "../contract/Timer.ts"
import { Bursty } from "./internal/bursty.ts"
import { Gcra } from "./internal/gcra.ts"
import * as Guard from "./internal/guard.ts"
import type { Meter, Rate } from "./internal/meter.ts"
import { Line, Waiter } from "./internal/queue.ts"
import * as Stamp from "./internal/stamp.ts"
import * as Policy from "./Policy.ts"

export interface RateLimiterOptions {
  /** Permits per `window`: an integer `>= 1`. */
  readonly limit: number
  /** Default 1 second. */
  readonly window?: Duration.Input | undefined
  /**
   * `bursty` gives the permits of a window at its start, `smooth` one by one.
   * Default `bursty`, which is what a quota of the other side usually means.
   */
  readonly mode?: "smooth" | "bursty" | undefined
  /**
   * Permits that an idle limiter saves up. `bursty`: an integer `>= limit`,
   * default `limit`. `smooth`: an integer `>= 1`, default 1.
   */
  readonly burst?: number | undefined
  /** Longest wait for a permit: finite. Default 0: who finds none is rejected. */
  readonly maxWait?: Duration.Input | undefined
  /** Name in errors, events and the dashboard. Default `"RateLimiter"`. */
  readonly name?: string | undefined
}

/** What became of an attempt to take permits without waiting. */
export interface Taken {
  readonly admitted: boolean
  /** Permits that are left. 0 with `admitted`: it was the last one. */
  readonly remaining: number
  /** When as many would be there, 0 if they were. */
  readonly retryAfterMillis: number
}

/** Permits that are due in the future. */
export interface Reservation {
  /** How long to wait before using them. */
  readonly waitMillis: number
  /** Gives them back, and those behind move up. No effect once they are due. */
  readonly cancel: Effect.Effect<void>
}

/** A rate limiter at one moment. */
export interface Stats {
  readonly limit: number
  readonly windowMillis: number
  /** Permits that would be given at once. */
  readonly available: number
  /** Attempts and reservations whose turn has not come. */
  readonly waiting: number
  /** Since it was made. */
  readonly admitted: number
  /** Since it was made. */
  readonly rejected: number
}

export interface RateLimiter extends Policy.OfKind<"rateLimiter", CallError.CallError<CallError.LimitReached>> {
  /**
   * Takes permits, waiting for them up to `maxWait`, by default the limiter's.
   * An integer `>= 1`, by default 1; more than `limit` take several windows.
   */
  readonly acquire: (
    permits?: number,
    maxWait?: Duration.Input
  ) => Effect.Effect<void, CallError.CallError<CallError.LimitReached>>
  /** Takes permits if they are there and nobody waits for them. */
  readonly tryAcquire: (permits?: number) => Effect.Effect<Taken>
  /** Takes a turn as `acquire` does and leaves the waiting to the caller. */
  readonly reserve: (
    permits?: number,
    maxWait?: Duration.Input
  ) => Effect.Effect<Reservation, CallError.CallError<CallError.LimitReached>>
  /** Takes all permits that are there: the other side says its quota is used up. */
  readonly drain: Effect.Effect<void>
  /**
   * Goes on at another rate. What has been used stays used; waiters keep their
   * order, and those who would now wait longer than they may are rejected.
   */
  readonly changeLimit: (limit: number, window?: Duration.Input) => Effect.Effect<void>
  /**
   * Goes on by other options, all of them, under its name, as `changeLimit` does. With another `mode` the permits that
   * were there still are, and the next ones come a window later. Those who wait, wait as long as they were to. Dies on
   * what `make` dies on.
   */
  readonly reconfigure: (options: RateLimiterOptions) => Effect.Effect<void>
  readonly stats: Effect.Effect<Stats>
}

type Rejection = CallError.CallError<CallError.LimitReached>

/**
 * Creates a rate limiter with all permits there.
 *
 * Dies with a `RangeError` when an option is out of range.
 */
export const make = (options: RateLimiterOptions): Effect.Effect<RateLimiter> =>
  Effect.withFiber((fiber) => {
    const { name = "RateLimiter" } = options
    const source = Timer.sourceOf(fiber)
    const state = new State(name, configOf("RateLimiter.make", options), Timer.now(fiber))
    fiber.getRef(Policy.CurrentRegistry)?.register({
      name,
      kind: "rateLimiter",
      snapshot: () => state.stats(Timer.nowOf(source.clock))
    })
    const permitsOf = (method: string, permits: number) =>
      Options.integer(`RateLimiter.${method}`, "permits", permits, 1)
    const waitOf = (method: string, maxWait: Duration.Input | undefined) =>
      maxWait === undefined ? state.maxWaitMillis : Options.millis(`RateLimiter.${method}`, "maxWait", maxWait, true)
    return Effect.succeed(
      Policy.make<Rejection, never, "rateLimiter", Omit<RateLimiter, keyof Policy.OfKind<"rateLimiter">>>(
        {
          name,
          kind: "rateLimiter",
          run: (self) => Effect.withFiber((fiber) => state.admit(fiber, 1, state.maxWaitMillis, self))
        },
        {
          acquire: (permits = 1, maxWait) =>
            Effect.withFiber((fiber) =>
              state.admit(fiber, permitsOf("acquire", permits), waitOf("acquire", maxWait), Effect.void)
            ),
          tryAcquire: (permits = 1) =>
            Effect.withFiber((fiber) => Effect.succeed(state.tryTake(fiber, permitsOf("tryAcquire", permits)))),
          reserve: (permits = 1, maxWait) =>
            Effect.withFiber((fiber) =>
              state.reserve(fiber, permitsOf("reserve", permits), waitOf("reserve", maxWait))
            ),
          drain: Effect.withFiber((fiber) => {
            state.meter.drain(Timer.now(fiber))
            return Effect.void
          }),
          changeLimit: (limit, window) =>
            Effect.withFiber((fiber) => state.change(fiber, state.configAt("RateLimiter.changeLimit", limit, window))),
          reconfigure: (options) =>
            Effect.withFiber((fiber) => state.change(fiber, configOf("RateLimiter.reconfigure", options))),
          stats: Effect.withFiber((fiber) => Effect.succeed(state.stats(Timer.now(fiber))))
        }
      )
    )
  })

/** The options, checked. */
interface Config {
  readonly mode: "smooth" | "bursty"
  readonly rate: Rate
  /** What is stated, of which the rate's is made. */
  readonly burst: number | undefined
  readonly maxWaitMillis: number
}

const configOf = (where: string, options: RateLimiterOptions): Config => {
  const { burst, maxWait = 0, mode = "bursty", window = "1 second" } = options
  Options.check(mode === "smooth" || mode === "bursty", where, "mode", "smooth or bursty", mode)
  const limit = Options.integer(where, "limit", options.limit, 1)
  if (burst !== undefined) Options.integer(where, "burst", burst, mode === "smooth" ? 1 : limit)
  return {
    mode,
    rate: { limit, windowMillis: Options.millis(where, "window", window), burst: burstOf(mode, burst, limit) },
    burst,
    maxWaitMillis: Options.millis(where, "maxWait", maxWait, true)
  }
}

const burstOf = (mode: Config["mode"], stated: number | undefined, limit: number): number =>
  mode === "smooth" ? stated ?? 1 : Math.max(stated ?? limit, limit)

const meterOf = ({ mode, rate }: Config, now: number): Meter =>
  mode === "smooth" ? new Gcra(rate, now) : new Bursty(rate, now)

class Turn extends Waiter {
  readonly permits: number
  readonly since: number
  /** The latest instant at which its turn may come. */
  readonly until: number
  readonly source: Timer.Source
  readonly begin: () => void
  readonly refuse: (waitMillis: number) => void

  constructor(
    permits: number,
    since: number,
    until: number,
    source: Timer.Source,
    begin: () => void,
    refuse: (waitMillis: number) => void
  ) {
    super()
    this.permits = permits
    this.since = since
    this.until = until
    this.source = source
    this.begin = begin
    this.refuse = refuse
  }
}

class State {
  readonly name: string
  meter: Meter
  private config: Config
  private admitted = 0
  private rejected = 0
  /** Those whose turn has not come. Only the oldest has taken its permits. */
  private readonly line = new Line<Turn>()
  /** Permits wanted by those behind the oldest. */
  private wanted = 0
  /** Rings when the oldest one's permits are due. */
  private timer!: Timer.Timer

  constructor(name: string, config: Config, now: number) {
    this.name = name
    this.config = config
    this.meter = meterOf(config, now)
  }

  get maxWaitMillis(): number {
    return this.config.maxWaitMillis
  }

  /** Goes on with `self` when permits are taken. */
  admit<A, E, R>(
    fiber: Fiber.Fiber<unknown, unknown>,
    permits: number,
    maxWaitMillis: number,
    self: Effect.Effect<A, E, R>
  ): Effect.Effect<A, E | Rejection, R> {
    const now = Timer.now(fiber)
    if (this.take(now, permits)) return self
    if (maxWaitMillis === 0) return Effect.fail(this.reject(fiber, now, this.waitOf(now, permits)))
    return Effect.flatMap(this.wait(permits, maxWaitMillis), () => self)
  }

  tryTake(fiber: Fiber.Fiber<unknown, unknown>, permits: number): Taken {
    const now = Timer.now(fiber)
    const retryAfterMillis = this.waitOf(now, permits)
    const admitted = this.take(now, permits)
    if (!admitted) this.rejected++
    return { admitted, remaining: this.available(now), retryAfterMillis }
  }

  reserve(
    fiber: Fiber.Fiber<unknown, unknown>,
    permits: number,
    maxWaitMillis: number
  ): Effect.Effect<Reservation, Rejection> {
    const now = Timer.now(fiber)
    if (this.take(now, permits)) return Effect.succeed({ waitMillis: 0, cancel: Effect.void })
    const until = this.untilOf(fiber, now, maxWaitMillis)
    const due = this.dueAt(now, permits)
    if (due > until) return Effect.fail(this.reject(fiber, now, due - now))
    // What has been promised is kept, also at another rate.
    const turn = new Turn(permits, now, Infinity, Timer.sourceOf(fiber), () => {}, () => {})
    this.join(turn)
    return Effect.succeed({
      waitMillis: Math.max(0, due - now),
      cancel: Effect.sync(() => void this.leave(turn))
    })
  }

  /** The present options with another rate. */
  configAt(where: string, limit: number, window: Duration.Input | undefined): Config {
    const { burst, mode, rate } = this.config
    Options.integer(where, "limit", limit, 1)
    const windowMillis = window === undefined ? rate.windowMillis : Options.millis(where, "window", window)
    return { ...this.config, rate: { limit, windowMillis, burst: burstOf(mode, burst, limit) } }
  }

  change(fiber: Fiber.Fiber<unknown, unknown>, config: Config): Effect.Effect<void> {
    const { rate: from } = this.config
    const { limit, windowMillis } = config.rate
    const now = Timer.now(fiber)
    const turns: Array<Turn> = []
    // From the youngest on, so that nobody is promoted meanwhile.
    for (let turn = this.line.youngest; turn !== undefined; turn = this.line.youngest) {
      this.leave(turn)
      turns.push(turn)
    }
    if (config.mode === this.config.mode) this.meter.change(now, config.rate)
    else {
      const available = this.meter.available(now)
      this.meter = meterOf(config, now)
      this.meter.drain(now)
      this.meter.refund(Math.min(available, config.rate.burst))
    }
    this.config = config
    const refused: Array<() => void> = []
    for (const turn of turns.toReversed()) {
      const due = this.dueAt(turn.since, turn.permits)
      if (due <= turn.until) this.join(turn)
      else refused.push(() => turn.refuse(due - now))
    }
    if (limit !== from.limit || windowMillis !== from.windowMillis) {
      CallEvent.receiverOf(fiber)?.event({
        _tag: "LimitMoved",
        policy: this.name,
        from: from.limit,
        to: limit,
        why: `changed from ${from.limit} per ${from.windowMillis}ms to ${limit} per ${windowMillis}ms`,
        atMillis: now
      })
    }
    for (const refuse of refused) refuse()
    return Effect.void
  }

  stats(now: number): Stats {
    const { limit, windowMillis } = this.config.rate
    const { admitted, line, rejected } = this
    return { limit, windowMillis, available: this.available(now), waiting: line.size, admitted, rejected }
  }

  private available(now: number): number {
    return this.line.size > 0 ? 0 : this.meter.available(now)
  }

  /** Takes permits if they are there and nobody waits for them. */
  private take(now: number, permits: number): boolean {
    if (this.line.size > 0 || this.meter.dueAt(now, permits) > now) return false
    this.meter.take(now, permits)
    this.admitted++
    return true
  }

  /** When the turn of a newcomer would come. */
  private dueAt(now: number, permits: number): number {
    return this.meter.dueAt(now, this.wanted + permits)
  }

  private waitOf(now: number, permits: number): number {
    return Math.max(0, this.dueAt(now, permits) - now)
  }

  /** The latest instant at which a turn may come. At the deadline itself it is of no use. */
  private untilOf(fiber: Fiber.Fiber<unknown, unknown>, now: number, maxWaitMillis: number): number {
    const { deadline } = fiber.getRef(CallContext.Current)
    return now + maxWaitMillis < deadline ? now + maxWaitMillis : deadline - 1e-6
  }

  private reject(fiber: Fiber.Fiber<unknown, unknown>, now: number, retryAfterMillis: number): Rejection {
    this.rejected++
    const error = new CallError.CallError({
      _tag: "LimitReached",
      policy: this.name,
      sent: "no",
      limit: this.config.rate.limit,
      retryAfterMillis
    })
    CallEvent.receiverOf(fiber)?.event({
      _tag: "Rejected",
      call: fiber.getRef(CallContext.Current),
      policy: this.name,
      reason: "LimitReached",
      error,
      state: undefined,
      atMillis: now
    })
    return error
  }

  private wait(permits: number, maxWaitMillis: number): Effect.Effect<void, Rejection> {
    return Effect.callback((resume) => {
      const fiber = Guard.currentFiber()
      const now = Timer.now(fiber)
      const until = this.untilOf(fiber, now, maxWaitMillis)
      const due = this.dueAt(now, permits)
      if (due > until) return resume(Effect.fail(this.reject(fiber, now, due - now)))
      const stamp = Stamp.of(fiber)
      const over = (how: CallEvent.QueueLeft["how"]) => {
        const atMillis = Timer.now(fiber)
        const waitedMillis = atMillis - now
        Stamp.go(stamp, waitedMillis)
        const call = fiber.getRef(CallContext.Current)
        const policy = this.name
        CallEvent.receiverOf(fiber)?.event({ _tag: "QueueLeft", call, policy, how, waitedMillis, atMillis })
      }
      const turn = new Turn(permits, now, until, Timer.sourceOf(fiber), () => {
        over("admitted")
        resume(Effect.void)
      }, (waitMillis) => {
        over("rejected")
        resume(Effect.fail(this.reject(fiber, Timer.now(fiber), waitMillis)))
      })
      Stamp.wait(stamp)
      this.join(turn)
      return Effect.sync(() => {
        if (this.leave(turn)) over("interrupted")
      })
    })
  }

  private join(turn: Turn): void {
    this.line.push(turn)
    if (this.line.oldest === turn) this.arm(turn, this.meter.take(turn.since, turn.permits))
    else this.wanted += turn.permits
  }

  /** Whether the turn had not come. */
  private leave(turn: Turn): boolean {
    const isFirst = this.line.oldest === turn
    if (!this.line.remove(turn)) return false
    if (isFirst) {
      this.timer.cancel()
      this.meter.refund(turn.permits)
      const next = this.line.oldest
      if (next !== undefined) this.arm(next, this.promote(next))
    } else this.wanted -= turn.permits
    return true
  }

  /** The next one takes its permits, as of when it came: an interval that passed unused while it waited is its own. */
  private promote(turn: Turn): number {
    this.wanted -= turn.permits
    return this.meter.take(turn.since, turn.permits)
  }

  private arm(turn: Turn, due: number): void {
    this.timer = Timer.scheduleOn(turn.source, due, () => this.serve(turn))
  }

  private serve(first: Turn): void {
    const now = Timer.nowOf(first.source.clock)
    const begun: Array<Turn> = []
    let turn: Turn | undefined = first
    while (turn !== undefined) {
      this.line.remove(turn)
      this.admitted++
      begun.push(turn)
      turn = this.line.oldest
      if (turn === undefined) break
      const due = this.promote(turn)
      if (due > now) {
        this.arm(turn, due)
        break
      }
    }
    // Last: what begins goes on at once, and may join, leave or change the limit.
    for (const turn of begun) turn.begin()
  }
}
