/**
 * What a simulation is asked, and how it is read: mistakes show before anything
 * runs, with field, constraint and value. Everything is data, so that it may come
 * from YAML or JSON as it stands.
 */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Options from "../../contract/Options.ts"
import * as PolicySpec from "../../policy/PolicySpec.ts"
import type * as Arrivals from "./simArrivals.ts"
import type * as Draw from "./simDraw.ts"
import type { Contention, ServerOptions } from "./simServer.ts"

/** A duration as a spec writes it (`"250ms"`, `"2 s"`), or any of Effect's; a number is milliseconds. */
export type Time = Duration.Input | string

/**
 * How long something takes: always the same, or drawn.
 *
 * A `lognormal` is stated by its median and its 99th percentile, a `mixture` by
 * parts and their weights: `[{ weight: 99, of: "10 ms" }, { weight: 1, of: "1 s" }]`
 * is slow once in a hundred.
 */
export type Latency =
  | Time
  | { readonly uniform: readonly [from: Time, to: Time] }
  | { readonly exponential: Time }
  | { readonly normal: { readonly mean: Time; readonly deviation: Time } }
  | { readonly lognormal: { readonly p50: Time; readonly p99: Time } }
  | { readonly pareto: { readonly minimum: Time; readonly alpha: number; readonly cap?: Time | undefined } }
  | { readonly mixture: ReadonlyArray<{ readonly weight: number; readonly of: Latency }> }

/**
 * Calls per second: the same all the time, or moving linearly between points. Two
 * points at one instant are a step.
 */
export type Rate = number | ReadonlyArray<{ readonly at: Time; readonly perSecond: number }>

/**
 * When calls are made. `poisson`, `steady` (evenly spaced), `bursty` (Poisson at
 * two rates that take turns, for times drawn around the means) and `replay` do not
 * wait for the calls before; the users of `closed` do, and think in between.
 */
export type ArrivalsOptions =
  | { readonly kind: "poisson" | "steady"; readonly perSecond: Rate }
  | {
    readonly kind: "bursty"
    readonly perSecond: number
    readonly burst: { readonly perSecond: number; readonly every: Time; readonly lasts: Time }
  }
  | { readonly kind: "replay"; readonly at: ReadonlyArray<Time> }
  | { readonly kind: "closed"; readonly users: number; readonly think: Latency }

export interface ClientsOptions {
  /** How many processes call, each with breakers, budgets and connections of its own: an integer `>= 1`. Default 1. */
  readonly count?: number | undefined
  /** How many calls each arrival makes at once; it ends with the last of them. Default 1. */
  readonly fanOut?: number | undefined
  /** Whether the contract says that calls may be sent twice, where the policy says nothing. Default true. */
  readonly idempotent?: boolean | undefined
  /** How many different keys (`k0`, `k1`, …) calls have: an integer `>= 1`. Default: calls have none, but for a cache. */
  readonly keys?: number | undefined
  /** The method that is called, for faults that name methods. Default `"Sim.Call"`. */
  readonly method?: string | undefined
}

