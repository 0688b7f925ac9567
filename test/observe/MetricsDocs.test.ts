/** What docs/observability.md says of events, metrics and lines of log, against the code, both ways. */
import { assert, describe, it } from "@effect/vitest"
import { Console, Effect } from "effect"
import * as Fs from "node:fs"
import * as Path from "node:path"
import type * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Metrics from "../../src/observe/Metrics.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import { logged } from "../example/observability/logging.ts"

const root = Path.resolve(import.meta.dirname, "../..")
const read = (path: string) => Fs.readFileSync(Path.join(root, path), "utf8")
const chapters = new Map(
  read("docs/observability.md").split(/^## /m).map((text) => [text.slice(0, text.indexOf("\n")), text])
)
/** The cells of every row of a chapter's table. */
const rows = (chapter: string) =>
  [...chapters.get(chapter)!.matchAll(/^\| (.*) \|$/gm)].map((match) => match[1]!.split(" | "))
const quoted = (text: string) => [...text.matchAll(/`([^`]+)`/g)].map((match) => match[1]!)

/** Every event, and what it says besides its tag and its time: the compiler keeps it complete. */
const events: {
  readonly [Tag in CallEvent.CallEvent["_tag"]]: Readonly<
    Record<Exclude<keyof Extract<CallEvent.CallEvent, { readonly _tag: Tag }>, "_tag" | "atMillis">, true>
  >
} = {
  CallStarted: { call: true },
  AttemptStarted: { call: true, endpoint: true },
  AttemptEnded: { call: true, endpoint: true, outcome: true, error: true, interrupted: true, durationMillis: true },
  RetryScheduled: { call: true, policy: true, delayMillis: true, retryAfterMillis: true, error: true },
  HedgeStarted: { call: true, policy: true, afterMillis: true },
  CallEnded: { call: true, attempts: true, outcome: true, error: true, interrupted: true, durationMillis: true },
  Rejected: { call: true, policy: true, reason: true, error: true, state: true },
  QueueLeft: { call: true, policy: true, how: true, waitedMillis: true },
  Repicked: { call: true, target: true, endpoint: true, error: true },
  Transition: { policy: true, from: true, to: true, why: true },
  LimitMoved: { policy: true, from: true, to: true, why: true },
  BudgetMoved: { call: true, policy: true, change: true, balance: true },
  Substituted: { call: true, policy: true, how: true, ageMillis: true },
  Reloaded: { policy: true, accepted: true, why: true },
  Warning: { policy: true, why: true },
  EndpointChanged: { target: true, endpoint: true, change: true, why: true },
  SessionChanged: { side: true, peer: true, change: true, why: true, stats: true },
  RequestRefused: { peer: true, method: true, reason: true, why: true }
}

describe("docs/observability.md", () => {
  it("lists every event and what it says", () => {
    assert.deepStrictEqual(
      rows("Events").slice(1).map(([tag, , says]) => [quoted(tag!)[0], quoted(says!).toSorted()]),
      Object.entries(events).map(([tag, fields]) => [tag, Object.keys(fields).toSorted()])
    )
  })

  it("lists every metric with its kind, unit, labels and description", () => {
    assert.deepStrictEqual(
      rows("Metrics").slice(1).map(([name, kind, labels, description]) => ({
        name: quoted(name!)[0],
        kind: kind!,
        labels: quoted(labels!),
        description: description!
      })),
      Object.values(Metrics.list).map(({ constant = {}, description, kind, labels, name, unit }) => ({
        name,
        kind: unit === undefined ? kind : `${kind}, ${unit}`,
        labels: [...Object.entries(constant).flat(), ...labels],
        description
      }))
    )
  })

  it("names every annotation of a line of log, and no other", () => {
    const source = read("src/observe/Logging.ts").replaceAll(/\/\*[\s\S]*?\*\//g, "")
    const used = new Set([...source.matchAll(/"((?:holdfast|rpc)\.[a-z]+)"/g)].map((match) => match[1]!))
    const prose = chapters.get("Logging")!.replaceAll(/^```[\s\S]*?^```$/gm, "")
    const named = new Set(quoted(prose).filter((text) => /^(?:holdfast|rpc)\.[a-z]+$/.test(text)))
    assert.deepStrictEqual([...named].toSorted(), [...used].toSorted())
  })

  it("quotes its examples word for word", () => {
    for (const chapter of ["Metrics", "Logging"]) {
      const [, file, block] = chapters.get(chapter)!.match(/<!-- (\S+) -->\n```ts\n([\s\S]*?)```/)!
      assert.strictEqual(block, read(file!))
    }
  })

  it.effect("has an example that logs a circuit that opens, as JSON", () =>
    Effect.gen(function*() {
      const lines: Array<string> = []
      const console = { ...globalThis.console, log: (line: string) => lines.push(line) }
      yield* CircuitBreaker.make({ name: "search" }).pipe(
        Effect.flatMap((breaker) => breaker.isolate),
        Effect.scoped,
        Effect.provide(logged),
        Effect.provideService(Console.Console, console)
      )
      const { annotations, level } = JSON.parse(lines[0]!)
      assert.strictEqual(level, "WARN")
      assert.deepInclude(annotations, {
        "holdfast.event": "Transition",
        "holdfast.policy": "search",
        "holdfast.to": "ForcedOpen"
      })
    }))
})

describe("the list of metrics", () => {
  const all = Object.values(Metrics.list)

  it("names each once, as Prometheus wants it named", () => {
    assert.strictEqual(new Set(all.map(({ name }) => name)).size, all.length)
    for (const { description, kind, name, unit } of all) {
      assert.strictEqual(name.endsWith("_total"), kind === "counter", name)
      if (unit !== undefined) {
        assert.match(Metrics.prometheusName(name), unit === "s" ? /[._]seconds$/ : /_bytes_total$/)
      }
      assert.match(description, /^[A-Z][^.]*$/, name)
    }
  })

  it("has buckets from microseconds to minutes, in order", () => {
    for (const { boundaries, kind, name } of all) {
      assert.strictEqual(boundaries !== undefined, kind === "histogram", name)
      if (boundaries === undefined) continue
      assert.deepStrictEqual(boundaries, boundaries.toSorted((a, b) => a - b))
      assert.isBelow(boundaries[0]!, 0.0001)
      assert.isAtLeast(boundaries.at(-1)!, 120)
    }
  })
})
