/** What must and must not compile of stacks, specs and profiles: checked by the compiler, run by nobody. */
import { Duration, Effect, Schedule } from "effect"
import { RpcGroup } from "effect/rpc"
import * as Client from "../../src/client/Client.ts"
import type * as CallError from "../../src/contract/CallError.ts"
import * as Outcome from "../../src/contract/Outcome.ts"
import * as Bulkhead from "../../src/policy/Bulkhead.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as PolicySpec from "../../src/policy/PolicySpec.ts"
import * as Profiles from "../../src/policy/Profiles.ts"
import * as RateLimiter from "../../src/policy/RateLimiter.ts"
import * as Retry from "../../src/policy/Retry.ts"
import * as Timeout from "../../src/policy/Timeout.ts"

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false
const holds = <_T extends true>() => {}
type Tags<P> = P extends Policy.Policy<infer E, any> ? E extends CallError.CallError<infer R> ? R["_tag"] : never
  : never

export const stacks = Effect.gen(function*() {
  const retry = yield* Retry.make()
  const breaker = yield* CircuitBreaker.make()
  const bulkhead = yield* Bulkhead.make({ limit: 1 })
  const limiter = yield* RateLimiter.make({ limit: 1 })
  const timeout = yield* Timeout.make({ timeout: 1 })

  // Exactly what its slots can fail for.
  const guarded = Policy.stack({ circuitBreaker: breaker, timeout })
  holds<Equal<Tags<typeof guarded>, "CircuitOpen" | "AttemptTimeout">>()
  const all = Policy.stack({ retry, rateLimiter: limiter, bulkhead })
  holds<
    Equal<
      Tags<typeof all>,
      "RetriesExhausted" | "BudgetExhausted" | "DeadlineExceeded" | "LimitReached" | "BulkheadFull"
    >
  >()
  const nothing = Policy.stack({})
  holds<Equal<Tags<typeof nothing>, never>>()
  const call = Policy.apply(Effect.succeed(1), guarded)
  holds<Equal<typeof call extends Effect.Effect<infer A, any, infer R> ? [A, R] : never, [number, never]>>()

  // A second retry has no slot: each has one, and a stack is no retry.
  // @ts-expect-error an object has a field once
  // oxlint-disable-next-line no-dupe-keys
  Policy.stack({ retry, retry: yield* Retry.make() })
  // @ts-expect-error one slot, one policy
  Policy.stack({ retry: [retry, retry] })
  // @ts-expect-error a stack, which may hold a retry, fits no slot
  Policy.stack({ retry: all })
  // @ts-expect-error nor a hedge's
  Policy.stack({ hedge: retry })
  // @ts-expect-error a breaker is no timeout: the order is not the user's puzzle
  Policy.stack({ timeout: breaker })

  const nested = Policy.stack({ retry: yield* Retry.make({ allowNested: "the inner one never sends" }) })
  return [guarded, all, nothing, call, nested]
})

class Nothing extends RpcGroup.make() {}

export const clients = [
  // A profile is a client's policy, its name, deadline and idempotency notwithstanding.
  Client.make(Nothing, { target: "t", policy: Profiles.idempotentRead }),
  Client.make(Nothing, { target: "t", policy: Profiles.nonIdempotentWrite }),
  Client.make(Nothing, { target: "t", policy: Profiles.keyedWrite }),
  Client.make(Nothing, { target: "t", policy: Profiles.batch }),
  Client.make(Nothing, { target: "t", policy: Profiles.queueConsumer }),
  Client.make(Nothing, { target: "t", policy: Profiles.interactive }),
  Client.make(Nothing, { target: "t", policy: { ...Profiles.batch, timeout: "2 seconds", bulkhead: undefined } }),
  // @ts-expect-error a client has one retry
  Client.make(Nothing, { target: "t", policy: { retry: [{ attempts: 2 }, { attempts: 3 }] } }),
  // @ts-expect-error a field no slot has
  Client.make(Nothing, { target: "t", policy: { retry: { attempts: 2, tries: 3 } } }),
  // @ts-expect-error nor deeper
  Client.make(Nothing, { target: "t", policy: { circuitBreaker: { halfOpen: { probes: 2, leases: 1 } } } }),
  // @ts-expect-error nor one of another alternative
  Client.make(Nothing, { target: "t", policy: { circuitBreaker: { window: { calls: 10, bucket: 1 } } } }),
  // @ts-expect-error nor a description of a backoff
  Client.make(Nothing, { target: "t", policy: { retry: { backoff: { kind: "constant", base: 1, top: 2 } } } }),
  // @ts-expect-error a slot nobody knows
  Client.make(Nothing, { target: "t", policy: { timeout: 1, bulkheads: { limit: 1 } } }),
  Client.make(Nothing, {
    target: "t",
    policy: {
      retry: {
        backoff: Schedule.exponential(100),
        budget: { ratio: 0.2 },
        retryIf: (n: number) => n > 1,
        discard: () => Effect.void
      },
      circuitBreaker: {
        openFor: Schedule.spaced(100),
        window: { calls: 10, maxAge: 1 },
        classify: () => Outcome.ignored
      },
      rateLimiter: { limit: 1, window: Duration.seconds(1), maxWait: [1, 2] },
      adaptiveLimiter: { rejection: { from: 1, to: 2 } },
      timeout: Duration.seconds(1)
    }
  }),
  // @ts-expect-error and hedges are the loop's
  Client.make(Nothing, { target: "t", policy: { hedge: { attempts: 3 } } })
]

/** What a spec answers with: what it guards, or with a fallback, or one that may be there, anybody's guess. */
export const answers = (wide: PolicySpec.PolicySpec) =>
  Effect.gen(function*() {
    const one = Effect.succeed(1)
    const plain = (yield* PolicySpec.compile({ timeout: "1 s" })).run(one)
    const profile = (yield* PolicySpec.make(Profiles.batch)).run(one)
    const substituting = (yield* PolicySpec.compile({ fallback: { value: "none" } })).run(one)
    const cached = (yield* PolicySpec.compile({ cache: { ttl: "1 s" } })).run(one)
    holds<Equal<Effect.Success<typeof cached>, unknown>>()
    const unknown = (yield* PolicySpec.make(wide)).run(one)
    holds<Equal<Effect.Success<typeof plain>, number>>()
    holds<Equal<Effect.Success<typeof profile>, number>>()
    holds<Equal<Effect.Success<typeof substituting>, unknown>>()
    holds<Equal<Effect.Success<typeof unknown>, unknown>>()
    return [plain, profile, substituting, cached, unknown]
  })

export const specs = [
  PolicySpec.compile(Profiles.interactive),
  PolicySpec.compile({ retry: { attempts: 3, backoff: { kind: "constant", base: "1 s" } } }),
  // @ts-expect-error a field nobody knows
  PolicySpec.compile({ retry: { tries: 3 } }),
  // @ts-expect-error a kind nobody knows
  PolicySpec.compile({ retry: { backoff: { kind: "quadratic", base: "1 s" } } }),
  // @ts-expect-error one retry
  PolicySpec.compile({ retry: [{ attempts: 3 }] })
]
