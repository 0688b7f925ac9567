import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Context, Effect, Exit, Fiber, Layer, Random, Schema, type Scope } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { TestClock } from "effect/testing"
import type * as ClientStack from "../../src/client/ClientStack.ts"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Contract from "../../src/contract/Contract.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as Explain from "../../src/observe/Explain.ts"
import * as Observe from "../../src/observe/Observe.ts"
import * as Tracing from "../../src/observe/Tracing.ts"
import * as AdaptiveLimiter from "../../src/policy/AdaptiveLimiter.ts"
import * as Backoff from "../../src/policy/Backoff.ts"
import * as Bulkhead from "../../src/policy/Bulkhead.ts"
import * as Cache from "../../src/policy/Cache.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Fallback from "../../src/policy/Fallback.ts"
import * as Hedge from "../../src/policy/Hedge.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as RateLimiter from "../../src/policy/RateLimiter.ts"
import * as Retry from "../../src/policy/Retry.ts"
import * as RetryBudget from "../../src/policy/RetryBudget.ts"
import * as Timeout from "../../src/policy/Timeout.ts"
import * as Server from "../../src/server/Server.ts"
import * as ClientTest from "../../src/testing/ClientTest.ts"

class NotHere extends Schema.TaggedError<NotHere>()("NotHere", { secret: Schema.String }) {}

class Users extends RpcGroup.make(
  Rpc.make("Get", { payload: { steps: Schema.Array(Schema.String) }, success: Schema.String, error: NotHere })
    .annotate(Contract.Idempotent, true)
    .annotate(Contract.DefaultDeadline, "4 seconds"),
  Rpc.make("Pay", { payload: { steps: Schema.Array(Schema.String) }, success: Schema.String, error: NotHere })
).prefix("Users.") {}

const refuse = (retryAfterMillis?: number) =>
  Server.refuse({ _tag: "Unavailable", target: "users", detail: "starting", sent: "no", retryAfterMillis })

/** What a handler does about an attempt. */
const deeds: Readonly<Record<string, Effect.Effect<string, NotHere>>> = {
  ok: Effect.delay(Effect.succeed("ada"), 20),
  down: Effect.delay(refuse(), 210),
  away: Effect.delay(refuse(2000), 10),
  hang: Effect.never,
  slow: Effect.delay(Effect.succeed("ada"), 500),
  die: Effect.die(new TypeError("a secret")),
  gone: Effect.fail(new NotHere({ secret: "a secret" }))
}

const handler = ({ steps }: { readonly steps: ReadonlyArray<string> }) =>
  Effect.flatMap(CallContext.Current, ({ attempt }) => deeds[steps[Math.min(attempt, steps.length) - 1]!]!)

const handlers = Users.toLayer({ "Users.Get": handler, "Users.Pay": handler })

const steady = Backoff.constant({ base: 180, jitter: "none" })

const clientOf = <const P extends ClientStack.Options>(policy: ClientStack.Exact<P>, endpoints = 1) =>
  ClientTest.make(Users, handlers, { target: "users", policy, endpoints })

/** Runs something for as long as it takes. */
const finish = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(self, { startImmediately: true })
    yield* TestClock.adjust("10 seconds")
    return yield* Fiber.join(fiber)
  })

/** What the log of an Effect says. */
const told = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.map(finish(Explain.call(self)), ({ log }) => Explain.text(log).split("\n"))

const test = <E>(name: string, body: Effect.Effect<void, E, Scope.Scope>) =>
  it.effect(name, () =>
    Effect.gen(function*() {
      yield* Effect.scoped(body)
      assert.strictEqual(Timer.size(yield* Clock.Clock), 0)
    }).pipe(Random.withSeed("explain")))

