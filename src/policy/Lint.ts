/**
 * Finds in a spec what cannot work, before it ships.
 *
 * Each finding carries the arithmetic that found it. An `error` is a spec that
 * contradicts itself: something in it can never happen. A `warning` works and is
 * rarely meant. The linter calculates with what the spec states and with the
 * defaults of the policies; the rules about load need `traffic`.
 *
 * It knows upper bounds, not distributions: the worst case of a jittered delay
 * is the delay without jitter. What a policy does to a system is the
 * simulator's question.
 *
 * A Schedule by name is stepped: with the lowest and with the highest draws, for
 * as many delays as attempts could need.
 *
 * Not among the rules, because a spec cannot say it: a breaker inside a retry
 * whose rejections are retried (L6; here they end the loop), an unlimited wait
 * or half-open (every one has a bound), an ejection that is a host or none (L12,
 * the balancer's), work that cannot be interrupted under a timeout (L15).
 *
 * Source: the numbers behind the rules are cited where they stand.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Pull from "effect/Pull"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as CallError from "../contract/CallError.ts"
import * as Backoff from "./internal/backoff.ts"
import type { Read } from "./internal/document.ts"

export interface Finding {
  /** `"L1"` to `"L14"`, `"L16"` of fallbacks and `"L17"` of caches, or `"make"` for what a policy's constructor refuses. */
  readonly rule: string
  readonly severity: "error" | "warning"
  /** The field it is about, with dots. */
  readonly path: string
  /** What is wrong, with the arithmetic. */
  readonly message: string
}

type Spec = Read
type Rule = (spec: Spec, steps: Steps | undefined) => ReadonlyArray<Finding>

const toMillis = (duration: Duration.Duration): number => Duration.toMillis(duration)

/** `1.5 s`, `250 ms`, `2 min`: as an author would write it. */
const show = (millis: number): string => {
  if (millis === Infinity) return "for ever"
  const [unit, size] = millis < 1000
    ? ["ms", 1]
    : millis < 120_000
    ? ["s", 1000]
    : millis < 7_200_000
    ? ["min", 60_000]
    : millis < 172_800_000
    ? ["h", 3_600_000]
    : ["days", 86_400_000]
  return `${Number((millis / (size as number)).toFixed(2))} ${unit}`
}

const figure = (value: number): string => String(Number(value.toFixed(2)))

const error = (rule: string, path: string, message: string): Finding => ({ rule, severity: "error", path, message })
const warning = (rule: string, path: string, message: string): Finding => ({ rule, severity: "warning", path, message })

/** What the policies do where the spec says nothing. */
const defaults = {
  attempts: 3,
  backoff: { base: 100, cap: 10_000 },
  budget: { ratio: 0.1, reserve: 0.05 },
  minimumCalls: 20,
  windowMillis: 60_000,
  probes: 5,
  leaseMillis: 10_000,
  refreshMillis: 10_000,
  negativeMillis: 5000
}

type RetrySpec = Exclude<NonNullable<Spec["retry"]>, false>
type BreakerSpec = Exclude<NonNullable<Spec["circuitBreaker"]>, false>

const retryOf = (spec: Spec): RetrySpec | undefined => (spec.retry === false ? undefined : spec.retry)
const breakerOf = (spec: Spec): BreakerSpec | undefined =>
  spec.circuitBreaker === false ? undefined : spec.circuitBreaker
const timeoutOf = (spec: Spec): number | undefined =>
  spec.timeout === undefined || spec.timeout === false ? undefined : toMillis(spec.timeout)
const deadlineOf = ({ deadline }: Spec): number | undefined => deadline === undefined ? undefined : toMillis(deadline)
const sendsOf = (spec: Spec): number => {
  const retry = retryOf(spec)
  if (retry !== undefined) return retry.attempts ?? defaults.attempts
  return spec.hedge === undefined ? 1 : 1 + (spec.hedge.hedges ?? 1)
}

// Schedules by name --------------------------------------------------------------------------------

/** The delays of a Schedule that is bound by name, at the least and at the most, until it ends: at most `stepped`. */
export interface Steps {
  readonly least: ReadonlyArray<number>
  readonly most: ReadonlyArray<number>
}

const stepped = 32

/** What a Schedule is stepped with: an error that says nothing about when to come back. */
const anError = new CallError.CallError({ _tag: "Unavailable", target: "lint", detail: "", sent: "no" })

