import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, Layer, Logger, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Timer from "../../src/contract/Timer.ts"
import type { ClientSession } from "../../src/transport/internal/clientSession.ts"
import * as Tcp from "../../src/transport/Tcp.ts"
import { Transport } from "../../src/transport/Transport.ts"
import * as Frame from "../../src/wire/Frame.ts"
import * as Peer from "../support/peer.ts"
import { reason, told } from "../support/reason.ts"
import { request, Script, textOf } from "../support/script.ts"

const anywhere = "tcp://127.0.0.1:0"
const { frame, helloFrame, requestFrame, responseFrame, settled, Type, u32, until } = Peer

/** Runs a test against the transport; afterwards no timer of its clock is live. */
const test = (
  name: string,
  body: Effect.Effect<void, unknown, Transport | Scope.Scope>,
  options: Tcp.TcpOptions = {}
) =>
  it.effect(name, () =>
    Effect.gen(function*() {
      yield* Effect.scoped(body)
      assert.strictEqual(Timer.size(yield* Clock.Clock), 0)
    }).pipe(Effect.provide(Tcp.layer(options))))

/** A listener of ours, what it logs and what it tells. */
const serving = Effect.gen(function*() {
  const transport = yield* Transport
  const script = new Script()
  const lines: Array<string> = []
  const events: Array<CallEvent.CallEvent> = []
  const logger = Logger.make(({ message }) => void lines.push(String(message)))
  const listening = yield* transport.listen(anywhere, script.serve).pipe(
    Effect.provide(Logger.layer([logger])),
    Effect.provideService(CallEvent.CurrentReceiver, { event: (event) => void events.push(event) })
  )
  return { ...script, lines, events, listening, connect: transport.connect(listening.address) }
})

/** A session of ours to a server written by hand, and that server's end of it. */
const dialled = (reads = true) =>
  Effect.gen(function*() {
    const transport = yield* Transport
    const listener = yield* Peer.listen(reads)
    const scope = yield* Scope.fork(yield* Effect.scope)
    const session = (yield* Scope.provide(transport.connect(listener.address), scope)) as ClientSession
    const peer = yield* listener.accept
    return {
      session,
      peer,
      call: (body = "", fields: Partial<Frame.Request> = {}) => session.send(request("Echo", body, fields)),
      closeClient: Scope.close(scope, Exit.void)
    }
  })

/** The same behind both sides' hello. */
const greeted = (hello: Parameters<typeof helloFrame>[0] = {}) =>
  Effect.gen(function*() {
    const all = yield* dialled()
    assert.strictEqual((yield* all.peer.next).type, Type.hello)
    yield* all.peer.send(helloFrame(hello))
    yield* until(() => all.session.greeted)
    return all
  })

/** Waits until somebody is waiting for a peer that does not read, and goes on waiting. */
const stalled = (more: Effect.Effect<unknown> = Effect.void) =>
  Effect.gen(function*() {
    const clock = yield* Clock.Clock
    const before = Timer.size(clock)
    for (let steady = 0; steady < 10; yield* settled) {
      if (Timer.size(clock) > before) steady++
      else {
        steady = 0
        yield* more
      }
    }
  })

const fork = <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.forkChild(self, { startImmediately: true })

