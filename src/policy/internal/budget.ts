/**
 * The ledger of a retry budget: what first attempts earn and retries spend.
 *
 * Two sliding windows. In the short one (`ttl`) every call whose first attempt
 * succeeded earns `ratio` of a token. In the long one (100 s) every first
 * attempt, whatever became of it, earns `reserve` of a token, so that a client
 * that makes few calls, or none that work, has one to give; of these at most one
 * is spent per short window, because a busy client whose calls all fail helps
 * nobody by retrying. A token is granted when together they hold one. Nothing is
 * there at the start: a full start bucket times a thousand clients is an outage
 * of its own (1.46 attempts per call instead of 1.10).
 *
 * What is spent stays on the books as long as what was earned, so whatever the
 * order of events, in all
 *
 *   tokens granted <= ratio × successes + reserve × first attempts
 *
 * and at one moment at most what one short window earned, and one more.
 *
 * Times are milliseconds on one monotonic clock; a time before the latest one
 * seen counts as the latest. A ledger is mutable and only these functions
 * write it.
 */

export interface Options {
  /** Tokens earned by a call whose first attempt succeeded. */
  readonly ratio: number
  /** Tokens earned by any first attempt. */
  readonly reserve: number
  /** How long what `ratio` earned may be spent. */
  readonly ttlMillis: number
}

/** Over how long the reserve is a share of first attempts. */
export const reserveMillis = 100_000

/** Slices of a window: it forgets a tenth at a time, and holds between nine and ten tenths. */
const slices = 10

interface Slice {
  successes: number
  firsts: number
  /** Tokens spent from what `ratio` earned, and from the reserve. */
  earnedSpent: number
  reserveSpent: number
}

/** Sums over the last `slices` slices. */
interface Window extends Slice {
  readonly sliceMillis: number
  readonly ring: ReadonlyArray<Slice>
  /** The number of the present slice since time 0. */
  present: number
}

export interface Ledger {
  options: Options
  short: Window
  readonly long: Window
}

/** A granted token: how much of it came from where, and which slices paid, so that it can go back. */
export interface Token {
  readonly earned: number
  readonly reserve: number
  readonly short: Window
  readonly shortSlice: number
  readonly longSlice: number
}

const emptySlice = (): Slice => ({ successes: 0, firsts: 0, earnedSpent: 0, reserveSpent: 0 })

const makeWindow = (sliceMillis: number): Window => ({
  ...emptySlice(),
  sliceMillis,
  ring: Array.from({ length: slices }, emptySlice),
  present: -Infinity
})

export const make = (options: Options): Ledger => ({
  options,
  short: makeWindow(options.ttlMillis / slices),
  long: makeWindow(reserveMillis / slices)
})

/**
 * Goes on with other options. First attempts stay on the books and are worth what these say; with another `ttl` the
 * short window, which is that long, begins anew.
 */
export const change = (ledger: Ledger, options: Options): void => {
  if (options.ttlMillis !== ledger.options.ttlMillis) ledger.short = makeWindow(options.ttlMillis / slices)
  ledger.options = options
}

const clear = (slice: Slice): void => {
  slice.successes =
    slice.firsts =
    slice.earnedSpent =
    slice.reserveSpent =
      0
}

const sliceAt = (window: Window, number: number): Slice => window.ring[((number % slices) + slices) % slices]!

/** Forgets what is older than the window. The sums are taken anew: subtracting would let rounding errors grow. */
const roll = (window: Window, now: number): Slice => {
  const present = Math.floor(now / window.sliceMillis)
  if (present > window.present) {
    const from = Math.max(window.present + 1, present - slices + 1)
    for (let number = from; number <= present; number++) clear(sliceAt(window, number))
    window.present = present
    clear(window)
    for (const slice of window.ring) {
      window.successes += slice.successes
      window.firsts += slice.firsts
      window.earnedSpent += slice.earnedSpent
      window.reserveSpent += slice.reserveSpent
    }
  }
  return sliceAt(window, window.present)
}

/** Records that the first attempt of a call has ended. */
export const deposit = (ledger: Ledger, succeeded: boolean, now: number): void => {
  count(ledger.short, succeeded, now)
  count(ledger.long, succeeded, now)
}

const count = (window: Window, succeeded: boolean, now: number): void => {
  const slice = roll(window, now)
  slice.firsts++
  window.firsts++
  if (!succeeded) return
  slice.successes++
  window.successes++
}

const earned = ({ options, short }: Ledger): number => options.ratio * short.successes - short.earnedSpent

const reserve = ({ long, options, short }: Ledger): number =>
  Math.min(options.reserve * long.firsts - long.reserveSpent, 1 - short.reserveSpent)

/** Tokens that could be granted now; a fraction, and never negative. */
export const balance = (ledger: Ledger, now: number): number => {
  roll(ledger.short, now)
  roll(ledger.long, now)
  return Math.max(0, earned(ledger)) + Math.max(0, reserve(ledger))
}

/** 0.1 added ten times is less than 1. */
const rounding = 1e-9

const spend = (window: Window, slice: Slice, fromEarned: number, fromReserve: number): void => {
  slice.earnedSpent += fromEarned
  window.earnedSpent += fromEarned
  slice.reserveSpent += fromReserve
  window.reserveSpent += fromReserve
}

/** Grants a token, taking what was earned before the reserve; `undefined` when there is less than one. */
export const withdraw = (ledger: Ledger, now: number): Token | undefined => {
  if (balance(ledger, now) < 1 - rounding) return undefined
  const fromEarned = Math.min(1, Math.max(0, earned(ledger)))
  const { long, short } = ledger
  spend(short, sliceAt(short, short.present), fromEarned, 1 - fromEarned)
  spend(long, sliceAt(long, long.present), fromEarned, 1 - fromEarned)
  return { earned: fromEarned, reserve: 1 - fromEarned, short, shortSlice: short.present, longSlice: long.present }
}

/**
 * Takes back a token that bought nothing. A slice that is forgotten by now forgot the token too: giving it to a later
 * one would make tokens out of nothing.
 */
export const refund = (ledger: Ledger, token: Token, now: number): void => {
  const { long, short } = ledger
  roll(short, now)
  roll(long, now)
  if (token.short === short && token.shortSlice > short.present - slices) {
    spend(short, sliceAt(short, token.shortSlice), -token.earned, -token.reserve)
  }
  if (token.longSlice > long.present - slices) {
    spend(long, sliceAt(long, token.longSlice), -token.earned, -token.reserve)
  }
}
