/** What a bundler keeps of us: a program that uses one policy does not carry a transport. */
import { assert, describe, it } from "@effect/vitest"
import * as Path from "node:path"
import { rolldown } from "rolldown"

const index = Path.resolve(import.meta.dirname, "../src/index.ts")

/** The modules of ours and of Node that are left of a program, and the size of what is ours. */
const bundle = async (program: string) => {
  const entry = "\0program"
  const build = await rolldown({
    input: "program",
    // Effect's own modules are as many as it likes: they are not what is asked here.
    external: [/^effect/, /^@effect\//, /^node:/],
    treeshake: true,
    logLevel: "silent",
    plugins: [{
      name: "program",
      resolveId: (id) => id === "program" ? entry : id === "holdfast" ? index : null,
      load: (id) => id === entry ? program : null
    }]
  })
  const { output } = await build.generate({ format: "esm", minify: true })
  await build.close()
  const { code, imports, modules } = output[0]
  const kept = Object.entries(modules).filter(([, { renderedLength }]) => renderedLength > 0).map(([id]) => id)
  return { bytes: Buffer.byteLength(code), imports, files: kept.map((id) => Path.relative(Path.dirname(index), id)) }
}

describe("a bundle", () => {
  it("of a program that uses only Retry has no transport, no server and nothing of Node", async () => {
    const { bytes, files, imports } = await bundle(
      `import { Retry } from "holdfast"; console.log(Retry.make({ attempts: 3 }))`
    )
    assert.includeMembers(files, ["policy/Retry.ts"])
    for (const folder of ["transport", "wire", "server", "client", "balancer", "observe"]) {
      assert.deepStrictEqual(files.filter((file) => file.startsWith(`${folder}/`)), [], folder)
    }
    assert.deepStrictEqual(imports.filter((name) => name.startsWith("node:") || name.startsWith("@effect/")), [])
    assert.isBelow(bytes, 40_000)
  })

  it("of a program that uses TCP has the transport: the other test sees what it looks for", async () => {
    const { files, imports } = await bundle(`import { Tcp } from "holdfast"; console.log(Tcp.layer())`)
    assert.includeMembers(files, ["transport/Tcp.ts"])
    assert.include(imports, "node:net")
  })
})
