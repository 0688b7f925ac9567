/**
 * A run as one HTML page: the tables of the terminal, and what happened over
 * time as drawings. It needs no network, no script and no other file, and
 * follows the reader's light or dark setting.
 */
import type { Move } from "./Load.ts"
import * as Summary from "./Summary.ts"

const escape = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("\"", "&quot;")

// Drawing over time -------------------------------------------------------------------------------

const width = 960
const left = 64
const right = 16
/** Room for the names of the faults. */
const top = 26
const bottom = 24

const plotWidth = width - left - right

const round = (value: number): number => Math.round(value * 10) / 10

/** Seconds to pixels. */
const across = (seconds: number) => (second: number): number => round(left + plotWidth * second / seconds)

const clock = (seconds: number): string =>
  `${Math.floor(seconds / 60)}:${String(Math.round(seconds % 60)).padStart(2, "0")}`

/** When which fault was on, behind everything: dark while it lasted, light while the clients recovered. */
const faultBands = ({ plan, seconds }: Summary.Summary, height: number): string => {
  const x = across(seconds)
  return plan.map(({ from, kind, server, to }) =>
    `<rect class="fault" x="${x(from)}" y="${top}" width="${round(x(to) - x(from))}" height="${height}"/>` +
    `<text class="note" x="${x(from) + 4}" y="${top - 8}">${kind} ${Summary.serverName(server)}</text>`
  ).join("")
}

/** A step of the time axis that leaves its labels room. */
const timeStep = (seconds: number): number =>
  [1, 2, 5, 10, 30, 60, 120, 300, 600].find((step) => seconds / step <= 12) ?? 1200

const timeAxis = (seconds: number, height: number): string => {
  const x = across(seconds)
  const labels: Array<string> = []
  for (let second = 0; second <= seconds; second += timeStep(seconds)) {
    labels.push(
      `<text class="tick" x="${x(second)}" y="${top + height + 17}" text-anchor="middle">${clock(second)}</text>`
    )
  }
  return labels.join("")
}

interface Chart {
  readonly title: string
  readonly caption: string
  /** Pixels between the axes. */
  readonly height: number
  readonly ticks: ReadonlyArray<readonly [value: number, label: string]>
  /** A value as a share of the height, from 0 at the bottom to 1. */
  readonly scale: (value: number) => number
  readonly lines: ReadonlyArray<{
    readonly name: string
    readonly style: string
    readonly value: (second: Summary.Second) => number | undefined
    /** A dot each instead of a line. */
    readonly dots?: boolean
  }>
  /** What a second says when it is pointed at. */
  readonly tip: (second: Summary.Second) => string
}

const chart = (run: Summary.Summary, { caption, height, lines, scale, ticks, tip, title }: Chart): string => {
  const x = across(run.seconds)
  const y = (value: number) => round(top + height * (1 - Math.min(1, Math.max(0, scale(value)))))
  const grid = ticks.map(([value, label]) =>
    `<line class="grid" x1="${left}" x2="${width - right}" y1="${y(value)}" y2="${y(value)}"/>` +
    `<text class="tick" x="${left - 8}" y="${y(value) + 4}" text-anchor="end">${label}</text>`
  ).join("")
  // A second's figure stands in its middle.
  const paths = lines.map(({ dots = false, style, value }) => {
    const points = run.perSecond.flatMap((second) => {
      const at = value(second)
      return at === undefined ? [] : [[x(second.second + 0.5), y(at)] as const]
    })
    if (dots) return points.map(([cx, cy]) => `<circle class="dot ${style}" cx="${cx}" cy="${cy}" r="2.5"/>`).join("")
    return `<polyline class="line ${style}" points="${points.map((point) => point.join(",")).join(" ")}"/>`
  }).join("")
  const step = plotWidth / run.seconds
  const tips = run.perSecond.map((second) =>
    `<rect class="tip" x="${x(second.second)}" y="${top}" width="${round(step)}" height="${height}"><title>${
      escape(`${clock(second.second)}  ${tip(second)}`)
    }</title></rect>`
  ).join("")
  const legend = lines.map(({ dots = false, name, style }) => {
    const mark = dots
      ? `<circle class="dot ${style}" cx="11" cy="4" r="2.5"/>`
      : `<line class="line ${style}" x1="0" x2="22" y1="4" y2="4"/>`
    return `<span class="key"><svg width="22" height="8" aria-hidden="true">${mark}</svg>${name}</span>`
  }).join("")
  return `<figure><figcaption><h2>${title}</h2><p>${caption}</p><p>${legend}</p></figcaption>
<svg viewBox="0 0 ${width} ${top + height + bottom}" role="img" aria-label="${escape(title)}">${
    faultBands(run, height)
  }${grid}${timeAxis(run.seconds, height)}${paths}${tips}</svg></figure>`
}

