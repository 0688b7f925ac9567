/**
 * Traces of calls, through Effect's own `Tracer`.
 *
 * ```
 * the caller's span, if any
 * └─ UserService.GetUserInfo             client   the call; what policies did, as span events
 *    ├─ UserService.GetUserInfo attempt  client   one per attempt, retry and hedge
 *    └─ UserService.GetUserInfo attempt  client
 *       └─ UserService.GetUserInfo       server   in the other process, by the trace context of the frame
 *          └─ what the handler traces
 * ```
 *
 * Where spans go is the application's choice: whatever `Tracer` is in the
 * context, `@effect/opentelemetry`'s or that of `effect/observability`. This
 * exports nothing, and loads nothing of `@opentelemetry/*`. Names follow
 * OpenTelemetry's conventions for RPC and stand in `internal/traceNames.ts`.
 *
 * Sampling. A parent decides for all beneath it. Under one that is not sampled no
 * span is made, here or at the server; its context travels on. Without a parent
 * `sampleRatio` decides first, once per call, and the tracer's own sampler may
 * still say no.
 *
 * State: which circuits are not closed, shared by all calls of the receiver, and
 * for each traced call which attempt came last.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Hex from "effect/encoding/Hex"
import type * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as LogLevel from "effect/LogLevel"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as References from "effect/References"
import * as Tracer from "effect/Tracer"
import * as CallContext from "../contract/CallContext.ts"
import type * as CallEvent from "../contract/CallEvent.ts"
import * as Deadline from "../contract/Deadline.ts"
import * as Options from "../contract/Options.ts"
import * as Timer from "../contract/Timer.ts"
import * as Address from "./internal/traceAddress.ts"
import { Circuits } from "./internal/traceCircuits.ts"
import * as Events from "./internal/traceEvents.ts"
import * as Names from "./internal/traceNames.ts"
import * as State from "./internal/traceState.ts"
import * as Status from "./internal/traceStatus.ts"

/** The spans: name, kind, what each stands for and carries. */
export const spans: ReadonlyArray<Names.SpanName> = Object.values(Names.spans)

/** Every attribute of a span or a span event, and what it says. */
export const attributes: Readonly<Record<Names.Attribute, string>> = Names.attributes

/** Every span event, when it comes and what it carries. */
export const events: Readonly<Record<Names.EventName, Names.EventAbout>> = Names.events

export interface TracingOptions {
  /**
   * The share of calls without a parent that is traced, in `[0, 1]`; of the others only the decision travels. A caller
   * that is traced, in this process or another, has its calls traced whatever this says. Default 1.
   */
  readonly sampleRatio?: number | undefined
}

type AnyFiber = Fiber.Fiber<unknown, unknown>

/** A call that is traced. */
interface TracedCall {
  readonly span: Tracer.Span
  attempts: number
  /** The span of the attempt that started last. */
  previous: string | undefined
  /** When the next attempt is due, in monotonic milliseconds; `undefined` once it has been sent. */
  dueAt: number | undefined
}

const CurrentCall = Context.Reference<TracedCall | undefined>("holdfast/observe/Tracing/CurrentCall", {
  defaultValue: () => undefined
})

/**
 * Creates the receiver that traces: pass it to `Observe.layer`.
 *
 * Dies with a `RangeError` when `sampleRatio` is out of range.
 */
export const make = (options: TracingOptions = {}): Effect.Effect<CallEvent.Receiver> =>
  Effect.sync(() => {
    const sampleRatio = Options.ratio("Tracing.make", "sampleRatio", options.sampleRatio ?? 1, true)
    return receiver(sampleRatio, new Circuits())
  })

const receiver = (sampleRatio: number, circuits: Circuits): CallEvent.Receiver => {
  /** Whether to trace what has no parent. */
  const draw = (fiber: AnyFiber): boolean =>
    sampleRatio === 1 || fiber.getRef(Random.Random).nextDoubleUnsafe() < sampleRatio

  /** Calls that are drawn already: one draw is enough. */
  const drawn = new WeakSet<CallContext.CallContext>()

  return {
    prompt: true,
    hearsCalls: false,
    leavesOut: (fiber, call) => {
      const parent = parentOf(fiber, call)
      if (parent !== undefined) return parent.sampled ? undefined : traceOf(parent)
      if (!fiber.cache.tracerEnabled) return undefined
      if (!draw(fiber)) return dropped()
      drawn.add(call)
      return undefined
    },
    event: (event) => {
      if (!Events.isTold(event)) return
      circuits.heed(event)
      const fiber = Fiber.getCurrent()
      if (fiber !== undefined) tell(fiber, event)
    },
    aroundCall: (self, call) =>
      Effect.withFiber((fiber) => {
        if (!fiber.cache.tracerEnabled) return self
        const parent = parentOf(fiber, call)
        if (parent === undefined) {
          if (drawn.has(call) || draw(fiber)) return tracedCall(fiber, self, call, undefined)
          return Effect.provideService(self, CallContext.Current, { ...call, trace: dropped() })
        }
        return parent.sampled ? tracedCall(fiber, self, call, parent) : self
      }),
    aroundAttempt: (self, call, endpoint) =>
      Effect.withFiber((fiber) => {
        const parent = parentOf(fiber, call)
        if (!fiber.cache.tracerEnabled) return self(parent && traceOf(parent))
        if (parent === undefined) {
          return draw(fiber) ? tracedAttempt(fiber, self, call, endpoint, undefined, circuits) : self(dropped())
        }
        return parent.sampled ? tracedAttempt(fiber, self, call, endpoint, parent, circuits) : self(traceOf(parent))
      }),
    aroundHandler: (self, call, peer) =>
      Effect.withFiber((fiber) => {
        if (!fiber.cache.tracerEnabled) return self
        const parent = parentOf(fiber, call)
        if (parent === undefined ? draw(fiber) : parent.sampled) return tracedHandler(fiber, self, call, peer, parent)
        // The handler's own spans and calls must find a parent that says no.
        return Effect.provideService(self, Tracer.ParentSpan, asSpan(parent ?? dropped()))
      })
  }
}

