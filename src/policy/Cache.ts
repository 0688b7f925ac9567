/**
 * Keeps answers, and makes one call of many that ask the same at the same time.
 *
 * ```
 *            ttl            staleWhileRevalidate           staleIfError
 *   fresh ────────▶ served, fetched anew behind it ────────▶ served if fetching fails ────────▶ gone
 * ```
 *
 * An answer past its `ttl` is not thrown away. For as long as
 * `staleWhileRevalidate` says it is served while one call in the background
 * fetches a new one; for as long as `staleIfError` says it is served when
 * fetching fails: when the endpoint fails, when a policy of ours rejects (an open
 * circuit), or when there is not enough of the deadline left. It then says so with
 * a `Substituted` event, and `tagged` says how old it is. Both periods begin at
 * the end of the `ttl`.
 *
 * Which calls are the same their key says: by default the method's `name` and the
 * `key` of `CallContext`. A call without a key passes through. Take care that the
 * key tells apart what must be told apart: an answer goes to everybody whose call
 * has the same key. And a cache is of one type of answer.
 *
 * Calls that need an answer at the same time share one flight. It runs in a fiber
 * of its own with the context of the call that began it, and goes on for as long
 * as one of them waits; the last one to leave interrupts it. Nobody waits longer
 * than its own deadline. When a flight fails because the deadline of the call that
 * began it was sooner, a call with more time begins another.
 *
 * It is in memory, of one process, and never waits for itself: a flight that asks
 * for its own key passes through. It does not retry and does not limit. Outside
 * everything that sends: a hit takes no permit, and no breaker counts it.
 *
 * Effect's own `Cache` shares flights in the same way and survives one caller's
 * interrupt too. It is not used because an entry that has expired is gone there,
 * so that nothing stale could be served; because it expires by the wall clock;
 * and because its lookup is fixed when it is made, where a policy guards whatever
 * Effect it is given.
 *
 * Source: RFC 5861; single flight, jitter and placeholders, go-zero `cachenode`.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Random from "effect/Random"
import * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Deadline from "../contract/Deadline.ts"
import * as Interruption from "../contract/Interruption.ts"
import * as Options from "../contract/Options.ts"
import * as Outcome from "../contract/Outcome.ts"
import * as Timer from "../contract/Timer.ts"
import { Bounded } from "./internal/bounded.ts"
import { freshnessOf, jittered, type Windows } from "./internal/freshness.ts"
import * as Guard from "./internal/guard.ts"
import { keyOf } from "./internal/key.ts"
import * as Progress from "./internal/progress.ts"
import * as Policy from "./Policy.ts"
import * as Timeout from "./Timeout.ts"

/** Fails with `DeadlineExceeded` when a call's own deadline passes while it waits for somebody else's flight. */
type Late = CallError.CallError<CallError.DeadlineExceeded>

/**
 * A cache of answers `V`. Calls of one key are one call, so the errors of the one
 * that began a flight are taken for those of all who wait for it.
 */
export interface Cache<in out V> extends Policy.SubstituteOfKind<"cache", V, V, never, Late> {
  /** As `run`, with where the answer comes from and how old it is. */
  readonly tagged: <A extends V, E1, R1>(
    self: Effect.Effect<A, E1, R1>
  ) => Effect.Effect<Answer<V>, E1 | Late, R1>
  /** The answer that is kept under a key, however old; `undefined` where there is none. Looking is no use of it. */
  readonly peek: (key: string) => Effect.Effect<Answer<V> | undefined>
  /** Forgets a key. A flight that is under way still answers those who wait for it, and is not kept. */
  readonly invalidate: (key: string) => Effect.Effect<void>
  /** Forgets everything. */
  readonly clear: Effect.Effect<void>
  readonly stats: Effect.Effect<Stats>
  /**
   * Goes on by other options, all of them, under its name, with what it has kept and what is under way. No answer
   * stays fresh for longer than a new, fixed `ttl` says. Which calls are the same must not change: keys are not kept
   * apart. Dies on what `make` dies on.
   */
  readonly reconfigure: (options: CacheOptions<V>) => Effect.Effect<void>
}

