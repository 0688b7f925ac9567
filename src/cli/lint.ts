/** `holdfast lint`: what in a policy cannot work, and what is rarely meant, before it ships. */
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Yaml from "effect/encoding/Yaml"
import type * as Lint from "../policy/Lint.ts"
import * as PolicySpec from "../policy/PolicySpec.ts"
import { contents, Ended, ExitCode } from "./Flags.ts"

const description = `Find in a policy what cannot work, with the arithmetic.

  FILE is a PolicySpec in YAML or JSON; - reads standard input. Names of functions and
  Schedules are taken on trust: only the program that binds them knows them.

  Exit codes: 0 nothing is wrong (there may be warnings); 1 there are errors, or the file
  cannot be read.`

const config = {
  file: Argument.String("file").pipe(Argument.withDescription("The policy: a path, or - for standard input")),
  json: Flag.Boolean("json").pipe(
    Flag.withDescription("Print the findings as JSON: rule, severity, path, message"),
    Flag.withDefault(false)
  )
}

/** A document that cannot be read at all, as findings: one a line, each with where it stands. */
const unreadable = ({ message }: PolicySpec.SpecError): ReadonlyArray<Lint.Finding> =>
  message.split("\n").map((line) => {
    const [, path = "", rest = line] = /^([\w.]+): (.*)$/.exec(line) ?? []
    return { rule: "read", severity: "error", path, message: rest }
  })

export const lint = Command.make("lint", config, ({ file, json }) =>
  Effect.gen(function*() {
    const text = yield* contents(file)
    const findings = yield* Effect.try({
      try: () => Yaml.parse(text),
      catch: (error) => new PolicySpec.SpecError({ message: String(error) })
    }).pipe(
      Effect.flatMap((document) => PolicySpec.lint(document)),
      Effect.catch((error) => Effect.succeed(unreadable(error)))
    )
    yield* Console.log(json ? JSON.stringify(findings, null, 2) : report(file, findings))
    if (findings.some((finding) => finding.severity === "error")) return yield* new Ended({ code: ExitCode.failed })
  }).pipe(
    Effect.catchTag("FileError", (error) =>
      Effect.andThen(Console.error(error.message), Effect.fail(new Ended({ code: ExitCode.failed }))))
  )).pipe(Command.withDescription(description), Command.withShortDescription("Find in a policy what cannot work"))

const report = (file: string, findings: ReadonlyArray<Lint.Finding>): string => {
  const of = (severity: Lint.Finding["severity"]) => findings.filter((finding) => finding.severity === severity).length
  const lines = findings.map(({ message, path, rule, severity }) =>
    `${severity.padEnd(7)}  ${rule.padEnd(4)}  ${path === "" ? "" : `${path}: `}${message}`
  )
  const counted = findings.length === 0
    ? "nothing found"
    : `${count(of("error"), "error")}, ${count(of("warning"), "warning")}`
  return [...lines, `${file}: ${counted}`].join("\n")
}

const count = (n: number, what: string): string => `${n} ${what}${n === 1 ? "" : "s"}`
