/** What a session answers by itself, where there is no handler's answer that can be sent. */
import type * as Cause from "effect/Cause"
import * as ErrorCode from "../../contract/ErrorCode.ts"
import * as Interruption from "../../contract/Interruption.ts"
import * as BodyCodec from "../../wire/BodyCodec.ts"
import * as Frame from "../../wire/Frame.ts"
import * as FrameCodec from "../../wire/FrameCodec.ts"

/** A response that a peer accepting payloads of `limitBytes` can take: this one, or the word that it is too large. */
export const fit = (response: Frame.Response, limitBytes: number): Frame.Response => {
  const metadataSize = FrameCodec.metadataBytes(response.headers)
  const oversize = FrameCodec.oversizeResponse(response, metadataSize, limitBytes)
  if (oversize === undefined) return response
  const { limitBytes: limit, sizeBytes, what } = oversize
  const message = `the answer's ${what} takes ${sizeBytes} bytes, the limit is ${limit}`
  return refusal(Frame.Status.tooLarge, { message, sizeBytes, limitBytes: limit }, true)
}

/** A response of the runtime itself: its body says why, as JSON. */
export const refusal = (
  status: number,
  why: string | { readonly message: string } & Readonly<Record<string, unknown>>,
  processed: boolean,
  retryAfterMillis?: number
): Frame.Response => ({
  status,
  codec: BodyCodec.json.id,
  body: Buffer.from(JSON.stringify(typeof why === "string" ? { message: why } : why)),
  processed,
  retryAfterMillis,
  headers: {}
})

const cancelled = refusal(Frame.Status.cancelled, "cancelled", true)
const expired = refusal(Frame.Status.deadlineExceeded, "the deadline passed while the handler ran", true)
const died = refusal(
  Frame.Status.remote,
  { code: ErrorCode.own.handlerDefect, message: "the handler died of a defect", retry: "ifIdempotent" },
  true
)

/** The answer to a request whose handler gave none: interrupted by its deadline, its caller or our closing, or dead. */
export const withoutAnswer = (cause: Cause.Cause<unknown>): Frame.Response => {
  const reason = Interruption.fromCause(cause)
  return reason === undefined ? died : reason === "deadline" ? expired : cancelled
}
