import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Effect, Layer, Schema } from "effect"
import { KeyValueStore } from "effect/persistence"
import * as StoreLaws from "../../src/testing/StoreLaws.ts"

const Operation = Schema.Union([
  Schema.Struct({ op: Schema.Literal("get"), key: Schema.Literals(["a", "b"]) }),
  Schema.Struct({ op: Schema.Literal("set"), key: Schema.Literals(["a", "b"]), value: Schema.Literals(["1", "2"]) }),
  Schema.Struct({ op: Schema.Literal("take"), key: Schema.Literals(["a", "b"]) })
])
type Operation = typeof Operation.Type
const operations = Arbitrary.schema(Operation)

type State = Readonly<Record<string, string>>

/** Gets, sets, and takes: gets and removes as one. */
const model = (state: State, operation: Operation): readonly [State, unknown] => {
  const { [operation.key]: held, ...others } = state
  if (operation.op === "set") return [{ ...state, [operation.key]: operation.value }, null]
  return [operation.op === "get" ? state : others, held ?? null]
}

const common = { operations, empty: {} as State, model }

/** A store of a map, whose `take` is one step or two. */
const store = (atomic: boolean) =>
  Effect.sync(() => {
    const map = new Map<string, string>()
    return (operation: Operation) => {
      if (operation.op === "set") return Effect.sync(() => (map.set(operation.key, operation.value), null))
      const get = Effect.sync(() => map.get(operation.key) ?? null)
      if (operation.op === "get") return get
      const remove = (value: string | null) => Effect.sync(() => (map.delete(operation.key), value))
      return atomic
        ? Effect.sync(() => {
          const value = map.get(operation.key) ?? null
          map.delete(operation.key)
          return value
        })
        : Effect.flatMap(get, remove)
    }
  })

const keyValueStore: Effect.Effect<KeyValueStore.KeyValueStore> = Effect.provide(
  Effect.service(KeyValueStore.KeyValueStore),
  Layer.fresh(KeyValueStore.layerMemory)
)

describe("StoreLaws", () => {
  it.effect("hold for a store that does each operation in one step", () =>
    StoreLaws.check({ ...common, make: store(true), apply: (store, operation) => store(operation), interleave: true }))

  it.effect("find an operation of two steps, by the fewest operations that show it", () =>
    Effect.gen(function*() {
      const lawBroken = yield* Effect.flip(StoreLaws.check({
        ...common,
        make: store(false),
        apply: (store, operation) => store(operation),
        interleave: true,
        runs: 1000
      }))
      assert.strictEqual(lawBroken.law, "at the same time, the answers are those of some order")
      const { clients } = lawBroken.counterexample as { readonly clients: ReadonlyArray<ReadonlyArray<Operation>> }
      assert.isAtMost(clients.flat().length, 5)
    }))

  it.effect("find a store that answers wrongly without any help", () =>
    Effect.gen(function*() {
      const lawBroken = yield* Effect.flip(StoreLaws.check({
        ...common,
        make: store(true),
        apply: (store, operation) => operation.op === "get" ? Effect.succeed("1") : store(operation)
      }))
      assert.strictEqual(lawBroken.law, "one after the other, the answers are the model's")
      assert.match(lawBroken.message, /\[0\.\.1\] \{"op":"get","key":"."\} → "1"/)
    }))

  it.effect("take a failure for an answer", () =>
    StoreLaws.check({
      operations: Arbitrary.Constant("insert"),
      make: Effect.sync(() => ({ full: false })),
      apply: (store) =>
        Effect.suspend(() => {
          if (store.full) return Effect.fail("full")
          store.full = true
          return Effect.succeed("done")
        }),
      empty: false as boolean,
      model: (full) => [true, full ? undefined : "done"],
      clients: 1
    }).pipe(
      Effect.flip,
      Effect.map((lawBroken) => assert.include(lawBroken.message, "fails: \"full\""))
    ))

  it.effect("hold for Effect's store of keys and values, run as it is", () =>
    StoreLaws.check({
      operations: Arbitrary.schema(Schema.Union([
        Schema.Struct({ op: Schema.Literal("get"), key: Schema.Literals(["a", "b"]) }),
        Schema.Struct({
          op: Schema.Literal("set"),
          key: Schema.Literals(["a", "b"]),
          value: Schema.Literals(["1", "2"])
        })
      ])),
      make: keyValueStore,
      apply: (store, operation) =>
        operation.op === "get"
          ? Effect.map(store.get(operation.key), (value) => value ?? null)
          : Effect.as(store.set(operation.key, operation.value), null),
      empty: {} as State,
      model: (state, operation) =>
        operation.op === "get"
          ? [state, state[operation.key] ?? null]
          : [{ ...state, [operation.key]: operation.value }, null]
    }))
})
