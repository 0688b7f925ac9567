/** What a fallback does to the types of an Effect. Checked by the compiler; nothing here runs. */
import * as Effect from "effect/Effect"
import * as CallError from "../../src/contract/CallError.ts"
import type * as Fallback from "../../src/policy/Fallback.ts"
import { make } from "../../src/policy/Fallback.ts"
import * as Policy from "../../src/policy/Policy.ts"

type Same<X, Y> = (<T>() => T extends X ? 1 : 2) extends <T>() => T extends Y ? 1 : 2 ? true : false
/** Compiles only for two types that are the same. */
declare const same: <X, Y>(same: Same<X, Y>) => void

interface User {
  readonly id: number
}
class UserNotFound {
  readonly _tag = "UserNotFound"
}
class Cheap {
  readonly _tag = "Cheap"
}

type Failure<Tag extends CallError.Reason["_tag"]> = CallError.CallError<Extract<CallError.Reason, { _tag: Tag }>>
declare const call: Effect.Effect<User, UserNotFound | Failure<"CircuitOpen" | "Overloaded">, "Transport">
declare const other: Effect.Effect<"other", Cheap, "Other">

export const program = Effect.gen(function*() {
  // Without `when` the substitute is for every error, and none is left.
  const value = yield* make({ value: "none" as const })
  const answered = value.run(call)
  same<typeof answered, Effect.Effect<User | "none", never, "Transport">>(true)
  const computed = Policy.apply(
    call,
    yield* make({
      compute: (error, context) => {
        same<typeof error, unknown>(true)
        return context.name.length
      }
    })
  )
  same<typeof computed, Effect.Effect<User | number, never, "Transport">>(true)

  // Another call brings its own errors and services.
  const called = call.pipe(Policy.apply(yield* make({ orElse: () => other })))
  same<typeof called, Effect.Effect<User | "other", Cheap, "Transport" | "Other">>(true)

  // Reasons are taken out of the union, the others stay; the error given is one of those.
  const listed = Policy.apply(
    call,
    yield* make({
      when: ["CircuitOpen", "BulkheadFull"],
      compute: (error) => {
        same<typeof error, Failure<"CircuitOpen" | "BulkheadFull">>(true)
        return error.reason._tag
      }
    })
  )
  same<
    typeof listed,
    Effect.Effect<User | "CircuitOpen" | "BulkheadFull", UserNotFound | Failure<"Overloaded">, "Transport">
  >(true)
  // @ts-expect-error no such reason
  yield* make({ when: ["CircuitOpened"], value: 1 })

  // When all of its reasons are handled the CallError is gone.
  const all = Policy.apply(call, yield* make({ when: ["CircuitOpen", "Overloaded"], value: null }))
  same<typeof all, Effect.Effect<User | null, UserNotFound, "Transport">>(true)

  // A refinement takes out what it refines to; what ends the call to save the reserve is among CallErrors.
  const refined = Policy.apply(call, yield* make({ when: CallError.isCallError, value: null }))
  same<typeof refined, Effect.Effect<User | null, UserNotFound, "Transport">>(true)
  const isNotFound = (error: unknown): error is UserNotFound => error instanceof UserNotFound
  const notFound = Policy.apply(
    call,
    yield* make({
      when: isNotFound,
      compute: (error) => {
        same<typeof error, UserNotFound>(true)
        return null
      }
    })
  )
  same<
    typeof notFound,
    Effect.Effect<User | null, Failure<"CircuitOpen" | "Overloaded"> | Failure<"DeadlineExceeded">, "Transport">
  >(true)

  // Of a plain predicate the compiler knows nothing: every error may be left.
  const perhaps = Policy.apply(call, yield* make({ when: (error) => error !== 1, value: null }))
  same<
    typeof perhaps,
    Effect.Effect<
      User | null,
      UserNotFound | Failure<"CircuitOpen" | "Overloaded"> | Failure<"DeadlineExceeded">,
      "Transport"
    >
  >(true)

  // The last good answer is an answer like the others, and may be missing.
  const stale = yield* make<User>({ stale: { maxAge: "1 hour" }, when: ["CircuitOpen"] })
  same<typeof stale, Fallback.Fallback<User, User, never, Failure<"DeadlineExceeded">>>(true)
  const last = Policy.apply(call, stale)
  same<
    typeof last,
    Effect.Effect<
      User,
      UserNotFound | Failure<"CircuitOpen" | "Overloaded"> | Failure<"DeadlineExceeded">,
      "Transport"
    >
  >(true)
  // @ts-expect-error the last good answers are users
  yield* stale.run(Effect.succeed("not a user"))
  // @ts-expect-error a substitute has to be said
  yield* make({ name: "nothing" })

  // In a stack it deals with what the other slots add.
  const breaker = null as unknown as Policy.OfKind<"circuitBreaker", Failure<"CircuitOpen">>
  const limiter = null as unknown as Policy.OfKind<"rateLimiter", Failure<"LimitReached">, "Limiter">
  const stack = Policy.stack({
    fallback: yield* make({ when: ["CircuitOpen"], orElse: () => other }),
    rateLimiter: limiter,
    circuitBreaker: breaker
  })
  const stacked = stack.run(call)
  same<
    typeof stacked,
    Effect.Effect<
      User | "other",
      UserNotFound | Failure<"Overloaded"> | Failure<"LimitReached"> | Cheap,
      "Transport" | "Limiter" | "Other"
    >
  >(true)
  const total = call.pipe(Policy.apply(Policy.stack({ fallback: value, circuitBreaker: breaker })))
  same<typeof total, Effect.Effect<User | "none", never, "Transport">>(true)

  // One that may be absent takes nothing out for certain.
  const maybe = Math.PI > 3 ? value : undefined
  const optional = Policy.stack({ fallback: maybe, circuitBreaker: breaker }).run(call)
  same<
    typeof optional,
    Effect.Effect<
      User | "none",
      UserNotFound | Failure<"CircuitOpen" | "Overloaded"> | Failure<"CircuitOpen">,
      "Transport"
    >
  >(true)

  // A stack without one is what it always was.
  const plain = Policy.stack({ rateLimiter: limiter, circuitBreaker: breaker })
  same<typeof plain, Policy.OfKind<"stack", Failure<"LimitReached"> | Failure<"CircuitOpen">, "Limiter">>(true)
  // @ts-expect-error a fallback fits its own slot only
  Policy.stack({ retry: value })
  // @ts-expect-error and that slot takes nothing else
  Policy.stack({ fallback: breaker })
})
