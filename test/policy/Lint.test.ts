/** Each rule on the smallest spec that breaks it, with what it says, and on one that just does not. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Schedule } from "effect"
import * as Backoff from "../../src/policy/Backoff.ts"
import * as Lint from "../../src/policy/Lint.ts"
import * as PolicySpec from "../../src/policy/PolicySpec.ts"

interface Example {
  readonly spec: PolicySpec.PolicySpec
  readonly finding: string
  /** What makes it go away. */
  readonly fixed: PolicySpec.PolicySpec
  readonly bindings?: PolicySpec.Bindings
}

const linted = (spec: PolicySpec.PolicySpec, bindings?: PolicySpec.Bindings) =>
  Effect.map(PolicySpec.lint(spec, bindings), (findings) => findings.map((finding) => Lint.text([finding])))

const constant = { kind: "constant", base: "500 ms" } as const
const hedged = { idempotent: true, timeout: "1 s", retry: { attempts: 3 } } as const
const probes = { minimumCalls: 100, window: { duration: "10 s" }, failureRatio: 0.5 } as const

const examples: Readonly<Record<string, ReadonlyArray<Example>>> = {
  "L1, the worst case of a call against its deadline": [
    {
      spec: { timeout: "5 s", deadline: "2 s" },
      finding: "error L1 timeout: an attempt may take 5 s, the whole call 2 s: the timeout can never fire",
      fixed: { timeout: "2 s", deadline: "2 s" }
    },
    {
      spec: {
        deadline: "5 s",
        timeout: "2 s",
        retry: { attempts: 4, backoff: { kind: "exponential", base: "500 ms" } }
      },
      finding: "warning L1 retry.attempts: 4 attempts × 2 s + 500 ms + 1 s + 2 s backoff = 11.5 s > deadline 5 s: " +
        "when attempts time out, attempts 3 to 4 can never run",
      fixed: {
        deadline: "11.5 s",
        timeout: "2 s",
        retry: { attempts: 4, backoff: { kind: "exponential", base: "500 ms" } }
      }
    },
    {
      spec: { deadline: "4 s", timeout: "2 s", retry: { attempts: 2, backoff: constant } },
      finding: "warning L1 retry.attempts: 2 attempts × 2 s + 500 ms backoff = 4.5 s > deadline 4 s: " +
        "when attempts time out, the last one is cut short",
      fixed: { deadline: "4.5 s", timeout: "2 s", retry: { attempts: 2, backoff: constant } }
    },
    {
      spec: { deadline: "2.5 s", timeout: "2 s", retry: { attempts: 2, backoff: constant } },
      finding: "warning L1 retry.attempts: 2 attempts × 2 s + 500 ms backoff = 4.5 s > deadline 2.5 s: " +
        "when attempts time out, attempt 2 can never run",
      fixed: { deadline: "2.5 s", timeout: "1 s", retry: { attempts: 2, backoff: constant } }
    },
    {
      // A write's timeout is not retried.
      spec: { deadline: "3 s", timeout: "2 s", retry: { attempts: 2, backoff: constant } },
      finding: "warning L1 retry.attempts: 2 attempts × 2 s + 500 ms backoff = 4.5 s > deadline 3 s: " +
        "when attempts time out, the last one is cut short",
      fixed: { idempotent: false, deadline: "3 s", timeout: "2 s", retry: { attempts: 2, backoff: constant } }
    },
    {
      spec: { deadline: "10 s", timeout: "2 s", retry: { attempts: 6, backoff: constant } },
      finding: "warning L1 retry.attempts: 6 attempts × 2 s + 2.5 s backoff = 14.5 s > deadline 10 s: " +
        "when attempts time out, attempts 5 to 6 can never run",
      fixed: { deadline: "10 s", timeout: "2 s", retry: { attempts: 4, backoff: constant } }
    },
    {
      // The default backoff is at most 400 ms, then 800 ms.
      spec: { deadline: "7 s", timeout: "2 s", retry: {} },
      finding: "warning L1 retry.attempts: 3 attempts × 2 s + 400 ms + 800 ms backoff = 7.2 s > deadline 7 s: " +
        "when attempts time out, the last one is cut short",
      fixed: { deadline: "7.2 s", timeout: "2 s", retry: {} }
    },
    {
      spec: { deadline: "3 s", timeout: "1 s", retry: { attempts: 3, backoff: { schedule: "pace" } } },
      finding: "warning L1 retry.attempts: 3 attempts × 1 s + 1.2 s + 1.2 s backoff = 5.4 s > deadline 3 s: " +
        "when attempts time out, attempt 3 can never run",
      fixed: { deadline: "5.4 s", timeout: "1 s", retry: { attempts: 3, backoff: { schedule: "pace" } } },
      bindings: { schedules: { pace: Schedule.jittered(Schedule.spaced("1 second")) } }
    }
  ],
  "L2, more attempts than help, or than a Schedule has": [
    {
      spec: { retry: { attempts: 11 } },
      finding: "warning L2 retry.attempts: 11 attempts: at a failure ratio of 0.5, 10 leave 1 call in 1,024 failed; " +
        "more only add load to an outage",
      fixed: { retry: { attempts: 10 } }
    },
    {
      spec: { retry: { attempts: 5, backoff: { schedule: "twice" } } },
      finding: "warning L2 retry.backoff: the Schedule \"twice\" ends after 2 delays: attempts 4 to 5 can never run",
      fixed: { retry: { attempts: 3, backoff: { schedule: "twice" } } },
      bindings: { schedules: { twice: Backoff.exponential({ base: 100, recurs: 2 }) } }
    },
    {
      spec: { retry: { backoff: { schedule: "once" } } },
      finding: "warning L2 retry.backoff: the Schedule \"once\" ends after 1 delay: attempt 3 can never run",
      fixed: { retry: { attempts: 2, backoff: { schedule: "once" } } },
      bindings: { schedules: { once: Backoff.exponential({ base: 100, recurs: 1 }) } }
    }
  ],
  "L3, a backoff without a cap": [
    {
      spec: { retry: { attempts: 9, backoff: { kind: "exponential", base: "1 s" } } },
      finding: "warning L3 retry.backoff.cap: without a cap, attempt 9 waits up to 2.13 min",
      fixed: { retry: { attempts: 9, backoff: { kind: "exponential", base: "1 s", cap: "1 minute" } } }
    },
    {
      spec: { retry: { attempts: 3, backoff: { kind: "linear", base: "40 s" } } },
      finding: "warning L3 retry.backoff.cap: without a cap, attempt 3 waits up to 80 s",
      fixed: { retry: { attempts: 3, backoff: { kind: "linear", base: "30 s" } } }
    },
    {
      spec: { retry: { attempts: 9, backoff: { schedule: "doubling" } } },
      finding: "warning L3 retry.backoff: in the Schedule \"doubling\" attempt 9 waits up to 2.56 min",
      fixed: { retry: { attempts: 7, backoff: { schedule: "doubling" } } },
      bindings: { schedules: { doubling: Schedule.jittered(Schedule.exponential("1 second")) } }
    },
    {
      spec: { retry: { backoff: { schedule: "never" } } },
      finding: "warning L3 retry.backoff: in the Schedule \"never\" attempt 2 waits for ever",
      fixed: { retry: false },
      bindings: {
        schedules: { never: Schedule.jittered(Schedule.spaced(Duration.infinity)) }
      }
    }
  ],
  "L4, no jitter": [
    {
      spec: { retry: { backoff: { ...constant, jitter: "none" } }, traffic: { callsPerSecond: 1000 } },
      finding:
        "warning L4 retry.backoff.jitter: no jitter: 1000 calls a second that fail together come back together " +
        "after 500 ms",
      fixed: { retry: { backoff: { ...constant, jitter: "equal" } }, traffic: { callsPerSecond: 1000 } }
    },
    {
      spec: { retry: { backoff: { ...constant, jitter: "proportional", ratio: 0 } } },
      finding:
        "warning L4 retry.backoff.jitter: no jitter: all calls that fail together come back together after 500 ms",
      fixed: { retry: { backoff: { ...constant, jitter: "proportional", ratio: 0.1 } } }
    },
    {
      spec: { retry: { backoff: { schedule: "steps" } } },
      finding:
        "warning L4 retry.backoff: no jitter in the Schedule \"steps\": all calls that fail together come back " +
        "together after 100 ms",
      fixed: { retry: { attempts: 1, backoff: { schedule: "steps" } } },
      bindings: { schedules: { steps: Schedule.exponential("100 millis") } }
    },
    {
      spec: { retry: { backoff: { schedule: "late" } } },
      finding:
        "warning L4 retry.backoff: the Schedule \"late\" begins without jitter: all calls that fail together come " +
        "back together after 1 s",
      fixed: { retry: { attempts: 1, backoff: { schedule: "late" } } },
      bindings: {
        schedules: {
          late: Schedule.concat(
            Schedule.spaced("1 second").pipe(Schedule.upTo({ times: 1 })),
            Schedule.jittered(Schedule.spaced(500))
          )
        }
      }
    },
    {
      spec: { circuitBreaker: { jitter: 0 }, timeout: "1 s" },
      finding: "warning L4 circuitBreaker.jitter: no jitter: all clients whose circuits opened together probe together",
      fixed: { circuitBreaker: { jitter: 0.1 }, timeout: "1 s" }
    }
  ],
  "L5, a retry that may loop inside another": [
    {
      spec: { retry: { attempts: 4, allowNested: "for old times' sake" } },
      finding: "warning L5 retry.allowNested: inside a retry of as many, 4 × 4 = 16 sends for one call",
      fixed: { retry: { attempts: 4 } }
    }
  ],
  "L7, a breaker that cannot see a hung attempt": [
    {
      spec: { circuitBreaker: {} },
      finding:
        "warning L7 timeout: the circuit breaker sees an attempt when it ends, and without a timeout a hung one " +
        "never does",
      fixed: { circuitBreaker: {}, timeout: "1 s" }
    },
    {
      spec: { circuitBreaker: {}, timeout: false },
      finding:
        "warning L7 timeout: the circuit breaker sees an attempt when it ends, and without a timeout a hung one " +
        "never does",
      fixed: { circuitBreaker: false, timeout: false }
    }
  ],
  "L8, a hedge that must not be sent, or cannot be": [
    {
      spec: { timeout: "1 s", hedge: {} },
      finding: "error L8 hedge: a hedge sends a call twice, and this spec does not say that its calls are idempotent",
      fixed: { timeout: "1 s", hedge: {}, idempotent: "key" }
    },
    {
      spec: { timeout: "1 s", hedge: {}, idempotent: false },
      finding: "error L8 hedge: a hedge sends a call twice, and this spec does not say that its calls are idempotent",
      fixed: { timeout: "1 s", hedge: {}, idempotent: true }
    },
    {
      spec: { ...hedged, hedge: { delay: "1 s" } },
      finding: "error L8 hedge.delay: a hedge after 1 s, but its attempt ends after 1 s: no hedge can start",
      fixed: { ...hedged, hedge: { delay: "999 ms" } }
    },
    {
      spec: { ...hedged, hedge: { minimum: "1 s" } },
      finding: "error L8 hedge.minimum: a hedge after 1 s, but its attempt ends after 1 s: no hedge can start",
      fixed: { ...hedged, hedge: { minimum: "999 ms" } }
    },
    {
      spec: { idempotent: true, deadline: "1 s", hedge: { delay: "2 s" } },
      finding: "error L8 hedge.delay: a hedge after 2 s, but its call ends after 1 s: no hedge can start",
      fixed: { idempotent: true, deadline: "2.1 s", hedge: { delay: "2 s" } }
    },
    {
      spec: { ...hedged, retry: { attempts: 1 }, hedge: {} },
      finding: "error L8 hedge: hedges are sends too, and attempts: 1 leaves none for them",
      fixed: { ...hedged, retry: { attempts: 2 }, hedge: {} }
    },
    {
      spec: { ...hedged, hedge: { delay: "20 ms" }, traffic: { p50: "30 ms" } },
      finding: "warning L8 hedge.delay: 20 ms is less than the median of 30 ms: more than half of all calls are sent " +
        "twice, as far as the budget allows",
      fixed: { ...hedged, hedge: { delay: "30 ms" }, traffic: { p50: "30 ms" } }
    }
  ],
  "L9, a window that never holds enough calls": [
    {
      spec: { timeout: "1 s", circuitBreaker: probes, traffic: { callsPerSecond: 2 } },
      finding:
        "error L9 circuitBreaker.minimumCalls: 100 calls in 10 s need 10 calls/s; declared are 2: the circuit can " +
        "never open",
      fixed: { timeout: "1 s", circuitBreaker: probes, traffic: { callsPerSecond: 10 } }
    },
    {
      spec: { timeout: "1 s", circuitBreaker: probes, traffic: { callsPerSecond: 10, endpoints: 5 } },
      finding:
        "error L9 circuitBreaker.minimumCalls: 100 calls in 10 s need 10 calls/s at each of 5 endpoints; declared " +
        "are 2: the circuit can never open",
      fixed: {
        timeout: "1 s",
        circuitBreaker: { ...probes, consecutiveFailures: 10 },
        traffic: { callsPerSecond: 10, endpoints: 5 }
      }
    },
    {
      spec: {
        timeout: "1 s",
        circuitBreaker: { slowCallRatio: 0.5, slowThreshold: 500, window: { calls: 50, maxAge: "5 s" } },
        traffic: { callsPerSecond: 4 }
      },
      finding:
        "error L9 circuitBreaker.minimumCalls: 0.5 × 50 = 25 calls in 5 s need 5 calls/s; declared are 4: the circuit " +
        "can never open",
      fixed: {
        timeout: "1 s",
        circuitBreaker: { slowCallRatio: 0.5, slowThreshold: 500, window: { calls: 50 } },
        traffic: { callsPerSecond: 4 }
      }
    },
    {
      // Successes do not age: those before 25 failures in 5 s are in the window with them.
      spec: {
        timeout: "1 s",
        circuitBreaker: { failureRatio: 0.5, window: { calls: 50, maxAge: "5 s" } },
        traffic: { callsPerSecond: 4 }
      },
      finding:
        "error L9 circuitBreaker.minimumCalls: 0.5 × 50 = 25 calls in 5 s need 5 calls/s; declared are 4: the circuit " +
        "can never open",
      fixed: {
        timeout: "1 s",
        circuitBreaker: { failureRatio: 0.5, window: { calls: 50, maxAge: "5 s" } },
        traffic: { callsPerSecond: 5 }
      }
    },
    {
      // The default window, the last 100 calls and no failure older than a minute.
      spec: { timeout: "1 s", circuitBreaker: { failureRatio: 0.5 }, traffic: { callsPerSecond: 0.1 } },
      finding:
        "error L9 circuitBreaker.minimumCalls: 0.5 × 20 = 10 calls in 60 s need 0.17 calls/s; declared are 0.1: the " +
        "circuit can never open",
      fixed: { timeout: "1 s", circuitBreaker: {}, traffic: { callsPerSecond: 0.1 } }
    },
    {
      spec: { timeout: "1 s", circuitBreaker: { slowCallRatio: 0.5, slowThreshold: "1 s" } },
      finding: "error L9 circuitBreaker.slowThreshold: a call is slow after 1 s, but its attempt ends after 1 s: the " +
        "circuit can never open",
      fixed: { timeout: "1.1 s", circuitBreaker: { slowCallRatio: 0.5, slowThreshold: "1 s" } }
    },
    {
      spec: { timeout: "1 s", circuitBreaker: { slowCallRatio: 0.5, slowThreshold: "1 s", failureRatio: 0.5 } },
      finding: "warning L9 circuitBreaker.slowThreshold: a call is slow after 1 s, but its attempt ends after 1 s: " +
        "none ever is",
      fixed: { timeout: "1 s", circuitBreaker: { slowCallRatio: 0.5, slowThreshold: "999 ms", failureRatio: 0.5 } }
    }
  ],
  "L10, a bulkhead too small by Little's law": [
    {
      spec: { bulkhead: { limit: 10 }, traffic: { callsPerSecond: 20, p99: "2 s" } },
      finding: "warning L10 bulkhead.limit: 20 calls/s × p99 2 s = 40 in flight > limit 10 (Little's law)",
      fixed: { bulkhead: { limit: 10 }, traffic: { callsPerSecond: 20, p99: "2 s", endpoints: 4 } }
    }
  ],
  "L11, a limit that cannot be waited for": [
    {
      spec: { deadline: "2 s", bulkhead: { limit: 5, maxQueue: 5, maxWait: "3 s" } },
      finding: "warning L11 bulkhead.maxWait: a wait of up to 3 s inside a deadline of 2 s: the deadline is the limit",
      fixed: { deadline: "2 s", bulkhead: { limit: 5, maxQueue: 5, maxWait: "2 s" } }
    },
    {
      spec: { rateLimiter: { limit: 5, window: "100 ms" }, traffic: { callsPerSecond: 80 } },
      finding: "warning L11 rateLimiter.limit: 50 attempts/s for 80 calls/s: at least 37.5 % are rejected",
      fixed: { rateLimiter: { limit: 80 }, traffic: { callsPerSecond: 80 } }
    }
  ],
  "L13, probes that cannot be made": [
    {
      spec: { timeout: "1 s", circuitBreaker: { halfOpen: { probes: 8 } }, bulkhead: { limit: 4, maxQueue: 3 } },
      finding:
        "warning L13 circuitBreaker.halfOpen: 8 probes at once, but the bulkhead inside admits 4 and queues 3: " +
        "the others are rejected",
      fixed: {
        timeout: "1 s",
        circuitBreaker: { halfOpen: { probes: 8, concurrency: 7 } },
        bulkhead: { limit: 4, maxQueue: 3 }
      }
    },
    {
      spec: { timeout: "15 s", circuitBreaker: {} },
      finding:
        "warning L13 circuitBreaker.halfOpen.lease: a probe counts as failed after 10 s, but its attempt may take " +
        "15 s",
      fixed: { timeout: "15 s", circuitBreaker: { halfOpen: { lease: "15 s" } } }
    },
    {
      // The default lease is twice what is slow, where that is longer.
      spec: { timeout: "20 s", circuitBreaker: { slowCallRatio: 0.5, slowThreshold: "9 s" } },
      finding: "warning L13 circuitBreaker.halfOpen.lease: a probe counts as failed after 18 s, but its attempt may " +
        "take 20 s",
      fixed: { timeout: "20 s", circuitBreaker: { slowCallRatio: 0.5, slowThreshold: "10 s" } }
    },
    {
      spec: { timeout: "9 s", circuitBreaker: { halfOpen: { maxWait: "8 s" } } },
      finding: "warning L13 circuitBreaker.halfOpen.maxWait: what has not ended counts as failed after 8 s, but an " +
        "attempt may take 9 s",
      fixed: { timeout: "8 s", circuitBreaker: { halfOpen: { maxWait: "8 s" } } }
    }
  ],
  "L14, more load in an outage than a fleet can stand": [
    {
      spec: { retry: { attempts: 3, budget: false } },
      finding:
        "warning L14 retry.budget: no budget: when everything fails, load grows to 3 times the calls (Google SRE " +
        "holds it at 1.1)",
      fixed: { retry: { attempts: 3 } }
    },
    {
      spec: { retry: { budget: false }, traffic: { hops: 3 } },
      finding:
        "warning L14 retry.budget: no budget: when everything fails, load grows to 3^3 hops = 27 times the calls " +
        "(Google SRE holds it at 1.1)",
      fixed: { retry: { attempts: 1, budget: false }, traffic: { hops: 3 } }
    },
    {
      spec: { retry: { budget: { ratio: 0.5 } } },
      finding: "warning L14 retry.budget: the budget allows 1 + 0.5 + 0.05 = 1.55 times the calls when much fails",
      fixed: { retry: { budget: { ratio: 0.45 } } }
    },
    {
      spec: { retry: {}, traffic: { hops: 3 } },
      finding: "warning L14 retry.budget: the budget allows 1 + 0.1 + 0.05 = 1.15^3 hops = 1.52 times the calls when " +
        "much fails",
      fixed: { retry: {}, traffic: { hops: 2 } }
    }
  ],
  "what a constructor refuses": [
    {
      spec: { timeout: "1 s", circuitBreaker: { window: { calls: 10 }, minimumCalls: 20 } },
      finding:
        "error make circuitBreaker.minimumCalls: CircuitBreaker.make: minimumCalls must be an integer in [1, 10], " +
        "got 20",
      fixed: { timeout: "1 s", circuitBreaker: { window: { calls: 20 }, minimumCalls: 20 } }
    }
  ],
  "L16, a fallback and the time it has": [
    {
      spec: { fallback: { value: 1, when: [] } },
      finding: "error L16 fallback.when: for none of all errors: it can never answer",
      fixed: { fallback: { value: 1 } }
    },
    {
      spec: { timeout: "1 s", fallback: { value: 1, when: ["CircuitOpen", "LimitReached", "NotFound"] } },
      finding: "warning L16 fallback.when: no rateLimiter or adaptiveLimiter here ends a call with LimitReached",
      fixed: {
        timeout: "1 s",
        circuitBreaker: {},
        adaptiveLimiter: {},
        fallback: { value: 1, when: ["CircuitOpen", "LimitReached", "NotFound"] }
      }
    },
    {
      spec: { circuitBreaker: false, fallback: { value: 1, when: ["CircuitOpen"] } },
      finding: "warning L16 fallback.when: no circuitBreaker here ends a call with CircuitOpen",
      fixed: { timeout: "1 s", circuitBreaker: {}, fallback: { value: 1, when: ["CircuitOpen"] } }
    },
    {
      spec: { idempotent: true, timeout: "1 s", retry: {}, fallback: { value: 1, when: ["AttemptTimeout", "Remote"] } },
      finding:
        "warning L16 fallback.when: after 3 attempts that ended with AttemptTimeout, Remote the call ends with " +
        "RetriesExhausted, which carries it and is not listed",
      fixed: {
        idempotent: true,
        timeout: "1 s",
        retry: {},
        fallback: { value: 1, when: ["AttemptTimeout", "Remote", "RetriesExhausted"] }
      }
    },
    {
      // What is sent once keeps its own error.
      spec: { idempotent: "key", timeout: "1 s", retry: { attempts: 2 }, fallback: { value: 1, when: ["Overloaded"] } },
      finding: "warning L16 fallback.when: after 2 attempts that ended with Overloaded the call ends with " +
        "RetriesExhausted, which carries it and is not listed",
      fixed: { idempotent: false, timeout: "1 s", retry: { attempts: 2 }, fallback: { value: 1, when: ["Overloaded"] } }
    },
    {
      spec: { deadline: "4 s", timeout: "1 s", fallback: { use: "archive", reserve: "3 s" } },
      finding: "warning L16 fallback.reserve: 3 s of a deadline of 4 s: at most half of it, 2 s, is kept",
      fixed: { deadline: "4 s", timeout: "1 s", fallback: { use: "archive", reserve: "2 s" } }
    },
    {
      spec: { deadline: "2 s", timeout: "1.7 s", fallback: { use: "archive" } },
      finding: "warning L16 timeout: deadline 2 s - 400 ms kept for the fallback = 1.6 s < timeout 1.7 s: " +
        "the timeout can never fire, and the circuit breaker never sees one",
      fixed: { deadline: "2 s", timeout: "1.6 s", fallback: { use: "archive" } }
    },
    {
      spec: { deadline: "10 s", timeout: "9.5 s", fallback: { use: "archive" } },
      finding: "warning L16 timeout: deadline 10 s - 1 s kept for the fallback = 9 s < timeout 9.5 s: " +
        "the timeout can never fire, and the circuit breaker never sees one",
      fixed: { deadline: "10 s", timeout: "9.5 s", fallback: { value: 1 } }
    },
    {
      spec: { deadline: "2 s", timeout: "1995 ms", fallback: { value: 1 } },
      finding: "warning L16 timeout: deadline 2 s - 10 ms kept for the fallback = 1.99 s < timeout 2 s: " +
        "the timeout can never fire, and the circuit breaker never sees one",
      fixed: { deadline: "2 s", timeout: "1995 ms", fallback: { value: 1, when: ["AttemptTimeout"] } }
    },
    {
      spec: { deadline: "2 s", timeout: "2 s", fallback: { use: "archive", reserve: 0 } },
      finding: "warning L16 fallback.reserve: \"archive\" is a call, and of the deadline of 2 s nothing is kept for " +
        "it: what comes before it may take 2 s",
      fixed: { deadline: "2 s", timeout: "1 s", fallback: { use: "archive", reserve: 0 } }
    },
    {
      spec: {
        idempotent: true,
        deadline: "4.5 s",
        timeout: "2 s",
        retry: { attempts: 2, backoff: constant },
        fallback: { use: "archive", when: ["RetriesExhausted"] }
      },
      finding: "warning L16 fallback.when: \"archive\" is a call, and of the deadline of 4.5 s nothing is kept for " +
        "it: what comes before it may take 4.5 s",
      fixed: {
        idempotent: true,
        deadline: "4.5 s",
        timeout: "1.9 s",
        retry: { attempts: 2, backoff: constant },
        fallback: { use: "archive", when: ["RetriesExhausted"] }
      }
    },
    {
      spec: { deadline: "2 s", bulkhead: { limit: 1 }, fallback: { use: "archive", when: ["BulkheadFull"] } },
      finding: "warning L16 fallback.when: \"archive\" is a call, and of the deadline of 2 s nothing is kept for it: " +
        "an attempt has no timeout",
      fixed: {
        deadline: "2 s",
        bulkhead: { limit: 1 },
        fallback: { use: "archive", when: ["BulkheadFull", "DeadlineExceeded"] }
      }
    }
  ],
  "L17, a cache": [
    {
      spec: { idempotent: false, cache: { ttl: "1 s" } },
      finding: "error L17 cache: a call that must not be sent twice is not sent at all where another's answer is kept",
      fixed: { cache: { ttl: "1 s" } }
    },
    {
      spec: { cache: { ttl: "1 minute", jitter: 0 } },
      finding: "warning L4 cache.jitter: no jitter: answers that were fetched together expire together, after 60 s",
      fixed: { cache: { ttl: 0, jitter: 0 } }
    },
    {
      spec: { cache: { ttl: "1 s", staleWhileRevalidate: "20 s", staleIfError: "20 s" } },
      finding:
        "warning L17 cache.staleIfError: both begin when the ttl is over, and for 20 s a stale answer is served " +
        "anyway: 20 s add nothing",
      fixed: { cache: { ttl: "1 s", staleWhileRevalidate: "20 s", staleIfError: "21 s" } }
    },
    {
      spec: { traffic: { p99: "250ms" }, cache: { ttl: "1 s", staleWhileRevalidate: "200ms" } },
      finding:
        "warning L17 cache.staleWhileRevalidate: fetching takes up to 250 ms (p99), and what is stale is served " +
        "for 200 ms: callers wait",
      fixed: { traffic: { p99: "250ms" }, cache: { ttl: "1 s", staleWhileRevalidate: "250ms" } }
    },
    {
      spec: {
        idempotent: true,
        timeout: "4 s",
        retry: { attempts: 3, backoff: constant },
        cache: { ttl: "1 s", staleWhileRevalidate: "1 minute" }
      },
      finding: "warning L17 cache.refreshTimeout: fetching behind a stale answer ends after 10 s, and attempts and " +
        "backoff may take 13 s",
      fixed: {
        idempotent: true,
        timeout: "4 s",
        retry: { attempts: 3, backoff: constant },
        cache: { ttl: "1 s", staleWhileRevalidate: "1 minute", refreshTimeout: "13 s" }
      }
    },
    {
      spec: { cache: { ttl: "4 s", negative: { when: "missing" } } },
      finding: "warning L17 cache.negative.ttl: an error is kept for 5 s, an answer for 4 s",
      fixed: { cache: { ttl: "4 s", negative: { when: "missing", ttl: "4 s" } } }
    },
    {
      spec: { cache: { ttl: "10 s", staleIfError: "10 minutes" }, fallback: { stale: { maxAge: "1 h" } } },
      finding: "warning L17 fallback.stale: what the cache serves counts as a good answer: it may be 10 s + 10 min + " +
        "60 min = 70.17 min old; cache.staleIfError says so without a second memory",
      fixed: { cache: { ttl: "10 s" }, fallback: { stale: { maxAge: "1 h" } } }
    }
  ]
}

