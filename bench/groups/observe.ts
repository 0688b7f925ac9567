/**
 * What looking costs: nobody looks, metrics on, tracing on but sampled out.
 *
 * On the policy stack around a synchronous operation, and on a client's call over
 * a transport that answers at once: the client's own path and nothing else.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Discovery from "../../src/balancer/Discovery.ts"
import * as Client from "../../src/client/Client.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Metrics from "../../src/observe/Metrics.ts"
import * as Observe from "../../src/observe/Observe.ts"
import * as Tracing from "../../src/observe/Tracing.ts"
import * as Policy from "../../src/policy/Policy.ts"
import { type Session, Transport } from "../../src/transport/Transport.ts"
import * as BodyCodec from "../../src/wire/BodyCodec.ts"
import * as Frame from "../../src/wire/Frame.ts"
import { inFiber } from "../contenders.ts"
import type { Contender } from "../harness.ts"
import { Users } from "../peers/contract.ts"
import { stackSlots } from "./policies.ts"

const answer: Frame.Response = {
  status: Frame.Status.ok,
  codec: BodyCodec.json.id,
  body: Buffer.from(JSON.stringify({ id: 1, name: "Ada Lovelace", email: "ada@example.org", active: true })),
  processed: true,
  retryAfterMillis: undefined,
  headers: {}
}

/** Answers at once, and says nothing else. */
const echo = Transport.of({
  connect: (address) =>
    Effect.succeed<Session>({
      address,
      status: "open",
      greeted: true,
      inFlight: 0,
      codec: BodyCodec.json,
      send: () => Effect.succeed(answer),
      drain: Effect.void,
      onChange: () => () => {}
    }),
  listen: () => Effect.die("nobody listens here")
})

const one = Effect.sync(() => 1)

/** The looks a call's path takes for a receiver that is not there. */
const looks = 6
const looking = Effect.withFiber((fiber) => {
  for (let i = 0; i < looks; i++) CallEvent.receiverOf(fiber)
  return Effect.void
})

/** Contenders in the context of a layer, which also sees what is made. */
const under = async (name: string, layer: Layer.Layer<never>): Promise<ReadonlyArray<Contender>> => {
  const scope = Scope.makeUnsafe()
  const context = await Effect.runPromise(Layer.buildWithScope(layer, scope))
  const [stack, client] = await Effect.runPromise(
    Effect.gen(function*() {
      const slots = yield* stackSlots
      const client = yield* Client.make(Users, { target: "users" })
      return [Policy.stack(slots), client] as const
    }).pipe(
      Effect.provideService(Transport, echo),
      Effect.provide(Discovery.layerStatic({ users: ["tcp://127.0.0.1:1"] })),
      Scope.provide(scope),
      Effect.provideContext(context)
    )
  )
  const within = (contender: string, effect: Effect.Effect<unknown, unknown>): Contender => {
    const { run } = inFiber(contender, effect)
    const provided: Contender = {
      name: contender,
      run: (n) =>
        Effect.runPromise(
          Effect.gen(function*() {
            for (let i = 0; i < n; i++) yield* effect
          }).pipe(Effect.provideContext(context)) as Effect.Effect<void>
        )
    }
    return name === "nobody looks" ? { name: contender, run } : provided
  }
  return [
    within(`Policy.stack, ${name}`, stack.run(one)),
    within(`client call, ${name}`, client.Users.Get({ id: 1 }))
  ]
}

export const looked = async (): Promise<ReadonlyArray<Contender>> => [
  inFiber("bare effect", one),
  inFiber("withFiber", Effect.withFiber(() => Effect.void)),
  inFiber(`${looks} looks for a receiver`, looking),
  ...await under("nobody looks", Layer.empty),
  ...await under("metrics", Observe.layer(Metrics.make())),
  ...await under("sampled out", Observe.layer(Tracing.make({ sampleRatio: 0 }))),
  ...await under("traced", Observe.layer(Tracing.make({ sampleRatio: 1 })))
]
