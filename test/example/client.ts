import { Effect, Layer } from "effect"
import { Client, Discovery, Tcp } from "holdfast"
import { UserService } from "./contract.ts"
import { server } from "./server.ts"

const addresses = ["tcp://127.0.0.1:7171", "tcp://127.0.0.1:7172"]

/** Succeeds with "Hello Ada". */
export const greeting = Effect.gen(function*() {
  const client = yield* Client.make(UserService, { target: "users" })
  const user = yield* client.UserService.GetUserInfo({ id: 1001 })
  return `Hello ${user.name}`
}).pipe(
  Effect.scoped,
  Effect.provide(
    Layer.mergeAll(Discovery.layerStatic({ users: addresses }), ...addresses.map(server)).pipe(
      Layer.provideMerge(Tcp.layer())
    )
  )
)
