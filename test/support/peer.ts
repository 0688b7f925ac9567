/** A peer of the wire written by hand: raw sockets, its own bytes, none of the library's codec. */
import { Effect, type Scope } from "effect"
import * as Net from "node:net"
import type { AddressInfo } from "node:net"

export const Type = { request: 1, response: 2, cancel: 3, ping: 4, pong: 5, goingAway: 6, hello: 9 } as const

export const u16 = (value: number): Buffer => Buffer.from([value >> 8, value & 255])
export const u32 = (value: number): Buffer =>
  Buffer.from([value >>> 24, (value >> 16) & 255, (value >> 8) & 255, value & 255])
export const text = (value: string): Buffer => Buffer.concat([u16(Buffer.byteLength(value)), Buffer.from(value)])

export const frame = (type: number, ...payload: ReadonlyArray<Buffer>): Buffer => {
  const body = Buffer.concat(payload)
  return Buffer.concat([Buffer.from([0x4d, 0x43, 1, type]), u32(body.length), body])
}

export const requestFrame = (id: number, method: string, body = ""): Buffer =>
  frame(
    Type.request,
    u32(id),
    Buffer.from([1, 0, 1, 1]),
    u32(0xffff_ffff),
    text(method),
    Buffer.from(body)
  )

export const responseFrame = (id: number, body = "", status = 0, flags = 2): Buffer =>
  frame(Type.response, u32(id), Buffer.from([status, 1, flags, 0]), Buffer.from(body))

/** Says everything this version understands, unless told otherwise. */
export const helloFrame = (
  { features = 7, maxInFlight = 0, maxPayload = 4 * 1024 * 1024 }: {
    readonly features?: number
    readonly maxPayload?: number
    readonly maxInFlight?: number
  } = {}
): Buffer => frame(Type.hello, u32(features), u32(maxPayload), u32(maxInFlight), Buffer.from([1, 1]), text("by hand"))

export interface Got {
  readonly type: number
  readonly payload: Buffer
}

export const idOf = (got: Got): number => got.payload.readUInt32BE(0)
/** Id, status, whether the handler may have started, and the body of a response. */
export const answerOf = ({ payload }: Got) => ({
  id: payload.readUInt32BE(0),
  status: payload[4]!,
  processed: (payload[6]! & 2) !== 0,
  body: payload.toString("utf8", 8)
})

/** One end of a connection. */
export class Peer {
  readonly socket: Net.Socket
  private buffer: Buffer = Buffer.alloc(0)
  private readonly frames: Array<Got> = []
  private readonly waiting: Array<() => void> = []
  private isClosed = false

  constructor(socket: Net.Socket, reads = true) {
    this.socket = socket
    socket.on("error", () => {})
    if (reads) this.read()
    const over = () => {
      this.isClosed = true
      this.wake()
    }
    socket.on("close", over)
    socket.on("end", over)
  }

  /** Begins to read what has been sent to it. */
  read(): void {
    this.socket.on("data", (chunk) => {
      this.buffer = Buffer.concat([this.buffer, chunk])
      while (this.buffer.length >= 8 && this.buffer.length >= 8 + this.buffer.readUInt32BE(4)) {
        const end = 8 + this.buffer.readUInt32BE(4)
        this.frames.push({ type: this.buffer[3]!, payload: this.buffer.subarray(8, end) })
        this.buffer = this.buffer.subarray(end)
      }
      this.wake()
    })
  }

  readonly send = (...frames: ReadonlyArray<Buffer | string>): Effect.Effect<void> =>
    Effect.sync(() => {
      for (const frame of frames) this.socket.write(frame)
    })

  /** The next frame, whatever it is. */
  readonly next: Effect.Effect<Got> = this.until(() => this.frames.shift())
  /** The next frame of a type; those before it are dropped. */
  readonly nextOf = (type: number): Effect.Effect<Got> =>
    Effect.flatMap(this.next, (got) => got.type === type ? Effect.succeed(got) : this.nextOf(type))
  /** What has arrived and nobody asked for. */
  readonly rest = (): ReadonlyArray<Got> => this.frames.splice(0)
  /** Waits until the other side has ended the connection. */
  readonly closed: Effect.Effect<void> = Effect.asVoid(this.until(() => this.isClosed ? true : undefined))

  private until<A>(get: () => A | undefined): Effect.Effect<A> {
    return Effect.callback((resume) => {
      const check = () => {
        const got = get()
        if (got === undefined) this.waiting.push(check)
        else resume(Effect.succeed(got))
      }
      check()
    })
  }

  private wake(): void {
    for (const check of this.waiting.splice(0)) check()
  }
}

/** A client written by hand. */
export const client = (address: string, reads = true): Effect.Effect<Peer, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.callback<Peer>((resume) => {
      const { hostname, port } = new URL(address)
      const socket = Net.connect({ host: hostname, port: Number(port), noDelay: true, allowHalfOpen: true })
      const peer = new Peer(socket, reads)
      socket.on("connect", () => resume(Effect.succeed(peer)))
    }),
    ({ socket }) => Effect.sync(() => socket.destroy())
  )

export interface Listener {
  readonly address: string
  /** The next connection. */
  readonly accept: Effect.Effect<Peer>
}

/** A server written by hand; it says nothing by itself. */
export const listen = (reads = true): Effect.Effect<Listener, never, Scope.Scope> =>
  Effect.gen(function*() {
    const accepted: Array<Peer> = []
    const waiting: Array<(peer: Peer) => void> = []
    const sockets = new Set<Net.Socket>()
    const server = yield* Effect.acquireRelease(
      Effect.callback<Net.Server>((resume) => {
        const server = Net.createServer({ allowHalfOpen: true, pauseOnConnect: !reads, noDelay: true }, (socket) => {
          sockets.add(socket)
          const peer = new Peer(socket, reads)
          const waiter = waiting.shift()
          if (waiter === undefined) accepted.push(peer)
          else waiter(peer)
        })
        server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
      }),
      (server) =>
        Effect.callback<void>((resume) => {
          server.close(() => resume(Effect.void))
          for (const socket of sockets) socket.destroy()
        })
    )
    return {
      address: `tcp://127.0.0.1:${(server.address() as AddressInfo).port}`,
      accept: Effect.callback((resume) => {
        const peer = accepted.shift()
        if (peer !== undefined) resume(Effect.succeed(peer))
        else waiting.push((peer) => resume(Effect.succeed(peer)))
      })
    }
  })

/** One turn of the event loop: what is ready is read, and answered. */
export const turn: Effect.Effect<void> = Effect.callback((resume) => void setImmediate(() => resume(Effect.void)))

/** Turns of the event loop until something holds; for what no event tells. */
export const until = (holds: () => boolean): Effect.Effect<void> =>
  Effect.suspend(() => holds() ? Effect.void : Effect.andThen(turn, until(holds)))

/** Turns enough for what is on its way over the loopback to have arrived, and for its answers. */
export const settled: Effect.Effect<void> = Effect.replicateEffect(turn, 20, { discard: true })
