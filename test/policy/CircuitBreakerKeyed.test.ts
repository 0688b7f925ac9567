import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Lru from "../../src/policy/internal/lru.ts"
import * as Policy from "../../src/policy/Policy.ts"
import { calls, hold, reasonOf } from "../support/breaker.ts"

const make = (options: CircuitBreaker.KeyedOptions = {}) =>
  CircuitBreaker.keyed({
    consecutiveFailures: 1,
    openFor: "10 seconds",
    jitter: 0,
    halfOpen: { probes: 1 },
    ...options
  })

/** Calls with a key. */
const on = (breaker: CircuitBreaker.KeyedCircuitBreaker, key: string, script: string) =>
  calls(breaker, script).pipe(CallContext.annotate({ key }))

const keysOf = (breaker: CircuitBreaker.KeyedCircuitBreaker) =>
  Effect.map(breaker.states, (states) => [...states.keys()].sort().join(""))

describe("CircuitBreaker.keyed", () => {
  it.effect("has a circuit per key, and by default one per method where there is none", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ name: "users" })
      assert.strictEqual(yield* on(breaker, "a", "FS"), "F-")
      assert.strictEqual(yield* on(breaker, "b", "S"), "S")
      assert.strictEqual(yield* calls(breaker, "FS").pipe(CallContext.annotate({ name: "UserService.Get" })), "F-")
      assert.strictEqual(yield* calls(breaker, "S").pipe(CallContext.annotate({ name: "UserService.List" })), "S")
      const exit = yield* Effect.exit(Policy.apply(Effect.void, breaker)).pipe(CallContext.annotate({ key: "a" }))
      const reason = reasonOf(exit)
      assert.strictEqual(reason?._tag === "CircuitOpen" && reason.policy, "users[a]")
      const states = yield* breaker.states
      assert.deepStrictEqual([...states].map(([key, state]) => [key, state._tag]), [
        ["a", "Open"],
        ["b", "Closed"],
        ["UserService.Get", "Open"],
        ["UserService.List", "Closed"]
      ])
    }))

  it.effect("partitions by what it is told", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ key: (call) => call.headers["tenant"] ?? "none" })
      yield* calls(breaker, "F").pipe(CallContext.annotate({ headers: { tenant: "acme" } }))
      assert.strictEqual(yield* calls(breaker, "S").pipe(CallContext.annotate({ headers: { tenant: "acme" } })), "-")
      assert.strictEqual(yield* calls(breaker, "S"), "S")
    }))

  it.effect("evicts the Closed circuit that was used longest ago", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ maxKeys: 3 })
      for (const key of "abcab") yield* on(breaker, key, "S")
      yield* on(breaker, "d", "S")
      assert.strictEqual(yield* keysOf(breaker), "abd")
      yield* on(breaker, "c", "S")
      assert.strictEqual(yield* keysOf(breaker), "bcd")
    }))

  it.effect("never evicts a circuit that is not Closed for room", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ maxKeys: 2 })
      yield* on(breaker, "a", "F")
      for (const key of "bcdefg") yield* on(breaker, key, "S")
      assert.strictEqual(yield* on(breaker, "a", "S"), "-")
      assert.strictEqual(yield* keysOf(breaker), "ag")
      yield* TestClock.adjust("10 seconds")
      // Probed and closed, it is one like the others.
      yield* on(breaker, "a", "S")
      for (const key of "hi") yield* on(breaker, key, "S")
      assert.strictEqual(yield* keysOf(breaker), "hi")
    }))

  it.effect("lets further keys share one circuit where none of the kept is Closed, and says so once", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ maxKeys: 2, name: "users", consecutiveFailures: 2 })
      const warnings: Array<string> = []
      const opened: Array<string> = []
      const event = (event: CallEvent.CallEvent) => {
        if (event._tag === "Warning") warnings.push(`${event.policy}: ${event.why}`)
        if (event._tag === "Transition" && event.to === "Open") opened.push(event.policy)
      }
      const reader = yield* breaker.changes.pipe(
        Stream.take(3),
        Stream.runCollect,
        Effect.forkChild({ startImmediately: true })
      )
      yield* Effect.gen(function*() {
        yield* on(breaker, "a", "FF")
        yield* on(breaker, "b", "FF")
        assert.strictEqual(yield* on(breaker, "c", "S"), "S")
        assert.strictEqual(yield* on(breaker, "d", "F"), "F")
        assert.isTrue(breaker.wouldAdmit("e", 0))
        assert.strictEqual(yield* on(breaker, "e", "F"), "F")
        assert.isFalse(breaker.wouldAdmit("f", 0))
        assert.strictEqual(yield* on(breaker, "f", "S"), "-")
        assert.strictEqual(yield* keysOf(breaker), "ab")
        assert.deepStrictEqual(opened, ["users[a]", "users[b]", "users[*]"])
        assert.deepStrictEqual((yield* Fiber.join(reader)).map(({ key }) => key), ["a", "b", "*"])
        assert.deepStrictEqual(warnings, ["users: none of 2 circuits is closed: further keys share one"])
        yield* TestClock.adjust("10 seconds")
        // When a circuit closes there is room again.
        yield* on(breaker, "a", "S")
        yield* on(breaker, "g", "S")
        assert.strictEqual(yield* keysOf(breaker), "bg")
        assert.isTrue(breaker.wouldAdmit("f", 9999))
        yield* on(breaker, "g", "FF")
        yield* on(breaker, "h", "S")
        assert.strictEqual(warnings.length, 2)
      }).pipe(Effect.provideService(CallEvent.CurrentReceiver, { event }))
    }))

  it.effect("forgets what is idle, an Open circuit only when its time has been over for as long", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ idleTimeToLive: "1 minute", openFor: "5 minutes", maxOpenFor: "5 minutes" })
      yield* on(breaker, "a", "S")
      yield* on(breaker, "b", "F")
      // When they became idle is noted by the next new key, and what is idle is forgotten by the one after.
      yield* on(breaker, "c", "S")
      yield* TestClock.adjust("59 seconds")
      yield* on(breaker, "d", "S")
      assert.strictEqual(yield* keysOf(breaker), "abcd")
      yield* TestClock.adjust("1 second")
      yield* on(breaker, "e", "S")
      assert.strictEqual(yield* keysOf(breaker), "bcde")
      yield* TestClock.adjust("4 minutes")
      yield* on(breaker, "f", "S")
      assert.include(yield* keysOf(breaker), "b")
      yield* TestClock.adjust("1 minute")
      yield* on(breaker, "g", "S")
      assert.notInclude(yield* keysOf(breaker), "b")
    }))

  it.effect("does not take a key that is used for idle", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ idleTimeToLive: "1 minute" })
      yield* on(breaker, "a", "S")
      yield* on(breaker, "b", "S")
      for (let i = 0; i < 10; i++) {
        yield* TestClock.adjust("50 seconds")
        yield* on(breaker, "a", "S")
        yield* on(breaker, `${i}`, "S")
      }
      assert.include(yield* keysOf(breaker), "a")
      assert.notInclude(yield* keysOf(breaker), "b")
    }))

  it.effect("counts idleness from the last use", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ idleTimeToLive: "1 minute" })
      for (const key of "abc") yield* on(breaker, key, "S")
      yield* TestClock.adjust("50 seconds")
      for (const key of "abc") yield* on(breaker, key, "S")
      yield* TestClock.adjust("10 seconds")
      yield* on(breaker, "d", "S")
      assert.strictEqual(yield* keysOf(breaker), "abcd")
    }))

  it.effect("forgets an idle circuit behind one that an operator holds", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ idleTimeToLive: "1 minute" })
      yield* breaker.controls("a").force("open")
      yield* on(breaker, "b", "F")
      for (const key of "cdef") {
        yield* TestClock.adjust("1 minute")
        yield* on(breaker, key, "S")
      }
      assert.notInclude(yield* keysOf(breaker), "b")
      assert.include(yield* keysOf(breaker), "a")
    }))

  it.effect("keeps what an operator holds, beyond its bound and for ever", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ maxKeys: 1, idleTimeToLive: "1 second" })
      const scope = yield* Scope.make()
      yield* on(breaker, "a", "S")
      yield* Scope.provide(breaker.controls("b").isolate, scope)
      yield* breaker.controls("c").force("disabled")
      for (const key of "defghijk") {
        yield* TestClock.adjust("1 hour")
        yield* on(breaker, key, "S")
      }
      assert.strictEqual(yield* on(breaker, "b", "S"), "-")
      assert.strictEqual(yield* on(breaker, "c", "FFF"), "FFF")
      yield* Scope.close(scope, Exit.void)
      yield* breaker.controls("c").force("none")
      yield* breaker.controls("b").trip()
      assert.strictEqual(yield* on(breaker, "b", "S"), "-")
      yield* breaker.controls("b").reset
      assert.strictEqual(yield* on(breaker, "b", "S"), "S")
    }))

  it.effect("has an operator's controls for the circuit that is there", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ consecutiveFailures: 2 })
      yield* on(breaker, "a", "F")
      yield* breaker.controls("a").force("none")
      assert.strictEqual(yield* on(breaker, "a", "FS"), "F-")
    }))

  it.effect("is within its bound again when operators have let go of what they held", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ maxKeys: 3 })
      for (const key of "abc") yield* on(breaker, key, "S")
      for (let i = 0; i < 20; i++) yield* Effect.scoped(breaker.controls(`released ${i}`).isolate)
      assert.strictEqual((yield* breaker.states).size, 3)
      const scope = yield* Scope.make()
      for (const key of "wxyz") yield* Scope.provide(breaker.controls(key).isolate, scope)
      assert.strictEqual(yield* keysOf(breaker), "wxyz")
      yield* Scope.close(scope, Exit.void)
      yield* on(breaker, "a", "S")
      // The last to be isolated was the first to be released.
      assert.strictEqual(yield* keysOf(breaker), "awx")
    }))

  it.effect("is not confused by calls in flight of a circuit it has forgotten", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ maxKeys: 1 })
      const held = yield* hold(breaker).pipe(CallContext.annotate({ key: "a" }))
      yield* on(breaker, "b", "S")
      yield* held.end("F")
      assert.strictEqual(yield* keysOf(breaker), "b")
      assert.strictEqual(yield* on(breaker, "a", "S"), "S")
      assert.strictEqual(yield* keysOf(breaker), "a")
      // The one that was forgotten is open by now and idle. It must not take its successor along.
      yield* breaker.controls("a").force("open")
      for (const key of "bcdef") {
        yield* TestClock.adjust("10 minutes")
        yield* on(breaker, key, "S")
      }
      assert.include(yield* keysOf(breaker), "a")
    }))

  it.effect("stays within its bound over ten thousand keys", () =>
    Effect.gen(function*() {
      const breaker = yield* make({ maxKeys: 100 })
      const call = Policy.apply(Effect.void, breaker)
      for (let i = 0; i < 10_000; i++) {
        yield* Effect.provideService(call, CallContext.Current, { ...CallContext.empty, key: `${i}` })
      }
      assert.strictEqual((yield* breaker.states).size, 100)
    }))

  it.effect("tells of every key's transitions", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      const reader = yield* breaker.changes.pipe(
        Stream.take(3),
        Stream.runCollect,
        Effect.forkChild({ startImmediately: true })
      )
      yield* on(breaker, "a", "F")
      yield* on(breaker, "b", "F")
      yield* TestClock.adjust("10 seconds")
      yield* on(breaker, "a", "S")
      assert.deepStrictEqual((yield* Fiber.join(reader)).map(({ key, state }) => [key, state._tag]), [
        ["a", "Open"],
        ["b", "Open"],
        ["a", "HalfOpen"]
      ])
    }))

  it.effect("comes back from a snapshot, as far as there is room", () =>
    Effect.gen(function*() {
      const from = yield* make()
      yield* on(from, "a", "F")
      yield* on(from, "b", "S")
      yield* on(from, "c", "F")
      const to = yield* make({ maxKeys: 2 })
      yield* to.restore(yield* from.snapshot)
      assert.strictEqual(yield* on(to, "a", "S"), "-")
      assert.strictEqual(yield* keysOf(to), "ab")
    }))

  it.effect("answers whether a key would be admitted, without making it a circuit", () =>
    Effect.gen(function*() {
      const breaker = yield* make()
      yield* on(breaker, "a", "F")
      const now = yield* Clock.currentTimeMillis
      assert.deepStrictEqual(
        [breaker.wouldAdmit("a", now), breaker.wouldAdmit("a", now + 10_000), breaker.wouldAdmit("z", now)],
        [false, true, true]
      )
      assert.strictEqual(yield* keysOf(breaker), "a")
    }))

  it.effect("registers once, with all its keys", () =>
    Effect.gen(function*() {
      const registered: Array<Policy.Registered> = []
      const register = (policy: Policy.Registered) => {
        registered.push(policy)
        return () => {}
      }
      const breaker = yield* Effect.provideService(make({ name: "users" }), Policy.CurrentRegistry, { register })
      yield* on(breaker, "a", "F")
      assert.deepStrictEqual(registered.map(({ name }) => name), ["users"])
      assert.deepStrictEqual(registered[0]!.snapshot(), Object.fromEntries(yield* breaker.states))
    }))

  it.effect("counts failures of the keys it has forgotten too", () =>
    Effect.gen(function*() {
      const registered: Array<Policy.Registered> = []
      const registry: Policy.Registry = {
        register: (policy) => {
          registered.push(policy)
          return () => {}
        }
      }
      const breaker = yield* Effect.provideService(make({ maxKeys: 1 }), Policy.CurrentRegistry, registry)
      yield* on(breaker, "a", "SF")
      yield* on(breaker, "b", "F")
      assert.strictEqual((yield* breaker.states).size, 1)
      assert.deepStrictEqual(registered[0]!.counts!(), { failed: 2 })
    }))

  it.effect("dies for options out of range", () =>
    Effect.gen(function*() {
      for (
        const [options, message] of [
          [{ maxKeys: 0 }, "CircuitBreaker.keyed: maxKeys must be an integer >= 1, got 0"],
          [{ idleTimeToLive: 0 }, "CircuitBreaker.keyed: idleTimeToLive must be a positive and finite duration, got 0"],
          [{ jitter: 2 }, "CircuitBreaker.keyed: jitter must be in [0, 1], got 2"]
        ] as const
      ) {
        const exit = yield* Effect.exit(CircuitBreaker.keyed(options))
        assert.deepStrictEqual(exit, Exit.die(new RangeError(message)))
      }
    }))
})

describe("Lru", () => {
  it("keeps the order of use, whatever is taken out", () => {
    const list = Lru.make<Lru.Node & { readonly name: string }>()
    const other = Lru.make<Lru.Node & { readonly name: string }>()
    const nodes = Array.from("abcd", (name) => ({ name, list: undefined, older: undefined, newer: undefined }))
    const order = (of: typeof list) => {
      const names: Array<string> = []
      for (let node: Lru.Node | undefined = of.oldest; node !== undefined; node = node.newer) {
        names.push((node as typeof nodes[number]).name)
      }
      return names.join("")
    }
    const [a, b, c, d] = nodes as [any, any, any, any]
    for (const node of [a, b, c]) Lru.put(list, node)
    assert.strictEqual(order(list), "abc")
    Lru.touch(a)
    Lru.touch(a)
    assert.strictEqual(order(list), "bca")
    Lru.put(other, c)
    assert.deepStrictEqual([order(list), order(other)], ["ba", "c"])
    Lru.remove(b)
    Lru.remove(b)
    Lru.touch(d)
    assert.deepStrictEqual([order(list), list.oldest === list.newest], ["a", true])
    Lru.remove(a)
    assert.deepStrictEqual([list.oldest, list.newest], [undefined, undefined])
  })
})
