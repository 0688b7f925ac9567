import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect } from "effect"
import * as PolicySpec from "../../src/policy/PolicySpec.ts"
import * as Profiles from "../../src/policy/Profiles.ts"
import * as Scenario from "../../src/testing/Scenario.ts"

/** `10-500 ok 2`: when it was made and ended, what became of it, and how often it was sent. */
const lines = (result: Scenario.Result) =>
  result.calls.map(({ at, endedAt, result, sends }) => `${at}-${Math.round(endedAt)} ${result} ${sends.length}`)

/** Enough that works for the budget to have a token and for a hedge to know its delay. */
const warm: ReadonlyArray<Scenario.Step> = Array.from(
  { length: 40 },
  (_, n) => ({ at: n * 50, call: { does: "succeed", after: 20 } })
)

const after = (spec: PolicySpec.PolicySpec, ...steps: ReadonlyArray<Scenario.Step>) =>
  Effect.map(Scenario.run(spec, [...warm, ...steps]), (result) => {
    assert.isTrue(result.calls.slice(0, warm.length).every((call) => call.result === "ok"))
    return { ...result, calls: result.calls.slice(warm.length) }
  })

describe("Profiles", () => {
  for (const [name, profile] of Object.entries(Profiles)) {
    it.effect(`${name} bears its own name, has nothing the linter would mention, and compiles`, () =>
      Effect.gen(function*() {
        assert.strictEqual(profile.name, name)
        assert.deepStrictEqual(yield* PolicySpec.lint(profile), [])
        assert.strictEqual((yield* PolicySpec.compile(profile)).name, name)
      }))

    it.effect(`${name} answers by its deadline when everything hangs, and leaves no timer`, () =>
      Effect.gen(function*() {
        const millis = Duration.toMillis(profile.deadline)
        const result = yield* after(profile, { at: 5000, call: "hang", times: 3 })
        for (const call of result.calls) assert.isAtMost(call.endedAt - call.at, millis)
        assert.strictEqual(result.timers, 0)
      }))
  }

  it.effect("idempotentRead hedges what is slow, and retries what failed", () =>
    Effect.gen(function*() {
      const result = yield* after(
        Profiles.idempotentRead,
        // While what the warm calls earned may be spent.
        { at: 2100, call: ["hang", { does: "succeed", after: 10 }] },
        { at: 2500, call: ["fail", "succeed"] }
      )
      const [slow, failed] = result.calls
      assert.deepStrictEqual([slow!.result, slow!.sends.length], ["ok", 2])
      assert.isBelow(slow!.endedAt, 2150)
      assert.deepStrictEqual([failed!.result, failed!.sends.length], ["ok", 2])
    }))

  it.effect("nonIdempotentWrite repeats only what never arrived", () =>
    Effect.gen(function*() {
      const result = yield* after(
        Profiles.nonIdempotentWrite,
        { at: 5000, call: ["fail", "succeed"] },
        { at: 6000, call: [{ does: "fail", sent: "no" }, "succeed"] },
        { at: 7000, call: "hang" }
      )
      assert.deepStrictEqual(result.calls.map(({ result, sends }) => `${result} ${sends.length}`), [
        "failed 1",
        "ok 2",
        "AttemptTimeout 1"
      ])
      assert.strictEqual(result.calls[2]!.endedAt, 15_000)
    }))

  it.effect("keyedWrite repeats a call that has a key, and not one that has none", () =>
    Effect.gen(function*() {
      const result = yield* after(
        Profiles.keyedWrite,
        { at: 5000, call: ["fail", "succeed"], context: { idempotencyKey: "order-7" } },
        { at: 6000, call: ["fail", "succeed"] }
      )
      assert.deepStrictEqual(result.calls.map(({ result, sends }) => `${result} ${sends.length}`), ["ok 2", "failed 1"])
    }))

  it.effect("batch lets ten run and the others wait", () =>
    Effect.gen(function*() {
      const result = yield* after(Profiles.batch, { at: 5000, call: { does: "succeed", after: "1 s" }, times: 25 })
      assert.deepStrictEqual(
        lines(result).toSorted(),
        [
          ...Array.from({ length: 10 }, () => "5000-6000 ok 1"),
          ...Array.from({ length: 10 }, () => "5000-7000 ok 1"),
          ...Array.from({ length: 5 }, () => "5000-8000 ok 1")
        ]
      )
    }))

  it.effect("queueConsumer gives a message back before another consumer has it", () =>
    Effect.gen(function*() {
      const result = yield* after(
        Profiles.queueConsumer,
        { at: 5000, call: "hang", context: { idempotencyKey: "message-1" } },
        { at: 5001, call: { does: "succeed", after: 100 }, times: 20 }
      )
      const [hung, ...others] = result.calls
      assert.deepStrictEqual([hung!.result, hung!.sends.length], ["RetriesExhausted", 2])
      assert.isBelow(hung!.endedAt - hung!.at, 25_000)
      assert.deepStrictEqual(others.map((call) => call.result).filter((result) => result !== "ok"), ["BulkheadFull"])
    }))

  it.effect("interactive answers or refuses within a second", () =>
    Effect.gen(function*() {
      const result = yield* after(
        Profiles.interactive,
        { at: 5000, call: ["hang", { does: "succeed", after: 10 }] },
        { at: 6000, call: "fail", times: 200 }
      )
      assert.strictEqual(result.calls[0]!.result, "ok")
      assert.isTrue(result.calls.every((call) => call.endedAt - call.at <= 1000))
      assert.include(result.calls.slice(1).map((call) => call.result), "CircuitOpen")
    }))
})
