import { assert, describe, it } from "@effect/vitest"
import { Clock, Deferred, Effect, Exit, Fiber, Random, Schedule, Schema, Scope } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { TestClock } from "effect/testing"
import * as Discovery from "../../src/balancer/Discovery.ts"
import * as Client from "../../src/client/Client.ts"
import type * as ClientStack from "../../src/client/ClientStack.ts"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Contract from "../../src/contract/Contract.ts"
import * as Interruption from "../../src/contract/Interruption.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as Observe from "../../src/observe/Observe.ts"
import * as Tracing from "../../src/observe/Tracing.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as Retry from "../../src/policy/Retry.ts"
import * as InMemory from "../../src/transport/InMemory.ts"
import { type Serve, Transport } from "../../src/transport/Transport.ts"
import * as BodyCodec from "../../src/wire/BodyCodec.ts"
import * as Frame from "../../src/wire/Frame.ts"
import { fibers } from "../support/fibers.ts"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"
import { recording } from "../support/loop.ts"
import { reason, told } from "../support/reason.ts"
import { response, textOf } from "../support/script.ts"

class User extends Schema.Class<User>("User")({ id: Schema.Int, name: Schema.String }) {}
class UserNotFound extends Schema.TaggedError<UserNotFound>()("UserNotFound", { id: Schema.Int }) {}

class Users extends RpcGroup.make(
  Rpc.make("Get", { payload: { id: Schema.Int }, success: User, error: UserNotFound })
    .annotate(Contract.Idempotent, true)
    .annotate(Contract.DefaultDeadline, "4 seconds"),
  Rpc.make("Rename", { payload: { id: Schema.Int, name: Schema.String } }),
  Rpc.make("Pay", { payload: { order: Schema.String } })
    .annotate(Contract.Idempotent, ({ order }: { readonly order: string }) => `pay-${order}`)
    .annotate(Contract.CallCriticality, "criticalPlus"),
  Rpc.make("Ping")
).prefix("UserService.") {}

const a = "memory://a"
const b = "memory://b"
const ada = "{\"id\":1,\"name\":\"Ada\"}"

/** What a server answers, request by request; the last again and again. `undefined` never comes. */
type Answers = ReadonlyArray<Frame.Response | undefined>

const ok = response(Frame.Status.ok, ada)
const unavailable = response(Frame.Status.unavailable, "{\"message\":\"starting\"}", false)
const remote = (retry: string) => response(Frame.Status.remote, `{"code":"ORD-E-1","message":"no","retry":"${retry}"}`)
const instead: ClientStack.Options = { circuitBreaker: false, retry: { budget: false } }

/** A server that counts what it is sent and answers from a list. */
const counting = (address: string, answers: Answers) =>
  Effect.gen(function*() {
    const seen: Array<Frame.Request> = []
    const interrupted: Array<string | undefined> = []
    const scope = yield* Scope.fork(yield* Effect.scope)
    const serve: Serve = (request) => {
      const answer = answers[Math.min(seen.push(request), answers.length) - 1]
      return answer === undefined
        ? Effect.onExit(Effect.never, (exit) =>
          Effect.sync(() =>
            void interrupted.push(Exit.isFailure(exit) ? Interruption.fromCause(exit.cause) : undefined)
          ))
        : Effect.succeed(answer)
    }
    const transport = yield* Transport
    const listening = yield* Scope.provide(transport.listen(address, serve), scope)
    return { seen, interrupted, listening, kill: Scope.close(scope, Exit.void) }
  })

const discovery = Discovery.layerStatic({ users: [a], pair: [a, b] })

const clientOf = <const P extends ClientStack.Options>(
  policy: ClientStack.Exact<P>,
  options: Partial<Client.ClientOptions<string, P, {}>> = {}
) => Client.make(Users, { target: "users", policy, ...options }).pipe(Effect.provide(discovery))

const test = (name: string, body: Effect.Effect<void, unknown, Transport | Scope.Scope>) =>
  it.effect(name, () =>
    Effect.gen(function*() {
      yield* Effect.scoped(body)
      assert.strictEqual(Timer.size(yield* Clock.Clock), 0)
    }).pipe(Effect.provide(InMemory.layer), Random.withSeed("client")))

const fork = <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.forkChild(self, { startImmediately: true })

/** Runs a call for as long as it may take. */
const finish = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const fiber = yield* fork(self)
    yield* TestClock.adjust("1 minute")
    return yield* Fiber.join(fiber)
  })

const dies = (self: Effect.Effect<unknown, unknown, Scope.Scope | Transport>, message: string) =>
  Effect.map(Effect.exit(Effect.scoped(self)), (exit) => {
    assert.isTrue(Exit.isFailure(exit) && Exit.hasDies(exit))
    assert.include(String(Exit.isFailure(exit) ? exit.cause : ""), message)
  })

