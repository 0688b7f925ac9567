import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Random from "effect/Random"
import * as References from "effect/References"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import * as Schema from "effect/Schema"
import * as TestClock from "effect/testing/TestClock"
import * as Discovery from "../../src/balancer/Discovery.ts"
import * as Client from "../../src/client/Client.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Contract from "../../src/contract/Contract.ts"
import * as Server from "../../src/server/Server.ts"
import * as InMemory from "../../src/transport/InMemory.ts"
import { type Session, Transport } from "../../src/transport/Transport.ts"
import * as BodyCodec from "../../src/wire/BodyCodec.ts"

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

  it.effect("of three in parallel, goes where none of the others is, also when one has moved meanwhile", () =>
    Effect.gen(function*() {
      const sent: Array<string> = []
      // The first is lost unsent after 15 ms, and moves; the others are not answered.
      const send = (address: string): Session["send"] => () =>
        Effect.suspend(() =>
          sent.push(address) > 1 ? Effect.never : Effect.andThen(Effect.sleep(15), CallError.fail(lostOf(address)))
        )
      const connect = (address: string): Effect.Effect<Session> =>
        Effect.succeed({
          address,
          status: "open",
          greeted: true,
          inFlight: 0,
          codec: BodyCodec.json,
          send: send(address),
          drain: Effect.void,
          onChange: () => () => {}
        })
      const client = yield* Client.make(Where, {
        target: "where",
        policy: { circuitBreaker: false, retry: { budget: false }, hedge: { delay: "10 millis", hedges: 2 } }
      }).pipe(
        Effect.provideService(Transport, { connect, listen: () => Effect.die("listens to nobody") }),
        Effect.provide(Discovery.layerStatic({ where: ["memory://a", "memory://b", "memory://c", "memory://d"] }))
      )
      for (let i = 0; i < 60; i++) {
        sent.length = 0
        const fiber = yield* Effect.forkChild(client.Where.Am())
        yield* TestClock.adjust(25)
        yield* Fiber.interrupt(fiber)
        const [, second, moved, third] = sent
        assert.lengthOf(sent, 4)
        assert.notIncludeMembers([second, moved], [third], sent.join(" "))
      }
    }).pipe(Effect.scoped, Random.withSeed("parallel")))
})

const lostOf = (target: string) => ({ _tag: "ConnectionLost", target, detail: "closed", sent: "no" }) as const
