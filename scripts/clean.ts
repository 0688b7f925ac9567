/** Removes the folders named on the command line: `node scripts/clean.ts dist coverage`. */
import * as Fs from "node:fs"
import * as Path from "node:path"

const root = Path.resolve(import.meta.dirname, "..")
for (const name of process.argv.slice(2)) {
  const target = Path.resolve(root, name)
  // A slip such as `clean.ts ..` must not take anything along that is not ours.
  if (!target.startsWith(root + Path.sep)) throw new RangeError(`clean: ${name} is not inside ${root}`)
  Fs.rmSync(target, { recursive: true, force: true })
}
