import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as Timer from "../../../src/contract/Timer.ts"
import { ClientSession } from "../../../src/transport/internal/clientSession.ts"
import type { Limits } from "../../../src/transport/internal/session.ts"
import { interruptEverywhere } from "../../support/interruptEverywhere.ts"
import { frame, helloFrame, responseFrame, Type } from "../../support/peer.ts"
import { FakePipe } from "../../support/pipe.ts"
import { told } from "../../support/reason.ts"
import { request, textOf } from "../../support/script.ts"
import { envOf } from "../../support/session.ts"

const clientOf = (limits: Partial<Limits> = {}) =>
  Effect.map(envOf(limits), (env) => {
    const pipe = new FakePipe()
    const session = new ClientSession("fake", pipe, env)
    pipe.turn()
    pipe.frames()
    return {
      pipe,
      session,
      call: (body = "") => session.send(request("M", body)),
      /** The ids of the requests handed over since the last time. */
      ids: () => {
        pipe.turn()
        return pipe.frames().filter(({ type }) => type === Type.request).map(({ payload }) => payload.readUInt32BE(0))
      },
      answer: (...ids: ReadonlyArray<number>) =>
        session.onData(Buffer.concat(ids.map((id) => responseFrame(id, `${id}`))))
    }
  })

const fork = <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.forkChild(self, { startImmediately: true })
const timers = Effect.map(Clock.Clock, Timer.size)

