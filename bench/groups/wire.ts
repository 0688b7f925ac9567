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
import { awaitedBy, inFibers } from "../contenders.ts"
import type { Contender } from "../harness.ts"
import { Users } from "../peers/contract.ts"
import * as Grpc from "../peers/grpc.ts"
import * as Raw from "../peers/raw.ts"

type Kind = "raw" | "holdfast" | "rpc" | "grpc"

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

const holdfastTo = async (kind: Kind) => {
  const port = await portOf(kind)
  const scope = Scope.makeUnsafe()
  cleanups.push(() => void Effect.runFork(Scope.close(scope, Exit.void)))
  const client = await Effect.runPromise(
    Client.make(Users, { target: "users" }).pipe(
      Effect.provide([Discovery.layerStatic({ users: [`tcp://127.0.0.1:${port}`] }), Tcp.layer()]),
      Scope.provide(scope)
    )
  )
  return client.Users.Get({ id: 1 })
}

const rpc = async () => {
  const port = await portOf("rpc")
  const scope = Scope.makeUnsafe()
  cleanups.push(() => void Effect.runFork(Scope.close(scope, Exit.void)))
  const client = await Effect.runPromise(
    RpcClient.make(Users, { disableTracing: true }).pipe(
      Effect.provide(
        RpcClient.layerProtocolSocket().pipe(
          Layer.provide([NodeSocket.layerNet({ host: "127.0.0.1", port }), RpcSerialization.layerSchemaBinary()])
        )
      ),
      Scope.provide(scope)
    )
  )
  return client["Users.Get"]({ id: 1 })
}

const rawTo = async (kind: Kind) => {
  const client = await Raw.connect(await portOf(kind))
  cleanups.push(client.close)
  return () => client.call("Users.Get", { id: 1 })
}

/** `width` calls in flight on one connection. */
export const calls = (width: number, peers: boolean) => async (): Promise<ReadonlyArray<Contender>> => {
  const contenders = [
    awaitedBy("raw > raw", await rawTo("raw"), width),
    inFibers("Holdfast > raw", await holdfastTo("raw"), width),
    awaitedBy("raw > Holdfast", await rawTo("holdfast"), width),
    inFibers("Holdfast > Holdfast", await holdfastTo("holdfast"), width)
  ]
  if (!peers) return contenders
  const grpc = Grpc.connect(await portOf("grpc"))
  cleanups.push(grpc.close)
  return [
    ...contenders,
    inFibers("Effect RPC", await rpc(), width),
    awaitedBy("grpc-js", () => grpc.call({ id: 1 }), width)
  ]
}
