/**
 * Stops sending to what keeps failing, and probes before it sends again.
 *
 * ```
 * Closed       all calls pass and are counted; a condition that holds trips it
 * Open         no call passes until the open duration is over
 * HalfOpen     a few calls pass as probes, and their success ratio decides
 * Recovering   a growing share of the calls passes (with `ramp`)
 * ForcedOpen, Disabled, MetricsOnly      an operator's word
 * ```
 *
 * Nothing here waits, forks or keeps a timer: time moves the circuit when a call
 * or a reader looks at it. It never retries and sets no timeout; a call that is
 * rejected in half-open is rejected at once with the time to come back,
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
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Pull from "effect/Pull"
import * as Schedule from "effect/Schedule"
import type * as Stream from "effect/Stream"
import * as CallContext from "../contract/CallContext.ts"
import type * as CallError from "../contract/CallError.ts"
import * as Options from "../contract/Options.ts"
import * as Timer from "../contract/Timer.ts"
import {
  Breaker,
  type Classify,
  type Config,
  type Controls,
  controlsOf,
  gateOf,
  guard,
  listen,
  type Listener,
  onFiber,
  Snapshot,
  type State,
  type Tally,
  tell
} from "./internal/breaker.ts"
import * as Circuit from "./internal/circuit.ts"
import { type Bounds, type Change, Table } from "./internal/table.ts"
import type * as Window from "./internal/window.ts"
import * as Policy from "./Policy.ts"

export { Snapshot }
export type { Classify, Controls, Mode, State, Tag } from "./internal/breaker.ts"

/** How long calls are remembered for the ratios: the last `calls`, or those that ended within `duration`. */
export type WindowOptions =
  | {
    /** An integer in `[1, 1,000,000]`. */
    readonly calls: number
    /** A failed or slow call is forgotten at this age, and with it what came before. Default never. */
    readonly maxAge?: Duration.Input | undefined
  }
  | {
    readonly duration: Duration.Input
    /** Partial sums the duration is cut into: an integer in `[1, 10,000]`. Default 10: a call is forgotten at most a tenth early. */
    readonly buckets?: number | undefined
  }

/** How a circuit finds out whether it may close. */
export interface HalfOpenOptions {
  /** Probes that decide: an integer `>= 1`. Default 5. */
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
   * How long probing may take, from the first probe. Then the probes that have
   * ended decide, and those that have not count as failed. Default 30 seconds, or
   * the lease where that is longer. A circuit that nobody calls stays half-open.
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
 * 10 failures in a row, and half of the last 100 calls, of at least 20.
 *
 * Ten in a row, for a quiet endpoint: at 1 call per second a dead one is noticed
 * in 10 s, and one that fails 30 % of its calls at random, which is still worth
 * calling, trips it once in 240,000 calls (`(p^-10 - 1) / (1 - p)`). The ratio,
 * for one that fails partly: of the first 20 calls at 25 % failures a half fails
 * in 1.4 % of the cases, of 100 at 40 % in 2.7 %.
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
  /**
   * A call is slow when it takes longer, whether it succeeds or fails. Waiting
   * for a permit inside does not count. Costs two readings of the clock per call.
   */
  readonly slowThreshold?: Duration.Input | undefined
  /**
   * What the ratios are taken over. Default `{ calls: 100, maxAge: "1 minute" }`:
   * follows the traffic, does not punish for an incident that is over, and needs
   * no clock for a success while nothing in it has failed.
   */
  readonly window?: WindowOptions | undefined
  /**
   * Calls in the window before a ratio means anything: an integer `>= 1`, at
   * most the window's `calls`. Default: all of a stated window by calls, else 20.
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
   * Default 1 s, 2 s, 4 s, … 32 s, 60 s: each a second longer than all before it
   * together, so a circuit outlives an outage by about what the outage took, and
   * by a minute at most.
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
   * a trip condition halves the share, and at the first step reopens. `false` for
   * none, which is the default here, because alone it rejects calls that would
   * succeed; in a client, whose balancer picks another endpoint, it is 5 seconds.
   */
  readonly ramp?: RampOptions | false | undefined
  /** What an exit means. Default `Outcome.ofExit`, which asks the call's own `classify` about foreign errors. */
  readonly classify?: Classify | undefined
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
  /** @internal */
  readonly gate: Policy.Gate
  readonly snapshot: Effect.Effect<Snapshot>
  /** Takes over a snapshot. Results of calls in flight count no more. */
  readonly restore: (snapshot: Snapshot) => Effect.Effect<void>
  /**
   * Goes on by other options, all of them, under its name: open stays open for as
   * long as it was to be, what a window of the same kind knows counts, and an
   * operator's word stays in force. Results of calls in flight count no more.
   * Dies on what `make` dies on.
   */
  readonly reconfigure: (options: CircuitBreakerOptions) => Effect.Effect<void>
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
      const tally: Tally = { failed: 0 }
      const breaker = new Breaker(config, config.name, fiber, tally, (state) => tell(listeners, state))
      const { name } = config
      const self = Policy.make<CallError.CallError<CallError.CircuitOpen>, never, "circuitBreaker", Extra>(
        { name, kind: "circuitBreaker", run: (self) => guard(self, () => breaker) },
        {
          ...controlsOf(() => breaker),
          state: Effect.withFiber((fiber) => Effect.succeed(breaker.state(Timer.now(fiber)))),
          changes: listen(listeners, (fiber) => [breaker.state(Timer.now(fiber))]),
          wouldAdmit: (now) => Circuit.wouldAdmit(breaker.circuit, now, breaker.config),
          gate: gateOf(breaker),
          snapshot: Effect.withFiber((fiber) => Effect.succeed(breaker.snapshot(fiber))),
          restore: (snapshot) => onFiber((fiber) => breaker.restore(snapshot, fiber)),
          reconfigure: (options) =>
            Effect.flatMap(
              resolve("CircuitBreaker.reconfigure", options),
              (config) => onFiber((fiber) => breaker.reconfigure(config, fiber))
            )
        }
      )
      register(fiber, name, tally, () => breaker.state(Timer.nowOf(breaker.clock)))
      return Effect.succeed(self)
    }))

