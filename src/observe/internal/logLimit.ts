/**
 * How many lines of one sort are written: one in `sample`, and at most `burst`
 * per window. What is not written is counted and told with the next line that
 * is. Pure: the time is given.
 */

export interface Limits {
  readonly burst: number
  readonly windowMillis: number
  readonly sample: number
}

/** What has been written of one sort. */
interface Sort {
  windowAt: number
  written: number
  seen: number
  /** Not written since the last line that was. */
  suppressed: number
}

/** The sorts known apart; further ones share one, so that names fill no memory. */
const maxSorts = 1000
const other = "other"

export class Limit {
  private readonly limits: Limits
  private readonly sorts = new Map<string, Sort>()

  constructor(limits: Limits) {
    this.limits = limits
  }

  /** How many lines before this one were suppressed, if it is to be written; `undefined` if it is not. */
  admit(name: string, sampled: boolean, now: number): number | undefined {
    const { burst, sample, windowMillis } = this.limits
    const sort = this.sortOf(name, now)
    // Another clock's time may lie before.
    if (now - sort.windowAt >= windowMillis || now < sort.windowAt) {
      sort.windowAt = now
      sort.written = 0
    }
    const drawn = !sampled || sort.seen++ % sample === 0
    if (!drawn || sort.written >= burst) {
      sort.suppressed++
      return undefined
    }
    sort.written++
    const { suppressed } = sort
    sort.suppressed = 0
    return suppressed
  }

  /** What is still to be told, by sort; told once. */
  rest(): ReadonlyArray<readonly [name: string, suppressed: number]> {
    const rest = Array.from(this.sorts, ([name, { suppressed }]) => [name, suppressed] as const)
    this.sorts.clear()
    return rest.filter(([, suppressed]) => suppressed > 0)
  }

  private sortOf(name: string, now: number): Sort {
    const known = this.sorts.get(name)
    if (known !== undefined) return known
    if (this.sorts.size >= maxSorts && name !== other) return this.sortOf(other, now)
    const sort: Sort = { windowAt: now, written: 0, seen: 0, suppressed: 0 }
    this.sorts.set(name, sort)
    return sort
  }
}