const delaysOf = (schedule: Schedule.Schedule<unknown, any>, draw: number): Effect.Effect<ReadonlyArray<number>> =>
  Effect.gen(function*() {
    const next = yield* Schedule.toStep(schedule)
    const delays: Array<number> = []
    let now = 0
    while (delays.length < stepped) {
      const delay = yield* next(now, anError).pipe(
        Effect.map(([, delay]) => Duration.toMillis(delay)),
        Pull.catchDone(() => Effect.succeed(undefined))
      )
      if (delay === undefined) break
      delays.push(delay)
      now += delay
    }
    return delays
  }).pipe(
    Effect.provideService(Random.Random, { nextIntUnsafe: () => 0, nextDoubleUnsafe: () => draw })
  )

/**
 * Steps a Schedule against virtual time, once with the lowest draws and once with
 * the highest, for up to 32 delays. `undefined` where it dies on an error it does
 * not know.
 */
export const step = (schedule: Schedule.Schedule<unknown, any>): Effect.Effect<Steps | undefined> =>
  Effect.all({ least: delaysOf(schedule, 0), most: delaysOf(schedule, 1 - Number.EPSILON) }).pipe(
    Effect.catchCause(() => Effect.succeed(undefined))
  )

// Rules --------------------------------------------------------------------------------------------

type Described = Extract<NonNullable<RetrySpec["backoff"]>, { readonly kind: string }>

/** The name of a backoff that is bound by one. */
const scheduleOf = (stated: RetrySpec["backoff"]): string | undefined =>
  stated !== undefined && "schedule" in stated ? stated.schedule : undefined

/** Delays that are listed: after as many the last one goes on, and nobody waits for them all. */
const listed = 1000

/**
 * The longest `count` delays a backoff can make, as far as they are listed; fewer where it ends, `undefined` for a name
 * nobody stepped.
 */
const delays = (
  stated: RetrySpec["backoff"],
  count: number,
  steps: Steps | undefined
): ReadonlyArray<number> | undefined => {
  if (stated !== undefined && "schedule" in stated) return steps?.most.slice(0, Math.max(0, count))
  const { base, cap, factor, kind } = bounds(stated)
  return Array.from({ length: Math.max(0, Math.min(count, listed)) }, (_, attempt) =>
    // Both decorrelated forms stay below 4 · base · 2^n, and below their cap.
    kind === "decorrelated"
      ? Math.min(cap, 4 * base * 2 ** attempt)
      : Backoff.grow(kind, attempt, base, factor, cap))
}

const bounds = (stated: Described | undefined) => ({
  kind: stated?.kind ?? "decorrelated",
  base: stated === undefined ? defaults.backoff.base : toMillis(stated.base),
  cap: stated === undefined
    ? defaults.backoff.cap
    : stated.cap === undefined
    ? Backoff.longestMillis
    : toMillis(stated.cap),
  factor: stated?.factor ?? 2
})

/** How often a call is sent: what the retry allows, or as often as its Schedule goes on. */
const sendsWith = (allowed: number, waits: ReadonlyArray<number>): number =>
  waits.length < listed ? Math.min(allowed, waits.length + 1) : allowed

/** What so many attempts and the delays between them take. */
const totalOf = (sends: number, timeout: number, waits: ReadonlyArray<number>): number =>
  sends * timeout + sum(waits) + Math.max(0, sends - 1 - waits.length) * (waits.at(-1) ?? 0)

const sum = (values: ReadonlyArray<number>): number => values.reduce((total, value) => total + value, 0)

/** What a fallback keeps back of a deadline, as `Fallback` does. */
const reserveOf = ({ fallback }: Spec, deadline: number): number => {
  if (fallback === undefined) return 0
  const { reserve, use, when } = fallback
  if (Array.isArray(when) && !when.includes("DeadlineExceeded")) return 0
  const wanted = reserve === undefined ? (use === undefined ? 10 : Math.min(1000, deadline / 5)) : toMillis(reserve)
  return Math.min(deadline / 2, wanted)
}

/** What the attempts of a call that all time out may take, with the backoff between them; `undefined` without a timeout. */
const atMost = (spec: Spec, steps: Steps | undefined): number | undefined => {
  const timeout = timeoutOf(spec)
  const retry = retryOf(spec)
  if (timeout === undefined || retry === undefined || spec.idempotent === false) return timeout
  const waits = delays(retry.backoff, sendsOf(spec) - 1, steps)
  return waits === undefined ? undefined : totalOf(sendsWith(sendsOf(spec), waits), timeout, waits)
}

