/**
 * The circuit's core against a naive model of it: one that lives through every
 * millisecond, keeps every call it ever counted, and has no windows.
 */
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import * as Circuit from "../../src/policy/internal/circuit.ts"

interface Ended {
  readonly at: number
  readonly failed: boolean
  readonly slow: boolean
}

interface Call {
  readonly era: number
  readonly probe: boolean
  startedAt: number
  waiting: boolean
  waitedSince: number
  /** The model gave up on it. */
  expired: boolean
}

class Model {
  now = 0
  era = 0
  tag: "Closed" | "Open" | "HalfOpen" | "Recovering" = "Closed"
  since = 0
  probingSince = 0
  until = 0
  openings = 0
  lastOpening = 0
  draw: number
  ended: Array<Ended> = []
  inFlight: Array<Call> = []
  level = 0
  step: Array<Ended> = []
  stepSince = 0
  private readonly o: Circuit.Options

  constructor(draw: number, options: Circuit.Options) {
    this.draw = draw
    this.o = options
  }

  private become(tag: Model["tag"]): void {
    this.tag = tag
    this.era++
    this.since = this.now
    this.ended = []
    this.step = []
    this.level = 0
    this.stepSince = this.now
  }

  private open(hint: number, ownToo: boolean): void {
    if (this.tag === "Closed" && this.now - this.since >= this.lastOpening) this.openings = 0
    this.openings++
    const { jitter, maxOpenForMillis, openForMillis } = this.o
    const listed = this.openings > openForMillis.length ? openForMillis.at(-1)! : openForMillis[this.openings - 1]!
    const own = Math.min(listed, maxOpenForMillis) * (1 - jitter * this.draw)
    const asked = Math.min(hint * (1 + jitter * this.draw), maxOpenForMillis)
    this.lastOpening = ownToo ? Math.max(own, asked) : asked
    this.become("Open")
    this.until = this.now + this.lastOpening
  }

  private succeed(): void {
    this.become(this.o.rampMillis > 0 ? "Recovering" : "Closed")
  }

  probes(): ReadonlyArray<Call> {
    return this.inFlight.filter((call) => call.probe && call.era === this.era && !call.expired)
  }

  private tally(ended: ReadonlyArray<Ended>) {
    return {
      calls: ended.length,
      failures: ended.filter((one) => one.failed).length,
      slow: ended.filter((one) => one.slow).length
    }
  }

  private settle(): void {
    const { failures, slow } = this.tally(this.ended)
    const successes = this.ended.length - failures
    const toCome = this.o.probes - this.ended.length
    if (successes + toCome < this.o.required) return this.open(0, true)
    if (slow >= this.o.slowRatio * this.o.probes) return this.open(0, true)
    if (successes >= this.o.required && slow + toCome < this.o.slowRatio * this.o.probes) this.succeed()
  }

  /** One millisecond. */
  tick(): void {
    this.now++
    if (this.tag === "HalfOpen") {
      for (const probe of this.probes()) {
        if (this.tag !== "HalfOpen" || probe.waiting || this.now < probe.startedAt + this.o.leaseMillis) continue
        probe.expired = true
        this.ended.push({ at: this.now, failed: true, slow: false })
        this.settle()
      }
    }
    const known = this.probes().length + this.ended.length > 0
    if (this.tag === "HalfOpen" && known && this.now >= this.probingSince + this.o.maxHalfOpenMillis) {
      for (const probe of this.probes()) {
        probe.expired = true
        this.ended.push({ at: this.now, failed: true, slow: false })
      }
      const { calls, failures, slow } = this.tally(this.ended)
      if ((calls - failures) / calls >= this.o.required / this.o.probes && slow / calls < this.o.slowRatio) {
        this.succeed()
      } else this.open(0, true)
    }
    if (this.tag === "Recovering" && this.now >= this.stepSince + this.o.rampMillis / Circuit.steps) {
      const { calls, failures, slow } = this.tally(this.step)
      const bad = calls > 0 && (failures / calls >= this.o.backOffRatio || slow / calls >= this.o.slowRatio)
      if (bad && this.level === 0) return this.open(0, true)
      this.level = bad ? Math.floor(this.level / 2) : this.level + 1
      this.step = []
      this.stepSince = this.now
      if (this.level === Circuit.steps) this.become("Closed")
    }
  }

  admit(draw: number): Call | undefined {
    if (this.tag === "Open" && this.now >= this.until) {
      this.become("HalfOpen")
      this.draw = draw
    }
    if (this.tag === "Open") return undefined
    if (this.tag === "HalfOpen") {
      const held = this.probes().length
      if (held >= this.o.concurrency || held + this.ended.length >= this.o.probes) return undefined
      if (held + this.ended.length === 0) this.probingSince = this.now
    }
    if (this.tag === "Recovering" && draw >= this.share()) return undefined
    const call: Call = {
      era: this.era,
      probe: this.tag === "HalfOpen",
      startedAt: this.now,
      waiting: false,
      waitedSince: 0,
      expired: false
    }
    this.inFlight.push(call)
    return call
  }

