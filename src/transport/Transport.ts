/**
 * How a request becomes bytes and comes back.
 *
 * A transport opens sessions to addresses and listens on them. One attempt is
 * one `send`; a session carries many at a time, and when it closes it fails
 * everything pending at once. A transport neither retries nor picks: that is
 * above it.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as CallError from "../contract/CallError.ts"
import type * as Interruption from "../contract/Interruption.ts"
import type { BodyCodec } from "../wire/BodyCodec.ts"
import type { Request, Response } from "../wire/Frame.ts"

/** How a session can fail one attempt. */
export type SendError = CallError.CallError<
  CallError.ConnectionLost | CallError.ProtocolViolation | CallError.TooLarge | CallError.LimitReached
>

/** Why no session could be opened, or nobody listens. */
export type ConnectError = CallError.CallError<CallError.ConnectFailed>

/**
 * `open` takes new requests; `draining` finishes what it has, because the other
 * side is going away or we are; `closed` is over.
 */
export type Status = "open" | "draining" | "closed"

/**
 * When a session gives an attempt up by itself, and what it then fails with.
 *
 * The session's own timer needs no fiber: an attempt timeout around a send costs
 * 5 µs of a call's 20, inside it 0.3.
 */
export interface Expiry<out E> {
  /** Milliseconds on the monotonic clock. */
  readonly atMillis: number
  /** What the peer is told. */
  readonly reason: Interruption.Reason
  /** The failure, told whether the peer may have seen the attempt. */
  readonly error: (sent: CallError.Sent) => E
}

/** One connection to one peer, shared by all calls to it. */
export interface Session {
  /** The address it was opened to. */
  readonly address: string
  readonly status: Status
  /** Whether the peer has shown a sign of life: an accepted connection alone may be a frozen process's kernel. */
  readonly greeted: boolean
  /** Attempts sent, or waiting to be sent, and not answered. */
  readonly inFlight: number
  /** The body codec both sides prefer; JSON until the peer has said otherwise. */
  readonly codec: BodyCodec
  /**
   * Sends one attempt and waits for its answer, at most until it expires.
   * Interruption and expiry cancel it at the peer and do not wait for the peer.
   */
  readonly send: <E = never>(request: Request, expiry?: Expiry<E>) => Effect.Effect<Response, SendError | E>
  /** Takes no new requests, waits until all in flight are answered, and closes. */
  readonly drain: Effect.Effect<void>
  /** Tells every change of `status` and of `greeted`; returns what stops it. Called outside any fiber; must not throw. */
  readonly onChange: (listener: () => void) => () => void
}

/** Who is calling: the peer's address, for logs. */
export type Peer = string

/** Answers one request. It never fails: whatever goes wrong is a response. It is interrupted when the caller cancels. */
export type Serve = (request: Request, peer: Peer) => Effect.Effect<Response>

/** What a listener has seen since it began. */
export interface ListeningStats {
  /** Sessions open now. */
  readonly sessions: number
  /** Requests being served now. */
  readonly inFlight: number
  /** Requests taken. */
  readonly requests: number
  /** Peers whose bytes were not this protocol, or that broke it: stopped within a frame, or read no answers. */
  readonly protocolErrors: number
  /** Requests refused because too many were in flight. */
  readonly refused: number
}

export interface Listening {
  /** The address, with the port that was assigned where 0 was asked for. */
  readonly address: string
  readonly stats: () => ListeningStats
  /**
   * Stops accepting, tells every peer that this side is going away, and waits
   * until nothing is in flight. Interrupt it (or time it out) to stop waiting;
   * closing the scope ends what is left.
   */
  readonly drain: Effect.Effect<void>
}

/** The service: what a Layer of `InMemory`, `Tcp` or `Http` provides. */
export class Transport extends Context.Service<Transport, {
  /** Opens a session; closing the scope closes it and fails what is pending. */
  readonly connect: (address: string) => Effect.Effect<Session, ConnectError, Scope.Scope>
  /** Serves an address until the scope closes. */
  readonly listen: (address: string, serve: Serve) => Effect.Effect<Listening, ConnectError, Scope.Scope>
}>()("holdfast/transport/Transport") {}

/** The failure to open a session, or to listen. */
export const connectFailed = (
  target: string,
  kind: CallError.ConnectFailed["kind"],
  detail: string,
  retryAfterMillis?: number
): ConnectError =>
  new CallError.CallError({ _tag: "ConnectFailed", target, kind, detail, sent: "no", retryAfterMillis })
