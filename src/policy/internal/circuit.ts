/**
 * The circuit as a pure function: no clock, no effects, no callbacks.
 *
 *              trip                  until is reached
 *   Closed ───────────▶ Open ─────────────────────────▶ HalfOpen
 *     ▲                  ▲  ▲     the probes failed        │
 *     │                  │  └──────────────────────────────┤
 *     │    trip, or      │                                 │
 *     │  bad at the floor│                                 │ the probes succeeded
 *     └── Recovering ────┘◀────────────────────────────────┤
 *     ▲   (where there is a ramp)                          │
 *     └────────────────────────────────────────────────────┘
 *
 *   from and to anywhere, by an operator: ForcedOpen, Disabled, MetricsOnly
 *
 * Every transition begins a new generation, and a permit carries the generation
 * it was issued in: an outcome from an older one changes nothing, so a slow call
 * admitted before the trip can neither close nor reopen the circuit. A probe's
 * permit is a lease as well, and one that has run out is a failed probe.
 *
 * States are replaced, with one exception: what is counted while calls are
 * admitted (windows, streaks, a ramp's step) is changed in place, because it
 * changes with every call. It belongs to its state alone.
 *
 * Time moves only what is looked at: nothing here waits. Times are milliseconds
 * on one monotonic clock; a draw is uniform in [0, 1).
 */
import type { Stamp } from "./stamp.ts"
import * as Window from "./window.ts"

/** Checked and complete; what is switched off is `Infinity`. */
export interface Options {
  readonly consecutiveFailures: number
  /** The streak starts again this often after closing. */
  readonly resetEveryMillis: number
  readonly failureRatio: number
  /** Failed share of a ramp's step from which on the ramp backs off: `failureRatio`, or one half. */
  readonly backOffRatio: number
  readonly slowRatio: number
  /** A call is slow when it took longer than this. */
  readonly slowMillis: number
  readonly minimumCalls: number
  readonly window: Window.Shape
  /** How long the first, second, … opening in a row lasts; the last goes on. Not empty. */
  readonly openForMillis: ReadonlyArray<number>
  readonly maxOpenForMillis: number
  /** The share of the open duration that is random. */
  readonly jitter: number
  readonly probes: number
  readonly concurrency: number
  /** Successful probes, of `probes`, that close. */
  readonly required: number
  readonly leaseMillis: number
  readonly maxHalfOpenMillis: number
  /** From closing probes to all calls; 0 for at once. */
  readonly rampMillis: number
  readonly initialShare: number
}

/** What an admitted call holds. `startedAt` is moved by what waits inside. */
export interface Permit extends Stamp {
  readonly generation: number
}

interface State {
  readonly generation: number
  readonly since: number
  /** Openings in a row, of which the last lasted `openForMillis`. */
  readonly openings: number
  readonly openForMillis: number
  /** What led here, with the figures that decided. */
  readonly why: string
  /** The random part of the next opening, drawn when this state's ancestor was made. */
  readonly draw: number
}

interface Counted {
  readonly window: Window.Window
  /** Failures in a row, and the reset period they are of. */
  streak: number
  period: number
}

export interface Closed extends State, Counted {
  readonly _tag: "Closed"
}

export interface Open extends State {
  readonly _tag: "Open"
  readonly until: number
}

export interface HalfOpen extends State {
  readonly _tag: "HalfOpen"
  /** When the first of the probes that are to decide was made. */
  readonly probingSince: number
  /** The permits of the probes that have not ended. */
  readonly held: ReadonlyArray<Permit>
  readonly successes: number
  readonly failures: number
  readonly slow: number
}

/** `share` of the calls are admitted; it grows by a step every `rampMillis / steps`. */
export interface Recovering extends State, Counted {
  readonly _tag: "Recovering"
  /** Steps taken, of `steps`. */
  readonly level: number
  readonly share: number
  readonly stepSince: number
  stepCalls: number
  stepFailures: number
  stepSlow: number
}

