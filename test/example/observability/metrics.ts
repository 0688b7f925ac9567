import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { Layer } from "effect"
import { HttpRouter } from "effect/http"
import { Logging, Metrics, Observe } from "holdfast"
import { createServer } from "node:http"

/** Counts and logs what calls go through, and serves `GET /metrics` on a port. */
export const observed = (port: number) =>
  Layer.merge(
    Observe.layer(Metrics.make(), Logging.make()),
    HttpRouter.serve(Metrics.layerHttp(), { disableLogger: true }).pipe(
      Layer.provide(NodeHttpServer.layer(createServer, { port }))
    )
  )
