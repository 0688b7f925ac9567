/**
 * The calling end of a session.
 *
 * Request ids are slots of a table, not keys of a `Map`: after a mark-compact, a
 * `Map` that lives long makes every scavenge take 13 to 28 ms instead of 0.1
 * (`docs/performance.md`). An id is a slot under a generation, so a late answer
 * to a slot's earlier user is recognised and dropped.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as CallError from "../../contract/CallError.ts"
import * as Immediate from "../../contract/Immediate.ts"
import * as Interruption from "../../contract/Interruption.ts"
import * as Timer from "../../contract/Timer.ts"
import * as BodyCodec from "../../wire/BodyCodec.ts"
import * as Frame from "../../wire/Frame.ts"
import * as FrameCodec from "../../wire/FrameCodec.ts"
import type { Expiry, SendError, Session, Status } from "../Transport.ts"
import { Fifo } from "./fifo.ts"
import { Outbox, type Pipe } from "./outbox.ts"
import { type Env, slotMask, Watch } from "./session.ts"

const maxSlots = slotMask + 1

const tooLarge = (target: string, { limitBytes, sizeBytes }: FrameCodec.Oversize): SendError =>
  new CallError.CallError({ _tag: "TooLarge", target, sizeBytes, limitBytes, sent: "no" })

const lost = (target: string, detail: string, sent: CallError.Sent): SendError =>
  new CallError.CallError({ _tag: "ConnectionLost", target, detail, sent })

/** One attempt, each time that it is run. */
class Sending extends Immediate.Step<Frame.Response, unknown> {
  private readonly session: ClientSession
  private readonly request: Frame.Request
  private readonly expiry: Expiry<unknown> | undefined

  constructor(session: ClientSession, request: Frame.Request, expiry: Expiry<unknown> | undefined) {
    super()
    this.session = session
    this.request = request
    this.expiry = expiry
  }

  override step(fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<Frame.Response, unknown> {
    return new Pending(this.session, this.request, this.expiry).begin(fiber)
  }
}

/** One attempt on its way: `waiting` to be written, `written`, or over. */
class Pending {
  readonly session: ClientSession
  readonly request: Frame.Request
  readonly expiry: Expiry<unknown> | undefined
  timer: Timer.Timer | undefined
  state: "new" | "waiting" | "written" | "done" = "new"
  id = 0
  /** The flush its frame leaves with: until that one has begun, the peer cannot have seen it. */
  flush = 0
  resume: (exit: Exit.Exit<Frame.Response, unknown>) => void = ignore

  constructor(session: ClientSession, request: Frame.Request, expiry: Expiry<unknown> | undefined) {
    this.session = session
    this.request = request
    this.expiry = expiry
  }

  /** To be returned by what the fiber evaluates. */
  begin(fiber: Fiber.Fiber<unknown, unknown>): Effect.Effect<Frame.Response, unknown> {
    const answer = Effect.callback<Frame.Response, unknown>((resume) => this.register(resume))
    return Immediate.evaluate(Effect.onExitPrimitive(answer, (exit) => this.left(exit)), answer, fiber)
  }

  private register(resume: (exit: Exit.Exit<Frame.Response, unknown>) => void): void {
    this.resume = resume
    this.session.start(this)
    const { expiry } = this
    if (expiry === undefined || this.state === "done") return
    this.timer = Timer.scheduleOn(this.session.env.source, expiry.atMillis, () => {
      const sent = this.session.sentOf(this)
      this.session.abandon(this, expiry.reason)
      this.resume(Exit.fail(expiry.error(sent)))
    })
  }

  /** Runs before `register` did where the caller was interrupted between the two: then there is nothing to undo. */
  private left(exit: Exit.Exit<Frame.Response, unknown>): undefined {
    if (this.state === "waiting" || this.state === "written") {
      const reason = Exit.isFailure(exit) ? Interruption.fromCause(exit.cause) : undefined
      this.session.abandon(this, reason ?? "caller")
    }
    return undefined
  }

