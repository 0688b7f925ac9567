/** A transport with faults that hit nobody, or hurt nobody, is a transport like any other. */
import { Layer } from "effect"
import * as Chaos from "../../src/testing/Chaos.ts"
import type * as FaultScript from "../../src/testing/FaultScript.ts"
import * as InMemory from "../../src/transport/InMemory.ts"
import { suite } from "../conformance/transport.ts"

const harmless: FaultScript.FaultScript = {
  horizon: "1 day",
  phases: [
    { name: "no delay", fault: { kind: "latency", delay: 0, direction: "both" } },
    { name: "nobody", fault: { kind: "reset" }, radius: { endpoints: ["memory://nobody"] } },
    { name: "never", fault: { kind: "blackHole", direction: "both" }, toxicity: 0 }
  ]
}

suite({
  name: "Chaos around InMemory",
  layer: Layer.orDie(Layer.provide(Chaos.layer(harmless, { side: "both" }), InMemory.layer)),
  listen: "memory://server",
  nowhere: "memory://nobody",
  pending: (session) => session.inFlight
})
