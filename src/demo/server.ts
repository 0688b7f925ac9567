/**
 * One server process of the demo: `node server.ts tcp://127.0.0.1:0`.
 *
 * Prints where it listens, then answers every control line on its input (see
 * `Faults`) with one line of its own. When its input ends, whoever started it is
 * gone, and so is it.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeStdio from "@effect/platform-node/NodeStdio"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Runtime from "effect/Runtime"
import * as Schema from "effect/Schema"
import * as Stdio from "effect/Stdio"
import * as Stream from "effect/Stream"
import * as Server from "../server/Server.ts"
import * as Tcp from "../transport/Tcp.ts"
import * as Faults from "./Faults.ts"
import { handlers, UserService } from "./UserService.ts"

const decode = Schema.decodeUnknownEffect(Schema.fromJsonString(Faults.Control))

const main = Effect.gen(function*() {
  const faults = Faults.none()
  const server = yield* Server.make(UserService, {
    listen: process.argv[2] ?? "tcp://127.0.0.1:0",
    drainGrace: 0
  }).pipe(Effect.provide(Layer.provide(handlers, Layer.succeed(Faults.Current, faults))))
  yield* Console.log(`listening on ${server.address}`)
  const { stdin } = yield* Stdio.Stdio
  yield* stdin.pipe(
    Stream.decodeText,
    Stream.splitLines,
    Stream.runForEach((line) =>
      Effect.flatMap(decode(line), (control) => {
        Faults.control(faults, control)
        return Console.log(JSON.stringify({ inFlight: server.stats().inFlight, requests: server.stats().requests }))
      })
    )
  )
  const { warden } = faults
  if (warden !== null) yield* Effect.ignore(Effect.try(() => process.kill(warden, "SIGKILL")))
})

NodeRuntime.runMain(
  main.pipe(
    Effect.scoped,
    Effect.provide(Layer.merge(Tcp.layer({ agent: "users" }), NodeStdio.layer)),
    // Standard output is for the answers.
    Effect.provideService(Logger.LogToStderr, true)
  ),
  // Not before everything has ended by itself, as `runMain` does: nobody is there any more to wait for.
  { teardown: (exit) => Runtime.defaultTeardown(exit, (code) => process.exit(code)) }
)
