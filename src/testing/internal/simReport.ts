/**
 * What simulations came to, for people: a table for a terminal, charts as SVG,
 * and a page that has both and needs no network. Light and dark, as the reader's
 * system is.
 *
 * Several results are compared: they should be of one situation and seed.
 */
import type { Result, Row } from "./simResult.ts"
import { type State, states } from "./simStats.ts"

const percent = (share: number | undefined): string =>
  share === undefined ? "–" : `${share >= 0.9995 && share < 1 ? (share * 100).toFixed(3) : (share * 100).toFixed(1)} %`
const duration = (millis: number): string =>
  millis < 1000
    ? `${millis < 10 ? millis.toFixed(1) : Math.round(millis)} ms`
    : millis < 120_000
    ? `${(millis / 1000).toFixed(millis < 10_000 ? 2 : 1)} s`
    : `${(millis / 60_000).toFixed(1)} min`
const number = (value: number): string => Math.round(value).toString().replaceAll(/\B(?=(\d{3})+(?!\d))/g, ",")
const count = (n: number, what: string): string => `${number(n)} ${what}${n === 1 ? "" : "s"}`

// The table ----------------------------------------------------------------------------------------

/** A figure of each result, and which direction is better, if one is. */
interface Figure {
  readonly name: string
  readonly says: (result: Result) => string
  readonly value?: (result: Result) => number
  readonly better?: "more" | "less"
  readonly explains: string
}

const recovery = ({ totals: { recoveryMillis } }: Result): string =>
  recoveryMillis === undefined ? "–" : recoveryMillis === null ? "never" : duration(recoveryMillis)

const figures: ReadonlyArray<Figure> = [
  {
    name: "calls answered",
    says: ({ totals }) => percent(totals.success),
    value: ({ totals }) => totals.success,
    better: "more",
    explains: "of all calls made"
  },
  {
    name: "before, during, after",
    says: ({ totals }) => [totals.successBefore, totals.successDuring, totals.successAfter].map(percent).join(" · "),
    explains: "the same, by when the call was made: what happens is shaded in the charts"
  },
  {
    name: "recovers after",
    says: recovery,
    value: ({ totals }) => totals.recoveryMillis ?? Infinity,
    better: "less",
    explains: "from the end of what happens until calls are answered as before (90 % of that, for 5 intervals)"
  },
  {
    name: "goodput",
    says: ({ totals }) => `${number(totals.goodputPerSecond)}/s of ${number(totals.offeredPerSecond)}/s`,
    explains: "calls answered per second, of calls made"
  },
  {
    name: "attempts per call",
    says: ({ totals }) => totals.amplification.toFixed(3),
    // Below one it is calls that were refused, which is no merit of its own.
    value: ({ totals }) => Math.max(1, totals.amplification),
    better: "less",
    explains: "what the policy costs the servers; below 1 where it sheds"
  },
  {
    name: "wasted work",
    says: ({ totals }) => percent(totals.wasted),
    value: ({ totals }) => totals.wasted,
    better: "less",
    explains: "share of the servers' work whose answer nobody waited for, or that failed"
  },
  {
    name: "p50",
    says: ({ totals }) => duration(totals.latency.p50),
    value: ({ totals }) => totals.latency.p50,
    better: "less",
    explains: "of answered calls"
  },
  {
    name: "p99",
    says: ({ totals }) => duration(totals.latency.p99),
    value: ({ totals }) => totals.latency.p99,
    better: "less",
    explains: "of answered calls"
  },
  {
    name: "p99.9",
    says: ({ totals }) => duration(totals.latency.p999),
    value: ({ totals }) => totals.latency.p999,
    better: "less",
    explains: "of answered calls"
  },
  {
    name: "p99 until failure too",
    says: ({ totals }) => duration(totals.latencyOfAll.p99),
    value: ({ totals }) => totals.latencyOfAll.p99,
    better: "less",
    explains: "of all calls: how long the unlucky wait for a no"
  },
  {
    name: "retries, hedges",
    says: ({ totals }) => `${number(totals.retries)}, ${number(totals.hedges)}`,
    explains: "attempts after the first, and beside it"
  },
  {
    name: "circuit trips",
    says: ({ totals }) => number(totals.trips),
    explains: "transitions to Open, over all clients and endpoints"
  },
  {
    name: "failed with",
    says: ({ totals }) =>
      Object.entries(totals.failures).slice(0, 3).map(([reason, n]) => `${reason} ${number(n)}`).join(", ") || "–",
    explains: "the reason of the error the caller gets, most frequent first"
  }
]

