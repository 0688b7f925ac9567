import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Layer, Stream } from "effect"
import * as Discovery from "../../src/balancer/Discovery.ts"

const dies = (self: Effect.Effect<unknown, unknown, never>, message: string) =>
  Effect.map(Effect.exit(self), (exit) => {
    assert.isTrue(Exit.isFailure(exit) && Exit.hasDies(exit))
    assert.include(String(Exit.isFailure(exit) ? exit.cause : ""), message)
  })

const watch = (table: Parameters<typeof Discovery.layerStatic>[0], target: string) =>
  Discovery.Discovery.use((discovery) => Stream.runCollect(discovery.watch(target))).pipe(
    Effect.provide(Discovery.layerStatic(table))
  )

describe("Discovery", () => {
  it.effect("a table says a target's addresses once", () =>
    Effect.gen(function*() {
      const table = { users: ["tcp://a:1", "tcp://b:1"], orders: ["tcp://c:1"] }
      assert.deepStrictEqual([...yield* watch(table, "users")], [table.users])
      assert.deepStrictEqual([...yield* watch(table, "orders")], [table.orders])
    }))

  it.effect("a table dies on a target without an address, on one twice, and when asked for what it does not have", () =>
    Effect.gen(function*() {
      const build = (table: Parameters<typeof Discovery.layerStatic>[0]) =>
        Effect.scoped(Layer.build(Discovery.layerStatic(table)))
      yield* dies(build({ users: [] }), "Discovery.layerStatic: users must be at least one address, got \"none\"")
      yield* dies(
        build({ users: ["a", "a"] }),
        "Discovery.layerStatic: users must be addresses that differ, got [\"a\",\"a\"]"
      )
      yield* dies(
        watch({ users: ["a"], orders: ["b"] }, "usres"),
        "Discovery.layerStatic: target must be one of users, orders, got \"usres\""
      )
    }))
})
