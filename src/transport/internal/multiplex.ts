/**
 * Many calls on one byte stream: both ends of a session.
 *
 * Request ids are slots of a table, not keys of a `Map`: after a mark-compact, a
 * `Map` that lives long makes every scavenge take 13 to 28 ms instead of 0.1
 * (`docs/performance.md`). An id is a slot (16 bits) under a generation (16
 * bits), so a late answer to a slot's earlier user is recognised and dropped.
 *
 * Everything here runs synchronously inside socket callbacks and fibers; there
 * is no yield between reading and writing the table.
 */
import type * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as CallError from "../../contract/CallError.ts"
import * as Interruption from "../../contract/Interruption.ts"
import * as Timer from "../../contract/Timer.ts"
import * as BodyCodec from "../../wire/BodyCodec.ts"
import * as Frame from "../../wire/Frame.ts"
import * as FrameCodec from "../../wire/FrameCodec.ts"
import type { SendError, Serve, Session, Status } from "../Transport.ts"
import { Fifo } from "./fifo.ts"
import { Outbox, type Pipe } from "./outbox.ts"

/** What a session is told to respect, in milliseconds and bytes. */
export interface Limits {
  readonly maxPayloadBytes: number
  readonly maxInFlight: number
  /** Calls that may wait for a slot or for a slow peer; more are refused. */
  readonly maxQueued: number
  readonly pingIntervalMillis: number
  readonly pingTimeoutMillis: number
  /** How long a frame may stand half received without a byte. */
  readonly frameTimeoutMillis: number
  /** How long a cancelled slot waits for the peer's answer before it is used again. */
  readonly quarantineMillis: number
  /** How long a peer may refuse to read before the session is given up. */
  readonly stallMillis: number
}

/** What a session needs from outside any fiber. */
export interface Env {
  readonly source: Timer.Source
  readonly limits: Limits
  readonly agent: string
  /** Said once, when the session is over: `undefined` for an orderly end. */
  readonly onClosed: (why: string, protocolError: Frame.FrameError | undefined) => void
}

const slotMask = 0xffff
const maxSlots = slotMask + 1

const lost = (target: string, detail: string, sent: CallError.Sent): SendError =>
  new CallError.CallError({ _tag: "ConnectionLost", target, detail, sent })

/** A frame that has begun must go on: watches a decoder that stands in the middle of one. */
class FrameWatch {
  private readonly env: Env
  private readonly stuck: () => void
  private timer: Timer.Timer | undefined
  private lastByteAt = 0

  constructor(env: Env, stuck: () => void) {
    this.env = env
    this.stuck = stuck
  }

  after(partial: boolean, nowMillis: number): void {
    this.lastByteAt = nowMillis
    if (!partial) this.stop()
    else if (this.timer === undefined) this.arm(nowMillis)
  }

  stop(): void {
    this.timer?.cancel()
    this.timer = undefined
  }

  private arm(nowMillis: number): void {
    this.timer = Timer.scheduleOn(this.env.source, nowMillis + this.env.limits.frameTimeoutMillis, () => {
      this.timer = undefined
      const now = Timer.nowOf(this.env.source.clock)
      if (now - this.lastByteAt >= this.env.limits.frameTimeoutMillis - 1) this.stuck()
      else this.arm(this.lastByteAt)
    })
  }
}

/** Gives up on a peer that takes nothing for too long. */
class StallWatch {
  private readonly env: Env
  private readonly stalled: () => void
  private timer: Timer.Timer | undefined

  constructor(env: Env, stalled: () => void) {
    this.env = env
    this.stalled = stalled
  }

  start(): void {
    if (this.timer !== undefined) return
    const at = Timer.nowOf(this.env.source.clock) + this.env.limits.stallMillis
    this.timer = Timer.scheduleOn(this.env.source, at, this.stalled)
  }

  stop(): void {
    this.timer?.cancel()
    this.timer = undefined
  }
}

