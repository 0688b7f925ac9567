/**
 * How many calls something has been seen to work on at a time, by Little's law:
 * the most that ended per second, times the shortest they took.
 *
 * Both are of the last buckets, without the present one, which is not full yet.
 * Where nothing has ended they are assumed to be one call and one second.
 *
 * Times are milliseconds on one monotonic clock.
 *
 * Source: go-zero `load/adaptiveshedder`, after BBR's bandwidth-delay product.
 */

export class Capacity {
  private readonly width: number
  private readonly ended: Float64Array
  private readonly millis: Float64Array
  /** The number of the present bucket since time zero. */
  private present = 0

  constructor(windowMillis: number, buckets: number) {
    this.width = windowMillis / buckets
    this.ended = new Float64Array(buckets)
    this.millis = new Float64Array(buckets)
  }

  /** A call has ended well. */
  add(millis: number, now: number): void {
    this.turn(now)
    const index = this.present % this.ended.length
    this.ended[index]!++
    this.millis[index]! += millis
  }

  /** The most calls that ended within one bucket. */
  most(now: number): number {
    return this.past(now, 1, (most, ended) => Math.max(most, ended))
  }

  /** The shortest mean of a bucket, in whole milliseconds. */
  shortest(now: number): number {
    const shortest = this.past(
      now,
      Infinity,
      (shortest, ended, millis) => Math.min(shortest, Math.ceil(millis / ended))
    )
    return shortest === Infinity ? 1000 : shortest
  }

  /** Calls at a time; at least 1. */
  atATime(now: number): number {
    return Math.max(1, (this.most(now) * this.shortest(now)) / this.width)
  }

  private past(now: number, zero: number, f: (value: number, ended: number, millis: number) => number): number {
    this.turn(now)
    let value = zero
    for (let index = 0; index < this.ended.length; index++) {
      if (index === this.present % this.ended.length || this.ended[index] === 0) continue
      value = f(value, this.ended[index]!, this.millis[index]!)
    }
    return value
  }

  private turn(now: number): void {
    const target = Math.floor(now / this.width)
    this.present = Math.max(this.present, target - this.ended.length)
    while (this.present < target) {
      this.present++
      const index = this.present % this.ended.length
      this.ended[index] = this.millis[index] = 0
    }
  }
}
