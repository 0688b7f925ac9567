/**
 * Puts a policy around every request of an `effect/http` client.
 *
 * ```ts
 * const client = (yield* HttpClient.HttpClient).pipe(HttpPolicy.apply(policy))
 * ```
 *
 * To the policy a request is a call: `GET https://host` is its name, the origin
 * its key. GET, HEAD, OPTIONS, TRACE, PUT and DELETE may be sent twice; POST and
 * PATCH with an `Idempotency-Key`, which stays the same over all attempts.
 *
 * A status is a failure only for the policy, which sees 429 as `RateLimited`, 503
 * as `Unavailable`, both with their `Retry-After` (seconds or a date) or
 * `retry-after-ms`, and any other 5xx as `Remote`; 4xx says nothing against the endpoint. To the caller a
 * status stays a response: when nothing more may be sent, the answer is the last
 * response, whatever its status. An error is what a client without a policy would
 * fail with, or what the policy says where there was no response.
 *
 * Honest about bodies. An attempt ends when the response's headers are there: the
 * timeout, the permit and the breaker know nothing of its body, so guard reading
 * it with a timeout of its own. A request whose body is a stream, or a raw value
 * that may be one, is sent once, whatever its method. The body of a response that
 * was retried is closed unread, and its connection with it where it was still
 * arriving.
 *
 * A receiver is told of each request as a call, and of its attempts, in which a
 * status is what it is to the policy: a call that was answered with a 503 failed.
 *
 * It does not pick an address and does not follow redirects. State is the
 * policy's: share one per origin, or key it.
 *
 * Source: methods, RFC 9110 9.2.2; `Retry-After`, RFC 9110 10.2.3; the key, the
 * IETF's draft "The Idempotency-Key HTTP Header Field".
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import { dual } from "effect/Function"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpClientError from "effect/http/HttpClientError"
import type * as HttpClientRequest from "effect/http/HttpClientRequest"
import type * as HttpClientResponse from "effect/http/HttpClientResponse"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Outcome from "../contract/Outcome.ts"
import * as Timer from "../contract/Timer.ts"
import type * as Policy from "../policy/Policy.ts"
import * as Observed from "./internal/observed.ts"

export interface HttpPolicyOptions {
  /** The name of a request's call. Default its method and origin: few names, for they label metrics. */
  readonly name?: ((request: HttpClientRequest.HttpClientRequest) => string) | undefined
  /** Whether a request may be sent twice. Default by its method; an `Idempotency-Key` always says yes, and a stream no. */
  readonly idempotent?: ((request: HttpClientRequest.HttpClientRequest) => boolean) | undefined
}

type Response = HttpClientResponse.HttpClientResponse
type Request = HttpClientRequest.HttpClientRequest

/** Puts a policy around every request of a client. */
export const apply: {
  <E, R>(
    policy: Policy.Policy<E, R>,
    options?: HttpPolicyOptions
  ): <E1, R1>(client: HttpClient.HttpClient.With<E1, R1>) => HttpClient.HttpClient.With<E | E1, R | R1>
  <E1, R1, E, R>(
    client: HttpClient.HttpClient.With<E1, R1>,
    policy: Policy.Policy<E, R>,
    options?: HttpPolicyOptions
  ): HttpClient.HttpClient.With<E | E1, R | R1>
} = dual(
  (args) => HttpClient.isHttpClient(args[0]),
  <E1, R1, E, R>(
    client: HttpClient.HttpClient.With<E1, R1>,
    policy: Policy.Policy<E, R>,
    options: HttpPolicyOptions = {}
  ): HttpClient.HttpClient.With<E | E1, R | R1> =>
    HttpClient.transform(client, (send, request) => guard(send, request, policy, options))
)

const methods: ReadonlyArray<string> = ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"]

/** Whether the body is there as a whole, and may be sent again. */
const isWhole = ({ body }: Request): boolean => body._tag !== "Stream" && body._tag !== "Raw"

