/**
 * How a span ends: its status, and the attributes that say why.
 *
 * A client's span is an error when the call or the attempt failed, a domain error
 * included, as the conventions have it for every status that is not OK. A
 * server's is one only when the server is at fault: a domain error or a refusal
 * of the caller's request is an answer. An interruption is an error where time
 * ran out or the server went away, and neutral where somebody no longer wanted
 * the answer.
 */
import * as Cause from "effect/Cause"
import * as Exit from "effect/Exit"
import * as CallError from "../../contract/CallError.ts"
import * as ErrorCode from "../../contract/ErrorCode.ts"
import * as Interruption from "../../contract/Interruption.ts"
import * as Outcome from "../../contract/Outcome.ts"
import type { Attributes } from "./traceNames.ts"

export interface Ending {
  readonly attributes: Attributes
  /** What the tracer makes the status of: a failure is an error. */
  readonly exit: Exit.Exit<unknown, unknown>
}

const ok: Ending = { attributes: { "rpc.status_code": "OK" }, exit: Exit.void }

/** The class of an error: few values, whatever its message says. */
export const typeOf = (error: unknown): string => {
  if (CallError.isCallError(error)) return ofReason(error.reason)
  if (typeof error !== "object" || error === null) return other
  if ("_tag" in error && typeof error._tag === "string") return error._tag
  return error instanceof Error ? error.name : other
}

/** What the conventions call an error without a class. */
const other = "_OTHER"

const ofReason = (reason: CallError.Reason): string => reason._tag === "Remote" ? reason.code : reason._tag

/** How the span of a call or an attempt ends. */
export const ofClient = (exit: Exit.Exit<unknown, unknown>): Ending => {
  if (Exit.isSuccess(exit)) return isResponse(exit.value) ? ofResponse(exit.value.status) : ok
  const failure = failureOf(exit.cause)
  return failure === undefined ? ofInterrupt(exit) : failed(failure, exit)
}

/** Effect's `HttpClientResponse`, by its mark: loading what defines it is for those who use it. */
const isResponse = (value: unknown): value is { readonly status: number } =>
  typeof value === "object" && value !== null && "~effect/http/HttpClientResponse" in value

/** By the conventions for HTTP, a client's span is an error from 400 on. */
const ofResponse = (status: number): Ending => {
  const said = { "http.response.status_code": status }
  return status < 400
    ? { ...ok, attributes: { ...ok.attributes, ...said } }
    : {
      attributes: { ...answered(String(status), true).attributes, ...said },
      exit: Exit.fail(`HTTP status ${status}`)
    }
}

/** How the span of a handler ends. */
export const ofServer = (exit: Exit.Exit<unknown, unknown>): Ending => {
  if (Exit.isSuccess(exit)) return ok
  const failure = failureOf(exit.cause)
  if (failure === undefined) return ofInterrupt(exit)
  const reason = reasonOf(failure)
  if (reason !== undefined) {
    const isFault = Outcome.classify(reason).endpoint === "failure"
    return { ...answered(ofReason(reason), isFault), exit: isFault ? exit : Exit.void }
  }
  if (!failure.died) return { ...answered(typeOf(failure.error), false), exit: Exit.void }
  // The caller is told the code; what died is for those who read the trace.
  const attributes = { "rpc.status_code": ErrorCode.own.handlerDefect, "error.type": typeOf(failure.error) }
  return { attributes, exit }
}

interface Failure {
  readonly error: unknown
  readonly died: boolean
}

/** What decides a cause: a refusal, a defect, an error, and only then an interruption, which is `undefined`. */
const failureOf = (cause: Cause.Cause<unknown>): Failure | undefined => {
  let failure: Failure | undefined
  for (const reason of cause.reasons) {
    if (Cause.isDieReason(reason)) {
      if (failure?.died !== true || reason.defect instanceof CallError.Refused) {
        failure = { error: reason.defect, died: true }
      }
    } else if (Cause.isFailReason(reason)) failure ??= { error: reason.error, died: false }
  }
  return failure
}

/** The reason of a refusal, or of an error of ours that the contract lets through. */
const reasonOf = ({ died, error }: Failure): CallError.Reason | undefined => {
  if (error instanceof CallError.Refused) return error.reason
  return !died && CallError.isCallError(error) ? error.reason : undefined
}

const answered = (code: string, isError: boolean): { readonly attributes: Attributes } => ({
  attributes: isError ? { "rpc.status_code": code, "error.type": code } : { "rpc.status_code": code }
})

const failed = ({ error }: Failure, exit: Exit.Exit<unknown, unknown>): Ending => {
  const { attributes } = answered(typeOf(error), true)
  if (!CallError.isCallError(error)) return { attributes, exit }
  const { reason } = error
  const last = "last" in reason ? reason.last : undefined
  return {
    attributes: {
      ...attributes,
      "holdfast.sent": reason.sent,
      ...(last === undefined ? {} : { "holdfast.last_error": typeOf(last) })
    },
    exit
  }
}

/** What an interruption is where it is an error: the reason everybody else is given. */
const errors: Readonly<Record<Interruption.Reason, string | undefined>> = {
  caller: undefined,
  hedgeLost: undefined,
  deadline: "DeadlineExceeded",
  attemptTimeout: "AttemptTimeout",
  shutdown: "Unavailable"
}

const ofInterrupt = (exit: Exit.Failure<unknown, unknown>): Ending => {
  const reason = Interruption.fromCause(exit.cause) ?? "caller"
  const error = errors[reason]
  const attributes = {
    ...answered(error ?? "Cancelled", error !== undefined).attributes,
    "holdfast.interrupted": reason
  }
  return { attributes, exit: error === undefined ? exit : Exit.fail(`interrupted: ${reason}`) }
}
