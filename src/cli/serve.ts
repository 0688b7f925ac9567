/** `holdfast serve`: the example service on one address, until it is told to stop. */
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Console from "effect/Console"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { handlers, UserService } from "../demo/UserService.ts"
import * as Server from "../server/Server.ts"
import * as Tcp from "../transport/Tcp.ts"
import { duration, Ended, ExitCode, isAddress } from "./Flags.ts"

const description = `Serve the example service, UserService, until SIGTERM or SIGINT.

  It then takes no more connections and answers what is in flight before it ends.

  Exit codes: 0 it was told to stop; 1 the command line makes no sense; 3 it cannot listen.`

const config = {
  listen: Flag.String("listen").pipe(
    Flag.filter(isAddress, (text) => `tcp://host:port, got ${text}`),
    Flag.withDescription("Where to listen; port 0 is any free one"),
    Flag.withDefault("tcp://127.0.0.1:7070")
  ),
  grace: duration("grace").pipe(
    Flag.withDescription("How long to wait for what is in flight (10s)"),
    Flag.withDefault(Duration.seconds(10))
  )
}

export const serve = Command.make("serve", config, ({ grace, listen }) =>
  Effect.gen(function*() {
    const server = yield* Server.make(UserService, { listen, drainGrace: grace })
    yield* Console.log(`listening on ${server.address}`)
    return yield* Effect.onInterrupt(Effect.never, () => {
      // To be told to stop is how this command succeeds.
      process.exitCode = 0
      return Console.log("draining")
    })
  }).pipe(
    Effect.scoped,
    Effect.provide([handlers, Tcp.layer({ agent: "holdfast serve" })]),
    Effect.catch((error) =>
      Effect.andThen(
        Console.error(`CallError ${error.reason._tag}: ${error.message}`),
        Effect.fail(new Ended({ code: ExitCode.call }))
      )
    )
  )).pipe(Command.withDescription(description), Command.withShortDescription("Serve the example service"))
