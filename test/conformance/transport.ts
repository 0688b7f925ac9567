/** What every transport must do: one suite, run against each. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, type Layer, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as Interruption from "../../src/contract/Interruption.ts"
import * as Timer from "../../src/contract/Timer.ts"
import { type Session, Transport } from "../../src/transport/Transport.ts"
import * as Frame from "../../src/wire/Frame.ts"
import * as FrameCodec from "../../src/wire/FrameCodec.ts"
import { fibers } from "../support/fibers.ts"
import { reason, told } from "../support/reason.ts"
import { request, response, Script, textOf } from "../support/script.ts"

export interface Subject {
  readonly name: string
  readonly layer: Layer.Layer<Transport>
  /** Where to listen; the suite connects to what the listener says it is. */
  readonly listen: string
  /** An address of the kind where nobody listens. */
  readonly nowhere: string
  /** What a session owes or is owed: ids in use or in quarantine, or attempts. */
  readonly pending: (session: Session) => number
}

export const suite = (subject: Subject): void => {
  /** A listener and a session to it, each in a scope that the test may close. */
  const connected = Effect.gen(function*() {
    const transport = yield* Transport
    const script = new Script()
    const parent = yield* Effect.scope
    const server = yield* Scope.fork(parent)
    const client = yield* Scope.fork(parent)
    const listening = yield* Scope.provide(transport.listen(subject.listen, script.serve), server)
    const session = yield* Scope.provide(transport.connect(listening.address), client)
    return {
      ...script,
      listening,
      session,
      call: (method: string, body = "", fields: Partial<Frame.Request> = {}) =>
        session.send(request(method, body, fields)),
      /** A call that waits in its handler, and the fiber that made it. */
      waiting: (name: string, method = "wait") =>
        Effect.tap(Effect.forkChild(session.send(request(method, name))), () => script.started(name)),
      closeServer: Scope.close(server, Exit.void),
      closeClient: Scope.close(client, Exit.void),
      another: Effect.flatMap(Scope.fork(parent), (scope) => Scope.provide(transport.connect(listening.address), scope))
    }
  })

  const test = (name: string, body: Effect.Effect<void, unknown, Transport | Scope.Scope>) =>
    it.effect(name, () =>
      Effect.gen(function*() {
        yield* Effect.scoped(body)
        assert.strictEqual(Timer.size(yield* Clock.Clock), 0)
      }).pipe(Effect.provide(subject.layer)))

  describe(`Transport: ${subject.name}`, () => {
    test(
      "answers with what was asked",
      Effect.gen(function*() {
        const { call, session } = yield* connected
        const answer = yield* call("echo", "[\"hello\"]")
        assert.deepStrictEqual([answer.status, textOf(answer), answer.processed], [
          Frame.Status.ok,
          "[\"hello\"]",
          true
        ])
        assert.strictEqual(textOf(yield* call("echo")), "")
        assert.deepStrictEqual([session.inFlight, subject.pending(session), session.status], [0, 0, "open"])
      })
    )

    test(
      "carries many calls at a time",
      Effect.gen(function*() {
        const { call } = yield* connected
        const bodies = Array.from({ length: 3000 }, (_, index) => `"call ${index}"`)
        const answers = yield* Effect.forEach(bodies, (body) => call("echo", body), { concurrency: "unbounded" })
        assert.deepStrictEqual(answers.map(textOf), bodies)
      })
    )

    test(
      "answers in any order",
      Effect.gen(function*() {
        const { release, session, waiting } = yield* connected
        const names = ["a", "b", "c"]
        const calls = yield* Effect.forEach(names, (name) => waiting(name))
        assert.strictEqual(session.inFlight, 3)
        for (const name of ["c", "a", "b"]) {
          yield* release(name)
          assert.strictEqual(textOf(yield* Fiber.join(calls[names.indexOf(name)]!)), name)
        }
      })
    )

    test(
      "passes on every status and body, of later versions too",
      Effect.gen(function*() {
        const { call } = yield* connected
        for (const status of [Frame.Status.failed, Frame.Status.overloaded, Frame.Status.remote, 200, 255]) {
          const answer = yield* call("status", String(status))
          assert.deepStrictEqual([answer.status, textOf(answer)], [status, "[1,2]"])
        }
      })
    )

    test(
      "passes on pushback and metadata",
      Effect.gen(function*() {
        const transport = yield* Transport
        const answer = {
          ...response(Frame.Status.overloaded, "", false),
          retryAfterMillis: 1500,
          headers: { zone: "b", "ключ": "значение" }
        }
        const listening = yield* transport.listen(subject.listen, () => Effect.succeed(answer))
        const session = yield* transport.connect(listening.address)
        const { headers, processed, retryAfterMillis, status } = yield* session.send(request("any"))
        assert.deepStrictEqual({ status, processed, retryAfterMillis, headers: { ...headers } }, {
          status: Frame.Status.overloaded,
          processed: false,
          retryAfterMillis: 1500,
          headers: answer.headers
        })
      })
    )

    test(
      "tells the handler everything about the attempt",
      Effect.gen(function*() {
        const { call, seen } = yield* connected
        yield* TestClock.setTime(5000)
        const fields: Partial<Frame.Request> = {
          attempt: 3,
          hedge: true,
          idempotent: true,
          criticality: "sheddablePlus",
          idempotencyKey: "order-7",
          trace: { traceId: "4bf92f3577b34da6a3ce929d0e0e4736", spanId: "00f067aa0ba902b7", sampled: true },
          headers: { tenant: "acme", empty: "" },
          deadline: 6500
        }
        yield* call("echo", "1", fields)
        const got = seen[0]!
        assert.deepStrictEqual({ ...got, body: textOf(got as never), headers: { ...got.headers } }, {
          ...request("echo"),
          ...fields,
          body: "1"
        } as never)
        yield* call("echo")
        assert.deepStrictEqual([seen[1]!.deadline, seen[1]!.trace, seen[1]!.idempotencyKey], [
          Infinity,
          undefined,
          undefined
        ])
      })
    )

    test(
      "interrupts the handler with the caller's reason, and does not wait for it",
      Effect.gen(function*() {
        const { call, ended, listening, session, waiting } = yield* connected
        const left = yield* waiting("left")
        yield* Fiber.interrupt(left)
        assert.strictEqual(yield* ended("left"), "caller")
        for (const why of ["deadline", "attemptTimeout", "hedgeLost", "shutdown"] as const) {
          const fiber = yield* waiting(why)
          fiber.interruptUnsafe(undefined, Interruption.annotations[why])
          assert.isTrue(Exit.isFailure(yield* Fiber.await(fiber)))
          assert.strictEqual(yield* ended(why), why)
        }
        yield* call("echo")
        assert.deepStrictEqual([session.inFlight, subject.pending(session), listening.stats().inFlight], [0, 0, 0])
      })
    )

    test(
      "gives an attempt up at its expiry, and interrupts the handler with its reason",
      Effect.gen(function*() {
        const { call, ended, release, session, started } = yield* connected
        const expiry = (atMillis: number) => ({
          atMillis,
          reason: "attemptTimeout" as const,
          error: (sent: string) => `expired ${sent}`
        })
        yield* call("echo")
        const timers = Timer.size(yield* Clock.Clock)
        const late = yield* Effect.forkChild(Effect.flip(session.send(request("wait", "late"), expiry(1000))))
        yield* started("late")
        yield* TestClock.adjust(999)
        assert.isUndefined(late.pollUnsafe())
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* Fiber.join(late), "expired maybe")
        assert.strictEqual(yield* ended("late"), "attemptTimeout")
        assert.strictEqual(textOf(yield* session.send(request("echo", "in time"), expiry(5000))), "in time")
        const soon = yield* Effect.forkChild(session.send(request("wait", "soon"), expiry(5000)))
        // In memory the handler begins within the call: let that be sent before it is answered.
        yield* Effect.andThen(started("soon"), Effect.yieldNow)
        yield* release("soon")
        assert.strictEqual(textOf(yield* Fiber.join(soon)), "soon")
        const left = yield* Effect.forkChild(session.send(request("wait", "left"), expiry(5000)))
        yield* started("left")
        yield* Fiber.interrupt(left)
        assert.strictEqual(yield* ended("left"), "caller")
        yield* call("echo")
        assert.deepStrictEqual([subject.pending(session), session.inFlight], [0, 0])
        assert.strictEqual(Timer.size(yield* Clock.Clock), timers)
      })
    )

    test(
      "a handler that cannot be interrupted ends before its listener has closed",
      Effect.gen(function*() {
        const { closeServer, ended, listening, release, waiting } = yield* connected
        const left = yield* waiting("work", "stubborn")
        yield* Fiber.interrupt(left)
        assert.strictEqual(listening.stats().inFlight, 1)
        const closing = yield* Effect.forkChild(closeServer, { startImmediately: true })
        yield* Effect.yieldNow
        assert.isUndefined(closing.pollUnsafe())
        yield* release("work")
        yield* Fiber.join(closing)
        assert.strictEqual(yield* ended("work"), "answered")
        assert.strictEqual(listening.stats().inFlight, 0)
      })
    )

    test(
      "a handler that dies fails its own call and no other",
      Effect.gen(function*() {
        const { call, release, waiting } = yield* connected
        const other = yield* waiting("other")
        for (const method of ["die", "throw"]) {
          const answer = yield* call(method)
          assert.deepStrictEqual([answer.status, answer.processed], [Frame.Status.remote, true])
          assert.include(textOf(answer), "MCP-F-1")
          assert.notInclude(textOf(answer), "broken")
        }
        yield* release("other")
        assert.strictEqual(textOf(yield* Fiber.join(other)), "other")
      })
    )

    test(
      "closing the client fails what is pending, which may have happened",
      Effect.gen(function*() {
        const { call, closeClient, ended, session, waiting } = yield* connected
        const first = yield* waiting("first")
        const second = yield* waiting("second")
        yield* closeClient
        assert.strictEqual(yield* told(Fiber.join(first)), "ConnectionLost maybe")
        assert.strictEqual(yield* told(Fiber.join(second)), "ConnectionLost maybe")
        assert.deepStrictEqual([session.status, session.inFlight, subject.pending(session)], ["closed", 0, 0])
        assert.strictEqual(yield* ended("first"), "shutdown")
        assert.strictEqual(yield* told(call("echo")), "ConnectionLost no")
        yield* session.drain
      })
    )

    test(
      "closing the server fails everything pending at once and interrupts the handlers",
      Effect.gen(function*() {
        const { another, closeServer, ended, listening, session, waiting } = yield* connected
        const other = yield* another
        const names = Array.from({ length: 50 }, (_, index) => `call ${index}`)
        const calls = yield* Effect.forEach(names, (name) => waiting(name))
        const elsewhere = yield* Effect.forkChild(other.send(request("wait", "elsewhere")))
        yield* Effect.andThen(Effect.yieldNow, closeServer)
        for (const fiber of [...calls, elsewhere]) assert.match(yield* told(Fiber.join(fiber)), /^ConnectionLost/)
        for (const name of names) assert.strictEqual(yield* ended(name), "shutdown")
        assert.deepStrictEqual([session.status, other.status, listening.stats().inFlight], ["closed", "closed", 0])
        const transport = yield* Transport
        assert.strictEqual((yield* reason(Effect.scoped(transport.connect(listening.address))))._tag, "ConnectFailed")
      })
    )

    test(
      "a draining session finishes what is in flight and refuses the rest",
      Effect.gen(function*() {
        const { call, release, session, waiting } = yield* connected
        yield* call("echo")
        const last = yield* waiting("last")
        const changes: Array<string> = []
        session.onChange(() => changes.push(session.status))
        const draining = yield* Effect.forkChild(session.drain, { startImmediately: true })
        const again = yield* Effect.forkChild(session.drain, { startImmediately: true })
        assert.strictEqual(session.status, "draining")
        assert.strictEqual(yield* told(call("echo")), "ConnectionLost no")
        assert.isUndefined(draining.pollUnsafe())
        yield* release("last")
        assert.strictEqual(textOf(yield* Fiber.join(last)), "last")
        yield* Fiber.join(draining)
        yield* Fiber.join(again)
        assert.deepStrictEqual(changes, ["draining", "closed"])
      })
    )

    test(
      "a drain ends when the last caller leaves, and one nobody waits for does not",
      Effect.gen(function*() {
        const { session, waiting } = yield* connected
        const last = yield* waiting("last")
        const impatient = yield* Effect.forkChild(session.drain, { startImmediately: true })
        yield* Fiber.interrupt(impatient)
        assert.strictEqual(session.status, "draining")
        const draining = yield* Effect.forkChild(session.drain, { startImmediately: true })
        yield* Fiber.interrupt(last)
        yield* Fiber.join(draining)
        assert.strictEqual(session.status, "closed")
      })
    )

    test(
      "a draining server finishes what is in flight and is not connected to again",
      Effect.gen(function*() {
        const { another, call, listening, release, session, waiting } = yield* connected
        const idle = yield* another
        yield* call("echo")
        yield* idle.send(request("echo"))
        const last = yield* waiting("last")
        const left = changedTo(session, "draining")
        const closed = changedTo(idle, "closed")
        const draining = yield* Effect.forkChild(listening.drain, { startImmediately: true })
        yield* left
        yield* closed
        assert.strictEqual(yield* told(call("echo")), "ConnectionLost no")
        const transport = yield* Transport
        assert.strictEqual((yield* reason(Effect.scoped(transport.connect(listening.address))))._tag, "ConnectFailed")
        assert.isUndefined(draining.pollUnsafe())
        yield* release("last")
        assert.strictEqual(textOf(yield* Fiber.join(last)), "last")
        yield* Fiber.join(draining)
        assert.deepStrictEqual([listening.stats().sessions, listening.stats().inFlight], [0, 0])
        yield* listening.drain
      })
    )

    test(
      "refuses to connect where nobody listens",
      Effect.gen(function*() {
        const transport = yield* Transport
        const refused = yield* reason(Effect.scoped(transport.connect(subject.nowhere)))
        assert.deepStrictEqual([refused._tag, refused.sent, "kind" in refused && refused.kind], [
          "ConnectFailed",
          "no",
          "refused"
        ])
      })
    )

    test(
      "one address has one listener, until it closes",
      Effect.gen(function*() {
        const { closeServer, listening } = yield* connected
        const transport = yield* Transport
        const again = Effect.scoped(transport.listen(listening.address, () => Effect.never))
        assert.strictEqual((yield* reason(again))._tag, "ConnectFailed")
        yield* closeServer
        assert.strictEqual((yield* again).address, listening.address)
      })
    )

    test(
      "carries bodies up to the limit, and says of a larger one that it was not sent",
      Effect.gen(function*() {
        const { call, session } = yield* connected
        const large = (size: number) => ({ ...request("echo"), body: Buffer.alloc(size, 7) })
        // What else is in a request counts towards the limit.
        const oversize = FrameCodec.oversize(large(Frame.defaultMaxPayloadBytes), 0, Frame.defaultMaxPayloadBytes)!
        const most = 2 * Frame.defaultMaxPayloadBytes - oversize.sizeBytes
        const answer = yield* session.send(large(most))
        assert.isTrue(Buffer.from(answer.body).equals(Buffer.alloc(most, 7)))
        const refused = yield* reason(session.send(large(most + 1)))
        assert.deepStrictEqual(refused, {
          _tag: "TooLarge",
          target: session.address,
          sizeBytes: Frame.defaultMaxPayloadBytes + 1,
          limitBytes: Frame.defaultMaxPayloadBytes,
          sent: "no"
        })
        const metadata = yield* reason(call("echo", "", { headers: { name: "x".repeat(70_000) } }))
        assert.deepStrictEqual([metadata._tag, metadata.sent], ["TooLarge", "no"])
        const method = yield* reason(call("m".repeat(70_000)))
        assert.deepStrictEqual([method._tag, method.sent], ["TooLarge", "no"])
        assert.strictEqual(textOf(yield* call("echo", "still here")), "still here")
        assert.strictEqual(subject.pending(session), 0)
      })
    )

    test(
      "an answer over the limit fails its own call and no other",
      Effect.gen(function*() {
        const { call, release, session, waiting } = yield* connected
        const other = yield* waiting("other")
        const answer = yield* call("zeros", String(Frame.defaultMaxPayloadBytes))
        assert.deepStrictEqual([answer.status, answer.processed], [Frame.Status.tooLarge, true])
        assert.deepInclude(JSON.parse(textOf(answer)), { limitBytes: Frame.defaultMaxPayloadBytes })
        yield* release("other")
        assert.strictEqual(textOf(yield* Fiber.join(other)), "other")
        assert.strictEqual(session.status, "open")
      })
    )

    it.effect("10,000 interrupted calls leave no id, fiber, timer, listener or socket", () => {
      const { counted, live } = fibers()
      return Effect.gen(function*() {
        const clock = yield* Clock.Clock
        const sockets = handles()
        const before = live()
        yield* Effect.scoped(Effect.gen(function*() {
          const { call, listening, session } = yield* connected
          yield* call("echo")
          const quiet = { fibers: live(), timers: Timer.size(clock), listeners: listenersOf(session) }
          for (let round = 0; round < 10; round++) {
            const all = yield* Effect.replicateEffect(
              Effect.forkDetach(call("never"), { startImmediately: true }),
              1000
            )
            assert.strictEqual(session.inFlight, 1000)
            // Some before anything has left, some on the wire, some in their handlers.
            if (round % 2 === 0) yield* call("echo")
            yield* Effect.forEach(all, Fiber.interrupt, { discard: true })
            yield* call("echo")
          }
          assert.deepStrictEqual(
            { fibers: live(), timers: Timer.size(clock), listeners: listenersOf(session) },
            quiet
          )
          assert.deepStrictEqual([subject.pending(session), session.inFlight, listening.stats().inFlight], [0, 0, 0])
        }))
        assert.deepStrictEqual([live(), Timer.size(clock)], [before, 0])
        // A socket's handle goes with its close event.
        while (handles() > sockets) yield* turn
      }).pipe(counted, Effect.provide(subject.layer))
    })
  })
}

/** Waits until a session has reached a status. Begins to watch at once. */
const changedTo = (session: Session, status: Session["status"]): Effect.Effect<void> => {
  const reached = new Promise<void>((resolve) => {
    const check = () => {
      if (session.status === status) resolve()
    }
    session.onChange(check)
    check()
  })
  return Effect.promise(() => reached)
}

/** Listeners a session has: those of `onChange`. */
const listenersOf = (session: Session): number => (Reflect.get(session, "listeners") as Set<unknown>).size

/** Sockets and listeners of this process. */
const handles = (): number => process.getActiveResourcesInfo().filter((resource) => resource.startsWith("TCP")).length

/** One turn of the event loop. */
const turn = Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))
