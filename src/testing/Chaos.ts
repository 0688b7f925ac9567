/**
 * The faults of a script around any Transport: `Chaos.layer(script)` takes the
 * transport that is there and provides one in which things go wrong.
 *
 * ```ts
 * const faulty = Chaos.layer({
 *   phases: [{ name: "slow", from: "1 s", for: "5 s", fault: { kind: "latency", delay: "300ms" } }]
 * })
 * program.pipe(Effect.provide(faulty.pipe(Layer.provide(Tcp.layer()))))
 * ```
 *
 * Works on messages: requests, answers and sessions, with keys and methods known.
 * It runs under a virtual clock with `InMemory` and in real time with `Tcp`, and
 * the policies around it react as they do to a network. Bytes and sockets are
 * `ChaosProxy`'s: a corrupted message here is a body with a flipped bit, and a
 * message in slices is one that arrives with its last.
 *
 * Time zero is when the layer is built. By default faults happen where a client
 * sends; around handlers with `side: "server"`, where there are no sessions to
 * reset: phases that need one are left out there, and a `Warning` says so. Phases
 * that begin and end are `Transition`s of `chaos <phase>`. When the script is
 * over, sends pass untouched.
 *
 * State: each session has two lanes and a timer for each phase that ends or
 * begins something on it; all of it goes with the session.
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Timer from "../contract/Timer.ts"
import { Transport } from "../transport/Transport.ts"
import type * as Frame from "../wire/Frame.ts"
import * as FaultScript from "./FaultScript.ts"
import { connect } from "./internal/chaosClient.ts"
import type { Running } from "./internal/chaosRun.ts"
import * as ChaosServer from "./internal/chaosServer.ts"

export interface ChaosOptions {
  /**
   * Where faults happen: where a client sends, around handlers, or both, which
   * in one process means twice. Default `client`.
   */
  readonly side?: "client" | "server" | "both" | undefined
  /** What a request is partitioned by. Default the key of the call that sends it; on the server none. */
  readonly key?: ((request: Frame.Request) => string | undefined) | undefined
}

/**
 * A transport with the faults of a script, from now on, for the life of the scope.
 *
 * Fails with a `ScriptError` on a script that cannot be read.
 */
export const make = (
  transport: Transport["Service"],
  script: FaultScript.Input,
  options: ChaosOptions = {}
): Effect.Effect<Transport["Service"], FaultScript.ScriptError, Scope.Scope> =>
  Effect.gen(function*() {
    const { key, side = "client" } = options
    const read = yield* FaultScript.from(script)
    const { fork, receiver, source } = yield* Effect.withFiber((fiber) =>
      Effect.succeed({
        source: Timer.sourceOf(fiber),
        receiver: CallEvent.receiverOf(fiber),
        fork: Effect.runForkWith(fiber.context)
      })
    )
    const run: Running = {
      script: read,
      source,
      beganAt: Timer.nowOf(source.clock),
      key,
      scope: yield* Effect.scope,
      fork,
      sessions: 0
    }
    yield* announced(run, receiver, side)
    return {
      connect: side === "server" ? transport.connect : (address) => connect(run, transport, address),
      listen: side === "client"
        ? transport.listen
        : (address, serve) => transport.listen(address, ChaosServer.around(run, address, serve))
    }
  })

/** Tells a receiver, where there is one, of every phase that begins and ends, and of those that are left out. */
const announced = (
  { beganAt, script, source }: Running,
  receiver: CallEvent.Receiver | undefined,
  side: NonNullable<ChaosOptions["side"]>
): Effect.Effect<void, never, Scope.Scope> => {
  if (receiver === undefined) return Effect.void
  for (const { fault, name } of side === "server" ? script.phases : []) {
    if (ChaosServer.can(fault)) continue
    const why = `left out around handlers, which have no connection: ${FaultScript.describe(fault)}`
    receiver.event({ _tag: "Warning", policy: `chaos ${name}`, why, atMillis: beganAt })
  }
  const timers = FaultScript.changes(script).map(({ atMillis, begins, phase }) =>
    Timer.scheduleOn(source, beganAt + atMillis, () =>
      receiver.event({
        _tag: "Transition",
        policy: `chaos ${phase.name}`,
        from: begins ? "Off" : "On",
        to: begins ? "On" : "Off",
        why: FaultScript.describe(phase.fault),
        atMillis: Timer.nowOf(source.clock)
      }))
  )
  return Effect.addFinalizer(() => Effect.sync(() => timers.forEach((timer) => timer.cancel())))
}

/** `make` as a Layer around the transport that is there. */
export const layer = (
  script: FaultScript.Input,
  options: ChaosOptions = {}
): Layer.Layer<Transport, FaultScript.ScriptError, Transport> =>
  Layer.effect(Transport, Effect.flatMap(Transport, (transport) => make(transport, script, options)))
