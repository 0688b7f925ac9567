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
import * as BodyCodec from "../wire/BodyCodec.ts"
import * as Frame from "../wire/Frame.ts"
import { interrupted, refusal } from "./internal/multiplex.ts"
import { connectFailed, type SendError, type Serve, type Session, type Status, Transport } from "./Transport.ts"

/** A listener: what it serves, and the sessions it would take down with it. */
class Server {
  readonly address: string
  readonly run: (request: Frame.Request) => Fiber.Fiber<Frame.Response>
  readonly sessions = new Set<MemorySession>()
  leaving = false
  requests = 0
  refused = 0

  constructor(
    address: string,
    serve: Serve,
    run: (effect: Effect.Effect<Frame.Response>) => Fiber.Fiber<Frame.Response>
  ) {
    this.address = address
    this.run = (request) => run(serve(request, "memory"))
  }

  get inFlight(): number {
    let total = 0
    for (const session of this.sessions) total += session.inFlight
    return total
  }
}

class MemorySession implements Session {
  readonly address: string
  status: Status = "open"
  readonly greeted = true
  readonly codec = BodyCodec.json
  private readonly server: Server
  private readonly fibers = new Set<Fiber.Fiber<Frame.Response>>()
  private readonly resumes = new Set<(exit: Exit.Exit<Frame.Response, SendError>) => void>()
  private readonly listeners = new Set<() => void>()
  private readonly drained = new Set<() => void>()

  constructor(server: Server) {
    this.server = server
    this.address = server.address
    server.sessions.add(this)
  }

  get inFlight(): number {
    return this.fibers.size
  }

  readonly send = (request: Frame.Request): Effect.Effect<Frame.Response, SendError> =>
    Effect.suspend(() => {
      if (this.status !== "open") return Effect.fail(this.lost(`the session is ${this.status}`, "no"))
      if (this.server.leaving) {
        this.server.refused++
        return Effect.succeed(refusal(Frame.Status.unavailable, "going away", false))
      }
      this.server.requests++
      const fiber = this.server.run(request)
      this.fibers.add(fiber)
      fiber.addObserver(() => {
        this.fibers.delete(fiber)
        this.settled()
      })
      let over: ((exit: Exit.Exit<Frame.Response, SendError>) => void) | undefined
      return Effect.onExitPrimitive(
        Effect.callback<Frame.Response, SendError>((resume) => {
          over = resume
          this.resumes.add(resume)
          fiber.addObserver((exit) => {
            resume(Exit.isSuccess(exit) ? exit : Exit.succeed(interrupted(exit.cause)))
          })
        }),
        (exit) => {
          if (over !== undefined) this.resumes.delete(over)
          if (Exit.isFailure(exit) && fiber.pollUnsafe() === undefined) {
            fiber.interruptUnsafe(undefined, Interruption.annotations[Interruption.fromCause(exit.cause) ?? "caller"])
          }
          return undefined
        }
      )
    })

  readonly drain: Effect.Effect<void> = Effect.callback((resume) => {
    if (this.status === "open") this.status = "draining"
    this.changed()
    const done = () => resume(Effect.void)
    this.drained.add(done)
    this.settled()
    return Effect.sync(() => this.drained.delete(done))
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
    if (this.status === "closed") return
    this.status = "closed"
    this.server.sessions.delete(this)
    for (const resume of this.resumes) resume(Exit.fail(this.lost(why, "maybe")))
    for (const fiber of this.fibers) fiber.interruptUnsafe(undefined, Interruption.annotations.shutdown)
    for (const done of this.drained) done()
    this.changed()
    this.listeners.clear()
  }

  private settled(): void {
    if (this.status === "draining" && this.fibers.size === 0) this.close("drained")
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
  return {
    connect: (address) =>
      Effect.acquireRelease(
        Effect.suspend(() => {
          const server = servers.get(address)
          return server === undefined || server.leaving
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
            const server = new Server(address, serve, Effect.runForkWith(context))
            servers.set(address, server)
            return Effect.succeed(server)
          }),
          (server) =>
            Effect.sync(() => {
              servers.delete(address)
              for (const session of server.sessions) session.close("the server has closed")
            })
        ),
        (server) => ({
          address,
          stats: () => ({
            sessions: server.sessions.size,
            inFlight: server.inFlight,
            requests: server.requests,
            protocolErrors: 0,
            refused: server.refused
          }),
          drain: Effect.suspend(() => {
            server.leaving = true
            const sessions = [...server.sessions]
            for (const session of sessions) session.leave()
            return Effect.forEach(sessions, (session) => session.drain, { discard: true })
          })
        })
      )
  }
})

/** Provides an in-memory transport, a world of its own. */
export const layer: Layer.Layer<Transport> = Layer.effect(Transport, make)
