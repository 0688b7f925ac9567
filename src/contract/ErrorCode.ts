/**
 * Error codes that mean the same in every service: `DOMAIN-LEVEL-NUMBER`.
 *
 * `ORD-E-102` is error 102 of the domain ORD. The level is `F` (fatal: somebody
 * must act), `E` (error: this call failed) or `W` (warning: answered, but
 * degraded). A service that wraps a failure keeps the codes beneath it as a
 * cause chain, outermost first, and the trace id, so that the page about the
 * outermost code leads to the innermost.
 *
 * Holdfast's own codes are `MCP-*`.
 */
import * as Schema from "effect/Schema"

/** `DOMAIN-LEVEL-NUMBER`: 2 to 10 capitals or digits, one of F, E, W, then 1 to 6 digits. */
export const ErrorCode = Schema.String.check(
  Schema.isPattern(/^[A-Z][A-Z0-9]{1,9}-[FEW]-\d{1,6}$/, {
    message: "expected an error code such as ORD-E-102: DOMAIN-LEVEL-NUMBER with level F, E or W"
  })
)
export type ErrorCode = typeof ErrorCode.Type

/** What crosses a service boundary about a failure: `{"code":"ORD-E-102","message":"…","cause":"INV-E-003","traceId":"…"}`. */
export const CodedError = Schema.Struct({
  code: ErrorCode,
  message: Schema.String,
  /** The codes beneath, nearest first, separated by `" < "`: `"INV-E-003 < DB-F-1"`. */
  cause: Schema.optionalKey(Schema.String),
  traceId: Schema.optionalKey(Schema.String)
})
export type CodedError = typeof CodedError.Type

/** The level letter of a code. */
export const level = (code: ErrorCode): "F" | "E" | "W" => code.split("-")[1] as "F" | "E" | "W"

/** The domain of a code. */
export const domain = (code: ErrorCode): string => code.slice(0, code.indexOf("-"))

/** Wraps a failure of another service in a code of our own and keeps the chain and the trace beneath it. */
export const wrap = (
  options: { readonly code: ErrorCode; readonly message: string },
  beneath: CodedError
): CodedError => ({
  code: options.code,
  message: options.message,
  cause: beneath.cause === undefined ? beneath.code : `${beneath.code} < ${beneath.cause}`,
  ...(beneath.traceId === undefined ? {} : { traceId: beneath.traceId })
})

/** All codes of a failure, outermost first. */
export const chain = (error: CodedError): ReadonlyArray<string> =>
  error.cause === undefined ? [error.code] : [error.code, ...error.cause.split(" < ")]

/** The codes Holdfast itself answers with. `docs/protocol.md` lists what each means. */
export const own = {
  /** A handler died of a defect. */
  handlerDefect: "MCP-F-1",
  /** An answer could not be encoded by the server. */
  encodeFailed: "MCP-F-2",
  /** The handler was interrupted from within the server. */
  interrupted: "MCP-E-3",
  /** The server answered with a status this version does not know. */
  unknownStatus: "MCP-E-4"
} as const satisfies Record<string, ErrorCode>
