import { assert, describe, it } from "@effect/vitest"
import * as ChildProcess from "node:child_process"
import * as Path from "node:path"
import { setTimeout as pause } from "node:timers/promises"

const lives = (pid: number): boolean => {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

/** Starts the parent, does to it what is given, and returns the pids of its children. */
const children = (signal: NodeJS.Signals) =>
  new Promise<ReadonlyArray<number>>((resolve, reject) => {
    const parent = ChildProcess.spawn(process.execPath, [Path.join(import.meta.dirname, "orphans.ts")], {
      stdio: ["ignore", "pipe", "inherit"]
    })
    let pids: ReadonlyArray<number> = []
    parent.stdout.on("data", (chunk) => {
      pids = (/^pids (.*)$/m.exec(String(chunk))?.[1] ?? "").split(" ").map(Number)
      parent.kill(signal)
    })
    parent.on("exit", () => pids.length === 2 ? resolve(pids) : reject(new Error("the parent has not started")))
  })

describe("the demo's servers", () => {
  it("end with their parent, frozen or not, whether it is interrupted or killed", async () => {
    const both = await Promise.all([children("SIGINT"), children("SIGKILL")])
    // A killed parent cannot wait for them: they notice by themselves, and the wait ends when they have.
    while (both[1].some(lives)) await pause(5)
    assert.deepStrictEqual(both.flat().filter(lives), [])
  })
})
