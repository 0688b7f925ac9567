import { assert, describe, it } from "@effect/vitest"
import { Clock, Context, Effect, Exit, Layer, Schema, Scope } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { TestClock } from "effect/testing"
import type * as ClientStack from "../../src/client/ClientStack.ts"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as Contract from "../../src/contract/Contract.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as Chaos from "../../src/testing/Chaos.ts"
import * as ClientTest from "../../src/testing/ClientTest.ts"
import type * as FaultScript from "../../src/testing/FaultScript.ts"
import * as InMemory from "../../src/transport/InMemory.ts"
import { type Serve, type Session, Transport } from "../../src/transport/Transport.ts"
import * as Frame from "../../src/wire/Frame.ts"
import { fibers } from "../support/fibers.ts"
import { recording } from "../support/loop.ts"
import { request, Script, textOf } from "../support/script.ts"

class Users extends RpcGroup.make(
  Rpc.make("Get", { payload: { id: Schema.Int }, success: Schema.String }).annotate(Contract.Idempotent, true),
  Rpc.make("Put", { payload: { id: Schema.Int }, success: Schema.String })
).prefix("Users.") {}

const served = { calls: 0 }
const handlers = Users.toLayer({
  "Users.Get": ({ id }) => Effect.sync(() => `user ${id + 0 * served.calls++}`),
  "Users.Put": ({ id }) => Effect.sync(() => `put ${id + 0 * served.calls++}`)
})

/** Runs a body; afterwards no timer and no fiber of it is left. */
const test = (name: string, body: Effect.Effect<void, unknown, Scope.Scope>) =>
  it.effect(name, () =>
    Effect.gen(function*() {
      const { counted, live } = fibers()
      yield* counted(Effect.scoped(Effect.yieldNow.pipe(Effect.andThen(body))))
      yield* Effect.yieldNow
      assert.deepStrictEqual([Timer.size(yield* Clock.Clock), live()], [0, 0], "timers, fibers")
    }))

const phase = (fault: FaultScript.FaultScript["phases"][0]["fault"], more: object = {}): FaultScript.FaultScript => ({
  phases: [{ name: "fault", from: "1 s", to: "3 s", fault, ...more }]
})

/** One attempt a call, so that what a fault does is seen as it is. */
const plain = { retry: false, circuitBreaker: false, timeout: "500 millis" } as const satisfies ClientStack.Options

const now = Effect.map(Clock.Clock, Timer.nowOf)

/** What became of a call, and how long it took. */
const outcome = <A>(call: Effect.Effect<A, unknown>) =>
  Effect.gen(function*() {
    const start = yield* now
    const exit = yield* Effect.exit(call)
    const error = Exit.isFailure(exit) ? exit.cause.reasons.find((reason) => reason._tag === "Fail")?.error : undefined
    const what = Exit.isSuccess(exit)
      ? String(exit.value)
      : CallError.isCallError(error)
      ? `${error.reason._tag} ${error.reason.sent}`
      : String(exit.cause)
    return `${what} ${Math.round((yield* now) - start)}`
  })

/** Makes a call at each of the times, in virtual milliseconds, and says what became of them. */
const calls = <A>(times: ReadonlyArray<number>, call: (n: number) => Effect.Effect<A, unknown>, until = 4800) =>
  Effect.gen(function*() {
    const results: Array<string> = []
    for (const [n, time] of times.entries()) {
      yield* Effect.forkScoped(
        Effect.sleep(time).pipe(
          Effect.andThen(outcome(call(n))),
          Effect.tap((result) => Effect.sync(() => void (results[n] = result)))
        ),
        { startImmediately: true }
      )
    }
    for (let at = 0; at < until; at += 10) yield* TestClock.adjust(10)
    return results
  })

const users = (faults: FaultScript.FaultScript, policy: ClientStack.Options = plain, endpoints = 1) =>
  ClientTest.make(Users, handlers, { faults, policy, endpoints })

