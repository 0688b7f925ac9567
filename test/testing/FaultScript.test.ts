import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as FaultScript from "../../src/testing/FaultScript.ts"

const names = (phases: ReadonlyArray<FaultScript.Phase>) => phases.map(({ name }) => name)
const refusal = (document: unknown) => Effect.map(Effect.flip(FaultScript.read(document)), (error) => error.message)
const slow = { kind: "latency", delay: "300ms" } as const

describe("FaultScript", () => {
  it.effect("a YAML file, a JSON text and a TypeScript value are the same script", () =>
    Effect.gen(function*() {
      const script: FaultScript.FaultScript = {
        seed: "checkout",
        phases: [
          {
            name: "slow",
            from: "5 s",
            for: "20 s",
            fault: { ...slow, jitter: 100 },
            radius: { ratio: 0.3, of: "key" }
          },
          { name: "cut", from: 30_000, to: "35s", fault: { kind: "reset" }, toxicity: 0.5 }
        ]
      }
      const yaml = `
seed: checkout
phases:
  - name: slow
    from: 5 s
    for: 20 s
    fault: { kind: latency, delay: 300ms, jitter: 100ms }
    radius: { ratio: 0.3, of: key }
  - name: cut
    from: 30 s
    to: 35 s
    fault: { kind: reset }
    toxicity: 0.5
`
      const read = yield* FaultScript.read(script)
      assert.deepStrictEqual(yield* FaultScript.parse(yaml), read)
      assert.deepStrictEqual(yield* FaultScript.parse(JSON.stringify(script)), read)
      assert.deepStrictEqual(
        read.phases.map(({ fromMillis, toMillis }) => [fromMillis, toMillis]),
        [[5000, 25_000], [30_000, 35_000]]
      )
      assert.strictEqual(read.endMillis, 35_000)
    }))

  it.effect("the script of docs/chaos.md can be read, and its table has every fault", () =>
    Effect.gen(function*() {
      const docs = Fs.readFileSync(Path.join(import.meta.dirname, "../../docs/chaos.md"), "utf8")
      const script = yield* FaultScript.parse(/```yaml\n([^`]*)```/.exec(docs)![1]!)
      assert.deepStrictEqual(names(script.phases), ["slow", "dark", "cut"])
      const kinds = FaultScript.Fault.members.map(({ fields }) => fields.kind.literal)
      assert.deepStrictEqual(kinds.filter((kind) => !docs.includes(`| \`${kind}\` |`)), [])
    }))

  it.effect("a script written again is read as before", () =>
    Effect.gen(function*() {
      const script: FaultScript.FaultScript = { phases: [{ name: "slow", to: "1 minute", fault: slow }] }
      const again = Schema.encodeSync(FaultScript.FaultScript)(Schema.decodeSync(FaultScript.FaultScript)(script))
      assert.deepStrictEqual(yield* FaultScript.read(again), yield* FaultScript.read(script))
    }))

  it.effect("a phase is active from its beginning and no more at its end", () =>
    Effect.gen(function*() {
      const script = yield* FaultScript.read({ phases: [{ name: "slow", from: 10, for: 5, fault: slow }] })
      const active = [9.99, 10, 14.99, 15].map((at) => FaultScript.faultsAt(script, at, {}).length)
      assert.deepStrictEqual(active, [0, 1, 1, 0])
    }))

  it.effect("phases without an end of their own end with the horizon", () =>
    Effect.gen(function*() {
      const script = yield* FaultScript.read({
        horizon: "1 s",
        phases: [{ name: "a", fault: slow }, { name: "b", from: 500, fault: { kind: "refuse" } }]
      })
      assert.deepStrictEqual(names(FaultScript.faultsAt(script, 999, {})), ["a", "b"])
      assert.deepStrictEqual(names(FaultScript.faultsAt(script, 1000, {})), [])
    }))

  it.effect("lists every beginning and end, the ends of an instant before its beginnings", () =>
    Effect.gen(function*() {
      const script = yield* FaultScript.read({
        phases: [
          { name: "second", from: 10, to: 20, fault: slow },
          { name: "first", to: 10, fault: slow }
        ]
      })
      const changes = FaultScript.changes(script)
      assert.deepStrictEqual(
        changes.map(({ atMillis, begins, phase }) => `${atMillis} ${phase.name} ${begins ? "begins" : "ends"}`),
        ["0 first begins", "10 first ends", "10 second begins", "20 second ends"]
      )
    }))

  describe("who is hit", () => {
    const radius = (radius: FaultScript.Radius, toxicity = 1) =>
      FaultScript.read({ seed: 1, phases: [{ name: "p", to: 1000, fault: slow, radius, toxicity }] })
    const isHit = (script: FaultScript.Script, target: FaultScript.Target, at = 0) =>
      FaultScript.faultsAt(script, at, target).length > 0

    it.effect("only who is on every list", () =>
      Effect.gen(function*() {
        const script = yield* radius({
          keys: ["acme"],
          methods: ["UserService.*"],
          endpoints: ["tcp://a:1", "tcp://b:1"]
        })
        const target = { key: "acme", method: "UserService.Get", endpoint: "tcp://b:1" }
        assert.isTrue(isHit(script, target))
        assert.isFalse(isHit(script, { ...target, key: "acme2" }))
        assert.isFalse(isHit(script, { ...target, method: "OrderService.Get" }))
        assert.isFalse(isHit(script, { ...target, endpoint: "tcp://c:1" }))
        assert.isFalse(isHit(script, { method: target.method, endpoint: target.endpoint }))
      }))

    it.effect("a share of the keys, each of them for the whole phase", () =>
      Effect.gen(function*() {
        const script = yield* radius({ ratio: 0.3 })
        const keys = Array.from({ length: 2000 }, (_, i) => `tenant-${i}`)
        const hit = keys.filter((key) => isHit(script, { key }))
        assert.closeTo(hit.length / keys.length, 0.3, 0.03)
        for (const at of [1, 500, 999]) {
          assert.deepStrictEqual(keys.filter((key) => isHit(script, { key, method: "m", connection: at }, at)), hit)
        }
      }))

    it.effect("other keys in another phase and under another seed", () =>
      Effect.gen(function*() {
        const phase = { to: 1000, fault: slow, radius: { ratio: 0.5 } }
        const hit = (seed: number, name: string) =>
          Effect.map(FaultScript.read({ seed, phases: [{ ...phase, name }] }), (script) =>
            Array.from({ length: 64 }, (_, i) => isHit(script, { key: `k${i}` }) ? "x" : ".").join(""))
        const [one, seed, name, same] = yield* Effect.all([hit(1, "a"), hit(2, "a"), hit(1, "b"), hit(1, "a")])
        assert.strictEqual(same, one)
        assert.notStrictEqual(seed, one)
        assert.notStrictEqual(name, one)
      }))

    it.effect("a share of the endpoints, methods or connections, whatever the key", () =>
      Effect.gen(function*() {
        for (const  of of["endpoint", "method", "connection"] as const) {
          const script = yield* radius({ ratio: 0.5, of })
          const hit = (key: string) =>
            Array.from({ length: 200 }, (_, i) => isHit(script, { key, [of]: `${i}` }) ? "x" : ".").join("")
          assert.strictEqual(hit("a"), hit("b"))
          assert.closeTo([...hit("a")].filter((c) => c === "x").length, 100, 30)
        }
      }))

    it.effect("a target without a key counts by its connection", () =>
      Effect.gen(function*() {
        const script = yield* radius({ ratio: 0.5 })
        const hit = Array.from({ length: 400 }, (_, connection) => isHit(script, { connection }))
        assert.closeTo(hit.filter((is) => is).length, 200, 40)
      }))

    it.effect("faults of whole connections are drawn by connection, whatever the key", () =>
      Effect.gen(function*() {
        const script = yield* FaultScript.read({
          phases: [{ name: "p", to: 1000, fault: { kind: "reset" }, radius: { ratio: 0.5 } }]
        })
        const hit = (key: string) =>
          Array.from({ length: 100 }, (_, connection) => isHit(script, { key, connection }) ? "x" : ".").join("")
        assert.strictEqual(hit("a"), hit("b"))
        assert.closeTo([...hit("a")].filter((c) => c === "x").length, 50, 20)
      }))

    it.effect("nobody by the ratio 0, everybody by 1", () =>
      Effect.gen(function*() {
        const keys = Array.from({ length: 500 }, (_, i) => `k${i}`)
        const [nobody, everybody] = yield* Effect.all([radius({ ratio: 0 }), radius({ ratio: 1 })])
        assert.isFalse(keys.some((key) => isHit(nobody, { key })))
        assert.isTrue(keys.every((key) => isHit(everybody, { key })))
      }))

    it.effect("toxicity is drawn once for each connection", () =>
      Effect.gen(function*() {
        const script = yield* radius({}, 0.25)
        const hit = (key: string) =>
          Array.from({ length: 1000 }, (_, connection) => isHit(script, { key, connection }) ? "x" : ".").join("")
        assert.strictEqual(hit("a"), hit("b"))
        assert.closeTo([...hit("a")].filter((c) => c === "x").length, 250, 45)
      }))
  })

  it.effect("faults work downwards unless they say otherwise", () =>
    Effect.sync(() => {
      const ways = (direction?: FaultScript.Direction) =>
        (["up", "down"] as const).filter((way) =>
          FaultScript.works({ kind: "corrupt", ...(direction === undefined ? {} : { direction }) }, way)
        )
      assert.deepStrictEqual([ways(), ways("up"), ways("down"), ways("both")], [["down"], ["up"], ["down"], [
        "up",
        "down"
      ]])
    }))

  describe("what cannot be read says where, what must hold, and what was there", () => {
    const phase = (extra: object) => ({ phases: [{ name: "p", to: "10 s", fault: slow, ...extra }] })
    const cases: ReadonlyArray<readonly [string, unknown, string]> = [
      ["no phases", { phases: [] }, "phases"],
      [
        "no end",
        { phases: [{ name: "p", fault: slow }] },
        "phases.0.to: missing: to, for or the script's horizon must say when it ends"
      ],
      ["two ends", phase({ for: "1 s" }), "phases.0.for: only without to, which also says when it ends"],
      ["an end before the beginning", phase({ from: "11 s" }), "phases.0.to: must be after from, 11s, got 10s"],
      [
        "an end after the horizon",
        { ...phase({}), horizon: "9 s" },
        "phases.0.to: must not end after the horizon, 9s, got 10s"
      ],
      [
        "a beginning after the horizon",
        { horizon: "9 s", phases: [{ name: "p", from: "9 s", fault: slow }] },
        "phases.0.from: must be before the horizon, 9s, got 9s"
      ],
      [
        "a name twice",
        { phases: [phase({}).phases[0], phase({}).phases[0]] },
        "phases.1.name: must be unique, got \"p\" again"
      ],
      ["an unknown field", phase({ until: 1 }), "phases.0.until: no such field"],
      ["an unknown kind", phase({ fault: { kind: "flood" } }), "\"flood\""],
      [
        "a negative duration",
        phase({ fault: { kind: "latency", delay: -1 } }),
        "phases.0.fault.delay: expected a finite duration such as \"250ms\", \"2 s\" or \"1 minute\", got -1"
      ],
      ["a missing field", phase({ fault: { kind: "bandwidth" } }), "phases.0.fault.bytesPerSecond: missing"],
      [
        "a ratio above 1",
        phase({ radius: { ratio: 30 } }),
        "phases.0.radius.ratio: Expected a value between 0 and 1, got 30"
      ],
      [
        "what would be ignored",
        phase({ fault: { ...slow, distribution: "normal" } }),
        "phases.0.fault.distribution: only with a jitter"
      ],
      ["a draw without a ratio", phase({ radius: { of: "key" } }), "phases.0.radius.of: only with a ratio"],
      [
        "slices of nothing",
        phase({ fault: { kind: "slice", bytes: 10, variation: 10 } }),
        "phases.0.fault.variation: must be less than bytes, 10, got 10"
      ],
      [
        "a hint that no status carries",
        phase({ fault: { kind: "error", reason: "NotFound", retryAfter: "1 s" } }),
        "phases.0.fault.retryAfter: only for Unavailable, Overloaded and RateLimited, not NotFound"
      ]
    ]
    for (const [what, document, message] of cases) {
      it.effect(what, () => Effect.map(refusal(document), (got) => assert.include(got, message)))
    }

    it.effect("all problems at once", () =>
      Effect.map(
        refusal({ phases: [{ name: "", to: "x", fault: { kind: "refuse", extra: 1 } }] }),
        (message) => assert.strictEqual(message.split("\n").length, 3, message)
      ))

    it.effect("a text that is no YAML", () =>
      Effect.map(Effect.flip(FaultScript.parse("phases: [")), (error) => assert.strictEqual(error._tag, "ScriptError")))
  })
})
