import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, it } from "@effect/vitest"
import * as Command from "effect/cli/Command"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Path from "effect/Path"
import * as Runtime from "effect/Runtime"
import { holdfast } from "../../src/cli/Commands.ts"
import type * as Simulator from "../../src/testing/Simulator.ts"

const policy =
  "idempotent: true\ntimeout: 2 s\nretry: { attempts: 3, backoff: { kind: constant, base: 500ms }, budget: false }\n"
const quick = ["--set", "rate=20", "--set", "start=3", "--set", "lasts=2", "--set", "clients=2"]

/** What the command prints in a folder with files, and how it exits. `read` looks at what it has written. */
const simulate = <A = undefined>(
  args: ReadonlyArray<string>,
  files: Readonly<Record<string, string>> = { "naive.yaml": policy },
  read: (text: (name: string) => Effect.Effect<string>) => Effect.Effect<A> = () => Effect.succeed(undefined as A)
) =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const folder = yield* fs.makeTempDirectoryScoped()
    for (const [name, text] of Object.entries(files)) yield* fs.writeFileString(path.join(folder, name), text)
    const printed = { log: "", error: "" }
    const print = (to: keyof typeof printed) => (...texts: ReadonlyArray<unknown>) => {
      printed[to] += `${texts.join(" ")}\n`
    }
    const placed = args.map((arg) => arg.startsWith("@") ? path.join(folder, arg.slice(1)) : arg)
    const exit = yield* Command.runWith(holdfast, { version: "0.0.0" })(["simulate", ...placed]).pipe(
      Effect.provideService(Console.Console, { ...globalThis.console, log: print("log"), error: print("error") }),
      Effect.exit
    )
    let code = -1
    Runtime.defaultTeardown(exit, (given) => {
      code = given
    })
    const clean = (text: string) => text.replaceAll(`${folder}/`, "@")
    const seen = yield* read((name) => Effect.orDie(fs.readFileString(path.join(folder, name))))
    return { code, out: clean(printed.log), err: clean(printed.error), seen }
  }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))

