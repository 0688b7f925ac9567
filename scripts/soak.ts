/**
 * Shows that nothing grows: a million calls through the full stack over TCP, and
 * a hundred thousand keys through a keyed breaker, with the heap, the timers and
 * the handles before and after. Exits non-zero when something was left behind.
 *
 *   --calls N   calls through the stack (default 1,000,000)
 *   --keys N    keys of the breaker (default 100,000)
 *
 * Run with `node --expose-gc` (as `npm run soak` does), or the heap means nothing.
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Logger from "effect/Logger"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import * as Schema from "effect/Schema"
import { parseArgs } from "node:util"
import * as Discovery from "../src/balancer/Discovery.ts"
import * as Client from "../src/client/Client.ts"
import * as CallContext from "../src/contract/CallContext.ts"
import * as Contract from "../src/contract/Contract.ts"
import * as Timer from "../src/contract/Timer.ts"
import * as CircuitBreaker from "../src/policy/CircuitBreaker.ts"
import * as Server from "../src/server/Server.ts"
import * as Tcp from "../src/transport/Tcp.ts"

const { values } = parseArgs({
  options: {
    calls: { type: "string", default: "1000000" },
    keys: { type: "string", default: "100000" },
    help: { type: "boolean", default: false }
  }
})
if (values.help) {
  console.log("node --expose-gc scripts/soak.ts [--calls N] [--keys N]")
  process.exit(0)
}
const count = (name: "calls" | "keys"): number => {
  const value = Number(values[name])
  if (Number.isInteger(value) && value >= 1) return value
  console.error(`--${name} must be an integer >= 1, got ${values[name]}`)
  process.exit(1)
}
const calls = count("calls")
const keys = count("keys")
const collect = globalThis.gc
if (collect === undefined) {
  console.error("run with --expose-gc: npm run soak")
  process.exit(1)
}

const heap = (): number => {
  for (let i = 0; i < 3; i++) collect()
  return process.memoryUsage().heapUsed / 1024 / 1024
}

class Boom extends Schema.TaggedError<Boom>()("Boom", { id: Schema.Int }) {}
class Echo extends RpcGroup.make(
  Rpc.make("Get", { payload: { id: Schema.Int }, success: Schema.Struct({ id: Schema.Int }), error: Boom })
    .annotate(Contract.Idempotent, true)
).prefix("Echo.") {}

/** One call in a hundred fails, one in a hundred dies, one in five hundred is too slow for its deadline. */
const handlers = Echo.toLayer({
  "Echo.Get": ({ id }) =>
    id % 500 === 7
      ? Effect.as(Effect.sleep(30), { id })
      : id % 100 === 1
      ? Effect.fail(new Boom({ id }))
      : id % 100 === 2
      ? Effect.die("boom")
      : Effect.succeed({ id })
})

let broken = 0
const report = (what: string, before: number, after: number, bound: number, unit: string): void => {
  const holds = after - before <= bound
  if (!holds) broken++
  console.log(
    `${holds ? "ok  " : "LEAK"} ${what.padEnd(34)} ${before.toFixed(1).padStart(8)} ${
      after.toFixed(1).padStart(8)
    } ${unit}`
  )
}

const progress = (text: string): void => {
  if (process.stdout.isTTY) process.stdout.write(`\r\x1b[K${text}`)
}

const stack = Effect.gen(function*() {
  const server = yield* Server.make(Echo, { listen: "tcp://127.0.0.1:0" })
  const client = yield* Client.make(Echo, {
    target: "echo",
    policy: { retry: { attempts: 3 }, bulkhead: { limit: 256 }, timeout: "1 second" },
    defaultDeadline: "2 seconds"
  }).pipe(Effect.provide(Discovery.layerStatic({ echo: [server.address] })))
  const clock = yield* Clock.Clock
  let next = 0
  const batch = (n: number) =>
    Effect.forEach(
      Array.from({ length: 64 }),
      () =>
        Effect.gen(function*() {
          for (let i = 0; i < n / 64; i++) {
            const id = next++
            yield* Effect.ignore(client.Echo.Get({ id }, id % 500 === 7 ? { deadline: "10 millis" } : {}))
          }
        }),
      { concurrency: "unbounded", discard: true }
    )
  yield* batch(calls / 10)
  const before = heap()
  const began = performance.now()
  for (let i = 0; i < 10; i++) {
    yield* batch(calls / 10)
    progress(`${next.toLocaleString("en")} calls, ${Math.round(next / (performance.now() - began) * 1000)}/s`)
  }
  progress("")
  // Slow handlers whose callers have gone end by themselves.
  yield* Effect.sleep(100)
  report(`heap over ${next.toLocaleString("en")} calls`, before, heap(), 4, "MB")
  report("requests in flight at the server", 0, server.stats().inFlight, 0, "")
  // One timer may live: the session's next question for a sign of life.
  report("live timers", 0, Timer.size(clock), 1, "")
}).pipe(Effect.scoped, Effect.provide([handlers, Tcp.layer()]))

const keyed = Effect.gen(function*() {
  const breaker = yield* CircuitBreaker.keyed({ maxKeys: 10_000, consecutiveFailures: 3 })
  const use = (key: string, fails: boolean) =>
    breaker.run(fails ? Effect.fail("down") : Effect.void).pipe(CallContext.annotate({ key }), Effect.ignore)
  for (let i = 0; i < 20_000; i++) yield* use(`warm-${i}`, i % 10 === 0)
  const before = heap()
  for (let i = 0; i < keys; i++) yield* use(`key-${i}`, i % 10 === 0)
  report(`heap over ${keys.toLocaleString("en")} keys`, before, heap(), 4, "MB")
  report("keys kept", 0, (yield* breaker.states).size, 10_000, "")
})

console.log(`node ${process.version}; before, after`)
// Ten thousand handlers die on purpose; their logs are not what is looked at.
await Effect.runPromise(Effect.provide(stack, Logger.layer([])))
await Effect.runPromise(keyed)
const handles = process.getActiveResourcesInfo().filter((name) => name !== "TTYWrap" && name !== "PipeWrap")
report("sockets and timers of the process", 0, handles.length, 0, handles.join(" "))
if (broken > 0) process.exit(1)
