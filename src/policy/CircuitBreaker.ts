/**
 * Stops sending to what keeps failing, and probes before it sends again.
 *
 * ```
 * Closed       all calls pass and are counted; a condition that holds trips it
 * Open         no call passes until the open duration is over
 * HalfOpen     a few calls pass as probes, and their success ratio decides
 * Recovering   a growing share of the calls passes (only with `ramp`)
 * ForcedOpen, Disabled, MetricsOnly      an operator's word
 * ```
 *
 * Nothing here waits, forks or keeps a timer: time moves the circuit when a call
 * or a reader looks at it. It never retries and never measures a timeout; a call
 * that is rejected in half-open is rejected at once with the time to come back,
 * because a queue in front of something that may be down only adds its wait to
 * the failure.
 *
 * What counts. Success and failure by `Outcome`; an ignored outcome (the caller's
 * interruption, a rejection by a policy inside) gives the permit back and counts
 * nothing. A defect is a failure. A result that arrives after its state is over
 * changes nothing. An `Unavailable` that says when to come back opens the circuit
 * until then.
 *
 * State is per instance: share one between all callers of one endpoint. It lives
 * in a `Ref` that only the pure core in `internal/circuit.ts` moves. Outside the
 * limiters and the timeout of its endpoint, so that a timeout counts as a
 * failure; a limiter inside that makes a call wait says so through
 * `internal/stamp.ts`, and neither the slow-call time nor a probe's lease runs
 * meanwhile.
 *
 * Source: states, windows and slow calls, resilience4j; generations, gobreaker
 * and Effect; an open duration that resets only after staying closed, Effect;
 * the handles of `isolate`, cockatiel.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Pull from "effect/Pull"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Ref from "effect/Ref"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Options from "../contract/Options.ts"
import * as Outcome from "../contract/Outcome.ts"
import * as Timer from "../contract/Timer.ts"
import * as Circuit from "./internal/circuit.ts"
import * as Lru from "./internal/lru.ts"
import * as Stamp from "./internal/stamp.ts"
import type * as Window from "./internal/window.ts"
import * as Policy from "./Policy.ts"

/** How long calls are remembered for the ratios: the last `calls`, or those that ended within `duration`. */
export type WindowOptions =
  | {
    /** An integer `>= 1`. */
    readonly calls: number
  }
  | {
    readonly duration: Duration.Input
    /** Partial sums the duration is cut into: an integer `>= 1`. Default 10: a call is forgotten at most a tenth early. */
    readonly buckets?: number | undefined
  }

/** How a circuit finds out whether it may close. */
export interface HalfOpenOptions {
  /**
   * Probes that decide: an integer `>= 1`. Default 5.
   */
  readonly probes?: number | undefined
  /** Probes in flight at the same time: an integer in `[1, probes]`. Default `probes`. */
  readonly concurrency?: number | undefined
  /**
   * Share of the probes that must succeed: in `(0, 1]`. Default 0.8, which is 4
   * of 5: what fails every other call passes in 19 % of the cases, what fails
   * one in twenty in 98 %. Decided as soon as it is settled, in both directions.
   */
  readonly successRatio?: number | undefined
  /**
   * How long a probe may take before it counts as failed and another may go.
   * Default 10 seconds, or twice `slowThreshold` where that is longer. Should
   * exceed the attempt's timeout, whose failure says more.
   */
  readonly lease?: Duration.Input | undefined
  /**
   * How long the circuit may be half-open. Then the probes that have ended
   * decide, those that have not count as failed, and where none was made the
   * time begins again. Default 30 seconds, or the lease where that is longer.
   */
  readonly maxWait?: Duration.Input | undefined
}

export interface RampOptions {
  /** From the last probe to all calls: nine steps. */
  readonly duration: Duration.Input
  /** Share of the calls admitted at first: in `(0, 1]`. Default 0.1. */
  readonly initialShare?: number | undefined
}

/**
 * Any of the conditions trips the circuit. Where none is stated these two do:
 * 10 failures in a row, and half of at least 20 calls within 10 seconds.
 *
 * Ten in a row, for a quiet endpoint: at 1 call per second a dead one is noticed
 * in 10 s, and one that fails 30 % of its calls at random, which is still worth
 * calling, trips it once in 240,000 calls (`(1 - p) * p^10`). The ratio, for a
 * busy one: 20 calls put the random error of a ratio at 11 points, so 25 %
 * failures read as 50 % in 1.4 % of the windows, and 10 s are as long as a
 * circuit remembers an incident that is over.
 */
