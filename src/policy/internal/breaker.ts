/**
 * One circuit on Effects: the pure core of `circuit.ts` in a `Ref`, wired to
 * clocks, calls, events and operators.
 *
 * Between reading and writing the Ref nothing yields and no user code runs:
 * classifiers run before, listeners and receivers after.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Queue from "effect/Queue"
import * as Random from "effect/Random"
import * as Ref from "effect/Ref"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as CallContext from "../../contract/CallContext.ts"
import * as CallError from "../../contract/CallError.ts"
import * as CallEvent from "../../contract/CallEvent.ts"
import { evaluate } from "../../contract/Immediate.ts"
import * as Options from "../../contract/Options.ts"
import * as Outcome from "../../contract/Outcome.ts"
import * as Timer from "../../contract/Timer.ts"
import * as Circuit from "./circuit.ts"
import * as Stamp from "./stamp.ts"

/** What a breaker was made with. */
export interface Config extends Circuit.Options {
  readonly name: string
  readonly retryAfter: boolean
  readonly classify: Classify | undefined
  /** Whether a call needs the time it started. */
  readonly measured: boolean
}

/** What an exit means. */
export type Classify = (exit: Exit.Exit<unknown, unknown>, call: CallContext.CallContext) => Outcome.Outcome

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
    calls: Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 3 }))),
    ageMillis: Schema.Array(millis)
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

/** What circuits of one policy have counted since it was made, whichever of them are kept. */
export interface Tally {
  /** Calls that failed, late ones too. */
  failed: number
}

/** A circuit with its counters and its operators. */
export class Breaker {
  config: Config
  readonly name: string
  /** The clock it was made with: a reader outside any fiber has no other. */
  readonly clock: Clock.Clock
  private readonly ref: Ref.Ref<Circuit.Circuit>
  private readonly moved: (state: State, circuit: Circuit.Circuit) => void
  private readonly tally: Tally
  private rejected = 0
  private late = 0
  private mode: Mode = "none"
  private isolations = 0

  constructor(
    config: Config,
    name: string,
    fiber: Fiber.Fiber<unknown, unknown>,
    tally: Tally,
    moved: (state: State, circuit: Circuit.Circuit) => void
  ) {
    this.config = config
    this.tally = tally
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
    const share = from._tag === "Recovering" && next._tag === "Recovering" && from.share !== next.share
    if (next._tag === from._tag && !share) return
    this.moved(this.state(now), next)
    const receiver = CallEvent.receiverOf(fiber)
    if (receiver === undefined) return
    const event = { policy: this.name, why: next.why, atMillis: now }
    receiver.event(
      share
        ? { _tag: "LimitMoved", ...event, from: from.share, to: next.share }
        : { _tag: "Transition", ...event, from: from._tag, to: next._tag }
    )
  }

  /** What time alone has made of the circuit. A transition of its own, which is told before the one of a call. */
  elapse(now: number, fiber: Fiber.Fiber<unknown, unknown>): Circuit.Circuit {
    this.move(Circuit.elapse(this.circuit, now, this.config), now, fiber)
    return this.circuit
  }

  reject(
    now: number,
    fiber: Fiber.Fiber<unknown, unknown>
  ): Effect.Effect<never, CallError.CallError<CallError.CircuitOpen>> {
    this.rejected++
    const { circuit, name } = this
    const error = new CallError.CallError({
      _tag: "CircuitOpen",
      policy: name,
      sent: "no",
      // The only states that reject.
      state: circuit._tag as CallError.CircuitOpen["state"],
      retryAfterMillis: Circuit.retryAfter(circuit, now, this.config)
    })
    CallEvent.receiverOf(fiber)?.event({
      _tag: "Rejected",
      call: fiber.getRef(CallContext.Current),
      policy: name,
      reason: "CircuitOpen",
      error,
      state: { why: circuit.why, sinceMillis: circuit.since },
      atMillis: now
    })
    return Effect.fail(error)
  }

