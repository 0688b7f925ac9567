/** A decision log in words: one line per attempt, in the order of time. Pure. */
import type { Attempt, Explanation, Failure, Rejection, Step } from "./explainSteps.ts"

/** What belongs to one attempt, as it is said: `attempt 1 -> 10.0.0.7:443 Unavailable in 210 ms, backoff 180 ms`. */
interface Line {
  readonly atMillis: number
  text: string
}

type Of<Tag extends Step["_tag"]> = Extract<Step, { readonly _tag: Tag }>

/** To the tenth where that says something: `0.4 ms`, `210 ms`, `1.2 s`, `2.5 min`. */
export const duration = (millis: number): string => {
  if (millis < 999.5) return `${millis < 9.95 ? tenth(millis) : Math.round(millis)} ms`
  return millis < 59_950 ? `${tenth(millis / 1000)} s` : `${tenth(millis / 60_000)} min`
}

const tenth = (value: number): number => Number(value.toFixed(1))
const figure = (value: number): number => Number(value.toFixed(2))

/** Of our addresses and of names made of them. */
const short = (name: string): string => name.replace("tcp://", "")

const failure = ({ detail, tag }: Failure): string => detail === undefined ? tag : `${tag} (${detail})`

const sayings: { readonly [Tag in Step["_tag"]]: (step: Of<Tag>, hedged: boolean) => string } = {
  Attempt: (step, hedged) => {
    const to = step.endpoint === undefined ? " ->" : ` -> ${short(step.endpoint)}`
    switch (step.result) {
      case "unknown":
        return step.endpoint === undefined ? "" : to
      case "inFlight":
        return `${to} still in flight`
      default:
        return `${to} ${ending(step)} ${duration(step.durationMillis ?? 0)}${
          hedged && step.result === "success" ? ", won" : ""
        }${step.unrepeatable ? ", must not be sent twice" : ""}`
    }
  },
  Backoff: ({ delayMillis, retryAfterMillis }) =>
    `, backoff ${duration(delayMillis)}${
      retryAfterMillis === undefined ? "" : ` (asked for ${duration(retryAfterMillis)})`
    }`,
  Hedge: () => "",
  Budget: ({ balance, change }) => {
    switch (change) {
      case "withdrawn":
        return `, budget ${figure(balance + 1)} -> ${figure(balance)}`
      case "refunded":
        return `, budget refunded to ${figure(balance)}`
      case "refused":
        return `, budget refused at ${figure(balance)}`
    }
  },
  Rejection: (step) => ` -> ${rejection(step)}`,
  Queue: ({ how, policy, waitedMillis }) =>
    `, ${how === "admitted" ? "queued" : `${how} after`} ${duration(waitedMillis)} in ${short(policy)}`,
  Repick: () => ", picked again",
  Substitute: ({ ageMillis, how, policy }) =>
    ` -> ${policy} ${how}${ageMillis === undefined ? "" : ` ${duration(ageMillis)} old`}`,
  Transition: ({ from, policy, to, why }) => `, ${short(policy)} ${from} -> ${to}: ${why}`,
  Limit: ({ from, policy, to, why }) => `, ${short(policy)} limit ${figure(from)} -> ${figure(to)}: ${why}`,
  Warning: ({ policy, why }) => `, warning of ${short(policy)}: ${why}`,
  Ended: ({ error }) => error === undefined ? "" : ` -> ${failure(error)}`
}

const ending = ({ error, interrupted, result }: Attempt): string => {
  if (result === "success") return "success in"
  if (error !== undefined) return `${failure(error)} in`
  if (result === "failure") return "failed in"
  return interrupted === "hedgeLost" ? "lost after" : `interrupted (${interrupted}) after`
}

const stateWords: Readonly<Record<string, string>> = {
  HalfOpen: "half-open with its probes taken",
  Recovering: "recovering",
  ForcedOpen: "forced open"
}