describe("Chaos", () => {
  describe("what a client sees of each fault, before, during and after its phase", () => {
    const faults: ReadonlyArray<readonly [string, FaultScript.FaultScript, during: string]> = [
      ["latency", phase({ kind: "latency", delay: "200ms" }), "user 1 200"],
      ["latency both ways", phase({ kind: "latency", delay: "200ms", direction: "both" }), "user 1 400"],
      ["latency that exceeds the timeout", phase({ kind: "latency", delay: "1 s" }), "AttemptTimeout maybe 500"],
      // `"user 1"` is 8 bytes.
      ["bandwidth", phase({ kind: "bandwidth", bytesPerSecond: 40 }), "user 1 200"],
      ["a stall", phase({ kind: "stall", pause: "300ms" }), "user 1 300"],
      ["a stall that lasts as long as the phase", phase({ kind: "stall" }), "AttemptTimeout maybe 500"],
      ["slices", phase({ kind: "slice", bytes: 2, gap: "50ms" }), "user 1 150"],
      ["a black hole", phase({ kind: "blackHole" }), "AttemptTimeout maybe 500"],
      ["a black hole upwards", phase({ kind: "blackHole", direction: "up" }), "AttemptTimeout maybe 500"],
      ["a refusal by the server", phase({ kind: "error", reason: "Unavailable" }), "Unavailable no 0"],
      [
        "an error after the handler ran",
        phase({ kind: "error", reason: "Overloaded", processed: true }),
        "Overloaded maybe 0"
      ],
      ["an error with a code", phase({ kind: "error", reason: "Remote" }), "Remote no 0"],
      ["a peer that is gone and did not say so", phase({ kind: "halfOpen" }), "AttemptTimeout maybe 500"],
      ["a limit of bytes", phase({ kind: "limit", bytes: 3 }), "ConnectionLost maybe 0"],
      ["connections that are reset", phase({ kind: "reset", after: "100ms" }), "user 1 0"],
      ["connections that nobody takes, while one is open", phase({ kind: "refuse" }), "user 1 0"],
      ["late closes, while nobody closes", phase({ kind: "slowClose", delay: "1 s" }), "user 1 0"]
    ]
    for (const [name, script, during] of faults) {
      test(
        name,
        Effect.gen(function*() {
          const client = yield* users(script)
          const results = yield* calls([0, 1500, 4000], (n) => client.Users.Get({ id: n }))
          assert.deepStrictEqual(results, ["user 0 0", during, "user 2 0"])
        })
      )
    }
  })

  test(
    "a call that waits when its connection is reset fails at once, and the next one finds a new connection",
    Effect.gen(function*() {
      const client = yield* users({
        phases: [
          { name: "slow", to: "5 s", fault: { kind: "latency", delay: "400ms" } },
          { name: "cut", from: "1 s", to: "1100ms", fault: { kind: "reset" } }
        ]
      })
      const results = yield* calls([900, 1200], (n) => client.Users.Get({ id: n }))
      assert.deepStrictEqual(results, ["ConnectionLost maybe 100", "user 1 400"])
    })
  )

  test(
    "a client whose server refuses connections says so, keeps its deadline, and recovers",
    Effect.gen(function*() {
      const client = yield* users({
        phases: [
          { name: "down", to: "2 s", fault: { kind: "refuse" } },
          { name: "cut", from: "1 s", to: "1001ms", fault: { kind: "reset" } }
        ]
      })
      const results = yield* calls([0, 1500, 4500], (n) => client.Users.Get({ id: n }))
      assert.deepStrictEqual(results, ["ConnectFailed no 0", "ConnectFailed no 0", "user 2 0"])
    })
  )

  test(
    "a retry survives a reset in the middle of a call",
    Effect.gen(function*() {
      const client = yield* users(
        {
          phases: [
            { name: "slow", from: "1 s", to: "2 s", fault: { kind: "latency", delay: "500ms" } },
            { name: "cut", from: "1200ms", to: "1300ms", fault: { kind: "reset" } }
          ]
        },
        { circuitBreaker: false }
      )
      // Successes earn what the retry is paid with.
      const earning = Array.from({ length: 30 }, (_, n) => n * 30)
      const result = (yield* calls([...earning, 1000], () => client.Users.Get({ id: 1 }, { deadline: "3 seconds" })))
        .at(-1)
      assert.match(result!, /^user 1 /)
    })
  )

  test(
    "a deadline holds through every fault at once",
    Effect.gen(function*() {
      const client = yield* users(
        {
          horizon: "6 s",
          phases: [
            { name: "lossy", fault: { kind: "stall", pause: "900ms", ratio: 0.5, direction: "both" } },
            { name: "dark", from: "1 s", to: "4 s", fault: { kind: "blackHole", direction: "both" }, toxicity: 0.7 },
            { name: "broken", fault: { kind: "corrupt", ratio: 0.2, direction: "both" } },
            { name: "cut", fault: { kind: "reset", after: "1500ms" }, toxicity: 0.5 }
          ]
        },
        {},
        3
      )
      const times = Array.from({ length: 40 }, (_, n) => n * 150)
      const results = yield* calls(times, (n) => client.Users.Get({ id: n }, { deadline: "1 second" }), 12_000)
      const slowest = Math.max(...results.map((result) => Number(result.split(" ").at(-1))))
      assert.isAtMost(slowest, 1000)
      assert.isAbove(results.filter((result) => result.startsWith("user")).length, 5)
      assert.isAbove(results.filter((result) => !result.startsWith("user")).length, 5)
    })
  )

  test(
    "corruption is the same for the same seed, and never a wrong answer of the wrong type",
    Effect.gen(function*() {
      const of = (seed: number) =>
        Effect.scoped(Effect.gen(function*() {
          const client = yield* users({ seed, ...phase({ kind: "corrupt", ratio: 0.5 }, { from: 0 }) })
          return yield* calls(Array.from({ length: 20 }, (_, n) => n * 10), (n) => client.Users.Get({ id: n }), 1000)
        }))
      const first = yield* of(1)
      yield* TestClock.setTime(0)
      assert.deepStrictEqual(yield* of(1), first)
      assert.notDeepEqual(yield* of(2), first)
      assert.isTrue(first.some((result) => result.startsWith("DecodeFailed maybe")), first.join())
      assert.isTrue(first.some((result, n) => result === `user ${n} 0`), first.join())
    })
  )

  test(
    "a corrupted request is the server's to refuse",
    Effect.gen(function*() {
      const client = yield* users(phase({ kind: "corrupt", direction: "up" }))
      const results = yield* calls(Array.from({ length: 20 }, (_, n) => 1000 + n), (n) => client.Users.Get({ id: n }))
      assert.isTrue(results.some((result) => result.startsWith("InvalidRequest no")), results.join())
    })
  )

  describe("its blast radius", () => {
    test(
      "is a method",
      Effect.gen(function*() {
        const client = yield* users(
          phase({ kind: "error", reason: "Unavailable" }, { radius: { methods: ["Users.P*"] } })
        )
        const results = yield* calls(
          [1500, 1500],
          (n) => n === 0 ? client.Users.Get({ id: n }) : client.Users.Put({ id: n })
        )
        assert.deepStrictEqual(results, ["user 0 0", "Unavailable no 0"])
      })
    )

    test(
      "is an endpoint, which its breaker then takes out",
      Effect.gen(function*() {
        const client = yield* users(
          phase({ kind: "error", reason: "Unavailable" }, { radius: { endpoints: ["memory://test-1"] } }),
          { retry: false, circuitBreaker: { consecutiveFailures: 3, openFor: "1 minute" } },
          2
        )
        const times = Array.from({ length: 30 }, (_, n) => 1000 + n * 20)
        const results = yield* calls(times, (n) => client.Users.Get({ id: n }))
        assert.strictEqual(results.filter((result) => !result.startsWith("user")).length, 3, results.join())
      })
    )

    test(
      "is a share of the keys, and those that are slow hold up no others",
      Effect.gen(function*() {
        const transport = yield* Chaos.make(
          yield* InMemory.make,
          phase({ kind: "latency", delay: "300ms" }, { from: 0, radius: { ratio: 0.5 } }),
          { key: ({ headers }) => headers["tenant"] }
        )
        const session = yield* connected(transport)
        const tenants = Array.from({ length: 24 }, (_, n) => `tenant ${n % 12}`)
        const results = yield* calls(
          tenants.map(() => 100),
          (n) => Effect.map(session.send(request("echo", tenants[n], { headers: { tenant: tenants[n]! } })), textOf)
        )
        assert.deepStrictEqual(results.slice(0, 12), results.slice(12))
        assert.deepStrictEqual([...new Set(results.map((result) => result.split(" ").at(-1)))].toSorted(), ["0", "300"])
      })
    )

    test(
      "is by default the key of the call",
      Effect.gen(function*() {
        const client = yield* users(phase({ kind: "error", reason: "NotFound" }, { radius: { keys: ["acme"] } }))
        const results = yield* calls(
          [1500, 1500],
          (n) => CallContext.annotate(client.Users.Get({ id: n }), { key: ["acme", "apex"][n]! })
        )
        assert.deepStrictEqual(results, ["NotFound no 0", "user 1 0"])
      })
    )
  })

  describe("sessions", () => {
    test(
      "the server keeps its half where the client lost its own, until the phase ends",
      Effect.gen(function*() {
        const { listening, session } = yield* both(phase({ kind: "halfOpen", left: "server" }))
        yield* TestClock.adjust(1500)
        assert.deepStrictEqual([session.status, listening.stats().sessions], ["closed", 1])
        yield* TestClock.adjust(1500)
        assert.strictEqual(listening.stats().sessions, 0)
      })
    )

    test(
      "the client keeps its half where the server has gone, and hears at the end of the phase",
      Effect.gen(function*() {
        const { listening, session } = yield* both(phase({ kind: "halfOpen" }))
        yield* TestClock.adjust(1500)
        assert.deepStrictEqual([session.status, listening.stats().sessions], ["open", 0])
        yield* TestClock.adjust(1500)
        assert.strictEqual(session.status, "closed")
      })
    )

    test(
      "a close is heard late, and what waits fails only then",
      Effect.gen(function*() {
        const { closeServer, script, session } = yield* both(phase({ kind: "slowClose", delay: "700ms" }))
        yield* TestClock.adjust(1000)
        const results: Array<string> = []
        yield* Effect.forkScoped(
          Effect.map(outcome(session.send(request("wait", "a"))), (result) => results.push(result)),
          { startImmediately: true }
        )
        yield* script.started("a")
        yield* closeServer
        yield* TestClock.adjust(690)
        assert.deepStrictEqual([session.status, results.length], ["open", 0])
        yield* TestClock.adjust(10)
        assert.deepStrictEqual([session.status, results], ["closed", ["ConnectionLost maybe 700"]])
      })
    )

    test(
      "the server hears late that the client has closed, and no later than the phase's end",
      Effect.gen(function*() {
        const { closeClient, listening } = yield* both(phase({ kind: "slowClose", delay: "5 s", direction: "up" }))
        yield* TestClock.adjust(1000)
        yield* closeClient
        yield* TestClock.adjust(1990)
        assert.strictEqual(listening.stats().sessions, 1)
        yield* TestClock.adjust(10)
        assert.strictEqual(listening.stats().sessions, 0)
      })
    )

    test(
      "what the other side was left with goes with the whole",
      Effect.gen(function*() {
        const { closeClient, listening } = yield* both(phase({ kind: "slowClose", delay: "5 s", direction: "up" }))
        yield* TestClock.adjust(1000)
        yield* closeClient
        assert.strictEqual(listening.stats().sessions, 1)
      })
    )

    test(
      "a connection opened into a black hole hears no greeting before it is over",
      Effect.gen(function*() {
        const { session } = yield* both(phase({ kind: "blackHole", closeAfter: "2500ms" }, { from: 0 }))
        assert.deepStrictEqual([session.status, session.greeted], ["open", false])
        const changes: Array<string> = []
        session.onChange(() => changes.push(`${session.status} ${session.greeted}`))
        yield* TestClock.adjust(2500)
        assert.deepStrictEqual(changes, ["closed false"])
      })
    )

    test(
      "draws by toxicity which connections it cuts",
      Effect.gen(function*() {
        const { connect } = yield* both(phase({ kind: "reset" }, { toxicity: 0.5 }))
        const sessions = yield* Effect.forEach(Array.from({ length: 40 }), () => connect)
        yield* TestClock.adjust(2000)
        const cut = sessions.filter(({ status }) => status === "closed").length
        assert.isTrue(cut > 8 && cut < 32, String(cut))
      })
    )

    test(
      "a drain waits for what is held back",
      Effect.gen(function*() {
        const { session } = yield* both(phase({ kind: "latency", delay: "300ms" }, { from: 0 }))
        const answers: Array<string> = []
        yield* Effect.forkScoped(
          Effect.map(session.send(request("echo", "late")), (response) => answers.push(textOf(response))),
          { startImmediately: true }
        )
        const drained = yield* Effect.forkScoped(session.drain, { startImmediately: true })
        yield* TestClock.adjust(299)
        assert.deepStrictEqual([session.status, drained.pollUnsafe()], ["draining", undefined])
        yield* TestClock.adjust(1)
        assert.deepStrictEqual([session.status, answers], ["closed", ["late"]])
      })
    )
  })

  describe("around handlers", () => {
    const during: ReadonlyArray<readonly [string, FaultScript.FaultScript, string]> = [
      ["latency", phase({ kind: "latency", delay: "200ms", direction: "both" }), "a 400"],
      [
        "an error instead of the handler",
        phase({ kind: "error", reason: "RateLimited", retryAfter: "1 s" }),
        "4 false 0"
      ],
      ["what vanishes is answered when the phase ends", phase({ kind: "blackHole", direction: "up" }), "2 false 1500"],
      ["what vanishes on its way back", phase({ kind: "blackHole" }), "2 true 1500"],
      ["a reset, for which it has no connection", phase({ kind: "reset" }), "a 0"]
    ]
    for (const [name, script, expected] of during) {
      test(
        name,
        Effect.gen(function*() {
          const { session } = yield* both(script, "server")
          const results = yield* calls(
            [1500, 4000],
            () =>
              Effect.map(
                session.send(request("echo", "a")),
                (response) =>
                  response.status === Frame.Status.ok ? textOf(response) : `${response.status} ${response.processed}`
              )
          )
          assert.deepStrictEqual(results, [expected, "a 0"])
        })
      )
    }

    test(
      "an interrupted request leaves nothing behind",
      Effect.gen(function*() {
        const { listening, session } = yield* both(phase({ kind: "latency", delay: "1 s" }, { from: 0 }), "server")
        const fiber = yield* Effect.forkScoped(session.send(request("echo", "a")), { startImmediately: true })
        assert.strictEqual(listening.stats().inFlight, 1)
        fiber.interruptUnsafe()
        yield* Effect.yieldNow
        assert.strictEqual(listening.stats().inFlight, 0)
        assert.strictEqual(Timer.size(yield* Clock.Clock), 0)
      })
    )
  })

  test(
    "says which phases begin and end, and which are left out around handlers",
    Effect.gen(function*() {
      const { events, record } = recording()
      const script = phase({ kind: "reset" })
      yield* record(Chaos.make(yield* InMemory.make, script, { side: "server" }))
      yield* TestClock.adjust("5 seconds")
      const said = events.map((event) => {
        if (event._tag === "Transition") return `${event.atMillis} ${event.policy} ${event.to}: ${event.why}`
        return event._tag === "Warning" ? `${event.policy}: ${event.why}` : event._tag
      })
      assert.deepStrictEqual(said, [
        "chaos fault: left out around handlers, which have no connection: reset",
        "1000 chaos fault On: reset",
        "3000 chaos fault Off: reset"
      ])
    })
  )

  it.effect("a script that cannot be read is the layer's failure", () =>
    Effect.gen(function*() {
      const layer = Layer.provide(Chaos.layer({ phases: [{ name: "p", fault: { kind: "refuse" } }] }), InMemory.layer)
      const error = yield* Effect.flip(Effect.scoped(Layer.build(layer)))
      assert.include(error.message, "phases.0.to: missing")
    }))
})

const connected = (
  transport: Transport["Service"],
  serve: Serve = new Script().serve
): Effect.Effect<Session, unknown, Scope.Scope> =>
  Effect.flatMap(transport.listen("memory://s", serve), () => transport.connect("memory://s"))

/** A listener and a session to it, each in a scope that the test may close. */
const both = (faults: FaultScript.FaultScript, side: "client" | "server" = "client") =>
  Effect.gen(function*() {
    const layer = Layer.provide(Chaos.layer(faults, { side }), InMemory.layer)
    const transport = Context.get(yield* Layer.build(layer), Transport)
    const parent = yield* Effect.scope
    const [client, server] = [yield* Scope.fork(parent), yield* Scope.fork(parent)]
    const script = new Script()
    const listening = yield* Scope.provide(transport.listen("memory://s", script.serve), server)
    const connect = Scope.provide(transport.connect("memory://s"), client)
    return {
      script,
      listening,
      connect,
      session: yield* connect,
      closeClient: Scope.close(client, Exit.void),
      closeServer: Scope.close(server, Exit.void)
    }
  })
