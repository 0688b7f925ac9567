/**
 * What a person sees while the demo runs and when it has ended. State in, lines
 * of text out; who writes them, and where to, is not decided here.
 */
import type { Calls } from "./Load.ts"
import * as Plan from "./Plan.ts"
import * as Summary from "./Summary.ts"

/** The run as it is now. */
export interface View {
  readonly elapsedSeconds: number
  readonly seconds: number
  readonly rate: number
  readonly plan: ReadonlyArray<Plan.Fault>
  readonly servers: ReadonlyArray<{ readonly address: string; readonly process: string }>
  readonly naive: Calls
  readonly resilient: Calls
}

/** Puts colour on text, or leaves it. */
export interface Paint {
  readonly good: (text: string) => string
  readonly fair: (text: string) => string
  readonly bad: (text: string) => string
  readonly dim: (text: string) => string
  readonly strong: (text: string) => string
}

const escape = (code: number) => (text: string): string => `\u001b[${code}m${text}\u001b[0m`
const same = (text: string): string => text
export const colours: Paint = { good: escape(32), fair: escape(33), bad: escape(31), dim: escape(2), strong: escape(1) }
export const plain: Paint = { good: same, fair: same, bad: same, dim: same, strong: same }

/** Seconds that "now" means. */
const window = 3

