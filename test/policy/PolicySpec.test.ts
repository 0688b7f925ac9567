/** A policy as data: how it reads, what it means, and how a running one takes another. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Exit, Fiber, Random, Schedule, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Outcome from "../../src/contract/Outcome.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as Backoff from "../../src/policy/Backoff.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as PolicySpec from "../../src/policy/PolicySpec.ts"
import * as Scenario from "../../src/testing/Scenario.ts"
import { calls, reasonOf } from "../support/breaker.ts"

const refusal = (document: unknown): Effect.Effect<string, unknown> =>
  Effect.map(Effect.flip(PolicySpec.read(document)), (error) => error.message)

/** The refusal of a spec that reads well and cannot be made. */
const madeRefusal = (spec: PolicySpec.PolicySpec, bindings?: PolicySpec.Bindings): Effect.Effect<string, unknown> =>
  Effect.map(Effect.flip(PolicySpec.compile(spec, bindings)), (error) => error.message)

const results = (result: Scenario.Result) => result.calls.map((call) => call.result)

describe("PolicySpec, durations", () => {
  const said: ReadonlyArray<readonly [string | number, number]> = [
    ["250ms", 250],
    ["2 s", 2000],
    ["1 minute", 60_000],
    ["1.5s", 1500],
    ["2 Hours", 7_200_000],
    [" 3 min ", 180_000],
    ["1d", 86_400_000],
    ["10 millis", 10],
    [75, 75]
  ]
  for (const [text, millis] of said) {
    it.effect(`reads ${JSON.stringify(text)} as ${millis} ms`, () =>
      Effect.gen(function*() {
        const { timeout } = yield* PolicySpec.read({ timeout: text })
        assert.isTrue(Duration.isDuration(timeout) && Duration.toMillis(timeout) === millis)
      }))
  }

  for (
    const text of ["-1 s", "Infinity", "soon", "1 fortnight", "", "1 s 2", "s", "0ms", 0, -3, Infinity, Number.NaN]
  ) {
    it.effect(`refuses ${typeof text === "string" ? JSON.stringify(text) : text}`, () =>
      Effect.gen(function*() {
        const shown = typeof text === "string" ? JSON.stringify(text) : String(text)
        assert.strictEqual(
          yield* refusal({ timeout: text }),
          `timeout: expected a positive finite duration such as "250ms", "2 s" or "1 minute", got ${shown}`
        )
      }))
  }

  it.effect("reads zero where it means none", () =>
    Effect.gen(function*() {
      const spec = yield* PolicySpec.read({ bulkhead: { limit: 1, maxWait: 0 }, hedge: { delay: "0 ms" } })
      assert.strictEqual(Duration.toMillis(spec.bulkhead!.maxWait!), 0)
      assert.include(yield* refusal({ bulkhead: { limit: 1, maxWait: "-1 ms" } }), "expected a finite duration")
    }))
})

describe("PolicySpec, reading", () => {
  it.effect("refuses fields it does not know, with where they stand", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* refusal({ retries: 3 }), "retries: no such field")
      assert.strictEqual(
        yield* refusal({ circuitBreaker: { openFore: "1 s" } }),
        "circuitBreaker.openFore: no such field"
      )
    }))

  it.effect("reports all problems at once, and of a choice the nearest alternative's", () =>
    Effect.gen(function*() {
      const message = yield* refusal({
        timeout: "-2 s",
        retry: { attempts: 0, backoff: { kind: "exponential", base: "100ms", top: "1 s" } },
        bulkhead: { limit: 1.5 },
        circuitBreaker: { openFor: "a while", window: { calls: 10, minimum: 3 } },
        adaptiveLimiter: { rejection: { from: 2 } }
      })
      assert.deepStrictEqual(message.split("\n").toSorted(), [
        "adaptiveLimiter.rejection.to: missing",
        "bulkhead.limit: Expected an integer, got 1.5",
        "circuitBreaker.openFor: expected a finite duration such as \"250ms\", \"2 s\" or \"1 minute\", got \"a while\"",
        "circuitBreaker.window.minimum: no such field",
        "retry.attempts: Expected a value greater than or equal to 1, got 0",
        "retry.backoff.top: no such field",
        "timeout: expected a positive finite duration such as \"250ms\", \"2 s\" or \"1 minute\", got \"-2 s\""
      ])
    }))

  const backoffs: ReadonlyArray<readonly [object, string]> = [
    [{ kind: "constant", base: 100, factor: 2 }, "retry.backoff.factor: only for exponential, not constant"],
    [
      { kind: "decorrelated", base: 100, jitter: "none" },
      "retry.backoff.jitter: not for decorrelated, which is jitter itself"
    ],
    [{ kind: "linear", base: 100, ratio: 0.5 }, "retry.backoff.ratio: only for the jitter proportional"]
  ]
  for (const [backoff, message] of backoffs) {
    it.effect(`refuses a field that its kind of backoff would ignore: ${message}`, () =>
      Effect.gen(function*() {
        assert.strictEqual(yield* refusal({ retry: { backoff } }), message)
      }))
  }

  it.effect("parses YAML and JSON, and says where YAML is none", () =>
    Effect.gen(function*() {
      const yaml = yield* PolicySpec.parse("timeout: 2 s\nretry:\n  attempts: 2\n  budget: false\n")
      assert.deepStrictEqual(yaml, yield* PolicySpec.parse(`{"timeout":"2s","retry":{"attempts":2,"budget":false}}`))
      assert.strictEqual((yield* Effect.flip(PolicySpec.parse("timeout: [2"))) instanceof PolicySpec.SpecError, true)
      assert.include((yield* Effect.flip(PolicySpec.parse("just text"))).message, "just text")
    }))

  it.effect("keeps what it read over a round trip through its written form", () =>
    Effect.gen(function*() {
      const spec = yield* PolicySpec.read({
        name: "a",
        deadline: "3 s",
        retry: { backoff: { kind: "linear", base: 10 } }
      })
      assert.strictEqual(
        PolicySpec.difference(
          spec,
          yield* PolicySpec.read({
            name: "a",
            deadline: 3000,
            retry: { backoff: { kind: "linear", base: "0.01 s" } }
          })
        ),
        "nothing changed"
      )
    }))
})

