import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Layer, Schema, type Scope } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { TestClock } from "effect/testing"
import * as Dns from "node:dns/promises"
import * as Discovery from "../../src/balancer/Discovery.ts"
import * as Client from "../../src/client/Client.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as Contract from "../../src/contract/Contract.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as Server from "../../src/server/Server.ts"
import * as ChaosProxy from "../../src/testing/ChaosProxy.ts"
import type * as FaultScript from "../../src/testing/FaultScript.ts"
import * as Tcp from "../../src/transport/Tcp.ts"
import { fibers } from "../support/fibers.ts"
import { recording } from "../support/loop.ts"
import * as Peer from "../support/peer.ts"

class Users extends RpcGroup.make(
  Rpc.make("Get", { payload: { id: Schema.Int }, success: Schema.String }).annotate(Contract.Idempotent, true)
).prefix("Users.") {}
const handlers = Users.toLayer({ "Users.Get": ({ id }) => Effect.succeed(`user ${id}`) })

/** Runs a body; afterwards no socket of this process, no timer and no fiber of it is left. */
const test = (name: string, body: Effect.Effect<void, unknown, Scope.Scope>) =>
  it.effect(name, () =>
    Effect.gen(function*() {
      const { counted, live } = fibers()
      const sockets = () => process.getActiveResourcesInfo().filter((name) => /TCP/.test(name)).length
      const before = sockets()
      yield* counted(Effect.scoped(Effect.yieldNow.pipe(Effect.andThen(body))))
      yield* Peer.until(() => sockets() <= before)
      assert.deepStrictEqual([Timer.size(yield* Clock.Clock), live()], [0, 0], "timers, fibers")
    }))

const phase = (fault: FaultScript.FaultScript["phases"][0]["fault"], more: object = {}): FaultScript.FaultScript => ({
  phases: [{ name: "fault", from: "1 s", to: "3 s", fault, ...more }]
})

/** Virtual time passes, and what it sets in motion on the sockets happens. */
const pass = (millis: number): Effect.Effect<void> =>
  Effect.replicateEffect(Effect.andThen(TestClock.adjust(50), Peer.settled), millis / 50, { discard: true })

/** A Holdfast client and server with a proxy between them. */
const proxied = (script: FaultScript.FaultScript) =>
  Effect.gen(function*() {
    const server = yield* Server.make(Users, { listen: "tcp://127.0.0.1:0", drainGrace: 0 }).pipe(
      Effect.provide([handlers, Tcp.layer()])
    )
    const proxy = yield* ChaosProxy.make({ to: server.address, script })
    const client = yield* Client.make(Users, {
      target: "users",
      policy: { retry: false, circuitBreaker: false, timeout: "500 millis" }
    }).pipe(Effect.provide(Layer.merge(Discovery.layerStatic({ users: [proxy.address] }), Tcp.layer())))
    const call = Effect.matchEffect(client.Users.Get({ id: 1 }, { deadline: "1 second" }), {
      onSuccess: (value) => Effect.succeed(value),
      onFailure: (error) => Effect.succeed(CallError.isCallError(error) ? error.reason._tag : String(error))
    })
    /** A call while time passes, and the most bytes that were held back meanwhile. */
    const during = Effect.gen(function*() {
      const fiber = yield* Effect.forkScoped(call, { startImmediately: true })
      let held = 0
      while (fiber.pollUnsafe() === undefined) {
        yield* Peer.settled
        held = Math.max(held, proxy.stats().heldBytes)
        yield* TestClock.adjust(50)
      }
      return { what: yield* Fiber.join(fiber), held }
    })
    /** Whether calls succeed again, with time for a connection's backoff. */
    const recovers = Effect.gen(function*() {
      for (let n = 0; n < 200; n++) {
        if ((yield* during).what === "user 1") return true
        yield* pass(50)
      }
      return false
    })
    return { proxy, call, during, recovers, server }
  })

