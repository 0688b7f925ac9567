import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect } from "effect"
import { TestClock } from "effect/testing"
import * as Timer from "../../../src/contract/Timer.ts"
import { Running, ServerSession } from "../../../src/transport/internal/serverSession.ts"
import type { Limits } from "../../../src/transport/internal/session.ts"
import type { Serve } from "../../../src/transport/Transport.ts"
import { fibers } from "../../support/fibers.ts"
import { frame, helloFrame, requestFrame, Type, u32 } from "../../support/peer.ts"
import { FakePipe } from "../../support/pipe.ts"
import { response, Script } from "../../support/script.ts"
import { envOf } from "../../support/session.ts"

const serverOf = (serve: Serve, limits: Partial<Limits> = {}) =>
  Effect.map(Effect.all([envOf(limits), Effect.context<never>()]), ([env, context]) => {
    const pipe = new FakePipe()
    return { pipe, session: new ServerSession(pipe, env, serve, new Running(context)) }
  })

const timers = Effect.map(Clock.Clock, Timer.size)

describe("ServerSession", () => {
  it.effect("runs nothing more once it is closed, from within a handler too", () =>
    Effect.gen(function*() {
      let served = 0
      let session: ServerSession | undefined
      const made = yield* serverOf(() =>
        Effect.suspend(() => {
          served++
          session!.close("the handler said so")
          return Effect.never
        })
      )
      session = made.session
      session.onData(
        Buffer.concat([requestFrame(0, "M"), requestFrame(1, "M"), helloFrame(), requestFrame(2, "M").subarray(0, 9)])
      )
      made.pipe.turn()
      assert.deepStrictEqual([served, session.inFlight, made.pipe.frames(), made.pipe.told], [1, 0, [], ["destroy"]])
      assert.strictEqual(yield* timers, 0)
    }))

  it.effect("half a frame behind answers that are not read is not held against the peer", () =>
    Effect.gen(function*() {
      const { pipe, session } = yield* serverOf(() => Effect.succeed(response(0, "")))
      pipe.keepsUp = false
      session.onData(Buffer.concat([requestFrame(0, "M"), requestFrame(1, "M").subarray(0, 9)]))
      pipe.turn()
      assert.deepStrictEqual(pipe.told, ["pause"])
      yield* TestClock.adjust("20 seconds")
      pipe.turn()
      assert.deepStrictEqual(pipe.told, ["pause"])
      pipe.keepsUp = true
      session.onDrain()
      yield* TestClock.adjust("10 seconds")
      pipe.turn()
      assert.deepStrictEqual(pipe.told, ["pause", "resume", "destroy"])
      assert.strictEqual(yield* timers, 0)
    }))

  it.effect("a cancel reaches the slot's present user, whatever outlasts its own", () =>
    Effect.gen(function*() {
      const script = new Script()
      const { pipe, session } = yield* serverOf(script.serve)
      const cancel = (id: number) => session.onData(frame(Type.cancel, u32(id), Buffer.from([0])))
      session.onData(requestFrame(5, "stubborn", "first"))
      cancel(5)
      session.onData(requestFrame(0x1_0005, "wait", "second"))
      yield* script.release("first")
      yield* script.ended("first")
      cancel(5)
      assert.strictEqual(session.inFlight, 1)
      cancel(0x1_0005)
      assert.deepStrictEqual([yield* script.ended("second"), session.inFlight], ["caller", 0])
      pipe.turn()
      assert.deepStrictEqual(pipe.frames().map(({ payload }) => payload.readUInt32BE(0)), [5, 0x1_0005])
    }))

  it.effect("a cancel at any moment leaves no fiber and one answer", () => {
    const { counted, live } = fibers()
    return Effect.gen(function*() {
      const before = live()
      const script = new Script()
      const { pipe, session } = yield* serverOf(script.serve)
      session.onData(helloFrame())
      for (let id = 0; id < 100; id++) {
        const cancel = frame(Type.cancel, u32(id), Buffer.from([id % 5]))
        session.onData(Buffer.concat([requestFrame(id, id % 2 === 0 ? "never" : "echo"), cancel, cancel]))
        assert.strictEqual(session.inFlight, 0)
      }
      pipe.turn()
      const answers = pipe.frames().filter(({ type }) => type === Type.response)
      assert.deepStrictEqual(
        answers.map(({ payload }) => payload.readUInt32BE(0)),
        Array.from({ length: 100 }, (_, id) => id)
      )
      assert.strictEqual(live(), before)
    }).pipe(counted)
  })
})
