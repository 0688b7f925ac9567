/**
 * One permit per interval, handed out in turn.
 *
 * Time is cut into slots of `windowMillis / limit`, numbered from the moment the
 * meter was made, and the state is the number of the next free slot: a whole
 * number, so that a billion permits do not drift. Taking permits takes slots;
 * the last of them says how long to wait. A slot that began without being taken
 * may still be used until it ends, and so may the `burst - 1` slots before it.
 * An idle meter saves up no more than that.
 *
 * Since slots are aligned, not spaced from the last use, a permit at the end of
 * a slot and one at the start of the next may follow each other closely: in any
 * span of time at most `span / interval + burst + 1` permits fall due.
 *
 * Source: GCRA, ITU-T I.371 annex A; the alignment, failsafe-go's smooth limiter.
 */
import type { Meter, Rate } from "./meter.ts"

export class Gcra implements Meter {
  private rate: Rate
  private origin: number
  private next = -Infinity

  constructor(rate: Rate, now: number) {
    this.rate = rate
    this.origin = now
  }

  dueAt(now: number, permits: number): number {
    return this.instantOf(this.firstFree(now) + permits - 1)
  }

  take(now: number, permits: number): number {
    this.next = this.firstFree(now) + permits
    return this.instantOf(this.next - 1)
  }

  refund(permits: number): void {
    this.next -= permits
  }

  available(now: number): number {
    return Math.max(0, this.slotOf(now) - this.firstFree(now) + 1)
  }

  drain(now: number): void {
    this.next = Math.max(this.next, this.slotOf(now) + 1)
  }

  change(now: number, rate: Rate): void {
    const available = Math.min(this.available(now), rate.burst)
    const slots = Math.max(0, (this.instantOf(this.firstFree(now)) - now) / this.interval)
    this.rate = rate
    this.next = available > 0 ? 1 - available : Math.ceil(slots)
    // As many intervals as were to wait, in the new length.
    this.origin = now + (available > 0 ? 0 : slots - this.next) * this.interval
  }

  private get interval(): number {
    return this.rate.windowMillis / this.rate.limit
  }

  private firstFree(now: number): number {
    return Math.max(this.next, this.slotOf(now) - this.rate.burst + 1)
  }

  private slotOf(now: number): number {
    return Math.floor(((now - this.origin) * this.rate.limit) / this.rate.windowMillis)
  }

  private instantOf(slot: number): number {
    return this.origin + (slot * this.rate.windowMillis) / this.rate.limit
  }
}