export interface CircuitBreakerOptions {
  /** Name in errors, events and the dashboard. Default `"CircuitBreaker"`. */
  readonly name?: string | undefined
  /** Trips at this many failures in a row: an integer `>= 1`. `resetEvery` starts the count anew at each multiple of it since closing. */
  readonly consecutiveFailures?: number | {
    readonly failures: number
    readonly resetEvery?: Duration.Input | undefined
  } | undefined
  /** Trips when this share of the calls in the window has failed, or more: in `(0, 1]`. */
  readonly failureRatio?: number | undefined
  /** Trips when this share of the calls in the window was slow, or more: in `(0, 1]`. Needs `slowThreshold`. */
  readonly slowCallRatio?: number | undefined
  /** A call is slow when it takes longer, whether it succeeds or fails. Waiting for a permit inside does not count. */
  readonly slowThreshold?: Duration.Input | undefined
  /** What the ratios are taken over. Default `{ duration: "10 seconds" }`. */
  readonly window?: WindowOptions | undefined
  /**
   * Calls in the window before a ratio means anything: an integer `>= 1`, at
   * most the window's `calls`. Default: a full window by calls, 20 by time.
   */
  readonly minimumCalls?: number | undefined
  /**
   * How long the first, second, … opening in a row lasts: a duration for all, or
   * the delays of a Schedule, of which the last goes on when it ends. The row
   * ends once the circuit has stayed closed for as long as it was last open.
   *
   * The Schedule is read when the breaker is made, up to 32 delays, against
   * virtual time: it must depend on nothing but the count.
   *
   * Default 1 s, 2 s, 4 s, … 32 s, 60 s: the sum of what went before exceeds
   * what comes, so a circuit outlives an outage by no more than the outage took.
   */
  readonly openFor?: Duration.Input | Schedule.Schedule<unknown, number> | undefined
  /** Caps the Schedule and what a server asks for. Default 5 minutes, or `openFor` where that is a longer duration. */
  readonly maxOpenFor?: Duration.Input | undefined
  /**
   * Random share of the open duration, so that instances do not probe in step:
   * in `[0, 1]`. Shortens our own duration and lengthens a server's. Default 0.2.
   */
  readonly jitter?: number | undefined
  /** Whether an `Unavailable` with a time to come back opens the circuit until then. Default `true`. */
  readonly retryAfter?: boolean | undefined
  readonly halfOpen?: HalfOpenOptions | undefined
  /**
   * Lets traffic come back gradually after the probes: a step that is as bad as
   * a trip condition halves the share, and at the first step reopens. Default
   * none, because alone it rejects calls that would succeed; inside a balancer,
   * which picks another endpoint, it costs nothing.
   */
  readonly ramp?: RampOptions | undefined
  /** What an exit means. Default `Outcome.ofExit`, which asks the call's own `classify` about foreign errors. */
  readonly classify?:
    | ((exit: Exit.Exit<unknown, unknown>, call: CallContext.CallContext) => Outcome.Outcome)
    | undefined
}

export type Tag = Circuit.Circuit["_tag"]

/** A circuit as it is at one instant. Times are milliseconds on the monotonic clock. */
export interface State {
  readonly _tag: Tag
  /** Grows with every transition; results of an earlier one change nothing. */
  readonly generation: number
  readonly sinceMillis: number
  /** When an Open circuit lets the next call probe. */
  readonly untilMillis: number | undefined
  /** Openings in a row. */
  readonly openings: number
  /** What led here, with the figures that decided. */
  readonly why: string
  /** The share of the calls that a Recovering circuit admits; else 1 or 0. */
  readonly share: number
  /** Probes in flight. */
  readonly probes: number
  /** Calls counted: in the window, or the probes that have ended. */
  readonly calls: number
  readonly failures: number
  readonly slowCalls: number
  /** `undefined` below `minimumCalls`. */
  readonly failureRatio: number | undefined
  readonly slowCallRatio: number | undefined
  /** Calls rejected since the breaker was made. */
  readonly rejected: number
  /** Results that came too late to count. */
  readonly late: number
}

/** An operator's word; `"none"` hands the circuit back. */
export type Mode = "none" | "open" | "disabled" | "metricsOnly"

const count = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
const millis = Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0))
const history = { openings: count, openForMillis: millis, why: Schema.String }
const cells = Schema.Union([
  Schema.Struct({
    by: Schema.Literal("calls"),
    calls: Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 3 })))
  }),
  Schema.Struct({
    by: Schema.Literal("time"),
    buckets: Schema.Array(Schema.Struct({ ageMillis: millis, calls: count, failures: count, slow: count }))
  })
])

/**
 * A circuit as JSON data, for a restart or another process. Times are durations,
 * and what passed between taking and restoring is counted by the wall clock, if
 * it went forwards. A half-open circuit comes back as one that may probe at
 * once: its probes belong to the process that made them. A handle of `isolate`
 * stays with its owner.
 */
export const Snapshot = Schema.Struct({
  /** Wall clock. */
  takenAtMillis: Schema.Finite,
  mode: Schema.Literals(["none", "open", "disabled", "metricsOnly"]),
  circuit: Schema.Union([
    Schema.TaggedStruct("Closed", { ...history, closedForMillis: millis, streak: count, window: cells }),
    Schema.TaggedStruct("Open", { ...history, remainingMillis: millis }),
    Schema.TaggedStruct("Recovering", { ...history, level: count })
  ])
})
export type Snapshot = typeof Snapshot.Type

/** What an operator may do to a circuit. */
export interface Controls {
  /**
   * Rejects every call until the scope closes. Handles add up: the circuit is
   * handed back when the last one is released. What was Closed starts anew, and
   * what was not probes.
   */
  readonly isolate: Effect.Effect<void, never, Scope.Scope>
  /**
   * Rejects every call, admits and ignores every call, admits and counts every
   * call, or hands the circuit back. `isolate` goes before it.
   */
  readonly force: (mode: Mode) => Effect.Effect<void>
  /** Opens for a duration, by default as long as its next opening would last. */
  readonly trip: (duration?: Duration.Input) => Effect.Effect<void>
  /** Closes, with nothing counted. */
  readonly reset: Effect.Effect<void>
}

