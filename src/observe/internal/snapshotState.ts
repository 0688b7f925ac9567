/**
 * What the registered policies and endpoints say of themselves, in one shape:
 * plain JSON data of any form goes in, states and figures come out.
 */
import type * as CallEvent from "../../contract/CallEvent.ts"
import type * as Policy from "../../policy/Policy.ts"

type Scalar = string | number | boolean | null

export interface PolicyState {
  readonly name: string
  readonly kind: string
  readonly state: string | null
  readonly why: string | null
  readonly figures: Readonly<Record<string, Scalar>>
}

export interface BreakerState {
  readonly state: string
  readonly why: string
  readonly forMillis: number
  readonly notClosedForMillis: number | null
  readonly probeInMillis: number | null
}

export interface LimitState {
  readonly limit: number
  readonly inFlight: number
  readonly queued: number
}

export interface BudgetState {
  readonly name: string
  readonly balance: number
  readonly granted: number
  readonly refused: number
  readonly refunded: number
}

export interface EndpointState {
  readonly name: string
  readonly target: string
  readonly address: string
  readonly connection: string
  readonly inFlight: number
}

type Data = Readonly<Record<string, unknown>>

/** What was registered, and what it says now. */
export interface Said {
  readonly name: string
  readonly kind: Policy.Registered["kind"]
  readonly data: Data
}

export const said = ({ kind, name, snapshot }: Policy.Registered): Said => {
  const data = snapshot()
  return { name, kind, data: typeof data === "object" && data !== null ? data as Data : {} }
}

const numberOf = (value: unknown): number => typeof value === "number" && Number.isFinite(value) ? value : 0
const textOf = (value: unknown): string => typeof value === "string" ? value : ""

const isScalar = (value: unknown): value is Scalar =>
  value === null || typeof value === "string" || typeof value === "boolean" || Number.isFinite(value)

/** States of a circuit, the worst first. */
const severity = ["ForcedOpen", "Open", "HalfOpen", "Recovering", "MetricsOnly", "Disabled", "Closed"]

const worseOf = (a: Data, b: Data): Data =>
  severity.indexOf(textOf(b["_tag"])) < severity.indexOf(textOf(a["_tag"])) ? b : a

/** One circuit's state, or of several by key the worst. */
const circuitOf = ({ data }: Said): Data | undefined => {
  if (typeof data["_tag"] === "string") return data
  const circuits = Object.values(data).filter((value): value is Data => typeof value === "object" && value !== null)
  return circuits.length === 0 ? undefined : circuits.reduce(worseOf)
}

/**
 * When circuits were last closed, of those that are not: one that probes and
 * opens again is open for longer than it says. Not of circuits by key, which go
 * without a word.
 */
export class Openings {
  private readonly since = new Map<string, number>()

  heed({ atMillis, from, policy, to }: CallEvent.Transition): void {
    if (to === "Closed") this.since.delete(policy)
    else if (from === "Closed" && !policy.endsWith("]") && this.since.size < maxOpenings) {
      this.since.set(policy, atMillis)
    }
  }

  of(policy: string): number | undefined {
    return this.since.get(policy)
  }

  forget(policy: string): void {
    this.since.delete(policy)
  }
}

/** A circuit may move once more after it has been forgotten. */
const maxOpenings = 10_000

/** The worst of these circuits. */
export const breaker = (
  policies: ReadonlyArray<Said>,
  nowMillis: number,
  openings: Openings
): BreakerState | null => {
  const circuits = policies.filter(({ kind }) => kind === "circuitBreaker").flatMap((policy) => {
    const circuit = circuitOf(policy)
    return circuit === undefined ? [] : [{ name: policy.name, circuit }]
  })
  if (circuits.length === 0) return null
  const { circuit, name } = circuits.reduce((a, b) => worseOf(a.circuit, b.circuit) === a.circuit ? a : b)
  const { _tag, untilMillis, why } = circuit
  const state = textOf(_tag)
  const sinceMillis = numberOf(circuit.sinceMillis)
  // A method's own breaker has the same name, and may have opened later.
  const openedMillis = Math.min(sinceMillis, openings.of(name) ?? Infinity)
  return {
    state,
    why: textOf(why),
    forMillis: Math.max(0, nowMillis - sinceMillis),
    notClosedForMillis: state === "Closed" ? null : Math.max(0, nowMillis - openedMillis),
    probeInMillis: typeof untilMillis === "number" ? Math.max(0, untilMillis - nowMillis) : null
  }
}

/** The narrowest of these limits. */
export const limit = (policies: ReadonlyArray<Said>): LimitState | null => {
  const limits = policies.filter(({ kind }) => kind === "bulkhead" || kind === "adaptiveLimiter")
    .map(({ data }) => ({
      limit: numberOf(data["limit"]),
      inFlight: numberOf(data["inFlight"]),
      queued: numberOf(data["queued"])
    }))
  return limits.length === 0 ? null : limits.reduce((a, b) => b.limit < a.limit ? b : a)
}

/** A retry budget is known by its ledger. */
export const isBudget = ({ data }: Said): boolean => typeof data["balance"] === "number" && "refunded" in data

export const budget = ({ data, name }: Said): BudgetState => ({
  name,
  balance: numberOf(data["balance"]),
  granted: numberOf(data["granted"]),
  refused: numberOf(data["refused"]),
  refunded: numberOf(data["refunded"])
})

export const endpoint = ({ data, name }: Said): EndpointState => ({
  name,
  target: textOf(data["target"]),
  address: textOf(data["address"]),
  connection: textOf(data["connection"]),
  inFlight: numberOf(data["inFlight"])
})

/** Any policy: its state where it has one, and what it says of itself that is not nested. */
export const policy = (self: Said): PolicyState => {
  const { data, kind, name } = self
  const circuit = kind === "circuitBreaker" ? circuitOf(self) : undefined
  const figures = circuit === undefined || circuit === data ? data : countsOf(data)
  return {
    name,
    kind,
    state: circuit === undefined ? null : textOf(circuit["_tag"]),
    why: circuit === undefined || circuit["why"] === "" ? null : textOf(circuit["why"]),
    figures: Object.fromEntries(
      Object.entries(figures).filter((entry): entry is [string, Scalar] =>
        !hidden.includes(entry[0]) && isScalar(entry[1])
      )
    )
  }
}

/** Said already, or an instant of a clock that means nothing elsewhere. */
const hidden = ["_tag", "why", "sinceMillis", "untilMillis"]

/** How many circuits by key are in which state: the keys themselves are many, and may be names of customers. */
const countsOf = (data: Data): Data => {
  const counts: Record<string, number> = { circuits: 0 }
  for (const circuit of Object.values(data)) {
    const state = textOf((circuit as Data)["_tag"])
    counts["circuits"]!++
    counts[state] = (counts[state] ?? 0) + 1
  }
  return counts
}