export interface Answer<out V> {
  readonly value: V
  /** From the dependency just now, or kept and within its `ttl`, or kept and beyond it. */
  readonly how: "fetched" | "fresh" | "stale"
  /** Time since it was fetched. */
  readonly ageMillis: number
}

/** Counts since it was made, but for the last two. */
export interface Stats {
  /** Calls answered with a kept answer within its `ttl`, errors included. */
  readonly fresh: number
  /** Calls answered with a kept answer beyond it. */
  readonly stale: number
  /** Flights begun by a call. */
  readonly fetched: number
  /** Calls that shared a flight that another had begun. */
  readonly shared: number
  /** Flights begun behind a stale answer. */
  readonly refreshed: number
  /** Answers kept. */
  readonly size: number
  /** Flights under way. */
  readonly inFlight: number
}

/** Which errors are answers: kept, and served for a shorter time. */
export interface NegativeOptions {
  readonly when: (error: unknown, call: CallContext.CallContext) => boolean
  /** How long: positive and finite. Default 5 seconds. */
  readonly ttl?: Duration.Input | undefined
}

export interface CacheOptions<V> {
  /**
   * How long an answer is fresh: finite; 0 keeps it for errors only, or not at all. As a function, of that answer: with
   * what is negative or not finite it is not kept.
   */
  readonly ttl: Duration.Input | ((value: V, call: CallContext.CallContext) => Duration.Input)
  /** Share by which a lifetime may be shortened by chance: in `[0, 1]`. Default 0.05: never longer than asked for. */
  readonly jitter?: number | undefined
  /** Errors that are kept, "no such user" for one. Default none. */
  readonly negative?: NegativeOptions | undefined
  /** How long beyond the `ttl` an answer is served while a new one is fetched behind it: finite. Default 0. */
  readonly staleWhileRevalidate?: Duration.Input | undefined
  /** How long beyond the `ttl` an answer is served when fetching fails: finite. Default 0. */
  readonly staleIfError?: Duration.Input | undefined
  /** Longest that a flight behind a stale answer may take: positive and finite. Default 10 seconds. */
  readonly refreshTimeout?: Duration.Input | undefined
  /** Answers kept, those used longest ago going first: an integer `>= 1`. Default 1,000: at 10 kB each 10 MB. */
  readonly capacity?: number | undefined
  /** Which calls are the same; `undefined` for one that is like no other. Default `name:key` of a call that has a `key`. */
  readonly key?: ((call: CallContext.CallContext) => string | undefined) | undefined
  /** Name in errors, events and the dashboard. Default `"Cache"`. */
  readonly name?: string | undefined
}

/**
 * Creates an empty cache.
 *
 * Dies with a `RangeError` when an option is out of its range.
 */
export const make = <V>(options: CacheOptions<V>): Effect.Effect<Cache<V>> =>
  Effect.withFiber((fiber) => {
    const state = new State<V>(configOf("Cache.make", options), fiber.getRef(Clock.Clock))
    const { name } = state.config
    fiber.getRef(Policy.CurrentRegistry)?.register({ name, kind: "cache", snapshot: () => state.stats() })
    return Effect.succeed(
      Policy.makeSubstitute<"cache", V, V, never, Late, never, Omit<Cache<V>, keyof Substitute<V>>>(
        { name, kind: "cache", run: (self) => lookup(state, self, plain) },
        {
          tagged: (self) => lookup(state, self, tagged),
          peek: (key) => Effect.sync(() => state.peek(key)),
          invalidate: (key) => Effect.sync(() => state.invalidate(key)),
          clear: Effect.sync(() => state.clear()),
          stats: Effect.sync(() => state.stats()),
          reconfigure: (options) => Effect.sync(() => state.change(configOf("Cache.reconfigure", options)))
        }
      )
    )
  })

type Substitute<V> = Policy.SubstituteOfKind<"cache", V, V, never, Late>

// Options -----------------------------------------------------------------------------------------

