/**
 * Times contenders side by side, in one process, in turn.
 *
 * A round runs every contender of a group once, in random order, so that a noisy
 * neighbour disturbs all of them; a figure is the median of the rounds, and its
 * spread is printed beside it. Ratios hold where absolute times do not.
 */

/** Something to time: `run(n)` does `n` operations. */
export interface Contender {
  readonly name: string
  readonly run: (n: number) => Promise<void> | void
}

export interface Row {
  readonly group: string
  readonly name: string
  readonly nsPerOp: number
  /** Half the distance between the slowest and the fastest round, as a share of the median. */
  readonly spread: number
  readonly bytesPerOp: number
}

export interface Options {
  readonly rounds: number
  /** Time one contender gets in one round, in milliseconds. */
  readonly roundMillis: number
  /** Called before each round. */
  readonly progress: (text: string) => void
}

const elapsed = async (contender: Contender, n: number): Promise<number> => {
  const start = process.hrtime.bigint()
  await contender.run(n)
  return Number(process.hrtime.bigint() - start)
}

const median = (values: ReadonlyArray<number>): number => {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** Bytes allocated per operation: the heap's growth over so few operations that nothing is collected meanwhile. */
const bytesPerOp = async (contender: Contender): Promise<number> => {
  const gc = globalThis.gc
  if (gc === undefined) return Number.NaN
  const n = 1000
  const samples: Array<number> = []
  for (let i = 0; i < 5; i++) {
    gc()
    const before = process.memoryUsage().heapUsed
    await contender.run(n)
    samples.push((process.memoryUsage().heapUsed - before) / n)
  }
  return Math.max(0, median(samples))
}

const shuffled = <A>(items: ReadonlyArray<A>): Array<A> => {
  const out = [...items]
  for (let i = out.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1))
    ;[out[i], out[j]] = [out[j]!, out[i]!]
  }
  return out
}

/** Times the contenders of one group. */
export const measure = async (
  group: string,
  contenders: ReadonlyArray<Contender>,
  options: Options
): Promise<ReadonlyArray<Row>> => {
  const counts = new Map<Contender, number>()
  for (const contender of contenders) {
    // Warm until the compiler has settled, then size a round.
    let n = 256
    let took = await elapsed(contender, n)
    while (took < options.roundMillis * 1e6 / 4 && n < 1 << 22) {
      n *= 2
      took = await elapsed(contender, n)
    }
    counts.set(contender, Math.max(16, Math.round(n * options.roundMillis * 1e6 / took)))
  }
  const samples = new Map<Contender, Array<number>>(contenders.map((contender) => [contender, []]))
  for (let round = 1; round <= options.rounds; round++) {
    options.progress(`${group}: round ${round} of ${options.rounds}`)
    for (const contender of shuffled(contenders)) {
      const n = counts.get(contender)!
      // No collection is forced here: one discards optimised code, and a short round would time its compilation.
      await contender.run(n >> 3)
      samples.get(contender)!.push(await elapsed(contender, n) / n)
    }
  }
  const rows: Array<Row> = []
  for (const contender of contenders) {
    const times = samples.get(contender)!
    const nsPerOp = median(times)
    rows.push({
      group,
      name: contender.name,
      nsPerOp,
      spread: (Math.max(...times) - Math.min(...times)) / 2 / nsPerOp,
      bytesPerOp: await bytesPerOp(contender)
    })
  }
  return rows
}