/** One attempt on its way: `waiting` to be written, `written`, or over. */
class Pending {
  readonly session: ClientSession
  readonly request: Frame.Request
  state: "new" | "waiting" | "written" | "done" = "new"
  id = 0
  /** The flush its frame leaves with: until that one has begun, the peer cannot have seen it. */
  flush = 0
  resume: (exit: Exit.Exit<Frame.Response, SendError>) => void = ignore

  constructor(session: ClientSession, request: Frame.Request) {
    this.session = session
    this.request = request
  }

  readonly register = (resume: (effect: Effect.Effect<Frame.Response, SendError>) => void): void => {
    this.resume = resume
    this.session.start(this)
  }

  readonly onExit = (exit: Exit.Exit<Frame.Response, SendError>): undefined => {
    if (this.state !== "done") this.session.abandon(this, exit)
    return undefined
  }

  complete(exit: Exit.Exit<Frame.Response, SendError>): void {
    this.state = "done"
    this.resume(exit)
  }
}

const ignore = () => {}

/** A slot whose caller has gone: it waits for the peer's answer, or for its time. */
interface Quarantined {
  readonly id: number
  readonly until: number
  over: boolean
}

/** The calling end. */
export class ClientSession implements Session {
  readonly address: string
  status: Status = "open"
  greeted = false
  codec: BodyCodec.BodyCodec = BodyCodec.json

  private readonly env: Env
  private readonly pipe: Pipe
  private readonly outbox: Outbox
  private readonly decoder: FrameCodec.Decoder
  private readonly frameWatch: FrameWatch
  private readonly stallWatch: StallWatch
  private readonly listeners = new Set<() => void>()

  private readonly slots: Array<Pending | Quarantined | undefined> = []
  private readonly generations: Array<number> = []
  private readonly free: Array<number> = []
  private readonly quarantine = new Fifo<Quarantined>((entry) => entry.over)
  private readonly queue = new Fifo<Pending>((pending) => pending.state === "done")
  private quarantined = 0
  private queued = 0
  private written = 0
  private peerMaxPayload = Frame.defaultMaxPayloadBytes
  private peerFeatures = 0
  private maxInFlight: number
  private lastByteAt: number
  private pingTimer: Timer.Timer | undefined
  private pinged = false
  private drainers: Array<() => void> = []

  constructor(address: string, pipe: Pipe, env: Env) {
    this.address = address
    this.pipe = pipe
    this.env = env
    this.outbox = new Outbox(pipe, () => this.stallWatch.start())
    this.maxInFlight = Math.min(maxSlots, env.limits.maxInFlight)
    this.decoder = new FrameCodec.Decoder(env.limits.maxPayloadBytes, this.onFrame)
    this.frameWatch = new FrameWatch(env, () => this.close("half a frame, then silence"))
    this.stallWatch = new StallWatch(env, () => this.close("the peer does not read"))
    this.lastByteAt = Timer.nowOf(env.source.clock)
    this.outbox.hello({
      features: Frame.features,
      maxPayloadBytes: env.limits.maxPayloadBytes,
      maxInFlight: 0,
      codecs: BodyCodec.all.map((codec) => codec.id),
      agent: env.agent
    })
  }

  get inFlight(): number {
    return this.written + this.queued
  }

  /** Slots in use or in quarantine: 0 when nothing is owed to anybody. */
  get pendingIds(): number {
    return this.written + this.quarantined
  }

  readonly send = (request: Frame.Request): Effect.Effect<Frame.Response, SendError> =>
    Effect.suspend(() => {
      const pending = new Pending(this, request)
      return Effect.onExitPrimitive(Effect.callback(pending.register), pending.onExit)
    })

  readonly drain: Effect.Effect<void> = Effect.callback((resume) => {
    this.leave()
    if (this.status === "closed") return resume(Effect.void)
    const done = () => resume(Effect.void)
    this.drainers.push(done)
    return Effect.sync(() => {
      this.drainers = this.drainers.filter((drainer) => drainer !== done)
    })
  })