describe("Tcp, a server facing strangers", () => {
  const strangers: Record<string, { readonly says: Buffer | string; readonly because: string }> = {
    "bad magic": { says: Buffer.from([0x4d, 0x44]), because: "not MCP: the frame begins with 0x4d44, not 0x4d43" },
    "a bad version": { says: Buffer.from([0x4d, 0x43, 2]), because: "MCP version 2, this side speaks 1" },
    "a client that speaks HTTP": {
      says: "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
      because: "not MCP: the frame begins with 0x4745, not 0x4d43 (looks like an HTTP GET)"
    },
    "a frame over the limit": {
      says: Buffer.concat([Buffer.from([0x4d, 0x43, 1, 1]), u32(4 * 1024 * 1024 + 1)]),
      because: "a payload of 4194305 bytes exceeds the limit of 4194304"
    },
    "a request cut short": {
      says: frame(Type.request, Buffer.from([0, 0, 0, 1, 1])),
      because: "malformed payload of a frame of type 1: a field reaches past the end of the payload"
    }
  }
  for (const [stranger, { because, says }] of Object.entries(strangers)) {
    test(
      `ends the session of ${stranger}, says why once, and harms nobody else`,
      Effect.gen(function*() {
        const { connect, events, lines, listening, release, started } = yield* serving
        const session = yield* connect
        const other = yield* fork(session.send(request("wait", "other")))
        yield* started("other")
        const peer = yield* Peer.client(listening.address)
        yield* peer.send(says)
        yield* peer.closed
        assert.deepStrictEqual(peer.rest(), [])
        const name = `127.0.0.1:${peer.socket.localPort}`
        assert.deepStrictEqual(lines, [`${listening.address}: closed the session of ${name}: ${because}`])
        const seen = events.filter((event) =>
          event._tag === "RequestRefused" || event._tag === "SessionChanged" && event.peer === name
        )
        const stats = seen[0]?._tag === "SessionChanged" ? seen[0].stats : undefined
        const opened = { _tag: "SessionChanged", side: "server", peer: name, stats, atMillis: 0 }
        assert.deepStrictEqual(seen, [
          { ...opened, change: "opened", why: "accepted" },
          { ...opened, change: "closed", why: because },
          { _tag: "RequestRefused", peer: name, method: undefined, reason: "protocol", why: because, atMillis: 0 }
        ] as Array<unknown>)
        assert.deepStrictEqual(stats?.(), { bytesRead: says.length, bytesWritten: peer.socket.bytesRead, refused: 0 })
        assert.deepStrictEqual([listening.stats().protocolErrors, listening.stats().sessions], [1, 1])
        yield* release("other")
        assert.strictEqual(textOf(yield* Fiber.join(other)), "other")
      })
    )
  }

  test(
    "interrupts what runs for a session whose stream breaks",
    Effect.gen(function*() {
      const { ended, listening, started } = yield* serving
      const peer = yield* Peer.client(listening.address)
      yield* peer.send(requestFrame(0, "wait", "work"))
      yield* started("work")
      yield* peer.send("nonsense")
      assert.strictEqual(yield* ended("work"), "shutdown")
      yield* peer.closed
    })
  )

  test(
    "gives up on half a frame and silence, not on one that trickles",
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      const { lines, listening } = yield* serving
      const silent = yield* Peer.client(listening.address)
      const slow = yield* Peer.client(listening.address)
      const whole = requestFrame(0, "echo", "late")
      yield* silent.send(whole.subarray(0, 5))
      yield* slow.send(whole.subarray(0, 9))
      yield* until(() => Timer.size(clock) === 2)
      for (let at = 9; at < whole.length - 1; at += 8) {
        yield* TestClock.adjust("300 millis")
        yield* slow.send(whole.subarray(at, Math.min(at + 8, whole.length - 1)))
        yield* settled
      }
      yield* silent.closed
      const name = `127.0.0.1:${silent.socket.localPort}`
      assert.deepStrictEqual(lines, [`${listening.address}: closed the session of ${name}: half a frame, then silence`])
      assert.deepStrictEqual([listening.stats().sessions, listening.stats().protocolErrors], [1, 1])
      yield* slow.send(whole.subarray(-1))
      assert.strictEqual(Peer.answerOf(yield* slow.next).body, "late")
      assert.strictEqual(Timer.size(clock), 0)
    }),
    { frameTimeout: "500 millis" }
  )

  test(
    "skips frames of types it does not know, however long",
    Effect.gen(function*() {
      const { listening } = yield* serving
      const peer = yield* Peer.client(listening.address)
      for (const type of [0, 7, 8, 10, 255]) yield* peer.send(frame(type, Buffer.alloc(100_000, 0x4d)))
      // Ours, but a server's: of no use to a server.
      yield* peer.send(responseFrame(0, "nobody asked"), frame(Type.pong, Buffer.alloc(8)), frame(Type.goingAway))
      yield* peer.send(requestFrame(9, "echo", "still here"))
      assert.deepStrictEqual(Peer.answerOf(yield* peer.next), {
        id: 9,
        status: Frame.Status.ok,
        processed: true,
        body: "still here"
      })
    })
  )

  test(
    "answers both of two requests with one id, and a cancel reaches the later",
    Effect.gen(function*() {
      const { ended, listening, release, started } = yield* serving
      const peer = yield* Peer.client(listening.address)
      yield* peer.send(requestFrame(5, "wait", "first"), requestFrame(5, "wait", "second"))
      yield* started("second")
      yield* peer.send(frame(Type.cancel, u32(5), Buffer.from([3])))
      assert.deepStrictEqual([yield* ended("second"), Peer.answerOf(yield* peer.next).status], [
        "hedgeLost",
        Frame.Status.cancelled
      ])
      yield* release("first")
      assert.deepStrictEqual(Peer.answerOf(yield* peer.next), { id: 5, status: 0, processed: true, body: "first" })
      // Of an earlier generation, of nobody, and of a request that is over.
      yield* peer.send(...[0x10005, 77, 5].map((id) => frame(Type.cancel, u32(id), Buffer.from([0]))))
      yield* peer.send(requestFrame(5, "echo", "and on"))
      assert.strictEqual(Peer.answerOf(yield* peer.next).body, "and on")
    })
  )

  test(
    "takes any id, the largest too",
    Effect.gen(function*() {
      const { listening } = yield* serving
      const peer = yield* Peer.client(listening.address)
      for (const id of [0xffff_ffff, 0xffff, 0x1_0000, 0]) {
        yield* peer.send(requestFrame(id, "echo"))
        assert.strictEqual(Peer.answerOf(yield* peer.next).id, id)
      }
    })
  )

  test(
    "refuses what exceeds the requests it allows in flight on a session",
    Effect.gen(function*() {
      const { listening, release, started } = yield* serving
      const peer = yield* Peer.client(listening.address)
      yield* peer.send(requestFrame(0, "wait", "a"), requestFrame(1, "wait", "b"), requestFrame(2, "wait", "c"))
      yield* started("b")
      const refused = Peer.answerOf(yield* peer.next)
      assert.deepStrictEqual([refused.id, refused.status, refused.processed], [2, Frame.Status.overloaded, false])
      assert.strictEqual(refused.body, "{\"message\":\"2 requests in flight on this session\"}")
      const { inFlight, refused: count, requests } = listening.stats()
      assert.deepStrictEqual([inFlight, requests, count], [2, 3, 1])
      yield* release("a")
      assert.strictEqual(Peer.answerOf(yield* peer.next).id, 0)
      yield* peer.send(requestFrame(2, "echo", "room"))
      assert.strictEqual(Peer.answerOf(yield* peer.next).body, "room")
      yield* release("b")
    }),
    { maxInFlight: 2 }
  )

  test(
    "says hello to who says hello, once, with its own limits",
    Effect.gen(function*() {
      const { listening } = yield* serving
      const peer = yield* Peer.client(listening.address)
      yield* peer.send(helloFrame(), helloFrame(), requestFrame(0, "echo"))
      const hello = yield* peer.next
      assert.strictEqual(hello.type, Type.hello)
      assert.deepStrictEqual([0, 4, 8].map((at) => hello.payload.readUInt32BE(at)), [7, 2048, 3])
      assert.include(hello.payload.toString("latin1"), "orders/2")
      assert.strictEqual((yield* peer.next).type, Type.response)
      yield* peer.send(frame(Type.ping, Buffer.from("12345678")))
      assert.deepStrictEqual(yield* peer.next, { type: Type.pong, payload: Buffer.from("12345678") })
    }),
    { maxPayloadBytes: 2048, maxInFlight: 3, agent: "orders/2" }
  )

  test(
    "keeps to the payload limit the client announced",
    Effect.gen(function*() {
      const { listening } = yield* serving
      const peer = yield* Peer.client(listening.address)
      yield* peer.send(
        helloFrame({ maxPayload: 1024 }),
        requestFrame(0, "zeros", "2000"),
        requestFrame(1, "zeros", "1000")
      )
      assert.strictEqual((yield* peer.next).type, Type.hello)
      const [large, fitting] = [Peer.answerOf(yield* peer.next), Peer.answerOf(yield* peer.next)]
      assert.deepStrictEqual([large.status, fitting.status, fitting.body.length], [Frame.Status.tooLarge, 0, 1000])
      assert.deepInclude(JSON.parse(large.body), { limitBytes: 1024, sizeBytes: 2012 })
    })
  )

  test(
    "drains a client that can be told: it refuses what crosses its word, and waits for the client to close",
    Effect.gen(function*() {
      const { listening, release, started } = yield* serving
      const peer = yield* Peer.client(listening.address)
      yield* peer.send(helloFrame(), requestFrame(0, "wait", "last"))
      yield* started("last")
      const draining = yield* fork(listening.drain)
      yield* peer.nextOf(Type.goingAway)
      yield* peer.send(requestFrame(1, "echo"))
      const refused = Peer.answerOf(yield* peer.next)
      assert.deepStrictEqual([refused.status, refused.processed], [Frame.Status.unavailable, false])
      // Which is not what an overload is counted by.
      assert.strictEqual(listening.stats().refused, 0)
      yield* release("last")
      assert.strictEqual(Peer.answerOf(yield* peer.next).body, "last")
      yield* settled
      assert.isUndefined(draining.pollUnsafe())
      peer.socket.end()
      yield* Fiber.join(draining)
    })
  )

  test(
    "drains a client that cannot be told by ending the connection when nothing is in flight",
    Effect.gen(function*() {
      const { listening, release, started } = yield* serving
      const idle = yield* Peer.client(listening.address)
      const busy = yield* Peer.client(listening.address)
      // One that said hello, but does not know the word, is in the same case.
      const deaf = yield* Peer.client(listening.address)
      yield* deaf.send(helloFrame({ features: Frame.Feature.cancel }))
      yield* deaf.nextOf(Type.hello)
      yield* busy.send(requestFrame(0, "wait", "last"))
      yield* started("last")
      const draining = yield* fork(listening.drain)
      yield* idle.closed
      yield* deaf.closed
      yield* busy.send(requestFrame(1, "echo"))
      assert.strictEqual(Peer.answerOf(yield* busy.next).status, Frame.Status.unavailable)
      yield* release("last")
      assert.strictEqual(Peer.answerOf(yield* busy.next).body, "last")
      yield* busy.closed
      for (const peer of [idle, busy, deaf]) {
        assert.deepStrictEqual(peer.rest(), [])
        peer.socket.end()
      }
      yield* Fiber.join(draining)
    })
  )

  test(
    "tells a client whose hello arrives during the drain",
    Effect.gen(function*() {
      const { listening, release, started } = yield* serving
      const peer = yield* Peer.client(listening.address)
      yield* peer.send(requestFrame(0, "wait", "last"))
      yield* started("last")
      yield* fork(listening.drain)
      yield* peer.send(helloFrame())
      assert.deepStrictEqual([(yield* peer.next).type, (yield* peer.next).type], [Type.hello, Type.goingAway])
      yield* release("last")
      assert.strictEqual(Peer.answerOf(yield* peer.next).body, "last")
    })
  )

  test(
    "a client that reads no answers is read no more, given up in time, and alone in it",
    Effect.gen(function*() {
      const { connect, ended, lines, listening, seen, started } = yield* serving
      const session = yield* connect
      yield* session.send(request("echo"))
      const peer = yield* Peer.client(listening.address, false)
      yield* peer.send(requestFrame(0, "wait", "held"))
      yield* started("held")
      // All of it is read in one go, so reading less is no help: what waits for the peer is bounded by refusing.
      yield* peer.send(...Array.from({ length: 200 }, (_, index) => requestFrame(index + 1, "zeros", "1000000")))
      yield* stalled()
      const served = seen.length
      assert.isAtMost(served, 30)
      yield* peer.send(...Array.from({ length: 1000 }, (_, index) => requestFrame(index + 300, "echo")))
      yield* settled
      assert.strictEqual(seen.length, served)
      assert.strictEqual(textOf(yield* session.send(request("echo", "well"))), "well")
      // A session that is idle for so long is asked for a sign of life.
      for (let second = 0; second < 30; second++) {
        assert.strictEqual(listening.stats().sessions, 2)
        yield* TestClock.adjust("1 second")
        yield* settled
      }
      assert.strictEqual(yield* ended("held"), "shutdown")
      assert.deepStrictEqual([listening.stats().sessions, listening.stats().inFlight], [1, 0])
      const name = `127.0.0.1:${peer.socket.localPort}`
      assert.deepStrictEqual(lines, [`${listening.address}: closed the session of ${name}: the peer does not read`])
      assert.strictEqual(listening.stats().protocolErrors, 1)
      assert.strictEqual(textOf(yield* session.send(request("echo", "well"))), "well")
    })
  )

  test(
    "a client that stops for a while goes on where it was, half a frame included",
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      const { listening } = yield* serving
      const peer = yield* Peer.client(listening.address, false)
      const whole = requestFrame(99, "echo", "the last")
      yield* peer.send(...Array.from({ length: 14 }, (_, index) => requestFrame(index, "zeros", "1000000")))
      yield* peer.send(whole.subarray(0, 10))
      yield* stalled()
      yield* TestClock.adjust("20 seconds")
      yield* settled
      assert.strictEqual(listening.stats().sessions, 1)
      peer.read()
      for (let index = 0; index < 14; index++) assert.strictEqual(Peer.idOf(yield* peer.next), index)
      yield* peer.send(whole.subarray(10))
      assert.strictEqual(Peer.answerOf(yield* peer.next).body, "the last")
      assert.strictEqual(Timer.size(clock), 0)
    })
  )
})