describe("PolicySpec, deadline", () => {
  const sentOf = (spec: PolicySpec.Plain, call: Effect.Effect<unknown, unknown>) =>
    Effect.gen(function*() {
      const compiled = yield* PolicySpec.compile({ deadline: "1 s", ...spec })
      const hung = yield* Effect.forkChild(compiled.run(Effect.never), { startImmediately: true })
      const deadline = Timer.nowOf(yield* Clock.Clock) + 500
      const sooner = compiled.run(call).pipe(CallContext.annotate({ deadline }))
      const fiber = yield* Effect.forkChild(Effect.exit(sooner), { startImmediately: true })
      yield* TestClock.adjust(500)
      yield* Fiber.interrupt(hung)
      const reason = reasonOf(yield* Fiber.join(fiber))!
      return `${reason._tag} ${"sent" in reason ? reason.sent : ""}`
    })

  it.effect("that passes in a queue, or before anything began, says that nothing was sent", () =>
    Effect.gen(function*() {
      const queue = { bulkhead: { limit: 1, maxQueue: 5 } }
      const adaptive = { adaptiveLimiter: { initial: 1, min: 1, max: 1 } }
      assert.strictEqual(yield* sentOf(queue, Effect.never), "DeadlineExceeded no")
      assert.strictEqual(yield* sentOf(adaptive, Effect.never), "DeadlineExceeded no")
      assert.strictEqual(yield* sentOf({}, Effect.never), "DeadlineExceeded maybe")
      // Two guards: the one that fires first need not be the one that was asked last.
      const outer = yield* PolicySpec.compile({ deadline: "1 s" })
      assert.strictEqual(yield* sentOf({ deadline: "2 s" }, outer.run(Effect.never)), "DeadlineExceeded maybe")
    }))

  it.effect("that passes while a retry queues says that the first attempt may have been sent", () =>
    Effect.gen(function*() {
      const spec = {
        idempotent: true,
        retry: { attempts: 2, budget: false, backoff: { kind: "constant", base: "100ms" } },
        bulkhead: { limit: 2, maxQueue: 5 }
      } as const
      const compiled = yield* PolicySpec.compile({ deadline: "1 s", ...spec })
      const hang = Effect.forkChild(compiled.run(Effect.never), { startImmediately: true })
      yield* hang
      const call = yield* Effect.forkChild(Effect.exit(compiled.run(Effect.fail("down"))), { startImmediately: true })
      yield* hang
      yield* TestClock.adjust(1000)
      assert.deepInclude(reasonOf(yield* Fiber.join(call)), {
        _tag: "DeadlineExceeded",
        sent: "maybe",
        last: "down"
      })
    }))

  it.effect("of a call that a cache or a fallback may answer for says that it may have been sent", () =>
    Effect.gen(function*() {
      for (
        const substitute of [{ cache: { ttl: "1 s" } }, { fallback: { value: 1, when: ["CircuitOpen"] as const } }]
      ) {
        const compiled = yield* PolicySpec.compile({
          deadline: "1 s",
          bulkhead: { limit: 1, maxQueue: 5 },
          ...substitute
        })
        const hung = yield* Effect.forkChild(compiled.run(Effect.never), { startImmediately: true })
        const call = yield* Effect.forkChild(Effect.exit(compiled.run(Effect.never)), { startImmediately: true })
        yield* TestClock.adjust(1000)
        yield* Fiber.interrupt(hung)
        assert.deepInclude(reasonOf(yield* Fiber.join(call)), { _tag: "DeadlineExceeded", sent: "maybe" })
      }
    }))
})

describe("PolicySpec, names", () => {
  const named = {
    idempotent: true,
    retry: { attempts: 3, budget: false, backoff: { schedule: "hurry" }, retryIf: "wanting", classify: "known" }
  } as const

  it.effect("binds a Schedule, a predicate and a classifier", () =>
    Effect.gen(function*() {
      const compiled = yield* PolicySpec.compile(named, {
        schedules: { hurry: Schedule.spaced("10 millis") },
        predicates: { wanting: (result: number) => result < 3 },
        classifiers: { known: (error) => error === "final" ? Outcome.failureFinal : undefined }
      })
      let sends = 0
      const fiber = yield* Effect.forkChild(compiled.run(Effect.sync(() => ++sends)))
      yield* TestClock.adjust("19 millis")
      assert.strictEqual(sends, 2)
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* Fiber.join(fiber), 3)
      assert.strictEqual(yield* Effect.flip(compiled.run(Effect.fail("final"))), "final")
    }))

  it.effect("refuses a name that nothing is bound to, and says what is", () =>
    Effect.gen(function*() {
      assert.strictEqual(
        yield* madeRefusal({ retry: { backoff: { schedule: "slow" } } }, { schedules: { hurry: Schedule.recurs(1) } }),
        "schedules: nothing is bound to \"slow\"; known: hurry"
      )
      assert.strictEqual(
        yield* madeRefusal({ retry: { retryIf: "wanting" } }),
        "predicates: nothing is bound to \"wanting\"; known: none"
      )
    }))

  it.effect("does not take a name for what every object has", () =>
    Effect.gen(function*() {
      assert.include(yield* madeRefusal({ retry: { classify: "toString" } }, { classifiers: {} }), "nothing is bound")
    }))

  it.effect("binds a Schedule to how long a circuit stays open", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run(
        { circuitBreaker: { consecutiveFailures: 1, openFor: { schedule: "openings" }, jitter: 0 }, timeout: "1 s" },
        [{ at: 0, call: "fail" }, { at: 299, call: "succeed" }, { at: 300, call: "succeed" }],
        { bindings: { schedules: { openings: Backoff.constant({ base: 300, jitter: "none" }) } } }
      )
      assert.deepStrictEqual(results(result), ["failed", "CircuitOpen", "ok"])
    }))
})

