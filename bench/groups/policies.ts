/** Each policy alone: the bare effect, ours, Effect's own, and cockatiel's. */
import * as Cockatiel from "cockatiel"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { CircuitBreaker as EffectBreaker } from "effect/persistence"
import * as Schedule from "effect/Schedule"
import * as Semaphore from "effect/Semaphore"
import Opossum from "opossum"
import * as CallError from "../../src/contract/CallError.ts"
import * as Bulkhead from "../../src/policy/Bulkhead.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as RateLimiter from "../../src/policy/RateLimiter.ts"
import * as Retry from "../../src/policy/Retry.ts"
import * as Timeout from "../../src/policy/Timeout.ts"
import { asyncEffect, asyncPromise, awaited, awaitedBy, inFiber, inFibers } from "../contenders.ts"
import type { Contender } from "../harness.ts"

const one = Effect.sync(() => 1)
const promiseOne = () => Promise.resolve(1)
const run = Effect.runPromise

const effectBreaker = EffectBreaker.CircuitBreaker.pipe(
  Effect.provide(
    Layer.provide(
      EffectBreaker.layer({ tripPolicy: EffectBreaker.consecutive(5), openDuration: "1 minute" }),
      EffectBreaker.layerStoreMemory()
    )
  )
)

/** One policy around a synchronous operation that succeeds. */
export const success = async (): Promise<ReadonlyArray<Contender>> => {
  const breaker = await run(CircuitBreaker.make({}))
  const retry = await run(Retry.make({ attempts: 3 }))
  const timeout = await run(Timeout.make({ timeout: "1 second" }))
  const bulkhead = await run(Bulkhead.make({ limit: 100 }))
  const limiter = await run(RateLimiter.make({ limit: 1e9, window: "1 second" }))
  const theirs = await run(effectBreaker)
  const semaphore = await run(Semaphore.make(100))
  const cockatielBreaker = Cockatiel.circuitBreaker(Cockatiel.handleAll, {
    halfOpenAfter: 60_000,
    breaker: new Cockatiel.ConsecutiveBreaker(5)
  })
  const cockatielRetry = Cockatiel.retry(Cockatiel.handleAll, { maxAttempts: 2 })
  const cockatielTimeout = Cockatiel.timeout(1000, Cockatiel.TimeoutStrategy.Aggressive)
  const cockatielBulkhead = Cockatiel.bulkhead(100)
  return [
    inFiber("bare effect", one),
    awaited("bare await", promiseOne),
    inFiber("CircuitBreaker", breaker.run(one)),
    inFiber("Effect CircuitBreaker", theirs.execute(one, { key: "k" })),
    awaited("cockatiel circuitBreaker", () => cockatielBreaker.execute(promiseOne)),
    inFiber("Retry", retry.run(one)),
    inFiber("Effect retry", Effect.retry(one, { times: 2 })),
    awaited("cockatiel retry", () => cockatielRetry.execute(promiseOne)),
    inFiber("Timeout", timeout.run(one)),
    inFiber("Effect timeout", Effect.timeout(one, "1 second")),
    awaited("cockatiel timeout", () => cockatielTimeout.execute(promiseOne)),
    inFiber("Bulkhead", bulkhead.run(one)),
    inFiber("Effect withPermit", semaphore.withPermit(one)),
    awaited("cockatiel bulkhead", () => cockatielBulkhead.execute(promiseOne)),
    inFiber("RateLimiter", limiter.run(one))
  ]
}

/** A timeout around an operation that suspends, 64 at once. */
export const suspending = async (): Promise<ReadonlyArray<Contender>> => {
  const timeout = await run(Timeout.make({ timeout: "1 second" }))
  const cockatielTimeout = Cockatiel.timeout(1000, Cockatiel.TimeoutStrategy.Aggressive)
  return [
    inFibers("bare effect", asyncEffect, 64),
    awaitedBy("bare await", asyncPromise, 64),
    inFibers("Timeout", timeout.run(asyncEffect), 64),
    inFibers("Effect timeout", Effect.timeout(asyncEffect, "1 second"), 64),
    awaitedBy("cockatiel timeout", () => cockatielTimeout.execute(asyncPromise), 64)
  ]
}