/** The index of the best of several results, if one is better than the others. */
const best = ({ better, value }: Figure, results: ReadonlyArray<Result>): number | undefined => {
  if (better === undefined || value === undefined || results.length < 2) return undefined
  const values = results.map((result) => (better === "more" ? -value(result) : value(result)))
  const least = Math.min(...values)
  // Closer than a part in a thousand is a draw.
  const close = values.filter((other) => other <= least + Math.abs(least) * 0.001)
  return close.length === 1 ? values.indexOf(least) : undefined
}

const heading = ({ clients, horizonMillis, scenario, seed, servers, totals }: Result): string =>
  `${scenario ?? "no scenario"}: ${count(totals.calls, "call")} in ${duration(horizonMillis)} of virtual time, ${
    count(clients, "client")
  }, ${count(servers, "server")}, seed ${seed}`

/** Results side by side as text; the better figure of each row is marked with `*`. */
export const table = (results: ReadonlyArray<Result>): string => {
  const rows = figures.map((figure) => {
    const winner = best(figure, results)
    return [figure.name, ...results.map((result, i) => `${figure.says(result)}${winner === i ? " *" : ""}`)]
  })
  const all = [["", ...results.map(({ policy }) => policy)], ...rows]
  const widths = all[0]!.map((_, column) => Math.max(...all.map((row) => row[column]!.length)))
  const lines = all.map((row) => row.map((cell, column) => cell.padEnd(widths[column]!)).join("   ").trimEnd())
  return [heading(results[0]!), "", ...lines].join("\n")
}

// Charts -------------------------------------------------------------------------------------------

/** `load`: goodput against what is offered. `attempts`: what is sent. `latency`: p99 of what is answered. `circuits`: the states of the breakers. `queue`: requests waiting at servers. */
export type Chart = "load" | "attempts" | "latency" | "circuits" | "queue"

const left = 62
const right = 14
const width = 960
const plotWidth = width - left - right
const top = 8
const axis = 26

const escape = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("\"", "&quot;")
const place = (value: number): number => Math.round(value * 10) / 10

/** A step of 1, 2 or 5 times a power of ten that makes about `ticks` of a range. */
const stepOf = (range: number, ticks: number): number => {
  const rough = range / ticks
  const power = 10 ** Math.floor(Math.log10(rough))
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough)!
}

const steps = (until: number, ticks: number): ReadonlyArray<number> => {
  if (until <= 0) return [0]
  const step = stepOf(until, ticks)
  return Array.from({ length: Math.ceil(until / step - 1e-9) + 1 }, (_, i) => Number((i * step).toPrecision(6)))
}

const across = (result: Result) => (millis: number): number =>
  place(left + (plotWidth * Math.min(millis, result.horizonMillis)) / result.horizonMillis)

/** The time axis, and the shade behind what happens. */
const frame = (result: Result, height: number): string => {
  const x = across(result)
  const bottom = top + height
  const seconds = result.horizonMillis / 1000
  const minutes = seconds > 600
  const scale = minutes ? 60 : 1
  const ticks = steps(seconds / scale, 8).filter((tick) => tick * scale <= seconds).map((tick) => {
    const label = `${tick}${minutes ? " min" : " s"}`
    // Half a label of 12 pixels is wider than what is right of the last tick.
    const middle = Math.min(x(tick * scale * 1000), width - 3.4 * label.length)
    return `<text class="tick" x="${middle}" y="${bottom + 18}" text-anchor="middle">${label}</text>`
  }).join("")
  const { disturbance } = result
  const shade = disturbance === undefined
    ? ""
    : `<rect class="shade" x="${x(disturbance.from)}" y="${top}" width="${
      place(Math.max(1, x(disturbance.until) - x(disturbance.from)))
    }" height="${height}"/>`
  return `${shade}<line class="grid" x1="${left}" x2="${width - right}" y1="${bottom}" y2="${bottom}"/>${ticks}`
}

interface Line {
  readonly name: string
  readonly style: string
  /** Default 2. Where lines run together, the wider one shows behind the other. */
  readonly width?: number
  readonly of: ReadonlyArray<Row>
  readonly value: (row: Row) => number | undefined
}

const keyOf = ({ name, style }: Pick<Line, "name" | "style">): readonly [string, string] => [
  name,
  `<line class="line ${style}" x1="0" x2="22" y1="5" y2="5"/>`
]

interface Drawing {
  readonly title: string
  readonly caption: string
  readonly keys: ReadonlyArray<readonly [name: string, mark: string]>
  readonly height: number
  readonly body: string
}

