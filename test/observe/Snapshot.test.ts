import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Random from "effect/Random"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import * as Scheduler from "effect/Scheduler"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as TestClock from "effect/testing/TestClock"
import * as Discovery from "../../src/balancer/Discovery.ts"
import * as Client from "../../src/client/Client.ts"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Contract from "../../src/contract/Contract.ts"
import * as Outcome from "../../src/contract/Outcome.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as Observe from "../../src/observe/Observe.ts"
import * as Snapshot from "../../src/observe/Snapshot.ts"
import * as Bulkhead from "../../src/policy/Bulkhead.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as RateLimiter from "../../src/policy/RateLimiter.ts"
import * as RetryBudget from "../../src/policy/RetryBudget.ts"
import * as Server from "../../src/server/Server.ts"
import * as InMemory from "../../src/transport/InMemory.ts"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"

const observed = (part?: string) => Observe.layer(Snapshot.make({ part }))

/** Runs with one part observed. */
const seen = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  self.pipe(Effect.provide(Layer.provideMerge(observed(), Snapshot.layer)))

const take = Effect.flatMap(Snapshot.Snapshot, (snapshot) => snapshot.take)
const part = Effect.map(take, ({ parts }) => parts[0]!)

const call: CallContext.CallContext = { ...CallContext.empty, name: "Users.Get" }
const unavailable = new CallError.CallError({ _tag: "Unavailable", target: "users", detail: "secret", sent: "no" })
const unauthenticated = new CallError.CallError({
  _tag: "Unauthenticated",
  target: "users",
  detail: "secret",
  sent: "no"
})
const timedOut = new CallError.CallError({ _tag: "AttemptTimeout", policy: "p", timeoutMillis: 1, sent: "maybe" })

const tell = (...events: ReadonlyArray<CallEvent.CallEvent>) =>
  Effect.map(CallEvent.CurrentReceiver, (receiver) => {
    for (const event of events) receiver!.event(event)
  })

const started = (atMillis: number): CallEvent.CallEvent => ({ _tag: "CallStarted", call, atMillis })
const ended = (
  atMillis: number,
  durationMillis: number,
  outcome: Outcome.Outcome,
  error?: unknown
): CallEvent.CallEvent => ({
  _tag: "CallEnded",
  call,
  attempts: 2,
  outcome,
  error,
  interrupted: undefined,
  durationMillis,
  atMillis
})
const sent = (atMillis: number, endpoint: string): CallEvent.CallEvent => ({
  _tag: "AttemptStarted",
  call,
  endpoint,
  atMillis
})
const transition = (to: string, atMillis = 0): CallEvent.CallEvent => ({
  _tag: "Transition",
  policy: "users@tcp://a:1",
  from: "Closed",
  to,
  why: "10 failures in a row",
  atMillis
})

/** Policies under one observer, and what the snapshot says of them. */
const policyOf = (kind: Policy.Kind) =>
  Effect.map(part, ({ policies }) => policies.filter((each) => each.kind === kind))

class Users extends RpcGroup.make(
  Rpc.make("Get", { payload: { id: Schema.Int }, success: Schema.String }).annotate(Contract.Idempotent, true)
).prefix("Users.") {}

