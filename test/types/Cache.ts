/** What a cache does to the types of an Effect. Checked by the compiler; nothing here runs. */
import * as Effect from "effect/Effect"
import type * as CallError from "../../src/contract/CallError.ts"
import { type Answer, make } from "../../src/policy/Cache.ts"
import * as Fallback from "../../src/policy/Fallback.ts"
import * as Policy from "../../src/policy/Policy.ts"

type Same<X, Y> = (<T>() => T extends X ? 1 : 2) extends <T>() => T extends Y ? 1 : 2 ? true : false
/** Compiles only for two types that are the same. */
declare const same: <X, Y>(same: Same<X, Y>) => void

interface User {
  readonly id: number
}
interface Admin extends User {
  readonly rights: ReadonlyArray<string>
}
class UserNotFound {
  readonly _tag = "UserNotFound"
}

type Failure<Tag extends CallError.Reason["_tag"]> = CallError.CallError<Extract<CallError.Reason, { _tag: Tag }>>
declare const user: Effect.Effect<User, UserNotFound, "Transport">
declare const admin: Effect.Effect<Admin, UserNotFound, "Transport">
declare const text: Effect.Effect<string, UserNotFound, "Transport">
declare const breaker: Policy.OfKind<"circuitBreaker", Failure<"CircuitOpen">, "Breaker">

export const program = Effect.gen(function*() {
  const cache = yield* make<User>({ ttl: "1 minute" })

  // What waits for somebody else's flight may run out of time; else nothing is added.
  const run = cache.run(user)
  same<typeof run, Effect.Effect<User, UserNotFound | Failure<"DeadlineExceeded">, "Transport">>(true)
  const applied = user.pipe(Policy.apply(cache))
  same<typeof applied, typeof run>(true)
  const tagged = cache.tagged(user)
  same<typeof tagged, Effect.Effect<Answer<User>, UserNotFound | Failure<"DeadlineExceeded">, "Transport">>(true)

  // The answer may be one that somebody else asked for: any user.
  const widened = cache.run(admin)
  same<Effect.Success<typeof widened>, User | Admin>(true)
  const peeked = cache.peek("GetUser:7")
  same<typeof peeked, Effect.Effect<Answer<User> | undefined>>(true)

  // @ts-expect-error a cache of users keeps no text
  yield* cache.run(text)
  // @ts-expect-error
  yield* text.pipe(Policy.apply(cache))
  // @ts-expect-error
  yield* Policy.apply(text, cache)

  // The lifetime may depend on the answer.
  yield* make<User>({ ttl: (value) => value.id })
  // @ts-expect-error
  yield* make<User>({ ttl: (value) => value.name })
  // @ts-expect-error it has to be stated
  yield* make<User>({})

  // In a stack the cache decides what may be asked for, and what is answered.
  const stack = Policy.stack({ cache, circuitBreaker: breaker })
  const stacked = stack.run(admin)
  same<
    typeof stacked,
    Effect.Effect<
      User | Admin,
      UserNotFound | Failure<"CircuitOpen"> | Failure<"DeadlineExceeded">,
      "Transport" | "Breaker"
    >
  >(true)
  const piped = admin.pipe(Policy.apply(stack))
  same<typeof piped, typeof stacked>(true)
  // @ts-expect-error
  yield* stack.run(text)
  // @ts-expect-error
  yield* text.pipe(Policy.apply(stack))

  // With a fallback outside it.
  const both = Policy.stack({ cache, circuitBreaker: breaker, fallback: yield* Fallback.make({ value: null }) })
  const answered = both.run(user)
  same<typeof answered, Effect.Effect<User | null, never, "Transport" | "Breaker">>(true)
  // @ts-expect-error
  yield* both.run(text)

  // One that may be absent still decides what may be asked for.
  const maybe = Math.PI > 3 ? cache : undefined
  // @ts-expect-error
  yield* Policy.stack({ cache: maybe, circuitBreaker: breaker }).run(text)
  const optional = Policy.stack({ cache: maybe, circuitBreaker: breaker }).run(admin)
  same<typeof optional, typeof stacked>(true)

  // @ts-expect-error a cache fits its own slot only
  Policy.stack({ fallback: cache })
  // @ts-expect-error and that slot takes nothing else
  Policy.stack({ cache: breaker })
})
