/** What several commands read from the command line, and how they end. */
import * as Flag from "effect/cli/Flag"
import * as Data from "effect/Data"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Runtime from "effect/Runtime"

const units: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, min: 60_000, h: 3_600_000 }

/** A duration as people write it: `250ms`, `2s`, `1.5 m`, `1 minute`, or Effect's own words. Positive and finite. */
export const parseDuration = (text: string): Option.Option<Duration.Duration> => {
  const short = /^\s*(\d+(?:\.\d+)?)\s*(ms|s|min|m|h)\s*$/.exec(text)
  const duration = short === null
    ? Duration.fromInput(text.trim() as Duration.Input)
    : Option.some(Duration.millis(Number(short[1]) * units[short[2]!]!))
  return Option.filter(duration, (value) => Duration.toMillis(value) > 0 && Duration.isFinite(value))
}

/** A flag that takes a duration. */
export const duration = (name: string): Flag.Flag<Duration.Duration> =>
  Flag.String(name).pipe(
    Flag.filterMap(parseDuration, (text) => `a duration such as 250ms, 2s or "1 minute", got ${text}`),
    Flag.withMetavar("duration")
  )

/** An address that a transport of ours understands. */
export const isAddress = (text: string): boolean => /^tcp:\/\/(\[[^\]]+\]|[^:/]+):\d{1,5}$/.test(text)

/** How a command ends when it has said everything itself: nothing more is printed. */
export class Ended extends Data.TaggedError("Ended")<{ readonly code: number }> {
  override readonly [Runtime.errorExitCode] = this.code
  override readonly [Runtime.errorReported] = false
}

export const ExitCode = { usage: 1, domain: 2, call: 3 } as const
