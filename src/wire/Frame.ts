/**
 * MCP (Microservice Communication Protocol) version 1: what is on the wire.
 *
 * Every frame is an 8-byte header and a payload; integers are big-endian.
 *
 * ```
 *   0      2         3      4         8
 *   ┌──────┬─────────┬──────┬─────────┬───────────────
 *   │ "MC" │ version │ type │ length  │ payload …
 *   └──────┴─────────┴──────┴─────────┴───────────────
 * ```
 *
 * `docs/protocol.md` is the specification; this file is its numbers and shapes.
 * A frame of a type somebody does not know is skipped by its length.
 */
import type { TraceContext } from "../contract/CallContext.ts"
import type { Criticality } from "../contract/Criticality.ts"
import type * as Interruption from "../contract/Interruption.ts"

export const headerBytes = 8
/** `"MC"`. */
export const magic = 0x4d43
export const version = 1
/** The payload limit a session starts with: 4 MiB. */
export const defaultMaxPayloadBytes = 4 * 1024 * 1024
/** Longest text field: its length is a number of 16 bits. */
export const maxTextBytes = 0xffff
/** Metadata of one request or response, encoded: a length of 16 bits and what it counts. */
export const maxMetadataBytes = 2 + 0xffff

/** Frame types. 1 and 2 are the protocol; the others need both sides' hello. */
export const Type = {
  request: 1,
  response: 2,
  cancel: 3,
  ping: 4,
  pong: 5,
  goingAway: 6,
  streamItem: 7,
  streamCredit: 8,
  hello: 9
} as const

/** How a response ends its request. */
export const Status = {
  /** The body is the success value. */
  ok: 0,
  /** The body is the contract's own error. */
  failed: 1,
  unavailable: 2,
  overloaded: 3,
  rateLimited: 4,
  /** The server failed with a code: the body is a `CodedError`. */
  remote: 5,
  invalidRequest: 6,
  unauthenticated: 7,
  permissionDenied: 8,
  notFound: 9,
  unimplemented: 10,
  deadlineExceeded: 11,
  /** The answer to a cancelled request: its slot is free again. */
  cancelled: 12,
  tooLarge: 13
} as const

/** What a `hello` says its sender understands. */
export const Feature = {
  cancel: 1,
  ping: 2,
  goingAway: 4,
  stream: 8
} as const

/** Everything this version understands. */
export const features = Feature.cancel | Feature.ping | Feature.goingAway

/** Why a request is cancelled, as a number on the wire. */
export const cancelReasons: ReadonlyArray<Interruption.Reason> = [
  "caller",
  "deadline",
  "attemptTimeout",
  "hedgeLost",
  "shutdown"
]

/** A request as transports carry it. Everything but the id, which belongs to one session. */
export interface Request {
  readonly method: string
  /** Number of the body codec. */
  readonly codec: number
  readonly body: Uint8Array
  /** The receiver's or the sender's own monotonic clock; on the wire it is the time remaining. */
  readonly deadline: number
  /** From 1; 255 stands for more. */
  readonly attempt: number
  readonly hedge: boolean
  readonly idempotent: boolean
  readonly criticality: Criticality
  readonly idempotencyKey: string | undefined
  readonly trace: TraceContext | undefined
  readonly headers: Readonly<Record<string, string>>
}

/** A response as transports carry it. */
export interface Response {
  /** One of `Status`, or a number of a later version. */
  readonly status: number
  readonly codec: number
  readonly body: Uint8Array
  /** Whether the handler may have started. */
  readonly processed: boolean
  readonly retryAfterMillis: number | undefined
  readonly headers: Readonly<Record<string, string>>
}

/** What each side says first, where it says anything. */
export interface Hello {
  /** Bits of `Feature`. */
  readonly features: number
  /** Largest payload the sender accepts. */
  readonly maxPayloadBytes: number
  /** Most requests the sender wants in flight on this session; 0 for no limit of its own. */
  readonly maxInFlight: number
  /** Numbers of the body codecs the sender understands, best first. */
  readonly codecs: ReadonlyArray<number>
  /** Who it is, for logs. */
  readonly agent: string
}

/** Why bytes cannot be a session of this protocol. Each ends it. */
export type FrameError =
  | { readonly _tag: "BadMagic"; readonly got: number }
  | { readonly _tag: "BadVersion"; readonly got: number }
  | { readonly _tag: "TooLong"; readonly length: number; readonly limit: number }
  | { readonly _tag: "BadPayload"; readonly type: number; readonly why: string }

/** The error as one readable line. */
export const describe = (error: FrameError): string => {
  switch (error._tag) {
    case "BadMagic":
      return `not MCP: the frame begins with 0x${error.got.toString(16).padStart(4, "0")}, not 0x4d43${
        looksLike(error.got)
      }`
    case "BadVersion":
      return `MCP version ${error.got}, this side speaks ${version}`
    case "TooLong":
      return `a payload of ${error.length} bytes exceeds the limit of ${error.limit}`
    case "BadPayload":
      return `malformed payload of a frame of type ${error.type}: ${error.why}`
  }
}

/** The first two bytes of what most often lands on the wrong port. */
const strangers: Readonly<Record<number, string>> = {
  0x4745: "an HTTP GET",
  0x504f: "an HTTP POST",
  0x5055: "an HTTP PUT",
  0x4845: "an HTTP HEAD",
  0x4445: "an HTTP DELETE",
  0x4f50: "an HTTP OPTIONS",
  0x4854: "an HTTP response",
  0x5052: "an HTTP/2 preface",
  0x1603: "a TLS handshake",
  0x5353: "an SSH banner"
}
const looksLike = (got: number): string => {
  const stranger = strangers[got]
  return stranger === undefined ? "" : ` (looks like ${stranger})`
}