  complete(exit: Exit.Exit<Frame.Response, unknown>): void {
    this.state = "done"
    this.timer?.cancel()
    this.resume(exit)
  }
}

const ignore = () => {}

/** A slot whose caller has gone: it waits for the peer's answer, or for its time. */
interface Quarantined {
  readonly id: number
  readonly reason: Interruption.Reason
  readonly until: number
  over: boolean
}

/** The calling end. */
export class ClientSession implements Session {
  readonly address: string
  status: Status = "open"
  greeted = false
  codec: BodyCodec.BodyCodec = BodyCodec.json

  readonly env: Env
  private readonly pipe: Pipe
  private readonly outbox: Outbox
  private readonly decoder: FrameCodec.Decoder
  private readonly frameWatch: Watch
  private readonly stallWatch: Watch
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
  /** Each side says hello once. */
  private helloed = false
  private maxInFlight: number
  private lastByteAt: number
  private pingTimer: Timer.Timer | undefined
  private pinged = false
  private slotTimer: Timer.Timer | undefined
  private drainers: Array<() => void> = []

  constructor(address: string, pipe: Pipe, env: Env) {
    this.address = address
    this.pipe = pipe
    this.env = env
    this.outbox = new Outbox(pipe, () => this.stallWatch.start())
    this.maxInFlight = Math.min(maxSlots, env.limits.maxInFlight)
    this.decoder = new FrameCodec.Decoder(env.limits.maxPayloadBytes, this.onFrame)
    const { frameTimeoutMillis, stallMillis } = env.limits
    this.frameWatch = new Watch(env, pipe, frameTimeoutMillis, () => this.close("half a frame, then silence"))
    this.stallWatch = new Watch(env, pipe, stallMillis, () => this.close("the peer does not read"))
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

  readonly send = <E = never>(
    request: Frame.Request,
    expiry?: Expiry<E>
  ): Effect.Effect<Frame.Response, SendError | E> =>
    new Sending(this, request, expiry) as Effect.Effect<Frame.Response, SendError | E>

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
    const oversize = FrameCodec.oversize(pending.request, metadataSize, this.peerMaxPayload)
    if (oversize !== undefined) return pending.complete(Exit.fail(tooLarge(this.address, oversize)))
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
    if (!this.outbox.congested) this.awaitSlot()
  }

  /** Whether the peer may have seen an attempt that is not over. */
  sentOf(pending: Pending): CallError.Sent {
    return pending.state === "written" && pending.flush <= this.outbox.flushes ? "maybe" : "no"
  }

  /** Its caller has gone: nothing on the wire if it never was there, else a cancel and a slot in quarantine. */
  abandon(pending: Pending, reason: Interruption.Reason): void {
    const { state } = pending
    pending.state = "done"
    pending.timer?.cancel()
    if (state === "waiting") {
      this.queued--
      this.queue.left()
      return this.settled()
    }
    this.written--
    const now = Timer.nowOf(this.env.source.clock)
    const quarantined: Quarantined = {
      id: pending.id,
      reason,
      until: now + this.env.limits.quarantineMillis,
      over: false
    }
    this.slots[pending.id & slotMask] = quarantined
    this.quarantine.push(quarantined)
    this.quarantined++
    this.cancel(quarantined)
    this.settled()
  }

  private cancel(quarantined: Quarantined): void {
    if ((this.peerFeatures & Frame.Feature.cancel) !== 0) this.outbox.cancel(quarantined.id, quarantined.reason)
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
    // Not `slots.length`: the peer's hello may have lowered the limit since slots were made.
    if (this.written + this.quarantined < this.maxInFlight) {
      const free = this.free.pop()
      if (free !== undefined) return free
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
      const metadataSize = FrameCodec.metadataBytes(pending.request.headers)
      // The peer may have said meanwhile that it takes less.
      const oversize = FrameCodec.oversize(pending.request, metadataSize, this.peerMaxPayload)
      if (oversize === undefined && !this.write(pending, metadataSize)) return this.awaitSlot()
      this.queue.drop()
      this.queued--
      if (oversize !== undefined) pending.complete(Exit.fail(tooLarge(this.address, oversize)))
    }
  }

  /** What waits for a slot goes on when the oldest leaves its quarantine, should nothing else free one before. */
  private awaitSlot(): void {
    const oldest = this.quarantine.peek()
    if (oldest === undefined || this.slotTimer !== undefined) return
    this.slotTimer = Timer.scheduleOn(this.env.source, oldest.until, () => {
      this.slotTimer = undefined
      this.pump()
    })
  }

