/**
 * MCP/TCP v1 over Node's sockets: `tcp://host:port`.
 *
 * One connection per session, many calls in flight on it, one write per turn of
 * the event loop. Uses `node:net` itself and not `effect/socket`: a pull-based
 * socket wakes a fiber per chunk, which held 154k requests/s where callbacks
 * hold 243k (64 in flight, one connection).
 *
 * It opens one session when asked; reopening with backoff is `Connection`'s.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Scope from "effect/Scope"
import * as Net from "node:net"
import type * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Options from "../contract/Options.ts"
import * as Timer from "../contract/Timer.ts"
import * as Frame from "../wire/Frame.ts"
import { ClientSession } from "./internal/clientSession.ts"
import type { Pipe } from "./internal/outbox.ts"
import { Running, ServerSession } from "./internal/serverSession.ts"
import type { Env, Limits } from "./internal/session.ts"
import { type ConnectError, connectFailed, Transport } from "./Transport.ts"

export interface TcpOptions {
  /**
   * Time to open a connection. Default 1.5 seconds: a SYN lost once is repeated after one, and with the wait for a
   * greeting it ends before the default timeout of an attempt, which could not say that nothing was sent.
   */
  readonly connectTimeout?: Duration.Input | undefined
  /** Largest payload accepted, in bytes, `>= 1024`. Default 4 MiB. */
  readonly maxPayloadBytes?: number | undefined
  /** Requests in flight on one session, 1 to 65,536. Default 4096; more wait. */
  readonly maxInFlight?: number | undefined
  /** Requests that may wait on one session for a slot or a slow peer. Default 4096; more are refused. */
  readonly maxQueued?: number | undefined
  /** Silence after which a client asks its server for a sign of life. Default 5 seconds. */
  readonly pingInterval?: Duration.Input | undefined
  /** How long it waits for one before the session is given up. Default 4 seconds. */
  readonly pingTimeout?: Duration.Input | undefined
  /** How long a frame may stand half received without another byte. Default 10 seconds. */
  readonly frameTimeout?: Duration.Input | undefined
  /** How long a peer may refuse to read before the session is given up. Default 30 seconds. */
  readonly stallTimeout?: Duration.Input | undefined
  /** Who we are, in the peer's logs. Default `"holdfast"`. */
  readonly agent?: string | undefined
}

/** How long a cancelled slot waits for a peer that ignores cancel: its generation would have to wrap meanwhile to matter. */
const quarantineMillis = 30_000

const limitsOf = (options: TcpOptions): Limits => {
  const where = "Tcp.layer"
  return {
    maxPayloadBytes: Options.integer(
      where,
      "maxPayloadBytes",
      options.maxPayloadBytes ?? Frame.defaultMaxPayloadBytes,
      1024,
      0xffff_ffff
    ),
    maxInFlight: Options.integer(where, "maxInFlight", options.maxInFlight ?? 4096, 1, 65_536),
    maxQueued: Options.integer(where, "maxQueued", options.maxQueued ?? 4096, 0),
    pingIntervalMillis: Options.millis(where, "pingInterval", options.pingInterval ?? "5 seconds"),
    pingTimeoutMillis: Options.millis(where, "pingTimeout", options.pingTimeout ?? "4 seconds"),
    frameTimeoutMillis: Options.millis(where, "frameTimeout", options.frameTimeout ?? "10 seconds"),
    stallMillis: Options.millis(where, "stallTimeout", options.stallTimeout ?? "30 seconds"),
    quarantineMillis
  }
}

/** Host and port of `tcp://host:port`, or `undefined`. */
export const parse = (address: string): { readonly host: string; readonly port: number } | undefined => {
  const match = /^tcp:\/\/(?:\[([^\]]+)\]|([^:/]+)):(\d{1,5})$/.exec(address)
  const port = Number(match?.[3])
  return match === null || port > 65_535 ? undefined : { host: (match[1] ?? match[2])!, port }
}

const notAnAddress = (address: string): ConnectError =>
  connectFailed(address, "dns", `not an address: expected tcp://host:port`)

const kinds: Readonly<Record<string, "dns" | "refused" | "timeout">> = {
  ENOTFOUND: "dns",
  EAI_AGAIN: "dns",
  ECONNREFUSED: "refused",
  ETIMEDOUT: "timeout"
}

const codeOf = (error: Error): string => ("code" in error ? String(error.code) : error.message)

