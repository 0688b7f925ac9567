/** A client that prefers the binary codec, and servers that know it, or do not. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Layer, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import * as Discovery from "../../src/balancer/Discovery.ts"
import * as Client from "../../src/client/Client.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as Server from "../../src/server/Server.ts"
import * as InMemory from "../../src/transport/InMemory.ts"
import * as Tcp from "../../src/transport/Tcp.ts"
import { type Serve, Transport } from "../../src/transport/Transport.ts"
import * as BodyCodec from "../../src/wire/BodyCodec.ts"
import * as Frame from "../../src/wire/Frame.ts"

class UserNotFound extends Schema.TaggedError<UserNotFound>()("UserNotFound", { id: Schema.Int }) {}
const User = Schema.Struct({ id: Schema.Int, name: Schema.String })
class Users extends RpcGroup.make(
  Rpc.make("Get", { payload: { id: Schema.Int }, success: User, error: UserNotFound })
).prefix("Users.") {}
const handlers = Users.toLayer({
  "Users.Get": ({ id }) => id === 7 ? Effect.fail(new UserNotFound({ id })) : Effect.succeed({ id, name: "Ada" })
})
const { binary, json } = BodyCodec

/** A client of `address` that waits until the server has said what it understands. */
const clientOf = (address: string, codec?: BodyCodec.BodyCodec) =>
  Client.make(Users, { target: "users", codec }).pipe(
    Effect.provide(Discovery.layerStatic({ users: [address] }))
  )

/** Notes the codec of each request on its way to a server, and of each response. */
const watched = (seen: Array<readonly [request: number, response: number]>) =>
  Layer.effect(
    Transport,
    Effect.map(Transport, (transport) => ({
      ...transport,
      listen: (address: string, serve: Serve) =>
        transport.listen(address, (request, peer) =>
          Effect.map(serve(request, peer), (response) => {
            seen.push([request.codec, response.codec])
            return response
          }))
    }))
  )

/** One answered frame, whatever the request was. */
const stub = (answer: Omit<Frame.Response, "retryAfterMillis" | "headers" | "processed">) =>
  Effect.gen(function*() {
    const transport = yield* Transport
    yield* transport.listen("memory://stub", () =>
      Effect.succeed({ ...answer, processed: true, retryAfterMillis: undefined, headers: {} }))
    return yield* clientOf("memory://stub", binary)
  }).pipe(
    Effect.flatMap((client) =>
      Effect.flip(client.Users.Get({ id: 1 }))
    ),
    Effect.provide(InMemory.layer)
  )