type Extra = Omit<CircuitBreaker, keyof Policy.OfKind<"circuitBreaker">>

export interface KeyedOptions extends CircuitBreakerOptions {
  /**
   * The key of a call; `undefined` leaves it to the default, which is the call's `key`, or its `name` where it has none:
   * a circuit per method.
   */
  readonly key?: ((call: CallContext.CallContext) => string | undefined) | undefined
  /** Circuits kept: an integer `>= 1`. Default 10,000, which is 11 MB, and 21 MB if all of them have seen a failure. */
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
  readonly changes: Stream.Stream<Change>
  /** Whether a call with the key could be admitted at `nowMillis`; of a key without a circuit, whether a new one would be. */
  readonly wouldAdmit: (key: string, nowMillis: number) => boolean
  /** An operator's controls of one key. They keep its circuit for as long as they hold it. */
  readonly controls: (key: string) => Controls
  readonly snapshot: Effect.Effect<Readonly<Record<string, Snapshot>>>
  /** Takes over the circuits of a snapshot, up to `maxKeys`; the others stay as they are. */
  readonly restore: (snapshot: Readonly<Record<string, Snapshot>>) => Effect.Effect<void>
  /**
   * Goes on by other options, all of them, under its name, each circuit as `CircuitBreaker.reconfigure` says. What its
   * keys are must not change: circuits are not kept apart. Beyond a smaller `maxKeys`, new keys make room for themselves.
   * Dies on what `keyed` dies on.
   */
  readonly reconfigure: (options: KeyedOptions) => Effect.Effect<void>
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
      const { key = keyOf } = options
      const table = new Table(config, fiber, boundsOf("CircuitBreaker.keyed", options))
      register(fiber, config.name, table.tally, () => Object.fromEntries(table.states(Timer.nowOf(table.clock))))
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
            run: (self) =>
              guard(self, (fiber) => {
                const call = fiber.getRef(CallContext.Current)
                return table.of(key(call) ?? keyOf(call), fiber)
              })
          },
          {
            states: Effect.withFiber((fiber) => Effect.succeed(table.states(Timer.now(fiber)))),
            changes: listen(table.listeners, () => []),
            wouldAdmit: (key, now) => table.wouldAdmit(key, now),
            controls: (key) => controlsOf((fiber) => table.keep(key, fiber)),
            snapshot: Effect.withFiber((fiber) => Effect.succeed(table.snapshot(fiber))),
            restore: (snapshot) => onFiber((fiber) => table.restore(snapshot, fiber)),
            reconfigure: (options) =>
              Effect.flatMap(resolve("CircuitBreaker.reconfigure", options), (config) =>
                onFiber((fiber) =>
                  table.reconfigure(config, boundsOf("CircuitBreaker.reconfigure", options), fiber)
                ))
          }
        )
      )
    }))

const boundsOf = (where: string, { idleTimeToLive = "10 minutes", maxKeys = 10_000 }: KeyedOptions): Bounds => ({
  maxKeys: Options.integer(where, "maxKeys", maxKeys, 1),
  idleMillis: Options.millis(where, "idleTimeToLive", idleTimeToLive)
})

const keyOf = (call: CallContext.CallContext): string => call.key ?? call.name

const register = (
  fiber: Fiber.Fiber<unknown, unknown>,
  name: string,
  tally: Tally,
  snapshot: () => unknown
): void => {
  fiber.getRef(Policy.CurrentRegistry)?.register({
    name,
    kind: "circuitBreaker",
    snapshot,
    counts: () => ({ failed: tally.failed })
  })
}

// Options -----------------------------------------------------------------------------------------

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
      Pull.catchDone(() => Effect.undefined)
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
    ramp = false,
    retryAfter = true,
    slowCallRatio,
    slowThreshold
  } = options
  Options.check(openForMillis.length > 0, where, "openFor", "a Schedule of at least one delay", openForMillis.length)
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
  const window = windowOf(where, options.window ?? { calls: 100, maxAge: "1 minute" })
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
      ? Options.integer(
        where,
        "minimumCalls",
        options.minimumCalls ?? (options.window === undefined ? 20 : window.size),
        1,
        window.size
      )
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
    rampMillis: ramp === false ? 0 : Options.millis(where, "ramp.duration", ramp.duration),
    initialShare: Options.ratio(where, "ramp.initialShare", (ramp === false ? undefined : ramp.initialShare) ?? 0.1)
  }
}

const windowOf = (where: string, window: WindowOptions): Window.Shape =>
  "calls" in window
    ? {
      by: "calls",
      // A byte each, and another eight when one of them fails.
      size: Options.integer(where, "window.calls", window.calls, 1, 1_000_000),
      maxAgeMillis: window.maxAge === undefined ? Infinity : Options.millis(where, "window.maxAge", window.maxAge)
    }
    : {
      by: "time",
      millis: Options.millis(where, "window.duration", window.duration),
      buckets: Options.integer(where, "window.buckets", window.buckets ?? 10, 1, 10_000)
    }
