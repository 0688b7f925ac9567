/**
 * How much longer `import "holdfast"` takes than `import "effect"`, from the
 * built `dist`, in fresh processes.
 *
 * `node scripts/startup.ts [--rounds 15] [--limit 150]`
 *
 * The two are started in turn, so that a noisy neighbour disturbs both. Prints
 * both medians and ends with exit code 1 when the difference is over the limit.
 */
import { execFileSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { pathToFileURL } from "node:url"
import { parseArgs } from "node:util"

const { values } = parseArgs({ options: { rounds: { type: "string" }, limit: { type: "string" } } })
const numberOf = (name: "rounds" | "limit", orElse: number): number => {
  const value = values[name] === undefined ? orElse : Number(values[name])
  if (!(Number.isInteger(value) && value >= 1)) throw new RangeError(`--${name} must be an integer >= 1, got ${value}`)
  return value
}
const rounds = numberOf("rounds", 15)
const limitMillis = numberOf("limit", 150)

const root = Path.resolve(import.meta.dirname, "..")
const dist = Path.join(root, "dist/index.js")
const newest = (folder: string): number =>
  Math.max(
    ...Fs.readdirSync(folder, { recursive: true, encoding: "utf8" })
      .map((file) => Fs.statSync(Path.join(folder, file)).mtimeMs)
  )
if (!Fs.existsSync(dist) || newest(Path.join(root, "src")) > newest(Path.join(root, "dist"))) {
  console.log("building dist")
  execFileSync(process.execPath, [Path.join(root, "scripts/clean.ts"), "dist"], { cwd: root, stdio: "inherit" })
  execFileSync("node_modules/.bin/tsc", ["-p", "tsconfig.build.json"], { cwd: root, stdio: "inherit" })
}

/** Milliseconds that a fresh process takes to import. */
const importing = (specifier: string): number => {
  const program = `const from = performance.now(); await import(${
    JSON.stringify(specifier)
  }); console.log(performance.now() - from)`
  return Number(execFileSync(process.execPath, ["--input-type=module", "-e", program], { cwd: root, encoding: "utf8" }))
}
const median = (samples: ReadonlyArray<number>): number => samples.toSorted((a, b) => a - b)[samples.length >> 1]!

const [theirs, ours]: [Array<number>, Array<number>] = [[], []]
const holdfast = pathToFileURL(dist).href
// What the disk has to read it reads now.
importing("effect")
importing(holdfast)
for (let round = 0; round < rounds; round++) {
  theirs.push(importing("effect"))
  ours.push(importing(holdfast))
}
const [effect, own] = [median(theirs), median(ours)]
const more = own - effect
const shown = `import "effect" ${effect.toFixed(0)} ms, import "holdfast" ${own.toFixed(0)} ms: ${
  more.toFixed(0)
} ms more`
console.log(`${shown}, at most ${limitMillis} allowed (medians of ${rounds})`)
if (more > limitMillis) process.exitCode = 1
