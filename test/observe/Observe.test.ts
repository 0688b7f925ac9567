import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Observe from "../../src/observe/Observe.ts"
import * as Policy from "../../src/policy/Policy.ts"

const trace = (spanId: string): CallContext.TraceContext => ({ traceId: "t", spanId, sampled: true })

describe("Observe", () => {
  const log: Array<string> = []
  const named = (name: string): Effect.Effect<CallEvent.Receiver> => {
    const around = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
      Effect.andThen(Effect.sync(() => log.push(`${name} around`)), self)
    return Effect.succeed({
      event: (event) => log.push(`${name} ${event._tag}`),
      aroundCall: around,
      aroundAttempt: (self, call) => self(trace(`${call.trace?.spanId ?? ""}${name}`)),
      aroundHandler: around
    })
  }
  const silent: Effect.Effect<CallEvent.Receiver> = Effect.succeed({ event: () => {} })
  const seen = Effect.gen(function*() {
    log.length = 0
    const receiver = (yield* CallEvent.CurrentReceiver)!
    receiver.event({ _tag: "Warning", policy: "p", why: "w", atMillis: 0 })
    yield* receiver.aroundCall?.(Effect.void, CallContext.empty) ?? Effect.void
    yield* receiver.aroundHandler?.(Effect.void, CallContext.empty, "peer") ?? Effect.void
    const sent = yield* receiver.aroundAttempt?.(Effect.succeed, CallContext.empty, undefined) ?? Effect.undefined
    return [...log, sent?.spanId]
  })

  it.effect("tells every receiver, the first outermost, and the trace of the innermost is sent", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(
        yield* Effect.provide(seen, Observe.layer(named("a"), silent, named("b"))),
        ["a Warning", "b Warning", "a around", "b around", "a around", "b around", "ab"]
      )
    }))

  it.effect("keeps who looks already, inside", () =>
    Effect.gen(function*() {
      const layer = Layer.provide(Observe.layer(named("new")), Observe.layer(named("old")))
      const log = yield* Effect.provide(seen, layer)
      assert.deepStrictEqual(log.slice(0, 2), ["new Warning", "old Warning"])
    }))

  it.effect("installs nobody, and no hooks where nobody has one", () =>
    Effect.gen(function*() {
      const receiver = Effect.map(CallEvent.CurrentReceiver, (receiver) => receiver)
      assert.isUndefined(yield* Effect.provide(receiver, Observe.layer()))
      const one = yield* Effect.provide(receiver, Observe.layer(silent, silent))
      assert.deepStrictEqual(Object.keys(one!), ["event"])
    }))

  it.effect("announces a policy to every observer who asks and to whoever keeps a registry already", () =>
    Effect.gen(function*() {
      const known = new Set<string>()
      const keeping = (who: string): Policy.Registry => ({
        register: ({ name }) => {
          known.add(`${who} ${name}`)
          return () => void known.delete(`${who} ${name}`)
        }
      })
      const policies = Effect.succeed({ event: () => {}, policies: keeping("new") })
      const registry = Effect.map(Policy.CurrentRegistry, (registry) => registry)
      const policy: Policy.Registered = { name: "p", kind: "custom", snapshot: () => ({}) }
      yield* Effect.gen(function*() {
        assert.isUndefined(yield* Effect.provide(registry, Observe.layer(silent)))
        const both = yield* Effect.provide(
          registry,
          Layer.provide(
            Observe.layer(policies, silent),
            Layer.succeed(Policy.CurrentRegistry, keeping("old"))
          )
        )
        const remove = both!.register(policy)
        assert.deepStrictEqual([...known], ["new p", "old p"])
        remove()
        assert.strictEqual(known.size, 0)
      })
    }))
})
