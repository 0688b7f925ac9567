/**
 * The Schema of a policy document, and its words: what `PolicySpec` reads and
 * `Lint` calculates with. Here and not in either, because one needs the other.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as SchemaGetter from "effect/SchemaGetter"
import * as SchemaIssue from "effect/SchemaIssue"
import * as CallError from "../../contract/CallError.ts"

// Words --------------------------------------------------------------------------------------------

const units: Readonly<Record<string, number>> = {
  ms: 1,
  milli: 1,
  millis: 1,
  millisecond: 1,
  milliseconds: 1,
  s: 1000,
  sec: 1000,
  second: 1000,
  seconds: 1000,
  m: 60_000,
  min: 60_000,
  minute: 60_000,
  minutes: 60_000,
  h: 3_600_000,
  hour: 3_600_000,
  hours: 3_600_000,
  d: 86_400_000,
  day: 86_400_000,
  days: 86_400_000
}

const durationOf = (text: string | number): number | undefined => {
  if (typeof text === "number") return text
  const match = /^\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*$/i.exec(text)
  const unit = match === null ? undefined : units[match[2]!.toLowerCase()]
  return unit === undefined ? undefined : Number(match![1]) * unit
}

const durationAtLeast = (zero: boolean) =>
  Schema.Union([Schema.String, Schema.Number]).pipe(
    Schema.decodeTo(Schema.Duration, {
      decode: SchemaGetter.transformEffect((text: string | number) => {
        const millis = durationOf(text)
        const fits = millis !== undefined && millis < Infinity && (zero ? millis >= 0 : millis > 0)
        return fits ? Effect.succeed(Duration.millis(millis)) : Effect.fail(
          new SchemaIssue.InvalidValue({
            message: `expected a ${zero ? "" : "positive "}finite duration such as "250ms", "2 s" or "1 minute", got ${
              typeof text === "string" ? JSON.stringify(text) : String(text)
            }`
          })
        )
      }),
      encode: SchemaGetter.transform((duration: Duration.Duration) => `${Duration.toMillis(duration)}ms`)
    })
  )

/** `"250ms"`, `"2 s"`, `"1 minute"`, or a number of milliseconds: positive and finite. */
export const Period = durationAtLeast(false)
/** The same, zero included. */
export const PeriodOrZero = durationAtLeast(true)

const key = Schema.optionalKey
const tags = CallError.Reason.members.map((member) => member.fields._tag.schema.literal)
const positiveInt = Schema.Int.check(Schema.isGreaterThanOrEqualTo(1))
const countOrZero = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
const ratio = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))
const positive = Schema.Finite.check(Schema.isGreaterThan(0))
/** A function, by the name `bindings` knows it by. */
const Name = Schema.NonEmptyString
/** A Schedule of the bindings. */
const Bound = Schema.Struct({ schedule: Name })

/** A backoff: the kind, its base, and how it is capped and spread. */
export const Backoff = Schema.Struct({
  kind: Schema.Literals(["constant", "linear", "exponential", "fibonacci", "decorrelated"]),
  base: PeriodOrZero,
  cap: key(Period),
  factor: key(positive),
  jitter: key(Schema.Literals(["none", "full", "equal", "proportional", "decorrelated"])),
  ratio: key(ratio)
}).check(Schema.makeFilter(({ factor, jitter, kind, ratio }) => {
  // What would be read and then ignored is a mistake.
  if (factor !== undefined && kind !== "exponential") {
    return { path: ["factor"], issue: `only for exponential, not ${kind}` }
  }
  if (jitter !== undefined && kind === "decorrelated") {
    return { path: ["jitter"], issue: "not for decorrelated, which is jitter itself" }
  }
  if (ratio !== undefined && jitter !== "proportional") {
    return { path: ["ratio"], issue: "only for the jitter proportional" }
  }
  return undefined
}))

const FallbackSpec = Schema.Struct({
  /** The reasons of the errors it is for, or the name of a condition. Default: all errors. */
  when: key(Schema.Union([Schema.Array(Schema.Literals(tags)), Name])),
  /** A fixed answer. */
  value: key(Schema.Unknown),
  /** A substitute of the bindings. */
  use: key(Name),
  /** The last good answer. */
  stale: key(Schema.Struct({ maxAge: Period, capacity: key(positiveInt) })),
  reserve: key(PeriodOrZero)
}).check(
  Schema.makeFilter((spec) =>
    ["value", "use", "stale"].filter((field) => field in spec).length === 1
      ? undefined
      : "exactly one of value, use and stale says what the answer is"
  )
)

const CacheSpec = Schema.Struct({
  ttl: PeriodOrZero,
  jitter: key(ratio),
  /** Which errors are answers: the name of a condition. */
  negative: key(Schema.Struct({ when: Name, ttl: key(Period) })),
  staleWhileRevalidate: key(PeriodOrZero),
  staleIfError: key(PeriodOrZero),
  refreshTimeout: key(Period),
  capacity: key(positiveInt),
  /** Which calls are the same: a name of the bindings. Default: those of one method and key. */
  key: key(Name)
})

