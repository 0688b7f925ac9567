/**
 * Runs an effect in a fiber of its own and answers at an instant, whatever the
 * effect does.
 *
 * `Effect.timeout` waits for the loser: around uninterruptible work of 400 ms a
 * timeout of 50 ms answers after 400. Here the loser is interrupted and left to
 * itself. A permit taken inside is released when the work ends, as if nobody had
 * left; a permit taken outside asks `whenOver`.
 *
 * The fiber starts at once in the same step, so work that never suspends needs
 * no timer. It has the context of the caller, and like a child of
 * `Effect.timeout` it may be interrupted even where the caller may not: an
 * abandoned acquisition must not go on and acquire.
 */
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as CallError from "../../contract/CallError.ts"
import * as Interruption from "../../contract/Interruption.ts"
import * as Timer from "../../contract/Timer.ts"

/** The fiber being run. Only within the step of an effect that it evaluates. */
export const currentFiber = (): Fiber.Fiber<unknown, unknown> => Fiber.getCurrent()!

/** What the finalizer of an interrupted fiber passes on: why it was interrupted. */
export const reasonOfInterrupt: Effect.Effect<Interruption.Reason> = Effect.map(
  // Opening the uninterruptible region for nothing makes the pending interrupt surface with its annotations.
  Effect.exit(Effect.interruptible(Effect.void)),
  (exit) => Exit.isFailure(exit) ? Interruption.fromCause(exit.cause) ?? "caller" : "caller"
)

/**
 * For who finds its time up although a guard outside is to end it: leaves the
 * answer to that, which comes in this very step. `otherwise` is for work that the
 * guarded call has left running, because nobody ends that.
 */
export const leaveToGuard = <A, E, R>(otherwise: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.andThen(Effect.sleep(1), otherwise)

/** The work that goes on behind an error, which is all that a policy further out gets to see of it. */
const leftBehind = new WeakMap<CallError.CallError, Fiber.Fiber<unknown, unknown>>()

/**
 * The body of an `Effect.callback` that answers with the exit of `self`, or at
 * `at` with the error `expired()`.
 *
 * An interrupt of the caller is passed on with its reason, and is over when
 * `self` is. There is no step between starting `self` and installing that: the
 * callback returns what cancels it.
 */
export const answerBy = <A, E, R, E2 extends CallError.CallError>(
  fiber: Fiber.Fiber<unknown, unknown>,
  context: Context.Context<R>,
  self: Effect.Effect<A, E, R>,
  at: number,
  reason: Interruption.Reason,
  expired: () => E2,
  resume: (answer: Effect.Effect<A, E | E2>) => void
): Effect.Effect<void> | void => {
  const worker = Effect.runForkWith(context)(self)
  const exit = worker.pollUnsafe()
  if (exit !== undefined) return resume(exit)
  let answered = false
  const timer = Timer.schedule(fiber, at, () => {
    // Before the interrupt: a worker that ends on it at once must not answer.
    answered = true
    worker.interruptUnsafe(fiber.id, Interruption.annotations[reason])
    const error = expired()
    if (worker.pollUnsafe() === undefined) leftBehind.set(error, worker)
    resume(Effect.fail(error))
  })
  worker.addObserver((exit) => {
    if (answered) return
    timer.cancel()
    resume(exit)
  })
  return Effect.flatMap(reasonOfInterrupt, (reason) => {
    timer.cancel()
    worker.interruptUnsafe(fiber.id, Interruption.annotations[reason])
    return Effect.asVoid(Fiber.await(worker))
  })
}

/**
 * Calls `release` once nothing works any more behind a failure: now, or when the
 * work ends that a timeout inside has left to itself.
 *
 * A limit on what is in flight has to count that work: to the endpoint it makes
 * no difference that its caller has been answered.
 */
export const whenOver = (cause: Cause.Cause<unknown>, release: () => void): void => {
  for (const reason of cause.reasons) {
    const worker = Cause.isFailReason(reason) ? workerBehind(reason.error) : undefined
    if (worker !== undefined) return void worker.addObserver(release)
  }
  release()
}

const workerBehind = (error: unknown): Fiber.Fiber<unknown, unknown> | undefined => {
  if (!CallError.isCallError(error)) return undefined
  return leftBehind.get(error) ?? ("last" in error.reason ? workerBehind(error.reason.last) : undefined)
}
