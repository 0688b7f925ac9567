/**
 * Permits for so many at a time, and a bounded queue for those who come too
 * early.
 *
 * Whoever waits longest is next, whatever its criticality, and nobody who has
 * just come overtakes it. Criticality decides who may wait when not all can: in
 * a full queue a newcomer takes the place of the youngest of the least critical
 * waiters, if that one is less critical than itself. So nobody starves who has
 * been let in, and under overload the queue fills with what matters.
 *
 * The limit may change at any time. Permits that are out when it shrinks are not
 * called back: none is given until enough have come back.
 */
import * as Criticality from "../../contract/Criticality.ts"
import { Line, Waiter } from "./queue.ts"

/** A waiter that counts: `rank` 0 is the most critical. */
export abstract class RankedWaiter extends Waiter {
  abstract readonly rank: number
  /** Its number in the order of coming. */
  order = 0
}

export class Permits<W extends RankedWaiter> {
  limit: number
  maxQueue: number
  inFlight = 0
  queued = 0
  private came = 0
  /** One line per criticality; the oldest of all is the oldest of one of them. */
  private readonly lines: ReadonlyArray<Line<W>> = Criticality.levels.map(() => new Line<W>())

  constructor(limit: number, maxQueue: number) {
    this.limit = limit
    this.maxQueue = maxQueue
  }

  /** Permits that the next ones to come would get at once. */
  get available(): number {
    return this.queued > 0 ? 0 : Math.max(0, this.limit - this.inFlight)
  }

  /** Takes a permit if one is free and nobody waits for it. */
  take(): boolean {
    if (this.inFlight >= this.limit || this.queued > 0) return false
    this.inFlight++
    return true
  }

  /** Whether a newcomer of a rank would get a place in the queue. */
  hasPlace(rank: number): boolean {
    return this.queued < this.maxQueue || this.leastCritical(rank) !== undefined
  }

  /** Queues a waiter for which there is a place, and returns the one that had to go for it. */
  enqueue(waiter: W): W | undefined {
    const displaced = this.queued < this.maxQueue ? undefined : this.leastCritical(waiter.rank)
    if (displaced !== undefined) this.leave(displaced)
    waiter.order = this.came++
    this.lines[waiter.rank]!.push(waiter)
    this.queued++
    return displaced
  }

  /** A waiter gives up; whether it was still waiting. */
  leave(waiter: W): boolean {
    const left = this.lines[waiter.rank]!.remove(waiter)
    if (left) this.queued--
    return left
  }

  /** A permit has come back. */
  giveBack(): void {
    this.inFlight--
  }

  /** Hands a free permit to whoever waits longest. */
  next(): W | undefined {
    if (this.queued === 0 || this.inFlight >= this.limit) return undefined
    let next: W | undefined
    for (const { oldest } of this.lines) {
      if (oldest !== undefined && (next === undefined || oldest.order < next.order)) next = oldest
    }
    this.leave(next!)
    this.inFlight++
    return next
  }

  /** Who goes first if one has to: the youngest of the least critical, if it is less critical than `rank`. */
  private leastCritical(rank: number): W | undefined {
    for (let least = this.lines.length - 1; least > rank; least--) {
      const { youngest } = this.lines[least]!
      if (youngest !== undefined) return youngest
    }
    return undefined
  }
}
