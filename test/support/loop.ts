/** Calls for tests of retries and hedges: scripted attempts, virtual time, and what was reported. */
import { Cause, Clock, Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Timer from "../../src/contract/Timer.ts"

/** Milliseconds of virtual time. */
export const now = Effect.map(Clock.Clock, Timer.nowOf)

/** Runs an effect while time passes: its exit, and when it came. */
export const drive = <A, E, R>(self: Effect.Effect<A, E, R>, millis = 3_600_000) =>
  Effect.gen(function*() {
    const start = yield* now
    const fiber = yield* Effect.forkChild(
      Effect.flatMap(Effect.exit(self), (exit) => Effect.map(now, (end) => [exit, end - start] as const)),
      { startImmediately: true }
    )
    yield* TestClock.adjust(millis)
    return yield* Fiber.join(fiber)
  })

/** An attempt as it was seen from inside. */
export interface Sent {
  readonly attempt: number
  readonly hedge: boolean
  readonly insideRetry: boolean
  readonly at: number
}

/** The nth attempt does the nth thing, and the last thing for ever after. */
export const script = <A, E, R>(...attempts: ReadonlyArray<Effect.Effect<A, E, R>>) => {
  const sent: Array<Sent> = []
  const call = Effect.gen(function*() {
    const { attempt, hedge, insideRetry } = yield* CallContext.Current
    sent.push({ attempt, hedge, insideRetry, at: yield* now })
    return yield* attempts[Math.min(sent.length, attempts.length) - 1]!
  })
  return { call, sent }
}

export const idempotent = CallContext.annotate({ name: "users.Get", idempotent: true })

/** Collects what is reported while an effect runs. */
export const recording = () => {
  const events: Array<CallEvent.CallEvent> = []
  return {
    events,
    of: <Tag extends CallEvent.CallEvent["_tag"]>(tag: Tag) =>
      events.filter((event): event is Extract<CallEvent.CallEvent, { readonly _tag: Tag }> => event._tag === tag),
    record: Effect.provideService(CallEvent.CurrentReceiver, {
      event: (event: CallEvent.CallEvent) => events.push(event)
    })
  }
}

/** The first error of a failed exit. */
export const errorOf = (exit: Exit.Exit<unknown, unknown>): unknown =>
  Exit.isFailure(exit) ? exit.cause.reasons.find(Cause.isFailReason)?.error : undefined

/** The reason of the `CallError` an exit failed with. */
export const reasonOf = (exit: Exit.Exit<unknown, unknown>): CallError.Reason | undefined => {
  const error = errorOf(exit)
  return CallError.isCallError(error) ? error.reason : undefined
}

export const overloaded = (retryAfterMillis?: number) =>
  CallError.fail({
    _tag: "Overloaded",
    target: "users",
    detail: "queue full",
    sent: "no",
    ...(retryAfterMillis === undefined ? {} : { retryAfterMillis })
  })
export const refused = CallError.fail({
  _tag: "ConnectFailed",
  target: "users",
  detail: "ECONNREFUSED",
  kind: "refused",
  sent: "no"
})
export const lost = CallError.fail({ _tag: "ConnectionLost", target: "users", detail: "reset", sent: "maybe" })
export const circuitOpen = CallError.fail({ _tag: "CircuitOpen", policy: "breaker", state: "Open", sent: "no" })