/** A socket as a session uses it. `onDrain` and `onData` are wired by the caller. */
const pipeOf = (socket: Net.Socket, peer: string): Pipe => ({
  peer,
  write: (chunks) => {
    if (chunks.length === 1) return socket.write(chunks[0]!)
    socket.cork()
    let keepsUp = true
    for (const chunk of chunks) keepsUp = socket.write(chunk)
    socket.uncork()
    return keepsUp
  },
  end: () => void socket.end(),
  destroy: () => void socket.destroy(),
  pause: () => void socket.pause(),
  resume: () => void socket.resume(),
  // The check phase comes right after the reads of the same turn: all they set in motion leaves in one write.
  defer: (run) => void setImmediate(run)
})

const ignore = () => {}

/** The socket counts by itself, and knows its figures when it is closed. */
const bytesOf = ({ bytesRead, bytesWritten }: Net.Socket) => ({ bytesRead, bytesWritten })

/** What a session wants to hear of its socket. */
interface Ends {
  readonly onData: (chunk: Buffer) => void
  readonly onDrain: () => void
  readonly close: (why: string) => void
}

const wire = (socket: Net.Socket, ends: Ends): void => {
  socket.setNoDelay(true)
  socket.setKeepAlive(true, 30_000)
  socket.on("data", (chunk) => ends.onData(chunk))
  socket.on("drain", () => ends.onDrain())
  socket.on("error", (error) => ends.close(codeOf(error)))
  socket.on("close", () => ends.close("closed by the peer"))
}

/** A socket on its way to a session, which owns it once there is one. */
interface Opening {
  readonly socket: Net.Socket
  session: ClientSession | undefined
}

/**
 * Opens a connection and makes its session.
 *
 * The socket is the scope's from its first moment, and the session hears of it
 * from the step in which it is connected: no interrupt and no event falls between.
 */
const open = (
  address: string,
  timeoutMillis: number,
  make: (socket: Net.Socket) => ClientSession
): Effect.Effect<ClientSession, ConnectError, Scope.Scope> =>
  Effect.suspend(() => {
    const target = parse(address)
    if (target === undefined) return Effect.fail(notAnAddress(address))
    const socket = Effect.acquireRelease(
      Effect.sync((): Opening => {
        const socket = Net.connect({ ...target, autoSelectFamily: true })
        // A destroyed socket may still report an error, and one that nobody hears ends the process.
        socket.on("error", ignore)
        return { socket, session: undefined }
      }),
      (opening) =>
        Effect.sync(() => {
          opening.session?.close("closed by its owner")
          opening.socket.destroy()
        })
    )
    return Effect.flatMap(socket, (opening) =>
      Effect.withFiber((fiber) =>
        Effect.callback<ClientSession, ConnectError>((resume) => {
          const { socket } = opening
          const fail = (kind: CallError.ConnectFailed["kind"], detail: string) => {
            stop()
            socket.destroy()
            resume(Effect.fail(connectFailed(address, kind, detail)))
          }
          const failed = (error: Error) => {
            const code = codeOf(error)
            fail(kinds[code] ?? "unreachable", code)
          }
          const connected = () => {
            stop()
            opening.session = make(socket)
            resume(Effect.succeed(opening.session))
          }
          const timer = Timer.schedule(fiber, Timer.now(fiber) + timeoutMillis, () =>
            fail("timeout", `no connection within ${timeoutMillis}ms`))
          const stop = () => {
            timer.cancel()
            socket.off("error", failed)
            socket.off("connect", connected)
          }
          socket.on("error", failed)
          socket.on("connect", connected)
          return Effect.sync(stop)
        })
      ))
  })

/** Runs what fills a scope in one of its own, which a failure ends at once and not only with the outer one. */
const orNothing = <A, E, R>(self: Effect.Effect<A, E, R | Scope.Scope>): Effect.Effect<A, E, R | Scope.Scope> =>
  Effect.flatMap(
    Effect.flatMap(Effect.scope, Scope.fork),
    (scope) =>
      Effect.onExit(Scope.provide(self, scope), (exit) => Exit.isSuccess(exit) ? Effect.void : Scope.close(scope, exit))
  )

/**
 * The transport service over TCP.
 *
 * Dies with a `RangeError` when an option is out of range.
 */