const lines = (
  results: ReadonlyArray<Result>,
  options: {
    readonly title: string
    readonly caption: string
    readonly lines: ReadonlyArray<Line>
    readonly unit: (value: number) => string
    readonly logarithmic?: boolean
  }
): Drawing => {
  const [result] = results
  const height = 220
  const x = across(result!)
  const values = options.lines.flatMap((line) => line.of.map(line.value)).filter((value) => value !== undefined)
  const highest = Math.max(1, ...values)
  const { logarithmic = false } = options
  const least = 10 ** Math.floor(Math.log10(Math.max(1, Math.min(...values.filter((value) => value > 0)))))
  const decades = Math.max(1, Math.ceil(Math.log10(highest / least)))
  const ticks = logarithmic
    ? Array.from({ length: decades + 1 }, (_, i) => least * 10 ** i)
    : steps(highest, 4)
  const share = (value: number): number =>
    logarithmic ? Math.log10(Math.max(least, value) / least) / decades : value / ticks.at(-1)!
  const y = (value: number): number => place(top + height * (1 - Math.min(1, share(value))))
  const grid = ticks.map((tick) =>
    `<line class="grid" x1="${left}" x2="${width - right}" y1="${y(tick)}" y2="${y(tick)}"/><text class="tick" x="${
      left - 8
    }" y="${y(tick) + 4}" text-anchor="end">${options.unit(tick)}</text>`
  ).join("")
  const interval = result!.intervalMillis
  const drawn = options.lines.map((line) => {
    let path = ""
    let pen = "M"
    for (const row of line.of) {
      const value = line.value(row)
      if (value === undefined) pen = "M"
      else {
        path += `${pen}${x(row.at + interval / 2)} ${y(value)}`
        pen = "L"
      }
    }
    const wide = line.width === undefined ? "" : ` style="stroke-width: ${line.width}"`
    return `<path class="line ${line.style}"${wide} d="${path}"/>`
  }).join("")
  const tips = result!.series.map((row, i) => {
    const says = options.lines.map((line) => {
      const value = line.of[i] === undefined ? undefined : line.value(line.of[i])
      return `${line.name} ${value === undefined ? "–" : options.unit(value)}`
    })
    return `<rect class="tip" x="${x(row.at)}" y="${top}" width="${
      place(Math.max(0.5, (plotWidth * interval) / result!.horizonMillis))
    }" height="${height}"><title>${escape(`${duration(row.at)}: ${says.join(", ")}`)}</title></rect>`
  }).join("")
  return {
    title: options.title,
    caption: options.caption,
    keys: options.lines.map(keyOf),
    height: top + height + axis,
    body: `${frame(result!, height)}${grid}${drawn}${tips}`
  }
}

const perSecond = (value: number): string => `${value >= 10 || value === 0 ? number(value) : value.toFixed(1)}/s`

const offered = (results: ReadonlyArray<Result>): Line => ({
  name: "calls made",
  style: "offered",
  of: results[0]!.series,
  value: (row) => row.offered
})

const perPolicy = (
  results: ReadonlyArray<Result>,
  value: (row: Row, result: Result) => number | undefined
): ReadonlyArray<Line> =>
  results.map((result, i) => ({
    name: result.policy,
    style: i < 4 ? `p${i}` : `p${i % 4} again`,
    width: 2 + Math.min(2, results.length - 1 - i),
    of: result.series,
    value: (row) => value(row, result)
  }))

const lane = 46
const band = 30

/** The share of circuits in each state over time, one band for each result. */
const circuits = (results: ReadonlyArray<Result>): Drawing => {
  const [result] = results
  const x = across(result!)
  const height = results.length * lane
  const open: ReadonlyArray<State> = states.filter((state) => state !== "Closed")
  const bands = results.map(({ intervalMillis, policy, series }, i) => {
    const y = top + i * lane + 14
    const pieces = series.map((row) => {
      const all = states.reduce((sum, state) => sum + row.circuits[state], 0)
      if (all === 0) return ""
      const x1 = x(row.at)
      const x2 = x(row.at + intervalMillis)
      let from = y
      return open.map((state) => {
        const part = (row.circuits[state] / all) * band
        if (part < 0.05) return ""
        const rect = `<rect class="state ${state}" x="${x1}" y="${place(from)}" width="${
          place(x2 - x1 + 0.4)
        }" height="${place(part)}"><title>${
          escape(`${duration(row.at)}: ${percent(row.circuits[state] / all)} of the circuits ${state}`)
        }</title></rect>`
        from += part
        return rect
      }).join("")
    }).join("")
    const none = series.every((row) => states.every((state) => row.circuits[state] === 0))
    return `<text class="name" x="${left}" y="${y - 4}">${escape(policy)}${
      none ? ": no circuit breaker" : ""
    }</text><rect class="state ${
      none ? "none" : "Closed"
    }" x="${left}" y="${y}" width="${plotWidth}" height="${band}"/>${pieces}`
  }).join("")
  return {
    title: "Circuits",
    caption: "Share of the circuit breakers, one for each client and endpoint, that are in each state.",
    keys: (["Closed", "Open", "HalfOpen", "Recovering"] as const).map((state) =>
      [state, `<rect class="state ${state}" width="14" height="10"/>`] as const
    ),
    height: top + height + axis,
    body: `${frame(result!, height)}${bands}`
  }
}

