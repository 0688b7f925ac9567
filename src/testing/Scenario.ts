/**
 * A policy, a script of calls at given times, and what became of each: in
 * virtual time, without writing code.
 *
 * ```ts
 * const result = yield* Scenario.run(
 *   { circuitBreaker: { consecutiveFailures: 2, openFor: "1 s" } },
 *   [
 *     { at: 0, call: "fail" },
 *     { at: 10, call: "fail" },
 *     { at: 20, call: "succeed" },
 *     { at: 1500, call: "succeed" }
 *   ]
 * )
 * // result.calls.map((call) => call.result) is ["failed", "failed", "CircuitOpen", "ok"]
 * ```
 *
 * A script is data too: it may come from JSON or YAML as it stands.
 *
 * The policy is the real one, compiled from its spec; only the clock, the dice
 * and the dependency are the script's. The same spec, script and seed give the
 * same result, to the byte.
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as TestClock from "effect/testing/TestClock"
import * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Interruption from "../contract/Interruption.ts"
import * as Options from "../contract/Options.ts"
import * as Outcome from "../contract/Outcome.ts"
import * as Timer from "../contract/Timer.ts"
import * as PolicySpec from "../policy/PolicySpec.ts"

/** A duration as a spec writes it (`"250ms"`, `"2 s"`), or any of Effect's; a number is milliseconds. */
export type Time = Duration.Input | string

/**
 * What the dependency does with one attempt: answers, fails (the endpoint's
 * failure), fails in a way that says nothing about the endpoint (`ignore`),
 * refuses for good (`reject`: an answer like any other, never retried), dies of a
 * defect, or never answers.
 */
export type Behaviour = "succeed" | "fail" | "ignore" | "reject" | "die" | "hang"

/** One attempt: its behaviour, and when it shows. */
export interface Answer {
  readonly does: Behaviour
  /** How long it takes. Default 0. */
  readonly after?: Time | undefined
  /** How long the dependency asks to be left alone. Only for `fail`. */
  readonly retryAfter?: Time | undefined
  /** Whether a `fail` provably never reached the handler. Default `"maybe"`. */
  readonly sent?: CallError.Sent | undefined
}

/** What happens at an instant. */
export type Step =
  | {
    readonly at: Time
    /** One behaviour for all attempts, or one for each; the last one stands for those that follow. */
    readonly call: Behaviour | Answer | ReadonlyArray<Behaviour | Answer>
    /** How many such calls are made at this instant. Default 1. */
    readonly times?: number | undefined
    readonly context?: Partial<CallContext.CallContext> | undefined
    /** Interrupts the call this long after it was made, if it is still there. */
    readonly interruptAfter?: Time | undefined
  }
  /** The circuit breaker is forced: `isolate` until `release`. Of a keyed one the circuit of a key, by default `"call"`. */
  | {
    readonly at: Time
    readonly circuit: "isolate" | "release" | "forceOpen" | "disable" | "metricsOnly" | "normal"
    readonly key?: string | undefined
  }
  | { readonly at: Time; readonly reload: unknown }

/** What became of one call. Times are virtual milliseconds. */
export interface Call {
  readonly at: number
  readonly endedAt: number
  /** `ok`, `failed` (the dependency's own error), `died`, `interrupted`, `pending` at the end, or the tag of a `CallError`'s reason. */
  readonly result: string
  /** When each of its attempts was sent. */
  readonly sends: ReadonlyArray<number>
  /** The error's message, where there was one. */
  readonly message: string | undefined
}

export interface Result {
  /** In the order in which they were made. */
  readonly calls: ReadonlyArray<Call>
  /** `"Closed>Open"` and so on, with when and why. Of which circuit of a keyed breaker, `events` say. */
  readonly transitions: ReadonlyArray<{ readonly at: number; readonly change: string; readonly why: string }>
  /** Every event, in order. */
  readonly events: ReadonlyArray<CallEvent.CallEvent>
  /** The state of the circuit breaker at the end, where there is one and it is not keyed. */
  readonly circuit: string | undefined
  /** Live timers at the end: 0 unless calls are pending. */
  readonly timers: number
}

export interface ScenarioOptions {
  /** Names the dice. Default `"scenario"`. */
  readonly seed?: string | undefined
  /** When to stop looking. Default an hour after the last step. */
  readonly until?: Time | undefined
  readonly bindings?: PolicySpec.Bindings | undefined
}

