/** A service whose handler does what the request says, attempt by attempt, and the spans that come of calling it. */
import * as NodeSdk from "@effect/opentelemetry/NodeSdk"
import { SpanKind } from "@opentelemetry/api"
import { InMemorySpanExporter, type ReadableSpan, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base"
import { Effect, Schema } from "effect"
import { Rpc, RpcGroup } from "effect/rpc"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as Contract from "../../src/contract/Contract.ts"
import * as Server from "../../src/server/Server.ts"

export class SoldOut extends Schema.TaggedError<SoldOut>()("SoldOut", { item: Schema.String }) {}

/** What the handler does: of a list the step of its attempt, and the last for all later ones. */
export type Step = "ok" | "slow" | "never" | "inner" | "log" | "soldOut" | "die" | "denied" | "overloaded" | "down"

export class Shop extends RpcGroup.make(
  Rpc.make("Buy", { payload: { steps: Schema.Array(Schema.String) }, success: Schema.String, error: SoldOut })
    .annotate(Contract.Idempotent, true)
).prefix("Shop.") {}

const steps: Readonly<Record<Step, Effect.Effect<string, SoldOut>>> = {
  ok: Effect.succeed("sold"),
  slow: Effect.delay(Effect.succeed("sold late"), "100 millis"),
  never: Effect.never,
  inner: Effect.withSpan(Effect.succeed("sold"), "inner"),
  log: Effect.as(Effect.logFatal("selling"), "sold"),
  soldOut: Effect.fail(new SoldOut({ item: "tea" })),
  die: Effect.die(new TypeError("no shelf")),
  denied: Server.refuse({ _tag: "PermissionDenied", target: "shop", detail: "not you", sent: "no" }),
  overloaded: Server.refuse({ _tag: "Overloaded", target: "shop", detail: "queue", sent: "no" }),
  down: Effect.delay(
    Server.refuse({ _tag: "Unavailable", target: "shop", detail: "starting", sent: "no" }),
    "10 millis"
  )
}

export const handlers = Shop.toLayer({
  "Shop.Buy": (payload) =>
    Effect.flatMap(CallContext.Current, ({ attempt }) => {
      const step = payload.steps[Math.min(attempt, payload.steps.length) - 1] as Step
      return steps[step]
    })
})

/** Keeps its spans when the SDK shuts down. */
class Exporter extends InMemorySpanExporter {
  override shutdown(): Promise<void> {
    return Promise.resolve()
  }
}

/** The OpenTelemetry SDK with an exporter that keeps what ends. */
export const sdk = (config: NodeSdk.Configuration = {}) => {
  const exporter = new Exporter()
  return {
    layer: NodeSdk.layer(() => ({
      resource: { serviceName: "shop" },
      spanProcessor: new SimpleSpanProcessor(exporter),
      ...config
    })),
    spans: (): ReadonlyArray<ReadableSpan> => exporter.getFinishedSpans().slice()
  }
}

export const nanos = ([seconds, nanos]: readonly [number, number]): bigint =>
  BigInt(seconds) * 1_000_000_000n + BigInt(nanos)
/** To the microsecond: the SDK keeps seconds and nanoseconds apart, and loses one. */
export const millisOf = (span: ReadableSpan): number =>
  Number((nanos(span.endTime) - nanos(span.startTime) + 500n) / 1000n) / 1000
export const idOf = (span: ReadableSpan): string => span.spanContext().spanId
export const parentOf = (span: ReadableSpan): string | undefined => span.parentSpanContext?.spanId

/** Spans by what they are, each in the order in which they began. */
export const sorted = (spans: ReadonlyArray<ReadableSpan>) => {
  const inOrder = spans.toSorted((a, b) => Number(nanos(a.startTime) - nanos(b.startTime)))
  const isAttempt = (span: ReadableSpan) => span.name.endsWith(" attempt")
  return {
    calls: inOrder.filter((span) => span.kind === SpanKind.CLIENT && !isAttempt(span)),
    attempts: inOrder.filter((span) => span.kind === SpanKind.CLIENT && isAttempt(span)),
    handlers: inOrder.filter((span) => span.kind === SpanKind.SERVER),
    others: inOrder.filter((span) => span.kind === SpanKind.INTERNAL)
  }
}

export const eventsOf = (span: ReadableSpan): ReadonlyArray<Readonly<Record<string, unknown>>> =>
  span.events.filter(({ name }) => name !== "exception").map(({ attributes = {}, name }) => ({ name, ...attributes }))
