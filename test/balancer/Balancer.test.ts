import { assert, describe, it } from "@effect/vitest"
import { type Cause, Deferred, Effect, Exit, Fiber, Logger, Queue, Random, Scope, Stream } from "effect"
import * as Balancer from "../../src/balancer/Balancer.ts"
import type { Endpoint } from "../../src/balancer/Endpoint.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Policy from "../../src/policy/Policy.ts"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"
import { reason } from "../support/reason.ts"

const identity = Policy.make({ name: "identity", run: (self) => self })

/** A balancer over what the test says the addresses are, and what became of its endpoints. */
const world = (
  first: ReadonlyArray<string> | undefined,
  policy: (address: string) => Policy.Policy<unknown> = () => identity
) =>
  Effect.gen(function*() {
    const addresses = yield* Queue.unbounded<ReadonlyArray<string>, Cause.Done>()
    if (first !== undefined) yield* Queue.offer(addresses, first)
    const log: Array<string> = []
    const gates = new Map<string, Deferred.Deferred<void>>()
    const gate = (address: string) => {
      let gate = gates.get(address)
      if (gate === undefined) gates.set(address, gate = Deferred.makeUnsafe())
      return gate
    }
    const events: Array<string> = []
    const receiver: CallEvent.Receiver = {
      event: (event) => {
        if (event._tag === "EndpointChanged") events.push(`${event.change} ${event.endpoint}`)
        if (event._tag === "Rejected") events.push(`${event.policy}: ${event.reason}`)
      }
    }
    const scope = yield* Scope.fork(yield* Effect.scope)
    const make = Balancer.make({
      target: "users",
      addresses: Stream.fromQueue(addresses),
      endpoint: (address) =>
        Effect.gen(function*() {
          yield* Effect.addFinalizer(() => Effect.sync(() => void log.push(`ended ${address}`)))
          const drain = Effect.andThen(
            Effect.sync(() => void log.push(`draining ${address}`)),
            Deferred.await(gate(address))
          )
          const connection = {
            address,
            current: { greeted: true } as never,
            backoffUntil: -Infinity,
            acquire: () => Effect.never,
            prepare: () => void log.push(`prepared ${address}`),
            drain
          }
          const levels = [{ policy: policy(address), gate: undefined, wouldAdmit: () => true, timeout: undefined }]
          return { address, connection, levels, inFlight: 0, close: drain }
        })
    }).pipe(Scope.provide(scope), Effect.provideService(CallEvent.CurrentReceiver, receiver))
    return {
      make,
      log,
      events,
      receiver,
      say: (next: ReadonlyArray<string>) => Effect.andThen(Queue.offer(addresses, next), settle),
      end: Queue.end(addresses),
      addresses,
      drained: (address: string) => Effect.andThen(Deferred.succeed(gate(address), undefined), settle),
      close: Scope.close(scope, Exit.void)
    }
  })

const settle = Effect.replicateEffect(Effect.yieldNow, 32, { discard: true })
const fork = <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.forkChild(self, { startImmediately: true })
const letters = (count: number) => Array.from({ length: count }, (_, index) => `e${index}`)
const where = (endpoint: Endpoint) => Effect.succeed(endpoint.address)

const test = (name: string, body: Effect.Effect<void, unknown, Scope.Scope>) =>
  it.effect(name, () => Effect.scoped(body).pipe(Random.withSeed("balancer")))

/** A test whose endpoints need no drain when it ends. */
const open = (count: number, policy?: (address: string) => Policy.Policy<unknown>) =>
  Effect.gen(function*() {
    const all = yield* world(letters(count), policy)
    for (const address of letters(count)) yield* all.drained(address)
    return { ...all, balancer: yield* all.make }
  })

const local = (policy: string) =>
  new CallError.CallError({ _tag: "BulkheadFull", policy, limit: 1, queued: 0, sent: "no" })