const rejection = (step: Rejection): string => {
  const { error, forMillis, limit, policy, queued, ratio, retryAfterMillis, state, why } = step
  const name = short(policy)
  const next = (what: string) => retryAfterMillis === undefined ? "" : `, ${what} in ${duration(retryAfterMillis)}`
  switch (error.tag) {
    case "CircuitOpen": {
      const since = duration(forMillis ?? 0)
      const words = state === undefined || state === "Open"
        ? `open, opened ${since} ago`
        : `${stateWords[state]} for ${since}`
      return `${name} circuit ${words}: ${why}${next("next probe")}`
    }
    case "BulkheadFull":
      return `${name} bulkhead full, ${limit} in flight and ${queued} queued`
    case "LimitReached":
      return `${name} limit of ${limit} reached${next("next permit")}`
    case "Throttled":
      return `${name} throttled, ${tenth((ratio ?? 0) * 100)} % of attempts are rejected`
    default:
      return error.message ?? failure(error)
  }
}

const say = (step: Step, hedged: boolean): string =>
  (sayings[step._tag] as (step: Step, hedged: boolean) => string)(step, hedged)

/** What the head of a log already says, or the attempt before it. */
const isSaid = (log: Explanation, step: Step, last: Step | undefined): boolean =>
  step._tag === "Ended" && (
    (log.calls.length === 1 && log.error?.tag === step.error?.tag) ||
    (last?._tag === "Attempt" || last?._tag === "Rejection") && last.error?.tag === step.error?.tag
  )

const linesOf = (log: Explanation): ReadonlyArray<Line> => {
  const lines: Array<Line> = []
  const byAttempt = new Map<string, Line>()
  const hedged = new Set(log.steps.flatMap((step) => step._tag === "Hedge" ? [step.call] : []))
  let latest: Line | undefined
  let before: Step | undefined
  for (const step of log.steps) {
    const key = `${step.call}/${step.attempt}`
    // What is outside of the calls goes on where they ended.
    let line = step.call === 0 && log.calls.length > 0 ? latest : byAttempt.get(key)
    if (line === undefined) {
      const waited = step._tag === "Queue" ? step.waitedMillis : 0
      line = { atMillis: step.atMillis - waited, text: head(log, step) }
      lines.push(line)
      byAttempt.set(key, line)
    }
    if (!isSaid(log, step, before)) line.text += say(step, hedged.has(step.call))
    if (step._tag !== "Budget") before = step
    latest = line
  }
  return lines
}

const head = (log: Explanation, step: Step): string => {
  const call = log.calls.length > 1 && step.call > 0 ? `${log.calls[step.call - 1]} #${step.call}: ` : ""
  if (step._tag === "Substitute") return `${call}no attempt`
  return `${call}${step._tag === "Hedge" ? `hedge after ${duration(step.afterMillis)}: ` : ""}attempt ${step.attempt}`
}

/** `Users.Get: failed in 390 ms after 2 attempts, sent maybe, 9.6 s of 10 s left: …` */
const summary = (log: Explanation): string => {
  const { attempts, deadlineMillis, durationMillis, error, interrupted, leftMillis, name, result, traceId } = log
  const outcome = result === "failure" ? "failed" : result === "success" ? "success" : `interrupted (${interrupted})`
  return [
    `${name}: ${outcome} in ${duration(durationMillis)}`,
    ` after ${attempts} ${attempts === 1 ? "attempt" : "attempts"}`,
    error?.sent === undefined ? "" : `, sent ${error.sent}`,
    deadlineMillis === undefined ? "" : `, ${duration(leftMillis ?? 0)} of ${duration(deadlineMillis)} left`,
    traceId === undefined ? "" : `, trace ${traceId}`,
    error === undefined ? "" : `: ${error.message ?? failure(error)}`
  ].join("")
}

/** What was decided, in one line. */
export const line = (log: Explanation): string => linesOf(log).map(({ text }) => text).join("; ")

/** How it ended, and below that a line for each attempt with the time since the start. */
export const text = (log: Explanation): string => [summary(log), ...timed(log)].join("\n")

/** The same under an error that says itself how it ended. */
export const until = (log: Explanation): string => {
  const [first = log.name, ...others] = log.calls
  return [`until then, ${others.length === 0 ? first : `${log.calls.length} calls`}:`, ...timed(log)].join("\n")
}

const timed = (log: Explanation): ReadonlyArray<string> => {
  const lines = linesOf(log).map(({ atMillis, text }) => `${duration(atMillis).padStart(9)}  ${text}`)
  return log.omitted === 0 ? lines : [`${" ".repeat(9)}  ${log.omitted} earlier steps are left out`, ...lines]
}
