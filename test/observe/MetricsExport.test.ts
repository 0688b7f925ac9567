/** Metrics as others see them: Prometheus's own tools, a Prometheus that scrapes, and a collector's OTLP endpoint. */
import * as NodeSdk from "@effect/opentelemetry/NodeSdk"
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { assert, describe, it } from "@effect/vitest"
import {
  AggregationTemporality,
  type Histogram,
  InMemoryMetricExporter,
  PeriodicExportingMetricReader
} from "@opentelemetry/sdk-metrics"
import * as Effect from "effect/Effect"
import * as HttpClient from "effect/http/HttpClient"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServer from "effect/http/HttpServer"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Otlp from "effect/observability/Otlp"
import * as OtlpExporter from "effect/observability/OtlpExporter"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Http from "node:http"
import * as Net from "node:net"
import * as Os from "node:os"
import * as Path from "node:path"
import * as Discovery from "../../src/balancer/Discovery.ts"
import * as Client from "../../src/client/Client.ts"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Contract from "../../src/contract/Contract.ts"
import * as Metrics from "../../src/observe/Metrics.ts"
import * as Observe from "../../src/observe/Observe.ts"
import * as Bulkhead from "../../src/policy/Bulkhead.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as Server from "../../src/server/Server.ts"
import * as Tcp from "../../src/transport/Tcp.ts"

class Missing extends Schema.TaggedError<Missing>()("Missing", { id: Schema.Int }) {}

class Users extends RpcGroup.make(
  Rpc.make("Get", { payload: { id: Schema.Int }, success: Schema.String, error: Missing })
    .annotate(Contract.Idempotent, true)
).prefix("Users.") {}

const handlers = Users.toLayer({
  "Users.Get": ({ id }) =>
    id === 404
      ? Effect.fail(new Missing({ id }))
      : id === 503
      ? Server.refuse({ _tag: "Unavailable", target: "users", detail: "starting", sent: "no" })
      : Effect.succeed(`user ${id}`)
})

/** Its own registry, and what counts into it. */
const counted = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  self.pipe(
    Effect.provide(Observe.layer(Metrics.make())),
    Effect.provideService(Metric.MetricRegistry, new Map()),
    Effect.scoped
  )

/** Calls over TCP: three that are answered, one that the contract refuses, and failures until the circuit is open. */
const traffic = Effect.gen(function*() {
  const server = yield* Server.make(Users, { listen: "tcp://127.0.0.1:0", drainGrace: 0 })
  const client = yield* Client.make(Users, {
    target: "users",
    policy: { circuitBreaker: { consecutiveFailures: 3 }, bulkhead: { limit: 5 }, retry: false }
  }).pipe(Effect.provide(Discovery.layerStatic({ users: [server.address] })))
  for (const id of [1, 2, 3, 404, 503, 503, 503, 503]) yield* Effect.exit(client.Users.Get({ id }))
  return server.address
}).pipe(Effect.provide(Layer.merge(Tcp.layer(), handlers)))

const served = HttpRouter.serve(Metrics.layerHttp(), { disableListenLog: true, disableLogger: true }).pipe(
  Layer.provideMerge(NodeHttpServer.layer(Http.createServer, { port: 0, host: "127.0.0.1" }))
)

/** Where the metrics of this fiber's registry are served, for the life of the scope. */
const endpoint = Effect.gen(function*() {
  const context = yield* Layer.build(served)
  const { address } = yield* Effect.provide(HttpServer.HttpServer, context)
  assert(address._tag === "InetAddressV4")
  return { port: address.port, text: textOf(`http://127.0.0.1:${address.port}/metrics`) }
})

const textOf = (url: string) =>
  Effect.flatMap(HttpClient.get(url), (response) => response.text).pipe(Effect.provide(NodeHttpClient.layerNodeHttp))

const has = (program: string) => spawnSync(program, ["--version"]).status === 0
const present = has("promtool") && has("prometheus")
const withPrometheus = present ? it.live : it.live.skip
if (!present) {
  console.log("skipped: Prometheus checks, for want of promtool and prometheus (Debian's package prometheus)")
}