interface Config<V> extends Windows {
  readonly name: string
  readonly keyOf: (call: CallContext.CallContext) => string | undefined
  readonly ttlOf: (value: V, call: CallContext.CallContext) => number
  /** What `ttlOf` says of any answer; `Infinity` where it depends. */
  readonly ttlMillis: number
  readonly jitter: number
  readonly isAnswer: (error: unknown, call: CallContext.CallContext) => boolean
  readonly errorMillis: number
  readonly refreshMillis: number
  readonly capacity: number
}

const configOf = <V>(where: string, options: CacheOptions<V>): Config<V> => {
  const { jitter = 0.05, key = keyOf, name = "Cache", negative, ttl } = options
  const fixed = typeof ttl === "function" ? 0 : Options.millis(where, "ttl", ttl, true)
  return {
    name,
    keyOf: key,
    ttlOf: typeof ttl === "function"
      ? (value, call) => Duration.toMillis(Duration.fromInputUnsafe(ttl(value, call)))
      : () => fixed,
    ttlMillis: typeof ttl === "function" ? Infinity : fixed,
    jitter: Options.ratio(where, "jitter", jitter, true),
    isAnswer: negative?.when ?? (() => false),
    errorMillis: Options.millis(where, "negative.ttl", negative?.ttl ?? "5 seconds"),
    revalidateMillis: Options.millis(where, "staleWhileRevalidate", options.staleWhileRevalidate ?? 0, true),
    onErrorMillis: Options.millis(where, "staleIfError", options.staleIfError ?? 0, true),
    refreshMillis: Options.millis(where, "refreshTimeout", options.refreshTimeout ?? "10 seconds"),
    capacity: Options.integer(where, "capacity", options.capacity ?? 1000, 1)
  }
}

// Looking up --------------------------------------------------------------------------------------

/** What the caller wants of an answer. */
interface View {
  readonly of: <V>(answer: Answer<V>) => any
  /** Of an answer that nobody keeps. */
  readonly through: <V, E, R>(self: Effect.Effect<V, E, R>) => Effect.Effect<any, E, R>
}

const fetched = <V>(value: V): Answer<V> => ({ value, how: "fetched", ageMillis: 0 })
const plain: View = { of: (answer) => answer.value, through: (self) => self }
const tagged: View = { of: (answer) => answer, through: (self) => Effect.map(self, fetched) }

const lookup = <V, E, R>(
  state: State<V>,
  self: Effect.Effect<V, E, R>,
  view: View
): Effect.Effect<any, E | Late, R> =>
  Effect.withFiber((fiber) => {
    const call = fiber.getRef(CallContext.Current)
    const key = state.config.keyOf(call)
    if (key === undefined || isWithin(fiber.getRef(CurrentFlight), state, key)) return view.through(self)
    const now = Timer.now(fiber)
    const kept = state.answers.get(key)
    switch (kept === undefined ? "gone" : freshnessOf(kept.freshUntil, now, state.config)) {
      case "fresh":
        return state.serve(kept!, "fresh", call, fiber, view)
      case "revalidate":
        if (Exit.isFailure(kept!.exit)) break
        if (!state.flights.has(key)) state.refresh(key, call, self, fiber)
        return state.serve(kept!, "stale", call, fiber, view)
    }
    return Effect.callback((resume) => wait(state, key, call, self, fiber, view, resume))
  })

