import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit } from "effect"
import * as ChildProcess from "node:child_process"
import * as Path from "node:path"
import * as Scenarios from "../../src/testing/Scenarios.ts"
import * as Simulator from "../../src/testing/Simulator.ts"

const quiet = {
  policy: { name: "none", idempotent: true },
  arrivals: { kind: "poisson", perSecond: 40 },
  dependency: { servers: 4, concurrency: 8, service: { lognormal: { p50: "50 ms", p99: "200 ms" } } },
  horizon: "30 s"
} as const satisfies Simulator.SimulatorOptions

const run = (options: Partial<Simulator.SimulatorOptions> = {}) => Simulator.run({ ...quiet, ...options })

/** The message a simulation dies or fails with. */
const refusal = (options: object) =>
  Effect.map(
    Effect.exit(Simulator.run({ ...quiet, ...options } as Simulator.SimulatorOptions)),
    (exit) => Exit.isFailure(exit) ? (Cause.squash(exit.cause) as Error).message : "it ran"
  )

describe("a simulation", () => {
  it.effect("gives the same bytes for the same seed, and others for another", () =>
    Effect.gen(function*() {
      const storm = { ...Scenarios.retryStorm({ rate: 40, clients: 2, start: 5, lasts: 5, ratio: 1 }), horizon: "15 s" }
      const once = () =>
        Effect.map(run({ ...storm, policy: Simulator.defaultPolicy }), (result) => JSON.stringify(result))
      const first = yield* once()
      assert.strictEqual(yield* once(), first)
      assert.isAbove((JSON.parse(first) as Simulator.Result).totals.transitions, 0)
      const other = yield* run({ ...storm, policy: Simulator.defaultPolicy, seed: 2 })
      assert.notStrictEqual(JSON.stringify({ ...other, seed: 1 }), first)
    }))

  it("gives the same bytes in another process", () => {
    const print = () =>
      ChildProcess.execFileSync(process.execPath, [Path.join(import.meta.dirname, "print.ts")], { encoding: "utf8" })
    const [first, second] = [print(), print()]
    assert.isAbove(first.length, 1000)
    assert.strictEqual(second, first)
  })

  it.effect("compares policies on one day: a policy that draws more meets the same calls and the same work", () =>
    Effect.gen(function*() {
      const none = yield* run()
      const whole = yield* run({ policy: Simulator.defaultPolicy })
      assert.strictEqual(whole.totals.calls, none.totals.calls)
      assert.deepStrictEqual(whole.series.map((row) => row.offered), none.series.map((row) => row.offered))
    }))

  it.effect("loses no call: every one is answered, failed or pending, and none is left behind", () =>
    Effect.gen(function*() {
      const { timers, totals } = yield* run({
        ...Scenarios.correlatedFailure({ rate: 40, clients: 3, start: 5, lasts: 5, killed: 5 }),
        policy: { ...Simulator.defaultPolicy, hedge: {} }
      })
      assert.strictEqual(totals.answered + totals.failed + totals.pending, totals.calls)
      assert.strictEqual(totals.pending, 0)
      assert.strictEqual(timers, 0)
      const failures = Object.values(totals.failures).reduce((sum, n) => sum + n, 0)
      assert.strictEqual(failures, totals.failed)
      assert.isAbove(totals.failed, 0)
    }))

  it.effect("counts as pending what nothing ends: without a timeout, calls that are swallowed", () =>
    Effect.gen(function*() {
      const { timers, totals } = yield* run({
        scenario: { phases: [{ do: "swallow", from: "10 s", to: "20 s", servers: 1 }] }
      })
      assert.strictEqual(timers, 0)
      // The balancer sees that they do not come back, and sends most to the others.
      assert.isAbove(totals.pending, 2)
      assert.isBelow(totals.pending, 50)
      assert.strictEqual(totals.answered + totals.pending, totals.calls)
    }))
})

