/**
 * The circuit's core, explored: every state that a small configuration reaches
 * within the bounds below, by every order of events.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Circuit from "../../src/policy/internal/circuit.ts"
import * as Window from "../../src/policy/internal/window.ts"

const small: Circuit.Options = {
  consecutiveFailures: 2,
  resetEveryMillis: Infinity,
  failureRatio: 0.5,
  backOffRatio: 0.5,
  slowRatio: Infinity,
  slowMillis: Infinity,
  minimumCalls: 2,
  window: { by: "calls", size: 2, maxAgeMillis: Infinity },
  openForMillis: [1, 2],
  maxOpenForMillis: 3,
  jitter: 0,
  probes: 3,
  concurrency: 2,
  required: 2,
  leaseMillis: 2,
  maxHalfOpenMillis: 3,
  rampMillis: 0,
  initialShare: 0.5
}

/** One probe, one duration, and a failure in a row more than one. */
const single: Circuit.Options = {
  ...small,
  window: { by: "calls", size: 1, maxAgeMillis: Infinity },
  minimumCalls: 2,
  openForMillis: [1],
  probes: 1,
  concurrency: 1,
  required: 1
}

/** A circuit, what is in flight (also what the circuit has given up on), and the time. */
interface World {
  readonly circuit: Circuit.Circuit
  readonly inFlight: ReadonlyArray<Circuit.Permit>
  readonly now: number
}

interface Bounds {
  readonly inFlight: number
  /** Calls within one step of a ramp: without a bound they could go on without time passing. */
  readonly stepCalls: number
  readonly operators: boolean
}

const calls: Bounds = { inFlight: 2, stepCalls: 2, operators: false }

/** A copy that shares nothing that is changed in place. */
const copy = ({ circuit, inFlight, now }: World, options: Circuit.Options): World => {
  const permits = new Map(inFlight.map((permit) => [permit, { ...permit }]))
  const copied = { ...circuit }
  if ("held" in copied) Object.assign(copied, { held: copied.held.map((permit) => permits.get(permit)!) })
  if ("window" in copied) {
    const window = Window.make(options.window)
    window.load(copied.window.cells(now), now)
    Object.assign(copied, { window })
  }
  return { circuit: copied, inFlight: [...permits.values()], now }
}

/**
 * Two worlds with the same key behave the same: only what time has made of the
 * circuit matters, and differences of times and generations.
 */
const keyOf = ({ circuit: looked, inFlight, now }: World, options: Circuit.Options): string => {
  const circuit = Circuit.elapse(looked, now, options)
  const { _tag, openForMillis, openings, since } = circuit
  const ago = (at: number) => Math.min(now - at, 4)
  const permits = inFlight.map((permit) =>
    Circuit.isLate(circuit, permit) ? "late" : `${ago(permit.startedAt)},${permit.waiting}`
  ).sort()
  const more: Array<unknown> = []
  if ("until" in circuit) more.push(Math.max(-1, circuit.until - now))
  if ("held" in circuit) {
    const { failures, held, probingSince, successes } = circuit
    more.push(successes, failures, successes + failures + held.length > 0 && ago(probingSince))
  }
  if ("window" in circuit) {
    more.push(
      JSON.stringify(circuit.window.cells(now)).replace(/"ageMillis".*/, ""),
      Math.min(circuit.streak, options.consecutiveFailures)
    )
  }
  if ("level" in circuit) more.push(circuit.level, now - circuit.stepSince, circuit.stepCalls, circuit.stepFailures)
  if ("resume" in circuit) {
    const { resume } = circuit
    more.push(resume._tag, resume.openings, resume.openForMillis, "until" in resume && Math.max(-1, resume.until - now))
  }
  const listed = Math.min(openings, options.openForMillis.length)
  return JSON.stringify([_tag, Math.min(openForMillis, 4), listed, ago(since), permits, more])
}

type Event = readonly [name: string, next: (world: World) => World]

/** As the policy does it: what time has made of the circuit, then the event. */
const events = (world: World, options: Circuit.Options, bounds: Bounds): ReadonlyArray<Event> => {
  const found: Array<Event> = [["tick", (world) => ({ ...world, now: world.now + 1 })]]
  const busy = world.circuit._tag === "Recovering" && world.circuit.stepCalls >= bounds.stepCalls
  if (world.inFlight.length < bounds.inFlight && !busy) {
    found.push(["admit", ({ circuit, inFlight, now }) => {
      const admission = Circuit.admit(circuit, now, 0, options)
      const { permit } = admission
      return { circuit: admission.circuit, inFlight: permit === undefined ? inFlight : [...inFlight, permit], now }
    }])
  }
  for (const i of world.inFlight.keys()) {
    for (const [outcome, failed, hint] of [["S", false, 0], ["F", true, 0], ["F2", true, 2]] as const) {
      found.push([`${outcome} ${i}`, ({ circuit, inFlight, now }) => {
        const permit = inFlight[i]!
        const current = Circuit.elapse(circuit, now, options)
        return {
          circuit: Circuit.isLate(current, permit)
            ? current
            : Circuit.record(current, permit, failed, false, hint, now, options),
          inFlight: inFlight.filter((other) => other !== permit),
          now
        }
      }])
    }
    found.push([`I ${i}`, ({ circuit, inFlight, now }) => ({
      circuit: Circuit.release(Circuit.elapse(circuit, now, options), inFlight[i]!),
      inFlight: inFlight.filter((_, j) => j !== i),
      now
    })])
  }
  if (bounds.operators) {
    for (const tag of ["ForcedOpen", "MetricsOnly"] as const) {
      found.push([tag, (world) => ({
        ...world,
        circuit: Circuit.override(Circuit.elapse(world.circuit, world.now, options), tag, world.now, options)
      })])
    }
    found.push(["resume", (world) => ({ ...world, circuit: Circuit.resume(world.circuit, world.now, options) })])
  }
  return found
}

