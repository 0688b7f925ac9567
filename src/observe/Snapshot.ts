/**
 * The state of an application as it is now: every policy, endpoint and budget,
 * and what methods and endpoints did in the last ten seconds.
 *
 * `make` is an observer for `Observe.layer`; `layer` is the service in which it
 * puts together what it sees, and which others ask. Parts of an application that
 * should be told apart, two clients or two tenants, are observed by one each:
 * `Snapshot.make({ part: "checkout" })`.
 *
 * It keeps no history but a minute's line per series, and stores nothing: that is
 * what metrics are for. Memory is bounded: 100 methods, 100 endpoints
 * and 100 served methods per part, 20 kB each when used; what finds no room is counted as `(others)`. An
 * event costs a look-up and an addition. Payloads are never seen.
 *
 * Its HTTP routes and its page are in `holdfast/dashboard`.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as CallContext from "../contract/CallContext.ts"
import type * as CallEvent from "../contract/CallEvent.ts"
import * as Options from "../contract/Options.ts"
import * as Timer from "../contract/Timer.ts"
import type * as Policy from "../policy/Policy.ts"
import * as Events from "./internal/snapshotEvents.ts"
import * as Hub from "./internal/snapshotHub.ts"
import * as Series from "./internal/snapshotSeries.ts"
import * as State from "./internal/snapshotState.ts"
import type * as Observe from "./Observe.ts"

// The data ----------------------------------------------------------------------------------------

const orNull = <S extends Schema.Top>(schema: S) => Schema.NullOr(schema)
const number = Schema.Finite
const count = Schema.Int

/** What a method or an endpoint did: the last ten seconds, where nothing else is said. */
const figures = {
  /** Ended per second. */
  rate: number,
  /** Share of those that were answered, an answer with one of the contract's errors included; `null` of none. */
  success: orNull(number),
  /** How long they took, whatever became of them; at most 4.5 % too long. */
  p50Millis: orNull(number),
  p99Millis: orNull(number),
  inFlight: count,
  /** Ended since the first, and the failed of them. */
  total: count,
  failed: count,
  /** The last minute, a number per second that is over, oldest first. */
  history: Schema.Struct({
    ended: Schema.Array(count),
    failed: Schema.Array(count),
    p50Millis: Schema.Array(orNull(number)),
    p99Millis: Schema.Array(orNull(number))
  }),
  /** Why it failed last, the latest first, at most five, with how often since the first. */
  reasons: Schema.Array(Schema.Struct({ reason: Schema.String, count, agoMillis: number }))
}

const calls = {
  /** Attempts per call. */
  attempts: orNull(number),
  ...figures
}

/** All calls of a part. */
export const Calls = Schema.Struct(calls)
export type Calls = typeof Calls.Type

/** A method, by its calls. */
export const Method = Schema.Struct({ name: Schema.String, ...calls })
export type Method = typeof Method.Type

/** A circuit, or the worst of those that an endpoint has. */
export const Breaker = Schema.Struct({
  state: Schema.String,
  /** What moved it there. */
  why: Schema.String,
  /** Since when it is in this state. */
  forMillis: number,
  /** Since when it is not closed, whatever its states between; `null` of one that is closed. */
  notClosedForMillis: orNull(number),
  /** Until an open one admits a probe. */
  probeInMillis: orNull(number)
})
export type Breaker = typeof Breaker.Type

/** An endpoint, by the attempts sent to it. */
export const Endpoint = Schema.Struct({
  address: Schema.String,
  /** Which dependency it belongs to; `null` where no balancer knows it. */
  target: orNull(Schema.String),
  /** `open`, `closed`, or `backoff` where the last opening failed. */
  connection: orNull(Schema.String),
  breaker: orNull(Breaker),
  /** The bulkhead's or the adaptive limiter's. */
  limit: orNull(Schema.Struct({ limit: number, inFlight: count, queued: count })),
  ...figures
})
export type Endpoint = typeof Endpoint.Type

/** A retry budget. */
export const Budget = Schema.Struct({
  name: Schema.String,
  /** Tokens that could be granted. */
  balance: number,
  /** Since it was made. */
  granted: count,
  refused: count,
  refunded: count
})
export type Budget = typeof Budget.Type

/** Any policy, with what it says of itself. */
export const PolicyState = Schema.Struct({
  name: Schema.String,
  kind: Schema.String,
  /** Where it has states; of circuits by key the worst. */
  state: orNull(Schema.String),
  why: orNull(Schema.String),
  figures: Schema.Record(
    Schema.String,
    Schema.Union([Schema.String, number, Schema.Boolean, Schema.Null])
  )
})
export type PolicyState = typeof PolicyState.Type

