/** A script under way around a transport, and what both sides of it need. */
import * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import { uncapitalize } from "effect/String"
import * as Timer from "../../contract/Timer.ts"
import * as BodyCodec from "../../wire/BodyCodec.ts"
import * as Frame from "../../wire/Frame.ts"
import type * as FaultScript from "../FaultScript.ts"
import type { Transit } from "./chaosLane.ts"

export interface Running {
  readonly script: FaultScript.Script
  readonly source: Timer.Source
  /** The script's time zero, in monotonic milliseconds. */
  readonly beganAt: number
  readonly key: ((request: Frame.Request) => string | undefined) | undefined
  /** Of the whole: what outlives a session ends with it. */
  readonly scope: Scope.Scope
  readonly fork: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
  /** Opened so far: the next one's number. */
  sessions: number
}

/** Milliseconds since the script began. */
export const elapsed = ({ beganAt, source }: Running): number => Timer.nowOf(source.clock) - beganAt

/** Runs something at a time of the script. */
export const schedule = ({ beganAt, source }: Running, atMillis: number, run: () => void): Timer.Timer =>
  Timer.scheduleOn(source, beganAt + atMillis, run)

/** The error that a request is answered with, if it is drawn. */
export const errorOf = (
  phases: ReadonlyArray<FaultScript.Phase>,
  draw: () => number
): FaultScript.Of<"error"> | undefined => {
  for (const { fault } of phases) {
    if (fault.kind === "error" && (fault.ratio === undefined || draw() < fault.ratio)) return fault
  }
  return undefined
}

/** The answer that an injected error is. */
export const answerOf = (
  { code = "CHAOS-E-1", processed = false, reason, retryAfter }: FaultScript.Of<"error">
): Frame.Response => ({
  status: Frame.Status[uncapitalize(reason)],
  codec: BodyCodec.json.id,
  body: new TextEncoder().encode(JSON.stringify(
    reason === "Remote"
      ? { code, message: "injected", retry: "ifIdempotent" }
      : { message: "injected" }
  )),
  processed,
  retryAfterMillis: retryAfter === undefined ? undefined : Duration.toMillis(retryAfter),
  headers: {}
})

/** When all of a message has arrived. */
export const arrival = ({ pieces }: Transit): number => pieces.at(-1)?.atMillis ?? 0
