/**
 * `npm run bench:docs`: puts what was measured into `docs/performance.md`, and
 * draws the curves beside it.
 *
 * Reads `reports/bench.json` (`npm run bench -- --check --json reports/bench.json`)
 * and `reports/growth.json` (`npm run bench:growth`). Only what stands between
 * `<!-- name -->` and `<!-- /name -->` is written anew; one of the two files may
 * be missing, and its parts then stay as they are.
 */
import * as Fs from "node:fs"
import * as Path from "node:path"
import type { Row } from "./harness.ts"
import { describe, type Machine } from "./machine.ts"
import { type Growth, svg } from "./plot.ts"
import type { Verdict } from "./targets.ts"

const root = Path.resolve(import.meta.dirname, "..")
const page = Path.join(root, "docs/performance.md")

interface Report {
  readonly machine: Machine
  readonly processes: number
  readonly rounds: number
  readonly rows: ReadonlyArray<Row>
  readonly verdicts: ReadonlyArray<Verdict>
}

const read = <A>(file: string): A | undefined => {
  const path = Path.join(root, "reports", file)
  return Fs.existsSync(path) ? JSON.parse(Fs.readFileSync(path, "utf8")) as A : undefined
}

const number = (value: number): string => Math.round(value).toLocaleString("en")
const cells = (values: ReadonlyArray<string>): string => `| ${values.join(" | ")} |`
const table = (head: ReadonlyArray<string>, rows: ReadonlyArray<ReadonlyArray<string>>): string =>
  [
    cells(head),
    cells(head.map((_, index) => index === 0 ? "---" : "---:")),
    ...rows.map(cells)
  ].join("\n")

/** Above one per core somebody else was measured too. */
const loaded = ({ cpu, load }: Machine): string =>
  load > Number.parseInt(cpu) ? " **The machine was loaded: absolute figures are inflated, ratios less so.**" : ""

const about = ({ machine, processes, rounds }: Report): string =>
  `${describe(machine)}. Medians of ${rounds} rounds, of ${processes} ${processes === 1 ? "process" : "processes"}.${
    loaded(machine)
  }`

/** Misses first, by how far. */
const targets = ({ verdicts }: Report): string => {
  const order = { misses: 0, near: 1, holds: 2 }
  const sorted = verdicts.toSorted((a, b) => order[a.verdict] - order[b.verdict])
  const rows = sorted.map(({ target, value, verdict }) => {
    const { figure, group, max, min, name, of } = target
    const unit = of !== undefined ? "×" : figure === "opsPerSecond" ? "/s" : " B"
    const bound = max === undefined ? `≥ ${min}${unit}` : `≤ ${max}${unit}`
    const shown = of === undefined ? `${number(value)}${unit}` : `${value.toFixed(3)}${unit}`
    const what =
      { nsPerOp: "time", opsPerSecond: "rate", bytesPerOp: "bytes", p99Micros: "p99", bodyBytes: "size" }[figure]
    const verdictText = { holds: "holds", near: "within 5 points", misses: "**misses**" }[verdict]
    const added = target.less === undefined ? "" : ", added"
    return [`${group}: ${name}, ${what}${added}${of === undefined ? "" : `, of ${of}`}`, shown, bound, verdictText]
  })
  const held = verdicts.filter(({ verdict }) => verdict === "holds").length
  return `${held} of ${verdicts.length} hold as they stand.\n\n${table(["figure", "measured", "bound", ""], rows)}`
}

const groupTable = (rows: ReadonlyArray<Row>): string => {
  const spread = ({ spread }: Row) => spread === undefined ? "" : `±${(spread * 100).toFixed(0)} %`
  if (rows.some(({ p99Micros }) => p99Micros !== undefined)) {
    return table(
      ["", "calls/s", "spread", "p50 µs", "p99 µs", "client CPU µs"],
      rows.map((row) => [
        row.name,
        number(row.opsPerSecond!),
        spread(row),
        number(row.p50Micros!),
        number(row.p99Micros!),
        row.cpuMicrosPerOp!.toFixed(2)
      ])
    )
  }
  if (rows.every(({ nsPerOp }) => nsPerOp === undefined)) {
    return table(["", "bytes each"], rows.map((row) => [row.name, number(row.bytesPerOp!)]))
  }
  const bodies = rows.some(({ bodyBytes }) => bodyBytes !== undefined)
  return table(
    ["", "ns", "spread", "bytes allocated", ...bodies ? ["body"] : []],
    rows.map((row) => [
      row.name,
      number(row.nsPerOp!),
      spread(row),
      row.bytesPerOp === undefined ? "" : number(row.bytesPerOp),
      ...bodies ? [row.bodyBytes === undefined ? "" : number(row.bodyBytes)] : []
    ])
  )
}

const tables = ({ rows }: Report): string =>
  [...new Set(rows.map(({ group }) => group))]
    .map((group) => `### ${group}\n\n${groupTable(rows.filter((row) => row.group === group))}`)
    .join("\n\n")

const curves = ({ families, machine }: Growth): string =>
  [
    `${describe(machine)}.${loaded(machine)}`,
    ...Object.values(families).flat().map(({ id, title, x }) => `![${title} over ${x.label}](performance/${id}.svg)`)
  ].join("\n\n")

const parts: Array<readonly [name: string, text: string]> = []
const report = read<Report>("bench.json")
if (report !== undefined) {
  parts.push(["machine", about(report)], ["targets", targets(report)], ["tables", tables(report)])
}
const growth = read<Growth>("growth.json")
if (growth !== undefined) {
  const folder = Path.join(root, "docs/performance")
  Fs.rmSync(folder, { recursive: true, force: true })
  Fs.mkdirSync(folder)
  for (const chart of Object.values(growth.families).flat()) {
    Fs.writeFileSync(Path.join(folder, `${chart.id}.svg`), svg(chart))
  }
  parts.push(["curves", curves(growth)])
}
let text = Fs.readFileSync(page, "utf8")
for (const [name, part] of parts) {
  const [open, close] = [`<!-- ${name} -->`, `<!-- /${name} -->`]
  const [from, to] = [text.indexOf(open), text.indexOf(close)]
  if (from < 0 || to < from) throw new Error(`docs/performance.md has no ${open} … ${close}`)
  text = `${text.slice(0, from + open.length)}\n${part}\n${text.slice(to)}`
}
Fs.writeFileSync(page, text)
console.log(`docs/performance.md: ${parts.map(([name]) => name).join(", ") || "nothing was measured"}`)
