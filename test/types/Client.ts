/** What must and must not compile around a client: checked by the compiler, run by nobody. */
import { Effect, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import * as Client from "../../src/client/Client.ts"
import type * as CallError from "../../src/contract/CallError.ts"

class Missing extends Schema.TaggedError<Missing>()("Missing", { id: Schema.Int }) {}
class Shop extends RpcGroup.make(
  Rpc.make("Get", { payload: { id: Schema.Int }, success: Schema.String, error: Missing }),
  Rpc.make("Cart.Add", { payload: { id: Schema.Int }, success: Schema.Boolean }),
  Rpc.make("Ping")
).prefix("Shop.") {}

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false
const holds = <_T extends true>() => {}
type Tags<Call> = Call extends (...args: any) => Effect.Effect<any, infer E, any>
  ? E extends CallError.CallError<infer R> ? R["_tag"] : never
  : never

/** What any call can fail for, whatever guards it. */
type Always =
  | "ConnectFailed"
  | "ConnectionLost"
  | "ProtocolViolation"
  | "LimitReached"
  | "NoEndpoint"
  | "OutcomeUnknown"
  | "Unavailable"
  | "Overloaded"
  | "RateLimited"
  | "Remote"
  | "InvalidRequest"
  | "Unauthenticated"
  | "PermissionDenied"
  | "NotFound"
  | "Unimplemented"
  | "DeadlineExceeded"
  | "DecodeFailed"
  | "TooLarge"

export const methods = Effect.gen(function*() {
  const client = yield* Client.make(Shop, { target: "shop" })
  const get = client.Shop.Get({ id: 1 })
  holds<Equal<typeof get extends Effect.Effect<infer A, any, infer R> ? [A, R] : never, [string, never]>>()
  holds<
    Equal<Exclude<typeof get extends Effect.Effect<any, infer E, any> ? E : never, CallError.CallError<any>>, Missing>
  >()
  const add: Effect.Effect<boolean, CallError.CallError> = client.Shop.Cart.Add({ id: 1 })
  const ping: Effect.Effect<void, CallError.CallError> = client.Shop.Ping()
  const given = { deadline: "1 second", idempotencyKey: "k", criticality: "sheddable", headers: { a: "b" } } as const
  // The contract's own error is in the channel.
  holds<Equal<typeof get extends Effect.Effect<string, CallError.CallError> ? true : false, false>>()
  return [
    add,
    ping,
    client.Shop.Ping(undefined, given),
    // @ts-expect-error a method needs its payload
    client.Shop.Get(),
    // @ts-expect-error of its type
    client.Shop.Get({ id: "1" }),
    // @ts-expect-error the group has no such method
    client.Shop.Gte({ id: 1 }),
    // @ts-expect-error a prefix is no method
    client.Shop.Cart({ id: 1 }),
    // @ts-expect-error an option that does not exist
    client.Shop.Get({ id: 1 }, { timeout: "1 second" }),
    // @ts-expect-error a criticality that does not exist
    client.Shop.Get({ id: 1 }, { criticality: "urgent" })
  ]
})

export const reasons = Effect.gen(function*() {
  const byDefault = yield* Client.make(Shop, { target: "shop" })
  holds<
    Equal<
      Tags<typeof byDefault.Shop.Get>,
      Always | "RetriesExhausted" | "BudgetExhausted" | "CircuitOpen" | "AttemptTimeout"
    >
  >()

  const bare = yield* Client.make(Shop, {
    target: "shop",
    policy: { retry: false, circuitBreaker: false, timeout: false }
  })
  holds<Equal<Tags<typeof bare.Shop.Get>, Always>>()
  const get = bare.Shop.Get({ id: 1 })
  // @ts-expect-error a stack without a bulkhead cannot fail with BulkheadFull
  const caught = Effect.catchReason(get, "CallError", "BulkheadFull", () => Effect.succeed(""))

  const full = yield* Client.make(Shop, {
    target: "shop",
    policy: { timeout: false, retry: false, bulkhead: { limit: 1 } },
    methods: {
      "Shop.Get": { bulkhead: undefined, circuitBreaker: false, adaptiveThrottle: {} },
      "Shop.Cart.Add": { retry: { attempts: 2 }, timeout: "1 second" }
    }
  })
  holds<Equal<Tags<typeof full.Shop.Ping>, Always | "CircuitOpen" | "BulkheadFull">>()
  holds<Equal<Tags<typeof full.Shop.Get>, Always | "Throttled">>()
  holds<
    Equal<
      Tags<typeof full.Shop.Cart.Add>,
      Always | "CircuitOpen" | "BulkheadFull" | "RetriesExhausted" | "BudgetExhausted" | "AttemptTimeout"
    >
  >()
  return [caught]
})

export const options = Effect.gen(function*() {
  // @ts-expect-error the group has no such method
  yield* Client.make(Shop, { target: "shop", methods: { "Shop.Gte": {} } })
  // @ts-expect-error a client is of a target
  yield* Client.make(Shop, {})
  // @ts-expect-error a slot that does not exist
  yield* Client.make(Shop, { target: "shop", policy: { circuit: false } })
})