  /** The end of a call that a Closed circuit admitted and nobody measures. */
  endClosed(
    circuit: Circuit.Closed,
    exit: Exit.Exit<unknown, unknown>,
    call?: CallContext.CallContext
  ): undefined {
    const { config } = this
    if (exit._tag === "Success" && config.classify === undefined) {
      if (this.circuit !== circuit) this.late++
      else {
        const why = Circuit.count(circuit, false, false, circuit.window.timed ? nowOfCurrent() : 0, config)
        if (why !== undefined) {
          const now = nowOfCurrent()
          this.move(Circuit.open(circuit, why, 0, now, config), now, Fiber.getCurrent()!)
        }
      }
      return
    }
    const fiber = Fiber.getCurrent()!
    const outcome = this.outcome(exit, call ?? fiber.getRef(CallContext.Current))
    if (outcome.endpoint === "ignored") return
    const failed = outcome.endpoint === "failure"
    if (failed) this.tally.failed++
    if (this.circuit !== circuit) this.late++
    else {
      const now = Timer.now(fiber)
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
    const { config } = this
    const now = Timer.now(fiber)
    const circuit = this.elapse(now, fiber)
    if (outcome.endpoint === "ignored") return this.move(Circuit.release(circuit, permit), now, fiber)
    const failed = outcome.endpoint === "failure"
    if (failed) this.tally.failed++
    if (Circuit.isLate(circuit, permit)) {
      this.late++
      return
    }
    const told = circuit._tag === "MetricsOnly" ? circuit.exceeded : undefined
    const slow = now - permit.startedAt > config.slowMillis
    const next = Circuit.record(circuit, permit, failed, slow, this.hint(exit, outcome), now, config)
    this.move(next, now, fiber)
    if (next._tag === "MetricsOnly" && next.exceeded !== undefined && told === undefined) {
      const why = `would open: ${next.exceeded}`
      CallEvent.receiverOf(fiber)?.event({ _tag: "Warning", policy: this.name, why, atMillis: now })
    }
  }

  outcome(exit: Exit.Exit<unknown, unknown>, call: CallContext.CallContext): Outcome.Outcome {
    return (this.config.classify ?? Outcome.ofExit)(exit, call)
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

  isolate(by: 1 | -1, fiber: Fiber.Fiber<unknown, unknown>): void {
    this.isolations += by
    this.obey(fiber)
  }

  force(mode: Mode, fiber: Fiber.Fiber<unknown, unknown>): void {
    this.mode = mode
    this.obey(fiber)
  }

  trip(millis: number | undefined, fiber: Fiber.Fiber<unknown, unknown>): void {
    const now = Timer.now(fiber)
    this.move(Circuit.trip(this.circuit, millis, now, this.config), now, fiber)
  }

  reset(fiber: Fiber.Fiber<unknown, unknown>): void {
    const now = Timer.now(fiber)
    this.move(Circuit.reset(this.circuit, now, this.config), now, fiber)
  }

  /** An operator's word changed: isolation goes before the mode. */
  private obey(fiber: Fiber.Fiber<unknown, unknown>): void {
    const { config } = this
    const now = Timer.now(fiber)
    const mode = this.isolations > 0 ? "open" : this.mode
    const circuit = this.elapse(now, fiber)
    this.move(
      mode === "none" ? Circuit.resume(circuit, now, config) : Circuit.override(circuit, tagOf[mode], now, config),
      now,
      fiber
    )
  }

  state(now: number): State {
    const circuit = Circuit.elapse(this.circuit, now, this.config)
    const { calls, failures, slow } = figuresOf(circuit, now)
    const known = calls > 0 && (circuit._tag === "HalfOpen" || calls >= this.config.minimumCalls)
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
    const circuit = Circuit.elapse(this.circuit, now, this.config)
    return { takenAtMillis, mode: this.mode, circuit: Circuit.save(circuit, now, this.config) }
  }

  restore(snapshot: Snapshot, fiber: Fiber.Fiber<unknown, unknown>): void {
    const now = Timer.now(fiber)
    const passed = Math.max(0, fiber.getRef(Clock.Clock).currentTimeMillisUnsafe() - snapshot.takenAtMillis)
    const generation = this.circuit.generation + 1
    this.move(Circuit.load(snapshot.circuit, generation, draw(fiber), passed, now, this.config), now, fiber)
    this.force(snapshot.mode, fiber)
  }

  /** Goes on by another configuration, where it stands; an operator's word stays in force. */
  reconfigure(config: Config, fiber: Fiber.Fiber<unknown, unknown>): void {
    const now = Timer.now(fiber)
    const saved = this.snapshot(fiber).circuit
    const { circuit } = this
    this.config = config
    const next = Circuit.load(saved, circuit.generation + 1, draw(fiber), 0, now, config)
    this.move(Circuit.isOverride(circuit) ? Circuit.override(next, circuit._tag, now, config) : next, now, fiber)
  }
}

const tagOf = { open: "ForcedOpen", disabled: "Disabled", metricsOnly: "MetricsOnly" } as const

const nowOfCurrent = (): number => Timer.now(Fiber.getCurrent()!)

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

// Calls -------------------------------------------------------------------------------------------

type Guarded<A, E, R> = Effect.Effect<A, E | CallError.CallError<CallError.CircuitOpen>, R>

/** An effect behind the circuit that `breakerOf` picks for each run. */
export const guard = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  breakerOf: (fiber: Fiber.Fiber<unknown, unknown>) => Breaker
): Guarded<A, E, R> => {
  // What a Closed circuit makes of `self` holds nothing of one run, so it is made once per circuit.
  let closed: Circuit.Closed | undefined
  let guarded: Effect.Effect<A, E, R> = self
  return Effect.withFiber((fiber): Guarded<A, E, R> => {
    const breaker = breakerOf(fiber)
    const { circuit } = breaker
    if (circuit === closed) return evaluate(guarded, self, fiber)
    switch (circuit._tag) {
      case "Closed":
        if (breaker.config.measured) return measure(self, breaker, circuit, fiber)
        closed = circuit
        guarded = Effect.onExitPrimitive(self, (exit) => breaker.endClosed(circuit, exit))
        return evaluate(guarded, self, fiber)
      case "Disabled":
        return self
      case "Open":
      case "ForcedOpen": {
        const now = Timer.now(fiber)
        return Circuit.wouldAdmit(circuit, now, breaker.config)
          ? attempt(self, breaker, fiber)
          : breaker.reject(now, fiber)
      }
      default:
        return attempt(self, breaker, fiber)
    }
  })
}

/** The way through a circuit that is Closed and measures nothing. */
export const gateOf = (breaker: Breaker) => ({
  enter: (): Circuit.Closed | undefined => {
    const { circuit } = breaker
    return circuit._tag === "Closed" && !breaker.config.measured ? circuit : undefined
  },
  leave: (circuit: Circuit.Closed, exit: Exit.Exit<unknown, unknown>, call: CallContext.CallContext): void =>
    breaker.endClosed(circuit, exit, call)
})

/** A call through a Closed circuit that has to know how long it took. */
const measure = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  breaker: Breaker,
  { generation }: Circuit.Closed,
  fiber: Fiber.Fiber<unknown, unknown>
): Guarded<A, E, R> => {
  const permit: Circuit.Permit = { generation, startedAt: Timer.now(fiber), waiting: 0 }
  const outer = fiber.context
  fiber.setContext(Context.add(outer, Stamp.Current, permit))
  return evaluate(
    Effect.onExitPrimitive(self, (exit) => {
      fiber.setContext(outer)
      breaker.end(permit, exit, breaker.outcome(exit, fiber.getRef(CallContext.Current)), fiber)
      return undefined
    }),
    self,
    fiber
  )
}

