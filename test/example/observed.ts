import { Layer } from "effect"
import { Logging, Metrics, Observe, Snapshot, Tracing } from "holdfast"
import { Dashboard } from "holdfast/dashboard"

/** Lines of log, spans, figures for a Prometheus at `/metrics`, and a page with all that goes on: on 7077, or on this port. */
export const observed = (port?: number) =>
  Layer.mergeAll(
    Observe.layer(Logging.make(), Tracing.make(), Metrics.make(), Snapshot.make()),
    Dashboard.layer({ port, routes: Metrics.layerHttp() })
  ).pipe(Layer.provide(Snapshot.layer))
