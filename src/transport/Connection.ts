/**
 * One address's session: opened on first use, shared by all calls, reopened.
 *
 * A session that ends is replaced when it is next wanted. A failed opening is
 * repeated no sooner than an exponential, jittered backoff allows; until then
 * asking fails at once, so a dead address costs its callers nothing. Opening is
 * done once for all who wait, and a waiter that leaves does not stop it.
 *
 * It does not pick: a balancer holds one `Connection` per endpoint.
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import * as Options from "../contract/Options.ts"
import * as Timer from "../contract/Timer.ts"
import { type ConnectError, connectFailed, type Expiry, type Session, type Transport } from "./Transport.ts"

export interface ConnectionOptions {
  /** Delay after the first failed opening, before jitter. Default 50 ms: about a restart of a local process. */
  readonly backoffBase?: Duration.Input | undefined
  /** Longest delay between openings. Default 5 seconds: the longest a recovered server waits to be noticed. */
  readonly backoffCap?: Duration.Input | undefined
  /**
   * How long a new connection may take to show a sign of life before it is used
   * without one. Default 250 ms. A frozen process's kernel still accepts
   * connections; a peer that never says hello is usable after this.
   */
  readonly greetingWait?: Duration.Input | undefined
}

export interface Connection {
  readonly address: string
  /** The session to send on now, if one is open. */
  readonly current: Session | undefined
  /** Whether asking now would fail at once, and until when (monotonic milliseconds). */
  readonly backoffUntil: number
  /** The open session, or a new one. Fails at once during a backoff; waits at most until the attempt expires. */
  readonly acquire: <E = never>(expiry?: Expiry<E>) => Effect.Effect<Session, ConnectError | E>
  /** Begins to open a session, if none is open or being opened and no backoff forbids it. */
  readonly prepare: () => void
  /** Finishes what is in flight and opens nothing more. */
  readonly drain: Effect.Effect<void>
}

interface Waiter {
  readonly resume: (exit: Exit.Exit<Session, ConnectError>) => void
  timer: Timer.Timer | undefined
}

/** Most calls that wait for one session to open: as many as a session lets wait. */
const maxWaiters = 4096

/** A connection of the scope: closing it closes the session. */
export const make = (
  transport: Transport["Service"],
  address: string,
  options: ConnectionOptions = {}
): Effect.Effect<Connection, never, Scope.Scope> =>
  Effect.flatMap(Effect.context<Scope.Scope>(), (context) =>
    Effect.withFiber((fiber) => {
      const where = "Connection.make"
      const base = Options.millis(where, "backoffBase", options.backoffBase ?? "50 millis")
      const cap = Options.millis(where, "backoffCap", options.backoffCap ?? "5 seconds")
      const greetingWait = Options.millis(where, "greetingWait", options.greetingWait ?? "250 millis", true)
      const source = Timer.sourceOf(fiber)
      const run = Effect.runForkWith(context)
      const scope = Context.get(context, Scope.Scope)
      const shared = new Shared({ transport, address, base, cap, greetingWait, source, scope, run })
      return Effect.as(Effect.addFinalizer(() => Effect.sync(shared.end)), shared)
    }))

interface Config {
  readonly transport: Transport["Service"]
  readonly address: string
  readonly base: number
  readonly cap: number
  readonly greetingWait: number
  readonly source: Timer.Source
  readonly scope: Scope.Scope
  readonly run: <A, E>(effect: Effect.Effect<A, E, Scope.Scope>) => Fiber.Fiber<A, E>
}

class Shared implements Connection {
  readonly address: string
  backoffUntil = -Infinity
  private readonly config: Config
  private session: Session | undefined
  /** All that are not over: the one in use, and those that finish what they have. */
  private readonly sessions = new Set<Session>()
  private connecting = false
  /** Why no session is opened any more, if none is. */
  private over: string | undefined
  private failures = 0
  private lastFailure: ConnectError | undefined
  private waiters = new Set<Waiter>()

  constructor(config: Config) {
    this.config = config
    this.address = config.address
  }

  get current(): Session | undefined {
    return this.session?.status === "open" ? this.session : undefined
  }

  readonly acquire = <E = never>(expiry?: Expiry<E>): Effect.Effect<Session, ConnectError | E> =>
    Effect.suspend(() => {
      const { current } = this
      if (current !== undefined) return Effect.succeed(current)
      const refused = this.refusal()
      if (refused !== undefined) return Effect.fail(refused)
      return Effect.callback<Session, ConnectError | E>((resume) => {
        if (this.waiters.size >= maxWaiters) {
          return resume(
            Effect.fail(connectFailed(this.address, "unreachable", `${maxWaiters} calls wait for it already`))
          )
        }
        const waiter: Waiter = { resume, timer: undefined }
        if (expiry !== undefined) {
          waiter.timer = Timer.scheduleOn(this.config.source, expiry.atMillis, () => {
            this.waiters.delete(waiter)
            resume(Effect.fail(expiry.error("no")))
          })
        }
        this.waiters.add(waiter)
        this.prepare()
        return Effect.sync(() => {
          waiter.timer?.cancel()
          this.waiters.delete(waiter)
        })
      })
    })

