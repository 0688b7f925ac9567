/** Responses a server makes: the statuses of `docs/protocol.md` and their bodies. */
import type * as CallError from "../../contract/CallError.ts"
import * as ErrorCode from "../../contract/ErrorCode.ts"
import * as BodyCodec from "../../wire/BodyCodec.ts"
import * as Frame from "../../wire/Frame.ts"

const respond = (
  status: number,
  codec: number,
  body: Uint8Array,
  processed: boolean,
  retryAfterMillis?: number
): Frame.Response => ({ status, codec, body, processed, retryAfterMillis, headers: {} })

const say = (
  status: number,
  body: { readonly message: string } & Readonly<Record<string, unknown>>,
  processed: boolean,
  retryAfterMillis?: number
): Frame.Response => respond(status, BodyCodec.json.id, Buffer.from(JSON.stringify(body)), processed, retryAfterMillis)

const coded = (
  code: ErrorCode.ErrorCode,
  message: string,
  traceId: string | undefined,
  retry: "ifIdempotent" | "never"
) => say(Frame.Status.remote, { code, message, traceId, retry }, true)

export const ok = (codec: number, body: Uint8Array): Frame.Response => respond(Frame.Status.ok, codec, body, true)

export const failed = (codec: number, body: Uint8Array): Frame.Response =>
  respond(Frame.Status.failed, codec, body, true)

export const encodeFailed = (why: string, traceId: string | undefined): Frame.Response =>
  coded(ErrorCode.own.encodeFailed, `the server cannot encode its answer: ${why}`, traceId, "never")

/** What died is in the server's log, under the trace id; it is nobody else's business. */
export const defect = (traceId: string | undefined): Frame.Response =>
  coded(ErrorCode.own.handlerDefect, "the handler died of a defect", traceId, "ifIdempotent")

export const unimplemented = (method: string): Frame.Response =>
  say(Frame.Status.unimplemented, { message: `no method ${method}` }, false)

export const invalid = (why: string): Frame.Response => say(Frame.Status.invalidRequest, { message: why }, false)

export const late: Frame.Response = say(
  Frame.Status.deadlineExceeded,
  { message: "the deadline had passed on arrival" },
  false
)

/** A handler that was interrupted, but not by us. */
export const interrupted = (traceId: string | undefined): Frame.Response =>
  coded(ErrorCode.own.interrupted, "the handler was interrupted from within", traceId, "ifIdempotent")

const statuses: Readonly<Record<CallError.Refusal["_tag"], number>> = {
  Unavailable: Frame.Status.unavailable,
  Overloaded: Frame.Status.overloaded,
  RateLimited: Frame.Status.rateLimited,
  Remote: Frame.Status.remote,
  InvalidRequest: Frame.Status.invalidRequest,
  Unauthenticated: Frame.Status.unauthenticated,
  PermissionDenied: Frame.Status.permissionDenied,
  NotFound: Frame.Status.notFound,
  Unimplemented: Frame.Status.unimplemented
}

export const refused = (refusal: CallError.Refusal): Frame.Response => {
  const status = statuses[refusal._tag]
  const processed = refusal.sent === "maybe"
  if (refusal._tag === "Remote") {
    const { causes, code, message, retry, retryAfterMillis, traceId } = refusal
    const cause = causes.length === 0 ? undefined : causes.join(" < ")
    return say(status, { code, message, cause, traceId, retry }, processed, retryAfterMillis)
  }
  const retryAfterMillis = "retryAfterMillis" in refusal ? refusal.retryAfterMillis : undefined
  return say(status, { message: refusal.detail }, processed, retryAfterMillis)
}
