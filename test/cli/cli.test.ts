import * as NodeServices from "@effect/platform-node/NodeServices"
import { afterAll, assert, beforeAll, describe, it } from "@effect/vitest"
import * as Cause from "effect/Cause"
import * as Command from "effect/cli/Command"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Runtime from "effect/Runtime"
import * as Schema from "effect/Schema"
import * as Http from "node:http"
import type * as Net from "node:net"
import { holdfast as command } from "../../src/cli/Commands.ts"
import * as Explain from "../../src/observe/Explain.ts"
import { holdfast, type Output, started } from "./process.ts"

/** The same commands without a process, which costs a second: what they print, and the code they would exit with. */
const run = (...args: ReadonlyArray<string>): Effect.Effect<Output> => {
  const printed = { log: "", error: "" }
  const print = (to: keyof typeof printed) => (...texts: ReadonlyArray<unknown>) => {
    printed[to] += `${texts.join(" ")}\n`
  }
  return Command.runWith(command, { version: "0.0.0" })(args).pipe(
    Effect.provideService(Console.Console, { ...globalThis.console, log: print("log"), error: print("error") }),
    Effect.provide(NodeServices.layer),
    Effect.exit,
    Effect.map((exit) => {
      let code = -1
      Runtime.defaultTeardown(exit, (given) => {
        code = given
      })
      if (Exit.isFailure(exit) && Cause.hasDies(exit.cause)) printed.error += Cause.pretty(exit.cause)
      return { code, out: printed.log, err: printed.error }
    })
  )
}

const listen = (server: Net.Server): Promise<number> =>
  new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve((server.address() as Net.AddressInfo).port)))

let server: Awaited<ReturnType<typeof started>>
let address: string
let refused: string

beforeAll(async () => {
  server = await started(/^listening on (tcp:\S+)$/m, "serve", "--listen", "tcp://127.0.0.1:0")
  address = server.match[1]!
  // A port that was free a moment ago.
  const gone = Http.createServer()
  refused = `tcp://127.0.0.1:${await listen(gone)}`
  await new Promise((resolve) => gone.close(resolve))
})
afterAll(() => server?.stop("SIGKILL"))

describe("holdfast, as processes", () => {
  it("exits with 0 for an answer, 1 for a wrong command line, 2 for an error of the contract, 3 for a CallError", async () => {
    const [answer, usage, domain, call] = await Promise.all([
      holdfast("call", address, "UserService.GetUserInfo", "{\"id\":1001}"),
      holdfast("call", address, "UserService.GetUserInfo", "{\"id\":"),
      holdfast("call", address, "UserService.GetUserInfo", "{\"id\":7}"),
      holdfast("call", refused, "UserService.GetUserInfo", "{\"id\":7}")
    ])
    assert.strictEqual(JSON.parse(answer.out).name, "Ada Dijkstra")
    assert.deepStrictEqual({ ...answer, out: "" }, { code: 0, out: "", err: "" })
    assert.deepStrictEqual([usage.code, usage.out], [1, ""])
    assert.match(
      usage.err,
      /Invalid value for argument <payload>[^]*\n {2}holdfast call \[flags\] <address>.*\n\nholdfast call --help/
    )
    assert.deepStrictEqual(domain, { code: 2, out: "", err: "UserNotFound {\"_tag\":\"UserNotFound\",\"id\":7}\n" })
    assert.deepStrictEqual(call, {
      code: 3,
      out: "",
      err: `CallError ConnectFailed: ${refused}: cannot connect (refused): ECONNREFUSED\n`
    })
  })
})

