/**
 * A default retry policy keeps a server down that a ramp has brought down, and
 * ours does not: the same server, the same calls, the same dice.
 *
 *   node examples/collapse/collapse.ts            prints the table
 *   node examples/collapse/collapse.ts --pictures writes the pictures of docs/simulation.md
 */
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Yaml from "effect/encoding/Yaml"
import * as FileSystem from "effect/FileSystem"
import type * as PolicySpec from "../../src/policy/PolicySpec.ts"
import * as Scenarios from "../../src/testing/Scenarios.ts"
import * as Simulator from "../../src/testing/Simulator.ts"

const read = Effect.fnUntraced(function*(file: string) {
  const files = yield* FileSystem.FileSystem
  return Yaml.parse(yield* files.readFileString(new URL(file, import.meta.url).pathname))
})

/** The results of both policies: resilience4j's first. */
export const collapse = Effect.gen(function*() {
  const situation = Simulator.situation(yield* read("ramp.yaml"))
  const policies = yield* Effect.forEach(["resilience4j.yaml", "ours.yaml"], read)
  return yield* Effect.forEach(
    policies,
    (policy) => Simulator.run({ ...situation, policy: policy as PolicySpec.PolicySpec })
  )
})

/** The first pictures of the page: a trigger, and three policies after it. */
export const walk = Effect.gen(function*() {
  const situation = Scenarios.metastableCollapse()
  const policies = yield* Effect.forEach(["checkout.yaml", "checkout-budget.yaml", "checkout-breaker.yaml"], read)
  return yield* Effect.forEach(
    policies,
    (policy) => Simulator.run({ ...situation, policy: policy as PolicySpec.PolicySpec })
  )
})

/** Every picture of the page, by its file. */
export const pictures = Effect.gen(function*() {
  const [ramp, trigger] = [yield* collapse, yield* walk]
  return {
    "trigger-load.svg": Simulator.chart(trigger, "load"),
    "trigger-attempts.svg": Simulator.chart(trigger, "attempts"),
    "trigger-circuits.svg": Simulator.chart(trigger, "circuits"),
    "ramp-load.svg": Simulator.chart(ramp, "load"),
    "ramp-attempts.svg": Simulator.chart(ramp, "attempts")
  }
})

if (import.meta.main) {
  const program = process.argv.includes("--pictures")
    ? Effect.gen(function*() {
      const files = yield* FileSystem.FileSystem
      for (const [name, svg] of Object.entries(yield* pictures)) {
        yield* files.writeFileString(new URL(`../../docs/simulation/${name}`, import.meta.url).pathname, svg)
      }
    })
    : Effect.flatMap(collapse, (results) => Console.log(Simulator.table(results)))
  await Effect.runPromise(Effect.provide(program, NodeServices.layer))
}