const worstCase: Rule = (spec, steps) => {
  const timeout = timeoutOf(spec)
  if (spec.deadline === undefined) return []
  const deadline = toMillis(spec.deadline)
  const findings: Array<Finding> = []
  if (timeout !== undefined && timeout > deadline) {
    findings.push(
      error(
        "L1",
        "timeout",
        `an attempt may take ${show(timeout)}, the whole call ${show(deadline)}: the timeout can never fire`
      )
    )
  }
  // A timeout is not retried where the call may have been sent: then there is no such sum.
  if (spec.idempotent === false) return findings
  const allowed = sendsOf(spec)
  const waits = delays(retryOf(spec)?.backoff, allowed - 1, steps)
  if (timeout === undefined || waits === undefined || retryOf(spec) === undefined) return findings
  // A Schedule that ends sooner is the rule's below.
  const sends = sendsWith(allowed, waits)
  const total = totalOf(sends, timeout, waits)
  if (sends < 2 || total <= deadline) return findings
  // Attempt n can run at all only if what comes before it leaves some time.
  let before = 0
  let last = 1
  for (const wait of waits) {
    before += timeout + wait
    if (before < deadline) last++
  }
  if (last === listed + 1) last += Math.ceil((deadline - before) / (timeout + waits.at(-1)!)) - 1
  const backoff = waits.length > 4 ? show(total - sends * timeout) : waits.map(show).join(" + ")
  const arithmetic = `${sends} attempts × ${show(timeout)} + ${backoff} backoff = ${show(total)} > deadline ${
    show(deadline)
  }`
  const why = last === sends
    ? "the last one is cut short"
    : `${counted(last + 1, sends)} can never run`
  findings.push(warning("L1", "retry.attempts", `${arithmetic}: when attempts time out, ${why}`))
  return findings
}

/** `attempt 4`, `attempts 4 to 6`. */
const counted = (from: number, to: number): string => from === to ? `attempt ${from}` : `attempts ${from} to ${to}`

const unbounded: Rule = (spec, steps) => {
  const retry = retryOf(spec)
  if (retry === undefined) return []
  const attempts = sendsOf(spec)
  const findings: Array<Finding> = []
  if (attempts > 10) {
    findings.push(
      warning(
        "L2",
        "retry.attempts",
        `${attempts} attempts: at a failure ratio of 0.5, 10 leave 1 call in 1,024 failed; more only add load to an outage`
      )
    )
  }
  const named = scheduleOf(retry.backoff)
  const ends = steps?.most.length ?? stepped
  if (named !== undefined && ends < stepped && ends + 1 < attempts) {
    const after = ends === 1 ? "1 delay" : `${ends} delays`
    findings.push(
      warning(
        "L2",
        "retry.backoff",
        `the Schedule "${named}" ends after ${after}: ${counted(ends + 2, attempts)} can never run`
      )
    )
  }
  return findings
}

const uncapped: Rule = (spec, steps) => {
  const retry = retryOf(spec)
  const stated = retry?.backoff
  if (stated === undefined) return []
  const longest = delays(stated, sendsOf(spec) - 1, steps) ?? []
  const most = Math.max(0, ...longest)
  const attempt = longest.indexOf(most) + 2
  if (most <= 60_000) return []
  const waits = `attempt ${attempt} waits ${most === Infinity ? "for ever" : `up to ${show(most)}`}`
  const named = scheduleOf(stated)
  if (named !== undefined) return [warning("L3", "retry.backoff", `in the Schedule "${named}" ${waits}`)]
  return "cap" in stated && stated.cap !== undefined
    ? []
    : [warning("L3", "retry.backoff.cap", `without a cap, ${waits}`)]
}

