import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Metric from "effect/Metric"
import * as TestClock from "effect/testing/TestClock"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Outcome from "../../src/contract/Outcome.ts"
import * as Metrics from "../../src/observe/Metrics.ts"
import * as Observe from "../../src/observe/Observe.ts"
import * as AdaptiveLimiter from "../../src/policy/AdaptiveLimiter.ts"
import * as AdaptiveThrottle from "../../src/policy/AdaptiveThrottle.ts"
import * as Bulkhead from "../../src/policy/Bulkhead.ts"
import * as Cache from "../../src/policy/Cache.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Hedge from "../../src/policy/Hedge.ts"
import type { Why } from "../../src/policy/internal/gradient.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as RateLimiter from "../../src/policy/RateLimiter.ts"
import * as RetryBudget from "../../src/policy/RetryBudget.ts"

/** The registry of one test, and what counts into it. */
const counted = <A, E, R>(self: Effect.Effect<A, E, R>, options?: Metrics.MetricsOptions) =>
  self.pipe(
    Effect.provide(Observe.layer(Metrics.make(options))),
    Effect.provideService(Metric.MetricRegistry, new Map())
  )

/** Every series but what is 0, as `name{label values}` and its value, or the count and the sum of a histogram. */
const figures = (name: string): Effect.Effect<Record<string, number | readonly [count: number, sum: number]>> =>
  Effect.map(Metric.snapshot, (all) => {
    const found: Record<string, number | readonly [number, number]> = {}
    for (const { attributes = {}, id, state, type } of all) {
      if (id !== name) continue
      const { unit: _unit, ...labels } = attributes
      const key = Object.values(labels).join(" ")
      if (type === "Histogram") found[key] = [state.count, state.sum]
      else if (type === "Counter") found[key] = Number(state.count)
      else if (type === "Gauge") found[key] = Number(state.value)
    }
    return Object.fromEntries(
      Object.entries(found).filter(([, value]) => value !== 0 && (!Array.isArray(value) || value[0] !== 0))
    )
  })

const told = (...events: ReadonlyArray<CallEvent.CallEvent>) =>
  Effect.map(CallEvent.CurrentReceiver, (receiver) => {
    for (const event of events) receiver!.event(event)
  })

const at = { atMillis: 0 }
const call = (name: string, more: Partial<CallContext.CallContext> = {}): CallContext.CallContext => ({
  ...CallContext.empty,
  name,
  ...more
})
const open = new CallError.CallError({ _tag: "CircuitOpen", policy: "p", state: "Open", sent: "no" })
const unauthenticated = new CallError.CallError({
  _tag: "Unauthenticated",
  target: "users",
  detail: "expired",
  sent: "no"
})
const rejected = { call: call("a"), error: open, state: undefined }
const ended = (name: string, more: Partial<CallEvent.CallEnded> = {}): CallEvent.CallEnded => ({
  _tag: "CallEnded",
  call: call(name),
  attempts: 1,
  outcome: Outcome.success,
  error: undefined,
  interrupted: undefined,
  durationMillis: 20,
  ...at,
  ...more
})
const attempted = (
  endpoint: string | undefined,
  more: Partial<CallEvent.AttemptEnded> = {}
): CallEvent.AttemptEnded => ({
  _tag: "AttemptEnded",
  call: call("a"),
  endpoint,
  outcome: Outcome.success,
  error: undefined,
  interrupted: undefined,
  durationMillis: 20,
  ...at,
  ...more
})
const endpointChanged = (change: CallEvent.EndpointChanged["change"], endpoint = "e"): CallEvent.CallEvent => ({
  _tag: "EndpointChanged",
  target: "users",
  endpoint,
  change,
  why: "",
  ...at
})