/** An operator's word. `resume` is what follows it. */
export interface ForcedOpen extends State {
  readonly _tag: "ForcedOpen"
  readonly resume: Closed | Open
}

export interface Disabled extends State {
  readonly _tag: "Disabled"
  readonly resume: Closed | Open
}

/** Counts and never rejects. */
export interface MetricsOnly extends State, Counted {
  readonly _tag: "MetricsOnly"
  readonly resume: Closed | Open
  /** The condition that holds at present: said once per excursion. */
  exceeded: string | undefined
}

export type Override = ForcedOpen | Disabled | MetricsOnly
export type Circuit = Closed | Open | HalfOpen | Recovering | Override

/** Steps of a ramp: 10 %, 20 %, … and closed at 100 %. */
export const steps = 9

/** The largest instant: an open duration that never ends must still be a number. */
const never = Number.MAX_SAFE_INTEGER

const counted = (options: Options): Counted => ({ window: Window.make(options.window), streak: 0, period: 0 })

/** A new circuit. */
export const make = (now: number, draw: number, options: Options): Closed => ({
  _tag: "Closed",
  generation: 0,
  since: now,
  openings: 0,
  openForMillis: 0,
  why: "new",
  draw,
  ...counted(options)
})

/** What the next state takes over. */
const after = (from: State, now: number, why: string): State => ({
  generation: from.generation + 1,
  since: now,
  openings: from.openings,
  openForMillis: from.openForMillis,
  why,
  draw: from.draw
})

const close = (from: State, now: number, why: string, options: Options): Closed => ({
  ...after(from, now, why),
  _tag: "Closed",
  ...counted(options)
})

/** The openings in a row with one at `now`: closed for as long as it was last open, what happened before is over. */
const openingsWith = (from: Circuit, now: number): number =>
  from._tag === "Closed" && now - from.since >= from.openForMillis ? 1 : from.openings + 1

const openFor = (from: Circuit, openForMillis: number, why: string, now: number): Open => ({
  ...after(from, now, why),
  _tag: "Open",
  openings: openingsWith(from, now),
  openForMillis,
  until: Math.min(never, now + openForMillis)
})

/** How long our own schedule says; the jitter shortens it, so that the cap stays a cap. */
const ownMillis = (openings: number, draw: number, options: Options): number => {
  const { jitter, maxOpenForMillis, openForMillis } = options
  const millis = openForMillis[Math.min(openings, openForMillis.length) - 1]!
  return Math.min(maxOpenForMillis, millis) * (1 - jitter * draw)
}

/** How long the server asked, capped; the jitter lengthens it, because it is a floor. */
const askedMillis = (hint: number, draw: number, options: Options): number =>
  Math.min(options.maxOpenForMillis, hint * (1 + options.jitter * draw))

/** Opens for as long as the number of openings in a row says, or as the server asked where that is longer. */
export const open = (from: Circuit, why: string, hint: number, now: number, options: Options): Open => {
  const own = ownMillis(openingsWith(from, now), from.draw, options)
  return openFor(from, Math.max(own, askedMillis(hint, from.draw, options)), why, now)
}

const halfOpen = (from: Open, draw: number, now: number): HalfOpen => ({
  ...after(from, now, "open long enough"),
  _tag: "HalfOpen",
  draw,
  probingSince: now,
  held: [],
  successes: 0,
  failures: 0,
  slow: 0
})

const recovering = (from: State, now: number, why: string, options: Options): Recovering => ({
  ...after(from, now, why),
  _tag: "Recovering",
  ...counted(options),
  ...stepOf(0, now, options)
})

const stepOf = (level: number, stepSince: number, { initialShare }: Options) => ({
  level,
  share: initialShare + ((1 - initialShare) * level) / steps,
  stepSince,
  stepCalls: 0,
  stepFailures: 0,
  stepSlow: 0
})