  readonly onChange = (listener: () => void): () => void => {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  start(pending: Pending): void {
    if (this.status !== "open") {
      return pending.complete(Exit.fail(lost(this.address, `the session is ${this.status}`, "no")))
    }
    const metadataSize = FrameCodec.metadataBytes(pending.request.headers)
    const size = pending.request.body.length + metadataSize + 64
    if (size > this.peerMaxPayload || metadataSize > Frame.maxMetadataBytes) {
      const limitBytes = metadataSize > Frame.maxMetadataBytes ? Frame.maxMetadataBytes : this.peerMaxPayload
      const sizeBytes = metadataSize > Frame.maxMetadataBytes ? metadataSize : size
      return pending.complete(
        Exit.fail(
          new CallError.CallError({ _tag: "TooLarge", target: this.address, sizeBytes, limitBytes, sent: "no" })
        )
      )
    }
    if (this.queued === 0 && !this.outbox.congested && this.write(pending, metadataSize)) return
    if (this.queued >= this.env.limits.maxQueued) {
      return pending.complete(Exit.fail(
        new CallError.CallError({
          _tag: "LimitReached",
          policy: `session ${this.address}`,
          limit: this.env.limits.maxQueued,
          sent: "no"
        })
      ))
    }
    pending.state = "waiting"
    this.queued++
    this.queue.push(pending)
  }

  /** Its caller has gone: nothing on the wire if it never was there, else a cancel and a slot in quarantine. */
  abandon(pending: Pending, exit: Exit.Exit<unknown, unknown>): void {
    const { state } = pending
    pending.state = "done"
    if (state === "waiting") {
      this.queued--
      return this.settled()
    }
    this.written--
    const now = Timer.nowOf(this.env.source.clock)
    const quarantined = { id: pending.id, until: now + this.env.limits.quarantineMillis, over: false }
    this.slots[pending.id & slotMask] = quarantined
    this.quarantine.push(quarantined)
    this.quarantined++
    if ((this.peerFeatures & Frame.Feature.cancel) !== 0) {
      const reason = Exit.isFailure(exit) ? Interruption.fromCause(exit.cause as Cause.Cause<unknown>) : undefined
      this.outbox.cancel(pending.id, reason ?? "caller")
    }
    this.settled()
  }

  private write(pending: Pending, metadataSize: number): boolean {
    const now = Timer.nowOf(this.env.source.clock)
    const slot = this.takeSlot(now)
    if (slot < 0) return false
    const id = ((this.generations[slot]! << 16) | slot) >>> 0
    pending.id = id
    pending.state = "written"
    pending.flush = this.outbox.flushes + 1
    this.slots[slot] = pending
    this.written++
    this.outbox.request(id, pending.request, now, metadataSize)
    return true
  }

  private takeSlot(now: number): number {
    const free = this.free.pop()
    if (free !== undefined) return free
    if (this.slots.length < this.maxInFlight) {
      this.generations.push(0)
      return this.slots.push(undefined) - 1
    }
    const oldest = this.quarantine.peek()
    if (oldest === undefined || oldest.until > now) return -1
    this.quarantine.drop()
    this.quarantined--
    const slot = oldest.id & slotMask
    this.generations[slot] = (this.generations[slot]! + 1) & slotMask
    return slot
  }

  private freeSlot(slot: number): void {
    this.slots[slot] = undefined
    this.generations[slot] = (this.generations[slot]! + 1) & slotMask
    this.free.push(slot)
  }

  /** Writes what waits, as far as slots and the peer allow. */
  private pump(): void {
    while (!this.outbox.congested) {
      const pending = this.queue.peek()
      if (pending === undefined) return
      if (!this.write(pending, FrameCodec.metadataBytes(pending.request.headers))) return
      this.queue.drop()
      this.queued--
    }
  }

  /** Fewer calls are in flight than before. */
  private settled(): void {
    if (this.queued > 0) this.pump()
    if (this.status === "draining" && this.inFlight === 0) {
      this.outbox.end()
      this.close("drained")
    }
  }

  private changed(): void {
    for (const listener of this.listeners) listener()
  }

  private leave(): void {
    if (this.status !== "open") return
    this.status = "draining"
    this.changed()
    this.settled()
  }

  // What the pipe reports ---------------------------------------------------------------------------

  onData(chunk: Buffer): void {
    if (this.status === "closed") return
    this.lastByteAt = Timer.nowOf(this.env.source.clock)
    this.pinged = false
    if (!this.greeted) {
      this.greeted = true
      this.changed()
    }
    const error = this.decoder.push(chunk)
    if (error !== undefined) return this.close(Frame.describe(error), error)
    this.frameWatch.after(this.decoder.isPartial, this.lastByteAt)
  }

  onDrain(): void {
    this.stallWatch.stop()
    this.outbox.drained()
    this.pump()
  }

  private readonly onFrame: FrameCodec.OnFrame = (type, bytes, start, end) => {
    switch (type) {
      case Frame.Type.response: {
        const decoded = FrameCodec.response(bytes, start, end)
        if (decoded._tag !== "Ok") return decoded
        return this.onResponse(decoded.id, decoded.value)
      }
      case Frame.Type.hello: {
        const decoded = FrameCodec.hello(bytes, start, end)
        if (decoded._tag !== "Ok") return decoded
        return this.onHello(decoded.value)
      }
      case Frame.Type.goingAway:
        this.leave()
        return undefined
      case Frame.Type.ping:
        this.outbox.ping(Frame.Type.pong, Buffer.from(bytes.subarray(start, end)))
        return undefined
      default:
        return undefined
    }
  }

  private onResponse(id: number, response: Frame.Response): undefined {
    const slot = id & slotMask
    const entry = this.slots[slot]
    // A late answer to an earlier user of the slot, or to nobody at all.
    if (entry === undefined || entry.id !== id) return
    this.freeSlot(slot)
    if (entry instanceof Pending) {
      this.written--
      entry.complete(Exit.succeed(response))
    } else {
      entry.over = true
      this.quarantined--
    }
    this.settled()
  }

  private onHello(hello: Frame.Hello): undefined {
    this.peerFeatures = hello.features
    this.peerMaxPayload = hello.maxPayloadBytes
    if (hello.maxInFlight > 0) this.maxInFlight = Math.min(this.maxInFlight, hello.maxInFlight)
    this.codec = BodyCodec.all.find((codec) => hello.codecs.includes(codec.id)) ?? BodyCodec.json
    if ((hello.features & Frame.Feature.ping) !== 0) this.watchSilence(this.lastByteAt)
    return undefined
  }

  /** A peer that has not been heard for an interval is asked; one that does not answer is gone. */
  private watchSilence(since: number): void {
    const { pingIntervalMillis, pingTimeoutMillis } = this.env.limits
    this.pingTimer?.cancel()
    if (this.status === "closed") return
    const wait = this.pinged ? pingTimeoutMillis : pingIntervalMillis
    this.pingTimer = Timer.scheduleOn(this.env.source, since + wait, () => {
      const now = Timer.nowOf(this.env.source.clock)
      if (this.pinged) return this.close(`no sign of life for ${Math.round(now - this.lastByteAt)}ms`)
      if (now - this.lastByteAt < pingIntervalMillis - 1) return this.watchSilence(this.lastByteAt)
      this.pinged = true
      this.outbox.ping(Frame.Type.ping, Buffer.alloc(8))
      this.watchSilence(now)
    })
  }

  /** Ends the session and fails everything on it, each with what is known of whether it left. */
  close(why: string, protocolError?: Frame.FrameError): void {
    if (this.status === "closed") return
    this.status = "closed"
    this.pingTimer?.cancel()
    this.frameWatch.stop()
    this.stallWatch.stop()
    if (why !== "drained") this.pipe.destroy()
    const pending = [...this.slots.filter((entry) => entry instanceof Pending), ...this.queue.takeAll()]
    this.slots.length = this.free.length = this.generations.length = 0
    this.quarantine.takeAll()
    this.quarantined = this.queued = this.written = 0
    for (const entry of pending) {
      const sent = entry.state === "written" && entry.flush <= this.outbox.flushes ? "maybe" : "no"
      entry.complete(Exit.fail(
        protocolError === undefined
          ? lost(this.address, why, sent)
          : new CallError.CallError({ _tag: "ProtocolViolation", target: this.address, detail: why, sent })
      ))
    }
    const { drainers } = this
    this.drainers = []
    for (const drained of drainers) drained()
    this.env.onClosed(why, protocolError)
    this.changed()
    this.listeners.clear()
  }
}

/** A request being served. */
interface Serving {
  readonly id: number
  readonly fiber: Fiber.Fiber<Frame.Response>
}

/** The serving end. */
export class ServerSession {
  private readonly env: Env
  private readonly pipe: Pipe
  private readonly outbox: Outbox
  private readonly decoder: FrameCodec.Decoder
  private readonly frameWatch: FrameWatch
  private readonly stallWatch: StallWatch
  private readonly serve: Serve
  private readonly run: (effect: Effect.Effect<Frame.Response>) => Fiber.Fiber<Frame.Response>
  private readonly serving: Array<Serving | undefined> = []
  private closed = false
  private leaving = false
  /** Whether the peer has said hello: one that has not never sees an extension. */
  private greeted = false
  inFlight = 0
  requests = 0
  refused = 0

