import { Effect } from "effect"
import { CallContext, CircuitBreaker, Policy, Retry, Timeout } from "holdfast"

/** Three attempts of half a second each at most, two seconds in all, and none at what keeps failing. */
export const makeGuard = Effect.gen(function*() {
  const policy = Policy.stack({
    timeout: yield* Timeout.make({ timeout: "500 millis" }),
    circuitBreaker: yield* CircuitBreaker.make({ name: "search" }),
    retry: yield* Retry.make({ attempts: 3 })
  })
  return <A, E, R>(search: Effect.Effect<A, E, R>) =>
    search.pipe(
      Policy.apply(policy),
      Timeout.withDeadline("2 seconds"),
      CallContext.annotate({ name: "search", idempotent: true })
    )
})
