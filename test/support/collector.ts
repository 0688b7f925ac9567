/** A collector: a real HTTP server that takes OTLP and decodes it with the official definitions. */
import { Effect } from "effect"
import * as Http from "node:http"
import type { AddressInfo } from "node:net"
import definitions from "otlp-definitions/build/src/generated/root.js"

type Value = {
  readonly stringValue?: string
  readonly boolValue?: boolean
  readonly intValue?: unknown
  readonly doubleValue?: number
}
interface KeyValue {
  readonly key: string
  readonly value: Value
}
/** As both forms have it: ids are hex in JSON and bytes in protobuf. */
interface Encoded {
  readonly resourceSpans: ReadonlyArray<{
    readonly resource: { readonly attributes: ReadonlyArray<KeyValue> }
    readonly scopeSpans: ReadonlyArray<{
      readonly spans: ReadonlyArray<{
        readonly name: string
        readonly kind: number
        readonly traceId: string | Uint8Array
        readonly traceState?: string
        readonly spanId: string | Uint8Array
        readonly parentSpanId?: string | Uint8Array
        readonly startTimeUnixNano: unknown
        readonly endTimeUnixNano: unknown
        readonly status?: { readonly code?: number; readonly message?: string }
        readonly attributes: ReadonlyArray<KeyValue>
        readonly events: ReadonlyArray<{ readonly name: string; readonly attributes: ReadonlyArray<KeyValue> }>
      }>
    }>
  }>
}

/** A span that arrived. */
export interface Collected {
  readonly service: unknown
  readonly name: string
  /** 2 is a server's, 3 a client's. */
  readonly kind: number
  readonly traceId: string
  readonly traceState: string
  readonly spanId: string
  readonly parentSpanId: string
  readonly startNanos: bigint
  readonly endNanos: bigint
  /** 1 is OK, 2 an error. */
  readonly status: number
  readonly attributes: Readonly<Record<string, unknown>>
  readonly events: ReadonlyArray<{ readonly name: string; readonly attributes: Readonly<Record<string, unknown>> }>
}

const request = (definitions as unknown as {
  readonly opentelemetry: {
    readonly proto: {
      readonly collector: {
        readonly trace: {
          readonly v1: { readonly ExportTraceServiceRequest: { readonly decode: (body: Buffer) => Encoded } }
        }
      }
    }
  }
}).opentelemetry.proto.collector.trace.v1.ExportTraceServiceRequest

/** Of what is not set protobuf makes `null`. */
type Unset = undefined | null

const hex = (id: string | Uint8Array | Unset): string =>
  id === undefined || id === null ? "" : typeof id === "string" ? id : Buffer.from(id).toString("hex")

const valueOf = ({ boolValue, doubleValue, intValue, stringValue }: Value): unknown => {
  if (stringValue !== undefined && stringValue !== null) return stringValue
  if (boolValue !== undefined && boolValue !== null) return boolValue
  return doubleValue ?? Number(intValue)
}

const record = (attributes: ReadonlyArray<KeyValue>): Readonly<Record<string, unknown>> =>
  Object.fromEntries(attributes.map(({ key, value }) => [key, valueOf(value)]))

const collected = ({ resourceSpans }: Encoded): ReadonlyArray<Collected> =>
  resourceSpans.flatMap(({ resource, scopeSpans }) =>
    scopeSpans.flatMap(({ spans }) => spans).map((span) => ({
      service: record(resource.attributes)["service.name"],
      name: span.name,
      kind: span.kind,
      traceId: hex(span.traceId),
      traceState: span.traceState ?? "",
      spanId: hex(span.spanId),
      parentSpanId: hex(span.parentSpanId),
      startNanos: BigInt(String(span.startTimeUnixNano)),
      endNanos: BigInt(String(span.endTimeUnixNano)),
      status: span.status?.code ?? 0,
      attributes: record(span.attributes),
      events: span.events.map(({ attributes, name }) => ({ name, attributes: record(attributes) }))
    }))
  )

/** Listens until the scope closes. */
export const collector = Effect.acquireRelease(
  Effect.callback<{
    readonly url: string
    readonly spans: Array<Collected>
    readonly contentTypes: Set<string>
    readonly close: () => Promise<void>
  }>((resume) => {
    const spans: Array<Collected> = []
    const contentTypes = new Set<string>()
    const server = Http.createServer((message, response) => {
      const chunks: Array<Buffer> = []
      message.on("data", (chunk: Buffer) => chunks.push(chunk))
      message.on("end", () => {
        const body = Buffer.concat(chunks)
        const contentType = message.headers["content-type"] ?? ""
        if (message.url === "/v1/traces") {
          contentTypes.add(contentType)
          const isJson = contentType.startsWith("application/json")
          spans.push(...collected(isJson ? JSON.parse(body.toString()) as Encoded : request.decode(body)))
        }
        response.writeHead(200, { "content-type": contentType }).end()
      })
    })
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as AddressInfo
      const close = () =>
        new Promise<void>((done) => {
          server.close(() => done())
          server.closeAllConnections()
        })
      resume(Effect.succeed({ url: `http://127.0.0.1:${port}`, spans, contentTypes, close }))
    })
  }),
  ({ close }) => Effect.promise(close)
)