describe("ChaosProxy", () => {
  describe("what a client sees of each fault, and that it recovers when the phase ends", () => {
    const cut: FaultScript.FaultScript["phases"][0] = {
      name: "cut",
      from: "1 s",
      to: "1050ms",
      fault: { kind: "reset" }
    }
    const faults: ReadonlyArray<
      readonly [string, FaultScript.FaultScript, during: ReadonlyArray<string>, holds: boolean]
    > = [
      ["latency", phase({ kind: "latency", delay: "200ms", direction: "both" }), ["user 1"], true],
      ["latency beyond the timeout", phase({ kind: "latency", delay: "900ms" }), ["AttemptTimeout"], true],
      ["bandwidth", phase({ kind: "bandwidth", bytesPerSecond: 100 }), ["user 1"], true],
      ["a stall", phase({ kind: "stall" }), ["AttemptTimeout"], true],
      ["slices", phase({ kind: "slice", bytes: 5, variation: 2, gap: "20ms", direction: "both" }), ["user 1"], true],
      ["a black hole, up", phase({ kind: "blackHole", direction: "up" }), ["AttemptTimeout"], false],
      ["a black hole, down", phase({ kind: "blackHole" }), ["AttemptTimeout"], false],
      ["a black hole that closes", phase({ kind: "blackHole", closeAfter: "200ms" }), ["ConnectionLost"], false],
      ["a reset of every connection", phase({ kind: "reset" }), ["ConnectFailed", "ConnectionLost"], false],
      ["a peer that is gone and did not say so", phase({ kind: "halfOpen" }), ["AttemptTimeout"], false],
      [
        "a client's half that is gone",
        phase({ kind: "halfOpen", left: "server" }),
        ["ConnectFailed", "ConnectionLost"],
        false
      ],
      ["a limit of bytes", phase({ kind: "limit", bytes: 5 }), ["ConnectionLost"], false],
      [
        "a port nobody listens on",
        { phases: [cut, { name: "down", from: "1 s", to: "3 s", fault: { kind: "refuse" } }] },
        ["ConnectFailed"],
        false
      ],
      [
        "connections that are taken and reset",
        { phases: [cut, { name: "down", from: "1 s", to: "3 s", fault: { kind: "refuse" }, toxicity: 0.999 }] },
        ["ConnectFailed"],
        false
      ]
    ]
    for (const [name, script, expected, holds] of faults) {
      test(
        name,
        Effect.gen(function*() {
          const { call, during, proxy, recovers } = yield* proxied(script)
          assert.strictEqual(yield* call, "user 1")
          yield* pass(1000)
          const { held, what } = yield* during
          assert.include(expected, what)
          assert.strictEqual(held > 0, holds, `held ${held}`)
          yield* pass(2500)
          assert.isTrue(yield* recovers)
          assert.deepStrictEqual([proxy.stats().heldBytes, proxy.stats().listening], [0, true])
        })
      )
    }
  })

  test(
    "corruption breaks a session, or an answer, and the same way with the same seed",
    Effect.gen(function*() {
      const of = (seed: number) =>
        Effect.scoped(Effect.gen(function*() {
          const { call, during } = yield* proxied({ seed, ...phase({ kind: "corrupt" }) })
          assert.strictEqual(yield* call, "user 1")
          yield* pass(1000)
          return (yield* during).what
        }))
      const results = yield* Effect.forEach([1, 2, 3, 4], of)
      assert.isTrue(results.every((what) => what !== "user 1"), results.join())
      assert.deepStrictEqual(yield* Effect.forEach([1, 2, 3, 4], of), results)
    })
  )

  test(
    "a close is passed on late, and each direction by itself",
    Effect.gen(function*() {
      const listener = yield* Peer.listen()
      const proxy = yield* ChaosProxy.make({
        to: listener.address,
        script: phase({ kind: "slowClose", delay: "500ms", direction: "up" }, { from: 0 })
      })
      const client = yield* Peer.client(proxy.address)
      const server = yield* listener.accept
      let ended = false
      server.socket.on("end", () => {
        ended = true
      })
      client.socket.end(Peer.helloFrame())
      assert.strictEqual((yield* server.next).type, Peer.Type.hello)
      yield* pass(450)
      assert.isFalse(ended)
      yield* TestClock.adjust(50)
      yield* Peer.until(() => ended)
      // The way back is open still.
      yield* server.send(Peer.helloFrame())
      assert.strictEqual((yield* client.next).type, Peer.Type.hello)
      server.socket.end()
      yield* client.closed
    })
  )

  test(
    "a slow link slows its sender: what is held is bounded",
    Effect.gen(function*() {
      const listener = yield* Peer.listen()
      const proxy = yield* ChaosProxy.make({
        to: listener.address,
        script: phase({ kind: "bandwidth", bytesPerSecond: 1000, direction: "up" }, { from: 0 })
      })
      const client = yield* Peer.client(proxy.address)
      yield* listener.accept
      client.socket.write(Buffer.alloc(64 * 1024 * 1024))
      yield* Peer.until(() => proxy.stats().heldBytes > 64 * 1024)
      yield* Peer.settled
      assert.isAtMost(proxy.stats().heldBytes, 2 * 64 * 1024)
      assert.isAbove(client.socket.writableLength, 0)
    })
  )

  test(
    "every byte arrives, in order, through latency, slices and stalls",
    Effect.gen(function*() {
      const listener = yield* Peer.listen(false)
      const proxy = yield* ChaosProxy.make({
        to: listener.address,
        script: {
          horizon: "2 s",
          phases: [
            { name: "late", fault: { kind: "latency", delay: "50ms", jitter: "50ms", direction: "up" } },
            { name: "cut", fault: { kind: "slice", bytes: 700, variation: 600, gap: "1ms", direction: "up" } },
            { name: "lossy", from: "200ms", fault: { kind: "stall", pause: "100ms", ratio: 0.2, direction: "up" } }
          ]
        }
      })
      const client = yield* Peer.client(proxy.address)
      const server = yield* listener.accept
      const sent = Buffer.from(Array.from({ length: 100_000 }, (_, n) => (n * 31) % 251))
      let got = Buffer.alloc(0)
      server.socket.on("data", (chunk: Buffer) => {
        got = Buffer.concat([got, chunk])
      })
      server.socket.resume()
      client.socket.write(sent)
      yield* pass(2500)
      yield* Peer.until(() => got.length >= sent.length)
      assert.isTrue(got.equals(sent))
    })
  )

  test(
    "what bytes cannot show is left out, and said",
    Effect.gen(function*() {
      const { events, record } = recording()
      const proxy = yield* record(ChaosProxy.make({
        to: "tcp://127.0.0.1:1",
        script: {
          horizon: "1 s",
          phases: [
            { name: "errors", fault: { kind: "error", reason: "Unavailable" } },
            { name: "method", fault: { kind: "blackHole" }, radius: { methods: ["Users.Get"] } },
            { name: "slow", fault: { kind: "latency", delay: 1 } }
          ]
        }
      }))
      assert.deepStrictEqual(proxy.leftOut.map(({ name }) => name), ["errors", "method"])
      yield* pass(1000)
      assert.deepStrictEqual(
        events.map((event) => event._tag === "Transition" ? `${event.policy} ${event.to}` : event._tag),
        ["Warning", "Warning", "chaos slow On", "chaos slow Off"]
      )
    })
  )

  test(
    "an address that is none, and a port that is taken, are errors",
    Effect.gen(function*() {
      const script = phase({ kind: "refuse" })
      const told = (options: Partial<ChaosProxy.ChaosProxyOptions>) =>
        Effect.map(
          Effect.flip(ChaosProxy.make({ to: "tcp://127.0.0.1:1", script, ...options })),
          (error) => error.message
        )
      assert.strictEqual(yield* told({ to: "http://x" }), "to must be tcp://host:port, got \"http://x\"")
      const { address } = yield* ChaosProxy.make({ to: "tcp://127.0.0.1:1", script })
      assert.include(yield* told({ listen: address }), "cannot listen on 127.0.0.1:")
      assert.include(yield* told({ script: { phases: [{ name: "p", fault: { kind: "refuse" } }] } }), "phases.0.to")
    })
  )

  test(
    "a port that was about to be listened on again when everything ended is left alone",
    Effect.gen(function*() {
      const listeners = () => process.getActiveResourcesInfo().filter((name) => name === "TCPServerWrap").length
      const before = listeners()
      yield* Effect.scoped(Effect.gen(function*() {
        // Of a host by name, which has to be looked up first.
        const listen = "tcp://localhost:0"
        const proxy = yield* ChaosProxy.make({ listen, to: "tcp://127.0.0.1:1", script: phase({ kind: "refuse" }) })
        yield* pass(1000)
        assert.isFalse(proxy.stats().listening)
        yield* TestClock.adjust("2 seconds")
      }))
      // Later than the name that was looked up.
      yield* Effect.promise(() => Dns.lookup("localhost"))
      yield* Peer.settled
      assert.strictEqual(listeners(), before)
    })
  )

  test(
    "a port is listened on again as the last word has it, however fast phases follow each other",
    Effect.gen(function*() {
      const refuse = { kind: "refuse" } as const
      const proxy = yield* ChaosProxy.make({
        listen: "tcp://localhost:0",
        to: "tcp://127.0.0.1:1",
        script: {
          phases: [
            { name: "first", from: "1 s", to: "2 s", fault: refuse },
            { name: "slow", from: "1 s", to: "2 s", fault: { kind: "latency", delay: 1 } },
            { name: "second", from: "2001 ms", to: "3 s", fault: refuse },
            { name: "third", from: "4 s", to: "5 s", fault: refuse }
          ]
        }
      })
      const { listening } = proxy.stats()
      yield* pass(1000)
      for (const step of [1000, 1, 499]) yield* TestClock.adjust(step)
      yield* Effect.promise(() => Dns.lookup("localhost"))
      yield* Peer.settled
      const refused = !proxy.stats().listening
      yield* TestClock.adjust("1 second")
      yield* Peer.until(() => proxy.stats().listening)
      assert.deepStrictEqual([listening, refused], [true, true])
    })
  )

  test(
    "a server that cannot be reached is a connection that is reset",
    Effect.gen(function*() {
      const proxy = yield* ChaosProxy.make({ to: "tcp://127.0.0.1:1", script: phase({ kind: "refuse" }) })
      const client = yield* Peer.client(proxy.address)
      yield* client.closed
      yield* Peer.until(() => proxy.stats().open === 0)
      assert.strictEqual(proxy.stats().accepted, 1)
    })
  )
})
