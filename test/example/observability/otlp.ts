import { Layer } from "effect"
import { FetchHttpClient } from "effect/http"
import { Otlp } from "effect/observability"
import { Observe, Tracing } from "holdfast"

/** What a client or a server calls itself, and where its collector is, such as `http://localhost:4318`. */
export const tracing = (serviceName: string, collector: string) =>
  Observe.layer(Tracing.make({ sampleRatio: 1 })).pipe(
    Layer.provideMerge(Otlp.layerProtobuf({ baseUrl: collector, resource: { serviceName } })),
    Layer.provide(FetchHttpClient.layer)
  )
