/** What people and dashboards do with a circuit: force it, watch it, save it and bring it back. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Exit, Fiber, Random, Schema, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Policy from "../../src/policy/Policy.ts"
import { call, calls, hold, holdAll, reasonOf, recording, transitions } from "../support/breaker.ts"

const make = (options: CircuitBreaker.CircuitBreakerOptions = {}) =>
  CircuitBreaker.make({
    consecutiveFailures: 2,
    openFor: "10 seconds",
    jitter: 0,
    halfOpen: { probes: 1 },
    ...options
  })

const tagOf = (breaker: CircuitBreaker.CircuitBreaker) => Effect.map(breaker.state, (state) => state._tag)

describe("CircuitBreaker.isolate", () => {
  it.effect("rejects until the last of two handles is released", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      const [one, two] = [yield* Scope.make(), yield* Scope.make()]
      yield* Scope.provide(breaker.isolate, one)
      yield* Scope.provide(breaker.isolate, two)
      assert.strictEqual(yield* calls(breaker, "S"), "-")
      yield* Scope.close(one, Exit.void)
      assert.strictEqual(yield* calls(breaker, "S"), "-")
      yield* Scope.close(two, Exit.void)
      assert.strictEqual(yield* calls(breaker, "S"), "S")
    }))

  it.effect("says that no time readmits", () =>
    Effect.scoped(Effect.gen(function*() {
      const breaker = yield* make()
      yield* breaker.isolate
      const reason = reasonOf(yield* call(breaker, "S"))
      assert.deepStrictEqual(reason, {
        _tag: "CircuitOpen",
        policy: "CircuitBreaker",
        sent: "no",
        state: "ForcedOpen",
        retryAfterMillis: undefined
      })
      assert.isFalse(breaker.wouldAdmit(Number.MAX_SAFE_INTEGER))
    })))

  it.effect("goes before a mode, and hands back to it", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      yield* breaker.force("disabled")
      yield* Effect.scoped(Effect.andThen(
        breaker.isolate,
        Effect.gen(function*() {
          assert.strictEqual(yield* tagOf(breaker), "ForcedOpen")
          yield* breaker.force("metricsOnly")
          assert.strictEqual(yield* tagOf(breaker), "ForcedOpen")
        })
      ))
      assert.strictEqual(yield* tagOf(breaker), "MetricsOnly")
    }))

  it.effect("starts a Closed circuit anew: what was counted before is too old to trip it", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      yield* calls(breaker, "F")
      yield* Effect.scoped(breaker.isolate)
      assert.strictEqual(yield* calls(breaker, "F"), "F")
      assert.strictEqual(yield* tagOf(breaker), "Closed")
    }))

  it.effect("leaves an Open circuit open for as long as it was", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      yield* calls(breaker, "FF")
      yield* Effect.scoped(Effect.andThen(breaker.isolate, TestClock.adjust("4 seconds")))
      assert.strictEqual((yield* breaker.state).untilMillis, 10_000)
      yield* Effect.scoped(Effect.andThen(breaker.isolate, TestClock.adjust("6 seconds")))
      assert.strictEqual(yield* calls(breaker, "S"), "S")
    }))

  it.effect("probes again what was being probed, and takes no answer of before", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      yield* calls(breaker, "FF")
      yield* TestClock.adjust("10 seconds")
      const probe = yield* hold(breaker)
      yield* Effect.scoped(breaker.isolate)
      yield* probe.end("S")
      assert.strictEqual(yield* tagOf(breaker), "Open")
      assert.strictEqual(yield* calls(breaker, "S"), "S")
      assert.strictEqual(yield* tagOf(breaker), "Closed")
    }))
})

describe("CircuitBreaker.force, trip and reset", () => {
  it.effect("admits everything and counts nothing when disabled", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      yield* calls(breaker, "FF")
      yield* breaker.force("disabled")
      assert.strictEqual(yield* calls(breaker, "FFFFFF"), "FFFFFF")
      const { _tag, calls: counted } = yield* breaker.state
      assert.deepStrictEqual([_tag, counted], ["Disabled", 0])
      yield* breaker.force("none")
      assert.strictEqual(yield* calls(breaker, "S"), "-")
    }))

  it.effect("says once per excursion, in metrics only, that it would have opened", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      yield* breaker.force("metricsOnly")
      const [, events] = yield* recording(calls(breaker, "FFFF S F S FF"))
      assert.deepStrictEqual(events.map((event) => "why" in event && event.why), [
        "would open: 2 failures in a row",
        "would open: 2 failures in a row"
      ])
    }))

  it.effect("goes on counting when it is told again what it does", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      yield* breaker.force("metricsOnly")
      yield* calls(breaker, "SF")
      yield* breaker.force("metricsOnly")
      assert.strictEqual((yield* breaker.state).calls, 2)
    }))

  it.effect("trips by hand for as long as the next opening would last", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      yield* breaker.trip()
      const { openings, untilMillis, why } = yield* breaker.state
      assert.deepStrictEqual([openings, untilMillis, why], [1, 10_000, "tripped by hand"])
    }))

  it.effect("resets to Closed, and forgets how often it has opened", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ openFor: "10 seconds" })
      yield* calls(breaker, "FF")
      yield* breaker.reset
      const { _tag, calls: counted, openings } = yield* breaker.state
      assert.deepStrictEqual([_tag, counted, openings], ["Closed", 0, 0])
      assert.strictEqual(yield* calls(breaker, "FS"), "FS")
    }))

  it.effect("trips and resets what follows an operator's word, not the word", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      yield* breaker.force("disabled")
      yield* breaker.trip("1 minute")
      assert.strictEqual(yield* calls(breaker, "S"), "S")
      yield* breaker.force("none")
      assert.strictEqual((yield* breaker.state).untilMillis, 60_000)
      yield* breaker.force("open")
      yield* breaker.reset
      assert.strictEqual(yield* calls(breaker, "S"), "-")
      yield* breaker.force("none")
      assert.strictEqual(yield* tagOf(breaker), "Closed")
    }))

  it.effect("refuses a duration that is none", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      for (const duration of [Duration.infinity, Duration.millis(-1)]) {
        assert.isTrue(Exit.hasDies(yield* Effect.exit(breaker.trip(duration))))
      }
      assert.strictEqual(yield* tagOf(breaker), "Closed")
    }))
})

describe("CircuitBreaker, observed", () => {
  it.effect("tells a subscriber the present state, then every transition", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      yield* calls(breaker, "FF")
      const reader = yield* breaker.changes.pipe(
        Stream.take(4),
        Stream.runCollect,
        Effect.forkChild({ startImmediately: true })
      )
      yield* TestClock.adjust("10 seconds")
      yield* calls(breaker, "F")
      yield* TestClock.adjust("10 seconds")
      yield* calls(breaker, "S")
      const states = yield* Fiber.join(reader)
      assert.deepStrictEqual(states.map((state) => [state._tag, state.why]), [
        ["Open", "2 failures in a row"],
        ["HalfOpen", "open long enough"],
        ["Open", "1 of 1 probes failed"],
        ["HalfOpen", "open long enough"]
      ])
    }))

  it.effect("emits a transition with the figures that decided, and a rejection with the call", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ name: "users@10.0.0.7" })
      const [, events] = yield* recording(Effect.gen(function*() {
        yield* calls(breaker, "FFS")
        yield* TestClock.adjust("10 seconds")
        yield* calls(breaker, "S")
      }))
      assert.deepStrictEqual(transitions(events), ["Closed>Open", "Open>HalfOpen", "HalfOpen>Closed"])
      const [transition, rejected] = events
      assert.deepStrictEqual(transition, {
        _tag: "Transition",
        policy: "users@10.0.0.7",
        from: "Closed",
        to: "Open",
        why: "2 failures in a row",
        atMillis: 0
      })
      assert.strictEqual(rejected?._tag === "Rejected" && rejected.reason, "CircuitOpen")
    }))

  it.effect("moves first and tells then: a listener may call", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      const seen: Array<boolean> = []
      const event = () => void seen.push(breaker.wouldAdmit(0))
      yield* calls(breaker, "FF").pipe(
        Effect.provideService(CallEvent.CurrentReceiver, { event })
      )
      assert.deepStrictEqual(seen, [false])
    }))

  it.effect("registers with the registry that is provided", () =>
    Effect.gen(function*() {
      const registered: Array<Policy.Registered> = []
      const registry: Policy.Registry = {
        register: (policy) => {
          registered.push(policy)
          return () => {}
        }
      }
      const breaker = yield* Effect.provideService(make({ name: "users" }), Policy.CurrentRegistry, registry)
      yield* calls(breaker, "SFSF")
      assert.deepStrictEqual(registered[0]!.counts!(), { failed: 2 })
      yield* calls(breaker, "FF")
      assert.deepStrictEqual(registered.map(({ kind, name }) => [kind, name]), [["circuitBreaker", "users"]])
      assert.deepStrictEqual(registered[0]!.snapshot(), yield* breaker.state)
      // Also where a call has to know how long it took.
      yield* Effect.provideService(make({ slowThreshold: "1 second" }), Policy.CurrentRegistry, registry).pipe(
        Effect.flatMap((measured) => calls(measured, "SFSF"))
      )
      assert.deepStrictEqual(registered[1]!.counts!(), { failed: 2 })
    }))

  it.effect("answers whether a call would be admitted without admitting one", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ halfOpen: { probes: 2 } })
      assert.isTrue(breaker.wouldAdmit(0))
      yield* calls(breaker, "FF")
      assert.deepStrictEqual([breaker.wouldAdmit(9999), breaker.wouldAdmit(10_000)], [false, true])
      assert.strictEqual(yield* tagOf(breaker), "Open")
      yield* TestClock.adjust("10 seconds")
      yield* holdAll(breaker, 2)
      assert.deepStrictEqual([breaker.wouldAdmit(10_000), breaker.wouldAdmit(20_000)], [false, false])
      // Both leases run out at 20 s, which opens it for 10 s more.
      assert.deepStrictEqual([breaker.wouldAdmit(29_999), breaker.wouldAdmit(30_000)], [false, true])
      assert.strictEqual(yield* tagOf(breaker), "HalfOpen")
    }))

  it.effect("tells of an opening that was over before anybody looked", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({
        consecutiveFailures: 3,
        failureRatio: 0.5,
        openFor: "1 second",
        jitter: 0,
        halfOpen: { probes: 1, lease: "2 seconds" },
        ramp: { duration: "9 seconds", initialShare: 1 }
      })
      const [, events] = yield* recording(Effect.gen(function*() {
        yield* breaker.trip()
        yield* TestClock.adjust("1 second")
        const hung = yield* hold(breaker)
        // Its lease runs out after 2 s, and the time to be open a second later.
        yield* TestClock.adjust("3 seconds")
        yield* calls(breaker, "S")
        // The first step of the ramp, in which everything fails, opens it for a second again.
        yield* calls(breaker, "F")
        yield* TestClock.adjust("3 seconds")
        yield* calls(breaker, "S")
        const last = yield* hold(breaker)
        yield* TestClock.adjust("9 seconds")
        yield* last.end("F")
        yield* hung.interrupt
      }))
      const cycle = ["Open>HalfOpen", "HalfOpen>Recovering", "Recovering>Open"]
      assert.deepStrictEqual(transitions(events), [
        "Closed>Open",
        "Open>HalfOpen",
        "HalfOpen>Open",
        ...cycle,
        ...cycle.slice(0, 2),
        "Recovering>Closed"
      ])
    }))
})

describe("CircuitBreaker.reconfigure", () => {
  it.effect("goes on by other conditions, with what the window knows", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ failureRatio: 1, window: { calls: 10 } })
      yield* calls(breaker, "SSSF")
      yield* breaker.reconfigure({ failureRatio: 0.4, window: { calls: 5 } })
      assert.strictEqual((yield* breaker.state).calls, 4)
      yield* calls(breaker, "F")
      assert.strictEqual((yield* breaker.state).why, "2 of 5 calls failed")
    }))

  it.effect("leaves an Open circuit open for as long as it was, and the next opening to the new options", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      yield* calls(breaker, "FF")
      yield* breaker.reconfigure({ consecutiveFailures: 1, openFor: "3 seconds", jitter: 0, halfOpen: { probes: 1 } })
      assert.strictEqual((yield* breaker.state).untilMillis, 10_000)
      yield* TestClock.adjust("10 seconds")
      yield* calls(breaker, "F")
      assert.strictEqual((yield* breaker.state).untilMillis, 13_000)
    }))

  it.effect("keeps an operator's word, and takes no result of before", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      const held = yield* hold(breaker)
      yield* Effect.scoped(Effect.andThen(
        breaker.isolate,
        Effect.gen(function*() {
          yield* breaker.reconfigure({ consecutiveFailures: 1 })
          assert.strictEqual(yield* tagOf(breaker), "ForcedOpen")
        })
      ))
      yield* held.end("F")
      const { _tag, late } = yield* breaker.state
      assert.deepStrictEqual([_tag, late], ["Closed", 1])
    }))

  it.effect("dies for options out of range, and goes on as before", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      const exit = yield* Effect.exit(breaker.reconfigure({ jitter: 2 }))
      assert.deepStrictEqual(
        exit,
        Exit.die(new RangeError("CircuitBreaker.reconfigure: jitter must be in [0, 1], got 2"))
      )
      assert.strictEqual(yield* calls(breaker, "FFS"), "FF-")
    }))
})

const codec = Schema.toCodecJson(CircuitBreaker.Snapshot)

/** Through JSON, to a new breaker. */
const carry = (from: CircuitBreaker.CircuitBreaker, to: CircuitBreaker.CircuitBreaker) =>
  Effect.gen(function*() {
    const json = JSON.stringify(yield* Schema.encodeEffect(codec)(yield* from.snapshot))
    yield* to.restore(yield* Schema.decodeUnknownEffect(codec)(JSON.parse(json)))
  })

