/** The figures of `targets.json`, compared with what was measured. */
import * as Fs from "node:fs"
import { median, type Row } from "./harness.ts"

type Figure = "nsPerOp" | "opsPerSecond" | "bytesPerOp" | "p99Micros" | "bodyBytes"

/** A bound on a figure of one contender, as a share of another's. `less` is taken off both first: the baseline. */
export interface Target {
  readonly group: string
  readonly name: string
  readonly figure: Figure
  readonly max?: number
  readonly min?: number
  readonly of?: string
  readonly less?: { readonly name: string; readonly of?: string }
}

export interface Verdict {
  readonly target: Target
  readonly value: number
  /** Whether the bound is kept; `near` within the 5 points by which a shared machine moves. */
  readonly verdict: "holds" | "near" | "misses"
}

export const targets: ReadonlyArray<Target> = JSON.parse(
  Fs.readFileSync(new URL("targets.json", import.meta.url), "utf8")
)

const points = 0.05

const valueOf = ({ figure, group, less, name, of }: Target, rows: ReadonlyArray<Row>): number | undefined => {
  const find = (name: string): number | undefined =>
    rows.find((row) => row.group === group && row.name === name)?.[figure]
  const own = find(name)
  const other = of === undefined ? 1 : find(of)
  const ownLess = less === undefined ? 0 : find(less.name)
  const otherLess = less?.of === undefined ? 0 : find(less.of)
  if (own === undefined || other === undefined || ownLess === undefined || otherLess === undefined) return undefined
  return (own - ownLess) / (other - otherLess)
}

/** The median over runs of what each target bounds; targets of groups that were not measured are left out. */
export const compare = (runs: ReadonlyArray<ReadonlyArray<Row>>): ReadonlyArray<Verdict> =>
  targets.flatMap((target) => {
    const values = runs.map((rows) => valueOf(target, rows)).filter((value) => value !== undefined)
    if (values.length === 0) return []
    const value = median(values)
    // A bound in bytes moves by a share of itself.
    const room = target.of === undefined ? points * (target.max ?? 0) : points
    const over = target.max !== undefined ? value - target.max : target.min! - value
    return [{ target, value, verdict: over <= 0 ? "holds" : over <= room ? "near" : "misses" }]
  })

export const show = ({ target, value, verdict }: Verdict): string => {
  const { figure, group, max, min, name, of } = target
  const bound = max === undefined ? `at least ${min}` : `at most ${max}`
  const what = figure === "nsPerOp" ? "" : ` ${figure}`
  const shown = of === undefined ? `${Math.round(value)}` : value.toFixed(3)
  return `${verdict.padEnd(6)} ${group}: ${name}${what}${of === undefined ? "" : ` / ${of}`}: ${shown}, ${bound}`
}
