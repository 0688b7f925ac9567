/**
 * `tracestate` of W3C Trace Context: what tracing systems pass on beside the ids
 * of a trace. On the wire it is metadata of that name.
 *
 * It comes from whoever calls and may end up in somebody's HTTP header, so that
 * what is not well formed is dropped; and it is never the reason for which the
 * metadata is too large. State: none.
 */
import type { TraceContext } from "../contract/CallContext.ts"
import * as Frame from "./Frame.ts"
import * as FrameCodec from "./FrameCodec.ts"

/** The name of the metadata. */
const name = "tracestate"

/** What everybody has to pass on at least, and we at most. */
const maxLength = 512
const maxMembers = 32
/** Source: W3C Trace Context 2, section 3.3.2: key, `=`, printable ASCII without comma and equals sign, no space last. */
const member = /^[a-z0-9][a-z0-9_\-*/@]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]$/

/** The members of a well-formed text in their order, without space between them; `undefined` for anything else. */
export const parse = (text: string): string | undefined => {
  if (text.length > maxLength) return undefined
  const members = text.split(",").map((each) => each.trim()).filter((each) => each !== "")
  const isWhole = members.length > 0 && members.length <= maxMembers && members.every((each) => member.test(each))
  return isWhole ? members.join(",") : undefined
}

/** The metadata of a request that carries this trace: with its state, where it has one and there is room. */
export const carried = (
  headers: Frame.Request["headers"],
  trace: TraceContext | undefined
): Frame.Request["headers"] => {
  const state = trace?.state === undefined ? undefined : parse(trace.state)
  if (state === undefined) return headers
  const more = { ...headers, [name]: state }
  return FrameCodec.metadataBytes(more) > Frame.maxMetadataBytes ? headers : more
}

/** The trace of a request with the state that its metadata brought. */
export const received = ({ headers, trace }: Frame.Request): TraceContext | undefined => {
  const text = headers[name]
  const state = trace === undefined || text === undefined ? undefined : parse(text)
  return state === undefined ? trace : { ...trace!, state }
}
