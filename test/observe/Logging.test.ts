import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Logger from "effect/Logger"
import * as References from "effect/References"
import * as Scope from "effect/Scope"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Outcome from "../../src/contract/Outcome.ts"
import { Limit } from "../../src/observe/internal/logLimit.ts"
import * as Logging from "../../src/observe/Logging.ts"
import * as Observe from "../../src/observe/Observe.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"

interface Written {
  readonly level: string
  readonly text: string
  readonly annotations: Readonly<Record<string, unknown>>
}

/** What is logged, in order, down to `Debug`. */
const logged = <A, E, R>(make: (lines: Array<Written>) => Effect.Effect<A, E, R>) =>
  Effect.suspend(() => {
    const lines: Array<Written> = []
    const logger = Logger.make<unknown, void>(({ fiber, logLevel, message }) => {
      const annotations = { ...fiber.getRef(References.CurrentLogAnnotations) }
      lines.push({ level: logLevel, text: String(message), annotations })
    })
    return make(lines).pipe(
      Effect.provide(Logger.layer([logger])),
      Effect.provideService(References.MinimumLogLevel, "Debug")
    )
  })

const told = (...events: ReadonlyArray<CallEvent.CallEvent>) =>
  Effect.map(CallEvent.CurrentReceiver, (receiver) => {
    for (const event of events) receiver!.event(event)
  })

const call: CallContext.CallContext = {
  ...CallContext.empty,
  name: "Users.Get",
  headers: { authorization: "secret" },
  idempotencyKey: "secret"
}
const at = { policy: "users", call, atMillis: 0 }
const error = new CallError.CallError({
  _tag: "CircuitOpen",
  policy: "users",
  state: "Open",
  sent: "no",
  last: new Error("secret")
})
const rejected = (atMillis: number, policy = "users"): CallEvent.CallEvent => ({
  _tag: "Rejected",
  ...at,
  policy,
  reason: "CircuitOpen",
  error,
  state: undefined,
  atMillis
})
const moved = (to: string, policy = "users"): CallEvent.CallEvent => ({
  _tag: "Transition",
  ...at,
  policy,
  from: "Closed",
  to,
  why: "6 of 10 failed"
})
const end = { outcome: Outcome.failure, error, interrupted: undefined, durationMillis: 1 }
const stats = () => ({ bytesRead: 0, bytesWritten: 0, refused: 0 })

/** One event of every kind, in which everything that nobody may see says so. */
const all: { readonly [Tag in CallEvent.CallEvent["_tag"]]: Extract<CallEvent.CallEvent, { readonly _tag: Tag }> } = {
  CallStarted: { _tag: "CallStarted", ...at },
  AttemptStarted: { _tag: "AttemptStarted", ...at, endpoint: "e" },
  AttemptEnded: { _tag: "AttemptEnded", ...at, ...end, endpoint: "e" },
  RetryScheduled: { _tag: "RetryScheduled", ...at, delayMillis: 1, retryAfterMillis: undefined, error },
  HedgeStarted: { _tag: "HedgeStarted", ...at, afterMillis: 1 },
  QueueLeft: { _tag: "QueueLeft", ...at, how: "admitted", waitedMillis: 1 },
  Repicked: { _tag: "Repicked", ...at, target: "users", endpoint: "e", error },
  CallEnded: { _tag: "CallEnded", ...at, ...end, attempts: 1 },
  Rejected: { _tag: "Rejected", ...at, reason: "CircuitOpen", error, state: undefined },
  Transition: { _tag: "Transition", ...at, from: "Closed", to: "Open", why: "6 of 10 failed" },
  LimitMoved: { _tag: "LimitMoved", ...at, from: 20, to: 10, why: "overload: 5 % late or refused" },
  BudgetMoved: { _tag: "BudgetMoved", ...at, change: "refused", balance: 0.9999999999999999 },
  Substituted: { _tag: "Substituted", ...at, how: "stale", ageMillis: 1 },
  Reloaded: { _tag: "Reloaded", ...at, accepted: false, why: "retry.attempts must be an integer >= 1" },
  Warning: { _tag: "Warning", ...at, why: "Users.Get is retried by two" },
  EndpointChanged: {
    _tag: "EndpointChanged",
    target: "users",
    endpoint: "tcp://a:1",
    change: "ejected",
    why: "5 in a row failed",
    atMillis: 0
  },
  SessionChanged: {
    _tag: "SessionChanged",
    side: "client",
    peer: "tcp://a:1",
    change: "closed",
    why: "closed by the peer",
    stats,
    atMillis: 0
  },
  RequestRefused: {
    _tag: "RequestRefused",
    peer: "10.0.0.7:1234",
    method: "Gone\nINFO: all is well",
    reason: "invalid",
    why: "Expected string, got secret",
    atMillis: 0
  }
}

