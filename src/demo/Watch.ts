/**
 * Who looks at the two clients while the demo runs: a dashboard that shows both,
 * and the metrics of the resilient one, as an application would have them.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import * as Dashboard from "../dashboard/Dashboard.ts"
import * as Metrics from "../observe/Metrics.ts"
import * as Observe from "../observe/Observe.ts"
import * as Snapshot from "../observe/Snapshot.ts"

export interface Watch {
  /** What to provide to what makes and uses a client. */
  readonly naive: Context.Context<never>
  readonly resilient: Context.Context<never>
  /** Tells whoever looks what is done to a server. */
  readonly note: (server: string, text: string, tone: Snapshot.Event["tone"]) => Effect.Effect<void>
  /** Where it can be seen, as lines for a person. */
  readonly lines: ReadonlyArray<string>
}

/** Nobody looks. */
export const nobody: Watch = {
  naive: Context.empty(),
  resilient: Context.empty(),
  note: () => Effect.void,
  lines: []
}

/** Serves the dashboard for the life of the scope, on this port or the default one. */
export const make = (
  port: number | undefined
): Effect.Effect<Watch, Dashboard.DashboardError, Scope.Scope> =>
  Effect.gen(function*() {
    const service = yield* Layer.build(Snapshot.layer)
    const snapshot = Context.get(service, Snapshot.Snapshot)
    const { naive, resilient, url } = yield* Effect.all({
      naive: Layer.build(Observe.layer(Snapshot.make({ part: "naive" }))),
      resilient: Layer.build(Observe.layer(Snapshot.make({ part: "resilient" }), Metrics.make())),
      url: Effect.map(Dashboard.make({ port, routes: Metrics.layerHttp() }), ({ url }) => url)
    }).pipe(Effect.provide(service))
    return {
      naive,
      resilient,
      note: (server, text, tone) => snapshot.note("servers", server, text, tone),
      lines: [`dashboard  ${url}`, `metrics    ${url}metrics`]
    }
  })
