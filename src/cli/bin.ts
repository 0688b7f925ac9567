#!/usr/bin/env node
/** The executable: what is printed for people goes to standard output, everything else to standard error. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Cause from "effect/Cause"
import * as CliOutput from "effect/cli/CliOutput"
import * as Command from "effect/cli/Command"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Logger from "effect/Logger"
import * as Runtime from "effect/Runtime"
import { createRequire } from "node:module"
import { holdfast } from "./Commands.ts"

const { version } = createRequire(import.meta.url)("../../package.json") as { readonly version: string }

/** A command line that makes no sense leaves standard output to whoever reads it, and its error is not below a page of help. */
const presenter = CliOutput.layerPresenter({
  present: (event) =>
    event._tag === "InvalidInvocation"
      ? Console.error(
        `${CliOutput.defaultFormatter().formatErrors(event.errors)}\n\nUSAGE\n  ${event.helpDoc.usage}\n\n${
          event.commandPath.join(" ")
        } --help says what each part is.`
      )
      : CliOutput.defaultPresenter.present(event)
})

NodeRuntime.runMain(
  Command.run(holdfast, { version }).pipe(
    Effect.provide([NodeServices.layer, presenter]),
    Effect.provideService(Logger.LogToStderr, true)
  ),
  {
    teardown: (exit, onExit) => {
      // A command for which a signal is the proper end has said so.
      const told = Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause) && process.exitCode === 0
      return told ? onExit(0) : Runtime.defaultTeardown(exit, onExit)
    }
  }
)