/** The probes succeeded. */
const recover = (from: HalfOpen, now: number, options: Options): Circuit => {
  const why = `${from.successes} of ${from.successes + from.failures} probes succeeded`
  return options.rampMillis > 0 ? recovering(from, now, why, options) : close(from, now, why, options)
}

const reopen = (from: HalfOpen, hint: number, now: number, options: Options): Open => {
  const { failures, slow, successes } = from
  const ended = successes + failures
  const why = slow === 0
    ? `${failures} of ${ended} probes failed`
    : `${failures} of ${ended} probes failed, ${slow} were slow`
  return open(from, hint > 0 ? whyAsked(hint) : why, hint, now, options)
}

const whyAsked = (hint: number): string => `asked to stay away for ${Math.ceil(hint)}ms`

/** Decides as soon as no probe to come could change it, in either direction. */
const settle = (from: HalfOpen, now: number, options: Options): Circuit => {
  const { probes, required, slowRatio } = options
  const { failures, slow, successes } = from
  if (failures > probes - required || slow / probes >= slowRatio) return reopen(from, 0, now, options)
  const toCome = probes - successes - failures
  return successes >= required && (slow + toCome) / probes < slowRatio ? recover(from, now, options) : from
}

/**
 * What time alone has made of the circuit: leases that ran out are failed
 * probes, a half-open circuit is decided when its time is up, a ramp has grown.
 * Each dated from when it was due, so that it does not matter who looks when. An
 * open circuit stays open until a call comes to probe.
 */
export const elapse = (circuit: Circuit, now: number, options: Options): Circuit => {
  switch (circuit._tag) {
    case "HalfOpen":
      return elapseHalfOpen(circuit, now, options)
    case "Recovering":
      return elapseRecovering(circuit, now, options)
    default:
      return circuit
  }
}

const elapseHalfOpen = (circuit: HalfOpen, now: number, options: Options): Circuit => {
  // Nobody probes, so nothing is to be decided.
  if (isIdle(circuit)) return circuit
  const over = circuit.probingSince + options.maxHalfOpenMillis
  const hung = firstLease(circuit)
  if (hung !== undefined && hung.startedAt + options.leaseMillis < over) {
    const at = hung.startedAt + options.leaseMillis
    if (now < at) return circuit
    const next = { ...circuit, held: without(circuit.held, hung), failures: circuit.failures + 1 }
    return elapse(settle(next, at, options), now, options)
  }
  return now < over ? circuit : elapse(decide(circuit, over, options), now, options)
}

const isIdle = ({ failures, held, successes }: HalfOpen): boolean => held.length + successes + failures === 0

/** The probe whose lease runs out first. While a probe waits inside, its lease does not run. */
const firstLease = ({ held }: HalfOpen): Permit | undefined => {
  let first: Permit | undefined
  for (const permit of held) {
    if (permit.waiting === 0 && (first === undefined || permit.startedAt < first.startedAt)) first = permit
  }
  return first
}

const without = (held: ReadonlyArray<Permit>, permit: Permit): ReadonlyArray<Permit> =>
  held.filter((other) => other !== permit)

/** The time to be half-open is up: what has not ended has failed. */
const decide = (circuit: HalfOpen, at: number, options: Options): Circuit => {
  const next = { ...circuit, held: [], failures: circuit.failures + circuit.held.length }
  const ended = next.successes + next.failures
  return next.successes * options.probes >= options.required * ended && next.slow / ended < options.slowRatio
    ? recover(next, at, options)
    : reopen(next, 0, at, options)
}

/** Additive increase with time, multiplicative decrease by a step that was bad. */
const elapseRecovering = (circuit: Recovering, now: number, options: Options): Circuit => {
  let current = circuit
  for (;;) {
    const at = stepEnd(current, options)
    if (now < at) return current
    const { level, share, stepCalls, stepFailures, stepSlow } = current
    const failed = stepFailures / stepCalls >= options.backOffRatio
    const bad = failed || stepSlow / stepCalls >= options.slowRatio
    if (bad && level === 0) {
      const what = failed ? `${stepFailures} of ${stepCalls} failed` : `${stepSlow} of ${stepCalls} were slow`
      return open(current, `${what} with a share of ${share} admitted`, 0, at, options)
    }
    const next = bad ? level >> 1 : level + 1
    if (next === steps) return close(current, at, "ramp completed", options)
    current = { ...current, ...stepOf(next, at, options) }
  }
}

