/**
 * The last logs, of which the failed and the slow stay longest: a log that is
 * neither goes before any that is. Bounded; both sets keep the order of coming.
 */
import type { Explanation } from "./explainSteps.ts"

export class Ring {
  private readonly capacity: number
  private readonly slowMillis: number
  // To give up its oldest, an array moves all the others: at 10,000 logs that doubled the cost of a call's log.
  private readonly plain = new Set<Explanation>()
  private readonly notable = new Set<Explanation>()

  constructor(capacity: number, slowMillis: number) {
    this.capacity = capacity
    this.slowMillis = slowMillis
  }

  add(log: Explanation, hasFailed: boolean): void {
    const logs = hasFailed || log.durationMillis >= this.slowMillis ? this.notable : this.plain
    logs.add(log)
    if (this.plain.size + this.notable.size > this.capacity) dropOldest(this.plain.size > 0 ? this.plain : this.notable)
  }

  /** Latest end first. */
  recent(): ReadonlyArray<Explanation> {
    const endOf = (log: Explanation) => log.startedAtMillis + log.durationMillis
    return [...this.plain, ...this.notable].toSorted((a, b) => endOf(b) - endOf(a))
  }
}

const dropOldest = (logs: Set<Explanation>): void => {
  for (const oldest of logs) {
    logs.delete(oldest)
    return
  }
}
