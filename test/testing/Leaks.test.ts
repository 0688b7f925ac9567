import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Schema, Scope } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { TestClock } from "effect/testing"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as Contract from "../../src/contract/Contract.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as Bulkhead from "../../src/policy/Bulkhead.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as Profiles from "../../src/policy/Profiles.ts"
import * as Timeout from "../../src/policy/Timeout.ts"
import * as ClientTest from "../../src/testing/ClientTest.ts"
import * as Leaks from "../../src/testing/Leaks.ts"
import * as InMemory from "../../src/transport/InMemory.ts"
import * as Tcp from "../../src/transport/Tcp.ts"
import { Transport } from "../../src/transport/Transport.ts"
import { request as requestOf, Script } from "../support/script.ts"

class Users extends RpcGroup.make(
  Rpc.make("Get", { payload: { id: Schema.Int }, success: Schema.String }).annotate(Contract.Idempotent, true)
).prefix("Users.") {}
const handlers = Users.toLayer({
  "Users.Get": ({ id }) => id === 0 ? Effect.never : Effect.succeed(`user ${id}`)
})

const request = requestOf("echo")

/** What a body leaves behind, a line each. */
const leaks = <A, E, R>(body: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.flip(Leaks.check(body)), (error) => {
    assert(error instanceof Leaks.Leaked, String(error))
    return error.leaks.map(({ kind, name }) => `${kind}: ${name}`)
  })

/** A scope that nobody closes within the body, and the test does afterwards. */
const forgotten = Effect.map(Scope.make(), (scope) => ({ scope, of: Scope.provide(scope) }))