const herd: Rule = (spec, steps) => {
  const findings: Array<Finding> = []
  const stated = retryOf(spec)?.backoff
  const clients = spec.traffic?.callsPerSecond
  const many = clients === undefined
    ? "all calls that fail together"
    : `${figure(clients)} calls a second that fail together`
  const named = scheduleOf(stated)
  if (named !== undefined && steps !== undefined && sendsOf(spec) > 1) {
    const [first] = steps.least
    const spread = steps.least.filter((least, n) => least < steps.most[n]!).length
    if (first !== undefined && first === steps.most[0]) {
      const what = spread === 0
        ? `no jitter in the Schedule "${named}"`
        : `the Schedule "${named}" begins without jitter`
      findings.push(warning("L4", "retry.backoff", `${what}: ${many} come back together after ${show(first)}`))
    }
  } else if (stated !== undefined && "kind" in stated) {
    const { base, jitter, kind, ratio } = stated
    if (kind !== "decorrelated" && (jitter === "none" || (jitter === "proportional" && ratio === 0))) {
      findings.push(
        warning("L4", "retry.backoff.jitter", `no jitter: ${many} come back together after ${show(toMillis(base))}`)
      )
    }
  }
  if (breakerOf(spec)?.jitter === 0) {
    findings.push(
      warning("L4", "circuitBreaker.jitter", "no jitter: all clients whose circuits opened together probe together")
    )
  }
  return findings
}

const nested: Rule = (spec) => {
  const retry = retryOf(spec)
  const sends = sendsOf(spec)
  return retry?.allowNested === undefined || sends < 2 ? [] : [
    warning(
      "L5",
      "retry.allowNested",
      `inside a retry of as many, ${sends} × ${sends} = ${sends * sends} sends for one call`
    )
  ]
}

const unseen: Rule = (spec) =>
  breakerOf(spec) === undefined || timeoutOf(spec) !== undefined ? [] : [
    warning(
      "L7",
      "timeout",
      "the circuit breaker sees an attempt when it ends, and without a timeout a hung one never does"
    )
  ]

const hedging: Rule = (spec) => {
  const { hedge } = spec
  if (hedge === undefined) return []
  const findings: Array<Finding> = []
  if (spec.idempotent === undefined || spec.idempotent === false) {
    findings.push(
      error("L8", "hedge", "a hedge sends a call twice, and this spec does not say that its calls are idempotent")
    )
  }
  const [timeout, deadline] = [timeoutOf(spec) ?? Infinity, deadlineOf(spec) ?? Infinity]
  const ends = Math.min(timeout, deadline)
  const delay = hedge.delay === undefined ? undefined : toMillis(hedge.delay)
  const soonest = delay ?? (hedge.minimum === undefined ? 0 : toMillis(hedge.minimum))
  if (soonest >= ends) {
    findings.push(
      error(
        "L8",
        delay === undefined ? "hedge.minimum" : "hedge.delay",
        `a hedge after ${show(soonest)}, but its ${timeout <= deadline ? "attempt" : "call"} ends after ${
          show(ends)
        }: no hedge can start`
      )
    )
  }
  const retry = retryOf(spec)
  if (retry !== undefined && sendsOf(spec) < 2) {
    findings.push(error("L8", "hedge", "hedges are sends too, and attempts: 1 leaves none for them"))
  }
  const p50 = spec.traffic?.p50
  if (p50 !== undefined && delay !== undefined && delay < toMillis(p50)) {
    findings.push(
      warning(
        "L8",
        "hedge.delay",
        `${show(delay)} is less than the median of ${
          show(toMillis(p50))
        }: more than half of all calls are sent twice, as far as the budget allows`
      )
    )
  }
  return findings
}

const neverOpens: Rule = (spec) => {
  const breaker = breakerOf(spec)
  const rate = spec.traffic?.callsPerSecond
  if (breaker === undefined || breaker.consecutiveFailures !== undefined) return []
  const { failureRatio = Infinity, slowCallRatio = Infinity, window } = breaker
  const ratio = Math.min(failureRatio, slowCallRatio)
  if (ratio === Infinity || rate === undefined) return []
  const byTime = window !== undefined && "duration" in window
  const millis = spanOf(window)
  if (millis === undefined) return []
  const minimum = breaker.minimumCalls ??
    (window !== undefined && "calls" in window ? window.calls : defaults.minimumCalls)
  // A window by calls forgets what failed or was slow, and what came before: calls that did neither need no traffic now.
  const needed = byTime ? minimum : Math.ceil(ratio * minimum - 1e-9)
  const endpoints = spec.traffic?.endpoints ?? 1
  if (rate * millis / 1000 / endpoints >= needed) return []
  const calls = byTime ? `${minimum}` : `${figure(ratio)} × ${minimum} = ${needed}`
  const per = endpoints === 1 ? "" : ` at each of ${endpoints} endpoints`
  return [
    error(
      "L9",
      "circuitBreaker.minimumCalls",
      `${calls} calls in ${show(millis)} need ${figure(needed * 1000 / millis)} calls/s${per}; declared are ${
        figure(rate / endpoints)
      }: the circuit can never open`
    )
  ]
}

