/**
 * A quantile of the latest values, and a median of the latest few.
 *
 * Exact, by sorting when asked: the window is read once a second and holds 256
 * values at most, whose 90th percentile has a standard error of 2 points
 * (`sqrt(0.9 * 0.1 / 256)`). A busier window keeps its latest.
 */

const capacity = 256

/** The values of one window. */
export class Sample {
  private readonly values: Array<number> = []
  private next = 0

  add(value: number): void {
    this.values[this.next] = value
    this.next = (this.next + 1) % capacity
  }

  /** The smallest value that at least `q` of the values do not exceed; NaN of none. */
  quantile(q: number): number {
    const sorted = this.values.toSorted(ascending)
    return sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] ?? Number.NaN
  }

  clear(): void {
    this.values.length = this.next = 0
  }
}

/** The median of the latest `size` values; of an even number of them the upper one. */
export class Median {
  private readonly values: Array<number> = []
  private readonly size: number
  private next = 0

  constructor(size: number) {
    this.size = size
  }

  add(value: number): number {
    this.values[this.next] = value
    this.next = (this.next + 1) % this.size
    const sorted = this.values.toSorted(ascending)
    return sorted[sorted.length >> 1]!
  }
}

const ascending = (a: number, b: number): number => a - b
