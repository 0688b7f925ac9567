/** Each policy alone, and the stack: the bare effect, ours, Effect's own, and the peers'. */
import * as Cockatiel from "cockatiel"
import * as EffectCache from "effect/Cache"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import { CircuitBreaker as EffectBreaker, RateLimiter as EffectRateLimiter } from "effect/persistence"
import * as Schedule from "effect/Schedule"
import * as Semaphore from "effect/Semaphore"
import Opossum from "opossum"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as AdaptiveLimiter from "../../src/policy/AdaptiveLimiter.ts"
import * as AdaptiveThrottle from "../../src/policy/AdaptiveThrottle.ts"
import * as Bulkhead from "../../src/policy/Bulkhead.ts"
import * as Cache from "../../src/policy/Cache.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Fallback from "../../src/policy/Fallback.ts"
import * as Hedge from "../../src/policy/Hedge.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as RateLimiter from "../../src/policy/RateLimiter.ts"
import * as Retry from "../../src/policy/Retry.ts"
import * as Timeout from "../../src/policy/Timeout.ts"
import { asyncEffect, asyncPromise, awaited, awaitedBy, inFiber, inFibers } from "../contenders.ts"
import type { Contender } from "../harness.ts"

const one = Effect.sync(() => 1)
const promiseOne = () => Promise.resolve(1)
const run = Effect.runPromise

const effectBreakerOf = (failures: number) =>
  EffectBreaker.CircuitBreaker.pipe(
    Effect.provide(
      Layer.provide(
        EffectBreaker.layer({ tripPolicy: EffectBreaker.consecutive(failures), openDuration: "1 hour" }),
        EffectBreaker.layerStoreMemory()
      )
    )
  )
const effectBreaker = effectBreakerOf(5)
const tolerantBreaker = effectBreakerOf(1000)

const effectLimiter = EffectRateLimiter.make.pipe(Effect.provide(EffectRateLimiter.layerStoreMemory))

/** A call as a cache, or a circuit of its own, knows it. */
const keyed = CallContext.annotate({ name: "get", key: "k", idempotent: true })

/** One policy around a synchronous operation that succeeds: those that the peers have. */
export const success = async (): Promise<ReadonlyArray<Contender>> => {
  const breaker = await run(CircuitBreaker.make({}))
  const retry = await run(Retry.make({ attempts: 3 }))
  const timeout = await run(Timeout.make({ timeout: "1 second" }))
  const bulkhead = await run(Bulkhead.make({ limit: 100 }))
  const theirs = await run(effectBreaker)
  const opossum = new Opossum(promiseOne, { timeout: false, enabled: true })
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
    awaited("opossum", () => opossum.fire()),
    inFiber("Retry", retry.run(one)),
    inFiber("Effect retry", Effect.retry(one, { times: 2 })),
    awaited("cockatiel retry", () => cockatielRetry.execute(promiseOne)),
    inFiber("Timeout", timeout.run(one)),
    inFiber("Effect timeout", Effect.timeout(one, "1 second")),
    awaited("cockatiel timeout", () => cockatielTimeout.execute(promiseOne)),
    inFiber("Bulkhead", bulkhead.run(one)),
    inFiber("Effect withPermit", semaphore.withPermit(one)),
    awaited("cockatiel bulkhead", () => cockatielBulkhead.execute(promiseOne))
  ]
}

