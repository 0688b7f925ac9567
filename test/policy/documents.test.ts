/** What docs/policies.md says, checked: its specs compile and lint, its tables name what there is. */
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Schedule } from "effect"
import * as Yaml from "effect/encoding/Yaml"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Policy from "../../src/policy/Policy.ts"
import * as PolicySpec from "../../src/policy/PolicySpec.ts"
import * as Profiles from "../../src/policy/Profiles.ts"
import * as Scenario from "../../src/testing/Scenario.ts"

const root = Path.resolve(import.meta.dirname, "../..")
const page = Fs.readFileSync(Path.join(root, "docs/policies.md"), "utf8")
const lint = Fs.readFileSync(Path.join(root, "src/policy/Lint.ts"), "utf8")
const specs = [...page.matchAll(/<!-- spec -->\n```yaml\n([\s\S]*?)```/g)].map((match) => match[1]!)

const bindings: PolicySpec.Bindings = {
  schedules: { businessHours: Schedule.jittered(Schedule.spaced("200 millis")) },
  predicates: { isIncomplete: () => false },
  classifiers: { ofVendor: () => undefined },
  keys: { shard: () => undefined }
}

describe("docs/policies.md", () => {
  it("marks every YAML block as a spec", () => {
    assert.lengthOf(page.match(/^```yaml/gm)!, specs.length)
    assert.isAbove(specs.length, 8)
  })

  for (const [n, text] of specs.entries()) {
    it.effect(`its spec ${n + 1} compiles, and the linter finds nothing in it`, () =>
      Effect.gen(function*() {
        const document = Yaml.parse(text) as PolicySpec.PolicySpec
        assert.deepStrictEqual(yield* PolicySpec.lint(document, bindings), [])
        yield* PolicySpec.compile(document, bindings)
      }))
  }

  it.effect("its script runs, and its finding is what the linter says", () =>
    Effect.gen(function*() {
      const script = JSON.parse(/```json\n([\s\S]*?)```/.exec(page)![1]!)
      const spec = { idempotent: true, retry: { budget: false }, circuitBreaker: {}, timeout: "1 s" } as const
      const { calls } = yield* Scenario.run(spec, script)
      assert.deepStrictEqual(calls.map((call) => call.result), ["RetriesExhausted", "RetriesExhausted", "ok", "ok"])
      const [finding] = yield* PolicySpec.lint({
        deadline: "5 s",
        timeout: "2 s",
        retry: { attempts: 4, backoff: { kind: "exponential", base: "500 ms" } }
      })
      assert.include(page, `${finding!.severity}  ${finding!.rule}    ${finding!.path}: ${finding!.message}`)
    }))

  it("has a row for every rule of the linter, and none beside", () => {
    const rules = new Set([...lint.matchAll(/"(L\d+)"/g)].map((match) => match[1]!))
    const rows = [...page.matchAll(/^\| (L\d+) \|/gm)].map((match) => match[1]!)
    assert.deepStrictEqual(rows, [...rules].toSorted((a, b) => Number(a.slice(1)) - Number(b.slice(1))))
  })

  it("has every slot of a stack in its order", () => {
    const rows = [...page.matchAll(/^\| ((?:`\w+`(?:, )?)+) \| [a-z]/gm)].flatMap((match) => match[1]!.split(", "))
    assert.deepStrictEqual(rows.map((slot) => slot.slice(1, -1)).slice(0, Policy.order.length), [...Policy.order])
  })

  it("has the numbers of every profile", () => {
    const rows = [...page.matchAll(/^\| `(\w+)` \| (\d)[^|]* \| ([^|]+) \| ([^|]+) \|/gm)]
    const millis = (text: string) => {
      const [, amount, unit] = /^([\d.]+) (\w+)$/.exec(text.trim())!
      return Number(amount) * { ms: 1, s: 1000, min: 60_000 }[unit as "ms" | "s" | "min"]
    }
    assert.deepStrictEqual(
      rows.map(([, name, sends, timeout, deadline]) => [name, Number(sends), millis(timeout!), millis(deadline!)]),
      Object.entries(Profiles).map(([name, profile]) => [
        name,
        profile.retry.attempts,
        Duration.toMillis(profile.timeout),
        Duration.toMillis(profile.deadline)
      ]).toSorted((a, b) => rows.findIndex((row) => row[1] === a[0]) - rows.findIndex((row) => row[1] === b[0]))
    )
  })
})