describe("Balancer", () => {
  test(
    "waits for the first addresses, connects to all and runs attempts at them",
    Effect.gen(function*() {
      const { drained, log, make, say } = yield* world(undefined)
      const making = yield* fork(make)
      yield* settle
      assert.isUndefined(making.pollUnsafe())
      yield* say(["e0", "e1"])
      const balancer = yield* Fiber.join(making)
      assert.deepStrictEqual(log, ["prepared e0", "prepared e1"])
      const at = new Set(yield* Effect.replicateEffect(balancer.run(0, where), 40))
      assert.deepStrictEqual([...at].toSorted(), ["e0", "e1"])
      yield* drained("e0")
      yield* drained("e1")
    })
  )

  test(
    "fails with NoEndpoint where discovery knows no address",
    Effect.gen(function*() {
      const { end, events, make, receiver } = yield* world(undefined)
      const making = yield* fork(make)
      yield* end
      const balancer = yield* Fiber.join(making)
      const attempt = balancer.run(0, where).pipe(Effect.provideService(CallEvent.CurrentReceiver, receiver))
      assert.deepStrictEqual(yield* reason(attempt), {
        _tag: "NoEndpoint",
        target: "users",
        detail: "discovery knows no address",
        sent: "no"
      })
      assert.deepStrictEqual(events, ["users: NoEndpoint"])
    })
  )

  test(
    "offers an attempt that nobody took to min(endpoints, 5), each once, and fails with the last reason",
    Effect.gen(function*() {
      for (const [count, picks] of [[1, 1], [2, 2], [4, 4], [5, 5], [8, 5]] as const) {
        const offered: Array<string> = []
        const { balancer } = yield* open(count, (address) =>
          Policy.make({
            name: address,
            run: () =>
              Effect.suspend(() => {
                offered.push(address)
                return Effect.fail(local(address))
              })
          }))
        const rejected = yield* reason(balancer.run(0, where))
        assert.strictEqual(offered.length, picks)
        assert.strictEqual(new Set(offered).size, picks)
        assert.deepInclude(rejected, { _tag: "BulkheadFull", policy: offered.at(-1)! })
        assert.isTrue(balancer.endpoints().every(({ inFlight }) => inFlight === 0))
      }
    })
  )

  const base = { target: "users", detail: "" }
  const elsewhere: ReadonlyArray<CallError.Reason> = [
    { _tag: "ConnectFailed", ...base, kind: "refused", sent: "no" },
    { _tag: "ConnectionLost", ...base, sent: "no" },
    { _tag: "BulkheadFull", policy: "p", limit: 1, queued: 0, sent: "no" },
    { _tag: "LimitReached", policy: "p", limit: 1, sent: "no" },
    { _tag: "CircuitOpen", policy: "p", state: "Open", sent: "no" },
    { _tag: "Throttled", policy: "p", ratio: 0.5, sent: "no" }
  ]
  const final: ReadonlyArray<CallError.Reason> = [
    { _tag: "ConnectionLost", ...base, sent: "maybe" },
    { _tag: "Unavailable", ...base, sent: "no" },
    { _tag: "Overloaded", ...base, sent: "no" },
    { _tag: "AttemptTimeout", policy: "p", timeoutMillis: 1, sent: "maybe" },
    { _tag: "TooLarge", target: "t", sizeBytes: 2, limitBytes: 1, sent: "no" },
    { _tag: "DeadlineExceeded", method: "m", elapsedMillis: 1, sent: "no" },
    { _tag: "InvalidRequest", ...base, sent: "no" },
    { _tag: "NotFound", ...base, sent: "no" }
  ]

  test(
    "picks again for what provably sent nothing, and for nothing else",
    Effect.gen(function*() {
      const { balancer } = yield* open(3)
      for (const [reasons, picks] of [[elsewhere, 3], [final, 1]] as const) {
        for (const reason of reasons) {
          let attempts = 0
          const attempt = Effect.suspend(() => {
            attempts++
            return CallError.fail(reason)
          })
          yield* Effect.exit(balancer.run(0, () => attempt))
          assert.strictEqual(attempts, picks, reason._tag)
        }
      }
      for (const failure of [Effect.fail("the contract's own"), Effect.die("broken"), Effect.interrupt]) {
        let attempts = 0
        const attempt = Effect.suspend((): Effect.Effect<never, string> => {
          attempts++
          return failure
        })
        yield* Effect.exit(balancer.run(0, () => attempt))
        assert.strictEqual(attempts, 1)
      }
    })
  )

  test(
    "is answered by the first that takes it",
    Effect.gen(function*() {
      const { balancer } = yield* open(3)
      const at: Array<string> = []
      const answer = yield* balancer.run(0, ({ address }) => {
        at.push(address)
        return at.length < 3 ? Effect.fail(local(address)) : Effect.succeed(address)
      })
      assert.deepStrictEqual([answer, new Set(at).size], [at[2], 3])
    })
  )

  test(
    "counts an attempt at its endpoint while it runs, however it ends",
    Effect.gen(function*() {
      const { balancer } = yield* open(1)
      const [endpoint] = balancer.endpoints()
      const gate = Deferred.makeUnsafe<void>()
      const ends: ReadonlyArray<Effect.Effect<unknown, unknown>> = [
        Effect.void,
        Effect.fail("no"),
        Effect.die("broken"),
        Effect.interrupt
      ]
      const running = yield* Effect.forEach(
        ends,
        (end) => fork(Effect.exit(balancer.run(0, () => Effect.andThen(Deferred.await(gate), end))))
      )
      const left = yield* fork(balancer.run(0, () => Effect.never))
      assert.strictEqual(endpoint!.inFlight, 5)
      yield* Fiber.interrupt(left)
      assert.strictEqual(endpoint!.inFlight, 4)
      yield* Deferred.succeed(gate, undefined)
      for (const fiber of running) yield* Fiber.await(fiber)
      assert.strictEqual(endpoint!.inFlight, 0)
    })
  )

  test(
    "counts nothing of an attempt whose policy dies before it runs",
    Effect.gen(function*() {
      const { balancer } = yield* open(2, () =>
        Policy.make({
          name: "broken",
          run: () => {
            throw new Error("broken")
          }
        }))
      const exit = yield* Effect.exit(balancer.run(0, where))
      assert.isTrue(Exit.isFailure(exit) && Exit.hasDies(exit))
      assert.deepStrictEqual(balancer.endpoints().map(({ inFlight }) => inFlight), [0, 0])
    })
  )

  test(
    "an interrupt between any two steps of an attempt leaves nothing counted",
    Effect.gen(function*() {
      const { balancer } = yield* open(2)
      let picks = 0
      yield* interruptEverywhere(Effect.succeed({
        // The first pick rejects, so that the second is swept too.
        work: balancer.run(0, ({ address }) => picks++ % 2 === 0 ? Effect.fail(local(address)) : Effect.never),
        check: (where: string) =>
          Effect.sync(() => {
            picks = 0
            assert.deepStrictEqual(balancer.endpoints().map(({ inFlight }) => inFlight), [0, 0], where)
          })
      }))
    })
  )

  test(
    "prefers where the call has not been",
    Effect.gen(function*() {
      const { balancer } = yield* open(3)
      const [a, b, c] = balancer.endpoints()
      for (let i = 0; i < 30; i++) assert.strictEqual(yield* balancer.run(0, where, [a!, c!]), b!.address)
      // Nowhere else: then again where it was.
      assert.include(letters(3), yield* balancer.run(0, where, [a!, b!, c!]))
    })
  )

  test(
    "follows discovery: adds, removes after what is in flight, and keeps the rest as it is",
    Effect.gen(function*() {
      const { drained, events, log, make, say } = yield* world(["a", "b"])
      const balancer = yield* make
      const gate = Deferred.makeUnsafe<void>()
      const [a, b] = balancer.endpoints()
      const onA = yield* fork(balancer.run(0, (endpoint) => Effect.as(Deferred.await(gate), endpoint.address), [b!]))
      assert.strictEqual(a!.inFlight, 1)
      yield* say(["b", "c", "c"])
      assert.deepStrictEqual(events, ["added a", "added b", "added c", "removed a"])
      assert.deepStrictEqual(balancer.endpoints().map(({ address }) => address), ["b", "c"])
      assert.strictEqual(balancer.endpoints()[0], b)
      assert.deepStrictEqual(log.slice(2), ["prepared c", "draining a"])
      const at = new Set(yield* Effect.replicateEffect(balancer.run(0, where), 40))
      assert.deepStrictEqual([...at].toSorted(), ["b", "c"])
      yield* Deferred.succeed(gate, undefined)
      assert.strictEqual(yield* Fiber.join(onA), "a")
      yield* drained("a")
      assert.strictEqual(log.at(-1), "ended a")
      // Back again it is another endpoint.
      yield* say(["a", "b"])
      assert.notStrictEqual(balancer.endpoints()[1], a)
      for (const address of ["a", "b", "c"]) yield* drained(address)
    })
  )

  test(
    "an empty set is a set: nobody to ask until the next",
    Effect.gen(function*() {
      const { drained, make, say } = yield* world(["a"])
      yield* drained("a")
      const balancer = yield* make
      yield* say([])
      assert.strictEqual((yield* reason(balancer.run(0, where)))._tag, "NoEndpoint")
      yield* say(["a"])
      assert.strictEqual(yield* balancer.run(0, where), "a")
    })
  )

  test(
    "closing drains every endpoint before it ends any: those found late, and those that are leaving",
    Effect.gen(function*() {
      const { close, drained, log, make, say } = yield* world(["gone", "early"])
      yield* make
      yield* say(["early", "late"])
      log.length = 0
      const closing = yield* fork(close)
      yield* settle
      assert.deepStrictEqual(log.toSorted(), ["draining early", "draining gone", "draining late"])
      yield* drained("gone")
      yield* drained("early")
      assert.isUndefined(closing.pollUnsafe())
      assert.notInclude(log, "ended early")
      yield* say(["early", "late", "too late"])
      yield* drained("late")
      yield* Fiber.join(closing)
      assert.deepStrictEqual(log.slice(3).toSorted(), ["ended early", "ended gone", "ended late"])
    })
  )

  test(
    "a discovery that dies before its first set is whoever asked's mistake; later, its last set stands and the log says so",
    Effect.gen(function*() {
      const early = yield* Effect.exit(Balancer.make({
        target: "users",
        addresses: Stream.die("no such target"),
        endpoint: () => Effect.never
      }))
      assert.isTrue(Exit.isFailure(early) && Exit.hasDies(early))

      const lines: Array<string> = []
      const logger = Logger.make(({ message }) => void lines.push(String([message].flat()[0])))
      const dying = Deferred.makeUnsafe<void>()
      const { drained, make } = yield* world(["a"])
      yield* drained("a")
      const { endpoints } = yield* make
      assert.strictEqual(endpoints().length, 1)
      const balancer = yield* Balancer.make({
        target: "users",
        addresses: Stream.concat(
          Stream.succeed(["a"]),
          Stream.fromEffect(Effect.andThen(Deferred.await(dying), Effect.die("lost its connection")))
        ),
        endpoint: () => Effect.succeed({ ...endpoints()[0]!, close: Effect.void })
      }).pipe(Effect.provide(Logger.layer([logger])))
      yield* Deferred.succeed(dying, undefined)
      yield* settle
      assert.strictEqual(yield* balancer.run(0, where), "a")
      assert.deepStrictEqual(lines, ["discovery of users has died, its last addresses stand"])
    })
  )

  test(
    "announces each endpoint to the registry of policies, until it has finished what it had",
    Effect.gen(function*() {
      const known = new Set<Policy.Registered>()
      const register = (policy: Policy.Registered) => {
        known.add(policy)
        return () => known.delete(policy)
      }
      const { drained, make, say } = yield* world(["a", "b"])
      const balancer = yield* Effect.provideService(make, Policy.CurrentRegistry, { register })
      const hold = yield* Deferred.make<void>()
      yield* fork(balancer.run(0, () => Deferred.await(hold)))
      const shown = () => Array.from(known, ({ kind, name, snapshot }) => ({ kind, name, ...(snapshot() as object) }))
      const of = (address: string) => shown().find(({ name }) => name === `users@${address}`)
      assert.deepStrictEqual(shown().map(({ name }) => name), ["users@a", "users@b"])
      const { inFlight, ...rest } = of("a") as { readonly inFlight?: number }
      assert.deepStrictEqual(rest, {
        kind: "endpoint",
        name: "users@a",
        target: "users",
        address: "a",
        connection: "open"
      } as never)
      assert.strictEqual(inFlight! + (of("b") as { readonly inFlight?: number }).inFlight!, 1)
      yield* say(["b"])
      assert.isDefined(of("a"))
      yield* drained("a")
      assert.isUndefined(of("a"))
      assert.isDefined(of("b"))
      yield* Deferred.succeed(hold, undefined)
      yield* drained("b")
    })
  )
})