export interface CircuitBreaker
  extends Policy.OfKind<"circuitBreaker", CallError.CallError<CallError.CircuitOpen>>, Controls
{
  /** The present state. Reading it changes nothing. */
  readonly state: Effect.Effect<State>
  /** The present state, then each transition and each step of a ramp. A reader that lags misses the oldest of more than 64. */
  readonly changes: Stream.Stream<State>
  /** Whether a call at `nowMillis` of the monotonic clock could be admitted. Reads only: for a balancer that prefers. */
  readonly wouldAdmit: (nowMillis: number) => boolean
  readonly snapshot: Effect.Effect<Snapshot>
  /** Takes over a snapshot. Results of calls in flight count no more. */
  readonly restore: (snapshot: Snapshot) => Effect.Effect<void>
}

/**
 * Creates a circuit breaker with its own state.
 *
 * Dies with a `RangeError` when an option is out of range.
 */
export const make = (options: CircuitBreakerOptions = {}): Effect.Effect<CircuitBreaker> =>
  Effect.flatMap(resolve("CircuitBreaker.make", options), (config) =>
    Effect.withFiber((fiber) => {
      const listeners = new Set<Listener<State>>()
      const breaker = new Breaker(config, config.name, fiber, (state) => tell(listeners, state))
      const { name } = config
      const self = Policy.make<CallError.CallError<CallError.CircuitOpen>, never, "circuitBreaker", Extra>(
        { name, kind: "circuitBreaker", run: (self) => guard(self, () => breaker) },
        {
          ...controlsOf(() => breaker),
          state: Effect.withFiber((fiber) => Effect.succeed(breaker.state(Timer.now(fiber)))),
          changes: listen(listeners, (fiber) => [breaker.state(Timer.now(fiber))]),
          wouldAdmit: (now) => Circuit.wouldAdmit(breaker.circuit, now, config),
          snapshot: Effect.withFiber((fiber) => Effect.succeed(breaker.snapshot(fiber))),
          restore: (snapshot) => onFiber((fiber) => breaker.restore(snapshot, fiber))
        }
      )
      register(fiber, name, () => breaker.state(Timer.nowOf(breaker.clock)))
      return Effect.succeed(self)
    }))

type Extra = Omit<CircuitBreaker, keyof Policy.OfKind<"circuitBreaker">>

export interface KeyedOptions extends CircuitBreakerOptions {
  /** The key of a call. Default its `key`, or its `name` where it has none: a circuit per method. */
  readonly key?: ((call: CallContext.CallContext) => string) | undefined
  /** Circuits kept: an integer `>= 1`. Default 10,000, which is about 6 MB. */
  readonly maxKeys?: number | undefined
  /** A circuit nobody used for this long may be forgotten. Default 10 minutes. */
  readonly idleTimeToLive?: Duration.Input | undefined
}

/** A circuit per key, as one policy. */
export interface KeyedCircuitBreaker
  extends Policy.OfKind<"circuitBreaker", CallError.CallError<CallError.CircuitOpen>>
{
  /** The circuits kept, by key, at present. */
  readonly states: Effect.Effect<ReadonlyMap<string, State>>
  /** Transitions and steps of ramps, of all keys, from now on. A reader that lags misses the oldest of more than 64. */
  readonly changes: Stream.Stream<{ readonly key: string; readonly state: State }>
  /** Whether a call with the key could be admitted at `nowMillis`; of a key without a circuit, whether a new one would be. */
  readonly wouldAdmit: (key: string, nowMillis: number) => boolean
  /** An operator's controls of one key. They keep its circuit for as long as they hold it. */
  readonly controls: (key: string) => Controls
  readonly snapshot: Effect.Effect<Readonly<Record<string, Snapshot>>>
  /** Takes over the circuits of a snapshot, up to `maxKeys`; the others stay as they are. */
  readonly restore: (snapshot: Readonly<Record<string, Snapshot>>) => Effect.Effect<void>
}

/**
 * Creates a circuit breaker per key: a tenant, a shard, a method.
 *
 * It is bounded. A new key beyond `maxKeys` evicts the Closed circuit that was
 * used longest ago, and with it the counts of its window; each new key also
 * forgets up to two circuits that have been idle for `idleTimeToLive`. A circuit
 * that is not Closed is never evicted for room, because the next call of its
 * key would go to what is known to fail: it may be forgotten only when it is
 * idle and its open duration has been over for as long. If all `maxKeys` circuits
 * are held so, further keys share one circuit more, named `*`, and a `Warning`
 * says so; it rejects only if these keys fail together. A key that an operator
 * holds is never forgotten.
 *
 * Dies with a `RangeError` when an option is out of range.
 */
