/**
 * A policy as data: one Schema for YAML, JSON and TypeScript.
 *
 * A spec says what each slot of a stack does; `compile` makes the stack. As data
 * it can be linted (`Lint`), simulated, diffed and reloaded: `make` gives a
 * running policy that takes a new spec atomically and keeps the state that still
 * fits. Durations read as people write them: `"250ms"`, `"2 s"`, `"1 minute"`.
 * Functions (predicates, Schedules, fallbacks) appear by name, and `bindings`
 * says what the names mean.
 *
 * A spec needs no defaults spelled out: what it does not state has the default
 * of the policy it is about, and a slot it does not name is not there.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Yaml from "effect/encoding/Yaml"
import * as Equal from "effect/Equal"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as Semaphore from "effect/Semaphore"
import * as CallContext from "../contract/CallContext.ts"
import type * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Deadline from "../contract/Deadline.ts"
import type * as Outcome from "../contract/Outcome.ts"
import * as Timer from "../contract/Timer.ts"
import type * as AdaptiveLimiter from "./AdaptiveLimiter.ts"
import type * as AdaptiveThrottle from "./AdaptiveThrottle.ts"
import type * as Bulkhead from "./Bulkhead.ts"
import * as Cache from "./Cache.ts"
import type * as CircuitBreaker from "./CircuitBreaker.ts"
import * as Fallback from "./Fallback.ts"
import * as Hedge from "./Hedge.ts"
import { PolicySpec, type Read } from "./internal/document.ts"
import * as Lint from "./Lint.ts"
import * as Policy from "./Policy.ts"
import type * as RateLimiter from "./RateLimiter.ts"
import type * as Retry from "./Retry.ts"
import type * as RetryBudget from "./RetryBudget.ts"
import * as StackOptions from "./StackOptions.ts"
import * as Timeout from "./Timeout.ts"

/** The document, the Schema of a backoff, and those of a duration: a positive one, and one that may be zero. */
export { Backoff, Period, PeriodOrZero, PolicySpec } from "./internal/document.ts"
export type { Read } from "./internal/document.ts"

// Reading ------------------------------------------------------------------------------------------

/** A spec that cannot be read, names what no binding knows, or states what its policies refuse. */
export class SpecError extends Schema.TaggedError<SpecError>()("SpecError", {
  /** One problem a line, each with where it stands. */
  message: Schema.String
}) {}

const decode = Schema.decodeUnknownEffect(PolicySpec)
/** How documents are read here: every problem at once, unknown fields too. */
export const strictly = { errors: "all", onExcessProperty: "error", reportInput: true } as const

/** Reads a spec from data. Every problem is reported at once, unknown fields too. */
export const read = (document: unknown): Effect.Effect<Read, SpecError> =>
  Effect.mapError(
    decode(document, strictly),
    (error) => new SpecError({ message: problems(error.issue).join("\n") })
  )

/** A line per problem, each with its path. Of a choice, the alternative that is nearest to what was written speaks for all. */
export const problems = (issue: SchemaIssue.Issue, path = ""): ReadonlyArray<string> => {
  switch (issue._tag) {
    case "Pointer":
      return problems(issue.issue, [path, ...issue.path].filter((step) => step !== "").join("."))
    case "Encoding":
      return problems(issue.issue, path)
    case "Filter":
      if (issue.issue._tag === "Pointer") return problems(issue.issue, path)
      break
    case "Composite":
      return issue.issues.flatMap((inner) => problems(inner, path))
    case "AnyOf":
      if (issue.issues.length > 0) {
        return issue.issues
          .map((inner) => problems(inner, path))
          .reduce((nearest, other) => (other.length < nearest.length ? other : nearest))
      }
      break
    case "UnexpectedKey":
      return [`${path}: no such field`]
    case "MissingKey":
      return [`${path}: missing`]
  }
  const message = formatIssue(issue)
  return [path === "" ? message : `${path}: ${message}`]
}