describe("a client's codec", () => {
  for (
    const [name, layer, listen] of [
      ["in memory", InMemory.layer, "memory://users"],
      ["over TCP", Tcp.layer(), "tcp://127.0.0.1:0"]
    ] as const
  ) {
    it.live(`${name}: binary bodies go both ways once the server has named the codec, errors included`, () => {
      const seen: Array<readonly [number, number]> = []
      return Effect.gen(function*() {
        const server = yield* Server.make(Users, { listen })
        const client = yield* clientOf(server.address, binary)
        // The first call may be on its way before the server's hello is here.
        yield* client.Users.Get({ id: 1 })
        seen.length = 0
        assert.deepStrictEqual(yield* client.Users.Get({ id: 1001 }), { id: 1001, name: "Ada" })
        assert.deepStrictEqual(yield* Effect.flip(client.Users.Get({ id: 7 })), new UserNotFound({ id: 7 }))
        assert.deepStrictEqual(seen, [[2, 2], [2, 2]])
        assert.strictEqual(server.stats().invalid, 0)
      }).pipe(Effect.provide([handlers, Layer.provide(watched(seen), layer)]))
    })

    it.live(`${name}: a client that states none writes JSON`, () => {
      const seen: Array<readonly [number, number]> = []
      return Effect.gen(function*() {
        const server = yield* Server.make(Users, { listen })
        const client = yield* clientOf(server.address)
        for (const id of [1, 2]) yield* client.Users.Get({ id })
        assert.deepStrictEqual(seen, [[1, 1], [1, 1]])
      }).pipe(Effect.provide([handlers, Layer.provide(watched(seen), layer)]))
    })
  }

  it.effect("before the server's hello, and to a server that never says one, bodies are JSON", () => {
    const requests: Array<Frame.Request> = []
    const answered = json.compile(User).encode({ id: 1, name: "Ada" })
    assert.strictEqual(answered._tag, "Success")
    const body = answered._tag === "Success" ? answered.success : BodyCodec.noBytes
    const silent = Transport.of({
      connect: (address) =>
        Effect.succeed({
          address,
          status: "open",
          greeted: true,
          inFlight: 0,
          codec: json,
          send: (request) => {
            requests.push(request)
            return Effect.succeed({
              status: Frame.Status.ok,
              codec: 1,
              body,
              processed: true,
              retryAfterMillis: undefined,
              headers: {}
            })
          },
          drain: Effect.void,
          onChange: () => () => {}
        }),
      listen: () => Effect.die("not here")
    })
    return Effect.gen(function*() {
      const client = yield* clientOf("memory://silent", binary)
      assert.deepStrictEqual(yield* client.Users.Get({ id: 1 }), { id: 1, name: "Ada" })
      assert.deepStrictEqual(requests.map(({ codec }) => codec), [1])
      assert.strictEqual(Buffer.from(requests[0]!.body).toString(), `{"id":1}`)
    }).pipe(Effect.provideService(Transport, silent))
  })

  it.effect("an answer in another codec than its request's fails that call, typed", () =>
    Effect.gen(function*() {
      for (const status of [Frame.Status.ok, Frame.Status.failed]) {
        const error = yield* stub({ status, codec: 1, body: Buffer.from(`{"id":1,"name":"Ada"}`) })
        assert.isTrue(CallError.isCallError(error))
        const reason = (error as CallError.CallError).reason as CallError.DecodeFailed
        assert.deepStrictEqual([reason._tag, reason.detail], ["DecodeFailed", "body codec 1 in answer to codec 2"])
      }
    }))

  it.effect("binary bytes that are no answer fail that call, typed", () =>
    Effect.gen(function*() {
      for (const bytes of [[], [0x01, 0x20], [0x02, 0x21, 0x00], [0xff, 0xff]]) {
        const error = yield* stub({ status: Frame.Status.ok, codec: 2, body: Uint8Array.from(bytes) })
        assert.strictEqual((error as CallError.CallError).reason._tag, "DecodeFailed")
      }
    }))

  it.effect("a failure of the runtime is JSON, whatever the codec", () =>
    Effect.gen(function*() {
      const error = yield* stub({
        status: Frame.Status.invalidRequest,
        codec: 1,
        body: Buffer.from(`{"message":"no such"}`)
      })
      const reason = (error as CallError.CallError).reason as CallError.InvalidRequest
      assert.deepStrictEqual([reason._tag, reason.detail], ["InvalidRequest", "no such"])
    }))

  it.effect("a server refuses a codec it does not know, and one that has no form for the method's schemas, typed", () =>
    Effect.gen(function*() {
      const Opaque = Schema.Union([Schema.Struct({ a: Schema.String }), Schema.Struct({ a: Schema.Int })])
      class Things extends RpcGroup.make(Rpc.make("Put", { payload: Opaque })).prefix("Things.") {}
      const server = yield* Server.make(Things, { listen: "memory://things" }).pipe(
        Effect.provide(Things.toLayer({ "Things.Put": () => Effect.void }))
      )
      const session = yield* Effect.flatMap(Transport, (transport) => transport.connect(server.address))
      const send = (codec: number) =>
        session.send({
          method: "Things.Put",
          codec,
          body: Buffer.from(`{"a":1}`),
          deadline: Infinity,
          attempt: 1,
          hedge: false,
          idempotent: false,
          criticality: "critical",
          idempotencyKey: undefined,
          trace: undefined,
          headers: {}
        })
      assert.strictEqual((yield* send(1)).status, Frame.Status.ok)
      for (const [codec, why] of [[3, "unknown body codec 3"], [2, "Binary layout: union members"]] as const) {
        const { body, codec: answered, processed, status } = yield* send(codec)
        assert.deepStrictEqual([status, answered, processed], [Frame.Status.invalidRequest, 1, false])
        assert.include(Buffer.from(body).toString(), why)
      }
      assert.strictEqual(server.stats().invalid, 2)
      const exit = yield* Effect.exit(
        Client.make(Things, { target: "things", codec: binary }).pipe(
          Effect.provide(Discovery.layerStatic({ things: [server.address] }))
        )
      )
      const died = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
      assert.instanceOf(died, RangeError)
      assert.match(
        (died as Error).message,
        /^Client.make: codec must be one that has a form for Things.Put, got "binary: /
      )
    }).pipe(Effect.provide(InMemory.layer)))

  it.effect("a codec that no hello could name dies at construction", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(clientOf("memory://x", { ...json, id: 200, name: "mine" }))
      const died = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
      assert.strictEqual(
        (died as Error).message,
        `Client.make: codec must be a BodyCodec of this version, got "mine"`
      )
    }).pipe(Effect.provide(InMemory.layer)))
})