/** Waits for the flight of a key, which it begins if there is none. */
const wait = <V, E, R>(
  state: State<V>,
  key: string,
  call: CallContext.CallContext,
  self: Effect.Effect<V, E, R>,
  fiber: Fiber.Fiber<unknown, unknown>,
  view: View,
  resume: (answer: Effect.Effect<any, E | Late, R>) => void
): Effect.Effect<void> | void => {
  const began = Timer.now(fiber)
  const { deadline } = call
  const outOfTime = Effect.suspend((): Effect.Effect<any, Late> => {
    const stale = state.staleOf(key, Timer.now(fiber))
    return stale === undefined
      ? state.late(call, fiber, began)
      : state.serve(stale, "stale", call, fiber, view)
  })
  if (Deadline.isExceeded(deadline, began)) return resume(outOfTime)

  const present = state.flights.get(key)
  if (present !== undefined) state.counts.shared++
  const flight = present ?? state.begin(key, call, self, fiber)
  const land = (exit: Exit.Exit<V, unknown>): Effect.Effect<any, E | Late, R> => {
    if (Exit.isSuccess(exit)) return Effect.succeed(view.of(fetched(exit.value)))
    return Effect.suspend(() => {
      const now = Timer.now(fiber)
      // The time of both is up in this very step: whoever guards the deadline answers.
      if (now >= deadline) return Progress.isGuarded(fiber, deadline) ? Guard.leaveToGuard(outOfTime) : outOfTime
      // Its time was up, and there is more of this one.
      if (flight.deadline < deadline && (now >= flight.deadline || isOutOfTime(exit.cause))) {
        return lookup(state, self, view)
      }
      const stale = state.staleOf(key, now)
      return stale !== undefined && isExcuse(exit.cause, call)
        ? state.serve(stale, "stale", call, fiber, view)
        // Calls of one key fail in the same ways: they are one call.
        : exit as Exit.Exit<never, E>
    })
  }
  if (flight.exit !== undefined) return resume(land(flight.exit))

  let timer: Timer.Timer | undefined
  const waiter = (exit: Exit.Exit<V, unknown>) => {
    timer?.cancel()
    resume(land(exit))
  }
  flight.waiters.add(waiter)
  const at = giveUpAt(state, key, deadline, began, fiber)
  if (at < Infinity) {
    timer = Timer.schedule(fiber, at, () => {
      if (state.leave(flight, waiter)) flight.stop("deadline")
      resume(outOfTime)
    })
  }
  return Effect.suspend(() => {
    timer?.cancel()
    if (!state.leave(flight, waiter)) return Effect.void
    return Effect.flatMap(Guard.reasonOfInterrupt, (reason) => {
      flight.stop(reason)
      return Effect.asVoid(Fiber.await(flight.worker!))
    })
  })
}

/**
 * Until when a caller waits. What is stale has to be served a little before the
 * deadline to arrive in time; without it whoever guards the deadline answers.
 */
const giveUpAt = <V>(
  state: State<V>,
  key: string,
  deadline: Deadline.Deadline,
  now: number,
  fiber: Fiber.Fiber<unknown, unknown>
): number => {
  if (deadline === Infinity) return Infinity
  const early = deadline - Math.min(100, (deadline - now) / 10)
  if (state.staleOf(key, early) !== undefined) return early
  return Progress.isGuarded(fiber, deadline) ? Infinity : deadline
}

/** Whether a cause says that somebody's time was up. */
const isOutOfTime = (cause: Cause.Cause<unknown>): boolean =>
  Cause.hasInterrupts(cause) || cause.reasons.some((reason) => Cause.isFailReason(reason) && isLate(reason.error))

const isLate = (error: unknown): boolean => CallError.isCallError(error) && error.reason._tag === "DeadlineExceeded"

/** Whether what is stale may be served instead: the endpoint is at fault, or nothing was sent, or there was no time. */
const isExcuse = (cause: Cause.Cause<unknown>, call: CallContext.CallContext): boolean => {
  if (Cause.hasInterrupts(cause) || Cause.hasDies(cause)) return false
  const error = cause.reasons.find(Cause.isFailReason)?.error
  if (isLate(error)) return true
  const { endpoint, retry } = Outcome.ofError(error, call)
  return endpoint === "failure" || retry === "elsewhere"
}

// Keeping -----------------------------------------------------------------------------------------

interface Kept<V> {
  readonly exit: Exit.Exit<V, unknown>
  readonly fetchedAt: number
  readonly freshUntil: number
}

/** One call that answers all who wait. */
class Flight<V> {
  readonly state: State<V>
  readonly key: string
  /** Of the call that began it. */
  readonly deadline: Deadline.Deadline
  /** Goes on although nobody waits. */
  readonly background: boolean
  readonly waiters = new Set<(exit: Exit.Exit<V, unknown>) => void>()
  worker: Fiber.Fiber<V, unknown> | undefined
  exit: Exit.Exit<V, unknown> | undefined
  /** What it has brought. */
  kept: Kept<V> | undefined