const RetrySpec = Schema.Struct({
  attempts: key(positiveInt),
  backoff: key(Schema.Union([Backoff, Bound])),
  budget: key(Schema.Union([
    Schema.Literal(false),
    Schema.Struct({ ratio: key(Schema.Finite), reserve: key(Schema.Finite), ttl: key(Period) })
  ])),
  retryAfterCap: key(Period),
  /** A predicate on results. */
  retryIf: key(Name),
  /** A classifier of errors. */
  classify: key(Name),
  allowNested: key(Schema.NonEmptyString)
})

const HedgeSpec = Schema.Struct({
  delay: key(PeriodOrZero),
  quantile: key(ratio),
  minimum: key(PeriodOrZero),
  minimumCalls: key(positiveInt),
  window: key(Period),
  hedges: key(positiveInt)
})

const RateLimiterSpec = Schema.Struct({
  limit: positiveInt,
  window: key(Period),
  mode: key(Schema.Literals(["smooth", "bursty"])),
  burst: key(positiveInt),
  maxWait: key(PeriodOrZero)
})

const AdaptiveThrottleSpec = Schema.Struct({
  k: key(positive),
  kMin: key(positive),
  window: key(Period),
  minimumCalls: key(countOrZero),
  maxRejection: key(ratio),
  forcedPass: key(Period)
})

const CircuitBreakerSpec = Schema.Struct({
  consecutiveFailures: key(Schema.Union([
    positiveInt,
    Schema.Struct({ failures: positiveInt, resetEvery: key(Period) })
  ])),
  failureRatio: key(ratio),
  slowCallRatio: key(ratio),
  slowThreshold: key(Period),
  window: key(Schema.Union([
    Schema.Struct({ calls: positiveInt, maxAge: key(Period) }),
    Schema.Struct({ duration: Period, buckets: key(positiveInt) })
  ])),
  minimumCalls: key(positiveInt),
  openFor: key(Schema.Union([PeriodOrZero, Backoff, Bound])),
  maxOpenFor: key(Period),
  jitter: key(ratio),
  retryAfter: key(Schema.Boolean),
  halfOpen: key(Schema.Struct({
    probes: key(positiveInt),
    concurrency: key(positiveInt),
    successRatio: key(ratio),
    lease: key(Period),
    maxWait: key(Period)
  })),
  ramp: key(Schema.Union([Schema.Struct({ duration: Period, initialShare: key(ratio) }), Schema.Literal(false)])),
  /** A circuit per key. The key is a name of the bindings. Default: the call's own, or its method. */
  keyed: key(Schema.Struct({ key: key(Name), maxKeys: key(positiveInt), idleTimeToLive: key(Period) }))
})

const BulkheadSpec = Schema.Struct({ limit: positiveInt, maxQueue: key(countOrZero), maxWait: key(PeriodOrZero) })

const AdaptiveLimiterSpec = Schema.Struct({
  initial: key(positiveInt),
  min: key(positiveInt),
  max: key(positiveInt),
  window: key(Period),
  minimumCalls: key(positiveInt),
  maxFactor: key(positive),
  stabilization: key(Period),
  maxQueue: key(countOrZero),
  rejection: key(Schema.Struct({ from: Schema.Finite, to: Schema.Finite })),
  maxWait: key(PeriodOrZero)
})

/** What the author knows of the traffic. Nothing obeys it; the linter calculates with it. */
const Traffic = Schema.Struct({
  callsPerSecond: key(positive),
  /** Latency of one attempt when all is well. */
  p50: key(Period),
  p99: key(Period),
  endpoints: key(positiveInt),
  /** Hops of this kind a request passes, this one included. */
  hops: key(positiveInt)
})

/** The document. */
export const PolicySpec = Schema.Struct({
  /** Names the stack in errors, events and the dashboard. Default `"policy"`. */
  name: key(Schema.NonEmptyString),
  /**
   * Whether what the stack guards may be sent twice; `key` where each call carries an idempotency key. Default: as the
   * call itself says.
   */
  idempotent: key(Schema.Union([Schema.Boolean, Schema.Literal("key")])),
  /** How long a call may take in all, everything included. A client has its calls' own deadlines and does not ask this. */
  deadline: key(Period),
  traffic: key(Traffic),
  fallback: key(FallbackSpec),
  cache: key(CacheSpec),
  retry: key(Schema.Union([Schema.Literal(false), RetrySpec])),
  hedge: key(HedgeSpec),
  rateLimiter: key(RateLimiterSpec),
  adaptiveThrottle: key(AdaptiveThrottleSpec),
  circuitBreaker: key(Schema.Union([Schema.Literal(false), CircuitBreakerSpec])),
  bulkhead: key(BulkheadSpec),
  adaptiveLimiter: key(AdaptiveLimiterSpec),
  timeout: key(Schema.Union([Schema.Literal(false), Period]))
})

/** A spec as it is written. */
export type PolicySpec = typeof PolicySpec.Encoded
/** A spec that has been read: durations are `Duration`s. */
export type Read = typeof PolicySpec.Type