  share(): number {
    return this.o.initialShare + (1 - this.o.initialShare) * this.level / Circuit.steps
  }

  /** The calls that the ratios are taken over. */
  window(): ReadonlyArray<Ended> {
    const shape = this.o.window
    if (shape.by === "time") {
      const width = shape.millis / shape.buckets
      const bucketOf = (at: number) => Math.floor(at / width)
      return this.ended.filter(({ at }) => bucketOf(at) > bucketOf(this.now) - shape.buckets)
    }
    const last = this.ended.slice(-shape.size)
    const aged = last.findLastIndex(({ at, failed, slow }) => (failed || slow) && this.now - at >= shape.maxAgeMillis)
    return last.slice(aged + 1)
  }

  end(call: Call, failed: boolean, ignored: boolean, hint: number): void {
    this.inFlight = this.inFlight.filter((other) => other !== call)
    if (ignored || call.era !== this.era || call.expired) return
    const slow = this.now - call.startedAt > this.o.slowMillis
    const ended = { at: this.now, failed, slow }
    this.ended.push(ended)
    if (this.tag === "HalfOpen") return hint > 0 ? this.open(hint, true) : this.settle()
    if (this.tag === "Recovering") this.step.push(ended)
    const period = (at: number) => Math.floor((at - this.since) / this.o.resetEveryMillis)
    let streak = 0
    while (this.ended.at(-1 - streak)?.failed === true) {
      if (period(this.ended.at(-1 - streak)!.at) !== period(this.now)) break
      streak++
    }
    const { calls, failures, slow: slowCalls } = this.tally(this.window())
    const trips = streak >= this.o.consecutiveFailures ||
      (calls >= this.o.minimumCalls &&
        (failures / calls >= this.o.failureRatio || slowCalls / calls >= this.o.slowRatio))
    if (trips) this.open(hint, true)
    else if (hint > 0) this.open(hint, this.tag === "Recovering")
  }
}

const base: Circuit.Options = {
  consecutiveFailures: Infinity,
  resetEveryMillis: Infinity,
  failureRatio: Infinity,
  backOffRatio: 0.5,
  slowRatio: Infinity,
  slowMillis: Infinity,
  minimumCalls: 3,
  window: { by: "calls", size: 5, maxAgeMillis: Infinity },
  openForMillis: [5, 10, 15],
  maxOpenForMillis: 12,
  jitter: 0,
  probes: 3,
  concurrency: 2,
  required: 2,
  leaseMillis: 7,
  maxHalfOpenMillis: 20,
  rampMillis: 0,
  initialShare: 0.1
}

/** Configurations that between them use everything. */
const configurations: Record<string, Circuit.Options> = {
  "failures in a row": { ...base, consecutiveFailures: 2 },
  "failures in a row, reset every so often": {
    ...base,
    consecutiveFailures: 3,
    resetEveryMillis: 7,
    probes: 1,
    concurrency: 1,
    required: 1,
    openForMillis: [3]
  },
  "a ratio by calls": { ...base, failureRatio: 0.5, jitter: 0.5, minimumCalls: 4 },
  "a ratio by calls that age": { ...base, failureRatio: 0.6, window: { by: "calls", size: 8, maxAgeMillis: 9 } },
  "a ratio by time": { ...base, failureRatio: 0.6, window: { by: "time", millis: 12, buckets: 4 } },
  "slow calls by calls": {
    ...base,
    slowRatio: 0.5,
    slowMillis: 2,
    window: { by: "calls", size: 4, maxAgeMillis: 15 },
    probes: 4,
    concurrency: 4,
    required: 3
  },
  "slow calls by time": {
    ...base,
    slowRatio: 0.6,
    slowMillis: 1,
    window: { by: "time", millis: 20, buckets: 5 },
    probes: 5,
    concurrency: 3,
    maxHalfOpenMillis: 12
  },
  "one probe": { ...base, consecutiveFailures: 2, probes: 1, concurrency: 1, required: 1, maxHalfOpenMillis: 6 },
  "many probes": { ...base, consecutiveFailures: 2, probes: 6, concurrency: 6, required: 4 },
  "a ramp": {
    ...base,
    consecutiveFailures: 4,
    failureRatio: 0.75,
    minimumCalls: 5,
    rampMillis: 90,
    required: 1,
    probes: 1,
    concurrency: 1
  },
  "a ramp, and slow calls": {
    ...base,
    slowRatio: 0.5,
    slowMillis: 1,
    minimumCalls: 5,
    rampMillis: 90,
    required: 1,
    probes: 1,
    concurrency: 1,
    openForMillis: [2]
  }
}

