/**
 * The log of one call while it is written. Events go in, an `Explanation` comes
 * out; times are milliseconds on the monotonic clock. Errors are reduced to what
 * may be kept when they come: no payload stays.
 */
import * as Cause from "effect/Cause"
import * as Exit from "effect/Exit"
import type { CallContext } from "../../contract/CallContext.ts"
import * as CallError from "../../contract/CallError.ts"
import type * as CallEvent from "../../contract/CallEvent.ts"
import * as Interruption from "../../contract/Interruption.ts"
import * as Outcome from "../../contract/Outcome.ts"
import type { Attempt, Explanation, Failure, Step } from "./explainSteps.ts"

/** Steps a log keeps: twenty times what ten attempts and their retries make. */
const mostSteps = 200

type Of<Tag extends CallEvent.CallEvent["_tag"]> = Extract<CallEvent.CallEvent, { readonly _tag: Tag }>
type Unplaced = Step extends infer S ? S extends Step ? Omit<S, "atMillis" | "call" | "attempt"> : never : never

type Cases = { readonly [Tag in CallEvent.CallEvent["_tag"]]: ((event: Of<Tag>) => Unplaced) | undefined }

/** What an event is in a log. One that is added to the union does not compile until it is here. */
const cases: Cases = {
  AttemptStarted: ({ call, endpoint }) => ({
    _tag: "Attempt",
    hedge: call.hedge,
    endpoint,
    result: "inFlight",
    unrepeatable: false
  }),
  RetryScheduled: ({ delayMillis, error, policy, retryAfterMillis }) => ({
    _tag: "Backoff",
    policy,
    delayMillis,
    retryAfterMillis,
    error: failureOf(error)
  }),
  HedgeStarted: ({ afterMillis, policy }) => ({ _tag: "Hedge", policy, afterMillis }),
  BudgetMoved: ({ balance, change, policy }) => ({ _tag: "Budget", policy, change, balance }),
  Rejected: (event) => rejectionOf(event),
  QueueLeft: ({ how, policy, waitedMillis }) => ({ _tag: "Queue", policy, how, waitedMillis }),
  Repicked: ({ endpoint, error }) => ({ _tag: "Repick", endpoint, error: failureOf(error) }),
  Substituted: ({ ageMillis, how, policy }) => ({ _tag: "Substitute", policy, how, ageMillis }),
  Transition: ({ from, policy, to, why }) => ({ _tag: "Transition", policy, from, to, why }),
  LimitMoved: ({ from, policy, to, why }) => ({ _tag: "Limit", policy, from, to, why }),
  Warning: ({ policy, why }) => ({ _tag: "Warning", policy, why }),
  CallEnded: ({ error, interrupted }) => ({
    _tag: "Ended",
    error: error === undefined || interrupted !== undefined ? undefined : failureOf(error)
  }),
  // Seen to apart.
  CallStarted: undefined,
  AttemptEnded: undefined,
  // Of no one call.
  Reloaded: undefined,
  EndpointChanged: undefined,
  SessionChanged: undefined,
  RequestRefused: undefined
}

/** What the reasons of rejections say in numbers, each its own. */
interface Figures {
  readonly state?: CallError.CircuitOpen["state"]
  readonly limit?: number
  readonly queued?: number
  readonly ratio?: number
  readonly retryAfterMillis?: number | undefined
}

const rejectionOf = ({ atMillis, error, policy, state: circuit }: Of<"Rejected">): Unplaced & { _tag: "Rejection" } => {
  const { limit, queued, ratio, retryAfterMillis, state } = error.reason as Figures
  return {
    _tag: "Rejection",
    policy,
    error: failureOf(error),
    state,
    why: circuit?.why,
    forMillis: circuit && atMillis - circuit.sinceMillis,
    limit,
    queued,
    ratio,
    retryAfterMillis
  }
}

