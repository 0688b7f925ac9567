/** The reason an Effect failed for. */
import { Effect } from "effect"
import * as CallError from "../../src/contract/CallError.ts"

/** Fails the test when the effect succeeds, or fails with anything but a `CallError`. */
export const reason = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<CallError.Reason, A, R> =>
  Effect.map(Effect.flip(self), (error) => {
    if (CallError.isCallError(error)) return error.reason
    throw new Error(`not a CallError: ${String(error)}`)
  })

/** Its tag and what it says of the request: `ConnectionLost maybe`. */
export const told = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<string, A, R> =>
  Effect.map(reason(self), (reason) => `${reason._tag} ${reason.sent}`)
