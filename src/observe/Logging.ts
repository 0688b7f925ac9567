/**
 * What a human must hear of, as lines of Effect's Logger: circuits that move,
 * endpoints that go, rejections and sheds, reloads, warnings, connections.
 *
 * Not every call: calls and attempts are metrics and traces. A line has a level,
 * a sentence and annotations (`holdfast.event`, `holdfast.policy`, …); never a
 * payload, a header or the text of somebody's error, of which it names the
 * reason only.
 *
 * Lines of one event and one policy are limited, and the next that is written
 * says how many were suppressed (`holdfast.suppressed`); what is left is said
 * when the scope closes. Nothing is queued: a line is written within the event,
 * in the context of the fiber that the event happened in, so that it carries
 * that fiber's span and annotations. State is the receiver's own.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as LogLevel from "effect/LogLevel"
import type * as Scope from "effect/Scope"
import type * as CallEvent from "../contract/CallEvent.ts"
import * as Options from "../contract/Options.ts"
import { Limit } from "./internal/logLimit.ts"
import * as MetricPolicies from "./internal/metricPolicies.ts"

export interface LoggingOptions {
  /** Lines of one event and one policy per window: an integer `>= 1`. Default 5. */
  readonly burst?: number | undefined
  /** The window: positive and finite. Default 10 seconds. */
  readonly window?: Duration.Input | undefined
  /**
   * Of what comes with every call in an outage (rejections, substitutes, refused
   * retries, refused requests) one in so many is looked at: an integer `>= 1`.
   * Default 1: all of them, within the limit above.
   */
  readonly sample?: number | undefined
}

/** One line, before it is limited. */
interface Line {
  readonly level: LogLevel.Severity
  /** What it is limited by, besides the event: a policy, a target. */
  readonly about: string
  readonly message: string
  readonly details: Readonly<Record<string, string | number>>
  /** Whether it comes with every call in an outage. */
  readonly sampled?: boolean
}

/** A name as a peer sent it: short, and one line. */
const printable = (name: string): string => /^[\w.\-/]{1,200}$/.test(name) ? name : JSON.stringify(name.slice(0, 200))

const ofPolicy = (policy: string, level: LogLevel.Severity, message: string, details: Line["details"] = {}): Line => ({
  level,
  about: MetricPolicies.withoutKey(policy),
  message: `${policy} ${message}`,
  details: { "holdfast.policy": policy, ...details }
})

const opens = new Set(["Open", "ForcedOpen"])

