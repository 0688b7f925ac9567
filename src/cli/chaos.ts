/** `holdfast chaos`: a proxy that does to connections what a script says. */
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Console from "effect/Console"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Queue from "effect/Queue"
import * as ChaosProxy from "../testing/ChaosProxy.ts"
import * as FaultScript from "../testing/FaultScript.ts"
import { contents, Ended, ExitCode, isAddress, noAddress } from "./Flags.ts"

const description = `Stand between clients and a server, and break connections as a script says.

  SCRIPT is a FaultScript in YAML or JSON; - reads standard input. Any TCP protocol will
  do. Clients connect to the address it prints; a line says when each phase begins and
  ends. Phases that need methods, keys or answers are left out: a proxy sees bytes.

  When the script is over it passes everything on, until it is told to stop.

  Exit codes: 0 it was told to stop, or with --once the script is over; 1 the script cannot
  be read, or the command line makes no sense; 3 it cannot listen.`

const address = (name: string) => Flag.String(name).pipe(Flag.filter(isAddress, noAddress))

const config = {
  script: Argument.String("script").pipe(
    Argument.withDescription("The script: a path, or - for standard input")
  ),
  listen: address("listen").pipe(
    Flag.withDescription("Where clients connect; port 0 is any free one (tcp://127.0.0.1:0)"),
    Flag.withDefault("tcp://127.0.0.1:0")
  ),
  to: address("to").pipe(Flag.withDescription("Where they are passed on to")),
  once: Flag.Boolean("once").pipe(
    Flag.withDescription("End when the script is over"),
    Flag.withDefault(false)
  )
}

const line = ({ atMillis, begins, phase }: FaultScript.Change): string => {
  const when = Duration.format(Duration.millis(atMillis)).padStart(8)
  return begins ? `${when}  ${phase.name} begins: ${FaultScript.describe(phase.fault)}` : `${when}  ${phase.name} ends`
}

const refused = (code: number, what = "") => (error: { readonly message: string }) =>
  Effect.andThen(Console.error(`holdfast chaos: ${what}${error.message}`), Effect.fail(new Ended({ code })))

export const chaos = Command.make("chaos", config, ({ listen, once, script: file, to }) =>
  Effect.gen(function*() {
    const script = yield* Effect.flatMap(contents(file), FaultScript.parse)
    const changes = yield* Queue.unbounded<FaultScript.Change>()
    const proxy = yield* ChaosProxy.make({
      listen,
      to,
      script,
      onChange: (change) => Queue.offerUnsafe(changes, change)
    })
    yield* Console.log(`listening on ${proxy.address}, passing on to ${to}`)
    for (const { fault, name } of proxy.leftOut) {
      yield* Console.log(`left out  ${name}: bytes do not show ${FaultScript.describe(fault)}, or whom it is for`)
    }
    const phases = FaultScript.changes(script).length - 2 * proxy.leftOut.length
    const reporting = Effect.replicateEffect(
      Effect.flatMap(Queue.take(changes), (change) => Console.log(line(change))),
      phases,
      { discard: true }
    ).pipe(
      Effect.andThen(Console.log("the script is over")),
      Effect.andThen(once ? Effect.void : Effect.never)
    )
    return yield* Effect.onInterrupt(reporting, () => {
      // To be told to stop is how this command succeeds.
      process.exitCode = 0
      const { accepted, bytesDown, bytesUp } = proxy.stats()
      return Console.log(
        `${accepted} connection${accepted === 1 ? "" : "s"}, ${bytesUp} bytes up, ${bytesDown} bytes down`
      )
    })
  }).pipe(
    Effect.scoped,
    Effect.catchTag("ScriptError", refused(ExitCode.failed, `${file}: `)),
    Effect.catchTag("FileError", refused(ExitCode.failed)),
    Effect.catchTag("ProxyError", refused(ExitCode.call))
  )).pipe(
    Command.withDescription(description),
    Command.withShortDescription("Break connections as a script says")
  )
