/**
 * One call, from its payload to its answer.
 *
 * What a call needs while it waits is kept in a few objects and not in closures:
 * with closures a call allocated 6.1 kB, with objects 4.9.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Result from "effect/Result"
import type * as Balancer from "../../balancer/Balancer.ts"
import type { Endpoint } from "../../balancer/Endpoint.ts"
import * as CallContext from "../../contract/CallContext.ts"
import * as CallError from "../../contract/CallError.ts"
import * as CallEvent from "../../contract/CallEvent.ts"
import type * as Contract from "../../contract/Contract.ts"
import type { Criticality } from "../../contract/Criticality.ts"
import * as Deadline from "../../contract/Deadline.ts"
import * as Immediate from "../../contract/Immediate.ts"
import * as Outcome from "../../contract/Outcome.ts"
import * as Timer from "../../contract/Timer.ts"
import * as Timeout from "../../policy/Timeout.ts"
import type { Expiry, Session } from "../../transport/Transport.ts"
import type * as BodyCodec from "../../wire/BodyCodec.ts"
import type * as Frame from "../../wire/Frame.ts"
import * as TraceState from "../../wire/TraceState.ts"
import type * as ClientStack from "../ClientStack.ts"
import * as Observed from "./observed.ts"
import * as Reply from "./reply.ts"

/** What one call may say. */
export interface CallOptions {
  /** How long the call may take in all, every attempt and every wait included. Default: the method's, then the client's. */
  readonly deadline?: Duration.Input | undefined
  /** The key the server deduplicates by: a call with one may be sent again. Default: derived from the payload, where annotated. */
  readonly idempotencyKey?: string | undefined
  /** Default: the method's, then that of the call this one is made for. */
  readonly criticality?: Criticality | undefined
  /** Metadata for the server. */
  readonly headers?: Readonly<Record<string, string>> | undefined
}

/** A method, ready to be called. */
export interface Callable {
  readonly balancer: Balancer.Balancer
  readonly method: Contract.Method
  /** How long a call may take that does not say, in milliseconds. */
  readonly deadlineMillis: number
  readonly bodies: BodyCodec.Bodies
  /** For a server that does not know the codec of `bodies`. */
  readonly asJson: BodyCodec.Bodies
  /** Makes the payload's value: a class where the contract wants one, defaults filled in. */
  readonly construct: (payload: unknown) => Result.Result<unknown, string>
  readonly stack: ClientStack.CallLevel
  /** The index of its endpoint level. */
  readonly level: number
}

type Running = Fiber.Fiber<unknown, unknown>
type Answer = Effect.Effect<unknown, unknown>

const noHeaders: Readonly<Record<string, string>> = {}
const noOptions: CallOptions = {}

/** One call: everything from the payload to the answer. */
export class Call extends Immediate.Step<unknown, unknown> {
  private readonly callable: Callable
  private readonly payload: unknown
  private readonly options: CallOptions | undefined

  constructor(callable: Callable, payload: unknown, options: CallOptions | undefined) {
    super()
    this.callable = callable
    this.payload = payload
    this.options = options
  }

  override step(fiber: Running): Answer {
    const { callable, options = noOptions, payload } = this
    const { method, stack } = callable
    const made = callable.construct(payload)
    if (Result.isFailure(made)) return invalid(method.name, made.failure)
    const body = callable.bodies.payload.encode(made.success)
    if (Result.isFailure(body)) return invalid(method.name, body.failure)

    const ambient = fiber.getRef(CallContext.Current)
    const startedAt = Timer.now(fiber)
    const limit = options.deadline === undefined
      ? startedAt + callable.deadlineMillis
      : Deadline.after(startedAt, options.deadline)
    const receiver = CallEvent.receiverOf(fiber)
    const stated: CallContext.CallContext = {
      name: method.name,
      key: ambient.key,
      idempotent: method.idempotent,
      idempotencyKey: options.idempotencyKey ?? method.keyOf?.(made.success),
      criticality: options.criticality ?? method.criticality ?? ambient.criticality,
      deadline: Deadline.combine(ambient.deadline, limit),
      attempt: 1,
      hedge: false,
      insideRetry: false,
      trace: ambient.trace,
      headers: options.headers ?? noHeaders,
      classify: method.classify
    }
    const context = receiver === undefined ? stated : Observed.decided(receiver, fiber, stated)
    const attempts = new Attempts(callable, made.success, body, startedAt)
    const isLate = Deadline.isExceeded(context.deadline, startedAt)
    const isPlain = stack.isPlain && !isLate && !CallEvent.mayWait(receiver)
    // Nothing looks for the call before something fails: to put it into the context costs a quarter of the call.
    if (isPlain && (receiver?.aroundCall === undefined || Observed.isLeftOut(receiver, context))) {
      const looped = answered(context, attempts.loop(fiber, context))
      return receiver === undefined ? looped : attempts.observed(receiver, fiber, context, looped)
    }
    const stacked = isPlain
      // Begun within what stands around the call, which may have given it another trace, or a fiber of its own.
      ? Effect.withFiber((running) => attempts.loop(running, running.getRef(CallContext.Current)))
      : stack.call.run(stack.attempt.run(attempts.again))
    const guarded = answered(
      context,
      stack.queues || CallEvent.mayWait(receiver) || isLate
        ? Timeout.guardAttempts(stacked, context.deadline)
        : stacked
    )
    const observed = receiver === undefined ? guarded : attempts.observed(receiver, fiber, context, guarded)
    return Effect.provideService(observed, CallContext.Current, context)
  }
}

