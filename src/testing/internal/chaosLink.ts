/**
 * One proxied connection: two sockets and a pipe each way.
 *
 * ```
 * client socket ──> lane up ──> queue ──> server socket
 * client socket <── queue <── lane down <── server socket
 * ```
 *
 * A queue passes nothing on before what came first; a full one stops reading from its source, so
 * that a slow link slows its sender and holds a bounded number of bytes. Runs in
 * socket callbacks and timers only.
 */
import * as Duration from "effect/Duration"
import type * as Net from "node:net"
import type * as Timer from "../../contract/Timer.ts"
import * as FaultScript from "../FaultScript.ts"
import { flipped, Lane, type Way } from "./chaosLane.ts"

/** What a link needs of the proxy it belongs to. Times are milliseconds since the script began. */
export interface Host {
  readonly script: FaultScript.Script
  readonly elapsed: () => number
  readonly schedule: (atMillis: number, run: () => void) => Timer.Timer
  /** Bytes have been passed on. */
  readonly passed: (way: Way, bytes: number) => void
  /** A link has no socket left. */
  readonly gone: (link: Link) => void
}

/** Bytes a queue may hold before its source is read no more: what toxiproxy's and most sockets' buffers are. */
const maxHeldBytes = 64 * 1024

/** What waits in a queue: bytes, or that the source has ended, or what a limit does. */
interface Waiting {
  readonly atMillis: number
  readonly what: Uint8Array | "end" | "close"
  next: Waiting | undefined
}

/** One way of a link. */
class Pipe {
  heldBytes = 0
  private readonly link: Link
  private readonly way: Way
  private readonly lane: Lane
  private readonly from: Net.Socket
  private readonly to: Net.Socket
  private head: Waiting | undefined
  private tail: Waiting | undefined
  private timer: Timer.Timer | undefined
  private isFull = false

  constructor(link: Link, way: Way, from: Net.Socket, to: Net.Socket) {
    this.link = link
    this.way = way
    this.from = from
    this.to = to
    this.lane = new Lane(way, FaultScript.dice(link.host.script, `connection ${link.connection} ${way}`))
    from.on("data", (chunk: Buffer) => this.take(chunk))
    from.on("end", () => this.ended())
    to.on("drain", () => {
      this.isFull = false
      this.flush()
    })
  }

  private take(chunk: Uint8Array): void {
    const { host } = this.link
    if (this.link.isDead(this.way)) return
    const now = host.elapsed()
    const transit = this.lane.pass(now, chunk.length, this.link.active(now))
    if (transit.lostUntil !== undefined) return this.link.lose(transit.lostUntil)
    const bytes = flipped(chunk, transit.flips)
    let offset = 0
    for (const piece of transit.pieces) {
      this.push(piece.atMillis, bytes.subarray(offset, offset + piece.bytes))
      offset += piece.bytes
    }
    if (transit.closes) this.push(now, "close")
    this.flush()
  }

  private ended(): void {
    const { host } = this.link
    if (this.link.isDead(this.way)) return
    const now = host.elapsed()
    let at = now
    for (const { fault, toMillis } of this.link.active(now)) {
      if (!FaultScript.works(fault, this.way)) continue
      if (fault.kind === "blackHole") return this.link.lose(toMillis)
      if (fault.kind === "slowClose") at = Math.max(at, Math.min(toMillis, now + Duration.toMillis(fault.delay)))
    }
    this.push(at, "end")
    this.flush()
  }

  private push(atMillis: number, what: Waiting["what"]): void {
    const waiting: Waiting = { atMillis, what, next: undefined }
    if (this.tail === undefined) this.head = waiting
    else this.tail.next = waiting
    this.tail = waiting
    if (typeof what !== "string") this.heldBytes += what.length
    if (this.heldBytes > maxHeldBytes) this.from.pause()
  }

  /** Passes on what has arrived. A timer may ring a little early: what it was set for is due all the same. */
  private flush(due = 0): void {
    this.timer?.cancel()
    this.timer = undefined
    const now = Math.max(due, this.link.host.elapsed())
    while (this.head !== undefined && !this.isFull) {
      const { atMillis, next, what } = this.head
      if (atMillis > now) {
        this.timer = this.link.host.schedule(atMillis, () => this.flush(atMillis))
        break
      }
      this.head = next
      if (next === undefined) this.tail = undefined
      if (what === "close") return this.link.destroy()
      if (what === "end") this.to.end()
      else this.write(what)
    }
    if (this.heldBytes <= maxHeldBytes / 2) this.from.resume()
  }