const formatIssue = SchemaIssue.makeFormatterDefault()

/** Reads a spec from YAML, of which JSON is a part. */
export const parse = (text: string): Effect.Effect<Read, SpecError> =>
  Effect.flatMap(
    Effect.try({ try: () => Yaml.parse(text), catch: (error) => new SpecError({ message: String(error) }) }),
    read
  )

// Compiling ----------------------------------------------------------------------------------------

/** What the names in a spec mean. */
export interface Bindings {
  readonly schedules?: Readonly<Record<string, Schedule.Schedule<unknown, any>>> | undefined
  /** For `retry.retryIf`: whether a result is worth another attempt. */
  readonly predicates?: Readonly<Record<string, (result: any) => boolean>> | undefined
  /** For `retry.classify`: what an error means; `undefined` leaves it to the table. */
  readonly classifiers?: Readonly<Record<string, (error: any) => Outcome.Outcome | undefined>> | undefined
  /** For `fallback.when`, whether a substitute is for this error; for `cache.negative.when`, whether it is an answer. */
  readonly conditions?: Readonly<Record<string, (error: unknown, call: CallContext.CallContext) => boolean>> | undefined
  /** For `fallback.use`: another call, or an answer computed from the error. */
  readonly fallbacks?: Readonly<Record<string, Substitute>> | undefined
  /**
   * For `cache.key`: which calls are the same; `undefined` for one that is like no other. For `circuitBreaker.keyed`: which
   * calls share a circuit; `undefined` for what they share by default.
   */
  readonly keys?: Readonly<Record<string, (call: CallContext.CallContext) => string | undefined>> | undefined
}

/** What a fallback answers with. */
export type Substitute = (
  error: unknown,
  call: CallContext.CallContext
) => Effect.Effect<unknown, CallError.CallError>

const bound = <A>(
  table: Readonly<Record<string, A>> = {},
  what: keyof Bindings,
  name: string
): Effect.Effect<A, SpecError> =>
  Object.hasOwn(table, name) ? Effect.succeed(table[name]!) : Effect.fail(
    new SpecError({
      message: `${what}: nothing is bound to "${name}"; known: ${Object.keys(table).join(", ") || "none"}`
    })
  )

/** The options a spec stands for, its names replaced by what they mean. */
export const options = (
  spec: Read,
  bindings: Bindings = {}
): Effect.Effect<StackOptions.StackOptions, SpecError> =>
  Effect.gen(function*() {
    const { adaptiveLimiter, adaptiveThrottle, bulkhead, circuitBreaker, hedge, rateLimiter, retry, timeout } = spec
    const scheduleOf = <S extends object>(stated: S | { readonly schedule: string }) =>
      "schedule" in stated ? bound(bindings.schedules, "schedules", stated.schedule) : Effect.succeed(stated)
    const resolved: { -readonly [K in keyof StackOptions.StackOptions]: StackOptions.StackOptions[K] } = {}
    if (retry !== undefined) {
      resolved.retry = retry === false ? false : {
        ...retry,
        backoff: retry.backoff === undefined ? undefined : yield* scheduleOf(retry.backoff),
        retryIf: retry.retryIf === undefined
          ? undefined
          : yield* bound(bindings.predicates, "predicates", retry.retryIf),
        classify: retry.classify === undefined
          ? undefined
          : yield* bound(bindings.classifiers, "classifiers", retry.classify)
      }
    }
    if (hedge !== undefined) {
      resolved.hedge = { ...hedge, idempotent: spec.idempotent !== undefined && spec.idempotent !== false }
    }
    if (circuitBreaker !== undefined) {
      const { keyed = undefined, openFor: stated = undefined } = circuitBreaker === false ? {} : circuitBreaker
      resolved.circuitBreaker = circuitBreaker === false ? false : {
        ...circuitBreaker,
        openFor: stated === undefined || Duration.isDuration(stated) ? stated : yield* scheduleOf(stated),
        keyed: keyed?.key === undefined
          ? keyed && { ...keyed, key: undefined }
          : { ...keyed, key: yield* bound(bindings.keys, "keys", keyed.key) }
      }
    }
    return { ...resolved, rateLimiter, adaptiveThrottle, bulkhead, adaptiveLimiter, timeout }
  })