describe("Client", () => {
  describe("construction", () => {
    test(
      "nests methods by the dots of their names",
      Effect.gen(function*() {
        const { seen } = yield* counting(a, [response(Frame.Status.ok, "")])
        class Deep extends RpcGroup.make(
          Rpc.make("Flat"),
          Rpc.make("shop.Cart.Add"),
          Rpc.make("shop.Cart.Clear"),
          Rpc.make("shop.toString")
        ) {}
        const client = yield* Client.make(Deep, { target: "users" }).pipe(Effect.provide(discovery))
        yield* client.Flat()
        yield* client.shop.Cart.Add()
        yield* client.shop.Cart.Clear()
        yield* client.shop.toString()
        assert.deepStrictEqual(seen.map(({ method }) => method), [
          "Flat",
          "shop.Cart.Add",
          "shop.Cart.Clear",
          "shop.toString"
        ])
      })
    )

    test(
      "dies where a name is a prefix of another's, in either order",
      Effect.gen(function*() {
        const make = (...names: ReadonlyArray<string>) =>
          Client.make(RpcGroup.make(...names.map((name) => Rpc.make(name))), { target: "users" }).pipe(
            Effect.provide(discovery)
          )
        const message = "Client.make: group must be without a method whose name is also a prefix of another's, got "
        yield* dies(make("Users", "Users.Get"), `${message}"Users.Get"`)
        yield* dies(make("Users.Get", "Users"), `${message}"Users"`)
        yield* dies(make("Users.Get.All", "Users.Get"), `${message}"Users.Get"`)
      })
    )

    test(
      "dies on a stream, on names the group does not have, and on options out of range",
      Effect.gen(function*() {
        class Streams extends RpcGroup.make(Rpc.make("Feed", { success: Schema.String, stream: true })) {}
        class Late extends RpcGroup.make(Rpc.make("Late").annotate(Contract.DefaultDeadline, "-1 second")) {}
        const on = Effect.provide(discovery)
        const cases: ReadonlyArray<readonly [Effect.Effect<unknown, unknown, Scope.Scope | Transport>, string]> = [
          [
            on(Client.make(Streams, { target: "users" })),
            "Contract: Feed is a stream, which this version does not carry; leave it out with group.omit"
          ],
          [
            on(Client.make(Users, { target: "users", methods: { "UserService.Gte": {} } as never })),
            "Client.make: methods must be names of the group, got \"UserService.Gte\""
          ],
          [on(Client.make(Users, { target: "" })), "Client.make: target must be a name, got \"\""],
          [
            on(Client.make(Users, { target: "usres" })),
            "Discovery.layerStatic: target must be one of users, pair, got \"usres\""
          ],
          [
            on(Client.make(Users, { target: "users", defaultDeadline: 0 })),
            "Client.make: defaultDeadline must be a positive duration, got 0"
          ],
          [
            on(Client.make(Late, { target: "users" })),
            "Client.make: the DefaultDeadline of Late must be a positive duration, got \"-1 second\""
          ],
          [
            on(Client.make(Users, { target: "users", policy: { retry: { attempts: 0 } } })),
            "Retry.make: attempts must be"
          ],
          [
            on(
              Client.make(Users, {
                target: "users",
                methods: { "UserService.Get": { bulkhead: { limit: 0 } as never } }
              })
            ),
            "Bulkhead.make: "
          ],
          [
            on(Client.make(Users, { target: "users", connection: { backoffCap: -1 } })),
            "Connection.make: backoffCap must be a positive and finite duration, got -1"
          ]
        ]
        for (const [make, message] of cases) yield* dies(make, message)
      })
    )
  })

  describe("a call", () => {
    test(
      "is answered with the contract's value, class and all, or its error",
      Effect.gen(function*() {
        yield* counting(a, [
          ok,
          response(Frame.Status.failed, "{\"_tag\":\"UserNotFound\",\"id\":7}"),
          response(Frame.Status.ok, "")
        ])
        const client = yield* clientOf({})
        const user = yield* client.UserService.Get({ id: 1 })
        assert.isTrue(user instanceof User && user.name === "Ada")
        const error = yield* Effect.flip(client.UserService.Get({ id: 7 }))
        assert.isTrue(error instanceof UserNotFound && error.id === 7)
        assert.isUndefined(yield* client.UserService.Ping())
      })
    )

    test(
      "with a payload its schema refuses is sent nowhere",
      Effect.gen(function*() {
        const { seen } = yield* counting(a, [ok])
        const client = yield* clientOf({})
        const refused = yield* reason(client.UserService.Get({ id: 1.5 }))
        assert.deepInclude(refused, { _tag: "InvalidRequest", target: "UserService.Get", sent: "no" })
        assert.deepInclude(yield* reason(client.UserService.Get({ id: "1" } as never)), { _tag: "InvalidRequest" })
        assert.deepInclude(yield* reason(client.UserService.Get(undefined as never)), { _tag: "InvalidRequest" })
        assert.strictEqual(seen.length, 0)
      })
    )

    test(
      "tells the server what its options, its method and the call it is made for say",
      Effect.gen(function*() {
        const { seen } = yield* counting(a, [ok])
        const client = yield* clientOf({}, { defaultDeadline: "7 seconds" })
        yield* client.UserService.Get({ id: 1 })
        yield* client.UserService.Get({ id: 1 }, {
          deadline: "9 seconds",
          idempotencyKey: "k",
          criticality: "sheddable",
          headers: { tenant: "acme" }
        })
        yield* Effect.exit(client.UserService.Pay({ order: "7" }))
        yield* Effect.exit(
          client.UserService.Pay({ order: "7" }, { idempotencyKey: "mine", criticality: "sheddablePlus" })
        )
        const trace = { traceId: "4bf92f3577b34da6a3ce929d0e0e4736", spanId: "00f067aa0ba902b7", sampled: true }
        const ambient: CallContext.CallContext = {
          ...CallContext.empty,
          name: "Outer",
          deadline: 3000,
          criticality: "sheddable",
          idempotencyKey: "outer",
          headers: { outer: "1" },
          trace
        }
        yield* Effect.exit(
          client.UserService.Rename({ id: 1, name: "B" }).pipe(
            Effect.provideService(CallContext.Current, ambient)
          )
        )
        const facts = seen.map(({ attempt, criticality, deadline, headers, idempotencyKey, idempotent, trace }) => [
          attempt,
          criticality,
          deadline,
          { ...headers },
          idempotencyKey,
          idempotent,
          trace?.spanId
        ])
        assert.deepStrictEqual(facts, [
          [1, "critical", 4000, {}, undefined, true, undefined],
          [1, "sheddable", 9000, { tenant: "acme" }, "k", true, undefined],
          [1, "criticalPlus", 7000, {}, "pay-7", true, undefined],
          [1, "sheddablePlus", 7000, {}, "mine", true, undefined],
          [1, "sheddable", 3000, {}, undefined, false, trace.spanId]
        ])
        assert.strictEqual(textOf(seen[0] as never), "{\"id\":1}")
      })
    )

    test(
      "reads every status as its reason",
      Effect.gen(function*() {
        const said = { target: a, detail: "because" }
        const statuses: ReadonlyArray<readonly [number, CallError.Reason]> = [
          [Frame.Status.unavailable, { _tag: "Unavailable", ...said, sent: "no", retryAfterMillis: undefined }],
          [Frame.Status.overloaded, { _tag: "Overloaded", ...said, sent: "no", retryAfterMillis: undefined }],
          [Frame.Status.rateLimited, { _tag: "RateLimited", ...said, sent: "no", retryAfterMillis: undefined }],
          [Frame.Status.invalidRequest, { _tag: "InvalidRequest", ...said, sent: "no" }],
          [Frame.Status.unauthenticated, { _tag: "Unauthenticated", ...said, sent: "no" }],
          [Frame.Status.permissionDenied, { _tag: "PermissionDenied", ...said, sent: "no" }],
          [Frame.Status.notFound, { _tag: "NotFound", ...said, sent: "no" }],
          [Frame.Status.unimplemented, { _tag: "Unimplemented", ...said, sent: "no" }],
          [Frame.Status.tooLarge, { _tag: "TooLarge", target: a, sizeBytes: 9, limitBytes: 8, sent: "maybe" }]
        ]
        const body = "{\"message\":\"because\",\"sizeBytes\":9,\"limitBytes\":8}"
        yield* counting(a, statuses.map(([status]) => response(status, body, false)))
        const client = yield* clientOf({ retry: false, circuitBreaker: false })
        for (const [, expected] of statuses) {
          assert.deepStrictEqual(yield* reason(client.UserService.Get({ id: 1 })), expected)
        }
      })
    )

    test(
      "reads coded failures, statuses of later versions and bodies that say nothing",
      Effect.gen(function*() {
        yield* counting(a, [
          response(
            Frame.Status.remote,
            "{\"code\":\"ORD-E-102\",\"message\":\"no stock\",\"cause\":\"INV-E-003 < DB-F-1\",\"traceId\":\"t\",\"retry\":\"safe\"}"
          ),
          response(Frame.Status.remote, "{"),
          response(99, "[]"),
          response(Frame.Status.cancelled, "")
        ])
        const client = yield* clientOf({ retry: false, circuitBreaker: false })
        const get = reason(client.UserService.Get({ id: 1 }))
        assert.deepInclude(yield* get, {
          _tag: "Remote",
          code: "ORD-E-102",
          message: "no stock",
          causes: ["INV-E-003", "DB-F-1"],
          traceId: "t",
          retry: "safe",
          sent: "maybe"
        })
        assert.deepInclude(yield* get, { _tag: "Remote", code: "MCP-E-4", retry: "never", sent: "maybe" })
        assert.deepInclude(yield* get, { _tag: "Remote", code: "MCP-E-4", retry: "never", sent: "maybe" })
        assert.deepInclude(yield* get, { _tag: "Unavailable", sent: "maybe" })
      })
    )

    test(
      "fails with DecodeFailed on an answer its contract does not accept, and is not sent again",
      Effect.gen(function*() {
        const { seen } = yield* counting(a, [
          response(Frame.Status.ok, "{\"id\":1}"),
          response(Frame.Status.ok, "nonsense"),
          response(Frame.Status.failed, "{\"_tag\":\"SomebodyElse\"}")
        ])
        const client = yield* clientOf(instead)
        for (let call = 1; call <= 3; call++) {
          assert.deepInclude(yield* reason(client.UserService.Get({ id: 1 })), {
            _tag: "DecodeFailed",
            target: a,
            sent: "maybe"
          })
          assert.strictEqual(seen.length, call)
        }
      })
    )
  })

  describe("attempts", () => {
    test(
      "are exactly as many as `attempts` says, whatever they fail for",
      Effect.gen(function*() {
        const failures = [unavailable, remote("safe"), response(Frame.Status.overloaded, "", true), undefined]
        for (const first of failures) {
          for (const second of failures) {
            const { kill, seen } = yield* counting(a, [first, second, unavailable])
            const client = yield* clientOf(instead)
            const error = yield* finish(reason(client.UserService.Get({ id: 1 }, { deadline: "50 seconds" })))
            assert.deepInclude(error, { _tag: "RetriesExhausted", attempts: 3, method: "UserService.Get" })
            assert.deepStrictEqual(seen.map(({ attempt }) => attempt), [1, 2, 3])
            yield* kill
          }
        }
      })
    )

    test(
      "end with the first answer",
      Effect.gen(function*() {
        const { seen } = yield* counting(a, [unavailable, ok])
        const client = yield* clientOf(instead)
        assert.strictEqual((yield* finish(client.UserService.Get({ id: 1 }))).name, "Ada")
        assert.strictEqual(seen.length, 2)
      })
    )

    test(
      "of a call that must not be sent twice are repeated only where nothing can have happened",
      Effect.gen(function*() {
        const { seen } = yield* counting(a, [unavailable, remote("ifIdempotent")])
        const client = yield* clientOf(instead)
        const error = yield* finish(reason(client.UserService.Rename({ id: 1, name: "B" })))
        assert.deepInclude(error, { _tag: "Remote", code: "ORD-E-1" })
        assert.strictEqual(seen.length, 2)
        // With a key the server can tell them apart.
        const again = yield* finish(reason(client.UserService.Rename({ id: 1, name: "B" }, { idempotencyKey: "k" })))
        assert.deepInclude(again, { _tag: "RetriesExhausted", attempts: 3 })
        assert.deepStrictEqual(seen.slice(2).map(({ idempotencyKey }) => idempotencyKey), ["k", "k", "k"])
      })
    )

    test(
      "of a call that got no answer end with OutcomeUnknown where it must not be sent twice",
      Effect.gen(function*() {
        const { interrupted, kill, seen } = yield* counting(a, [undefined])
        const client = yield* clientOf(instead)
        const silent = yield* fork(reason(client.UserService.Rename({ id: 1, name: "B" })))
        yield* TestClock.adjust("2 seconds")
        const unknown = yield* Fiber.join(silent)
        assert.deepInclude(unknown, { _tag: "OutcomeUnknown", method: "UserService.Rename", sent: "maybe" })
        assert.deepInclude("last" in unknown && (unknown.last as CallError.CallError).reason, {
          _tag: "AttemptTimeout"
        })
        assert.deepStrictEqual([seen.length, interrupted], [1, ["attemptTimeout"]])
        const lost = yield* fork(told(client.UserService.Rename({ id: 1, name: "B" })))
        yield* kill
        assert.strictEqual(yield* Fiber.join(lost), "OutcomeUnknown maybe")
        assert.strictEqual(seen.length, 2)
      })
    )

    test(
      "a hook may run a call in a fiber of its own",
      Effect.gen(function*() {
        const server = yield* counting(a, [unavailable, ok])
        const events: Array<string> = []
        const client = yield* clientOf({ retry: { budget: false } })
        const receiver: CallEvent.Receiver = {
          event: ({ _tag }) => events.push(_tag),
          prompt: true,
          aroundCall: (self) => Effect.flatMap(Effect.forkChild(self), Fiber.join)
        }
        const fiber = yield* client.UserService.Get({ id: 1 }).pipe(
          Effect.provideService(CallEvent.CurrentReceiver, receiver),
          Effect.forkChild
        )
        yield* TestClock.adjust("20 seconds")
        assert.strictEqual((yield* Fiber.join(fiber)).name, "Ada")
        assert.strictEqual(server.seen.length, 2)
        assert.deepStrictEqual(events.filter((tag) => /^(Call|Attempt)/.test(tag)), [
          "CallStarted",
          "AttemptStarted",
          "AttemptEnded",
          "AttemptStarted",
          "AttemptEnded",
          "CallEnded"
        ])
      })
    )

    test(
      "carries a trace that is not sampled on, also where tracing is switched off",
      Effect.gen(function*() {
        const { seen } = yield* counting(a, [ok])
        const client = yield* clientOf({})
        const trace = { traceId: "4bf92f3577b34da6a3ce929d0e0e4736", spanId: "00f067aa0ba902b7", sampled: false }
        const call = CallContext.annotate(client.UserService.Get({ id: 1 }), { trace })
        const traced = Effect.provide(call, Observe.layer(Tracing.make()))
        yield* traced
        yield* Effect.withTracerEnabled(traced, false)
        assert.deepStrictEqual(seen.map(({ trace }) => trace), [trace, trace])
      })
    )

    it.effect("that provably never left end with what stopped them, idempotent or not", () =>
      Effect.gen(function*() {
        const base = { target: a, detail: "before its flush", sent: "no" } as const
        const reasons: ReadonlyArray<CallError.Reason> = [
          { _tag: "ConnectionLost", ...base },
          { _tag: "AttemptTimeout", policy: "p", timeoutMillis: 1, sent: "no" }
        ]
        for (const failure of reasons) {
          const session = {
            address: a,
            status: "open" as const,
            greeted: true,
            inFlight: 0,
            codec: BodyCodec.json,
            send: () => CallError.fail(failure) as never,
            drain: Effect.void,
            onChange: () => () => {}
          }
          const transport = { connect: () => Effect.succeed(session), listen: () => Effect.never }
          const client = yield* clientOf({ retry: false, circuitBreaker: false }).pipe(
            Effect.provideService(Transport, transport)
          )
          assert.deepStrictEqual(yield* reason(client.UserService.Rename({ id: 1, name: "B" })), failure)
        }
      }).pipe(Effect.scoped))

    test(
      "that nobody took cost nothing: the server sees the first as the first",
      Effect.gen(function*() {
        // Nobody listens at b.
        const { seen } = yield* counting(a, [ok])
        const client = yield* clientOf({ ...instead, retry: false }, { target: "pair" })
        for (let call = 0; call < 20; call++) yield* client.UserService.Get({ id: 1 })
        assert.deepStrictEqual(new Set(seen.map(({ attempt }) => attempt)), new Set([1]))
      })
    )

    test(
      "that are rejected locally are not told as attempts",
      Effect.gen(function*() {
        yield* counting(a, [response(Frame.Status.remote, "{}")])
        const told: Array<string> = []
        const receiver: CallEvent.Receiver = { event: ({ _tag }) => void told.push(_tag) }
        const client = yield* clientOf({ circuitBreaker: { consecutiveFailures: 1 }, retry: false })
        yield* Effect.exit(client.UserService.Get({ id: 1 }))
        yield* client.UserService.Get({ id: 1 }).pipe(
          Effect.exit,
          Effect.provideService(CallEvent.CurrentReceiver, receiver)
        )
        assert.deepStrictEqual(told, ["CallStarted", "Rejected", "CallEnded"])
      })
    )

    test(
      "have a circuit per method at each endpoint, where the breaker is keyed",
      Effect.gen(function*() {
        const failed = response(Frame.Status.remote, "{}")
        const nothing = response(Frame.Status.ok, "null")
        const [atA, atB] = [yield* counting(a, [failed, nothing]), yield* counting(b, [failed, ok])]
        const { UserService: { Get, Ping } } = yield* clientOf(
          { circuitBreaker: { consecutiveFailures: 1, keyed: {} }, retry: false, timeout: false },
          { target: "pair" }
        )
        assert.strictEqual(yield* told(Get({ id: 1 })), "Remote maybe")
        assert.strictEqual(yield* told(Get({ id: 1 })), "Remote maybe")
        assert.deepStrictEqual([atA.seen.length, atB.seen.length], [1, 1])
        assert.strictEqual(yield* told(Get({ id: 1 })), "CircuitOpen no")
        yield* Ping()
        assert.deepStrictEqual(atA.seen.length + atB.seen.length, 3)
      })
    )

    test(
      "are offered to another endpoint when the first rejects locally",
      Effect.gen(function*() {
        const [atA, atB] = [yield* counting(a, [undefined]), yield* counting(b, [undefined])]
        const client = yield* clientOf(
          { circuitBreaker: false, retry: false, timeout: false, bulkhead: { limit: 1, maxQueue: 0 } },
          { target: "pair" }
        )
        const first = yield* fork(client.UserService.Get({ id: 1 }))
        const second = yield* fork(client.UserService.Get({ id: 1 }))
        assert.deepStrictEqual([atA.seen.length, atB.seen.length], [1, 1])
        assert.strictEqual(yield* told(client.UserService.Get({ id: 1 })), "BulkheadFull no")
        yield* Fiber.interrupt(first)
        const third = yield* fork(client.UserService.Get({ id: 1 }))
        assert.strictEqual(atA.seen.length + atB.seen.length, 3)
        for (const fiber of [second, third]) yield* Fiber.interrupt(fiber)
      })
    )

    test(
      "of a call inside a retry of the caller's own do not multiply",
      Effect.gen(function*() {
        const { seen } = yield* counting(a, [unavailable])
        const client = yield* clientOf(instead)
        const retry = yield* Retry.make({ attempts: 3, backoff: Schedule.spaced("1 second") })
        const error = yield* finish(reason(client.UserService.Get({ id: 1 }).pipe(Policy.apply(retry))))
        assert.strictEqual(error._tag, "RetriesExhausted")
        assert.strictEqual(seen.length, 3)
      })
    )
  })

  describe("the deadline", () => {
    test(
      "holds around a server that never answers, and interrupts the handler",
      Effect.gen(function*() {
        const { interrupted, seen } = yield* counting(a, [undefined])
        const client = yield* clientOf({ ...instead, timeout: false })
        const call = yield* fork(reason(client.UserService.Get({ id: 1 }, { deadline: 1500 })))
        yield* TestClock.adjust(1499)
        assert.isUndefined(call.pollUnsafe())
        yield* TestClock.adjust(1)
        assert.deepInclude(yield* Fiber.join(call), {
          _tag: "DeadlineExceeded",
          method: "UserService.Get",
          elapsedMillis: 1500,
          sent: "maybe"
        })
        assert.deepStrictEqual([seen.length, interrupted], [1, ["deadline"]])
      })
    )

    const unconnected = Effect.provideService(Transport, { connect: () => Effect.never, listen: () => Effect.never })

    test(
      "holds while no connection opens, and so does an attempt's timeout: nothing was sent",
      Effect.gen(function*() {
        const client = yield* clientOf({ ...instead, timeout: false }).pipe(unconnected)
        const call = yield* fork(told(client.UserService.Rename({ id: 1, name: "B" }, { deadline: 1500 })))
        yield* TestClock.adjust(1499)
        assert.isUndefined(call.pollUnsafe())
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* Fiber.join(call), "DeadlineExceeded no")

        const timed = yield* clientOf({ circuitBreaker: false, retry: false, timeout: 200 }).pipe(unconnected)
        const attempt = yield* fork(told(timed.UserService.Rename({ id: 1, name: "B" }, { deadline: 1500 })))
        yield* TestClock.adjust(200)
        assert.strictEqual(yield* Fiber.join(attempt), "AttemptTimeout no")
      })
    )

    test(
      "holds over a slow connection and a server that never answers",
      Effect.gen(function*() {
        const { interrupted, seen } = yield* counting(a, [undefined])
        const transport = yield* Transport
        const slow = Effect.provideService(Transport, {
          ...transport,
          connect: (address: string) => Effect.andThen(Effect.sleep(1000), transport.connect(address))
        })
        const client = yield* clientOf({ ...instead, timeout: false }).pipe(slow)
        const call = yield* fork(told(client.UserService.Get({ id: 1 }, { deadline: 1500 })))
        yield* TestClock.adjust(1000)
        assert.strictEqual(seen.length, 1)
        yield* TestClock.adjust(500)
        assert.strictEqual(yield* Fiber.join(call), "DeadlineExceeded maybe")
        assert.deepStrictEqual(interrupted, ["deadline"])
      })
    )

    test(
      "holds in a queue of the stack",
      Effect.gen(function*() {
        const { seen } = yield* counting(a, [undefined])
        const slots: ReadonlyArray<readonly [ClientStack.Options, string]> = [
          [{ bulkhead: { limit: 1, maxQueue: 10 } }, "DeadlineExceeded"],
          [{ adaptiveLimiter: { initial: 1, min: 1, max: 1, maxQueue: 10 } }, "DeadlineExceeded"],
          // A wait whose length is known is not begun.
          [{ rateLimiter: { limit: 1, burst: 1, window: "1 minute", maxWait: "1 minute" } }, "LimitReached"]
        ]
        for (const [slot, tag] of slots) {
          const sent = seen.length
          const client = yield* clientOf({ circuitBreaker: false, retry: false, timeout: false, ...slot })
          const first = yield* fork(client.UserService.Get({ id: 1 }))
          const second = yield* fork(reason(client.UserService.Get({ id: 1 }, { deadline: 1500 })))
          yield* TestClock.adjust(1500)
          const exit = second.pollUnsafe()
          yield* Fiber.interrupt(first)
          assert.deepInclude(exit !== undefined && Exit.isSuccess(exit) ? exit.value : {}, { _tag: tag, sent: "no" })
          assert.strictEqual(seen.length, sent + 1)
        }
      })
    )

    test(
      "that passes while a second attempt queues says that the first may have been sent",
      Effect.gen(function*() {
        yield* counting(a, [response(Frame.Status.remote, JSON.stringify({ code: "A-E-1", retry: "safe" })), undefined])
        const client = yield* clientOf({
          circuitBreaker: false,
          retry: { attempts: 2, budget: false, backoff: Schedule.spaced(100) },
          timeout: false,
          bulkhead: { limit: 1, maxQueue: 1 }
        })
        const call = yield* fork(told(client.UserService.Get({ id: 1 }, { deadline: 1500 })))
        const hung = yield* fork(client.UserService.Get({ id: 2 }))
        yield* TestClock.adjust(1500)
        assert.strictEqual(yield* Fiber.join(call), "DeadlineExceeded maybe")
        yield* Fiber.interrupt(hung)
      })
    )

    test(
      "holds around a receiver's hook, whatever it waits for",
      Effect.gen(function*() {
        yield* counting(a, [undefined])
        const client = yield* clientOf({ ...instead, timeout: false })
        const hook: CallEvent.Receiver = {
          event: () => {},
          aroundAttempt: (self) => Effect.andThen(Effect.never, self(undefined))
        }
        const call = yield* fork(
          told(client.UserService.Get({ id: 1 }, { deadline: 1500 })).pipe(
            Effect.provideService(CallEvent.CurrentReceiver, hook)
          )
        )
        yield* TestClock.adjust(1500)
        assert.isDefined(call.pollUnsafe())
        assert.strictEqual(yield* Fiber.join(call), "DeadlineExceeded no")

        // A hook that goes on: from then on it may have been sent, whatever guards stand between.
        const through: CallEvent.Receiver = { ...hook, aroundAttempt: (self) => self(undefined) }
        const sent = yield* fork(
          told(client.UserService.Get({ id: 1 }, { deadline: 1500 })).pipe(
            Effect.provideService(CallEvent.CurrentReceiver, through)
          )
        )
        yield* TestClock.adjust(1500)
        assert.strictEqual(yield* Fiber.join(sent), "DeadlineExceeded maybe")

        // An attempt's timeout is around the hook too.
        const timed = yield* clientOf({ circuitBreaker: false, retry: false, timeout: 200 })
        const attempt = yield* fork(
          told(timed.UserService.Get({ id: 1 })).pipe(
            Effect.provideService(CallEvent.CurrentReceiver, {
              event: () => {},
              aroundAttempt: (self) => self(undefined)
            })
          )
        )
        yield* TestClock.adjust(200)
        assert.strictEqual(yield* Fiber.join(attempt), "AttemptTimeout maybe")
      })
    )

    test(
      "holds over attempts and their backoff, and carries the last error",
      Effect.gen(function*() {
        const { seen } = yield* counting(a, [undefined])
        const client = yield* clientOf({ ...instead, timeout: "1 second", retry: { attempts: 100, budget: false } })
        const call = yield* fork(reason(client.UserService.Get({ id: 1 }, { deadline: "5 seconds" })))
        yield* TestClock.adjust("5 seconds")
        const exceeded = yield* Fiber.join(call)
        assert.strictEqual(exceeded._tag, "DeadlineExceeded")
        assert.strictEqual(
          "last" in exceeded && exceeded.last instanceof CallError.CallError && exceeded.last.reason._tag,
          "AttemptTimeout"
        )
        assert.isAtLeast(seen.length, 2)
        assert.isTrue(seen.every(({ deadline }) => deadline === 5000))
      })
    )

    test(
      "of an attempt begins when the queue of its endpoint lets it go, and so does the attempt",
      Effect.gen(function*() {
        const transport = yield* Transport
        yield* transport.listen(a, () => Effect.delay(Effect.succeed(ok), 900))
        const client = yield* clientOf({ bulkhead: { limit: 1, maxQueue: 10 }, retry: false, timeout: "1 second" })
        const started: Array<number> = []
        const receiver: CallEvent.Receiver = {
          event: (event) => {
            if (event._tag === "AttemptStarted") started.push(event.atMillis)
          }
        }
        const call = Effect.exit(client.UserService.Get({ id: 1 }))
        for (const looking of [receiver, undefined]) {
          const looked = Effect.provideService(call, CallEvent.CurrentReceiver, looking)
          const three = yield* Effect.forEach([1, 2, 3], () => fork(looked))
          yield* TestClock.adjust(2700)
          for (const fiber of three) assert.isTrue(Exit.isSuccess(yield* Fiber.join(fiber)))
        }
        assert.deepStrictEqual(started, [0, 900, 1800])
      })
    )

    test(
      "that has passed sends nothing",
      Effect.gen(function*() {
        const { seen } = yield* counting(a, [ok])
        const client = yield* clientOf({})
        assert.strictEqual(yield* told(client.UserService.Get({ id: 1 }, { deadline: 0 })), "DeadlineExceeded no")
        const late = client.UserService.Get({ id: 1 }).pipe(
          Effect.provideService(CallContext.Current, { ...CallContext.empty, deadline: -1 })
        )
        assert.strictEqual(yield* told(late), "DeadlineExceeded no")
        assert.strictEqual(seen.length, 0)
      })
    )
  })

  test(
    "after an outage calls come back gradually, unless the breaker says that they should not",
    Effect.gen(function*() {
      yield* counting(a, [remote("never"), ok, ok, remote("never"), ok, ok])
      const moves = (ramp?: false) =>
        Effect.gen(function*() {
          const { of, record } = recording()
          const circuitBreaker = {
            consecutiveFailures: 1,
            openFor: "1 second",
            jitter: 0,
            halfOpen: { probes: 1 },
            ...(ramp === false && { ramp })
          } as const
          const client = yield* clientOf({ retry: false, circuitBreaker })
          const call = record(Effect.exit(client.UserService.Get({ id: 1 })))
          yield* call
          yield* TestClock.adjust("1 second")
          yield* call
          yield* TestClock.adjust("6 seconds")
          yield* call
          return of("Transition").map(({ from, to }) => `${from} > ${to}`)
        })
      assert.deepStrictEqual(yield* moves(), [
        "Closed > Open",
        "Open > HalfOpen",
        "HalfOpen > Recovering",
        "Recovering > Closed"
      ])
      assert.deepStrictEqual(yield* moves(false), ["Closed > Open", "Open > HalfOpen", "HalfOpen > Closed"])
    })
  )

  describe("policies of single methods", () => {
    test(
      "share the state of the slots they do not state, and have their own of those they do",
      Effect.gen(function*() {
        yield* counting(a, [response(Frame.Status.remote, "{}")])
        const circuitBreaker = { consecutiveFailures: 3 }
        const client = yield* Client.make(Users, {
          target: "users",
          policy: { retry: false, circuitBreaker },
          methods: {
            "UserService.Rename": { timeout: "1 second" },
            "UserService.Pay": { circuitBreaker: { consecutiveFailures: 3 } },
            "UserService.Ping": { circuitBreaker: false }
          }
        }).pipe(Effect.provide(discovery))
        const { Get, Pay, Ping, Rename } = client.UserService
        for (let call = 0; call < 3; call++) assert.strictEqual((yield* reason(Get({ id: 1 })))._tag, "Remote")
        assert.strictEqual((yield* reason(Get({ id: 1 })))._tag, "CircuitOpen")
        assert.strictEqual((yield* reason(Rename({ id: 1, name: "B" })))._tag, "CircuitOpen")
        assert.strictEqual((yield* reason(Pay({ order: "7" })))._tag, "Remote")
        assert.strictEqual((yield* reason(Ping()))._tag, "Remote")
      })
    )

    test(
      "and of different kinds have a state each, also where one object states both",
      Effect.gen(function*() {
        const kinds: Array<string> = []
        const register = ({ kind }: Policy.Registered) => {
          kinds.push(kind)
          return () => {}
        }
        yield* counting(a, [ok])
        const slot = {}
        yield* clientOf({ retry: false, circuitBreaker: slot, adaptiveLimiter: slot }).pipe(
          Effect.provideService(Policy.CurrentRegistry, { register })
        )
        assert.includeMembers(kinds, ["circuitBreaker", "adaptiveLimiter"])
      })
    )

    test(
      "have their own attempts, and one budget with the others unless they state their own",
      Effect.gen(function*() {
        const { seen } = yield* counting(a, [unavailable])
        const client = yield* Client.make(Users, {
          target: "users",
          policy: { circuitBreaker: false, retry: false },
          methods: {
            "UserService.Get": { retry: { attempts: 2, budget: false } },
            "UserService.Pay": { retry: { attempts: 2, budget: { reserve: 1 } } },
            "UserService.Rename": { retry: { attempts: 2 } }
          }
        }).pipe(Effect.provide(discovery))
        const { Get, Pay, Ping, Rename } = client.UserService
        const tags: Array<string> = []
        for (const call of [Ping(), Get({ id: 1 }), Pay({ order: "7" }), Rename({ id: 1, name: "B" })]) {
          tags.push((yield* finish(reason(call as Effect.Effect<unknown, unknown>)))._tag, String(seen.length))
        }
        assert.deepStrictEqual(tags, [
          "Unavailable",
          "1",
          "RetriesExhausted",
          "3",
          "RetriesExhausted",
          "5",
          "BudgetExhausted",
          "6"
        ])
      })
    )
  })

  test(
    "closing the scope finishes what is in flight and takes nothing more",
    Effect.gen(function*() {
      const gate = Deferred.makeUnsafe<void>()
      const transport = yield* Transport
      const listening = yield* transport.listen(a, () => Effect.as(Deferred.await(gate), ok))
      const scope = yield* Scope.fork(yield* Effect.scope)
      const client = yield* clientOf({ retry: false }).pipe(Scope.provide(scope))
      const last = yield* fork(client.UserService.Get({ id: 1 }))
      assert.strictEqual(listening.stats().inFlight, 1)
      const closing = yield* fork(Scope.close(scope, Exit.void))
      assert.deepInclude(yield* reason(client.UserService.Get({ id: 1 })), {
        _tag: "ConnectFailed",
        detail: "this client is draining",
        sent: "no"
      })
      assert.isUndefined(closing.pollUnsafe())
      yield* Deferred.succeed(gate, undefined)
      assert.strictEqual((yield* Fiber.join(last)).name, "Ada")
      yield* Fiber.join(closing)
      assert.strictEqual(listening.stats().sessions, 0)
      assert.deepInclude(yield* reason(client.UserService.Get({ id: 1 })), { detail: "this client has closed" })
    })
  )

  test(
    "two clients of one target have nothing in common",
    Effect.gen(function*() {
      const { listening } = yield* counting(a, [response(Frame.Status.remote, "{}")])
      const policy = { retry: false, circuitBreaker: { consecutiveFailures: 1 } } as const
      const [one, other] = [yield* clientOf(policy), yield* clientOf(policy)]
      yield* Effect.exit(one.UserService.Get({ id: 1 }))
      assert.strictEqual((yield* reason(one.UserService.Get({ id: 1 })))._tag, "CircuitOpen")
      assert.strictEqual((yield* reason(other.UserService.Get({ id: 1 })))._tag, "Remote")
      assert.strictEqual(listening.stats().sessions, 2)
    })
  )

  test(
    "goes on when a server comes back",
    Effect.gen(function*() {
      const first = yield* counting(a, [ok])
      const client = yield* clientOf({ retry: false, circuitBreaker: false })
      yield* client.UserService.Get({ id: 1 })
      yield* first.kill
      assert.strictEqual(yield* told(client.UserService.Get({ id: 1 })), "ConnectFailed no")
      const second = yield* counting(a, [ok])
      assert.strictEqual(yield* told(client.UserService.Get({ id: 1 })), "ConnectFailed no")
      yield* TestClock.adjust(50)
      assert.strictEqual((yield* client.UserService.Get({ id: 1 })).name, "Ada")
      assert.strictEqual(second.seen.length, 1)
    })
  )

  test(
    "tells a receiver of the call and of every attempt, and wraps both in its hooks",
    Effect.gen(function*() {
      yield* counting(a, [unavailable, ok])
      const client = yield* clientOf(instead)
      const events: Array<string> = []
      const receiver: CallEvent.Receiver = {
        event: (event) => {
          if (event._tag === "AttemptStarted" || event._tag === "AttemptEnded") {
            events.push(`${event._tag} ${event.call.attempt} ${event.endpoint}`)
          } else if (event._tag === "CallEnded") events.push(`CallEnded ${event.attempts} ${event.outcome.endpoint}`)
          else if (event._tag !== "EndpointChanged") events.push(event._tag)
        },
        aroundCall: (self, call) => Effect.tap(self, () => Effect.sync(() => void events.push(`call ${call.name}`))),
        aroundAttempt: (self, call) =>
          Effect.onExit(
            self({ traceId: "4bf92f3577b34da6a3ce929d0e0e4736", spanId: "00f067aa0ba902b7", sampled: true }),
            () => Effect.sync(() => void events.push(`attempt ${call.attempt}`))
          )
      }
      yield* finish(client.UserService.Get({ id: 1 })).pipe(
        Effect.provideService(CallEvent.CurrentReceiver, receiver)
      )
      assert.deepStrictEqual(events, [
        "CallStarted",
        `AttemptStarted 1 ${a}`,
        "attempt 1",
        `AttemptEnded 1 ${a}`,
        "RetryScheduled",
        `AttemptStarted 2 ${a}`,
        "attempt 2",
        `AttemptEnded 2 ${a}`,
        "call UserService.Get",
        "CallEnded 2 success"
      ])
    })
  )

  test(
    "an interrupt between any two steps of a call gives back every permit, slot and timer",
    Effect.gen(function*() {
      const { listening } = yield* counting(a, [undefined])
      const client = yield* clientOf({
        bulkhead: { limit: 1, maxQueue: 0 },
        rateLimiter: { limit: 1_000_000, window: "1 second" },
        circuitBreaker: { consecutiveFailures: 1 }
      })
      const clock = yield* Clock.Clock
      yield* interruptEverywhere(Effect.succeed({
        work: client.UserService.Get({ id: 1 }),
        check: (where: string) =>
          Effect.gen(function*() {
            assert.deepStrictEqual([listening.stats().inFlight, Timer.size(clock)], [0, 0], where)
            const next = yield* fork(client.UserService.Get({ id: 1 }))
            assert.deepStrictEqual([listening.stats().inFlight, next.pollUnsafe()], [1, undefined], where)
            yield* Fiber.interrupt(next)
          })
      }))
    })
  )

  it.effect("10,000 calls that end in every way leave no fiber and no timer", () => {
    const { counted, live } = fibers()
    return Effect.gen(function*() {
      const before = live()
      yield* Effect.scoped(Effect.gen(function*() {
        const ends = [
          Effect.succeed(ok),
          Effect.never,
          Effect.die("broken"),
          Effect.succeed(unavailable),
          Effect.succeed(remote("never")),
          Effect.succeed(response(Frame.Status.failed, "{}"))
        ]
        let requests = 0
        const transport = yield* Transport
        const listening = yield* transport.listen(a, () => ends[requests++ % ends.length]!)
        const client = yield* clientOf({
          ...instead,
          retry: { attempts: 2, budget: false, backoff: Schedule.spaced(1) }
        })
        const quiet = live()
        const tags = new Map<string, number>()
        for (let round = 0; round < 10; round++) {
          const call = Effect.forkDetach(client.UserService.Get({ id: 1 }), { startImmediately: true })
          const calls = yield* Effect.replicateEffect(call, 1000)
          const waiting = calls.filter((fiber) => fiber.pollUnsafe() === undefined)
          yield* Effect.forEach(waiting.slice(0, waiting.length / 2), Fiber.interrupt, { discard: true })
          yield* TestClock.adjust("10 seconds")
          for (const fiber of calls) {
            const exit = yield* Fiber.await(fiber)
            const error = Exit.isFailure(exit) ? exit.cause.reasons[0] : undefined
            const tag = error === undefined
              ? "ok"
              : "error" in error
              ? (error.error as CallError.CallError).reason._tag
              : "interrupted"
            tags.set(tag, (tags.get(tag) ?? 0) + 1)
          }
        }
        for (const tag of ["ok", "interrupted", "DecodeFailed", "Remote", "RetriesExhausted"]) {
          assert.isAbove(tags.get(tag)!, 100, tag)
        }
        assert.deepStrictEqual([live(), Timer.size(yield* Clock.Clock), listening.stats().inFlight], [quiet, 0, 0])
      }))
      assert.strictEqual(live(), before)
    }).pipe(counted, Effect.provide(InMemory.layer), Random.withSeed("many"))
  })
})