  constructor(state: State<V>, key: string, deadline: Deadline.Deadline, background: boolean) {
    this.state = state
    this.key = key
    this.deadline = deadline
    this.background = background
  }

  stop(reason: Interruption.Reason): void {
    this.worker!.interruptUnsafe(undefined, Interruption.annotations[reason])
  }
}

/** The flights that a fiber is part of: asking for one of these would wait for itself, for as long as it is under way. */
interface Within {
  readonly flight: Flight<any>
  readonly outer: Within | undefined
}

const CurrentFlight = Context.Reference<Within | undefined>("holdfast/policy/Cache/Flight", {
  defaultValue: () => undefined
})

const isWithin = (within: Within | undefined, state: State<any>, key: string): boolean =>
  within !== undefined &&
  ((within.flight.state === state && within.flight.key === key && within.flight.exit === undefined) ||
    isWithin(within.outer, state, key))

class State<V> {
  config: Config<V>
  readonly answers: Bounded<Kept<V>>
  readonly flights = new Map<string, Flight<V>>()
  readonly counts = { fresh: 0, stale: 0, fetched: 0, shared: 0, refreshed: 0 }
  /** The clock it was made with: who looks from outside has no other. */
  private readonly clock: Clock.Clock

  constructor(config: Config<V>, clock: Clock.Clock) {
    this.config = config
    this.clock = clock
    this.answers = new Bounded(config.capacity)
  }

  change(config: Config<V>): void {
    this.config = { ...config, name: this.config.name }
    this.answers.resize(config.capacity)
    this.answers.update((kept) => {
      const longest = kept.fetchedAt + (Exit.isSuccess(kept.exit) ? config.ttlMillis : config.errorMillis)
      return kept.freshUntil <= longest ? kept : { ...kept, freshUntil: longest }
    })
  }

  /** Answers with what is kept. */
  serve(
    kept: Kept<V>,
    how: "fresh" | "stale",
    call: CallContext.CallContext,
    fiber: Fiber.Fiber<unknown, unknown>,
    view: View
  ): Effect.Effect<any, any> {
    const now = Timer.now(fiber)
    this.counts[how]++
    const ageMillis = now - kept.fetchedAt
    const policy = this.config.name
    CallEvent.receiverOf(fiber)?.event({ _tag: "Substituted", call, policy, how, ageMillis, atMillis: now })
    return Exit.isSuccess(kept.exit)
      ? Effect.succeed(view.of({ value: kept.exit.value, how, ageMillis }))
      : kept.exit
  }

  /** The call's own deadline has passed. */
  late(call: CallContext.CallContext, fiber: Fiber.Fiber<unknown, unknown>, began: number): Effect.Effect<never, Late> {
    const elapsedMillis = Timer.now(fiber) - began
    return CallError.fail({
      _tag: "DeadlineExceeded",
      method: call.name,
      elapsedMillis,
      sent: elapsedMillis > 0 ? "maybe" : "no"
    })
  }

  /** What may be served at a time when fetching fails. */
  staleOf(key: string, now: number): Kept<V> | undefined {
    const kept = this.answers.peek(key)
    return kept !== undefined && Exit.isSuccess(kept.exit) && freshnessOf(kept.freshUntil, now, this.config) !== "gone"
      ? kept
      : undefined
  }

  /** A flight for a caller that waits for it. */
  begin(
    key: string,
    call: CallContext.CallContext,
    self: Effect.Effect<V, unknown, any>,
    fiber: Fiber.Fiber<unknown, unknown>
  ): Flight<V> {
    this.counts.fetched++
    return this.launch(new Flight(this, key, call.deadline, false), call, self, fiber, fiber.context)
  }