describe("Metrics", () => {
  it.effect("counts calls by what they came to, and times them by what failed", () =>
    counted(Effect.gen(function*() {
      yield* told(
        { _tag: "CallStarted", call: call("a"), ...at },
        ended("a"),
        ended("a", { error: "a domain error" }),
        ended("a", { error: open, outcome: Outcome.elsewhere, durationMillis: 1 }),
        // The server answers, and yet nobody gets what they called for: expired credentials are an outage.
        ended("a", { error: unauthenticated, outcome: Outcome.success }),
        ended("a", { error: "interrupted", outcome: Outcome.ignored })
      )
      assert.deepStrictEqual(yield* figures("holdfast_calls_total"), {
        "a success": 2,
        "a failure": 2,
        "a ignored": 1
      })
      assert.deepStrictEqual(yield* figures("rpc.client.call.duration"), {
        "holdfast a": [1, 0.02],
        "holdfast a Domain": [1, 0.02],
        "holdfast a CircuitOpen": [1, 0.001],
        "holdfast a Unauthenticated": [1, 0.02],
        "holdfast a _OTHER": [1, 0.02]
      })
      assert.deepStrictEqual(yield* figures("holdfast_calls_in_flight"), { a: -4 })
    })))

  it.effect("puts a duration into the bucket whose bound it does not exceed", () =>
    counted(Effect.gen(function*() {
      for (const durationMillis of [0, 0.05, 0.051, 300_000, 300_001]) yield* told(ended("a", { durationMillis }))
      const one = (yield* Metric.snapshot).find(({ id }) => id === "rpc.client.call.duration")
      assert(one?.type === "Histogram")
      const { buckets, count, max, min } = one.state
      assert.deepStrictEqual([count, min, max], [5, 0, 300.001])
      assert.deepStrictEqual([buckets[0], buckets[1], buckets.at(-2), buckets.at(-1)], [
        [0.000_05, 2],
        [0.0001, 3],
        [120, 3],
        [300, 4]
      ])
    })))

  it.effect("tells first attempts from retries and hedges, by endpoint and by method", () =>
    counted(Effect.gen(function*() {
      yield* told(
        { _tag: "AttemptStarted", call: call("a"), endpoint: "e", ...at },
        { _tag: "AttemptStarted", call: call("a"), endpoint: "e", ...at },
        attempted("e"),
        attempted("f", { outcome: Outcome.failure, durationMillis: 5 }),
        attempted("f", { call: call("a", { attempt: 2 }) }),
        attempted("f", { call: call("a", { attempt: 2, hedge: true }), outcome: Outcome.ignored }),
        attempted(undefined)
      )
      assert.deepStrictEqual(yield* figures("holdfast_attempts_total"), {
        "a first success": 2,
        "a first failure": 1,
        "a retry success": 1,
        "a hedge ignored": 1
      })
      assert.deepStrictEqual(yield* figures("holdfast_attempt_duration_seconds"), {
        "e success": [1, 0.02],
        "f failure": [1, 0.005],
        "f success": [1, 0.02],
        "f ignored": [1, 0.02],
        success: [1, 0.02]
      })
      assert.deepStrictEqual(yield* figures("holdfast_attempts_in_flight"), { e: 1, f: -3, "": -1 })
    })))

  it.effect("counts what policies decide, without a user's key and with reasons from closed sets", () =>
    counted(Effect.gen(function*() {
      const of = { policy: "p", ...at }
      const moved = (from: number, to: number, why: string) => told({ _tag: "LimitMoved", ...of, from, to, why })
      yield* told(
        { _tag: "RetryScheduled", ...of, call: call("a"), delayMillis: 100, retryAfterMillis: undefined, error: "x" },
        { _tag: "HedgeStarted", ...of, call: call("a"), afterMillis: 5 },
        { _tag: "Rejected", ...of, ...rejected, reason: "CircuitOpen" },
        { _tag: "Rejected", ...of, ...rejected, reason: "user 42 is not welcome" },
        { _tag: "Transition", ...of, policy: "tenants[42]", from: "Closed", to: "Open", why: "6 of 10" },
        { _tag: "Transition", ...of, policy: "tenants[4[3]]", from: "HalfOpen", to: "Open", why: "1 of 1" },
        { _tag: "Transition", ...of, from: "on", to: "off", why: "by hand" },
        { _tag: "BudgetMoved", ...of, call: call("a"), change: "refused", balance: 0 },
        { _tag: "Substituted", ...of, call: call("a"), how: "stale", ageMillis: 1 },
        { _tag: "Reloaded", ...of, accepted: false, why: "" },
        { _tag: "Warning", ...of, why: "" },
        { _tag: "QueueLeft", ...of, call: call("a"), how: "admitted", waitedMillis: 250 },
        { _tag: "Repicked", ...at, call: call("a"), target: "users", endpoint: "e", error: open },
        {
          _tag: "RequestRefused",
          ...at,
          peer: "x",
          method: "../../etc",
          reason: "unimplemented",
          why: "no such method"
        }
      )
      yield* moved(10, 20, "room: 1ms of late")
      yield* moved(20, 10, "resized")
      yield* moved(0.1, 0.2, "5 of 5 probes succeeded")
      yield* moved(0.2, 0.1, "tenant 42 asked for it")
      const expected: Record<string, Record<string, number | readonly [number, number]>> = {
        holdfast_retry_delay_seconds: { p: [1, 0.1] },
        holdfast_hedges_total: { p: 1 },
        holdfast_rejections_total: { "p CircuitOpen": 1, "p other": 1 },
        holdfast_transitions_total: { "tenants Closed Open": 1, "tenants HalfOpen Open": 1, "p other other": 1 },
        circuit_breaker_open_total: { tenants: 2 },
        holdfast_retry_budget_moves_total: { "p refused": 1 },
        holdfast_substitutions_total: { "p stale": 1 },
        holdfast_reloads_total: { "p refused": 1 },
        holdfast_warnings_total: { p: 1 },
        holdfast_queue_wait_seconds: { "p admitted": [1, 0.25] },
        holdfast_repicks_total: { users: 1 },
        holdfast_server_refused_total: { unimplemented: 1 },
        holdfast_limit_moves_total: { "p up room": 1, "p down resized": 1, "p up recovering": 1, "p down other": 1 }
      }
      for (const [name, series] of Object.entries(expected)) assert.deepStrictEqual(yield* figures(name), series, name)
    })))

  it.effect("keeps at most so many names apart and counts the others together", () =>
    counted(
      Effect.gen(function*() {
        for (let user = 0; user < 100; user++) {
          const name = `user ${user}`
          yield* told(
            ended(name),
            attempted(name, { call: call(name) }),
            { _tag: "Warning", policy: name, why: "", ...at }
          )
        }
        const calls = yield* figures("holdfast_calls_total")
        assert.deepStrictEqual(calls, { "user 0 success": 1, "user 1 success": 1, "other success": 98 })
        assert.deepStrictEqual(yield* figures("holdfast_warnings_total"), { "user 0": 1, "user 1": 1, other: 98 })
        assert.deepStrictEqual(yield* figures("holdfast_attempts_in_flight"), {
          "user 0": -1,
          "user 1": -1,
          other: -98
        })
      }),
      { maxNames: 2 }
    ))

  it.effect("dies for a cap that is none", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(
        yield* Effect.exit(Metrics.make({ maxNames: 0 })),
        Exit.die(new RangeError("Metrics.make: maxNames must be an integer >= 1, got 0"))
      )
    }))

  it.effect("lets the series of an endpoint go with it, once its last attempt has ended", () =>
    counted(Effect.gen(function*() {
      const started: CallEvent.CallEvent = { _tag: "AttemptStarted", call: call("a"), endpoint: "e", ...at }
      const series = Effect.map(
        Metric.snapshot,
        (all) => all.filter(({ attributes }) => attributes?.["endpoint"] === "e").length
      )
      yield* told(
        endpointChanged("added"),
        started,
        attempted("e", { outcome: Outcome.failure }),
        started,
        endpointChanged("removed")
      )
      assert.strictEqual(yield* series, 3)
      yield* told(attempted("e"))
      assert.strictEqual(yield* series, 0)
      yield* told(endpointChanged("added"), started, attempted("e"))
      assert.strictEqual(yield* series, 2)
      yield* told(endpointChanged("removed"))
      assert.strictEqual(yield* series, 0)
    })))

  it.effect("knows how many endpoints there are and how many of them are ejected", () =>
    counted(Effect.gen(function*() {
      yield* told(endpointChanged("added"), endpointChanged("added", "f"), endpointChanged("added", "g"))
      yield* told(endpointChanged("ejected"), endpointChanged("ejected", "f"), endpointChanged("readmitted", "f"))
      assert.deepStrictEqual(yield* figures("holdfast_endpoints"), { users: 3 })
      assert.deepStrictEqual(yield* figures("holdfast_endpoints_ejected"), { users: 1 })
      yield* told(endpointChanged("removed"), endpointChanged("removed", "g"))
      assert.deepStrictEqual(yield* figures("holdfast_endpoints"), { users: 1 })
      assert.deepStrictEqual(yield* figures("holdfast_endpoints_ejected"), {})
      assert.deepStrictEqual(yield* figures("holdfast_endpoint_changes_total"), {
        "users added": 3,
        "users ejected": 2,
        "users readmitted": 1,
        "users removed": 2
      })
    })))

  it.effect("asks open connections for their bytes when somebody looks, and remembers those of closed ones", () =>
    counted(Effect.gen(function*() {
      const session = (bytesRead: number) => {
        const stats = { bytesRead, bytesWritten: 1, refused: 2 }
        const tell = () => stats
        const changed = (change: "opened" | "closed") =>
          told({ _tag: "SessionChanged", side: "server", peer: "x", change, why: "", stats: tell, ...at })
        return { stats, changed }
      }
      const first = session(10)
      const second = session(100)
      yield* first.changed("opened")
      yield* second.changed("opened")
      first.stats.bytesRead = 20
      const bytes = figures("holdfast_wire_bytes_total")
      assert.deepStrictEqual(yield* bytes, { "server read": 120, "server written": 2 })
      yield* first.changed("closed")
      yield* first.changed("closed")
      second.stats.bytesRead = 200
      assert.deepStrictEqual(yield* bytes, { "server read": 220, "server written": 2 })
      assert.deepStrictEqual(yield* figures("holdfast_server_refused_total"), { overloaded: 4 })
      assert.deepStrictEqual(yield* figures("holdfast_sessions"), { server: 1 })
      assert.deepStrictEqual(yield* figures("holdfast_sessions_opened_total"), { server: 2 })
    })))

  it.effect("times handlers, counts those that run, and forgets none however they end", () =>
    counted(Effect.gen(function*() {
      const { aroundHandler } = (yield* CallEvent.CurrentReceiver)!
      const running = figures("holdfast_server_requests_in_flight")
      const handle = <A, E>(self: Effect.Effect<A, E>) => Effect.exit(aroundHandler!(self, call("a"), "peer"))
      const fiber = yield* Effect.forkChild(handle(Effect.never), { startImmediately: true })
      assert.deepStrictEqual(yield* running, { a: 1 })
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.interrupt(fiber)
      yield* handle(Effect.void)
      yield* handle(Effect.fail("domain"))
      yield* handle(Effect.die("defect"))
      yield* handle(Effect.die(new CallError.Refused({ _tag: "Overloaded", target: "a", detail: "", sent: "no" })))
      assert.deepStrictEqual(yield* running, {})
      assert.deepStrictEqual(yield* figures("rpc.server.call.duration"), {
        "holdfast a": [1, 0],
        "holdfast a Domain": [1, 0],
        "holdfast a _OTHER": [2, 2],
        "holdfast a Overloaded": [1, 0]
      })
    })))
})