/** What is said about each event; `undefined` for what is no line. A new event does not compile without a row. */
const lines: {
  readonly [Tag in CallEvent.CallEvent["_tag"]]:
    | ((event: Extract<CallEvent.CallEvent, { readonly _tag: Tag }>) => Line | undefined)
    | undefined
} = {
  CallStarted: undefined,
  AttemptStarted: undefined,
  AttemptEnded: undefined,
  RetryScheduled: undefined,
  HedgeStarted: undefined,
  QueueLeft: undefined,
  Repicked: undefined,
  CallEnded: undefined,
  Rejected: ({ call, policy, reason }) => ({
    ...ofPolicy(policy, "Warn", `rejected ${printable(call.name)}: ${reason}`, {
      "holdfast.reason": reason,
      "rpc.method": printable(call.name)
    }),
    sampled: true
  }),
  Transition: ({ from, policy, to, why }) =>
    ofPolicy(policy, opens.has(to) ? "Warn" : "Info", `went from ${from} to ${to}: ${why}`, {
      "holdfast.from": from,
      "holdfast.to": to,
      "holdfast.why": why
    }),
  LimitMoved: ({ from, policy, to, why }) =>
    ofPolicy(policy, "Debug", `moved its limit from ${from} to ${to}: ${why}`, {
      "holdfast.from": from,
      "holdfast.to": to,
      "holdfast.why": why
    }),
  BudgetMoved: ({ balance, change, policy }) =>
    change === "refused"
      ? {
        ...ofPolicy(policy, "Warn", "refused a retry: it is empty", {
          "holdfast.balance": Math.floor(balance * 100) / 100
        }),
        sampled: true
      }
      : undefined,
  Substituted: ({ call, how, policy }) =>
    how === "fresh" ? undefined : {
      ...ofPolicy(policy, "Info", `answered ${printable(call.name)} in place of the dependency (${how})`, {
        "holdfast.how": how,
        "rpc.method": printable(call.name)
      }),
      sampled: true
    },
  Reloaded: ({ accepted, policy, why }) =>
    ofPolicy(policy, accepted ? "Info" : "Error", `${accepted ? "took" : "refused"} a new spec: ${why}`, {
      "holdfast.why": why
    }),
  Warning: ({ policy, why }) => ofPolicy(policy, "Warn", why),
  EndpointChanged: ({ change, endpoint, target, why }) => ({
    level: change === "ejected" ? "Warn" : "Info",
    about: target,
    message: `${endpoint} of ${target} was ${change}: ${why}`,
    details: { "holdfast.target": target, "holdfast.endpoint": endpoint, "holdfast.why": why }
  }),
  SessionChanged: ({ change, peer, side, stats, why }) => {
    // Sheds are counted, not told one by one: a server in trouble has other work.
    const shed = change === "closed" ? stats().refused : 0
    return {
      level: shed > 0 ? "Warn" : "Debug",
      // Not to be suppressed with those that say nothing.
      about: shed > 0 ? `${side} shed` : side,
      message: `${side} session with ${peer} ${change}: ${why}${
        shed > 0 ? `, after ${shed} of its requests were shed` : ""
      }`,
      details: {
        "holdfast.side": side,
        "holdfast.peer": peer,
        "holdfast.why": why,
        ...(shed > 0 && { "holdfast.shed": shed })
      }
    }
  },
  // The server writes a line of its own, with the reason's text. This one is for counting lines by their reason.
  RequestRefused: ({ method, peer, reason }) => ({
    level: "Debug",
    about: reason,
    message: `refused a request of ${peer}: ${reason}`,
    details: {
      "holdfast.reason": reason,
      "holdfast.peer": peer,
      ...(method !== undefined && { "rpc.method": printable(method) })
    },
    sampled: true
  })
}

/**
 * Writes lines, for `Observe.layer`.
 *
 * Dies with a `RangeError` when an option is out of range.
 */
export const make = (options: LoggingOptions = {}): Effect.Effect<CallEvent.Receiver, never, Scope.Scope> =>
  Effect.contextWith((own) => {
    const where = "Logging.make"
    const limit = new Limit({
      burst: Options.integer(where, "burst", options.burst ?? 5, 1),
      windowMillis: Options.millis(where, "window", options.window ?? "10 seconds"),
      sample: Options.integer(where, "sample", options.sample ?? 1, 1)
    })
    const event = (event: CallEvent.CallEvent): void => {
      const line = lines[event._tag]?.(event as never)
      if (line === undefined) return
      const suppressed = limit.admit(`${event._tag} ${line.about}`, line.sampled === true, event.atMillis)
      if (suppressed === undefined) return
      // What happens outside any fiber, at a socket, is said in the context that this was made in.
      Effect.runSyncExitWith(Fiber.getCurrent()?.context ?? own)(write(event._tag, line, suppressed))
    }
    const rest = Effect.suspend(() =>
      Effect.forEach(
        limit.rest(),
        ([sort, suppressed]) =>
          Effect.annotateLogs(Effect.logInfo(`${suppressed} lines suppressed: ${sort}`), {
            "holdfast.suppressed": suppressed
          }),
        { discard: true }
      )
    )
    return Effect.as(Effect.addFinalizer(() => rest), { event })
  })

const write = (event: string, { details, level, message }: Line, suppressed: number): Effect.Effect<void> =>
  Effect.annotateLogs(Effect.logWithLevel(level)(message), {
    "holdfast.event": event,
    ...details,
    ...(suppressed > 0 && { "holdfast.suppressed": suppressed })
  })
