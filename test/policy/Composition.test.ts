/** What happens when policies are put around each other by hand, where the compiler cannot see it. */
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Backoff from "../../src/policy/Backoff.ts"
import * as Hedge from "../../src/policy/Hedge.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as PolicySpec from "../../src/policy/PolicySpec.ts"
import * as Retry from "../../src/policy/Retry.ts"
import * as Timeout from "../../src/policy/Timeout.ts"

const retry = (name: string, attempts: number) =>
  Retry.make({ name, attempts, backoff: Backoff.constant({ base: 10, jitter: "none" }) })

/** How often a call that fails is sent behind a policy, and what was warned of. */
const sendsOf = (policy: (self: Effect.Effect<never, string>) => Effect.Effect<never, unknown>) =>
  Effect.gen(function*() {
    let sends = 0
    const warnings: Array<string> = []
    const receiver: CallEvent.Receiver = {
      event: (event) => {
        if (event._tag === "Warning") warnings.push(`${event.policy} ${event.why}`)
      }
    }
    const call = Effect.suspend(() => {
      sends++
      return Effect.fail("down")
    })
    const fiber = yield* policy(call).pipe(
      CallContext.annotate({ idempotent: true }),
      Effect.provideService(CallEvent.CurrentReceiver, receiver),
      Effect.exit,
      Effect.forkChild({ startImmediately: true })
    )
    yield* TestClock.adjust("1 minute")
    yield* Fiber.join(fiber)
    return { sends, warnings }
  })

describe("apply over apply", () => {
  it.effect("with two retries is noticed, and is one loop: attempts do not multiply", () =>
    Effect.gen(function*() {
      const [inner, outer] = [yield* retry("inner", 3), yield* retry("outer", 4)]
      const { sends, warnings } = yield* sendsOf((call) => call.pipe(Policy.apply(inner), Policy.apply(outer)))
      assert.strictEqual(sends, 3)
      assert.lengthOf(warnings, 1)
      assert.match(warnings[0]!, /^outer .*has a retry loop inside this one/)
    }))

  it.effect("of two stacks is noticed as well, however deep the retries are", () =>
    Effect.gen(function*() {
      const timeout = yield* Timeout.make({ timeout: "1 second" })
      const inner = Policy.stack({ retry: yield* retry("inner", 2), timeout })
      const outer = yield* PolicySpec.compile({
        name: "outer",
        retry: { attempts: 5, budget: false, backoff: { kind: "constant", base: 10 } },
        timeout: "10 s"
      })
      const { sends, warnings } = yield* sendsOf((call) => call.pipe(Policy.apply(inner), Policy.apply(outer)))
      assert.strictEqual(sends, 2)
      assert.isTrue(warnings.some((warning) => warning.startsWith("outer") && warning.includes("retry loop")))
    }))

  it.effect("multiplies where somebody said why", () =>
    Effect.gen(function*() {
      const inner = yield* Retry.make({
        attempts: 2,
        backoff: Backoff.constant({ base: 10 }),
        allowNested: "the outer one is for another fault"
      })
      const outer = yield* Retry.make({
        attempts: 3,
        backoff: Backoff.constant({ base: 10 }),
        allowNested: "as above",
        classify: () => ({ endpoint: "failure", retry: "safe" })
      })
      const { sends, warnings } = yield* sendsOf((call) => call.pipe(Policy.apply(inner), Policy.apply(outer)))
      assert.deepStrictEqual([sends, warnings], [6, []])
    }))
})

describe("a hedge", () => {
  it.effect("of calls that are declared not to be idempotent cannot be made", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(Hedge.make({ idempotent: false }))
      assert.strictEqual(
        Exit.isFailure(exit) && String(Cause.squash(exit.cause)),
        "RangeError: Hedge.make: idempotent must be true, for a hedge sends twice, got false"
      )
    }))

  it.effect("is refused in a spec that does not say its calls are", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(PolicySpec.compile({ hedge: {}, timeout: "1 s" }))
      assert.include(error.message, "error L8 hedge: a hedge sends a call twice")
    }))
})
