/**
 * Simulated servers as a Transport: what a real client needs to reach them.
 *
 * Sessions behave as those over TCP do: requests and answers take a one-way delay,
 * a killed server resets its sessions, one that is frozen or cut off is silent
 * until the peer's pings give up on it, and a draining one says that it is going
 * away. An attempt expires by the session's own timer.
 */
import * as Effect from "effect/Effect"
import * as CallError from "../../contract/CallError.ts"
import * as Timer from "../../contract/Timer.ts"
import { connectFailed, type Expiry, type Session, type Status, type Transport } from "../../transport/Transport.ts"
import * as BodyCodec from "../../wire/BodyCodec.ts"
import * as Frame from "../../wire/Frame.ts"
import * as Draw from "./simDraw.ts"
import type { Answer, Job, Server } from "./simServer.ts"
import type { World } from "./simTime.ts"

/** What a connection attempt to nobody waits for: the default of `Tcp`. */
const connectTimeoutMillis = 1500
/** When pings give up on a silent peer: `Tcp` asks every 5 s and waits 4. */
const silence: Draw.Distribution = { kind: "uniform", from: 4000, to: 9000 }

/** A server as its callers see it. */
export interface Host {
  readonly address: string
  readonly server: Server
  /** Phases that keep its process away: what is sent to it is lost. */
  down: number
  /** Phases in which it takes no connection and finishes what it has. */
  draining: number
  readonly sessions: Set<SimSession>
}

/** Who calls: a client, or a server of the tier before. */
export interface Caller {
  readonly index: number
  /** Hosts it cannot reach, once for each phase that says so. */
  readonly cut: Array<Host>
}

/** Whether a host takes connections. */
export const isThere = ({ down, draining }: Host): boolean => down + draining === 0

/** What the attempts of a tier have come to. */
export interface Attempts {
  sent: number
  hedges: number
  retries: number
  /** Still waiting for an answer. */
  inFlight: number
}

export interface TierOptions {
  readonly world: World
  readonly source: Timer.Source
  readonly dice: Draw.Dice
  readonly network: Draw.Distribution
  /** How long a server that refuses asks to be left alone. */
  readonly retryAfterMillis: number | undefined
  readonly attempts: Attempts
}

const response = (status: number, processed: boolean, retryAfterMillis?: number): Frame.Response => ({
  status,
  codec: BodyCodec.json.id,
  body: BodyCodec.noBytes,
  processed,
  retryAfterMillis,
  headers: {}
})

const ok = response(Frame.Status.ok, true)

/** An error of the server's own that an idempotent call may repeat. */
const failed: Frame.Response = {
  ...response(Frame.Status.remote, true),
  body: new TextEncoder().encode(
    "{\"code\":\"SIM-E-500\",\"message\":\"the simulated server failed\",\"retry\":\"ifIdempotent\"}"
  )
}

const responses = (retryAfterMillis: number | undefined): Readonly<Record<Answer, Frame.Response>> => ({
  ok,
  failed,
  unavailable: response(Frame.Status.unavailable, false, retryAfterMillis),
  overloaded: response(Frame.Status.overloaded, false, retryAfterMillis),
  expired: response(Frame.Status.deadlineExceeded, false)
})

/** What waits for an answer on a session. */
interface Pending {
  readonly fail: (error: CallError.CallError) => void
  /** Where it is in the session's list. */
  index: number
}

/** The servers of a tier, and what connects to them. */
export class Tier {
  readonly hosts: ReadonlyArray<Host>
  readonly options: TierOptions
  readonly responses: Readonly<Record<Answer, Frame.Response>>
  /** All that are open. */
  readonly sessions = new Set<SimSession>()
  private readonly byAddress: ReadonlyMap<string, Host>
  private isOver = false

  constructor(hosts: ReadonlyArray<Host>, options: TierOptions) {
    this.hosts = hosts
    this.options = options
    this.responses = responses(options.retryAfterMillis)
    this.byAddress = new Map(hosts.map((host) => [host.address, host]))
  }

  oneWay(): number {
    return Draw.draw(this.options.network, this.options.dice)
  }

  /** Ends everything at once: what still waits for an answer gets none. */
  end(): void {
    this.isOver = true
    for (const session of this.sessions) session.close("the simulation is over")
  }

  /** The transport of one caller. `route` picks the host behind an address that is not one host's. */
  transport(caller: Caller, route: (() => Host) | undefined): Transport["Service"] {
    const { world } = this.options
    return {
      listen: (address) => Effect.fail(connectFailed(address, "unreachable", "simulated servers listen by themselves")),
      connect: (address) =>
        Effect.flatMap(this.reach(address, caller), (host) =>
          Effect.acquireRelease(
            Effect.sync(() => new SimSession(this, address, caller, host, route)),
            (session) => Effect.sync(() => session.close("closed by this side"))
          )).pipe(Effect.tap((session) => Effect.sync(() => session.watch(world))))
    }
  }

  /** A round trip to a host that accepts. */
  private reach(
    address: string,
    caller: Caller
  ): Effect.Effect<Host | undefined, CallError.CallError<CallError.ConnectFailed>> {
    const { world } = this.options
    return Effect.callback((resume) => {
      const host = this.byAddress.get(address)
      if (host !== undefined && caller.cut.includes(host)) {
        const event = world.after(
          connectTimeoutMillis,
          () => resume(Effect.fail(connectFailed(address, "timeout", `no connection within ${connectTimeoutMillis}ms`)))
        )
        return Effect.sync(() => {
          event.run = undefined
        })
      }
      const event = world.after(this.oneWay() + this.oneWay(), () =>
        resume(
          this.isOver || (host !== undefined && !isThere(host))
            ? Effect.fail(connectFailed(address, "refused", "nobody listens"))
            : Effect.succeed(host)
        ))
      return Effect.sync(() => {
        event.run = undefined
      })
    })
  }
}

