/**
 * Policies for the kinds of call that most calls are, as data.
 *
 * Each is a `PolicySpec`: compile it, lint it, print it, or give it to
 * `Client.make` as its `policy`. To change one, spread it:
 * `{ ...Profiles.idempotentRead, timeout: "2 seconds" }`, and lint the result.
 *
 * They assume a dependency in the same region whose 99th percentile is 250 ms
 * where nothing else is said. What a policy's default already is, a profile does
 * not state; the defaults are derived where they are defined. The worst case of
 * the backoff from a base `b` is `4b`, `8b`, …, of which the sums below are made.
 *
 * A client asks its contract which methods are idempotent, and each call for its
 * deadline: there `idempotent` and `deadline` are only what the linter
 * calculates with.
 *
 * Source: three sends per request and a budget of a tenth, Google SRE,
 * "Handling Overload"; limits of attention (1 s, 10 s), Nielsen, "Response
 * Times"; hedges at the 95th percentile, Dean and Barroso, "The Tail at Scale".
 */
import type * as PolicySpec from "./PolicySpec.ts"

/**
 * A read that may be sent twice: retried, hedged, and cut short early, because
 * another attempt costs little.
 *
 * - `timeout` 500 ms: twice the 99th percentile. With latencies that double it
 *   between the 99th and the 99.9th, one healthy attempt in a thousand is cut.
 * - `base` 50 ms: a lost packet or a moved connection is mended within two round
 *   trips between regions of one continent (2 × 25 ms).
 * - `deadline` 3 s: 3 × 500 ms + 200 ms + 400 ms = 2.1 s when all attempts time
 *   out, and 0.9 s for connecting and queueing.
 * - `hedge`, at the 95th percentile: 5 % more load, half of what the budget allows.
 */
export const idempotentRead = {
  name: "idempotentRead",
  idempotent: true,
  deadline: "3 seconds",
  retry: { attempts: 3, backoff: { kind: "decorrelated", base: "50 millis", cap: "1 second" } },
  hedge: {},
  circuitBreaker: {},
  timeout: "500 millis"
} as const satisfies PolicySpec.PolicySpec

/**
 * A write that must not be sent twice: repeated only when it provably never
 * arrived, and given time, because to cut it short is not to know.
 *
 * - `timeout` 8 s: what arrived is waited for almost as long as the caller waits,
 *   for each timeout is an `OutcomeUnknown` that somebody has to clear up.
 * - `deadline` 10 s, the limit of a person's attention: 8 s, and 2 s for what came
 *   before, two failures to connect with 400 ms + 800 ms between.
 * - `attempts` 3: none of them follows a timeout.
 * - A probe's default lease of 10 s exceeds the timeout.
 */
export const nonIdempotentWrite = {
  name: "nonIdempotentWrite",
  idempotent: false,
  deadline: "10 seconds",
  retry: { attempts: 3, backoff: { kind: "decorrelated", base: "100 millis", cap: "10 seconds" } },
  circuitBreaker: {},
  timeout: "8 seconds"
} as const satisfies PolicySpec.PolicySpec

/**
 * A write with an idempotency key: retried like a read, but not hedged, because
 * two that arrive together contend for the key, and slowly, because what commits
 * takes longer.
 *
 * - `timeout` 2.5 s: a transaction at four times a read's 99th percentile is 1 s,
 *   and twice that and a half are left before another attempt joins the queue
 *   for the same lock.
 * - `deadline` 10 s: 3 × 2.5 s + 400 ms + 800 ms = 8.7 s.
 */
export const keyedWrite = {
  name: "keyedWrite",
  idempotent: "key",
  deadline: "10 seconds",
  retry: { attempts: 3, backoff: { kind: "decorrelated", base: "100 millis", cap: "10 seconds" } },
  circuitBreaker: {},
  timeout: "2500 millis"
} as const satisfies PolicySpec.PolicySpec

/**
 * One of many calls that nobody waits for: patient, and never more than a few at
 * a time, so that it takes no capacity from those somebody waits for.
 *
 * - `timeout` 1 minute, `deadline` 5 minutes: 4 × 60 s + 1 s + 2 s + 4 s = 247 s.
 * - `attempts` 4: the delays reach over 7 s, a restart of the other side.
 * - `limit` 10 in flight, by Little's law 100 calls/s at 100 ms; 1,000 wait, each
 *   up to the minute an attempt may take.
 * - `ttl` 1 minute: at the slowest, 10 calls per minute, the default of 3 s would
 *   forget each tenth of a token before the next; so there is one retry in ten.
 * - `jitter` full: fewest collisions, and nobody minds the delay.
 */
export const batch = {
  name: "batch",
  idempotent: true,
  deadline: "5 minutes",
  retry: {
    attempts: 4,
    backoff: { kind: "exponential", base: "1 second", cap: "30 seconds", jitter: "full" },
    budget: { ttl: "1 minute" }
  },
  circuitBreaker: { halfOpen: { lease: "1 minute" } },
  bulkhead: { limit: 10, maxQueue: 1000, maxWait: "1 minute" },
  timeout: "1 minute"
} as const satisfies PolicySpec.PolicySpec

/**
 * A call made for a message that a queue delivers again: one quick retry, and
 * then the queue's own, which is the better backoff.
 *
 * - `deadline` 25 s: a message's usual visibility of 30 s (SQS), less 5 s to
 *   acknowledge it, so that no other consumer has it meanwhile.
 * - `timeout` 10 s, `attempts` 2: 2 × 10 s + 400 ms = 20.4 s.
 * - `limit` 20 without a queue: a message waits in its own queue, not in memory.
 * - `lease` 15 s: longer than the timeout, whose failure says more.
 */
export const queueConsumer = {
  name: "queueConsumer",
  idempotent: "key",
  deadline: "25 seconds",
  retry: { attempts: 2, backoff: { kind: "decorrelated", base: "100 millis", cap: "10 seconds" } },
  circuitBreaker: { halfOpen: { lease: "15 seconds" } },
  bulkhead: { limit: 20 },
  timeout: "10 seconds"
} as const satisfies PolicySpec.PolicySpec

/**
 * A read a person waits for: an answer within the second in which his thought
 * is not interrupted, or an early refusal that leaves time for something else.
 *
 * - `deadline` 1 s.
 * - `timeout` 400 ms, `attempts` 2, `base` 25 ms: 2 × 400 ms + 100 ms = 900 ms.
 * - `hedge`: a second attempt at the 95th percentile is in time where a retry
 *   after a timeout barely is.
 * - `adaptiveThrottle`: what the other side is refusing anyway is refused here,
 *   at once.
 */
export const interactive = {
  name: "interactive",
  idempotent: true,
  deadline: "1 second",
  retry: { attempts: 2, backoff: { kind: "decorrelated", base: "25 millis", cap: "1 second" } },
  hedge: {},
  adaptiveThrottle: {},
  circuitBreaker: {},
  timeout: "400 millis"
} as const satisfies PolicySpec.PolicySpec
