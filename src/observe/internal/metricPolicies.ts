/**
 * What the state of a registered policy says, as gauges: read when somebody
 * looks, and only then.
 *
 * Policies of one kind and name (a method with a slot of its own shares its
 * client's name) are one series, which says the sum. The first series of such a
 * group reads the policies, the others say what was read with it: a breaker with
 * ten thousand keys is read once per scrape.
 */
import type * as Policy from "../../policy/Policy.ts"
import { list } from "./metricList.ts"
import { type Definition, release, type Store, type Value } from "./metricSeries.ts"

/** The part of a policy's name that is no user's key: `tenants[42]` is `tenants`. */
export const withoutKey = (name: string): string =>
  name.endsWith("]") && name.includes("[") ? name.slice(0, name.indexOf("[")) : name

/** One figure of a policy's state. */
interface Figure {
  readonly definition: Definition & { readonly kind: "gauge" | "counter" }
  /** What follows the policy's name among the labels. */
  readonly label: string
  readonly of: (state: object, counts: Readonly<Record<string, number>>) => number
}

const numberOf = (state: object, field: string): number => {
  const value: unknown = (state as Readonly<Record<string, unknown>>)[field]
  return typeof value === "number" && Number.isFinite(value) ? value : 0
}

const field = (definition: Figure["definition"], name: string, label = "", scale = 1): Figure => ({
  definition,
  label,
  of: (state) => scale * numberOf(state, name)
})

/** The states of a circuit, all of which have a series from the start. */
export const circuitStates = ["Closed", "Open", "HalfOpen", "Recovering", "ForcedOpen", "Disabled", "MetricsOnly"]

const isIn = (state: unknown, tag: string): boolean =>
  typeof state === "object" && state !== null && "_tag" in state && state._tag === tag

/** A circuit's state, or those of its keys. */
const circuitsIn = (state: object, tag: string): number =>
  "_tag" in state && typeof state._tag === "string"
    ? Number(isIn(state, tag))
    : Object.values(state).reduce((sum: number, one) => sum + Number(isIn(one, tag)), 0)

const permits = (kind: string): ReadonlyArray<Figure> => [
  field(list.limit, "limit", kind),
  field(list.permits, "inFlight", kind),
  field(list.queued, "queued", kind)
]

const figures: Readonly<Record<string, ReadonlyArray<Figure>>> = {
  circuitBreaker: [
    ...circuitStates.map((tag): Figure => ({
      definition: list.breakerState,
      label: tag,
      of: (state) => circuitsIn(state, tag)
    })),
    // Counted by events; here so that it is 0 before the first, and not missing.
    { definition: list.breakerOpened, label: "", of: () => 0 },
    { definition: list.breakerFailed, label: "", of: (_state, { failed = 0 }) => failed }
  ],
  bulkhead: permits("bulkhead"),
  adaptiveLimiter: permits("adaptiveLimiter"),
  rateLimiter: [field(list.limit, "limit", "rateLimiter"), field(list.queued, "waiting", "rateLimiter")],
  adaptiveThrottle: [field(list.throttleRatio, "ratio")],
  hedge: [field(list.hedgeDelay, "delayMillis", "", 0.001)],
  cache: [field(list.cacheEntries, "size")],
  budget: [field(list.budgetBalance, "balance")]
}

/** A retry budget is no policy, and registers as a custom one. */
const kindOf = ({ kind, snapshot }: Policy.Registered): string => {
  if (kind !== "custom") return kind
  const state = snapshot()
  return typeof state === "object" && state !== null && "balance" in state ? "budget" : kind
}

/** Policies of one kind and name. */
class Group {
  readonly policies = new Set<Policy.Registered>()
  private readonly figures: ReadonlyArray<Figure>
  private readonly series: ReadonlyArray<Value>
  private readonly sources: ReadonlyArray<() => number>
  private readonly read: Array<number>

  constructor(store: Store, name: string, figures: ReadonlyArray<Figure>) {
    this.figures = figures
    this.read = figures.map(() => 0)
    this.series = figures.map(({ definition, label }) => store.take(definition, [name, label]))
    this.sources = figures.map((_figure, i) => () => {
      if (i === 0) this.refresh()
      return this.read[i]!
    })
    for (const [i, series] of this.series.entries()) series.sources.add(this.sources[i]!)
  }

  release(): void {
    for (const [i, series] of this.series.entries()) {
      series.sources.delete(this.sources[i]!)
      release(series)
    }
  }

  private refresh(): void {
    this.read.fill(0)
    for (const { counts, snapshot } of this.policies) {
      const state = snapshot()
      if (typeof state !== "object" || state === null) continue
      const counted = counts?.() ?? {}
      for (const [i, figure] of this.figures.entries()) this.read[i]! += figure.of(state, counted)
    }
  }
}

/**
 * A registry that shows what it knows as gauges. `gone` is told the name of a
 * policy when the last one so called has left.
 */
export const make = (store: Store, cap: number, gone: (name: string) => void): Policy.Registry => {
  const groups = new Map<string, Group>()
  const names = new Map<string, number>()
  return {
    register: (policy) => {
      const { name } = policy
      const kind = kindOf(policy)
      const shown = figures[kind]
      const key = `${kind} ${name}`
      names.set(name, (names.get(name) ?? 0) + 1)
      if (shown !== undefined && (groups.has(key) || groups.size < cap)) {
        const group = groups.get(key) ?? new Group(store, name, shown)
        groups.set(key, group)
        group.policies.add(policy)
      }
      let registered = true
      return () => {
        if (!registered) return
        registered = false
        const group = groups.get(key)
        if (group?.policies.delete(policy) === true && group.policies.size === 0) {
          groups.delete(key)
          group.release()
        }
        const left = names.get(name)! - 1
        if (left > 0) return void names.set(name, left)
        names.delete(name)
        gone(name)
      }
    }
  }
}
