/**
 * A client's sessions under the faults of a script.
 *
 * ```
 * send ──> up lane ──> the real session ──> down lane ──> answer
 *             └── lost, held back, corrupted, answered with an error ──┘
 * ```
 *
 * A send that waits here waits as one on the wire does: it expires by its own
 * timer, its caller may leave, and the end of the session fails it. To its caller
 * it has been written: what is held back is told as `sent: "maybe"`.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as CallContext from "../../contract/CallContext.ts"
import * as CallError from "../../contract/CallError.ts"
import * as Interruption from "../../contract/Interruption.ts"
import * as Timer from "../../contract/Timer.ts"
import {
  type ConnectError,
  connectFailed,
  type Expiry,
  type SendError,
  type Session,
  type Status,
  type Transport
} from "../../transport/Transport.ts"
import type { BodyCodec } from "../../wire/BodyCodec.ts"
import type * as Frame from "../../wire/Frame.ts"
import * as FaultScript from "../FaultScript.ts"
import { flipped, Lane, type Transit, type Way } from "./chaosLane.ts"
import { answerOf, arrival, elapsed, errorOf, type Running, schedule } from "./chaosRun.ts"

/** Opens a session of a transport, or does not. */
export const connect = (
  run: Running,
  transport: Transport["Service"],
  address: string
): Effect.Effect<Session, ConnectError, Scope.Scope> =>
  Effect.suspend(() => {
    const target = { endpoint: address, connection: run.sessions++ }
    if (FaultScript.faultsAt(run.script, elapsed(run), target).some(({ fault }) => fault.kind === "refuse")) {
      return Effect.fail(connectFailed(address, "refused", "injected: nobody listens"))
    }
    const opening = Effect.acquireRelease(
      // Of the whole and not of the session: the other side may be left with its half.
      Effect.map(Scope.fork(run.scope), (scope): Opening => ({ scope, session: undefined })),
      ({ scope, session }) => session === undefined ? Scope.close(scope, Exit.void) : session.release
    )
    return Effect.flatMap(opening, (opening) =>
      Effect.map(Scope.provide(transport.connect(address), opening.scope), (inner) => {
        opening.session = new ChaosSession(run, inner, opening.scope, target)
        return opening.session
      }))
  })

interface Opening {
  readonly scope: Scope.Closeable
  session: ChaosSession | undefined
}

class ChaosSession implements Session {
  readonly address: string
  readonly run: Running
  readonly inner: Session
  readonly exchanges = new Set<Exchange>()
  readonly target: FaultScript.Target
  readonly lanes: Readonly<Record<Way, Lane>>
  private readonly draw: () => number
  private readonly scope: Scope.Closeable
  private readonly listeners = new Set<() => void>()
  private readonly drainers = new Set<() => void>()
  private readonly timers = new Set<Timer.Timer>()
  private readonly stopHearing: () => void
  private over = false
  /** The last status and greeting that listeners know of. */
  private told = ""
  private leaving = false
  /** The other side has gone without a word. */
  private severed = false
  /** The other side has closed, and this one will hear of it. */
  private closing = false
  /** The other side has a half that this one knows nothing of. */
  private isLeftBehind = false
  /** Until when not even a greeting arrives. */
  private muteUntil = 0

  constructor(run: Running, inner: Session, scope: Scope.Closeable, target: FaultScript.Target) {
    this.run = run
    this.inner = inner
    this.scope = scope
    this.target = target
    this.address = inner.address
    const dice = (what: string) => FaultScript.dice(run.script, `session ${target.connection} ${what}`)
    this.lanes = { up: new Lane("up", dice("up")), down: new Lane("down", dice("down")) }
    const errors = dice("errors")
    this.draw = () => errors.nextDoubleUnsafe()
    this.stopHearing = inner.onChange(() => this.hear())
    for (const phase of run.script.phases) this.expect(phase)
    this.changed()
  }

  // What a session is ------------------------------------------------------------------------------

