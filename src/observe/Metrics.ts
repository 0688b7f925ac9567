/**
 * Calls, attempts, policies, connections and servers as figures: counters,
 * gauges and histograms in Effect's own metric registry.
 *
 * Whatever reads that registry shows them: `layerHttp` or Effect's
 * `PrometheusMetrics` to a Prometheus that scrapes, Effect's `Otlp` layers or the
 * OpenTelemetry SDK to a collector. Nothing is exported by itself, and nothing is
 * kept per call. Gauges of policies are read when somebody reads the registry:
 * on each scrape, before each export.
 *
 * Labels are bounded by construction: methods come from contracts, endpoints
 * from discovery, reasons and states are closed sets, and the key in the name of
 * a keyed breaker's circuit is cut off. Should names multiply all the same, those
 * beyond `maxNames` count as `other`. The series of an endpoint and of its
 * policies go with it.
 *
 * Series belong to the metric registry: two `make`s in one process add up. The
 * list of all of them is `list`, and `docs/observability.md` explains each.
 */
import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import type * as HttpRouter from "effect/http/HttpRouter"
import * as Layer from "effect/Layer"
import type * as PrometheusMetrics from "effect/observability/PrometheusMetrics"
import type * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import type * as CallEvent from "../contract/CallEvent.ts"
import * as Options from "../contract/Options.ts"
import * as Timer from "../contract/Timer.ts"
import * as MetricCalls from "./internal/metricCalls.ts"
import { list as all } from "./internal/metricList.ts"
import * as MetricPolicies from "./internal/metricPolicies.ts"
import { type Definition, Family, Store, type Value } from "./internal/metricSeries.ts"
import type { Observer } from "./Observe.ts"

/** Every metric: its name, kind, unit, labels, description and, of a histogram, its upper bounds. */
export const list: Readonly<Record<keyof typeof all, Definition>> = all
export type { Definition }

export interface MetricsOptions {
  /**
   * Names of one kind that are kept apart, each of methods, endpoints, policies
   * and targets: an integer `>= 1`. Default 1,000; further ones count as `other`.
   */
  readonly maxNames?: number | undefined
}

/**
 * Counts, for `Observe.layer`. What it has counted stays in the metric registry
 * when the scope closes, so that the last export has it.
 *
 * Dies with a `RangeError` when an option is out of range.
 */
export const make = (options: MetricsOptions = {}): Effect.Effect<Observer> =>
  Effect.contextWith((context: Context.Context<never>) => {
    const cap = Options.integer("Metrics.make", "maxNames", options.maxNames ?? 1000, 1)
    return Effect.succeed(observer(new Store(context), cap))
  })

const reasons: ReadonlySet<string> = new Set(CallError.Reason.members.map(({ fields }) => fields._tag.schema.literal))
const states: ReadonlySet<string> = new Set(MetricPolicies.circuitStates)
const oneOf = (known: ReadonlySet<string>, value: string): string => known.has(value) ? value : "other"

/** What moves a limit, as its `why` begins. */
const causes = [
  "room",
  "queueing",
  "overload",
  "throughput falls",
  "latency grows",
  "more than is used",
  "resized",
  "changed"
]
const causeOf = (why: string): string =>
  causes.find((cause) => why.startsWith(cause)) ?? (why.includes("probes succeeded") ? "recovering" : "other")

/** What every call has. */
type Common = "CallStarted" | "AttemptStarted" | "AttemptEnded" | "CallEnded"

/** What is done about each other event: all of them, or it does not compile. */
type Handlers = {
  readonly [Tag in Exclude<CallEvent.CallEvent["_tag"], Common>]: (
    event: Extract<CallEvent.CallEvent, { readonly _tag: Tag }>
  ) => void
}