describe("Snapshot", () => {
  it.effect("counts calls by method: rate, success, quantiles, attempts, in flight and why they failed", () =>
    seen(Effect.gen(function*() {
      yield* tell(started(0), started(0), started(0), started(0), started(0), started(0))
      yield* tell(
        ended(1000, 8, Outcome.success),
        ended(1000, 8, Outcome.failure, unavailable),
        ended(2000, 8, Outcome.ignored, timedOut),
        ended(2000, 8, Outcome.success, unauthenticated),
        ended(2000, 8, Outcome.ignored, new Error("interrupted"))
      )
      yield* TestClock.setTime(4000)
      const { calls, methods } = yield* part
      assert.deepStrictEqual(methods, [{ name: "Users.Get", ...calls }])
      assert.deepStrictEqual(calls, {
        rate: 1,
        success: 1 - 3 / 4,
        p50Millis: 8,
        p99Millis: 8,
        attempts: 2,
        inFlight: 1,
        total: 4,
        failed: 3,
        history: {
          ended: [0, 2, 2, 0],
          failed: [0, 1, 2, 0],
          p50Millis: [null, 8, 8, null],
          p99Millis: [null, 8, 8, null]
        },
        reasons: [
          { reason: "Unauthenticated", count: 1, agoMillis: 2000 },
          { reason: "AttemptTimeout", count: 1, agoMillis: 2000 },
          { reason: "Unavailable", count: 1, agoMillis: 3000 }
        ]
      })
    })))

  it.effect("counts attempts by endpoint, where only the endpoint's own failures count against it", () =>
    seen(Effect.gen(function*() {
      const end = (outcome: Outcome.Outcome, error: unknown): CallEvent.CallEvent => ({
        _tag: "AttemptEnded",
        call,
        endpoint: "tcp://a:1",
        outcome,
        error,
        interrupted: undefined,
        durationMillis: 4,
        atMillis: 500
      })
      yield* tell(...Array.from({ length: 4 }, () => sent(0, "tcp://a:1")))
      yield* tell(end(Outcome.success, undefined), end(Outcome.failure, timedOut), end(Outcome.ignored, timedOut))
      yield* tell({
        _tag: "Rejected",
        call,
        policy: "users@tcp://a:1",
        reason: "CircuitOpen",
        error: unavailable,
        state: undefined,
        atMillis: 500
      })
      yield* TestClock.setTime(500)
      const [endpoint] = (yield* part).endpoints
      const { address, connection, failed, inFlight, reasons, success, target, total } = endpoint!
      assert.deepStrictEqual({ address, connection, failed, inFlight, success, target, total }, {
        address: "tcp://a:1",
        connection: null,
        failed: 1,
        inFlight: 1,
        success: 0.5,
        target: null,
        total: 2
      })
      assert.deepStrictEqual(reasons.map(({ reason }) => reason), ["CircuitOpen", "AttemptTimeout"])
    })))

  it.effect("shows an endpoint with its breaker and its limit, and forgets one that has gone", () =>
    seen(Effect.gen(function*() {
      const name = "users@tcp://a:1"
      const removed = yield* Effect.scoped(Effect.gen(function*() {
        const breaker = yield* Policy.registeredInScope(Effect.gen(function*() {
          const registry = (yield* Policy.CurrentRegistry)!
          registry.register({
            name,
            kind: "endpoint",
            snapshot: () => ({ target: "users", address: "tcp://a:1", connection: "backoff", inFlight: 0 })
          })
          yield* Bulkhead.make({ name, limit: 8 })
          yield* CircuitBreaker.make({ name: "users@tcp://b:1" })
          return yield* CircuitBreaker.make({ name, consecutiveFailures: 3, openFor: "10 seconds" })
        }))
        const failing = Effect.ignore(Policy.apply(Effect.fail("down"), breaker))
        yield* Effect.replicateEffect(failing, 3)
        yield* TestClock.adjust("4 seconds")
        const [endpoint] = (yield* part).endpoints
        assert.deepStrictEqual(
          [endpoint!.target, endpoint!.connection, endpoint!.limit],
          ["users", "backoff", { limit: 8, inFlight: 0, queued: 0 }]
        )
        const { forMillis, notClosedForMillis, probeInMillis, state, why } = endpoint!.breaker!
        assert.deepStrictEqual(
          [state, why, forMillis, notClosedForMillis],
          ["Open", "3 failures in a row", 4000, 4000]
        )
        // The time open is jittered.
        assert.isTrue(probeInMillis! > 0 && probeInMillis! <= 10_000)
      }))
      assert.isUndefined(removed)
      const { endpoints, policies } = yield* part
      assert.deepStrictEqual([endpoints, policies], [[], []])
    })))

  it.effect("says since when a circuit is not closed, however often it has probed meanwhile", () =>
    seen(Effect.gen(function*() {
      const name = "users@tcp://a:1"
      const breaker = yield* CircuitBreaker.make({ name, consecutiveFailures: 1, openFor: "1 second", jitter: 0 })
      yield* tell(sent(0, "tcp://a:1"))
      const failing = Effect.ignore(Policy.apply(Effect.fail("down"), breaker))
      const since = Effect.map(part, ({ endpoints }) => endpoints[0]!.breaker!.notClosedForMillis)
      assert.isNull(yield* since)
      yield* failing
      yield* TestClock.adjust("2 seconds")
      yield* Effect.replicateEffect(failing, 2)
      const { forMillis, notClosedForMillis, state } = (yield* part).endpoints[0]!.breaker!
      assert.deepStrictEqual([state, forMillis, notClosedForMillis], ["Open", 0, 2000])
      yield* TestClock.adjust("10 seconds")
      yield* Effect.replicateEffect(Policy.apply(Effect.void, breaker), 10)
      yield* TestClock.adjust("1 minute")
      yield* Effect.replicateEffect(Policy.apply(Effect.void, breaker), 10)
      assert.strictEqual((yield* part).endpoints[0]!.breaker!.state, "Closed")
      assert.isNull(yield* since)
    })))

  it.effect("says of two circuits of one endpoint no less than of the one it shows", () =>
    seen(Effect.gen(function*() {
      const options = { name: "users@tcp://a:1", consecutiveFailures: 1, openFor: "1 minute" } as const
      yield* tell(sent(0, "tcp://a:1"))
      const [first, second] = [yield* CircuitBreaker.make(options), yield* CircuitBreaker.make(options)]
      yield* Effect.ignore(Policy.apply(Effect.fail("down"), first))
      yield* TestClock.adjust("5 seconds")
      yield* Effect.ignore(Policy.apply(Effect.fail("down"), second))
      const { forMillis, notClosedForMillis } = (yield* part).endpoints[0]!.breaker!
      assert.deepStrictEqual([forMillis, notClosedForMillis], [5000, 5000])
    })))

  it.effect("keeps an endpoint nobody has registered for a minute after its last attempt", () =>
    seen(Effect.gen(function*() {
      yield* tell(sent(0, "https://a"), {
        _tag: "AttemptEnded",
        call,
        endpoint: "https://a",
        outcome: Outcome.success,
        error: undefined,
        interrupted: undefined,
        durationMillis: 0,
        atMillis: 0
      })
      yield* TestClock.setTime(60_000)
      assert.strictEqual((yield* part).endpoints.length, 1)
      yield* TestClock.setTime(60_001)
      assert.strictEqual((yield* part).endpoints.length, 0)
    })))

  it.effect("shows every policy with its state and its figures, and budgets apart", () =>
    seen(Effect.gen(function*() {
      const limiter = yield* RateLimiter.make({ name: "quota", limit: 4, window: "1 second" })
      const budget = yield* RetryBudget.make({ name: "users budget", ratio: 1, reserve: 0 })
      const keyed = yield* CircuitBreaker.keyed({ name: "tenants", consecutiveFailures: 1 })
      yield* Policy.apply(Effect.void, limiter)
      yield* Effect.replicateEffect(budget.deposit(true), 3)
      yield* budget.tryWithdraw
      for (const key of ["a", "b", "c"]) {
        const tried = key === "b" ? Effect.fail("down") : Effect.void
        yield* Effect.ignore(Policy.apply(tried, keyed).pipe(CallContext.annotate({ key })))
      }
      assert.deepStrictEqual((yield* part).budgets, [
        { name: "users budget", balance: 2, granted: 1, refused: 0, refunded: 0 }
      ])
      assert.deepStrictEqual(yield* policyOf("rateLimiter"), [{
        name: "quota",
        kind: "rateLimiter",
        state: null,
        why: null,
        figures: { limit: 4, windowMillis: 1000, available: 3, waiting: 0, admitted: 1, rejected: 0 }
      }])
      // Keys may be names of customers: they are counted, not told.
      assert.deepStrictEqual(yield* policyOf("circuitBreaker"), [{
        name: "tenants",
        kind: "circuitBreaker",
        state: "Open",
        why: "1 failures in a row",
        figures: { circuits: 3, Closed: 2, Open: 1 }
      }])
    })))

  it.effect("tells two parts apart, and forgets one whose observer has gone", () =>
    Effect.gen(function*() {
      yield* Effect.provide(tell(started(0)), observed("b")).pipe(
        Effect.andThen(Effect.map(take, ({ parts }) => assert.deepStrictEqual(parts.map(({ name }) => name), ["a"]))),
        Effect.provide(observed("a"))
      )
      assert.deepStrictEqual((yield* take).parts, [])
    }).pipe(Effect.provide(Snapshot.layer)))

  it.effect("is what its schema says, as JSON, and says when and for how long", () =>
    seen(Effect.gen(function*() {
      yield* CircuitBreaker.make({ name: "users@tcp://a:1" })
      yield* tell(started(0), ended(0, 1, Outcome.failure, timedOut), sent(0, "tcp://a:1"))
      yield* TestClock.setTime(1500)
      const taken = yield* take
      const decoded = yield* Schema.decodeUnknownEffect(Snapshot.Taken, { onExcessProperty: "error" })(
        JSON.parse(JSON.stringify(taken))
      )
      assert.deepStrictEqual(decoded, taken)
      assert.deepStrictEqual(
        [taken.takenAt, taken.atMillis, taken.uptimeMillis, taken.watchers],
        ["1970-01-01T00:00:01.500Z", 1500, 1500, 0]
      )
    })))

  it.effect("sees a real client: its methods, endpoint, connection, breaker and budget", () =>
    seen(
      Effect.scoped(Effect.gen(function*() {
        const gate = yield* Deferred.make<void>()
        yield* Server.make(Users, { listen: "memory://a" }).pipe(
          Effect.provide(Users.toLayer({ "Users.Get": () => Effect.as(Deferred.await(gate), "Ada") }))
        )
        const client = yield* Client.make(Users, { target: "users" })
        const calling = yield* Effect.forkChild(client.Users.Get({ id: 1 }))
        yield* TestClock.adjust("1 second")
        const during = yield* part
        assert.deepStrictEqual(during.methods.map(({ inFlight, name }) => [name, inFlight]), [["Users.Get", 1]])
        assert.deepStrictEqual(
          during.endpoints.map(({ address, breaker, connection, inFlight, target }) => ({
            address,
            state: breaker?.state,
            connection,
            inFlight,
            target
          })),
          [{ address: "memory://a", state: "Closed", connection: "open", inFlight: 1, target: "users" }]
        )
        assert.deepStrictEqual(during.budgets.map(({ name }) => name), ["users budget"])
        yield* Deferred.succeed(gate, undefined)
        assert.strictEqual(yield* Fiber.join(calling), "Ada")
        const { calls, endpoints } = yield* part
        assert.deepStrictEqual(
          [calls.inFlight, calls.success, calls.p99Millis, endpoints[0]!.inFlight, endpoints[0]!.p99Millis],
          [0, 1, 1000, 0, 1000]
        )
      })).pipe(
        Effect.provide([InMemory.layer, Discovery.layerStatic({ users: ["memory://a"] })]),
        Random.withSeed("snapshot")
      )
    ))

  it.effect("counts what handlers did: a contract's error and a refusal of the caller's are answers, a defect is not", () =>
    seen(Effect.scoped(Effect.gen(function*() {
      const gate = yield* Deferred.make<void>()
      const answers: ReadonlyArray<Effect.Effect<string, "domain">> = [
        Effect.delay(Effect.succeed("Ada"), "64 millis"),
        Effect.fail("domain"),
        Server.refuse({ _tag: "NotFound", target: "users", detail: "", sent: "no" }),
        Server.refuse({ _tag: "Unavailable", target: "users", detail: "", sent: "no" }),
        Effect.die("broken"),
        Effect.as(Deferred.await(gate), "late")
      ]
      const receiver = (yield* CallEvent.CurrentReceiver)!
      const around = (answer: Effect.Effect<string, "domain">) =>
        Effect.exit(receiver.aroundHandler!(answer, call, "peer"))
      const fibers = yield* Effect.forEach(
        answers,
        (answer) => Effect.forkChild(around(answer), { startImmediately: true })
      )
      yield* TestClock.adjust("64 millis")
      const during = (yield* part).served[0]!
      const { failed, inFlight, name, p99Millis, total } = during
      assert.deepStrictEqual({ failed, inFlight, name, p99Millis, total }, {
        failed: 2,
        inFlight: 1,
        name: "Users.Get",
        p99Millis: 64,
        total: 5
      })
      assert.deepStrictEqual(during.reasons.map(({ reason }) => reason), ["Defect", "Unavailable"])
      yield* Fiber.interrupt(fibers[5]!)
      const after = (yield* part).served[0]!
      assert.deepStrictEqual([after.inFlight, after.total, after.failed], [0, 5, 2])
    }))))

  it.effect("has no handler in flight any more, wherever it was interrupted", () =>
    seen(Effect.gen(function*() {
      const receiver = (yield* CallEvent.CurrentReceiver)!
      const snapshot = yield* Snapshot.Snapshot
      yield* interruptEverywhere(Effect.succeed({
        work: receiver.aroundHandler!(Effect.never, call, "peer"),
        check: (where: string) =>
          Effect.map(snapshot.take, ({ parts }) => {
            for (const { inFlight, total } of parts[0]!.served) assert.deepStrictEqual([inFlight, total], [0, 0], where)
          })
      }))
    })))

  it.effect("refuses a part without a name", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(Effect.scoped(Effect.provide(Snapshot.make({ part: "" }), Snapshot.layer)))
      assert.include(String(exit), "Snapshot.make: part must be a name, got \"\"")
    }))
})

