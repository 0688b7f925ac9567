/** The shape of the tree, as a test: what may import what, and where time and chance come from. */
import { assert, describe, it } from "@effect/vitest"
import * as Fs from "node:fs"
import * as Path from "node:path"

/** Every folder of `src`, and the folders it may import. A call travels the same arrows. */
const allowed: Readonly<Record<string, ReadonlyArray<string>>> = {
  contract: [],
  wire: ["contract"],
  policy: ["contract"],
  transport: ["contract", "wire"],
  balancer: ["contract", "policy", "transport"],
  client: ["contract", "policy", "balancer", "transport", "wire"],
  server: ["contract", "policy", "transport", "wire"],
  observe: ["contract", "policy", "balancer"],
  testing: ["contract", "wire", "policy", "transport", "balancer", "client", "server", "observe"],
  dashboard: ["contract", "policy", "observe"],
  demo: ["contract", "policy", "transport", "balancer", "client", "server", "observe", "testing", "dashboard"],
  cli: ["contract", "policy", "transport", "balancer", "client", "server", "observe", "testing", "dashboard", "demo"]
}

/** Programs, not libraries: they are run, and nobody imports them. */
const programs = ["cli", "demo"]

/** The files of `policy/internal` that know fibers or Schemas. All others are pure cores. */
const machinery = [
  "breaker.ts",
  "document.ts",
  "guard.ts",
  "loop.ts",
  "progress.ts",
  "round.ts",
  "stamp.ts",
  "table.ts"
]

/** What `import "holdfast"` must never load. */
const outsideRoot = ["cli", "demo", "dashboard", "testing"]

/** The only places where native time may be touched, and with what. Everything else asks `Clock`, `Random` or `Timer`. */
const edges: Readonly<Record<string, ReadonlyArray<string>>> = {
  "contract/Timer.ts": ["setTimeout"],
  "transport/Tcp.ts": ["setImmediate"]
}
const native = ["Date.now", "Math.random", "performance.now", "setTimeout", "setInterval", "setImmediate"]

const root = Path.resolve(import.meta.dirname, "..")
const src = Path.join(root, "src")
const read = (file: string) => Fs.readFileSync(Path.join(src, file), "utf8")
const files = Fs.readdirSync(src, { recursive: true, encoding: "utf8" })
  .map((file) => file.split(Path.sep).join("/"))
  .filter((file) => file.endsWith(".ts"))
  .toSorted()
const folders = [...new Set(files.filter((file) => file.includes("/")).map((file) => file.split("/")[0]!))]

