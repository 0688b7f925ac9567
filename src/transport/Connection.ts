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
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import * as Options from "../contract/Options.ts"
import * as Timer from "../contract/Timer.ts"
import { type ConnectError, connectFailed, type Session, type Transport } from "./Transport.ts"

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
  /** The open session, or a new one. Fails at once during a backoff. */
  readonly acquire: Effect.Effect<Session, ConnectError>
  /** Begins to open a session, if none is open or being opened and no backoff forbids it. */
  readonly prepare: () => void
  /** Finishes what is in flight and opens nothing more. */
  readonly drain: Effect.Effect<void>
}

type Waiter = (exit: Exit.Exit<Session, ConnectError>) => void

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
      return Effect.succeed(new Shared({ transport, address, base, cap, greetingWait, source, scope, run }))
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
  private connecting = false
  private draining = false
  private failures = 0
  private lastFailure: ConnectError | undefined
  private waiters: Array<Waiter> = []

  constructor(config: Config) {
    this.config = config
    this.address = config.address
  }

  get current(): Session | undefined {
    return this.session?.status === "open" ? this.session : undefined
  }

  readonly acquire: Effect.Effect<Session, ConnectError> = Effect.suspend(() => {
    const { current } = this
    if (current !== undefined) return Effect.succeed(current)
    const refused = this.refusal()
    if (refused !== undefined) return Effect.fail(refused)
    return Effect.callback<Session, ConnectError>((resume) => {
      this.waiters.push(resume)
      this.prepare()
      return Effect.sync(() => {
        this.waiters = this.waiters.filter((waiter) => waiter !== resume)
      })
    })
  })

  readonly prepare = (): void => {
    if (this.connecting || this.current !== undefined || this.refusal() !== undefined) return
    this.connecting = true
    Fiber.runIn(this.config.run(Effect.scoped(this.hold)), this.config.scope)
  }

  readonly drain: Effect.Effect<void> = Effect.suspend(() => {
    this.draining = true
    return this.session === undefined ? Effect.void : this.session.drain
  })

  /** Why asking fails at once, if it does. */
  private refusal(): ConnectError | undefined {
    if (this.draining) return connectFailed(this.address, "unreachable", "this client is draining")
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
    Effect.matchEffect({
      onFailure: (error) => Effect.map(Random.next, (draw) => this.failed(error, draw)),
      onSuccess: (session) => {
        this.opened(session)
        return closed(session)
      }
    }),
    Effect.onInterrupt(() =>
      Effect.sync(() => this.settle(Exit.fail(connectFailed(this.address, "unreachable", "this client has closed"))))
    )
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
    this.connecting = false
    // A connection that was accepted and never spoke may belong to a frozen process: it resets nothing.
    if (session.greeted) this.failures = 0
    this.settle(Exit.succeed(session))
  }

  private failed(error: ConnectError, draw: number): void {
    this.connecting = false
    this.lastFailure = error
    // Equal jitter within the cap: a fleet that lost one server does not come back in step.
    const delay = Math.min(this.config.cap, this.config.base * 2 ** Math.min(this.failures++, 30))
    this.backoffUntil = Timer.nowOf(this.config.source.clock) + delay * (0.5 + draw / 2)
    this.settle(Exit.fail(error))
  }

  private settle(exit: Exit.Exit<Session, ConnectError>): void {
    const { waiters } = this
    this.waiters = []
    for (const waiter of waiters) waiter(exit)
  }
}

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