describe("Leaks", () => {
  it.effect("finds a timer, and says where it was scheduled", () =>
    Effect.gen(function*() {
      const timers: Array<Timer.Timer> = []
      const found = yield* leaks(Effect.withFiber((fiber) =>
        Effect.sync(() => {
          timers.push(Timer.schedule(fiber, 500, () => {}))
          Timer.schedule(fiber, 600, () => {}).cancel()
        })
      ))
      assert.match(found[0]!, /^timer: due at 500 ms, scheduled at .*Leaks\.test\.ts:\d+/)
      assert.deepStrictEqual(found.filter((line) => line.startsWith("timer")).length, 1)
      timers.forEach((timer) => timer.cancel())
    }))

  it.effect("finds a fiber, with its span and its call", () =>
    Effect.gen(function*() {
      const fibers: Array<Fiber.Fiber<never>> = []
      const found = yield* leaks(
        Effect.forkDetach(Effect.withSpan(Effect.never, "refresh the cache")).pipe(
          Effect.tap((fiber) => Effect.sync(() => fibers.push(fiber))),
          CallContext.annotate({ name: "Users.Get" })
        )
      )
      assert.strictEqual(found.length, 1)
      assert.match(found[0]!, /^fiber: #\d+, in the span refresh the cache, for the call Users\.Get/)
      yield* Fiber.interruptAll(fibers)
    }))

  it.effect("says of a fiber where it was made, where Effect knows that, and never a place inside Node", () =>
    Effect.gen(function*() {
      const fibers: Array<Fiber.Fiber<unknown>> = []
      const fork = (effect: Effect.Effect<unknown>) =>
        Effect.map(Effect.forkDetach(effect), (fiber) => void fibers.push(fiber))
      const refresh = Effect.fn("refresh")(function*() {
        yield* fork(Effect.never)
      })
      const found = yield* leaks(Effect.gen(function*() {
        yield* refresh()
        yield* fork(Effect.withSpan(Effect.never, "spanned"))
        yield* fork(Effect.never)
      }))
      assert.strictEqual(found.length, 3)
      assert.match(found[0]!, /^fiber: #\d+, in the span refresh, at refresh \(.*Leaks\.test\.ts:\d+:\d+\)$/)
      assert.match(found[1]!, /^fiber: #\d+, in the span spanned, at spanned \(.*Leaks\.test\.ts:\d+:\d+\)$/)
      assert.match(found[2]!, /^fiber: #\d+, at an unknown place: in no span and no Effect\.fn$/)
      yield* Fiber.interruptAll(fibers)
    }))

  it.effect("finds a permit, and names the policy", () =>
    Effect.gen(function*() {
      const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
      const found = yield* leaks(Effect.gen(function*() {
        const bulkhead = yield* Bulkhead.make({ name: "users", limit: 1, maxQueue: 1 })
        for (let n = 0; n < 2; n++) {
          fibers.push(yield* Effect.forkDetach(Effect.never.pipe(Policy.apply(bulkhead)), { startImmediately: true }))
        }
      }))
      assert.deepStrictEqual(
        found.filter((line) => line.startsWith("permit")),
        ["permit: bulkhead users: inFlight 1", "permit: bulkhead users: queued 1"]
      )
      yield* Fiber.interruptAll(fibers)
    }))

  for (
    const [name, layer, address] of [["InMemory", InMemory.layer, "memory://s"], [
      "Tcp",
      Tcp.layer(),
      "tcp://127.0.0.1:0"
    ]] as const
  ) {
    it.effect(`finds a listener and both sides of a session: ${name}`, () =>
      Effect.gen(function*() {
        const { of, scope } = yield* forgotten
        let at = ""
        const found = yield* leaks(of(Effect.gen(function*() {
          const transport = Context.get(yield* Layer.build(Layer.provide(Leaks.transport, layer)), Transport)
          const listening = yield* transport.listen(address, new Script().serve)
          at = listening.address
          const session = yield* transport.connect(at)
          // Both sides know of it once it has been used.
          yield* session.send(request)
        })))
        assert.deepStrictEqual(found.filter((line) => !/^timer|^fiber/.test(line)).toSorted(), [
          `listener: ${at}`,
          `session: 1 at the server ${at}`,
          `session: of a client to ${at}`
        ])
        yield* Scope.close(scope, Exit.void)
      }))
  }

  it.effect("says nothing of what is closed with the body's scope", () =>
    Leaks.check(Effect.gen(function*() {
      const transport = Context.get(yield* Layer.build(Layer.provide(Leaks.transport, Tcp.layer())), Transport)
      const listening = yield* transport.listen("tcp://127.0.0.1:0", new Script().serve)
      const session = yield* transport.connect(listening.address)
      yield* session.send(request)
      yield* Effect.forkScoped(Effect.never)
    })))

  const quiet = Leaks.around(it.effect)

  quiet("a client with a whole profile leaves nothing, whatever becomes of its calls", () =>
    Effect.gen(function*() {
      const client = yield* ClientTest.make(Users, handlers, { policy: Profiles.idempotentRead, endpoints: 2 })
      assert.strictEqual(yield* client.Users.Get({ id: 1 }), "user 1")
      const late = yield* Effect.forkChild(Effect.flip(client.Users.Get({ id: 0 }, { deadline: "900 millis" })))
      const left = yield* Effect.forkChild(client.Users.Get({ id: 0 }), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(late)
      yield* Fiber.interrupt(left)
    }))

  quiet("policies alone leave nothing when they are interrupted", () =>
    Effect.gen(function*() {
      const bulkhead = yield* Bulkhead.make({ limit: 1, maxQueue: 4 })
      const timeout = yield* Timeout.make({ timeout: "1 second" })
      const call = Effect.never.pipe(Policy.apply(timeout), Policy.apply(bulkhead))
      const fibers = yield* Effect.replicateEffect(Effect.forkChild(call, { startImmediately: true }), 3)
      yield* Fiber.interruptAll(fibers)
    }))

  it.effect("a body that fails fails as it did", () =>
    Effect.gen(function*() {
      const body = Effect.andThen(Effect.forkDetach(Effect.never), Effect.fail("its own"))
      assert.strictEqual(yield* Effect.flip(Leaks.check(body)), "its own")
    }))

  it.effect("its message lists them all", () =>
    Effect.sync(() => {
      const error = new Leaks.Leaked({
        leaks: [{ kind: "fiber", name: "#1" }, { kind: "listener", name: "tcp://a:1" }]
      })
      assert.strictEqual(error.message, "2 leaks at the end:\n  fiber: #1\n  listener: tcp://a:1")
    }))

  it("works without a test framework", async () => {
    assert.strictEqual(await Effect.runPromise(Leaks.check(Effect.succeed(1))), 1)
    const message = await Effect.runPromise(Leaks.check(Effect.forkDetach(Effect.sleep("1 hour")))).catch(String)
    assert.include(message, "1 leak at the end")
  })
})
