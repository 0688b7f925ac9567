/** Prints a simulation: what two processes are compared by. */
import * as Effect from "effect/Effect"
import * as Scenarios from "../../src/testing/Scenarios.ts"
import * as Simulator from "../../src/testing/Simulator.ts"

const result = await Effect.runPromise(Simulator.run({
  ...Scenarios.deploy({ rate: 40, servers: 2, clients: 2, start: 5 }),
  policy: { ...Simulator.defaultPolicy, hedge: {} },
  seed: "two processes"
}))
console.log(JSON.stringify(result))
