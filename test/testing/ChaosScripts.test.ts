/** What must hold of a client and a server whatever goes wrong between them: laws over generated fault scripts. */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Clock, Effect, Exit, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { TestClock } from "effect/testing"
import * as Contract from "../../src/contract/Contract.ts"
import * as Timer from "../../src/contract/Timer.ts"
import * as ClientTest from "../../src/testing/ClientTest.ts"
import * as FaultScript from "../../src/testing/FaultScript.ts"
import * as Generators from "../../src/testing/Generators.ts"
import * as Leaks from "../../src/testing/Leaks.ts"

class Users extends RpcGroup.make(
  Rpc.make("Get", { payload: { id: Schema.Int }, success: Schema.String }).annotate(Contract.Idempotent, true)
).prefix("Users.") {}
const handlers = Users.toLayer({ "Users.Get": ({ id }) => Effect.as(Effect.sleep(5), `user ${id}`) })

const deadline = 1000

/** Calls through a client with hedges, all the way through a script and after it. */
const endures = (script: FaultScript.Script) =>
  Effect.gen(function*() {
    const clock = yield* Clock.Clock
    const client = yield* ClientTest.make(Users, handlers, {
      faults: script,
      endpoints: 2,
      policy: { hedge: { delay: "50 millis" } }
    })
    const call = Effect.gen(function*() {
      const at = Timer.nowOf(clock)
      const exit = yield* Effect.exit(client.Users.Get({ id: 1 }, { deadline }))
      return { took: Timer.nowOf(clock) - at, exit }
    })
    const made = []
    const step = script.endMillis / 40
    for (let at = 0; at < script.endMillis; at += step) {
      made.push(yield* Effect.forkChild(call))
      yield* TestClock.adjust(step)
    }
    yield* TestClock.adjust(deadline)
    for (const fiber of made) {
      const ended = fiber.pollUnsafe()
      assert(ended !== undefined && Exit.isSuccess(ended), "a call that has not ended, or died")
      assert.isAtMost(ended.value.took, deadline + 1)
    }
    // Circuits may be open for a minute, and connections in backoff.
    for (let tries = 0; tries < 100; tries++) {
      const last = yield* Effect.forkChild(call)
      yield* TestClock.adjust(deadline)
      const ended = last.pollUnsafe()
      if (ended !== undefined && Exit.isSuccess(ended) && Exit.isSuccess(ended.value.exit)) return
    }
    assert.fail("it is never well again")
  })

describe("whatever goes wrong between a client and its servers", () => {
  it.effect("every call ends by its deadline, all is well again afterwards, and nothing is left", () =>
    Effect.gen(function*() {
      const result = yield* Arbitrary.checkEffect(
        Generators.faultScriptsOfBytes,
        (document) => Effect.as(Leaks.check(Effect.flatMap(FaultScript.read(document), endures)), true),
        { runs: 50, seed: 1 }
      )
      assert.strictEqual(result._tag, "Passed", Arbitrary.formatCheckFailure(result))
    }))
})
