/**
 * An open-loop load of typed calls, and what became of each.
 *
 * Calls are due at a steady rate whatever happens to those before them, as users
 * are; a call's time runs from when it was due, so a stalled process cannot hide
 * its stall. Both clients make the same calls in the same order.
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as FiberSet from "effect/FiberSet"
import * as Random from "effect/Random"
import type * as RpcGroup from "effect/rpc/RpcGroup"
import type * as Client from "../client/Client.ts"
import * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Timer from "../contract/Timer.ts"
import { firstId, userCount, type UserService } from "./UserService.ts"

/** A client of the example service, whatever its stack can fail for. */
export type UserClient = Client.Client<RpcGroup.Rpcs<typeof UserService>>

export type Request =
  | { readonly method: "GetUserInfo"; readonly id: number }
  | { readonly method: "ListUsers"; readonly after: number }
  | { readonly method: "Search"; readonly text: string }
  | { readonly method: "UpdateEmail"; readonly id: number; readonly email: string }

/** One call. Times are milliseconds since the load began. */
export interface Call {
  readonly method: Request["method"]
  readonly idempotent: boolean
  readonly dueMillis: number
  endMillis: number | undefined
  /** Attempts begun, wherever they were sent and whoever asked for them: counted from the client's events. */
  attempts: number
  /** Why it failed; `undefined` while it has not ended, and when it was answered, be it with one of the contract's errors. */
  failure: string | undefined
}

/** A circuit's move, as its event told it. */
export interface Move {
  readonly atMillis: number
  /** The endpoint's address. */
  readonly endpoint: string
  readonly from: string
  readonly to: string
  readonly why: string
}

/** Everything one client did. */
export class Calls {
  readonly name: string
  /** In the order in which they were due. */
  readonly all: Array<Call> = []
  /** In the order in which they ended. */
  readonly ended: Array<Call> = []
  readonly moves: Array<Move> = []
  /** State and reason of each endpoint's circuit that has ever moved, by address. */
  readonly circuits = new Map<string, { readonly state: string; readonly why: string }>()
  /** Idempotent calls by the second in which they were due, as far as they have ended. */
  readonly seconds: Array<{ ended: number; failed: number }> = []
  failed = 0

  constructor(name: string) {
    this.name = name
  }

  get inFlight(): number {
    return this.all.length - this.ended.length
  }

  begin(request: Request, dueMillis: number): Call {
    const call: Call = {
      method: request.method,
      idempotent: request.method !== "UpdateEmail",
      dueMillis,
      endMillis: undefined,
      attempts: 0,
      failure: undefined
    }
    this.all.push(call)
    return call
  }

  end(call: Call, endMillis: number, failure: string | undefined): void {
    call.endMillis = endMillis
    call.failure = failure
    this.ended.push(call)
    if (failure !== undefined) this.failed++
    if (!call.idempotent) return
    const second = this.seconds[Math.floor(call.dueMillis / 1000)] ??= { ended: 0, failed: 0 }
    second.ended++
    if (failure !== undefined) second.failed++
  }

  /** The calls that ended at `sinceMillis` or later. */
  endedSince(sinceMillis: number): ReadonlyArray<Call> {
    let from = this.ended.length
    while (from > 0 && this.ended[from - 1]!.endMillis! >= sinceMillis) from--
    return this.ended.slice(from)
  }

  /** Takes note of an event that is about the client and not about one call. */
  note(event: CallEvent.CallEvent, beganMillis: number): void {
    if (event._tag !== "Transition") return
    const endpoint = event.policy.slice(event.policy.indexOf("@") + 1)
    this.circuits.set(endpoint, { state: event.to, why: event.why })
    const { from, to, why } = event
    this.moves.push({ atMillis: event.atMillis - beganMillis, endpoint, from, to, why })
  }
}

const misspelt = ["grace hoper", "lamport", "barbra lisckov"]

