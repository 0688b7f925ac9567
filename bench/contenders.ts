/** How an Effect and a promise are run `n` times, in every way the suite compares. */
import * as Effect from "effect/Effect"
import { type Contender, Latencies } from "./harness.ts"

/** `n` times in one fiber, one after the other: what a call costs inside a program. */
export const inFiber = (name: string, effect: Effect.Effect<unknown, unknown>): Contender => ({
  name,
  run: (n) =>
    Effect.runPromise(
      Effect.gen(function*() {
        for (let i = 0; i < n; i++) yield* effect
      }) as Effect.Effect<void>
    )
})

/** `n` times by `width` fibers at once: for operations that suspend. */
export const inFibers = (name: string, effect: Effect.Effect<unknown, unknown>, width: number): Contender => ({
  name,
  width,
  run: async (n) => {
    const worker = Effect.gen(function*() {
      for (let i = 0; i < n / width; i++) yield* effect
    }) as Effect.Effect<void>
    await Promise.all(Array.from({ length: width }, () => Effect.runPromise(worker)))
  }
})

/** The same with the latency of each. */
export const timedInFibers = (name: string, effect: Effect.Effect<unknown, unknown>, width: number): Contender => {
  const latencies = new Latencies()
  return {
    name,
    width,
    latencies,
    run: async (n) => {
      const worker = Effect.gen(function*() {
        for (let i = 0; i < n / width; i++) {
          const begun = performance.now()
          yield* effect
          latencies.add(performance.now() - begun)
        }
      }) as Effect.Effect<void>
      await Promise.all(Array.from({ length: width }, () => Effect.runPromise(worker)))
    }
  }
}

/** The same for promises. */
export const awaited = (name: string, operation: () => Promise<unknown> | unknown): Contender => ({
  name,
  run: async (n) => {
    for (let i = 0; i < n; i++) await operation()
  }
})

export const awaitedBy = (name: string, operation: () => Promise<unknown>, width: number): Contender => ({
  name,
  width,
  run: async (n) => {
    const worker = async () => {
      for (let i = 0; i < n / width; i++) await operation()
    }
    await Promise.all(Array.from({ length: width }, worker))
  }
})

export const timedAwaitedBy = (name: string, operation: () => Promise<unknown>, width: number): Contender => {
  const latencies = new Latencies()
  return {
    name,
    width,
    latencies,
    run: async (n) => {
      const worker = async () => {
        for (let i = 0; i < n / width; i++) {
          const begun = performance.now()
          await operation()
          latencies.add(performance.now() - begun)
        }
      }
      await Promise.all(Array.from({ length: width }, worker))
    }
  }
}

/** A plain function, `n` times. */
export const called = (name: string, operation: () => unknown, bodyBytes?: number): Contender => ({
  name,
  bodyBytes,
  run: (n) => {
    for (let i = 0; i < n; i++) operation()
  }
})

/** An operation that completes on the next turn of the event loop, as an Effect and as a promise. */
export const asyncEffect: Effect.Effect<number> = Effect.callback((resume) => {
  setImmediate(() => resume(Effect.succeed(1)))
})
export const asyncPromise = (): Promise<number> =>
  new Promise((resolve) => {
    setImmediate(() => resolve(1))
  })