const stepEnd = ({ stepSince }: Recovering, { rampMillis }: Options): number => stepSince + rampMillis / steps

/** What a circuit said to a call. Without a permit the call is rejected. */
export interface Admission {
  readonly circuit: Circuit
  readonly permit: Permit | undefined
}

const admitted = (circuit: Circuit, now: number): Admission => ({
  circuit,
  permit: { generation: circuit.generation, startedAt: now, waiting: 0 }
})

const rejected = (circuit: Circuit): Admission => ({ circuit, permit: undefined })

/** Admits a call or rejects it. `draw` decides about a share of the calls. */
export const admit = (circuit: Circuit, now: number, draw: number, options: Options): Admission => {
  const current = elapse(circuit, now, options)
  switch (current._tag) {
    case "Closed":
    case "Disabled":
    case "MetricsOnly":
      return admitted(current, now)
    case "ForcedOpen":
      return rejected(current)
    case "Recovering":
      return draw < current.share ? admitted(current, now) : rejected(current)
    case "Open":
      return now >= current.until ? probe(halfOpen(current, draw, now), now, options) : rejected(current)
    case "HalfOpen":
      return probe(current, now, options)
  }
}

const probe = (circuit: HalfOpen, now: number, options: Options): Admission => {
  if (!hasRoom(circuit, options)) return rejected(circuit)
  const permit: Permit = { generation: circuit.generation, startedAt: now, waiting: 0 }
  const probingSince = isIdle(circuit) ? now : circuit.probingSince
  return { circuit: { ...circuit, probingSince, held: [...circuit.held, permit] }, permit }
}

const hasRoom = ({ failures, held, successes }: HalfOpen, { concurrency, probes }: Options): boolean =>
  held.length < concurrency && successes + failures + held.length < probes

/** Whether `admit` could admit at `now`. */
export const wouldAdmit = (circuit: Circuit, now: number, options: Options): boolean => {
  const current = elapse(circuit, now, options)
  switch (current._tag) {
    case "Open":
      return now >= current.until
    case "HalfOpen":
      return hasRoom(current, options)
    case "ForcedOpen":
      return false
    default:
      return true
  }
}

/** How long until time alone changes what a circuit that has just rejected says; `undefined` where it does not. */
export const retryAfter = (circuit: Circuit, now: number, options: Options): number | undefined => {
  switch (circuit._tag) {
    case "Open":
      return circuit.until - now
    case "HalfOpen": {
      const hung = firstLease(circuit)
      const lease = hung === undefined ? Infinity : hung.startedAt + options.leaseMillis
      return Math.min(lease, circuit.probingSince + options.maxHalfOpenMillis) - now
    }
    case "Recovering":
      return stepEnd(circuit, options) - now
    default:
      return undefined
  }
}

/**
 * Counts a call in place, and says which condition holds with it, in words.
 *
 * Where the window is not `timed`, `now` may be anything for a success that was
 * not slow.
 */
export const count = (
  circuit: Closed | Recovering | MetricsOnly,
  failed: boolean,
  slow: boolean,
  now: number,
  options: Options
): string | undefined => {
  const { window } = circuit
  window.add(failed, slow, now)
  if (failed) {
    const period = Math.floor((now - circuit.since) / options.resetEveryMillis)
    circuit.streak = period === circuit.period ? circuit.streak + 1 : 1
    circuit.period = period
    if (circuit.streak >= options.consecutiveFailures) return `${circuit.streak} failures in a row`
  } else circuit.streak = 0
  const { calls, failures, slow: slowCalls } = window
  if (calls < options.minimumCalls) return undefined
  if (failures / calls >= options.failureRatio) return `${failures} of ${calls} calls failed`
  return slowCalls / calls >= options.slowRatio ? `${slowCalls} of ${calls} calls were slow` : undefined
}

