import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Yaml from "effect/encoding/Yaml"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { collapse } from "../../examples/collapse/collapse.ts"
import * as Simulator from "../../src/testing/Simulator.ts"

describe("the example", () => {
  it.effect("a documented default collapses in a ramp and stays down, ours does not; the pictures are these", () =>
    Effect.gen(function*() {
      const results = yield* collapse
      const [theirs, ours] = results.map(({ totals }) => totals)
      assert.strictEqual(theirs!.successBefore, 1)
      assert.strictEqual(theirs!.successAfter, 0)
      assert.strictEqual(theirs!.recoveryMillis, null)
      assert.isAbove(theirs!.amplification, 2.4)
      assert.isAbove(theirs!.wasted, 0.95)
      assert.strictEqual(ours!.successAfter, 1)
      assert.isBelow(ours!.recoveryMillis!, 5000)
      assert.isBelow(ours!.amplification, 1)
      assert.isBelow(ours!.wasted, 0.1)
      for (const which of ["load", "attempts"] as const) {
        const file = Path.join(import.meta.dirname, `../../docs/simulation/ramp-${which}.svg`)
        assert.strictEqual(
          Simulator.chart(results, which),
          Fs.readFileSync(file, "utf8"),
          "node examples/collapse/collapse.ts --pictures"
        )
      }
    }).pipe(Effect.provide(NodeServices.layer)))

  it.effect("the page's own situation runs, every tier of it", () =>
    Effect.gen(function*() {
      const page = Fs.readFileSync(Path.join(import.meta.dirname, "../../docs/simulation.md"), "utf8")
      const text = /```yaml\n(clients:[\s\S]*?)```/.exec(page)![1]!
      const situation = { ...Simulator.situation(Yaml.parse(text)), horizon: "3 s" }
      const { tiers, totals } = yield* Simulator.run({ ...situation, policy: Simulator.defaultPolicy })
      assert.strictEqual(tiers.length, 2)
      assert.isAbove(totals.calls, 300)
    }))
})