describe("Lint", () => {
  for (const [rule, cases] of Object.entries(examples)) {
    describe(`rule ${rule}`, () => {
      for (const { bindings, finding, fixed, spec } of cases) {
        it.effect(finding, () =>
          Effect.gen(function*() {
            assert.include(yield* linted(spec, bindings), finding)
            const [, id] = finding.split(" ")
            assert.deepStrictEqual((yield* linted(fixed, bindings)).filter((line) => line.split(" ")[1] === id), [])
          }))
      }
    })
  }

  it.effect("finds nothing in an empty spec, and nothing in the default of each slot", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* linted({}), [])
      assert.deepStrictEqual(
        yield* linted({
          idempotent: true,
          deadline: "10 s",
          traffic: { callsPerSecond: 100, p50: "20 ms", p99: "100 ms" },
          retry: {},
          hedge: {},
          rateLimiter: { limit: 1000 },
          adaptiveThrottle: {},
          circuitBreaker: {},
          bulkhead: { limit: 100 },
          adaptiveLimiter: {},
          timeout: "2 s"
        }),
        []
      )
    }))

  it.effect("says everything at once, errors first", () =>
    Effect.gen(function*() {
      const found = yield* PolicySpec.lint({
        deadline: "1 s",
        timeout: "2 s",
        circuitBreaker: { jitter: 0 },
        hedge: {}
      })
      assert.deepStrictEqual(found.map(({ rule, severity }) => `${severity} ${rule}`), [
        "error L1",
        "error L8",
        "warning L4"
      ])
    }))

  it.effect("says of each slot what its constructor refuses, and warns of the rest", () =>
    Effect.gen(function*() {
      const found = yield* PolicySpec.lint({
        timeout: "1 s",
        circuitBreaker: { slowCallRatio: 0.5, jitter: 0 },
        adaptiveLimiter: { min: 10, max: 5 },
        rateLimiter: { limit: 5, burst: 2 },
        retry: { backoff: { kind: "exponential", base: "1 s", factor: 0.5 } }
      })
      assert.deepStrictEqual(found.map(({ path, rule }) => `${rule} ${path}`), [
        "make backoff.factor",
        "L4 circuitBreaker.jitter"
      ])
      const others = yield* PolicySpec.lint({
        timeout: "1 s",
        circuitBreaker: { slowCallRatio: 0.5 },
        adaptiveLimiter: { min: 10, max: 5 },
        rateLimiter: { limit: 5, burst: 2 }
      })
      assert.deepStrictEqual(others.map(({ path, rule }) => `${rule} ${path}`), [
        "make rateLimiter.burst",
        "make circuitBreaker.slowThreshold",
        "make adaptiveLimiter.max"
      ])
    }))

  it.effect("calculates with any number of attempts, and calls of any window are refused by name", () =>
    Effect.gen(function*() {
      const spec = (attempts: number, deadline: string) => ({
        idempotent: true,
        deadline,
        timeout: "1 s",
        retry: { attempts, backoff: { kind: "constant", base: "1 s" } }
      } as const)
      const endless = Number.MAX_SAFE_INTEGER
      assert.include((yield* linted(spec(endless, "5000 s"))).join("\n"), `attempts 2501 to ${endless} can never run`)
      assert.include(
        (yield* linted(spec(3000, "5000 s"))).join("\n"),
        "3000 attempts × 1 s + 49.98 min backoff = 99.98 min"
      )
      assert.include((yield* linted(spec(1001, "2001 s"))).join("\n"), "1001 attempts: at a failure ratio")
      assert.notInclude((yield* linted(spec(1001, "2001 s"))).join("\n"), "L1")
      assert.include((yield* linted(spec(1002, "2001 s"))).join("\n"), "attempt 1002 can never run")
      const windows = [{ calls: 1e15 }, { duration: "1 s", buckets: 1e15 }]
      for (const window of windows) {
        const [line] = yield* linted({ timeout: "1 s", circuitBreaker: { failureRatio: 0.5, window } })
        assert.match(
          line!,
          /^error make circuitBreaker.window.(calls|buckets): .* must be an integer in \[1, 10*\], got 1000000000000000$/
        )
      }
    }))

  it.effect("steps a Schedule with its lowest and its highest draws until it ends, and knows none that dies", () =>
    Effect.gen(function*() {
      const steps = yield* Lint.step(Backoff.exponential({ base: 100, jitter: "full", recurs: 3 }))
      assert.deepStrictEqual([steps!.least, steps!.most.map(Math.round)], [[0, 0, 0], [100, 200, 400]])
      assert.lengthOf((yield* Lint.step(Schedule.forever))!.most, 32)
      const dies = Schedule.modifyDelay(Schedule.forever, () => Effect.die("unknown error"))
      assert.isUndefined(yield* Lint.step(dies))
    }))
})
