/**
 * A page that shows a snapshot live, on an HTTP server of its own.
 *
 * It listens on the loopback, answers `GET` only, changes nothing, loads nothing
 * from elsewhere, and answers nobody whose `Host` is not a loopback name (or one
 * of `hosts`): a page of another site whose name was rebound to this address gets
 * nothing. Whoever may use this machine may look; to show it to others, put
 * something that knows them in front.
 *
 * `SnapshotHttp.layer` and `routes` put the same on a server that is there
 * already; the check of the host is then that server's.
 */
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as HttpMiddleware from "effect/http/HttpMiddleware"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServer from "effect/http/HttpServer"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import { createServer } from "node:http"
import * as Options from "../contract/Options.ts"
import type { Snapshot } from "../observe/Snapshot.ts"
import { html } from "./internal/page.ts"
import { script } from "./internal/script.ts"
import { style } from "./internal/style.ts"
import * as SnapshotHttp from "./SnapshotHttp.ts"

/** The server could not listen. */
export class DashboardError extends Data.TaggedError("DashboardError")<{ readonly message: string }> {}

/** Where the page is. */
export class Dashboard extends Context.Service<Dashboard, {
  /** Such as `http://127.0.0.1:7077/`. */
  readonly url: string
}>()("holdfast/dashboard/Dashboard") {}

export interface DashboardOptions<R = never> {
  /** 0 for any free one. Default 7077, or any free one where that is taken. */
  readonly port?: number | undefined
  /** The address to listen on. Default `127.0.0.1`. */
  readonly host?: string | undefined
  /** Names besides `localhost`, `127.0.0.1` and `[::1]` by which it may be asked for, without a port. Default none. */
  readonly hosts?: ReadonlyArray<string> | undefined
  /** Between two snapshots. Default 1 second. */
  readonly interval?: Duration.Input | undefined
  /** More routes of the same server, such as `/metrics`. */
  readonly routes?: Layer.Layer<never, never, R> | undefined
}

const defaultPort = 7077

/** Nothing but its own files, and no frame around it. */
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const headers = {
  ...SnapshotHttp.uncached,
  "content-security-policy": policy,
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer"
}

const file = (path: `/${string}`, contentType: string, text: string) =>
  HttpRouter.add("GET", path, HttpServerResponse.text(text, { contentType, headers }))

/** The page at `/`, its two files, and `SnapshotHttp`'s routes, for a router that is there already. */
export const routes = (
  options: SnapshotHttp.SnapshotHttpOptions = {}
): Layer.Layer<never, never, HttpRouter.HttpRouter | Snapshot> =>
  Layer.mergeAll(
    file("/", "text/html; charset=utf-8", html),
    file("/holdfast/dashboard.css", "text/css; charset=utf-8", style),
    file("/holdfast/dashboard.js", "text/javascript; charset=utf-8", script),
    SnapshotHttp.layer(options)
  )

/**
 * Serves the page for the life of the scope.
 *
 * Fails with a `DashboardError` when it cannot listen; a stated port that is taken
 * is not replaced. Dies with a `RangeError` when an option is out of range.
 */
export const make = <R = never>(
  options: DashboardOptions<R> = {}
): Effect.Effect<Dashboard["Service"], DashboardError, Snapshot | Exclude<R, HttpRouter.HttpRouter> | Scope.Scope> =>
  Effect.gen(function*() {
    const { host = "127.0.0.1", hosts = [], interval, port } = options
    const where = "Dashboard.make"
    Options.integer(where, "port", port ?? defaultPort, 0, 65_535)
    Options.check(host !== "", where, "host", "an address", host)
    const app = Layer.mergeAll(
      // An address that is listened on is no name, and cannot be bound to another.
      HttpRouter.use((router) => router.addGlobalMiddleware(onlyFor([...loopback, host, `[${host}]`, ...hosts]))),
      routes({ interval }),
      options.routes ?? Layer.empty
    )
    const server = yield* port === undefined
      ? Effect.catchTag(listen(host, defaultPort), "DashboardError", () => listen(host, 0))
      : listen(host, port)
    yield* Layer.build(
      HttpRouter.serve(app, { disableLogger: true, disableListenLog: true })
        .pipe(Layer.provide(Layer.succeed(HttpServer.HttpServer, server)))
    ).pipe(
      // Looking is no traffic of the application's.
      Effect.provideService(HttpMiddleware.TracerDisabledWhen, () => true)
    )
    return { url: `${HttpServer.formatAddress(server.address)}/` }
    // The compiler cannot work out `Exclude` of a type that is not known yet.
  }) as never

export const layer = <R = never>(
  options: DashboardOptions<R> = {}
): Layer.Layer<Dashboard, DashboardError, Snapshot | Exclude<R, HttpRouter.HttpRouter>> =>
  Layer.effect(Dashboard, make(options)) as never

const loopback = ["localhost", "127.0.0.1", "[::1]"]

/** Loaded when it is needed: with what it imports it costs more than the rest of a command line. */
const node = Effect.promise(() => import("@effect/platform-node/NodeHttpServer"))

const listen = (host: string, port: number) =>
  Effect.flatMap(node, (NodeHttpServer) =>
    // Not waiting for requests to end first: a stream of events has no end of its own.
    NodeHttpServer.make(createServer, { host, port, disablePreemptiveShutdown: true })).pipe(
      Effect.mapError(({ cause }) =>
        new DashboardError({
          message: `cannot listen on ${host}:${port}: ${cause instanceof Error ? cause.message : String(cause)}`
        })
      )
    )

/** Answers only who asks for one of these names, whatever the port. */
const onlyFor = (allowed: ReadonlyArray<string>) => {
  const names = allowed.map((name) => name.toLowerCase())
  return <E, R>(
    app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>
  ): Effect.Effect<HttpServerResponse.HttpServerResponse, E, R | HttpServerRequest.HttpServerRequest> =>
    Effect.flatMap(HttpServerRequest.HttpServerRequest, (request) => {
      const name = (request.headers["host"] ?? "").replace(/:\d+$/, "").toLowerCase()
      return names.includes(name)
        ? app
        : Effect.succeed(
          HttpServerResponse.text(`${name || "this host"} is not served here\n`, { status: 421, headers })
        )
    })
}
