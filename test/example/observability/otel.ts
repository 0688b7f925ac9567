import * as NodeSdk from "@effect/opentelemetry/NodeSdk"
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http"
import { BatchSpanProcessor } from "@opentelemetry/sdk-trace-base"
import { Layer } from "effect"
import { Observe, Tracing } from "holdfast"

/** What a client or a server calls itself, and where its collector is, such as `http://localhost:4318`. */
export const tracing = (serviceName: string, collector: string) =>
  Observe.layer(Tracing.make({ sampleRatio: 1 })).pipe(
    Layer.provideMerge(NodeSdk.layer(() => ({
      resource: { serviceName },
      spanProcessor: new BatchSpanProcessor(new OTLPTraceExporter({ url: `${collector}/v1/traces` }))
    })))
  )
