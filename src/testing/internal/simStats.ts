/**
 * What a simulation counts. Everything is a counter, a histogram or one row per
 * interval, so that a million calls take no more memory than a hundred.
 */

/** Logarithmic buckets of 1 %: a quantile is within half a per cent. */
export class Histogram {
  private readonly buckets = new Float64Array(2100)
  count = 0
  max = 0
  private sum = 0

  record(millis: number): void {
    this.buckets[indexOf(millis)]!++
    this.count++
    this.sum += millis
    if (millis > this.max) this.max = millis
  }

  clear(): void {
    this.buckets.fill(0)
    this.count = this.max = this.sum = 0
  }

  /** The value below which a share of what was recorded lies; 0 of nothing. */
  quantile(share: number): number {
    if (this.count === 0) return 0
    const rank = Math.ceil(share * this.count)
    let seen = 0
    for (let i = 0; i < this.buckets.length; i++) {
      seen += this.buckets[i]!
      if (seen >= rank) return Math.min(this.max, smallest * Math.exp((i + 0.5) / perE))
    }
    return this.max
  }

  mean(): number {
    return this.count === 0 ? 0 : this.sum / this.count
  }
}

const smallest = 0.01
const perE = 100
const indexOf = (millis: number): number =>
  millis <= smallest ? 0 : Math.min(2099, Math.floor(Math.log(millis / smallest) * perE))

/** States of a circuit, in the order in which they are listed. */
export const states = ["Closed", "Open", "HalfOpen", "Recovering", "ForcedOpen"] as const
export type State = typeof states[number]
const isState = (text: string): text is State => (states as ReadonlyArray<string>).includes(text)

/** How many circuits are in which state, weighted by time. */
export class Circuits {
  private readonly now: Record<State, number>
  private spent: Record<State, number> = none()
  private since = 0
  private begun = 0
  readonly count: number

  constructor(count: number) {
    this.count = count
    this.now = { ...none(), Closed: count }
  }

  move(from: string, to: string, atMillis: number): void {
    if (!isState(from) || !isState(to)) return
    this.spend(atMillis)
    this.now[from]--
    this.now[to]++
  }

  private spend(atMillis: number): void {
    for (const state of states) this.spent[state] += this.now[state] * (atMillis - this.since)
    this.since = atMillis
  }

  /** The mean number of circuits per state since it was last asked. */
  take(atMillis: number): Record<State, number> {
    this.spend(atMillis)
    const length = Math.max(1e-9, atMillis - this.begun)
    const taken = none()
    for (const state of states) taken[state] = round(this.spent[state] / length)
    this.spent = none()
    this.begun = atMillis
    return taken
  }
}

const none = (): Record<State, number> => ({ Closed: 0, Open: 0, HalfOpen: 0, Recovering: 0, ForcedOpen: 0 })

/** Six significant digits, so that results are short and compare by eye. */
export const round = (value: number): number => (Number.isFinite(value) ? Number(value.toPrecision(6)) : value)

/** Counts by name, in the order in which the names came. */
export class Tally {
  private readonly counts = new Map<string, number>()
  total = 0
  add(name: string): void {
    this.total++
    this.counts.set(name, (this.counts.get(name) ?? 0) + 1)
  }
  /** The largest first. */
  toJSON(): Readonly<Record<string, number>> {
    return Object.fromEntries([...this.counts].sort(([a, n], [b, m]) => m - n || (a < b ? -1 : 1)))
  }
}

/**
 * When a system is well again: the first interval from which on it answers, for
 * `run` intervals in a row or to the end, at least `share` of what it answered
 * before.
 */
export const recovered = (
  answered: ReadonlyArray<number | undefined>,
  from: number,
  baseline: number,
  share = 0.9,
  run = 5
): number | undefined => {
  let since: number | undefined
  for (let i = from; i < answered.length; i++) {
    const now = answered[i]
    if (now === undefined) continue
    if (now < share * baseline) since = undefined
    else since ??= i
    if (since !== undefined && i - since + 1 >= run) return since
  }
  return since
}