/** The last event, and those before it. */
interface Path {
  readonly event: string
  readonly before: Path | undefined
}

const pathOf = (path: Path | undefined): string => path === undefined ? "" : `${pathOf(path.before)} ${path.event}`

/** Says by which events a world was reached, where something does not hold there. */
const must = (holds: boolean, what: string, path: Path): void => {
  if (!holds) assert.fail(`${what} after ${pathOf(path)}`)
}

const explore = (options: Circuit.Options, bounds: Bounds, visit: (world: World, path: Path) => void): number => {
  const start: World = { circuit: Circuit.make(0, 0, options), inFlight: [], now: 0 }
  const keys = new Set([keyOf(start, options)])
  let frontier: Array<readonly [World, Path]> = [[start, { event: "nothing", before: undefined }]]
  while (frontier.length > 0) {
    const next: typeof frontier = []
    for (const [world, before] of frontier) {
      visit(world, before)
      for (const [event, apply] of events(world, options, bounds)) {
        const reached = apply(copy(world, options))
        const { circuit } = reached
        must(
          circuit._tag === world.circuit._tag || circuit.generation > world.circuit.generation,
          "a transition without a new generation",
          { event, before }
        )
        const key = keyOf(reached, options)
        if (keys.has(key)) continue
        keys.add(key)
        next.push([reached, { event, before }])
      }
    }
    assert.isAtMost(keys.size, 50_000, "the configuration is not small")
    frontier = next
  }
  return keys.size
}

/** As long as anything can take: a lease, a half-open circuit, the longest opening. */
const bound = (options: Circuit.Options) =>
  options.maxOpenForMillis + options.leaseMillis + options.maxHalfOpenMillis + options.rampMillis

const check = (options: Circuit.Options) => (world: World, path: Path) => {
  const { circuit, inFlight, now } = world
  if (circuit._tag === "HalfOpen") {
    const { failures, held, successes } = circuit
    must(held.length <= options.concurrency, "more probes at once", path)
    must(held.length + successes + failures <= options.probes, "more probes", path)
    must(held.every((permit) => inFlight.includes(permit)), "a permit that nobody holds", path)
  }
  // Even if nothing that is in flight ever ends.
  if (circuit._tag !== "ForcedOpen") {
    let at = now
    while (!Circuit.wouldAdmit(circuit, at, options)) {
      at++
      must(at <= now + bound(options), "time alone does not readmit", path)
    }
  }
  const { circuit: asked, permit } = Circuit.admit(copy(world, options).circuit, now, 0, options)
  must(Circuit.wouldAdmit(circuit, now, options) === (permit !== undefined), "wouldAdmit is wrong", path)
  must(
    permit !== undefined || asked._tag === "ForcedOpen" || Circuit.retryAfter(asked, now, options)! > 0,
    "a rejection that says to come back now",
    path
  )
  for (const permit of inFlight) {
    if (permit.generation === circuit.generation) continue
    must(Circuit.isLate(circuit, permit), "a result of another generation is not late", path)
    must(Circuit.release(circuit, permit) === circuit, "a late release changes something", path)
  }
  const once = Circuit.elapse(circuit, now, options)
  must(Circuit.elapse(once, now, options) === once, "time passes twice", path)
  const direct = Circuit.elapse(circuit, now + 4, options)
  const stepped = Circuit.elapse(Circuit.elapse(circuit, now + 1, options), now + 4, options)
  must(seen(direct) === seen(stepped), "it matters when somebody looks", path)
}

/** All of a circuit but its window, which shares what it holds. */
const seen = (circuit: Circuit.Circuit): string => JSON.stringify(circuit, (key, value) => key === "window" ? 0 : value)

describe("circuit, every state of a small configuration", () => {
  it("readmits by time alone, probes within bounds, and leaves what is late alone", () => {
    assert.isAbove(explore(small, calls, check(small)), 1000)
  })

  it("does so with a single probe that must succeed, and three calls in flight", () => {
    assert.isAbove(explore(single, { ...calls, inFlight: 3 }, check(single)), 1000)
  })

  it("does so with a ramp", () => {
    const ramp = { ...single, rampMillis: 9 }
    assert.isAbove(explore(ramp, calls, check(ramp)), 1000)
  })

  it("does so with operators who come and go", () => {
    assert.isAbove(explore(single, { ...calls, operators: true }, check(single)), 1000)
  })
})