const clock = (seconds: number): string => {
  const whole = Math.max(0, Math.floor(seconds))
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`
}

const ofSuccess = (paint: Paint, success: number): (text: string) => string =>
  success >= 0.999 ? paint.good : success >= 0.95 ? paint.fair : paint.bad

/** What is being done to whom, and for how long. */
const happening = ({ elapsedSeconds, plan, seconds }: View): string => {
  const left = (until: number) => `${Math.ceil(until - elapsedSeconds)} s`
  const fault = Plan.at(plan, elapsedSeconds)
  if (fault === undefined) return `no fault yet, the first in ${left(plan[0]!.from)}`
  const name = Summary.serverName(fault.server)
  if (elapsedSeconds < fault.to) return `${name}: ${Plan.descriptions[fault.kind]} (in ${left(fault.to)})`
  if (elapsedSeconds < seconds) return `${name}: recovering from ${fault.kind} (${left(fault.until)})`
  return "no more calls; the last answers come in"
}

const now = ({ elapsedSeconds }: View, calls: Calls) => {
  const recent = calls.endedSince((elapsedSeconds - window) * 1000)
  const figures = Summary.figures(recent.filter((call) => call.idempotent))
  return { rate: recent.length / Math.max(0.001, Math.min(window, elapsedSeconds)), figures }
}

const bars = "▁▂▃▄▅▆▇█"

/** Success per second as bars, the last `width` seconds of it. */
const sparkline = ({ seconds }: Calls, width: number, paint: Paint): string =>
  Array.from(seconds.slice(-width), (second) => {
    if (second === undefined) return " "
    const success = 1 - second.failed / second.ended
    return ofSuccess(paint, success)(bars[Math.round(success * (bars.length - 1))]!)
  }).join("")

/** The whole screen, for a terminal that can be drawn on again. */
export const frame = (view: View, columns: number, paint: Paint): ReadonlyArray<string> => {
  const { elapsedSeconds, rate, seconds, servers } = view
  const both = [view.naive, view.resilient]
  const width = Math.max(10, Math.min(60, columns - 14))
  const done = Math.round(Math.min(1, elapsedSeconds / seconds) * width)
  const lines = [
    `${paint.strong("holdfast demo")}  ${servers.length} server processes, ${rate} calls/s through each of two clients`,
    "",
    `${"━".repeat(done)}${paint.dim("━".repeat(width - done))}  ${clock(Math.min(seconds, elapsedSeconds))} of ${
      clock(seconds)
    }`,
    "",
    `${paint.dim("now")}  ${paint.strong(happening(view))}`,
    "",
    paint.dim(
      `${"".padEnd(11)}${"calls/s".padStart(8)}${"success".padStart(11)}${"p50".padStart(10)}${"p99".padStart(10)}` +
        `${"attempts".padStart(10)}${"in flight".padStart(11)}${"failed so far".padStart(15)}`
    ),
    ...both.map((calls) => {
      const { figures, rate } = now(view, calls)
      return calls.name.padEnd(11) + rate.toFixed(0).padStart(8) +
        ofSuccess(paint, figures.success)(Summary.percent(figures.success, 2).padStart(11)) +
        Summary.millis(figures.p50).padStart(10) + Summary.millis(figures.p99).padStart(10) +
        figures.attemptsPerCall.toFixed(2).padStart(10) + String(calls.inFlight).padStart(11) +
        String(calls.failed).padStart(15)
    }),
    "",
    paint.dim(`${"".padEnd(13)}success of each second`),
    ...both.map((calls) => `${calls.name.padEnd(11)}  ${sparkline(calls, width, paint)}`),
    "",
    paint.dim(`${"server".padEnd(11)}${"address".padEnd(26)}${"process".padEnd(22)}circuit of the resilient client`),
    ...servers.map(({ address, process }, index) => {
      const { state, why } = view.resilient.circuits.get(address) ?? { state: "Closed", why: "" }
      const colour = state === "Closed" ? paint.good : state === "Open" ? paint.bad : paint.fair
      return Summary.serverName(index).padEnd(11) + address.padEnd(26) +
        (process === "running" ? same : paint.bad)(process.padEnd(22)) +
        `${colour(state.padEnd(10))}${state === "Closed" ? "" : paint.dim(why)}`
    })
  ]
  return lines.map((line) => clip(line, columns))
}

/** One line about now, for an output that is no terminal. */
export const line = (view: View): string => {
  const client = (calls: Calls) => {
    const { figures } = now(view, calls)
    return `${calls.name} ${Summary.percent(figures.success, 1).padStart(7)}  p50 ${
      Summary.millis(figures.p50).padStart(7)
    }  p99 ${Summary.millis(figures.p99).padStart(7)}  in flight ${String(calls.inFlight).padStart(3)}`
  }
  const circuits = [...view.resilient.circuits].filter(([, { state }]) => state !== "Closed").map((
    [address, circuit]
  ) => `${Summary.serverName(view.servers.findIndex((server) => server.address === address))} ${circuit.state}`)
  return `${clock(view.elapsedSeconds).padStart(5)}  ${client(view.naive)}  |  ${
    client(view.resilient)
  }  |  circuits: ${circuits.join(", ") || "closed"}  |  ${happening(view)}`
}

/** Cuts a line to what fits, colours not counted: a line that wraps could not be drawn over. */
const clip = (line: string, columns: number): string => {
  let room = columns
  let cut = ""
  // oxlint-disable-next-line no-control-regex -- escapes are what is looked for
  for (const part of line.split(/(\u001b\[\d+m)/)) {
    if (part.startsWith("\u001b")) cut += part
    else {
      cut += part.slice(0, room)
      room -= Math.min(room, part.length)
    }
  }
  return cut
}

/** A table with columns as wide as they must be; the first is left-aligned. */
const table = (rows: ReadonlyArray<ReadonlyArray<string>>, left: ReadonlyArray<number>): ReadonlyArray<string> => {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)))
  return rows.map((row) =>
    row.map((cell, column) => left.includes(column) ? cell.padEnd(widths[column]!) : cell.padStart(widths[column]!))
      .join("  ").trimEnd()
  )
}

const cells = (figures: Summary.Figures): ReadonlyArray<string> => [
  String(figures.calls),
  Summary.percent(figures.success, 2),
  Summary.millis(figures.p50),
  Summary.millis(figures.p99),
  figures.attemptsPerCall.toFixed(2)
]

/** The summary of a run that has ended. */
export const summary = (run: Summary.Summary, paint: Paint): ReadonlyArray<string> => {
  const header = ["calls", "success", "p50", "p99", "attempts"]
  const [, ...faults] = run.rows
  const body = [
    ["", "", ...header, "|", ...header],
    ...run.rows.map((
      row
    ) => [row.kind === "none" ? "before" : row.kind, row.what, ...cells(row.naive), "|", ...cells(row.resilient)]),
    ["overall", "", ...cells(run.idempotent.naive), "|", ...cells(run.idempotent.resilient)]
  ]
  const [head, ...lines] = table(body, [0, 1])
  const split = head!.indexOf("|")
  const updates = table([
    ["UpdateEmail", ...header, "failed for"],
    ...(["naive", "resilient"] as const).map((name) => {
      const { failures, ...figures } = run.nonIdempotent[name]
      const why = Object.entries(failures).toSorted(([, a], [, b]) => b - a).map(([reason, count]) =>
        `${count} ${reason}`
      ).join(", ")
      return [name, ...cells({ failures, ...figures }), why || "nothing"]
    })
  ], [0, 6])
  return [
    "",
    paint.strong(
      `${run.all.naive.calls} calls through each client in ${run.seconds} s, ${faults.length} faults, seed ${run.seed}`
    ),
    "",
    `${"".padEnd(head!.search(/calls/) - 2)}  naive: one attempt, round robin, 1 s`.padEnd(split) +
    "|  resilient: the default stack",
    paint.dim(head!),
    ...lines.map((line, i) => i === lines.length - 1 ? paint.strong(line) : line),
    "",
    ...updates.map((line, i) => i === 0 ? paint.dim(line) : line),
    "",
    paint.dim(
      "Each fault's row holds the idempotent calls that were due until the next fault, recovery included. Times run from"
    ),
    paint.dim(
      "when a call was due until it ended, failed calls included. An answer with one of the contract's errors is an answer."
    ),
    "",
    ...run.verdicts.map(({ decides, holds, says }) =>
      `${holds ? paint.good("ok    ") : (decides ? paint.bad : paint.fair)("MISSED")}  ${says}`
    )
  ]
}