/**
 * Records how an admitted call ended, in a circuit that has elapsed and for
 * which it is not late. `hint` is how long the server asked us to stay away in
 * milliseconds, 0 for nothing. Answers with the same circuit where nothing but
 * counts has changed.
 */
export const record = (
  circuit: Circuit,
  permit: Permit,
  failed: boolean,
  slow: boolean,
  hint: number,
  now: number,
  options: Options
): Circuit => {
  switch (circuit._tag) {
    case "Closed":
      return recordClosed(circuit, failed, slow, hint, now, options)
    case "HalfOpen": {
      const next: HalfOpen = {
        ...circuit,
        held: without(circuit.held, permit),
        successes: circuit.successes + (failed ? 0 : 1),
        failures: circuit.failures + (failed ? 1 : 0),
        slow: circuit.slow + (slow ? 1 : 0)
      }
      return hint > 0 ? reopen(next, hint, now, options) : settle(next, now, options)
    }
    case "Recovering": {
      circuit.stepCalls++
      if (failed) circuit.stepFailures++
      if (slow) circuit.stepSlow++
      const why = count(circuit, failed, slow, now, options)
      return why !== undefined || hint > 0 ? open(circuit, why ?? whyAsked(hint), hint, now, options) : circuit
    }
    case "MetricsOnly":
      circuit.exceeded = count(circuit, failed, slow, now, options)
      return circuit
    default:
      return circuit
  }
}

/** `record` for the state nearly every call ends in. */
export const recordClosed = (
  circuit: Closed,
  failed: boolean,
  slow: boolean,
  hint: number,
  now: number,
  options: Options
): Closed | Open => {
  const why = count(circuit, failed, slow, now, options)
  if (why !== undefined) return open(circuit, why, hint, now, options)
  // One answer that says how long to stay away: that long, even where our own duration is longer.
  return hint > 0 ? openFor(circuit, askedMillis(hint, circuit.draw, options), whyAsked(hint), now) : circuit
}

/** Gives a permit back: the call says nothing about the endpoint. */
export const release = (circuit: Circuit, permit: Permit): Circuit =>
  circuit._tag === "HalfOpen" && circuit.held.includes(permit)
    ? { ...circuit, held: without(circuit.held, permit) }
    : circuit

/** Whether a result comes too late to count: its state is over, or its lease ran out. */
export const isLate = (circuit: Circuit, permit: Permit): boolean =>
  circuit.generation !== permit.generation || (circuit._tag === "HalfOpen" && !circuit.held.includes(permit))

/** Opens because somebody says so: for `millis`, or for as long as the schedule says. */
export const trip = (circuit: Circuit, millis: number | undefined, now: number, options: Options): Circuit => {
  const why = "tripped by hand"
  if (isOverride(circuit)) return { ...circuit, resume: trip(circuit.resume, millis, now, options) as Open }
  return millis === undefined ? open(circuit, why, 0, now, options) : openFor(circuit, millis, why, now)
}

/** Closes because somebody says so, and forgets how often it opened. */
export const reset = (circuit: Circuit, now: number, options: Options): Circuit => {
  const closed: Closed = { ...close(circuit, now, "reset by hand", options), openings: 0, openForMillis: 0 }
  return isOverride(circuit) ? { ...circuit, resume: closed } : closed
}

export const isOverride = (circuit: Circuit): circuit is Override =>
  circuit._tag === "ForcedOpen" || circuit._tag === "Disabled" || circuit._tag === "MetricsOnly"

/** An operator takes over, or changes his mind. */
export const override = (circuit: Circuit, tag: Override["_tag"], now: number, options: Options): Circuit => {
  if (circuit._tag === tag) return circuit
  const resume = isOverride(circuit) ? circuit.resume : resumable(circuit, now)
  const next = { ...after(circuit, now, "by hand"), resume }
  switch (tag) {
    case "MetricsOnly":
      return { ...next, _tag: tag, ...counted(options), exceeded: undefined }
    default:
      return { ...next, _tag: tag }
  }
}