/** An error without its payload. */
export const failureOf = (error: unknown): Failure => {
  if (CallError.isCallError(error)) {
    const { message, reason } = error
    const detail = reason._tag === "ConnectFailed" ? reason.kind : reason._tag === "Remote" ? reason.code : undefined
    return { tag: reason._tag, detail, message, sent: reason.sent }
  }
  if (typeof error === "object" && error !== null && "_tag" in error) return { tag: String(error._tag) }
  return { tag: error instanceof Error ? error.name : "failure" }
}

/** A step whose end is not known yet. */
type Open<S> = { -readonly [K in keyof S]: S[K] }

export class Log {
  traceId: string | undefined
  private readonly startedAt: number
  private readonly wallMillis: number
  private name: string | undefined
  private deadline = Infinity
  private readonly calls: Array<string> = []
  private readonly steps: Array<Step> = []
  private omitted = 0
  /** Attempts in flight, by call and number. */
  private readonly flights = new Map<string, Open<Attempt>>()
  /** By call: the latest attempt, and from when on what happens is of the next. */
  private readonly latest: Array<number> = []
  private readonly nextAt: Array<number> = []
  private attempts = 0

  constructor(call: CallContext, startedAt: number, wallMillis: number) {
    this.startedAt = startedAt
    this.wallMillis = wallMillis
    this.about(call)
  }

  /** Another client call: which one it is. */
  begin(call: CallContext): number {
    this.about(call)
    return this.calls.push(call.name)
  }

  /** Takes what the log is about from the first who knows. */
  private about({ deadline, name }: CallContext): void {
    if (this.deadline === Infinity) this.deadline = deadline
    if (name !== "call") this.name ??= name
  }

  note(call: number, event: CallEvent.CallEvent): void {
    if (event._tag === "AttemptEnded") return this.land(call, event)
    const unplaced = (cases[event._tag] as ((event: CallEvent.CallEvent) => Unplaced) | undefined)?.(event)
    if (unplaced === undefined) return
    if ("call" in event) this.about(event.call)
    const attempt = this.attemptOf(call, event)
    const step = { ...unplaced, call, attempt, atMillis: event.atMillis - this.startedAt } as Step
    if (step._tag === "Attempt") {
      this.attempts++
      this.flights.set(`${call}/${attempt}`, step)
    }
    this.steps.push(step)
    if (this.steps.length > mostSteps) {
      this.steps.shift()
      this.omitted++
    }
  }

  /** Which attempt an event is of. */
  private attemptOf(call: number, event: CallEvent.CallEvent): number {
    const latest = this.latest[call] ?? 1
    switch (event._tag) {
      case "RetryScheduled":
        this.latest[call] = event.call.attempt - 1
        this.nextAt[call] = event.atMillis + event.delayMillis
        return event.call.attempt - 1
      case "AttemptStarted":
      case "HedgeStarted":
      case "Rejected":
      case "QueueLeft":
      case "Repicked":
        this.latest[call] = Math.max(latest, event.call.attempt)
        this.nextAt[call] = Infinity
        return event.call.attempt
      default:
        return event.atMillis >= (this.nextAt[call] ?? Infinity) ? latest + 1 : latest
    }
  }

  private land(call: number, event: Of<"AttemptEnded">): void {
    const key = `${call}/${event.call.attempt}`
    const flight = this.flights.get(key)
    if (flight === undefined) return
    this.flights.delete(key)
    const { durationMillis, error, interrupted, outcome } = event
    flight.durationMillis = durationMillis
    flight.interrupted = interrupted
    flight.result = interrupted !== undefined ? "interrupted" : error === undefined ? "success" : "failure"
    if (flight.result === "failure") flight.error = failureOf(error)
    flight.unrepeatable = outcome.retry === "ifIdempotent" && !Outcome.isIdempotent(event.call)
  }