export const keyed = (options: KeyedOptions = {}): Effect.Effect<KeyedCircuitBreaker> =>
  Effect.flatMap(resolve("CircuitBreaker.keyed", options), (config) =>
    Effect.withFiber((fiber) => {
      const where = "CircuitBreaker.keyed"
      const { key = keyOf, maxKeys = 10_000 } = options
      const table = new Table(
        config,
        fiber,
        Options.integer(where, "maxKeys", maxKeys, 1),
        Options.millis(where, "idleTimeToLive", options.idleTimeToLive ?? "10 minutes")
      )
      register(fiber, config.name, () => Object.fromEntries(table.states(Timer.nowOf(table.clock))))
      return Effect.succeed(
        Policy.make<
          CallError.CallError<CallError.CircuitOpen>,
          never,
          "circuitBreaker",
          Omit<KeyedCircuitBreaker, keyof Policy.OfKind<"circuitBreaker">>
        >(
          {
            name: config.name,
            kind: "circuitBreaker",
            run: (self) => guard(self, (fiber) => table.of(key(fiber.getRef(CallContext.Current)), fiber))
          },
          {
            states: Effect.withFiber((fiber) => Effect.succeed(table.states(Timer.now(fiber)))),
            changes: listen(table.listeners, () => []),
            wouldAdmit: (key, now) => table.wouldAdmit(key, now),
            controls: (key) => controlsOf((fiber) => table.keep(key, fiber)),
            snapshot: Effect.withFiber((fiber) => Effect.succeed(table.snapshot(fiber))),
            restore: (snapshot) => onFiber((fiber) => table.restore(snapshot, fiber))
          }
        )
      )
    }))

const keyOf = (call: CallContext.CallContext): string => call.key ?? call.name

const register = (fiber: Fiber.Fiber<unknown, unknown>, name: string, snapshot: () => unknown): void => {
  fiber.getRef(Policy.CurrentRegistry)?.register({ name, kind: "circuitBreaker", snapshot })
}

const onFiber = (run: (fiber: Fiber.Fiber<unknown, unknown>) => void): Effect.Effect<void> =>
  Effect.withFiber((fiber) => {
    run(fiber)
    return Effect.void
  })

// Options -----------------------------------------------------------------------------------------

interface Config extends Circuit.Options {
  readonly name: string
  readonly retryAfter: boolean
  readonly classify: CircuitBreakerOptions["classify"]
  /** Whether a success needs the time it ended. */
  readonly timed: boolean
  /** Whether a call needs the time it started. */
  readonly measured: boolean
}

const ladder: ReadonlyArray<number> = [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000]

const resolve = (where: string, options: CircuitBreakerOptions): Effect.Effect<Config> => {
  const { openFor } = options
  return Effect.map(
    Schedule.isSchedule(openFor)
      ? delaysOf(openFor)
      : Effect.sync(() => (openFor === undefined ? ladder : [Options.millis(where, "openFor", openFor, true)])),
    (openForMillis) => check(where, options, openForMillis)
  )
}

/** Delays read off a Schedule; the 33rd opening in a row is as long as the 32nd. */
const readDelays = 32

const delaysOf = Effect.fnUntraced(function*(schedule: Schedule.Schedule<unknown, number>) {
  const step = yield* Schedule.toStep(schedule)
  const delays: Array<number> = []
  let now = 0
  while (delays.length < readDelays) {
    const delay = yield* step(now, delays.length + 1).pipe(
      Effect.map(([, duration]) => Duration.toMillis(duration)),
      Pull.catchDone(() => Effect.succeed(undefined))
    )
    if (delay === undefined) break
    delays.push(delay)
    now += delay
  }
  return delays
})

const check = (
  where: string,
  options: CircuitBreakerOptions,
  openForMillis: ReadonlyArray<number>
): Config => {
  const {
    classify,
    consecutiveFailures,
    failureRatio,
    halfOpen = {},
    jitter = 0.2,
    name = "CircuitBreaker",
    openFor,
    ramp,
    retryAfter = true,
    slowCallRatio,
    slowThreshold
  } = options
  Options.check(openForMillis.length > 0, where, "openFor", "a Schedule with a first delay", "none")
  for (const delay of openForMillis) Options.check(delay >= 0, where, "openFor", "a Schedule of delays >= 0", delay)
  const stated = consecutiveFailures ?? failureRatio ?? slowCallRatio
  const streak = stated === undefined
    ? { failures: 10 }
    : typeof consecutiveFailures === "number"
    ? { failures: consecutiveFailures }
    : consecutiveFailures
  const ratio = stated === undefined ? 0.5 : failureRatio
  Options.check(
    slowCallRatio === undefined || slowThreshold !== undefined,
    where,
    "slowThreshold",
    "stated for a slowCallRatio",
    slowThreshold
  )
  const window = windowOf(where, options.window ?? { duration: "10 seconds" })
  const slowMillis = slowThreshold === undefined ? Infinity : Options.millis(where, "slowThreshold", slowThreshold)
  const probes = Options.integer(where, "halfOpen.probes", halfOpen.probes ?? 5, 1)
  const leaseMillis = halfOpen.lease === undefined
    ? Math.max(10_000, slowMillis === Infinity ? 0 : 2 * slowMillis)
    : Options.millis(where, "halfOpen.lease", halfOpen.lease)
  const successRatio = Options.ratio(where, "halfOpen.successRatio", halfOpen.successRatio ?? 0.8)
  return {
    name,
    retryAfter,
    classify,
    timed: window.by === "time",
    measured: slowMillis < Infinity,
    consecutiveFailures: streak === undefined
      ? Infinity
      : Options.integer(where, "consecutiveFailures", streak.failures, 1),
    resetEveryMillis: streak?.resetEvery === undefined
      ? Infinity
      : Options.millis(where, "consecutiveFailures.resetEvery", streak.resetEvery),
    failureRatio: ratio === undefined ? Infinity : Options.ratio(where, "failureRatio", ratio),
    backOffRatio: ratio ?? 0.5,
    slowRatio: slowCallRatio === undefined ? Infinity : Options.ratio(where, "slowCallRatio", slowCallRatio),
    slowMillis,
    minimumCalls: window.by === "calls"
      ? Options.integer(where, "minimumCalls", options.minimumCalls ?? window.size, 1, window.size)
      : Options.integer(where, "minimumCalls", options.minimumCalls ?? 20, 1),
    window,
    openForMillis,
    maxOpenForMillis: options.maxOpenFor === undefined
      ? Math.max(300_000, Schedule.isSchedule(openFor) ? 0 : openForMillis[0]!)
      : Options.millis(where, "maxOpenFor", options.maxOpenFor),
    jitter: Options.ratio(where, "jitter", jitter, true),
    probes,
    concurrency: Options.integer(where, "halfOpen.concurrency", halfOpen.concurrency ?? probes, 1, probes),
    // Less a rounding error: 0.55 * 100 is a little more than 55.
    required: Math.ceil(successRatio * probes - 1e-9),
    leaseMillis,
    maxHalfOpenMillis: halfOpen.maxWait === undefined
      ? Math.max(30_000, leaseMillis)
      : Options.millis(where, "halfOpen.maxWait", halfOpen.maxWait),
    rampMillis: ramp === undefined ? 0 : Options.millis(where, "ramp.duration", ramp.duration),
    initialShare: Options.ratio(where, "ramp.initialShare", ramp?.initialShare ?? 0.1)
  }
}