  constructor(pipe: Pipe, env: Env, serve: Serve, context: Context.Context<never>) {
    this.pipe = pipe
    this.env = env
    this.serve = serve
    this.run = Effect.runForkWith(context)
    this.outbox = new Outbox(pipe, () => {
      // Who does not read answers is not read from: its requests wait in its own kernel.
      pipe.pause()
      this.stallWatch.start()
    })
    this.decoder = new FrameCodec.Decoder(env.limits.maxPayloadBytes, this.onFrame)
    this.frameWatch = new FrameWatch(env, () => this.close("half a frame, then silence"))
    this.stallWatch = new StallWatch(env, () => this.close("the peer does not read"))
  }

  onData(chunk: Buffer): void {
    if (this.closed) return
    const error = this.decoder.push(chunk)
    if (error !== undefined) return this.close(Frame.describe(error), error)
    this.frameWatch.after(this.decoder.isPartial, Timer.nowOf(this.env.source.clock))
  }

  onDrain(): void {
    this.stallWatch.stop()
    this.outbox.drained()
    this.pipe.resume()
  }

  /**
   * Says that this side is going away; what is in flight is still answered. The
   * peer ends the session when it has its answers: if we did, a request that
   * crosses our word on the wire would be lost instead of refused.
   */
  leave(why: string): void {
    if (this.closed || this.leaving) return
    this.leaving = true
    if (this.greeted) this.outbox.goingAway(why)
    else this.endIfIdle()
  }

