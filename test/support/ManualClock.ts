/** A clock for what `TestClock` cannot do: leap over several wake-ups at once, and say how many sleep. */
import { type Clock, Duration, Effect } from "effect"

/** A clock that moves when told. */
export class ManualClock implements Clock.Clock {
  millis = 0
  readonly sleepers = new Set<{ readonly at: number; readonly wake: () => void }>()
  currentTimeMillisUnsafe = () => this.millis
  currentTimeNanosUnsafe = () => this.monotonicTimeNanosUnsafe()
  monotonicTimeNanosUnsafe = () => BigInt(Math.floor(this.millis * 1e6))
  currentTimeMillis = Effect.sync(this.currentTimeMillisUnsafe)
  currentTimeNanos = Effect.sync(this.currentTimeNanosUnsafe)
  monotonicTimeNanos = Effect.sync(this.monotonicTimeNanosUnsafe)
  sleep = (duration: Duration.Duration): Effect.Effect<void> =>
    Effect.callback((resume) => {
      const sleeper = { at: this.millis + Duration.toMillis(duration), wake: () => resume(Effect.void) }
      this.sleepers.add(sleeper)
      return Effect.sync(() => void this.sleepers.delete(sleeper))
    })
  advance(millis: number): void {
    this.millis += millis
    for (const sleeper of this.sleepers) {
      if (sleeper.at <= this.millis) {
        this.sleepers.delete(sleeper)
        sleeper.wake()
      }
    }
  }
}