const windowOf = (where: string, window: WindowOptions): Window.Shape =>
  "calls" in window
    ? { by: "calls", size: Options.integer(where, "window.calls", window.calls, 1) }
    : {
      by: "time",
      millis: Options.millis(where, "window.duration", window.duration),
      buckets: Options.integer(where, "window.buckets", window.buckets ?? 10, 1)
    }

// One circuit -------------------------------------------------------------------------------------

/** A circuit with its counters and its operators: what is wired to Effects below. */
class Breaker {
  readonly config: Config
  readonly name: string
  /** The clock it was made with: a reader outside any fiber has no other. */
  readonly clock: Clock.Clock
  rejected = 0
  late = 0
  mode: Mode = "none"
  isolations = 0
  private readonly ref: Ref.Ref<Circuit.Circuit>
  private readonly moved: (state: State, circuit: Circuit.Circuit) => void

  constructor(
    config: Config,
    name: string,
    fiber: Fiber.Fiber<unknown, unknown>,
    moved: (state: State, circuit: Circuit.Circuit) => void
  ) {
    this.config = config
    this.name = name
    this.clock = fiber.getRef(Clock.Clock)
    this.moved = moved
    this.ref = Ref.makeUnsafe<Circuit.Circuit>(Circuit.make(Timer.now(fiber), draw(fiber), config))
  }

  get circuit(): Circuit.Circuit {
    return this.ref.ref.current
  }

  /** Moves the Ref, and only then tells: who listens may call. */
  move(next: Circuit.Circuit, now: number, fiber: Fiber.Fiber<unknown, unknown>): void {
    const from = this.circuit
    if (next === from) return
    this.ref.ref.current = next
    const raised = from._tag === "Recovering" && next._tag === "Recovering" && from.share !== next.share
    if (next._tag === from._tag && !raised) return
    this.moved(this.state(now), next)
    const receiver = CallEvent.receiverOf(fiber)
    if (receiver === undefined) return
    if (raised) {
      receiver.event({
        _tag: "LimitMoved",
        policy: this.name,
        from: from.share,
        to: next.share,
        why: next.share > from.share ? "no condition held" : "a condition held",
        atMillis: now
      })
    } else {
      receiver.event({
        _tag: "Transition",
        policy: this.name,
        from: from._tag,
        to: next._tag,
        why: next.why,
        atMillis: now
      })
    }
  }

  /** An operator's word changed: isolation goes before the mode. */
  obey(fiber: Fiber.Fiber<unknown, unknown>): void {
    const now = Timer.now(fiber)
    const mode = this.isolations > 0 ? "open" : this.mode
    const { circuit, config } = this
    this.move(
      mode === "none"
        ? Circuit.resume(circuit, now, config)
        : Circuit.override(Circuit.elapse(circuit, now, config), tagOf[mode], now, config),
      now,
      fiber
    )
  }

  /** The call that `circuit` rejects. */
  reject(
    now: number,
    fiber: Fiber.Fiber<unknown, unknown>
  ): Effect.Effect<never, CallError.CallError<CallError.CircuitOpen>> {
    this.rejected++
    const { circuit } = this
    const retryAfterMillis = Circuit.retryAfter(circuit, now, this.config)
    const receiver = CallEvent.receiverOf(fiber)
    if (receiver !== undefined) {
      const call = fiber.getRef(CallContext.Current)
      receiver.event({ _tag: "Rejected", call, policy: this.name, reason: "CircuitOpen", atMillis: now })
    }
    return CallError.fail({
      _tag: "CircuitOpen",
      policy: this.name,
      sent: "no",
      state: circuit._tag as CallError.CircuitOpen["state"],
      retryAfterMillis
    })
  }

