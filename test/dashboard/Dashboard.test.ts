/** The server behind the page, as a client of HTTP meets it: real sockets, real time. */
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { assert, describe, it } from "@effect/vitest"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Sse from "effect/encoding/Sse"
import * as FetchHttpClient from "effect/http/FetchHttpClient"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import * as Http from "node:http"
import * as Net from "node:net"
import * as Dashboard from "../../src/dashboard/Dashboard.ts"
import { html } from "../../src/dashboard/internal/page.ts"
import * as SnapshotHttp from "../../src/dashboard/SnapshotHttp.ts"
import * as Explain from "../../src/observe/Explain.ts"
import * as Observe from "../../src/observe/Observe.ts"
import * as Snapshot from "../../src/observe/Snapshot.ts"
import * as ClientTest from "../../src/testing/ClientTest.ts"
import { handlers, Shop, type Step } from "../support/shop.ts"

/** A dashboard on a free port, with one part. */
const served = (options: Dashboard.DashboardOptions<HttpRouter.HttpRouter> = {}) =>
  Layer.mergeAll(Dashboard.layer({ port: 0, ...options }), Observe.layer(Snapshot.make({ part: "demo" }))).pipe(
    Layer.provideMerge(Snapshot.layer),
    Layer.merge(FetchHttpClient.layer)
  )

const test = <E>(
  name: string,
  self: Effect.Effect<void, E, Dashboard.Dashboard | Snapshot.Snapshot | HttpClient.HttpClient | Scope.Scope>,
  options?: Dashboard.DashboardOptions<HttpRouter.HttpRouter>
) => it.live(name, () => Effect.provide(Effect.scoped(self), served(options)))

const url = (path = "") => Effect.map(Dashboard.Dashboard, ({ url }) => `${url}${path}`)
const get = (path: string) => Effect.flatMap(url(path), (url) => HttpClient.get(url))

/** The status of a request with a header `fetch` would not send. */
const asking = (headers: Http.OutgoingHttpHeaders, path = "") =>
  Effect.flatMap(url(path), (url) =>
    Effect.callback<number | undefined>((resume) => {
      Http.get(url, { headers }, (response) => {
        response.resume()
        response.on("end", () => resume(Effect.succeed(response.statusCode)))
      })
    }))

/** Waits until so many watch. */
const watchers = (count: number): Effect.Effect<void, never, Snapshot.Snapshot> =>
  Effect.flatMap(
    Snapshot.Snapshot,
    ({ take }) =>
      Effect.flatMap(take, (taken) =>
        taken.watchers === count ? Effect.void : Effect.andThen(Effect.sleep("2 millis"), watchers(count)))
  )

const events = (path = "holdfast/events") =>
  Stream.unwrap(Effect.map(get(path), (response) => response.stream)).pipe(
    Stream.decodeText,
    Stream.pipeThroughChannel(Sse.decode<any, unknown>())
  )

