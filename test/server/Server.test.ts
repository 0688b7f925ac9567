import { assert, describe, it } from "@effect/vitest"
import { Clock, Context, Deferred, Effect, Exit, Fiber, Layer, Logger, Schema, Scope, Tracer } from "effect"
import { Rpc, RpcGroup, RpcMiddleware } from "effect/rpc"
import { TestClock } from "effect/testing"
import * as Discovery from "../../src/balancer/Discovery.ts"
import * as Client from "../../src/client/Client.ts"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Contract from "../../src/contract/Contract.ts"
import * as Interruption from "../../src/contract/Interruption.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as Server from "../../src/server/Server.ts"
import * as InMemory from "../../src/transport/InMemory.ts"
import { Transport } from "../../src/transport/Transport.ts"
import * as Frame from "../../src/wire/Frame.ts"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"
import { request, textOf } from "../support/script.ts"

class NotHere extends Schema.TaggedError<NotHere>()("NotHere", { id: Schema.Int }) {}
class Denied extends Schema.TaggedError<Denied>()("Denied", { who: Schema.String }) {}
class Tenant extends Context.Service<Tenant, string>()("test/Tenant") {}
class Store extends Context.Service<Store, string>()("test/Store") {}

/** Knows the tenant from a header; refuses `mallory` with an error of the contract, `nobody` with a reason of ours. */
class Auth extends RpcMiddleware.Service<Auth, { provides: Tenant }>()("test/Auth", { error: Denied }) {
  static readonly layer = Layer.succeed(this, (effect, { headers }) => {
    const tenant = headers["tenant"]
    return tenant === undefined
      ? Server.refuse({ _tag: "Unauthenticated", target: "api", detail: "who are you?", sent: "no" })
      : tenant === "mallory"
      ? Effect.fail(new Denied({ who: tenant }))
      : Effect.provideService(effect, Tenant, tenant)
  })
}

class Api extends RpcGroup.make(
  Rpc.make("Echo", { payload: { text: Schema.String }, success: Schema.String, error: NotHere }),
  Rpc.make("Do", { payload: { what: Schema.String }, success: Schema.String, error: NotHere }),
  Rpc.make("WhoAmI", { success: Schema.String }).middleware(Auth),
  Rpc.make("Nothing")
) {}

type Do = Effect.Effect<string, NotHere, Scope.Scope | Store>

/** What `Do` does, by the name in its payload. */
type Deeds = Readonly<Record<string, Do | (() => unknown)>>

const handlers = (deeds: Deeds) =>
  Api.toLayer({
    Echo: ({ text }) => Effect.succeed(text),
    Do: ({ what }) => {
      const deed = deeds[what]!
      return (typeof deed === "function" ? deed() : deed) as Effect.Effect<string, NotHere>
    },
    WhoAmI: () => Tenant,
    Nothing: () => Effect.void
  }).pipe(Layer.provideMerge(Auth.layer))

const address = "memory://api"

/** A server of those deeds, a session to it, its log and its events. */
const serving = (deeds: Deeds = {}, options: Partial<Server.ServerOptions> = {}) =>
  Effect.gen(function*() {
    const lines: Array<string> = []
    const events: Array<CallEvent.CallEvent> = []
    const logger = Logger.make(({ logLevel, message }) => void lines.push(`${logLevel}: ${[message].flat()[0]}`))
    const scope = yield* Scope.fork(yield* Effect.scope)
    const server = yield* Server.make(Api, { listen: address, drainGrace: 0, ...options }).pipe(
      Effect.provide(handlers(deeds)),
      Effect.provideService(Store, "the server's"),
      Effect.provideService(CallEvent.CurrentReceiver, { event: (event) => void events.push(event) }),
      Effect.provide(Logger.layer([logger])),
      Scope.provide(scope)
    )
    const session = yield* Effect.flatMap(Transport, (transport) => transport.connect(address))
    return {
      server,
      lines,
      events,
      close: Scope.close(scope, Exit.void),
      send: session.send,
      call: (method: string, payload: unknown = null, fields: Partial<Frame.Request> = {}) =>
        session.send(request(method, JSON.stringify(payload), fields)),
      do: (what: string, fields: Partial<Frame.Request> = {}) =>
        session.send(request("Do", JSON.stringify({ what }), fields))
    }
  })