/** How long a breaker's window remembers a failure; `undefined` for as long as there is room. */
const spanOf = (window: BreakerSpec["window"]): number | undefined => {
  if (window === undefined) return defaults.windowMillis
  const span = "duration" in window ? window.duration : window.maxAge
  return span === undefined ? undefined : toMillis(span)
}

const neverSlow: Rule = (spec) => {
  const breaker = breakerOf(spec)
  const timeout = timeoutOf(spec)
  if (breaker?.slowCallRatio === undefined || breaker.slowThreshold === undefined || timeout === undefined) return []
  const slow = toMillis(breaker.slowThreshold)
  if (slow < timeout) return []
  const what = `a call is slow after ${show(slow)}, but its attempt ends after ${show(timeout)}: `
  const path = "circuitBreaker.slowThreshold"
  return (breaker.consecutiveFailures ?? breaker.failureRatio) === undefined
    ? [error("L9", path, `${what}the circuit can never open`)]
    : [warning("L9", path, `${what}none ever is`)]
}

const littlesLaw: Rule = (spec) => {
  const { bulkhead, traffic } = spec
  const { callsPerSecond, endpoints = 1, p99 } = traffic ?? {}
  if (bulkhead === undefined || callsPerSecond === undefined || p99 === undefined) return []
  const seconds = toMillis(p99) / 1000
  const needed = callsPerSecond / endpoints * seconds
  return needed <= bulkhead.limit ? [] : [
    warning(
      "L10",
      "bulkhead.limit",
      `${figure(callsPerSecond / endpoints)} calls/s × p99 ${show(seconds * 1000)} = ${
        figure(needed)
      } in flight > limit ${bulkhead.limit} (Little's law)`
    )
  ]
}

const waits: Rule = (spec) => {
  const findings: Array<Finding> = []
  const deadline = spec.deadline === undefined ? Infinity : toMillis(spec.deadline)
  for (const slot of ["rateLimiter", "bulkhead", "adaptiveLimiter"] as const) {
    const maxWait = spec[slot]?.maxWait
    if (maxWait !== undefined && toMillis(maxWait) > deadline) {
      findings.push(
        warning(
          "L11",
          `${slot}.maxWait`,
          `a wait of up to ${show(toMillis(maxWait))} inside a deadline of ${show(deadline)}: the deadline is the limit`
        )
      )
    }
  }
  const { rateLimiter, traffic } = spec
  if (rateLimiter !== undefined && traffic?.callsPerSecond !== undefined) {
    const window = rateLimiter.window === undefined ? 1000 : toMillis(rateLimiter.window)
    const admitted = rateLimiter.limit * 1000 / window
    if (admitted < traffic.callsPerSecond) {
      findings.push(
        warning(
          "L11",
          "rateLimiter.limit",
          `${figure(admitted)} attempts/s for ${figure(traffic.callsPerSecond)} calls/s: at least ${
            figure((1 - admitted / traffic.callsPerSecond) * 100)
          } % are rejected`
        )
      )
    }
  }
  return findings
}

const halfOpen: Rule = (spec) => {
  const breaker = breakerOf(spec)
  if (breaker === undefined) return []
  const findings: Array<Finding> = []
  const { concurrency, lease, maxWait, probes = defaults.probes } = breaker.halfOpen ?? {}
  const together = concurrency ?? probes
  const { limit = Infinity, maxQueue = 0 } = spec.bulkhead ?? {}
  if (together > limit + maxQueue) {
    const queued = maxQueue === 0 ? "" : ` and queues ${maxQueue}`
    findings.push(
      warning(
        "L13",
        "circuitBreaker.halfOpen",
        `${together} probes at once, but the bulkhead inside admits ${limit}${queued}: the others are rejected`
      )
    )
  }
  const timeout = timeoutOf(spec)
  const slow = breaker.slowThreshold === undefined ? 0 : toMillis(breaker.slowThreshold)
  const leased = lease === undefined ? Math.max(defaults.leaseMillis, 2 * slow) : toMillis(lease)
  if (timeout !== undefined && leased < timeout) {
    findings.push(
      warning(
        "L13",
        "circuitBreaker.halfOpen.lease",
        `a probe counts as failed after ${show(leased)}, but its attempt may take ${show(timeout)}`
      )
    )
  }
  if (timeout !== undefined && maxWait !== undefined && toMillis(maxWait) < timeout) {
    findings.push(
      warning(
        "L13",
        "circuitBreaker.halfOpen.maxWait",
        `what has not ended counts as failed after ${show(toMillis(maxWait))}, but an attempt may take ${show(timeout)}`
      )
    )
  }
  return findings
}