/** A call that an open circuit, or a full bulkhead, rejects, and whose caller catches the rejection. */
export const rejection = async (): Promise<ReadonlyArray<Contender>> => {
  const breaker = await run(CircuitBreaker.make({ consecutiveFailures: 1, openFor: "1 hour" }))
  await run(Effect.exit(breaker.run(Effect.fail("down"))))
  const bulkhead = await run(Bulkhead.make({ limit: 1 }))
  await run(Effect.forkDetach(bulkhead.run(Effect.never), { startImmediately: true }))
  const limiter = await run(RateLimiter.make({ limit: 1, window: Duration.hours(1) }))
  await run(limiter.run(one))
  const theirs = await run(effectBreaker)
  for (let i = 0; i < 5; i++) await run(Effect.exit(theirs.execute(Effect.fail("down"), { key: "k" })))
  const cockatielBreaker = Cockatiel.circuitBreaker(Cockatiel.handleAll, {
    halfOpenAfter: 3_600_000,
    breaker: new Cockatiel.ConsecutiveBreaker(1)
  })
  await cockatielBreaker.execute(() => Promise.reject(new Error("down"))).catch(() => {})
  const opossum = new Opossum(promiseOne, { enabled: true, resetTimeout: 3_600_000 })
  opossum.open()
  return [
    inFiber("CircuitBreaker", Effect.ignore(breaker.run(one))),
    inFiber("Bulkhead", Effect.ignore(bulkhead.run(one))),
    inFiber("RateLimiter", Effect.ignore(limiter.run(one))),
    inFiber("Effect CircuitBreaker", Effect.ignore(theirs.execute(one, { key: "k" }))),
    awaited("cockatiel circuitBreaker", () => cockatielBreaker.execute(promiseOne).catch(() => 0)),
    awaited("opossum", () => opossum.fire().catch(() => 0))
  ]
}

/** Retry, breaker, bulkhead and attempt timeout together. */
const stacks = async () => {
  const ours = Policy.stack({
    retry: await run(Retry.make({ attempts: 3 })),
    circuitBreaker: await run(CircuitBreaker.make({})),
    bulkhead: await run(Bulkhead.make({ limit: 1000 })),
    timeout: await run(Timeout.make({ timeout: "1 second" }))
  })
  const theirBreaker = await run(effectBreaker)
  const semaphore = await run(Semaphore.make(1000))
  const builtIns = (self: Effect.Effect<number>) =>
    Effect.retry(
      theirBreaker.execute(semaphore.withPermit(Effect.timeout(self, "1 second")), { key: "k" }),
      { times: 2 }
    )
  const cockatiel = Cockatiel.wrap(
    Cockatiel.retry(Cockatiel.handleAll, { maxAttempts: 2 }),
    Cockatiel.circuitBreaker(Cockatiel.handleAll, {
      halfOpenAfter: 60_000,
      breaker: new Cockatiel.ConsecutiveBreaker(5)
    }),
    Cockatiel.bulkhead(1000),
    Cockatiel.timeout(1000, Cockatiel.TimeoutStrategy.Aggressive)
  )
  const opossum = (operation: () => Promise<number>) =>
    new Opossum(operation, { timeout: 1000, capacity: 1000, enabled: true })
  return { ours, builtIns, cockatiel, opossum }
}

/** The whole stack around a synchronous operation that succeeds. */
export const stack = async (): Promise<ReadonlyArray<Contender>> => {
  const { builtIns, cockatiel, opossum, ours } = await stacks()
  const breaker = opossum(promiseOne)
  return [
    inFiber("bare effect", one),
    inFiber("Policy.stack", ours.run(one)),
    inFiber("Effect built-ins", builtIns(one)),
    awaited("cockatiel wrap", () => cockatiel.execute(promiseOne)),
    awaited("opossum", () => breaker.fire())
  ]
}

/** The whole stack around an operation that suspends, 64 at once. */
export const stackSuspending = async (): Promise<ReadonlyArray<Contender>> => {
  const { builtIns, cockatiel, opossum, ours } = await stacks()
  const breaker = opossum(asyncPromise)
  return [
    inFibers("bare effect", asyncEffect, 64),
    inFibers("Policy.stack", ours.run(asyncEffect), 64),
    inFibers("Effect built-ins", builtIns(asyncEffect), 64),
    awaitedBy("cockatiel wrap", () => cockatiel.execute(asyncPromise), 64),
    awaitedBy("opossum", () => breaker.fire(), 64)
  ]
}

/** One retry without a delay, then success. */
export const retried = async (): Promise<ReadonlyArray<Contender>> => {
  const retry = await run(Retry.make({ attempts: 3, backoff: Schedule.spaced(0) }))
  const flaky = (fail: () => boolean) =>
    Effect.suspend(() =>
      fail() ? CallError.fail({ _tag: "ConnectionLost", target: "t", detail: "d", sent: "no" }) : one
    )
  const alternating = () => {
    let n = 0
    return () => n++ % 2 === 0
  }
  const cockatielRetry = Cockatiel.retry(Cockatiel.handleAll, {
    maxAttempts: 2,
    backoff: new Cockatiel.ConstantBackoff(0)
  })
  const failsNext = alternating()
  const error = new Error("down")
  return [
    inFiber("Retry", retry.run(flaky(alternating()))),
    inFiber("Effect retry", Effect.retry(flaky(alternating()), { times: 2 })),
    awaited("cockatiel retry", () => cockatielRetry.execute(() => failsNext() ? Promise.reject(error) : promiseOne()))
  ]
}