describe("holdfast simulate", () => {
  it.effect("prints policies side by side, and the same again for the same seed", () =>
    Effect.gen(function*() {
      const args = ["@naive.yaml", "--scenario", "retryStorm", "--compare", "default", "--set", "ratio=1", ...quick]
      const first = yield* simulate(args)
      assert.strictEqual(first.code, 0)
      const lines = first.out.split("\n")
      assert.match(lines[0]!, /^retryStorm: 1,\d{3} calls in 65\.0 s of virtual time, 2 clients, 5 servers, seed 1$/)
      assert.match(lines[2]!, /^ +naive +default$/)
      assert.match(first.out, /attempts per call +\d\.\d{3}( \*)? +\d\.\d{3}/)
      assert.match(first.out, /failed with +RetriesExhausted \d+ +/)
      assert.strictEqual((yield* simulate(args)).out, first.out)
      assert.notStrictEqual((yield* simulate([...args, "--seed", "2"])).out, first.out)
    }))

  it.effect("writes every figure as JSON, and a page that needs no network", () =>
    Effect.gen(function*() {
      const args = ["@naive.yaml", "--scenario", "deploy", "--set", "rate=20", "--set", "servers=1", "--set", "start=3"]
      const { code, err, seen } = yield* simulate(
        [...args, "--json", "@out.json", "--report", "@out.html"],
        { "naive.yaml": policy },
        (text) => Effect.all([text("out.json"), text("out.html")])
      )
      assert.strictEqual(code, 0)
      assert.strictEqual(err, "written: @out.json\nwritten: @out.html\n")
      const [result] = JSON.parse(seen[0]!) as ReadonlyArray<Simulator.Result>
      assert.strictEqual(result!.policy, "naive")
      assert.isAbove(result!.series.length, 50)
      assert.strictEqual((seen[1]!.match(/<figure>/g) ?? []).length, 5)
      assert.notMatch(seen[1]!, /https?:|<script|<link|NaN|undefined/)
    }))

  it.effect("two files with policies of one name are told apart by their files", () =>
    Effect.gen(function*() {
      const { code, out } = yield* simulate(["@before.yaml", "--compare", "@after.yaml", ...quick], {
        "before.yaml": `name: checkout\n${policy}`,
        "after.yaml": "name: checkout\nidempotent: true"
      })
      assert.strictEqual(code, 0)
      assert.match(out, /^ +checkout \(@before\.yaml\) +checkout \(@after\.yaml\)$/m)
    }))

  it.effect("takes a situation and a fault script from files", () =>
    Effect.gen(function*() {
      const { code, out } = yield* simulate(["@naive.yaml", "--scenario", "@own.yaml", "--faults", "@faults.yaml"], {
        "naive.yaml": policy,
        "own.yaml": `
clients: { count: 2, keys: 4 }
arrivals: { kind: poisson, perSecond: 30 }
dependency: { servers: ["tcp://a:1", "tcp://b:1"], concurrency: unlimited, service: { exponential: 20ms } }
scenario: { name: mine, phases: [{ do: slow, factor: 2, from: 3 s, to: 5 s }] }
horizon: 20 s
`,
        "faults.yaml":
          "phases: [{ name: cut, from: 6 s, for: 2 s, fault: { kind: error, reason: Unavailable }, radius: { keys: [k0] } }]"
      })
      assert.strictEqual(code, 0)
      assert.match(out, /^mine: \d+ calls in 20\.0 s/)
      assert.match(out, /retries, hedges +\d\d/)
    }))

  it.effect.each(
    [
      [["@none.yaml"], /^holdfast simulate: @none\.yaml: no such file or directory$/m],
      [["@naive.yaml", "--faults", "@none.yaml"], /--faults: @none\.yaml: no such file or directory/],
      [
        ["@naive.yaml", "--scenario", "tsunami"],
        /--scenario: neither a file nor one of retryStorm, coldStart, .*: tsunami/
      ],
      [
        ["@naive.yaml", "--set", "size=3"],
        /--set: no parameter size; parameters of spike:\n {2}rate +430 +calls per second\n/
      ],
      [["@naive.yaml", "--compare", "@naive.yaml"], /--compare: must be another policy, got @naive\.yaml again/],
      [
        ["@naive.yaml", "--compare", "default", "--compare", "default"],
        /--compare: must be another policy, got default again/
      ],
      [["@naive.yaml", "--set", "rate"], /--set: expected name=value with a number, got rate/],
      [
        ["@naive.yaml", "--set", "servers=0"],
        /--set: Simulator\.run: dependency\.servers must be an integer in \[1, 10000\], got 0/
      ],
      [["@bad.yaml"], /@bad\.yaml: retry\.attempts: Expected a value greater than or equal to 1, got 0/],
      [
        ["@naive.yaml", "--scenario", "@burst.yaml"],
        /@burst\.yaml: Simulator\.run: arrivals\.burst must be an object of perSecond, every, lasts, got undefined/
      ],
      [
        ["@naive.yaml", "--scenario", "@bad.yaml"],
        /@bad\.yaml: Simulator\.situation: document must be an object of clients, arrivals, .*, got "retry"/
      ]
    ] as const
  )("%j exits with 1 and says why", ([args, message]) =>
    Effect.gen(function*() {
      const { code, err, out } = yield* simulate(args, {
        "naive.yaml": policy,
        "bad.yaml": "retry: { attempts: 0 }",
        "burst.yaml": "arrivals: { kind: bursty, perSecond: 1 }\ndependency: { service: 1ms }\nhorizon: 1 s"
      })
      assert.deepStrictEqual([code, out], [1, ""])
      assert.match(err, message)
      assert.match(err, /^holdfast simulate: /)
    }))
})
