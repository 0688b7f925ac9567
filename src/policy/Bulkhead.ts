/**
 * Limits how many attempts are in flight at the same time.
 *
 * Who finds no free permit waits in a bounded queue, if there is one, and is
 * handed the next permit that comes back before anybody who comes later; or is
 * rejected with `BulkheadFull`. When the queue is full a call takes the place of
 * a less critical one: the youngest of the least critical waiters is rejected
 * instead. Nobody waits longer than `maxWait`, or past its deadline.
 *
 * It does not limit how fast calls follow each other (`RateLimiter`), and does
 * not find out what the right limit is (`AdaptiveLimiter`).
 *
 * A permit is back when the attempt ends, be it by an interrupt or a defect. Of
 * an attempt that a timeout inside has given up it is back when its work ends:
 * that still is in flight. State is per value: share one among all callers of
 * what it protects. Inside the circuit breaker, outside the timeout.
 *
 * Source: hand-over to the waiter before any newcomer, Polly; waits, failsafe-go.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Criticality from "../contract/Criticality.ts"
import { evaluate, isImmediate } from "../contract/Immediate.ts"
import * as Options from "../contract/Options.ts"
import * as Timer from "../contract/Timer.ts"
import * as Guard from "./internal/guard.ts"
import { Permits, RankedWaiter } from "./internal/permits.ts"
import * as Progress from "./internal/progress.ts"
import * as Stamp from "./internal/stamp.ts"
import * as Policy from "./Policy.ts"

export interface BulkheadOptions {
  /** Attempts in flight at most: an integer `>= 1`. */
  readonly limit: number
  /** Calls that may wait for a permit: an integer `>= 0`. Default 0: who finds none is rejected. */
  readonly maxQueue?: number | undefined
  /**
   * Longest wait for a permit: finite, 0 for none at all. Default 10 seconds, the
   * time a person waits before turning to something else.
   */
  readonly maxWait?: Duration.Input | undefined
  /** Name in errors, events and the dashboard. Default `"Bulkhead"`. */
  readonly name?: string | undefined
}

/** A bulkhead at one moment. */
export interface Stats {
  readonly limit: number
  /** Permits that would be given at once. */
  readonly available: number
  /** Above `limit` for a while after it shrank. */
  readonly inFlight: number
  readonly maxQueue: number
  readonly queued: number
  /** Since it was made. */
  readonly admitted: number
  /** Since it was made. */
  readonly rejected: number
  /** Time spent in the queue by those who have left it, since it was made. */
  readonly waitedMillis: number
}

export interface Bulkhead extends Policy.OfKind<"bulkhead", CallError.CallError<CallError.BulkheadFull>> {
  readonly stats: Effect.Effect<Stats>
  /**
   * Changes the limit, and the queue's if given, while calls are in flight.
   * Growing admits waiters at once; shrinking takes nothing away, and admits
   * again when enough attempts have ended. Dies on what `make` dies on.
   */
  readonly resize: (limit: number, queue?: Pick<BulkheadOptions, "maxQueue" | "maxWait">) => Effect.Effect<void>
}

/**
 * Creates a bulkhead with all permits free.
 *
 * Dies with a `RangeError` when an option is out of range.
 */
export const make = (options: BulkheadOptions): Effect.Effect<Bulkhead> =>
  Effect.withFiber((fiber) => {
    const { maxQueue = 0, maxWait = "10 seconds", name = "Bulkhead" } = options
    const where = "Bulkhead.make"
    const state = new State(
      name,
      Options.integer(where, "limit", options.limit, 1),
      Options.integer(where, "maxQueue", maxQueue, 0),
      Options.millis(where, "maxWait", maxWait, true)
    )
    fiber.getRef(Policy.CurrentRegistry)?.register({ name, kind: "bulkhead", snapshot: () => state.stats() })
    return Effect.succeed(
      Policy.make<
        CallError.CallError<CallError.BulkheadFull>,
        never,
        "bulkhead",
        Omit<Bulkhead, keyof Policy.OfKind<"bulkhead">>
      >(
        { name, kind: "bulkhead", run: (self) => run(state, self) },
        {
          stats: Effect.sync(() => state.stats()),
          resize: (limit, queue = {}) => Effect.withFiber((fiber) => state.resize(fiber, limit, queue))
        }
      )
    )
  })

const run = <A, E, R>(
  state: State,
  self: Effect.Effect<A, E, R>
): Effect.Effect<A, E | CallError.CallError<CallError.BulkheadFull>, R> => {
  const { permits } = state
  const holding = Effect.onExitPrimitive(self, state.ended)
  return Effect.withFiber<A, E | CallError.CallError<CallError.BulkheadFull>, R>((fiber) => {
    // Between two steps a fiber may be interrupted, so a permit is taken in the step that installs its release. This one
    // does both, and allocates nothing.
    if (isImmediate && permits.take()) {
      state.admitted++
      return evaluate(holding, self, fiber)
    }
    return permits.maxQueue === 0 && permits.available === 0
      ? state.reject(fiber, fiber.getRef(CallContext.Current))
      : enqueue(state, self)
  })
}

