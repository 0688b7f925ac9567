/**
 * The ways in which systems go wrong, named and parameterised, as data.
 *
 * ```ts
 * const result = yield* Simulator.run({ ...Scenarios.spike({ factor: 3 }), policy, seed: 1 })
 * ```
 *
 * Each is a `Simulator.Situation`: clients, calls, servers and what happens to
 * them. They share one system unless they need another: ten clients and five
 * servers of ten workers each, 50 ms in the median and 200 ms at the 99th
 * percentile, so that 840 calls per second is all they can do, and half of it is
 * asked. What happens begins at 30 s, and a scenario ends early enough after it to
 * be quick and late enough to show whether the system recovers.
 *
 * (`Scenario` is something else: a script of single calls against one policy.)
 */
import * as Options from "../contract/Options.ts"
import type * as Simulator from "./Simulator.ts"

/** A parameter: its default, and what it says. */
export interface Parameter {
  readonly default: number
  readonly says: string
}

/** A scenario as a list shows it. */
export interface Named {
  readonly name: string
  readonly says: string
  readonly parameters: Readonly<Record<string, Parameter>>
  readonly make: (parameters: Readonly<Record<string, number>>) => Simulator.Situation
}

type Values<P> = { readonly [K in keyof P]: number }

/** What all have in common. */
const common = {
  rate: { default: 430, says: "calls per second" },
  clients: { default: 10, says: "client processes" },
  servers: { default: 5, says: "servers" },
  workers: { default: 10, says: "requests a server works on at a time" },
  p50: { default: 50, says: "median service time, ms" },
  p99: { default: 200, says: "99th percentile of the service time, ms" },
  queue: { default: 200, says: "requests that wait at a server" },
  start: { default: 30, says: "when it begins, s" }
} as const

interface Make<P> {
  (parameters?: { readonly [K in keyof P]?: number | undefined }): Simulator.Situation
  readonly named: Named
}

const seconds = (value: number): number => value * 1000

const scenario = <const P extends Readonly<Record<string, Parameter>>>(
  name: string,
  says: string,
  own: P,
  make: (values: Values<P> & Values<typeof common>) => Omit<Simulator.Situation, "clients">
): Make<P & typeof common> => {
  const parameters: Readonly<Record<string, Parameter>> = { ...common, ...own }
  const build = (given: Readonly<Record<string, number | undefined>> = {}): Simulator.Situation => {
    const values: Record<string, number> = {}
    for (const field of Object.keys(given)) {
      Options.check(
        field in parameters,
        `Scenarios.${name}`,
        field,
        `one of ${Object.keys(parameters).join(", ")}`,
        field
      )
    }
    for (const [field, parameter] of Object.entries(parameters)) {
      values[field] = Options.finite(`Scenarios.${name}`, field, given[field] ?? parameter.default, 0)
    }
    const situation = make(values as Values<P> & Values<typeof common>)
    return {
      clients: values["clients"],
      ...situation,
      scenario: { name, phases: [], ...situation.scenario }
    }
  }
  const named: Named = { name, says, parameters, make: build }
  return Object.assign(build as Make<P & typeof common>, { named })
}

const dependency = (values: Values<typeof common>): Simulator.Situation["dependency"] => ({
  servers: values.servers,
  concurrency: values.workers,
  service: { lognormal: { p50: values.p50, p99: values.p99 } },
  queue: values.queue
})

const poisson = (perSecond: Simulator.Rate) => ({ kind: "poisson", perSecond } as const)

const lasts = (value: number) => ({ default: value, says: "how long it lasts, s" })
const factor = (value: number, says: string) => ({ default: value, says })

/** Calls stay the same and a share of them fails: what is left is what retries make of it. */
export const retryStorm = scenario(
  "retryStorm",
  "half of all requests fail for a while, whatever the load: retries are the only thing that can grow",
  { ratio: { default: 0.5, says: "share of the requests that fails" }, lasts: lasts(30) },
  (values) => ({
    arrivals: poisson(values.rate),
    dependency: dependency(values),
    scenario: {
      phases: [{
        do: "error",
        ratio: values.ratio,
        from: seconds(values.start),
        to: seconds(values.start + values.lasts)
      }]
    },
    horizon: seconds(values.start + values.lasts + 60)
  })
)

