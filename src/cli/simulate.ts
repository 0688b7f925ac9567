/** `holdfast simulate`: what policies do in a scenario, in virtual time, side by side. */
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Yaml from "effect/encoding/Yaml"
import * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import * as Path from "effect/Path"
import * as Schema from "effect/Schema"
import * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import * as PolicySpec from "../policy/PolicySpec.ts"
import * as FaultScript from "../testing/FaultScript.ts"
import * as Scenarios from "../testing/Scenarios.ts"
import * as Simulator from "../testing/Simulator.ts"
import { contents, Ended, ExitCode, fileError } from "./Flags.ts"

const list = Object.values(Scenarios.all)

const description = `Run policies in a scenario, in virtual time, and compare what comes of them.

  FILE is a PolicySpec in YAML or JSON; - reads standard input, and "default" is what a
  client has where it is told nothing. The policies are the real ones; clients, servers
  and time are simulated, so a minute takes seconds. A slot that a file does not name is
  not there. The same files, scenario and seed give the same figures, to the byte.

  Scenarios:
${list.map(({ name, says }) => `    ${name.padEnd(20)}${says}`).join("\n")}

  --scenario also takes a YAML or JSON file: clients, arrivals, dependency, scenario, horizon.
  --set name=value changes a parameter of a named scenario; a wrong name lists them all.
  With --compare, * marks what is best in its row.

  Exit codes: 0 it ran; 1 something cannot be read, or makes no sense.`

const config = {
  file: Argument.String("file").pipe(Argument.withDescription("The policy: a path, - for standard input, or default")),
  scenario: Flag.String("scenario").pipe(
    Flag.withAlias("s"),
    Flag.withMetavar("name or file"),
    Flag.withDescription("What happens (spike)"),
    Flag.withDefault("spike")
  ),
  compare: Flag.String("compare").pipe(
    Flag.withAlias("c"),
    Flag.withMetavar("file"),
    Flag.withDescription("Another policy, in the same situation with the same dice; may be repeated"),
    Flag.atLeast(0)
  ),
  set: Flag.String("set").pipe(
    Flag.withMetavar("name=value"),
    Flag.withDescription("A parameter of the scenario; may be repeated"),
    Flag.atLeast(0)
  ),
  faults: Flag.String("faults").pipe(
    Flag.withMetavar("file"),
    Flag.withDescription("A fault script: what goes wrong between clients and servers besides"),
    Flag.optional
  ),
  seed: Flag.String("seed").pipe(Flag.withDescription("Names the dice (1)"), Flag.withDefault("1")),
  json: Flag.String("json").pipe(
    Flag.withMetavar("file"),
    Flag.withDescription("Write every figure, the time series and the transitions as JSON"),
    Flag.optional
  ),
  report: Flag.String("report").pipe(
    Flag.withMetavar("file"),
    Flag.withDescription("Write one HTML page with tables and charts, which needs no network"),
    Flag.optional
  )
}

/** What is said when a file, or what is in it, cannot be used. */
class Unusable extends Schema.TaggedError<Unusable>()("Unusable", { message: Schema.String }) {}

const unusable = (what: string) => (error: { readonly message: string }): Unusable =>
  new Unusable({ message: `${what}: ${error.message}` })

const document = (file: string) =>
  Effect.flatMap(
    Effect.mapError(contents(file), ({ message }) => new Unusable({ message })),
    (text) =>
      Effect.try({
        try: () => Yaml.parse(text),
        catch: (error) => new Unusable({ message: `${file}: ${String(error)}` })
      })
  )

/** A policy by its file; where it has no name of its own, the file's stands in the tables. */
const policyOf = Effect.fnUntraced(function*(file: string) {
  if (file === "default") return Simulator.defaultPolicy
  const path = yield* Path.Path
  const written = yield* document(file)
  yield* Effect.mapError(PolicySpec.read(written), unusable(file))
  return { name: file === "-" ? "policy" : path.parse(file).name, ...written as PolicySpec.PolicySpec }
})

/** Policies by their files; where several have one name, the files tell them apart. */
const policiesOf = Effect.fnUntraced(function*(given: ReadonlyArray<string>) {
  const again = given.find((file, index) => given.indexOf(file) < index)
  if (again !== undefined) {
    return yield* new Unusable({ message: `--compare: must be another policy, got ${again} again` })
  }
  const policies = yield* Effect.forEach(given, policyOf)
  return policies.map((policy, index) =>
    policies.some(({ name }, other) => other !== index && name === policy.name)
      ? { ...policy, name: `${policy.name} (${given[index]})` }
      : policy
  )
})

const parameters = (set: ReadonlyArray<string>): Effect.Effect<Record<string, number>, Unusable> =>
  Effect.gen(function*() {
    const values: Record<string, number> = {}
    for (const given of set) {
      const match = /^(\w+)=(-?[\d.]+)$/.exec(given)
      if (match === null || !Number.isFinite(Number(match[2]))) {
        return yield* new Unusable({ message: `--set: expected name=value with a number, got ${given}` })
      }
      values[match[1]!] = Number(match[2])
    }
    return values
  })