/** What a stack of any spec may add to the error channel. */
export type StackError = CallError.CallError<
  | CallError.RetriesExhausted
  | CallError.BudgetExhausted
  | CallError.DeadlineExceeded
  | CallError.LimitReached
  | CallError.Throttled
  | CallError.CircuitOpen
  | CallError.BulkheadFull
  | CallError.AttemptTimeout
>

/** A spec that leaves the answer alone. */
export type Plain = Omit<PolicySpec, "fallback" | "cache"> & { readonly fallback?: never; readonly cache?: never }

/** A compiled spec: the stack, and each slot's policy. */
export interface Compiled extends Policy.OfKind<"stack", StackError>, Made {}

/** A compiled spec that may answer with a substitute: what it answers with is data, of which the compiler knows nothing. */
export interface Substituting
  extends Policy.SubstituteOfKind<"stack", unknown, unknown, never, CallError.CallError>, Made
{}

interface Made {
  readonly spec: Read
  readonly slots: Slots
}

/** The policies of the slots a spec names. */
export interface Slots {
  readonly fallback?: Policy.AnySubstitute<"fallback"> | undefined
  readonly cache?: Cache.Cache<unknown> | undefined
  readonly budget?: RetryBudget.RetryBudget | undefined
  readonly retry?: Retry.Retry | undefined
  readonly hedge?: Hedge.Hedge | undefined
  readonly rateLimiter?: RateLimiter.RateLimiter | undefined
  readonly adaptiveThrottle?: AdaptiveThrottle.AdaptiveThrottle | undefined
  readonly circuitBreaker?: CircuitBreaker.CircuitBreaker | undefined
  /** In the place of `circuitBreaker`, where that is `keyed`. */
  readonly keyedCircuitBreaker?: CircuitBreaker.KeyedCircuitBreaker | undefined
  readonly bulkhead?: Bulkhead.Bulkhead | undefined
  readonly adaptiveLimiter?: AdaptiveLimiter.AdaptiveLimiter | undefined
  readonly timeout?: Timeout.Timeout | undefined
}

/** A constructor's `RangeError` is the document's mistake here, not a programmer's. */
const asSpecError = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | SpecError, R> =>
  Effect.catchDefect(
    self,
    (defect) =>
      defect instanceof RangeError ? Effect.fail(new SpecError({ message: defect.message })) : Effect.die(defect)
  )

/**
 * Makes the stack of a spec, with its own state.
 *
 * Fails with a `SpecError` on a document that cannot be read, that cannot work
 * (`Lint`'s errors; its warnings are events), that names what nothing is bound
 * to, or that a policy's constructor refuses.
 */
export const compile: {
  (document: Plain, bindings?: Bindings): Effect.Effect<Compiled, SpecError>
  (document: PolicySpec, bindings?: Bindings): Effect.Effect<Substituting, SpecError>
} = (document: PolicySpec, bindings: Bindings = {}): Effect.Effect<any, SpecError> =>
  Effect.flatMap(read(document), (spec) => Effect.map(assemble(spec, bindings, undefined), ({ compiled }) => compiled))

/** What the retry's Schedule does, where it is one of the bindings. */
const stepsOf = ({ retry }: Read, { schedules }: Bindings): Effect.Effect<Lint.Steps | undefined> => {
  const backoff = retry === undefined || retry === false ? undefined : retry.backoff
  const schedule = backoff !== undefined && "schedule" in backoff ? schedules?.[backoff.schedule] : undefined
  return schedule === undefined ? Effect.succeed(undefined) : Lint.step(schedule)
}

