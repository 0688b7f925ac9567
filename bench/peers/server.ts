/** One server process of the wire benches: `node server.ts raw|holdfast|rpc|grpc|http`, which prints its port. */
import * as NodeSocketServer from "@effect/platform-node/NodeSocketServer"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as RpcSerialization from "effect/rpc/RpcSerialization"
import * as RpcServer from "effect/rpc/RpcServer"
import * as SocketServer from "effect/socket/SocketServer"
import * as Server from "../../src/server/Server.ts"
import * as Tcp from "../../src/transport/Tcp.ts"
import { handlers, Users } from "./contract.ts"
import * as Grpc from "./grpc.ts"
import * as Http from "./http.ts"
import * as Raw from "./raw.ts"

const holdfast = Effect.gen(function*() {
  const server = yield* Server.make(Users, { listen: "tcp://127.0.0.1:0" })
  console.log(server.address.split(":").at(-1))
  return yield* Effect.never
}).pipe(Effect.scoped, Effect.provide([handlers, Tcp.layer()]))

const rpc = Effect.gen(function*() {
  const context = yield* Layer.build(
    RpcServer.layer(Users, { disableFatalDefects: true, disableTracing: true }).pipe(
      Layer.provide(handlers),
      Layer.provide(RpcServer.layerProtocolSocketServer),
      Layer.provide(RpcSerialization.layerSchemaBinary()),
      Layer.provideMerge(NodeSocketServer.layer({ host: "127.0.0.1", port: 0 }))
    )
  )
  const { address } = Context.get(context, SocketServer.SocketServer)
  console.log(address._tag === "UnixPathAddress" ? 0 : address.port)
  return yield* Effect.never
}).pipe(Effect.scoped)

switch (process.argv[2]) {
  case "raw":
    console.log(await Raw.serve())
    break
  case "grpc":
    console.log(await Grpc.serve())
    break
  case "http":
    console.log(await Http.serve())
    break
  case "rpc":
    await Effect.runPromise(rpc)
    break
  default:
    await Effect.runPromise(holdfast)
}
