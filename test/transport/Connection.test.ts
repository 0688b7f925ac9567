import { assert, describe, it } from "@effect/vitest"
import { Clock, Deferred, Effect, Exit, Fiber, Random, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as Timer from "../../src/contract/Timer.ts"
import * as Connection from "../../src/transport/Connection.ts"
import {
  type ConnectError,
  connectFailed,
  type Session,
  type Status,
  type Transport
} from "../../src/transport/Transport.ts"
import * as BodyCodec from "../../src/wire/BodyCodec.ts"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"
import { reason } from "../support/reason.ts"
import { response } from "../support/script.ts"

/** A session that does what the test says. */
class FakeSession implements Session {
  readonly address = "fake"
  readonly codec = BodyCodec.json
  readonly inFlight = 0
  readonly listeners = new Set<() => void>()
  readonly send = () => Effect.succeed(response(0, ""))
  status: Status = "open"
  greeted: boolean
  drains = 0

  constructor(greeted: boolean) {
    this.greeted = greeted
  }

  readonly onChange = (listener: () => void) => {
    this.listeners.add(listener)
    return () => void this.listeners.delete(listener)
  }

  readonly drain: Effect.Effect<void> = Effect.callback((resume) => {
    this.drains++
    this.become("draining")
    const check = () => {
      if (this.status === "closed") resume(Effect.void)
    }
    this.onChange(check)
    check()
  })

  greet(): void {
    this.greeted = true
    this.become(this.status)
  }

  become(status: Status): void {
    if (this.status === "closed") return
    this.status = status
    for (const listener of this.listeners) listener()
  }
}

/** A transport whose connections open when the test says so. */
const world = (options: { readonly greeted?: boolean; readonly connection?: Connection.ConnectionOptions } = {}) =>
  Effect.gen(function*() {
    const opening: Array<Deferred.Deferred<FakeSession, ConnectError>> = []
    const sessions: Array<FakeSession> = []
    const closed: Array<FakeSession> = []
    let interrupted = 0
    const transport: Transport["Service"] = {
      connect: () =>
        Effect.acquireRelease(
          Effect.suspend(() => {
            const next = Deferred.makeUnsafe<FakeSession, ConnectError>()
            opening.push(next)
            return Effect.onInterrupt(Deferred.await(next), () => Effect.sync(() => void interrupted++))
          }),
          (session) =>
            Effect.sync(() => {
              closed.push(session)
              session.become("closed")
            }),
          { interruptible: true }
        ),
      listen: () => Effect.die("nobody listens here")
    }
    const scope = yield* Scope.fork(yield* Effect.scope)
    const connection = yield* Scope.provide(Connection.make(transport, "fake", options.connection), scope)
    return {
      connection,
      sessions,
      closed,
      opened: () => opening.length,
      interrupted: () => interrupted,
      succeed: Effect.suspend(() => {
        const session = new FakeSession(options.greeted ?? true)
        sessions.push(session)
        return Effect.as(Deferred.succeed(opening.at(-1)!, session), session)
      }),
      fail: Effect.suspend(() => Deferred.fail(opening.at(-1)!, connectFailed("fake", "refused", "ECONNREFUSED"))),
      die: Effect.suspend(() => Deferred.die(opening.at(-1)!, "broken")),
      close: Scope.close(scope, Exit.void)
    }
  })

const test = (name: string, body: Effect.Effect<void, unknown, Scope.Scope>) =>
  it.effect(name, () =>
    Effect.gen(function*() {
      yield* Effect.scoped(body)
      assert.strictEqual(Timer.size(yield* Clock.Clock), 0)
    }).pipe(Random.withSeed("connection")))

const fork = <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.forkChild(self, { startImmediately: true })
/** Draws that make the jitter what a test wants: the backoff is 0.5 to 1 times its length. */
const drawing = (draw: number) =>
  Effect.provideService(Random.Random, { nextIntUnsafe: () => 0, nextDoubleUnsafe: () => draw })

describe("Connection", () => {
  test(
    "opens one session for all who ask",
    Effect.gen(function*() {
      const { connection, opened, succeed } = yield* world()
      assert.strictEqual(opened(), 0)
      const waiting = yield* Effect.replicateEffect(fork(connection.acquire()), 100)
      connection.prepare()
      assert.deepStrictEqual([opened(), connection.current], [1, undefined])
      const session = yield* succeed
      for (const fiber of waiting) assert.strictEqual(yield* Fiber.join(fiber), session)
      assert.strictEqual(yield* connection.acquire(), session)
      assert.deepStrictEqual([opened(), connection.current === session], [1, true])
    })
  )

  test(
    "goes on opening when who waits has left",
    Effect.gen(function*() {
      const { connection, interrupted, opened, succeed } = yield* world()
      const only = yield* fork(connection.acquire())
      yield* Fiber.interrupt(only)
      const other = yield* fork(connection.acquire())
      const session = yield* succeed
      assert.strictEqual(yield* Fiber.join(other), session)
      assert.deepStrictEqual([opened(), interrupted()], [1, 0])
    })
  )

  it.effect("an interrupt between any two steps of asking leaves nobody waiting", () =>
    interruptEverywhere(Effect.gen(function*() {
      const { close, connection, succeed } = yield* Scope.provide(world(), Scope.makeUnsafe())
      return {
        work: connection.acquire(),
        check: (where) =>
          Effect.gen(function*() {
            assert.strictEqual((Reflect.get(connection, "waiters") as Set<unknown>).size, 0, where)
            connection.prepare()
            const session = yield* succeed
            assert.strictEqual(yield* connection.acquire(), session, where)
            yield* close
          }).pipe(Effect.orDie)
      }
    })))

  test(
    "lets an attempt wait until it expires, and says that it was not sent",
    Effect.gen(function*() {
      const { connection, succeed } = yield* world()
      const clock = yield* Clock.Clock
      const expiry = {
        atMillis: 300,
        reason: "attemptTimeout" as const,
        error: (sent: string) => `expired ${sent}`
      }
      const [late, patient, left] = [
        yield* fork(Effect.flip(connection.acquire(expiry))),
        yield* fork(connection.acquire({ ...expiry, atMillis: 900 })),
        yield* fork(connection.acquire({ ...expiry, atMillis: 900 }))
      ]
      yield* Fiber.interrupt(left!)
      yield* TestClock.adjust(300)
      assert.deepStrictEqual([yield* Fiber.join(late!), Timer.size(clock)], ["expired no", 1])
      assert.strictEqual((Reflect.get(connection, "waiters") as Set<unknown>).size, 1)
      const session = yield* succeed
      assert.strictEqual(yield* Fiber.join(patient!), session)
      assert.strictEqual(Timer.size(clock), 0)
      assert.strictEqual(yield* connection.acquire({ ...expiry, atMillis: 0 }), session)
    })
  )

  test(
    "4,096 may wait for one session, more are sent elsewhere",
    Effect.gen(function*() {
      const { connection, succeed } = yield* world()
      const waiting = yield* Effect.replicateEffect(fork(connection.acquire()), 4096)
      const refused = yield* reason(connection.acquire())
      assert.deepInclude(refused, { _tag: "ConnectFailed", kind: "unreachable", sent: "no" })
      yield* Fiber.interrupt(waiting[0]!)
      const last = yield* fork(connection.acquire())
      yield* succeed
      yield* Fiber.join(last)
    })
  )

  test(
    "fails all who wait, then whoever asks until the backoff is over, and says when that is",
    Effect.gen(function*() {
      const { connection, fail, opened, succeed } = yield* world()
      const waiting = yield* Effect.replicateEffect(fork(connection.acquire()), 3)
      yield* fail
      for (const fiber of waiting) {
        assert.deepStrictEqual(yield* reason(Fiber.join(fiber)), {
          _tag: "ConnectFailed",
          target: "fake",
          kind: "refused",
          detail: "ECONNREFUSED",
          sent: "no",
          retryAfterMillis: undefined
        })
      }
      assert.strictEqual(connection.backoffUntil, 50)
      yield* TestClock.adjust(20)
      const refused = yield* reason(connection.acquire())
      assert.deepInclude(refused, { _tag: "ConnectFailed", kind: "refused", retryAfterMillis: 30 })
      connection.prepare()
      assert.strictEqual(opened(), 1)
      yield* TestClock.adjust(30)
      const again = yield* fork(connection.acquire())
      assert.strictEqual(opened(), 2)
      yield* succeed
      yield* Fiber.join(again)
    }).pipe(drawing(1))
  )

  test(
    "doubles the backoff up to its cap, and begins anew after a session that spoke",
    Effect.gen(function*() {
      const { connection, fail, succeed } = yield* world()
      const delays: Array<number> = []
      const failed = Effect.gen(function*() {
        connection.prepare()
        yield* fail
        const delay = connection.backoffUntil - Timer.nowOf(yield* Clock.Clock)
        delays.push(delay)
        yield* TestClock.adjust(delay)
      })
      yield* Effect.replicateEffect(failed, 10)
      assert.deepStrictEqual(delays, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000])
      connection.prepare()
      const session = yield* succeed
      assert.strictEqual(connection.current, session)
      session.become("closed")
      assert.strictEqual(connection.current, undefined)
      yield* failed
      assert.strictEqual(delays.at(-1), 50)
    }).pipe(drawing(1))
  )

  test(
    "jitters the backoff between half of it and all of it, the capped one too",
    Effect.gen(function*() {
      const first: Array<number> = []
      const capped: Array<number> = []
      for (let client = 0; client < 60; client++) {
        const { connection, fail } = yield* world({ connection: { backoffBase: "1 second", backoffCap: "2 seconds" } })
        for (const delays of [first, [], [], capped]) {
          connection.prepare()
          yield* fail
          const delay = connection.backoffUntil - Timer.nowOf(yield* Clock.Clock)
          delays.push(delay)
          yield* TestClock.adjust(Math.ceil(delay))
        }
      }
      for (const [delays, most] of [[first, 1000], [capped, 2000]] as const) {
        assert.isTrue(delays.every((delay) => delay >= most / 2 && delay <= most))
        assert.isAbove(Math.max(...delays) - Math.min(...delays), most * 0.4)
      }
    })
  )

  test(
    "opens another session when the one it has is lost, at once",
    Effect.gen(function*() {
      const { closed, connection, opened, succeed } = yield* world()
      connection.prepare()
      const first = yield* succeed
      first.become("closed")
      assert.strictEqual(opened(), 1)
      const waiting = yield* fork(connection.acquire())
      assert.strictEqual(opened(), 2)
      const second = yield* succeed
      assert.strictEqual(yield* Fiber.join(waiting), second)
      assert.deepStrictEqual(closed, [first])
    })
  )

  test(
    "leaves a session that drains to finish, and opens another meanwhile",
    Effect.gen(function*() {
      const { closed, connection, opened, succeed } = yield* world()
      connection.prepare()
      const first = yield* succeed
      first.become("draining")
      assert.strictEqual(connection.current, undefined)
      const waiting = yield* fork(connection.acquire())
      const second = yield* succeed
      assert.strictEqual(yield* Fiber.join(waiting), second)
      assert.deepStrictEqual([opened(), closed.length], [2, 0])
      // A drain of all waits for both.
      const draining = yield* fork(connection.drain)
      second.become("closed")
      assert.isUndefined(draining.pollUnsafe())
      first.become("closed")
      yield* Fiber.join(draining)
    })
  )

  test(
    "uses a connection that says nothing only after the greeting wait",
    Effect.gen(function*() {
      const { connection, succeed } = yield* world({ greeted: false })
      const clock = yield* Clock.Clock
      const waiting = yield* fork(connection.acquire())
      const session = yield* succeed
      yield* TestClock.adjust(249)
      assert.deepStrictEqual([waiting.pollUnsafe(), connection.current, Timer.size(clock)], [undefined, undefined, 1])
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* Fiber.join(waiting), session)
      assert.strictEqual(Timer.size(clock), 0)
    })
  )

  test(
    "uses a connection as soon as it says something",
    Effect.gen(function*() {
      const { connection, succeed } = yield* world({ greeted: false })
      const waiting = yield* fork(connection.acquire())
      const session = yield* succeed
      yield* TestClock.adjust(100)
      session.greet()
      assert.strictEqual(yield* Fiber.join(waiting), session)
      assert.strictEqual(Timer.size(yield* Clock.Clock), 0)
      assert.strictEqual(session.listeners.size, 1)
    })
  )

  test(
    "waits for no greeting when told so",
    Effect.gen(function*() {
      const { connection, succeed } = yield* world({ greeted: false, connection: { greetingWait: 0 } })
      const waiting = yield* fork(connection.acquire())
      const session = yield* succeed
      assert.strictEqual(yield* Fiber.join(waiting), session)
    })
  )

  test(
    "backs off from who accepts and closes without a word, longer each time",
    Effect.gen(function*() {
      const { connection, opened, succeed } = yield* world({ greeted: false })
      const delays: Array<number> = []
      for (let round = 0; round < 3; round++) {
        const waiting = yield* fork(connection.acquire())
        const session = yield* succeed
        // Before the greeting wait is over, and after.
        if (round === 1) yield* TestClock.adjust(250)
        session.become("closed")
        if (round === 1) assert.strictEqual(yield* Fiber.join(waiting), session)
        else assert.deepInclude(yield* reason(Fiber.join(waiting)), { _tag: "ConnectFailed", kind: "unreachable" })
        assert.strictEqual((yield* reason(connection.acquire()))._tag, "ConnectFailed")
        delays.push(connection.backoffUntil - Timer.nowOf(yield* Clock.Clock))
        yield* TestClock.adjust(delays.at(-1)!)
      }
      assert.deepStrictEqual([delays, opened()], [[50, 100, 200], 3])
    }).pipe(drawing(1))
  )

  test(
    "a session that spoke late ends a series of failures",
    Effect.gen(function*() {
      const { connection, fail, succeed } = yield* world({ greeted: false })
      connection.prepare()
      yield* fail
      yield* TestClock.adjust(50)
      connection.prepare()
      const session = yield* succeed
      yield* TestClock.adjust(250)
      session.greet()
      session.become("closed")
      connection.prepare()
      yield* fail
      assert.strictEqual(connection.backoffUntil - Timer.nowOf(yield* Clock.Clock), 50)
      yield* TestClock.adjust(50)
    }).pipe(drawing(1))
  )

  test(
    "a drain answers who waits at once, finishes the session and opens nothing more",
    Effect.gen(function*() {
      const { connection, opened, succeed } = yield* world()
      connection.prepare()
      const session = yield* succeed
      const draining = yield* fork(connection.drain)
      assert.deepStrictEqual([session.drains, session.status], [1, "draining"])
      assert.deepInclude(yield* reason(connection.acquire()), {
        _tag: "ConnectFailed",
        detail: "this client is draining"
      })
      connection.prepare()
      assert.strictEqual(opened(), 1)
      session.become("closed")
      yield* Fiber.join(draining)
      yield* connection.drain
    })
  )

  test(
    "a drain while a session is being opened keeps none",
    Effect.gen(function*() {
      const { closed, connection, succeed } = yield* world()
      const waiting = yield* fork(connection.acquire())
      yield* connection.drain
      assert.deepInclude(yield* reason(Fiber.join(waiting)), { _tag: "ConnectFailed", sent: "no" })
      const session = yield* succeed
      assert.deepStrictEqual([closed, session.drains, connection.current], [[session], 0, undefined])
    })
  )

  test(
    "closing the scope closes the session, stops what is being opened and answers who waits",
    Effect.gen(function*() {
      const open = yield* world()
      open.connection.prepare()
      const session = yield* open.succeed
      yield* open.close
      assert.deepStrictEqual([open.closed, session.status], [[session], "closed"])

      const unused = yield* world()
      yield* unused.close

      const { close, connection, interrupted, opened } = yield* world()
      const waiting = yield* fork(connection.acquire())
      yield* close
      assert.deepInclude(yield* reason(Fiber.join(waiting)), {
        _tag: "ConnectFailed",
        detail: "this client has closed"
      })
      assert.strictEqual(interrupted(), 1)
      for (const closed of [open.connection, unused.connection, connection]) {
        assert.deepInclude(yield* reason(closed.acquire()), { detail: "this client has closed" })
        closed.prepare()
      }
      assert.deepStrictEqual([open.opened(), unused.opened(), opened()], [1, 0, 1])
    })
  )

  test(
    "a transport that dies fails who waits with its defect, and is asked again",
    Effect.gen(function*() {
      const { connection, die, succeed } = yield* world()
      const waiting = yield* fork(connection.acquire())
      yield* die
      const exit = yield* Fiber.await(waiting)
      assert.isTrue(Exit.isFailure(exit) && Exit.hasDies(exit))
      const again = yield* fork(connection.acquire())
      const session = yield* succeed
      assert.strictEqual(yield* Fiber.join(again), session)
    })
  )

  it.effect("dies on options that are out of range", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(Effect.scoped(world({ connection: { backoffBase: 0 } })))
      assert.include(
        String(Exit.isFailure(exit) ? exit.cause : ""),
        "Connection.make: backoffBase must be a positive and finite duration, got 0"
      )
    }))
})