describe("servers are queues, as theory has them", () => {
  const queue = (
    servers: Partial<Simulator.Dependency>,
    perSecond: number,
    service: Simulator.Latency = { exponential: "100 ms" }
  ) =>
    run({
      arrivals: { kind: "poisson", perSecond },
      dependency: { network: 0, queue: "unlimited", service, ...servers },
      horizon: "3000 s",
      interval: "30 s"
    })

  it.effect("M/M/1 at half load: 200 ms in the system on average", () =>
    Effect.gen(function*() {
      const { totals } = yield* queue({ concurrency: 1 }, 5)
      assert.closeTo(totals.latency.mean, 200, 10)
      // The time in an M/M/1 system is exponential.
      assert.closeTo(totals.latency.p99, 200 * Math.log(100), 70)
    }))

  it.effect("M/D/1 waits half as long as M/M/1", () =>
    Effect.gen(function*() {
      const { totals } = yield* queue({ concurrency: 1 }, 5, "100 ms")
      assert.closeTo(totals.latency.mean, 150, 5)
    }))

  it.effect("M/M/3 as Erlang has it, and a refusal for each request beyond the queue", () =>
    Effect.gen(function*() {
      // Offered 2 Erlang on 3 workers: C = 4/9, so the mean wait is (4/9) × 100 ms / (3 - 2).
      const { totals } = yield* queue({ concurrency: 3 }, 20 / 3, { exponential: "300 ms" })
      assert.closeTo(totals.latency.mean, 300 + (4 / 9) * 300, 22)
      // Erlang's loss formula, without a queue: 4/19 of the calls.
      const lossy = yield* queue({ concurrency: 3, queue: 0 }, 20 / 3, { exponential: "300 ms" })
      assert.closeTo(1 - lossy.totals.success, 4 / 19, 0.012)
      assert.deepStrictEqual(lossy.totals.failures, { Overloaded: lossy.totals.failed })
    }))

  it.effect("work for callers who have gone is wasted, unless the server is told and stops", () =>
    Effect.gen(function*() {
      const hasty = (cancels: "nothing" | "everything") =>
        run({
          policy: { name: "hasty", timeout: "100 ms" },
          dependency: { service: { exponential: "100 ms" }, cancels, network: 0 }
        })
      const deaf = yield* hasty("nothing")
      // Of exponential work that is cut at its mean, 2/e is beyond the cut or thrown away by it.
      assert.closeTo(deaf.totals.wasted, 2 / Math.E, 0.05)
      assert.closeTo(deaf.totals.success, 1 - 1 / Math.E, 0.04)
      const told = yield* hasty("everything")
      assert.closeTo(told.totals.wasted, 1 / Math.E / (1 - 1 / Math.E), 0.05)
      assert.isBelow(told.tiers[0]!.busyMillis, 0.75 * deaf.tiers[0]!.busyMillis)
    }))
})

describe("calls are made", () => {
  it.effect("by users who wait for their answers: in a closed loop, as many as Little's law lets them", () =>
    Effect.gen(function*() {
      const { totals } = yield* run({
        arrivals: { kind: "closed", users: 20, think: { exponential: "400 ms" } },
        dependency: { service: "99 ms", network: 0.5 },
        horizon: "100 s"
      })
      assert.closeTo(totals.offeredPerSecond, 20 / 0.5, 1.5)
    }))

  it.effect("several at once, where an arrival needs all of their answers", () =>
    Effect.gen(function*() {
      const { totals } = yield* run({
        clients: { fanOut: 10 },
        dependency: { service: { exponential: "10 ms" }, failure: { ratio: 0.1 } }
      })
      assert.strictEqual(totals.calls, 10 * totals.arrivals)
      assert.closeTo(totals.success, 0.9, 0.02)
      assert.closeTo(totals.arrivalsAnswered / totals.arrivals, 0.9 ** 10, 0.06)
    }))

  it.effect("evenly, in bursts, at the times of a log, and along a ramp", () =>
    Effect.gen(function*() {
      const steady = yield* run({ arrivals: { kind: "steady", perSecond: 10 } })
      assert.closeTo(steady.totals.calls, 299, 1)
      const seldom = yield* run({ arrivals: { kind: "steady", perSecond: 0.2 }, horizon: "61 s" })
      assert.strictEqual(seldom.totals.calls, 12)
      const bursty = yield* run({
        arrivals: { kind: "bursty", perSecond: 5, burst: { perSecond: 100, every: "8 s", lasts: "2 s" } },
        horizon: "300 s"
      })
      assert.closeTo(bursty.totals.offeredPerSecond, 24, 8)
      assert.isAbove(Math.max(...bursty.series.map((row) => row.offered)), 80)
      const replayed = yield* run({ arrivals: { kind: "replay", at: ["1 s", "1 s", 2500, "29 s", "40 s"] } })
      assert.deepStrictEqual(replayed.series.flatMap((row) => row.offered > 0 ? [row.at] : []), [900, 2400, 28_800])
      assert.strictEqual(replayed.totals.calls, 4)
      const ramp = yield* run({
        arrivals: { kind: "poisson", perSecond: [{ at: 0, perSecond: 0 }, { at: "30 s", perSecond: 100 }] },
        interval: "10 s"
      })
      const [first, second, third] = ramp.series.map((row) => row.offered)
      assert.closeTo(first!, 100 / 6, 5)
      assert.closeTo(second!, 50, 8)
      assert.closeTo(third!, 500 / 6, 10)
    }))
})

