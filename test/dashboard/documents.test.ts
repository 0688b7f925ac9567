/** What docs/observability.md says of the snapshot and the dashboard, checked against the code. */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as Dashboard from "../../src/dashboard/Dashboard.ts"
import * as Snapshot from "../../src/observe/Snapshot.ts"
import { watched } from "../example/observability/dashboard.ts"

const root = Path.resolve(import.meta.dirname, "../..")
const read = (file: string) => Fs.readFileSync(Path.join(root, file), "utf8")
const chapter = read("docs/observability.md").split(/^## /m).find((text) => text.startsWith("Snapshot and dashboard"))!

/** The fields that the row of the last table names. */
const row = (of: string): ReadonlyArray<string> => {
  const line = chapter.split("\n").find((line) => line.startsWith(`| ${of} |`))!
  return [...line.matchAll(/`(\w+)`/g)].map((match) => match[1]!).toSorted()
}
const fields = (schema: { readonly fields: object }): ReadonlyArray<string> => Object.keys(schema.fields).toSorted()
const both = (...lists: ReadonlyArray<ReadonlyArray<string>>) => lists.flat().toSorted()

describe("docs/observability.md, Snapshot and dashboard", () => {
  it("names every field of a snapshot", () => {
    const figures = row("figures")
    assert.deepStrictEqual(fields(Snapshot.Taken), row("everything"))
    assert.deepStrictEqual(fields(Snapshot.Part), row("a part"))
    assert.deepStrictEqual(fields(Snapshot.Calls), both(row("calls, a method"), figures))
    assert.deepStrictEqual(fields(Snapshot.Method), both(row("calls, a method"), figures, ["name"]))
    assert.deepStrictEqual(fields(Snapshot.Endpoint), both(row("an endpoint"), figures))
    assert.deepStrictEqual(fields(Snapshot.Breaker), row("a breaker"))
    assert.deepStrictEqual(fields(Snapshot.Budget), row("a budget"))
    assert.deepStrictEqual(fields(Snapshot.PolicyState), row("a policy"))
    assert.deepStrictEqual(fields(Snapshot.Event), row("`event`").filter((name) => name !== "event"))
  })

  it("quotes its example word for word", () => {
    const [, file, block] = /<!-- (test\/example\/observability\/\S+) -->\n```ts\n([\s\S]*?)```/.exec(chapter)!
    assert.strictEqual(block, read(file!))
  })

  it.live("has an example that shows the page and the metrics", () =>
    Effect.gen(function*() {
      const { url } = yield* Dashboard.Dashboard
      const get = (path: string) => Effect.promise(() => fetch(`${url}${path}`).then((response) => response.text()))
      assert.include(yield* get(""), "<title>holdfast</title>")
      assert.include(yield* get("holdfast/snapshot"), "\"name\":\"application\"")
      assert.include(yield* get("metrics"), "# TYPE")
    }).pipe(Effect.provide(watched(0))))
})
