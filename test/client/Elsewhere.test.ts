import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as References from "effect/References"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import * as Schema from "effect/Schema"
import * as TestClock from "effect/testing/TestClock"
import * as Discovery from "../../src/balancer/Discovery.ts"
import * as Client from "../../src/client/Client.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Contract from "../../src/contract/Contract.ts"
import * as Server from "../../src/server/Server.ts"
import * as InMemory from "../../src/transport/InMemory.ts"

class Where extends RpcGroup.make(
  Rpc.make("Where.Am", { success: Schema.String }).annotate(Contract.Idempotent, true)
) {}

const serve = (address: string, healthy: boolean) =>
  Server.make(Where, { listen: address, drainGrace: 0 }).pipe(
    Effect.provide(
      Where.toLayer({ "Where.Am": () => healthy ? Effect.succeed(address) : Effect.die("unwell") })
    )
  )

describe("an attempt after the first", () => {
  it.effect("goes where its call has not been, so that no two of three draw the same bad endpoint", () =>
    Effect.gen(function*() {
      // The bad ones die in every call, and a server logs that.
      const bad = ["memory://a", "memory://b"]
      const good = "memory://c"
      yield* Effect.forEach(bad, (address) => serve(address, false))
      yield* serve(good, true)
      const client = yield* Client.make(Where, {
        target: "where",
        policy: { circuitBreaker: false, retry: { budget: false } }
      }).pipe(Effect.provide(Discovery.layerStatic({ where: [...bad, good] })))
      const paths: Array<ReadonlyArray<string | undefined>> = []
      for (let i = 0; i < 60; i++) {
        const path: Array<string | undefined> = []
        const fiber = yield* client.Where.Am().pipe(
          Effect.provideService(CallEvent.CurrentReceiver, {
            event: (event) => {
              if (event._tag === "AttemptStarted") path.push(event.endpoint)
            }
          }),
          Effect.forkChild
        )
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* Effect.flatten(Effect.sync(() => fiber.pollUnsafe()!)), good)
        paths.push(path)
      }
      assert.deepStrictEqual(paths.filter((path) => new Set(path).size < path.length), [])
      // The draw was not always a happy one.
      assert.isTrue(paths.some((path) => path.length === 3))
    }).pipe(
      Effect.scoped,
      Effect.provide(InMemory.layer),
      Effect.provideService(References.MinimumLogLevel, "None"),
      Random.withSeed("elsewhere")
    ))
})