describe("what goes wrong", () => {
  const phase = (given: Omit<Simulator.Phase, "from" | "to">, policy: object = {}) =>
    run({
      clients: 4,
      policy: { name: "bounded", idempotent: true, timeout: "1 s", ...policy },
      scenario: { phases: [{ from: "10 s", to: "20 s", ...given } as Simulator.Phase] }
    })

  it.effect("a quarter of the servers that fails everything fails a quarter of the calls, and only while it does", () =>
    Effect.gen(function*() {
      const { totals } = yield* phase({ do: "error", ratio: 1, servers: 1 } as Simulator.Phase)
      assert.strictEqual(totals.successBefore, 1)
      // Power of two choices prefers the endpoint with less in flight, and failing takes as long as answering here.
      assert.closeTo(totals.successDuring!, 0.75, 0.06)
      assert.strictEqual(totals.successAfter, 1)
      assert.deepStrictEqual(Object.keys(totals.failures), ["Remote"])
    }))

  it.effect("a killed server resets what it had; the balancer sends nothing more there until it is back", () =>
    Effect.gen(function*() {
      const { totals } = yield* run({
        arrivals: { kind: "poisson", perSecond: 200 },
        scenario: { phases: [{ do: "down", servers: 1, from: "10 s", to: "20 s" }] }
      })
      assert.deepStrictEqual(Object.keys(totals.failures), ["ConnectionLost"])
      assert.isAtMost(totals.failed, 8)
    }))

  it.effect("a server that drains costs nobody an answer, not even those whose requests are on their way", () =>
    Effect.gen(function*() {
      const near = yield* phase({ do: "drain", servers: 1 } as Simulator.Phase)
      assert.strictEqual(near.totals.success, 1)
      const far = yield* run({
        arrivals: { kind: "poisson", perSecond: 200 },
        dependency: { ...quiet.dependency, network: "50 ms" },
        scenario: { phases: [{ do: "drain", servers: 1, from: "10 s", to: "20 s" }] }
      })
      assert.strictEqual(far.totals.success, 1)
    }))

  it.effect("phases that overlap add up: what one of them keeps away is not back before the last has ended", () =>
    Effect.gen(function*() {
      for (const what of ["down", "drain", "partition", "pause"] as const) {
        const { totals } = yield* run({
          policy: { name: "bounded", timeout: "1 s" },
          dependency: { ...quiet.dependency, servers: 1 },
          scenario: {
            phases: [{ do: what, from: "10 s", to: "15 s" }, { do: what, from: "12 s", to: "20 s" }],
            from: "15 s",
            until: "19 s"
          },
          horizon: "60 s"
        })
        assert.strictEqual(totals.successDuring, 0, what)
        assert.isAbove(totals.successAfter!, 0.8, what)
      }
    }))

  it.effect("a proxy says of what a killed server had that it failed", () =>
    Effect.gen(function*() {
      const { totals } = yield* run({
        arrivals: { kind: "poisson", perSecond: 200 },
        dependency: { ...quiet.dependency, balancer: "proxy" },
        scenario: { phases: [{ do: "down", servers: 1, from: "10 s", to: "20 s" }] }
      })
      assert.deepStrictEqual(Object.keys(totals.failures), ["Remote"])
      assert.strictEqual(totals.pending, 0)
    }))

  it.effect("a server whose callers give up stops what it has others do for them, once", () =>
    Effect.gen(function*() {
      const { series, tiers } = yield* run({
        policy: { name: "hasty", timeout: "50 ms" },
        dependency: {
          servers: 1,
          service: "5 ms",
          cancels: "everything",
          calls: { policy: {}, dependency: { service: { exponential: "40 ms" }, cancels: "everything" } }
        }
      })
      assert.isAbove(tiers[0]!.wasted, 0.3)
      for (const { running } of series) assert.isAtLeast(running, 0)
    }))

  it.effect("a paused server answers late what it had; a partition loses it, and its sessions go when pings give up", () =>
    Effect.gen(function*() {
      const patient = { timeout: false }
      const paused = yield* phase({ do: "pause", servers: 1 } as Simulator.Phase, patient)
      const cut = yield* phase({ do: "partition", servers: 1 } as Simulator.Phase, patient)
      assert.closeTo(paused.totals.latency.max, 5000, 5000)
      for (const { totals } of [paused, cut]) {
        // Within 4 to 9 seconds, as with the transport's own defaults.
        assert.deepStrictEqual(Object.keys(totals.failures), ["ConnectionLost"])
        assert.isAbove(totals.latencyOfAll.max, 4000)
        assert.isBelow(totals.latencyOfAll.max, 9001)
      }
    }))

  it.effect("a partition loses the answer to a request that was at work when it began", () =>
    Effect.gen(function*() {
      const { totals } = yield* run({
        arrivals: { kind: "replay", at: ["9990 ms"] },
        dependency: { servers: 1, service: "100 ms" },
        scenario: { phases: [{ do: "partition", from: "10 s", to: "30 s" }] }
      })
      assert.deepStrictEqual(totals.failures, { ConnectionLost: 1 })
    }))

  it.effect("a tier has what is left of its caller's deadline, unless it does not ask", () =>
    Effect.gen(function*() {
      const slow = (inheritsDeadline: boolean) =>
        run({
          policy: { name: "hurried", deadline: "100 ms" },
          arrivals: { kind: "poisson", perSecond: 5 },
          dependency: {
            service: 0,
            calls: { policy: {}, dependency: { service: "1 s", cancels: "everything" }, inheritsDeadline }
          }
        })
      const asked = (yield* slow(true)).tiers[1]!
      assert.closeTo(asked.busyMillis / asked.attempts, 98, 3)
      const deaf = (yield* slow(false)).tiers[1]!
      // Those of the last second are not over when the run is.
      assert.closeTo(deaf.busyMillis / deaf.attempts, 1000, 40)
    }))

  it.effect("more calls by a factor, and work that takes longer by one", () =>
    Effect.gen(function*() {
      const load = yield* phase({ do: "load", factor: 3 } as Simulator.Phase)
      const rate = (of: Simulator.Result, from: number) =>
        of.series.filter((row) => row.at >= from && row.at < from + 10_000).reduce((sum, row) => sum + row.offered, 0) /
        of.series.filter((row) => row.at >= from && row.at < from + 10_000).length
      assert.closeTo(rate(load, 10_000) / rate(load, 0), 3, 0.5)
      // Three in a minute become a hundred in ten seconds, and not when the next of the three is due.
      const burst = { perSecond: 0.05, every: "1 s", lasts: "1 s" }
      for (
        const arrivals of [{ kind: "poisson", perSecond: 0.05 }, { kind: "bursty", perSecond: 0.05, burst }] as const
      ) {
        const seldom = yield* run({
          arrivals,
          scenario: { phases: [{ do: "load", factor: 200, from: "10 s", to: "20 s" }] }
        })
        // 3 standard deviations are 30.
        assert.closeTo(seldom.totals.calls, 101, 30)
      }
      const slow = yield* phase({ do: "slow", factor: 4 } as Simulator.Phase, { timeout: false })
      const p50 = (from: number) => slow.series.find((row) => row.at >= from)!.p50
      assert.closeTo(p50(15_000) / p50(5000), 4, 1.6)
    }))

  it.effect("behind a proxy a breaker cannot tell one sick server from the service", () =>
    Effect.gen(function*() {
      const sick = (balancer: "client" | "proxy") =>
        run({
          arrivals: { kind: "poisson", perSecond: 100 },
          policy: { name: "breaker", idempotent: true, circuitBreaker: { failureRatio: 0.2 }, timeout: "1 s" },
          dependency: { ...quiet.dependency, balancer },
          scenario: { phases: [{ do: "error", ratio: 1, servers: 1, from: "10 s", to: "20 s" }] }
        })
      const known = yield* sick("client")
      const hidden = yield* sick("proxy")
      assert.isAbove(known.totals.successDuring!, 0.9)
      assert.isBelow(hidden.totals.successDuring!, 0.5)
    }))

  it.effect("a tier that retries multiplies what its own callers retry", () =>
    Effect.gen(function*() {
      const three = {
        idempotent: true,
        retry: { attempts: 3, budget: false, backoff: { kind: "constant", base: 0 } }
      } as const
      const result = yield* run({
        policy: { name: "outer", ...three },
        arrivals: { kind: "poisson", perSecond: 20 },
        dependency: {
          ...quiet.dependency,
          calls: { policy: three, dependency: { service: "5 ms" } }
        },
        scenario: { phases: [{ do: "error", ratio: 1, tier: 1, from: "10 s", to: "20 s" }] }
      })
      const [outer, inner] = result.tiers
      // While the last tier fails everything, one call is three attempts, and each of these is three more.
      const during = result.totals.calls - Math.round(result.totals.success * result.totals.calls)
      // But for the few calls that see its beginning or its end.
      assert.closeTo(outer!.attempts, result.totals.calls + 2 * during, 12)
      assert.closeTo(inner!.attempts, result.totals.calls + 8 * during, 36)
    }))

  it.effect("a fault script runs between clients and servers, and what it keeps from them has been sent", () =>
    Effect.gen(function*() {
      const faulty = (fault: object, radius: object) =>
        run({
          clients: { count: 4, method: "Users.Get", keys: 10 },
          dependency: { ...quiet.dependency, servers: ["tcp://a:1", "tcp://b:1"] },
          policy: { name: "bounded", idempotent: true, timeout: "1 s" },
          faults: {
            phases: [{ name: "x", from: "10 s", to: "20 s", fault, radius }] as never
          }
        })
      const hole = yield* faulty({ kind: "blackHole" }, { endpoints: ["tcp://a:*"], methods: ["Users.*"] })
      assert.isBelow(hole.totals.successDuring!, 0.95)
      assert.deepStrictEqual(hole.disturbance, { from: 10_000, until: 20_000 })
      assert.strictEqual(hole.totals.attempts, hole.totals.calls)
      const tenant = yield* faulty({ kind: "error", reason: "Unavailable" }, { keys: ["k3"] })
      assert.closeTo(tenant.totals.successDuring!, 0.9, 0.05)
      const nobody = yield* faulty({ kind: "blackHole" }, { methods: ["Orders.*"] })
      assert.strictEqual(nobody.totals.success, 1)
    }))
})

