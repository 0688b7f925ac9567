/**
 * The servers of the demo: real processes, real signals.
 *
 * A process ends with the scope that started it, whatever state it is in, and by
 * itself when this process is gone without having closed anything: its input
 * ends. One that is frozen cannot notice, so another is told to be its warden
 * before it is stopped.
 */
import * as Data from "effect/Data"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as ChildProcess from "effect/process/ChildProcess"
import type { ChildProcessSpawner } from "effect/process/ChildProcessSpawner"
import * as Queue from "effect/Queue"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Path from "node:path"
import type { Control } from "./Faults.ts"

/** A server process could not be started, or did not answer its control line. */
export class FleetError extends Data.TaggedError("FleetError")<{ readonly message: string }> {}

/** What a server says after each control line. */
const Report = Schema.fromJsonString(Schema.Struct({ inFlight: Schema.Int, requests: Schema.Int }))
export type Report = typeof Report.Type

export interface Server {
  /** Where it listens; the same after a restart. */
  readonly address: string
  /** Sends a control line and waits for the answer. A frozen or killed server gives none. */
  readonly tell: (control: Control) => Effect.Effect<Report, FleetError>
  /** `SIGKILL`. Returns once the process is gone. */
  readonly kill: Effect.Effect<void, FleetError>
  /** Starts the process again, after a kill. */
  readonly restart: Effect.Effect<void, FleetError>
  /** `SIGSTOP`. */
  readonly freeze: Effect.Effect<void>
  /** `SIGCONT`. */
  readonly thaw: Effect.Effect<void>
  readonly pid: () => number
}

/** The program next to this file, in the form this file has: source or build. */
const program = Path.join(import.meta.dirname, `server${Path.extname(import.meta.filename)}`)

/** How long a process may take to listen. */
const patience = "20 seconds"

interface Running {
  readonly pid: number
  readonly address: string
  readonly scope: Scope.Closeable
  readonly tell: Server["tell"]
  readonly gone: Effect.Effect<void>
}

const failed = (message: string) => new FleetError({ message })

/** Starts a process and waits until it listens. */
const start = Effect.fnUntraced(function*(listen: string) {
  const scope = yield* Effect.scope
  const own = yield* Scope.fork(scope)
  const handle = yield* ChildProcess.make(process.execPath, [program, listen], { killSignal: "SIGKILL" }).pipe(
    Scope.provide(own),
    Effect.mapError((error) => failed(`cannot start ${process.execPath}: ${error.message}`))
  )
  const input = yield* Queue.unbounded<string>()
  const listening = yield* Deferred.make<string, FleetError>()
  const answers = yield* Queue.unbounded<string>()
  const complaints: Array<string> = []
  const lines = (from: Stream.Stream<Uint8Array, unknown>, each: (line: string) => Effect.Effect<unknown>) =>
    from.pipe(Stream.decodeText, Stream.splitLines, Stream.runForEach(each), Effect.ignore, Effect.forkIn(own))
  yield* lines(handle.stdout, (line) =>
    line.startsWith("listening on ")
      ? Deferred.succeed(listening, line.slice("listening on ".length))
      : Queue.offer(answers, line))
  yield* lines(handle.stderr, (line) =>
    Effect.sync(() => {
      if (complaints.length < 20) complaints.push(line)
    }))
  yield* Stream.fromQueue(input).pipe(
    Stream.encodeText,
    Stream.run(handle.stdin),
    Effect.ignore,
    Effect.forkIn(own)
  )
  const gone = Effect.ignore(handle.exitCode)
  yield* gone.pipe(
    Effect.flatMap(() => Deferred.fail(listening, failed(`a server ended at once: ${complaints.join("\n")}`))),
    Effect.forkIn(own)
  )
  const address = yield* Deferred.await(listening).pipe(
    Effect.timeoutOrElse({
      duration: patience,
      orElse: () => Effect.fail(failed(`a server does not listen after ${patience}: ${complaints.join("\n")}`))
    })
  )
  const tell: Server["tell"] = (control) =>
    Queue.offer(input, `${JSON.stringify(control)}\n`).pipe(
      Effect.andThen(Queue.take(answers)),
      Effect.flatMap(Schema.decodeEffect(Report)),
      Effect.timeout(patience),
      Effect.mapError(() => failed(`${address} does not answer its control line: ${complaints.join("\n")}`))
    )
  return { pid: handle.pid, address, scope: own, tell, gone } satisfies Running
})

const signal = (pid: number, name: NodeJS.Signals): Effect.Effect<void> =>
  // A process that has just ended by itself is no reason to end the demo here: its calls will tell.
  Effect.ignore(Effect.try(() => process.kill(pid, name)))

/** Starts that many servers, each on a free port, for the life of the scope. */
export const make = (
  count: number
): Effect.Effect<ReadonlyArray<Server>, FleetError, ChildProcessSpawner | Scope.Scope> =>
  Effect.gen(function*() {
    const context = yield* Effect.context<ChildProcessSpawner | Scope.Scope>()
    const first = yield* Effect.forEach(
      Array.from({ length: count }, () => "tcp://127.0.0.1:0"),
      start,
      { concurrency: "unbounded" }
    )
    const running = [...first]
    /** Who is frozen's warden, by index. */
    const wardenOf = (index: number) => running[(index + 1) % count]!
    return first.map(({ address }, index): Server => {
      const now = () => running[index]!
      return {
        address,
        tell: (control) => Effect.suspend(() => now().tell(control)),
        kill: Effect.suspend(() => {
          const { gone, pid, scope } = now()
          return signal(pid, "SIGKILL").pipe(Effect.andThen(gone), Effect.andThen(Scope.close(scope, Exit.void)))
        }),
        restart: Effect.provideContext(
          Effect.flatMap(start(address), (again) =>
            Effect.sync(() => {
              running[index] = again
            })),
          context
        ),
        freeze: Effect.suspend(() =>
          Effect.ignore(wardenOf(index).tell({ warden: now().pid })).pipe(
            Effect.andThen(signal(now().pid, "SIGSTOP"))
          )
        ),
        thaw: Effect.suspend(() =>
          signal(now().pid, "SIGCONT").pipe(Effect.andThen(Effect.ignore(wardenOf(index).tell({ warden: null }))))
        ),
        pid: () => now().pid
      }
    })
  })
