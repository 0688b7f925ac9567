import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Fiber, Layer, References, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { TestClock } from "effect/testing"
import type * as Client from "../../src/client/Client.ts"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as Contract from "../../src/contract/Contract.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as Profiles from "../../src/policy/Profiles.ts"
import * as Server from "../../src/server/Server.ts"
import * as ClientTest from "../../src/testing/ClientTest.ts"

class Missing extends Schema.TaggedError<Missing>()("Missing", { id: Schema.Int }) {}
class Users extends RpcGroup.make(
  Rpc.make("Get", { payload: { id: Schema.Int }, success: Schema.String, error: Missing })
    .annotate(Contract.Idempotent, true),
  Rpc.make("Where", { success: Schema.Int }).annotate(Contract.Idempotent, true)
).prefix("Users.") {}

class Names extends Context.Service<Names, { readonly of: (id: number) => string | undefined }>()("test/Names") {}

/** What a test says the dependency does, by the id it is asked for. */
const handlers = Users.toLayer(Effect.gen(function*() {
  const names = yield* Names
  return {
    "Users.Get": ({ id }) => {
      if (id === 404) return Effect.fail(new Missing({ id }))
      if (id === 503) {
        return Server.refuse({ _tag: "Unavailable", target: "users", detail: "draining", sent: "no" })
      }
      if (id === 0) return Effect.never
      return Effect.succeed(names.of(id) ?? "nobody")
    },
    "Users.Where": () => Effect.map(CallContext.Current, (call) => call.attempt)
  }
})).pipe(Layer.provide(Layer.succeed(Names, { of: (id) => id === 1 ? "Ada" : undefined })))

describe("ClientTest", () => {
  it.effect("makes typed calls to handlers, with nothing else running", () =>
    Effect.gen(function*() {
      const client = yield* ClientTest.make(Users, handlers)
      assert.strictEqual(yield* client.Users.Get({ id: 1 }), "Ada")
      assert.deepStrictEqual(yield* Effect.flip(client.Users.Get({ id: 404 })), new Missing({ id: 404 }))
    }))

  it.effect("takes a profile as its policy, and times out in virtual time", () =>
    Effect.gen(function*() {
      const client = yield* ClientTest.make(Users, handlers, { policy: Profiles.idempotentRead })
      const fiber = yield* Effect.forkChild(Effect.flip(client.Users.Get({ id: 0 }, { deadline: "400 millis" })), {
        startImmediately: true
      })
      yield* TestClock.adjust("399 millis")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(error._tag === "CallError" && error.reason._tag, "DeadlineExceeded")
    }))

  it.effect("opens a circuit, and closes it when time has passed", () =>
    Effect.gen(function*() {
      const client = yield* ClientTest.make(Users, handlers, {
        policy: {
          retry: false,
          circuitBreaker: { consecutiveFailures: 2, openFor: "5 seconds", halfOpen: { probes: 1 } }
        }
      })
      const tag = (id: number) =>
        client.Users.Get({ id }).pipe(
          Effect.catchTag("CallError", (error) => Effect.succeed(error.reason._tag)),
          Effect.catchTag("Missing", () => Effect.succeed("missing"))
        )
      assert.deepStrictEqual([yield* tag(503), yield* tag(503), yield* tag(1)], [
        "Unavailable",
        "Unavailable",
        "CircuitOpen"
      ])
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual(yield* tag(1), "Ada")
    }))

  it.effect("has as many endpoints as it is told, and a world of its own", () =>
    Effect.gen(function*() {
      const one = yield* ClientTest.make(Users, handlers, { endpoints: 3 })
      const other = yield* ClientTest.make(Users, handlers)
      assert.deepStrictEqual([yield* one.Users.Where(), yield* other.Users.Where()], [1, 1])
      const exit = yield* Effect.exit(ClientTest.make(Users, handlers, { endpoints: 0 }))
      assert.include(String(exit), "endpoints must be an integer >= 1, got 0")
    }))

  it.effect("leaves no timer when its scope closes", () =>
    Effect.gen(function*() {
      yield* Effect.scoped(Effect.flatMap(ClientTest.make(Users, handlers), (client) => client.Users.Get({ id: 1 })))
      assert.strictEqual(Timer.size(yield* Effect.clockWith(Effect.succeed)), 0)
    }))

  class UsersClient extends Context.Service<UsersClient, Client.Client<RpcGroup.Rpcs<typeof Users>>>()("test/Users") {}

  it.effect("stands in for an application's client as a Layer", () =>
    Effect.gen(function*() {
      const client = yield* UsersClient
      assert.strictEqual(yield* client.Users.Get({ id: 1 }), "Ada")
    }).pipe(
      Effect.provide(ClientTest.layer(UsersClient, Users, handlers)),
      Effect.provideService(References.MinimumLogLevel, "None")
    ))
})