describe("Dashboard", () => {
  test(
    "serves the page and its files with their types, uncached, under a policy that allows nothing else",
    Effect.gen(function*() {
      const page = yield* get("")
      assert.strictEqual(yield* page.text, html)
      for (
        const [path, type] of [
          ["", "text/html; charset=utf-8"],
          ["holdfast/dashboard.css", "text/css; charset=utf-8"],
          ["holdfast/dashboard.js", "text/javascript; charset=utf-8"]
        ] as const
      ) {
        const { headers, status } = yield* get(path)
        assert.deepStrictEqual([status, headers["content-type"], headers["cache-control"]], [200, type, "no-store"])
        assert.match(headers["content-security-policy"]!, /^default-src 'none'; script-src 'self'; style-src 'self'; /)
        assert.strictEqual(headers["x-content-type-options"], "nosniff")
      }
      // Everything the page names is served here.
      for (const [, path] of html.matchAll(/(?:href|src)="(?!data:)([^"]+)"/g)) {
        assert.strictEqual((yield* get(path!)).status, 200)
      }
    })
  )

  test(
    "knows nothing else, and takes nothing but GET",
    Effect.gen(function*() {
      assert.strictEqual((yield* get("nothing")).status, 404)
      assert.strictEqual((yield* get("holdfast")).status, 404)
      assert.strictEqual((yield* HttpClient.post(yield* url("holdfast/snapshot"))).status, 404)
    })
  )

  test(
    "answers loopback names only, whatever the port and the path",
    Effect.gen(function*() {
      for (const host of ["localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:99"]) {
        assert.strictEqual(yield* asking({ host }), 200)
      }
      for (const host of ["evil.example", "127.0.0.1.evil.example:80", "[::2]", "localhost.evil", "evillocalhost"]) {
        assert.strictEqual(yield* asking({ host }, "holdfast/snapshot"), 421)
      }
      assert.strictEqual(yield* asking({ host: "evil.example" }, "nothing"), 421)
    })
  )

  test(
    "answers names it was told, and serves routes it was given",
    Effect.gen(function*() {
      for (const host of ["ops.internal:8080", "[::1]", "localhost"]) assert.strictEqual(yield* asking({ host }), 200)
      assert.strictEqual(yield* asking({ host: "other.internal" }), 421)
      assert.strictEqual(yield* Effect.flatMap(get("metrics"), (response) => response.text), "up 1\n")
    }),
    {
      hosts: ["Ops.Internal"],
      routes: HttpRouter.add("GET", "/metrics", HttpServerResponse.text("up 1\n"))
    }
  )

  it.live("takes another port where its own is taken, but not another than it was told", () =>
    Effect.gen(function*() {
      const occupied = yield* Effect.acquireRelease(
        Effect.callback<Net.Server>((resume) => {
          const server = Net.createServer().listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
        }),
        (server) => Effect.callback<void>((resume) => void server.close(() => resume(Effect.void)))
      )
      const { port } = occupied.address() as Net.AddressInfo
      const error = yield* Effect.flip(Dashboard.make({ port }))
      assert.strictEqual(error._tag, "DashboardError")
      assert.match(error.message, new RegExp(`^cannot listen on 127.0.0.1:${port}: .*EADDRINUSE`))
      const first = yield* Dashboard.make()
      const second = yield* Dashboard.make()
      assert.notStrictEqual(first.url, second.url)
    }).pipe(Effect.scoped, Effect.provide(Snapshot.layer)))

  it.live("makes no spans of those who look", () =>
    Effect.gen(function*() {
      const names: Array<string> = []
      const tracer = Tracer.make({
        span: (options) => {
          names.push(options.name)
          return new Tracer.NativeSpan(options)
        }
      })
      const { url } = yield* Effect.provideService(Dashboard.make({ port: 0 }), Tracer.Tracer, tracer)
      for (const path of ["", "holdfast/snapshot", "nothing"]) {
        yield* Effect.promise(() => fetch(`${url}${path}`).then((response) => response.text()))
      }
      assert.deepStrictEqual(names, [])
    }).pipe(Effect.scoped, Effect.provide(Snapshot.layer)))

  it.effect("refuses options that make no sense", () =>
    Effect.gen(function*() {
      const of = (options: Dashboard.DashboardOptions) =>
        Effect.map(Effect.exit(Effect.scoped(Dashboard.make(options))), String)
      assert.include(yield* of({ port: 65_536 }), "Dashboard.make: port must be an integer in [0, 65535], got 65536")
      assert.include(yield* of({ host: "" }), "Dashboard.make: host must be an address")
      assert.include(yield* of({ interval: "16 seconds" }), "interval must be at most 15 seconds")
    }).pipe(Effect.provide(Snapshot.layer)))
})

