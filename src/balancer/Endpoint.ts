/**
 * An address with state: its connection, the policies whose state is its own,
 * and what is in flight to it.
 */
import type * as Effect from "effect/Effect"
import type * as Policy from "../policy/Policy.ts"
import type { Timeout } from "../policy/Timeout.ts"
import type { Connection } from "../transport/Connection.ts"

/** The endpoint level of a stack: what stands around one attempt here. */
export interface Level {
  readonly policy: Policy.Policy<unknown>
  /** The policy's door, if it has one. */
  readonly gate: Policy.Gate | undefined
  /** Whether it would let an attempt through at a monotonic time. Reads only. */
  readonly wouldAdmit: (nowMillis: number) => boolean
  /** The attempt's own limit, innermost: whoever sends enforces it. */
  readonly timeout: Timeout | undefined
}

export interface Endpoint {
  readonly address: string
  readonly connection: Connection
  /** One for each way a client's methods are guarded; what they have in common they share. */
  readonly levels: ReadonlyArray<Level>
  /** Attempts picked for this endpoint and not ended: what the balancer compares. */
  inFlight: number
  /** Finishes what is in flight and ends the connection. */
  readonly close: Effect.Effect<void>
}

/** What the registry of policies shows of an endpoint. */
export interface EndpointState {
  readonly target: string
  readonly address: string
  /** `backoff`: the last opening failed, and the next must wait. */
  readonly connection: "open" | "closed" | "backoff"
  readonly inFlight: number
}

/** How fit an endpoint is to be picked now; a lower rank always goes first. */
export const Rank = {
  /** Connected, alive, and its policies admit. */
  ready: 0,
  /** Connected, but it has never spoken: the kernel of a frozen process accepts connections too. */
  silent: 1,
  /** Not connected, and may be tried. */
  cold: 2,
  /** Its last opening failed a moment ago, or its policies reject. */
  poor: 3
} as const

/** The rank of an endpoint. Picking a cold one starts to connect it, so that it is ready when it is next looked at. */
export const rank = (endpoint: Endpoint, level: number, nowMillis: number): number => {
  const { connection } = endpoint
  const { wouldAdmit } = endpoint.levels[level]!
  const session = connection.current
  if (session === undefined) {
    if (connection.backoffUntil > nowMillis) return Rank.poor
    connection.prepare()
    return wouldAdmit(nowMillis) ? Rank.cold : Rank.poor
  }
  if (!wouldAdmit(nowMillis)) return Rank.poor
  return session.greeted ? Rank.ready : Rank.silent
}