  /** The log as it is now, of something that ended so. */
  finish(exit: Exit.Exit<unknown, unknown>, now: number): Explanation {
    const durationMillis = now - this.startedAt
    const interrupted = Exit.isFailure(exit) ? Interruption.fromCause(exit.cause) : undefined
    const failed = Exit.isFailure(exit) && !Cause.hasInterruptsOnly(exit.cause)
    const error = failed ? failureOf(Cause.squash(exit.cause)) : undefined
    // Without the beginning nothing can be inferred.
    const known = this.calls.length > 0 || this.attempts > 0 || this.omitted > 0
    const steps = known
      ? this.steps.map((step): Step => ({ ...step }))
      : withAttempts(this.steps, durationMillis, resultOf(exit, error, interrupted))
    const { deadline, startedAt } = this
    return {
      name: this.name ?? "call",
      traceId: this.traceId,
      startedAtMillis: this.wallMillis,
      durationMillis,
      ...(deadline !== Infinity && { deadlineMillis: deadline - startedAt, leftMillis: Math.max(0, deadline - now) }),
      result: failed ? "failure" : interrupted === undefined ? "success" : "interrupted",
      error,
      interrupted: failed ? undefined : interrupted,
      attempts: known ? this.attempts : steps.filter(({ _tag }) => _tag === "Attempt").length,
      calls: [...this.calls],
      steps,
      omitted: this.omitted
    }
  }

  /** The log of a client call that has ended. */
  ended({ atMillis, error, interrupted }: Of<"CallEnded">): Explanation {
    const exit = interrupted !== undefined
      ? Exit.failCause(Cause.annotate(Cause.interrupt(), Interruption.annotations[interrupted]))
      : error === undefined
      ? Exit.void
      : Exit.fail(error)
    return this.finish(exit, atMillis)
  }
}

// Plain Effects -----------------------------------------------------------------------------------

type Result = Pick<Attempt, "result" | "error" | "interrupted">

/** What a final exit says of the attempt that came last: an error of the loop carries the attempt's own. */
const resultOf = (
  exit: Exit.Exit<unknown, unknown>,
  error: Failure | undefined,
  interrupted: Interruption.Reason | undefined
): Result => {
  if (Exit.isSuccess(exit)) return { result: "success" }
  if (error === undefined) return { result: "interrupted", interrupted }
  const squashed = Cause.squash(exit.cause)
  const last = CallError.isCallError(squashed) && "last" in squashed.reason ? squashed.reason.last : undefined
  return { result: "failure", error: last === undefined ? error : failureOf(last) }
}

/**
 * The steps with the attempts of an Effect that nobody tells of: each begins with
 * the log, after a backoff or after a queue, and ends with the next decision.
 */
const withAttempts = (steps: ReadonlyArray<Step>, endMillis: number, last: Result): ReadonlyArray<Step> => {
  const result: Array<Step> = []
  let open: { readonly number: number; readonly atMillis: number; readonly index: number } | undefined = {
    number: 1,
    atMillis: 0,
    index: 0
  }
  let hedged = false
  const close = (atMillis: number, ended: Result): void => {
    // One whose backoff was not over by then was never made.
    if (open === undefined || atMillis < open.atMillis) return
    result.splice(open.index, 0, {
      _tag: "Attempt",
      call: 0,
      attempt: open.number,
      atMillis: open.atMillis,
      hedge: false,
      unrepeatable: false,
      ...(hedged ? { result: "unknown" } : { ...ended, durationMillis: atMillis - open.atMillis })
    })
    open = undefined
  }
  for (const step of steps) {
    if (step._tag === "Backoff") close(step.atMillis, { result: "failure", error: step.error })
    else if (step._tag === "Substitute") {
      if (step.how === "fresh") open = undefined
      close(step.atMillis, { result: "failure" })
    } else if (step._tag === "Rejection" || (step._tag === "Queue" && step.how !== "admitted")) open = undefined
    else if (step._tag === "Hedge") hedged = true
    result.push(step)
    if (step._tag === "Backoff") {
      hedged = false
      open = { number: step.attempt + 1, atMillis: step.atMillis + step.delayMillis, index: result.length }
    } else if (step._tag === "Queue" && open !== undefined) {
      open = { number: open.number, atMillis: step.atMillis, index: result.length }
    } else if (step._tag === "Hedge") {
      const { atMillis, attempt } = step
      result.push({ _tag: "Attempt", call: 0, attempt, atMillis, hedge: true, result: "unknown", unrepeatable: false })
    }
  }
  close(endMillis, last)
  return result
}
