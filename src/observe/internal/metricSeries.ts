/**
 * Series that cost a few nanoseconds to write and are read only when somebody
 * looks: plain numbers, which Effect's metric registry asks for when it is
 * scraped or exported.
 *
 * `Metric.update` costs 205 ns and a label set per call 938; here a label set is
 * looked up once and kept by whoever writes to it. Nothing here knows events.
 *
 * Two that make the same series in one registry share it, so that two layers of
 * metrics in one process add up instead of hiding each other.
 */
import * as Context from "effect/Context"
import * as Metric from "effect/Metric"

/** What a metric is: one row of the list. */
export interface Definition {
  /** As OpenTelemetry and Effect know it; Prometheus sees dots as underscores. */
  readonly name: string
  readonly kind: "counter" | "gauge" | "histogram"
  /** As UCUM writes it: `s`, `By`; `undefined` for plain numbers. */
  readonly unit?: "s" | "By"
  /** The first may be any name and is capped; the others come from closed sets. */
  readonly labels: ReadonlyArray<string>
  /** Labels that are always the same. */
  readonly constant?: Readonly<Record<string, string>>
  readonly description: string
  /** A histogram's: upper bounds, ascending. */
  readonly boundaries?: ReadonlyArray<number>
}

/** What takes a series out of the registry, and how many hold it. */
abstract class Series {
  users = 0
  remove: () => void = () => {}
}

/** A number that is written, and what its sources say when it is read. */
export class Value extends Series {
  value = 0
  readonly sources = new Set<() => number>()

  read(): number {
    let sum = this.value
    for (const source of this.sources) sum += source()
    return sum
  }
}

export class Histogram extends Series {
  readonly boundaries: ReadonlyArray<number>
  readonly counts: Float64Array
  count = 0
  sum = 0
  min = Infinity
  max = -Infinity

  constructor(boundaries: ReadonlyArray<number>) {
    super()
    this.boundaries = boundaries
    this.counts = new Float64Array(boundaries.length + 1)
  }

  record(value: number): void {
    const { boundaries } = this
    let from = 0
    let to = boundaries.length
    while (from < to) {
      const middle = (from + to) >> 1
      if (value <= boundaries[middle]!) to = middle
      else from = middle + 1
    }
    this.counts[from]!++
    this.count++
    this.sum += value
    if (value < this.min) this.min = value
    if (value > this.max) this.max = value
  }

  read(): Metric.HistogramState {
    let sofar = 0
    const buckets = this.boundaries.map((boundary, i): [number, number] => [boundary, sofar += this.counts[i]!])
    const { count, sum } = this
    return { buckets, count, sum, min: count === 0 ? 0 : this.min, max: count === 0 ? 0 : this.max }
  }
}

/** What a kind's series are. */
export interface Kinds {
  readonly counter: Value
  readonly gauge: Value
  readonly histogram: Histogram
}

/** The series of one registry by name and labels. */
const known = new WeakMap<Metric.MetricRegistry, Map<string, Series>>()

/** Where series are registered: the registry of a context, and its common attributes. */
export class Store {
  private readonly context: Context.Context<never>
  private readonly series: Map<string, Series>

  constructor(context: Context.Context<never>) {
    this.context = context
    const registry = Context.get(context, Metric.MetricRegistry)
    let series = known.get(registry)
    if (series === undefined) known.set(registry, series = new Map())
    this.series = series
  }

  /** Takes the series with these label values, which `release` gives back. */
  take<D extends Definition>(definition: D, values: ReadonlyArray<string>): Kinds[D["kind"]] {
    const common = Context.get(this.context, Metric.CurrentMetricAttributes)
    const key = JSON.stringify([definition.name, values, common])
    let series = this.series.get(key)
    if (series === undefined) {
      series = this.register(definition, values)
      const { remove } = series
      series.remove = () => {
        this.series.delete(key)
        remove()
      }
      this.series.set(key, series)
    }
    series.users++
    return series as Kinds[D["kind"]]
  }

  private register(definition: Definition, values: ReadonlyArray<string>): Series {
    const { boundaries = [], constant, description, kind, labels, name, unit } = definition
    // What a label says nothing about is left out, as OpenTelemetry has it.
    const entries = labels.map((label, i) => [label, values[i]!] as const).filter(([, value]) => value !== "")
    const attributes = { ...constant, ...Object.fromEntries(entries), ...(unit && { unit }) }
    const options = { description, attributes }
    if (kind === "histogram") {
      const series = new Histogram(boundaries)
      const metric = Metric.histogram(name, { ...options, boundaries })
      series.remove = Metric.registerUnsafe(metric, this.context, hooks(() => series.read())).remove
      return series
    }
    const series = new Value()
    series.remove = kind === "counter"
      ? Metric.registerUnsafe(
        Metric.counter(name, { ...options, incremental: true }),
        this.context,
        hooks(() => ({ count: series.read(), incremental: true }))
      ).remove
      : Metric.registerUnsafe(Metric.gauge(name, options), this.context, hooks(() => ({ value: series.read() }))).remove
    return series
  }
}

/** Only we write. */
const hooks = <State>(get: () => State): Metric.Metric.Hooks<unknown, State> => ({
  get,
  update: () => {},
  modify: () => {}
})

/** Gives a series back; it is gone when nobody holds it. */
export const release = (series: Value | Histogram): void => {
  if (--series.users === 0) series.remove()
}

/** What stands for all names beyond the cap. */
export const other = "other"

/** Records by name, at most `cap` of them: further names share the record of `other`. */
export class Names<A> {
  private readonly cap: number
  private readonly make: (name: string) => A
  private readonly named = new Map<string, A>()
  // The name asked for last is most often asked for next: a comparison instead of a look-up.
  private latest: string | undefined
  private latestRecord: A | undefined

  constructor(cap: number, make: (name: string) => A) {
    this.cap = cap
    this.make = make
  }

  of(name: string): A {
    if (name === this.latest) return this.latestRecord!
    const record = this.find(name)
    this.latest = name
    this.latestRecord = record
    return record
  }

  private find(name: string): A {
    const known = this.named.get(name)
    if (known !== undefined) return known
    if (this.named.size >= this.cap && name !== other) return this.find(other)
    const made = this.make(name)
    this.named.set(name, made)
    return made
  }

  /** Takes a record out. */
  drop(name: string): A | undefined {
    const known = this.named.get(name)
    this.named.delete(name)
    this.latest = undefined
    return known
  }
}

/** The series of one metric and one name, by what else is among the labels. */
export class Labelled<D extends Definition> {
  private readonly take: (second: string, third: string) => Kinds[D["kind"]]
  private readonly series = new Map<string, Kinds[D["kind"]]>()

  constructor(store: Store, definition: D, name: string) {
    this.take = (second, third) => store.take(definition, [name, second, third])
  }

  of(second: string, third = ""): Kinds[D["kind"]] {
    const key = third === "" ? second : `${second} ${third}`
    let series = this.series.get(key)
    if (series === undefined) this.series.set(key, series = this.take(second, third))
    return series
  }

  release(): void {
    for (const series of this.series.values()) release(series)
  }
}

/** The series of one metric by their label values, the first of which is a name. */
export class Family<D extends Definition> {
  private readonly names: Names<Labelled<D>>

  constructor(store: Store, definition: D, cap: number) {
    this.names = new Names(cap, (name) => new Labelled(store, definition, name))
  }

  of(name: string, second = "", third = ""): Kinds[D["kind"]] {
    return this.names.of(name).of(second, third)
  }

  /** Gives back all series of a name that has gone. */
  drop(name: string): void {
    this.names.drop(name)?.release()
  }
}
