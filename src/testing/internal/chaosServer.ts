/**
 * Handlers under the faults of a script: what their requests and answers go
 * through. A listener shows no sessions, so nothing happens to those here.
 */
import * as Effect from "effect/Effect"
import type * as Timer from "../../contract/Timer.ts"
import type { Peer, Serve } from "../../transport/Transport.ts"
import type * as Frame from "../../wire/Frame.ts"
import * as FaultScript from "../FaultScript.ts"
import { flipped, Lane, type Transit, type Way } from "./chaosLane.ts"
import { answerOf, arrival, elapsed, errorOf, type Running, schedule } from "./chaosRun.ts"

const kinds: ReadonlySet<FaultScript.Kind> = new Set([
  "latency",
  "bandwidth",
  "stall",
  "slice",
  "corrupt",
  "blackHole",
  "error"
])

/** Whether a fault can happen around handlers. */
export const can = (fault: FaultScript.Fault): boolean => kinds.has(fault.kind)

/** The lanes of a peer while it has something in flight. */
interface Lanes {
  readonly up: Lane
  readonly down: Lane
  inFlight: number
}

/** What serves an address, with the faults around it. */
export const around = (run: Running, address: string, serve: Serve): Serve => {
  const { script } = run
  const applicable: FaultScript.Script = { ...script, phases: script.phases.filter(({ fault }) => can(fault)) }
  const peers = new Map<Peer, Lanes>()
  const errors = FaultScript.dice(script, `${address} errors`)
  const draw = () => errors.nextDoubleUnsafe()

  const enter = (peer: Peer): Lanes => {
    let lanes = peers.get(peer)
    if (lanes === undefined) {
      const dice = (way: Way) => FaultScript.dice(script, `peer ${peer} ${way}`)
      lanes = { up: new Lane("up", dice("up")), down: new Lane("down", dice("down")), inFlight: 0 }
      peers.set(peer, lanes)
    }
    lanes.inFlight++
    return lanes
  }
  const leave = (peer: Peer, lanes: Lanes) =>
    Effect.sync(() => {
      if (--lanes.inFlight === 0) peers.delete(peer)
    })

  const pass = (lane: Lane, bytes: number, phases: ReadonlyArray<FaultScript.Phase>): Effect.Effect<Transit> =>
    Effect.suspend(() => {
      const now = elapsed(run)
      const transit = lane.pass(now, bytes, phases)
      const at = transit.lostUntil ?? arrival(transit)
      return at <= now ? Effect.succeed(transit) : Effect.as(until(run, at), transit)
    })

  const attended = (request: Frame.Request, peer: Peer, { down, up }: Lanes) => {
    const target = { endpoint: address, connection: peer, method: request.method, key: run.key?.(request) }
    const active = () => FaultScript.faultsAt(applicable, elapsed(run), target)
    const lost = (processed: boolean) => answerOf({ kind: "error", reason: "Unavailable", processed })
    return Effect.gen(function*() {
      const phases = active()
      const error = errorOf(phases, draw)
      const sent = yield* pass(up, request.body.length, phases)
      if (sent.lostUntil !== undefined) return lost(false)
      const answer = error === undefined || error.processed === true
        ? yield* serve({ ...request, body: flipped(request.body, sent.flips) }, peer)
        : undefined
      const response = error === undefined ? answer! : answerOf(error)
      const back = yield* pass(down, response.body.length, active())
      return back.lostUntil === undefined ? { ...response, body: flipped(response.body, back.flips) } : lost(true)
    })
  }

  return (request, peer) =>
    elapsed(run) >= script.endMillis
      ? serve(request, peer)
      : Effect.acquireUseRelease(
        Effect.sync(() => enter(peer)),
        (lanes) => attended(request, peer, lanes),
        (lanes) => leave(peer, lanes)
      )
}

/** Waits for a time of the script. */
const until = (run: Running, atMillis: number): Effect.Effect<void> =>
  Effect.callback((resume) => {
    const timer: Timer.Timer = schedule(run, atMillis, () => resume(Effect.void))
    return Effect.sync(() => timer.cancel())
  })
