/**
 * What a test leaves behind: live timers, fibers, permits, listeners and
 * sessions, each with the name of who left it.
 *
 * ```ts
 * it.effect("gives everything back", () => Leaks.check(body))
 * // or for all tests of a file
 * const test = Leaks.around(it.effect)
 * test("gives everything back", () => body)
 * ```
 *
 * An Effect like any other: it needs no test framework, and fails with `Leaked`
 * where something is left. The body has a scope of its own, closed before anybody
 * looks. It is run by a scheduler that sees its fibers, with a registry that sees
 * its policies; what the body starts with `Effect.runFork`, outside of it, is not
 * its own. Sessions and listeners are those of a transport inside
 * `Leaks.transport`, which `ClientTest` uses; elsewhere, put it around yours:
 * `Leaks.transport.pipe(Layer.provide(Tcp.layer()))`.
 *
 * A body that fails fails as it did: then nobody looks.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as References from "effect/References"
import * as Scheduler from "effect/Scheduler"
import type * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import * as CallContext from "../contract/CallContext.ts"
import * as Timer from "../contract/Timer.ts"
import * as Policy from "../policy/Policy.ts"
import { Transport } from "../transport/Transport.ts"

export interface Leak {
  readonly kind: "timer" | "fiber" | "permit" | "listener" | "session"
  /** Who left it, as near as it is known: a place in a file, a span, a policy, an address. */
  readonly name: string
}

/** Something was left behind. */
export class Leaked extends Data.TaggedError("Leaked")<{ readonly leaks: ReadonlyArray<Leak> }> {
  override get message(): string {
    const { leaks } = this
    const lines = leaks.map(({ kind, name }) => `  ${kind}: ${name}`)
    return [`${leaks.length} ${leaks.length === 1 ? "leak" : "leaks"} at the end:`, ...lines].join("\n")
  }
}

/** Where a transport says what it holds while somebody looks. */
interface Ledger {
  /** Writes something down, and returns what crosses it out. `name` is asked when it is told. */
  readonly hold: (kind: Leak["kind"], name: () => string | undefined) => () => void
}

const CurrentLedger = Context.Reference<Ledger | undefined>("holdfast/testing/Leaks", { defaultValue: () => undefined })

/** The first place of a stack that is nobody's library: where somebody asked for it. */
const placeOf = (stack: string | undefined, but: RegExp): string | undefined => {
  const lines = stack?.split("\n").slice(1).map((line) => line.trim().replace(/^at /, "")) ?? []
  return lines.find((line) => !/node_modules|node:/.test(line) && !but.test(line))
}

const own = /testing\/Leaks\.[jt]s/
const unknownPlace = "an unknown place"

/** Where a fiber is, as Effect itself traces it: its innermost span or `Effect.fn`. */
const traced = (fiber: Fiber.Fiber<unknown, unknown>): string | undefined => {
  const frame = fiber.getRef(References.CurrentStackFrame)
  return frame === undefined ? undefined : `${frame.name} (${placeOf(`\n${frame.stack()}`, own) ?? unknownPlace})`
}

/** A fiber by what it was for: its span, its call, and where it was started, where that can be seen. */
const fiberName = (fiber: Fiber.Fiber<unknown, unknown>, stack: string | undefined): string => {
  const span = Option.match(Context.getOption(fiber.context as Context.Context<Tracer.ParentSpan>, Tracer.ParentSpan), {
    onNone: () => [],
    onSome: (span) => span._tag === "Span" ? [`in the span ${span.name}`] : []
  })
  const { name } = fiber.getRef(CallContext.Current)
  const call = name === CallContext.empty.name ? [] : [`for the call ${name}`]
  const place = traced(fiber) ?? placeOf(stack, own) ?? `${unknownPlace}: in no span and no Effect.fn`
  return [`#${fiber.id}`, ...span, ...call, `at ${place}`].join(", ")
}

/** Sees every fiber that runs by it. */
class Seeing implements Scheduler.Scheduler {
  readonly executionMode
  readonly live = new Map<Fiber.Fiber<unknown, unknown>, string | undefined>()
  private readonly seen = new WeakSet<Fiber.Fiber<unknown, unknown>>()
  private readonly inner: Scheduler.Scheduler

  constructor(inner: Scheduler.Scheduler, self: Fiber.Fiber<unknown, unknown>) {
    this.inner = inner
    this.executionMode = inner.executionMode
    this.seen.add(self)
  }

  shouldYield(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    if (!this.seen.has(fiber)) {
      this.seen.add(fiber)
      this.live.set(fiber, new Error().stack)
      fiber.addObserver(() => this.live.delete(fiber))
    }
    return this.inner.shouldYield(fiber)
  }

  makeDispatcher(): Scheduler.SchedulerDispatcher {
    return this.inner.makeDispatcher()
  }
}

/** Permits that a snapshot says are held or waited for, at any depth: keyed policies have one by key. */
const held = (snapshot: unknown, path: string): ReadonlyArray<string> => {
  if (typeof snapshot !== "object" || snapshot === null) return []
  return Object.entries(snapshot).flatMap(([field, value]) => {
    const at = path === "" ? field : `${path}.${field}`
    if (field !== "inFlight" && field !== "queued") return held(value, at)
    return typeof value === "number" && value > 0 ? [`${at} ${value}`] : []
  })
}