/** A session from one caller to one host, or to a proxy that spreads requests over all. */
export class SimSession implements Session {
  readonly address: string
  readonly codec = BodyCodec.json
  status: Status = "open"
  greeted: boolean
  readonly caller: Caller
  private readonly tier: Tier
  /** None behind a proxy. */
  private readonly host: Host | undefined
  private readonly route: (() => Host) | undefined
  private readonly pending: Array<Pending> = []
  private readonly listeners = new Set<() => void>()
  private drained: (() => void) | undefined

  constructor(
    tier: Tier,
    address: string,
    caller: Caller,
    host: Host | undefined,
    route: (() => Host) | undefined
  ) {
    this.tier = tier
    this.caller = caller
    this.host = host
    this.route = route
    this.address = address
    this.greeted = host?.server.isFrozen !== true
    host?.sessions.add(this)
    tier.sessions.add(this)
  }

  get inFlight(): number {
    return this.pending.length
  }

  readonly send = <E = never>(
    request: Frame.Request,
    expiry?: Expiry<E>
  ): Effect.Effect<Frame.Response, CallError.CallError<CallError.ConnectionLost> | E> =>
    Effect.callback((resume) => {
      if (this.status !== "open") return resume(Effect.fail(lost(this.address, "the session is over", "no")))
      const { options, responses } = this.tier
      const { attempts, source, world } = options
      const host = this.host ?? this.route!()
      attempts.sent++
      if (request.hedge) attempts.hedges++
      else if (request.attempt > 1) attempts.retries++
      attempts.inFlight++
      let waits = true
      const settle = () => {
        waits = false
        attempts.inFlight--
        this.forget(entry)
        timer?.cancel()
      }
      const entry: Pending = {
        index: this.pending.length,
        fail: (error) => {
          settle()
          resume(Effect.fail(error as CallError.CallError<CallError.ConnectionLost>))
        }
      }
      this.pending.push(entry)
      const job: Job = {
        deadline: request.deadline,
        state: "sent",
        startedAt: 0,
        stop: undefined,
        isWanted: () => waits,
        // Behind a proxy, which is still there: it knows no more than that there is no answer.
        lost: () => {
          if (this.route !== undefined) job.answer("failed")
        },
        answer: (answer) => {
          world.after(this.tier.oneWay(), () => {
            if (!waits || this.isCut(host)) return
            settle()
            resume(Effect.succeed(responses[answer]))
          })
        }
      }
      const giveUp = () => {
        settle()
        world.after(this.tier.oneWay(), () => {
          if (!this.isCut(host)) host.server.cancel(job)
        })
      }
      const timer = expiry === undefined ? undefined : Timer.scheduleOn(source, expiry.atMillis, () => {
        giveUp()
        resume(Effect.fail(expiry.error("maybe")))
      })
      world.after(this.tier.oneWay(), () => {
        if (this.isCut(host)) return
        if (host.down === 0) return host.server.receive(job)
        // Behind a proxy: one host of many is not there.
        if (this.route !== undefined) job.answer("unavailable")
      })
      return Effect.sync(() => {
        if (waits) giveUp()
      })
    })

  private isCut(host: Host): boolean {
    return this.caller.cut.includes(host)
  }

  private forget(entry: Pending): void {
    const last = this.pending.pop()!
    if (last !== entry) {
      this.pending[entry.index] = last
      last.index = entry.index
    }
    if (this.pending.length === 0) this.drained?.()
  }

  /** Ends the session, and with it everything on it. */
  close(why: string): void {
    if (this.status === "closed") return
    this.status = "closed"
    this.host?.sessions.delete(this)
    this.tier.sessions.delete(this)
    while (this.pending.length > 0) this.pending.at(-1)!.fail(lost(this.address, why, "maybe"))
    this.changed()
  }

  /** The host says that it is going away. */
  goAway(): void {
    if (this.status !== "open") return
    this.status = "draining"
    this.changed()
    this.drained = () => this.close("drained")
    if (this.pending.length === 0) this.drained()
  }

  /** Gives up on a peer that stays silent; asked again whenever it may have become so. */
  watch(world: World): void {
    const { host } = this
    if (host === undefined) return
    const isSilent = () => host.server.isFrozen || this.isCut(host)
    if (!isSilent()) return
    world.after(Draw.draw(silence, this.tier.options.dice), () => {
      if (isSilent()) this.close("the peer has been silent for too long")
    })
  }

  /** The host has come back to life. */
  greet(): void {
    if (this.greeted || this.host?.server.isFrozen === true) return
    this.greeted = true
    this.changed()
  }

  readonly onChange = (listener: () => void): () => void => {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }

  private changed(): void {
    for (const listener of this.listeners) listener()
  }

  readonly drain: Effect.Effect<void> = Effect.callback((resume) => {
    if (this.status === "closed" || this.pending.length === 0) {
      this.close("drained")
      return resume(Effect.void)
    }
    this.status = "draining"
    this.drained = () => {
      this.close("drained")
      resume(Effect.void)
    }
  })
}

const lost = (target: string, detail: string, sent: CallError.Sent): CallError.CallError<CallError.ConnectionLost> =>
  new CallError.CallError({ _tag: "ConnectionLost", target, detail, sent })
