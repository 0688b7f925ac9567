/**
 * Limits how long an attempt, a call or a stream may keep its caller waiting.
 *
 * Three things of different kinds: `make` is a policy with a *timeout*, a
 * duration for one attempt; `withDeadline` fixes the *deadline* of a call, an
 * instant that covers queueing, attempts and backoff and that calls made inside
 * inherit; `stream` ends a stream that has gone silent.
 *
 * When time is up the caller is answered within one timer tick, even if the work
 * ignores its interruption. The work is interrupted, not awaited, and whatever
 * it holds is released when it ends, the permit of a bulkhead outside included.
 * An interrupt of the caller is different: it is passed on, and the caller waits
 * for the work's finalizers as it would without a timeout.
 *
 * The work runs in a fiber of its own: fibers it forks as its children end with
 * it. A `Timeout` has no state; one value may guard any number of effects.
 * Innermost in a stack, so that a breaker outside it counts it as a failure.
 *
 * Source: attribution by whose timer fired, Polly; deadlines that only move
 * closer, Finagle `Deadline`.
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import { dual } from "effect/Function"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Deadline from "../contract/Deadline.ts"
import * as Options from "../contract/Options.ts"
import * as Timer from "../contract/Timer.ts"
import * as Guard from "./internal/guard.ts"
import * as Progress from "./internal/progress.ts"
import * as Policy from "./Policy.ts"

/** A policy that limits one attempt. */
export interface Timeout extends Policy.OfKind<"timeout", CallError.CallError<CallError.AttemptTimeout>> {
  readonly timeoutMillis: number
}

export interface TimeoutOptions {
  /** Longest an attempt may take: positive and finite. */
  readonly timeout: Duration.Input
  /** Name in errors, events and the dashboard. Default `"Timeout"`. */
  readonly name?: string | undefined
}

/**
 * Creates an attempt timeout.
 *
 * The attempt ends at the call's deadline where that is sooner: then
 * `withDeadline` outside answers with `DeadlineExceeded`, and an attempt of a
 * call whose deadline nobody guards ends with an `AttemptTimeout` that says how
 * long it had.
 *
 * Dies with a `RangeError` when `timeout` is not positive and finite.
 */
export const make = (options: TimeoutOptions): Effect.Effect<Timeout> =>
  Effect.sync(() => {
    const { name = "Timeout" } = options
    const timeoutMillis = Options.millis("Timeout.make", "timeout", options.timeout)
    const expired = (millis: number) => () =>
      new CallError.CallError({ _tag: "AttemptTimeout", policy: name, timeoutMillis: millis, sent: "maybe" })
    const ownExpired = expired(timeoutMillis)
    return Policy.make<
      CallError.CallError<CallError.AttemptTimeout>,
      never,
      "timeout",
      { readonly timeoutMillis: number }
    >(
      {
        name,
        kind: "timeout",
        run: <A, E, R>(self: Effect.Effect<A, E, R>) =>
          Effect.callback<A, E | CallError.CallError<CallError.AttemptTimeout>, R>((resume) => {
            const fiber = Guard.currentFiber()
            const start = Timer.now(fiber)
            const own = start + timeoutMillis
            const { deadline } = fiber.getRef(CallContext.Current)
            // A guard answers at the deadline by itself. The timeout stands all the same: what shares its work with other
            // calls goes on after that.
            if (own <= deadline || Progress.isAnswered(fiber, deadline)) {
              return Guard.answerBy(fiber, contextOf<R>(fiber), self, own, "attemptTimeout", ownExpired, resume)
            }
            const had = expired(Math.max(0, deadline - start))
            return Guard.answerBy(fiber, contextOf<R>(fiber), self, deadline, "deadline", had, resume)
          })
      },
      { timeoutMillis }
    )
  })

/** A fiber's context has the services of every effect it runs. */
const contextOf = <R>(fiber: { readonly context: Context.Context<never> }): Context.Context<R> =>
  fiber.context as Context.Context<R>

/**
 * Fixes the deadline of a call, `duration` from now, or the one it inherits
 * where that is sooner, and answers at that instant.
 *
 * Put it outside everything else, once per call. Inside it `CallContext` states
 * the deadline, so that policies refuse waits that do not fit. Fails with
 * `DeadlineExceeded`, which carries the last attempt's error; at once and
 * without running anything when the deadline has passed, as with a duration of
 * zero or less. What is inside is interrupted with the reason `deadline`. An
 * infinite duration leaves the inherited deadline, and guards that one.
 *
 * The error says that the call may have been sent: around any Effect nobody knows.
 * A client and a compiled spec know, and say `"no"` while all they did was queue.
 */
