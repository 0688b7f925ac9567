import { Layer } from "effect"
import { Metrics, Observe, Snapshot } from "holdfast"
import { Dashboard } from "holdfast/dashboard"

/** Looks at every client, server and policy that is made under it, and shows them on a page of its own. */
export const watched = (port?: number) =>
  Layer.mergeAll(
    Observe.layer(Snapshot.make(), Metrics.make()),
    Dashboard.layer({ port, routes: Metrics.layerHttp() })
  ).pipe(Layer.provide(Snapshot.layer))