describe("policies that answer themselves", () => {
  it.effect("a cache and a fallback stand around the client, and count as answers", () =>
    Effect.gen(function*() {
      const cached = yield* run({
        clients: { keys: 10 },
        policy: { name: "cached", cache: { ttl: "10 s", jitter: 0 } }
      })
      assert.isBelow(cached.totals.amplification, 0.08)
      assert.isAbove(cached.totals.substituted, 1000)
      const fallback = yield* run({
        policy: { name: "fallback", idempotent: true, fallback: { value: null } },
        scenario: { phases: [{ do: "error", ratio: 1, from: "10 s", to: "20 s" }] }
      })
      assert.strictEqual(fallback.totals.success, 1)
      assert.isAbove(fallback.totals.substituted, 300)
    }))
})

describe("what makes no sense is refused before anything runs", () => {
  const dependencyFields =
    "servers, concurrency, service, queue, contention, failure, cancels, dropsExpired, retryAfter, network, balancer, calls"

  it.effect.each(
    [
      [{ policy: { retry: { attempts: 0 } } }, "retry.attempts: Expected a value greater than or equal to 1, got 0"],
      [
        { horizon: "soon" },
        "Simulator.run: horizon must be a positive and finite duration such as \"2 seconds\", got \"soon\""
      ],
      [{ clients: 0 }, "Simulator.run: clients.count must be an integer in [1, 100000], got 0"],
      [
        { dependency: { service: { gamma: 1 } } },
        "Simulator.run: dependency.service must be a duration, or one of uniform, exponential, normal, lognormal, pareto, mixture, got \"gamma\""
      ],
      [
        { dependency: { service: 1, calls: { policy: {}, dependency: { service: 1, queue: -1 } } } },
        "Simulator.run: dependency.calls.dependency.queue must be an integer >= 0, got -1"
      ],
      [
        { dependency: { service: null } },
        "Simulator.run: dependency.service must be a duration, or one of uniform, exponential, normal, lognormal, pareto, mixture, got null"
      ],
      [
        { dependency: { service: { exponential: 1, uniform: [1, 2] } } },
        "Simulator.run: dependency.service must be a duration, or one of uniform, exponential, normal, lognormal, pareto, mixture, got \"exponential, uniform\""
      ],
      [
        { dependency: { service: { lognormal: { p50: 1, p9: 2 } } } },
        "Simulator.run: dependency.service.lognormal must be an object of p50, p99, got \"p9\""
      ],
      [
        { dependency: { service: { uniform: "3 ms" } } },
        "Simulator.run: dependency.service.uniform must be a list of two durations, got \"3 ms\""
      ],
      [
        { dependency: { service: { mixture: 4 } } },
        "Simulator.run: dependency.service.mixture must be a list of parts, at least one, got 4"
      ],
      [
        { dependency: { service: { mixture: [{ weight: 0, of: 1 }] } } },
        "Simulator.run: dependency.service.mixture must be parts of which one has a weight, got 0"
      ],
      [
        { dependency: { service: 1, contention: { abov: 4 } } },
        "Simulator.run: dependency.contention must be an object of above, factor, perRequest, got \"abov\""
      ],
      [
        { dependency: { service: 1, contention: 4 } },
        "Simulator.run: dependency.contention must be an object of above, factor, perRequest, got 4"
      ],
      [
        { dependency: { service: 1, failure: { ratio: 1, with: "failed" } } },
        "Simulator.run: dependency.failure must be an object of ratio, as, got \"with\""
      ],
      [{ dependency: [] }, `Simulator.run: dependency must be an object of ${dependencyFields}, got []`],
      [
        { dependency: { service: 1, calls: { dependency: { service: 1 } } } },
        "dependency.calls.policy: Expected object, got undefined"
      ],
      [
        {
          dependency: { service: 1, calls: { policy: { retry: { attempts: 0 } }, dependency: { service: 1 } } }
        },
        "dependency.calls.policy: retry.attempts: Expected a value greater than or equal to 1, got 0"
      ],
      [
        { arrivals: { kind: "bursty", perSecond: 1 } },
        "Simulator.run: arrivals.burst must be an object of perSecond, every, lasts, got undefined"
      ],
      [{ arrivals: { kind: "replay" } }, "Simulator.run: arrivals.at must be a list of times, got undefined"],
      [
        { arrivals: { kind: "poisson", perSecond: [{ at: 0, rate: 3 }] } },
        "Simulator.run: arrivals.perSecond.0 must be an object of at, perSecond, got \"rate\""
      ],
      [
        { arrivals: { kind: "closed", users: 1, think: 1, perSecond: 3 } },
        "Simulator.run: arrivals must be an object of kind, users, think, got \"perSecond\""
      ],
      [
        { scenario: { phases: [{ do: "pause", from: 0, to: 1, factor: 3 }] } },
        "Simulator.run: scenario.phases.0 must be an object of do, from, to, servers, tier, got \"factor\""
      ],
      [
        { scenario: { phases: [], from: "2 s", until: "1 s" } },
        "Simulator.run: scenario.until must be later than from (2000ms), got \"1 s\""
      ],
      [
        { faults: { phases: [{ name: "thin", from: 0, to: 1 }] } },
        "faults: phases.0.fault: missing"
      ],
      [
        { arrivals: { kind: "random" } },
        "Simulator.run: arrivals.kind must be one of poisson, steady, bursty, replay, closed, got \"random\""
      ],
      [
        { scenario: { phases: [{ do: "explode", from: 0, to: 1 }] } },
        "Simulator.run: scenario.phases.0.do must be one of slow, error, cold, pause, swallow, down, drain, partition, load, got \"explode\""
      ],
      [
        { scenario: { phases: [{ do: "pause", from: "2 s", to: "1 s" }] } },
        "Simulator.run: scenario.phases.0.to must be later than from (2000ms), got \"1 s\""
      ],
      [
        { scenario: { phases: [{ do: "pause", from: 0, to: 1, servers: [4] }] } },
        "Simulator.run: scenario.phases.0.servers must be an integer in [0, 3], got 4"
      ],
      [
        { faults: { phases: [{ name: "thin", from: 0, to: 1, fault: { kind: "bandwidth", bytesPerSecond: 1 } }] } },
        "Simulator.run: faults: phase thin: kind must be a fault of messages or connections: simulated requests have no bytes, got \"bandwidth\""
      ]
    ] as const
  )("%j", ([options, message]) =>
    Effect.gen(function*() {
      assert.strictEqual(yield* refusal(options), message)
    }))
})
