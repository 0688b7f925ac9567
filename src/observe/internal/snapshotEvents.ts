/**
 * What is told of a `CallEvent` as it happens: one line for a person, without
 * payloads. What the figures show already, the start of everything and what went
 * well, is not told.
 */
import * as Cause from "effect/Cause"
import * as Exit from "effect/Exit"
import * as CallError from "../../contract/CallError.ts"
import type { CallEvent } from "../../contract/CallEvent.ts"
import * as Outcome from "../../contract/Outcome.ts"
import type { Verdict } from "./snapshotSeries.ts"

/** What an event means to whoever looks: `plain` is neither. */
export type Tone = "good" | "fair" | "bad" | "plain"

export interface Line {
  /** Who it is about: a policy, an endpoint, a method. */
  readonly about: string
  readonly text: string
  readonly tone: Tone
}

type Cases = {
  readonly [Tag in CallEvent["_tag"]]: (event: Extract<CallEvent, { readonly _tag: Tag }>) => Line | undefined
}

const line = (tone: Tone, about: string, text: string): Line => ({ about, text, tone })
const because = (why: string): string => why === "" ? "" : `: ${why}`
const untold = () => undefined

/** An event added to the union does not compile until it is here. */
const cases: Cases = {
  CallStarted: untold,
  AttemptStarted: untold,
  AttemptEnded: ({ endpoint, error, outcome }) =>
    outcome.endpoint === "failure"
      ? line("fair", endpoint ?? "attempt", `attempt failed: ${reasonOf(error)}`)
      : undefined,
  CallEnded: ({ call, error, outcome }) =>
    verdictOf(outcome, error) === "failed" ? line("bad", call.name, `call failed: ${reasonOf(error)}`) : undefined,
  RetryScheduled: ({ call, error }) => line("plain", call.name, `retry after ${reasonOf(error)}`),
  HedgeStarted: ({ call }) => line("plain", call.name, "hedge started"),
  Rejected: ({ policy, reason }) => line("fair", policy, `rejected: ${reason}`),
  // What waited shows in how long the call took.
  QueueLeft: untold,
  Repicked: ({ endpoint, error }) => line("plain", endpoint, `another is picked: ${reasonOf(error)}`),
  Transition: ({ from, policy, to, why }) => line(toneOf(to), policy, `${from} → ${to}${because(why)}`),
  LimitMoved: ({ from, policy, to, why }) =>
    line(to < from ? "fair" : "plain", policy, `limit ${round(from)} → ${round(to)}${because(why)}`),
  // What is granted is a retry, and told as one.
  BudgetMoved: ({ change, policy }) => change === "refused" ? line("bad", policy, "retry budget spent") : undefined,
  Substituted: ({ call, how, policy }) => line("plain", policy, `${call.name} answered by ${how}`),
  Reloaded: ({ accepted, policy, why }) =>
    line(accepted ? "plain" : "bad", policy, `${accepted ? "reloaded" : "reload refused"}${because(why)}`),
  Warning: ({ policy, why }) => line("fair", policy, why),
  EndpointChanged: ({ change, endpoint, target, why }) =>
    line(
      change === "ejected" ? "bad" : change === "readmitted" ? "good" : "plain",
      `${target}@${endpoint}`,
      `${change}${because(why)}`
    ),
  SessionChanged: ({ change, peer, side, why }) => line("plain", peer, `${side} session ${change}${because(why)}`),
  RequestRefused: ({ method, peer, why }) => line("fair", method ?? peer, `request refused: ${why}`)
}

const rare: ReadonlySet<string> = new Set<CallEvent["_tag"]>(["Transition", "EndpointChanged", "Reloaded", "Warning"])

/** Whether an event comes seldom and says what changed: worth its memory while nobody looks. */
export const isKept = (event: CallEvent): boolean => rare.has(event._tag)

/** The line of an event; `undefined` where it is not told. */
export const of = (event: CallEvent): Line | undefined =>
  (cases[event._tag] as (event: CallEvent) => Line | undefined)(event)

/** What a state of a circuit or a switch means. */
export const toneOf = (state: string): Tone =>
  state === "Closed" ? "good" : state === "Open" || state === "ForcedOpen" ? "bad" : "fair"

const round = (limit: number): number => Math.round(limit * 10) / 10

/** Longest reason: a code comes from another service. */
const maxLength = 80

/** Why something failed, in few words of which there are few: tags and codes, never a message. */
export const reasonOf = (error: unknown): string => {
  if (!CallError.isCallError(error)) return tagOf(error).slice(0, maxLength)
  const { reason } = error
  const last = "last" in reason && reason.last !== undefined ? ` (${nameOf(reason.last)})` : ""
  return `${nameOf(error)}${last}`.slice(0, maxLength)
}

const nameOf = (error: unknown): string =>
  CallError.isCallError(error)
    ? error.reason._tag === "Remote" ? `Remote ${error.reason.code}` : error.reason._tag
    : tagOf(error)

const tagOf = (error: unknown): string =>
  typeof error === "object" && error !== null && "_tag" in error && typeof error._tag === "string"
    ? error._tag
    : error instanceof Error
    ? error.name
    : "error"

/**
 * What became of a call. An answer with one of the contract's errors is an
 * answer; a rejection, a deadline of ours and a server that wants other credentials
 * say nothing against an endpoint, but the call failed; one that its caller
 * interrupted did neither.
 */
export const verdictOf = (outcome: Outcome.Outcome, error: unknown): Verdict =>
  CallError.isCallError(error) ? "failed" : verdicts[outcome.endpoint]

const verdicts = { success: "answered", failure: "failed", ignored: "ignored" } as const

/**
 * What became of a handler. An error of the contract is an answer, and so is a
 * refusal of what the caller asked for; a refusal because the server cannot, and a
 * defect, are failures.
 */
export const ofHandler = (
  exit: Exit.Exit<unknown, unknown>
): { readonly verdict: Verdict; readonly reason?: string } => {
  if (Exit.isSuccess(exit) || exit.cause.reasons.some(Cause.isFailReason)) return { verdict: "answered" }
  const died = exit.cause.reasons.find(Cause.isDieReason)
  if (died === undefined) return { verdict: "ignored" }
  const { defect } = died
  if (!(defect instanceof CallError.Refused)) return { verdict: "failed", reason: "Defect" }
  const { reason } = defect
  return Outcome.classify(reason).endpoint === "failure"
    ? { verdict: "failed", reason: reason._tag }
    : { verdict: "answered" }
}