/** Turns of the scheduler in which what was forked last begins, so that it is seen. */
const firstTurns = 3
/** Turns that what is ending may take to end. */
const graceTurns = 20

/**
 * Runs a body in a scope of its own, and fails with `Leaked` when it succeeds and
 * something of it is left.
 */
export const check = <A, E, R>(body: Effect.Effect<A, E, R>): Effect.Effect<A, E | Leaked, Exclude<R, Scope.Scope>> =>
  Effect.withFiber((fiber) => {
    const scheduler = new Seeing(fiber.getRef(Scheduler.Scheduler), fiber)
    const timers = new Map<Timer.Watched, string | undefined>()
    const policies = new Set<Policy.Registered>()
    const entries = new Set<{ readonly kind: Leak["kind"]; readonly name: () => string | undefined }>()
    const registry = fiber.getRef(Policy.CurrentRegistry)
    const watched = Effect.scoped(body).pipe(
      Effect.provideService(Scheduler.Scheduler, scheduler),
      Effect.provideService(Policy.CurrentRegistry, {
        register: (policy) => {
          policies.add(policy)
          const remove = registry?.register(policy)
          // What leaves the registry may hold permits all the same: it is asked at the end like any other.
          return () => remove?.()
        }
      }),
      Effect.provideService(CurrentLedger, {
        hold: (kind, name) => {
          const entry = { kind, name }
          entries.add(entry)
          return () => entries.delete(entry)
        }
      })
    )
    const find = (): ReadonlyArray<Leak> => [
      ...[...timers].filter(([timer]) => timer.isLive()).map(([timer, stack]): Leak => ({
        kind: "timer",
        name: `due at ${Number(timer.atMillis.toFixed(3))} ms, scheduled at ${
          placeOf(stack, /(testing\/Leaks|contract\/Timer)\.[jt]s/) ?? unknownPlace
        }`
      })),
      ...[...scheduler.live].map(([fiber, stack]): Leak => ({ kind: "fiber", name: fiberName(fiber, stack) })),
      ...[...policies].flatMap(({ kind, name, snapshot }) =>
        held(snapshot(), "").map((what): Leak => ({ kind: "permit", name: `${kind} ${name}: ${what}` }))
      ),
      ...[...entries].flatMap(({ kind, name }): ReadonlyArray<Leak> => {
        const told = name()
        return told === undefined ? [] : [{ kind, name: told }]
      })
    ]
    const settled = Effect.gen(function*() {
      for (let turn = 0; turn < firstTurns || (turn < graceTurns && find().length > 0); turn++) yield* Effect.yieldNow
      const leaks = find()
      if (leaks.length > 0) return yield* new Leaked({ leaks })
    })
    const stop = Timer.watch(fiber.getRef(Clock.Clock), (timer) => timers.set(timer, new Error().stack))
    return Effect.ensuring(Effect.tap(watched, () => settled), Effect.sync(stop))
  })

/**
 * A test function whose bodies are checked: `Leaks.around(it.effect)`, and in the
 * same way `it.live` or one of your own that takes a name and an Effect's thunk.
 */
export const around = <Args extends ReadonlyArray<unknown>, R, T>(
  test: (name: string, body: () => Effect.Effect<unknown, unknown, R>, ...rest: Args) => T
) =>
<A, E>(name: string, body: () => Effect.Effect<A, E, R | Scope.Scope>, ...rest: Args): T =>
  // Whatever else the body needs, the test provides as it does without us.
  test(name, () => check(Effect.suspend(body)) as Effect.Effect<A, E | Leaked, R>, ...rest)

/** Around a transport: its listeners and its sessions, at both sides, are looked for at the end of a `check`. */
export const transport: Layer.Layer<Transport, never, Transport> = Layer.effect(
  Transport,
  Effect.map(Transport, ({ connect, listen }) => ({
    connect: (address) =>
      holding(Effect.map(connect(address), (session) => ({
        value: session,
        entries: [["session", () => `of a client to ${address}`]]
      }))),
    listen: (address, serve) =>
      holding(Effect.map(listen(address, serve), (listening) => ({
        value: listening,
        entries: [
          ["listener", () => listening.address],
          ["session", () => {
            const { sessions } = listening.stats()
            return sessions === 0 ? undefined : `${sessions} at the server ${listening.address}`
          }]
        ]
      })))
  }))
)

interface Holding<A> {
  readonly value: A
  readonly entries: ReadonlyArray<readonly [kind: Leak["kind"], name: () => string | undefined]>
}

/** Writes down what was opened, until its scope has closed it: finalizers run last to first, so ours is the first there is. */
const holding = <A, E>(open: Effect.Effect<Holding<A>, E, Scope.Scope>): Effect.Effect<A, E, Scope.Scope> =>
  Effect.flatMap(CurrentLedger, (ledger) => {
    if (ledger === undefined) return Effect.map(open, ({ value }) => value)
    const release: Array<() => void> = []
    return Effect.addFinalizer(() => Effect.sync(() => release.forEach((cross) => cross()))).pipe(
      Effect.andThen(open),
      Effect.map(({ entries, value }) => {
        for (const [kind, name] of entries) release.push(ledger.hold(kind, name))
        return value
      })
    )
  })