describe("Explain.call", () => {
  describe("of a client's call", () => {
    test(
      "that succeeds at once",
      Effect.gen(function*() {
        const client = yield* clientOf({})
        assert.deepStrictEqual(yield* told(client.Users.Get({ steps: ["ok"] })), [
          "Users.Get: success in 20 ms after 1 attempt, 4 s of 4 s left",
          "     0 ms  attempt 1 -> memory://users-1 success in 20 ms"
        ])
      })
    )

    test(
      "that succeeds when it is sent again, at another endpoint",
      Effect.gen(function*() {
        const client = yield* clientOf({ retry: { backoff: steady, budget: { ratio: 1, ttl: "1 minute" } } }, 2)
        yield* finish(Effect.replicateEffect(client.Users.Get({ steps: ["ok"] }), 13))
        assert.deepStrictEqual(yield* told(client.Users.Get({ steps: ["down", "ok"] })), [
          "Users.Get: success in 410 ms after 2 attempts, 3.6 s of 4 s left",
          "     0 ms  attempt 1 -> memory://users-2 Unavailable in 210 ms, budget 13.7 -> 12.7, backoff 180 ms",
          "   390 ms  attempt 2 -> memory://users-1 success in 20 ms"
        ])
      })
    )

    test(
      "that asks for more than its budget has",
      Effect.gen(function*() {
        const client = yield* clientOf({})
        assert.deepStrictEqual(yield* told(client.Users.Get({ steps: ["down"] })), [
          "Users.Get: failed in 210 ms after 1 attempt, sent no, 3.8 s of 4 s left: Users.Get: no retry, users budget is empty, after 1 attempt; last: memory://users-1: unavailable: starting",
          "     0 ms  attempt 1 -> memory://users-1 Unavailable in 210 ms, budget refused at 0.05"
        ])
      })
    )

    test(
      "that is asked to stay away, and exhausts its attempts",
      Effect.gen(function*() {
        const client = yield* clientOf({ retry: { attempts: 2, backoff: steady, budget: false } })
        assert.deepStrictEqual(yield* told(client.Users.Get({ steps: ["away", "gone"] })), [
          "Users.Get: failed in 2 s after 1 attempt, sent no, 2 s of 4 s left: users@memory://users-1: circuit open, next probe in 363ms; last: memory://users-1: unavailable: starting, come back in 2s",
          "     0 ms  attempt 1 -> memory://users-1 Unavailable in 10 ms, users@memory://users-1 Closed -> Open: asked to stay away for 2000ms, backoff 2 s (asked for 2 s)",
          "      2 s  attempt 2 -> users@memory://users-1 circuit open, opened 2 s ago: asked to stay away for 2000ms, next probe in 363 ms"
        ])
      })
    )

    test(
      "that meets an open circuit, and gets a stale answer",
      Effect.gen(function*() {
        const client = yield* clientOf({
          retry: { attempts: 4, backoff: steady, budget: false },
          circuitBreaker: { consecutiveFailures: 2, openFor: "30 seconds", jitter: 0 }
        })
        const fallback = yield* Fallback.make({ stale: { maxAge: "1 hour", key: () => "one" }, name: "last good" })
        yield* Policy.apply(finish(client.Users.Get({ steps: ["ok"] })), fallback)
        assert.deepStrictEqual(yield* told(Policy.apply(client.Users.Get({ steps: ["down"] }), fallback)), [
          "Users.Get: success in 780 ms after 2 attempts, 3.2 s of 4 s left",
          "     0 ms  attempt 1 -> memory://users-1 Unavailable in 210 ms, backoff 180 ms",
          "   390 ms  attempt 2 -> memory://users-1 Unavailable in 210 ms, users@memory://users-1 Closed -> Open: 2 failures in a row, backoff 180 ms",
          "   780 ms  attempt 3 -> users@memory://users-1 circuit open, opened 180 ms ago: 2 failures in a row, next probe in 29.8 s -> last good stale 780 ms old"
        ])
        assert.deepStrictEqual(yield* told(client.Users.Get({ steps: ["ok"] })), [
          "Users.Get: failed in 0 ms after 0 attempts, sent no, 4 s of 4 s left: users@memory://users-1: circuit open, next probe in 20.6s",
          "     0 ms  attempt 1 -> users@memory://users-1 circuit open, opened 9.4 s ago: 2 failures in a row, next probe in 20.6 s"
        ])
      })
    )

    test(
      "that a hedge wins",
      Effect.gen(function*() {
        const client = yield* clientOf({
          retry: { budget: { ratio: 1, ttl: "1 minute" } },
          hedge: { delay: 50 }
        }, 2)
        yield* finish(client.Users.Get({ steps: ["ok"] }))
        assert.deepStrictEqual(yield* told(client.Users.Get({ steps: ["slow", "ok"] })), [
          "Users.Get: success in 70 ms after 2 attempts, 3.9 s of 4 s left",
          "     0 ms  attempt 1 -> memory://users-2 lost after 70 ms, budget 1.05 -> 0.05",
          "    50 ms  hedge after 50 ms: attempt 2 -> memory://users-1 success in 20 ms, won"
        ])
      })
    )

    test(
      "that its deadline ends",
      Effect.gen(function*() {
        const client = yield* clientOf({ retry: { backoff: steady, budget: false }, timeout: "3 seconds" })
        assert.deepStrictEqual(yield* told(client.Users.Get({ steps: ["hang"] })), [
          "Users.Get: failed in 4 s after 2 attempts, sent maybe, 0 ms of 4 s left: Users.Get: deadline exceeded after 4s; last: users@memory://users-1: no answer within 3s",
          "     0 ms  attempt 1 -> memory://users-1 AttemptTimeout in 3 s, backoff 180 ms",
          "    3.2 s  attempt 2 -> memory://users-1 DeadlineExceeded in 820 ms"
        ])
        assert.deepStrictEqual(yield* told(client.Users.Get({ steps: ["down"] }, { deadline: 300 })), [
          "Users.Get: failed in 210 ms after 1 attempt, sent no, 90 ms of 300 ms left: Users.Get: deadline exceeded after 210ms; last: memory://users-1: unavailable: starting",
          "     0 ms  attempt 1 -> memory://users-1 Unavailable in 210 ms"
        ])
      })
    )

    test(
      "that must not be sent twice",
      Effect.gen(function*() {
        const client = yield* clientOf({ timeout: 100 })
        assert.deepStrictEqual(yield* told(client.Users.Pay({ steps: ["hang"] })), [
          "Users.Pay: failed in 100 ms after 1 attempt, sent maybe, 9.9 s of 10 s left: Users.Pay: sent once, no answer, and not idempotent: it may or may not have happened; last: users@memory://users-1: no answer within 100ms",
          "     0 ms  attempt 1 -> memory://users-1 AttemptTimeout in 100 ms, must not be sent twice"
        ])
      })
    )

    test(
      "that is picked again after an endpoint's own rejection",
      Effect.gen(function*() {
        const client = yield* ClientTest.make(Users, handlers, {
          target: "users",
          policy: { bulkhead: { limit: 1 }, retry: false },
          methods: { "Users.Pay": { bulkhead: { limit: 9 } } },
          endpoints: 2
        })
        // One endpoint's only permit is taken, and the other has more in flight.
        const hang = Effect.replicateEffect(
          Effect.forkChild(client.Users.Pay({ steps: ["hang"] }), { startImmediately: true }),
          3
        )
        const taken = yield* Effect.forkChild(client.Users.Get({ steps: ["hang"] }), { startImmediately: true })
        const others = yield* hang
        assert.deepStrictEqual(yield* told(client.Users.Get({ steps: ["ok"] })), [
          "Users.Get: success in 20 ms after 1 attempt, 4 s of 4 s left",
          "     0 ms  attempt 1 -> users@memory://users-1 bulkhead full, 1 in flight and 0 queued, picked again -> memory://users-2 success in 20 ms"
        ])
        yield* Fiber.interruptAll([taken, ...others])
      })
    )

    test(
      "that waits in queues",
      Effect.gen(function*() {
        const client = yield* clientOf({
          bulkhead: { limit: 1, maxQueue: 5, maxWait: "1 second" },
          rateLimiter: { limit: 1, window: "100 millis", maxWait: "1 second" },
          retry: false
        })
        const before = yield* Effect.forkChild(client.Users.Get({ steps: ["slow"] }), { startImmediately: true })
        assert.deepStrictEqual(yield* told(client.Users.Get({ steps: ["ok"] })), [
          "Users.Get: success in 520 ms after 1 attempt, 3.5 s of 4 s left",
          "     0 ms  attempt 1, queued 100 ms in users, queued 400 ms in users@memory://users-1 -> memory://users-1 success in 20 ms"
        ])
        yield* Fiber.join(before)
      })
    )

    test(
      "that is interrupted",
      Effect.gen(function*() {
        const client = yield* clientOf({})
        const left = Effect.gen(function*() {
          const fiber = yield* Effect.forkChild(client.Users.Get({ steps: ["hang"] }), { startImmediately: true })
          yield* Effect.sleep(70)
          yield* Fiber.interrupt(fiber)
          return yield* Fiber.join(fiber)
        })
        assert.deepStrictEqual(yield* told(left), [
          "Users.Get: interrupted (caller) in 70 ms after 1 attempt, 3.9 s of 4 s left",
          "     0 ms  attempt 1 -> memory://users-1 interrupted (caller) after 70 ms"
        ])
      })
    )

    test(
      "that fails with an error of its contract, or a defect, without the payload",
      Effect.gen(function*() {
        const client = yield* clientOf({ retry: false })
        assert.deepStrictEqual(yield* told(client.Users.Get({ steps: ["gone"] })), [
          "Users.Get: failed in 0 ms after 1 attempt, 4 s of 4 s left: NotHere",
          "     0 ms  attempt 1 -> memory://users-1 NotHere in 0 ms"
        ])
        assert.deepStrictEqual(yield* told(client.Users.Get({ steps: ["die"] })), [
          "Users.Get: failed in 0 ms after 1 attempt, sent maybe, 4 s of 4 s left: memory://users-1: MCP-F-1: the handler died of a defect",
          "     0 ms  attempt 1 -> memory://users-1 Remote (MCP-F-1) in 0 ms"
        ])
        const { log } = yield* finish(Explain.call(client.Users.Get({ steps: ["gone"] })))
        assert.notInclude(JSON.stringify(Explain.encode(log)), "secret")
      })
    )

    test(
      "and of another beside it: each line says whose it is",
      Effect.gen(function*() {
        const client = yield* clientOf({ retry: { backoff: steady, budget: false } })
        const both = Effect.all([client.Users.Get({ steps: ["down", "ok"] }), client.Users.Pay({ steps: ["ok"] })], {
          concurrency: 2
        })
        assert.deepStrictEqual(yield* told(both), [
          "Users.Get: success in 410 ms after 3 attempts, 3.6 s of 4 s left",
          "     0 ms  Users.Get #1: attempt 1 -> memory://users-1 Unavailable in 210 ms, backoff 180 ms",
          "     0 ms  Users.Pay #2: attempt 1 -> memory://users-1 success in 20 ms",
          "   390 ms  Users.Get #1: attempt 2 -> memory://users-1 success in 20 ms"
        ])
      })
    )
  })

  describe("of a plain Effect behind policies", () => {
    const run = (exits: ReadonlyArray<Effect.Effect<string, CallError.CallError>>) => {
      let sends = 0
      return Effect.suspend(() => exits[Math.min(sends++, exits.length - 1)]!)
    }
    const fails = Effect.delay(
      CallError.fail({ _tag: "Unavailable", target: "db", detail: "starting", sent: "no", retryAfterMillis: 300 }),
      40
    )
    const works = Effect.delay(Effect.succeed("ada"), 20)
    const named = CallContext.annotate({ name: "search", idempotent: true })

    test(
      "that is retried",
      Effect.gen(function*() {
        const retry = yield* Retry.make({ backoff: steady })
        assert.deepStrictEqual(yield* told(named(Policy.apply(run([fails, works]), retry))), [
          "search: success in 384 ms after 2 attempts",
          "     0 ms  attempt 1 -> Unavailable in 40 ms, backoff 324 ms (asked for 300 ms)",
          "   364 ms  attempt 2 -> success in 20 ms"
        ])
        const failing = Timeout.withDeadline(named(Policy.apply(run([fails]), retry)), "2 seconds")
        assert.deepStrictEqual(yield* told(failing), [
          "search: failed in 745 ms after 3 attempts, sent no, 1.3 s of 2 s left: search: gave up after 3 attempts in 746ms; last: db: unavailable: starting, come back in 300ms",
          "     0 ms  attempt 1 -> Unavailable in 40 ms, backoff 311 ms (asked for 300 ms)",
          "   351 ms  attempt 2 -> Unavailable in 40 ms, backoff 314 ms (asked for 300 ms)",
          "   705 ms  attempt 3 -> Unavailable in 40 ms"
        ])
      })
    )

    test(
      "that is hedged",
      Effect.gen(function*() {
        const hedge = yield* Hedge.make({ delay: 50 })
        assert.deepStrictEqual(yield* told(named(Policy.apply(run([Effect.never, works]), hedge))), [
          "search: success in 70 ms after 2 attempts",
          "     0 ms  attempt 1",
          "    50 ms  hedge after 50 ms: attempt 2"
        ])
      })
    )

    test(
      "that trips a circuit, and is rejected by it",
      Effect.gen(function*() {
        const breaker = yield* CircuitBreaker.make({
          consecutiveFailures: 2,
          name: "db",
          openFor: "30 seconds",
          jitter: 0
        })
        const stack = Policy.stack({
          fallback: yield* Fallback.make({ value: "nobody", name: "empty" }),
          retry: yield* Retry.make({ attempts: 5, backoff: steady }),
          circuitBreaker: breaker
        })
        const down = CallError.fail({ _tag: "Unavailable", target: "db", detail: "starting", sent: "no" })
        const call = named(Policy.apply(run([Effect.delay(down, 40)]), stack))
        assert.deepStrictEqual(yield* told(call), [
          "search: success in 440 ms after 2 attempts",
          "     0 ms  attempt 1 -> Unavailable in 40 ms, backoff 180 ms",
          "   220 ms  attempt 2 -> Unavailable in 40 ms, db Closed -> Open: 2 failures in a row, backoff 180 ms",
          "   440 ms  attempt 3 -> db circuit open, opened 180 ms ago: 2 failures in a row, next probe in 29.8 s -> empty fallback"
        ])
        yield* breaker.force("open")
        assert.deepStrictEqual(yield* told(call), [
          "search: success in 0 ms after 0 attempts",
          "     0 ms  attempt 1 -> db circuit forced open for 0 ms: by hand -> empty fallback"
        ])
      })
    )

    test(
      "that a limiter rejects",
      Effect.gen(function*() {
        const limiter = yield* RateLimiter.make({ limit: 1, name: "quota" })
        yield* limiter.acquire()
        assert.deepStrictEqual(yield* told(named(Policy.apply(works, limiter))), [
          "search: failed in 0 ms after 0 attempts, sent no: quota: limit of 1 reached, next permit in 1s",
          "     0 ms  attempt 1 -> quota limit of 1 reached, next permit in 1 s"
        ])
        const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: 1, maxWait: 50, name: "pool" })
        const busy = yield* Effect.forkChild(Policy.apply(Effect.never, bulkhead), { startImmediately: true })
        assert.deepStrictEqual(yield* told(named(Policy.apply(works, bulkhead))), [
          "search: failed in 50 ms after 0 attempts, sent no: pool: bulkhead full, 1 in flight and 0 queued",
          "     0 ms  attempt 1, rejected after 50 ms in pool -> pool bulkhead full, 1 in flight and 0 queued"
        ])
        yield* Fiber.interrupt(busy)
      })
    )

    test(
      "that waits for a permit, gets it, or is interrupted while it waits",
      Effect.gen(function*() {
        const limiter = yield* AdaptiveLimiter.make({ initial: 1, max: 1, name: "learnt" })
        const first = yield* Effect.forkChild(Policy.apply(Effect.sleep(90), limiter), { startImmediately: true })
        const waiting = yield* Effect.forkChild(
          Explain.call(Effect.gen(function*() {
            const fiber = yield* Effect.forkChild(named(Policy.apply(works, limiter)), { startImmediately: true })
            yield* Effect.sleep(30)
            yield* Fiber.interrupt(fiber)
            return yield* Fiber.join(fiber)
          })),
          { startImmediately: true }
        )
        assert.deepStrictEqual(yield* told(named(Policy.apply(works, limiter))), [
          "search: success in 110 ms after 1 attempt",
          "     0 ms  attempt 1, queued 90 ms in learnt -> success in 20 ms"
        ])
        assert.strictEqual(
          Explain.line((yield* Fiber.join(waiting)).log),
          "attempt 1, interrupted after 30 ms in learnt"
        )
        yield* Fiber.join(first)
      })
    )

    test(
      "that a cache answers",
      Effect.gen(function*() {
        const cache = yield* Cache.make<string>({ ttl: "1 hour", key: () => "one", name: "answers" })
        assert.deepStrictEqual(yield* told(named(Policy.apply(works, cache))), [
          "call: success in 20 ms after 1 attempt",
          "     0 ms  attempt 1 -> success in 20 ms"
        ])
        assert.deepStrictEqual(yield* told(named(Policy.apply(works, cache))), [
          "search: success in 0 ms after 0 attempts",
          "     0 ms  no attempt -> answers fresh 10 s old"
        ])
      })
    )

    test(
      "whose budget is spent",
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({ ratio: 1 })
        const retry = yield* Retry.make({ backoff: steady, budget })
        yield* budget.deposit(true)
        const interrupted = Effect.gen(function*() {
          const fiber = yield* Effect.forkChild(named(Policy.apply(run([fails]), retry)), { startImmediately: true })
          yield* Effect.sleep(100)
          yield* Fiber.interrupt(fiber)
          return yield* Fiber.join(fiber)
        })
        assert.deepStrictEqual(yield* told(interrupted), [
          "search: interrupted (caller) in 100 ms after 1 attempt",
          "     0 ms  attempt 1 -> Unavailable in 40 ms, budget 1.1 -> 0.1, backoff 324 ms (asked for 300 ms), budget refunded to 1.1"
        ])
      })
    )
  })

  test(
    "keeps calls apart that are explained at the same time, and tells who looks already",
    Effect.gen(function*() {
      const events: Array<string> = []
      const client = yield* clientOf({ retry: { backoff: steady, budget: false } })
      const one = Explain.call(client.Users.Get({ steps: ["down", "ok"] }))
      const other = Explain.call(client.Users.Pay({ steps: ["ok"] }))
      const [first, second] = yield* finish(
        Effect.provideService(Effect.all([one, other], { concurrency: 2 }), CallEvent.CurrentReceiver, {
          event: (event) => void events.push(event._tag)
        })
      )
      assert.deepStrictEqual([first.exit, second.exit], [Exit.succeed("ada"), Exit.succeed("ada")])
      assert.deepStrictEqual(
        [Explain.line(first.log), Explain.line(second.log)],
        [
          "attempt 1 -> memory://users-1 Unavailable in 210 ms, backoff 180 ms; attempt 2 -> memory://users-1 success in 20 ms",
          "attempt 1 -> memory://users-1 success in 20 ms"
        ]
      )
      assert.deepStrictEqual(events.filter((tag) => tag === "CallEnded").length, 2)
    })
  )

  test(
    "gives data that JSON keeps as it is",
    Effect.gen(function*() {
      const client = yield* clientOf({ circuitBreaker: { consecutiveFailures: 1 }, retry: { backoff: steady } })
      const { log } = yield* finish(Explain.call(client.Users.Get({ steps: ["down"] })))
      const json = JSON.parse(JSON.stringify(Explain.encode(log)))
      const back = Schema.decodeUnknownSync(Schema.toCodecJson(Explain.Explanation))(json)
      assert.strictEqual(Explain.text(back), Explain.text(log))
    })
  )

  test(
    "is bounded: of many steps the oldest are left out, and it says so",
    Effect.gen(function*() {
      let n = 0
      const warn = Effect.withFiber((fiber) => {
        CallEvent.receiverOf(fiber)?.event({ _tag: "Warning", policy: "p", why: `${n++}`, atMillis: Timer.now(fiber) })
        return Effect.void
      })
      const { log } = yield* Explain.call(Effect.replicateEffect(warn, 203))
      assert.deepStrictEqual([log.steps.length, log.omitted], [200, 3])
      assert.deepInclude(log.steps[0], { why: "3" })
      assert.include(Explain.text(log), "\n           3 earlier steps are left out\n")
    })
  )
})