describe("holdfast call", () => {
  it.effect("says that a method does not exist", () =>
    Effect.gen(function*() {
      const { code, err } = yield* run("call", address, "UserService.Nope")
      assert.strictEqual(err, `CallError Unimplemented: ${address}: not implemented: no method UserService.Nope\n`)
      assert.strictEqual(code, 3)
    }))

  it.effect("says in one line what the server's contract has against the payload", () =>
    Effect.gen(function*() {
      const { code, err } = yield* run("call", address, "UserService.GetUserInfo", "{\"id\":\"x\"}")
      assert.match(err, /^CallError InvalidRequest: \S+ invalid request: .*\["id"\]\n$/)
      assert.strictEqual(code, 3)
    }))

  it.effect("prints errors as JSON with --json", () =>
    Effect.gen(function*() {
      const call = yield* run("call", address, "UserService.Nope", "--json")
      assert.strictEqual(JSON.parse(call.err).reason._tag, "Unimplemented")
      const domain = yield* run("call", address, "UserService.UpdateEmail", "{\"id\":1001,\"email\":\"no\"}", "--json")
      assert.deepStrictEqual(JSON.parse(domain.err), { _tag: "InvalidEmail", email: "no" })
    }))

  it.live("says that a port speaks HTTP", () =>
    Effect.gen(function*() {
      const web = Http.createServer((_, response) => response.end("hello"))
      const address = `tcp://127.0.0.1:${yield* Effect.promise(() => listen(web))}`
      const { code, err } = yield* run("call", address, "UserService.GetUserInfo", "{\"id\":1001}")
      yield* Effect.promise(() => new Promise((resolve) => web.close(resolve)))
      assert.match(err, /^CallError ProtocolViolation: .*looks like an HTTP response/)
      assert.strictEqual(code, 3)
    }))

  it.live("makes as many attempts as it is told to, and says what the last met", () =>
    Effect.gen(function*() {
      const { code, err } = yield* run("call", refused, "UserService.GetUserInfo", "{\"id\":1}", "--attempts", "2")
      assert.match(
        err,
        /^CallError RetriesExhausted: .* gave up after 2 attempts .*ECONNREFUSED(?:, next try in \d+ms)?\n$/
      )
      assert.strictEqual(code, 3)
    }))

  it.live("explains with --explain what was decided, below the answer or the error", () =>
    Effect.gen(function*() {
      const answer = yield* run("call", address, "UserService.GetUserInfo", "{\"id\":1001}", "--explain")
      assert.strictEqual(JSON.parse(answer.out).id, 1001)
      const there = address.replace("tcp://", "").replaceAll(".", "\\.")
      assert.match(
        answer.err,
        new RegExp(
          `^UserService\\.GetUserInfo: success in \\S+ ms after 1 attempt, \\S+ s of 10 s left\n +\\S+ ms  attempt 1 -> ${there} success in \\S+ ms\n$`
        )
      )
      const { code, err } = yield* run("call", refused, "A.B", "--attempts", "2", "--explain")
      assert.match(
        err,
        /^CallError RetriesExhausted: .*\nA\.B: failed in .* after 2 attempts, sent no, .*\n.* attempt 1 -> .* ConnectFailed \(refused\) in .*, backoff .*\n.* attempt 2 -> .*\n$/
      )
      assert.strictEqual(code, 3)
    }))

  it.live("explains in JSON with --explain and --json", () =>
    Effect.gen(function*() {
      const { err } = yield* run("call", address, "UserService.Nope", "--explain", "--json")
      const [error, log] = err.trim().split("\n").map((line) => JSON.parse(line))
      assert.strictEqual(error.reason._tag, "Unimplemented")
      assert.strictEqual(log.result, "failure")
      assert.deepStrictEqual(log.steps.map(({ _tag }: Explain.Step) => _tag), ["Attempt", "Ended"])
      assert.strictEqual(
        Schema.decodeUnknownSync(Schema.toCodecJson(Explain.Explanation))(log).name,
        "UserService.Nope"
      )
    }))

  it.live("gives up at the deadline, written as people write it", () =>
    Effect.gen(function*() {
      // Takes connections, and says nothing.
      const silent = Http.createServer()
      silent.removeAllListeners("connection")
      const address = `tcp://127.0.0.1:${yield* Effect.promise(() => listen(silent))}`
      const { code, err } = yield* run("call", address, "A.B", "--deadline", "50ms")
      silent.close()
      assert.match(err, /^CallError DeadlineExceeded: A\.B: /)
      assert.strictEqual(code, 3)
    }))

  it.effect("refuses what makes no sense before it calls anybody", () =>
    Effect.gen(function*() {
      const wrong: ReadonlyArray<readonly [RegExp, ...Array<string>]> = [
        [/<address>.*tcp:\/\/host:port/, "http://localhost", "A.B"],
        [/<method>.*Service\.Method/, address, "A..B"],
        [/<payload>.*JSON/, address, "A.B", "{"],
        [/--deadline.*250ms/, address, "A.B", "--deadline", "2x"],
        [/--attempts.*1 to 10/, address, "A.B", "--attempts", "0"],
        [/argument: method/, address]
      ]
      for (const [says, ...args] of wrong) {
        const { code, err } = yield* run("call", ...args)
        assert.match(err, says)
        assert.strictEqual(code, 1)
      }
    }))

  it.effect("documents its exit codes", () =>
    Effect.gen(function*() {
      const { code, out } = yield* run("call", "--help")
      assert.match(out, /Exit codes: 0 .* 1 .*\n\s*2 .* 3 /)
      assert.strictEqual(code, 0)
    }))
})

describe("holdfast serve", () => {
  it.effect("says why it cannot listen", () =>
    Effect.gen(function*() {
      const { code, err } = yield* run("serve", "--listen", address)
      assert.strictEqual(err, `holdfast serve: cannot listen on ${address}: EADDRINUSE\n`)
      assert.strictEqual(code, 3)
    }))

  it.effect("wants ports that there are", () =>
    Effect.gen(function*() {
      for (const args of [["--listen", "tcp://127.0.0.1:65536"], ["--dashboard-port", "65536"]]) {
        const { code, err } = yield* run("serve", ...args)
        assert.match(err, /Expected: .*65535, got (tcp:\/\/127\.0\.0\.1:)?65536$/m)
        assert.strictEqual(code, 1)
      }
    }))

  it("logs connections and refused requests on standard error when it is asked to", async () => {
    const args = ["serve", "--listen", "tcp://127.0.0.1:0", "--log-level", "debug"]
    const { match, stop } = await started(/^listening on (tcp:\S+)$/m, ...args)
    await holdfast("call", match[1]!, "UserService.Nope")
    const { err } = await stop("SIGTERM")
    assert.match(err, /DEBUG .* server session with 127\.0\.0\.1:\d+ opened: accepted/)
    assert.match(err, /DEBUG .* refused a request of 127\.0\.0\.1:\d+: unimplemented/)
  })

  // The last test: it ends the server of the others.
  it("drains and exits with 0 on SIGTERM", async () => {
    const { code, out } = await server.stop("SIGTERM")
    assert.deepStrictEqual({ code, out }, { code: 0, out: `listening on ${address}\ndraining\n` })
  })
})