  private write(bytes: Uint8Array): void {
    this.heldBytes -= bytes.length
    if (bytes.length === 0 || this.to.destroyed) return
    this.isFull = !this.to.write(bytes)
    this.link.host.passed(this.way, bytes.length)
  }

  /** Forgets what it holds, and reads only to see the end. */
  discard(): void {
    this.timer?.cancel()
    this.head = this.tail = this.timer = undefined
    this.heldBytes = 0
    this.from.resume()
  }
}

export class Link {
  readonly host: Host
  readonly connection: number
  private readonly client: Net.Socket
  private readonly server: Net.Socket
  private readonly target: FaultScript.Target
  private readonly up: Pipe
  private readonly down: Pipe
  private readonly timers = new Set<Timer.Timer>()
  private losing = false
  /** Whose half is left, if one is gone. */
  private left: "client" | "server" | undefined
  private isGone = false

  constructor(host: Host, connection: number, endpoint: string, client: Net.Socket, server: Net.Socket) {
    this.host = host
    this.connection = connection
    this.client = client
    this.server = server
    this.target = { endpoint, connection }
    for (const socket of [client, server]) {
      socket.setNoDelay(true)
      socket.on("error", () => this.broken(socket))
      socket.on("close", () => this.closed(socket))
    }
    this.up = new Pipe(this, "up", client, server)
    this.down = new Pipe(this, "down", server, client)
    for (const phase of host.script.phases) this.expect(phase)
  }

  get heldBytes(): number {
    return this.up.heldBytes + this.down.heldBytes
  }

  active(now: number): ReadonlyArray<FaultScript.Phase> {
    return FaultScript.faultsAt(this.host.script, now, this.target)
  }

  /** Whether nobody is there to receive what goes this way. */
  isDead(way: Way): boolean {
    return this.left !== undefined || (way === "up" ? this.server : this.client).destroyed
  }

  /** Sets the clock for what a phase will do to the connection. */
  private expect(phase: FaultScript.Phase): void {
    const now = this.host.elapsed()
    const { fault, fromMillis, toMillis } = phase
    if (toMillis <= now || !FaultScript.hits(this.host.script, phase, this.target)) return
    const since = Math.max(now, fromMillis)
    const unlessOver = (after: Duration.Duration, run: () => void) => {
      const at = since + Duration.toMillis(after)
      if (at < toMillis) this.plan(at, run)
    }
    if (fault.kind === "reset") unlessOver(fault.after ?? Duration.zero, () => this.reset())
    if (fault.kind === "blackHole" && fault.closeAfter !== undefined) unlessOver(fault.closeAfter, () => this.destroy())
    if (fault.kind === "halfOpen") this.plan(since, () => this.sever(fault.left ?? "client", toMillis))
  }

  private plan(atMillis: number, run: () => void): void {
    const timer = this.host.schedule(atMillis, () => {
      this.timers.delete(timer)
      run()
    })
    this.timers.add(timer)
  }

  /** Bytes are lost: the stream is of no use any more, which shows when the network is back. */
  lose(untilMillis: number): void {
    if (this.losing) return
    this.losing = true
    this.plan(untilMillis, () => this.reset())
  }

  private sever(left: "client" | "server", untilMillis: number): void {
    this.left = left
    this.up.discard()
    this.down.discard()
    const gone = left === "client" ? this.server : this.client
    gone.resetAndDestroy()
    this.plan(untilMillis, () => this.reset())
  }

  /** A socket was reset: so is the other, unless it is not to know. */
  private broken(socket: Net.Socket): void {
    socket.destroy()
    if (this.left !== undefined) return
    const now = this.host.elapsed()
    const way = socket === this.client ? "up" : "down"
    const dark = this.active(now).find(({ fault }) => fault.kind === "blackHole" && FaultScript.works(fault, way))
    if (dark === undefined) this.reset()
    else this.lose(dark.toMillis)
  }

  private closed(socket: Net.Socket): void {
    const other = socket === this.client ? this.server : this.client
    if (other.destroyed) this.end()
  }

  reset(): void {
    this.client.resetAndDestroy()
    this.server.resetAndDestroy()
  }

  destroy(): void {
    this.client.destroy()
    this.server.destroy()
  }

  private end(): void {
    if (this.isGone) return
    this.isGone = true
    this.up.discard()
    this.down.discard()
    for (const timer of this.timers) timer.cancel()
    this.timers.clear()
    this.host.gone(this)
  }
}
