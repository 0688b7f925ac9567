/** The command line as a user meets it: processes, their output and their exit codes. */
import * as ChildProcess from "node:child_process"
import * as Path from "node:path"

const bin = Path.resolve(import.meta.dirname, "../../src/cli/bin.ts")

export interface Output {
  readonly code: number | null
  readonly out: string
  readonly err: string
}

const ended = (child: ChildProcess.ChildProcess): Promise<Output> => {
  let out = ""
  let err = ""
  child.stdout!.on("data", (chunk) => out += chunk)
  child.stderr!.on("data", (chunk) => err += chunk)
  return new Promise((resolve) => child.on("close", (code) => resolve({ code, out, err })))
}

/** Runs a command to its end. */
export const holdfast = (...args: ReadonlyArray<string>): Promise<Output> =>
  ended(ChildProcess.spawn(process.execPath, [bin, ...args], { stdio: ["ignore", "pipe", "pipe"] }))

/** A command that goes on, once it has printed the line `pattern` matches. */
export const started = (pattern: RegExp, ...args: ReadonlyArray<string>) =>
  new Promise<{ readonly match: RegExpExecArray; readonly stop: (signal: NodeJS.Signals) => Promise<Output> }>(
    (resolve, reject) => {
      const child = ChildProcess.spawn(process.execPath, [bin, ...args], { stdio: ["ignore", "pipe", "pipe"] })
      const end = ended(child)
      let seen = ""
      child.stdout.on("data", (chunk) => {
        seen += chunk
        const match = pattern.exec(seen)
        if (match === null) return
        const stop = (signal: NodeJS.Signals) => {
          child.kill(signal)
          return end
        }
        resolve({ match, stop })
      })
      void end.then(({ code, err }) => reject(new Error(`ended with ${code}: ${err}`)))
    }
  )
