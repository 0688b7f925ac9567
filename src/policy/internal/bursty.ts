/**
 * So many permits per period, all at once if need be.
 *
 * Periods follow each other from the moment the meter was made. Each adds
 * `limit` permits, up to `burst` in all. Permits of future periods may be taken:
 * then the balance is a debt, and the wait is the time until it is paid. The
 * balance is clamped after every payment: paying the debt of one period out of
 * ten idle ones must not leave nine periods' worth of permits.
 *
 * Source: failsafe-go's bursty limiter, with the clamp of resilience4j's.
 */
import type { Meter, Rate } from "./meter.ts"

export class Bursty implements Meter {
  private rate: Rate
  private origin: number
  private period = 0
  private balance: number

  constructor(rate: Rate, now: number) {
    this.rate = rate
    this.origin = now
    this.balance = rate.burst
  }

  dueAt(now: number, permits: number): number {
    this.refill(now)
    const debt = Math.max(0, permits - this.balance)
    return this.origin + (this.period + Math.ceil(debt / this.rate.limit)) * this.rate.windowMillis
  }

  take(now: number, permits: number): number {
    const due = this.dueAt(now, permits)
    this.balance -= permits
    return due
  }

  refund(permits: number): void {
    this.balance = Math.min(this.rate.burst, this.balance + permits)
  }

  available(now: number): number {
    this.refill(now)
    return Math.max(0, this.balance)
  }

  drain(now: number): void {
    this.refill(now)
    this.balance = Math.min(0, this.balance)
  }

  change(now: number, rate: Rate): void {
    this.refill(now)
    if (rate.windowMillis !== this.rate.windowMillis) {
      this.origin = now
      this.period = 0
    }
    // What has been used of the present period stays used.
    this.balance = Math.min(rate.burst, this.balance + rate.limit - this.rate.limit)
    this.rate = rate
  }

  private refill(now: number): void {
    const period = Math.floor((now - this.origin) / this.rate.windowMillis)
    if (period <= this.period) return
    this.balance = Math.min(this.rate.burst, this.balance + (period - this.period) * this.rate.limit)
    this.period = period
  }
}