describe("Snapshot.watch", () => {
  const watching = (count: number) =>
    Effect.gen(function*() {
      const snapshot = yield* Snapshot.Snapshot
      return yield* snapshot.watch("1 second").pipe(Stream.take(count), Stream.runCollect, Effect.forkChild)
    })
  const shown = (updates: ReadonlyArray<Snapshot.Update>) =>
    updates.map((update) =>
      update._tag === "Snapshot"
        ? update.snapshot.atMillis
        : update._tag === "Event"
        ? `${update.event.kind} ${update.event.about}: ${update.event.text} (${update.event.tone})`
        : update._tag === "Earlier"
        ? update.events.map(({ about, atMillis, text }) => `${atMillis} ${about}: ${text}`)
        : `lost ${update.count}`
    )

  it.effect("gives a snapshot at once and every interval, and events as they happen", () =>
    seen(Effect.gen(function*() {
      const fiber = yield* watching(5)
      yield* TestClock.adjust("300 millis")
      yield* tell(transition("Open"))
      yield* TestClock.adjust("500 millis")
      const snapshot = yield* Snapshot.Snapshot
      yield* snapshot.note("servers", "server-2", "killed", "bad")
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(shown(yield* Fiber.join(fiber)), [
        0,
        "Transition users@tcp://a:1: Closed → Open: 10 failures in a row (bad)",
        "Note server-2: killed (bad)",
        1000,
        2000
      ])
    })))

  it.effect("tells first of what happened before: what comes seldom, the last hundred of it", () =>
    seen(Effect.gen(function*() {
      const snapshot = yield* Snapshot.Snapshot
      yield* tell(ended(0, 1, Outcome.failure, unavailable), transition("Open", 1), sent(2, "tcp://a:1"))
      yield* snapshot.note("servers", "server-2", "killed", "bad")
      assert.deepStrictEqual(shown(yield* Effect.flatMap(watching(2), Fiber.join)), [
        0,
        ["1 users@tcp://a:1: Closed → Open: 10 failures in a row", "0 server-2: killed"]
      ])
      yield* tell(...Array.from({ length: 150 }, (_, i) => transition("Open", i)))
      const [, earlier] = shown(yield* Effect.flatMap(watching(2), Fiber.join)) as [number, ReadonlyArray<string>]
      assert.lengthOf(earlier, 100)
      assert.match(earlier[0]!, /^50 /)
      assert.match(earlier.at(-1)!, /^149 /)
    })))

  it.effect("tells of nothing twice, whenever it happens while somebody begins to watch", () =>
    seen(Effect.gen(function*() {
      const snapshot = yield* Snapshot.Snapshot
      for (let budget = 3; budget < 8; budget++) {
        const about: Array<string> = []
        const watcher = yield* snapshot.watch("1 second").pipe(
          Stream.runForEach((update) =>
            Effect.sync(() => {
              if (update._tag === "Earlier") about.push(...update.events.map((event) => event.about))
              else if (update._tag === "Event") about.push(update.event.about)
            })
          ),
          Effect.provideService(Scheduler.MaxOpsBeforeYield, budget),
          Effect.forkChild({ startImmediately: true })
        )
        for (let i = 0; i < 50; i++) {
          yield* snapshot.note("servers", `${budget}/${i}`, "killed")
          yield* Effect.yieldNow
        }
        yield* Fiber.interrupt(watcher)
        assert.isNotEmpty(about)
        assert.deepStrictEqual(about, [...new Set(about)], `${budget} operations at a time`)
      }
    })))

  it.effect("tells a watcher that does not read how many events it has lost", () =>
    seen(Effect.gen(function*() {
      const snapshot = yield* Snapshot.Snapshot
      const gate = yield* Deferred.make<void>()
      const fiber = yield* snapshot.watch("1 hour").pipe(
        Stream.tap((update) => update._tag === "Snapshot" ? Deferred.await(gate) : Effect.void),
        Stream.take(258),
        Stream.runCollect,
        Effect.forkChild
      )
      yield* TestClock.adjust(0)
      yield* tell(...Array.from({ length: 300 }, (_, i) => transition(`s${i}`)))
      yield* Deferred.succeed(gate, undefined)
      const updates = shown(yield* Fiber.join(fiber))
      assert.deepStrictEqual(updates.slice(0, 2), [0, "lost 44"])
      assert.include(String(updates[2]), "→ s44:")
      assert.include(String(updates.at(-1)), "→ s299:")
    })))

  it.effect("leaves nothing behind when a watcher goes, waiting or not, and does not let events cost anything then", () =>
    seen(Effect.gen(function*() {
      const { clock } = yield* Effect.withFiber((fiber) => Effect.succeed(Timer.sourceOf(fiber)))
      const fiber = yield* watching(100)
      yield* TestClock.adjust("100 millis")
      assert.deepStrictEqual([(yield* take).watchers, Timer.size(clock)], [1, 1])
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual([(yield* take).watchers, Timer.size(clock)], [0, 0])
      const one = yield* watching(1)
      yield* Fiber.join(one)
      assert.deepStrictEqual([(yield* take).watchers, Timer.size(clock)], [0, 0])
    })))

  it.effect("does not tell of what the figures show, nor of what is in a message", () =>
    seen(Effect.gen(function*() {
      const fiber = yield* watching(3)
      yield* TestClock.adjust("1 milli")
      yield* tell(
        started(0),
        sent(0, "tcp://a:1"),
        ended(0, 1, Outcome.success),
        { _tag: "BudgetMoved", call, policy: "b", change: "withdrawn", balance: 1, atMillis: 0 },
        ended(0, 1, Outcome.failure, unavailable),
        { _tag: "BudgetMoved", call, policy: "b", change: "refused", balance: 0, atMillis: 0 }
      )
      assert.deepStrictEqual(shown(yield* Fiber.join(fiber)), [
        0,
        "CallEnded Users.Get: call failed: Unavailable (bad)",
        "BudgetMoved b: retry budget spent (bad)"
      ])
    })))
})