describe("PolicySpec, compiling", () => {
  it.effect("refuses what the linter says cannot work, with its arithmetic", () =>
    Effect.gen(function*() {
      assert.strictEqual(
        yield* madeRefusal({ timeout: "5 s", deadline: "2 s" }),
        "error L1 timeout: an attempt may take 5 s, the whole call 2 s: the timeout can never fire"
      )
    }))

  it.effect("reports what the linter only warns of as events", () =>
    Effect.gen(function*() {
      const events: Array<CallEvent.CallEvent> = []
      yield* PolicySpec.compile({ name: "users", circuitBreaker: {} }).pipe(
        Effect.provideService(CallEvent.CurrentReceiver, { event: (event) => void events.push(event) })
      )
      assert.deepStrictEqual(events.map((event) => event._tag === "Warning" && [event.policy, event.why]), [[
        "users",
        "L7 timeout: the circuit breaker sees an attempt when it ends, and without a timeout a hung one never does"
      ]])
    }))

  it.effect("refuses what a policy's constructor refuses, as a problem of the document", () =>
    Effect.gen(function*() {
      assert.include(
        yield* madeRefusal({ circuitBreaker: { slowCallRatio: 0.5 }, timeout: "1 s" }),
        "CircuitBreaker.make: slowThreshold must be"
      )
    }))

  it.effect("names every slot's policy after the spec, and the stack by its name", () =>
    Effect.gen(function*() {
      const { name, slots } = yield* PolicySpec.compile({ name: "users", bulkhead: { limit: 1 }, timeout: "1 s" })
      assert.deepStrictEqual([name, slots.bulkhead?.name, slots.timeout?.name], ["users", "users", "users"])
    }))

  it.effect("leaves out a slot that is false", () =>
    Effect.gen(function*() {
      const { slots } = yield* PolicySpec.compile({ retry: false, circuitBreaker: false, timeout: false })
      assert.deepStrictEqual(Object.values(slots).filter((policy) => policy !== undefined), [])
    }))

  it.effect("guards the whole call by its deadline, and declares its calls idempotent", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run(
        { idempotent: true, deadline: "1 s", retry: { attempts: 5, budget: false } },
        [{ at: 0, call: ["fail", "hang"] }]
      )
      assert.deepStrictEqual(result.calls.map(({ endedAt, result, sends }) => [result, endedAt, sends.length]), [
        ["DeadlineExceeded", 1000, 2]
      ])
    }))

  it.effect("sends what must not be sent twice once, whatever the call says of itself", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run(
        { idempotent: false, retry: { budget: false, backoff: { kind: "constant", base: "100ms", jitter: "none" } } },
        [
          { at: 0, call: "fail", context: { idempotent: true } },
          { at: 0, call: [{ does: "fail", sent: "no" }, "succeed"], context: { idempotent: true } },
          { at: 0, call: ["fail", "succeed"], context: { idempotencyKey: "k" } }
        ]
      )
      assert.deepStrictEqual(result.calls.map(({ result, sends }) => [result, sends]), [
        ["failed", [0]],
        ["ok", [0, 100]],
        ["ok", [0, 100]]
      ])
    }))

  it.effect("lints, with what a constructor refuses, and takes names on trust", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(
        yield* PolicySpec.lint({
          timeout: "1 s",
          retry: { backoff: { schedule: "whatever" }, classify: "whatever" },
          circuitBreaker: { keyed: { key: "whatever" } }
        }),
        []
      )
      const [finding] = yield* PolicySpec.lint({ timeout: "1 s", rateLimiter: { limit: 5, burst: 3 } })
      assert.deepStrictEqual(finding, {
        rule: "make",
        severity: "error",
        path: "rateLimiter.burst",
        message: "RateLimiter.make: burst must be an integer >= 5, got 3"
      })
    }))
})

describe("PolicySpec, configurations known by heart", () => {
  const fails = (at: number, times: number): Scenario.Step => ({ at, call: "fail", times })
  const works = (at: number, times = 1): Scenario.Step => ({ at, call: "succeed", times })
  const changes = (result: Scenario.Result) => result.transitions.map(({ at, change }) => `${at} ${change}`)

  it.effect("50 % of the last 10 calls by count, open 1 s", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run(
        {
          circuitBreaker: { failureRatio: 0.5, window: { calls: 10 }, openFor: "1 s", jitter: 0 },
          timeout: "2 s"
        },
        [fails(0, 5), works(10, 4), works(20), works(1019), works(1020)]
      )
      assert.deepStrictEqual(result.transitions.slice(0, 2), [
        { at: 20, change: "Closed>Open", why: "5 of 10 calls failed" },
        { at: 1020, change: "Open>HalfOpen", why: "open long enough" }
      ])
      assert.deepStrictEqual(results(result).slice(-3), ["ok", "CircuitOpen", "ok"])
    }))

  it.effect("at least 20 calls in the window, 50 %, open 5 s", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run(
        {
          circuitBreaker: {
            failureRatio: 0.5,
            window: { duration: "10 s" },
            minimumCalls: 20,
            openFor: "5 s",
            jitter: 0
          },
          timeout: "2 s"
        },
        [fails(0, 19), fails(10_000, 10), works(10_001, 9), works(10_002), works(15_001), works(15_002)]
      )
      assert.deepStrictEqual(changes(result), ["10002 Closed>Open", "15002 Open>HalfOpen"])
      assert.strictEqual(result.transitions[0]!.why, "10 of 20 calls failed")
    }))

  for (const more of [3, 5]) {
    it.effect(`more than ${more} consecutive failures, counts reset every 60 s, open 5 s, 3 half-open calls`, () =>
      Effect.gen(function*() {
        const result = yield* Scenario.run(
          {
            circuitBreaker: {
              consecutiveFailures: { failures: more + 1, resetEvery: "60 s" },
              openFor: "5 s",
              jitter: 0,
              halfOpen: { probes: 3, successRatio: 1 }
            },
            timeout: "2 s"
          },
          [
            fails(59_000, more),
            fails(60_000, more),
            fails(60_001, 1),
            works(65_000),
            { at: 65_001, call: { does: "succeed", after: 100 }, times: 4 }
          ]
        )
        assert.deepStrictEqual(changes(result), [
          "60001 Closed>Open",
          "65001 Open>HalfOpen",
          "65101 HalfOpen>Closed"
        ])
        // The fourth finds the three taken.
        assert.deepStrictEqual(results(result).slice(-5), ["CircuitOpen", "ok", "ok", "ok", "CircuitOpen"])
      }))
  }

  it.effect("a slow-call ratio", () =>
    Effect.gen(function*() {
      const slow: Scenario.Answer = { does: "succeed", after: 2001 }
      const result = yield* Scenario.run(
        {
          circuitBreaker: { slowCallRatio: 0.8, slowThreshold: "2 s", window: { calls: 5 }, openFor: "1 s" },
          timeout: "5 s"
        },
        [{ at: 0, call: slow, times: 3 }, { at: 1, call: { does: "succeed", after: 2000 } }, { at: 2, call: slow }]
      )
      assert.deepStrictEqual(result.transitions, [{ at: 2003, change: "Closed>Open", why: "4 of 5 calls were slow" }])
    }))

  it.effect("an error ratio over 10 s in 1 s buckets", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run(
        {
          circuitBreaker: { failureRatio: 0.5, minimumCalls: 10, window: { duration: "10 s", buckets: 10 } },
          timeout: "2 s"
        },
        // The four of the first bucket are forgotten when the eleventh begins.
        [fails(0, 4), works(9999, 5), fails(10_000, 4), fails(10_001, 1)]
      )
      assert.deepStrictEqual(result.transitions, [{ at: 10_001, change: "Closed>Open", why: "5 of 10 calls failed" }])
    }))

  /** How many of 100 calls a throttle rejects in each second: 100 accepted a second for two, then `accepted` of ten. */
  const rejected = (adaptiveThrottle: NonNullable<PolicySpec.PolicySpec["adaptiveThrottle"]>, accepted: number) =>
    Effect.map(
      Scenario.run(
        { adaptiveThrottle, timeout: "2 s" },
        Array.from(
          { length: 800 },
          (_, n) => ({ at: n * 10, call: n < 200 || n % 10 < accepted ? "succeed" : "fail" } as const)
        ),
        { until: "8 s" }
      ),
      ({ calls }) =>
        Array.from(
          { length: 8 },
          (_, second) =>
            calls.slice(second * 100, second * 100 + 100).filter((call) => call.result === "Throttled").length
        )
    )

  it.effect("Google's throttle with K = 2: rejects nothing until requests are twice the accepts, then ever more", () =>
    Effect.gen(function*() {
      const google = { k: 2, window: "2 minutes", minimumCalls: 1 } as const
      assert.deepStrictEqual(yield* rejected(google, 5), [0, 0, 0, 0, 0, 0, 0, 0])
      // 200 accepted allow 400 requests: the outage begins at 2 s and is noticed at 4.
      const outage = yield* rejected(google, 0)
      assert.deepStrictEqual(outage.slice(0, 4), [0, 0, 0, 0])
      // 1 - 2 * 200 / 800 of the calls at the end.
      assert.isTrue(outage.slice(4).every((share, n, all) => n === 0 || share > all[n - 1]!))
      assert.approximately(outage[7]!, 50, 10)
    }))

  it.effect("go-zero's throttle: K falls from 1.5 to 1.1 while nothing is accepted", () =>
    Effect.gen(function*() {
      const goZero = { k: 1.5, kMin: 1.1, window: "10 s", maxRejection: 1 } as const
      assert.deepStrictEqual(yield* rejected(goZero, 7), [0, 0, 0, 0, 0, 0, 0, 0])
      const [falls, stays] = [yield* rejected(goZero, 0), yield* rejected({ ...goZero, kMin: 1.5 }, 0)]
      assert.deepStrictEqual([falls.slice(0, 3), stays.slice(0, 3)], [[0, 0, 0], [0, 0, 0]])
      // 1 - 1.5 * 200 / 800 of the calls at the end, and with 24 of 40 buckets failed 1 - 1.26 * 200 / 800.
      assert.approximately(stays[7]!, 62, 8)
      assert.isAbove(falls.slice(3).reduce((sum, n) => sum + n), stays.slice(3).reduce((sum, n) => sum + n) + 10)
    }))
})

