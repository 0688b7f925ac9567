/**
 * What was decided about one call, in order, as data and in words.
 *
 * ```
 * Users.Get: success in 391 ms after 2 attempts, 3.6 s of 4 s left
 *      0 ms  attempt 1 -> 10.0.0.7:443 Unavailable in 210 ms, budget 14 -> 13, backoff 180 ms
 *    390 ms  attempt 2 -> 10.0.0.8:443 success in 1 ms
 * ```
 *
 * `call` explains one Effect: a client call, what stands around it, or any Effect
 * behind a policy. `onFailure` does so for a test that fails. `make` keeps the
 * logs of the last calls, to be found by trace id.
 *
 * It does not trace or count, and changes nothing of what it looks at. What is
 * nobody's call it leaves out: endpoints, sessions, reloads. Of a cache's flight
 * only the call that began it sees the attempts. Payloads are not kept: of a
 * domain error only its tag is.
 *
 * `call` and `onFailure` hold their log for as long as the Effect runs; the store
 * of `make` is shared by all calls that it receives.
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Options from "../contract/Options.ts"
import * as Timer from "../contract/Timer.ts"
import { Log } from "./internal/explainLog.ts"
import { Ring } from "./internal/explainRing.ts"
import * as Steps from "./internal/explainSteps.ts"
import * as Text from "./internal/explainText.ts"

type AnyFiber = Fiber.Fiber<unknown, unknown>

/** The decision log of one call. */
export const Explanation = Steps.Explanation
export type Explanation = Steps.Explanation

/** One thing that was decided. */
export const Step = Steps.Step
export type Step = Steps.Step

/** An error as a log keeps it: without its payload. */
export type Failure = Steps.Failure

/** A log as plain JSON data. */
export const encode: (log: Explanation) => unknown = Schema.encodeSync(Schema.toCodecJson(Explanation))

/** A log in words: how it ended, and below that a line for each attempt, with the time since the start. */
export const text: (log: Explanation) => string = Text.text

/** What was decided, as one line without the end: `attempt 1 -> …; attempt 2 -> …`. */
export const line: (log: Explanation) => string = Text.line

// One call ----------------------------------------------------------------------------------------

/** How an Effect ended, and the decisions that led there. */
export interface Explained<A, E> {
  readonly exit: Exit.Exit<A, E>
  readonly log: Explanation
}

/**
 * Runs an Effect and explains it. Succeeds however it ends.
 *
 * The log is of all that policies and client calls inside decide. Of a plain
 * Effect behind a `Retry` the attempts are told by what the loop made of them:
 * where hedges overlap it cannot say which took how long. Whoever looks already
 * is told as without it. An interruption of the fiber itself ends it too.
 */
export const call = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<Explained<A, E>, never, R> =>
  recording(
    self,
    (recorder, recorded) => Effect.map(Effect.exit(recorded), (exit) => ({ exit, log: recorder.finish(exit) }))
  )

/**
 * Adds to the message of what an Effect fails with, or dies of, the log of its
 * calls: the text that a test runner prints. Put it around the body of a test.
 *
 * ```ts
 * it.effect("finds a user", () => Explain.onFailure(Effect.gen(function*() { … })))
 * ```
 *
 * The error keeps its class, its fields and its stack, so that a diff of what was
 * expected is printed as before; something that is no object becomes the `cause`
 * of an `Error`. An interruption is passed on as it is.
 */
export const onFailure = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  recording(
    self,
    (recorder, recorded) =>
      Effect.catchCause(recorded, (cause) => Effect.failCause(explained(cause, recorder.finish(Exit.failCause(cause)))))
  )

const recording = <A, E, R, B, E2>(
  self: Effect.Effect<A, E, R>,
  use: (recorder: Recorder, recorded: Effect.Effect<A, E, R>) => Effect.Effect<B, E2, R>
): Effect.Effect<B, E2, R> =>
  Effect.withFiber((fiber) => {
    const recorder = new Recorder(fiber)
    const present = CallEvent.receiverOf(fiber)
    const receiver = present === undefined ? recorder : CallEvent.combine(present, recorder)
    return use(recorder, Effect.provideService(self, CallEvent.CurrentReceiver, receiver))
  })

/** Writes down all that comes in, until it is asked for the log. */
class Recorder implements CallEvent.Receiver {
  private readonly fiber: AnyFiber
  private log: Log | undefined

  constructor(fiber: AnyFiber) {
    this.fiber = fiber
    this.log = logOf(fiber, fiber.getRef(CallContext.Current))
  }

  readonly event = (event: CallEvent.CallEvent): void => this.log?.note(0, event)

  readonly forCall = (call: CallContext.CallContext): CallEvent.Receiver["event"] => {
    const { log } = this
    if (log === undefined) return this.event
    const number = log.begin(call)
    // A loser may end later than what is explained.
    return (event) => {
      if (this.log !== undefined) note(this.log, number, event)
    }
  }

  finish(exit: Exit.Exit<unknown, unknown>): Explanation {
    const log = this.log!
    this.log = undefined
    return log.finish(exit, Timer.now(this.fiber))
  }
}