describe("Explain.text", () => {
  const place = { atMillis: 0, call: 0, attempt: 1 }
  const steps: ReadonlyArray<readonly [Explain.Step, string]> = [
    [
      {
        ...place,
        _tag: "Rejection",
        policy: "users@tcp://a:1",
        error: { tag: "CircuitOpen" },
        state: "HalfOpen",
        why: "open long enough",
        forMillis: 3,
        retryAfterMillis: 9_940
      },
      "attempt 1 -> users@a:1 circuit half-open with its probes taken for 3 ms: open long enough, next probe in 9.9 s"
    ],
    [
      { ...place, _tag: "Rejection", policy: "users", error: { tag: "Throttled" }, ratio: 0.4567 },
      "attempt 1 -> users throttled, 45.7 % of attempts are rejected"
    ],
    [
      { ...place, _tag: "Rejection", policy: "users", error: { tag: "NoEndpoint", message: "users: no endpoint" } },
      "attempt 1 -> users: no endpoint"
    ],
    [
      { ...place, _tag: "Limit", policy: "users", from: 20, to: 18.5, why: "slower" },
      "attempt 1, users limit 20 -> 18.5: slower"
    ],
    [
      { ...place, _tag: "Warning", policy: "Retry", why: "inside another" },
      "attempt 1, warning of Retry: inside another"
    ],
    [
      {
        ...place,
        _tag: "Attempt",
        hedge: false,
        endpoint: "tcp://10.0.0.7:443",
        result: "inFlight",
        unrepeatable: false
      },
      "attempt 1 -> 10.0.0.7:443 still in flight"
    ],
    [
      { ...place, _tag: "Queue", policy: "p", how: "interrupted", waitedMillis: 90_000 },
      "attempt 1, interrupted after 1.5 min in p"
    ],
    [{ ...place, _tag: "Queue", policy: "p", how: "admitted", waitedMillis: 0.36 }, "attempt 1, queued 0.4 ms in p"],
    [{ ...place, _tag: "Queue", policy: "p", how: "admitted", waitedMillis: 999.6 }, "attempt 1, queued 1 s in p"]
  ]

  it("says every step in words, with figures to the digit that matters", () => {
    const log: Omit<Explain.Explanation, "steps"> = {
      name: "call",
      startedAtMillis: 0,
      durationMillis: 1,
      result: "success",
      attempts: 1,
      calls: [],
      omitted: 0
    }
    for (const [step, words] of steps) assert.strictEqual(Explain.line({ ...log, steps: [step] }), words)
  })
})