/** Servers that are called, and how they behave when nothing is wrong with them. */
export interface Dependency {
  /** How many, an integer `>= 1`, or their addresses. Default 1. */
  readonly servers?: number | ReadonlyArray<string> | undefined
  /** Requests each works on at a time: an integer `>= 1`, or `Infinity` (in a file `"unlimited"`). Default unlimited. */
  readonly concurrency?: number | "unlimited" | undefined
  /** How long work on one request takes. */
  readonly service: Latency
  /** Requests that wait for a worker; more are refused. Default 100. */
  readonly queue?: number | "unlimited" | undefined
  /**
   * Capacity that degrades: each request held above `above` (0) makes work longer
   * by the share `factor` (0) and by `perRequest` (0).
   */
  readonly contention?:
    | {
      readonly above?: number | undefined
      readonly factor?: number | undefined
      readonly perRequest?: Time | undefined
    }
    | undefined
  /** Requests that fail by themselves: their share, and as what. */
  readonly failure?: { readonly ratio: number; readonly as?: FailsAs | undefined } | undefined
  /** What a server stops when its caller has gone. Default nothing: it works for nobody, as most do. */
  readonly cancels?: ServerOptions["cancels"] | undefined
  /** Whether a server drops a request whose deadline has passed when its turn comes. Default false. */
  readonly dropsExpired?: boolean | undefined
  /** How long a server that refuses asks to be left alone. Default: it does not say. */
  readonly retryAfter?: Time | undefined
  /** One way between caller and server. Default 0.5 ms. */
  readonly network?: Latency | undefined
  /**
   * Who picks the server: the `client`, which knows them all and has a breaker for
   * each, or a `proxy`, behind which they are one endpoint to it. Default `client`.
   */
  readonly balancer?: "client" | "proxy" | undefined
  /** What each request makes a server call itself before it answers, and under which policy. */
  readonly calls?: Downstream | undefined
}

export interface Downstream {
  readonly policy: PolicySpec.PolicySpec
  readonly dependency: Dependency
  /** How many such calls, one after the other. Default 1. */
  readonly times?: number | undefined
  /** Whether they have what is left of their caller's deadline. Default true. */
  readonly inheritsDeadline?: boolean | undefined
}

/** `failed`: an error of the server's own, retried where the call may be sent twice; the others provably did no work. */
export type FailsAs = "failed" | "unavailable" | "overloaded"

/** Which of several: the first so many, or those with these numbers (from 0). Default all. */
export type Which = number | ReadonlyArray<number>

interface Interval {
  readonly from: Time
  readonly to: Time
}

/**
 * Something that goes wrong for a while. Phases may overlap.
 *
 * | do | what happens |
 * |---|---|
 * | `slow` | work takes `factor` times as long and `add` more, of a `share` of the requests |
 * | `error` | a share `ratio` of the requests fails |
 * | `cold` | work takes `factor` times as long at first, and ever less until the phase ends |
 * | `pause` | servers work on nothing and say nothing: a stopped process |
 * | `swallow` | servers work and never answer |
 * | `down` | servers are killed: connections are reset, new ones refused, what they had is lost |
 * | `drain` | servers say that they go away, finish what they have and take nothing new |
 * | `partition` | nothing passes between `clients` and servers, and nobody is told |
 * | `load` | calls are made `factor` times as often |
 */
export type Phase =
  & Interval
  & { readonly servers?: Which | undefined; readonly tier?: number | undefined }
  & (
    | {
      readonly do: "slow"
      readonly factor?: number | undefined
      readonly add?: Latency | undefined
      readonly share?: number | undefined
    }
    | { readonly do: "error"; readonly ratio: number; readonly as?: FailsAs | undefined }
    | { readonly do: "cold"; readonly factor: number }
    | { readonly do: "pause" | "swallow" | "down" | "drain" }
    | { readonly do: "partition"; readonly clients?: Which | undefined }
    | { readonly do: "load"; readonly factor: number }
  )

/** What happens to a system besides its calls. */
export interface Scenario {
  readonly name?: string | undefined
  readonly phases: ReadonlyArray<Phase>
  /** When what happens begins, and when all is well again. Default: the first phase's beginning, the last one's end. */
  readonly from?: Time | undefined
  readonly until?: Time | undefined
}

const written = Schema.decodeUnknownOption(PolicySpec.PeriodOrZero)

/** A time in milliseconds. Throws a `RangeError` on one that is negative, infinite or none. */
export const millis = (where: string, field: string, time: Time, zero = true): number =>
  Option.match(written(time), {
    onSome: (duration) => {
      const value = Duration.toMillis(duration)
      Options.check(zero || value > 0, where, field, "a positive and finite duration", time)
      return value
    },
    onNone: () => Options.millis(where, field, time as Duration.Input, zero)
  })