  readonly prepare = (): void => {
    if (this.connecting || this.current !== undefined || this.refusal() !== undefined) return
    this.connecting = true
    Fiber.runIn(this.config.run(Effect.scoped(this.hold)), this.config.scope)
  }

  readonly drain: Effect.Effect<void> = Effect.suspend(() => {
    this.stop("this client is draining")
    return Effect.forEach(this.sessions, (session) => session.drain, { concurrency: "unbounded", discard: true })
  })

  /** The scope has closed: nothing can be opened in it. */
  readonly end = (): void => this.stop("this client has closed")

  /** Opens nothing more. Who waits has sent nothing, and may go elsewhere. */
  private stop(why: string): void {
    this.over = why
    this.settle(Exit.fail(connectFailed(this.address, "unreachable", why)))
  }

  /** Why asking fails at once, if it does. */
  private refusal(): ConnectError | undefined {
    if (this.over !== undefined) return connectFailed(this.address, "unreachable", this.over)
    const wait = this.backoffUntil - Timer.nowOf(this.config.source.clock)
    if (wait <= 0 || this.lastFailure === undefined) return undefined
    const { detail, kind } = this.lastFailure.reason
    return connectFailed(this.address, kind, detail, wait)
  }

  /** Opens a session and lives as long as it: the scope of the connection is the fiber's. */
  private readonly hold: Effect.Effect<void, never, Scope.Scope> = Effect.suspend(() =>
    this.config.transport.connect(this.address)
  ).pipe(
    Effect.tap((session) => this.greeting(session)),
    Effect.flatMap((session) => {
      // Accepted by somebody who has nothing behind it, such as a proxy.
      if (isMute(session)) return Effect.fail(mute(this.address))
      if (this.over !== undefined) return Effect.void
      this.opened(session)
      return Effect.flatMap(closed(session), () => this.closed(session))
    }),
    Effect.catch((error) => Effect.map(Random.next, (draw) => this.failed(error, draw))),
    // A transport that dies of a defect, too, answers those who wait.
    Effect.onError((cause) => Effect.sync(() => this.died(cause)))
  )

  /** Waits for the peer's first sign of life, but not for ever. */
  private greeting(session: Session): Effect.Effect<void> {
    if (session.greeted || this.config.greetingWait === 0) return Effect.void
    const { source } = this.config
    return Effect.callback((resume) => {
      const done = () => {
        timer.cancel()
        stop()
        resume(Effect.void)
      }
      const timer = Timer.scheduleOn(source, Timer.nowOf(source.clock) + this.config.greetingWait, done)
      const stop = session.onChange(done)
      return Effect.sync(() => {
        timer.cancel()
        stop()
      })
    })
  }

  private opened(session: Session): void {
    this.session = session
    this.sessions.add(session)
    this.connecting = false
    // A connection that was accepted and never spoke may belong to a frozen process: it resets nothing.
    if (session.greeted) this.failures = 0
    this.settle(Exit.succeed(session))
  }

  private closed(session: Session): Effect.Effect<void> {
    this.sessions.delete(session)
    if (session.greeted) this.failures = 0
    return isMute(session) ? Effect.map(Random.next, (draw) => this.backOff(mute(this.address), draw)) : Effect.void
  }

  private failed(error: ConnectError, draw: number): void {
    this.connecting = false
    this.backOff(error, draw)
    this.settle(Exit.fail(error))
  }

  private died(cause: Cause.Cause<never>): void {
    if (Cause.hasInterrupts(cause)) return this.end()
    this.connecting = false
    this.settle(Exit.failCause(cause))
  }

  private backOff(error: ConnectError, draw: number): void {
    this.lastFailure = error
    // Equal jitter within the cap: a fleet that lost one server does not come back in step.
    const delay = Math.min(this.config.cap, this.config.base * 2 ** Math.min(this.failures++, 30))
    this.backoffUntil = Timer.nowOf(this.config.source.clock) + delay * (0.5 + draw / 2)
  }

  private settle(exit: Exit.Exit<Session, ConnectError>): void {
    const { waiters } = this
    this.waiters = new Set()
    for (const { resume, timer } of waiters) {
      timer?.cancel()
      resume(exit)
    }
  }
}

/** Whether a session ended before its peer said anything. */
const isMute = (session: Session): boolean => session.status === "closed" && !session.greeted

const mute = (address: string): ConnectError =>
  connectFailed(address, "unreachable", "the connection was accepted and closed without a word")

/** Waits until a session is over. */
const closed = (session: Session): Effect.Effect<void> =>
  Effect.callback((resume) => {
    const check = () => {
      if (session.status === "closed") resume(Effect.void)
    }
    const stop = session.onChange(check)
    check()
    return Effect.sync(stop)
  })
