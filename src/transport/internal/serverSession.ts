/**
 * The serving end of a session, and what runs for it.
 *
 * What is served is found by its slot, as on the calling end: a cancel that
 * comes late names a generation that is over.
 */
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Interruption from "../../contract/Interruption.ts"
import * as Timer from "../../contract/Timer.ts"
import * as BodyCodec from "../../wire/BodyCodec.ts"
import * as Frame from "../../wire/Frame.ts"
import * as FrameCodec from "../../wire/FrameCodec.ts"
import type { Serve } from "../Transport.ts"
import { fit, refusal, withoutAnswer } from "./answers.ts"
import { Outbox, type Pipe } from "./outbox.ts"
import { type Env, slotMask, Watch } from "./session.ts"

/** Most bytes of answers that wait for their peer before further requests are refused: a few of the largest. */
const maxUnsentBytes = 16 * 1024 * 1024

/** A request being served. */
interface Serving {
  readonly id: number
  readonly fiber: Fiber.Fiber<Frame.Response>
}

/** The handlers of one listener that run: a closed session's too, as long as they take to end. */
export class Running {
  count = 0
  private waiting: Array<() => void> = []

  private readonly fork: (effect: Effect.Effect<Frame.Response>) => Fiber.Fiber<Frame.Response>

  constructor(context: Context.Context<never>) {
    this.fork = Effect.runForkWith(context)
  }

  /** Starts one. It runs at once, so it is counted before. */
  readonly run = (effect: Effect.Effect<Frame.Response>): Fiber.Fiber<Frame.Response> => {
    this.count++
    const fiber = this.fork(effect)
    fiber.addObserver(this.over)
    return fiber
  }

  private readonly over = (): void => {
    if (--this.count > 0) return
    const { waiting } = this
    this.waiting = []
    for (const done of waiting) done()
  }

  /** Waits until none runs. */
  readonly ended: Effect.Effect<void> = Effect.callback((resume) => {
    if (this.count === 0) return resume(Effect.void)
    const done = () => resume(Effect.void)
    this.waiting.push(done)
    return Effect.sync(() => {
      this.waiting = this.waiting.filter((waiter) => waiter !== done)
    })
  })
}

/** The serving end. */
export class ServerSession {
  private readonly env: Env
  private readonly pipe: Pipe
  private readonly outbox: Outbox
  private readonly decoder: FrameCodec.Decoder
  private readonly frameWatch: Watch
  private readonly stallWatch: Watch
  private readonly serve: Serve
  private readonly running: Running
  private readonly serving: Array<Serving | undefined> = []
  private closed = false
  private leaving = false
  /** What the peer said, if it has: one that has not never sees an extension. */
  private hello: Frame.Hello | undefined
  inFlight = 0
  requests = 0
  refused = 0

  constructor(pipe: Pipe, env: Env, serve: Serve, running: Running) {
    this.pipe = pipe
    this.env = env
    this.serve = serve
    this.running = running
    this.outbox = new Outbox(pipe, () => {
      // Who does not read answers is not read from: its requests wait in its own kernel.
      pipe.pause()
      // What it has begun to say cannot go on now.
      this.frameWatch.stop()
      this.stallWatch.start()
    })
    this.decoder = new FrameCodec.Decoder(env.limits.maxPayloadBytes, this.onFrame)
    const { frameTimeoutMillis, stallMillis } = env.limits
    this.frameWatch = new Watch(env, pipe, frameTimeoutMillis, () => this.close("half a frame, then silence", true))
    this.stallWatch = new Watch(env, pipe, stallMillis, () => this.close("the peer does not read", true))
  }

  onData(chunk: Buffer): void {
    if (this.closed) return
    const error = this.decoder.push(chunk)
    if (error !== undefined) return this.close(Frame.describe(error), true)
    this.watchFrame()
  }

  onDrain(): void {
    if (this.closed) return
    this.stallWatch.stop()
    this.outbox.drained()
    this.pipe.resume()
    this.watchFrame()
  }

  private watchFrame(): void {
    if (this.isOver()) return
    if (this.decoder.isPartial) this.frameWatch.start()
    else this.frameWatch.stop()
  }

  /** A handler may have closed the session: it begins within our own step. */
  private isOver(): boolean {
    return this.closed
  }

