/**
 * What both ends of a session are told, and how they wait for their peer.
 *
 * A session is many calls on one byte stream. Everything in it runs
 * synchronously inside socket callbacks and fibers; there is no yield between
 * reading and writing its table.
 */
import * as Timer from "../../contract/Timer.ts"
import type { Pipe } from "./outbox.ts"

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
  /** Said once, when the session is over; `fault` where the peer broke the protocol. */
  readonly onClosed: (why: string, fault: boolean) => void
}

/** A request id is a slot (16 bits) under a generation (16 bits). */
export const slotMask = 0xffff

/**
 * Says when what is waited for has not come in time: the rest of a frame, or a
 * peer's reading. What arrived while this very process stood still is read
 * before anything is concluded.
 */
export class Watch {
  private readonly env: Env
  private readonly pipe: Pipe
  private readonly millis: number
  private readonly late: () => void
  private timer: Timer.Timer | undefined
  private since = 0
  private waiting = false

  constructor(env: Env, pipe: Pipe, millis: number, late: () => void) {
    this.env = env
    this.pipe = pipe
    this.millis = millis
    this.late = late
  }

  /** Waits from now on, whatever was before. */
  start(): void {
    this.since = this.now()
    this.waiting = true
    if (this.timer === undefined) this.arm()
  }

  stop(): void {
    this.waiting = false
    this.timer?.cancel()
    this.timer = undefined
  }

  private arm(): void {
    this.timer = Timer.scheduleOn(this.env.source, this.since + this.millis, () => {
      this.timer = undefined
      if (this.isLate()) this.pipe.defer(this.conclude)
      else this.arm()
    })
  }

  private readonly conclude = (): void => {
    if (!this.waiting || this.timer !== undefined) return
    if (this.isLate()) this.late()
    else this.arm()
  }

  private isLate(): boolean {
    return this.now() - this.since >= this.millis - 1
  }

  private now(): number {
    return Timer.nowOf(this.env.source.clock)
  }
}