/** All caches are empty: everything takes longer, and ever less so. */
export const coldStart = scenario(
  "coldStart",
  "all servers restart with empty caches: work takes longer at first, and ever less",
  { factor: factor(4, "how much longer work takes at first"), lasts: lasts(30) },
  (values) => ({
    arrivals: poisson(values.rate),
    dependency: dependency(values),
    scenario: {
      phases: [{
        do: "cold",
        factor: values.factor,
        from: seconds(values.start),
        to: seconds(values.start + values.lasts)
      }]
    },
    horizon: seconds(values.start + values.lasts + 60)
  })
)

/** One server of several is slow, and says so to nobody. */
export const slowEndpoint = scenario(
  "slowEndpoint",
  "one server of several becomes slow and refuses nothing",
  { factor: factor(20, "how much longer its work takes"), lasts: lasts(60) },
  (values) => ({
    arrivals: poisson(values.rate),
    dependency: dependency(values),
    scenario: {
      phases: [{
        do: "slow",
        factor: values.factor,
        servers: 1,
        from: seconds(values.start),
        to: seconds(values.start + values.lasts)
      }]
    },
    horizon: seconds(values.start + values.lasts + 30)
  })
)

/** One server comes and goes. */
export const flapping = scenario(
  "flapping",
  "one server fails everything and is well again, over and over",
  {
    sick: { default: 3, says: "how long it is sick each time, s" },
    well: { default: 4, says: "how long it is well in between, s" },
    times: { default: 8, says: "how often" }
  },
  (values) => {
    const turn = values.sick + values.well
    return {
      arrivals: poisson(values.rate),
      dependency: dependency(values),
      scenario: {
        phases: Array.from({ length: values.times }, (_, i) => ({
          do: "error" as const,
          ratio: 1,
          servers: 1,
          from: seconds(values.start + i * turn),
          to: seconds(values.start + i * turn + values.sick)
        }))
      },
      horizon: seconds(values.start + values.times * turn + 30)
    }
  }
)

/** A burst of calls, and then as before. */
export const spike = scenario(
  "spike",
  "for some seconds several times as many calls are made as usual",
  { factor: factor(4, "how many times as many calls"), lasts: lasts(10) },
  (values) => {
    const [from, until] = [seconds(values.start), seconds(values.start + values.lasts)]
    return {
      arrivals: poisson([
        { at: 0, perSecond: values.rate },
        { at: from, perSecond: values.rate },
        { at: from, perSecond: values.rate * values.factor },
        { at: until, perSecond: values.rate * values.factor },
        { at: until, perSecond: values.rate }
      ]),
      dependency: dependency(values),
      scenario: { phases: [], from, until },
      horizon: until + seconds(60)
    }
  }
)

/** More and more calls, beyond what the servers can do, and back. */
export const ramp = scenario(
  "ramp",
  "calls grow slowly beyond what the servers can do, and shrink again",
  { factor: factor(3, "how many times as many calls at the peak"), lasts: lasts(60) },
  (values) => {
    const from = seconds(values.start)
    const until = seconds(values.start + values.lasts)
    return {
      arrivals: poisson([
        { at: 0, perSecond: values.rate },
        { at: from, perSecond: values.rate },
        { at: (from + until) / 2, perSecond: values.rate * values.factor },
        { at: until, perSecond: values.rate }
      ]),
      dependency: dependency(values),
      scenario: { phases: [], from, until },
      horizon: until + seconds(60)
    }
  }
)

/** Some clients cannot reach some servers, and nobody tells them. */
export const partition = scenario(
  "partition",
  "half of the clients cannot reach some of the servers, and nothing says so",
  { cut: { default: 2, says: "servers that cannot be reached" }, lasts: lasts(30) },
  (values) => ({
    arrivals: poisson(values.rate),
    dependency: dependency(values),
    scenario: {
      phases: [{
        do: "partition",
        servers: values.cut,
        clients: Math.ceil(values.clients / 2),
        from: seconds(values.start),
        to: seconds(values.start + values.lasts)
      }]
    },
    horizon: seconds(values.start + values.lasts + 30)
  })
)

