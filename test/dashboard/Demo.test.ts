/** What `npm start` shows besides its screen: the addresses it prints, and what is there while its servers fail. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Sse from "effect/encoding/Sse"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as HttpClient from "effect/http/HttpClient"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import * as Snapshot from "../../src/observe/Snapshot.ts"
import { started } from "../cli/process.ts"

/** The demo, from the line that `pattern` matches until the test is over. */
const demo = (pattern: RegExp, ...args: ReadonlyArray<string>) =>
  Effect.acquireRelease(
    Effect.promise(() => started(pattern, "demo", "--seconds", "60", "--rate", "50", ...args)),
    ({ stop }) => Effect.promise(() => stop("SIGINT"))
  )

const decode = Schema.decodeUnknownEffect(Schema.fromJsonString(Snapshot.Taken))

const directory = Effect.acquireRelease(
  Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "holdfast-"))),
  (directory) => Effect.sync(() => Fs.rmSync(directory, { recursive: true }))
)

describe("the demo's dashboard", () => {
  it.live("is where the first lines say, and shows both clients; the resilient one's metrics are beside it", () =>
    Effect.gen(function*() {
      const { match } = yield* demo(/^dashboard {2}(\S+)\nmetrics {4}(\S+)\n/, "--dashboard-port", "0")
      const [, url, metrics] = match as unknown as [string, string, string]
      const response = yield* HttpClient.get(`${url}holdfast/events`)
      const calling = yield* response.stream.pipe(
        Stream.decodeText,
        Stream.pipeThroughChannel(Sse.decode<any, unknown>()),
        Stream.filter(({ event }) => event === "snapshot"),
        Stream.mapEffect(({ data }) => decode(data)),
        Stream.filter(({ parts }) => parts.length === 2 && parts.every(({ calls }) => calls.total > 0)),
        Stream.take(1),
        Stream.runCollect
      )
      const shown = calling[0]!.parts.map(({ endpoints, name }) => [
        name,
        endpoints.length,
        new Set(endpoints.map(({ breaker }) => breaker?.state))
      ])
      assert.deepStrictEqual(shown, [
        ["naive", 5, new Set([undefined])],
        ["resilient", 5, new Set(["Closed"])]
      ])
      const text = yield* Effect.flatMap(HttpClient.get(metrics), (scraped) => scraped.text)
      assert.match(text, /^circuit_breaker_state\{.*\} 1$/m)
    }).pipe(Effect.scoped, Effect.provide(FetchHttpClient.layer)))

  it.live("is not there when it is not wanted", () =>
    Effect.asVoid(Effect.scoped(demo(/^starting 5 server processes\n/, "--no-dashboard"))))
})

describe("the demo's log", () => {
  it.live("is the file it is told: what the resilient client has to say", () =>
    Effect.gen(function*() {
      const file = Path.join(yield* directory, "demo.log")
      yield* Effect.scoped(demo(/^log {8}\S+\n[\s\S]*^ 0:\d\d /m, "--no-dashboard", "--log", file))
      const lines = Fs.readFileSync(file, "utf8").trimEnd().split("\n")
      assert.lengthOf(lines.filter((line) => / level=INFO .* of users was added: discovery" /.test(line)), 5)
    }).pipe(Effect.scoped))
})

describe("serve's dashboard", () => {
  it.live("is there when it is asked for, and ends with it", () =>
    Effect.gen(function*() {
      const lines = /^listening on \S+\ndashboard {2}(\S+)\nmetrics {4}(\S+)\n/
      const args = ["serve", "--listen", "tcp://127.0.0.1:0", "--dashboard-port", "0"]
      const { match, stop } = yield* Effect.promise(() => started(lines, ...args))
      const text = (url: string) => Effect.flatMap(HttpClient.get(url), (response) => response.text)
      const { parts } = yield* Effect.flatMap(text(`${match[1]}holdfast/snapshot`), decode)
      assert.deepStrictEqual(parts.map(({ name }) => name), ["server"])
      assert.include(yield* text(match[2]!), "# TYPE")
      assert.strictEqual((yield* Effect.promise(() => stop("SIGTERM"))).code, 0)
    }).pipe(Effect.provide(FetchHttpClient.layer)))
})
