/**
 * When calls are made: open loops, whose calls do not wait for those before them,
 * and closed ones, whose users do.
 *
 * A rate may change over time, linearly between points; a Poisson process with
 * such a rate is thinned from one of its highest rate.
 */
import * as Draw from "./simDraw.ts"
import type { World } from "./simTime.ts"

/** Calls per second at an instant, between which the rate moves linearly. */
export interface Point {
  readonly atMillis: number
  readonly perSecond: number
}

export type Plan =
  | { readonly kind: "poisson" | "steady"; readonly rate: ReadonlyArray<Point> }
  | {
    readonly kind: "bursty"
    readonly perSecond: number
    readonly burstPerSecond: number
    /** Means of exponential times between bursts and of their lengths. */
    readonly everyMillis: number
    readonly lastsMillis: number
  }
  | { readonly kind: "replay"; readonly at: ReadonlyArray<number> }
  | { readonly kind: "closed"; readonly users: number; readonly think: Draw.Distribution }

/** The rate at an instant: of two points at one instant, the later one counts from there. */
export const rateAt = (points: ReadonlyArray<Point>, millis: number): number => {
  let before = points[0]!
  for (const point of points) {
    if (point.atMillis > millis) {
      if (before === point) return point.perSecond
      const share = (millis - before.atMillis) / (point.atMillis - before.atMillis)
      return before.perSecond + (point.perSecond - before.perSecond) * share
    }
    before = point
  }
  return before.perSecond
}

/** What faults make of the rate: a factor at each instant, and no less than the largest of them. */
export interface Load {
  readonly at: (now: number) => number
  readonly most: number
}

/** Makes calls in a world until `horizon`. A call tells when it has ended; only closed loops listen. */
export const start = (
  plan: Plan,
  world: World,
  dice: Draw.Dice,
  horizon: number,
  load: Load,
  call: (ended: () => void) => void
): void => {
  const nobody = () => {}
  const onlyBefore = (at: number, run: () => void) => {
    if (at < horizon) world.at(at, run)
  }
  switch (plan.kind) {
    case "poisson": {
      // What is left of the highest rate that ever is, is decided when a candidate comes.
      const most = load.most * Math.max(...plan.rate.map((point) => point.perSecond))
      if (most === 0) return
      const next = () =>
        onlyBefore(world.now + Draw.exponential(dice, 1000 / most), () => {
          const now = rateAt(plan.rate, world.now) * load.at(world.now)
          if (dice.nextDoubleUnsafe() * most < now) call(nobody)
          next()
        })
      return next()
    }
    case "steady": {
      /** The part of the next call that is due. */
      let due = 0
      const next = () => {
        const perMilli = (rateAt(plan.rate, world.now) * load.at(world.now)) / 1000
        // No longer than 100 ms at a time, so that a rate that changes is followed.
        const step = Math.min((1 - due) / perMilli, 100)
        onlyBefore(world.now + step, () => {
          due += perMilli * step
          if (due > 1 - 1e-9) {
            due = 0
            call(nobody)
          }
          next()
        })
      }
      return next()
    }
    case "bursty": {
      let bursting = false
      const turn = () => {
        const mean = bursting ? plan.lastsMillis : plan.everyMillis
        onlyBefore(world.now + Draw.exponential(dice, mean), () => {
          bursting = !bursting
          turn()
        })
      }
      const most = load.most * Math.max(plan.perSecond, plan.burstPerSecond)
      const next = () =>
        onlyBefore(world.now + Draw.exponential(dice, 1000 / most), () => {
          const now = (bursting ? plan.burstPerSecond : plan.perSecond) * load.at(world.now)
          if (dice.nextDoubleUnsafe() * most < now) call(nobody)
          next()
        })
      turn()
      return next()
    }
    case "replay":
      for (const at of plan.at) onlyBefore(at, () => call(nobody))
      return
    case "closed": {
      const user = () => onlyBefore(world.now + Draw.draw(plan.think, dice), () => call(user))
      for (let i = 0; i < plan.users; i++) user()
    }
  }
}
