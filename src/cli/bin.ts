#!/usr/bin/env node
/** The executable: what is printed for people goes to standard output, everything else to standard error. */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import * as Cause from "effect/Cause"
import * as Command from "effect/cli/Command"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Logger from "effect/Logger"
import * as Runtime from "effect/Runtime"
import { createRequire } from "node:module"
import { holdfast } from "./Commands.ts"

const { version } = createRequire(import.meta.url)("../../package.json") as { readonly version: string }

NodeRuntime.runMain(
  Command.run(holdfast, { version }).pipe(
    Effect.provide(NodeServices.layer),
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
