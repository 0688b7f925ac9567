import { assert, describe, it } from "@effect/vitest"
import { Random, Schema } from "effect"
import { Effect } from "effect"
import { type Endpoint, Rank } from "../../src/balancer/Endpoint.ts"
import * as EndpointModule from "../../src/balancer/Endpoint.ts"
import * as PowerOfTwo from "../../src/balancer/PowerOfTwo.ts"

type State = "ready" | "silent" | "cold" | "backing off" | "rejecting" | "cold and rejecting"
const states: ReadonlyArray<State> = ["ready", "silent", "cold", "backing off", "rejecting", "cold and rejecting"]
const ranks: Record<State, number> = {
  ready: Rank.ready,
  silent: Rank.silent,
  cold: Rank.cold,
  "backing off": Rank.poor,
  rejecting: Rank.poor,
  "cold and rejecting": Rank.poor
}

const endpoint = (address: string, state: State = "ready", inFlight = 0) => {
  const it = { state, prepared: 0 }
  const isOpen = () => it.state === "ready" || it.state === "silent" || it.state === "rejecting"
  const made = {
    address,
    inFlight,
    connection: {
      get current() {
        return isOpen() ? { greeted: it.state !== "silent" } : undefined
      },
      get backoffUntil() {
        return it.state === "backing off" ? 1000 : -Infinity
      },
      prepare: () => void it.prepared++
    },
    levels: [{ wouldAdmit: () => it.state !== "rejecting" && it.state !== "cold and rejecting" }]
  } as unknown as Endpoint
  return Object.assign(made, { it })
}

/** Draws by seed. */
const seeded = (seed: string): () => number => {
  const random = Effect.runSync(
    Effect.withFiber((fiber) => Effect.succeed(fiber.getRef(Random.Random))).pipe(
      Random.withSeed(seed)
    )
  )
  return () => random.nextDoubleUnsafe()
}

const several = (count: number, state: State = "ready") =>
  Array.from({ length: count }, (_, index) => endpoint(`e${index}`, state))

const random = seeded("laws")
const pick = (
  endpoints: ReadonlyArray<Endpoint>,
  tried: ReadonlyArray<Endpoint> = [],
  draw: () => number = random
) => PowerOfTwo.pick(endpoints, tried, 0, 100, draw)

const Endpoints = Schema.Array(Schema.Struct({
  state: Schema.Literals(states),
  inFlight: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 3 })),
  tried: Schema.Boolean
})).check(Schema.isMaxLength(8))

