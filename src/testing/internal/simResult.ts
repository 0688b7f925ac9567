/** What a simulation comes to. Everything is plain data: `JSON.stringify` of it is the same for the same options and seed. */
import type { State } from "./simStats.ts"

/** Latencies in milliseconds, within half a per cent; 0 where there are none. */
export interface Quantiles {
  readonly p50: number
  readonly p90: number
  readonly p99: number
  readonly p999: number
  readonly mean: number
  readonly max: number
}

/** One interval. Rates are per second. */
export interface Row {
  /** When it begins, in milliseconds. */
  readonly at: number
  /** Calls made. */
  readonly offered: number
  /** Calls answered. */
  readonly goodput: number
  /** Calls that failed. */
  readonly failed: number
  /** Attempts sent. */
  readonly attempts: number
  /** Picks that a policy rejected before anything was sent. */
  readonly rejected: number
  /** Of the calls made in the interval, the share that was answered in the end; absent if none was made. */
  readonly success: number | undefined
  /** Latencies of the calls that were answered in the interval. */
  readonly p50: number
  readonly p99: number
  /** At its end: attempts that wait for an answer, requests that wait for a worker, and requests being worked on. */
  readonly inFlight: number
  readonly queued: number
  readonly running: number
  /** Circuits by state, on average over the interval. */
  readonly circuits: Readonly<Record<State, number>>
}

/** What became of the attempts of one tier. */
export interface TierTotals {
  readonly attempts: number
  readonly retries: number
  readonly hedges: number
  /** Attempts per call made of it. */
  readonly amplification: number
  /** Requests that reached a server, and those it refused because its queue was full. */
  readonly arrived: number
  readonly refused: number
  /** Milliseconds workers were busy, and the share of them that answered nobody. */
  readonly busyMillis: number
  readonly wasted: number
}

export interface Totals {
  /** Calls made by the clients; with a fan-out, each of its calls. */
  readonly calls: number
  readonly answered: number
  readonly failed: number
  /** Arrivals that have ended, and those all of whose calls were answered. Without a fan-out, those of the calls. */
  readonly arrivals: number
  readonly arrivalsAnswered: number
  /** Calls that had not ended a minute after the last one was made. */
  readonly pending: number
  /** Share of the calls that were answered. */
  readonly success: number
  /** Calls made, calls answered and attempts sent per second of the horizon. */
  readonly offeredPerSecond: number
  readonly goodputPerSecond: number
  readonly attemptsPerSecond: number
  /** Attempts sent per call; of all tiers together in `tiers`. */
  readonly amplification: number
  readonly attempts: number
  readonly retries: number
  readonly hedges: number
  /** The share of the servers' work, in all tiers, that answered nobody. */
  readonly wasted: number
  /** Why calls failed: the tag of the reason, most frequent first. */
  readonly failures: Readonly<Record<string, number>>
  /** Picks that a policy rejected before anything was sent, by reason. */
  readonly rejections: Readonly<Record<string, number>>
  /** Answers of a fallback or a cache. */
  readonly substituted: number
  /** Of the calls that were answered, and of all that ended. With a fan-out: of arrivals, until the last call ended. */
  readonly latency: Quantiles
  readonly latencyOfAll: Quantiles
  /**
   * How long after the scenario's end calls made were answered again as often as before it (90 % of that share, for five
   * intervals); `null` for not within the horizon, `undefined` without a scenario.
   */
  readonly recoveryMillis: number | null | undefined
  /** Share of calls answered that were made before the scenario began, while it lasted, and after its end. */
  readonly successBefore: number | undefined
  readonly successDuring: number | undefined
  readonly successAfter: number | undefined
  readonly transitions: number
  /** Trips: transitions to `Open` from any other state. */
  readonly trips: number
}

/** A circuit that moved. */
export interface Transition {
  readonly at: number
  readonly client: number
  readonly policy: string
  readonly from: string
  readonly to: string
  readonly why: string
}

export interface Result {
  readonly policy: string
  readonly scenario: string | undefined
  readonly seed: string | number
  readonly horizonMillis: number
  readonly intervalMillis: number
  /** When the scenario begins and ends. */
  readonly disturbance: { readonly from: number; readonly until: number } | undefined
  readonly clients: number
  readonly servers: number
  readonly totals: Totals
  /** Outermost first. */
  readonly tiers: ReadonlyArray<TierTotals>
  readonly series: ReadonlyArray<Row>
  /** The first thousand; `totals.transitions` counts all. */
  readonly transitions: ReadonlyArray<Transition>
  /** Timers still live when all clients had closed: 0. */
  readonly timers: number
}
