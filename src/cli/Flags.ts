/** What several commands read from the command line, and how they end. */
import * as Flag from "effect/cli/Flag"
import * as Data from "effect/Data"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import type * as Option from "effect/Option"
import type { PlatformError } from "effect/PlatformError"
import * as Runtime from "effect/Runtime"
import * as Schema from "effect/Schema"
import * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import * as PolicySpec from "../policy/PolicySpec.ts"

/** A flag that takes a duration, as people and policies write it: `250ms`, `2 s`, `1 minute`. */
export const duration = (name: string): Flag.Flag<Duration.Duration> =>
  Flag.String(name).pipe(
    Flag.filterMap(
      Schema.decodeUnknownOption(PolicySpec.Period),
      (text) => `a duration such as 250ms, 2s or "1 minute", got ${text}`
    ),
    Flag.withMetavar("duration")
  )

/** The port of a dashboard, if one is wanted. */
export const dashboardPort: Flag.Flag<Option.Option<number>> = Flag.Int("dashboard-port").pipe(
  Flag.filter((port) => port >= 0 && port <= 65_535, (port) => `0 to 65535, got ${port}`),
  Flag.optional
)

/** An address that a transport of ours understands. */
export const isAddress = (text: string): boolean =>
  Number(/^tcp:\/\/(?:\[[^\]]+\]|[^:/]+):(\d{1,5})$/.exec(text)?.[1]) <= 65_535

/** What is said of one that it does not. */
export const noAddress = (text: string): string => `tcp://host:port with a port up to 65535, got ${text}`

/** What the system has against a file, in its own words: `policy.yaml: no such file or directory`. */
export class FileError extends Data.TaggedError("FileError")<{ readonly message: string }> {}

export const fileError = ({ message, reason }: PlatformError): FileError => {
  const cause = reason.cause instanceof Error ? reason.cause.message : ""
  const says = /^E[A-Z0-9]+: ([^,]+)/.exec(cause)?.[1]
  const path = "pathOrDescriptor" in reason ? reason.pathOrDescriptor : undefined
  return new FileError({ message: says === undefined || path === undefined ? message : `${path}: ${says}` })
}

/** The text of a file; `-` is standard input. */
export const contents = (
  file: string
): Effect.Effect<string, FileError, FileSystem.FileSystem | Stdio.Stdio> => {
  const read: Effect.Effect<string, PlatformError, FileSystem.FileSystem | Stdio.Stdio> = file === "-"
    ? Effect.flatMap(Stdio.Stdio, (stdio) => Stream.mkString(Stream.decodeText(stdio.stdin)))
    : Effect.flatMap(FileSystem.FileSystem, (files) => files.readFileString(file))
  return Effect.mapError(read, fileError)
}

/** How a command ends when it has said everything itself: nothing more is printed. */
export class Ended extends Data.TaggedError("Ended")<{ readonly code: number }> {
  override readonly [Runtime.errorExitCode] = this.code
  override readonly [Runtime.errorReported] = false
}

export const ExitCode = { failed: 1, domain: 2, call: 3 } as const