  /** The end of a call that a Closed circuit admitted and nobody measures. */
  endClosed(
    circuit: Circuit.Closed,
    exit: Exit.Exit<unknown, unknown>,
    fiber: Fiber.Fiber<unknown, unknown>
  ): undefined {
    const { config } = this
    if (exit._tag === "Success" && config.classify === undefined) {
      if (this.circuit !== circuit) this.late++
      else {
        const why = Circuit.count(circuit, false, false, config.timed ? Timer.now(fiber) : 0, config)
        if (why !== undefined) {
          const now = Timer.now(fiber)
          this.move(Circuit.open(circuit, why, 0, now, config), now, fiber)
        }
      }
      return
    }
    const outcome = this.outcome(exit, fiber)
    if (outcome.endpoint === "ignored") return
    if (this.circuit !== circuit) this.late++
    else {
      const now = Timer.now(fiber)
      const failed = outcome.endpoint === "failure"
      this.move(Circuit.recordClosed(circuit, failed, false, this.hint(exit, outcome), now, config), now, fiber)
    }
  }

  /** The end of a call with a permit. */
  end(
    permit: Circuit.Permit,
    exit: Exit.Exit<unknown, unknown>,
    outcome: Outcome.Outcome,
    fiber: Fiber.Fiber<unknown, unknown>
  ): void {
    const { circuit, config } = this
    const now = Timer.now(fiber)
    if (outcome.endpoint === "ignored") {
      this.move(Circuit.release(circuit, permit, now, config), now, fiber)
      return
    }
    const current = Circuit.elapse(circuit, now, config)
    if (Circuit.isLate(current, permit)) {
      this.late++
      this.move(current, now, fiber)
      return
    }
    const exceeded = current._tag === "MetricsOnly" && current.exceeded
    const next = Circuit.record(
      current,
      permit,
      outcome.endpoint === "failure",
      now - permit.startedAt > config.slowMillis,
      this.hint(exit, outcome),
      now,
      config
    )
    this.move(next, now, fiber)
    if (next._tag === "MetricsOnly" && next.exceeded && !exceeded) this.warn("would open", now, fiber)
  }

  outcome(exit: Exit.Exit<unknown, unknown>, fiber: Fiber.Fiber<unknown, unknown>): Outcome.Outcome {
    return (this.config.classify ?? Outcome.ofExit)(exit, fiber.getRef(CallContext.Current))
  }

  /** Whether classifying runs a user's code, which may throw. */
  runsUserCode(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    return this.config.classify !== undefined || fiber.getRef(CallContext.Current).classify !== undefined
  }

  /**
   * How long the server asked us to stay away, 0 for nothing. Of our own errors
   * only `Unavailable` speaks for the server: overload is shed in proportion,
   * and a rate limit is the caller's.
   */
  private hint(exit: Exit.Exit<unknown, unknown>, { endpoint, retryAfterMillis = 0 }: Outcome.Outcome): number {
    if (!this.config.retryAfter || endpoint !== "failure" || !(retryAfterMillis > 0)) return 0
    if (exit._tag === "Failure") {
      for (const reason of exit.cause.reasons) {
        if (!Cause.isFailReason(reason) || !CallError.isCallError(reason.error)) continue
        if (reason.error.reason._tag !== "Unavailable") return 0
      }
    }
    return retryAfterMillis
  }

  private warn(why: string, now: number, fiber: Fiber.Fiber<unknown, unknown>): void {
    CallEvent.receiverOf(fiber)?.event({ _tag: "Warning", policy: this.name, why, atMillis: now })
  }

  state(now: number): State {
    const circuit = Circuit.elapse(this.circuit, now, this.config)
    const { minimumCalls } = this.config
    const { calls, failures, slow } = figuresOf(circuit, now)
    const known = calls >= minimumCalls || (circuit._tag === "HalfOpen" && calls > 0)
    return {
      _tag: circuit._tag,
      generation: circuit.generation,
      sinceMillis: circuit.since,
      untilMillis: circuit._tag === "Open" ? circuit.until : undefined,
      openings: circuit.openings,
      why: circuit.why,
      share: shareOf(circuit),
      probes: circuit._tag === "HalfOpen" ? circuit.held.length : 0,
      calls,
      failures,
      slowCalls: slow,
      failureRatio: known ? failures / calls : undefined,
      slowCallRatio: known ? slow / calls : undefined,
      rejected: this.rejected,
      late: this.late
    }
  }

  snapshot(fiber: Fiber.Fiber<unknown, unknown>): Snapshot {
    const now = Timer.now(fiber)
    const takenAtMillis = fiber.getRef(Clock.Clock).currentTimeMillisUnsafe()
    const { config, mode } = this
    return { takenAtMillis, mode, circuit: Circuit.save(Circuit.elapse(this.circuit, now, config), now, config) }
  }

  restore(snapshot: Snapshot, fiber: Fiber.Fiber<unknown, unknown>): void {
    const now = Timer.now(fiber)
    const passed = Math.max(0, fiber.getRef(Clock.Clock).currentTimeMillisUnsafe() - snapshot.takenAtMillis)
    const generation = this.circuit.generation + 1
    this.move(Circuit.load(snapshot.circuit, generation, draw(fiber), passed, now, this.config), now, fiber)
    this.mode = snapshot.mode
    this.obey(fiber)
  }
}

const tagOf = { open: "ForcedOpen", disabled: "Disabled", metricsOnly: "MetricsOnly" } as const

