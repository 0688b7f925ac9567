/** The commands, as one. */
import * as Command from "effect/cli/Command"
import { call } from "./call.ts"
import { chaos } from "./chaos.ts"
import { demo } from "./demo.ts"
import { lint } from "./lint.ts"
import { serve } from "./serve.ts"
import { simulate } from "./simulate.ts"

export const holdfast = Command.make("holdfast").pipe(
  Command.withDescription("Remote calls that hold."),
  Command.withSubcommands([call, serve, lint, simulate, chaos, demo])
)