const findingsOf = (spec: Read, bindings: Bindings): Effect.Effect<ReadonlyArray<Lint.Finding>> =>
  Effect.map(stepsOf(spec, bindings), (steps) => Lint.check(spec, steps))

/** Refuses a spec that cannot work, with the linter's arithmetic, and warns of what is rarely meant. */
const refuse = (spec: Read, bindings: Bindings, name: string): Effect.Effect<void, SpecError> =>
  Effect.flatMap(findingsOf(spec, bindings), (findings) =>
    Effect.withFiber((fiber) => {
      const errors = findings.filter((finding) => finding.severity === "error")
      if (errors.length > 0) return Effect.fail(new SpecError({ message: Lint.text(errors) }))
      const receiver = CallEvent.receiverOf(fiber)
      if (receiver === undefined) return Effect.void
      for (const { message, path, rule } of findings) {
        receiver.event({
          _tag: "Warning",
          policy: name,
          why: `${rule} ${path}: ${message}`,
          atMillis: Timer.now(fiber)
        })
      }
      return Effect.void
    }))

/**
 * Everything that is wrong with a spec or rarely meant, errors first: the
 * linter's rules, and where those find no error, what a policy's constructor
 * refuses. Names that nothing is bound to are taken on trust.
 *
 * Fails with a `SpecError` on a document that cannot be read.
 */
export const lint = (
  document: unknown,
  bindings: Bindings = {}
): Effect.Effect<ReadonlyArray<Lint.Finding>, SpecError> =>
  Effect.gen(function*() {
    const spec = yield* read(document)
    const findings = yield* findingsOf(spec, bindings)
    if (findings.some((finding) => finding.severity === "error")) return findings
    const refused = yield* refusals(spec, trusting(spec, bindings)).pipe(
      Effect.provideService(Policy.CurrentRegistry, undefined),
      Effect.provideService(CallEvent.CurrentReceiver, undefined)
    )
    return [...refused, ...findings]
  })

/** What the constructors refuse, each slot's apart: without the one that is refused, the others are made again. */
const refusals = (spec: Read, bindings: Bindings): Effect.Effect<ReadonlyArray<Lint.Finding>> =>
  Effect.matchEffect(assemble(spec, bindings, undefined), {
    onSuccess: () => Effect.succeed([]),
    onFailure: (error) => {
      const finding = refusal(error)
      const [slot = ""] = finding.path.split(".")
      if (!Object.hasOwn(spec, slot)) return Effect.succeed([finding])
      const { [slot as keyof Read]: _, ...rest } = spec
      return Effect.map(refusals(rest, bindings), (others) => [finding, ...others])
    }
  })

/** Bindings in which every name of a spec means something. */
const trusting = (
  { cache, circuitBreaker, fallback, retry }: Read,
  { classifiers, conditions, fallbacks, keys, predicates, schedules }: Bindings
): Bindings => {
  const { backoff, classify = "", retryIf = "" } = retry === undefined || retry === false ? {} : retry
  const openFor = circuitBreaker === undefined || circuitBreaker === false ? undefined : circuitBreaker.openFor
  const named = [backoff, openFor].flatMap((stated) =>
    stated !== undefined && "schedule" in stated ? [[stated.schedule, Schedule.spaced("1 second")]] : []
  )
  return {
    schedules: { ...Object.fromEntries(named), ...schedules },
    predicates: { [retryIf]: () => false, ...predicates },
    classifiers: { [classify]: () => undefined, ...classifiers },
    conditions: { [String(fallback?.when)]: () => true, [cache?.negative?.when ?? ""]: () => true, ...conditions },
    keys: { [cache?.key ?? ""]: () => undefined, [keyNameOf(circuitBreaker) ?? ""]: () => undefined, ...keys },
    fallbacks: { [fallback?.use ?? ""]: () => Effect.void, ...fallbacks }
  }
}

