/** One pick among endpoints that are all ready, and one call through the balancer. */
import * as Effect from "effect/Effect"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Balancer from "../../src/balancer/Balancer.ts"
import type { Endpoint } from "../../src/balancer/Endpoint.ts"
import * as PowerOfTwo from "../../src/balancer/PowerOfTwo.ts"
import * as Policy from "../../src/policy/Policy.ts"
import type { Connection } from "../../src/transport/Connection.ts"
import { called, inFiber } from "../contenders.ts"
import type { Contender } from "../harness.ts"

const ready = { greeted: true }
const connection = {
  current: ready,
  backoffUntil: 0,
  prepare: () => {},
  drain: Effect.void
} as unknown as Connection

const endpointOf = (address: string): Endpoint => ({
  address,
  connection,
  levels: [{ policy: Policy.stack({}), gate: undefined, wouldAdmit: () => true, timeout: undefined }],
  inFlight: 0,
  close: Effect.void
})

const addressesOf = (count: number): ReadonlyArray<string> =>
  Array.from({ length: count }, (_, i) => `tcp://10.0.${i >> 8}.${i & 255}:7070`)

/** Endpoints under `Policy.stack` of nothing, and an attempt that does nothing: what is left is the balancer. */
export const picks = async (): Promise<ReadonlyArray<Contender>> => {
  const contenders: Array<Contender> = []
  for (const count of [5, 100, 1000]) {
    const endpoints = addressesOf(count).map(endpointOf)
    const busy = endpoints.slice(0, count >> 1)
    const half = called(`pick, ${count}, half tried`, () => PowerOfTwo.pick(endpoints, busy, 0, 1, Math.random))
    contenders.push(...await among(count), half)
  }
  return contenders
}

/** A pick, and an attempt through the balancer, among as many endpoints. */
export const among = async (count: number): Promise<ReadonlyArray<Contender>> => {
  const endpoints = addressesOf(count).map(endpointOf)
  const scope = Scope.makeUnsafe()
  const balancer = await Effect.runPromise(
    Balancer.make({
      target: "bench",
      addresses: Stream.concat(Stream.succeed(addressesOf(count)), Stream.never),
      endpoint: (address) => Effect.succeed(endpointOf(address))
    }).pipe(Scope.provide(scope))
  )
  return [
    called(`pick, ${count} endpoints`, () => PowerOfTwo.pick(endpoints, [], 0, 1, Math.random)),
    inFiber(`Balancer.run, ${count} endpoints`, balancer.run(0, () => Effect.void))
  ]
}