const drawings: Readonly<Record<Chart, (results: ReadonlyArray<Result>) => Drawing>> = {
  load: (results) =>
    lines(results, {
      title: "Goodput against offered load",
      caption: "Calls answered per second, and calls made.",
      lines: [offered(results), ...perPolicy(results, (row) => row.goodput)],
      unit: perSecond
    }),
  attempts: (results) =>
    lines(results, {
      title: "Attempts",
      caption: "What is sent to the servers per second: above the calls made a policy amplifies, below it sheds.",
      lines: [offered(results), ...perPolicy(results, (row) => row.attempts)],
      unit: perSecond
    }),
  latency: (results) =>
    lines(results, {
      title: "Latency of answered calls",
      caption:
        "99th percentile of the calls answered in each interval. Logarithmic; a gap is an interval without answers.",
      lines: perPolicy(results, (row) => (row.goodput === 0 ? undefined : row.p99)),
      unit: duration,
      logarithmic: true
    }),
  queue: (results) =>
    lines(results, {
      title: "Requests that wait at the servers",
      caption: "For a worker, over all servers, at the end of each interval.",
      lines: perPolicy(results, (row) => row.queued),
      unit: number
    }),
  circuits
}

const palette = `
:root { color-scheme: light dark; --page: #fafaf8; --card: #fff; --ink: #1d1d1b; --soft: #66645f; --rule: #e4e2dc;
  --p0: #2468c9; --p1: #d95f1e; --p2: #7a4fb5; --p3: #1f8a70; --offered: #8d8a83; --shade: #0000000d; --bad: #c8372d;
  --fair: #c99412; --calm: #b9d3bd; --good: #3f8f4f }
@media (prefers-color-scheme: dark) { :root { --page: #151514; --card: #1e1e1c; --ink: #edece8; --soft: #a19f98;
  --rule: #34332f; --p0: #6ba3f2; --p1: #ee8145; --p2: #b695ea; --p3: #58c2a6; --offered: #8f8c85; --shade: #ffffff12;
  --bad: #ee6a5f; --fair: #e0b040; --calm: #3c5a42; --good: #6cbd7c } }`

const marks = `
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round }
.p0 { stroke: var(--p0) } .p1 { stroke: var(--p1) } .p2 { stroke: var(--p2) } .p3 { stroke: var(--p3) }
.again { stroke-dasharray: 1 5 }
.offered { stroke: var(--offered); stroke-dasharray: 5 4; stroke-width: 1.6 }
.grid { stroke: var(--rule) } .tick { font-size: 12px; fill: var(--soft) } .name { font-size: 12px; fill: var(--ink) }
.shade { fill: var(--shade) } .tip { fill: transparent } .tip:hover { fill: var(--shade) }
.state.Closed { fill: var(--calm) } .state.Open, .state.ForcedOpen { fill: var(--bad) }
.state.HalfOpen { fill: var(--fair) } .state.Recovering { fill: var(--good) } .state.none { fill: none; stroke: var(--rule) }`

/** One chart of results as an SVG file of its own. */
export const chart = (results: ReadonlyArray<Result>, which: Chart): string => {
  const { body, height, keys, title } = drawings[which](results)
  const head = 34
  let at = left
  const legend = keys.map(([name, mark]) => {
    const x = at
    at += 40 + name.length * 7.2
    return `<g transform="translate(${place(x)} 16)">${mark}<text class="name" x="28" y="9">${escape(name)}</text></g>`
  }).join("")
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height + head}" role="img" aria-label="${
    escape(title)
  }">
