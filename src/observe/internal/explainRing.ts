/**
 * The last logs, of which the failed and the slow stay longest: a log that is
 * neither goes before any that is. Bounded; state is one list each.
 */
import type { Explanation } from "./explainSteps.ts"

export class Ring {
  private readonly capacity: number
  private readonly slowMillis: number
  private readonly plain: Array<Explanation> = []
  private readonly notable: Array<Explanation> = []

  constructor(capacity: number, slowMillis: number) {
    this.capacity = capacity
    this.slowMillis = slowMillis
  }

  add(log: Explanation): void {
    const isNotable = log.result === "failure" || log.durationMillis >= this.slowMillis
    if (isNotable) this.notable.push(log)
    else this.plain.push(log)
    if (this.plain.length + this.notable.length <= this.capacity) return
    if (this.plain.length > 0) this.plain.shift()
    else this.notable.shift()
  }

  /** Latest end first. */
  recent(): ReadonlyArray<Explanation> {
    const endOf = (log: Explanation) => log.startedAtMillis + log.durationMillis
    return [...this.plain, ...this.notable].toSorted((a, b) => endOf(b) - endOf(a))
  }
}