// Spans -------------------------------------------------------------------------------------------

const tracedCall = <A, E, R>(
  fiber: AnyFiber,
  self: Effect.Effect<A, E, R>,
  call: CallContext.CallContext,
  parent: CallContext.TraceContext | undefined
): Effect.Effect<A, E, R> => {
  let attempts = () => 0
  return within(fiber, () => {
    const span = start(fiber, Names.spans.call, call, parent)
    annotate(span, deadlineOf(fiber, call))
    const traced: TracedCall = { span, attempts: 0, previous: undefined, dueAt: Timer.now(fiber) }
    attempts = () => traced.attempts
    return [span, Effect.provideService(self, CurrentCall, traced)]
  }, (exit) => {
    const { attributes, exit: ended } = Status.ofClient(exit)
    return { attributes: { ...attributes, "holdfast.attempts": attempts() }, exit: ended }
  })
}

const tracedAttempt = <A, E, R>(
  fiber: AnyFiber,
  self: (trace: CallContext.TraceContext | undefined) => Effect.Effect<A, E, R>,
  call: CallContext.CallContext,
  endpoint: string | undefined,
  parent: CallContext.TraceContext | undefined,
  circuits: Circuits
): Effect.Effect<A, E, R> =>
  within(fiber, () => {
    const span = start(fiber, Names.spans.attempt, call, parent)
    annotate(span, {
      "retry.is_retry": call.attempt > 1,
      "retry.attempt": call.attempt,
      "holdfast.hedge": call.hedge
    })
    annotate(span, deadlineOf(fiber, call))
    if (endpoint !== undefined) annotate(span, placeOf(endpoint, circuits))
    const traced = fiber.getRef(CurrentCall)
    if (traced !== undefined) begin(fiber, traced, span, call)
    return [span, self(traceOf(span))]
  }, Status.ofClient)

const placeOf = (endpoint: string, circuits: Circuits): Names.Attributes => {
  const { host, port, transport } = Address.ofEndpoint(endpoint)
  return {
    "holdfast.endpoint": endpoint,
    "server.address": host,
    "server.port": port,
    "network.transport": transport,
    "holdfast.circuit_breaker.state": circuits.of(endpoint)
  }
}

/** An attempt of a traced call begins: what it repeats, and how long it waited for its turn. */
const begin = (fiber: AnyFiber, traced: TracedCall, span: Tracer.Span, call: CallContext.CallContext): void => {
  const { dueAt, previous } = traced
  traced.attempts = Math.max(traced.attempts, call.attempt)
  traced.previous = span.spanId
  traced.dueAt = undefined
  if (previous !== undefined) annotate(span, { "retry.parent_id": previous })
  if (dueAt === undefined) return
  annotate(span, { "holdfast.queued_ms": micros(Math.max(0, Timer.now(fiber) - dueAt)) })
}

const tracedHandler = <A, E, R>(
  fiber: AnyFiber,
  self: Effect.Effect<A, E, R>,
  call: CallContext.CallContext,
  peer: string,
  parent: CallContext.TraceContext | undefined
): Effect.Effect<A, E, R> =>
  within(fiber, () => {
    const span = start(fiber, Names.spans.handler, call, parent)
    const { host, port } = Address.ofPeer(peer)
    annotate(span, { "client.address": host, "client.port": port, "retry.attempt": call.attempt })
    annotate(span, deadlineOf(fiber, call))
    return [span, self]
  }, Status.ofServer)

