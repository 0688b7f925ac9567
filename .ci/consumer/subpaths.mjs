// Every subpath loads, and what the exports map closes stays closed.
import assert from "node:assert"
import * as Fs from "node:fs"

const { exports } = JSON.parse(Fs.readFileSync("node_modules/holdfast/package.json", "utf8"))
const paths = Object.keys(exports).filter((path) => !path.endsWith(".json"))
for (const path of paths) {
  const names = Object.keys(await import(`holdfast${path.slice(1)}`))
  assert(names.length > 0, `${path} exports nothing`)
}
for (const path of ["policy/internal/guard", "policy/internal/guard.js", "dist/index.js", "policy/Timeout"]) {
  await assert.rejects(import(`holdfast/${path}`), { code: "ERR_PACKAGE_PATH_NOT_EXPORTED" }, path)
}
console.log(`${paths.length} subpaths load`)