/** A response in one line: its status and body, and whether the handler may have started. */
const line = (response: Frame.Response): string =>
  `${Object.entries(Frame.Status).find(([, status]) => status === response.status)?.[0] ?? response.status}${
    response.processed ? "" : " (unprocessed)"
  } ${textOf(response)}`.trim()

const test = (name: string, body: Effect.Effect<void, unknown, Transport | Scope.Scope>) =>
  it.effect(name, () =>
    Effect.gen(function*() {
      yield* Effect.scoped(body)
      assert.strictEqual(Timer.size(yield* Clock.Clock), 0)
    }).pipe(Effect.provide(InMemory.layer)))

const fork = <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.forkChild(self, { startImmediately: true })

describe("Server", () => {
  test(
    "answers with the contract's success and error",
    Effect.gen(function*() {
      const { call, do: make } = yield* serving({ fail: Effect.fail(new NotHere({ id: 7 })) })
      assert.strictEqual(line(yield* call("Echo", { text: "hi" })), "ok \"hi\"")
      assert.strictEqual(line(yield* call("Nothing")), "ok")
      assert.strictEqual(line(yield* make("fail")), "failed {\"_tag\":\"NotHere\",\"id\":7}")
    })
  )

  describe("what makes no sense is refused with a reason, a line of log, an event and a count", () => {
    const cases: Record<string, { readonly sent: Frame.Request; readonly answer: string; readonly why: string }> = {
      "an unknown method": {
        sent: request("Api.Gone"),
        answer: "unimplemented (unprocessed) {\"message\":\"no method Api.Gone\"}",
        why: "no such method"
      },
      "a codec it does not have": {
        sent: request("Echo", "{\"text\":\"hi\"}", { codec: 3 }),
        answer: "invalidRequest (unprocessed) {\"message\":\"unknown body codec 3\"}",
        why: "unknown body codec 3"
      },
      "a body that is no JSON": {
        sent: request("Echo", "{\"text\":"),
        answer: "invalidRequest (unprocessed) {\"message\":\"not JSON: Unexpected end of JSON input\"}",
        why: "not JSON: Unexpected end of JSON input"
      },
      "a payload of another type": {
        sent: request("Echo", "{\"text\":5}"),
        answer: "invalidRequest (unprocessed) {\"message\":\"Expected string\\n  at [\\\"text\\\"]\"}",
        why: "Expected string\n  at [\"text\"]"
      }
    }
    for (const [what, { answer, sent, why }] of Object.entries(cases)) {
      test(
        what,
        Effect.gen(function*() {
          const { call, events, lines, send, server } = yield* serving()
          const reason = what === "an unknown method" ? "unimplemented" : "invalid"
          assert.strictEqual(line(yield* send(sent)), answer)
          assert.deepStrictEqual(lines, [`Warn: refused ${sent.method} of memory: ${why.replace("\n ", "")}`])
          assert.deepStrictEqual(events, [
            { _tag: "RequestRefused", peer: "memory", method: sent.method, reason, why, atMillis: 0 }
          ])
          const { invalid, unimplemented } = server.stats()
          assert.deepStrictEqual([unimplemented, invalid], what === "an unknown method" ? [1, 0] : [0, 1])
          assert.strictEqual(line(yield* call("Echo", { text: "well" })), "ok \"well\"")
        })
      )
    }

    test(
      "a method whose name would forge a line of log, or flood it",
      Effect.gen(function*() {
        const { lines, send } = yield* serving()
        yield* send(request("Gone\nINFO: all is well"))
        const answer = yield* send(request("x".repeat(60_000)))
        assert.strictEqual(lines[0], "Warn: refused \"Gone\\nINFO: all is well\" of memory: no such method")
        assert.isBelow(lines[1]!.length, 300)
        assert.isBelow(answer.body.length, 300)
      })
    )

    test(
      "a peer that sends nothing else gets ten lines in ten seconds, and the next says how many were left out",
      Effect.gen(function*() {
        const { lines, send, server } = yield* serving()
        for (let i = 0; i < 13; i++) yield* send(request("Gone"))
        assert.strictEqual(lines.length, 10)
        yield* TestClock.adjust("10 seconds")
        yield* send(request("Gone"))
        yield* send(request("Gone"))
        assert.deepStrictEqual(lines.slice(10), [
          "Warn: refused Gone of memory: no such method (and 3 more that no line was written of)",
          "Warn: refused Gone of memory: no such method"
        ])
        assert.strictEqual(server.stats().unimplemented, 15)
      })
    )
  })

  test(
    "a handler that dies fails its own call with MCP-F-1, and says nothing of what it died of",
    Effect.gen(function*() {
      const gate = Deferred.makeUnsafe<void>()
      const { do: make, lines, server } = yield* serving({
        die: Effect.die(new Error("secret")),
        throw: () => {
          throw new Error("secret")
        },
        garbage: () => 5,
        wait: Effect.as(Deferred.await(gate), "done")
      })
      const other = yield* fork(make("wait"))
      const trace = { traceId: "4bf92f3577b34da6a3ce929d0e0e4736", spanId: "00f067aa0ba902b7", sampled: true }
      for (const deed of ["die", "throw", "garbage"]) {
        const answer = yield* make(deed, { trace })
        assert.deepStrictEqual([answer.status, answer.processed, JSON.parse(textOf(answer))], [
          Frame.Status.remote,
          true,
          {
            code: "MCP-F-1",
            message: "the handler died of a defect",
            traceId: trace.traceId,
            retry: "ifIdempotent"
          }
        ])
      }
      assert.strictEqual(server.stats().defects, 3)
      assert.deepStrictEqual(lines, Array.from({ length: 3 }, () => "Error: Do of memory: the handler died"))
      yield* Deferred.succeed(gate, undefined)
      assert.strictEqual(line(yield* Fiber.join(other)), "ok \"done\"")
    })
  )

  test(
    "an answer or an error its own contract refuses is MCP-F-2, logged and counted",
    Effect.gen(function*() {
      const { do: make, lines, server } = yield* serving({
        number: Effect.succeed(5 as unknown as string),
        foreign: Effect.fail({ _tag: "Foreign" } as unknown as NotHere)
      })
      for (const deed of ["number", "foreign"]) {
        const answer = yield* make(deed)
        assert.deepStrictEqual([answer.status, answer.processed], [Frame.Status.remote, true])
        assert.deepInclude(JSON.parse(textOf(answer)), { code: "MCP-F-2", retry: "never" })
      }
      assert.strictEqual(server.stats().defects, 2)
      assert.match(lines[0]!, /^Error: Do of memory: cannot encode the handler's answer: /)
      assert.match(lines[1]!, /^Error: Do of memory: cannot encode the handler's error: /)
    })
  )

  test(
    "refuse ends a request with a reason of ours",
    Effect.gen(function*() {
      const at = { target: "api", detail: "because", sent: "no" } as const
      const reasons: ReadonlyArray<readonly [Parameters<typeof Server.refuse>[0], string]> = [
        [{ ...at, _tag: "Unavailable" }, "unavailable (unprocessed) {\"message\":\"because\"}"],
        [{ ...at, _tag: "Overloaded", sent: "maybe" }, "overloaded {\"message\":\"because\"}"],
        [{ ...at, _tag: "RateLimited" }, "rateLimited (unprocessed) {\"message\":\"because\"}"],
        [{ ...at, _tag: "InvalidRequest" }, "invalidRequest (unprocessed) {\"message\":\"because\"}"],
        [{ ...at, _tag: "Unauthenticated" }, "unauthenticated (unprocessed) {\"message\":\"because\"}"],
        [{ ...at, _tag: "PermissionDenied" }, "permissionDenied (unprocessed) {\"message\":\"because\"}"],
        [{ ...at, _tag: "NotFound" }, "notFound (unprocessed) {\"message\":\"because\"}"],
        [{ ...at, _tag: "Unimplemented" }, "unimplemented (unprocessed) {\"message\":\"because\"}"],
        [
          {
            _tag: "Remote",
            target: "api",
            code: "ORD-E-102",
            message: "no stock",
            causes: ["INV-E-003", "DB-F-1"],
            traceId: undefined,
            retry: "safe",
            sent: "no"
          },
          "remote (unprocessed) {\"code\":\"ORD-E-102\",\"message\":\"no stock\",\"cause\":\"INV-E-003 < DB-F-1\",\"retry\":\"safe\"}"
        ]
      ]
      const deeds = Object.fromEntries(reasons.map(([reason], index) => [String(index), Server.refuse(reason)]))
      const { do: make, lines, server } = yield* serving({
        ...deeds,
        later: Server.refuse({ ...at, _tag: "Overloaded", retryAfterMillis: 1500 })
      })
      for (const [index, [, answer]] of reasons.entries()) assert.strictEqual(line(yield* make(String(index))), answer)
      assert.strictEqual((yield* make("later")).retryAfterMillis, 1500)
      assert.deepStrictEqual([lines, server.stats().defects], [[], 0])
    })
  )

  test(
    "dying of another call's failure is a defect, and not that server's word for this request",
    Effect.gen(function*() {
      const { do: make, server } = yield* serving({
        nested: Effect.orDie(
          CallError.fail({ _tag: "Unavailable", target: "other", detail: "restarting", sent: "no" })
        )
      })
      const answer = yield* make("nested")
      // It was processed as far as that call: to say otherwise would have it sent again.
      assert.deepStrictEqual([answer.status, answer.processed], [Frame.Status.remote, true])
      assert.strictEqual(server.stats().defects, 1)
    })
  )

  test(
    "runs the group's middleware: it provides, fails with its own error, or refuses",
    Effect.gen(function*() {
      const { call } = yield* serving()
      assert.strictEqual(line(yield* call("WhoAmI", null, { headers: { tenant: "acme" } })), "ok \"acme\"")
      // Header names are matched as HTTP's are.
      assert.strictEqual(line(yield* call("WhoAmI", null, { headers: { Tenant: "acme" } })), "ok \"acme\"")
      assert.strictEqual(
        line(yield* call("WhoAmI", null, { headers: { tenant: "mallory" } })),
        "failed {\"_tag\":\"Denied\",\"who\":\"mallory\"}"
      )
      assert.strictEqual(
        line(yield* call("WhoAmI")),
        "unauthenticated (unprocessed) {\"message\":\"who are you?\"}"
      )
    })
  )

  test(
    "a Deferred as an answer is waited for",
    Effect.gen(function*() {
      const answer = Deferred.makeUnsafe<string, NotHere>()
      const failed = Deferred.makeUnsafe<string, NotHere>()
      const { do: make } = yield* serving({
        defer: () => Effect.succeed(answer),
        forked: () => Rpc.fork(Effect.succeed(answer)),
        failed: () => Effect.succeed(failed)
      })
      const waiting = [yield* fork(make("defer")), yield* fork(make("forked"))]
      assert.isUndefined(waiting[0]!.pollUnsafe())
      yield* Deferred.succeed(answer, "at last")
      for (const fiber of waiting) assert.strictEqual(line(yield* Fiber.join(fiber)), "ok \"at last\"")
      yield* Deferred.fail(failed, new NotHere({ id: 1 }))
      assert.strictEqual(line(yield* make("failed")), "failed {\"_tag\":\"NotHere\",\"id\":1}")
    })
  )

  test(
    "a handler wrapped as uninterruptible finishes what a cancel finds begun",
    Effect.gen(function*() {
      const gate = Deferred.makeUnsafe<void>()
      const done = Deferred.makeUnsafe<void>()
      const { do: make, server } = yield* serving({
        charge: () =>
          Rpc.uninterruptible(
            Deferred.await(gate).pipe(
              Effect.andThen(Deferred.succeed(done, undefined)),
              Effect.as("charged")
            )
          ),
        both: () => Rpc.fork(Rpc.uninterruptible(Effect.succeed("both")))
      })
      assert.strictEqual(line(yield* make("both")), "ok \"both\"")
      const left = yield* fork(make("charge"))
      yield* Fiber.interrupt(left)
      assert.strictEqual(server.stats().inFlight, 1)
      yield* Deferred.succeed(gate, undefined)
      yield* Deferred.await(done)
      assert.strictEqual(server.stats().inFlight, 0)
    })
  )

  test(
    "the deadline interrupts the handler, and the answer says so",
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      let reason: Interruption.Reason | undefined
      const { do: make } = yield* serving({
        slow: Effect.onExit(Effect.never, (exit) =>
          Effect.sync(() => {
            reason = Exit.isFailure(exit) ? Interruption.fromCause(exit.cause) : undefined
          })),
        fast: Effect.succeed("fast")
      })
      assert.strictEqual(line(yield* make("fast", { deadline: 1000 })), "ok \"fast\"")
      assert.strictEqual(Timer.size(clock), 0)
      const waiting = yield* fork(make("slow", { deadline: 1000 }))
      yield* TestClock.adjust(999)
      assert.deepStrictEqual([waiting.pollUnsafe(), Timer.size(clock)], [undefined, 1])
      yield* TestClock.adjust(1)
      const answer = yield* Fiber.join(waiting)
      assert.strictEqual(line(answer), "deadlineExceeded {\"message\":\"the deadline passed while the handler ran\"}")
      assert.strictEqual(reason, "deadline")
    })
  )

  test(
    "a request that arrives after its deadline does not start",
    Effect.gen(function*() {
      let ran = false
      const { do: make, events, server } = yield* serving({ work: Effect.sync(() => String(ran = true)) })
      yield* TestClock.adjust(1000)
      const answer = yield* make("work", { deadline: 1000 })
      assert.strictEqual(
        line(answer),
        "deadlineExceeded (unprocessed) {\"message\":\"the deadline had passed on arrival\"}"
      )
      assert.deepStrictEqual([ran, server.stats().late], [false, 1])
      assert.deepStrictEqual(events.map((event) => event._tag === "RequestRefused" ? event.reason : event._tag), [
        "late"
      ])
    })
  )

  test(
    "the handler sees the request's context and not that of the start",
    Effect.gen(function*() {
      const seen: Array<unknown> = []
      const span = Tracer.externalSpan({ traceId: "boot", spanId: "boot" })
      const boot = { ...CallContext.empty, name: "boot", deadline: 5 }
      const { do: make } = yield* serving({
        look: Effect.gen(function*() {
          seen.push(yield* CallContext.Current, yield* Store, yield* Effect.serviceOption(Tracer.ParentSpan))
          return "seen"
        })
      }).pipe(Effect.provideService(Tracer.ParentSpan, span), Effect.provideService(CallContext.Current, boot))
      const fields: Partial<Frame.Request> = {
        deadline: 60_000,
        attempt: 2,
        hedge: true,
        idempotent: true,
        idempotencyKey: "order-7",
        criticality: "sheddable",
        trace: { traceId: "4bf92f3577b34da6a3ce929d0e0e4736", spanId: "00f067aa0ba902b7", sampled: false },
        headers: { tenant: "acme" }
      }
      yield* make("look", fields)
      assert.deepStrictEqual(seen[0], { ...CallContext.empty, name: "Do", ...fields })
      assert.deepStrictEqual([seen[1], String(seen[2])], ["the server's", "none()"])
    })
  )

  test(
    "handlers keep the services their layer was given, whatever the server has of the same kind",
    Effect.gen(function*() {
      const server = yield* Server.make(Api, { listen: address, drainGrace: 0 }).pipe(
        Effect.provide(
          handlers({ store: Effect.map(Store, (store) => store) }).pipe(
            Layer.provide(Layer.succeed(Store, "the handlers'"))
          )
        ),
        Effect.provideService(Store, "the server's")
      )
      const session = yield* Effect.flatMap(Transport, (transport) => transport.connect(server.address))
      assert.strictEqual(line(yield* session.send(request("Do", "{\"what\":\"store\"}"))), "ok \"the handlers'\"")
    })
  )

  test(
    "closes the request's scope before it answers, however the handler ends",
    Effect.gen(function*() {
      const closed: Array<string> = []
      const holding = (name: string, then: Do): Do =>
        Effect.andThen(
          Effect.addFinalizer((exit) =>
            Effect.andThen(Effect.yieldNow, Effect.sync(() => void closed.push(`${name} ${exit._tag}`)))
          ),
          then
        )
      const { do: make } = yield* serving({
        ok: holding("ok", Effect.succeed("ok")),
        fail: holding("fail", Effect.fail(new NotHere({ id: 1 }))),
        die: holding("die", Effect.die("broken")),
        never: holding("never", Effect.never)
      })
      for (const deed of ["ok", "fail", "die"]) yield* make(deed)
      assert.deepStrictEqual(closed, ["ok Success", "fail Failure", "die Failure"])
      yield* Fiber.interrupt(yield* fork(make("never")))
      yield* Effect.yieldNow
      assert.deepStrictEqual(closed.slice(3), ["never Failure"])
    })
  )

  test(
    "a handler that interrupts itself is answered for, with MCP-E-3",
    Effect.gen(function*() {
      const { do: make } = yield* serving({
        odd: Effect.flatMap(Effect.forkChild(Effect.interrupt), Fiber.join) as never
      })
      const answer = yield* make("odd")
      assert.deepStrictEqual([answer.status, answer.processed], [Frame.Status.remote, true])
      assert.deepInclude(JSON.parse(textOf(answer)), { code: "MCP-E-3", retry: "ifIdempotent" })
    })
  )

  test(
    "a receiver's hook surrounds the handler and knows the call and the peer",
    Effect.gen(function*() {
      const around: Array<unknown> = []
      const transport = yield* Transport
      yield* Server.make(Api, { listen: address, drainGrace: 0 }).pipe(
        Effect.provide(handlers({ x: Effect.succeed("x") })),
        Effect.provideService(Store, ""),
        Effect.provideService(CallEvent.CurrentReceiver, {
          event: () => {},
          aroundHandler: (self, call, peer) =>
            Effect.tap(self, () => Effect.sync(() => void around.push([call.name, call.headers, peer])))
        })
      )
      const session = yield* transport.connect(address)
      yield* session.send(request("Do", "{\"what\":\"x\"}", { headers: { a: "b" } }))
      assert.deepStrictEqual(around, [["Do", { a: "b" }, "memory"]])
    })
  )

  test(
    "closing finishes what is in flight within the grace, and interrupts the rest",
    Effect.gen(function*() {
      const gate = Deferred.makeUnsafe<void>()
      const ended: Array<string> = []
      const { call, close, do: make, server } = yield* serving({
        soon: Effect.as(Deferred.await(gate), "soon"),
        never: Effect.onExit(
          Effect.never,
          (exit) =>
            Effect.sync(() => void ended.push(String(Exit.isFailure(exit) && Interruption.fromCause(exit.cause))))
        )
      }, { drainGrace: "5 seconds" })
      const [soon, never] = [yield* fork(make("soon")), yield* fork(make("never"))]
      const closing = yield* fork(close)
      yield* Effect.yieldNow
      assert.isTrue(Exit.isFailure(yield* Effect.exit(call("Echo", { text: "new" }))))
      yield* Deferred.succeed(gate, undefined)
      assert.strictEqual(line(yield* Fiber.join(soon)), "ok \"soon\"")
      yield* TestClock.adjust("4999 millis")
      assert.deepStrictEqual([closing.pollUnsafe(), ended], [undefined, []])
      yield* TestClock.adjust("1 millis")
      yield* Fiber.join(closing)
      assert.deepStrictEqual(ended, ["shutdown"])
      assert.isTrue(Exit.isFailure(yield* Fiber.await(never)))
      assert.strictEqual(server.stats().inFlight, 0)
    })
  )

  test(
    "an idle server closes at once, whatever its grace",
    Effect.gen(function*() {
      const { call, close, server } = yield* serving({}, { drainGrace: "1 hour" })
      yield* call("Echo", { text: "hi" })
      yield* close
      assert.strictEqual(server.stats().sessions, 0)
    })
  )

  test(
    "counts what it has seen",
    Effect.gen(function*() {
      const { call, server } = yield* serving()
      yield* call("Echo", { text: "hi" })
      yield* call("Gone")
      assert.deepStrictEqual(server.stats(), {
        sessions: 1,
        inFlight: 0,
        requests: 2,
        protocolErrors: 0,
        refused: 0,
        unimplemented: 1,
        invalid: 0,
        late: 0,
        defects: 0
      })
      assert.strictEqual(server.address, address)
    })
  )

  test(
    "an interrupt between any two steps of a request leaves no timer, scope or handler",
    Effect.gen(function*() {
      let open = 0
      const { server, send } = yield* serving({
        work: Effect.andThen(
          Effect.acquireRelease(Effect.sync(() => void open++), () => Effect.sync(() => void open--)),
          Effect.never
        )
      })
      const clock = yield* Clock.Clock
      yield* interruptEverywhere(Effect.succeed({
        work: send(request("Do", "{\"what\":\"work\"}", { deadline: 1000 })),
        check: (where: string) =>
          Effect.gen(function*() {
            yield* Effect.replicateEffect(Effect.yieldNow, 8)
            assert.deepStrictEqual([server.stats().inFlight, Timer.size(clock), open], [0, 0, 0], where)
          })
      }))
    })
  )

  it.effect("dies where the group has no handlers, a stream, or an option is out of range", () =>
    Effect.gen(function*() {
      class Streams extends RpcGroup.make(Rpc.make("Feed", { success: Schema.String, stream: true })) {}
      const cases: ReadonlyArray<readonly [Effect.Effect<unknown, unknown, never>, string]> = [
        [
          Server.make(Api, { listen: address }) as never,
          "Server.make: Echo has no handler; provide the group's toLayer"
        ],
        [
          Server.make(Streams, { listen: address }) as never,
          "Contract: Feed is a stream, which this version does not carry; leave it out with group.omit"
        ],
        [
          Server.make(Api, { listen: address, drainGrace: "Infinity" }).pipe(Effect.provide(handlers({}))) as never,
          "Server.make: drainGrace must be a duration >= 0 and finite, got \"Infinity\""
        ]
      ]
      for (const [make, message] of cases) {
        const exit = yield* Effect.exit(Effect.scoped(make).pipe(Effect.provide(InMemory.layer)))
        assert.isTrue(Exit.isFailure(exit) && Exit.hasDies(exit))
        assert.include(String(Exit.isFailure(exit) ? exit.cause : ""), message)
      }
    }))
})

