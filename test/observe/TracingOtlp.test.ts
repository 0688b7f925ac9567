import * as OtelTracer from "@effect/opentelemetry/OtelTracer"
import { assert, describe, it } from "@effect/vitest"
import { TraceFlags } from "@opentelemetry/api"
import { Effect, identity, Layer, References, Tracer } from "effect"
import * as Discovery from "../../src/balancer/Discovery.ts"
import * as Client from "../../src/client/Client.ts"
import * as Server from "../../src/server/Server.ts"
import * as Tcp from "../../src/transport/Tcp.ts"
import * as Otel from "../example/observability/otel.ts"
import * as Otlp from "../example/observability/otlp.ts"
import { type Collected, collector } from "../support/collector.ts"
import { handlers, Shop } from "../support/shop.ts"

type Tracing = (serviceName: string, collector: string) => Layer.Layer<any>

/** A client and a server with a socket between them, each with its own exporter, and what arrives at the collector. */
const exported = (
  tracing: Tracing,
  around: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R> = identity
) =>
  Effect.gen(function*() {
    const { contentTypes, spans, url } = yield* collector
    yield* Effect.gen(function*() {
      const [front, back] = yield* Effect.all([Layer.build(tracing("front", url)), Layer.build(tracing("back", url))])
      const server = yield* Server.make(Shop, { listen: "tcp://127.0.0.1:0" }).pipe(
        Effect.provide(handlers),
        Effect.provideContext(back)
      )
      const client = yield* Client.make(Shop, {
        target: "shop",
        policy: {
          retry: { attempts: 3, budget: false, backoff: { kind: "constant", base: "20 millis", jitter: "none" } }
        }
      }).pipe(Effect.provide(Discovery.layerStatic({ shop: [server.address] })))
      const buy = client.Shop.Buy({ steps: ["down", "overloaded", "inner"] })
      yield* Effect.provideContext(around(buy), front)
      // What is not flushed yet is when the scope closes.
    }).pipe(Effect.scoped, Effect.provide(Tcp.layer()), Effect.provideService(References.MinimumLogLevel, "None"))
    return { contentTypes: [...contentTypes], spans }
  }).pipe(Effect.scoped)

const check = (spans: ReadonlyArray<Collected>) => {
  const inOrder = spans.toSorted((a, b) => Number(a.startNanos - b.startNanos))
  const calls = inOrder.filter(({ parentSpanId }) => parentSpanId === "")
  const attempts = inOrder.filter(({ name }) => name.endsWith(" attempt"))
  const served = inOrder.filter(({ kind }) => kind === 2)
  const [call] = calls
  assert.deepStrictEqual([calls.length, attempts.length, served.length, spans.length], [1, 3, 3, 8])
  assert.isTrue(spans.every(({ traceId }) => traceId === call!.traceId && /^[0-9a-f]{32}$/.test(traceId)))
  assert.deepStrictEqual([call!.service, call!.name, call!.kind, call!.status], ["front", "Shop.Buy", 3, 1])
  assert.deepStrictEqual(attempts.map(({ kind, parentSpanId, status }) => [kind, parentSpanId, status]), [
    [3, call!.spanId, 2],
    [3, call!.spanId, 2],
    [3, call!.spanId, 1]
  ])
  assert.deepStrictEqual(
    served.map(({ kind, parentSpanId, service }) => [service, kind, parentSpanId]),
    attempts.map(({ spanId }) => ["back", 2, spanId])
  )
  const inner = inOrder.find(({ name }) => name === "inner")
  assert.deepStrictEqual([inner!.service, inner!.parentSpanId], ["back", served[2]!.spanId])
  const [, port] = /:(\d+)$/.exec(`${attempts[0]!.attributes["holdfast.endpoint"]}`)!
  assert.deepInclude(attempts[1]!.attributes, {
    "rpc.system.name": "holdfast",
    "rpc.method": "Shop.Buy",
    "rpc.status_code": "Overloaded",
    "error.type": "Overloaded",
    "server.address": "127.0.0.1",
    "server.port": Number(port),
    "network.transport": "tcp",
    "retry.is_retry": true,
    "retry.attempt": 2,
    "retry.parent_id": attempts[0]!.spanId
  })
  assert.strictEqual(served[0]!.attributes["client.address"], "127.0.0.1")
  // The handler's time is within its attempt's, and the call's is that of its attempts and backoffs, and little else.
  for (const [index, attempt] of attempts.entries()) {
    assert.isTrue(served[index]!.startNanos >= attempt.startNanos && served[index]!.endNanos <= attempt.endNanos)
  }
  const backoffs = call!.events.filter(({ name }) => name === "holdfast.retry").map(({ attributes }) => attributes)
  assert.deepStrictEqual(backoffs.map((attributes) => attributes["error.type"]), ["Unavailable", "Overloaded"])
  assert.deepStrictEqual(backoffs.map((attributes) => attributes["holdfast.delay_ms"]), [20, 20])
  const attempted = attempts.reduce((sum, { endNanos, startNanos }) => sum + endNanos - startNanos, 0n)
  assert.isTrue(call!.endNanos - call!.startNanos >= attempted + 2n * 19_000_000n)
}

describe("Tracing over OTLP", () => {
  it.live("arrives from Effect's exporter, in protobuf", () =>
    Effect.gen(function*() {
      const { contentTypes, spans } = yield* exported(Otlp.tracing)
      assert.deepStrictEqual(contentTypes, ["application/x-protobuf"])
      check(spans)
    }))

  it.live("arrives from OpenTelemetry's SDK", () =>
    Effect.gen(function*() {
      const { contentTypes, spans } = yield* exported(Otel.tracing)
      assert.deepStrictEqual(contentTypes, ["application/json"])
      check(spans)
    }))

  it.live("has the tracestate of whoever calls, on both sides of a socket", () =>
    Effect.gen(function*() {
      const caller = OtelTracer.makeExternalSpan({
        traceId: "1".repeat(32),
        spanId: "2".repeat(16),
        traceFlags: TraceFlags.SAMPLED,
        traceState: "vendor=1,other=2"
      })
      const { spans } = yield* exported(Otel.tracing, Effect.provideService(Tracer.ParentSpan, caller))
      assert.deepStrictEqual(
        spans.map(({ service, traceState }) => `${service} ${traceState}`).toSorted(),
        [...Array(4).fill("back vendor=1,other=2"), ...Array(4).fill("front vendor=1,other=2")]
      )
    }))
})