/** The dependency's own failure. */
class Refused {
  readonly _tag = "Refused"
  readonly outcome: Outcome.Outcome
  constructor(outcome: Outcome.Outcome) {
    this.outcome = outcome
  }
}

const where = "Scenario.run"

const written = Schema.decodeUnknownOption(PolicySpec.PeriodOrZero)

/** A time of the script in milliseconds. Throws on one that is negative, infinite or none. */
const millis = (field: string, time: Time): number =>
  Option.match(written(time), {
    onSome: Duration.toMillis,
    onNone: () => Options.millis(where, field, time as Duration.Input, true)
  })

/** A step that makes calls, read. */
interface Calls {
  readonly at: number
  readonly answers: ReadonlyArray<Answer>
  readonly times: number
  readonly context: Partial<CallContext.CallContext> | undefined
  readonly interruptAfterMillis: number | undefined
}
type Switches = keyof typeof modes | "isolate" | "release"
type Instruction = Calls | { readonly at: number; readonly circuit: Switches; readonly key: string } | {
  readonly at: number
  readonly reload: unknown
}

const behaviours: ReadonlyArray<Behaviour> = ["succeed", "fail", "ignore", "reject", "die", "hang"]
const modes = { forceOpen: "open", disable: "disabled", metricsOnly: "metricsOnly", normal: "none" } as const
const switches: ReadonlyArray<Switches> = ["isolate", "release", "forceOpen", "disable", "metricsOnly", "normal"]

const answerOf = (given: Behaviour | Answer): Answer => {
  const answer = typeof given === "string" ? { does: given } : given
  Options.check(behaviours.includes(answer.does), where, "call", `one of ${behaviours.join(", ")}`, answer.does)
  return answer
}

/** Reads a script, which may have been data: its mistakes show before anything runs. */
const read = (script: ReadonlyArray<Step>): ReadonlyArray<Instruction> => {
  let latest = 0
  return script.map((step): Instruction => {
    const at = millis("at", step.at)
    Options.check(at >= latest, where, "at", `in order, at least ${latest}`, at)
    latest = at
    if ("call" in step) {
      const given = Array.isArray(step.call) ? step.call : [step.call as Behaviour | Answer]
      Options.check(given.length > 0, where, "call", "at least one answer", "none")
      const { interruptAfter } = step
      return {
        at,
        answers: given.map(answerOf),
        times: Options.integer(where, "times", step.times ?? 1, 1),
        context: step.context,
        interruptAfterMillis: interruptAfter === undefined ? undefined : millis("interruptAfter", interruptAfter)
      }
    }
    if ("circuit" in step) {
      Options.check(switches.includes(step.circuit), where, "circuit", `one of ${switches.join(", ")}`, step.circuit)
      return { at, circuit: step.circuit, key: step.key ?? CallContext.empty.name }
    }
    Options.check("reload" in step, where, "step", "a call, a circuit or a reload", JSON.stringify(step))
    return { at, reload: step.reload }
  })
}

const answer = (given: Answer): Effect.Effect<string, unknown> => {
  const after = given.after === undefined ? 0 : millis("after", given.after)
  const then: Effect.Effect<string, unknown> = (() => {
    switch (given.does) {
      case "succeed":
        return Effect.succeed("ok")
      case "fail":
        return Effect.fail(
          new Refused({
            endpoint: "failure",
            retry: given.sent === "no" ? "safe" : "ifIdempotent",
            retryAfterMillis: given.retryAfter === undefined ? undefined : millis("retryAfter", given.retryAfter)
          })
        )
      case "ignore":
        return Effect.fail(new Refused(Outcome.ignored))
      case "reject":
        return Effect.fail(new Refused(Outcome.success))
      case "die":
        return Effect.die(new Error("the dependency died"))
      case "hang":
        return Effect.never
    }
  })()
  return after > 0 ? Effect.andThen(Effect.sleep(after), then) : then
}

const classify = (error: unknown): Outcome.Outcome => (error instanceof Refused ? error.outcome : Outcome.failure)

const resultOf = (exit: Exit.Exit<unknown, unknown>): Pick<Call, "result" | "message"> => {
  if (Exit.isSuccess(exit)) return { result: "ok", message: undefined }
  if (Cause.hasInterrupts(exit.cause)) return { result: "interrupted", message: Interruption.fromCause(exit.cause) }
  const error = Cause.squash(exit.cause)
  if (CallError.isCallError(error)) return { result: error.reason._tag, message: error.message }
  return Cause.hasDies(exit.cause)
    ? { result: "died", message: String(error) }
    : { result: "failed", message: undefined }
}