const dashboards = Path.join(import.meta.dirname, "../../dashboards")
const promtool = (args: ReadonlyArray<string>, input?: string) =>
  execFileSync("promtool", args, { input: input ?? "", encoding: "utf8", cwd: dashboards, stdio: "pipe" })

const temporary = Effect.acquireRelease(
  Effect.sync(() => Fs.mkdtempSync(Path.join(Os.tmpdir(), "holdfast-prometheus-"))),
  (folder) => Effect.sync(() => Fs.rmSync(folder, { recursive: true, force: true }))
)

const freePort = Effect.callback<number>((resume) => {
  const server = Net.createServer().listen(0, "127.0.0.1", () => {
    const { port } = server.address() as Net.AddressInfo
    server.close(() => resume(Effect.succeed(port)))
  })
})

const ended = (child: ChildProcess) =>
  Effect.callback<void>((resume) => {
    if (child.exitCode !== null || child.signalCode !== null) return resume(Effect.void)
    child.once("exit", () => resume(Effect.void))
    child.kill()
  })

/** A Prometheus that scrapes a port five times a second; its address, once it is ready. */
const prometheus = Effect.fnUntraced(function*(target: number) {
  const folder = yield* temporary
  const port = yield* freePort
  const config = Path.join(folder, "prometheus.yml")
  Fs.writeFileSync(
    config,
    `global: { scrape_interval: 200ms, evaluation_interval: 200ms }
rule_files: [${JSON.stringify(Path.join(dashboards, "alerts.yml"))}]
scrape_configs: [{ job_name: app, static_configs: [{ targets: ["127.0.0.1:${target}"] }] }]
`
  )
  const child = yield* Effect.acquireRelease(
    Effect.sync(() =>
      spawn("prometheus", [
        `--config.file=${config}`,
        `--storage.tsdb.path=${folder}/data`,
        `--web.listen-address=127.0.0.1:${port}`
      ])
    ),
    ended
  )
  yield* Effect.callback<void>((resume) => {
    let log = ""
    child.stderr.on("data", (chunk: Buffer) => {
      log += chunk.toString()
      if (log.includes("Server is ready to receive web requests")) resume(Effect.void)
    })
    child.once("exit", () => resume(Effect.die(new Error(log))))
  })
  return `http://127.0.0.1:${port}`
})

/** The series of a query, when there are any. */
const query = (server: string, promql: string) =>
  textOf(`${server}/api/v1/query?query=${encodeURIComponent(promql)}`).pipe(
    Effect.flatMap((text) => {
      const { data } = JSON.parse(text) as {
        data: { result: ReadonlyArray<{ metric: Record<string, string>; value: [number, string] }> }
      }
      const series = data.result.map(({ metric, value }) => [metric, Number(value[1])] as const)
      return series.length > 0 ? Effect.succeed(series) : Effect.fail(`nothing for ${promql}`)
    }),
    Effect.retry({ schedule: Schedule.spaced("50 millis"), times: 200 })
  )