  /** A peer that cannot be told is left when nothing is in flight. */
  private endIfIdle(): void {
    if (this.leaving && !this.greeted && this.inFlight === 0) this.outbox.end()
  }

  /** Ends the session and interrupts whatever still runs for it. */
  close(why: string, protocolError?: Frame.FrameError): void {
    if (this.closed) return
    this.closed = true
    this.frameWatch.stop()
    this.stallWatch.stop()
    this.pipe.destroy()
    for (const serving of this.serving) serving?.fiber.interruptUnsafe(undefined, Interruption.annotations.shutdown)
    this.env.onClosed(why, protocolError)
  }

  private readonly onFrame: FrameCodec.OnFrame = (type, bytes, start, end) => {
    switch (type) {
      case Frame.Type.request: {
        const decoded = FrameCodec.request(bytes, start, end, Timer.nowOf(this.env.source.clock))
        if (decoded._tag !== "Ok") return decoded
        this.onRequest(decoded.id, decoded.value)
        return undefined
      }
      case Frame.Type.cancel: {
        const decoded = FrameCodec.cancel(bytes, start, end)
        if (decoded._tag !== "Ok") return decoded
        const serving = this.serving[decoded.id & slotMask]
        if (serving?.id === decoded.id) {
          serving.fiber.interruptUnsafe(undefined, Interruption.annotations[decoded.value])
        }
        return undefined
      }
      case Frame.Type.ping:
        this.outbox.ping(Frame.Type.pong, Buffer.from(bytes.subarray(start, end)))
        return undefined
      case Frame.Type.hello: {
        const decoded = FrameCodec.hello(bytes, start, end)
        if (decoded._tag !== "Ok") return decoded
        this.greeted = true
        this.outbox.hello({
          features: Frame.features,
          maxPayloadBytes: this.env.limits.maxPayloadBytes,
          maxInFlight: this.env.limits.maxInFlight,
          codecs: BodyCodec.all.map((codec) => codec.id),
          agent: this.env.agent
        })
        return undefined
      }
      default:
        return undefined
    }
  }