  get status(): Status {
    if (this.over) return "closed"
    if (this.leaving) return "draining"
    return this.severed || this.closing ? "open" : this.inner.status
  }

  get greeted(): boolean {
    return this.inner.greeted && elapsed(this.run) >= this.muteUntil
  }

  get inFlight(): number {
    return this.exchanges.size
  }

  get codec(): BodyCodec {
    return this.inner.codec
  }

  readonly send = <E = never>(
    request: Frame.Request,
    expiry?: Expiry<E>
  ): Effect.Effect<Frame.Response, SendError | E> =>
    Effect.withFiber((fiber) => {
      if (this.status !== "open") return Effect.fail(this.lost(`the session is ${this.status}`, "no"))
      // Nothing more can go wrong.
      if (!this.severed && elapsed(this.run) >= this.run.script.endMillis) return this.inner.send(request, expiry)
      const exchange = new Exchange(this, request, expiry, this.phasesFor(request, fiber))
      const answer = Effect.callback<Frame.Response, unknown>((resume) => exchange.register(fiber, resume))
      return Effect.onExitPrimitive(answer as Effect.Effect<Frame.Response, SendError | E>, exchange.onExit)
    })

  readonly drain: Effect.Effect<void> = Effect.andThen(
    Effect.callback<void>((resume) => {
      if (!this.leaving && !this.over) {
        this.leaving = true
        this.changed()
      }
      if (this.exchanges.size === 0) return resume(Effect.void)
      const done = () => resume(Effect.void)
      this.drainers.add(done)
      return Effect.sync(() => this.drainers.delete(done))
    }),
    Effect.suspend(() => {
      if (!this.severed) return this.inner.drain
      this.end("drained")
      return Effect.void
    })
  )

