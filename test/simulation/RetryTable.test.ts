/**
 * What retries do to a server, with our decisions and our ledger: the models of mbrooker/simulator_example.
 *
 * Each client decides with `Attempts.decide`, waits for what the formulas of `Backoff` say and pays from a
 * `RetryBudget`; the models only say when a call is made and what becomes of an attempt.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Attempts from "../../src/policy/internal/attempts.ts"
import * as Backoff from "../../src/policy/internal/backoff.ts"
import * as RetryBudget from "../../src/policy/RetryBudget.ts"
import { exponential, seeded, Simulation } from "../support/sim.ts"

interface Strategy {
  readonly attempts: number
  readonly budget: boolean
  readonly backoff: (attempt: number, draw: number) => number
}

const atOnce = () => 0
const fullJitter = (_: number, draw: number) => Backoff.full(10_000, draw)
const never: Strategy = { attempts: 1, budget: false, backoff: atOnce }

/** A client's loop around attempts that end with whether they succeeded. */
class Client {
  calls = 0
  sends = 0
  succeeded = 0
  private readonly simulation: Simulation
  private readonly strategy: Strategy
  private readonly uniform: () => number
  private readonly budget: RetryBudget.RetryBudget | undefined

  constructor(simulation: Simulation, strategy: Strategy, uniform: () => number) {
    this.simulation = simulation
    this.strategy = strategy
    this.uniform = uniform
    this.budget = strategy.budget ? Effect.runSync(RetryBudget.make()) : undefined
  }

  call(send: (ended: (succeeded: boolean) => void) => void, done: (succeeded: boolean) => void = () => {}): void {
    this.calls++
    this.attempt(1, send, done)
  }

  private attempt(
    number: number,
    send: (ended: (succeeded: boolean) => void) => void,
    done: (succeeded: boolean) => void
  ): void {
    this.sends++
    send((succeeded) => {
      const { budget, simulation, strategy, uniform } = this
      if (number === 1) budget?.depositUnsafe(succeeded, simulation.now)
      const verdict = Attempts.decide({
        mayRetry: !succeeded,
        retryAfterMillis: undefined,
        sends: number,
        attempts: strategy.attempts,
        nowMillis: simulation.now,
        deadlineMillis: Infinity
      })
      if (succeeded) this.succeeded++
      if (verdict !== "retry") return done(succeeded)
      const delay = strategy.backoff(number - 1, uniform())
      if (budget !== undefined && budget.withdrawUnsafe(simulation.now) === undefined) return done(false)
      simulation.after(delay, () => this.attempt(number + 1, send, done))
    })
  }
}

const poisson = (simulation: Simulation, uniform: () => number, perSecond: number, until: number, call: () => void) => {
  const next = () => {
    if (simulation.now > until) return
    call()
    simulation.after(exponential(uniform, 1000 / perSecond), next)
  }
  simulation.after(exponential(uniform, 1000 / perSecond), next)
}

// retry_sim ---------------------------------------------------------------------------------------

/** Open-loop clients of a server that fails each attempt with a probability, whatever the load. */
const failing = (
  options: {
    readonly clients: number
    readonly perSecond: number
    readonly seconds: number
    readonly failure: (now: number) => number
    readonly from?: number
  },
  strategy: Strategy,
  seed: number
) => {
  const simulation = new Simulation()
  const uniform = seeded(seed)
  const clients = Array.from({ length: options.clients }, () => new Client(simulation, strategy, uniform))
  const send = (ended: (succeeded: boolean) => void) =>
    simulation.after(exponential(uniform, 10), () => {
      const succeeded = uniform() >= options.failure(simulation.now)
      simulation.after(exponential(uniform, 10), () => ended(succeeded))
    })
  for (const client of clients) {
    poisson(simulation, uniform, options.perSecond / options.clients, options.seconds * 1000, () => client.call(send))
  }
  const sum = (of: "calls" | "sends" | "succeeded") => clients.reduce((total, client) => total + client[of], 0)
  let [calls, sends] = [0, 0]
  simulation.at(options.from ?? 0, () => {
    calls = sum("calls")
    sends = sum("sends")
  })
  simulation.run()
  return {
    perCall: (sum("sends") - sends) / (sum("calls") - calls),
    success: sum("succeeded") / sum("calls")
  }
}

