import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, it } from "@effect/vitest"
import * as Command from "effect/cli/Command"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Runtime from "effect/Runtime"
import * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import { holdfast as command } from "../../src/cli/Commands.ts"
import { holdfast, type Output } from "./process.ts"

/** What the command prints about a text that comes from a file or from standard input, and how it exits. */
const lint = (text: string, ...flags: ReadonlyArray<string>): Effect.Effect<Output, unknown> =>
  Effect.gen(function*() {
    const printed = { log: "", error: "" }
    const print = (to: keyof typeof printed) => (...texts: ReadonlyArray<unknown>) => {
      printed[to] += `${texts.join(" ")}\n`
    }
    const exit = yield* Command.runWith(command, { version: "0.0.0" })(["lint", ...flags]).pipe(
      Effect.provideService(Console.Console, { ...globalThis.console, log: print("log"), error: print("error") }),
      Effect.provide(Stdio.layerTest({ stdin: Stream.make(new TextEncoder().encode(text)) })),
      Effect.exit
    )
    let code = -1
    Runtime.defaultTeardown(exit, (given) => {
      code = given
    })
    return { code, out: printed.log, err: printed.error }
  }).pipe(Effect.provide(NodeServices.layer))

const file = (text: string, ...flags: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const files = yield* FileSystem.FileSystem
    const path = yield* files.makeTempFileScoped({ suffix: ".yaml" })
    yield* files.writeFileString(path, text)
    const output = yield* lint("", path, ...flags)
    return { ...output, out: output.out.replaceAll(path, "FILE") }
  }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))

const contradictory = `
name: users
deadline: 1 s
timeout: 2 s
hedge: { delay: 50ms }
circuitBreaker: { jitter: 0 }
`

describe("holdfast lint", () => {
  it.effect("prints what is wrong, errors first, each with where it stands and why, and exits with 1", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* file(contradictory), {
        code: 1,
        err: "",
        out: `error    L1    timeout: an attempt may take 2 s, the whole call 1 s: the timeout can never fire
error    L8    hedge: a hedge sends a call twice, and this spec does not say that its calls are idempotent
warning  L4    circuitBreaker.jitter: no jitter: all clients whose circuits opened together probe together
FILE: 2 errors, 1 warning
`
      })
    }))

  it.effect("exits with 0 when there are only warnings, or nothing", () =>
    Effect.gen(function*() {
      const warned = yield* file("circuitBreaker: {}\n")
      assert.strictEqual(warned.code, 0)
      assert.match(warned.out, /^warning {2}L7 {4}timeout: .*\nFILE: 0 errors, 1 warning\n$/)
      assert.deepStrictEqual(yield* file("timeout: 1 s\n"), { code: 0, err: "", out: "FILE: nothing found\n" })
    }))

  it.effect("reads standard input and JSON, and prints JSON", () =>
    Effect.gen(function*() {
      const { code, out } = yield* lint("{\"retry\": {\"attempts\": 12}}", "-", "--json")
      assert.strictEqual(code, 0)
      assert.deepStrictEqual(JSON.parse(out), [{
        rule: "L2",
        severity: "warning",
        path: "retry.attempts",
        message:
          "12 attempts: at a failure ratio of 0.5, 10 leave 1 call in 1,024 failed; more only add load to an outage"
      }])
    }))

  it.effect("reports every field it cannot read, and what is no YAML", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* lint("timeout: soon\nretries: 3\n", "-"), {
        code: 1,
        err: "",
        out: `error    read  retries: no such field
error    read  timeout: expected a positive finite duration such as "250ms", "2 s" or "1 minute", got "soon"
-: 2 errors, 0 warnings
`
      })
      const broken = yield* lint("timeout: [1", "-")
      assert.strictEqual(broken.code, 1)
      assert.match(broken.out, /^error {4}read /)
    }))

  it.effect("reports what a constructor would refuse", () =>
    Effect.gen(function*() {
      const { code, out } = yield* lint("rateLimiter: { limit: 5, burst: 3 }", "-")
      assert.strictEqual(code, 1)
      assert.include(out, "error    make  rateLimiter.burst: RateLimiter.make: burst must be an integer >= 5, got 3")
    }))

  it.effect("takes names on trust", () =>
    Effect.gen(function*() {
      assert.strictEqual((yield* lint("retry: { classify: any, backoff: { schedule: any } }", "-")).code, 0)
    }))

  it.effect("says so when there is no such file", () =>
    Effect.gen(function*() {
      const { code, err, out } = yield* lint("", "/nowhere/policy.yaml")
      assert.deepStrictEqual([code, out], [1, ""])
      assert.strictEqual(err, "/nowhere/policy.yaml: no such file or directory\n")
      assert.match((yield* lint("", import.meta.dirname)).err, /cli: .*directory\n$/)
    }))

  it("is a command of the executable", async () => {
    const { code, err } = await holdfast("lint", "/nowhere/policy.yaml")
    assert.strictEqual(code, 1)
    assert.lengthOf(err.trim().split("\n"), 1)
  })
})