describe("Tcp, a client facing strangers", () => {
  const strangers: Record<string, Buffer | string> = {
    "bad magic": "nonsense",
    "a bad version": Buffer.from([0x4d, 0x43, 9, 2]),
    "a server that speaks HTTP": "HTTP/1.1 400 Bad Request\r\n\r\n",
    "a frame over the limit": Buffer.concat([Buffer.from([0x4d, 0x43, 1, 2]), u32(0xffff_ffff)]),
    "an answer cut short": frame(Type.response, Buffer.from([0, 0, 0]))
  }
  for (const [stranger, says] of Object.entries(strangers)) {
    test(
      `fails what is pending with ProtocolViolation on ${stranger}`,
      Effect.gen(function*() {
        const { call, peer, session } = yield* dialled()
        const calls = yield* Effect.replicateEffect(fork(call()), 3)
        yield* peer.nextOf(Type.request)
        yield* peer.send(says)
        for (const fiber of calls) assert.strictEqual(yield* told(Fiber.join(fiber)), "ProtocolViolation maybe")
        assert.deepStrictEqual([session.status, session.pendingIds, session.inFlight], ["closed", 0, 0])
        yield* peer.closed
      })
    )
  }

  test(
    "gives up on half an answer and silence",
    Effect.gen(function*() {
      const { call, peer } = yield* greeted({ features: 0 })
      const fiber = yield* fork(call())
      yield* peer.nextOf(Type.request)
      const clock = yield* Clock.Clock
      yield* peer.send(responseFrame(0, "whole").subarray(0, 12))
      yield* until(() => Timer.size(clock) === 1)
      yield* TestClock.adjust("500 millis")
      const lost = yield* reason(Fiber.join(fiber))
      assert.deepInclude(lost, { _tag: "ConnectionLost", detail: "half a frame, then silence", sent: "maybe" })
    }),
    { frameTimeout: "500 millis" }
  )

  test(
    "skips frames of types it does not know, and drops answers that nobody waits for",
    Effect.gen(function*() {
      const { call, peer, session } = yield* greeted()
      yield* peer.send(responseFrame(0, "to nobody"), responseFrame(0xffff_ffff, "to nobody"))
      yield* peer.send(frame(200, Buffer.alloc(70_000, 0x4d)), frame(Type.request), frame(Type.cancel))
      yield* settled
      const fiber = yield* fork(call("\"hi\""))
      const id = Peer.idOf(yield* peer.next)
      yield* peer.send(responseFrame(id ^ 0x1_0000, "of another generation"), responseFrame(id, "right"))
      yield* peer.send(responseFrame(id, "once more"))
      assert.strictEqual(textOf(yield* Fiber.join(fiber)), "right")
      assert.deepStrictEqual([session.pendingIds, session.status], [0, "open"])
    })
  )

  test(
    "a server of requests and responses only sees nothing else, whatever happens",
    Effect.gen(function*() {
      const { call, peer, session } = yield* dialled()
      assert.strictEqual((yield* peer.next).type, Type.hello)
      const first = yield* fork(call("\"one\""))
      const id = Peer.idOf(yield* peer.next)
      yield* peer.send(responseFrame(id, "\"two\""))
      assert.strictEqual(textOf(yield* Fiber.join(first)), "\"two\"")
      assert.isTrue(session.greeted)
      const left = yield* fork(call())
      const abandoned = Peer.idOf(yield* peer.next)
      yield* Fiber.interrupt(left)
      yield* TestClock.adjust("10 minutes")
      yield* settled
      assert.deepStrictEqual(peer.rest(), [])
      assert.strictEqual(session.pendingIds, 1)
      yield* peer.send(responseFrame(abandoned, "late"))
      yield* until(() => session.pendingIds === 0)
      yield* session.drain
      yield* peer.closed
      assert.deepStrictEqual(peer.rest(), [])
    })
  )

  test(
    "a cancel waits for the hello of the server, like everything but requests",
    Effect.gen(function*() {
      const { call, peer, session } = yield* dialled()
      const left = yield* fork(call())
      yield* peer.nextOf(Type.request)
      yield* Fiber.interrupt(left)
      yield* settled
      assert.deepStrictEqual(peer.rest(), [])
      yield* peer.send(helloFrame())
      const cancel = yield* peer.next
      assert.deepStrictEqual([cancel.type, Peer.idOf(cancel), cancel.payload[4]], [Type.cancel, 0, 0])
      yield* peer.send(responseFrame(0, "", Frame.Status.cancelled))
      yield* until(() => session.pendingIds === 0)
    })
  )

  test(
    "a server that ignores cancel costs slots for 30 s, then they are used under a new generation",
    Effect.gen(function*() {
      const { call, peer, session } = yield* greeted({ features: Frame.Feature.cancel })
      const left = yield* Effect.replicateEffect(fork(call("\"left\"")), 2)
      const ids = [Peer.idOf(yield* peer.next), Peer.idOf(yield* peer.next)]
      for (const fiber of left) yield* Fiber.interrupt(fiber)
      for (const id of ids) {
        const cancel = yield* peer.next
        assert.deepStrictEqual([cancel.type, Peer.idOf(cancel)], [Type.cancel, id])
      }
      assert.deepStrictEqual([session.inFlight, session.pendingIds], [0, 2])
      const waiting = yield* fork(call("\"next\""))
      const gone = yield* fork(call("\"gone\""))
      yield* TestClock.adjust("29 seconds")
      yield* settled
      assert.deepStrictEqual(peer.rest(), [])
      yield* Fiber.interrupt(gone)
      yield* TestClock.adjust("1 second")
      const next = yield* peer.next
      assert.strictEqual(Peer.idOf(next), ids[0]! + 0x1_0000)
      // The answer to the slot's earlier user comes at last, and is nobody's.
      yield* peer.send(responseFrame(ids[0]!, "too late"), responseFrame(Peer.idOf(next), "mine"))
      assert.strictEqual(textOf(yield* Fiber.join(waiting)), "mine")
      assert.strictEqual(session.inFlight, 0)
      // The other slot is free as soon as its late answer comes.
      const [third, fourth] = [yield* fork(call()), yield* fork(call())]
      const [a, b] = [Peer.idOf(yield* peer.next), Peer.idOf(yield* peer.next)]
      assert.deepStrictEqual([a & 0xffff, b & 0xffff].toSorted(), [0, 1])
      yield* peer.send(responseFrame(a, "3"), responseFrame(b, "4"))
      assert.deepStrictEqual([textOf(yield* Fiber.join(third)), textOf(yield* Fiber.join(fourth))], ["3", "4"])
      assert.strictEqual(session.pendingIds, 0)
    }),
    { maxInFlight: 2 }
  )

  test(
    "calls that wait take quarantined slots one by one, as each has served its time",
    Effect.gen(function*() {
      const { call, peer } = yield* greeted({ features: 0 })
      const [first, second] = [yield* fork(call()), yield* fork(call())]
      const [a, b] = [Peer.idOf(yield* peer.next), Peer.idOf(yield* peer.next)]
      yield* Fiber.interrupt(first)
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.interrupt(second)
      const waiting = yield* Effect.replicateEffect(fork(call()), 2)
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(Peer.idOf(yield* peer.next), a + 0x1_0000)
      yield* TestClock.adjust("9999 millis")
      yield* settled
      assert.deepStrictEqual(peer.rest(), [])
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(Peer.idOf(yield* peer.next), b + 0x1_0000)
      yield* peer.send(responseFrame(a + 0x1_0000), responseFrame(b + 0x1_0000))
      for (const fiber of waiting) yield* Fiber.join(fiber)
    }),
    { maxInFlight: 2 }
  )

  test(
    "a waiting call takes the slot of a late answer, without waiting for the quarantine",
    Effect.gen(function*() {
      const { call, peer } = yield* greeted({ features: 0 })
      const left = yield* fork(call())
      const id = Peer.idOf(yield* peer.next)
      yield* Fiber.interrupt(left)
      const waiting = yield* fork(call())
      yield* peer.send(responseFrame(id))
      yield* peer.send(responseFrame(Peer.idOf(yield* peer.next), "mine"))
      assert.strictEqual(textOf(yield* Fiber.join(waiting)), "mine")
    }),
    { maxInFlight: 1 }
  )

  test(
    "more calls than slots wait in order, and more than may wait are refused",
    Effect.gen(function*() {
      const { call, peer, session } = yield* greeted()
      const calls = yield* Effect.forEach(["a", "b", "c", "d"], (body) => fork(call(body)))
      const refused = yield* reason(call("e"))
      assert.deepInclude(refused, { _tag: "LimitReached", sent: "no", limit: 2, policy: `session ${session.address}` })
      assert.deepStrictEqual([session.inFlight, session.pendingIds], [4, 2])
      yield* Fiber.interrupt(calls[2]!)
      const last = yield* fork(call("f"))
      const order: Array<string> = []
      for (let index = 0; index < 4; index++) {
        const got = yield* peer.next
        order.push(got.payload.toString().at(-1)!)
        yield* peer.send(responseFrame(Peer.idOf(got)))
      }
      assert.deepStrictEqual(order, ["a", "b", "d", "f"])
      for (const fiber of [calls[0]!, calls[1]!, calls[3]!, last]) yield* Fiber.join(fiber)
    }),
    { maxInFlight: 2, maxQueued: 2 }
  )

  test(
    "keeps to the requests in flight the server announced, however many went before it had",
    Effect.gen(function*() {
      const { call, peer } = yield* dialled()
      const calls = yield* Effect.replicateEffect(fork(call()), 5)
      assert.strictEqual((yield* peer.next).type, Type.hello)
      const ids = yield* Effect.replicateEffect(Effect.map(peer.next, Peer.idOf), 5)
      yield* peer.send(helloFrame({ features: 0, maxInFlight: 2 }))
      yield* peer.send(...ids.map((id) => responseFrame(id)))
      for (const fiber of calls) yield* Fiber.join(fiber)
      const more = yield* Effect.replicateEffect(fork(call()), 3)
      const [a, b] = [Peer.idOf(yield* peer.next), Peer.idOf(yield* peer.next)]
      yield* settled
      assert.deepStrictEqual(peer.rest(), [])
      yield* peer.send(responseFrame(a))
      const c = Peer.idOf(yield* peer.next)
      yield* peer.send(responseFrame(b), responseFrame(c))
      for (const fiber of more) yield* Fiber.join(fiber)
    })
  )

  test(
    "keeps to the payload limit the server announced, for calls that waited too",
    Effect.gen(function*() {
      const { call, peer } = yield* dialled()
      const first = yield* fork(call())
      const waiting = yield* fork(call("x".repeat(2000)))
      const id = Peer.idOf(yield* peer.nextOf(Type.request))
      yield* peer.send(helloFrame({ features: 0, maxPayload: 1024 }), responseFrame(id))
      yield* Fiber.join(first)
      const refused = yield* reason(Fiber.join(waiting))
      assert.deepInclude(refused, { _tag: "TooLarge", limitBytes: 1024, sent: "no" })
      assert.deepInclude(yield* reason(call("x".repeat(1024))), { _tag: "TooLarge", sent: "no" })
    }),
    { maxInFlight: 1 }
  )

  test(
    "asks a silent server for a sign of life, and gives it up when none comes",
    Effect.gen(function*() {
      const { call, peer, session } = yield* greeted()
      const pending = yield* fork(call())
      yield* peer.nextOf(Type.request)
      for (let asked = 0; asked < 3; asked++) {
        yield* TestClock.adjust("5 seconds")
        const ping = yield* peer.next
        assert.deepStrictEqual([ping.type, ping.payload.length], [Type.ping, 8])
        yield* TestClock.adjust("3 seconds")
        yield* peer.send(frame(Type.pong, ping.payload))
        yield* settled
      }
      // Any byte is a sign of life, an answer to a question long gone too.
      yield* TestClock.adjust("4 seconds")
      yield* peer.send(responseFrame(1234))
      yield* settled
      yield* TestClock.adjust("4 seconds")
      yield* settled
      assert.deepStrictEqual(peer.rest(), [])
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* peer.next).type, Type.ping)
      yield* TestClock.adjust("3999 millis")
      yield* settled
      assert.strictEqual(session.status, "open")
      yield* TestClock.adjust("1 millis")
      const lost = yield* reason(Fiber.join(pending))
      assert.deepInclude(lost, { _tag: "ConnectionLost", detail: "no sign of life for 9000ms", sent: "maybe" })
      yield* peer.closed
    })
  )

  test(
    "answers the server's pings",
    Effect.gen(function*() {
      const { peer } = yield* greeted()
      yield* peer.send(frame(Type.ping, Buffer.from("abcdefgh")))
      assert.deepStrictEqual(yield* peer.next, { type: Type.pong, payload: Buffer.from("abcdefgh") })
    })
  )

  test(
    "finishes what is in flight when the server goes away, and hands back what was not sent",
    Effect.gen(function*() {
      const { call, peer, session } = yield* greeted()
      const [sent, crossing] = [yield* fork(call("a")), yield* fork(call("b"))]
      const queued = yield* Effect.replicateEffect(fork(call("c")), 3)
      const [a, b] = [Peer.idOf(yield* peer.next), Peer.idOf(yield* peer.next)]
      yield* peer.send(frame(Type.goingAway, Buffer.from("deploy")))
      for (const fiber of queued) assert.strictEqual(yield* told(Fiber.join(fiber)), "ConnectionLost no")
      assert.strictEqual(session.status, "draining")
      assert.strictEqual(yield* told(call()), "ConnectionLost no")
      yield* peer.send(responseFrame(b, "{}", Frame.Status.unavailable, 0), responseFrame(a, "done"))
      assert.strictEqual(textOf(yield* Fiber.join(sent)), "done")
      const refused = yield* Fiber.join(crossing)
      assert.deepStrictEqual([refused.status, refused.processed], [Frame.Status.unavailable, false])
      yield* peer.closed
      assert.deepStrictEqual([session.status, peer.rest()], ["closed", []])
    }),
    { maxInFlight: 2 }
  )

  test(
    "says of a call whether its bytes had left when the connection was lost",
    Effect.gen(function*() {
      for (const how of ["destroy", "resetAndDestroy", "end"] as const) {
        const { call, closeClient, peer } = yield* greeted()
        const [written, waiting] = [yield* fork(call("written")), yield* fork(call("waiting"))]
        yield* peer.nextOf(Type.request)
        peer.socket[how]()
        assert.strictEqual(yield* told(Fiber.join(written)), "ConnectionLost maybe")
        assert.strictEqual(yield* told(Fiber.join(waiting)), "ConnectionLost no")
        yield* closeClient
      }
    }),
    { maxInFlight: 1 }
  )

  test(
    "a call that is written and closed in the same turn has not left",
    Effect.gen(function*() {
      const { call, closeClient, peer, session } = yield* greeted()
      const fiber = yield* fork(call())
      assert.strictEqual(session.pendingIds, 1)
      yield* closeClient
      assert.strictEqual(yield* told(Fiber.join(fiber)), "ConnectionLost no")
      yield* peer.closed
      assert.deepStrictEqual(peer.rest(), [])
    })
  )

  test(
    "a server that never reads holds back its own calls, is given up in time, and harms nobody else",
    Effect.gen(function*() {
      const { call, peer, session } = yield* dialled(false)
      const other = yield* greeted({ features: 0 })
      const written: Array<Fiber.Fiber<unknown, unknown>> = []
      yield* stalled(Effect.map(fork(call("x".repeat(1_000_000))), (fiber) => written.push(fiber)))
      assert.strictEqual(peer.socket.bytesRead, 0)
      const queued = yield* Effect.replicateEffect(fork(call("small")), 10)
      assert.strictEqual((yield* reason(call("small")))._tag, "LimitReached")
      const elsewhere = yield* fork(other.call())
      yield* other.peer.send(responseFrame(Peer.idOf(yield* other.peer.next), "well"))
      assert.strictEqual(textOf(yield* Fiber.join(elsewhere)), "well")
      yield* TestClock.adjust("30 seconds")
      for (const fiber of written) assert.strictEqual(yield* told(Fiber.join(fiber)), "ConnectionLost maybe")
      for (const fiber of queued) assert.strictEqual(yield* told(Fiber.join(fiber)), "ConnectionLost no")
      assert.deepStrictEqual([session.status, session.inFlight, other.session.status], ["closed", 0, "open"])
    }),
    { maxQueued: 10 }
  )

  test(
    "callers who leave a stalled session leave nothing in it",
    Effect.gen(function*() {
      const { call, session } = yield* dialled(false)
      yield* stalled(fork(call("x".repeat(1_000_000))))
      const before = session.inFlight
      const queue = Reflect.get(session, "queue") as { readonly held: number }
      for (let round = 0; round < 2000; round++) {
        const fiber = yield* fork(call("y".repeat(100)))
        yield* Fiber.interrupt(fiber)
      }
      assert.strictEqual(session.inFlight, before)
      assert.isAtMost(queue.held, 64)
    })
  )
})

