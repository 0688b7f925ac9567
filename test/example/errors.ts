import { Effect } from "effect"
import type { CallError } from "holdfast"
import type { User, UserNotFound } from "./contract.ts"

/** What a page shows about a user, whatever happens to the call. */
export const describe = (call: Effect.Effect<User, UserNotFound | CallError.CallError>): Effect.Effect<string> =>
  call.pipe(
    Effect.map((user) => user.name),
    Effect.catchTag("UserNotFound", ({ id }) => Effect.succeed(`there is no user ${id}`)),
    Effect.catchReason("CallError", "NoEndpoint", ({ target }) => Effect.succeed(`${target} is down, come back later`)),
    Effect.catchTag("CallError", (error) => Effect.succeed(`no answer: ${error.message}`))
  )