<style>${palette}${marks}
text { font-family: system-ui, sans-serif }</style>
<rect width="${width}" height="${height + head}" rx="10" fill="var(--card)"/>
${legend}<g transform="translate(0 ${head})">${body}</g></svg>
`
}

const figure = (results: ReadonlyArray<Result>, which: Chart): string => {
  const { body, caption, height, keys, title } = drawings[which](results)
  const legend = keys.map(([name, mark]) =>
    `<span class="key"><svg width="24" height="10" aria-hidden="true">${mark}</svg>${escape(name)}</span>`
  ).join("")
  return `<figure><figcaption><h2>${title}</h2><p>${caption}</p><p>${legend}</p></figcaption>
<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escape(title)}">${body}</svg></figure>`
}

// The page -----------------------------------------------------------------------------------------

const style = `${palette}
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 64px }
h1 { font-size: 26px; margin: 0 0 4px } h2 { font-size: 17px; margin: 0 }
p { margin: 4px 0 } .soft, figcaption p, footer, td.soft { color: var(--soft) }
figure, section { margin: 20px 0 0; padding: 18px 20px; background: var(--card); border: 1px solid var(--rule); border-radius: 10px }
figure, .scroll { overflow-x: auto } figure > svg { width: 100%; min-width: 620px; height: auto; display: block }
.key { display: inline-flex; align-items: center; gap: 6px; margin-right: 18px }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; width: 100% }
.scroll > table { min-width: 920px }
th, td { padding: 5px 14px 5px 0; text-align: left; border-bottom: 1px solid var(--rule); font-weight: 400; vertical-align: top }
thead th { color: var(--soft) } tbody tr:last-child > * { border-bottom: 0 } tbody th { white-space: nowrap }
td.best { font-weight: 650 } td.best::after { content: " ✓"; color: var(--good) }
thead th[class]::before { content: ""; display: inline-block; width: 10px; height: 10px; border-radius: 5px; margin-right: 6px }
thead th.h0::before { background: var(--p0) } thead th.h1::before { background: var(--p1) }
thead th.h2::before { background: var(--p2) } thead th.h3::before { background: var(--p3) }
${marks}
footer { margin-top: 20px; font-size: 13px }`

const comparison = (results: ReadonlyArray<Result>): string =>
  `<div class="scroll"><table><thead><tr><th></th>${
    results.map(({ policy }, i) => `<th class="h${i % 4}">${escape(policy)}</th>`).join("")
  }<th></th></tr></thead><tbody>${
    figures.map((figure) => {
      const winner = best(figure, results)
      const cells = results.map((result, i) =>
        `<td${winner === i ? " class=\"best\"" : ""}>${escape(figure.says(result))}</td>`
      ).join("")
      return `<tr><th>${figure.name}</th>${cells}<td class="soft">${figure.explains}</td></tr>`
    }).join("\n")
  }</tbody></table></div>`

/** Rows a page shows of what may be thousands. */
const mostMoves = 20

const moves = ({ policy, totals, transitions }: Result): string => {
  if (transitions.length === 0) {
    return `<h2>What the circuits of ${escape(policy)} did</h2><p class="soft">No circuit moved.</p>`
  }
  const shown = transitions.slice(0, mostMoves)
  const left = totals.transitions - shown.length
  const rows = shown.map((move) =>
    `<tr><th>${duration(move.at)}</th><td>${move.client}</td><td>${
      escape(move.policy)
    }</td><td>${move.from} → ${move.to}</td><td>${escape(move.why)}</td></tr>`
  ).join("\n")
  return `<h2>What the circuits of ${escape(policy)} did</h2>
<div class="scroll"><table><thead><tr><th>at</th><th>client</th><th>circuit</th><th></th><th>why</th></tr></thead><tbody>${rows}</tbody></table></div>${
    left > 0 ? `<p class="soft">and ${count(left, "move")} more.</p>` : ""
  }`
}

/** The page. */
export const html = (results: ReadonlyArray<Result>): string => {
  const [first] = results
  const title = `${first!.scenario ?? "Simulation"}: ${results.map(({ policy }) => policy).join(" against ")}`
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(title)}</title><style>${style}</style></head><body><main>
<h1>${escape(title)}</h1>
<p class="soft">${escape(heading(first!))}. The policies are the real ones; time, network and servers are simulated.</p>
<section>${comparison(results)}</section>
${(["load", "attempts", "latency", "circuits", "queue"] as const).map((which) => figure(results, which)).join("\n")}
${results.map((result) => `<section>${moves(result)}</section>`).join("\n")}
<footer>Shaded: what happens. ✓ marks the better figure. The same policies, scenario and seed give the same figures, to the byte.</footer>
</main></body></html>
`
}