const observer = (store: Store, cap: number): Observer => {
  const family = <D extends Definition>(definition: D) => new Family(store, definition, cap)
  const calls = new MetricCalls.Calls(store, cap)
  const handling = new Handling(store, cap)
  const sessions = { client: new Sessions(store, "client"), server: new Sessions(store, "server") }
  const ofPolicies = {
    retryDelay: family(all.retryDelay),
    hedges: family(all.hedges),
    rejections: family(all.rejections),
    substitutions: family(all.substitutions),
    opened: family(all.breakerOpened),
    transitions: family(all.transitions),
    limitMoves: family(all.limitMoves),
    queueWait: family(all.queueWait),
    budgetMoves: family(all.budgetMoves),
    reloads: family(all.reloads),
    warnings: family(all.warnings)
  }
  const { budgetMoves, hedges, limitMoves, opened, queueWait, rejections, reloads, retryDelay } = ofPolicies
  const repicks = family(all.repicks)
  const endpoints = family(all.endpoints)
  const ejected = family(all.endpointsEjected)
  const endpointChanges = family(all.endpointChanges)
  const outside = new Set<string>()
  const refused = family(all.serverRefused)

  const handlers: Handlers = {
    RetryScheduled: ({ delayMillis, policy }) =>
      retryDelay.of(MetricPolicies.withoutKey(policy)).record(delayMillis / 1000),
    HedgeStarted: ({ policy }) => {
      hedges.of(MetricPolicies.withoutKey(policy)).value++
    },
    Rejected: ({ policy, reason }) => {
      rejections.of(MetricPolicies.withoutKey(policy), oneOf(reasons, reason)).value++
    },
    QueueLeft: ({ how, policy, waitedMillis }) =>
      queueWait.of(MetricPolicies.withoutKey(policy), how).record(waitedMillis / 1000),
    Repicked: ({ target }) => {
      repicks.of(target).value++
    },
    Transition: ({ from, policy, to }) => {
      const name = MetricPolicies.withoutKey(policy)
      ofPolicies.transitions.of(name, oneOf(states, from), oneOf(states, to)).value++
      if (to === "Open") opened.of(name).value++
    },
    LimitMoved: ({ from, policy, to, why }) => {
      limitMoves.of(MetricPolicies.withoutKey(policy), to > from ? "up" : "down", causeOf(why)).value++
    },
    BudgetMoved: ({ change, policy }) => {
      budgetMoves.of(MetricPolicies.withoutKey(policy), change).value++
    },
    Substituted: ({ how, policy }) => {
      ofPolicies.substitutions.of(MetricPolicies.withoutKey(policy), how).value++
    },
    Reloaded: ({ accepted, policy }) => {
      reloads.of(MetricPolicies.withoutKey(policy), accepted ? "accepted" : "refused").value++
    },
    Warning: ({ policy }) => {
      ofPolicies.warnings.of(MetricPolicies.withoutKey(policy)).value++
    },
    EndpointChanged: ({ change, endpoint, target }) => {
      endpointChanges.of(target, change).value++
      const one = `${target} ${endpoint}`
      if (change === "ejected") outside.add(one)
      const wasOutside = change !== "ejected" && outside.delete(one)
      ejected.of(target).value += change === "ejected" ? 1 : wasOutside ? -1 : 0
      if (change !== "added" && change !== "removed") return
      endpoints.of(target).value += change === "added" ? 1 : -1
      calls.changed(endpoint, change === "added")
    },
    SessionChanged: ({ change, side, stats }) => sessions[side].changed(change, stats),
    RequestRefused: ({ reason }) => {
      refused.of(reason).value++
    }
  }
  return {
    event: (event) => {
      // Those that every call has go first: a look-up in the table costs as much as what is done about them.
      switch (event._tag) {
        case "CallStarted":
          return calls.started(event)
        case "AttemptStarted":
          return calls.attemptStarted(event)
        case "AttemptEnded":
          return calls.attemptEnded(event)
        case "CallEnded":
          return calls.ended(event)
        default:
          return handlers[event._tag](event as never)
      }
    },
    aroundHandler: (self, call) => handling.around(self, call),
    policies: MetricPolicies.make(store, cap, (name) => {
      for (const family of Object.values(ofPolicies)) family.drop(name)
    })
  }
}

/** The connections of one side. The bytes of those that are open are asked for when somebody looks. */
class Sessions {
  private readonly open: Value
  private readonly opened: Value
  private readonly live = new Set<() => CallEvent.SessionStats>()
  /** What the closed ones came to, and what each figure adds to it. */
  private readonly figures: ReadonlyArray<readonly [series: Value, of: (stats: CallEvent.SessionStats) => number]>

