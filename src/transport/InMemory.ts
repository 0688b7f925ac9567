/**
 * Client to server with no wire: `memory://name`, the reference implementation.
 *
 * Everything a transport promises and nothing else: sessions, cancellation,
 * draining, and a close that fails what is pending. Bodies are still bytes, so
 * what passes here passes a codec. Endpoints live in the layer: two layers are
 * two worlds. Needs no real time, so calls run under a virtual clock.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as CallError from "../contract/CallError.ts"
import * as Interruption from "../contract/Interruption.ts"
import * as Timer from "../contract/Timer.ts"
import * as BodyCodec from "../wire/BodyCodec.ts"
import * as Frame from "../wire/Frame.ts"
import * as FrameCodec from "../wire/FrameCodec.ts"
import { fit, withoutAnswer } from "./internal/answers.ts"
import { Running } from "./internal/serverSession.ts"
import {
  connectFailed,
  type Expiry,
  type SendError,
  type Serve,
  type Session,
  type Status,
  Transport
} from "./Transport.ts"

/** A listener: what it serves, and the sessions it would take down with it. */
class Server {
  readonly address: string
  readonly run: (request: Frame.Request) => Fiber.Fiber<Frame.Response>
  readonly running: Running
  readonly sessions = new Set<MemorySession>()
  requests = 0

  constructor(address: string, serve: Serve, running: Running) {
    this.address = address
    this.running = running
    this.run = (request) => running.run(Effect.suspend(() => serve(request, "memory")))
  }
}

/** One attempt and its handler. */
class Attempt {
  private readonly session: MemorySession
  private readonly request: Frame.Request
  private readonly expiry: Expiry<unknown> | undefined
  private resume: ((exit: Exit.Exit<Frame.Response, unknown>) => void) | undefined
  private fiber: Fiber.Fiber<Frame.Response> | undefined
  private timer: Timer.Timer | undefined

  constructor(session: MemorySession, request: Frame.Request, expiry: Expiry<unknown> | undefined) {
    this.session = session
    this.request = request
    this.expiry = expiry
  }

  readonly register = (
    caller: Fiber.Fiber<unknown, unknown>,
    resume: (exit: Exit.Exit<Frame.Response, unknown>) => void
  ): void => {
    const refused = this.session.refusal(this.request)
    if (refused !== undefined) return resume(refused)
    this.resume = resume
    this.session.attempts.add(this)
    this.fiber = this.session.run(this.request)
    this.fiber.addObserver((exit) =>
      this.end(Exit.succeed(
        fit(Exit.isSuccess(exit) ? exit.value : withoutAnswer(exit.cause), Frame.defaultMaxPayloadBytes)
      ))
    )
    // It runs at once: it may have answered, or closed the session that it belongs to.
    if (this.resume === undefined) return this.interrupt("shutdown")
    const { expiry } = this
    if (expiry === undefined) return
    this.timer = Timer.schedule(caller, expiry.atMillis, () => {
      this.end(Exit.fail(expiry.error("maybe")))
      this.interrupt(expiry.reason)
    })
  }

  readonly onExit = (exit: Exit.Exit<Frame.Response, unknown>): undefined => {
    if (this.resume === undefined || Exit.isSuccess(exit)) return
    this.resume = undefined
    this.timer?.cancel()
    this.session.attempts.delete(this)
    this.interrupt(Interruption.fromCause(exit.cause) ?? "caller")
    this.session.settled()
  }

  end(exit: Exit.Exit<Frame.Response, unknown>): void {
    const { resume } = this
    if (resume === undefined) return
    this.resume = undefined
    this.timer?.cancel()
    this.session.attempts.delete(this)
    resume(exit)
    this.session.settled()
  }

  interrupt(reason: Interruption.Reason): void {
    this.fiber?.interruptUnsafe(undefined, Interruption.annotations[reason])
  }
}

class MemorySession implements Session {
  readonly address: string
  status: Status = "open"
  readonly greeted = true
  readonly codec = BodyCodec.all[0]!
  readonly attempts = new Set<Attempt>()
  readonly run: Server["run"]
  private readonly server: Server
  private readonly listeners = new Set<() => void>()
  private readonly drainers = new Set<() => void>()

  constructor(server: Server) {
    this.server = server
    this.run = server.run
    this.address = server.address
    server.sessions.add(this)
  }

  get inFlight(): number {
    return this.attempts.size
  }