describe("attempts per call", () => {
  // 100 clients × 10 calls per second, 20 s: success and attempts per call, as measured there.
  it.each([
    [0.01, 0.991, 1.0, 1.01],
    [0.05, 0.951, 1.0, 1.05],
    [0.1, 0.902, 1.0, 1.11],
    [0.2, 0.802, 0.999, 1.25],
    [0.5, 0.495, 0.937, 1.88],
    [0.75, 0.244, 0.68, 2.74]
  ])("a server that fails %d of the attempts is sent what the published figures say", (p, none, retried, perCall) => {
    const load = { clients: 100, perSecond: 1000, seconds: 20, failure: () => p }
    assert.closeTo(failing(load, never, 1).success, none, 0.01)
    const three = failing(load, { attempts: 4, budget: false, backoff: atOnce }, 1)
    assert.closeTo(three.success, retried, 0.01)
    assert.closeTo(three.perCall, perCall, 0.02)
  })

  const budgeted: Strategy = { attempts: 4, budget: true, backoff: atOnce }
  const probabilities = [0.01, 0.05, 0.1, 0.2, 0.5, 0.75, 1]

  // A budget each: the worst case, and what a full start bucket does not survive (1.46 at 1,000 clients).
  it.each([1, 10, 100, 1000])(
    "with a budget for each of %d clients are at most 1.15 over 100 s, at any failure ratio",
    (clients) => {
      for (const p of probabilities) {
        const { perCall, success } = failing({ clients, perSecond: 100, seconds: 100, failure: () => p }, budgeted, 7)
        assert.isAtMost(perCall, 1.15, `p = ${p}`)
        assert.isAtLeast(success, 1 - p - 0.02, `p = ${p}`)
        // And it is used: with one budget almost as much is sent again as has been earned.
        if (clients === 1) assert.isAtLeast(perCall, 1 + Math.min(p, 0.1 * (1 - p)) - 0.01, `p = ${p}`)
      }
    }
  )

  it.each([1, 1000])("stay at most 1.15 in the 100 s after 100 healthy ones, for %d clients", (clients) => {
    for (const p of [0.15, 1]) {
      const failure = (now: number) => (now < 100_000 ? 0 : p)
      const load = { clients, perSecond: 100, seconds: 200, from: 100_000, failure }
      assert.isAtMost(failing(load, budgeted, 3).perCall, 1.155, `p = ${p}`)
    }
  })
})

// simple_collapse_sim -----------------------------------------------------------------------------

const spike = (now: number) => (now >= 20_000 && now < 25_000 ? 80 : 40)
const ramp = (now: number) => (now < 25_000 ? 40 + (40 * now) / 25_000 : 80 - (80 * (now - 25_000)) / 50_000)

/**
 * A server whose latency is 1 s and 10 ms more for each request it holds. A client gives up after 3 s; the server does not
 * know. `late` is the goodput once the load is long back to where the server copes.
 */
const collapse = (perSecond: (now: number) => number, strategy: Strategy, seed: number) => {
  const simulation = new Simulation()
  const uniform = seeded(seed)
  const client = new Client(simulation, strategy, uniform)
  let inFlight = 0
  let [lateCalls, lateSucceeded] = [0, 0]
  const send = (ended: (succeeded: boolean) => void) => {
    const sentAt = simulation.now
    simulation.after(exponential(uniform, 100), () => {
      const latency = 1000 + 10 * inFlight++
      simulation.after(latency, () => inFlight--)
      // Nothing that happens later changes when the answer comes.
      const answeredAt = simulation.now + latency + exponential(uniform, 100)
      const inTime = answeredAt <= sentAt + 3000
      simulation.at(inTime ? answeredAt : sentAt + 3000, () => ended(inTime))
    })
  }
  const next = () => {
    if (simulation.now >= 75_000) return
    // Thinning: candidates at the highest rate, of which the present rate's share is taken.
    if (uniform() < perSecond(simulation.now) / 80) {
      const late = simulation.now >= 55_000 && simulation.now < 70_000
      client.call(send, (succeeded) => {
        if (!late) return
        lateCalls++
        if (succeeded) lateSucceeded++
      })
    }
    simulation.after(exponential(uniform, 1000 / 80), next)
  }
  simulation.after(0, next)
  simulation.run()
  return { goodput: client.succeeded / client.calls, stuck: lateSucceeded < lateCalls / 2 }
}

const over = (seeds: number, perSecond: (now: number) => number, strategy: Strategy) => {
  const runs = Array.from({ length: seeds }, (_, seed) => collapse(perSecond, strategy, seed + 1))
  return {
    stuck: runs.filter((run) => run.stuck).length,
    goodput: runs.reduce((sum, run) => sum + run.goodput, 0) / seeds
  }
}

describe("collapse", () => {
  const hammer: Strategy = { attempts: 3, budget: false, backoff: atOnce }
  const polite: Strategy = { attempts: 3, budget: false, backoff: fullJitter }

  it.each<[string, Strategy, ...ReadonlyArray<readonly [stuck: number, goodput: number]>]>([
    ["no retry", never, [0, 0.94], [0, 0.58]],
    ["three tries at once", hammer, [42, 0.52], [60, 0.3]],
    ["three tries, backoff and jitter", polite, [0, 0.98], [60, 0.31]]
  ])(
    "%s: of 60 runs as many are stuck as published, after a spike and in a ramp, with that goodput",
    (_, strategy, ...published) => {
      for (const [i, shape] of [spike, ramp].entries()) {
        const [stuck, goodput] = published[i]!
        const ours = over(60, shape, strategy)
        // Both counts are draws: none or all of 60 leaves room for 3 (the rule of three), and of 42 three standard errors of
        // their difference are 15.
        const room = stuck % 60 === 0 ? 3 : 3 * Math.sqrt(2 * stuck * (1 - stuck / 60))
        assert.closeTo(ours.stuck, stuck, room)
        assert.closeTo(ours.goodput, goodput, 0.03 + Math.abs(ours.stuck - stuck) / 60)
      }
    }
  )

  it.each([["spike", spike], ["ramp", ramp]] as const)(
    "in a %s, 0 of 60 runs are stuck with the budget, and goodput is within 2 points of no retry",
    (_, shape) => {
      for (const [seeds, backoff] of [[60, atOnce], [30, fullJitter]] as const) {
        const bare = over(seeds, shape, never)
        const { goodput, stuck } = over(seeds, shape, { attempts: 3, budget: true, backoff })
        assert.deepStrictEqual([bare.stuck, stuck], [0, 0])
        assert.isAtLeast(goodput, bare.goodput - 0.02)
      }
    }
  )
})