/** What one observer sees. */
export const Part = Schema.Struct({
  name: Schema.String,
  calls: Calls,
  methods: Schema.Array(Method),
  /** What handlers did: methods of servers. */
  served: Schema.Array(Schema.Struct({ name: Schema.String, ...figures })),
  endpoints: Schema.Array(Endpoint),
  budgets: Schema.Array(Budget),
  /** Every policy but budgets, those of endpoints included. */
  policies: Schema.Array(PolicyState)
})
export type Part = typeof Part.Type

/** Everything, at one moment. */
export const Taken = Schema.Struct({
  /** The wall clock, as ISO 8601. */
  takenAt: Schema.String,
  /** The monotonic clock, on which events are dated. */
  atMillis: number,
  /** Since the service was made. */
  uptimeMillis: number,
  /** Who watches. */
  watchers: count,
  /** In the order in which they were made. */
  parts: Schema.Array(Part)
})
export type Taken = typeof Taken.Type

/** Something that happened, as a line for a person. */
export const Event = Schema.Struct({
  part: Schema.String,
  /** The tag of the `CallEvent`, or `Note`. */
  kind: Schema.String,
  /** Who it is about: a policy, an endpoint, a method. */
  about: Schema.String,
  text: Schema.String,
  tone: Schema.Literals(["good", "fair", "bad", "plain"]),
  atMillis: number
})
export type Event = typeof Event.Type

/** What a watcher gets. */
export type Update =
  | { readonly _tag: "Snapshot"; readonly snapshot: Taken }
  | { readonly _tag: "Event"; readonly event: Event }
  /** What happened before anybody watched, oldest first: the latest transitions, changes of endpoints, reloads, warnings and notes. */
  | { readonly _tag: "Earlier"; readonly events: ReadonlyArray<Event> }
  /** Events before the next one that this watcher was too slow for. */
  | { readonly _tag: "Lost"; readonly count: number }

// The service -------------------------------------------------------------------------------------

/** The service: the parts that are observed, as they are now. */
export class Snapshot extends Context.Service<Snapshot, {
  /** Everything as it is now. Reading it changes nothing. */
  readonly take: Effect.Effect<Taken>
  /**
   * A snapshot at once, what has happened before, and then snapshots whenever
   * `interval` has passed and in between what happens, as it happens. A watcher that does not read is kept the last 256
   * events and told how many are lost. Dies with a `RangeError` unless `interval`
   * is positive and finite.
   */
  readonly watch: (interval: Duration.Input) => Stream.Stream<Update>
  /** Tells the watchers of something else that matters: a deploy, a fault injected. `about` names what it is about. */
  readonly note: (part: string, about: string, text: string, tone?: Event["tone"]) => Effect.Effect<void>
  /** An observer that adds a part of this name, for the life of the scope; parts with one name are one. */
  readonly observe: (part: string) => Effect.Effect<Observe.Observer, never, Scope.Scope>
}>()("holdfast/observe/Snapshot") {}

/** The service. Provide this one layer to whatever observes and to whatever asks. */
export const layer: Layer.Layer<Snapshot> = Layer.effect(
  Snapshot,
  Effect.withFiber((fiber) => {
    const parts = new Map<string, Observed>()
    const hub = new Hub.Hub<Event>()
    const startedAt = Timer.now(fiber)
    const take = (fiber: Fiber.Fiber<unknown, unknown>): Taken => {
      const atMillis = Timer.now(fiber)
      return {
        takenAt: new Date(fiber.getRef(Clock.Clock).currentTimeMillisUnsafe()).toISOString(),
        atMillis,
        uptimeMillis: atMillis - startedAt,
        watchers: hub.size,
        parts: Array.from(parts.values(), (part) => part.take(atMillis))
      }
    }
    return Effect.succeed(Snapshot.of({
      take: Effect.withFiber((fiber) => Effect.succeed(take(fiber))),
      watch: (interval) => watch(hub, Options.millis("Snapshot.watch", "interval", interval), take),
      note: (part, about, text, tone = "plain") =>
        Effect.withFiber((fiber) => {
          hub.publish({ part, kind: "Note", about, text, tone, atMillis: Timer.now(fiber) }, true)
          return Effect.void
        }),
      observe: (name) =>
        Effect.acquireRelease(
          Effect.sync(() => {
            const part = parts.get(name) ?? new Observed(name, hub)
            parts.set(name, part)
            part.observers++
            return part
          }),
          (part) =>
            Effect.sync(() => {
              if (--part.observers === 0) parts.delete(name)
            })
        )
    }))
  })
)

