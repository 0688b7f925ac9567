/**
 * Whether two numbers move together, over their latest pairs.
 *
 * Pearson's coefficient, 0 where there are too few pairs or where one of the two
 * hardly moves: of numbers that vary by less than 1 % the coefficient is noise.
 */

const warmUp = 10
const still = 0.01

export interface Together {
  /** In [-1, 1]. */
  readonly correlation: number
  /** How much the second varies: its standard deviation over its mean. */
  readonly variation: number
}

const unknown: Together = { correlation: 0, variation: 0 }

export class Correlation {
  private readonly xs: Array<number> = []
  private readonly ys: Array<number> = []
  private readonly size: number
  private next = 0

  constructor(size: number) {
    this.size = size
  }

  add(x: number, y: number): Together {
    this.xs[this.next] = x
    this.ys[this.next] = y
    this.next = (this.next + 1) % this.size
    const { xs, ys } = this
    const n = xs.length
    if (n < warmUp) return unknown
    const meanX = sum(xs) / n
    const meanY = sum(ys) / n
    let xx = 0
    let yy = 0
    let xy = 0
    for (let i = 0; i < n; i++) {
      const dx = xs[i]! - meanX
      const dy = ys[i]! - meanY
      xx += dx * dx
      yy += dy * dy
      xy += dx * dy
    }
    const variation = variationOf(yy / n, meanY)
    return {
      correlation: variation < still || variationOf(xx / n, meanX) < still ? 0 : xy / Math.sqrt(xx * yy),
      variation
    }
  }

  /** The mean of the second over the pairs whose first is greater than `x`; 0 of none. */
  meanAbove(x: number): number {
    const above = this.ys.filter((_, index) => this.xs[index]! > x)
    return above.length === 0 ? 0 : sum(above) / above.length
  }
}

const sum = (values: ReadonlyArray<number>): number => values.reduce((a, b) => a + b, 0)
const variationOf = (variance: number, mean: number): number => mean === 0 ? 0 : Math.sqrt(variance) / Math.abs(mean)
