/** One connection, a server in a process of its own: ours, the floor, and the peers'. */
import * as NodeSocket from "@effect/platform-node/NodeSocket"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as RpcClient from "effect/rpc/RpcClient"
import * as RpcSerialization from "effect/rpc/RpcSerialization"
import * as Scope from "effect/Scope"
import { spawn } from "node:child_process"
import * as Discovery from "../../src/balancer/Discovery.ts"
import * as Client from "../../src/client/Client.ts"
import * as Tcp from "../../src/transport/Tcp.ts"
import * as BodyCodec from "../../src/wire/BodyCodec.ts"
import { timedAwaitedBy, timedInFibers } from "../contenders.ts"
import type { Contender } from "../harness.ts"
import { Users } from "../peers/contract.ts"
import * as Grpc from "../peers/grpc.ts"
import * as Http from "../peers/http.ts"
import * as Raw from "../peers/raw.ts"

type Kind = "raw" | "holdfast" | "rpc" | "grpc" | "http"

const cleanups: Array<() => void> = []
/** Ends the server processes and connections of the wire groups. */
export const cleanup = (): void => {
  for (const clean of cleanups.splice(0)) clean()
}

const ports = new Map<Kind, Promise<number>>()
const portOf = (kind: Kind): Promise<number> => {
  const known = ports.get(kind)
  if (known !== undefined) return known
  const started = new Promise<number>((resolve, reject) => {
    const file = new URL("../peers/server.ts", import.meta.url).pathname
    const child = spawn(process.execPath, [file, kind], { stdio: ["ignore", "pipe", "inherit"] })
    cleanups.push(() => {
      child.kill("SIGKILL")
      ports.delete(kind)
    })
    child.stdout.once("data", (chunk: Buffer) => resolve(Number(chunk.toString())))
    child.once("exit", (code) => reject(new Error(`the ${kind} server ended with ${code}`)))
  })
  ports.set(kind, started)
  return started
}

/** A client of a server process, until `cleanup`. */
export const clientOf = async (kind: Kind, codec?: BodyCodec.BodyCodec) => {
  const port = await portOf(kind)
  const scope = Scope.makeUnsafe()
  cleanups.push(() => void Effect.runFork(Scope.close(scope, Exit.void)))
  return Effect.runPromise(
    Client.make(Users, { target: "users", codec }).pipe(
      Effect.provide([Discovery.layerStatic({ users: [`tcp://127.0.0.1:${port}`] }), Tcp.layer()]),
      Scope.provide(scope)
    )
  )
}

const holdfastTo = async (kind: Kind, codec?: BodyCodec.BodyCodec) => (await clientOf(kind, codec)).Users.Get({ id: 1 })

const rpc = async () => {
  const port = await portOf("rpc")
  const scope = Scope.makeUnsafe()
  cleanups.push(() => void Effect.runFork(Scope.close(scope, Exit.void)))
  const protocol = RpcClient.layerProtocolSocket().pipe(
    Layer.provide([NodeSocket.layerNet({ host: "127.0.0.1", port }), RpcSerialization.layerSchemaBinary()])
  )
  // Built apart: what `Effect.provide` builds ends with the effect, and the connection with it.
  const client = await Effect.runPromise(
    Effect.flatMap(
      Layer.buildWithScope(protocol, scope),
      (context) => RpcClient.make(Users, { disableTracing: true }).pipe(Effect.provideContext(context))
    ).pipe(Scope.provide(scope))
  )
  return client["Users.Get"]({ id: 1 })
}

export const rawOf = async (kind: Kind) => {
  const client = await Raw.connect(await portOf(kind))
  cleanups.push(client.close)
  return client
}

const rawTo = async (kind: Kind) => {
  const client = await rawOf(kind)
  return () => client.call("Users.Get", { id: 1 })
}

/** `width` calls in flight on one connection; HTTP/1.1 has as many connections as it can use. */
export const calls = (width: number) => async (): Promise<ReadonlyArray<Contender>> => {
  // One after the other: with real-time priority, more of them than cores starve each other while they start.
  for (const kind of ["raw", "holdfast", "rpc", "grpc", "http"] as const) await portOf(kind)
  const grpc = Grpc.connect(await portOf("grpc"))
  const http = Http.connect(await portOf("http"), Math.min(width, 64))
  cleanups.push(grpc.close, http.close)
  return [
    timedAwaitedBy("raw > raw", await rawTo("raw"), width),
    timedInFibers("Holdfast > raw", await holdfastTo("raw"), width),
    timedAwaitedBy("raw > Holdfast", await rawTo("holdfast"), width),
    timedInFibers("Holdfast > Holdfast", await holdfastTo("holdfast"), width),
    timedInFibers("Holdfast > Holdfast, binary", await holdfastTo("holdfast", BodyCodec.binary), width),
    timedInFibers("Effect RPC", await rpc(), width),
    timedAwaitedBy("grpc-js", () => grpc.call({ id: 1 }), width),
    timedAwaitedBy("undici pool", () => http.call({ id: 1 }), width)
  ]
}