describe("PolicySpec, reload", () => {
  const base = {
    name: "users",
    circuitBreaker: { consecutiveFailures: 2, openFor: "10 s", jitter: 0 },
    bulkhead: { limit: 2, maxQueue: 3 },
    timeout: "1 s"
  } as const satisfies PolicySpec.PolicySpec

  const reloaded = (spec: object) => (result: Scenario.Result) =>
    result.events.filter((event) => event._tag === "Reloaded").map(({ accepted, why }) => ({ accepted, why, ...spec }))

  // RX-40
  it.effect("goes on with the old spec when the new one cannot be read, emits an event, and drops nothing", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run(base, [
        { at: 0, call: { does: "succeed", after: 500 } },
        { at: 100, reload: { ...base, timeout: "soon" } },
        { at: 200, call: "succeed" }
      ])
      assert.deepStrictEqual(results(result), ["ok", "ok"])
      assert.deepStrictEqual(reloaded({})(result), [{
        accepted: false,
        why: "timeout: expected a positive finite duration such as \"250ms\", \"2 s\" or \"1 minute\", got \"soon\""
      }])
    }))

  it.effect("goes on with the old spec when the new one cannot work, or cannot be made, and has changed nothing", () =>
    Effect.gen(function*() {
      const running = yield* PolicySpec.make(base)
      const before = (yield* running.current).slots
      for (
        const document of [
          { ...base, bulkhead: { limit: 50 }, deadline: "500 ms" },
          {
            ...base,
            bulkhead: { limit: 50 },
            circuitBreaker: { consecutiveFailures: 5 },
            adaptiveLimiter: { min: 5, max: 2 }
          }
        ]
      ) {
        assert.isTrue(Exit.isFailure(yield* Effect.exit(running.reload(document))))
      }
      const { slots, spec } = yield* running.current
      assert.deepStrictEqual(slots, before)
      assert.strictEqual(spec.bulkhead?.limit, 2)
      assert.strictEqual((yield* slots.bulkhead!.stats).limit, 2)
      yield* calls(running, "FF")
      assert.strictEqual((yield* slots.circuitBreaker!.state)._tag, "Open")
    }))

  // CP-07
  it.effect("keeps the budget, tokens and all, when it says the same", () =>
    Effect.gen(function*() {
      const spec = { idempotent: true, timeout: "1 s", retry: { attempts: 2, budget: { ratio: 0.2 } } } as const
      const running = yield* PolicySpec.make(spec)
      for (let i = 0; i < 10; i++) yield* running.run(Effect.succeed(i))
      const { budget } = (yield* running.current).slots
      const { balance } = yield* budget!.snapshot
      assert.isAbove(balance, 1)
      yield* running.reload({ ...spec, timeout: "2 s", retry: { attempts: 3, budget: { ratio: 0.2 } } })
      const after = (yield* running.current).slots
      assert.deepStrictEqual([after.budget === budget, after.retry?.attempts], [true, 3])
      assert.strictEqual((yield* after.budget!.snapshot).balance, balance)
      yield* running.reload({ ...spec, retry: { attempts: 3, budget: { ratio: 0.3 } } })
      assert.strictEqual((yield* running.current).slots.budget, budget)
      // What calls have earned is worth what the new ratio says.
      assert.closeTo((yield* budget!.snapshot).balance, balance + 10 * 0.1, 1e-9)
      const { retry } = (yield* running.current).slots
      yield* running.reload({ ...spec, retry: { attempts: 3, budget: { ratio: 0.4 } }, bulkhead: { limit: 1 } })
      assert.notStrictEqual((yield* running.current).slots.retry, retry)
      yield* running.reload({ ...spec, retry: { attempts: 3, budget: false } })
      assert.isUndefined((yield* running.current).slots.budget)
      yield* running.reload(spec)
      assert.strictEqual((yield* (yield* running.current).slots.budget!.snapshot).balance, 0)
    }))

  it.effect("keeps the limit that an adaptive limiter has found as far as it may, and who is in flight or waits", () =>
    Effect.gen(function*() {
      const spec = {
        timeout: "1 minute",
        adaptiveLimiter: { initial: 4, max: 8, window: "1 s", minimumCalls: 1 }
      } as const
      const running = yield* PolicySpec.make(spec)
      const limiter = (yield* running.current).slots.adaptiveLimiter!
      // Each window of which all calls are late or refused halves it.
      for (let second = 0; second < 2; second++) {
        yield* TestClock.adjust(1001)
        yield* Effect.exit(running.run(CallError.fail({ _tag: "Overloaded", target: "t", detail: "", sent: "no" })))
      }
      const { limit } = yield* limiter.stats
      assert.isBelow(limit, 4)
      yield* running.reload({ ...spec, adaptiveLimiter: { ...spec.adaptiveLimiter, maxWait: "1 s" } })
      assert.strictEqual((yield* limiter.stats).limit, limit)
      const call = Effect.forkChild(Effect.exit(running.run(Effect.delay(Effect.succeed("ok"), "5 seconds"))), {
        startImmediately: true
      })
      const calls = yield* Effect.all(Array.from({ length: limit + 2 }, () => call))
      yield* running.reload({ ...spec, adaptiveLimiter: { ...spec.adaptiveLimiter, initial: 6, min: limit + 1 } })
      assert.strictEqual((yield* running.current).slots.adaptiveLimiter, limiter)
      assert.deepInclude(yield* limiter.stats, { limit: limit + 1, inFlight: limit + 1, queued: 1 })
      yield* running.reload({ ...spec, adaptiveLimiter: { ...spec.adaptiveLimiter, maxQueue: 1 } })
      assert.strictEqual(reasonOf(yield* Effect.exit(running.run(Effect.void)))?._tag, "LimitReached")
      yield* TestClock.adjust("5 seconds")
      // The one that was queued before had a second.
      assert.deepInclude(yield* limiter.stats, { inFlight: 0, queued: 0 })
      for (const fiber of calls) yield* Fiber.join(fiber)
    }))

  it.effect("keeps what an adaptive throttle has seen while its window is as long as it was", () =>
    Effect.gen(function*() {
      const spec = { timeout: "1 s", adaptiveThrottle: { k: 2 } } as const
      const running = yield* PolicySpec.make(spec)
      const throttle = (yield* running.current).slots.adaptiveThrottle!
      for (let call = 0; call < 40; call++) yield* Effect.exit(running.run(Effect.fail("down")))
      const { ratio, requests } = yield* throttle.status
      assert.isAbove(ratio, 0.5)
      yield* running.reload({ ...spec, adaptiveThrottle: { k: 2, maxRejection: 0.25 } })
      assert.deepInclude(yield* throttle.status, { ratio: 0.25, requests })
      const hung = yield* Effect.forkChild(throttle.run(Effect.never), { startImmediately: true })
      yield* running.reload({ ...spec, adaptiveThrottle: { k: 2, window: "10 s" } })
      assert.strictEqual((yield* running.current).slots.adaptiveThrottle, throttle)
      assert.deepInclude(yield* throttle.status, { ratio: 0, requests: 0, inFlight: 0 })
      // One that another window admitted ends there.
      yield* Fiber.interrupt(hung)
      assert.deepInclude(yield* throttle.status, { requests: 0, inFlight: 0 })
    }))

  it.effect("keeps the latencies that a hedge has seen while it remembers them for as long", () =>
    Effect.gen(function*() {
      const spec = { idempotent: true, timeout: "1 s", hedge: { minimumCalls: 2 } } as const
      const running = yield* PolicySpec.make(spec)
      const delay = Effect.flatMap(running.current, ({ slots }) => slots.hedge!.delay)
      for (let call = 0; call < 3; call++) yield* running.run(Effect.void)
      assert.isDefined(yield* delay)
      yield* running.reload({ ...spec, hedge: { minimumCalls: 3, quantile: 0.5, minimum: "20ms" } })
      assert.strictEqual(yield* delay, 20)
      yield* running.reload({ ...spec, hedge: { minimumCalls: 4 } })
      assert.isUndefined(yield* delay)
      yield* running.reload({ ...spec, hedge: { minimumCalls: 3, window: "10 s" } })
      assert.isUndefined(yield* delay)
      yield* running.reload({ ...spec, hedge: { delay: "30ms" } })
      assert.strictEqual(yield* delay, 30)
    }))

  it.effect("keeps the last good answers of a fallback, and those a cache has kept, while the key is the same", () =>
    Effect.gen(function*() {
      const asked = CallContext.annotate({ key: "eur" })
      const spec = (fallback: object, cache: object) => ({
        timeout: "1 s",
        fallback: { stale: { maxAge: "1 h" }, ...fallback },
        cache: { ttl: "10 minutes", ...cache }
      })
      const bindings = { keys: { all: () => "all", every: () => "all" } }
      const running = yield* PolicySpec.make(spec({}, {}), bindings)
      const ask = (value: number) => running.run(Effect.succeed(value)).pipe(asked)
      const down = running.run(Effect.fail("down")).pipe(asked)
      assert.strictEqual(yield* ask(1), 1)
      yield* TestClock.adjust("1 minute")
      yield* running.reload(spec({ when: ["CircuitOpen"] }, { staleWhileRevalidate: "1 minute" }))
      assert.strictEqual(yield* ask(2), 1)
      // An answer is fresh for no longer than the new lifetime.
      yield* running.reload(spec({ reserve: "20ms" }, { ttl: "30 s" }))
      assert.strictEqual(yield* ask(3), 3)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* down, 3)
      // By another key they would be somebody else's.
      yield* running.reload(spec({}, { key: "all" }))
      assert.strictEqual(yield* ask(4), 4)
      yield* running.reload(spec({ stale: { maxAge: "1 s" } }, { key: "all" }))
      assert.strictEqual(yield* ask(5), 4)
      yield* running.reload(spec({ stale: { maxAge: "1 s" } }, { key: "every" }))
      assert.strictEqual(yield* ask(6), 6)
    }))

  it.effect("gives the permits of a rate limiter that were left in another mode, as far as it saves up as many", () =>
    Effect.gen(function*() {
      const bursty = { limit: 5, window: "10 s" } as const
      const smooth = (burst: number) => ({ ...bursty, mode: "smooth", burst }) as const
      for (const [burst, left] of [[2, 2], [4, 3]] as const) {
        const running = yield* PolicySpec.make({ rateLimiter: bursty })
        yield* Effect.all([running.run(Effect.void), running.run(Effect.void)])
        yield* running.reload({ rateLimiter: smooth(burst) })
        const limiter = (yield* running.current).slots.rateLimiter!
        assert.strictEqual((yield* limiter.stats).available, left)
        yield* running.run(Effect.void)
        yield* running.reload({ rateLimiter: bursty })
        assert.strictEqual((yield* limiter.stats).available, left - 1)
      }
    }))

  it.effect("changes all of a rate limiter: its burst, how long it waits, its mode", () =>
    Effect.gen(function*() {
      const at = (rateLimiter: object) => ({
        timeout: "1 minute",
        rateLimiter: { limit: 2, window: "10 s", ...rateLimiter }
      })
      const result = yield* Scenario.run(at({}), [
        { at: 0, call: "succeed", times: 3 },
        { at: 1, reload: at({ maxWait: "20 s" }) },
        { at: 2, call: "succeed", times: 2 },
        { at: 3, reload: at({ maxWait: "20 s", mode: "smooth" }) },
        { at: 4, reload: at({}) },
        { at: 5, call: "succeed" }
      ])
      assert.deepStrictEqual(result.calls.map(({ result, sends }) => `${result} ${sends.join()}`), [
        "ok 0",
        "ok 0",
        "LimitReached ",
        // They take their turns at one per 5 s from the change to smooth, and all at once from the change back.
        "ok 10004",
        "ok 10004",
        "LimitReached "
      ])
      assert.strictEqual(result.timers, 0)
    }))

  it.effect("keeps the budget and the latencies of a hedge that has no retry beside it", () =>
    Effect.gen(function*() {
      const spec = { idempotent: true, timeout: "1 s", hedge: {} } as const
      const running = yield* PolicySpec.make(spec)
      const { budget, hedge } = (yield* running.current).slots
      yield* running.reload({ ...spec, timeout: "2 s" })
      const after = (yield* running.current).slots
      assert.isTrue(after.budget === budget && after.hedge === hedge)
    }))

  it.effect("leaves an open circuit open when another slot changes", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run(base, [
        { at: 0, call: "fail", times: 2 },
        { at: 100, reload: { ...base, timeout: "2 s" } },
        { at: 200, call: "succeed" },
        { at: 10_000, call: "succeed" }
      ])
      assert.deepStrictEqual(results(result), ["failed", "failed", "CircuitOpen", "ok"])
      assert.deepStrictEqual(reloaded({})(result), [{ accepted: true, why: "timeout 1000ms -> 2000ms" }])
    }))

  it.effect("goes on in its state when the breaker itself changes: open for as long as it was to be", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run(base, [
        { at: 0, call: "fail", times: 2 },
        {
          at: 100,
          reload: { ...base, circuitBreaker: { ...base.circuitBreaker, openFor: "1 s", halfOpen: { probes: 1 } } }
        },
        { at: 9999, call: "succeed" },
        { at: 10_000, call: "fail" },
        // Of which the next opening lasts as the new spec says.
        { at: 11_000, call: "succeed" }
      ])
      assert.deepStrictEqual(results(result), ["failed", "failed", "CircuitOpen", "failed", "ok"])
    }))

  it.effect("counts what the window of a changed breaker knows", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run({ ...base, circuitBreaker: { consecutiveFailures: 5 } }, [
        { at: 0, call: "fail", times: 3 },
        { at: 100, reload: { ...base, circuitBreaker: { consecutiveFailures: 4 } } },
        { at: 200, call: "fail" }
      ])
      assert.deepStrictEqual(result.transitions, [{ at: 200, change: "Closed>Open", why: "4 failures in a row" }])
    }))

  it.effect("keeps an operator's isolation over a change of the breaker, until it is released", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run(base, [
        { at: 0, circuit: "isolate" },
        { at: 1, reload: { ...base, circuitBreaker: { consecutiveFailures: 7 } } },
        { at: 2, call: "succeed" },
        { at: 3, circuit: "release" },
        { at: 4, call: "succeed" }
      ])
      assert.deepStrictEqual(results(result), ["CircuitOpen", "ok"])
      assert.deepStrictEqual(result.transitions.map(({ change }) => change), ["Closed>ForcedOpen", "ForcedOpen>Closed"])
    }))

  it.effect("keeps each circuit of a keyed breaker, while the keys are the same", () =>
    Effect.gen(function*() {
      const keyed = (circuitBreaker: NonNullable<Exclude<PolicySpec.PolicySpec["circuitBreaker"], false>>) => ({
        timeout: "1 s",
        circuitBreaker: {
          consecutiveFailures: 1,
          openFor: "10 s",
          jitter: 0,
          halfOpen: { probes: 1 },
          ...circuitBreaker
        }
      })
      const of = (at: number, key: string, call: Scenario.Behaviour): Scenario.Step => ({ at, call, context: { key } })
      const byShard = { bindings: { keys: { shard: (call: CallContext.CallContext) => call.key?.slice(0, 1) } } }
      const result = yield* Scenario.run(keyed({ keyed: {} }), [
        of(0, "a1", "fail"),
        of(0, "c", "succeed"),
        { at: 1, circuit: "isolate", key: "b" },
        { at: 2, reload: keyed({ keyed: { maxKeys: 3 }, openFor: "1 s" }) },
        of(3, "a1", "succeed"),
        of(3, "b", "succeed"),
        of(3, "c", "fail"),
        of(1003, "c", "succeed"),
        { at: 1004, circuit: "release" },
        of(1005, "b", "succeed"),
        of(10_000, "a1", "fail"),
        { at: 10_001, reload: keyed({ keyed: { key: "shard" } }) },
        of(10_002, "a1", "fail"),
        of(10_003, "a2", "succeed"),
        { at: 10_004, reload: keyed({}) },
        of(10_005, "a2", "succeed"),
        { at: 10_006, reload: keyed({ keyed: { maxKeys: 0 } }) },
        { at: 10_006, reload: keyed({ keyed: { key: "tenant" } }) },
        of(10_007, "a2", "succeed")
      ], byShard)
      assert.deepStrictEqual(results(result), [
        "failed",
        "ok",
        "CircuitOpen",
        "CircuitOpen",
        "failed",
        "ok",
        "ok",
        // The last opening of this circuit was as long as the first spec said.
        "failed",
        "failed",
        "CircuitOpen",
        "ok",
        "ok"
      ])
      assert.strictEqual(result.circuit, "Closed")
    }))

  it.effect("resizes a bulkhead with calls in flight, its queue too", () =>
    Effect.gen(function*() {
      const running = yield* PolicySpec.make(base)
      const { bulkhead } = (yield* running.current).slots
      const held = yield* Effect.forEach(Array.from({ length: 5 }), () =>
        Effect.forkChild(running.run(Effect.delay(Effect.succeed("ok"), 500)), { startImmediately: true }))
      assert.deepInclude(yield* bulkhead!.stats, { inFlight: 2, queued: 3 })
      yield* running.reload({ ...base, bulkhead: { limit: 4 } })
      assert.strictEqual((yield* running.current).slots.bulkhead, bulkhead)
      assert.deepInclude(yield* bulkhead!.stats, { limit: 4, maxQueue: 0, inFlight: 4, queued: 1 })
      yield* TestClock.adjust("1 second")
      for (const fiber of held) {
        assert.strictEqual(yield* Fiber.join(fiber), "ok")
      }
    }))

  it.effect("goes on at the new rate of a rate limiter: what has been used stays used", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run({ rateLimiter: { limit: 3, window: "10 s" }, timeout: "1 s" }, [
        { at: 0, call: "succeed", times: 3 },
        { at: 1, reload: { rateLimiter: { limit: 4, window: "10 s" }, timeout: "1 s" } },
        { at: 2, call: "succeed", times: 2 },
        { at: 3, reload: { rateLimiter: { limit: 4, window: "10 s", mode: "smooth" }, timeout: "1 s" } },
        { at: 4, call: "succeed", times: 2 }
      ])
      const limited = ["LimitReached", "LimitReached", "LimitReached"]
      assert.deepStrictEqual(results(result), ["ok", "ok", "ok", "ok", ...limited])
    }))

  it.effect("adds and removes slots; calls in flight end by the old ones", () =>
    Effect.gen(function*() {
      const result = yield* Scenario.run({ timeout: "1 s" }, [
        { at: 0, call: "hang" },
        { at: 500, reload: { timeout: "5 s", bulkhead: { limit: 1 } } },
        { at: 600, call: "hang", times: 2 },
        { at: 700, reload: { bulkhead: { limit: 1 } } },
        { at: 5700, call: "succeed" }
      ])
      assert.deepStrictEqual(result.calls.map(({ endedAt, result }) => `${endedAt} ${result}`), [
        "1000 AttemptTimeout",
        "5600 AttemptTimeout",
        "600 BulkheadFull",
        "5700 ok"
      ])
    }))

  it.effect("keeps the name of the first spec", () =>
    Effect.gen(function*() {
      const running = yield* PolicySpec.make(base)
      const before = (yield* running.current).slots.circuitBreaker
      yield* running.reload({ ...base, name: "others" })
      const { name, slots } = yield* running.current
      assert.deepStrictEqual([running.name, name, slots.circuitBreaker === before], ["users", "users", true])
    }))

  it.effect("leaves no policy behind in the registry, neither replaced nor never run", () =>
    Effect.gen(function*() {
      const names = new Set<Policy.Registered>()
      const register = (policy: Policy.Registered) => {
        names.add(policy)
        return () => void names.delete(policy)
      }
      yield* Effect.gen(function*() {
        const running = yield* PolicySpec.make({ ...base, adaptiveThrottle: {} })
        const kinds = () => Array.from(names, (policy) => policy.kind).toSorted()
        assert.deepStrictEqual(kinds(), ["adaptiveThrottle", "bulkhead", "circuitBreaker"])
        for (const k of [3, 4, 5]) {
          yield* running.reload({ ...base, circuitBreaker: { consecutiveFailures: k }, adaptiveThrottle: { k } })
        }
        assert.deepStrictEqual(kinds(), ["adaptiveThrottle", "bulkhead", "circuitBreaker"])
        yield* Effect.ignore(
          running.reload({ ...base, adaptiveThrottle: { k: 9 }, adaptiveLimiter: { min: 5, max: 2 } })
        )
        assert.deepStrictEqual(kinds(), ["adaptiveThrottle", "bulkhead", "circuitBreaker"])
        yield* running.reload({ timeout: "1 s" })
        assert.deepStrictEqual(kinds(), [])
      }).pipe(Effect.provideService(Policy.CurrentRegistry, { register }))
    }))

  it.effect("takes specs one at a time: none takes over from one that is gone", () =>
    Effect.gen(function*() {
      const names = new Set<Policy.Registered>()
      const register = (policy: Policy.Registered) => {
        names.add(policy)
        return () => void names.delete(policy)
      }
      // Stepping it takes turns, so that the reloads overlap.
      const patient = Schedule.modifyDelay(
        Schedule.spaced("1 second"),
        ({ duration }) => Effect.as(Effect.yieldNow, duration)
      )
      const spec = { timeout: "1 s", retry: { backoff: { schedule: "patient" } } } as const
      yield* Effect.gen(function*() {
        const running = yield* PolicySpec.make(spec, { schedules: { patient } })
        yield* Effect.all([3, 4, 5].map((k) => running.reload({ ...spec, adaptiveThrottle: { k } })), {
          concurrency: "unbounded"
        })
        assert.lengthOf(Array.from(names).filter((policy) => policy.kind === "adaptiveThrottle"), 1)
      }).pipe(Effect.provideService(Policy.CurrentRegistry, { register }))
    }))

  it.effect("counts no result of a call that a changed breaker had admitted before", () =>
    Effect.gen(function*() {
      const before = { consecutiveFailures: 1, openFor: "1 s", jitter: 0, halfOpen: { probes: 1 } } as const
      const result = yield* Scenario.run({ ...base, circuitBreaker: before }, [
        { at: 0, call: "fail" },
        { at: 1000, call: { does: "fail", after: 500 } },
        { at: 1100, reload: { ...base, circuitBreaker: { ...before, openFor: "10 s" } } },
        { at: 1200, call: { does: "succeed", after: 100 } },
        { at: 1400, call: "succeed" },
        { at: 1600, call: "succeed" }
      ])
      assert.deepStrictEqual(results(result), ["failed", "failed", "ok", "ok", "ok"])
    }))

  it.effect("a rejected call says which stack rejected it", () =>
    Effect.gen(function*() {
      const running = yield* PolicySpec.make(base)
      yield* calls(running, "FF")
      const reason = reasonOf(yield* Effect.exit(running.run(Effect.void)))
      assert.deepInclude(reason, { _tag: "CircuitOpen", policy: "users" })
    }))
})