/** Checks that something is an object with no fields but these: it may come from a file, and a misspelt field says nothing. */
export const fields = (where: string, field: string, given: unknown, known: ReadonlyArray<string>): void => {
  const isObject = typeof given === "object" && given !== null && !Array.isArray(given)
  Options.check(isObject, where, field, `an object of ${known.join(", ")}`, given)
  for (const name of Object.keys(given as object)) {
    Options.check(known.includes(name), where, field, `an object of ${known.join(", ")}`, name)
  }
}

/** Problems, one a line, with the field in whose document they are. */
export const within = (field: string, problems: string): string => problems.replaceAll(/^/gm, `${field}: `)

/** The 99th percentile of a standard normal distribution. */
const z99 = 2.3263478740408408

const shapes = ["uniform", "exponential", "normal", "lognormal", "pareto", "mixture"]

export const distribution = (where: string, field: string, latency: Latency): Draw.Distribution => {
  const of = (name: string, time: Time, zero = true) => millis(where, `${field}.${name}`, time, zero)
  if (latency !== null && (typeof latency !== "object" || Duration.isDuration(latency) || Array.isArray(latency))) {
    return { kind: "constant", millis: millis(where, field, latency as Time) }
  }
  const [shape, ...others] = latency === null ? [] : Object.keys(latency)
  if (shape === undefined || others.length > 0 || !shapes.includes(shape)) {
    const got = latency === null ? null : Object.keys(latency).join(", ")
    throw Options.invalid(where, field, `a duration, or one of ${shapes.join(", ")}`, got)
  }
  if ("uniform" in latency) {
    const { uniform } = latency
    const isPair = Array.isArray(uniform) && uniform.length === 2
    Options.check(isPair, where, `${field}.uniform`, "a list of two durations", uniform)
    const [from, to] = [of("uniform", uniform[0]), of("uniform", uniform[1])]
    Options.check(from <= to, where, `${field}.uniform`, "from the smaller to the larger", uniform)
    return { kind: "uniform", from, to }
  }
  if ("exponential" in latency) return { kind: "exponential", mean: of("exponential", latency.exponential, false) }
  if ("normal" in latency) {
    fields(where, `${field}.normal`, latency.normal, ["mean", "deviation"])
    const { deviation, mean } = latency.normal
    return { kind: "normal", mean: of("normal.mean", mean), deviation: of("normal.deviation", deviation) }
  }
  if ("lognormal" in latency) {
    fields(where, `${field}.lognormal`, latency.lognormal, ["p50", "p99"])
    const [p50, p99] = [of("lognormal.p50", latency.lognormal.p50, false), of("lognormal.p99", latency.lognormal.p99)]
    Options.check(p99 >= p50, where, `${field}.lognormal.p99`, `at least p50 (${p50} ms)`, p99)
    return { kind: "lognormal", mu: Math.log(p50), sigma: Math.log(p99 / p50) / z99 }
  }
  if ("pareto" in latency) {
    fields(where, `${field}.pareto`, latency.pareto, ["minimum", "alpha", "cap"])
    const { alpha, cap, minimum } = latency.pareto
    return {
      kind: "pareto",
      minimum: of("pareto.minimum", minimum, false),
      alpha: Options.finite(where, `${field}.pareto.alpha`, alpha, 0.01),
      cap: cap === undefined ? 3_600_000 : of("pareto.cap", cap)
    }
  }
  const { mixture } = latency as Extract<Latency, { readonly mixture: unknown }>
  const isList = Array.isArray(mixture) && mixture.length > 0
  Options.check(isList, where, `${field}.mixture`, "a list of parts, at least one", mixture)
  const parts = mixture.map((part, i) => {
    fields(where, `${field}.mixture.${i}`, part, ["weight", "of"])
    const weight = Options.finite(where, `${field}.mixture.${i}.weight`, part.weight, 0)
    return [weight, distribution(where, `${field}.mixture.${i}.of`, part.of)] as const
  })
  const weights = parts.reduce((sum, [weight]) => sum + weight, 0)
  Options.check(weights > 0, where, `${field}.mixture`, "parts of which one has a weight", weights)
  return { kind: "mixture", of: parts }
}

