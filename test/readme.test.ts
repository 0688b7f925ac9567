/**
 * What the documents say, checked: every block of TypeScript in the README is a
 * file under `test/example/`, character by character, and every example runs
 * and gives what the README says it gives. Links lead somewhere, and commands
 * exist.
 */
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Logger } from "effect"
import { HttpClient, HttpClientResponse } from "effect/http"
import { TestClock } from "effect/testing"
import { CallError, CircuitBreaker } from "holdfast"
import { Dashboard } from "holdfast/dashboard"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { greeting } from "./example/client.ts"
import { User, UserNotFound } from "./example/contract.ts"
import { describe as describeUser } from "./example/errors.ts"
import { observed } from "./example/observed.ts"
import { makeShop } from "./example/policies/http.ts"
import { makeGuard } from "./example/policy.ts"

const root = Path.resolve(import.meta.dirname, "..")
const read = (path: string) => Fs.readFileSync(Path.join(root, path), "utf8")
const readme = read("README.md")
const examples = Fs.readdirSync(Path.join(root, "test/example")).filter((file) => file.endsWith(".ts"))

describe("README", () => {
  it("quotes every example word for word, and no other code", () => {
    const quoted = [...readme.matchAll(/<!-- test\/example\/(\S+) -->\n```ts\n([\s\S]*?)```/g)]
    for (const [, file, block] of quoted) assert.strictEqual(block, read(`test/example/${file}`), file)
    assert.deepStrictEqual(quoted.map(([, file]) => file).toSorted(), examples.toSorted())
    assert.lengthOf(readme.match(/^```ts/gm) ?? [], quoted.length)
  })

  it("names only commands that package.json has", () => {
    const { scripts } = JSON.parse(read("package.json"))
    const named = ["README.md", "CONTRIBUTING.md"]
      .flatMap((file) => [...read(file).matchAll(/(?:^|`|&& )npm (?:run )?([a-z]+)/gm)])
      .map((match) => match[1]!)
      .filter((name) => !["ci", "exec", "install"].includes(name))
    assert.isAbove(named.length, 5)
    assert.deepStrictEqual(named.filter((name) => scripts[name] === undefined), [])
  })

  it("and its neighbours link to files that exist", () => {
    const documents = ["", "docs", "docs/decisions"].flatMap((folder) =>
      Fs.readdirSync(Path.join(root, folder)).filter((file) => file.endsWith(".md")).map((file) =>
        Path.join(folder, file)
      )
    )
    const dead = documents.flatMap((document) =>
      [...read(document).matchAll(/\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)/g)]
        .map((match) => match[1]!)
        .filter((target) => !Fs.existsSync(Path.join(root, Path.dirname(document), target)))
        .map((target) => `${document}: ${target}`)
    )
    assert.deepStrictEqual(dead, [])
  })

  it("and the changelog link only to what the package has too", () => {
    const files: ReadonlyArray<string> = JSON.parse(read("package.json")).files
    const missing = ["README.md", "CHANGELOG.md"].flatMap((document) =>
      [...read(document).matchAll(/\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)/g)]
        .map((match) => match[1]!)
        // npm packs a licence and a README by itself.
        .filter((target) => target !== "LICENSE" && !files.some((file) => `${target}/`.startsWith(`${file}/`)))
        .map((target) => `${document}: ${target}`)
    )
    assert.deepStrictEqual(missing, [])
  })

  it("and CONTRIBUTING name only folders and files of tests that are there", () => {
    const named = ["README.md", "CONTRIBUTING.md"].flatMap((file) => [...read(file).matchAll(/`(test\/[\w./]+)`/g)])
    assert.deepStrictEqual(named.map((match) => match[1]!).filter((path) => !Fs.existsSync(Path.join(root, path))), [])
  })

  it.live("calls two servers over TCP and gets the user's name", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* greeting, "Hello Ada")
    }))

  it.live("logs a circuit that opens, and shows the calls on the page and at /metrics", () =>
    Effect.gen(function*() {
      const lines: Array<unknown> = []
      const logger = Logger.make<unknown, void>(({ message }) => lines.push(message))
      yield* Effect.gen(function*() {
        assert.strictEqual(yield* greeting, "Hello Ada")
        const breaker = yield* CircuitBreaker.make({ name: "search" })
        yield* breaker.isolate
        const { url } = yield* Dashboard.Dashboard
        const get = (path: string) => Effect.promise(() => fetch(`${url}${path}`).then((response) => response.text()))
        assert.match(yield* get("metrics"), /^holdfast_calls_total\{.*method="UserService.GetUserInfo".*\} 1$/m)
        assert.include(yield* get("holdfast/snapshot"), "UserService.GetUserInfo")
      }).pipe(Effect.scoped, Effect.provide([observed(0), Logger.layer([logger])]))
      assert.match(lines.join("\n"), /^search went from Closed to ForcedOpen: /m)
    }))

  it.effect("tells a page what became of a call", () =>
    Effect.gen(function*() {
      const noEndpoint = CallError.fail({ _tag: "NoEndpoint", target: "users", detail: "none", sent: "no" })
      const lost = CallError.fail({ _tag: "ConnectionLost", target: "users", detail: "reset", sent: "maybe" })
      assert.strictEqual(yield* describeUser(Effect.succeed(new User({ id: 1001, name: "Ada" }))), "Ada")
      assert.strictEqual(yield* describeUser(Effect.fail(new UserNotFound({ id: 7 }))), "there is no user 7")
      assert.strictEqual(yield* describeUser(noEndpoint), "users is down, come back later")
      assert.strictEqual(
        yield* describeUser(lost),
        "no answer: users: connection lost after the request was written: reset"
      )
    }))

  it.effect("asks again when the first attempt hangs, and only within the deadline", () =>
    Effect.gen(function*() {
      const guard = yield* makeGuard
      let sent = 0
      const search = Effect.suspend(() => ++sent === 1 ? Effect.never : Effect.succeed("found"))
      const found = yield* Effect.forkChild(guard(search))
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(yield* Fiber.join(found), "found")
      assert.strictEqual(sent, 2)

      const silent = yield* Effect.forkChild(Effect.flip(guard(Effect.never)))
      yield* TestClock.adjust("2 seconds")
      const { reason } = yield* Fiber.join(silent)
      assert.include(["DeadlineExceeded", "RetriesExhausted"], reason._tag)
    }))
})

describe("docs/policies.md", () => {
  it("quotes its example word for word", () => {
    const [, block] = /<!-- test\/example\/policies\/http\.ts -->\n```ts\n([\s\S]*?)```/.exec(read("docs/policies.md"))!
    assert.strictEqual(block, read("test/example/policies/http.ts"))
  })

  it.effect("asks again over HTTP after a 503", () =>
    Effect.gen(function*() {
      let sent = 0
      const unwell = HttpClient.make((request) =>
        Effect.sync(() => HttpClientResponse.fromWeb(request, new Response(null, { status: ++sent < 3 ? 503 : 200 })))
      )
      const shop = yield* Effect.provideService(makeShop, HttpClient.HttpClient, unwell)
      const got = yield* Effect.forkChild(shop.get("http://shop.test/carts/1"))
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* Fiber.join(got)).status, 200)
      assert.strictEqual(sent, 3)
    }))
})