export interface SnapshotOptions {
  /** What is observed, where there is more than one: a client, a tenant. Default `"application"`. */
  readonly part?: string | undefined
}

/**
 * An observer for `Observe.layer`: what is made and called under it is a part of
 * the snapshot.
 *
 * Dies with a `RangeError` when the part has no name.
 */
export const make = (
  options: SnapshotOptions = {}
): Effect.Effect<Observe.Observer, never, Snapshot | Scope.Scope> =>
  Effect.suspend(() => {
    const { part = "application" } = options
    Options.check(part !== "", "Snapshot.make", "part", "a name", part)
    return Effect.flatMap(Snapshot, (snapshot) => snapshot.observe(part))
  })

// One part ----------------------------------------------------------------------------------------

/** Series of each kind that a part keeps. */
const maxSeries = 100

class Observed implements Observe.Observer {
  observers = 0
  private readonly name: string
  private readonly hub: Hub.Hub<Event>
  private readonly registered = new Set<Policy.Registered>()
  private readonly calls = new Series.Series()
  private readonly methods = new Series.Table(maxSeries)
  private readonly endpoints = new Series.Table(maxSeries)
  private readonly served = new Series.Table(maxSeries)
  private readonly openings = new State.Openings()

  constructor(name: string, hub: Hub.Hub<Event>) {
    this.name = name
    this.hub = hub
  }

  readonly policies: Policy.Registry = {
    register: (policy) => {
      this.registered.add(policy)
      return () => {
        this.registered.delete(policy)
        this.openings.forget(policy.name)
      }
    }
  }

  readonly event = (event: CallEvent.CallEvent): void => {
    this.count(event)
    const isKept = Events.isKept(event)
    if (this.hub.size === 0 && !isKept) return
    const line = Events.of(event)
    if (line !== undefined) {
      this.hub.publish({ part: this.name, kind: event._tag, ...line, atMillis: event.atMillis }, isKept)
    }
  }

  readonly aroundHandler = <A, E, R>(
    self: Effect.Effect<A, E, R>,
    call: CallContext.CallContext
  ): Effect.Effect<A, E, R> => {
    let begun: { readonly atMillis: number; readonly fiber: Fiber.Fiber<unknown, unknown> } | undefined
    return Effect.onExitPrimitive(
      // Counted in the step after the end is in place: between two steps a fiber may be interrupted.
      Effect.withFiber((fiber) => {
        begun = { atMillis: Timer.now(fiber), fiber }
        this.served.of(call.name, begun.atMillis).begin(begun.atMillis)
        return self
      }),
      (exit) => {
        if (begun === undefined) return undefined
        const atMillis = Timer.now(begun.fiber)
        const { reason, verdict } = Events.ofHandler(exit)
        const series = this.served.of(call.name, atMillis)
        series.end(atMillis, verdict, atMillis - begun.atMillis, 1)
        if (reason !== undefined) series.because(reason, atMillis)
        return undefined
      }
    )
  }

  private count(event: CallEvent.CallEvent): void {
    switch (event._tag) {
      case "CallStarted":
        this.calls.begin(event.atMillis)
        return this.methods.of(event.call.name, event.atMillis).begin(event.atMillis)
      case "CallEnded": {
        const { atMillis, attempts, call, durationMillis, error, outcome } = event
        const verdict = Events.verdictOf(outcome, error)
        for (const series of [this.calls, this.methods.of(call.name, atMillis)]) {
          series.end(atMillis, verdict, durationMillis, attempts)
          if (verdict === "failed") series.because(Events.reasonOf(error), atMillis)
        }
        return
      }
      case "AttemptStarted":
        if (event.endpoint !== undefined) this.endpoints.of(event.endpoint, event.atMillis).begin(event.atMillis)
        return
      case "AttemptEnded": {
        const { atMillis, durationMillis, endpoint, error, outcome } = event
        if (endpoint === undefined) return
        const series = this.endpoints.of(endpoint, atMillis)
        series.end(atMillis, verdicts[outcome.endpoint], durationMillis, 1)
        if (outcome.endpoint === "failure") series.because(Events.reasonOf(error), atMillis)
        return
      }
      case "Rejected": {
        const at = event.policy.indexOf("@")
        if (at > 0) this.endpoints.get(event.policy.slice(at + 1))?.because(event.reason, event.atMillis)
        return
      }
      case "Transition":
        return this.openings.heed(event)
      default:
        return
    }
  }