describe("PowerOfTwo", () => {
  describe("laws", () => {
    it.prop("picks something untried while there is anything, and never what was tried", [Endpoints], ([given]) => {
      const endpoints = given.map(({ inFlight, state }, index) => endpoint(`e${index}`, state, inFlight))
      const tried = endpoints.filter((_, index) => given[index]!.tried)
      const picked = pick(endpoints, tried)
      if (tried.length === endpoints.length) assert.isUndefined(picked)
      else assert.isTrue(picked !== undefined && !tried.includes(picked as never))
    })

    it.prop(
      "picks of the fittest that are untried, and without one ready the least loaded of them",
      [Endpoints],
      ([given]) => {
        const endpoints = given.map(({ inFlight, state }, index) => endpoint(`e${index}`, state, inFlight))
        const tried = endpoints.filter((_, index) => given[index]!.tried)
        const picked = pick(endpoints, tried)
        if (picked === undefined) return
        const left = endpoints.filter((endpoint) => !tried.includes(endpoint))
        const best = Math.min(...left.map(({ it }) => ranks[it.state]))
        // With one endpoint there is nothing to choose and nothing is asked.
        if (endpoints.length > 1) assert.strictEqual(EndpointModule.rank(picked, 0, 100), best)
        if (best > Rank.ready) {
          const least = Math.min(...left.filter(({ it }) => ranks[it.state] === best).map(({ inFlight }) => inFlight))
          assert.strictEqual(picked.inFlight, least)
        }
      }
    )

    it.prop("never picks the busiest of those that are ready, while they differ", [Endpoints], ([given]) => {
      const endpoints = given.map(({ inFlight }, index) => endpoint(`e${index}`, "ready", inFlight))
      const loads = endpoints.map(({ inFlight }) => inFlight)
      const most = Math.max(...loads)
      if (loads.filter((load) => load === most).length !== 1 || loads.length < 2) return
      assert.isBelow(pick(endpoints)!.inFlight, most)
    })
  })

  it("has nothing to pick from nothing", () => {
    assert.isUndefined(pick([]))
  })

  it("picks the one endpoint there is, whatever its state, unless it was tried", () => {
    for (const state of states) {
      const only = endpoint("only", state)
      assert.strictEqual(pick([only]), only)
      assert.isUndefined(pick([only], [only]))
      // What was tried may have gone from the set since.
      assert.strictEqual(pick([only], [endpoint("gone")]), only)
    }
  })

  // LB-04
  it("spreads 100,000 attempts that never end over 100 endpoints to within 3 of the mean", () => {
    const endpoints = several(100)
    const draw = seeded("12345")
    for (let i = 0; i < 100_000; i++) pick(endpoints, [], draw)!.inFlight++
    const loads = endpoints.map(({ inFlight }) => inFlight)
    assert.isTrue(loads.every((load) => Math.abs(load - 1000) <= 3))
  })

  it("gives idle endpoints equal shares, to within 3 %", () => {
    for (const count of [2, 3, 5, 10]) {
      const endpoints = several(count)
      const draw = seeded(`fair ${count}`)
      const picks = new Map<Endpoint, number>()
      for (let i = 0; i < 20_000 * count; i++) {
        const picked = pick(endpoints, [], draw)!
        picks.set(picked, (picks.get(picked) ?? 0) + 1)
      }
      for (const endpoint of endpoints) assert.approximately(picks.get(endpoint)!, 20_000, 600)
    }
  })

  // LB-05
  it("gives an endpoint nothing while it is down, and twice its share for a while when it is back", () => {
    const endpoints = several(10)
    const draw = seeded("down")
    const down = endpoints[3]!
    down.it.state = "backing off"
    for (let i = 0; i < 9000; i++) pick(endpoints, [], draw)!.inFlight++
    assert.strictEqual(down.inFlight, 0)
    down.it.state = "ready"
    for (let i = 0; i < 1000; i++) pick(endpoints, [], draw)!.inFlight++
    // Drawn as one of two it wins; it is drawn in 2 of 10 pairs, and not by everybody at once.
    assert.approximately(down.inFlight, 200, 40)
  })

  // LB-07
  it("gives an endpoint that takes twice as long about half of what the others get", () => {
    const endpoints = several(5)
    const draw = seeded("slow")
    const picks = endpoints.map(() => 0)
    const ends: Array<Array<Endpoint>> = []
    for (let now = 0; now < 20_000; now++) {
      for (const endpoint of ends[now] ?? []) endpoint.inFlight--
      for (let i = 0; i < 10; i++) {
        const picked = pick(endpoints, [], draw)!
        const index = endpoints.indexOf(picked as never)
        picked.inFlight++
        picks[index]!++
        ;(ends[now + (index === 0 ? 20 : 10)] ??= []).push(picked)
      }
    }
    const others = (picks[1]! + picks[2]! + picks[3]! + picks[4]!) / 4
    assert.approximately(picks[0]! / others, 0.5, 0.06)
  })

  // LB-08: where Finagle panics and picks anything, all are looked at, so that a fit one is found.
  it("finds the one fit endpoint among 100", () => {
    const endpoints = several(100, "rejecting")
    endpoints[57]!.it.state = "ready"
    for (let i = 0; i < 200; i++) assert.strictEqual(pick(endpoints), endpoints[57])
  })

  // RX-32
  it("sends nobody to a new endpoint before it is connected, and connects it once it is drawn", () => {
    const endpoints = several(10)
    for (const endpoint of endpoints) endpoint.inFlight = 5
    const fresh = endpoints[9]!
    fresh.it.state = "cold"
    fresh.inFlight = 0
    const draw = seeded("herd")
    for (let i = 0; i < 100; i++) pick(endpoints, [], draw)!.inFlight++
    assert.strictEqual(fresh.inFlight, 0)
    assert.isAbove(fresh.it.prepared, 0)
    fresh.it.state = "ready"
    for (let i = 0; i < 100; i++) pick(endpoints, [], draw)!.inFlight++
    assert.approximately(fresh.inFlight, 20, 15)
  })

  it("does not connect what backs off", () => {
    const endpoints = [endpoint("a", "backing off"), endpoint("b", "backing off")]
    for (let i = 0; i < 50; i++) pick(endpoints)
    assert.deepStrictEqual(endpoints.map(({ it }) => it.prepared), [0, 0])
  })

  it("shares what nobody is fit for among all, and not with the first", () => {
    const endpoints = several(4, "rejecting")
    const draw = seeded("unfit")
    const picks = new Map<Endpoint, number>()
    for (let i = 0; i < 8000; i++) {
      const picked = pick(endpoints, [], draw)!
      picks.set(picked, (picks.get(picked) ?? 0) + 1)
    }
    for (const endpoint of endpoints) assert.approximately(picks.get(endpoint)!, 2000, 200)
  })
})