const logOf = (fiber: AnyFiber, call: CallContext.CallContext): Log => {
  const log = new Log(call, Timer.now(fiber), fiber.getRef(Clock.Clock).currentTimeMillisUnsafe())
  log.traceId = traceOf(fiber, call)
  return log
}

const note = (log: Log, number: number, event: CallEvent.CallEvent): void => {
  if (log.traceId === undefined && "call" in event) {
    const fiber = Fiber.getCurrent()
    // Somebody else's fiber may be the one that tells: its span is not this call's.
    if (fiber?.getRef(CallContext.Current) === event.call) log.traceId = traceOf(fiber, event.call)
  }
  log.note(number, event)
}

/** The trace of the span around a fiber, or else the one that the call came with. */
const traceOf = (fiber: AnyFiber, call: CallContext.CallContext): string | undefined =>
  fiber.cache.span?.traceId ?? call.trace?.traceId

/** The cause, with the text in the error that a runner reports: the first failure, or else the first defect. */
const explained = <E>(cause: Cause.Cause<E>, log: Explanation): Cause.Cause<E> => {
  const reported = cause.reasons.find(Cause.isFailReason) ?? cause.reasons.find(Cause.isDieReason)
  const isTold = log.calls.length > 0 || log.steps.some(({ _tag }) => _tag !== "Attempt")
  if (!isTold || reported === undefined) return cause
  const longer = Cause.isFailReason(reported)
    ? Cause.makeFailReason(withText(reported.error, log) as E)
    : Cause.makeDieReason(withText(reported.defect, log))
  return Cause.fromReasons(cause.reasons.map((reason) => reason === reported ? longer : reason))
}

/** The error as it is, seen through one of another message. */
const withText = (error: unknown, log: Explanation): unknown => {
  if (typeof error !== "object" || error === null) {
    return new Error(`${String(error)}\n\n${Text.until(log)}`, { cause: error })
  }
  const message = "message" in error ? String(error.message) : ""
  const stack = "stack" in error ? String(error.stack) : ""
  const longer = `${message}\n\n${Text.until(log)}\n`
  return Object.create(error, {
    message: { value: longer, configurable: true, writable: true },
    stack: { value: stack.replace(message || /$/m, () => longer), configurable: true, writable: true }
  })
}

// The last calls ----------------------------------------------------------------------------------

export interface ExplainOptions {
  /** Logs kept: an integer `>= 1`. Default 200, which is 270 kB at two attempts per call. */
  readonly capacity?: number | undefined
  /** A call that took this long is slow, and kept as one that failed is. Default 1 second. */
  readonly slow?: Duration.Input | undefined
}

/** The logs of the last client calls. */
export class Explain extends Context.Service<Explain, {
  /** Tells of calls: pass it to `Observe.layer`. */
  readonly receiver: CallEvent.Receiver
  /** The logs of a trace, latest first: of the calls made within it in this process. */
  readonly byTraceId: (traceId: string) => Effect.Effect<ReadonlyArray<Explanation>>
  /** All logs that are kept, latest first. */
  readonly recent: Effect.Effect<ReadonlyArray<Explanation>>
}>()("holdfast/observe/Explain") {}

/**
 * Keeps the logs of the last calls of clients, once they have ended. When there
 * are more than `capacity`, those that neither failed nor were slow go first, the
 * oldest before the others. An error of the contract is no failure here.
 *
 * What stands around a client's call, a fallback or a cache, is not part of it;
 * nor are plain Effects behind a policy: use `call`.
 *
 * Dies with a `RangeError` when an option is out of its range.
 */
export const make = (options: ExplainOptions = {}): Effect.Effect<Explain["Service"]> =>
  Effect.sync(() => {
    const where = "Explain.make"
    const ring = new Ring(
      Options.integer(where, "capacity", options.capacity ?? 200, 1),
      Options.millis(where, "slow", options.slow ?? "1 second")
    )
    return {
      receiver: {
        event: () => {},
        forCall: (call) => {
          const fiber = Fiber.getCurrent()
          return fiber === undefined ? () => {} : keeping(ring, logOf(fiber, call), call)
        }
      },
      byTraceId: (traceId) => Effect.sync(() => ring.recent().filter((log) => log.traceId === traceId)),
      recent: Effect.sync(() => ring.recent())
    }
  })

const keeping = (ring: Ring, log: Log, call: CallContext.CallContext): CallEvent.Receiver["event"] => {
  const number = log.begin(call)
  return (event) => {
    if (event._tag === "CallEnded") ring.add(log.ended(event), hasFailed(event))
    else note(log, number, event)
  }
}

/** An error of the contract is an answer: where many users are not found, no outage is pushed out by them. */
const hasFailed = ({ error, interrupted, outcome }: CallEvent.CallEnded): boolean =>
  error !== undefined && interrupted === undefined && (outcome.endpoint !== "success" || CallError.isCallError(error))

/** `make` as a Layer. */
export const layer = (options: ExplainOptions = {}): Layer.Layer<Explain> => Layer.effect(Explain, make(options))

/** The receiver of the `Explain` in place: `Observe.layer(Tracing.make(), Explain.receiver)`. */
export const receiver: Effect.Effect<CallEvent.Receiver, never, Explain> = Effect.map(
  Explain,
  ({ receiver }) => receiver
)
