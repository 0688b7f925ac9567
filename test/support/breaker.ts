/** Calls through a breaker, for tests: what they did, and calls that last until they are told to end. */
import { Cause, Deferred, Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Policy from "../../src/policy/Policy.ts"

type Guard = Policy.Policy<any>

/** The reason of a `CallError` that an exit failed with. */
export const reasonOf = (exit: Exit.Exit<unknown, unknown>): CallError.Reason | undefined => {
  if (Exit.isSuccess(exit)) return undefined
  for (const reason of exit.cause.reasons) {
    if (Cause.isFailReason(reason) && CallError.isCallError(reason.error)) return reason.error.reason
  }
  return undefined
}

/** S, F, I or D (a defect); `-` where the circuit rejected. */
export type Mark = "S" | "F" | "I" | "D" | "-"

const work: Record<Exclude<Mark, "-">, Effect.Effect<string, unknown>> = {
  S: Effect.succeed("ok"),
  F: Effect.fail("down"),
  // A rejection by a policy inside says nothing about the endpoint.
  I: CallError.fail({ _tag: "BulkheadFull", policy: "inner", sent: "no", limit: 1, queued: 0 }),
  D: Effect.die("broken")
}

/** Makes calls one after the other, and says for each what became of it. */
export const calls = (policy: Guard, script: string): Effect.Effect<string> =>
  Effect.map(
    Effect.forEach(Array.from(script.replaceAll(" ", "")), (mark) =>
      Effect.map(call(policy, mark as "S"), (exit) => reasonOf(exit)?._tag === "CircuitOpen" ? "-" : mark)),
    (marks) =>
      marks.join("")
  )

/** One call. */
export const call = (policy: Guard, mark: Exclude<Mark, "-">): Effect.Effect<Exit.Exit<string, unknown>> =>
  Effect.exit(Policy.apply(work[mark], policy))

/** One call that takes `millis` of virtual time. */
export const slow = (
  policy: Guard,
  mark: Exclude<Mark, "-">,
  millis: number
): Effect.Effect<Exit.Exit<string, unknown>> =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(Effect.exit(Policy.apply(Effect.delay(work[mark], millis), policy)), {
      startImmediately: true
    })
    yield* TestClock.adjust(millis)
    return yield* Fiber.join(fiber)
  })

export interface Held {
  /** Whether the circuit let it in. */
  readonly admitted: boolean
  readonly end: (mark: Exclude<Mark, "-">) => Effect.Effect<Exit.Exit<string, unknown>>
  readonly interrupt: Effect.Effect<void>
}

/** A call in flight. */
export const hold = (policy: Guard): Effect.Effect<Held> =>
  Effect.gen(function*() {
    const told = yield* Deferred.make<Effect.Effect<string, unknown>>()
    const fiber = yield* Effect.forkDetach(
      Effect.exit(Policy.apply(Effect.flatten(Deferred.await(told)), policy)),
      { startImmediately: true }
    )
    return {
      admitted: fiber.pollUnsafe() === undefined,
      end: (mark) => Effect.andThen(Deferred.succeed(told, work[mark]), Fiber.join(fiber)),
      interrupt: Fiber.interrupt(fiber)
    }
  })

/** How many of `n` calls at once are let in: `"4 of 6"` as a list. */
export const holdAll = (policy: Guard, n: number): Effect.Effect<ReadonlyArray<Held>> =>
  Effect.replicateEffect(hold(policy), n)

/** Runs with a receiver, and answers with the events. */
export const recording = <A, E, R>(
  self: Effect.Effect<A, E, R>
): Effect.Effect<readonly [A, ReadonlyArray<CallEvent.CallEvent>], E, R> =>
  Effect.suspend(() => {
    const events: Array<CallEvent.CallEvent> = []
    return Effect.map(
      Effect.provideService(self, CallEvent.CurrentReceiver, { event: (event) => void events.push(event) }),
      (a) => [a, events] as const
    )
  })

/** `from>to` of the transitions among events. */
export const transitions = (events: ReadonlyArray<CallEvent.CallEvent>): ReadonlyArray<string> =>
  events.flatMap((event) => event._tag === "Transition" ? [`${event.from}>${event.to}`] : [])