  /** Fewer calls are in flight than before. */
  private settled(): void {
    if (this.queued > 0) this.pump()
    else if (this.slotTimer !== undefined) {
      this.slotTimer.cancel()
      this.slotTimer = undefined
    }
    if (this.status === "draining" && this.inFlight === 0) this.close("drained")
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

  /** The peer is going away: it would refuse what has not been written. */
  private onGoingAway(): void {
    const waiting = this.queue.takeAll()
    this.queued = 0
    for (const pending of waiting) pending.state = "done"
    this.leave()
    for (const pending of waiting) pending.complete(Exit.fail(lost(this.address, "the peer is going away", "no")))
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
    if (this.isOver()) return
    if (this.decoder.isPartial) this.frameWatch.start()
    else this.frameWatch.stop()
  }

  onDrain(): void {
    if (this.isOver()) return
    this.stallWatch.stop()
    this.outbox.drained()
    this.pump()
  }

  /** Whoever was answered may have closed the session: its callers run within ours. */
  private isOver(): boolean {
    return this.status === "closed"
  }

  private readonly onFrame: FrameCodec.OnFrame = (type, bytes, start, end) => {
    if (this.isOver()) return undefined
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
        this.onGoingAway()
        return undefined
      case Frame.Type.ping:
        // Who asks and does not read is not answered: answers would pile up here.
        if (!this.outbox.congested) this.outbox.ping(Frame.Type.pong, bytes.subarray(start, end))
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
      this.quarantine.left()
    }
    this.settled()
  }

  private onHello(hello: Frame.Hello): undefined {
    if (this.helloed) return
    this.helloed = true
    this.peerFeatures = hello.features
    this.peerMaxPayload = hello.maxPayloadBytes
    if (hello.maxInFlight > 0) this.maxInFlight = Math.min(this.maxInFlight, hello.maxInFlight)
    this.codec = BodyCodec.all.find((codec) => hello.codecs.includes(codec.id)) ?? BodyCodec.json
    if ((hello.features & Frame.Feature.ping) !== 0) this.watchSilence(this.lastByteAt)
    // Callers may have left before the peer could be told.
    for (const entry of this.slots) if (entry !== undefined && !(entry instanceof Pending)) this.cancel(entry)
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
      if (this.pinged) return this.pipe.defer(this.unanswered)
      if (now - this.lastByteAt < pingIntervalMillis - 1) return this.watchSilence(this.lastByteAt)
      this.pinged = true
      this.outbox.ping(Frame.Type.ping, Buffer.alloc(8))
      this.watchSilence(now)
    })
  }

  /** A ping's time is up. What arrived while this very process stood still has been read by now. */
  private readonly unanswered = (): void => {
    if (!this.pinged) return this.watchSilence(this.lastByteAt)
    this.close(`no sign of life for ${Math.round(Timer.nowOf(this.env.source.clock) - this.lastByteAt)}ms`)
  }

  /** Ends the session and fails everything on it, each with what is known of whether it left. */
  close(why: string, protocolError?: Frame.FrameError): void {
    if (this.status === "closed") return
    this.status = "closed"
    this.pingTimer?.cancel()
    this.slotTimer?.cancel()
    this.frameWatch.stop()
    this.stallWatch.stop()
    this.outbox.close()
    this.pipe.destroy()
    const pending = [...this.slots.filter((entry) => entry instanceof Pending), ...this.queue.takeAll()]
    this.slots.length = this.free.length = this.generations.length = 0
    this.quarantine.takeAll()
    this.quarantined = this.queued = this.written = 0
    const exits = pending.map((entry) => {
      const sent = this.sentOf(entry)
      // All of them are over before the first is told: one may interrupt another.
      entry.state = "done"
      return Exit.fail(
        protocolError === undefined
          ? lost(this.address, why, sent)
          : new CallError.CallError({ _tag: "ProtocolViolation" as const, target: this.address, detail: why, sent })
      )
    })
    for (const [index, entry] of pending.entries()) entry.complete(exits[index]!)
    this.env.onClosed(why, protocolError !== undefined)
    this.changed()
    this.listeners.clear()
    const { drainers } = this
    this.drainers = []
    for (const drained of drainers) drained()
  }
}