export const make = (options: TcpOptions = {}): Effect.Effect<Transport["Service"]> =>
  Effect.sync(() => {
    const limits = limitsOf(options)
    const connectMillis = Options.millis("Tcp.layer", "connectTimeout", options.connectTimeout ?? "1500 millis")
    const agent = options.agent ?? "holdfast"

    const connect: Transport["Service"]["connect"] = (address) =>
      Effect.withFiber((fiber) => {
        const source = Timer.sourceOf(fiber)
        const receiver = CallEvent.receiverOf(fiber)
        return orNothing(open(address, connectMillis, (socket) => {
          const stats = () => ({ ...bytesOf(socket), refused: 0 })
          const changed = (change: "opened" | "closed", why: string) =>
            receiver?.event({
              _tag: "SessionChanged",
              side: "client",
              peer: address,
              change,
              why,
              stats,
              atMillis: Timer.nowOf(source.clock)
            })
          const env: Env = { source, limits, agent, onClosed: (why) => changed("closed", why) }
          const session = new ClientSession(address, pipeOf(socket, address), env)
          wire(socket, session)
          // No answer comes after that. `close` follows only when what we wrote has left, which may be never.
          socket.on("end", () => session.close("closed by the peer"))
          changed("opened", "connected")
          return session
        }))
      })

    const listen: Transport["Service"]["listen"] = Effect.fnUntraced(function*(address, serve) {
      const target = parse(address)
      if (target === undefined) return yield* notAnAddress(address)
      const context = yield* Effect.context<never>()
      const fork = Effect.runForkWith(context)
      const { receiver, source } = yield* Effect.withFiber((fiber) =>
        Effect.succeed({ source: Timer.sourceOf(fiber), receiver: CallEvent.receiverOf(fiber) })
      )
      const sessions = new Set<ServerSession>()
      const running = new Running(context)
      let idle: Array<() => void> = []
      const past = { requests: 0, refused: 0, protocolErrors: 0 }
      /** With the port that was assigned, once it is. */
      let bound = address

      const accept = (socket: Net.Socket): void => {
        const peer = `${socket.remoteAddress ?? "?"}:${socket.remotePort ?? 0}`
        const stats = () => ({ ...bytesOf(socket), refused: session.refused })
        const changed = (change: "opened" | "closed", why: string) =>
          receiver?.event({
            _tag: "SessionChanged",
            side: "server",
            peer,
            change,
            why,
            stats,
            atMillis: Timer.nowOf(source.clock)
          })
        const env: Env = {
          source,
          limits,
          agent,
          onClosed: (why, fault) => {
            sessions.delete(session)
            past.requests += session.requests
            past.refused += session.refused
            changed("closed", why)
            if (fault) {
              past.protocolErrors++
              const atMillis = Timer.nowOf(source.clock)
              receiver?.event({ _tag: "RequestRefused", peer, method: undefined, reason: "protocol", why, atMillis })
              fork(Effect.logWarning(`${bound}: closed the session of ${peer}: ${why}`))
            }
            if (sessions.size > 0) return
            const waiting = idle
            idle = []
            for (const done of waiting) done()
          }
        }
        const session = new ServerSession(pipeOf(socket, peer), env, serve, running)
        sessions.add(session)
        wire(socket, session)
        changed("opened", "accepted")
      }

      const server = yield* orNothing(
        Effect.acquireRelease(
          Effect.sync(() => {
            const server = Net.createServer({ noDelay: true }, accept)
            // After it listens too: a connection that could not be accepted is the kernel's failure, and not our end.
            server.on("error", (error) => {
              if (server.listening) fork(Effect.logWarning(`${bound}: cannot accept a connection: ${codeOf(error)}`))
            })
            return server
          }),
          (server) =>
            Effect.andThen(
              Effect.callback<void>((resume) => {
                server.close(() => resume(Effect.void))
                for (const session of sessions) session.close("the server has closed")
              }),
              // Interrupted by now; what they hold may belong to whoever closes us.
              running.ended
            )
        ).pipe(Effect.tap((server) =>
          Effect.callback<void, ConnectError>((resume) => {
            const failed = (error: Error) => resume(Effect.fail(connectFailed(address, "unreachable", codeOf(error))))
            server.once("error", failed)
            server.listen({ ...target }, () => {
              server.off("error", failed)
              resume(Effect.void)
            })
          })
        ))
      )
      const { port } = server.address() as Net.AddressInfo
      bound = `tcp://${target.host.includes(":") ? `[${target.host}]` : target.host}:${port}`
      const sum = (of: (session: ServerSession) => number) => {
        let total = 0
        for (const session of sessions) total += of(session)
        return total
      }
      return {
        address: bound,
        stats: () => ({
          sessions: sessions.size,
          inFlight: running.count,
          requests: past.requests + sum((session) => session.requests),
          protocolErrors: past.protocolErrors,
          refused: past.refused + sum((session) => session.refused)
        }),
        drain: Effect.andThen(
          Effect.callback<void>((resume) => {
            server.close()
            for (const session of sessions) session.leave()
            if (sessions.size === 0) return resume(Effect.void)
            const done = () => resume(Effect.void)
            idle.push(done)
            return Effect.sync(() => {
              idle = idle.filter((waiter) => waiter !== done)
            })
          }),
          running.ended
        )
      }
    })

    return { connect, listen }
  })

/** Provides MCP/TCP as the transport. */
export const layer = (options: TcpOptions = {}): Layer.Layer<Transport> => Layer.effect(Transport, make(options))