/** Runs a script against a policy. Fails when the spec cannot be compiled; dies with a `RangeError` on a script that makes no sense. */
export const run = (
  spec: PolicySpec.PolicySpec,
  script: ReadonlyArray<Step>,
  options: ScenarioOptions = {}
): Effect.Effect<Result, PolicySpec.SpecError> => {
  const events: Array<CallEvent.CallEvent> = []
  const receiver: CallEvent.Receiver = { event: (event) => void events.push(event) }
  return Effect.gen(function*() {
    const steps = read(script)
    const policy = yield* PolicySpec.make(spec, options.bindings)
    const clock = yield* Effect.clockWith(Effect.succeed)
    const now = Effect.sync(() => Timer.nowOf(clock))
    const calls: Array<{ call: Call; readonly fiber: Fiber.Fiber<unknown, unknown> }> = []
    const isolations: Array<Scope.Closeable> = []

    const make = Effect.fnUntraced(function*({ answers, context, interruptAfterMillis }: Calls) {
      const at = yield* now
      const sends: Array<number> = []
      const attempt = Effect.suspend(() => {
        sends.push(Timer.nowOf(clock))
        return answer(answers[Math.min(sends.length, answers.length) - 1]!)
      })
      const guarded = policy.run(attempt).pipe(CallContext.annotate({ classify, ...context }))
      const fiber = yield* Effect.forkDetach(guarded, { startImmediately: true })
      const entry = { call: { at, endedAt: Infinity, result: "pending", sends, message: undefined } as Call, fiber }
      calls.push(entry)
      fiber.addObserver((exit) => {
        entry.call = { at, endedAt: Timer.nowOf(clock), sends, ...resultOf(exit) }
      })
      if (interruptAfterMillis !== undefined) {
        yield* Effect.forkDetach(
          Effect.andThen(Effect.sleep(interruptAfterMillis), Effect.sync(() => fiber.interruptUnsafe())),
          { startImmediately: true }
        )
      }
    })

    const force = Effect.fnUntraced(function*(what: Switches, key: string) {
      const { slots } = yield* policy.current
      const circuitBreaker = slots.circuitBreaker ?? slots.keyedCircuitBreaker?.controls(key)
      if (circuitBreaker === undefined) {
        throw Options.invalid(where, "circuit", "used with a spec that has a circuitBreaker", what)
      }
      if (what === "isolate") {
        const scope = yield* Scope.make()
        isolations.push(scope)
        return yield* Scope.provide(circuitBreaker.isolate, scope)
      }
      if (what !== "release") return yield* circuitBreaker.force(modes[what])
      const scope = isolations.pop()
      if (scope === undefined) throw Options.invalid(where, "circuit", "isolated before it is released", what)
      return yield* Scope.close(scope, Exit.void)
    })

    for (const step of steps) {
      const elapsed = yield* now
      if (step.at > elapsed) yield* TestClock.adjust(step.at - elapsed)
      if ("answers" in step) { for (let i = 0; i < step.times; i++) yield* make(step) }
      else if ("circuit" in step) yield* force(step.circuit, step.key)
      else yield* Effect.ignore(policy.reload(step.reload))
    }
    const last = yield* now
    const end = options.until === undefined ? last + 3_600_000 : millis("until", options.until)
    Options.check(end >= last, where, "until", `at least ${last}, the last step's time`, end)
    yield* TestClock.adjust(end - last)

    const { circuitBreaker } = (yield* policy.current).slots
    const circuit = circuitBreaker === undefined ? undefined : (yield* circuitBreaker.state)._tag
    const timers = Timer.size(clock)
    const outcome = calls.map((entry) => entry.call)
    yield* Effect.forEach(calls, (entry) => Fiber.interrupt(entry.fiber), { discard: true })
    return {
      calls: outcome,
      transitions: events.flatMap((event) =>
        event._tag === "Transition"
          ? [{ at: event.atMillis, change: `${event.from}>${event.to}`, why: event.why }]
          : []
      ),
      events,
      circuit,
      timers
    }
  }).pipe(
    Effect.provideService(CallEvent.CurrentReceiver, receiver),
    Random.withSeed(options.seed ?? "scenario"),
    Effect.provide(TestClock.layer())
  )
}