  readonly onChange = (listener: () => void): () => void => {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  /** Tells what has become of it, once. */
  private changed(): void {
    const state = `${this.status} ${this.greeted}`
    if (state === this.told) return
    this.told = state
    for (const listener of this.listeners) listener()
  }

  lost(detail: string, sent: CallError.Sent): SendError {
    return new CallError.CallError({ _tag: "ConnectionLost", target: this.address, detail, sent })
  }

  // What happens to it -----------------------------------------------------------------------------

  /** The phases that hit a request, asked again whenever something of it passes. */
  private phasesFor(
    request: Frame.Request,
    fiber: Fiber.Fiber<unknown, unknown>
  ): () => ReadonlyArray<FaultScript.Phase> {
    const { run } = this
    const key = run.key === undefined ? fiber.getRef(CallContext.Current).key : run.key(request)
    const target = { ...this.target, method: request.method, key }
    return () => FaultScript.faultsAt(run.script, elapsed(run), target)
  }

  /** The error a request is answered with, if any. */
  errorFor(phases: ReadonlyArray<FaultScript.Phase>): FaultScript.Of<"error"> | undefined {
    return errorOf(phases, this.draw)
  }

  /** Sets the clock for what a phase will do to the session itself. */
  private expect(phase: FaultScript.Phase): void {
    const now = elapsed(this.run)
    const { fault, fromMillis, toMillis } = phase
    if (toMillis <= now || !FaultScript.hits(this.run.script, phase, this.target)) return
    const since = Math.max(now, fromMillis)
    const unlessOver = (after: Duration.Duration, run: () => void) => {
      const at = since + Duration.toMillis(after)
      if (at < toMillis) this.plan(at, run)
    }
    switch (fault.kind) {
      case "reset":
        return unlessOver(fault.after ?? Duration.zero, () => this.kill("injected: reset"))
      case "halfOpen":
        return this.plan(since, () => this.sever(fault.left ?? "client", toMillis))
      case "blackHole":
        if (fault.closeAfter !== undefined) unlessOver(fault.closeAfter, () => this.kill("injected: closed"))
        return fromMillis <= now && FaultScript.works(fault, "down") ? this.mute(toMillis) : undefined
      case "stall": {
        const until = fault.pause === undefined ? toMillis : Math.min(toMillis, now + Duration.toMillis(fault.pause))
        const stalls = fromMillis <= now && fault.ratio === undefined && FaultScript.works(fault, "down")
        return stalls ? this.mute(until) : undefined
      }
    }
  }

  private plan(atMillis: number, run: () => void): void {
    const timer = schedule(this.run, atMillis, () => {
      this.timers.delete(timer)
      run()
    })
    this.timers.add(timer)
  }

  private mute(until: number): void {
    this.muteUntil = Math.max(this.muteUntil, until)
    this.plan(until, () => this.changed())
  }

  /** One side loses its half; the other keeps its own until the phase ends. */
  private sever(left: "client" | "server", toMillis: number): void {
    if (left === "server") {
      this.end("injected: this half is gone")
      return this.closeAt(toMillis)
    }
    this.severed = true
    this.closeInner()
    this.plan(toMillis, () => this.end("injected: reset by a peer that knows nothing of it"))
  }

  /** The real session has changed. */
  private hear(): void {
    if (this.over || this.severed || this.closing) return
    if (this.inner.status !== "closed") return this.changed()
    const until = this.slowCloseUntil("down")
    if (until === undefined) return this.end("closed by the peer")
    this.closing = true
    this.plan(until, () => this.end("closed by the peer"))
  }

  /** Whether this side does not know yet that there is nobody on the other. */
  get isDeaf(): boolean {
    return this.severed || this.closing || (this.inner.status === "closed" && this.slowCloseUntil("down") !== undefined)
  }

  private slowCloseUntil(way: Way): number | undefined {
    const now = elapsed(this.run)
    let until: number | undefined
    for (const { fault, toMillis } of FaultScript.faultsAt(this.run.script, now, this.target)) {
      if (fault.kind !== "slowClose" || !FaultScript.works(fault, way)) continue
      until = Math.max(until ?? 0, Math.min(toMillis, now + Duration.toMillis(fault.delay)))
    }
    return until
  }

  /** An exchange is over. */
  settled(): void {
    if (this.exchanges.size > 0) return
    for (const done of this.drainers) done()
    this.drainers.clear()
  }

  // How it ends ------------------------------------------------------------------------------------

  /** Ends both halves. */
  kill(why: string): void {
    this.end(why)
    this.closeInner()
  }

  /** Ends this half, and fails what is pending on it. */
  private end(why: string): void {
    if (this.over) return
    this.over = true
    this.stopHearing()
    for (const timer of this.timers) timer.cancel()
    this.timers.clear()
    for (const exchange of this.exchanges) exchange.fail(this.lost(why, "maybe"))
    this.settled()
    this.changed()
    this.listeners.clear()
  }

  private closeInner(): void {
    this.run.fork(Scope.close(this.scope, Exit.void))
  }

  /** The other side keeps its half until then, or until everything ends. */
  private closeAt(atMillis: number): void {
    const timer = schedule(this.run, atMillis, () => this.closeInner())
    this.run.fork(Scope.addFinalizer(this.scope, Effect.sync(() => timer.cancel())))
    this.isLeftBehind = true
  }

  /** Its owner wants it no more. */
  readonly release: Effect.Effect<void> = Effect.suspend(() => {
    const until = this.over ? undefined : this.slowCloseUntil("up")
    this.end("closed by its owner")
    if (until !== undefined) this.closeAt(until)
    return this.isLeftBehind ? Effect.void : Scope.close(this.scope, Exit.void)
  })
}

/** One send and its answer. */
class Exchange {
  private readonly session: ChaosSession
  private readonly request: Frame.Request
  private readonly expiry: Expiry<unknown> | undefined
  private readonly phases: () => ReadonlyArray<FaultScript.Phase>
  private resume: ((exit: Exit.Exit<Frame.Response, unknown>) => void) | undefined
  private fork:
    | ((effect: Effect.Effect<Frame.Response, SendError>) => Fiber.Fiber<Frame.Response, SendError>)
    | undefined
  private fiber: Fiber.Fiber<Frame.Response, SendError> | undefined
  /** Ends the send at its expiry. */
  private expires: Timer.Timer | undefined
  /** Moves what is held back. */
  private arrives: Timer.Timer | undefined