type InvalidRequest = CallError.CallError<CallError.InvalidRequest>
const invalid = (target: string, detail: string): Effect.Effect<never, InvalidRequest> =>
  CallError.fail({ _tag: "InvalidRequest", target, detail, sent: "no" })

/** The attempts of one call, and what they share. */
class Attempts {
  readonly callable: Callable
  readonly payload: unknown
  /** The payload in the client's codec. */
  readonly body: Result.Success<Uint8Array, string>
  readonly startedAt: number
  /** Where the first attempt is, and from the second on where each is: one that moves on unsent has not been there. */
  private first: Endpoint | undefined
  private been: Array<Endpoint> | undefined
  private begun = 0
  private attempts = 0

  constructor(callable: Callable, payload: unknown, body: Result.Success<Uint8Array, string>, startedAt: number) {
    this.callable = callable
    this.payload = payload
    this.body = body
    this.startedAt = startedAt
  }

  /** Sends, and sends again, a call that nothing but the loop stands around. */
  loop(fiber: Running, context: CallContext.CallContext): Answer {
    const { retry } = this.callable.stack
    const first = this.attempt(context)
    return retry === undefined ? first : retry.runCall(first, this, fiber, context, this.startedAt)
  }

  /** One more attempt, of the call in the context. */
  get again(): Answer {
    return Effect.suspend(() => this.attempt(undefined))
  }

  /** One attempt; of the call in the context where none is given. */
  private attempt(given: CallContext.CallContext | undefined): Answer {
    const { balancer, level } = this.callable
    const index = this.begun++
    if (index === 1) this.been = this.first === undefined ? [] : [this.first]
    return balancer.run(level, (endpoint, call, fiber) => this.at(index, endpoint, call, fiber), this.been, given)
  }

  private at(
    index: number,
    endpoint: Endpoint,
    call: CallContext.CallContext | undefined,
    fiber: Running | undefined
  ): Answer {
    // Straight from the call to its first pick: one reading of the clock does for both.
    const attemptAt = this.first === undefined ? this.startedAt : undefined
    if (index === 0) this.first = endpoint
    // Hedges overlap: each knows its own place, not the latest of all.
    if (this.been !== undefined) this.been[index] = endpoint
    if (call !== undefined && fiber !== undefined) return this.send(fiber, endpoint, call, attemptAt)
    // An attempt begins, and its time, when the endpoint's policies have let it go.
    return Effect.withFiber((fiber) => this.send(fiber, endpoint, fiber.getRef(CallContext.Current), undefined))
  }

  private send(
    fiber: Running,
    endpoint: Endpoint,
    call: CallContext.CallContext,
    attemptAt: number | undefined
  ): Answer {
    if (call.attempt > this.attempts) this.attempts = call.attempt
    const receiver = CallEvent.receiverOf(fiber)
    const attempt = new Attempt(this, endpoint, call)
    return receiver === undefined
      ? attempt.send(fiber, undefined, call.trace, attemptAt)
      : Observed.attempt(
        receiver,
        fiber,
        (trace) => attempt.send(fiber, receiver, trace, attemptAt),
        call,
        endpoint.address,
        Observed.judged,
        attemptAt
      )
  }

  observed(receiver: CallEvent.Receiver, fiber: Running, context: CallContext.CallContext, self: Answer): Answer {
    return Observed.call(receiver, fiber, self, context, this.startedAt, () => this.attempts)
  }
}