/** The other policies, likewise. */
export const successMore = async (): Promise<ReadonlyArray<Contender>> => {
  const bursty = await run(RateLimiter.make({ limit: 1e9, window: "1 second" }))
  const smooth = await run(RateLimiter.make({ limit: 1e9, window: "1 second", mode: "smooth", burst: 1000 }))
  const throttle = await run(AdaptiveThrottle.make({}))
  const adaptive = await run(AdaptiveLimiter.make({}))
  const hedge = await run(Hedge.make({ delay: "1 second" }))
  const fallback = await run(Fallback.make({ value: 0 }))
  const cache = await run(Cache.make<number>({ ttl: "1 hour" }))
  const breakers = await run(CircuitBreaker.keyed({}))
  const theirLimiter = await run(effectLimiter)
  const theirCache = await run(EffectCache.make({ lookup: () => one, capacity: 1000, timeToLive: "1 hour" }))
  const limits = { window: "1 second", limit: 1e9, key: "k" } as const
  const cockatielFallback = Cockatiel.fallback(Cockatiel.handleAll, 0)
  return [
    inFiber("bare effect", one),
    awaited("bare await", promiseOne),
    inFiber("annotated effect", keyed(one)),
    inFiber("CircuitBreaker.keyed", keyed(breakers.run(one))),
    inFiber("AdaptiveLimiter", adaptive.run(one)),
    inFiber("AdaptiveThrottle", throttle.run(one)),
    inFiber("RateLimiter bursty", bursty.run(one)),
    inFiber("RateLimiter smooth", smooth.run(one)),
    inFiber("Effect RateLimiter", Effect.andThen(theirLimiter.consume(limits), one)),
    inFiber(
      "Effect RateLimiter bucket",
      Effect.andThen(theirLimiter.consume({ ...limits, algorithm: "token-bucket" }), one)
    ),
    inFiber("Hedge", keyed(hedge.run(one))),
    inFiber("Fallback", fallback.run(one)),
    inFiber("Effect orElseSucceed", Effect.orElseSucceed(one as Effect.Effect<number, string>, () => 0)),
    awaited("cockatiel fallback", () => cockatielFallback.execute(promiseOne)),
    inFiber("Cache, a hit", keyed(cache.run(one))),
    inFiber("Effect Cache, a hit", EffectCache.get(theirCache, "k"))
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

const down = CallError.fail({ _tag: "Unavailable", target: "t", detail: "d", sent: "no" })

/** A call that a policy rejects, or fails otherwise than by its own operation, and whose caller catches that. */
export const rejection = async (): Promise<ReadonlyArray<Contender>> => {
  const breaker = await run(CircuitBreaker.make({ consecutiveFailures: 1, openFor: "1 hour" }))
  await run(Effect.exit(breaker.run(Effect.fail("down"))))
  const holding = (self: Policy.Policy<unknown>) =>
    run(Effect.forkDetach(self.run(Effect.never), { startImmediately: true }))
  const bulkhead = await run(Bulkhead.make({ limit: 1 }))
  await holding(bulkhead)
  const adaptive = await run(AdaptiveLimiter.make({ initial: 1, max: 1, maxQueue: 0, maxWait: 0 }))
  await holding(adaptive)
  const bursty = await run(RateLimiter.make({ limit: 1, window: Duration.hours(1) }))
  const smooth = await run(RateLimiter.make({ limit: 1, window: Duration.hours(1), mode: "smooth" }))
  for (const limiter of [bursty, smooth]) await run(limiter.run(one))
  const throttle = await run(AdaptiveThrottle.make({}))
  for (let i = 0; i < 1000; i++) await run(Effect.exit(throttle.run(down)))
  const retry = await run(Retry.make({ attempts: 3 }))
  const fallback = await run(Fallback.make({ value: 0 }))
  const cache = await run(Cache.make<never>({ ttl: "1 hour", negative: { when: () => true, ttl: "1 hour" } }))
  const theirs = await run(effectBreaker)
  for (let i = 0; i < 5; i++) await run(Effect.exit(theirs.execute(Effect.fail("down"), { key: "k" })))
  const theirLimiter = await run(effectLimiter)
  const limits = { window: "1 hour", limit: 1, key: "k" } as const
  await run(theirLimiter.consume(limits))
  const cockatielBreaker = Cockatiel.circuitBreaker(Cockatiel.handleAll, {
    halfOpenAfter: 3_600_000,
    breaker: new Cockatiel.ConsecutiveBreaker(1)
  })
  await cockatielBreaker.execute(() => Promise.reject(new Error("down"))).catch(() => {})
  const cockatielBulkhead = Cockatiel.bulkhead(1)
  void cockatielBulkhead.execute(() => new Promise(() => {}))
  const cockatielFallback = Cockatiel.fallback(Cockatiel.handleAll, 0)
  const cockatielRetry = Cockatiel.retry(Cockatiel.handleType(RangeError), { maxAttempts: 2 })
  const failed = new Error("down")
  const fails = () => Promise.reject(failed)
  const opossum = new Opossum(promiseOne, { enabled: true, resetTimeout: 3_600_000 })
  opossum.open()
  return [
    inFiber("bare failure", Effect.ignore(down)),
    awaited("bare rejection", () => fails().catch(() => 0)),
    inFiber("CircuitBreaker", Effect.ignore(breaker.run(one))),
    inFiber("Effect CircuitBreaker", Effect.ignore(theirs.execute(one, { key: "k" }))),
    awaited("cockatiel circuitBreaker", () => cockatielBreaker.execute(promiseOne).catch(() => 0)),
    awaited("opossum", () => opossum.fire().catch(() => 0)),
    inFiber("Bulkhead", Effect.ignore(bulkhead.run(one))),
    awaited("cockatiel bulkhead", () => cockatielBulkhead.execute(promiseOne).catch(() => 0)),
    inFiber("AdaptiveLimiter", Effect.ignore(adaptive.run(one))),
    inFiber("AdaptiveThrottle, 9 of 10", Effect.ignore(throttle.run(down))),
    inFiber("RateLimiter bursty", Effect.ignore(bursty.run(one))),
    inFiber("RateLimiter smooth", Effect.ignore(smooth.run(one))),
    inFiber(
      "Effect RateLimiter",
      Effect.ignore(Effect.andThen(theirLimiter.consume({ ...limits, onExceeded: "fail" }), one))
    ),
    inFiber("Retry, not retryable", Effect.ignore(retry.run(Effect.fail("down")))),
    inFiber(
      "Effect retry, not retryable",
      Effect.ignore(Effect.retry(Effect.fail("down"), { times: 2, while: () => false }))
    ),
    awaited("cockatiel retry, not retryable", () => cockatielRetry.execute(fails).catch(() => 0)),
    inFiber("Fallback, taken", fallback.run(down)),
    inFiber("Effect orElseSucceed, taken", Effect.orElseSucceed(down, () => 0)),
    awaited("cockatiel fallback, taken", () => cockatielFallback.execute(fails)),
    inFiber("Cache, a kept error", Effect.ignore(keyed(cache.run(down))))
  ]
}

/** The stack whose circuit is open. */
export const stackRejection = async (): Promise<ReadonlyArray<Contender>> => {
  const { builtIns, cockatiel, opossum, ours } = await stacks()
  const error = new Error("down")
  const failing = () => Promise.reject(error)
  for (let i = 0; i < 30; i++) {
    await run(Effect.exit(ours.run(down)))
    await run(Effect.exit(builtIns(Effect.fail("down"))))
    await cockatiel.execute(failing).catch(() => {})
  }
  const breaker = opossum(promiseOne)
  breaker.open()
  return [
    inFiber("bare failure", Effect.ignore(down)),
    inFiber("Policy.stack", Effect.ignore(ours.run(one))),
    inFiber("Effect built-ins", Effect.ignore(builtIns(one))),
    awaited("cockatiel wrap", () => cockatiel.execute(promiseOne).catch(() => 0)),
    awaited("opossum", () => breaker.fire().catch(() => 0))
  ]
}

export const stackSlots = Effect.all({
  retry: Retry.make({ attempts: 3 }),
  circuitBreaker: CircuitBreaker.make({}),
  bulkhead: Bulkhead.make({ limit: 1000 }),
  timeout: Timeout.make({ timeout: "1 second" })
})

/** Retry, breaker, bulkhead and attempt timeout together. */
const stacks = async () => {
  const ours = Policy.stack(await run(stackSlots))
  const theirBreaker = await run(effectBreaker)
  const semaphore = await run(Semaphore.make(1000))
  const builtIns = (self: Effect.Effect<number, unknown>) =>
    Effect.retry(
      theirBreaker.execute(semaphore.withPermit(Effect.timeout(self, "1 second")), { key: "k" }),
      { times: 2, while: (error) => !(error instanceof EffectBreaker.CircuitBreakerError) }
    )
  const cockatiel = Cockatiel.wrap(
    // As ours: what the breaker rejects is not tried again.
    Cockatiel.retry(Cockatiel.handleWhen((error) => !Cockatiel.isBrokenCircuitError(error)), { maxAttempts: 2 }),
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

/** One retry without a delay, then success: the policy alone, and in the stack. */
export const retried = async (): Promise<ReadonlyArray<Contender>> => {
  // Half of all attempts fail: no circuit may open, and no budget run out.
  const tolerant = { consecutiveFailures: 1000 }
  const retry = await run(Retry.make({ attempts: 3, backoff: Schedule.spaced(0) }))
  const ours = Policy.stack({
    retry,
    circuitBreaker: await run(CircuitBreaker.make(tolerant)),
    bulkhead: await run(Bulkhead.make({ limit: 1000 })),
    timeout: await run(Timeout.make({ timeout: "1 second" }))
  })
  const theirBreaker = await run(tolerantBreaker)
  const semaphore = await run(Semaphore.make(1000))
  const builtIns = (self: Effect.Effect<number, unknown>) =>
    Effect.retry(
      theirBreaker.execute(semaphore.withPermit(Effect.timeout(self, "1 second")), { key: "k" }),
      { times: 2 }
    )
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
  const cockatiel = Cockatiel.wrap(
    cockatielRetry,
    Cockatiel.circuitBreaker(Cockatiel.handleAll, {
      halfOpenAfter: 60_000,
      breaker: new Cockatiel.ConsecutiveBreaker(1000)
    }),
    Cockatiel.bulkhead(1000),
    Cockatiel.timeout(1000, Cockatiel.TimeoutStrategy.Aggressive)
  )
  const [failsNext, wrapFailsNext] = [alternating(), alternating()]
  const error = new Error("down")
  return [
    inFiber("Policy.stack", ours.run(flaky(alternating()))),
    inFiber("Effect built-ins", builtIns(flaky(alternating()))),
    awaited("cockatiel wrap", () => cockatiel.execute(() => wrapFailsNext() ? Promise.reject(error) : promiseOne())),
    inFiber("Retry", retry.run(flaky(alternating()))),
    inFiber("Effect retry", Effect.retry(flaky(alternating()), { times: 2 })),
    awaited("cockatiel retry", () => cockatielRetry.execute(() => failsNext() ? Promise.reject(error) : promiseOne()))
  ]
}
