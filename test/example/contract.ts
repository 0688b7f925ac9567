import { Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import { Contract } from "holdfast"

export class User extends Schema.Class<User>("User")({ id: Schema.Int, name: Schema.String }) {}

export class UserNotFound extends Schema.TaggedError<UserNotFound>()("UserNotFound", { id: Schema.Int }) {}

export class UserService extends RpcGroup.make(
  Rpc.make("GetUserInfo", { payload: { id: Schema.Int }, success: User, error: UserNotFound })
    .annotate(Contract.Idempotent, true)
    .annotate(Contract.DefaultDeadline, "2 seconds")
).prefix("UserService.") {}
