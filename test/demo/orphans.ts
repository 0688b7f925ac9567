/** Two servers, one of them frozen, and a parent that is about to be killed: what `orphans.test.ts` runs. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Console, Effect } from "effect"
import * as Fleet from "../../src/demo/Fleet.ts"

NodeRuntime.runMain(
  Effect.gen(function*() {
    const servers = yield* Fleet.make(2)
    yield* servers[1]!.freeze
    yield* Console.log(`pids ${servers.map((server) => server.pid()).join(" ")}`)
    return yield* Effect.never
  }).pipe(Effect.scoped, Effect.provide(NodeServices.layer))
)