const draw = (fiber: Fiber.Fiber<unknown, unknown>): number => fiber.getRef(Random.Random).nextDoubleUnsafe()

const nothing = { calls: 0, failures: 0, slow: 0 }

const figuresOf = (circuit: Circuit.Circuit, now: number): typeof nothing => {
  switch (circuit._tag) {
    case "Closed":
    case "Recovering":
    case "MetricsOnly":
      circuit.window.expire(now)
      return circuit.window
    case "HalfOpen":
      return { calls: circuit.successes + circuit.failures, failures: circuit.failures, slow: circuit.slow }
    default:
      return nothing
  }
}

const shareOf = (circuit: Circuit.Circuit): number => {
  switch (circuit._tag) {
    case "Recovering":
      return circuit.share
    case "Open":
    case "HalfOpen":
    case "ForcedOpen":
      return 0
    default:
      return 1
  }
}

type Guarded<A, E, R> = Effect.Effect<A, E | CallError.CallError<CallError.CircuitOpen>, R>

const guard = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  breakerOf: (fiber: Fiber.Fiber<unknown, unknown>) => Breaker
): Guarded<A, E, R> =>
  Effect.withFiber((fiber) => {
    const breaker = breakerOf(fiber)
    const { circuit, config } = breaker
    switch (circuit._tag) {
      case "Closed":
        if (config.measured) return attempt(self, breaker, fiber)
        // No permit is held, so nothing is lost if the fiber is interrupted before this handler is in place.
        return Effect.onExitPrimitive(self, (exit) => breaker.endClosed(circuit, exit, fiber), true)
      case "Disabled":
        return self
      case "Open":
      case "ForcedOpen": {
        const now = Timer.now(fiber)
        return Circuit.wouldAdmit(circuit, now, config) ? attempt(self, breaker, fiber) : breaker.reject(now, fiber)
      }
      default:
        return attempt(self, breaker, fiber)
    }
  })

/** A call that holds a permit: it is taken inside the handler that gives it back, so that no interrupt comes between. */
const attempt = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  breaker: Breaker,
  fiber: Fiber.Fiber<unknown, unknown>
): Guarded<A, E, R> => {
  let permit: Circuit.Permit | undefined
  return Effect.onExitPrimitive(
    Effect.withFiber((): Guarded<A, E, R> => {
      const now = Timer.now(fiber)
      const { config } = breaker
      const admission = Circuit.admit(breaker.circuit, now, draw(fiber), config)
      permit = admission.permit
      breaker.move(admission.circuit, now, fiber)
      if (permit === undefined) return breaker.reject(now, fiber)
      return config.measured || admission.circuit._tag === "HalfOpen"
        ? Effect.provideService(self, Stamp.Current, permit)
        : self
    }),
    (exit) => {
      if (permit === undefined) return undefined
      const held = permit
      if (!breaker.runsUserCode(fiber)) {
        breaker.end(held, exit, breaker.outcome(exit, fiber), fiber)
        return undefined
      }
      return Effect.flatMap(Effect.exit(Effect.sync(() => breaker.outcome(exit, fiber))), (outcome) => {
        breaker.end(held, exit, outcome._tag === "Success" ? outcome.value : Outcome.ignored, fiber)
        return Effect.asVoid(outcome)
      })
    }
  )
}

// Operators and readers ---------------------------------------------------------------------------

const controlsOf = (breakerOf: (fiber: Fiber.Fiber<unknown, unknown>) => Breaker): Controls => ({
  isolate: Effect.asVoid(Effect.acquireRelease(
    Effect.withFiber((fiber) => {
      const breaker = breakerOf(fiber)
      breaker.isolations++
      breaker.obey(fiber)
      return Effect.succeed(breaker)
    }),
    (breaker) =>
      onFiber((fiber) => {
        breaker.isolations--
        breaker.obey(fiber)
      })
  )),
  force: (mode) =>
    onFiber((fiber) => {
      const modes: ReadonlyArray<string> = ["none", ...Object.keys(tagOf)]
      Options.check(modes.includes(mode), "CircuitBreaker.force", "mode", `one of ${modes.join(", ")}`, mode)
      const breaker = breakerOf(fiber)
      breaker.mode = mode
      breaker.obey(fiber)
    }),
  trip: (duration) =>
    onFiber((fiber) => {
      const millis = duration === undefined
        ? undefined
        : Options.millis("CircuitBreaker.trip", "duration", duration, true)
      const breaker = breakerOf(fiber)
      const now = Timer.now(fiber)
      breaker.move(Circuit.trip(breaker.circuit, millis, now, breaker.config), now, fiber)
    }),
  reset: onFiber((fiber) => {
    const breaker = breakerOf(fiber)
    const now = Timer.now(fiber)
    breaker.move(Circuit.reset(breaker.circuit, now, breaker.config), now, fiber)
  })
})

type Listener<A> = (value: A) => void

const tell = <A>(listeners: ReadonlySet<Listener<A>>, value: A): void => {
  for (const listener of listeners) listener(value)
}

/** What is now, then what is told; in one step, so that nothing is missed between. */
const listen = <A>(
  listeners: Set<Listener<A>>,
  now: (fiber: Fiber.Fiber<unknown, unknown>) => ReadonlyArray<A>
): Stream.Stream<A> =>
  Stream.callback<A>(
    (queue) =>
      Effect.acquireRelease(
        Effect.withFiber((fiber) => {
          const listener = (value: A) => void Queue.offerUnsafe(queue, value)
          now(fiber).forEach(listener)
          listeners.add(listener)
          return Effect.succeed(listener)
        }),
        (listener) => Effect.sync(() => listeners.delete(listener))
      ),
    { bufferSize: 64, strategy: "sliding" }
  )

