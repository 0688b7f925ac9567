/** What a response means to its caller: the statuses of `docs/protocol.md` as values and reasons. */
import * as Effect from "effect/Effect"
import * as CallError from "../../contract/CallError.ts"
import * as ErrorCode from "../../contract/ErrorCode.ts"
import * as Timer from "../../contract/Timer.ts"
import * as BodyCodec from "../../wire/BodyCodec.ts"
import * as Frame from "../../wire/Frame.ts"

/** What a server can answer, in our words. */
export type Reason =
  | CallError.Unavailable
  | CallError.Overloaded
  | CallError.RateLimited
  | CallError.Remote
  | CallError.InvalidRequest
  | CallError.Unauthenticated
  | CallError.PermissionDenied
  | CallError.NotFound
  | CallError.Unimplemented
  | CallError.DeadlineExceeded
  | CallError.DecodeFailed
  | CallError.TooLarge

/** The value of a response to a request in the same codec, or its failure: the contract's own error, or one of ours. */
export const read = (
  response: Frame.Response,
  method: string,
  target: string,
  bodies: BodyCodec.Bodies,
  calledAt: number
): Effect.Effect<unknown, unknown> => {
  const { codec, status } = response
  if (status > Frame.Status.failed) {
    return Effect.withFiber((fiber) => CallError.fail(reasonOf(response, method, target, Timer.now(fiber) - calledAt)))
  }
  if (codec !== bodies.id) return undecodable(target, `body codec ${codec} in answer to codec ${bodies.id}`)
  if (status === Frame.Status.ok) {
    const value = bodies.success.decode(response.body)
    return value._tag === "Success" ? Effect.succeed(value.success) : undecodable(target, value.failure)
  }
  const error = bodies.error.decode(response.body)
  return error._tag === "Success" ? Effect.fail(error.success) : undecodable(target, error.failure)
}

const undecodable = (
  target: string,
  detail: string
): Effect.Effect<never, CallError.CallError<CallError.DecodeFailed>> =>
  CallError.fail({ _tag: "DecodeFailed", target, detail, sent: "maybe" })

/** The JSON object behind every status that is not the contract's. A peer's body may be anything: what is missing is empty. */
const detailsOf = (body: Uint8Array): Readonly<Record<string, unknown>> => {
  const parsed = BodyCodec.parseJson(body)
  return parsed._tag === "Success" && typeof parsed.success === "object" && parsed.success !== null
    ? parsed.success as Readonly<Record<string, unknown>>
    : {}
}

const integer = (value: unknown): number => Number.isSafeInteger(value) ? value as number : 0

const text = (value: unknown, orElse: string): string => typeof value === "string" && value !== "" ? value : orElse

const reasonOf = (response: Frame.Response, method: string, target: string, elapsedMillis: number): Reason => {
  const details = detailsOf(response.body)
  const sent: CallError.Sent = response.processed ? "maybe" : "no"
  const detail = text(details["message"], "no reason given")
  const { retryAfterMillis } = response
  switch (response.status) {
    case Frame.Status.unavailable:
      return { _tag: "Unavailable", target, detail, sent, retryAfterMillis }
    case Frame.Status.overloaded:
      return { _tag: "Overloaded", target, detail, sent, retryAfterMillis }
    case Frame.Status.rateLimited:
      return { _tag: "RateLimited", target, detail, sent, retryAfterMillis }
    case Frame.Status.invalidRequest:
      return { _tag: "InvalidRequest", target, detail, sent: "no" }
    case Frame.Status.unauthenticated:
      return { _tag: "Unauthenticated", target, detail, sent: "no" }
    case Frame.Status.permissionDenied:
      return { _tag: "PermissionDenied", target, detail, sent: "no" }
    case Frame.Status.notFound:
      return { _tag: "NotFound", target, detail, sent: "no" }
    case Frame.Status.unimplemented:
      return { _tag: "Unimplemented", target, detail, sent: "no" }
    case Frame.Status.deadlineExceeded:
      return { _tag: "DeadlineExceeded", method, elapsedMillis, sent, last: undefined }
    // We cancelled nothing that is still waited for, so the server gave up by itself: it is going away.
    case Frame.Status.cancelled:
      return { _tag: "Unavailable", target, detail: "the server cancelled the request", sent }
    case Frame.Status.tooLarge:
      return {
        _tag: "TooLarge",
        target,
        sizeBytes: integer(details["sizeBytes"]),
        limitBytes: integer(details["limitBytes"]),
        sent: "maybe"
      }
    case Frame.Status.remote: {
      const cause = text(details["cause"], "")
      const retry = details["retry"]
      return {
        _tag: "Remote",
        target,
        code: text(details["code"], ErrorCode.own.unknownStatus),
        message: detail,
        causes: cause === "" ? [] : cause.split(" < "),
        traceId: typeof details["traceId"] === "string" ? details["traceId"] : undefined,
        retry: retry === "safe" || retry === "ifIdempotent" ? retry : "never",
        sent,
        retryAfterMillis
      }
    }
    default:
      return {
        _tag: "Remote",
        target,
        code: ErrorCode.own.unknownStatus,
        message: `status ${response.status}, which this version does not know: ${detail}`,
        causes: [],
        traceId: undefined,
        retry: "never",
        sent,
        retryAfterMillis
      }
  }
}
