/**
 * The main job: five servers, two clients, real faults, and what became of every
 * call.
 *
 * The naive client is what is written first: each server in turn, one attempt,
 * one second. The resilient one is `Client.make` with nothing said about policy.
 */
import * as Clock from "effect/Clock"
import * as Console from "effect/Console"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import type * as PlatformError from "effect/PlatformError"
import type { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as Random from "effect/Random"
import type * as Scope from "effect/Scope"
import * as Stdio from "effect/Stdio"
import * as Terminal from "effect/Terminal"
import * as Os from "node:os"
import * as Discovery from "../balancer/Discovery.ts"
import * as Client from "../client/Client.ts"
import * as Timer from "../contract/Timer.ts"
import type { DashboardError } from "../dashboard/Dashboard.ts"
import * as Chaos from "../testing/Chaos.ts"
import type * as FaultScript from "../testing/FaultScript.ts"
import * as Tcp from "../transport/Tcp.ts"
import { Transport } from "../transport/Transport.ts"
import * as Fleet from "./Fleet.ts"
import * as Load from "./Load.ts"
import * as Plan from "./Plan.ts"
import * as Report from "./Report.ts"
import * as Screen from "./Screen.ts"
import * as Summary from "./Summary.ts"
import { UserService } from "./UserService.ts"
import * as Watch from "./Watch.ts"

export interface Options extends Watch.Options {
  /** How long calls are made. */
  readonly seconds: number
  /** Calls per second through each client. */
  readonly rate: number
  /** Which calls, and which server each fault hits. */
  readonly seed: number
  /** Where the figures go as JSON. */
  readonly json: string | undefined
  /** Where the page goes. */
  readonly report: string | undefined
  /** What goes wrong between both clients and the servers besides, from when the clients are made. */
  readonly faults?: FaultScript.Script | undefined
}

const servers = 5
/** Calls through each client before the clock starts, so that the compiler's warm-up is nobody's latency. Not counted. */
const warmUp = 100

/** Runs the demo, prints and writes what came of it. Every process it starts has ended when it ends. */
export const run = (
  options: Options
): Effect.Effect<
  Summary.Summary,
  DashboardError | Fleet.FleetError | PlatformError.PlatformError,
  ChildProcessSpawner | FileSystem.FileSystem | Stdio.Stdio | Terminal.Terminal
> =>
  Effect.gen(function*() {
    const summary = yield* Effect.scoped(drive(options))
    const paint = (yield* colourful) ? Screen.colours : Screen.plain
    yield* Console.log(Screen.summary(summary, paint).join("\n"))
    const fs = yield* FileSystem.FileSystem
    const write = (file: string | undefined, text: () => string) =>
      file === undefined
        ? Effect.void
        : Effect.andThen(fs.writeFileString(file, text()), Console.log(paint.dim(`written: ${file}`)))
    yield* write(options.json, () => `${JSON.stringify(summary, null, 2)}\n`)
    yield* write(options.report, () => Report.html(summary))
    return summary
  })

const colourful = Effect.map(
  Effect.flatMap(Stdio.Stdio, ({ stdoutIsTerminal }) => stdoutIsTerminal),
  (isTerminal) => isTerminal && process.env["NO_COLOR"] === undefined
)

const now = Effect.withFiber((fiber) => Effect.succeed(Timer.now(fiber)))

const sleepUntil = (atMillis: number) =>
  Effect.flatMap(now, (at) => at < atMillis ? Effect.sleep(Duration.millis(atMillis - at)) : Effect.void)

/** From the first process to the last answer. */
const drive = Effect.fnUntraced(function*(options: Options) {
  const { rate, seconds, seed } = options
  const watch = yield* Watch.make(options)
  for (const line of watch.lines) yield* Console.log(line)
  yield* Console.log(`starting ${servers} server processes`)
  const fleet = yield* Fleet.make(servers)
  const addresses = fleet.map(({ address }) => address)
  const clients = yield* clientsOf(addresses, watch, options.faults)
  const requests = yield* Load.requests(Math.floor(seconds * rate), seed)
  const victims = yield* Random.shuffle(fleet.keys()).pipe(Random.withSeed(`holdfast demo victims ${seed}`))
  const plan = Plan.make(seconds, victims)
  const processes = fleet.map(() => "running")

  const began = yield* now
  yield* Effect.forEach(
    [clients.naive, clients.resilient],
    (clientOf) => Load.run(new Load.Calls("warm-up"), clientOf, requests.slice(0, warmUp), rate * 4, began),
    { concurrency: 2, discard: true }
  )

  const startedAt = new Date(yield* Clock.currentTimeMillis).toISOString()
  const naive = new Load.Calls("naive")
  const resilient = new Load.Calls("resilient")
  const beganMillis = yield* now
  yield* draw((elapsedSeconds) => ({
    elapsedSeconds,
    seconds,
    rate,
    plan,
    servers: addresses.map((address, index) => ({ address, process: processes[index]! })),
    naive,
    resilient
  }), beganMillis).pipe(Effect.forkScoped)
  yield* Effect.all([
    Effect.provide(Load.run(naive, clients.naive, requests, rate, beganMillis), watch.naive),
    // Half an interval later, so that the two do not always meet.
    Effect.provide(Load.run(resilient, clients.resilient, requests, rate, beganMillis + 500 / rate), watch.resilient),
    Effect.forEach(plan, (fault) =>
      suffer(fault, fleet[fault.server]!, beganMillis, (state) => {
        processes[fault.server] = state
        const { address } = fleet[fault.server]!
        return watch.note(address, state, state === "running" ? "good" : "bad")
      }), { discard: true })
  ], { concurrency: "unbounded", discard: true })

  const cpus = Os.cpus()
  const machine = `Node ${process.versions.node}, ${Os.platform()} ${Os.arch()}, ${cpus.length} x ${
    cpus[0]?.model.trim()
  }`
  return Summary.make({ seconds, rate, seed, servers: addresses, plan, startedAt, machine }, naive, resilient)
})

/** Both clients, as what makes the n-th call. */
const clientsOf = Effect.fnUntraced(function*(
  addresses: ReadonlyArray<string>,
  watch: Watch.Watch,
  faults: FaultScript.Script | undefined
) {
  const tcp = yield* Tcp.make({ agent: "demo" })
  const transport = faults === undefined ? tcp : yield* Effect.orDie(Chaos.make(tcp, faults))
  return yield* Effect.gen(function*() {
    const resilient = yield* Effect.provide(Client.make(UserService, { target: "users" }), watch.resilient)
    const single = yield* Effect.forEach(addresses, (_, index) =>
      Client.make(UserService, {
        target: Summary.serverName(index),
        policy: { retry: false, circuitBreaker: false, timeout: "1 second" },
        // It knows no backoff either: a server that is back is back for the next call.
        connection: { backoffBase: "10 millis", backoffCap: "10 millis" }
      })).pipe(Effect.provide(watch.naive))
    return {
      naive: (index: number): Load.UserClient => single[index % single.length]!,
      resilient: (): Load.UserClient => resilient
    }
  }).pipe(
    Effect.provide([
      Discovery.layerStatic({
        users: addresses,
        ...Object.fromEntries(addresses.map((address, index) => [Summary.serverName(index), [address]]))
      }),
      Layer.succeed(Transport, transport)
    ])
  )
})

/** One fault, from its beginning until it is lifted. */
const suffer = Effect.fnUntraced(function*(
  fault: Plan.Fault,
  server: Fleet.Server,
  beganMillis: number,
  become: (state: string) => Effect.Effect<void>
) {
  const { begin, lift, state } = faults[fault.kind](server)
  yield* sleepUntil(beganMillis + fault.from * 1000)
  yield* become(state)
  yield* begin
  yield* sleepUntil(beganMillis + fault.to * 1000)
  yield* lift
  yield* become("running")
})

interface Doing {
  readonly state: string
  readonly begin: Effect.Effect<unknown, Fleet.FleetError>
  readonly lift: Effect.Effect<unknown, Fleet.FleetError>
}

const faults: Readonly<Record<Plan.Kind, (server: Fleet.Server) => Doing>> = {
  kill: (server) => ({ state: "killed (SIGKILL)", begin: server.kill, lift: server.restart }),
  freeze: (server) => ({ state: "frozen (SIGSTOP)", begin: server.freeze, lift: server.thaw }),
  slow: (server) => ({
    state: "slow",
    begin: server.tell({ latency: Plan.lateness }),
    lift: server.tell({ latency: null })
  }),
  errors: (server) => ({
    state: "answers errors",
    begin: server.tell({ errorRatio: 1 }),
    lift: server.tell({ errorRatio: 0 })
  })
}

/** Shows the run until it is interrupted: redraws a terminal, writes a line now and then to anything else. */
const draw = (
  view: (elapsedSeconds: number) => Screen.View,
  beganMillis: number
): Effect.Effect<void, PlatformError.PlatformError, Scope.Scope | Stdio.Stdio | Terminal.Terminal> =>
  Effect.gen(function*() {
    const elapsed = Effect.map(now, (at) => (at - beganMillis) / 1000)
    if (!(yield* (yield* Stdio.Stdio).stdoutIsTerminal)) {
      const show = Effect.flatMap(elapsed, (at) => Console.log(Screen.line(view(at))))
      return yield* Effect.forever(Effect.andThen(Effect.sleep("2 seconds"), show))
    }
    const terminal = yield* Terminal.Terminal
    const paint = (yield* colourful) ? Screen.colours : Screen.plain
    // Some terminals do not know their size, and say 0.
    const columns = (yield* terminal.columns) || 80
    let drawn = 0
    const show = Effect.flatMap(elapsed, (at) => {
      const lines = Screen.frame(view(at), columns, paint)
      const text = (drawn > 0 ? `\u001b[${drawn}A` : "") + lines.map((line) => `\u001b[2K${line}\n`).join("")
      drawn = lines.length
      return terminal.display(text)
    })
    const cursor = (visible: boolean) => Effect.ignore(terminal.display(`\u001b[?25${visible ? "h" : "l"}`))
    yield* Effect.acquireRelease(cursor(false), () => Effect.andThen(Effect.ignore(show), cursor(true)))
    return yield* Effect.forever(Effect.andThen(show, Effect.sleep("250 millis")))
  })