describe("Logging", () => {
  it.effect("says what a human must hear of, with a level, and leaves calls and attempts out", () =>
    logged((lines) =>
      Effect.gen(function*() {
        yield* told(...Object.values(all))
        assert.deepStrictEqual(lines.map(({ level, text }) => `${level}: ${text}`), [
          "Warn: users rejected Users.Get: CircuitOpen",
          "Warn: users went from Closed to Open: 6 of 10 failed",
          "Debug: users moved its limit from 20 to 10: overload: 5 % late or refused",
          "Warn: users refused a retry: it is empty",
          "Info: users answered Users.Get in place of the dependency (stale)",
          "Error: users refused a new spec: retry.attempts must be an integer >= 1",
          "Warn: users Users.Get is retried by two",
          "Warn: tcp://a:1 of users was ejected: 5 in a row failed",
          "Debug: client session with tcp://a:1 closed: closed by the peer",
          "Debug: refused a request of 10.0.0.7:1234: invalid"
        ])
        assert.deepStrictEqual(lines[1]!.annotations, {
          "holdfast.event": "Transition",
          "holdfast.policy": "users",
          "holdfast.from": "Closed",
          "holdfast.to": "Open",
          "holdfast.why": "6 of 10 failed"
        })
        assert.strictEqual(lines[3]!.annotations["holdfast.balance"], 0.99)
        assert.strictEqual(lines.at(-1)!.annotations["rpc.method"], "\"Gone\\nINFO: all is well\"")
      }).pipe(Effect.provide(Observe.layer(Logging.make())))
    ))

  it.effect("warns of a session whose requests were shed, when it ends", () =>
    logged((lines) =>
      Effect.gen(function*() {
        const session = { ...all.SessionChanged, side: "server", stats: () => ({ ...stats(), refused: 3 }) } as const
        yield* told({ ...session, change: "opened" }, session)
        assert.deepStrictEqual(lines.map(({ level, text }) => `${level}: ${text}`), [
          "Debug: server session with tcp://a:1 opened: closed by the peer",
          "Warn: server session with tcp://a:1 closed: closed by the peer, after 3 of its requests were shed"
        ])
        assert.strictEqual(lines[1]!.annotations["holdfast.shed"], 3)
      }).pipe(Effect.provide(Observe.layer(Logging.make())))
    ))

  it.effect("shows no payload, no header and no text of an error", () =>
    logged((lines) =>
      Effect.gen(function*() {
        yield* told(...Object.values(all))
        assert.notInclude(JSON.stringify(lines), "secret")
      }).pipe(Effect.provide(Observe.layer(Logging.make())))
    ))

  it.effect("is quieter about what is well: recoveries, new specs, fresh answers, tokens that are given", () =>
    logged((lines) =>
      Effect.gen(function*() {
        yield* told(
          moved("HalfOpen"),
          moved("ForcedOpen", "other"),
          { ...all.Reloaded, accepted: true, why: "attempts 3 to 4" },
          { ...all.Substituted, how: "fresh" },
          { ...all.BudgetMoved, change: "withdrawn" },
          { ...all.EndpointChanged, change: "readmitted", why: "healthy" }
        )
        assert.deepStrictEqual(lines.map(({ level, text }) => `${level}: ${text}`), [
          "Info: users went from Closed to HalfOpen: 6 of 10 failed",
          "Warn: other went from Closed to ForcedOpen: 6 of 10 failed",
          "Info: users took a new spec: attempts 3 to 4",
          "Info: tcp://a:1 of users was readmitted: healthy"
        ])
      }).pipe(Effect.provide(Observe.layer(Logging.make())))
    ))

  it.effect("limits the lines of one event and one policy, and the next says how many were suppressed", () =>
    logged((lines) =>
      Effect.gen(function*() {
        for (let i = 0; i < 1000; i++) yield* told(rejected(i), rejected(i, `tenants[${i}]`))
        assert.strictEqual(lines.length, 4)
        yield* told(moved("Open"))
        assert.strictEqual(lines.length, 5)
        yield* told(rejected(5000))
        assert.strictEqual(lines.length, 6)
        assert.strictEqual(lines[5]!.annotations["holdfast.suppressed"], 998)
        assert.isUndefined(lines[4]!.annotations["holdfast.suppressed"])
      }).pipe(Effect.provide(Observe.layer(Logging.make({ burst: 2, window: "5 seconds" }))))
    ))

  it.effect("looks at one in so many of what comes with every call, and at all of the rest", () =>
    logged((lines) =>
      Effect.gen(function*() {
        for (let i = 0; i < 100; i++) yield* told(rejected(i), moved("Open"))
        const of = (event: string) => lines.filter(({ annotations }) => annotations["holdfast.event"] === event)
        assert.deepStrictEqual([of("Rejected").length, of("Transition").length], [10, 100])
        assert.strictEqual(of("Rejected")[1]!.annotations["holdfast.suppressed"], 9)
      }).pipe(Effect.provide(Observe.layer(Logging.make({ burst: 1000, sample: 10 }))))
    ))

  it.effect("says at its end what it has suppressed and not told", () =>
    logged((lines) =>
      Effect.gen(function*() {
        const scope = yield* Scope.make()
        const receiver = yield* Scope.provide(Logging.make({ burst: 1 }), scope)
        for (let i = 0; i < 4; i++) receiver.event(rejected(i))
        receiver.event(moved("Open"))
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(
          lines.slice(2).map(({ level, text }) => `${level}: ${text}`),
          ["Info: 3 lines suppressed: Rejected users"]
        )
        assert.strictEqual(lines[2]!.annotations["holdfast.suppressed"], 3)
      })
    ))

  it.effect("writes in the context of the fiber that it happened in", () =>
    logged((lines) =>
      Effect.gen(function*() {
        const breaker = yield* CircuitBreaker.make({ name: "users", consecutiveFailures: 1 })
        yield* Effect.annotateLogs(Effect.exit(breaker.run(Effect.fail("down"))), { request: "r-1" })
        yield* Effect.exit(breaker.run(Effect.void))
        assert.deepStrictEqual(
          lines.map(({ annotations }) => [annotations["holdfast.event"], annotations["request"]]),
          [
            ["Transition", "r-1"],
            ["Rejected", undefined]
          ]
        )
      }).pipe(Effect.provide(Observe.layer(Logging.make())))
    ))

  it.effect("dies for options out of range", () =>
    Effect.gen(function*() {
      for (
        const [options, message] of [
          [{ burst: 0 }, "Logging.make: burst must be an integer >= 1, got 0"],
          [{ sample: 0.5 }, "Logging.make: sample must be an integer >= 1, got 0.5"],
          [{ window: 0 }, "Logging.make: window must be a positive and finite duration, got 0"]
        ] as const
      ) {
        assert.deepStrictEqual(
          yield* Effect.exit(Effect.scoped(Logging.make(options))),
          Exit.die(new RangeError(message))
        )
      }
    }))
})

describe("logLimit", () => {
  const limits = { burst: 2, windowMillis: 100, sample: 1 }

  it("begins a window with its first line, and anew when the clock is another", () => {
    const limit = new Limit(limits)
    const times = [50, 60, 149, 150, 151, 152, 20, 21]
    assert.deepStrictEqual(times.map((at) => limit.admit("a", false, at)), [0, 0, undefined, 1, 0, undefined, 1, 0])
  })

  it("knows a thousand sorts apart, and all others as one", () => {
    const limit = new Limit({ ...limits, burst: 1 })
    const written = Array.from({ length: 3000 }, (_, i) => limit.admit(`sort ${i}`, false, 0))
    assert.strictEqual(written.filter((one) => one !== undefined).length, 1001)
    assert.deepStrictEqual(limit.rest(), [["other", 1999]])
    assert.deepStrictEqual(limit.rest(), [])
  })
})