const parametersOf = ({ name, parameters }: Scenarios.Named): string =>
  `parameters of ${name}:\n${
    Object.entries(parameters).map(([field, { default: value, says }]) =>
      `  ${field.padEnd(12)}${String(value).padEnd(8)}${says}`
    ).join("\n")
  }`

/** What happens, and what to blame for what is wrong with it: a policy's mistakes are `SpecError`s. */
const situationOf = Effect.fnUntraced(function*(scenario: string, set: ReadonlyArray<string>) {
  const named = Object.hasOwn(Scenarios.all, scenario) ? Scenarios.all[scenario] : undefined
  if (named === undefined) {
    const files = yield* FileSystem.FileSystem
    if (!(yield* Effect.orElseSucceed(files.exists(scenario), () => false))) {
      return yield* new Unusable({
        message: `--scenario: neither a file nor one of ${list.map(({ name }) => name).join(", ")}: ${scenario}`
      })
    }
    if (set.length > 0) return yield* new Unusable({ message: "--set: only for a named scenario, not for a file" })
    const written = yield* document(scenario)
    const situation = yield* sensible(scenario, Effect.sync(() => Simulator.situation(written)))
    return { situation, source: scenario }
  }
  const values = yield* parameters(set)
  const unknown = Object.keys(values).find((field) => !Object.hasOwn(named.parameters, field))
  if (unknown !== undefined) {
    return yield* new Unusable({ message: `--set: no parameter ${unknown}; ${parametersOf(named)}` })
  }
  return { situation: yield* sensible("--set", Effect.sync(() => named.make(values))), source: "--set" }
})

/** A document's `RangeError` is its author's mistake, and said like one. */
const sensible = <A, E, R>(what: string, self: Effect.Effect<A, E, R>): Effect.Effect<A, E | Unusable, R> =>
  Effect.catchDefect(
    self,
    (defect) =>
      defect instanceof RangeError
        ? Effect.fail(new Unusable({ message: `${what}: ${defect.message}` }))
        : Effect.die(defect)
  )

/** Digits are a number, so that `--seed 1` is what `seed: 1` is in code. */
const seedOf = (text: string): string | number => (/^\d{1,15}$/.test(text) ? Number(text) : text)

/** One line that says how far it is, on a terminal; and what takes it away again. */
const progressLine = Effect.fnUntraced(function*(name: string) {
  const stdio = yield* Stdio.Stdio
  if (!(yield* stdio.stderrIsTerminal)) return { progress: undefined, clear: Effect.void }
  const write = (text: string) => Effect.ignore(Stream.run(Stream.make(`\r\x1b[K${text}`), stdio.stderr()))
  return {
    progress: (share: number, calls: number) =>
      write(`${name}: ${Math.round(share * 100)} %, ${calls.toLocaleString("en")} calls`),
    clear: write("")
  }
})

const run = Effect.fnUntraced(function*(
  { situation, source }: { readonly situation: Simulator.Situation; readonly source: string },
  policy: PolicySpec.PolicySpec,
  seed: string | number,
  faults: FaultScript.Script | undefined
) {
  const name = policy.name ?? "policy"
  const { clear, progress } = yield* progressLine(name)
  return yield* Effect.ensuring(
    Effect.mapError(
      sensible(source, Simulator.run({ ...situation, policy, seed, progress, ...(faults && { faults }) })),
      (error) => error._tag === "Unusable" ? error : unusable(name)(error)
    ),
    clear
  )
})

export const simulate = Command.make("simulate", config, (input) =>
  Effect.gen(function*() {
    const files = yield* FileSystem.FileSystem
    const policies = yield* policiesOf([input.file, ...input.compare])
    const situation = yield* situationOf(input.scenario, input.set)
    const faults = Option.isNone(input.faults)
      ? undefined
      : yield* Effect.mapError(Effect.flatMap(document(input.faults.value), FaultScript.read), unusable("--faults"))
    const results = yield* Effect.forEach(policies, (policy) => run(situation, policy, seedOf(input.seed), faults))
    yield* Console.log(Simulator.table(results))
    const write = (file: Option.Option<string>, text: () => string) =>
      Option.isNone(file) ? Effect.void : Effect.andThen(
        Effect.mapError(
          files.writeFileString(file.value, text()),
          (error) => new Unusable({ message: fileError(error).message })
        ),
        Console.error(`written: ${file.value}`)
      )
    yield* write(input.json, () => `${JSON.stringify(results, null, 2)}\n`)
    yield* write(input.report, () => Simulator.html(results))
  }).pipe(
    Effect.catchTag("Unusable", (error) =>
      Effect.andThen(
        Console.error(`holdfast simulate: ${error.message}`),
        Effect.fail(new Ended({ code: ExitCode.failed }))
      ))
  )).pipe(
    Command.withDescription(description),
    Command.withShortDescription("See what a policy does, before production does")
  )