const amplification: Rule = (spec) => {
  const retry = retryOf(spec)
  const sends = sendsOf(spec)
  if (sends < 2) return []
  const hops = spec.traffic?.hops ?? 1
  const over = (each: number) => (hops === 1 ? figure(each) : `${figure(each)}^${hops} hops = ${figure(each ** hops)}`)
  if (retry?.budget === false) {
    return [
      warning(
        "L14",
        "retry.budget",
        `no budget: when everything fails, load grows to ${over(sends)} times the calls (Google SRE holds it at 1.1)`
      )
    ]
  }
  const { ratio = defaults.budget.ratio, reserve = defaults.budget.reserve } = retry?.budget ?? {}
  const each = 1 + ratio + reserve
  return each ** hops <= 1.5 ? [] : [
    warning(
      "L14",
      "retry.budget",
      `the budget allows 1 + ${figure(ratio)} + ${figure(reserve)} = ${over(each)} times the calls when much fails`
    )
  ]
}

/** What makes each of our own reasons. */
const makers: { readonly [Tag in CallError.Reason["_tag"]]?: ReadonlyArray<keyof Spec> } = {
  CircuitOpen: ["circuitBreaker"],
  BulkheadFull: ["bulkhead"],
  Throttled: ["adaptiveThrottle"],
  LimitReached: ["rateLimiter", "adaptiveLimiter"],
  RetriesExhausted: ["retry"],
  BudgetExhausted: ["retry"],
  AttemptTimeout: ["timeout"]
}

/** What a retry loop reacts to, so that it ends a call with its own reason. */
const retried: ReadonlyArray<CallError.Reason["_tag"]> = [
  "ConnectFailed",
  "ConnectionLost",
  "AttemptTimeout",
  "Unavailable",
  "Overloaded",
  "RateLimited",
  "Remote"
]

const fallbackReasons: Rule = (spec) => {
  const when = spec.fallback?.when
  if (when === undefined || typeof when === "string") return []
  if (when.length === 0) return [error("L16", "fallback.when", "for none of all errors: it can never answer")]
  const has = (slot: keyof Spec) => spec[slot] !== undefined && spec[slot] !== false
  const findings = when.flatMap((tag) => {
    const slots = makers[tag]
    return slots === undefined || slots.some(has) ? [] : [
      warning("L16", "fallback.when", `no ${slots.join(" or ")} here ends a call with ${tag}`)
    ]
  })
  const replaced = when.filter((tag) => retried.includes(tag))
  const loops = retryOf(spec) !== undefined && sendsOf(spec) > 1
  const idempotent = spec.idempotent !== undefined && spec.idempotent !== false
  if (replaced.length > 0 && loops && idempotent && !when.includes("RetriesExhausted")) {
    const last = replaced.join(", ")
    findings.push(
      warning(
        "L16",
        "fallback.when",
        `after ${
          sendsOf(spec)
        } attempts that ended with ${last} the call ends with RetriesExhausted, which carries it and is not listed`
      )
    )
  }
  return findings
}

const fallbackTime: Rule = (spec, steps) => {
  const { deadline: stated, fallback } = spec
  if (fallback === undefined || stated === undefined) return []
  const deadline = toMillis(stated)
  const { reserve, use } = fallback
  const findings: Array<Finding> = []
  if (reserve !== undefined && toMillis(reserve) > deadline / 2) {
    findings.push(
      warning(
        "L16",
        "fallback.reserve",
        `${show(toMillis(reserve))} of a deadline of ${show(deadline)}: at most half of it, ${
          show(deadline / 2)
        }, is kept`
      )
    )
  }
  const kept = reserveOf(spec, deadline)
  const timeout = timeoutOf(spec)
  const left = deadline - kept
  if (timeout !== undefined && timeout <= deadline && timeout > left) {
    findings.push(
      warning(
        "L16",
        "timeout",
        `deadline ${show(deadline)} - ${show(kept)} kept for the fallback = ${show(left)} < timeout ${
          show(timeout)
        }: the timeout can never fire, and the circuit breaker never sees one`
      )
    )
  }
  const needed = atMost(spec, steps)
  if (use !== undefined && kept === 0 && (needed === undefined || needed >= deadline)) {
    const why = needed === undefined ? "an attempt has no timeout" : `what comes before it may take ${show(needed)}`
    findings.push(
      warning(
        "L16",
        reserve === undefined ? "fallback.when" : "fallback.reserve",
        `"${use}" is a call, and of the deadline of ${show(deadline)} nothing is kept for it: ${why}`
      )
    )
  }
  return findings
}