describe("Explain.make", () => {
  const observed = (options: Explain.ExplainOptions, ...others: ReadonlyArray<Effect.Effect<CallEvent.Receiver>>) =>
    Layer.build(
      Observe.layer(...others, Explain.receiver).pipe(Layer.provideMerge(Explain.layer(options)))
    )

  test(
    "keeps the last logs; those that failed or were slow stay longest, which an error of the contract is neither",
    Effect.gen(function*() {
      const client = yield* clientOf({ retry: false })
      const context = yield* observed({ capacity: 3, slow: 400 })
      const explain = Context.get(context, Explain.Explain)
      const names = Effect.map(explain.recent, (logs) => logs.map(Explain.line))
      const make = (...steps: ReadonlyArray<string>) =>
        Effect.provide(Effect.exit(Effect.forEach(steps, (step) => client.Users.Get({ steps: [step] }))), context)
      const said = (what: string) => `attempt 1 -> memory://users-1 ${what}`
      yield* finish(make("slow", "ok", "ok", "ok"))
      assert.deepStrictEqual(yield* names, [
        said("success in 20 ms"),
        said("success in 20 ms"),
        said("success in 500 ms")
      ])
      yield* finish(make("gone"))
      yield* finish(make("die"))
      yield* finish(make("ok"))
      const [last, died, first] = yield* names
      assert.deepStrictEqual([last, first], [said("success in 20 ms"), said("success in 500 ms")])
      assert.include(died, "Remote")
      yield* finish(make("gone"))
      assert.deepStrictEqual(yield* names, [said("NotHere in 0 ms"), died, first])
      yield* finish(make("down"))
      assert.deepStrictEqual(yield* names, [said("Unavailable in 210 ms"), died, first])
      yield* finish(make("gone", "ok"))
      assert.deepStrictEqual(yield* names, [said("Unavailable in 210 ms"), died, first])
    })
  )

  test(
    "finds the calls of a trace: of the span around them, of the call's own, of one that came with the call",
    Effect.gen(function*() {
      const client = yield* clientOf({})
      const context = yield* observed({}, Tracing.make())
      const explain = Context.get(context, Explain.Explain)
      const get = client.Users.Get({ steps: ["ok"] })
      const [around, own] = yield* Effect.provide(
        Effect.gen(function*() {
          const span = yield* Effect.currentSpan
          yield* get
          return [span.traceId, undefined] as const
        }).pipe(Effect.withSpan("page"), Effect.tap(get), finish),
        context
      )
      assert.isUndefined(own)
      assert.strictEqual((yield* explain.byTraceId(around)).length, 1)
      const [root] = yield* explain.recent
      assert.match(root!.traceId ?? "", /^[0-9a-f]{32}$/)
      assert.notStrictEqual(root!.traceId, around)
      const traceId = "4bf92f3577b34da6a3ce929d0e0e4736"
      const trace = { traceId, spanId: "00f067aa0ba902b7", sampled: false }
      yield* Effect.provide(finish(CallContext.annotate(get, { trace })), context)
      const [came] = yield* explain.byTraceId(traceId)
      assert.include(
        Explain.text(came!),
        `Users.Get: success in 20 ms after 1 attempt, 4 s of 4 s left, trace ${traceId}\n`
      )
      assert.deepStrictEqual(yield* explain.byTraceId("none"), [])
    })
  )

  test(
    "keeps the log of a call that was interrupted",
    Effect.gen(function*() {
      const client = yield* clientOf({})
      const context = yield* observed({})
      const fiber = yield* Effect.forkChild(Effect.provide(client.Users.Get({ steps: ["hang"] }), context), {
        startImmediately: true
      })
      yield* TestClock.adjust(70)
      yield* Fiber.interrupt(fiber)
      const [log] = yield* Context.get(context, Explain.Explain).recent
      assert.strictEqual(
        Explain.text(log!),
        "Users.Get: interrupted (caller) in 70 ms after 1 attempt, 3.9 s of 4 s left\n" +
          "     0 ms  attempt 1 -> memory://users-1 interrupted (caller) after 70 ms"
      )
    })
  )

  it.effect("dies on options out of range", () =>
    Effect.gen(function*() {
      const refusals: ReadonlyArray<readonly [Explain.ExplainOptions, RegExp]> = [
        [{ capacity: 0 }, /^Explain\.make: capacity must be an integer >= 1/],
        [{ slow: -1 }, /^Explain\.make: slow must be/]
      ]
      for (const [options, message] of refusals) {
        const exit = yield* Effect.exit(Explain.make(options))
        assert.isTrue(Exit.isFailure(exit) && message.test(String((Cause.squash(exit.cause) as Error).message)))
      }
    }))
})