describe("SnapshotHttp", () => {
  test(
    "answers the snapshot as JSON that its schema decodes",
    Effect.gen(function*() {
      const response = yield* get("holdfast/snapshot")
      assert.deepStrictEqual(
        [response.headers["content-type"], response.headers["cache-control"]],
        ["application/json", "no-store"]
      )
      const { parts } = yield* Effect.flatMap(response.json, Schema.decodeUnknownEffect(Snapshot.Taken))
      assert.deepStrictEqual(parts.map(({ name }) => name), ["demo"])
    })
  )

  test(
    "streams a snapshot at once, events as they happen, and snapshots again; a reader that goes leaves nothing",
    Effect.gen(function*() {
      const { note } = yield* Snapshot.Snapshot
      let noted = false
      const read = yield* events().pipe(
        Stream.tap(() => {
          if (noted) return Effect.void
          noted = true
          return note("servers", "server-1", "two\nlines", "bad")
        }),
        Stream.take(4),
        Stream.runCollect
      )
      assert.deepStrictEqual(read.map(({ event }) => event), ["snapshot", "event", "snapshot", "snapshot"])
      const first = yield* Schema.decodeUnknownEffect(Snapshot.Taken)(JSON.parse(read[0]!.data))
      assert.strictEqual(first.watchers, 1)
      const event = yield* Schema.decodeUnknownEffect(Snapshot.Event)(JSON.parse(read[1]!.data))
      assert.deepStrictEqual([event.about, event.text, event.tone], ["server-1", "two\nlines", "bad"])
      yield* watchers(0)
    }),
    { interval: "20 millis" }
  )

  test(
    "tells a reader that does not read how many events it has lost, and keeps no more than a few for it",
    Effect.gen(function*() {
      const { note } = yield* Snapshot.Snapshot
      const socket = yield* Effect.acquireRelease(
        Effect.flatMap(url(), (url) =>
          Effect.callback<Net.Socket>((resume) => {
            const socket = Net.connect(Number(new URL(url).port), "127.0.0.1", () => {
              socket.write("GET /holdfast/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
              socket.pause()
              resume(Effect.succeed(socket))
            })
          })),
        (socket) => Effect.sync(() => socket.destroy())
      )
      yield* watchers(1)
      const text = "x".repeat(10_000)
      // More than what the sockets of both sides take.
      for (let i = 0; i < 2000; i++) {
        yield* note("demo", "flood", text)
        if (i % 100 === 0) yield* Effect.sleep(0)
      }
      const lost = yield* Effect.callback<number>((resume) => {
        let read = ""
        socket.on("data", (chunk) => {
          read = read.slice(-100) + chunk.toString("latin1")
          const [, count] = /event: lost\ndata: \{"count":(\d+)\}/.exec(read) ?? []
          if (count !== undefined) resume(Effect.succeed(Number(count)))
        })
        socket.resume()
      })
      assert.isTrue(lost > 0 && lost < 2000)
    })
  )

  it.live("tells of the last failed calls what was decided on their way, and of no others", () =>
    Effect.gen(function*() {
      const { url } = yield* Dashboard.Dashboard
      const calls = Effect.promise(() =>
        fetch(`${url}holdfast/calls`).then((response) => response.json())
      ) as Effect.Effect<
        ReadonlyArray<{ readonly endedAt: string; readonly traceId: string | null; readonly text: string }>
      >
      assert.deepStrictEqual(yield* calls, [])
      const buy = (...steps: ReadonlyArray<Step>) =>
        Effect.gen(function*() {
          const client = yield* ClientTest.make(Shop, handlers, { policy: { retry: false } })
          yield* Effect.exit(client.Shop.Buy({ steps }))
        }).pipe(Effect.scoped)
      yield* Effect.forEach(["ok", "soldOut"] as const, (step) => buy(step))
      yield* Effect.replicateEffect(buy("overloaded"), 21)
      const failed = yield* calls
      assert.lengthOf(failed, 20)
      const [{ endedAt, text, traceId }] = failed as [(typeof failed)[number]]
      assert.match(
        text,
        /^Shop\.Buy: failed in \S+ m?s after 1 attempt.*: Overloaded\n +\S+ m?s {2}attempt 1 -> \S+ Overloaded in /
      )
      assert.notInclude(text, "queue")
      assert.deepStrictEqual([traceId, Number.isNaN(Date.parse(endedAt))], [null, false])
    }).pipe(
      Effect.provide(
        Layer.merge(Dashboard.layer({ port: 0 }), Observe.layer(Snapshot.make(), Explain.receiver)).pipe(
          Layer.provide([Snapshot.layer, Explain.layer()])
        )
      )
    ))

  test(
    "has nothing to tell of calls where nobody keeps their logs",
    Effect.gen(function*() {
      assert.strictEqual(yield* Effect.flatMap(get("holdfast/calls"), (response) => response.text), "null")
    })
  )

  it.live("answers 503 beyond the readers it takes, and takes another when one has gone", () =>
    Effect.gen(function*() {
      const client = yield* HttpClient.HttpClient
      const first = Stream.unwrap(Effect.map(client.get("/holdfast/events"), (response) => response.stream))
      yield* Effect.scoped(Effect.gen(function*() {
        yield* Effect.forkScoped(Stream.runDrain(first))
        yield* watchers(1)
        assert.strictEqual((yield* client.get("/holdfast/events")).status, 503)
      }))
      yield* watchers(0)
      const again = yield* client.get("/holdfast/events")
      assert.strictEqual(again.status, 200)
      yield* Stream.runDrain(Stream.take(again.stream, 1))
    }).pipe(
      Effect.provide(
        HttpRouter.serve(SnapshotHttp.layer({ maxWatchers: 1 }), { disableLogger: true, disableListenLog: true }).pipe(
          Layer.provideMerge(NodeHttpServer.layerTest),
          Layer.provideMerge(Snapshot.layer)
        )
      )
    ))

  it.live("ends its streams when the server does, without waiting for their readers", () =>
    Effect.gen(function*() {
      const ended = yield* Deferred.make<void>()
      yield* Effect.provide(
        Effect.gen(function*() {
          yield* Effect.forkDetach(Effect.ensuring(Stream.runDrain(events()), Deferred.succeed(ended, undefined)))
          yield* watchers(1)
        }),
        served()
      )
      yield* Deferred.await(ended)
    }))
})
