/** A discrete-event driver and seeded chance, for models too large to run as fibers. */

/** Runs events in the order of their times; of equal times, in the order they were added. */
export class Simulation {
  now = 0
  private added = 0
  private readonly heap: Array<{ readonly at: number; readonly order: number; readonly run: () => void }> = []

  at(at: number, run: () => void): void {
    const { heap } = this
    const event = { at, order: this.added++, run }
    let child = heap.push(event) - 1
    while (child > 0) {
      const parent = (child - 1) >> 1
      if (before(heap[parent]!, event)) break
      heap[child] = heap[parent]!
      child = parent
    }
    heap[child] = event
  }

  after(delay: number, run: () => void): void {
    this.at(this.now + delay, run)
  }

  /** Runs until nothing is left. */
  run(): void {
    for (let event = this.pop(); event !== undefined; event = this.pop()) {
      this.now = event.at
      event.run()
    }
  }

  private pop() {
    const { heap } = this
    const top = heap[0]
    const last = heap.pop()
    if (top === undefined || last === undefined || heap.length === 0) return top
    let parent = 0
    for (;;) {
      let child = 2 * parent + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++
      if (before(last, heap[child]!)) break
      heap[parent] = heap[child]!
      parent = child
    }
    heap[parent] = last
    return top
  }
}

interface Ordered {
  readonly at: number
  readonly order: number
}
const before = (a: Ordered, b: Ordered): boolean => a.at < b.at || (a.at === b.at && a.order < b.order)

/** mulberry32: the same seed is the same sequence for ever. */
export const seeded = (seed: number) => () => {
  seed = (seed + 0x6d2b79f5) | 0
  let t = Math.imul(seed ^ (seed >>> 15), 1 | seed)
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
}

/** A draw of an exponential distribution. */
export const exponential = (uniform: () => number, mean: number): number => -Math.log(1 - uniform()) * mean

/** A draw of a normal distribution. */
export const normal = (uniform: () => number, mean: number, deviation: number): number =>
  mean + deviation * Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform())

/** Mean and standard error. */
export const stats = (values: ReadonlyArray<number>): { readonly mean: number; readonly error: number } => {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length
  const variance = values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (values.length - 1)
  return { mean, error: Math.sqrt(variance / values.length) }
}