describe("PolicySpec, difference", () => {
  const between = (from: PolicySpec.PolicySpec, to: PolicySpec.PolicySpec) =>
    Effect.map(Effect.all([PolicySpec.read(from), PolicySpec.read(to)]), ([a, b]) => PolicySpec.difference(a, b))

  it.effect("names each field with both values, and slots that come and go", () =>
    Effect.gen(function*() {
      assert.strictEqual(
        yield* between(
          { circuitBreaker: { openFor: "30 s", minimumCalls: 5 }, bulkhead: { limit: 3 }, timeout: "1 s" },
          { circuitBreaker: { openFor: "10 s" }, hedge: {}, timeout: "1 s" }
        ),
        "circuitBreaker.minimumCalls removed, circuitBreaker.openFor 30000ms -> 10000ms, bulkhead removed, hedge added"
      )
      assert.strictEqual(
        yield* between({ retry: false }, { retry: { attempts: 3 } }),
        "retry false -> {\"attempts\":3}"
      )
    }))
})

it.effect("the scope of an isolation may outlive the policy", () =>
  Effect.gen(function*() {
    const running = yield* PolicySpec.make({ circuitBreaker: {}, timeout: "1 s" })
    const scope = yield* Scope.make()
    const { circuitBreaker } = (yield* running.current).slots
    yield* Scope.provide(circuitBreaker!.isolate, scope)
    yield* running.reload({ timeout: "1 s" })
    assert.strictEqual(yield* running.run(Effect.succeed("ok")), "ok")
    yield* Scope.close(scope, Exit.void)
  }).pipe(Random.withSeed("isolation")))