  constructor(
    session: ChaosSession,
    request: Frame.Request,
    expiry: Expiry<unknown> | undefined,
    phases: () => ReadonlyArray<FaultScript.Phase>
  ) {
    this.session = session
    this.request = request
    this.expiry = expiry
    this.phases = phases
  }

  readonly register = (
    caller: Fiber.Fiber<unknown, unknown>,
    resume: (exit: Exit.Exit<Frame.Response, unknown>) => void
  ): void => {
    const { expiry, session } = this
    if (session.status !== "open") return resume(Exit.fail(session.lost(`the session is ${session.status}`, "no")))
    this.resume = resume
    this.fork = Effect.runForkWith(caller.context)
    session.exchanges.add(this)
    if (expiry !== undefined) {
      this.expires = Timer.schedule(caller, expiry.atMillis, () => {
        this.end(Exit.fail(expiry.error("maybe")))
        this.interrupt(expiry.reason)
      })
    }
    this.up()
  }

  private up(): void {
    const { request, session } = this
    const phases = this.phases()
    const error = session.errorFor(phases)
    this.pass("up", request.body.length, phases, ({ flips }) => {
      if (error !== undefined && error.processed !== true) return this.down(answerOf(error))
      const body = flipped(request.body, flips)
      this.forward(body === request.body ? request : { ...request, body }, error)
    })
  }

  private forward(request: Frame.Request, error: FaultScript.Of<"error"> | undefined): void {
    // Who is told nothing of the other half's end sends into the void.
    if (this.session.isDeaf) return
    this.fiber = this.fork!(this.session.inner.send(request))
    this.fiber.addObserver((exit) => {
      this.fiber = undefined
      if (Exit.isSuccess(exit)) return this.down(error === undefined ? exit.value : answerOf(error))
      if (!this.session.isDeaf) this.end(exit)
    })
  }

  private down(response: Frame.Response): void {
    if (this.resume === undefined) return
    this.pass("down", response.body.length, this.phases(), ({ flips }) => {
      const body = flipped(response.body, flips)
      this.end(Exit.succeed(body === response.body ? response : { ...response, body }))
    })
  }

  /** Goes through a lane, and on when it has arrived. What is lost fails when the phase ends: a network may tell by then. */
  private pass(
    way: Way,
    bytes: number,
    phases: ReadonlyArray<FaultScript.Phase>,
    then: (transit: Transit) => void
  ): void {
    const { run } = this.session
    const now = elapsed(run)
    const transit = this.session.lanes[way].pass(now, bytes, phases)
    if (transit.closes) return this.session.kill("injected: the limit is reached")
    const lost = transit.lostUntil
    const at = lost ?? arrival(transit)
    if (at <= now) return then(transit)
    this.arrives = schedule(run, at, () => {
      this.arrives = undefined
      if (lost === undefined) then(transit)
      else this.fail(this.session.lost("injected: lost on the way", "maybe"))
    })
  }

  readonly onExit = (exit: Exit.Exit<Frame.Response, unknown>): undefined => {
    if (this.resume === undefined || Exit.isSuccess(exit)) return
    this.over()
    this.interrupt(Interruption.fromCause(exit.cause) ?? "caller")
    this.session.settled()
  }

  fail(error: SendError): void {
    this.end(Exit.fail(error))
    this.interrupt("shutdown")
  }

  private end(exit: Exit.Exit<Frame.Response, unknown>): void {
    const { resume } = this
    if (resume === undefined) return
    this.over()
    resume(exit)
    this.session.settled()
  }

  private over(): void {
    this.resume = undefined
    this.expires?.cancel()
    this.arrives?.cancel()
    this.session.exchanges.delete(this)
  }

  private interrupt(reason: Interruption.Reason): void {
    this.fiber?.interruptUnsafe(undefined, Interruption.annotations[reason])
  }
}