const rate = (where: string, given: Rate): ReadonlyArray<Arrivals.Point> => {
  const field = "arrivals.perSecond"
  if (typeof given === "number") return [{ atMillis: 0, perSecond: Options.finite(where, field, given, 0) }]
  Options.check(Array.isArray(given) && given.length > 0, where, field, "a number, or at least one point", given)
  let latest = 0
  return given.map((point, i) => {
    fields(where, `${field}.${i}`, point, ["at", "perSecond"])
    const { at, perSecond } = point
    const atMillis = millis(where, `${field}.${i}.at`, at)
    Options.check(atMillis >= latest, where, `${field}.${i}.at`, `in order, at least ${latest}ms`, at)
    latest = atMillis
    return { atMillis, perSecond: Options.finite(where, `${field}.${i}.perSecond`, perSecond, 0) }
  })
}

/** What each kind of arrivals has. */
const arrivalsFields: Readonly<Record<ArrivalsOptions["kind"], ReadonlyArray<string>>> = {
  poisson: ["perSecond"],
  steady: ["perSecond"],
  bursty: ["perSecond", "burst"],
  replay: ["at"],
  closed: ["users", "think"]
}

export const arrivals = (where: string, given: ArrivalsOptions): Arrivals.Plan => {
  const kinds = Object.keys(arrivalsFields) as ReadonlyArray<ArrivalsOptions["kind"]>
  fields(where, "arrivals", given, ["kind", ...new Set(Object.values(arrivalsFields).flat())])
  Options.check(kinds.includes(given.kind), where, "arrivals.kind", `one of ${kinds.join(", ")}`, given.kind)
  fields(where, "arrivals", given, ["kind", ...arrivalsFields[given.kind]])
  switch (given.kind) {
    case "poisson":
    case "steady":
      return { kind: given.kind, rate: rate(where, given.perSecond) }
    case "bursty":
      fields(where, "arrivals.burst", given.burst, ["perSecond", "every", "lasts"])
      return {
        kind: "bursty",
        perSecond: Options.finite(where, "arrivals.perSecond", given.perSecond, 0),
        burstPerSecond: Options.finite(where, "arrivals.burst.perSecond", given.burst.perSecond, 0.001),
        everyMillis: millis(where, "arrivals.burst.every", given.burst.every, false),
        lastsMillis: millis(where, "arrivals.burst.lasts", given.burst.lasts, false)
      }
    case "replay":
      Options.check(Array.isArray(given.at), where, "arrivals.at", "a list of times", given.at)
      return { kind: "replay", at: given.at.map((at, i) => millis(where, `arrivals.at.${i}`, at)) }
    case "closed":
      return {
        kind: "closed",
        users: Options.integer(where, "arrivals.users", given.users, 1),
        think: distribution(where, "arrivals.think", given.think)
      }
  }
}

const count = (where: string, field: string, given: number | "unlimited" | undefined, orElse: number, min: number) =>
  given === "unlimited" || given === Infinity
    ? Infinity
    : given === undefined
    ? orElse
    : Options.integer(where, field, given, min)

const contention = (where: string, field: string, given: Dependency["contention"]): Contention | undefined => {
  if (given === undefined) return undefined
  fields(where, field, given, ["above", "factor", "perRequest"])
  return {
    above: Options.finite(where, `${field}.above`, given.above ?? 0, 0),
    factor: Options.finite(where, `${field}.factor`, given.factor ?? 0, 0),
    perRequest: given.perRequest === undefined ? 0 : millis(where, `${field}.perRequest`, given.perRequest)
  }
}

