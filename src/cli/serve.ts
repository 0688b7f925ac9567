/** `holdfast serve`: the example service on one address, until it is told to stop. */
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Console from "effect/Console"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Dashboard from "../dashboard/Dashboard.ts"
import { handlers, UserService } from "../demo/UserService.ts"
import * as Logging from "../observe/Logging.ts"
import * as Metrics from "../observe/Metrics.ts"
import * as Observe from "../observe/Observe.ts"
import * as Snapshot from "../observe/Snapshot.ts"
import * as Server from "../server/Server.ts"
import * as Tcp from "../transport/Tcp.ts"
import { dashboardPort, duration, Ended, ExitCode, isAddress, noAddress } from "./Flags.ts"

const description = `Serve the example service, UserService, until SIGTERM or SIGINT.

  It then takes no more connections and answers what is in flight before it ends.

  Exit codes: 0 it was told to stop; 1 the command line makes no sense; 3 it cannot listen.`

const config = {
  listen: Flag.String("listen").pipe(
    Flag.filter(isAddress, noAddress),
    Flag.withDescription("Where to listen; port 0 is any free one (tcp://127.0.0.1:7070)"),
    Flag.withDefault("tcp://127.0.0.1:7070")
  ),
  grace: duration("grace").pipe(
    Flag.withDescription("How long to wait for what is in flight (10s)"),
    Flag.withDefault(Duration.seconds(10))
  ),
  dashboardPort: dashboardPort.pipe(
    Flag.withDescription("Port of a dashboard and of /metrics on this machine; 0 is any free one (none)")
  )
}

const logged = Observe.layer(Logging.make())

/** Whoever looks at the server besides its log, and where it can be seen. */
const watched = (port: number) => {
  const dashboard = Dashboard.layer({ port, routes: Metrics.layerHttp() })
  const observers = Observe.layer(Snapshot.make({ part: "server" }), Metrics.make())
  return Layer.mergeAll(dashboard, observers).pipe(Layer.provide(Snapshot.layer), Layer.provideMerge(logged))
}

export const serve = Command.make("serve", config, ({ dashboardPort, grace, listen }) =>
  Effect.gen(function*() {
    const server = yield* Server.make(UserService, { listen, drainGrace: grace })
    yield* Console.log(`listening on ${server.address}`)
    const dashboard = yield* Effect.serviceOption(Dashboard.Dashboard)
    if (Option.isSome(dashboard)) {
      const { url } = dashboard.value
      yield* Console.log(`dashboard  ${url}\nmetrics    ${url}metrics`)
    }
    return yield* Effect.onInterrupt(Effect.never, () => {
      // To be told to stop is how this command succeeds.
      process.exitCode = 0
      return Console.log("draining")
    })
  }).pipe(
    Effect.scoped,
    Effect.provide([handlers, Tcp.layer({ agent: "holdfast serve" })]),
    Effect.provide(Option.match(dashboardPort, { onNone: () => logged, onSome: watched })),
    Effect.catch((error) =>
      Effect.andThen(
        Console.error(
          error._tag === "CallError" && error.reason._tag === "ConnectFailed"
            ? `holdfast serve: cannot listen on ${listen}: ${error.reason.detail}`
            : `holdfast serve: ${error.message}`
        ),
        Effect.fail(new Ended({ code: ExitCode.call }))
      )
    )
  )).pipe(Command.withDescription(description), Command.withShortDescription("Serve the example service"))