describe("Explain.onFailure", () => {
  const get = (step: string) =>
    Effect.gen(function*() {
      const client = yield* clientOf({ retry: false })
      return yield* client.Users.Get({ steps: [step] })
    })
  const causeOf = <A, E, R>(self: Effect.Effect<A, E, R>) =>
    Effect.flatMap(
      finish(Effect.exit(Explain.onFailure(self))),
      (exit) => Exit.isFailure(exit) ? Effect.succeed(exit.cause) : Effect.die("it succeeded")
    )
  const log = "     0 ms  attempt 1 -> memory://users-1"

  test(
    "adds the log to the message of a failed assertion, which a runner prints, and keeps its diff",
    Effect.gen(function*() {
      const cause = yield* causeOf(Effect.map(get("ok"), (name) => assert.strictEqual(name, "bea")))
      const error = Cause.squash(cause) as Error & { readonly actual: string; readonly expected: string }
      assert.strictEqual(
        error.message,
        `expected 'ada' to equal 'bea'\n\nuntil then, Users.Get:\n${log} success in 20 ms\n`
      )
      assert.deepStrictEqual([error.actual, error.expected, error.name], ["ada", "bea", "AssertionError"])
      assert.include(Cause.pretty(cause), `${log} success in 20 ms\n`)
      assert.match(error.stack!, /^AssertionError: expected 'ada' to equal 'bea'\n\nuntil then, Users\.Get:[^]*\n +at /)
    })
  )

  test(
    "leaves an error what it is: its class, its reason, its place in the error channel",
    Effect.gen(function*() {
      const cause = yield* causeOf(get("down"))
      const [reason] = cause.reasons
      assert.isTrue(Cause.isFailReason(reason!))
      const error = Cause.squash(cause)
      assert.isTrue(CallError.isCallError(error) && error.reason._tag === "Unavailable")
      assert.include(Cause.pretty(cause), `${log} Unavailable in 210 ms\n`)
      const caught = Explain.onFailure(get("down")).pipe(
        Effect.catchReason("CallError", "Unavailable", (reason) => Effect.succeed(reason.detail)),
        finish
      )
      assert.strictEqual(yield* caught, "starting")
    })
  )

  test(
    "makes an error of what is none, and passes on what has no call, or none that failed",
    Effect.gen(function*() {
      const error = Cause.squash(yield* causeOf(Effect.andThen(get("ok"), Effect.fail("boom")))) as Error
      assert.match(error.message, /^boom\n\nuntil then, Users\.Get:\n/)
      assert.strictEqual(error.cause, "boom")
      const plain = new Error("boom")
      assert.strictEqual(Cause.squash(yield* causeOf(Effect.die(plain))), plain)
      assert.strictEqual(yield* finish(Explain.onFailure(get("ok"))), "ada")
    })
  )
})