/** What of a state is the same in another process. */
const lasting = (state: CircuitBreaker.State) => ({ ...state, generation: 0, late: 0, rejected: 0 })

describe("CircuitBreaker.snapshot and restore", () => {
  const options: CircuitBreaker.CircuitBreakerOptions = {
    failureRatio: 0.5,
    minimumCalls: 10,
    window: { duration: "10 seconds" },
    ramp: { duration: "9 seconds" }
  }

  for (
    const [name, prepare, tag] of [
      ["Closed", (breaker) => calls(breaker, "SSFSF"), "Closed"],
      ["Open", (breaker) => calls(breaker, "F".repeat(10)), "Open"],
      ["Disabled", (breaker) => breaker.force("disabled"), "Disabled"],
      ["ForcedOpen", (breaker) => breaker.force("open"), "ForcedOpen"],
      ["MetricsOnly", (breaker) => breaker.force("metricsOnly"), "MetricsOnly"]
    ] as ReadonlyArray<
      readonly [string, (breaker: CircuitBreaker.CircuitBreaker) => Effect.Effect<unknown>, CircuitBreaker.Tag]
    >
  ) {
    it.effect(`brings back a ${name} circuit`, () =>
      Effect.gen(function*() {
        yield* TestClock.adjust("5 seconds")
        const from = yield* make(options)
        yield* TestClock.adjust("1 second")
        yield* prepare(from)
        const to = yield* make(options)
        yield* carry(from, to)
        const state = yield* to.state
        assert.strictEqual(state._tag, tag)
        assert.deepStrictEqual(lasting(state), lasting(yield* from.state))
      }))
  }

  it.effect("brings back a half-open circuit as one that probes at once", () =>
    Effect.gen(function*() {
      const [from, to] = [yield* make(), yield* make()]
      yield* calls(from, "FF")
      yield* TestClock.adjust("10 seconds")
      yield* hold(from)
      yield* carry(from, to)
      assert.strictEqual(yield* tagOf(to), "Open")
      assert.isTrue((yield* hold(to)).admitted)
    }))

  it.effect("brings back a ramp at its step, and none where there is none", () =>
    Effect.gen(function*() {
      const [from, to, plain] = [yield* make(options), yield* make(options), yield* make()]
      yield* from.trip()
      yield* TestClock.adjust("10 seconds")
      yield* calls(from, "S")
      yield* TestClock.adjust("3 seconds")
      const { share } = yield* from.state
      assert.approximately(share, 0.4, 1e-9)
      yield* carry(from, to)
      yield* carry(from, plain)
      assert.deepStrictEqual([(yield* to.state).share, yield* tagOf(plain)], [share, "Closed"])
    }))

  it.effect("counts the time between by the wall clock, and not backwards", () =>
    Effect.gen(function*() {
      const from = yield* make()
      yield* calls(from, "FF")
      const snapshot = yield* from.snapshot
      yield* TestClock.adjust("4 seconds")
      const later = yield* make()
      yield* later.restore(snapshot)
      assert.strictEqual((yield* later.state).untilMillis, 10_000)
      const ahead = yield* make()
      yield* ahead.restore({ ...snapshot, takenAtMillis: snapshot.takenAtMillis + 3_600_000 })
      assert.strictEqual((yield* ahead.state).untilMillis, 14_000)
    }))

  it.effect("ages what the window holds by the time between", () =>
    Effect.gen(function*() {
      for (const window of [{ duration: "10 seconds" }, { calls: 10, maxAge: "10 seconds" }] as const) {
        const from = yield* make({ ...options, consecutiveFailures: 9, window })
        yield* calls(from, "FF")
        const snapshot = yield* from.snapshot
        yield* TestClock.adjust("9 seconds")
        const to = yield* make({ ...options, consecutiveFailures: 9, window })
        yield* to.restore(snapshot)
        assert.strictEqual((yield* to.state).calls, 2)
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* to.state).calls, 0)
      }
    }))

  it.effect("goes on with failures in a row, but not across their reset", () =>
    Effect.gen(function*() {
      const trip = { consecutiveFailures: { failures: 3, resetEvery: "10 seconds" } } as const
      for (const [seconds, tag] of [[1, "Open"], [10, "Closed"]] as const) {
        const from = yield* make(trip)
        yield* calls(from, "FF")
        const snapshot = yield* from.snapshot
        yield* TestClock.adjust(Duration.seconds(seconds))
        const to = yield* make(trip)
        yield* to.restore(snapshot)
        yield* calls(to, "F")
        assert.strictEqual(yield* tagOf(to), tag)
      }
    }))

  it.effect("counts failures in a row by the period that they fell in", () =>
    Effect.gen(function*() {
      const trip = { consecutiveFailures: { failures: 3, resetEvery: "10 seconds" } } as const
      const [from, late, soon] = [yield* make(trip), yield* make(trip), yield* make(trip)]
      yield* TestClock.adjust("12 seconds")
      yield* calls(from, "FF")
      yield* carry(from, soon)
      yield* calls(soon, "F")
      assert.strictEqual(yield* tagOf(soon), "Open")
      yield* TestClock.adjust("9 seconds")
      yield* carry(from, late)
      yield* calls(late, "FF")
      assert.strictEqual(yield* tagOf(late), "Closed")
    }))

  it.effect("brings back an opening that is over as one that probes at once", () =>
    Effect.gen(function*() {
      const [from, to] = [yield* make(), yield* make()]
      yield* calls(from, "FF")
      yield* TestClock.adjust("11 seconds")
      yield* carry(from, to)
      assert.strictEqual(yield* calls(to, "S"), "S")
    }))

  it.effect("brings back no more of a ramp than there is", () =>
    Effect.gen(function*() {
      const breaker = yield* make(options)
      const { takenAtMillis } = yield* breaker.snapshot
      const circuit = { _tag: "Recovering", level: 99, openings: 1, openForMillis: 1, why: "edited" } as const
      yield* breaker.restore({ takenAtMillis, mode: "none", circuit })
      assert.approximately((yield* breaker.state).share, 0.9, 1e-9)
    }))

  it.effect("keeps how long the last opening was, so that the next may be longer", () =>
    Effect.gen(function*() {
      const [from, to] = [yield* CircuitBreaker.make({ jitter: 0 }), yield* CircuitBreaker.make({ jitter: 0 })]
      yield* from.trip()
      yield* TestClock.adjust("1 second")
      yield* calls(from, "FF")
      yield* carry(from, to)
      const { openings, untilMillis } = yield* to.state
      assert.deepStrictEqual([openings, untilMillis], [2, 3000])
    }))

  it.effect("takes no result of a call from before", () =>
    Effect.gen(function*() {
      for (const options of [{}, { slowThreshold: "1 second" }] as const) {
        const [from, to] = [yield* make(options), yield* make(options)]
        const held = yield* hold(to)
        yield* carry(from, to)
        yield* held.end("F")
        const { calls: counted, late } = yield* to.state
        assert.deepStrictEqual([counted, late], [0, 1])
      }
    }))

  it.effect("does not bring back a handle of isolate, which stays with its owner", () =>
    Effect.gen(function*() {
      const [from, to] = [yield* make(), yield* make()]
      yield* Effect.scoped(Effect.andThen(from.isolate, carry(from, to)))
      assert.strictEqual(yield* tagOf(to), "Closed")
      yield* Effect.scoped(Effect.andThen(
        to.isolate,
        Effect.gen(function*() {
          yield* carry(from, to)
          assert.strictEqual(yield* tagOf(to), "ForcedOpen")
        })
      ))
    }))

  it.effect("refuses a snapshot that cannot be", () =>
    Effect.gen(function*() {
      const good = yield* Schema.encodeEffect(codec)(yield* (yield* make()).snapshot)
      for (const bad of [{}, { mode: "half" }, { circuit: { _tag: "Melted" } }, { takenAtMillis: Number.NaN }]) {
        const saved: unknown = { ...(good as object), ...bad }
        const exit = yield* Effect.exit(Schema.decodeUnknownEffect(codec)(saved))
        assert.strictEqual(Exit.isSuccess(exit), Object.keys(bad).length === 0)
      }
    }))

  it.effect("draws anew, so that instances restored from one snapshot do not probe in step", () =>
    Effect.gen(function*() {
      const from = yield* CircuitBreaker.make()
      const snapshot = yield* from.snapshot
      const lasted = yield* Effect.replicateEffect(
        Effect.gen(function*() {
          const to = yield* CircuitBreaker.make()
          yield* to.restore(snapshot)
          yield* to.trip()
          return (yield* to.state).untilMillis! - (yield* Clock.currentTimeMillis)
        }),
        100
      )
      assert.isAbove(new Set(lasted).size, 90)
      for (const millis of lasted) assert.isTrue(millis > 800 && millis <= 1000, `${millis}`)
    }).pipe(Random.withSeed("restored")))
})
