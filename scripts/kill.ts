/**
 * Kills a server while a hundred calls are in flight, and says how long the last
 * of them waited to hear of it: `node scripts/kill.ts`.
 *
 * The clock starts right before `SIGKILL` is sent and stops when the last call
 * has failed, so the time the system takes to end a process and to close its
 * sockets is included. Ten runs, each with a process of its own. Exits non-zero
 * when a run took longer than 100 ms, or a call ended in any other way.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Console, Effect, Exit, Fiber } from "effect"
import * as Fleet from "../src/demo/Fleet.ts"
import { UserService } from "../src/demo/UserService.ts"
import { CallError, Client, Discovery, Tcp, Timer } from "../src/index.ts"

const runs = 10
const calls = 100
const limitMillis = 100

const now = Effect.withFiber((fiber) => Effect.succeed(Timer.now(fiber)))

/** Waits until the server says that it is serving that many calls. */
const inFlight = (server: Fleet.Server, count: number): Effect.Effect<void, Fleet.FleetError> =>
  Effect.flatMap(
    server.tell({}),
    (report) =>
      report.inFlight === count ? Effect.void : Effect.andThen(Effect.sleep("5 millis"), inFlight(server, count))
  )

/** One run: milliseconds from the kill to the first and to the last failure, and the reasons of all. */
const run = Effect.gen(function*() {
  const [server] = yield* Fleet.make(1)
  if (server === undefined) return yield* Effect.die("no server")
  // Longer than anybody waits here.
  yield* server.tell({ latency: { minMillis: 60_000, maxMillis: 60_000 } })
  const client = yield* Client.make(UserService, {
    target: "users",
    policy: { retry: false, circuitBreaker: false, timeout: false },
    defaultDeadline: "1 minute"
  }).pipe(Effect.provide([Discovery.layerStatic({ users: [server.address] }), Tcp.layer()]))
  const fibers = yield* Effect.forEach(
    Array.from({ length: calls }),
    (_, i) =>
      client.UserService.GetUserInfo({ id: 1001 + i }).pipe(
        Effect.exit,
        Effect.flatMap((exit) => Effect.map(now, (at) => ({ exit, at }))),
        Effect.forkChild
      )
  )
  yield* inFlight(server, calls)
  const killedAt = yield* now
  process.kill(server.pid(), "SIGKILL")
  const ended = yield* Effect.forEach(fibers, Fiber.join)
  const times = ended.map(({ at }) => at - killedAt)
  const reasons = new Set(ended.map(({ exit }) => {
    const error = Exit.isFailure(exit)
      ? exit.cause.reasons.map((reason) => "error" in reason ? reason.error : reason)[0]
      : "answered"
    return CallError.isCallError(error) ? error.reason._tag : String(error)
  }))
  return { first: Math.min(...times), last: Math.max(...times), reasons: [...reasons] }
}).pipe(Effect.scoped)

const main = Effect.gen(function*() {
  yield* Console.log(`${calls} calls in flight to one server, SIGKILL; milliseconds until they have failed\n`)
  yield* Console.log("run   first call   last call   reasons")
  let worst = 0
  let clean = true
  for (let i = 1; i <= runs; i++) {
    const { first, last, reasons } = yield* run
    worst = Math.max(worst, last)
    clean &&= reasons.length === 1 && reasons[0] === "ConnectionLost"
    yield* Console.log(
      `${String(i).padStart(3)}${first.toFixed(1).padStart(13)}${last.toFixed(1).padStart(12)}   ${reasons.join(", ")}`
    )
  }
  const passed = clean && worst <= limitMillis
  yield* Console.log(
    `\n${passed ? "ok" : "FAILED"}: the slowest run took ${worst.toFixed(1)} ms, the limit is ${limitMillis} ms`
  )
  if (!passed) process.exitCode = 1
})

NodeRuntime.runMain(Effect.provide(main, NodeServices.layer))
