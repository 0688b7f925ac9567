/** What the wire is measured with: about 100 bytes of JSON each way. */
import * as Effect from "effect/Effect"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import * as Schema from "effect/Schema"
import * as Contract from "../../src/contract/Contract.ts"

export class Users extends RpcGroup.make(
  Rpc.make("Get", {
    payload: { id: Schema.Int },
    success: Schema.Struct({
      id: Schema.Int,
      name: Schema.String,
      email: Schema.String,
      active: Schema.Boolean
    })
  }).annotate(Contract.Idempotent, true),
  /** Any amount of text, and back. */
  Rpc.make("Echo", {
    payload: { data: Schema.String },
    success: Schema.Struct({ data: Schema.String })
  }).annotate(Contract.Idempotent, true)
).prefix("Users.") {}

export const handlers = Users.toLayer({
  "Users.Get": ({ id }) => Effect.succeed({ id, name: "Ada Lovelace", email: "ada@example.org", active: true }),
  "Users.Echo": ({ data }) => Effect.succeed({ data })
})