const oneOf = <const A extends string>(
  where: string,
  field: string,
  among: ReadonlyArray<A>,
  given: A | undefined,
  orElse: A
): A => {
  if (given === undefined) return orElse
  Options.check(among.includes(given), where, field, `one of ${among.join(", ")}`, given)
  return given
}

export const failsAs = (where: string, field: string, given: FailsAs | undefined): FailsAs =>
  oneOf(where, field, ["failed", "unavailable", "overloaded"], given, "failed")

/** A tier, read. */
export interface TierPlan {
  readonly servers: number
  /** The addresses of its servers, where they were stated. */
  readonly addresses: ReadonlyArray<string> | undefined
  readonly server: ServerOptions
  readonly network: Draw.Distribution
  readonly retryAfterMillis: number | undefined
  readonly balancer: "client" | "proxy"
  readonly calls:
    | {
      readonly policy: PolicySpec.PolicySpec
      readonly times: number
      readonly inheritsDeadline: boolean
      readonly tier: TierPlan
    }
    | undefined
}

const addresses = (where: string, field: string, given: ReadonlyArray<string>): ReadonlyArray<string> => {
  Options.check(new Set(given).size === given.length, where, field, "addresses that differ", given)
  return given
}

const dependencyFields = [
  "servers",
  "concurrency",
  "service",
  "queue",
  "contention",
  "failure",
  "cancels",
  "dropsExpired",
  "retryAfter",
  "network",
  "balancer",
  "calls"
]

export const dependency = (where: string, given: Dependency, field = "dependency"): TierPlan => {
  fields(where, field, given, dependencyFields)
  if (given.failure !== undefined) fields(where, `${field}.failure`, given.failure, ["ratio", "as"])
  if (given.calls !== undefined) {
    fields(where, `${field}.calls`, given.calls, ["policy", "dependency", "times", "inheritsDeadline"])
  }
  return tier(where, given, field)
}

const tier = (where: string, given: Dependency, field: string): TierPlan => ({
  servers: Options.integer(
    where,
    `${field}.servers`,
    typeof given.servers === "object" ? given.servers.length : given.servers ?? 1,
    1,
    10_000
  ),
  addresses: typeof given.servers === "object" ? addresses(where, `${field}.servers`, given.servers) : undefined,
  server: {
    concurrency: count(where, `${field}.concurrency`, given.concurrency, Infinity, 1),
    queue: count(where, `${field}.queue`, given.queue, 100, 0),
    service: distribution(where, `${field}.service`, given.service),
    contention: contention(where, `${field}.contention`, given.contention),
    failureRatio: given.failure === undefined
      ? 0
      : Options.ratio(where, `${field}.failure.ratio`, given.failure.ratio, true),
    failsWith: failsAs(where, `${field}.failure.as`, given.failure?.as),
    cancels: oneOf(where, `${field}.cancels`, ["nothing", "queued", "everything"], given.cancels, "nothing"),
    dropsExpired: given.dropsExpired === true
  },
  network: distribution(where, `${field}.network`, given.network ?? 0.5),
  retryAfterMillis: given.retryAfter === undefined ? undefined : millis(where, `${field}.retryAfter`, given.retryAfter),
  balancer: oneOf(where, `${field}.balancer`, ["client", "proxy"], given.balancer, "client"),
  calls: given.calls === undefined ? undefined : {
    policy: given.calls.policy,
    times: Options.integer(where, `${field}.calls.times`, given.calls.times ?? 1, 1),
    inheritsDeadline: given.calls.inheritsDeadline !== false,
    tier: dependency(where, given.calls.dependency, `${field}.calls.dependency`)
  }
})

/** The tiers, outermost first. */
export const tiers = (plan: TierPlan): ReadonlyArray<TierPlan> =>
  plan.calls === undefined ? [plan] : [plan, ...tiers(plan.calls.tier)]