describe("Tcp, connections", () => {
  test(
    "an address is tcp, a host and a port",
    Effect.gen(function*() {
      const transport = yield* Transport
      const wrong = [
        "",
        "localhost:80",
        "http://localhost:80",
        "tcp://localhost",
        "tcp://:80",
        "tcp://h:65536",
        "tcp://h:1/x"
      ]
      for (const address of wrong) {
        for (const self of [transport.connect(address), transport.listen(address, () => Effect.never)]) {
          const failed = yield* reason(Effect.scoped(self as Effect.Effect<unknown, unknown, Scope.Scope>))
          assert.deepInclude(failed, { _tag: "ConnectFailed", kind: "dns", target: address, sent: "no" })
        }
      }
    })
  )

  test(
    "a host may be a name",
    Effect.gen(function*() {
      const { listening } = yield* serving
      const transport = yield* Transport
      const session = yield* transport.connect(listening.address.replace("127.0.0.1", "localhost"))
      assert.strictEqual(textOf(yield* session.send(request("echo", "by name"))), "by name")
    })
  )

  test(
    "an interrupt at any moment of connecting leaves no socket",
    Effect.gen(function*() {
      const { listening } = yield* serving
      const transport = yield* Transport
      // Test files share a process: what another left open is not this one's.
      const sockets = () => process.getActiveResourcesInfo().filter((resource) => resource === "TCPSocketWrap").length
      const before = sockets()
      for (let turns = 0; turns < 12; turns++) {
        const fiber = yield* fork(Effect.scoped(Effect.andThen(transport.connect(listening.address), Effect.never)))
        for (let turn = 0; turn < turns; turn++) yield* Peer.turn
        yield* Fiber.interrupt(fiber)
      }
      yield* until(() => sockets() <= before && listening.stats().sessions === 0)
    })
  )

  test(
    "tells when sessions open and close, and why",
    Effect.gen(function*() {
      const { listening } = yield* serving
      const transport = yield* Transport
      const events: Array<string> = []
      const receiver: CallEvent.Receiver = {
        event: (event) => {
          if (event._tag === "SessionChanged") events.push(`${event.side} ${event.change}: ${event.why}`)
        }
      }
      yield* Effect.scoped(transport.connect(listening.address)).pipe(
        Effect.provideService(CallEvent.CurrentReceiver, receiver)
      )
      assert.deepStrictEqual(events, ["client opened: connected", "client closed: closed by its owner"])
    })
  )

  it.effect("dies on options that are out of range", () =>
    Effect.gen(function*() {
      const cases: ReadonlyArray<readonly [Tcp.TcpOptions, string]> = [
        [{ maxPayloadBytes: 1023 }, "Tcp.layer: maxPayloadBytes must be an integer in [1024, 4294967295], got 1023"],
        [{ maxInFlight: 0 }, "Tcp.layer: maxInFlight must be an integer in [1, 65536], got 0"],
        [{ maxInFlight: 65_537 }, "Tcp.layer: maxInFlight must be an integer in [1, 65536], got 65537"],
        [{ maxQueued: -1 }, "Tcp.layer: maxQueued must be an integer >= 0, got -1"],
        [{ pingInterval: 0 }, "Tcp.layer: pingInterval must be a positive and finite duration, got 0"],
        [
          { stallTimeout: "Infinity" as never },
          "Tcp.layer: stallTimeout must be a positive and finite duration, got \"Infinity\""
        ],
        [{ connectTimeout: Number.NaN }, "Tcp.layer: connectTimeout must be a positive and finite duration, got NaN"]
      ]
      for (const [options, message] of cases) {
        const exit = yield* Effect.exit(Effect.scoped(Layer.build(Tcp.layer(options))))
        assert.isTrue(Exit.isFailure(exit) && Exit.hasDies(exit))
        assert.include(String(Exit.isFailure(exit) ? exit.cause : ""), message)
      }
    }))
})