/** Calls and results mostly; time in small steps, and sometimes a jump. */
const whats = [
  "admit",
  "admit",
  "admit",
  "S",
  "S",
  "F",
  "F",
  "I",
  "hint",
  "wait",
  "go",
  "time",
  "time",
  "jump"
] as const

/** What, and which: `10 * what + which`. */
const Event = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 10 * whats.length - 1 }))

const play = (options: Circuit.Options, events: ReadonlyArray<number>): void => {
  const model = new Model(0.3, options)
  let circuit: Circuit.Circuit = Circuit.make(0, 0.3, options)
  let now = 0
  const pairs: Array<readonly [Call, Circuit.Permit]> = []
  for (const event of events) {
    const what = whats[Math.floor(event / 10)]!
    const n = event % 10
    const pair = pairs[n % Math.max(1, pairs.length)]
    switch (what) {
      case "time":
      case "jump": {
        const passed = what === "time" ? 1 + (n % 3) : 5 + 3 * n
        now += passed
        for (let i = 0; i < passed; i++) model.tick()
        break
      }
      case "admit": {
        const draw = n / 10
        const admission = Circuit.admit(circuit, now, draw, options)
        circuit = admission.circuit
        const call = model.admit(draw)
        assert.strictEqual(admission.permit !== undefined, call !== undefined, `admitted at ${now}`)
        if (call !== undefined) pairs.push([call, admission.permit!])
        break
      }
      case "wait":
      case "go": {
        if (pair === undefined || pair[0].waiting === (what === "wait")) break
        const [call, permit] = pair
        // A call waits when it begins, not when it has long been given up.
        if (what === "wait" && Circuit.isLate(Circuit.elapse(circuit, now, options), permit)) break
        call.waiting = what === "wait"
        // The core hears of a limiter's wait through the permit.
        if (call.waiting) {
          call.waitedSince = now
          permit.waiting++
        } else {
          call.startedAt += now - call.waitedSince
          permit.waiting--
          permit.startedAt += now - call.waitedSince
        }
        break
      }
      default: {
        if (pair === undefined || pair[0].waiting) break
        const [call, permit] = pair
        pairs.splice(pairs.indexOf(pair), 1)
        const hint = what === "hint" ? 1 + n : 0
        const failed = what === "F" || hint > 0
        circuit = Circuit.elapse(circuit, now, options)
        if (what === "I") circuit = Circuit.release(circuit, permit)
        else if (!Circuit.isLate(circuit, permit)) {
          const slow = now - permit.startedAt > options.slowMillis
          circuit = Circuit.record(circuit, permit, failed, slow, hint, now, options)
        }
        model.end(call, failed, what === "I", hint)
      }
    }
    const seen = Circuit.elapse(circuit, now, options)
    const told = { now, tag: seen._tag, openings: seen.openings }
    const expected = { now, tag: model.tag, openings: model.openings }
    // Reading a window expires it, so the rest is looked at now and then.
    const looks = n === 0
    assert.strictEqual(
      JSON.stringify(looks ? { ...told, ...detailsOf(seen, now) } : told),
      JSON.stringify(looks ? { ...expected, ...modelled(model) } : expected)
    )
  }
}

const detailsOf = (circuit: Circuit.Circuit, now: number) => {
  switch (circuit._tag) {
    case "Open":
      return { since: circuit.since, until: circuit.until }
    case "HalfOpen":
      return {
        probes: circuit.held.length,
        successes: circuit.successes,
        failures: circuit.failures,
        slow: circuit.slow
      }
    case "Closed":
    case "Recovering": {
      circuit.window.expire(now)
      const { calls, failures, slow } = circuit.window
      return { since: circuit.since, calls, failures, slow, share: circuit._tag === "Recovering" ? circuit.share : 1 }
    }
    default:
      return {}
  }
}

const modelled = (model: Model) => {
  const tally = (ended: ReadonlyArray<Ended>) => ({
    calls: ended.length,
    failures: ended.filter((one) => one.failed).length,
    slow: ended.filter((one) => one.slow).length
  })
  switch (model.tag) {
    case "Open":
      return { since: model.since, until: model.until }
    case "HalfOpen": {
      const { calls, failures, slow } = tally(model.ended)
      return { probes: model.probes().length, successes: calls - failures, failures, slow }
    }
    default:
      return { since: model.since, ...tally(model.window()), share: model.tag === "Recovering" ? model.share() : 1 }
  }
}

describe("circuit, as a naive model of it", () => {
  for (const [name, options] of Object.entries(configurations)) {
    it.prop(
      `moves as the model does: ${name}`,
      { events: Schema.Array(Event).check(Schema.isBetweenLength(100, 200)) },
      ({ events }) => play(options, events),
      { arbitrary: { runs: 60 } }
    )
  }
})
