/**
 * Who looks at the two clients while the demo runs: a dashboard that shows both,
 * and the metrics and the log of the resilient one, as an application would have
 * them.
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import type * as Scope from "effect/Scope"
import * as Dashboard from "../dashboard/Dashboard.ts"
import * as Explain from "../observe/Explain.ts"
import * as Logging from "../observe/Logging.ts"
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

export interface Options {
  /** The dashboard's port, `undefined` for the default one; `false` for no dashboard. */
  readonly dashboard: number | undefined | false
  /** The file that lines of log go to. */
  readonly log: string | undefined
}

/** Whoever is wanted, for the life of the scope. */
export const make = Effect.fnUntraced(function*({ dashboard, log }: Options) {
  const shown = dashboard === false ? nobody : yield* page(dashboard)
  if (log === undefined) return shown
  const written = yield* Effect.provide(Layer.build(lines(log)), shown.resilient)
  return {
    ...shown,
    resilient: Context.merge(shown.resilient, written),
    lines: [...shown.lines, `log        ${log}`]
  } satisfies Watch
})

/** Lines in a file, which a screen that is drawn again and again has no room for. */
const lines = (file: string) =>
  Observe.layer(Logging.make()).pipe(
    Layer.provideMerge(Logger.layer([Logger.toFile(Logger.formatLogFmt, file, { flag: "w" })]))
  )

const page = (port: number | undefined): Effect.Effect<Watch, Dashboard.DashboardError, Scope.Scope> =>
  Effect.gen(function*() {
    const service = yield* Layer.build(Layer.merge(Snapshot.layer, Explain.layer()))
    const snapshot = Context.get(service, Snapshot.Snapshot)
    const { naive, resilient, url } = yield* Effect.all({
      naive: Layer.build(Observe.layer(Snapshot.make({ part: "naive" }))),
      resilient: Layer.build(Observe.layer(Snapshot.make({ part: "resilient" }), Metrics.make(), Explain.receiver)),
      url: Effect.map(Dashboard.make({ port, routes: Metrics.layerHttp() }), ({ url }) => url)
    }).pipe(Effect.provide(service))
    return {
      naive,
      resilient,
      note: (server, text, tone) => snapshot.note("servers", server, text, tone),
      lines: [`dashboard  ${url}`, `metrics    ${url}metrics`]
    }
  })