/** The mix: mostly reads of one user, a few of them of nobody, and one call in twelve that must not be sent twice. */
const nextRequest: Effect.Effect<Request> = Effect.gen(function*() {
  const draw = yield* Random.next
  const id = firstId + (yield* Random.nextIntBetween(0, userCount))
  if (draw < 0.7) return { method: "GetUserInfo", id }
  if (draw < 0.77) return { method: "GetUserInfo", id: id + userCount }
  if (draw < 0.85) return { method: "ListUsers", after: id }
  if (draw < 0.92) return { method: "Search", text: misspelt[id % misspelt.length]! }
  return { method: "UpdateEmail", id, email: `user.${id}@example.com` }
})

/** The calls of a run: the same for the same seed. */
export const requests = (count: number, seed: number): Effect.Effect<ReadonlyArray<Request>> =>
  Effect.replicateEffect(nextRequest, count).pipe(Random.withSeed(`holdfast demo ${seed}`))

const send = ({ UserService }: UserClient, request: Request): Effect.Effect<unknown, unknown> => {
  switch (request.method) {
    case "GetUserInfo":
      return UserService.GetUserInfo({ id: request.id })
    case "ListUsers":
      return UserService.ListUsers({ after: request.after, limit: 10 })
    case "Search":
      return UserService.Search({ text: request.text, limit: 5 })
    case "UpdateEmail":
      return UserService.UpdateEmail({ id: request.id, email: request.email })
  }
}

/** The reason of a failure, and the last attempt's in brackets where the reason is only that it was the last. */
const failureOf = (cause: Cause.Cause<unknown>): string | undefined => {
  const error = Cause.squash(cause)
  if (CallError.isCallError(error)) {
    const { reason } = error
    const last = "last" in reason && CallError.isCallError(reason.last) ? ` (${reason.last.reason._tag})` : ""
    return `${reason._tag}${last}`
  }
  return cause.reasons.some(Cause.isFailReason) ? undefined : "Defect"
}

/** Makes one call and writes down what became of it; whoever looks already is told too. */
const make = (calls: Calls, client: UserClient, request: Request, dueMillis: number, beganMillis: number) =>
  Effect.withFiber((fiber) => {
    const call = calls.begin(request, dueMillis)
    const noting: CallEvent.Receiver = {
      event: (event) => {
        if (event._tag === "AttemptStarted") call.attempts++
        else calls.note(event, beganMillis)
      }
    }
    const others = CallEvent.receiverOf(fiber)
    const receiver = others === undefined ? noting : CallEvent.combine(others, noting)
    return send(client, request).pipe(
      Effect.provideService(CallEvent.CurrentReceiver, receiver),
      Effect.exit,
      Effect.flatMap((exit) =>
        Effect.withFiber((fiber) => {
          const failure = Exit.isFailure(exit) ? failureOf(exit.cause) : undefined
          calls.end(call, Timer.now(fiber) - beganMillis, failure)
          return Effect.void
        })
      )
    )
  })

/**
 * Makes the calls at `rate` per second from `beganMillis` of the monotonic clock
 * on, and returns when the last has ended. `clientOf` says which client makes
 * the n-th.
 */
export const run = Effect.fnUntraced(function*(
  calls: Calls,
  clientOf: (index: number) => UserClient,
  requests: ReadonlyArray<Request>,
  rate: number,
  beganMillis: number
) {
  const fibers = yield* FiberSet.make<void>()
  for (const [index, request] of requests.entries()) {
    const dueMillis = index * 1000 / rate
    const wait = yield* Effect.withFiber((fiber) => Effect.succeed(beganMillis + dueMillis - Timer.now(fiber)))
    if (wait > 0) yield* Effect.sleep(wait)
    yield* FiberSet.run(fibers, make(calls, clientOf(index), request, dueMillis, beganMillis))
  }
  yield* FiberSet.awaitEmpty(fibers)
}, Effect.scoped)