  take(nowMillis: number): Part {
    const all = Array.from(this.registered, State.said)
    const endpoints = all.filter(({ kind }) => kind === "endpoint").map(State.endpoint)
    const addresses = new Set(endpoints.map(({ address }) => address))
    this.endpoints.sweep(nowMillis, (address) => addresses.has(address))
    const unknown = this.endpoints.entries().filter(([address]) => !addresses.has(address))
    const rest = all.filter((policy) => policy.kind !== "endpoint" && !State.isBudget(policy))
    // A policy of an endpoint bears its name. Of a thousand endpoints nobody looks through all policies a thousand times.
    const named = Map.groupBy(rest, ({ name }) => name)
    return {
      name: this.name,
      calls: this.calls.figures(nowMillis),
      methods: this.methods.entries().map(([name, series]) => ({ name, ...series.figures(nowMillis) })),
      served: this.served.entries().map(([name, series]) => {
        const { attempts: _, ...figures } = series.figures(nowMillis)
        return { name, ...figures }
      }),
      endpoints: [
        ...endpoints.map((endpoint) => this.endpoint(endpoint, named.get(endpoint.name) ?? [], nowMillis)),
        ...unknown.map(([address]) => {
          const own = rest.filter(({ name }) => name.endsWith(`@${address}`))
          return this.endpoint({ target: null, address, connection: null }, own, nowMillis)
        })
      ],
      budgets: all.filter(State.isBudget).map(State.budget),
      policies: rest.map(State.policy)
    }
  }

  private endpoint(
    { address, connection, target }: Pick<Endpoint, "address" | "target" | "connection">,
    own: ReadonlyArray<State.Said>,
    nowMillis: number
  ): Endpoint {
    const series = this.endpoints.get(address) ?? unused
    const { attempts: _, ...figures } = series.figures(nowMillis)
    return {
      address,
      target,
      connection,
      breaker: State.breaker(own, nowMillis, this.openings),
      limit: State.limit(own),
      ...figures
    }
  }
}

const unused = new Series.Series()

const verdicts = { success: "answered", failure: "failed", ignored: "ignored" } as const

// Watching ----------------------------------------------------------------------------------------

const watch = (
  hub: Hub.Hub<Event>,
  intervalMillis: number,
  take: (fiber: Fiber.Fiber<unknown, unknown>) => Taken
): Stream.Stream<Update> =>
  Stream.unwrap(Effect.map(
    Effect.acquireRelease(
      // In one step: what happens between the two would be told twice.
      Effect.sync(() => ({ kept: hub.kept, watcher: hub.add() })),
      ({ watcher }) => Effect.sync(() => hub.remove(watcher))
    ),
    ({ kept, watcher }) => {
      let dueMillis = -Infinity
      let earlier: ReadonlyArray<Event> | undefined = kept
      const next: Effect.Effect<ReadonlyArray<Update>> = Effect.withFiber((fiber) => {
        const now = Timer.now(fiber)
        if (earlier !== undefined) {
          const first: Array<Update> = [{ _tag: "Snapshot", snapshot: take(fiber) }]
          if (earlier.length > 0) first.push({ _tag: "Earlier", events: earlier })
          earlier = undefined
          dueMillis = now + intervalMillis
          return Effect.succeed(first)
        }
        const isDue = now >= dueMillis
        if (!isDue && watcher.isEmpty) return Effect.flatMap(until(fiber, watcher, dueMillis), () => next)
        const { events, lost } = watcher.take()
        const updates: Array<Update> = lost === 0 ? [] : [{ _tag: "Lost", count: lost }]
        for (const event of events) updates.push({ _tag: "Event", event })
        if (isDue) {
          dueMillis = now + intervalMillis
          updates.push({ _tag: "Snapshot", snapshot: take(fiber) })
        }
        return Effect.succeed(updates)
      })
      return Stream.fromIterableEffectRepeat(next)
    }
  ))

/** Waits for an event, or for an instant. */
const until = (
  fiber: Fiber.Fiber<unknown, unknown>,
  watcher: Hub.Watcher<Event>,
  atMillis: number
): Effect.Effect<void> =>
  Effect.callback((resume) => {
    const stop = () => {
      timer.cancel()
      watcher.wake = undefined
    }
    const wake = () => {
      stop()
      resume(Effect.void)
    }
    const timer = Timer.schedule(fiber, atMillis, wake)
    watcher.wake = wake
    return Effect.sync(stop)
  })