/** The name of what a keyed breaker's keys are. */
const keyNameOf = (circuitBreaker: Read["circuitBreaker"]): string | undefined =>
  circuitBreaker === undefined || circuitBreaker === false ? undefined : circuitBreaker.keyed?.key

/** `CircuitBreaker.make: jitter must be …` as a finding about `circuitBreaker.jitter`. */
const refusal = ({ message }: SpecError): Lint.Finding => {
  const [, initial = "", rest = "", field = ""] = /^(\w)(\w*)\.\w+: ([\w.]+) must/.exec(message) ?? []
  const path = initial === "" ? "" : `${initial.toLowerCase()}${rest}.${field}`
  return { rule: "make", severity: "error", path, message }
}

/** A stack that is ready, and what makes it the one that runs. */
interface Assembled {
  readonly compiled: Compiled
  /** Changes what it takes over from the former one, and takes what nobody uses any more out of the registry. */
  readonly takeOver: Effect.Effect<void>
}

/** How each policy that a spec made leaves the registry. */
const registrations = new WeakMap<object, () => void>()

/** Remembers how what `make` makes leaves the registry again, also in `made`, should the others not come to be. */
const registering = <P, E>(make: Effect.Effect<P, E>, made: Array<() => void>): Effect.Effect<P, E> =>
  Effect.withFiber((fiber) => {
    const registry = fiber.getRef(Policy.CurrentRegistry)
    if (registry === undefined) return make
    const removals: Array<() => void> = []
    const remove = () => {
      for (const removal of removals) removal()
    }
    const register = (policy: Policy.Registered) => {
      removals.push(registry.register(policy))
      return remove
    }
    made.push(remove)
    return Effect.map(Effect.provideService(make, Policy.CurrentRegistry, { register }), (policy) => {
      if (typeof policy === "object" && policy !== null) registrations.set(policy, remove)
      return policy
    })
  })

/** The budget a spec asks for: `false` for none. A hedge alone has the default one. */
const budgetOf = ({ hedge, retry }: Read): StackOptions.RetrySlot["budget"] =>
  retry === undefined || retry === false ? hedge !== undefined && {} : retry.budget ?? {}

/**
 * Makes each slot, or takes over the former one's: as it is where it says the
 * same, changed where its policy can be changed while it runs. Until `takeOver`
 * nothing has happened to the former one.
 */
