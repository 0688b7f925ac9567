/**
 * Seeded chance: a generator, streams of it that do not disturb each other, and
 * draws from distributions.
 *
 * Each purpose has a stream of its own, so that a policy that draws once more
 * (a jitter, a pick) sees the same arrivals and the same service times all the
 * same: two policies run with one seed are compared on one world.
 *
 * Source: `sfc32` of PractRand, seeded through MurmurHash3's finalizer.
 */
import type * as Random from "effect/Random"

export class Dice implements Random.Random {
  private a: number
  private b: number
  private c: number
  private counter = 1

  /** The stream of a seed that is known by a name. */
  constructor(seed: string | number, name: string) {
    const text = `${typeof seed}:${seed}/${name}`
    this.a = hash(text, 0x9e3779b9)
    this.b = hash(text, 0x85ebca6b)
    this.c = hash(text, 0xc2b2ae35)
    for (let i = 0; i < 12; i++) this.bits()
  }

  private bits(): number {
    const sum = (this.a + this.b + this.counter++) | 0
    this.a = this.b ^ (this.b >>> 9)
    this.b = (this.c + (this.c << 3)) | 0
    this.c = (((this.c << 21) | (this.c >>> 11)) + sum) | 0
    return sum >>> 0
  }

  /** A number in `[0, 1)`. */
  nextDoubleUnsafe(): number {
    return this.bits() / 2 ** 32
  }

  nextIntUnsafe(): number {
    return (this.bits() % 2 ** 21) * 2 ** 32 + this.bits()
  }
}

const hash = (text: string, seed: number): number => {
  let h = seed
  for (let i = 0; i < text.length; i++) {
    h = Math.imul(h ^ text.charCodeAt(i), 0x5bd1e995)
    h ^= h >>> 15
  }
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return h ^ (h >>> 16)
}

/** How long something takes, in milliseconds. */
export type Distribution =
  | { readonly kind: "constant"; readonly millis: number }
  | { readonly kind: "uniform"; readonly from: number; readonly to: number }
  | { readonly kind: "exponential"; readonly mean: number }
  | { readonly kind: "normal"; readonly mean: number; readonly deviation: number }
  | { readonly kind: "lognormal"; readonly mu: number; readonly sigma: number }
  | { readonly kind: "pareto"; readonly minimum: number; readonly alpha: number; readonly cap: number }
  | { readonly kind: "mixture"; readonly of: ReadonlyArray<readonly [weight: number, Distribution]> }

const normal = (dice: Dice): number =>
  Math.sqrt(-2 * Math.log(1 - dice.nextDoubleUnsafe())) * Math.cos(2 * Math.PI * dice.nextDoubleUnsafe())

export const exponential = (dice: Dice, mean: number): number => -Math.log(1 - dice.nextDoubleUnsafe()) * mean

/** A draw: milliseconds, never negative. */
export const draw = (from: Distribution, dice: Dice): number => {
  switch (from.kind) {
    case "constant":
      return from.millis
    case "uniform":
      return from.from + (from.to - from.from) * dice.nextDoubleUnsafe()
    case "exponential":
      return exponential(dice, from.mean)
    case "normal":
      return Math.abs(from.mean + from.deviation * normal(dice))
    case "lognormal":
      return Math.exp(from.mu + from.sigma * normal(dice))
    case "pareto":
      return Math.min(from.cap, from.minimum * (1 - dice.nextDoubleUnsafe()) ** (-1 / from.alpha))
    case "mixture": {
      let left = dice.nextDoubleUnsafe() * from.of.reduce((sum, [weight]) => sum + weight, 0)
      for (const [weight, part] of from.of) {
        left -= weight
        if (left < 0) return draw(part, dice)
      }
      return draw(from.of.at(-1)![1], dice)
    }
  }
}

/** The mean of a distribution. */
export const mean = (of: Distribution): number => {
  switch (of.kind) {
    case "constant":
      return of.millis
    case "uniform":
      return (of.from + of.to) / 2
    case "exponential":
    case "normal":
      return of.mean
    case "lognormal":
      return Math.exp(of.mu + of.sigma ** 2 / 2)
    case "pareto": {
      const { alpha, cap, minimum } = of
      const share = minimum / cap
      // Of the part below the cap, and of what the cap stands for.
      return alpha === 1
        ? minimum * (1 - Math.log(share))
        : (alpha * minimum - minimum * share ** (alpha - 1)) / (alpha - 1)
    }
    case "mixture": {
      const weights = of.of.reduce((sum, [weight]) => sum + weight, 0)
      return of.of.reduce((sum, [weight, part]) => sum + weight * mean(part), 0) / weights
    }
  }
}