describe("Metrics of policies", () => {
  it.effect("reads the state of each when somebody looks", () =>
    counted(Effect.gen(function*() {
      const bulkhead = yield* Bulkhead.make({ name: "db", limit: 2, maxQueue: 5 })
      yield* AdaptiveLimiter.make({ name: "api", initial: 30 })
      yield* RateLimiter.make({ name: "quota", limit: 7 })
      yield* AdaptiveThrottle.make({ name: "shed" })
      yield* Hedge.make({ name: "twice", delay: "250 millis" })
      const cache = yield* Cache.make<number>({ name: "kept", capacity: 5, ttl: "1 minute" })
      const budget = yield* RetryBudget.make({ name: "ledger" })
      const limits = figures("holdfast_limit")
      assert.deepStrictEqual(yield* limits, { "db bulkhead": 2, "api adaptiveLimiter": 30, "quota rateLimiter": 7 })
      yield* budget.deposit(true)
      const { balance } = yield* budget.snapshot
      assert.isAbove(balance, 0)
      assert.deepStrictEqual(yield* figures("holdfast_retry_budget_balance"), { ledger: balance })
      yield* Effect.forEach([1, 2, 3], () => Effect.forkChild(bulkhead.run(Effect.never), { startImmediately: true }))
      assert.deepStrictEqual(yield* figures("holdfast_permits_in_use"), { "db bulkhead": 2 })
      assert.deepStrictEqual(yield* figures("holdfast_queued"), { "db bulkhead": 1 })
      yield* bulkhead.resize(9)
      assert.deepStrictEqual((yield* limits)["db bulkhead"], 9)
      assert.deepStrictEqual(yield* figures("holdfast_hedge_delay_seconds"), { twice: 0.25 })
      yield* CallContext.annotate(cache.run(Effect.succeed(1)), { name: "a", key: "k" })
      assert.deepStrictEqual(yield* figures("holdfast_cache_entries"), { kept: 1 })
    })))

  it.effect("knows what moves every limit there is", () =>
    counted(Effect.gen(function*() {
      const whys: { readonly [W in Why]: true } = {
        room: true,
        queueing: true,
        overload: true,
        "throughput falls": true,
        "latency grows without throughput": true,
        "more than is used": true
      }
      for (const why of Object.keys(whys)) {
        yield* told({ _tag: "LimitMoved", policy: "gradient", from: 1, to: 2, why: `${why}: 1ms`, ...at })
      }
      const bulkhead = yield* Bulkhead.make({ name: "b", limit: 2 })
      yield* bulkhead.resize(3)
      const limiter = yield* RateLimiter.make({ name: "r", limit: 2 })
      yield* limiter.changeLimit(1)
      const breaker = yield* CircuitBreaker.make({
        name: "c",
        consecutiveFailures: 1,
        openFor: "1 second",
        jitter: 0,
        halfOpen: { probes: 1 },
        ramp: { duration: "10 seconds" }
      })
      yield* Effect.exit(breaker.run(Effect.fail("down")))
      yield* TestClock.adjust("1 second")
      yield* breaker.run(Effect.void)
      yield* TestClock.adjust("9 seconds")
      yield* Effect.exit(breaker.run(Effect.void))
      const moves = Object.keys(yield* figures("holdfast_limit_moves_total"))
      assert.deepStrictEqual(new Set(moves.map((move) => move.split(" ")[0])), new Set(["gradient", "b", "r", "c"]))
      assert.deepStrictEqual(moves.filter((move) => move.endsWith("other")), [])
    })))

  it.effect("shows the state of a circuit, and of the circuits of all keys without the keys", () =>
    counted(Effect.gen(function*() {
      const one = yield* CircuitBreaker.make({ name: "one", consecutiveFailures: 2 })
      const keyed = yield* CircuitBreaker.keyed({ name: "tenants", consecutiveFailures: 2 })
      const fail = (policy: Policy.Policy<unknown>, key: string) =>
        Effect.exit(CallContext.annotate(policy.run(Effect.fail("down")), { key }))
      yield* fail(one, "x")
      assert.deepStrictEqual(yield* figures("circuit_breaker_state"), { "one Closed": 1 })
      yield* fail(one, "x")
      for (const key of ["a", "a", "b", "b", "c"]) yield* fail(keyed, key)
      assert.deepStrictEqual(yield* figures("circuit_breaker_state"), {
        "one Open": 1,
        "tenants Open": 2,
        "tenants Closed": 1
      })
      assert.deepStrictEqual(yield* figures("circuit_breaker_calls_failed_total"), { one: 2, tenants: 5 })
      assert.deepStrictEqual(yield* figures("circuit_breaker_open_total"), { one: 1, tenants: 2 })
    })))

  it.effect("reads a policy once per look, however many figures it has", () =>
    counted(Effect.gen(function*() {
      const registry = (yield* Policy.CurrentRegistry)!
      let read = 0
      const snapshot = () => {
        read++
        return { _tag: "Closed" }
      }
      registry.register({ name: "p", kind: "circuitBreaker", snapshot })
      yield* Metric.snapshot
      yield* Metric.snapshot
      assert.strictEqual(read, 2)
    })))

  it.effect("adds up policies of one name, and takes out what has gone with all it counted", () =>
    counted(Effect.gen(function*() {
      const registry = (yield* Policy.CurrentRegistry)!
      const size = Effect.map(Metric.snapshot, (all) => all.length)
      const before = yield* size
      const register = (limit: number) =>
        registry.register({ name: "db", kind: "bulkhead", snapshot: () => ({ limit, inFlight: 0, queued: 0 }) })
      const [first, second] = [register(2), register(3)]
      assert.deepStrictEqual(yield* figures("holdfast_limit"), { "db bulkhead": 5 })
      yield* told({ _tag: "Rejected", policy: "db", reason: "BulkheadFull", ...rejected, ...at })
      assert.strictEqual(yield* size, before + 4)
      first()
      first()
      assert.deepStrictEqual(yield* figures("holdfast_limit"), { "db bulkhead": 3 })
      assert.strictEqual(yield* size, before + 4)
      second()
      assert.strictEqual(yield* size, before)
    })))

  it.effect("adds up what two of them count into one registry", () =>
    Effect.gen(function*() {
      const one = Effect.provide(
        Effect.andThen(Bulkhead.make({ name: "db", limit: 2 }), told(ended("a"))),
        Observe.layer(Metrics.make())
      )
      yield* Effect.andThen(one, one)
      assert.deepStrictEqual(yield* figures("holdfast_calls_total"), { "a success": 2 })
      assert.deepStrictEqual(yield* figures("holdfast_limit"), { "db bulkhead": 4 })
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))

  it.effect("is unmoved by a state that is none", () =>
    counted(Effect.gen(function*() {
      const registry = (yield* Policy.CurrentRegistry)!
      registry.register({ name: "p", kind: "circuitBreaker", snapshot: () => null })
      registry.register({ name: "q", kind: "bulkhead", snapshot: () => ({ limit: "many", inFlight: Number.NaN }) })
      registry.register({ name: "r", kind: "custom", snapshot: () => undefined })
      assert.deepStrictEqual(yield* figures("circuit_breaker_state"), {})
      assert.deepStrictEqual(yield* figures("holdfast_limit"), {})
    })))
})