describe("PolicySpec, fallback", () => {
  const guard = (fallback: object, bindings?: PolicySpec.Bindings) =>
    PolicySpec.compile({ timeout: "1 s", fallback } as PolicySpec.PolicySpec, bindings)
  const context = { idempotent: true, name: "prices", key: "eur" }

  it.effect("answers with a value that is data, for every error or for some reasons", () =>
    Effect.gen(function*() {
      const always = yield* guard({ value: { rate: 1 } })
      assert.deepStrictEqual(yield* always.run(Effect.fail("down")), { rate: 1 })
      assert.strictEqual(yield* always.run(Effect.succeed(3)), 3)
      const some = yield* guard({ value: null, when: ["AttemptTimeout"] })
      assert.strictEqual(yield* Effect.flip(some.run(Effect.fail("down"))), "down")
      const fiber = yield* Effect.forkChild(some.run(Effect.never), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      assert.isNull(yield* Fiber.join(fiber))
    }))

  it.effect("answers by a name, under a condition by a name", () =>
    Effect.gen(function*() {
      const named = yield* guard({ use: "archive", when: "wasDown" }, {
        conditions: { wasDown: (error) => error === "down" },
        fallbacks: { archive: (error, call) => Effect.succeed(`${call.name}: ${String(error)}`) }
      })
      assert.strictEqual(yield* named.run(Effect.fail("down")).pipe(CallContext.annotate(context)), "prices: down")
      assert.strictEqual(yield* Effect.flip(named.run(Effect.fail("other"))), "other")
      assert.include(
        (yield* Effect.flip(guard({ use: "archive" }))).message,
        "fallbacks: nothing is bound to \"archive\""
      )
      assert.include(
        (yield* Effect.flip(guard({ value: 1, when: "wasDown" }))).message,
        "conditions: nothing is bound to \"wasDown\""
      )
      assert.deepStrictEqual(yield* PolicySpec.lint({ fallback: { use: "archive", when: "wasDown" } }), [])
    }))

  it.effect("answers with the last good answer, until it is too old", () =>
    Effect.gen(function*() {
      const stale = yield* guard({ stale: { maxAge: "1 minute" } })
      const call = (self: Effect.Effect<unknown, unknown>) => stale.run(self).pipe(CallContext.annotate(context))
      yield* call(Effect.succeed(7))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* call(Effect.fail("down")), 7)
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* Effect.flip(call(Effect.fail("down"))), "down")
    }))

  it.effect("refuses none of the three, two of them, and a reason nobody knows", () =>
    Effect.gen(function*() {
      const message = "fallback: exactly one of value, use and stale says what the answer is"
      assert.strictEqual(yield* refusal({ fallback: {} }), message)
      assert.strictEqual(yield* refusal({ fallback: { value: 1, use: "a" } }), message)
      assert.include(yield* refusal({ fallback: { value: 1, when: ["CircuitOpened"] } }), "fallback.when.0: ")
    }))

  it.effect("is kept, with its answers, by a reload that says the same, and refused where there was none", () =>
    Effect.gen(function*() {
      const spec = { timeout: "1 s", fallback: { stale: { maxAge: "1 minute" } } } as const
      const running = yield* PolicySpec.make(spec)
      const before = (yield* running.current).slots.fallback
      yield* running.reload({ ...spec, timeout: "2 s" })
      assert.strictEqual((yield* running.current).slots.fallback, before)
      const plain = yield* PolicySpec.make({ timeout: "1 s" })
      assert.strictEqual(
        (yield* Effect.flip(plain.reload(spec))).message,
        "fallback: the policy was made without a fallback or a cache"
      )
    }))
})