const caching: Rule = (spec, steps) => {
  const { cache, fallback, idempotent, traffic } = spec
  if (cache === undefined) return []
  const findings: Array<Finding> = []
  if (idempotent === false) {
    findings.push(
      error("L17", "cache", "a call that must not be sent twice is not sent at all where another's answer is kept")
    )
  }
  const [ttl, revalidate, onError] = [cache.ttl, cache.staleWhileRevalidate, cache.staleIfError].map((duration) =>
    duration === undefined ? 0 : toMillis(duration)
  ) as [number, number, number]
  if (cache.jitter === 0 && ttl > 0) {
    findings.push(
      warning("L4", "cache.jitter", `no jitter: answers that were fetched together expire together, after ${show(ttl)}`)
    )
  }
  if (onError > 0 && onError <= revalidate) {
    findings.push(
      warning(
        "L17",
        "cache.staleIfError",
        `both begin when the ttl is over, and for ${show(revalidate)} a stale answer is served anyway: ${
          show(onError)
        } add nothing`
      )
    )
  }
  const latency = traffic?.p99 === undefined ? undefined : toMillis(traffic.p99)
  if (latency !== undefined && revalidate > 0 && revalidate < latency) {
    findings.push(
      warning(
        "L17",
        "cache.staleWhileRevalidate",
        `fetching takes up to ${show(latency)} (p99), and what is stale is served for ${show(revalidate)}: callers wait`
      )
    )
  }
  const refresh = cache.refreshTimeout === undefined ? defaults.refreshMillis : toMillis(cache.refreshTimeout)
  const needed = atMost(spec, steps)
  if (revalidate > 0 && needed !== undefined && needed > refresh) {
    findings.push(
      warning(
        "L17",
        "cache.refreshTimeout",
        `fetching behind a stale answer ends after ${show(refresh)}, and attempts and backoff may take ${show(needed)}`
      )
    )
  }
  if (cache.negative !== undefined) {
    const negative = cache.negative.ttl === undefined ? defaults.negativeMillis : toMillis(cache.negative.ttl)
    if (negative > ttl) {
      findings.push(
        warning("L17", "cache.negative.ttl", `an error is kept for ${show(negative)}, an answer for ${show(ttl)}`)
      )
    }
  }
  const stale = Math.max(revalidate, onError)
  if (fallback?.stale !== undefined && stale > 0) {
    const age = toMillis(fallback.stale.maxAge)
    findings.push(
      warning(
        "L17",
        "fallback.stale",
        `what the cache serves counts as a good answer: it may be ${show(ttl)} + ${show(stale)} + ${show(age)} = ${
          show(ttl + stale + age)
        } old; cache.staleIfError says so without a second memory`
      )
    )
  }
  return findings
}

const rules: ReadonlyArray<Rule> = [
  worstCase,
  unbounded,
  uncapped,
  herd,
  nested,
  unseen,
  hedging,
  neverOpens,
  neverSlow,
  littlesLaw,
  waits,
  halfOpen,
  amplification,
  fallbackReasons,
  fallbackTime,
  caching
]

/**
 * Everything the rules find in a spec that has been read, errors first. A retry's
 * Schedule that is bound by name is known only by its `steps`; `PolicySpec.lint`
 * takes them.
 */
export const check = (spec: Spec, steps?: Steps): ReadonlyArray<Finding> => {
  const findings = rules.flatMap((rule) => rule(spec, steps))
  return [
    ...findings.filter((finding) => finding.severity === "error"),
    ...findings.filter((finding) => finding.severity === "warning")
  ]
}

/** The findings a line each: `error L9 circuitBreaker.minimumCalls: …`. */
export const text = (findings: ReadonlyArray<Finding>): string =>
  findings.map(({ message, path, rule, severity }) => `${severity} ${rule} ${path}: ${message}`).join("\n")