/** A phase, read. */
export interface PhasePlan {
  readonly phase: Phase
  readonly from: number
  readonly to: number
  readonly tier: number
}

export interface ScenarioPlan {
  readonly name: string | undefined
  readonly phases: ReadonlyArray<PhasePlan>
  readonly from: number | undefined
  readonly until: number | undefined
}

/** What each kind of phase has besides. */
const phaseFields: Readonly<Record<Phase["do"], ReadonlyArray<string>>> = {
  slow: ["factor", "add", "share"],
  error: ["ratio", "as"],
  cold: ["factor"],
  pause: [],
  swallow: [],
  down: [],
  drain: [],
  partition: ["clients"],
  load: ["factor"]
}
const phaseKinds = Object.keys(phaseFields) as ReadonlyArray<Phase["do"]>
const anyPhase = ["do", "from", "to", "servers", "tier"]

const which = (where: string, field: string, given: Which | undefined, of: number): void => {
  if (given === undefined) return
  if (typeof given === "number") return void Options.integer(where, field, given, 0, of)
  for (const index of given) Options.integer(where, field, index, 0, of - 1)
}

/** Whether a number is among those asked for. */
export const isAmong = (given: Which | undefined, index: number): boolean =>
  given === undefined || (typeof given === "number" ? index < given : given.includes(index))

export const scenario = (
  where: string,
  given: Scenario | undefined,
  tiers: ReadonlyArray<TierPlan>,
  clients: number
): ScenarioPlan => {
  if (given === undefined) return { name: undefined, phases: [], from: undefined, until: undefined }
  fields(where, "scenario", given, ["name", "phases", "from", "until"])
  Options.check(Array.isArray(given.phases), where, "scenario.phases", "a list of phases", given.phases)
  const phases = given.phases.map((phase, i): PhasePlan => {
    const field = `scenario.phases.${i}`
    fields(where, field, phase, [...anyPhase, ...new Set(Object.values(phaseFields).flat())])
    Options.check(phaseKinds.includes(phase.do), where, `${field}.do`, `one of ${phaseKinds.join(", ")}`, phase.do)
    fields(where, field, phase, [...anyPhase, ...phaseFields[phase.do]])
    const from = millis(where, `${field}.from`, phase.from)
    const to = millis(where, `${field}.to`, phase.to)
    Options.check(to > from, where, `${field}.to`, `later than from (${from}ms)`, phase.to)
    const tier = Options.integer(where, `${field}.tier`, phase.tier ?? 0, 0, tiers.length - 1)
    which(where, `${field}.servers`, phase.servers, tiers[tier]!.servers)
    const callers = tier === 0 ? clients : tiers[tier - 1]!.servers
    if (phase.do === "partition") which(where, `${field}.clients`, phase.clients, callers)
    if (phase.do === "error") Options.ratio(where, `${field}.ratio`, phase.ratio, true)
    if (phase.do === "cold" || phase.do === "load") Options.finite(where, `${field}.factor`, phase.factor, 0)
    if (phase.do === "slow") {
      if (phase.factor !== undefined) Options.finite(where, `${field}.factor`, phase.factor, 0)
      if (phase.share !== undefined) Options.ratio(where, `${field}.share`, phase.share, true)
    }
    return { phase, from, to, tier }
  })
  const from = given.from === undefined
    ? phases.length === 0 ? undefined : Math.min(...phases.map((phase) => phase.from))
    : millis(where, "scenario.from", given.from)
  const until = given.until === undefined
    ? phases.length === 0 ? undefined : Math.max(...phases.map((phase) => phase.to))
    : millis(where, "scenario.until", given.until)
  const isOrdered = from === undefined || until === undefined || until > from
  Options.check(isOrdered, where, "scenario.until", `later than from (${from}ms)`, given.until ?? until)
  return { name: given.name, phases, from, until }
}
