/** What is held: per idle session, per call in flight, per key of a breaker. */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Scope from "effect/Scope"
import * as Net from "node:net"
import * as Discovery from "../../src/balancer/Discovery.ts"
import * as Client from "../../src/client/Client.ts"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Server from "../../src/server/Server.ts"
import * as Tcp from "../../src/transport/Tcp.ts"
import { Transport } from "../../src/transport/Transport.ts"
import type { Row } from "../harness.ts"
import { handlers, Users } from "../peers/contract.ts"

/** Heap and buffers, once nothing is left to collect. */
const settled = async (): Promise<number> => {
  for (let i = 0; i < 4; i++) {
    globalThis.gc?.()
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  const { arrayBuffers, heapUsed } = process.memoryUsage()
  return heapUsed + arrayBuffers
}

/** How much `hold` adds to memory, for each of `n`. It is run once before: what is loaded and compiled then stays. */
const heldBy = async (n: number, hold: (n: number) => Promise<() => Promise<void>>): Promise<number> => {
  await (await hold(Math.min(n, 100)))()
  const before = await settled()
  const release = await hold(n)
  const held = await settled() - before
  await release()
  return held / n
}

const rawSessions = async (n: number) => {
  const accepted: Array<Net.Socket> = []
  const server = Net.createServer((socket) => void accepted.push(socket.on("error", () => {})))
  const port = await new Promise<number>((resolve) =>
    server.listen(0, "127.0.0.1", () => resolve((server.address() as Net.AddressInfo).port))
  )
  const sockets = await Promise.all(
    Array.from({ length: n }, () =>
      new Promise<Net.Socket>((resolve) => {
        const socket = Net.connect(port, "127.0.0.1", () => resolve(socket))
      }))
  )
  return async () => {
    for (const socket of [...sockets, ...accepted]) socket.destroy()
    await new Promise((resolve) => server.close(resolve))
  }
}

const sessions = async (n: number) => {
  const scope = Scope.makeUnsafe()
  await Effect.runPromise(
    Effect.gen(function*() {
      const server = yield* Server.make(Users, { listen: "tcp://127.0.0.1:0", drainGrace: 0 })
      const transport = yield* Transport
      yield* Effect.forEach(Array.from({ length: n }), () => transport.connect(server.address), { concurrency: 50 })
    }).pipe(Effect.provide([handlers, Tcp.layer()]), Scope.provide(scope))
  )
  return () => Effect.runPromise(Scope.close(scope, Exit.void))
}

const fibers = async (n: number) => {
  const asleep = Array.from({ length: n }, () => Effect.runFork(Effect.never))
  return () => Effect.runPromise(Fiber.interruptAll(asleep))
}

/** Calls to a peer that takes everything and answers nothing. */
const calls = async (n: number) => {
  const scope = Scope.makeUnsafe()
  const server = Net.createServer((socket) => void socket.on("error", () => {}).resume())
  const port = await new Promise<number>((resolve) =>
    server.listen(0, "127.0.0.1", () => resolve((server.address() as Net.AddressInfo).port))
  )
  const client = await Effect.runPromise(
    Client.make(Users, { target: "users", defaultDeadline: "1 hour", policy: { timeout: "1 hour" } }).pipe(
      Effect.provide([
        Discovery.layerStatic({ users: [`tcp://127.0.0.1:${port}`] }),
        Tcp.layer({ maxInFlight: 65_536, pingInterval: "1 hour" })
      ]),
      Scope.provide(scope)
    )
  )
  const flying = Array.from({ length: n }, () => Effect.runFork(client.Users.Get({ id: 1 })))
  await new Promise((resolve) => setTimeout(resolve, 200))
  return async () => {
    await Effect.runPromise(Fiber.interruptAll(flying))
    await Effect.runPromise(Scope.close(scope, Exit.void))
    server.close()
  }
}

/** Circuits of as many keys, untouched since one success, or after a failure. */
const keys = (fail: boolean) => async (n: number) => {
  const breaker = await Effect.runPromise(CircuitBreaker.keyed({ maxKeys: n }))
  await Effect.runPromise(
    Effect.forEach(
      Array.from({ length: n }, (_, i) => `tenant-${i}`),
      (key) => Effect.exit(CallContext.annotate(breaker.run(fail ? Effect.fail("down") : Effect.void), { key })),
      {
        discard: true
      }
    )
  )
  kept.add(breaker)
  return async () => void kept.delete(breaker)
}
const kept = new Set<unknown>()

export const rows = async (group: string, short: boolean): Promise<ReadonlyArray<Row>> => {
  const measures = [
    ["node:net, both ends of an idle connection", rawSessions, short ? 200 : 1000],
    ["an idle session, both ends", sessions, short ? 200 : 1000],
    ["a fiber asleep", fibers, 10_000],
    ["a call in flight, its fiber included", calls, short ? 4000 : 20_000],
    ["a breaker's key, after a success", keys(false), short ? 20_000 : 100_000],
    ["a breaker's key, after a failure", keys(true), short ? 20_000 : 100_000]
  ] as const
  const rows: Array<Row> = []
  for (const [name, hold, n] of measures) rows.push({ group, name, bytesPerOp: await heldBy(n, hold) })
  return rows
}
