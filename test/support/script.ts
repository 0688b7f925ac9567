/** A `Serve` that does what a request's method says, and lets a test wait for what happens in it. */
import { Deferred, Effect, Exit } from "effect"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as Interruption from "../../src/contract/Interruption.ts"
import type { Serve } from "../../src/transport/Transport.ts"
import * as BodyCodec from "../../src/wire/BodyCodec.ts"
import * as Frame from "../../src/wire/Frame.ts"

/** A request with nothing special about it. */
export const request = (method: string, body = "", fields: Partial<Frame.Request> = {}): Frame.Request => ({
  method,
  codec: BodyCodec.json.id,
  body: Buffer.from(body),
  deadline: Infinity,
  attempt: 1,
  hedge: false,
  idempotent: false,
  criticality: CallContext.empty.criticality,
  idempotencyKey: undefined,
  trace: undefined,
  headers: {},
  ...fields
})

export const response = (status: number, body: Uint8Array | string, processed = true): Frame.Response => ({
  status,
  codec: BodyCodec.json.id,
  body: typeof body === "string" ? Buffer.from(body) : body,
  processed,
  retryAfterMillis: undefined,
  headers: {}
})

export const textOf = (response: Frame.Response): string => Buffer.from(response.body).toString()

/** What a test knows of one request that waits: its body is its name. */
interface Waiting {
  readonly started: Deferred.Deferred<Frame.Request>
  readonly gate: Deferred.Deferred<void>
  readonly ended: Deferred.Deferred<Interruption.Reason | "answered">
}

export class Script {
  /** Requests that reached a handler. */
  readonly seen: Array<Frame.Request> = []
  private readonly waiting = new Map<string, Waiting>()

  /**
   * - `echo` answers with the body
   * - `wait` waits for `release` under the body's name
   * - `stubborn` does too, and cannot be interrupted
   * - `status` answers with the status its body states
   * - `zeros` answers with as many bytes as its body states
   * - `die` dies, `throw` does not even return an Effect
   */
  readonly serve: Serve = (request) => {
    this.seen.push(request)
    const body = Buffer.from(request.body).toString()
    switch (request.method) {
      case "wait":
      case "stubborn": {
        const waiting = this.named(body)
        const work = Deferred.succeed(waiting.started, request).pipe(
          Effect.andThen(Deferred.await(waiting.gate)),
          Effect.as(response(Frame.Status.ok, body)),
          Effect.onExit((exit) =>
            Deferred.succeed(
              waiting.ended,
              Exit.isSuccess(exit) ? "answered" : Interruption.fromCause(exit.cause) ?? "answered"
            )
          )
        )
        return request.method === "wait" ? work : Effect.uninterruptible(work)
      }
      case "never":
        return Effect.never
      case "status":
        return Effect.succeed(response(Number(body), "[1,2]"))
      case "zeros":
        return Effect.succeed(response(Frame.Status.ok, Buffer.alloc(Number(body))))
      case "die":
        return Effect.die("broken")
      case "throw":
        throw new Error("broken at once")
      default:
        return Effect.succeed(response(Frame.Status.ok, request.body))
    }
  }

  /** Waits until the request of that name is being served. */
  readonly started = (name: string): Effect.Effect<Frame.Request> => Deferred.await(this.named(name).started)
  /** Lets it go on. */
  readonly release = (name: string): Effect.Effect<void> =>
    Effect.asVoid(Deferred.succeed(this.named(name).gate, undefined))
  /** Waits until its handler has ended: why it was interrupted, or that it answered. */
  readonly ended = (name: string): Effect.Effect<Interruption.Reason | "answered"> =>
    Deferred.await(this.named(name).ended)

  private named(name: string): Waiting {
    let waiting = this.waiting.get(name)
    if (waiting === undefined) {
      waiting = { started: Deferred.makeUnsafe(), gate: Deferred.makeUnsafe(), ended: Deferred.makeUnsafe() }
      this.waiting.set(name, waiting)
    }
    return waiting
  }
}