  constructor(store: Store, side: CallEvent.SessionChanged["side"]) {
    this.open = store.take(all.sessions, [side])
    this.opened = store.take(all.sessionsOpened, [side])
    this.figures = [
      [store.take(all.wireBytes, [side, "read"]), ({ bytesRead }) => bytesRead],
      [store.take(all.wireBytes, [side, "written"]), ({ bytesWritten }) => bytesWritten]
    ]
    if (side === "server") {
      this.figures = [...this.figures, [store.take(all.serverRefused, ["overloaded"]), (stats) => stats.refused]]
    }
    for (const [series, of] of this.figures) {
      series.sources.add(() => {
        let sum = 0
        for (const stats of this.live) sum += of(stats())
        return sum
      })
    }
  }

  changed(change: CallEvent.SessionChanged["change"], stats: CallEvent.SessionChanged["stats"]): void {
    if (change === "opened") {
      this.open.value++
      this.opened.value++
      this.live.add(stats)
    } else if (this.live.delete(stats)) {
      this.open.value--
      const last = stats()
      for (const [series, of] of this.figures) series.value += of(last)
    }
  }
}

/** The handlers of a server. */
class Handling {
  private readonly inFlight: Family<typeof all.serverInFlight>
  private readonly durations: Family<typeof all.serverDuration>

  constructor(store: Store, cap: number) {
    this.inFlight = new Family(store, all.serverInFlight, cap)
    this.durations = new Family(store, all.serverDuration, cap)
  }

  around<A, E, R>(self: Effect.Effect<A, E, R>, call: CallContext.CallContext): Effect.Effect<A, E, R> {
    let begun: { readonly at: number; readonly inFlight: Value } | undefined
    return Effect.onExitPrimitive(
      // Counted in the step after the end is in place: between two steps a fiber may be interrupted.
      Effect.withFiber((fiber) => {
        begun = { at: Timer.now(fiber), inFlight: this.inFlight.of(call.name) }
        begun.inFlight.value++
        return self
      }),
      (exit) => {
        if (begun === undefined) return undefined
        begun.inFlight.value--
        const at = Timer.now(Fiber.getCurrent()!)
        this.durations.of(call.name, failureOf(exit)).record((at - begun.at) / 1000)
        return undefined
      }
    )
  }
}

/** The `error.type` of a handler's exit, `""` for an answer: an error of the contract, or what it refused by itself. */
const failureOf = (exit: Exit.Exit<unknown, unknown>): string => {
  if (Exit.isSuccess(exit)) return ""
  const [reason] = exit.cause.reasons
  if (reason !== undefined && Cause.isFailReason(reason)) return "Domain"
  const refused = reason !== undefined && Cause.isDieReason(reason) && reason.defect instanceof CallError.Refused
  return refused ? (reason.defect as CallError.Refused).reason._tag : "_OTHER"
}

// Prometheus --------------------------------------------------------------------------------------

const seconds = new Set(
  Object.values(list).filter(({ name, unit }) => unit === "s" && name.includes(".")).map(({ name }) => name)
)

/** A metric's name for Prometheus: OpenTelemetry's own get the unit that is in them there. Others stay as they are. */
export const prometheusName = (name: string): string => seconds.has(name) ? `${name}.seconds` : name

/**
 * `GET /metrics` for a Prometheus that scrapes, with every metric of the
 * application: a route for whichever router the application serves.
 *
 * ```ts
 * const scraped = HttpRouter.serve(Metrics.layerHttp()).pipe(
 *   Layer.provide(NodeHttpServer.layer(createServer, { port: 9464 }))
 * )
 * ```
 */
export const layerHttp = (
  options: PrometheusMetrics.HttpOptions = {}
): Layer.Layer<never, never, HttpRouter.HttpRouter> =>
  Layer.unwrap(Effect.map(prometheus, (metrics) => metrics.layerHttp({ metricNameMapper: prometheusName, ...options })))

/** Loaded by who serves it: it brings all of Effect's HTTP server, half of what `import "holdfast"` took. */
const prometheus = Effect.promise(() => import("effect/observability/PrometheusMetrics"))