const originOf = (url: string): string => /^[a-z][a-z0-9+.-]*:\/\/[^/?#]*/i.exec(url)?.[0] ?? url

const guard = <E1, R1, E, R>(
  send: Effect.Effect<Response, E1, R1>,
  request: Request,
  policy: Policy.Policy<E, R>,
  options: HttpPolicyOptions
): Effect.Effect<Response, E | E1, R | R1> =>
  Effect.withFiber((fiber) => {
    const origin = originOf(request.url)
    const whole = isWhole(request)
    const ambient = fiber.getRef(CallContext.Current)
    const receiver = CallEvent.receiverOf(fiber)
    const stated: CallContext.CallContext = {
      ...CallContext.inherit(ambient),
      name: options.name?.(request) ?? `${request.method} ${origin}`,
      key: origin,
      idempotent: whole && (options.idempotent?.(request) ?? methods.includes(request.method)),
      idempotencyKey: whole ? request.headers["idempotency-key"] : undefined,
      insideRetry: ambient.insideRetry,
      classify: whole ? classify : classifyOnce
    }
    const call = receiver === undefined ? stated : Observed.decided(receiver, fiber, stated)
    const answers = new Answers(origin, whole)
    /** To a receiver a status is what it is to the policy. */
    const told = (exit: Exit.Exit<Response, unknown>, call: CallContext.CallContext): Observed.Told => {
      const reason = Exit.isSuccess(exit) ? reasonOf(exit.value, origin, whole, fiber) : undefined
      return reason === undefined
        ? Observed.judged(exit, call)
        : { outcome: Outcome.classify(reason), error: new CallError.CallError(reason) }
    }
    let attempts = 0
    const attempt = Effect.withFiber((current) => {
      answers.close(undefined)
      const receiver = CallEvent.receiverOf(current)
      if (receiver === undefined) return send
      const call = current.getRef(CallContext.Current)
      attempts = Math.max(attempts, call.attempt)
      return Observed.attempt(receiver, current, carrying(send), call, origin, told)
    }).pipe(
      Effect.flatMap((response) => Effect.withFiber((current) => answers.judge(response, current)))
    )
    const answered = policy.run(attempt).pipe(Effect.catch((error) => {
      const response = answers.in(error)
      return response === undefined ? Effect.fail(error as E | E1) : Effect.succeed(response)
    }))
    const closing = Effect.onExitPrimitive(answered, (exit) => {
      answers.close(Exit.isSuccess(exit) ? exit.value : undefined)
      return undefined
    })
    const observed = receiver === undefined
      ? closing
      : Observed.call(receiver, fiber, closing, call, Timer.now(fiber), () => attempts, told)
    return Effect.provideService(observed, CallContext.Current, call)
  })

/** The HTTP client puts the span around it into the headers, which of an attempt that is traced is the attempt's own. */
const carrying = <A, E, R>(send: Effect.Effect<A, E, R>) => (trace: CallContext.TraceContext | undefined) =>
  trace === undefined || trace.sampled
    ? send
    : Effect.provideService(send, Tracer.ParentSpan, Tracer.externalSpan(trace))

/** The responses of one request. */
class Answers {
  private readonly origin: string
  private readonly whole: boolean
  /** By the error each was to the policy. */
  private readonly responses = new Map<unknown, Response>()

  constructor(origin: string, whole: boolean) {
    this.origin = origin
    this.whole = whole
  }

  /** The response, or the failure its status is to the policy. */
  judge(response: Response, fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<Response, CallError.CallError> {
    const reason = reasonOf(response, this.origin, this.whole, fiber)
    if (reason === undefined) return Effect.succeed(response)
    const error = new CallError.CallError(reason)
    this.responses.set(error, response)
    return Effect.fail(error)
  }

  /** The response an error goes back to, if it is still open. */
  in(error: unknown): Response | undefined {
    for (let at: unknown = error; at !== undefined;) {
      const response = this.responses.get(at)
      if (response !== undefined) return response
      at = CallError.isCallError(at) && "last" in at.reason ? at.reason.last : undefined
    }
    return undefined
  }

  /** Closes every response but the one that is the answer. */
  close(answer: Response | undefined): void {
    for (const [error, response] of this.responses) {
      if (response === answer) continue
      this.responses.delete(error)
      // Opened and given up at once: what is left of the body is not worth reading.
      Effect.runFork(Effect.ignore(Stream.runDrain(response.stream))).interruptUnsafe()
    }
  }
}

/** What a status is to the policy; `undefined` for an answer like any other. */
const reasonOf = (
  { headers, status }: Response,
  target: string,
  whole: boolean,
  fiber: Fiber.Fiber<unknown, unknown>
): CallError.RateLimited | CallError.Unavailable | CallError.Remote | undefined => {
  if (status !== 429 && status < 500) return undefined
  const retryAfterMillis = retryAfterOf(headers, fiber.getRef(Clock.Clock).currentTimeMillisUnsafe())
  const detail = `HTTP ${status}`
  if (status === 429 && whole) return { _tag: "RateLimited", target, detail, sent: "no", retryAfterMillis }
  if (status === 503 && whole) return { _tag: "Unavailable", target, detail, sent: "maybe", retryAfterMillis }
  // What the server does not implement it will not implement the next time.
  const final = !whole || status === 501 || status === 505
  return {
    _tag: "Remote",
    target,
    code: `HTTP-E-${status}`,
    message: detail,
    causes: [],
    retry: final ? "never" : "ifIdempotent",
    sent: "maybe",
    retryAfterMillis
  }
}

/**
 * Milliseconds until a response says to come back. A date is read against the response's own, so that two clocks need
 * not agree.
 */
const retryAfterOf = (headers: Response["headers"], nowMillis: number): number | undefined => {
  const millis = numberOf(headers["retry-after-ms"])
  if (millis !== undefined) return millis
  const text = headers["retry-after"]
  const seconds = numberOf(text)
  if (seconds !== undefined) return seconds * 1000
  const at = dateOf(text)
  return at === undefined ? undefined : Math.max(0, at - (dateOf(headers["date"]) ?? nowMillis))
}

const numberOf = (text = ""): number | undefined => /^\s*\d+(\.\d+)?\s*$/.test(text) ? Number(text) : undefined

/**
 * The three forms of a date, RFC 9110 5.6.7: each begins with a day, and the oldest does not say that it is of GMT. One
 * that says to be of another zone, which it may not, is of that.
 */
const dateOf = (text = ""): number | undefined => {
  if (!/^\s*[a-z]/i.test(text)) return undefined
  const at = Date.parse(/([a-z]|[+-]\d{4})\s*$/i.test(text) ? text : `${text} GMT`)
  return Number.isNaN(at) ? undefined : at
}

type Kind = CallError.ConnectFailed["kind"]

/** The codes of Node, of undici and of OpenSSL that say that nothing was sent. */
const kinds: Readonly<Record<string, Kind>> = {
  ECONNREFUSED: "refused",
  ENOTFOUND: "dns",
  EAI_AGAIN: "dns",
  EHOSTUNREACH: "unreachable",
  ENETUNREACH: "unreachable",
  EADDRNOTAVAIL: "unreachable",
  UND_ERR_CONNECT_TIMEOUT: "timeout",
  CERT_HAS_EXPIRED: "tls",
  DEPTH_ZERO_SELF_SIGNED_CERT: "tls",
  SELF_SIGNED_CERT_IN_CHAIN: "tls",
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: "tls",
  ERR_TLS_CERT_ALTNAME_INVALID: "tls"
}

/** The code of an error or of what caused it: `fetch` wraps undici's, which wraps Node's, of which there may be several. */
const connectKind = (error: unknown, depth = 0): Kind | undefined => {
  if (depth > 5 || typeof error !== "object" || error === null) return undefined
  const { cause, code, errors } = error as { readonly [field: string]: unknown }
  if (typeof code === "string" && kinds[code] !== undefined) return kinds[code]
  const [first] = Array.isArray(errors) ? errors : []
  return connectKind(cause, depth + 1) ?? connectKind(first, depth + 1)
}

/** What an error of the client means. */
const classify = (error: unknown): Outcome.Outcome => {
  if (!HttpClientError.isHttpClientError(error)) return Outcome.failure
  const { reason } = error
  switch (reason._tag) {
    case "TransportError":
      return connectKind(reason.cause) === undefined ? Outcome.failure : Outcome.failureSafe
    // Ours, before anything was sent.
    case "EncodeError":
    case "InvalidUrlError":
      return Outcome.ignored
    // A client that is filtered inside makes errors of statuses; the response is there, and has no one to come back to.
    case "StatusCodeError":
      return reason.response.status === 429
        ? Outcome.failureSafe
        : reason.response.status >= 500
        ? Outcome.failure
        : Outcome.success
    case "DecodeError":
    case "EmptyBodyError":
      return Outcome.success
  }
}

/** The same for a request that cannot be sent again. */
const classifyOnce = (error: unknown): Outcome.Outcome => ({ ...classify(error), retry: "never" })