/**
 * A call that a circuit may admit as a probe. The permit is taken inside the
 * handler that gives it back, so that no interrupt comes between: the fiber may
 * yield between any two effects.
 */
const attempt = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  breaker: Breaker,
  fiber: Fiber.Fiber<unknown, unknown>
): Guarded<A, E, R> => {
  const { config } = breaker
  let permit: Circuit.Permit | undefined
  const admit = Effect.withFiber((): Guarded<A, E, R> => {
    const now = Timer.now(fiber)
    const admission = Circuit.admit(breaker.elapse(now, fiber), now, draw(fiber), config)
    permit = admission.permit
    breaker.move(admission.circuit, now, fiber)
    return permit === undefined ? breaker.reject(now, fiber) : Effect.provideService(self, Stamp.Current, permit)
  })
  return Effect.onExitPrimitive(admit, (exit) => {
    const held = permit
    if (held === undefined) return undefined
    // A classifier is a user's code and may throw: the permit goes back all the same.
    return Effect.flatMap(
      Effect.exit(Effect.sync(() => breaker.outcome(exit, fiber.getRef(CallContext.Current)))),
      (outcome) => {
        breaker.end(held, exit, outcome._tag === "Success" ? outcome.value : Outcome.ignored, fiber)
        return Effect.asVoid(outcome)
      }
    )
  })
}

// Operators and readers ---------------------------------------------------------------------------

export const controlsOf = (breakerOf: (fiber: Fiber.Fiber<unknown, unknown>) => Breaker): Controls => {
  const onBreaker = (run: (breaker: Breaker, fiber: Fiber.Fiber<unknown, unknown>) => void): Effect.Effect<Breaker> =>
    Effect.withFiber((fiber) => {
      const breaker = breakerOf(fiber)
      run(breaker, fiber)
      return Effect.succeed(breaker)
    })
  return {
    isolate: Effect.asVoid(Effect.acquireRelease(
      onBreaker((breaker, fiber) => breaker.isolate(1, fiber)),
      // The one that was isolated, whatever its key stands for by now.
      (breaker) => onFiber((fiber) => breaker.isolate(-1, fiber))
    )),
    force: (mode) =>
      Effect.asVoid(onBreaker((breaker, fiber) => {
        const modes: ReadonlyArray<string> = ["none", ...Object.keys(tagOf)]
        Options.check(modes.includes(mode), "CircuitBreaker.force", "mode", `one of ${modes.join(", ")}`, mode)
        breaker.force(mode, fiber)
      })),
    trip: (duration) =>
      Effect.asVoid(onBreaker((breaker, fiber) => {
        const where = "CircuitBreaker.trip"
        breaker.trip(duration === undefined ? undefined : Options.millis(where, "duration", duration, true), fiber)
      })),
    reset: Effect.asVoid(onBreaker((breaker, fiber) => breaker.reset(fiber)))
  }
}

/** A step that needs the fiber. */
export const onFiber = (run: (fiber: Fiber.Fiber<unknown, unknown>) => void): Effect.Effect<void> =>
  Effect.withFiber((fiber) => {
    run(fiber)
    return Effect.void
  })

export type Listener<A> = (value: A) => void

export const tell = <A>(listeners: ReadonlySet<Listener<A>>, value: A): void => {
  for (const listener of listeners) listener(value)
}

/** What is now, then what is told; in one step, so that nothing is missed between. */
export const listen = <A>(
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