/** Everybody notices at the same time that the servers are back, and they are not yet strong. */
export const thunderingHerd = scenario(
  "thunderingHerd",
  "many clients find all servers down, probe together when they return, and meet cold ones",
  {
    clients: { default: 50, says: "client processes" },
    lasts: lasts(15),
    cold: { default: 15, says: "how long the servers take to become warm, s" },
    factor: factor(3, "how much longer work takes in a cold server")
  },
  (values) => {
    const from = seconds(values.start)
    const back = seconds(values.start + values.lasts)
    const warm = back + seconds(values.cold)
    return {
      arrivals: poisson(values.rate),
      dependency: dependency(values),
      scenario: {
        phases: [
          { do: "error", ratio: 1, as: "unavailable", from, to: back },
          { do: "cold", factor: values.factor, from: back, to: warm }
        ],
        from,
        until: back
      },
      horizon: back + seconds(60)
    }
  }
)

/** Several servers go at once, and the others have their load. */
export const correlatedFailure = scenario(
  "correlatedFailure",
  "several servers are killed at once (a rack, a zone), and the others have their load",
  { killed: { default: 2, says: "servers that are killed" }, lasts: lasts(30) },
  (values) => ({
    arrivals: poisson(values.rate),
    dependency: dependency(values),
    scenario: {
      phases: [{
        do: "down",
        servers: values.killed,
        from: seconds(values.start),
        to: seconds(values.start + values.lasts)
      }]
    },
    horizon: seconds(values.start + values.lasts + 30)
  })
)

/** One server after the other goes and comes back cold. */
export const deploy = scenario(
  "deploy",
  "one server after the other drains, restarts and comes back cold",
  {
    down: { default: 5, says: "how long each is gone, s" },
    cold: { default: 5, says: "how long each takes to become warm, s" },
    factor: factor(3, "how much longer work takes in a cold server"),
    every: { default: 10, says: "time from one server to the next, s" }
  },
  (values) => {
    const phases = Array.from({ length: values.servers }, (_, server): ReadonlyArray<Simulator.Phase> => {
      const from = values.start + server * values.every
      const back = from + values.down
      return [
        { do: "drain", servers: [server], from: seconds(from), to: seconds(back) },
        { do: "cold", factor: values.factor, servers: [server], from: seconds(back), to: seconds(back + values.cold) }
      ]
    }).flat()
    return {
      arrivals: poisson(values.rate),
      dependency: dependency(values),
      scenario: { phases },
      horizon: seconds(values.start + values.servers * values.every + 30)
    }
  }
)

/**
 * A system that has two stable states. Its workers slow each other down the more
 * requests they hold, so that a short trigger can bring it where retries keep it,
 * at a load that it copes with otherwise.
 *
 * Source: Bronson et al., "Metastable Failures in Distributed Systems" (2021).
 */
export const metastableCollapse = scenario(
  "metastableCollapse",
  "capacity degrades with what a server holds: a short trigger, and the question is whether it ever ends",
  {
    rate: { default: 600, says: "calls per second" },
    factor: factor(10, "how much longer work takes while the trigger lasts"),
    lasts: lasts(8),
    contention: { default: 0.02, says: "share by which each waiting request makes work longer" }
  },
  (values) => ({
    arrivals: poisson(values.rate),
    dependency: {
      ...dependency(values),
      contention: { above: values.workers * 2, factor: values.contention }
    },
    scenario: {
      phases: [{
        do: "slow",
        factor: values.factor,
        from: seconds(values.start),
        to: seconds(values.start + values.lasts)
      }]
    },
    horizon: seconds(values.start + values.lasts + 90)
  })
)

/** All of them, by name. */
export const all: Readonly<Record<string, Named>> = Object.fromEntries(
  [
    retryStorm,
    coldStart,
    slowEndpoint,
    flapping,
    spike,
    ramp,
    partition,
    thunderingHerd,
    correlatedFailure,
    deploy,
    metastableCollapse
  ].map(({ named }) => [named.name, named])
)
