/** What a run was measured on. */
import * as Fs from "node:fs"
import * as Os from "node:os"

export interface Machine {
  readonly node: string
  readonly flags: string
  readonly cpu: string
  /** Load over the last minute when the run began: above the number of cores, somebody else is measured too. */
  readonly load: number
  readonly date: string
  readonly versions: Readonly<Record<string, string>>
}

const peers = ["effect", "cockatiel", "opossum", "@grpc/grpc-js", "undici"]

const version = (name: string): string =>
  JSON.parse(Fs.readFileSync(new URL(`../node_modules/${name}/package.json`, import.meta.url), "utf8")).version

export const machine = (): Machine => ({
  node: process.version,
  flags: process.execArgv.join(" "),
  cpu: `${Os.cpus().length} x ${Os.cpus()[0]?.model ?? "?"}`,
  load: Os.loadavg()[0] ?? 0,
  date: new Date().toISOString().slice(0, 10),
  versions: Object.fromEntries(peers.map((name) => [name, version(name)]))
})

export const describe = ({ cpu, date, flags, load, node, versions }: Machine): string =>
  [
    `Node ${node} (${flags || "no flags"})`,
    cpu,
    `load ${load.toFixed(1)}`,
    date,
    ...Object.entries(versions).map(([name, version]) => `${name} ${version}`)
  ].join(", ")
