import { Effect } from "effect"
import { HttpClient } from "effect/http"
import { CircuitBreaker, HttpPolicy, Policy, Retry, Timeout } from "holdfast"

/** An HTTP client for one origin: three attempts of half a second each at most, and none at what keeps failing. */
export const makeShop = Effect.gen(function*() {
  const policy = Policy.stack({
    timeout: yield* Timeout.make({ timeout: "500 millis" }),
    circuitBreaker: yield* CircuitBreaker.make({ name: "shop" }),
    retry: yield* Retry.make({ attempts: 3 })
  })
  return (yield* HttpClient.HttpClient).pipe(HttpPolicy.apply(policy))
})
