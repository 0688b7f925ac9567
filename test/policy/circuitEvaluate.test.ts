import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber } from "effect"
import { evaluate, isImmediate } from "../../src/contract/Immediate.ts"

/** An effect with a handler, run in one step, and the exits that the handler saw. */
const handled = <A, E>(self: Effect.Effect<A, E>) => {
  const seen: Array<Exit.Exit<A, E>> = []
  const run = Effect.onExitPrimitive(self, (exit) => {
    seen.push(exit)
    return undefined
  })
  return [Effect.withFiber<A, E>((fiber) => evaluate(run, self, fiber)), seen] as const
}

describe("evaluate", () => {
  it("knows how this Effect evaluates", () => {
    assert.isTrue(isImmediate)
  })

  it.effect("shows the handler what the effect answers: a value, an error, a defect, an exception", () =>
    Effect.gen(function*() {
      const thrown = new Error("thrown")
      const nothing: ReadonlyArray<unknown> = []
      for (
        const [self, expected] of [
          [Effect.succeed(1), Exit.succeed(1)],
          [Effect.sync(() => nothing.length), Exit.succeed(0)],
          [Effect.fail("no"), Exit.fail("no")],
          [Effect.die("broken"), Exit.die("broken")],
          [
            Effect.sync(() => {
              throw thrown
            }),
            Exit.die(thrown)
          ],
          [Effect.andThen(Effect.yieldNow, Effect.succeed(3)), Exit.succeed(3)]
        ] as ReadonlyArray<readonly [Effect.Effect<number, string>, Exit.Exit<number, string>]>
      ) {
        const [run, seen] = handled(self)
        assert.deepStrictEqual(yield* Effect.exit(run), expected)
        assert.deepStrictEqual(seen, [expected])
      }
    }))

  it.effect("shows the handler an interrupt, once", () =>
    Effect.gen(function*() {
      const [run, seen] = handled(Effect.never)
      const fiber = yield* Effect.forkChild(run, { startImmediately: true })
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(seen.map(Exit.hasInterrupts), [true])
    }))

  it.effect("may be run again, and by several at once", () =>
    Effect.gen(function*() {
      const gate = yield* Deferred.make<number>()
      const [run, seen] = handled(Deferred.await(gate))
      const fibers = yield* Effect.replicateEffect(Effect.forkChild(run, { startImmediately: true }), 3)
      yield* Deferred.succeed(gate, 7)
      assert.deepStrictEqual(yield* Effect.forEach(fibers, Fiber.join), [7, 7, 7])
      assert.strictEqual(seen.length, 3)
    }))

  it.effect("does not grow the stack, however often effects run inside each other", () =>
    Effect.gen(function*() {
      let depth = 0
      const nest: Effect.Effect<number> = Effect.suspend(() =>
        ++depth < 10_000 ? handled(nest)[0] : Effect.succeed(depth)
      )
      assert.strictEqual(yield* nest, 10_000)
      let self: Effect.Effect<number> = Effect.succeed(1)
      for (let i = 0; i < 500; i++) self = handled(self)[0]
      assert.strictEqual(yield* self, 1)
    }))
})