const decades: ReadonlyArray<readonly [number, string]> = [
  [1, "1 ms"],
  [10, "10 ms"],
  [100, "100 ms"],
  [1000, "1 s"],
  [10_000, "10 s"]
]

const both = (second: Summary.Second, say: (figures: Summary.Figures) => string): string =>
  `naive ${say(second.naive)}, resilient ${say(second.resilient)}`

const some = (figures: Summary.Figures, value: number): number | undefined => figures.calls === 0 ? undefined : value

const successChart = (run: Summary.Summary): string => {
  const lowest = Math.min(...run.perSecond.flatMap(({ naive, resilient }) => [naive.success, resilient.success]))
  const floor = lowest >= 0.55 ? 0.5 : 0
  const ticks = (floor === 0 ? [0, 0.25, 0.5, 0.75, 1] : [0.5, 0.6, 0.7, 0.8, 0.9, 1])
    .map((value) => [value, `${value * 100} %`] as const)
  return chart(run, {
    title: "Success",
    caption: "Share of the idempotent calls due in a second that got an answer.",
    height: 200,
    ticks,
    scale: (value) => (value - floor) / (1 - floor),
    lines: [
      { name: "naive", style: "naive", value: ({ naive }) => some(naive, naive.success) },
      { name: "resilient", style: "resilient", value: ({ resilient }) => some(resilient, resilient.success) }
    ],
    tip: (second) => both(second, ({ success }) => Summary.percent(success, 1))
  })
}

const latencyChart = (run: Summary.Summary): string =>
  chart(run, {
    title: "Time to answer",
    caption: "Idempotent calls due in a second, from then until they ended; failed ones included. Logarithmic.",
    height: 220,
    ticks: decades,
    scale: (value) => Math.log10(Math.max(1, value)) / 4,
    lines: [
      { name: "naive, slowest", style: "naive", value: ({ naive }) => some(naive, naive.max), dots: true },
      {
        name: "resilient, slowest",
        style: "resilient",
        value: ({ resilient }) => some(resilient, resilient.max),
        dots: true
      },
      { name: "naive, p95", style: "naive", value: ({ naive }) => some(naive, naive.p95) },
      { name: "resilient, p95", style: "resilient", value: ({ resilient }) => some(resilient, resilient.p95) },
      { name: "naive, median", style: "naive thin", value: ({ naive }) => some(naive, naive.p50) },
      { name: "resilient, median", style: "resilient thin", value: ({ resilient }) => some(resilient, resilient.p50) }
    ],
    tip: (second) =>
      both(second, ({ max, p50, p95 }) =>
        `${Summary.millis(p50)} median, ${Summary.millis(p95)} p95, ${Summary.millis(max)} slowest`)
  })

const attemptsChart = (run: Summary.Summary): string => {
  const most = Math.max(1.2, ...run.perSecond.map(({ resilient }) => resilient.attemptsPerCall))
  const ceiling = Math.ceil(most * 5) / 5
  const ticks = Array.from({ length: Math.round((ceiling - 1) * 5) + 1 }, (_, i) => {
    const value = 1 + i / 5
    return [value, value.toFixed(1)] as const
  })
  return chart(run, {
    title: "Attempts per call",
    caption: "What resilience costs the servers: attempts begun for the idempotent calls due in a second.",
    height: 110,
    ticks,
    scale: (value) => (value - 1) / (ceiling - 1),
    lines: [
      { name: "naive", style: "naive", value: ({ naive }) => some(naive, naive.attemptsPerCall) },
      { name: "resilient", style: "resilient", value: ({ resilient }) => some(resilient, resilient.attemptsPerCall) }
    ],
    tip: (second) => both(second, ({ attemptsPerCall }) => attemptsPerCall.toFixed(2))
  })
}

const lane = 26

/** One bar per server, in the colour of its circuit's state. */
const circuitsChart = (run: Summary.Summary): string => {
  const { circuits, seconds, servers } = run
  const x = across(seconds)
  const height = servers.length * lane
  const bars = servers.map((address, index) => {
    const y = top + index * lane
    const moves = circuits.filter(({ endpoint }) => endpoint === address)
    const begin = { atMillis: 0, to: "Closed", why: "the beginning" }
    const states = [begin, ...moves]
    const pieces = states.map(({ atMillis, to, why }, i) => {
      const from = x(Math.min(seconds, Math.max(0, atMillis / 1000)))
      const until = x(Math.min(seconds, (states[i + 1]?.atMillis ?? seconds * 1000) / 1000))
      return `<rect class="state ${to}" x="${from}" y="${y + 6}" width="${
        Math.max(1.5, round(until - from))
      }" height="${lane - 12}"><title>${
        escape(`${clock(atMillis / 1000)}  ${Summary.serverName(index)} ${to}: ${why}`)
      }</title></rect>`
    }).join("")
    return `<text class="tick" x="${left - 8}" y="${y + lane / 2 + 4}" text-anchor="end">${
      Summary.serverName(index)
    }</text>${pieces}`
  }).join("")
  const keys = ["Closed", "Open", "HalfOpen", "Recovering"].map((state) =>
    `<span class="key"><svg width="14" height="12" aria-hidden="true"><rect class="state ${state}" width="14" height="12"/></svg>${state}</span>`
  ).join("")
  return `<figure><figcaption><h2>Circuits</h2><p>The resilient client's circuit breaker for each server; the naive one has none.</p><p>${keys}</p></figcaption>
<svg viewBox="0 0 ${width} ${top + height + bottom}" role="img" aria-label="Circuits">${
    faultBands(run, height)
  }${bars}${timeAxis(seconds, height)}</svg></figure>`
}