export const withDeadline: {
  (
    duration: Duration.Input
  ): <A, E, R>(
    self: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | CallError.CallError<CallError.DeadlineExceeded>, R>
  <A, E, R>(
    self: Effect.Effect<A, E, R>,
    duration: Duration.Input
  ): Effect.Effect<A, E | CallError.CallError<CallError.DeadlineExceeded>, R>
} = dual(
  2,
  <A, E, R>(
    self: Effect.Effect<A, E, R>,
    duration: Duration.Input
  ): Effect.Effect<A, E | CallError.CallError<CallError.DeadlineExceeded>, R> => {
    const millis = Option.match(Duration.fromInput(duration), { onNone: () => Number.NaN, onSome: Duration.toMillis })
    return Effect.callback((resume) => {
      Options.check(!Number.isNaN(millis), "Timeout.withDeadline", "duration", "a duration", duration)
      const fiber = Guard.currentFiber()
      const now = Timer.now(fiber)
      return guardCall(fiber, self, now, now + millis, "maybe", resume)
    })
  }
)

/** `withDeadline` by an instant of the fiber's monotonic clock, as `Deadline.after` gives it; `Deadline.none` for none. */
export const withDeadlineAt: {
  (
    at: Deadline.Deadline
  ): <A, E, R>(
    self: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | CallError.CallError<CallError.DeadlineExceeded>, R>
  <A, E, R>(
    self: Effect.Effect<A, E, R>,
    at: Deadline.Deadline
  ): Effect.Effect<A, E | CallError.CallError<CallError.DeadlineExceeded>, R>
} = dual(
  2,
  <A, E, R>(
    self: Effect.Effect<A, E, R>,
    at: Deadline.Deadline
  ): Effect.Effect<A, E | CallError.CallError<CallError.DeadlineExceeded>, R> =>
    Effect.callback((resume) => {
      Options.check(!Number.isNaN(at), "Timeout.withDeadlineAt", "at", "an instant", at)
      const fiber = Guard.currentFiber()
      return guardCall(fiber, self, Timer.now(fiber), at, "maybe", resume)
    })
)

/**
 * `withDeadlineAt` for a stack whose attempts say when they begin, by `begun`: until then the error says that nothing
 * was sent.
 *
 * @internal
 */
export const guardAttempts = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  at: Deadline.Deadline
): Effect.Effect<A, E | CallError.CallError<CallError.DeadlineExceeded>, R> =>
  Effect.callback((resume) => {
    const fiber = Guard.currentFiber()
    return guardCall(fiber, self, Timer.now(fiber), at, "no", resume)
  })

/**
 * Says that an attempt begins.
 *
 * @internal
 */
export const begun: (fiber: Fiber.Fiber<unknown, unknown>) => void = Progress.begun

const guardCall = <A, E, R>(
  fiber: ReturnType<typeof Guard.currentFiber>,
  self: Effect.Effect<A, E, R>,
  now: number,
  given: Deadline.Deadline,
  sent: CallError.Sent,
  resume: (answer: Effect.Effect<A, E | CallError.CallError<CallError.DeadlineExceeded>, R>) => void
): Effect.Effect<void> | void => {
  const inherited = fiber.getRef(CallContext.Current)
  const deadline = Deadline.combine(inherited.deadline, given)
  if (deadline === Deadline.none) return resume(self)
  const call = deadline === inherited.deadline ? inherited : { ...inherited, deadline }
  if (Deadline.isExceeded(deadline, now)) {
    const error = new CallError.CallError({
      _tag: "DeadlineExceeded",
      method: call.name,
      elapsedMillis: 0,
      sent: "no"
    })
    CallEvent.receiverOf(fiber)?.event({
      _tag: "Rejected",
      call,
      policy: "Deadline",
      reason: "DeadlineExceeded",
      error,
      state: undefined,
      atMillis: now
    })
    return resume(Effect.fail(error))
  }
  const progress: Progress.Progress = { deadline, shared: false, last: undefined, sent }
  const context = Context.add(Context.add(contextOf<R>(fiber), CallContext.Current, call), Progress.Current, progress)
  const expired = () =>
    new CallError.CallError({
      _tag: "DeadlineExceeded",
      method: call.name,
      elapsedMillis: Timer.now(fiber) - now,
      sent: progress.sent,
      last: progress.last
    })
  return Guard.answerBy(fiber, context, self, deadline, "deadline", expired, resume)
}

export interface StreamOptions {
  /** Longest wait for the first item. Default `idle`. */
  readonly firstItem?: Duration.Input | undefined
  /** Longest wait for each further item; every item starts it anew. Default: none. */
  readonly idle?: Duration.Input | undefined
  /** Longest the stream may take in all, however busy it is. Default: none. */
  readonly max?: Duration.Input | undefined
  /** Name in errors, followed by which of the three it was. Default `"Timeout"`. */
  readonly name?: string | undefined
}

/** How a stream ends that took too long. */
export type StreamError = CallError.CallError<CallError.AttemptTimeout | CallError.DeadlineExceeded>

/**
 * Ends a stream that is silent for too long, or too long altogether.
 *
 * Only waiting for the stream counts against `firstItem` and `idle`, not what
 * the consumer does with an item. Fails with `AttemptTimeout`, or with
 * `DeadlineExceeded` at the deadline of the call that runs it. Interrupts what
 * the stream waits for and does not await it; the stream's own finalizers run
 * as at any end of a stream.
 *
 * Dies with a `RangeError` when run if a duration is not positive and finite, or
 * none is given.
 */
export const stream: {
  (options: StreamOptions): <A, E, R>(self: Stream.Stream<A, E, R>) => Stream.Stream<A, E | StreamError, R>
  <A, E, R>(self: Stream.Stream<A, E, R>, options: StreamOptions): Stream.Stream<A, E | StreamError, R>
} = dual(
  2,
  <A, E, R>(self: Stream.Stream<A, E, R>, options: StreamOptions): Stream.Stream<A, E | StreamError, R> =>
    Stream.transformPull(self, (pull) =>
      Effect.withFiber((fiber) => {
        const { firstItem = options.idle, idle, max, name = "Timeout" } = options
        const where = "Timeout.stream"
        Options.check(
          firstItem !== undefined || max !== undefined,
          where,
          "options",
          "a firstItem, idle or max",
          "none"
        )
        const call = fiber.getRef(CallContext.Current)
        const start = Timer.now(fiber)
        const limit = (field: string, duration: Duration.Input | undefined): Limit => {
          const timeoutMillis = duration === undefined ? Infinity : Options.millis(where, field, duration)
          const reason = { _tag: "AttemptTimeout", policy: `${name} (${field})`, timeoutMillis, sent: "maybe" } as const
          return { millis: timeoutMillis, interrupt: "attemptTimeout", reason: () => reason }
        }
        const whole: Limit = {
          millis: call.deadline - start,
          interrupt: "deadline",
          reason: (elapsedMillis) => ({ _tag: "DeadlineExceeded", method: call.name, elapsedMillis, sent: "maybe" })
        }
        const atMost = limit("max", max)
        const end = atMost.millis <= whole.millis ? atMost : whole
        let waiting = limit("firstItem", firstItem)
        const silent = limit("idle", idle)
        return Effect.succeed(Effect.callback((resume) => {
          const fiber = Guard.currentFiber()
          const now = Timer.now(fiber)
          const silentAt = now + waiting.millis
          const endAt = start + end.millis
          const first = silentAt <= endAt ? waiting : end
          const expired = (): StreamError => new CallError.CallError(first.reason(Timer.now(fiber) - start))
          // A consumer that came back too late gets no further item, however fast it would be.
          if (now >= endAt) return resume(Effect.fail(expired()))
          return Guard.answerBy(
            fiber,
            fiber.context,
            pull,
            Math.min(silentAt, endAt),
            first.interrupt,
            expired,
            (answer) => {
              waiting = silent
              resume(answer)
            }
          )
        }))
      }))
)

/** One of the ways in which a stream can take too long. */
interface Limit {
  readonly millis: number
  readonly interrupt: "attemptTimeout" | "deadline"
  readonly reason: (elapsedMillis: number) => CallError.AttemptTimeout | CallError.DeadlineExceeded
}