  /** A flight that nobody waits for. It matters less than any call, and its time is its own. */
  refresh(
    key: string,
    call: CallContext.CallContext,
    self: Effect.Effect<V, unknown, any>,
    fiber: Fiber.Fiber<unknown, unknown>
  ): void {
    this.counts.refreshed++
    const until = Timer.now(fiber) + this.config.refreshMillis
    const own: CallContext.CallContext = { ...call, deadline: Deadline.none, criticality: "sheddable" }
    const context = Context.add(fiber.context, CallContext.Current, own)
    // Not in the step of the caller, who has an answer already.
    const later = Effect.andThen(Effect.yieldNow, Timeout.withDeadlineAt(self, until))
    this.launch(new Flight(this, key, until, true), own, later, fiber, context)
  }

  private launch(
    flight: Flight<V>,
    call: CallContext.CallContext,
    self: Effect.Effect<V, unknown, any>,
    fiber: Fiber.Fiber<unknown, unknown>,
    context: Context.Context<never>
  ): Flight<V> {
    const random = fiber.getRef(Random.Random)
    const clock = fiber.getRef(Clock.Clock)
    const within: Within = { flight, outer: fiber.getRef(CurrentFlight) }
    const progress = fiber.getRef(Progress.Current)
    const shared = Context.add(context, Progress.Current, progress && Progress.share(progress))
    // Before it starts: what it does may ask for the same key.
    this.flights.set(flight.key, flight)
    flight.worker = Effect.runForkWith(Context.add(shared, CurrentFlight, within) as Context.Context<any>)(
      Effect.onExitPrimitive(self, (exit) => {
        // Runs the user's code, in the flight's own fiber: if that throws the flight has failed.
        flight.kept = this.keep(exit, call, Timer.nowOf(clock), random)
        return undefined
      })
    )
    flight.worker.addObserver((exit) => this.land(flight, exit))
    return flight
  }

  private keep(
    exit: Exit.Exit<V, unknown>,
    call: CallContext.CallContext,
    now: number,
    random: { nextDoubleUnsafe(): number }
  ): Kept<V> | undefined {
    const { config } = this
    let millis: number
    if (Exit.isSuccess(exit)) {
      millis = config.ttlOf(exit.value, call)
      const lasting = millis + Math.max(config.revalidateMillis, config.onErrorMillis)
      if (!(millis >= 0 && millis < Infinity && lasting > 0)) return undefined
    } else {
      const [reason, ...others] = exit.cause.reasons
      if (reason === undefined || others.length > 0 || !Cause.isFailReason(reason)) return undefined
      if (!config.isAnswer(reason.error, call)) return undefined
      millis = config.errorMillis
    }
    return { exit, fetchedAt: now, freshUntil: now + jittered(millis, config.jitter, random.nextDoubleUnsafe()) }
  }

  private land(flight: Flight<V>, exit: Exit.Exit<V, unknown>): void {
    flight.exit = exit
    if (this.flights.get(flight.key) === flight) {
      this.flights.delete(flight.key)
      if (flight.kept !== undefined) this.answers.set(flight.key, flight.kept)
    }
    const waiters = [...flight.waiters]
    flight.waiters.clear()
    for (const waiter of waiters) waiter(exit)
  }

  /** A caller leaves; whether it was the last, so that the flight is to end. */
  leave(flight: Flight<V>, waiter: (exit: Exit.Exit<V, unknown>) => void): boolean {
    flight.waiters.delete(waiter)
    // Without a worker it has not got beyond its first step, and whoever began it is about to wait.
    if (flight.waiters.size > 0 || flight.background || flight.worker === undefined) return false
    if (this.flights.get(flight.key) === flight) this.flights.delete(flight.key)
    return true
  }

  peek(key: string): Answer<V> | undefined {
    const kept = this.answers.peek(key)
    if (kept === undefined || Exit.isFailure(kept.exit)) return undefined
    const now = Timer.nowOf(this.clock)
    return {
      value: kept.exit.value,
      how: now < kept.freshUntil ? "fresh" : "stale",
      ageMillis: now - kept.fetchedAt
    }
  }

  invalidate(key: string): void {
    this.answers.delete(key)
    this.flights.delete(key)
  }

  clear(): void {
    this.answers.clear()
    this.flights.clear()
  }

  stats(): Stats {
    return { ...this.counts, size: this.answers.size, inFlight: this.flights.size }
  }
}
