/**
 * One way of one connection under the faults of a script: what is sent at an
 * instant arrives when, in which pieces, with which bits flipped, or not at all.
 *
 * Numbers in, numbers out; times are milliseconds since the script began. What is
 * sent is a chunk of bytes in the proxy and a message around a transport.
 *
 * What a phase holds back arrives at the phase's end at the latest, so that
 * nothing of it is left behind; and what it held back first arrives first.
 */
import * as Duration from "effect/Duration"
import * as FaultScript from "../FaultScript.ts"
import * as Draw from "./simDraw.ts"

export type Way = "up" | "down"

/** Part of what was sent, and when it arrives. */
export interface Piece {
  readonly bytes: number
  readonly atMillis: number
}

/** One bit of what was sent. */
export interface Flip {
  readonly byte: number
  readonly bit: number
}

/** What becomes of what was sent. */
export interface Transit {
  /** In order; together as many bytes as were sent, unless some are lost. */
  readonly pieces: ReadonlyArray<Piece>
  readonly flips: ReadonlyArray<Flip>
  /** Until when it is lost, with all of its pieces. */
  readonly lostUntil: number | undefined
  /** Whether the connection is closed once the pieces have arrived: a limit was reached. */
  readonly closes: boolean
}

/** What a phase remembers of a lane. */
interface Held {
  /** When the last of it arrives. */
  last: number
  /** When the link is free again. */
  freeAt: number
  /** When a stall is over. */
  stalledUntil: number
  /** Bytes that have passed. */
  passed: number
}

const millis = (duration: Duration.Duration | undefined): number =>
  duration === undefined ? 0 : Duration.toMillis(duration)

/** How long latency holds one thing back. Never negative. */
const latency = ({ delay, distribution = "uniform", jitter }: FaultScript.Of<"latency">, dice: Draw.Dice): number => {
  const base = millis(delay)
  const spread = millis(jitter)
  if (spread === 0) return base
  switch (distribution) {
    case "uniform":
      return Math.max(0, base + spread * (2 * dice.nextDoubleUnsafe() - 1))
    case "normal":
      return Draw.draw({ kind: "normal", mean: base, deviation: spread }, dice)
    case "exponential":
      return base + Draw.exponential(dice, spread)
    case "pareto":
      return base + Draw.draw({ kind: "pareto", minimum: spread, alpha: 1.5, cap: 1000 * spread }, dice)
  }
}

/** Bandwidth lets bytes through ten times a second: what toxiproxy's does, and often enough to look steady. */
const portionsPerSecond = 10

export class Lane {
  private readonly way: Way
  private readonly dice: Draw.Dice
  private readonly held = new Map<FaultScript.Phase, Held>()

  constructor(way: Way, dice: Draw.Dice) {
    this.way = way
    this.dice = dice
  }

  /** Whether a fault that works on a share of what is sent works on this. */
  private strikes(ratio: number | undefined): boolean {
    return ratio === undefined || ratio === 1 || this.dice.nextDoubleUnsafe() < ratio
  }

  private of(phase: FaultScript.Phase): Held {
    let held = this.held.get(phase)
    if (held === undefined) {
      held = { last: 0, freeAt: 0, stalledUntil: 0, passed: 0 }
      this.held.set(phase, held)
    }
    return held
  }

  /** Sends so many bytes at an instant, under the phases that are active for them. */
  pass(now: number, bytes: number, phases: ReadonlyArray<FaultScript.Phase>): Transit {
    const active = phases.filter(({ fault }) => FaultScript.works(fault, this.way))
    const flips: Array<Flip> = []
    /** What each phase does to every piece: from when it would arrive to when it does. */
    const steps: Array<(at: number, piece: number) => number> = []
    let lostUntil: number | undefined
    let passing = bytes
    let longest = Infinity
    let slice: FaultScript.Of<"slice"> | undefined
    for (const phase of active) {
      const { fault, toMillis } = phase
      const held = this.of(phase)
      /** No later than the phase's end, and after what it has let through before. */
      const through = (at: number, since: number): number => {
        held.last = Math.max(held.last, Math.min(at, Math.max(since, toMillis)))
        return Math.max(since, held.last)
      }
      switch (fault.kind) {
        case "latency": {
          const delay = latency(fault, this.dice)
          steps.push((at) => through(at + delay, at))
          break
        }
        case "stall": {
          if (this.strikes(fault.ratio)) {
            const until = fault.pause === undefined ? toMillis : now + millis(fault.pause)
            held.stalledUntil = Math.max(held.stalledUntil, until)
          }
          const until = held.stalledUntil
          steps.push((at) => through(Math.max(at, until), at))
          break
        }
        case "bandwidth": {
          const perMilli = fault.bytesPerSecond / 1000
          longest = Math.min(longest, Math.max(1, Math.floor(fault.bytesPerSecond / portionsPerSecond)))
          steps.push((at, piece) => {
            held.freeAt = Math.max(at, held.freeAt) + piece / perMilli
            return through(held.freeAt, at)
          })
          break
        }
        case "slice": {
          slice = fault
          const gap = millis(fault.gap)
          let first = true
          steps.push((at) => {
            const arrives = first ? at : Math.max(at, held.last + gap)
            first = false
            return through(arrives, at)
          })
          break
        }
        case "corrupt":
          if (bytes > 0 && this.strikes(fault.ratio)) {
            const { dice } = this
            flips.push({
              byte: Math.floor(dice.nextDoubleUnsafe() * bytes),
              bit: Math.floor(dice.nextDoubleUnsafe() * 8)
            })
          }
          break
        case "blackHole":
          lostUntil = Math.max(lostUntil ?? 0, toMillis)
          break
        case "limit":
          passing = Math.min(passing, Math.max(0, fault.bytes - held.passed))
          held.passed += bytes
          break
        default:
          // Of connections, or of answers: not of what passes.
          break
      }
    }
    if (lostUntil !== undefined) return { pieces: [], flips, lostUntil, closes: false }
    const pieces = this.cut(passing, longest, slice).map((piece): Piece => ({
      bytes: piece,
      atMillis: steps.reduce((at, step) => step(at, piece), now)
    }))
    return { pieces, flips, lostUntil, closes: passing < bytes }
  }

  /** The sizes of the pieces that so many bytes travel in. */
  private cut(bytes: number, longest: number, slice: FaultScript.Of<"slice"> | undefined): ReadonlyArray<number> {
    if (bytes <= longest && slice === undefined) return bytes > 0 ? [bytes] : [0]
    const sizes: Array<number> = []
    for (let left = bytes; left > 0 || sizes.length === 0;) {
      const size = Math.min(left, longest, this.sliceSize(slice))
      sizes.push(size)
      left -= size
    }
    return sizes
  }

  private sliceSize(slice: FaultScript.Of<"slice"> | undefined): number {
    if (slice === undefined) return Infinity
    const { bytes, variation = 0 } = slice
    return bytes - variation + Math.floor(this.dice.nextDoubleUnsafe() * (2 * variation + 1))
  }
}

/** What was sent, with its bits flipped: a copy, where there are any. */
export const flipped = (bytes: Uint8Array, flips: ReadonlyArray<Flip>): Uint8Array => {
  if (flips.length === 0) return bytes
  // Not `slice`, which of a Buffer is no copy: the sender may send the same bytes again.
  const copy = new Uint8Array(bytes)
  for (const { bit, byte } of flips) copy[byte]! ^= 1 << bit
  return copy
}