describe("Server and Client", () => {
  class Inner extends RpcGroup.make(Rpc.make("Inner.Look", { success: Schema.Json })) {}
  class Outer extends RpcGroup.make(
    Rpc.make("Outer.Ask", { payload: { limit: Schema.optionalKey(Schema.Int) }, success: Schema.Json })
      .annotate(Contract.CallCriticality, "sheddablePlus")
  ) {}

  test(
    "a call made inside a handler inherits the time that is left, the criticality and the trace",
    Effect.gen(function*() {
      const seen = Effect.map(
        CallContext.Current,
        ({ criticality, deadline, headers, idempotencyKey, name, trace }) => ({
          criticality,
          deadline,
          headers: Object.keys(headers).length,
          idempotencyKey: idempotencyKey ?? null,
          name,
          trace: trace?.traceId ?? null
        })
      )
      yield* Server.make(Inner, { listen: "memory://inner", drainGrace: 0 }).pipe(
        Effect.provide(Inner.toLayer({ "Inner.Look": () => seen }))
      )
      const discovery = Discovery.layerStatic({ inner: ["memory://inner"], outer: ["memory://outer"] })
      const outer = Outer.toLayer(Effect.gen(function*() {
        const client = yield* Client.make(Inner, { target: "inner" })
        return {
          "Outer.Ask": ({ limit }: { readonly limit?: number }) =>
            Effect.orDie(
              Effect.andThen(
                Effect.sleep(300),
                client.Inner.Look(undefined, limit === undefined ? {} : { deadline: limit })
              )
            )
        }
      }))
      // Built in the test's scope, which the handlers' client needs as long as they do.
      const context = yield* Layer.build(Layer.provide(outer, discovery))
      yield* Effect.provide(Server.make(Outer, { listen: "memory://outer", drainGrace: 0 }), context)
      const client = yield* Client.make(Outer, { target: "outer" }).pipe(Effect.provide(discovery))
      const trace = { traceId: "4bf92f3577b34da6a3ce929d0e0e4736", spanId: "00f067aa0ba902b7", sampled: true }
      const ask = (limit: number | undefined, deadline: number) =>
        Effect.gen(function*() {
          const fiber = yield* fork(
            client.Outer.Ask(limit === undefined ? {} : { limit }, {
              deadline,
              idempotencyKey: "k",
              headers: { a: "b" }
            }).pipe(
              Effect.provideService(CallContext.Current, { ...CallContext.empty, trace })
            )
          )
          yield* TestClock.adjust(300)
          return yield* Fiber.join(fiber)
        })
      const inherited = {
        criticality: "sheddablePlus",
        headers: 0,
        idempotencyKey: null,
        name: "Inner.Look",
        trace: trace.traceId
      }
      assert.deepStrictEqual(yield* ask(undefined, 1000), { ...inherited, deadline: 1000 })
      assert.deepStrictEqual(yield* ask(200, 1000), { ...inherited, deadline: 300 + 300 + 200 })
      assert.deepStrictEqual(yield* ask(5000, 1000), { ...inherited, deadline: 600 + 1000 })
    })
  )
})
