import { Effect, Layer } from "effect"
import { Server } from "holdfast"
import { User, UserNotFound, UserService } from "./contract.ts"

const handlers = UserService.toLayer({
  "UserService.GetUserInfo": ({ id }) =>
    id === 1001 ? Effect.succeed(new User({ id, name: "Ada" })) : Effect.fail(new UserNotFound({ id }))
})

export const server = (listen: string) => Server.layer(UserService, { listen }).pipe(Layer.provide(handlers))