const assemble = (
  spec: Read,
  bindings: Bindings,
  former: Compiled | undefined
): Effect.Effect<Assembled, SpecError> => {
  const made: Array<() => void> = []
  const assembling = Effect.gen(function*() {
    const name = former?.name ?? spec.name ?? "policy"
    yield* refuse(spec, bindings, name)
    const stated = yield* options(spec, bindings)
    const old = former?.slots ?? {}
    const changes: Array<Effect.Effect<void>> = []

    /**
     * The policy of a slot whose spec is the same or not: the old one as it is, the old one changed, or a new one that
     * `succeed`s the old.
     */
    const replace = <P extends object, E>(
      running: P | undefined,
      same: boolean,
      make: Effect.Effect<P | undefined, E>,
      how: {
        readonly change?: ((running: P) => Effect.Effect<void> | undefined) | undefined
        readonly succeed?: (from: P, to: P) => void
      } = {}
    ): Effect.Effect<P | undefined, E> => {
      if (running === undefined) return registering(make, made)
      if (same) return Effect.succeed(running)
      const change = how.change?.(running)
      if (change !== undefined) {
        changes.push(change)
        // One that is thrown away, to see whether its constructor refuses.
        return Effect.as(Effect.provideService(make, Policy.CurrentRegistry, undefined), running)
      }
      return Effect.tap(registering(make, made), (fresh) =>
        Effect.sync(() => {
          if (fresh !== undefined) changes.push(Effect.sync(() => how.succeed?.(running, fresh)))
        }))
    }
    const isSame = (key: keyof Read): boolean => former !== undefined && Equal.equals(former.spec[key], spec[key])

    type Key = keyof Slots & keyof StackOptions.StackOptions
    type Stated<K extends Key> = Exclude<StackOptions.StackOptions[K], false | undefined>
    const slot = <K extends Key, P extends Slots[K] & object>(
      key: K,
      make: (slot: Stated<K>) => Effect.Effect<P>,
      change?: (old: P, slot: Stated<K>) => Effect.Effect<void> | undefined,
      succeed: (from: P, to: P) => void = () => {},
      kept = true
    ): Effect.Effect<P | undefined> => {
      const options = stated[key]
      if (options === undefined || options === false) return Effect.succeed(undefined)
      const wanted = options as Stated<K>
      return replace(old[key] as P | undefined, kept && isSame(key), make(wanted), {
        change: change && ((running) => change(running, wanted)),
        succeed
      })
    }

    const wanted = budgetOf(spec)
    const budget = wanted === false ? undefined : yield* replace(
      old.budget,
      former !== undefined && Equal.equals(budgetOf(former.spec), wanted),
      StackOptions.budgetOf(name, { budget: wanted }),
      { change: (running) => running.reconfigure({ ...wanted }) }
    )
    const keepsBudget = budget === old.budget
    const breaker = stated.circuitBreaker === false ? undefined : stated.circuitBreaker
    const slots: Slots = {
      fallback: spec.fallback === undefined ? undefined : yield* replace(
        old.fallback,
        isSame("fallback"),
        fallback(name, spec.fallback, bindings),
        { succeed: Fallback.succeed }
      ),
      cache: spec.cache === undefined ? undefined : yield* cacheOf(name, spec.cache, bindings).pipe(
        Effect.flatMap((options) =>
          replace(old.cache, isSame("cache"), Cache.make(options), {
            // Answers are by key: by another one they would be somebody else's.
            change: (running) => former?.spec.cache?.key === spec.cache?.key ? running.reconfigure(options) : undefined
          })
        )
      ),
      budget,
      // What holds a budget is made anew with another one.
      retry: yield* slot(
        "retry",
        (options) => StackOptions.retry(name, options, budget),
        undefined,
        undefined,
        keepsBudget
      ),
      hedge: yield* slot(
        "hedge",
        (options) => StackOptions.hedge(name, options, budget),
        undefined,
        Hedge.succeed,
        keepsBudget
      ),
      rateLimiter: yield* slot(
        "rateLimiter",
        (options) => StackOptions.simple.rateLimiter(name, options),
        (running, options) => running.reconfigure(options)
      ),
      adaptiveThrottle: yield* slot(
        "adaptiveThrottle",
        (options) => StackOptions.simple.adaptiveThrottle(name, options),
        (running, options) => running.reconfigure(options)
      ),
      circuitBreaker: breaker?.keyed !== undefined ? undefined : yield* slot(
        "circuitBreaker",
        (options) => StackOptions.circuitBreaker(name, options),
        (running, options) => running.reconfigure(StackOptions.breakerOptions(options))
      ),
      keyedCircuitBreaker: breaker?.keyed === undefined ? undefined : yield* replace(
        old.keyedCircuitBreaker,
        isSame("circuitBreaker"),
        StackOptions.keyedCircuitBreaker(name, breaker),
        {
          // Circuits are by key: by another one they would be somebody else's.
          change: (running) =>
            keyNameOf(former?.spec.circuitBreaker) === keyNameOf(spec.circuitBreaker)
              ? running.reconfigure(StackOptions.breakerOptions(breaker))
              : undefined
        }
      ),
      bulkhead: yield* slot(
        "bulkhead",
        (options) => StackOptions.simple.bulkhead(name, options),
        (running, { limit, maxQueue = 0, maxWait = "10 seconds" }) => running.resize(limit, { maxQueue, maxWait })
      ),
      adaptiveLimiter: yield* slot(
        "adaptiveLimiter",
        (options) => StackOptions.simple.adaptiveLimiter(name, options),
        (running, options) => running.reconfigure(options)
      ),
      timeout: yield* slot("timeout", (options) => StackOptions.simple.timeout(name, options))
    }
    // Whether it substitutes, the overloads of `compile` know.
    const circuitBreaker = slots.circuitBreaker ?? slots.keyedCircuitBreaker
    const stack = Policy.stack({ ...slots, circuitBreaker }) as unknown as Policy.Policy<StackError>
    const { deadline, idempotent } = spec
    const compiled = Policy.make<StackError, never, "stack", Pick<Compiled, "spec" | "slots">>(
      {
        name,
        kind: "stack",
        run: (self) => {
          const guarded = deadline === undefined ? stack.run(self) : within(stack, self, deadline, substitutes(spec))
          return typeof idempotent === "boolean" ? CallContext.annotate(guarded, { idempotent }) : guarded
        }
      },
      { spec, slots }
    )
    const gone = Object.entries(old).filter(([slot, policy]) => policy !== slots[slot as keyof Slots])
    const takeOver = Effect.gen(function*() {
      for (const change of changes) yield* change
      for (const [, policy] of gone) if (policy !== undefined) registrations.get(policy)?.()
    })
    return { compiled, takeOver }
  })
  const forget = Effect.sync(() => {
    for (const remove of made) remove()
  })
  return Effect.tapError(asSpecError(assembling), () => forget)
}