const answered = (context: CallContext.CallContext, self: Answer): Answer =>
  Outcome.isIdempotent(context) ? self : Effect.mapError(self, unknownOutcome(context))

/** A call that must not be sent twice, was written, and got no answer: nobody knows whether it happened. */
const unknownOutcome = (call: CallContext.CallContext) => (error: unknown): unknown => {
  if (!CallError.isCallError(error)) return error
  const { reason } = error
  const silent = reason._tag === "ConnectionLost" || reason._tag === "AttemptTimeout"
  if (!silent || reason.sent === "no") return error
  return new CallError.CallError({ _tag: "OutcomeUnknown", method: call.name, last: error, sent: "maybe" })
}

/**
 * One attempt at one endpoint. On a session it ends by itself: after its own
 * timeout, or at the call's deadline where that is sooner.
 */
class Attempt implements Expiry<CallError.CallError> {
  private readonly self: Attempts
  private readonly endpoint: Endpoint
  private readonly call: CallContext.CallContext
  private readonly timeout: Timeout.Timeout | undefined
  atMillis = Infinity
  reason: "attemptTimeout" | "deadline" = "deadline"

  constructor(self: Attempts, endpoint: Endpoint, call: CallContext.CallContext) {
    this.self = self
    this.endpoint = endpoint
    this.call = call
    this.timeout = endpoint.levels[self.callable.level]!.timeout
  }

  send(
    fiber: Running,
    receiver: CallEvent.Receiver | undefined,
    trace: CallContext.TraceContext | undefined,
    attemptAt: number | undefined
  ): Answer {
    const { call, endpoint: { connection }, timeout } = this
    if (CallEvent.mayWait(receiver)) {
      const hooks = Effect.flatMap(
        connection.acquire(),
        (session) => this.on(session, fiber, receiver, trace, undefined)
      )
      return Timeout.withDeadlineAt(timeout === undefined ? hooks : timeout.run(hooks), call.deadline)
    }
    this.atMillis = call.deadline
    if (timeout !== undefined) {
      const limit = (attemptAt ?? Timer.now(fiber)) + timeout.timeoutMillis
      if (limit <= call.deadline) {
        this.atMillis = limit
        this.reason = "attemptTimeout"
      }
    }
    const expiry = this.atMillis === Deadline.none ? undefined : this
    const { current } = connection
    return current === undefined
      ? Effect.flatMap(connection.acquire(expiry), (session) => this.on(session, fiber, receiver, trace, expiry))
      : this.on(current, fiber, receiver, trace, expiry)
  }

  private on(
    session: Session,
    fiber: Running,
    receiver: CallEvent.Receiver | undefined,
    trace: CallContext.TraceContext | undefined,
    expiry: Expiry<unknown> | undefined
  ): Answer {
    const { call, self: { body, callable, payload } } = this
    const bodies = session.codec.id === callable.bodies.id ? callable.bodies : callable.asJson
    const encoded = bodies === callable.bodies ? body : bodies.payload.encode(payload)
    if (Result.isFailure(encoded)) return invalid(call.name, encoded.failure)
    const request: Frame.Request = {
      method: call.name,
      codec: bodies.id,
      body: encoded.success,
      deadline: call.deadline,
      attempt: call.attempt,
      hedge: call.hedge,
      idempotent: Outcome.isIdempotent(call),
      criticality: call.criticality,
      idempotencyKey: call.idempotencyKey,
      trace,
      headers: TraceState.carried(call.headers, trace)
    }
    // For a guard outside; without one the session's own expiry says it.
    if (callable.stack.queues || CallEvent.mayWait(receiver)) Timeout.begun(fiber)
    return Effect.flatMap(session.send(request, expiry), (response) => this.read(response, bodies))
  }

  private read(response: Frame.Response, bodies: BodyCodec.Bodies): Answer {
    return Reply.read(response, this.call.name, this.endpoint.address, bodies, this.self.startedAt)
  }

  error(sent: CallError.Sent): CallError.CallError {
    const { call, reason, self, timeout } = this
    if (timeout !== undefined && reason === "attemptTimeout") {
      const { name: policy, timeoutMillis } = timeout
      return new CallError.CallError({ _tag: "AttemptTimeout", policy, timeoutMillis, sent })
    }
    return new CallError.CallError({
      _tag: "DeadlineExceeded",
      method: call.name,
      elapsedMillis: call.deadline - self.startedAt,
      sent,
      last: undefined
    })
  }
}