// Tables ------------------------------------------------------------------------------------------

const cells = (figures: Summary.Figures): string =>
  [
    String(figures.calls),
    Summary.percent(figures.success, 2),
    Summary.millis(figures.p50),
    Summary.millis(figures.p99),
    figures.attemptsPerCall.toFixed(2)
  ].map((cell) => `<td>${cell}</td>`).join("")

const figuresTable = (rows: ReadonlyArray<readonly [head: string, both: Summary.Both]>): string => {
  const columns = "<th>calls</th><th>success</th><th>p50</th><th>p99</th><th>attempts</th>"
  return `<div class="scroll"><table><thead>
<tr><th></th><th colspan="5" class="naive">naive: one attempt, round robin, 1 s</th><th colspan="5" class="resilient">resilient: the default stack</th></tr>
<tr><th></th>${columns}${columns}</tr></thead><tbody>${
    rows.map(([head, { naive, resilient }]) => `<tr><th>${head}</th>${cells(naive)}${cells(resilient)}</tr>`).join("\n")
  }</tbody></table></div>`
}

const failuresTable = ({ all }: Summary.Summary): string => {
  const reasons = [...new Set([...Object.keys(all.naive.failures), ...Object.keys(all.resilient.failures)])]
  if (reasons.length === 0) return "<p>No call failed.</p>"
  const rows = reasons.map((reason) =>
    `<tr><th>${escape(reason)}</th><td>${all.naive.failures[reason] ?? 0}</td><td>${
      all.resilient.failures[reason] ?? 0
    }</td></tr>`
  )
  return `<div class="scroll"><table class="narrow"><thead><tr><th>reason</th><th>naive</th><th>resilient</th></tr></thead><tbody>${
    rows.join("\n")
  }</tbody></table></div>`
}

const movesTable = ({ circuits, servers }: Summary.Summary): string => {
  if (circuits.length === 0) return "<p>No circuit moved.</p>"
  const row = ({ atMillis, endpoint, from, to, why }: Move) =>
    `<tr><th>${(atMillis / 1000).toFixed(2)} s</th><td class="text">${
      Summary.serverName(servers.indexOf(endpoint))
    }</td><td class="text">${from} → ${to}</td><td class="text">${escape(why)}</td></tr>`
  return `<div class="scroll"><table class="narrow"><thead><tr><th>at</th><th class="text">server</th><th class="text">circuit</th><th class="text">why</th></tr></thead><tbody>${
    circuits.map(row).join("\n")
  }</tbody></table></div>`
}

const tiles = ({ all, idempotent }: Summary.Summary): string => {
  const tile = (name: string, resilient: string, naive: string) =>
    `<div class="tile"><p>${name}</p><p class="big">${resilient}</p><p>naive: ${naive}</p></div>`
  const success = (figures: Summary.Figures) => Summary.percent(figures.success, 2)
  return `<div class="tiles">${
    tile("idempotent calls answered", success(idempotent.resilient), success(idempotent.naive))
  }${tile("p99", Summary.millis(idempotent.resilient.p99), Summary.millis(idempotent.naive.p99))}${
    tile("attempts per call", all.resilient.attemptsPerCall.toFixed(3), all.naive.attemptsPerCall.toFixed(3))
  }${
    tile(
      "calls failed",
      String(all.resilient.calls - all.resilient.answered),
      String(all.naive.calls - all.naive.answered)
    )
  }</div>`
}