  private onRequest(id: number, request: Frame.Request): void {
    this.requests++
    if (this.leaving) return this.refuse(id, Frame.Status.unavailable, "going away")
    if (this.inFlight >= this.env.limits.maxInFlight) {
      return this.refuse(id, Frame.Status.overloaded, `${this.inFlight} requests in flight on this session`)
    }
    const slot = id & slotMask
    this.inFlight++
    const fiber = this.run(this.serve(request, this.pipe.peer))
    const serving: Serving = { id, fiber }
    // Filled in before the slot is needed: a client's slots are small numbers, taken in turn.
    while (this.serving.length <= slot) this.serving.push(undefined)
    this.serving[slot] = serving
    fiber.addObserver((exit) => {
      this.inFlight--
      // An uninterruptible handler may outlast its cancelled slot, whose next user is served by now.
      if (this.serving[slot] === serving) this.serving[slot] = undefined
      this.answer(id, Exit.isSuccess(exit) ? exit.value : interrupted(exit.cause))
      this.endIfIdle()
    })
  }

  private refuse(id: number, status: number, message: string): void {
    this.refused++
    this.answer(id, refusal(status, message, false))
  }

  private answer(id: number, response: Frame.Response): void {
    if (this.closed) return
    const metadataSize = FrameCodec.metadataBytes(response.headers)
    if (metadataSize <= Frame.maxMetadataBytes) return this.outbox.response(id, response, metadataSize)
    const why = `the answer's metadata takes ${metadataSize} bytes, the limit is ${Frame.maxMetadataBytes}`
    this.outbox.response(id, refusal(Frame.Status.tooLarge, why, true), 0)
  }
}

/** A response of the runtime itself: its body says why, as JSON. */
export const refusal = (
  status: number,
  message: string,
  processed: boolean,
  retryAfterMillis?: number
): Frame.Response => ({
  status,
  codec: BodyCodec.json.id,
  body: Buffer.from(JSON.stringify({ message })),
  processed,
  retryAfterMillis,
  headers: {}
})

const cancelled = refusal(Frame.Status.cancelled, "cancelled", true)
const expired = refusal(Frame.Status.deadlineExceeded, "the deadline passed while the handler ran", true)

/** The answer to a request whose handler was interrupted: by its deadline, its caller, or our closing. */
export const interrupted = (cause: Cause.Cause<unknown>): Frame.Response =>
  Interruption.fromCause(cause) === "deadline" ? expired : cancelled
