/**
 * `tracestate` between what travels and the spans of Effect and OpenTelemetry.
 *
 * OpenTelemetry's SDK keeps it as an object in a span's context, and
 * `@effect/opentelemetry` takes it from an annotation of a parent that came from
 * elsewhere. Both are known here by shape and by name, so that nothing of
 * `@opentelemetry/*` is loaded; a test compares them with the packages.
 */
import * as Context from "effect/Context"
import * as Option from "effect/Option"
import * as Tracer from "effect/Tracer"
import type { TraceContext } from "../../contract/CallContext.ts"

/** OpenTelemetry's `TraceState`: immutable, what was set last comes first. */
interface TraceState {
  readonly get: (key: string) => string | undefined
  readonly set: (key: string, value: string) => TraceState
  readonly unset: (key: string) => TraceState
  readonly serialize: () => string
}

type Members = ReadonlyArray<readonly [key: string, value: string]>

const make = (members: Members): TraceState => {
  const without = (key: string): Members => members.filter(([each]) => each !== key)
  return {
    get: (key) => members.find(([each]) => each === key)?.[1],
    set: (key, value) => make([[key, value], ...without(key)]),
    unset: (key) => make(without(key)),
    serialize: () => members.map(([key, value]) => `${key}=${value}`).join(",")
  }
}

const read = (text: string): TraceState =>
  make(
    text.split(",").map((member) => {
      const at = member.indexOf("=")
      return [member.slice(0, at), member.slice(at + 1)]
    })
  )

/** Where `@effect/opentelemetry` looks for it: the service `OtelTraceState`. */
export class Annotation
  extends Context.Service<Annotation, TraceState>()("@effect/opentelemetry/Tracer/OtelTraceState")
{}

/** A trace context as a parent of spans. */
export const parent = (trace: TraceContext): Tracer.ExternalSpan =>
  Tracer.externalSpan({
    ...trace,
    annotations: trace.state === undefined ? Context.empty() : Context.make(Annotation, read(trace.state))
  })

/** What an SDK's span says of itself. */
interface Recorded {
  readonly span?: { readonly spanContext?: () => { readonly traceState?: TraceState | undefined } }
}

/** What travels with a call made in this span: an SDK's own word, else that of the nearest parent from elsewhere. */
export const of = (span: Tracer.AnySpan): string | undefined => {
  const recorded = (span as Recorded).span?.spanContext?.()
  const state = recorded === undefined ? Context.getOrUndefined(span.annotations, Annotation) : recorded.traceState
  if (state !== undefined) return state.serialize()
  if (recorded !== undefined || span._tag === "ExternalSpan") return undefined
  const around = Option.getOrUndefined(span.parent)
  return around && of(around)
}