/** A stack's call with a deadline. Where a cache or a fallback may send for somebody else, nobody knows what was sent. */
const within = <A, E, R>(
  stack: Policy.Policy<StackError>,
  self: Effect.Effect<A, E, R>,
  deadline: Duration.Duration,
  substituting: boolean
): Effect.Effect<A, E | StackError, R> => {
  if (substituting) return Timeout.withDeadline(stack.run(self), deadline)
  const guarded = stack.run(Effect.withFiber((fiber) => {
    Timeout.begun(fiber)
    return self
  }))
  return Effect.withFiber((fiber) => Timeout.guardAttempts(guarded, Deadline.after(Timer.now(fiber), deadline)))
}

/** The fallback a spec asks for. What it does with a value it cannot know is the author's word. */
const fallback = (
  name: string,
  { reserve, stale, use, value, when: stated }: NonNullable<Read["fallback"]>,
  { conditions, fallbacks }: Bindings
): Effect.Effect<Policy.AnySubstitute<"fallback">, SpecError> =>
  Effect.gen(function*() {
    const when = typeof stated === "string" ? yield* bound(conditions, "conditions", stated) : stated
    const options = { name, reserve, ...(when === undefined ? {} : { when }) } as { readonly name: string }
    if (stale !== undefined) return yield* Fallback.make({ ...options, stale })
    if (use !== undefined) {
      return yield* Fallback.make({ ...options, orElse: yield* bound(fallbacks, "fallbacks", use) })
    }
    return yield* Fallback.make({ ...options, value })
  })

/** The options of the cache a spec asks for, of whatever its calls answer. */
const cacheOf = (
  name: string,
  { key, negative, ...rest }: NonNullable<Read["cache"]>,
  { conditions, keys }: Bindings
): Effect.Effect<Cache.CacheOptions<unknown>, SpecError> =>
  Effect.gen(function*() {
    return {
      ...rest,
      name,
      key: key === undefined ? undefined : yield* bound(keys, "keys", key),
      negative: negative === undefined
        ? undefined
        : { ttl: negative.ttl, when: yield* bound(conditions, "conditions", negative.when) }
    }
  })

// Running ------------------------------------------------------------------------------------------

/** A stack whose spec can be replaced while it runs. */
export interface Running extends Policy.OfKind<"stack", StackError>, Reloading {}

/** The same of one that may answer with a substitute. */
export interface RunningSubstituting
  extends Policy.SubstituteOfKind<"stack", unknown, unknown, never, CallError.CallError>, Reloading
{}

