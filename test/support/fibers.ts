/** How many fibers of an effect are alive: those it runs, forks and leaves behind, handlers on a server of its own included. */
import { Effect, Metric } from "effect"

export interface Fibers {
  /** Fibers that have begun and not ended. */
  readonly live: () => number
  /** Counts the fibers begun within an effect. */
  readonly counted: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
}

export const fibers = (): Fibers => {
  let live = 0
  const service: Metric.FiberRuntimeMetricsService = {
    recordFiberStart: () => void live++,
    recordFiberEnd: () => void live--
  }
  return { live: () => live, counted: Effect.provideService(Metric.FiberRuntimeMetrics, service) }
}