/** The code without its comments, in which examples may mention what code may not do. */
const code = (text: string): string =>
  text.replaceAll(/\/\*[\s\S]*?\*\//g, "").replaceAll(/(^|[\s;{}(,])\/\/.*$/gm, "$1")

/** Every module specifier a file names, types and dynamic imports included. */
const specifiers = (text: string): Array<string> =>
  [
    ...text.matchAll(/^(?:import|export)\b[^"';]*?\bfrom\s*"([^"]+)"/gm),
    ...text.matchAll(/^import\s*"([^"]+)"/gm),
    ...text.matchAll(/\bimport\(\s*"([^"]+)"/g)
  ].map((match) => match[1]!)

type Graph = ReadonlyMap<string, ReadonlyArray<string>>

/** Which of our files each file imports. */
const graphOf = (specifiersOf: Graph): Graph =>
  new Map([...specifiersOf].map(([file, names]) => [
    file,
    names.filter((name) => name.startsWith(".")).map((name) => Path.posix.join(Path.posix.dirname(file), name))
  ]))

const specifiersOf = new Map(files.map((file) => [file, specifiers(code(read(file)))]))
const graph = graphOf(specifiersOf)
/** The same without imports of types, which are gone when the program runs. */
const loadedOf = new Map(files.map((file) => [
  file,
  specifiers(code(read(file)).replaceAll(/^(?:import|export) type\b[^"';]*?\bfrom\s*"[^"]+"/gm, ""))
]))
const loads = graphOf(loadedOf)
const folderOf = (file: string) => file.includes("/") ? file.split("/")[0]! : ""

/** The first import cycle, as the path that closes it. */
const cycle = (graph: Graph): ReadonlyArray<string> | undefined => {
  const done = new Set<string>()
  const visit = (file: string, path: ReadonlyArray<string>): ReadonlyArray<string> | undefined => {
    if (path.includes(file)) return [...path.slice(path.indexOf(file)), file]
    if (done.has(file)) return undefined
    for (const target of graph.get(file) ?? []) {
      const found = visit(target, [...path, file])
      if (found !== undefined) return found
    }
    done.add(file)
    return undefined
  }
  for (const file of graph.keys()) {
    const found = visit(file, [])
    if (found !== undefined) return found
  }
  return undefined
}

const reachable = (graph: Graph, from: string): ReadonlySet<string> => {
  const seen = new Set<string>()
  const visit = (file: string) => {
    if (seen.has(file)) return
    seen.add(file)
    for (const target of graph.get(file) ?? []) visit(target)
  }
  visit(from)
  return seen
}

describe("architecture", () => {
  it("sees every form of import", () => {
    const text = [
      "import * as A from \"./A.ts\"",
      "import {\n  type B,\n  b\n} from \"../b/B.ts\"",
      "import type { C } from \"./C.ts\"",
      "export * as D from \"./D.ts\"",
      "import \"./E.ts\"",
      "const f = () => import(\"./F.ts\")",
      "type G = import(\"./G.ts\").G",
      "/* import * as X from \"./X.ts\" */ // import(\"./Y.ts\")"
    ].join("\n")
    assert.deepStrictEqual(
      specifiers(code(text)).toSorted(),
      ["../b/B.ts", "./A.ts", "./C.ts", "./D.ts", "./E.ts", "./F.ts", "./G.ts"]
    )
  })

  it("every folder has a row in the table", () => {
    assert.deepStrictEqual(folders.filter((folder) => allowed[folder] === undefined), [])
  })

  it("imports point one way, from client to wire", () => {
    const wrong = [...graph].flatMap(([file, targets]) => {
      const from = folderOf(file)
      return targets
        .filter((target) => from !== "" && folderOf(target) !== from && !allowed[from]!.includes(folderOf(target)))
        .map((target) => `${file} must not import ${target}`)
    })
    assert.deepStrictEqual(wrong, [])
  })

  it("every import names a file that exists", () => {
    const wrong = [...graph].flatMap(([file, targets]) =>
      targets.filter((target) => !graph.has(target)).map((target) => `${file} imports ${target}`)
    )
    assert.deepStrictEqual(wrong, [])
  })

  it("no imports form a cycle, types included", () => {
    assert.deepStrictEqual(cycle(new Map([["a", ["b"]], ["b", ["c", "d"]], ["c", []], ["d", ["b"]]])), ["b", "d", "b"])
    assert.isUndefined(cycle(graph))
  })

  it("nobody outside a folder imports its internal files", () => {
    const wrong = [...graph].flatMap(([file, targets]) =>
      targets
        .filter((target) => target.includes("/internal/") && folderOf(target) !== folderOf(file))
        .map((target) => `${file} must not import ${target}`)
    )
    assert.deepStrictEqual(wrong, [])
  })

  it("the pure cores of the policies know no Effect, directly or through what they import", () => {
    const wrong = files
      .filter((file) => file.startsWith("policy/internal/") && !machinery.includes(Path.posix.basename(file)))
      .flatMap((file) =>
        [...reachable(loads, file)]
          .filter((target) => loadedOf.get(target)?.some((name) => name.startsWith("effect")))
          .map((target) => `${file} reaches ${target}, which imports Effect`)
      )
    assert.deepStrictEqual(wrong, [])
  })

  it("time and chance come from the environment, but for the named runtime edges", () => {
    assert.isAtMost(Object.keys(edges).length, 3)
    const used = files.flatMap((file) => {
      const text = code(read(file))
      return native.filter((word) => new RegExp(`(?<![\\w.])${word.replace(".", "\\.")}\\b`).test(text))
        .map((word) => `${file} ${word}`)
    })
    const named = Object.entries(edges).flatMap(([file, words]) => words.map((word) => `${file} ${word}`))
    assert.deepStrictEqual(used.toSorted(), named.toSorted())
  })

  it("a folder's index exports exactly its public files", () => {
    for (const folder of folders.filter((folder) => !programs.includes(folder))) {
      const modules = files
        .filter((file) => Path.posix.dirname(file) === folder && Path.posix.basename(file) !== "index.ts")
        .map((file) => Path.posix.basename(file, ".ts"))
      const statements = code(read(`${folder}/index.ts`)).split("\n").filter((line) => line.trim() !== "")
      assert.deepStrictEqual(
        statements.toSorted(),
        modules.map((name) => `export * as ${name} from "./${name}.ts"`).toSorted(),
        `${folder}/index.ts`
      )
    }
  })

  it("the root exports every folder of the library and loads nothing else", () => {
    const exported = graph.get("index.ts")!.map(folderOf)
    assert.deepStrictEqual(exported.toSorted(), folders.filter((folder) => !outsideRoot.includes(folder)))
    const loaded = [...reachable(loads, "index.ts")]
    assert.deepStrictEqual(loaded.filter((file) => outsideRoot.includes(folderOf(file))), [])
    assert.deepStrictEqual(
      loaded.filter((file) => loadedOf.get(file)?.some((name) => /opentelemetry/.test(name))),
      []
    )
  })

  it("package.json exports the root and one subpath per folder, and so closes internal", () => {
    const { exports } = JSON.parse(Fs.readFileSync(Path.join(root, "package.json"), "utf8"))
    const expected = [
      ".",
      ...folders.filter((folder) => !programs.includes(folder)).map((folder) => `./${folder}`),
      "./package.json"
    ]
    assert.deepStrictEqual(Object.keys(exports).toSorted(), expected.toSorted())
  })

  it("modules are imported by path, because a barrel costs hundreds of milliseconds to load", () => {
    const barrels = ["effect", "@effect/platform-node", "@effect/opentelemetry"]
    const wrong = [...specifiersOf].flatMap(([file, names]) =>
      names.filter((name) => barrels.includes(name)).map((name) => `${file} imports ${name}`)
    )
    assert.deepStrictEqual(wrong, [])
  })
})
