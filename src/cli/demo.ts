/** `holdfast demo`: five servers, real faults, a naive and a resilient client side by side. */
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Demo from "../demo/Demo.ts"
import * as Summary from "../demo/Summary.ts"
import * as FaultScript from "../testing/FaultScript.ts"
import { contents, dashboardPort, Ended, ExitCode, FileError, fileError } from "./Flags.ts"

const description = `Run five server processes under real faults, with two clients.

  A naive client (each server in turn, one attempt, one second) and one with the
  default stack make the same calls at a steady rate while servers are killed,
  frozen, slowed down and made to answer errors, one after the other. Under 30
  seconds there is only time for the first two. A dashboard shows both clients live,
  and /metrics the resilient one's figures; the first lines say where. Everything it
  starts has ended when it ends.

  Exit codes: 0 the resilient client answered more of its calls, and in a minute or
  more also 99.9 % of the idempotent ones with at most 1.15 attempts per call;
  1 it did not, or the demo could not run.`

const between = (minimum: number, maximum: number) =>
  Flag.filter(
    (value: number) => value >= minimum && value <= maximum,
    (value) => `${minimum} to ${maximum}, got ${value}`
  )

const config = {
  seconds: Flag.Int("seconds").pipe(
    between(5, 3600),
    Flag.withDescription("How long calls are made, 5 to 3600 (60)"),
    Flag.withDefault(60)
  ),
  rate: Flag.Int("rate").pipe(
    between(1, 2000),
    Flag.withDescription("Calls per second through each client, up to 2000 (100)"),
    Flag.withDefault(100)
  ),
  seed: Flag.Int("seed").pipe(
    Flag.withDescription("Which calls are made, and which server each fault hits (1)"),
    Flag.withDefault(1)
  ),
  json: Flag.String("json").pipe(
    Flag.withMetavar("file"),
    Flag.withDescription("Write every figure as JSON"),
    Flag.optional
  ),
  dashboardPort: dashboardPort.pipe(
    Flag.withDescription(
      "Port of the dashboard and of /metrics on this machine; 0 is any free one (7077, or any free one)"
    )
  ),
  noDashboard: Flag.Boolean("no-dashboard").pipe(
    Flag.withDescription("Show nothing but the terminal"),
    Flag.withDefault(false)
  ),
  faults: Flag.String("faults").pipe(
    Flag.withMetavar("file"),
    Flag.withDescription("A fault script: what goes wrong between both clients and the servers besides"),
    Flag.optional
  ),
  log: Flag.String("log").pipe(
    Flag.withMetavar("file"),
    Flag.withDescription("Write what the resilient client logs: circuits that move, rejections, a spent budget"),
    Flag.optional
  ),
  report: Flag.String("report").pipe(
    Flag.withMetavar("file"),
    Flag.withDescription("Write one HTML page with tables and charts"),
    Flag.optional
  )
}

export const demo = Command.make(
  "demo",
  config,
  ({ dashboardPort, faults, json, log, noDashboard, report, ...rest }) =>
    Effect.gen(function*() {
      const script = Option.isNone(faults)
        ? undefined
        : yield* Effect.flatMap(contents(faults.value), (text) =>
          Effect.mapError(
            FaultScript.parse(text),
            ({ message }) => new FileError({ message: `${faults.value}: ${message}` })
          ))
      return yield* Demo.run({
        ...rest,
        faults: script,
        json: Option.getOrUndefined(json),
        report: Option.getOrUndefined(report),
        log: Option.getOrUndefined(log),
        dashboard: noDashboard ? false : Option.getOrUndefined(dashboardPort)
      })
    }).pipe(
      Effect.catchTag("PlatformError", (error) => Effect.fail(fileError(error))),
      Effect.catch((error) =>
        Effect.andThen(
          Console.error(`holdfast demo: ${error.message}`),
          Effect.fail(new Ended({ code: ExitCode.failed }))
        )
      ),
      Effect.flatMap((summary) =>
        Summary.passed(summary) ? Effect.void : Effect.fail(new Ended({ code: ExitCode.failed }))
      )
    )
).pipe(Command.withDescription(description), Command.withShortDescription("Watch calls survive real faults"))