describe("Metrics, for Prometheus", () => {
  it.live("serves what calls, policies, connections and servers did", () =>
    counted(Effect.gen(function*() {
      const address = yield* traffic
      const { text } = yield* endpoint
      const scraped = yield* text
      const figures = Object.fromEntries(scraped.split("\n").map((line) => line.split(/ (?=[^ ]+$)/)))
      const policy = `policy="users@${address}"`
      const expected = {
        "holdfast_calls_total{method=\"Users.Get\",result=\"success\"}": "4",
        "holdfast_calls_total{method=\"Users.Get\",result=\"failure\"}": "4",
        "holdfast_calls_in_flight{method=\"Users.Get\"}": "0",
        "rpc_client_call_duration_seconds_count{rpc_system_name=\"holdfast\",rpc_method=\"Users.Get\"}": "3",
        [`holdfast_attempt_duration_seconds_count{endpoint="${address}",result="failure"}`]: "3",
        [`circuit_breaker_state{${policy},state="Open"}`]: "1",
        [`circuit_breaker_open_total{${policy}}`]: "1",
        [`circuit_breaker_calls_failed_total{${policy}}`]: "3",
        [`holdfast_rejections_total{${policy},reason="CircuitOpen"}`]: "1",
        [`holdfast_limit{${policy},kind="bulkhead"}`]: "5",
        "holdfast_endpoints{target=\"users\"}": "1",
        "holdfast_sessions{side=\"server\"}": "1",
        "rpc_server_call_duration_seconds_count{rpc_system_name=\"holdfast\",rpc_method=\"Users.Get\"}": "3",
        "rpc_server_call_duration_seconds_count{rpc_system_name=\"holdfast\",rpc_method=\"Users.Get\",error_type=\"Domain\"}":
          "1",
        "rpc_server_call_duration_seconds_count{rpc_system_name=\"holdfast\",rpc_method=\"Users.Get\",error_type=\"Unavailable\"}":
          "3",
        "holdfast_server_requests_in_flight{method=\"Users.Get\"}": "0"
      }
      assert.deepStrictEqual(Object.fromEntries(Object.keys(expected).map((key) => [key, figures[key]])), expected)
      const bytes = (side: string, direction: string) =>
        Number(figures[`holdfast_wire_bytes_total{side="${side}",direction="${direction}"}`])
      assert.isAbove(bytes("client", "written"), 100)
      assert.strictEqual(bytes("client", "written"), bytes("server", "read"))
      assert.strictEqual(bytes("client", "read"), bytes("server", "written"))
      assert.include(scraped, "\n# HELP circuit_breaker_open_total Times a circuit opened\n")
      assert.include(scraped, "\n# TYPE circuit_breaker_open_total counter\n")
    })))

  it.live("leaves nothing of an endpoint and its policies when the client is closed", () =>
    counted(Effect.gen(function*() {
      const address = yield* Effect.scoped(traffic)
      const { text } = yield* endpoint
      assert.notInclude(yield* text, `users@${address}`)
    })))

  withPrometheus("passes promtool's checks, with every metric there", () =>
    counted(Effect.gen(function*() {
      const { text } = yield* endpoint
      yield* everything
      const scraped = yield* text
      const named = [...scraped.matchAll(/^# TYPE (\S+)/gm)].map((match) => match[1]!)
      assert.deepStrictEqual(
        named.toSorted(),
        Object.values(Metrics.list).map(({ name }) => nameOf(name)).toSorted()
      )
      assert.strictEqual(promtool(["check", "metrics"], scraped), "")
    })), 20_000)

  withPrometheus("is scraped by a Prometheus, whose queries and alerts find it", () =>
    counted(Effect.gen(function*() {
      const { port } = yield* endpoint
      const address = yield* traffic
      const server = yield* prometheus(port)
      const one = (promql: string) => Effect.map(query(server, promql), ([series]) => series!)
      assert.deepStrictEqual((yield* one("up"))[1], 1)
      assert.strictEqual((yield* one("sum(holdfast_calls_total)"))[1], 8)
      assert.strictEqual((yield* one("sum(rpc_client_call_duration_seconds_count{error_type!=\"\"})"))[1], 5)
      const [labels, value] = yield* one("circuit_breaker_state == 1")
      assert.deepStrictEqual([labels["policy"], labels["state"], value], [`users@${address}`, "Open", 1])
      const p99 = "histogram_quantile(0.99, sum by (le) (holdfast_attempt_duration_seconds_bucket))"
      assert.isAbove((yield* one(p99))[1], 0)
      const pending = yield* one("ALERTS{alertname=\"HoldfastCircuitOpen\"}")
      assert.deepStrictEqual([pending[0]["policy"], pending[0]["alertstate"]], [`users@${address}`, "pending"])
    })), 30_000)

  withPrometheus(
    "has alerts that promtool accepts and that do in made-up outages what they say",
    () =>
      Effect.sync(() => {
        assert.include(promtool(["check", "rules", "alerts.yml"]), "SUCCESS: 13 rules found")
        const outages = promtool(["test", "rules", "alerts.test.yml", "alerts.slow.test.yml"])
        assert.strictEqual(outages.match(/SUCCESS/g)?.length, 2)
      })
  )
})

/** Something of each kind, so that no metric is missing. */
const everything = Effect.gen(function*() {
  const receiver = (yield* CallEvent.CurrentReceiver)!
  const registry = (yield* Policy.CurrentRegistry)!
  yield* traffic
  const at = { policy: "p", call: CallContext.empty, atMillis: 0, why: "" }
  const error = new CallError.CallError({ _tag: "BulkheadFull", policy: "p", limit: 1, queued: 0, sent: "no" })
  const events: ReadonlyArray<CallEvent.CallEvent> = [
    { _tag: "RetryScheduled", ...at, delayMillis: 1, retryAfterMillis: undefined, error },
    { _tag: "HedgeStarted", ...at, afterMillis: 1 },
    { _tag: "QueueLeft", ...at, how: "admitted", waitedMillis: 1 },
    { _tag: "Repicked", ...at, target: "users", endpoint: "e", error },
    { _tag: "LimitMoved", ...at, from: 1, to: 2 },
    { _tag: "BudgetMoved", ...at, change: "refused", balance: 0 },
    { _tag: "Substituted", ...at, how: "stale", ageMillis: 1 },
    { _tag: "Reloaded", ...at, accepted: true },
    { _tag: "Warning", ...at }
  ]
  for (const event of events) receiver.event(event)
  for (const kind of ["adaptiveThrottle", "cache", "hedge"] as const) {
    registry.register({ name: kind, kind, snapshot: () => ({}) })
  }
})

/** As Prometheus writes the name of a metric. */
const nameOf = (name: string) => Metrics.prometheusName(name).replaceAll(".", "_")

describe("Metrics, for OpenTelemetry", () => {
  it.live("exports to a collector over OTLP what they are when it is sent", () =>
    counted(Effect.gen(function*() {
      const bodies: Array<Export> = []
      const collector = HttpRouter.serve(
        HttpRouter.add(
          "POST",
          "/v1/*",
          Effect.gen(function*() {
            const request = yield* HttpServerRequest.HttpServerRequest
            const body = yield* Effect.orDie(request.text)
            if (request.url.endsWith("/metrics")) bodies.push(JSON.parse(body) as Export)
            return HttpServerResponse.empty()
          })
        ),
        { disableListenLog: true, disableLogger: true }
      ).pipe(Layer.provideMerge(NodeHttpServer.layer(Http.createServer, { port: 0, host: "127.0.0.1" })))
      const { address: at } = yield* Effect.provide(HttpServer.HttpServer, yield* Layer.build(collector))
      assert(at._tag === "InetAddressV4")
      const otlp = yield* Layer.build(
        Otlp.layerJson({
          baseUrl: `http://127.0.0.1:${at.port}`,
          resource: { serviceName: "test" },
          metricsExportInterval: "1 hour"
        }).pipe(Layer.provide(NodeHttpClient.layerNodeHttp))
      )
      const { flush } = yield* Effect.provide(OtlpExporter.Flusher, otlp)
      const bulkhead = yield* Bulkhead.make({ name: "db", limit: 3 })
      const address = yield* traffic
      yield* flush
      yield* bulkhead.resize(7)
      yield* flush
      const metric = (body: Export, name: string) =>
        body.resourceMetrics[0]!.scopeMetrics[0]!.metrics.find((metric) => metric.name === name)!
      const limits = bodies.map((body) => metric(body, "holdfast_limit").gauge!.dataPoints.map(pointOf))
      assert.deepStrictEqual(limits.map((points) => points.find(([labels]) => labels.includes("db"))?.[1]), [3, 7])
      const duration = metric(bodies[0]!, "rpc.client.call.duration")
      assert.deepStrictEqual([duration.unit, duration.description], ["s", Metrics.list.callDuration.description])
      const [answered] = duration.histogram!.dataPoints
      assert.strictEqual(answered!.count, 3)
      assert.strictEqual(answered!.bucketCounts.reduce((sum, count) => sum + count, 0), 3)
      assert.deepStrictEqual(answered!.explicitBounds, Metrics.list.callDuration.boundaries)
      assert.deepStrictEqual(metric(bodies[0]!, "circuit_breaker_open_total").sum!.dataPoints.map(pointOf), [
        [`users@${address}`, 1]
      ])
    })))
})

describe("Metrics, through OpenTelemetry's SDK", () => {
  it.live("are read when the SDK's reader collects them", () =>
    counted(Effect.gen(function*() {
      const exporter = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE)
      const metricReader = new PeriodicExportingMetricReader({ exporter, exportIntervalMillis: 3_600_000 })
      yield* Layer.build(NodeSdk.layer(() => ({ resource: { serviceName: "test" }, metricReader })))
      const bulkhead = yield* Bulkhead.make({ name: "db", limit: 3 })
      const address = yield* traffic
      const flush = Effect.promise(() => metricReader.forceFlush())
      yield* flush
      yield* bulkhead.resize(7)
      yield* flush
      const metric = (name: string) =>
        exporter.getMetrics().map(({ scopeMetrics }) =>
          scopeMetrics.flatMap(({ metrics }) => metrics).find(({ descriptor }) => descriptor.name === name)!
        )
      const limits = metric("holdfast_limit").map(({ dataPoints }) =>
        dataPoints.find(({ attributes }) => attributes["policy"] === "db")!.value
      )
      assert.deepStrictEqual(limits, [3, 7])
      const [duration] = metric("rpc.client.call.duration")
      assert.deepStrictEqual(duration!.descriptor.unit, "s")
      const answered = duration!.dataPoints.find(({ attributes }) => attributes["error.type"] === undefined)!
      assert.strictEqual((answered.value as Histogram).count, 3)
      assert.deepStrictEqual((answered.value as Histogram).buckets.boundaries, Metrics.list.callDuration.boundaries)
      const [opened] = metric("circuit_breaker_open_total")
      assert.deepStrictEqual(opened!.dataPoints.map(({ attributes, value }) => [attributes["policy"], value]), [
        [`users@${address}`, 1]
      ])
    })))
})

interface Point {
  readonly attributes: ReadonlyArray<{ readonly key: string; readonly value: { readonly stringValue: string } }>
  readonly asDouble: number
}

/** What of an OTLP body these tests read. */
interface Export {
  readonly resourceMetrics: ReadonlyArray<{
    readonly scopeMetrics: ReadonlyArray<{
      readonly metrics: ReadonlyArray<{
        readonly name: string
        readonly unit: string
        readonly description: string
        readonly gauge?: { readonly dataPoints: ReadonlyArray<Point> }
        readonly sum?: { readonly dataPoints: ReadonlyArray<Point> }
        readonly histogram?: {
          readonly dataPoints: ReadonlyArray<{
            readonly count: number
            readonly bucketCounts: ReadonlyArray<number>
            readonly explicitBounds: ReadonlyArray<number>
          }>
        }
      }>
    }>
  }>
}

const pointOf = ({ asDouble, attributes }: Point) =>
  [attributes.map(({ value }) => value.stringValue).join(" "), asDouble] as const

describe("dashboards", () => {
  const written = new Set(
    Object.values(Metrics.list).flatMap(({ kind, name }) =>
      kind === "histogram"
        ? ["_bucket", "_sum", "_count"].map((suffix) => nameOf(name) + suffix)
        : [nameOf(name)]
    )
  )
  const names = (text: string) =>
    new Set(
      [...text.matchAll(/(?<![\w:])(?:holdfast|circuit_breaker|rpc_(?:client|server)_call)_\w+/g)].map(([name]) => name)
    )
  const read = (file: string) => Fs.readFileSync(Path.join(dashboards, file), "utf8")
  const expressions = (value: unknown): ReadonlyArray<string> =>
    typeof value !== "object" || value === null ?
      [] :
      Object.entries(value).flatMap(([key, inner]) =>
        (key === "expr" || key === "definition") && typeof inner === "string" ? [inner] : expressions(inner)
      )

  it("use metrics that there are, and the one for people shows all of them", () => {
    const grafana = names(expressions(JSON.parse(read("grafana.json"))).join("\n"))
    const recorded = [...read("alerts.yml").matchAll(/record: (\S+)/g)].map((match) => match[1]!)
    const alerts = names(recorded.reduce((text, name) => text.replaceAll(name, ""), read("alerts.yml")))
    assert.deepStrictEqual([...grafana, ...alerts].filter((name) => !written.has(name)), [])
    assert.isAbove(alerts.size, 5)
    const unseen = Object.values(Metrics.list).filter(({ name }) =>
      ![...grafana].some((used) => used.replace(/_(bucket|sum|count)$/, "") === nameOf(name))
    )
    assert.deepStrictEqual(unseen.map(({ name }) => name), [])
  })
})
