import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit } from "effect"
import { TestClock } from "effect/testing"
import * as PolicySpec from "../../src/policy/PolicySpec.ts"
import * as Scenario from "../../src/testing/Scenario.ts"

/** `10-500 ok [10,300]`: when it was made and ended, what became of it, and when it was sent. */
const lines = (result: Scenario.Result) =>
  result.calls.map(({ at, endedAt, result, sends }) => `${at}-${endedAt} ${result} [${sends.join()}]`)

const quick = { retry: { budget: false, backoff: { kind: "constant", base: "100ms", jitter: "none" } } } as const

describe("Scenario", () => {
  it.effect("runs what its header says", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run({ circuitBreaker: { consecutiveFailures: 2, openFor: "1 s" } }, [
        { at: 0, call: "fail" },
        { at: 10, call: "fail" },
        { at: 20, call: "succeed" },
        { at: 1500, call: "succeed" }
      ])
      assert.deepStrictEqual(result.calls.map((call) => call.result), ["failed", "failed", "CircuitOpen", "ok"])
      assert.strictEqual(result.calls[2]!.message?.startsWith("policy: circuit open, next probe in"), true)
      assert.deepStrictEqual([result.circuit, result.timers], ["Closed", 0])
    }))

  const behaviours: ReadonlyArray<readonly [Scenario.Behaviour | Scenario.Answer, string]> = [
    ["succeed", "0-0 ok [0]"],
    ["fail", "0-200 RetriesExhausted [0,100,200]"],
    ["ignore", "0-0 failed [0]"],
    ["reject", "0-0 failed [0]"],
    ["die", "0-0 died [0]"],
    ["hang", "0-Infinity pending [0]"],
    [{ does: "succeed", after: "2 s" }, "0-2000 ok [0]"],
    [{ does: "hang", after: 5 }, "0-Infinity pending [0]"]
  ]
  for (const [behaviour, line] of behaviours) {
    it.effect(`a dependency that does ${JSON.stringify(behaviour)} makes of an idempotent call: ${line}`, () =>
      Effect.gen(function*() {
        const result = yield* Scenario.run({ ...quick, idempotent: true }, [{ at: 0, call: behaviour }])
        assert.deepStrictEqual(lines(result), [line])
        assert.strictEqual(result.timers, 0)
      }))
  }

  it.effect("gives each attempt its answer, and the last answer to those that follow", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run({ ...quick, idempotent: true }, [
        { at: 0, call: ["fail", { does: "succeed", after: 30 }] },
        { at: "1 s", call: ["fail", { does: "fail", after: "50ms" }] }
      ])
      assert.deepStrictEqual(lines(result), ["0-130 ok [0,100]", "1000-1300 RetriesExhausted [1000,1100,1250]"])
    }))

  it.effect("repeats only what is safe: idempotent calls, and failures that never arrived", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run(quick, [
        { at: 0, call: ["fail", "succeed"] },
        { at: 0, call: [{ does: "fail", sent: "no" }, "succeed"] },
        { at: 0, call: ["fail", "succeed"], context: { idempotencyKey: "k" } }
      ])
      assert.deepStrictEqual(lines(result), ["0-0 failed [0]", "0-100 ok [0,100]", "0-100 ok [0,100]"])
    }))

  it.effect("waits as long as the dependency asks, and a little longer", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run({ ...quick, idempotent: true }, [
        { at: 0, call: [{ does: "fail", retryAfter: "2 s" }, "succeed"] }
      ])
      const [call] = result.calls
      assert.isTrue(call!.result === "ok" && call!.sends[1]! >= 2000 && call!.sends[1]! <= 2400)
    }))

  it.effect("makes as many calls at an instant as it is told, each with its context", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run({ bulkhead: { limit: 2 } }, [
        { at: 5, call: { does: "succeed", after: 10 }, times: 3, context: { name: "search" } }
      ])
      assert.deepStrictEqual(lines(result), ["5-15 ok [5]", "5-15 ok [5]", "5-5 BulkheadFull []"])
      const rejected = result.events.find((event) => event._tag === "Rejected")
      assert.strictEqual(rejected?._tag === "Rejected" && rejected.call.name, "search")
    }))

  it.effect("interrupts a call while it runs, sleeps or queues, and everything comes back", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run(
        { ...quick, idempotent: true, bulkhead: { limit: 1, maxQueue: 1 }, timeout: "1 minute" },
        [
          { at: 0, call: "hang", interruptAfter: 100 },
          { at: 50, call: "succeed", interruptAfter: 10 },
          { at: 200, call: "fail", interruptAfter: "50 ms" },
          { at: 300, call: { does: "succeed", after: 10 }, interruptAfter: 10_000 }
        ]
      )
      assert.deepStrictEqual(lines(result), [
        "0-100 interrupted [0]",
        "50-60 interrupted []",
        "200-250 interrupted [200]",
        "300-310 ok [300]"
      ])
      assert.deepStrictEqual(result.calls.map((call) => call.message), ["caller", "caller", "caller", undefined])
      assert.strictEqual(result.timers, 0)
    }))

  it.effect("says what is still pending where it stops looking, and leaves nothing running", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run({ timeout: "10 s" }, [{ at: 0, call: "hang", times: 2 }], { until: "5 s" })
      assert.deepStrictEqual(lines(result), ["0-Infinity pending [0]", "0-Infinity pending [0]"])
      assert.strictEqual(result.timers, 2)
      const later = yield* Scenario.run({ timeout: "10 s" }, [{ at: 0, call: "hang" }], { until: "10 s" })
      assert.deepStrictEqual([lines(later), later.timers], [["0-10000 AttemptTimeout [0]"], 0])
    }))

  const switches = ["forceOpen", "disable", "metricsOnly"] as const
  const states = { forceOpen: "ForcedOpen", disable: "Disabled", metricsOnly: "MetricsOnly" }
  for (const what of switches) {
    it.effect(`puts the circuit into ${states[what]}, and back to normal`, () =>
      Effect.gen(function*() {
        const spec = { circuitBreaker: { consecutiveFailures: 1, openFor: "1 minute" }, timeout: "1 s" } as const
        const forced = yield* Scenario.run(spec, [{ at: 0, circuit: what }, { at: 1, call: "fail", times: 2 }])
        assert.strictEqual(forced.circuit, states[what])
        const result = what === "forceOpen" ? "CircuitOpen" : "failed"
        assert.deepStrictEqual(forced.calls.map((call) => call.result), [result, result])
        const back = yield* Scenario.run(spec, [
          { at: 0, circuit: what },
          { at: 1, circuit: "normal" },
          { at: 2, call: "fail", times: 2 }
        ])
        assert.deepStrictEqual(back.calls.map((call) => call.result), ["failed", "CircuitOpen"])
      }))
  }

  it.effect("isolates until as many releases as isolations", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run({ circuitBreaker: {}, timeout: "1 s" }, [
        { at: 0, circuit: "isolate" },
        { at: 0, circuit: "isolate" },
        { at: 1, call: "succeed" },
        { at: 2, circuit: "release" },
        { at: 3, call: "succeed" },
        { at: 4, circuit: "release" },
        { at: 5, call: "succeed" }
      ])
      assert.deepStrictEqual(result.calls.map((call) => call.result), ["CircuitOpen", "CircuitOpen", "ok"])
    }))

  it.effect("reloads, and goes on where the new spec is refused", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run({ timeout: "1 s" }, [
        { at: 0, reload: { timeout: "2 s" } },
        { at: 1, reload: { nonsense: true } },
        { at: 10, call: "hang" }
      ])
      assert.deepStrictEqual(lines(result), ["10-2010 AttemptTimeout [10]"])
      assert.deepStrictEqual(
        result.events.map((event) => event._tag === "Reloaded" && [event.accepted, event.why]),
        [[true, "timeout 1000ms -> 2000ms"], [false, "nonsense: no such field"]]
      )
    }))

  it.effect("gives the same result for the same seed, to the byte, and another for another", () =>
    Effect.gen(function*() {
      const spec = {
        idempotent: true,
        retry: { attempts: 4, budget: false },
        hedge: { delay: "30ms" },
        circuitBreaker: { failureRatio: 0.5, window: { calls: 10 } },
        adaptiveThrottle: {},
        timeout: "1 s"
      } as const
      const script: ReadonlyArray<Scenario.Step> = Array.from({ length: 60 }, (_, n) => ({
        at: n * 40,
        call: n % 3 === 0
          ? ["fail", { does: "succeed", after: 50 }]
          : { does: n % 2 === 0 ? "fail" : "succeed", after: 20 }
      }))
      const run = (seed: string) => Effect.map(Scenario.run(spec, script, { seed }), (result) => JSON.stringify(result))
      const [once, again, other] = [yield* run("a"), yield* run("a"), yield* run("b")]
      assert.isTrue(once === again)
      assert.isTrue(once !== other)
    }))

  it.effect("leaves the clock of whoever runs it alone", () =>
    Effect.gen(function*() {
      yield* Scenario.run({ timeout: "1 s" }, [{ at: "1 hour", call: "succeed" }])
      assert.strictEqual(yield* TestClock.testClockWith((clock) => Effect.succeed(clock.currentTimeMillisUnsafe())), 0)
    }))

  it.effect("fails on a spec that does not compile", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Scenario.run({ timeout: "soon" }, []))
      assert.instanceOf(error, PolicySpec.SpecError)
    }))

  const mistakes: ReadonlyArray<readonly [ReadonlyArray<unknown>, Scenario.ScenarioOptions, string]> = [
    [[{ at: 10, call: "fail" }, { at: 5, call: "fail" }], {}, "at must be in order, at least 10, got 5"],
    [[{ at: "-1 s", call: "fail" }], {}, "at must be a duration >= 0 and finite such as \"2 seconds\", got \"-1 s\""],
    [[{ at: "later", call: "fail" }], {}, "at must be a duration >= 0 and finite such as \"2 seconds\", got \"later\""],
    [[{ at: Infinity, call: "fail" }], {}, "at must be a duration >= 0 and finite, got Infinity"],
    [[{ at: 0, call: "explode" }], {}, "call must be one of succeed, fail, ignore, reject, die, hang, got \"explode\""],
    [[{ at: 0, call: [] }], {}, "call must be at least one answer, got \"none\""],
    [[{ at: 0, call: "fail", times: 0 }], {}, "times must be an integer >= 1, got 0"],
    [
      [{ at: 0, circuit: "melt" }],
      {},
      "circuit must be one of isolate, release, forceOpen, disable, metricsOnly, normal, got \"melt\""
    ],
    [
      [{ at: 0, circuit: "isolate" }],
      {},
      "circuit must be used with a spec that has a circuitBreaker, got \"isolate\""
    ],
    [
      [{ at: 0, dance: true }],
      {},
      "step must be a call, a circuit or a reload, got \"{\\\"at\\\":0,\\\"dance\\\":true}\""
    ],
    [[{ at: "1 s", call: "fail" }], { until: 10 }, "until must be at least 1000, the last step's time, got 10"]
  ]
  for (const [script, options, message] of mistakes) {
    it.effect(`dies of ${message}`, () =>
      Effect.gen(function*() {
        const exit = yield* Effect.exit(
          Scenario.run({ timeout: "1 s" }, script as ReadonlyArray<Scenario.Step>, options)
        )
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
        assert.strictEqual(
          Exit.isFailure(exit) && String(Cause.squash(exit.cause)),
          `RangeError: Scenario.run: ${message}`
        )
      }))
  }

  it.effect("dies when it releases what nobody isolated", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(
        Scenario.run({ circuitBreaker: {}, timeout: "1 s" }, [{ at: 0, circuit: "release" }])
      )
      assert.include(Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "", "isolated before it is released")
    }))
})
