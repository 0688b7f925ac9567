/** Makes chance certain. */
import { Effect, Random } from "effect"

/** Every draw is this one; of several, the last is repeated. */
export const drawing = (...draws: ReadonlyArray<number>) => {
  let drawn = 0
  const nextDoubleUnsafe = () => draws[Math.min(drawn++, draws.length - 1)]!
  return Effect.provideService(Random.Random, { nextDoubleUnsafe, nextIntUnsafe: () => 0 })
}