const style = `
:root { color-scheme: light dark; --page: #fafaf8; --card: #fff; --ink: #1d1d1b; --soft: #66645f; --rule: #e4e2dc;
  --naive: #d95f1e; --resilient: #2468c9; --fault: #0000000d; --good: #3f8f4f; --fair: #c99412; --bad: #c8372d; --calm: #b9d3bd }
@media (prefers-color-scheme: dark) { :root { --page: #151514; --card: #1e1e1c; --ink: #edece8; --soft: #a19f98;
  --rule: #34332f; --naive: #ee8145; --resilient: #6ba3f2; --fault: #ffffff12; --good: #6cbd7c; --fair: #e0b040; --bad: #ee6a5f;
  --calm: #3c5a42 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 64px }
h1 { font-size: 26px; margin: 0 0 4px } h2 { font-size: 17px; margin: 0 }
p { margin: 4px 0 } .soft, figcaption p, footer { color: var(--soft) }
figure, section { margin: 20px 0 0; padding: 18px 20px; background: var(--card); border: 1px solid var(--rule); border-radius: 10px }
figure { overflow-x: auto } figure > svg { width: 100%; min-width: 620px; height: auto; display: block }
.key { display: inline-flex; align-items: center; gap: 6px; margin-right: 18px }
.key svg { width: auto }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px; margin-top: 20px }
.tile { padding: 14px 18px; background: var(--card); border: 1px solid var(--rule); border-radius: 10px }
.tile p { margin: 0; color: var(--soft) } .tile .big { font-size: 28px; font-weight: 600; color: var(--ink) }
ul { list-style: none; margin: 20px 0 0; padding: 0 } .held::before { content: "✓"; color: var(--good) }
.missed::before { content: "✗"; color: var(--bad) } li::before { display: inline-block; width: 22px; font-weight: 700 }
.scroll { overflow-x: auto; margin-top: 10px }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; white-space: nowrap; font-size: 14px } table.narrow { width: auto }
th, td { padding: 5px 8px; text-align: right; border-bottom: 1px solid var(--rule); font-weight: 400 }
tbody th, .text, .narrow thead th:first-child { text-align: left } tbody th { white-space: normal; min-width: 150px } .narrow tbody th { min-width: 0 } thead th { color: var(--soft) } tbody tr:last-child > * { border-bottom: 0 }
thead .naive, thead .resilient { text-align: center; color: var(--ink) }
thead .naive { border-bottom: 2px solid var(--naive) } thead .resilient { border-bottom: 2px solid var(--resilient) }
tbody td:nth-child(7) { border-left: 1px solid var(--rule) } .narrow td { border-left: 0 }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round } .thin { stroke-width: 1.5; stroke-dasharray: 2 4 }

.dot { opacity: .75 } .dot.naive { fill: var(--naive) } .dot.resilient { fill: var(--resilient) }
.line.naive { stroke: var(--naive) } .line.resilient { stroke: var(--resilient) }
.grid { stroke: var(--rule) } .tick, .note { font-size: 12px; fill: var(--soft) } .note { fill: var(--ink) }
.fault { fill: var(--fault) } .tip { fill: transparent } .tip:hover { fill: var(--fault) }
.state.Closed { fill: var(--calm) } .state.Open { fill: var(--bad) } .state.HalfOpen { fill: var(--fair) } .state.Recovering { fill: var(--good) }
footer { margin-top: 20px; font-size: 13px }`

/** The page. */
export const html = (run: Summary.Summary): string => {
  const { rate, rows, seconds, seed, servers, startedAt } = run
  const table = figuresTable([
    ...rows.map((row) =>
      [row.kind === "none" ? "before any fault" : `<b>${row.kind}</b> ${escape(row.what)}`, row] as const
    ),
    ["<b>overall</b>", run.idempotent]
  ])
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Holdfast demo</title><style>${style}</style></head><body><main>
<h1>Holdfast demo</h1>
<p class="soft">${servers.length} server processes, ${rate} calls per second through each of two clients for ${seconds} s, ${run.plan.length} real faults. ${
    startedAt.slice(0, 16).replace("T", " ")
  } UTC, seed ${seed}, ${escape(run.machine)}.</p>
${tiles(run)}
<ul>${
    run.verdicts.map(({ holds, says }) => `<li class="${holds ? "held" : "missed"}">${escape(says)}</li>`).join("")
  }</ul>
${successChart(run)}
${latencyChart(run)}
${attemptsChart(run)}
${circuitsChart(run)}
<section><h2>Idempotent calls, fault by fault</h2>
<p class="soft">A row holds the calls that were due until the next fault, recovery included.</p>${table}</section>
<section><h2>Calls that must not be sent twice</h2>
<p class="soft">UpdateEmail. One that was written and never answered ends as OutcomeUnknown: nobody knows whether it happened, and it is not sent again.</p>${
    figuresTable([["UpdateEmail", run.nonIdempotent]])
  }</section>
<section><h2>Why calls failed</h2>${failuresTable(run)}</section>
<section><h2>What the circuits did</h2>${movesTable(run)}</section>
<footer>Shaded: a fault is on. Times run from when a call was due until it ended, failed calls included. An answer with one
of the contract's own errors is an answer. Attempts are counted where they begin, whether or not they reach a server.</footer>
</main></body></html>
`
}