interface Reloading {
  /** What runs now. */
  readonly current: Effect.Effect<Compiled>
  /**
   * Takes a new spec: the next call goes by it, calls in flight end by the old
   * one.
   *
   * A slot that says the same keeps its policy. A changed one keeps what it knows,
   * as far as that fits: a breaker its state, operators included; limiters what is
   * in flight, waits or was used; an adaptive limiter the limit it has found; a
   * throttle and a hedge what they have seen, while their window is as long as it
   * was; a budget its tokens; a cache and a fallback their answers. The name stays
   * that of the first spec. A spec that cannot be compiled fails with a `SpecError` and
   * changes nothing; either way there is an event. So does one with a fallback
   * or a cache where the first had neither: it would change what the calls answer.
   */
  readonly reload: (document: unknown) => Effect.Effect<void, SpecError>
}

/** Makes the stack of a spec that can be replaced. */
export const make: {
  (document: Plain, bindings?: Bindings): Effect.Effect<Running, SpecError>
  (document: PolicySpec, bindings?: Bindings): Effect.Effect<RunningSubstituting, SpecError>
} = (document: PolicySpec, bindings: Bindings = {}): Effect.Effect<any, SpecError> =>
  Effect.map(compile(document as Plain, bindings), (first) => {
    let current = first
    const oneAtATime = Semaphore.makeUnsafe(1)
    const told = (accepted: boolean, why: string) =>
      Effect.withFiber((fiber) => {
        CallEvent.receiverOf(fiber)?.event({
          _tag: "Reloaded",
          policy: current.name,
          accepted,
          why,
          atMillis: Timer.now(fiber)
        })
        return Effect.void
      })
    const reload = (document: unknown): Effect.Effect<void, SpecError> =>
      Effect.flatMap(read(document), (spec) =>
        substitutes(spec) && !substitutes(first.spec)
          ? Effect.fail(
            new SpecError({
              message: `${
                spec.cache === undefined ? "fallback" : "cache"
              }: the policy was made without a fallback or a cache`
            })
          )
          : assemble(spec, bindings, current)).pipe(
          Effect.matchEffect({
            onFailure: (error) => Effect.andThen(told(false, error.message), Effect.fail(error)),
            onSuccess: ({ compiled, takeOver }) =>
              Effect.suspend(() => {
                const changed = difference(current.spec, compiled.spec)
                current = compiled
                return Effect.andThen(takeOver, told(true, changed))
              })
          }),
          // Two at a time would both take over from the same one.
          Semaphore.withPermit(oneAtATime),
          Effect.uninterruptible
        )
    return Policy.make<StackError, never, "stack", Pick<Running, "current" | "reload">>(
      {
        name: first.name,
        kind: "stack",
        run: (self) => Effect.suspend(() => current.run(self))
      },
      { current: Effect.sync(() => current), reload }
    )
  })

const substitutes = ({ cache, fallback }: Read): boolean => cache !== undefined || fallback !== undefined

const encode = Schema.encodeSync(PolicySpec)

/** What differs between two specs, as one line: `circuitBreaker.openFor 30000ms -> 10000ms, hedge added`. */
export const difference = (from: Read, to: Read): string => {
  const lines: Array<string> = []
  const walk = (path: string, a: unknown, b: unknown): void => {
    if (Equal.equals(a, b)) return
    if (isObject(a) && isObject(b)) {
      for (const field of new Set([...Object.keys(a), ...Object.keys(b)])) {
        walk(path === "" ? field : `${path}.${field}`, a[field], b[field])
      }
    } else if (a === undefined) lines.push(`${path} added`)
    else if (b === undefined) lines.push(`${path} removed`)
    else lines.push(`${path} ${show(a)} -> ${show(b)}`)
  }
  walk("", encode(from), encode(to))
  return lines.join(", ") || "nothing changed"
}

const show = (value: unknown): string => (isObject(value) ? JSON.stringify(value) : String(value))

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)
