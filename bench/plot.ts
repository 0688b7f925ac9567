/** Curves as SVG: axes with labels, logarithmic where asked for, readable on light and dark pages. */
import type { Machine } from "./machine.ts"

export interface Axis {
  readonly label: string
  readonly log: boolean
}

export interface Chart {
  /** The file's name. */
  readonly id: string
  readonly title: string
  readonly x: Axis
  readonly y: Axis
  readonly series: ReadonlyArray<
    { readonly name: string; readonly points: ReadonlyArray<readonly [x: number, y: number]> }
  >
}

/** What `bench:growth` writes. */
export interface Growth {
  readonly machine: Machine
  readonly families: Readonly<Record<string, ReadonlyArray<Chart>>>
}

const [width, height] = [720, 360]
const box = { left: 76, right: 700, top: 44, bottom: 272 }

/** Told apart without colour too: each line has a dash of its own. */
const dashes = ["", "7 4", "2 3", "9 3 2 3"]
const style = `
  svg { font: 13px system-ui, sans-serif; background: #ffffff; color: #1d2733; }
  text { fill: currentColor; } .title { font-size: 15px; font-weight: 600; } .small { font-size: 12px; }
  .grid { stroke: currentColor; stroke-opacity: .15; } .axis { stroke: currentColor; stroke-opacity: .6; }
  .line { fill: none; stroke-width: 2; } .s0 { stroke: #6b7684; } .s1 { stroke: #0b62c4; } .s2 { stroke: #b3470f; } .s3 { stroke: #157347; }
  .d0 { fill: #6b7684; } .d1 { fill: #0b62c4; } .d2 { fill: #b3470f; } .d3 { fill: #157347; }
  @media (prefers-color-scheme: dark) {
    svg { background: #11161d; color: #e4e9ef; }
    .s0 { stroke: #a3aebb; } .s1 { stroke: #6cb2ff; } .s2 { stroke: #ff9d66; } .s3 { stroke: #6fd39b; }
    .d0 { fill: #a3aebb; } .d1 { fill: #6cb2ff; } .d2 { fill: #ff9d66; } .d3 { fill: #6fd39b; }
  }`

interface Scale {
  readonly at: (value: number) => number
  readonly ticks: ReadonlyArray<number>
}

/** 1, 2 and 5 of each power of ten that lie inside; fewer where they would crowd. */
const logTicks = (low: number, high: number): ReadonlyArray<number> => {
  const [from, to] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))]
  const steps = to - from > 3 ? [1] : [1, 2, 5]
  const ticks: Array<number> = []
  for (let power = from; power <= to; power++) for (const step of steps) ticks.push(step * 10 ** power)
  return ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001)
}

const linearTicks = (high: number): ReadonlyArray<number> => {
  const rough = high / 5
  const power = 10 ** Math.floor(Math.log10(rough))
  const step = [1, 2, 5, 10].find((step) => step * power >= rough)! * power
  return Array.from({ length: Math.floor(high / step + 1e-9) + 1 }, (_, i) => i * step)
}

const scale = ({ log }: Axis, values: ReadonlyArray<number>, from: number, to: number): Scale => {
  const [least, most] = [Math.min(...values), Math.max(...values)]
  if (!log) {
    const high = most * 1.08
    return { at: (value) => from + (to - from) * value / high, ticks: linearTicks(high) }
  }
  // A curve that is nearly flat is shown over a decade, so that its noise is not a mountain.
  const middle = Math.sqrt(least * most)
  const low = Math.min(least / 1.15, middle / 3.2)
  const high = Math.max(most * 1.15, middle * 3.2)
  const span = Math.log(high / low)
  return { at: (value) => from + (to - from) * Math.log(value / low) / span, ticks: logTicks(low, high) }
}

const short = (value: number): string => {
  const [by, unit] = value >= 1e6 ? [1e6, "M"] : value >= 1e3 ? [1e3, "k"] : [1, ""]
  return `${Number((value / by).toPrecision(3))}${unit}`
}
const escaped = (text: string): string => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")
const px = (value: number): string => String(Math.round(value * 10) / 10)

export const svg = ({ series, title, x, y }: Chart): string => {
  const points = series.flatMap(({ points }) => points)
  const across = scale(x, points.map(([x]) => x), box.left, box.right)
  const up = scale(y, points.map(([, y]) => y), box.bottom, box.top)
  const out: Array<string> = []
  for (const tick of across.ticks) {
    const at = px(across.at(tick))
    out.push(`<line class="grid" x1="${at}" x2="${at}" y1="${box.top}" y2="${box.bottom}"/>`)
    out.push(`<text class="small" x="${at}" y="${box.bottom + 18}" text-anchor="middle">${short(tick)}</text>`)
  }
  for (const tick of up.ticks) {
    const at = px(up.at(tick))
    out.push(`<line class="grid" x1="${box.left}" x2="${box.right}" y1="${at}" y2="${at}"/>`)
    out.push(
      `<text class="small" x="${box.left - 8}" y="${px(up.at(tick) + 4)}" text-anchor="end">${short(tick)}</text>`
    )
  }
  out.push(`<path class="axis" fill="none" d="M${box.left} ${box.top}V${box.bottom}H${box.right}"/>`)
  series.forEach(({ name, points }, index) => {
    const style = index % 4
    const path = points.map(([x, y], i) => `${i === 0 ? "M" : "L"}${px(across.at(x))} ${px(up.at(y))}`).join("")
    out.push(`<path class="line s${style}" stroke-dasharray="${dashes[style]}" d="${path}"/>`)
    for (const [x, y] of points) {
      out.push(
        `<circle class="d${style}" r="3" cx="${px(across.at(x))}" cy="${px(up.at(y))}"><title>${escaped(name)}: ${
          short(y)
        } at ${short(x)}</title></circle>`
      )
    }
    const left = box.left + (index % 3) * 210
    const top = 328 + Math.floor(index / 3) * 18
    out.push(
      `<path class="line s${style}" stroke-dasharray="${dashes[style]}" d="M${left} ${top - 4}h28"/>`,
      `<text class="small" x="${left + 36}" y="${top}">${escaped(name)}</text>`
    )
  })
  const label = `${title}, ${y.label}, over ${x.label}`
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-label="${
      escaped(label)
    }">`,
    `<style>${style}\n</style>`,
    `<text class="title" x="${box.left}" y="24">${escaped(title)}</text>`,
    `<text class="small" x="${box.left - 8}" y="38" text-anchor="end">${escaped(y.label)}</text>`,
    `<text class="small" x="${(box.left + box.right) / 2}" y="${box.bottom + 38}" text-anchor="middle">${
      escaped(x.label)
    }</text>`,
    ...out,
    "</svg>",
    ""
  ].join("\n")
}
