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
  /** Where `run` puts the milliseconds of each operation, if somebody waits for single ones. */
  readonly latencies?: Latencies | undefined
  /** Operations in flight at once: `run` does a multiple of it. Default 1. */
  readonly width?: number | undefined
  /** Bytes of what an operation makes, if that is what it makes. */
  readonly bodyBytes?: number | undefined
}

/** What was measured of one contender; what was not is absent. */
export interface Row {
  readonly group: string
  readonly name: string
  readonly nsPerOp?: number | undefined
  readonly opsPerSecond?: number | undefined
  /** Half the distance between the slowest and the fastest round, as a share of the median. */
  readonly spread?: number | undefined
  /** Bytes allocated, or of memory held, per operation. */
  readonly bytesPerOp?: number | undefined
  readonly p50Micros?: number | undefined
  readonly p99Micros?: number | undefined
  /** CPU time of this process, servers in others not counted. */
  readonly cpuMicrosPerOp?: number | undefined
  readonly bodyBytes?: number | undefined
}

export interface Options {
  readonly rounds: number
  /** Time one contender gets in one round, in milliseconds. */
  readonly roundMillis: number
  /** Called before each round. */
  readonly progress: (text: string) => void
}

/** The latest 65,536 latencies, in milliseconds. */
export class Latencies {
  private readonly values = new Float64Array(1 << 16)
  private count = 0
  add(millis: number): void {
    this.values[this.count++ & 0xffff] = millis
  }
  clear(): void {
    this.count = 0
  }
  /** In microseconds. */
  quantile(q: number): number {
    const sorted = this.values.slice(0, Math.min(this.count, this.values.length)).sort()
    return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))]! * 1000
  }
}

const elapsed = async (contender: Contender, n: number): Promise<number> => {
  const start = process.hrtime.bigint()
  await contender.run(n)
  return Number(process.hrtime.bigint() - start)
}

export const median = (values: ReadonlyArray<number>): number => {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** Bytes allocated per operation: the heap's growth over so few operations that nothing is collected meanwhile. */
const bytesPerOp = async (contender: Contender, times: number, n: number): Promise<number | undefined> => {
  const gc = globalThis.gc
  if (gc === undefined) return undefined
  const samples: Array<number> = []
  for (let i = 0; i < times; i++) {
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

/**
 * Runs until the compiler has settled, and says how many operations fit a round. A call over the wire passes ten times
 * the code of a policy, and takes as much longer to be compiled.
 */
const sized = async (contender: Contender, roundMillis: number): Promise<number> => {
  const { latencies, width = 1 } = contender
  const enough = Math.max(10, roundMillis / 4) * 1e6
  const warm = (latencies === undefined ? 2 : roundMillis < 50 ? 3 : 12) * enough
  let n = Math.max(8, width)
  let took = await elapsed(contender, n)
  for (let all = took; all < warm && n < 1 << 22; all += took) {
    if (took < enough) n *= 2
    took = await elapsed(contender, n)
  }
  return Math.max(8, width, width * Math.round(n * roundMillis * 1e6 / took / width))
}

interface Sample {
  readonly ns: number
  readonly cpu: number
  readonly p50: number
  readonly p99: number
}

/** Times the contenders of one group. */
export const measure = async (
  group: string,
  contenders: ReadonlyArray<Contender>,
  options: Options
): Promise<ReadonlyArray<Row>> => {
  const short = options.roundMillis < 50
  const counts = new Map<Contender, number>()
  for (const contender of contenders) {
    options.progress(`${group}: ${contender.name}`)
    counts.set(contender, await sized(contender, options.roundMillis))
  }
  const samples = new Map<Contender, Array<Sample>>(contenders.map((contender) => [contender, []]))
  for (let round = 1; round <= options.rounds; round++) {
    options.progress(`${group}: round ${round} of ${options.rounds}`)
    for (const contender of shuffled(contenders)) {
      const n = counts.get(contender)!
      // No collection is forced here: one discards optimised code, and a short round would time its compilation.
      await contender.run(n >> 3)
      contender.latencies?.clear()
      const cpu = process.cpuUsage()
      const ns = await elapsed(contender, n) / n
      const used = process.cpuUsage(cpu)
      samples.get(contender)!.push({
        ns,
        cpu: (used.user + used.system) / n,
        p50: contender.latencies?.quantile(0.5) ?? Number.NaN,
        p99: contender.latencies?.quantile(0.99) ?? Number.NaN
      })
    }
  }
  const rows: Array<Row> = []
  for (const contender of contenders) {
    const own = samples.get(contender)!
    const times = own.map(({ ns }) => ns)
    const nsPerOp = median(times)
    const row: Row = {
      group,
      name: contender.name,
      nsPerOp,
      opsPerSecond: 1e9 / nsPerOp,
      spread: (Math.max(...times) - Math.min(...times)) / 2 / nsPerOp,
      bodyBytes: contender.bodyBytes
    }
    rows.push(
      contender.latencies === undefined ?
        { ...row, bytesPerOp: await bytesPerOp(contender, Math.min(5, options.rounds), short ? 200 : 1000) } :
        {
          ...row,
          p50Micros: median(own.map(({ p50 }) => p50)),
          p99Micros: median(own.map(({ p99 }) => p99)),
          cpuMicrosPerOp: median(own.map(({ cpu }) => cpu))
        }
    )
  }
  return rows
}