/** Starts a span as `Effect.makeSpan` does, without the Effect around it. */
const start = (
  fiber: AnyFiber,
  { kind, name }: Names.SpanName,
  call: CallContext.CallContext,
  parent: CallContext.TraceContext | undefined
): Tracer.Span => {
  const span = (fiber.cache.tracer ?? Tracer.nativeTracer).span({
    name: name.replace(Names.method, () => call.name),
    kind,
    parent: parent === undefined ? Option.none() : Option.some(asSpan(parent)),
    annotations: Context.empty(),
    links: fiber.getRef(References.TracerSpanLinks).slice(),
    startTime: nanosOf(fiber),
    root: false,
    sampled: LogLevel.isGreaterThanOrEqualTo(
      fiber.getRef(Tracer.CurrentTraceLevel),
      fiber.getRef(Tracer.MinimumTraceLevel)
    )
  })
  for (const [key, value] of Object.entries(fiber.getRef(References.TracerSpanAnnotations))) span.attribute(key, value)
  annotate(span, { "rpc.system.name": "holdfast", "rpc.method": call.name })
  return span
}

/**
 * Runs an effect as the children of a span, and ends the span however that ends.
 * The frame stands before the span starts: between the two an interrupt would
 * leave a span that never ends.
 */
const within = <A, E, R>(
  fiber: AnyFiber,
  open: () => readonly [Tracer.Span, Effect.Effect<A, E, R>],
  end: (exit: Exit.Exit<A, E>) => Status.Ending
): Effect.Effect<A, E, R> => {
  let opened: Tracer.Span | undefined
  const running = Effect.suspend(() => {
    const [span, self] = open()
    opened = span
    return Effect.provideService(self, Tracer.ParentSpan, span) as Effect.Effect<A, E, R>
  })
  return Effect.onExitPrimitive(running, (exit) => {
    if (opened === undefined) return undefined
    const ending = end(exit)
    annotate(opened, ending.attributes)
    opened.end(nanosOf(fiber), ending.exit)
    return undefined
  })
}

const annotate = (span: Tracer.Span, attributes: Names.Attributes): void => {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined) span.attribute(name, value)
  }
}

/** Exporters write an attribute that is `undefined` too. */
const present = (attributes: Names.Attributes): Record<string, unknown> =>
  Object.fromEntries(Object.entries(attributes).filter(([, value]) => value !== undefined))

const nanosOf = (fiber: AnyFiber): bigint =>
  fiber.getRef(References.TracerTimingEnabled) ? fiber.getRef(Clock.Clock).currentTimeNanosUnsafe() : 0n

const deadlineOf = (fiber: AnyFiber, call: CallContext.CallContext): Names.Attributes =>
  call.deadline === Deadline.none ? {} : { "holdfast.deadline_ms": micros(call.deadline - Timer.now(fiber)) }

/** Milliseconds without what is below a microsecond. */
const micros = (millis: number): number => Math.round(millis * 1000) / 1000

// Parents and ids ---------------------------------------------------------------------------------

const isSpan = (parent: CallContext.TraceContext): parent is Tracer.AnySpan => "_tag" in parent

const asSpan = (parent: CallContext.TraceContext): Tracer.AnySpan => isSpan(parent) ? parent : State.parent(parent)

/** The span that surrounds a fiber, or else the one the call came with. */
const parentOf = (fiber: AnyFiber, call: CallContext.CallContext): CallContext.TraceContext | undefined =>
  propagated(fiber.cache.span) ?? call.trace

/** The nearest span that children may have: Effect marks those that are for nobody else to see. */
const propagated = (span: Tracer.AnySpan | undefined): Tracer.AnySpan | undefined => {
  let at = span
  while (at !== undefined && Context.get(at.annotations, Tracer.DisablePropagation)) {
    at = at._tag === "Span" ? Option.getOrUndefined(at.parent) : undefined
  }
  return at
}

const traceOf = (parent: CallContext.TraceContext): CallContext.TraceContext => {
  const { sampled, spanId, traceId } = parent
  const state = isSpan(parent) ? State.of(parent) : parent.state
  return state === undefined ? { traceId, spanId, sampled } : { traceId, spanId, sampled, state }
}

/** What travels of a call that our sampler left out: the decision, under ids made as Effect makes a span's. */
const dropped = (): CallContext.TraceContext => ({ traceId: Hex.random(32), spanId: Hex.random(16), sampled: false })

// Span events -------------------------------------------------------------------------------------

/** Puts an event on the call's span, or where there is none on the application's own. */
const tell = (fiber: AnyFiber, event: CallEvent.CallEvent): void => {
  const traced = fiber.getRef(CurrentCall)
  const span = traced?.span ?? fiber.cache.span
  if (span === undefined || span._tag !== "Span" || !span.sampled) return
  if (traced !== undefined) heed(traced, event)
  const told = Events.of(event)
  if (told !== undefined) span.event(told.name, nanosOf(fiber), present(told.attributes))
}

/** What an event changes of the call's span. */
const heed = (traced: TracedCall, event: CallEvent.CallEvent): void => {
  if (event._tag === "RetryScheduled") traced.dueAt = event.atMillis + event.delayMillis
  else if (event._tag === "HedgeStarted") traced.dueAt = event.atMillis
  else if (event._tag === "BudgetMoved") annotate(traced.span, { "holdfast.retry_budget.balance": event.balance })
}