  /**
   * Says that this side is going away; what is in flight is still answered. The
   * peer ends the session when it has its answers: if we did, a request that
   * crosses our word on the wire would be lost instead of refused.
   */
  leave(): void {
    if (this.closed || this.leaving) return
    this.leaving = true
    this.sayGoodbye()
  }

  private sayGoodbye(): void {
    if (this.understands(Frame.Feature.goingAway)) this.outbox.goingAway("draining")
    else this.endIfIdle()
  }

  private understands(feature: number): boolean {
    return this.hello !== undefined && (this.hello.features & feature) !== 0
  }

  /** A peer that cannot be told is left when nothing is in flight. */
  private endIfIdle(): void {
    if (this.leaving && this.inFlight === 0 && !this.understands(Frame.Feature.goingAway)) this.outbox.end()
  }

  /** Ends the session and interrupts whatever still runs for it. */
  close(why: string, fault = false): void {
    if (this.closed) return
    this.closed = true
    this.frameWatch.stop()
    this.stallWatch.stop()
    this.outbox.close()
    this.pipe.destroy()
    for (const serving of this.serving) serving?.fiber.interruptUnsafe(undefined, Interruption.annotations.shutdown)
    this.env.onClosed(why, fault)
  }

  private readonly onFrame: FrameCodec.OnFrame = (type, bytes, start, end) => {
    if (this.isOver()) return undefined
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
        this.outbox.ping(Frame.Type.pong, bytes.subarray(start, end))
        return undefined
      case Frame.Type.hello: {
        const decoded = FrameCodec.hello(bytes, start, end)
        if (decoded._tag !== "Ok") return decoded
        return this.onHello(decoded.value)
      }
      default:
        return undefined
    }
  }

  private onHello(hello: Frame.Hello): undefined {
    if (this.hello !== undefined) return
    this.hello = hello
    this.outbox.hello({
      features: Frame.features,
      maxPayloadBytes: this.env.limits.maxPayloadBytes,
      maxInFlight: this.env.limits.maxInFlight,
      codecs: BodyCodec.all.map((codec) => codec.id),
      agent: this.env.agent
    })
    if (this.leaving) this.sayGoodbye()
  }

  private onRequest(id: number, request: Frame.Request): void {
    this.requests++
    // Not counted as refused: every deploy meets requests that cross its word, and none of them is overload.
    if (this.leaving) return this.answer(id, refusal(Frame.Status.unavailable, "going away", false))
    if (this.inFlight >= this.env.limits.maxInFlight) {
      return this.shed(id, `${this.inFlight} requests in flight on this session`)
    }
    // Reading stops when a peer does not read. Thousands of requests may have been read by then.
    if (this.outbox.unsentBytes >= maxUnsentBytes) {
      return this.shed(id, `${this.outbox.unsentBytes} bytes of answers wait to be read`)
    }
    const slot = id & slotMask
    this.inFlight++
    const fiber = this.running.run(Effect.suspend(() => this.serve(request, this.pipe.peer)))
    const serving: Serving = { id, fiber }
    // Filled in before the slot is needed: a client's slots are small numbers, taken in turn.
    while (this.serving.length <= slot) this.serving.push(undefined)
    this.serving[slot] = serving
    fiber.addObserver((exit) => {
      this.inFlight--
      // An uninterruptible handler may outlast its cancelled slot, whose next user is served by now.
      if (this.serving[slot] === serving) this.serving[slot] = undefined
      this.answer(id, Exit.isSuccess(exit) ? exit.value : withoutAnswer(exit.cause))
      this.endIfIdle()
    })
    // It runs at once and may have closed the session that it belongs to.
    if (this.closed) fiber.interruptUnsafe(undefined, Interruption.annotations.shutdown)
  }

  private shed(id: number, message: string): void {
    this.refused++
    this.answer(id, refusal(Frame.Status.overloaded, message, false))
  }

  private answer(id: number, response: Frame.Response): void {
    if (this.closed) return
    const fitting = fit(response, this.hello?.maxPayloadBytes ?? Frame.defaultMaxPayloadBytes)
    this.outbox.response(id, fitting, FrameCodec.metadataBytes(fitting.headers))
  }
}