/** What an operator's word interrupts. What was being tried is tried again, by the first call. */
const resumable = (circuit: Exclude<Circuit, Override>, now: number): Closed | Open =>
  circuit._tag === "HalfOpen" || circuit._tag === "Recovering"
    ? { ...after(circuit, now, circuit.why), _tag: "Open", until: now }
    : circuit

/** The operator leaves: a closed circuit starts anew, an open one has stayed open. */
export const resume = (circuit: Circuit, now: number, options: Options): Circuit => {
  if (!isOverride(circuit)) return circuit
  return circuit.resume._tag === "Closed"
    ? {
      ...close(circuit, now, "released", options),
      openings: circuit.resume.openings,
      openForMillis: circuit.resume.openForMillis
    }
    : { ...circuit.resume, generation: circuit.generation + 1 }
}

/** A circuit as data: durations instead of instants, and an operator's word left out. */
export type Saved =
  & { readonly openings: number; readonly openForMillis: number; readonly why: string }
  & (
    | {
      readonly _tag: "Closed"
      readonly closedForMillis: number
      readonly streak: number
      readonly window: Window.Cells
    }
    | { readonly _tag: "Open"; readonly remainingMillis: number }
    | { readonly _tag: "Recovering"; readonly level: number }
  )

/** What a snapshot keeps. A half-open circuit keeps that it may probe. */
export const save = (circuit: Circuit, now: number, options: Options): Saved => {
  const { openForMillis, openings, why } = circuit
  const history = { openings, openForMillis, why }
  switch (circuit._tag) {
    case "Closed": {
      const closedForMillis = now - circuit.since
      const streak = Math.floor(closedForMillis / options.resetEveryMillis) === circuit.period ? circuit.streak : 0
      return { _tag: "Closed", ...history, closedForMillis, streak, window: circuit.window.cells(now) }
    }
    case "Open":
      return { _tag: "Open", ...history, remainingMillis: Math.max(0, circuit.until - now) }
    case "HalfOpen":
      return { _tag: "Open", ...history, remainingMillis: 0 }
    case "Recovering":
      return { _tag: "Recovering", ...history, level: circuit.level }
    default:
      return save(circuit.resume, now, options)
  }
}

/** A circuit from a snapshot that was taken `passed` ago. */
export const load = (
  saved: Saved,
  generation: number,
  draw: number,
  passed: number,
  now: number,
  options: Options
): Circuit => {
  const { openForMillis, openings, why } = saved
  const state: State = { generation, since: now, openings, openForMillis, why, draw }
  switch (saved._tag) {
    case "Closed": {
      const closed: Closed = {
        ...state,
        _tag: "Closed",
        since: now - passed - saved.closedForMillis,
        ...counted(options)
      }
      closed.window.load(aged(saved.window, passed), now)
      closed.streak = saved.streak
      closed.period = Math.floor(saved.closedForMillis / options.resetEveryMillis)
      return closed
    }
    case "Open":
      return { ...state, _tag: "Open", until: Math.min(never, now + Math.max(0, saved.remainingMillis - passed)) }
    case "Recovering":
      return options.rampMillis > 0
        ? {
          ...state,
          _tag: "Recovering",
          ...counted(options),
          ...stepOf(Math.min(saved.level, steps - 1), now, options)
        }
        : { ...state, _tag: "Closed", ...counted(options) }
  }
}

const aged = (cells: Window.Cells, passed: number): Window.Cells =>
  cells.by === "calls" ? { ...cells, ageMillis: cells.ageMillis.map((age) => age + passed) } : {
    by: "time",
    buckets: cells.buckets.map((bucket) => ({ ...bucket, ageMillis: bucket.ageMillis + passed }))
  }
