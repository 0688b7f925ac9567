/**
 * The figures of a run, all counted from the calls that were made. Calls in,
 * plain data out: what the table, the page and the JSON file print.
 *
 * A call belongs to the fault in whose time it was due, its recovery included.
 */
import type { Call, Calls, Move } from "./Load.ts"
import * as Plan from "./Plan.ts"

/** What some calls of one client came to. */
export interface Figures {
  readonly calls: number
  /** Those that got an answer, be it one of the contract's errors. */
  readonly answered: number
  /** `answered / calls`; 1 for none. */
  readonly success: number
  /** Milliseconds from when a call was due until it ended, however it ended. */
  readonly p50: number
  readonly p95: number
  readonly p99: number
  readonly max: number
  readonly attempts: number
  readonly attemptsPerCall: number
  /** How many failed for each reason. */
  readonly failures: Readonly<Record<string, number>>
}

/** The smallest value that at least `share` of all are not above; 0 of none. Sorted ascending. */
export const percentile = (sorted: ReadonlyArray<number>, share: number): number =>
  sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)] ?? 0

export const figures = (calls: ReadonlyArray<Call>): Figures => {
  const ended = calls.filter((call) => call.endMillis !== undefined)
  const times = ended.map((call) => call.endMillis! - call.dueMillis).toSorted((a, b) => a - b)
  const failures: Record<string, number> = {}
  let attempts = 0
  let failed = 0
  for (const call of ended) {
    attempts += call.attempts
    if (call.failure === undefined) continue
    failed++
    failures[call.failure] = (failures[call.failure] ?? 0) + 1
  }
  const count = ended.length
  return {
    calls: count,
    answered: count - failed,
    success: count === 0 ? 1 : (count - failed) / count,
    p50: percentile(times, 0.5),
    p95: percentile(times, 0.95),
    p99: percentile(times, 0.99),
    max: times.at(-1) ?? 0,
    attempts,
    attemptsPerCall: count === 0 ? 0 : attempts / count,
    failures
  }
}

/** The same calls of both clients. */
export interface Both {
  readonly naive: Figures
  readonly resilient: Figures
}

export interface Row extends Both {
  /** What was done, and to whom: `kill`, `users-2`. */
  readonly kind: Plan.Kind | "none"
  readonly what: string
}

/** One second of the run. */
export interface Second extends Both {
  readonly second: number
}

export interface Verdict {
  readonly says: string
  readonly holds: boolean
  /** Whether the run fails when it does not hold. */
  readonly decides: boolean
}

export interface Setup {
  readonly seconds: number
  readonly rate: number
  readonly seed: number
  readonly servers: ReadonlyArray<string>
  readonly plan: ReadonlyArray<Plan.Fault>
  /** ISO 8601. */
  readonly startedAt: string
  /** Node, its platform and its processors. */
  readonly machine: string
}

export interface Summary extends Setup {
  /** Idempotent calls, by fault. */
  readonly rows: ReadonlyArray<Row>
  /** Idempotent calls, all of them. */
  readonly idempotent: Both
  readonly nonIdempotent: Both
  /** All calls. */
  readonly all: Both
  /** Idempotent calls, by the second in which they were due. */
  readonly perSecond: ReadonlyArray<Second>
  /** Of the resilient client; the naive one has none. */
  readonly circuits: ReadonlyArray<Move>
  readonly verdicts: ReadonlyArray<Verdict>
}

/** A server as tables call it. */
export const serverName = (index: number): string => `users-${index + 1}`

/** Runs of a minute and more are held to these. */
const held = 60
const targetSuccess = 0.999
const targetAttempts = 1.15

export const make = (setup: Setup, naive: Calls, resilient: Calls): Summary => {
  const both = (which: (call: Call) => boolean): Both => ({
    naive: figures(naive.all.filter(which)),
    resilient: figures(resilient.all.filter(which))
  })
  const { plan, seconds } = setup
  const rows = [undefined, ...plan].map((fault): Row => ({
    kind: fault?.kind ?? "none",
    what: fault === undefined ? "no fault yet" : `${serverName(fault.server)}: ${Plan.descriptions[fault.kind]}`,
    ...both((call) => call.idempotent && Plan.at(plan, call.dueMillis / 1000) === fault)
  }))
  const perSecond = perSecondOf(seconds, naive, resilient)
  const idempotent = both((call) => call.idempotent)
  const all = both(() => true)
  return {
    ...setup,
    rows,
    idempotent,
    nonIdempotent: both((call) => !call.idempotent),
    all,
    perSecond,
    circuits: resilient.moves,
    verdicts: verdictsOf(seconds, idempotent, all)
  }
}

const perSecondOf = (seconds: number, naive: Calls, resilient: Calls): ReadonlyArray<Second> => {
  const count = Math.ceil(seconds)
  const bySecond = ({ all }: Calls) => {
    const buckets: Array<Array<Call>> = Array.from({ length: count }, () => [])
    for (const call of all) if (call.idempotent) buckets[Math.floor(call.dueMillis / 1000)]?.push(call)
    return buckets.map(figures)
  }
  const [n, r] = [bySecond(naive), bySecond(resilient)]
  return n.map((figures, second) => ({ second, naive: figures, resilient: r[second]! }))
}

const verdictsOf = (seconds: number, idempotent: Both, all: Both): ReadonlyArray<Verdict> => {
  const long = seconds >= held
  const success = (figures: Figures) => percent(figures.success, 2)
  return [
    {
      says: `the resilient client answers more of its idempotent calls: ${success(idempotent.resilient)} against ${
        success(idempotent.naive)
      }`,
      holds: idempotent.resilient.success > idempotent.naive.success,
      decides: true
    },
    {
      says: `it answers at least ${percent(targetSuccess, 1)} of them: ${success(idempotent.resilient)}`,
      holds: idempotent.resilient.success >= targetSuccess,
      decides: long
    },
    {
      says: `it makes at most ${targetAttempts} attempts per call: ${all.resilient.attemptsPerCall.toFixed(3)}`,
      holds: all.resilient.attemptsPerCall <= targetAttempts,
      decides: long
    }
  ]
}

/** Whether the run showed what it is there to show. */
export const passed = ({ verdicts }: Summary): boolean => verdicts.every(({ decides, holds }) => holds || !decides)

/** A ratio in percent, rounded down, so that what is not all never reads as all. */
export const percent = (ratio: number, digits: number): string => {
  const scale = 10 ** (digits + 2)
  return `${(Math.floor(ratio * scale + 1e-6) / scale * 100).toFixed(digits)} %`
}

/** Milliseconds as a person reads them. */
export const millis = (value: number): string =>
  value >= 10_000
    ? `${(value / 1000).toFixed(1)} s`
    : value >= 100
    ? `${value.toFixed(0)} ms`
    : `${value.toFixed(1)} ms`