// Many circuits -----------------------------------------------------------------------------------

interface Entry extends Lru.Node {
  readonly key: string
  readonly breaker: Breaker
  usedAt: number
}

/** The circuits of a keyed breaker. Calm ones are Closed and may be evicted for room; the others are held. */
class Table {
  readonly clock: Clock.Clock
  readonly listeners = new Set<Listener<{ readonly key: string; readonly state: State }>>()
  private readonly config: Config
  private readonly maxKeys: number
  private readonly idleMillis: number
  private readonly entries = new Map<string, Entry>()
  private readonly calm = Lru.make<Entry>()
  private readonly held = Lru.make<Entry>()
  private shared: Breaker | undefined
  private sharing = false

  constructor(config: Config, fiber: Fiber.Fiber<unknown, unknown>, maxKeys: number, idleMillis: number) {
    this.config = config
    this.clock = fiber.getRef(Clock.Clock)
    this.maxKeys = maxKeys
    this.idleMillis = idleMillis
  }

  of(key: string, fiber: Fiber.Fiber<unknown, unknown>): Breaker {
    const now = Timer.now(fiber)
    const entry = this.entries.get(key)
    if (entry !== undefined) return this.use(entry, now)
    this.forgetIdle(now)
    if (this.entries.size >= this.maxKeys) {
      const oldest = Lru.oldest(this.calm)
      if (oldest === undefined) return this.share(now, fiber)
      this.forget(oldest)
    }
    this.sharing = false
    return this.add(key, now, fiber)
  }

  /** For an operator, who is not told that there is no room. */
  keep(key: string, fiber: Fiber.Fiber<unknown, unknown>): Breaker {
    const now = Timer.now(fiber)
    const entry = this.entries.get(key)
    return entry === undefined ? this.add(key, now, fiber) : this.use(entry, now)
  }

  wouldAdmit(key: string, now: number): boolean {
    const entry = this.entries.get(key)
    if (entry !== undefined) return Circuit.wouldAdmit(entry.breaker.circuit, now, this.config)
    const full = this.entries.size >= this.maxKeys && Lru.oldest(this.calm) === undefined
    return !full || this.shared === undefined || Circuit.wouldAdmit(this.shared.circuit, now, this.config)
  }

  states(now: number): ReadonlyMap<string, State> {
    const states = new Map<string, State>()
    for (const { breaker, key } of this.entries.values()) states.set(key, breaker.state(now))
    return states
  }

  snapshot(fiber: Fiber.Fiber<unknown, unknown>): Readonly<Record<string, Snapshot>> {
    const all = Array.from(this.entries.values(), ({ breaker, key }) => [key, breaker.snapshot(fiber)] as const)
    return Object.fromEntries(all)
  }

  restore(snapshot: Readonly<Record<string, Snapshot>>, fiber: Fiber.Fiber<unknown, unknown>): void {
    for (const [key, circuit] of Object.entries(snapshot)) {
      if (this.entries.has(key) || this.entries.size < this.maxKeys) this.keep(key, fiber).restore(circuit, fiber)
    }
  }

  private use(entry: Entry, now: number): Breaker {
    entry.usedAt = now
    Lru.touch(entry)
    return entry.breaker
  }

  private add(key: string, now: number, fiber: Fiber.Fiber<unknown, unknown>): Breaker {
    const breaker = new Breaker(this.config, `${this.config.name}[${key}]`, fiber, (state, circuit) => {
      if (this.entries.get(key) === entry) Lru.put(circuit._tag === "Closed" ? this.calm : this.held, entry)
      tell(this.listeners, { key, state })
    })
    const entry: Entry = { key, breaker, usedAt: now, ...Lru.node }
    this.entries.set(key, entry)
    Lru.put(this.calm, entry)
    return breaker
  }

  private share(now: number, fiber: Fiber.Fiber<unknown, unknown>): Breaker {
    const { name } = this.config
    if (!this.sharing) {
      this.sharing = true
      const why = `none of ${this.maxKeys} circuits is closed: further keys share one`
      CallEvent.receiverOf(fiber)?.event({ _tag: "Warning", policy: name, why, atMillis: now })
    }
    return this.shared ??= new Breaker(
      this.config,
      `${name}[*]`,
      fiber,
      (state) => tell(this.listeners, { key: "*", state })
    )
  }

  private forget(entry: Entry): void {
    this.entries.delete(entry.key)
    Lru.remove(entry)
  }

  private forgetIdle(now: number): void {
    const calm = Lru.oldest(this.calm)
    if (calm !== undefined && now >= calm.usedAt + this.idleMillis) this.forget(calm)
    const held = Lru.oldest(this.held)
    if (held === undefined) return
    const { circuit } = held.breaker
    // An operator's word does not age; let the next one come to the front of the queue.
    if (Circuit.isOverride(circuit)) Lru.touch(held)
    else if (now >= Math.max(held.usedAt, circuit._tag === "Open" ? circuit.until : 0) + this.idleMillis) {
      this.forget(held)
    }
  }
}