  readonly send = <E = never>(
    request: Frame.Request,
    expiry?: Expiry<E>
  ): Effect.Effect<Frame.Response, SendError | E> =>
    Effect.withFiber((fiber) => {
      const attempt = new Attempt(this, request, expiry)
      const answer = Effect.callback<Frame.Response, unknown>((resume) => attempt.register(fiber, resume))
      return Effect.onExitPrimitive(answer as Effect.Effect<Frame.Response, SendError | E>, attempt.onExit)
    })

  /** Why a request does not reach a handler, if it does not; counts those that do. */
  refusal(request: Frame.Request): Exit.Exit<never, SendError> | undefined {
    if (this.status !== "open") return Exit.fail(this.lost(`the session is ${this.status}`, "no"))
    const oversize = FrameCodec.oversize(
      request,
      FrameCodec.metadataBytes(request.headers),
      Frame.defaultMaxPayloadBytes
    )
    if (oversize !== undefined) {
      const { limitBytes, sizeBytes } = oversize
      return Exit.fail(
        new CallError.CallError({ _tag: "TooLarge", target: this.address, sizeBytes, limitBytes, sent: "no" })
      )
    }
    this.server.requests++
    return undefined
  }

  readonly drain: Effect.Effect<void> = Effect.callback((resume) => {
    this.leave()
    if (this.isOver()) return resume(Effect.void)
    const done = () => resume(Effect.void)
    this.drainers.add(done)
    return Effect.sync(() => this.drainers.delete(done))
  })

  readonly onChange = (listener: () => void): () => void => {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  leave(): void {
    if (this.status !== "open") return
    this.status = "draining"
    this.changed()
    this.settled()
  }

  close(why: string): void {
    if (this.isOver()) return
    this.status = "closed"
    this.server.sessions.delete(this)
    for (const attempt of this.attempts) {
      attempt.end(Exit.fail(this.lost(why, "maybe")))
      attempt.interrupt("shutdown")
    }
    this.changed()
    this.listeners.clear()
    for (const done of this.drainers) done()
    this.drainers.clear()
  }

  /** An attempt is over. */
  settled(): void {
    if (this.status === "draining" && this.attempts.size === 0) this.close("drained")
  }

  private isOver(): boolean {
    return this.status === "closed"
  }

  private changed(): void {
    for (const listener of this.listeners) listener()
  }

  private lost(detail: string, sent: CallError.Sent): SendError {
    return new CallError.CallError({ _tag: "ConnectionLost", target: this.address, detail, sent })
  }
}

/** The transport service in memory. */
export const make: Effect.Effect<Transport["Service"]> = Effect.sync(() => {
  const servers = new Map<string, Server>()
  const forget = (server: Server) => {
    if (servers.get(server.address) === server) servers.delete(server.address)
  }
  return {
    connect: (address) =>
      Effect.acquireRelease(
        Effect.suspend(() => {
          const server = servers.get(address)
          return server === undefined
            ? Effect.fail(connectFailed(address, "refused", "nobody listens"))
            : Effect.succeed(new MemorySession(server))
        }),
        (session) => Effect.sync(() => session.close("closed by its owner"))
      ),
    listen: (address, serve) =>
      Effect.map(
        Effect.acquireRelease(
          Effect.flatMap(Effect.context<never>(), (context) => {
            if (servers.has(address)) return Effect.fail(connectFailed(address, "unreachable", "the name is taken"))
            const server = new Server(address, serve, new Running(context))
            servers.set(address, server)
            return Effect.succeed(server)
          }),
          (server) =>
            Effect.suspend(() => {
              forget(server)
              for (const session of server.sessions) session.close("the server has closed")
              // Interrupted by now; what they hold may belong to whoever closes us.
              return server.running.ended
            })
        ),
        (server) => ({
          address,
          stats: () => ({
            sessions: server.sessions.size,
            inFlight: server.running.count,
            requests: server.requests,
            protocolErrors: 0,
            refused: 0
          }),
          drain: Effect.suspend(() => {
            forget(server)
            return Effect.andThen(
              Effect.forEach(server.sessions, (session) => session.drain, { concurrency: "unbounded", discard: true }),
              server.running.ended
            )
          })
        })
      )
  }
})

/** Provides an in-memory transport, a world of its own. */
export const layer: Layer.Layer<Transport> = Layer.effect(Transport, make)
