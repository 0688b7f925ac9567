import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, it } from "@effect/vitest"
import * as Command from "effect/cli/Command"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Runtime from "effect/Runtime"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { afterAll } from "vitest"
import { holdfast as command } from "../../src/cli/Commands.ts"
import * as Peer from "../support/peer.ts"
import { type Output, started } from "./process.ts"

const folder = Fs.mkdtempSync(Path.join(Os.tmpdir(), "holdfast-chaos-"))
afterAll(() => Fs.rmSync(folder, { recursive: true }))
const file = (name: string, text: string): string => {
  const path = Path.join(folder, name)
  Fs.writeFileSync(path, text)
  return path
}

/** The same command without a process: what it prints, and the code it would exit with. */
const run = (...args: ReadonlyArray<string>): Effect.Effect<Output> => {
  const printed = { log: "", error: "" }
  const print = (to: keyof typeof printed) => (...texts: ReadonlyArray<unknown>) => {
    printed[to] += `${texts.join(" ")}\n`
  }
  return Command.runWith(command, { version: "0.0.0" })(["chaos", ...args]).pipe(
    Effect.provideService(Console.Console, { ...globalThis.console, log: print("log"), error: print("error") }),
    Effect.provide(NodeServices.layer),
    Effect.exit,
    Effect.map((exit) => {
      let code = -1
      Runtime.defaultTeardown(exit, (given) => {
        code = given
      })
      return { code, out: printed.log, err: printed.error }
    })
  )
}

describe("holdfast chaos", () => {
  it.live("breaks a connection as the script says, with a line for each phase, until it is told to stop", () =>
    Effect.gen(function*() {
      const listener = yield* Peer.listen()
      const script = file(
        "cut.yaml",
        `phases:
  - { name: errors, to: 1 s, fault: { kind: error, reason: Overloaded } }
  - { name: cut, to: 1 minute, fault: { kind: limit, bytes: 12, direction: up } }
`
      )
      const { match, stop } = yield* Effect.promise(() =>
        started(/listening on (\S+),[^]*cut begins/, "chaos", "--to", listener.address, script)
      )
      const client = yield* Peer.client(match[1]!)
      yield* client.send(Peer.helloFrame())
      yield* client.closed
      const { code, out } = yield* Effect.promise(() => stop("SIGTERM"))
      assert.strictEqual(code, 0)
      const [first, ...rest] = out.trim().split("\n")
      assert.strictEqual(first, `listening on ${match[1]}, passing on to ${listener.address}`)
      assert.deepStrictEqual(rest, [
        "left out  errors: bytes do not show error reason Overloaded, or whom it is for",
        "       0  cut begins: limit bytes 12, up",
        "1 connection, 12 bytes up, 0 bytes down"
      ])
    }))

  it.live("with --once ends when the script is over", () =>
    Effect.gen(function*() {
      const script = file(
        "short.json",
        JSON.stringify({ phases: [{ name: "slow", to: 50, fault: { kind: "stall" } }] })
      )
      const { code, out } = yield* run("--once", "--to", "tcp://127.0.0.1:1", script)
      assert.strictEqual(code, 0)
      assert.deepStrictEqual(out.trim().split("\n").slice(1), [
        "       0  slow begins: stall",
        "    50ms  slow ends",
        "the script is over"
      ])
    }))

  it.live("a script that cannot be read says what is wrong with it", () =>
    Effect.gen(function*() {
      const script = file("wrong.yaml", "phases: [{ name: a, fault: { kind: refuse } }]")
      const { code, err } = yield* run("--to", "tcp://127.0.0.1:1", script)
      assert.strictEqual(code, 1)
      const missing = "phases.0.to: missing: to, for or the script's horizon must say when it ends"
      assert.strictEqual(err, `holdfast chaos: ${script}: ${missing}\n`)
      const none = yield* run("--to", "tcp://127.0.0.1:1", "none.yaml")
      assert.deepStrictEqual(none, { code: 1, out: "", err: "holdfast chaos: none.yaml: no such file or directory\n" })
    }))
})