describe("ClientSession", () => {
  it.effect("a generation follows the other, and the first the last", () =>
    Effect.gen(function*() {
      const { answer, call, ids, session } = yield* clientOf()
      const seen: Array<number> = []
      for (let use = 0; use < 5; use++) {
        const fiber = yield* fork(call())
        const [id] = ids()
        seen.push(id!)
        // Late answers to the uses before, of which the table does not know any more.
        answer(...seen.slice(0, -1).filter((earlier) => earlier !== id))
        assert.isUndefined(fiber.pollUnsafe())
        answer(id!)
        assert.strictEqual(textOf(yield* Fiber.join(fiber)), String(id))
        if (use === 1) (Reflect.get(session, "generations") as Array<number>)[0] = 0xfffe
      }
      assert.deepStrictEqual(seen, [0, 0x1_0000, 0xfffe_0000, 0xffff_0000, 0])
    }))

  it.effect("holds nothing of calls that were left and answered", () =>
    Effect.gen(function*() {
      const { answer, call, ids, pipe, session } = yield* clientOf()
      const quarantine = Reflect.get(session, "quarantine") as { readonly held: number }
      for (let round = 0; round < 5000; round++) {
        const [left, other] = [yield* fork(call()), yield* fork(call())]
        const [a, b] = ids()
        yield* Fiber.interrupt(left)
        answer(b!, a!)
        yield* Fiber.join(other)
      }
      assert.strictEqual(session.pendingIds, 0)
      assert.isAtMost(quarantine.held, 64)
      assert.deepStrictEqual(pipe.told, [])
    }))

  it.effect("an interrupt between any two steps of a call leaves no slot taken and none doubly free", () =>
    interruptEverywhere(Effect.gen(function*() {
      const { answer, call, ids, session } = yield* clientOf({ maxInFlight: 2, maxQueued: 1 })
      const held = yield* Effect.forkDetach(call("held"), { startImmediately: true })
      return {
        work: call("left"),
        check: (where) =>
          Effect.gen(function*() {
            assert.strictEqual(session.inFlight, 1, where)
            const owed = ids()
            assert.strictEqual(session.pendingIds, owed.length, where)
            answer(...owed)
            yield* Fiber.join(held)
            assert.deepStrictEqual([session.inFlight, session.pendingIds], [0, 0], where)
            // Both slots are there, and are two.
            const again = [yield* fork(call()), yield* fork(call())]
            const [a, b] = ids()
            assert.deepStrictEqual([a! & 0xffff, b! & 0xffff].toSorted(), [0, 1], where)
            answer(a!, b!)
            for (const fiber of again) yield* Fiber.join(fiber)
            session.close("over")
          })
      }
    })))

  it.effect("a call has not left before its flush, and may have from then on", () =>
    Effect.gen(function*() {
      for (const keepsUp of [true, false]) {
        const { call, pipe, session } = yield* clientOf()
        pipe.keepsUp = keepsUp
        const first = yield* fork(call())
        pipe.turn()
        const second = yield* fork(call())
        session.close("lost")
        assert.deepStrictEqual([yield* told(Fiber.join(first)), yield* told(Fiber.join(second))], [
          "ConnectionLost maybe",
          "ConnectionLost no"
        ])
        assert.strictEqual(yield* timers, 0)
      }
    }))

  it.effect("hands nothing over once it is closed, and begins no timer", () =>
    Effect.gen(function*() {
      const { call, pipe, session } = yield* clientOf()
      session.onData(helloFrame())
      const fiber = yield* fork(call())
      pipe.keepsUp = false
      session.close("over")
      yield* Fiber.await(fiber)
      pipe.turn()
      session.onData(responseFrame(0).subarray(0, 5))
      session.onData(frame(Type.ping, Buffer.alloc(8)))
      session.onDrain()
      pipe.turn()
      assert.deepStrictEqual([pipe.frames(), pipe.told], [[], ["destroy"]])
      assert.strictEqual(yield* timers, 0)
      assert.strictEqual(yield* told(call()), "ConnectionLost no")
      yield* session.drain
    }))

  it.effect("who is answered may close the session in the middle of a chunk", () =>
    Effect.gen(function*() {
      const { call, ids, session } = yield* clientOf()
      const first = yield* fork(Effect.tap(call(), () => Effect.sync(() => session.close("enough"))))
      const second = yield* fork(call())
      const [a, b] = ids()
      session.onData(
        Buffer.concat([responseFrame(a!), responseFrame(b!), helloFrame(), responseFrame(0).subarray(0, 9)])
      )
      assert.isTrue(Exit.isSuccess(yield* Fiber.await(first)))
      assert.strictEqual(yield* told(Fiber.join(second)), "ConnectionLost maybe")
      assert.strictEqual(yield* timers, 0)
    }))

  it.effect("who is failed by a close may interrupt the others", () =>
    Effect.gen(function*() {
      const { call, ids, session } = yield* clientOf()
      const others: Array<Fiber.Fiber<unknown, unknown>> = []
      yield* fork(Effect.onExit(call(), () => Effect.sync(() => others.forEach((fiber) => fiber.interruptUnsafe()))))
      for (let i = 0; i < 3; i++) others.push(yield* fork(call()))
      ids()
      session.close("lost")
      for (const fiber of others) assert.isTrue(Exit.isFailure(yield* Fiber.await(fiber)))
      assert.deepStrictEqual([session.inFlight, session.pendingIds], [0, 0])
    }))

  it.effect("what arrived while this process stood still is read before a peer is given up", () =>
    Effect.gen(function*() {
      const { call, pipe, session } = yield* clientOf()
      session.onData(Buffer.concat([helloFrame(), responseFrame(0).subarray(0, 5)]))
      const fiber = yield* fork(call("x".repeat(300_000)))
      pipe.keepsUp = false
      pipe.turn()
      // The time of a ping, of half a frame and of what was not read is up, all at once.
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(session.status, "open")
      // The turn of the event loop goes on to the reads: there they are.
      session.onData(responseFrame(0, "late").subarray(5))
      session.onDrain()
      pipe.turn()
      assert.strictEqual(session.status, "open")
      assert.strictEqual(textOf(yield* Fiber.join(fiber)), "late")
      // Nothing comes after the next: that is the end.
      yield* TestClock.adjust("1 minute")
      pipe.turn()
      assert.strictEqual(session.status, "closed")
      assert.strictEqual(yield* timers, 0)
    }))

  it.effect("calls wait for a peer that does not read, in order, and go when it does", () =>
    Effect.gen(function*() {
      const { answer, call, ids, pipe, session } = yield* clientOf()
      pipe.keepsUp = false
      const calls = [yield* fork(call())]
      assert.deepStrictEqual(ids(), [0])
      for (let i = 0; i < 3; i++) calls.push(yield* fork(call()))
      assert.deepStrictEqual([ids(), session.inFlight, session.pendingIds], [[], 4, 1])
      pipe.keepsUp = true
      session.onDrain()
      assert.deepStrictEqual(ids(), [1, 2, 3])
      answer(0, 1, 2, 3)
      for (const fiber of calls) yield* Fiber.join(fiber)
      assert.strictEqual(yield* timers, 0)
    }))

  it.effect("an attempt that expires is cancelled by the session, which knows whether it had left", () =>
    Effect.gen(function*() {
      const { ids, pipe, session } = yield* clientOf({ maxInFlight: 2 })
      session.onData(helloFrame({ features: 1 }))
      const expiry = (atMillis: number) => ({
        atMillis,
        reason: "attemptTimeout" as const,
        error: (sent: string) => `expired ${sent}`
      })
      const expiring = (atMillis: number) => fork(Effect.flip(session.send(request("M"), expiry(atMillis))))
      const [left, early] = [yield* expiring(1000), yield* expiring(100)]
      assert.deepStrictEqual(ids(), [0, 1])
      const queued = yield* expiring(500)
      assert.strictEqual(yield* timers, 3)
      yield* TestClock.adjust(100)
      assert.strictEqual(yield* Fiber.join(early), "expired maybe")
      pipe.turn()
      assert.deepStrictEqual(pipe.frames().map(({ payload, type }) => [type, payload.toString("hex")]), [
        [Type.cancel, "0000000102"]
      ])
      yield* TestClock.adjust(400)
      assert.strictEqual(yield* Fiber.join(queued), "expired no")
      // Written, but the turn has not ended.
      session.onData(responseFrame(1))
      const unflushed = yield* expiring(500)
      yield* TestClock.adjust(0)
      assert.strictEqual(yield* Fiber.join(unflushed), "expired no")
      // Answered, interrupted or lost in time: nothing expires.
      session.onData(responseFrame(0, "answer"))
      assert.isTrue(Exit.isFailure(yield* Effect.exit(Fiber.join(left))))
      const interrupted = yield* expiring(2000)
      yield* Fiber.interrupt(interrupted)
      const lost = yield* expiring(2000)
      session.close("lost")
      yield* Fiber.await(lost)
      assert.deepStrictEqual([session.inFlight, yield* timers], [0, 0])
    }))

  it.effect("a peer that asks and does not read is not answered, so that answers do not pile up", () =>
    Effect.gen(function*() {
      const { answer, call, ids, pipe, session } = yield* clientOf()
      const outbox = Reflect.get(session, "outbox") as { readonly unsentBytes: number }
      const ping = frame(Type.ping, Buffer.alloc(100_000))
      pipe.keepsUp = false
      const fiber = yield* fork(call())
      ids()
      for (let i = 0; i < 20; i++) session.onData(ping)
      assert.strictEqual(outbox.unsentBytes, 0)
      pipe.keepsUp = true
      session.onDrain()
      session.onData(ping)
      pipe.turn()
      assert.deepStrictEqual(pipe.frames().map(({ payload, type }) => [type, payload.length]), [[Type.pong, 100_000]])
      answer(0)
      yield* Fiber.join(fiber)
    }))

  it.effect("a body of many pieces is handed over as the peer reads, in order", () =>
    Effect.gen(function*() {
      const { call, pipe, session } = yield* clientOf()
      const [large, small] = ["L".repeat(1_000_000), "small"]
      const first = yield* fork(call(large))
      const second = yield* fork(call(small))
      pipe.keepsUp = false
      const sizes: Array<number> = []
      // A slow peer, but one that reads: 256 KiB in 29 s.
      for (let round = 0; round < 4; round++) {
        pipe.turn()
        sizes.push(pipe.bytes.length)
        yield* TestClock.adjust("29 seconds")
        pipe.turn()
        assert.strictEqual(session.status, "open")
        session.onDrain()
      }
      assert.deepStrictEqual(sizes.map((size, index) => size - (sizes[index - 1] ?? 0)).slice(0, 3), [
        262_144,
        262_144,
        262_144
      ])
      assert.deepStrictEqual(pipe.frames().map(({ payload }) => payload.length - 15), [large.length, small.length])
      pipe.turn()
      assert.strictEqual(yield* timers, 0)
      session.onData(Buffer.concat([responseFrame(0), responseFrame(1)]))
      yield* Fiber.join(first)
      yield* Fiber.join(second)
    }))
})