/** Here the release is installed first, and told when there is something to release. */
const enqueue = <A, E, R>(
  state: State,
  self: Effect.Effect<A, E, R>
): Effect.Effect<A, E | CallError.CallError<CallError.BulkheadFull>, R> => {
  let holds = false
  const granted = () => {
    holds = true
    state.admitted++
  }
  return Effect.onExitPrimitive(
    Effect.flatMap(wait(state, granted), () => self),
    (exit) => holds ? state.ended(exit) : undefined
  )
}

/** Waits for a permit; `granted` is called in the step that hands it over. */
const wait = (state: State, granted: () => void) =>
  Effect.callback<void, CallError.CallError<CallError.BulkheadFull>>((resume) => {
    const { permits } = state
    // One may have come back since it was asked for, and nobody else will hand it over.
    if (permits.take()) {
      granted()
      return resume(Effect.void)
    }
    const fiber = Guard.currentFiber()
    const call = fiber.getRef(CallContext.Current)
    const now = Timer.now(fiber)
    const rank = Criticality.rank(call.criticality)
    if (state.maxWaitMillis === 0 || call.deadline <= now || !permits.hasPlace(rank)) {
      return resume(state.reject(fiber, call))
    }
    const waiter = new Waiter(state, fiber, call, rank, now, granted, resume)
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
  /** Set in the step that queues it. */
  timer!: Timer.Timer
  private readonly state: State
  private readonly fiber: Fiber.Fiber<unknown, unknown>
  private readonly call: CallContext.CallContext
  private readonly since: number
  private readonly granted: () => void
  private readonly resume: (answer: Effect.Effect<void, CallError.CallError<CallError.BulkheadFull>>) => void
  private readonly stamp: Stamp.Stamp | undefined

  constructor(
    state: State,
    fiber: Fiber.Fiber<unknown, unknown>,
    call: CallContext.CallContext,
    rank: number,
    since: number,
    granted: () => void,
    resume: (answer: Effect.Effect<void, CallError.CallError<CallError.BulkheadFull>>) => void
  ) {
    super()
    this.state = state
    this.fiber = fiber
    this.call = call
    this.rank = rank
    this.since = since
    this.granted = granted
    this.resume = resume
    this.stamp = Stamp.of(fiber)
    Stamp.wait(this.stamp)
  }

  admit(): void {
    this.left("admitted")
    this.granted()
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

  /** The wait is over. */
  left(how: CallEvent.QueueLeft["how"]): void {
    this.timer.cancel()
    const { call, fiber, state } = this
    const atMillis = Timer.now(fiber)
    const waitedMillis = atMillis - this.since
    Stamp.go(this.stamp, waitedMillis)
    state.waitedMillis += waitedMillis
    CallEvent.receiverOf(fiber)?.event({ _tag: "QueueLeft", call, policy: state.name, how, waitedMillis, atMillis })
  }
}

class State {
  readonly name: string
  readonly permits: Permits<Waiter>
  maxWaitMillis: number
  admitted = 0
  rejected = 0
  waitedMillis = 0
  private handing = false

  constructor(name: string, limit: number, maxQueue: number, maxWaitMillis: number) {
    this.name = name
    this.permits = new Permits(limit, maxQueue)
    this.maxWaitMillis = maxWaitMillis
  }

  /** The attempt of a holder has ended. */
  readonly ended = (exit: Exit.Exit<unknown, unknown>): undefined => {
    if (Exit.isSuccess(exit)) this.release()
    else Guard.whenOver(exit.cause, this.release)
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

  reject(
    fiber: Fiber.Fiber<unknown, unknown>,
    call: CallContext.CallContext
  ): Effect.Effect<never, CallError.CallError<CallError.BulkheadFull>> {
    this.rejected++
    const { limit, queued } = this.permits
    const error = new CallError.CallError({ _tag: "BulkheadFull", policy: this.name, sent: "no", limit, queued })
    CallEvent.receiverOf(fiber)?.event({
      _tag: "Rejected",
      call,
      policy: this.name,
      reason: "BulkheadFull",
      error,
      state: undefined,
      atMillis: Timer.now(fiber)
    })
    return Effect.fail(error)
  }

  resize(
    fiber: Fiber.Fiber<unknown, unknown>,
    limit: number,
    queue: Pick<BulkheadOptions, "maxQueue" | "maxWait">
  ): Effect.Effect<void> {
    const where = "Bulkhead.resize"
    Options.integer(where, "limit", limit, 1)
    const maxQueue = Options.integer(where, "maxQueue", queue.maxQueue ?? this.permits.maxQueue, 0)
    const maxWaitMillis = Options.millis(where, "maxWait", queue.maxWait ?? this.maxWaitMillis, true)
    this.permits.maxQueue = maxQueue
    this.maxWaitMillis = maxWaitMillis
    const from = this.permits.limit
    this.permits.limit = limit
    if (from !== limit) {
      CallEvent.receiverOf(fiber)?.event({
        _tag: "LimitMoved",
        policy: this.name,
        from,
        to: limit,
        why: "resized",
        atMillis: Timer.now(fiber)
      })
    }
    this.handOver()
    return Effect.void
  }

  stats(): Stats {
    const { available, inFlight, limit, maxQueue, queued } = this.permits
    const { admitted, rejected, waitedMillis } = this
    return { limit, available, inFlight, maxQueue, queued, admitted, rejected, waitedMillis }
  }
}