describe("PolicySpec, cache", () => {
  const asked = (key: string) => CallContext.annotate({ name: "prices", key })

  it.effect("keeps answers by method and key, and serves an old one when there is nothing better", () =>
    Effect.gen(function*() {
      const policy = yield* PolicySpec.compile({
        timeout: "1 s",
        cache: { ttl: "10 s", jitter: 0, staleIfError: "1 minute" }
      })
      let sends = 0
      const answer = Effect.sync(() => ++sends)
      assert.strictEqual(yield* policy.run(answer).pipe(asked("eur")), 1)
      assert.strictEqual(yield* policy.run(answer).pipe(asked("eur")), 1)
      assert.strictEqual(yield* policy.run(answer).pipe(asked("usd")), 2)
      yield* TestClock.adjust("11 seconds")
      assert.strictEqual(yield* policy.run(Effect.fail("down")).pipe(asked("eur")), 1)
    }))

  it.effect("takes its key and which errors are answers by name", () =>
    Effect.gen(function*() {
      const spec = { cache: { ttl: "10 s", key: "tenant", negative: { when: "missing" } } } as const
      const policy = yield* PolicySpec.compile(spec, {
        keys: { tenant: (call) => call.headers["tenant"] },
        conditions: { missing: (error) => error === "missing" }
      })
      let sends = 0
      const missing = Effect.suspend(() => Effect.fail(++sends === 1 ? "missing" : "never"))
      const from = CallContext.annotate({ headers: { tenant: "a" } })
      assert.strictEqual(yield* Effect.flip(policy.run(missing).pipe(from)), "missing")
      assert.strictEqual(yield* Effect.flip(policy.run(missing).pipe(from)), "missing")
      assert.include((yield* Effect.flip(PolicySpec.compile(spec))).message, "nothing is bound to")
      assert.deepStrictEqual(yield* PolicySpec.lint(spec), [])
    }))

  it.effect("is kept, with its answers, by a reload that says the same", () =>
    Effect.gen(function*() {
      const spec = { timeout: "1 s", cache: { ttl: "10 s" } } as const
      const running = yield* PolicySpec.make(spec)
      yield* running.run(Effect.succeed(1)).pipe(asked("eur"))
      yield* running.reload({ ...spec, timeout: "2 s" })
      assert.strictEqual(yield* running.run(Effect.succeed(2)).pipe(asked("eur")), 1)
      yield* running.reload({ ...spec, cache: { ttl: "20 s" } })
      assert.strictEqual(yield* running.run(Effect.succeed(3)).pipe(asked("eur")), 1)
    }))
})
