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
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as CallContext from "../contract/CallContext.ts"
import type * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import type * as Outcome from "../contract/Outcome.ts"
import * as Timer from "../contract/Timer.ts"
import type * as AdaptiveLimiter from "./AdaptiveLimiter.ts"
import type * as AdaptiveThrottle from "./AdaptiveThrottle.ts"
import type * as Bulkhead from "./Bulkhead.ts"
import type * as CircuitBreaker from "./CircuitBreaker.ts"
import type * as Hedge from "./Hedge.ts"
import { PolicySpec, type Read } from "./internal/document.ts"
import * as Lint from "./Lint.ts"
import * as Policy from "./Policy.ts"
import type * as RateLimiter from "./RateLimiter.ts"
import type * as Retry from "./Retry.ts"
import type * as RetryBudget from "./RetryBudget.ts"
import * as StackOptions from "./StackOptions.ts"
import * as Timeout from "./Timeout.ts"

/** The document, the Schema of a backoff, and that of a positive duration. */
export { Backoff, Period, PolicySpec } from "./internal/document.ts"
export type { Read } from "./internal/document.ts"

// Reading ------------------------------------------------------------------------------------------

/** A spec that cannot be read, names what no binding knows, or states what its policies refuse. */
export class SpecError extends Schema.TaggedError<SpecError>()("SpecError", {
  /** One problem a line, each with where it stands. */
  message: Schema.String
}) {}

const decode = Schema.decodeUnknownEffect(PolicySpec)
const strictly = { errors: "all", onExcessProperty: "error", reportInput: true } as const

/** Reads a spec from data. Every problem is reported at once, unknown fields too. */
export const read = (document: unknown): Effect.Effect<Read, SpecError> =>
  Effect.mapError(decode(document, strictly), (error) => new SpecError({ message: error.message }))

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
}

const bound = <A>(
  table: Readonly<Record<string, A>> | undefined,
  what: keyof Bindings,
  name: string
): Effect.Effect<A, SpecError> => {
  const value = table?.[name]
  return value === undefined
    ? Effect.fail(
      new SpecError({
        message: `${what}: nothing is bound to "${name}"; known: ${Object.keys(table ?? {}).join(", ") || "none"}`
      })
    )
    : Effect.succeed(value)
}

/** The options a spec stands for, its names replaced by what they mean. */
export const options = (
  spec: Read,
  bindings: Bindings = {}
): Effect.Effect<StackOptions.StackOptions, SpecError> =>
  Effect.gen(function*() {
    const { adaptiveLimiter, adaptiveThrottle, bulkhead, circuitBreaker, hedge, rateLimiter, retry, timeout } = spec
    const schedule = <S extends object>(stated: S | { readonly schedule: string }) =>
      "schedule" in stated ? bound(bindings.schedules, "schedules", stated.schedule) : Effect.succeed(stated)
    const resolved: { -readonly [K in keyof StackOptions.StackOptions]: StackOptions.StackOptions[K] } = {}
    if (retry !== undefined) {
      resolved.retry = retry === false ? false : {
        ...retry,
        backoff: retry.backoff === undefined ? undefined : yield* schedule(retry.backoff),
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
      const stated = circuitBreaker === false ? undefined : circuitBreaker.openFor
      resolved.circuitBreaker = circuitBreaker === false ? false : {
        ...circuitBreaker,
        openFor: stated === undefined || Duration.isDuration(stated) ? stated : yield* schedule(stated)
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

/** A compiled spec: the stack, and each slot's policy. */
export interface Compiled extends Policy.OfKind<"stack", StackError> {
  readonly spec: Read
  readonly slots: Slots
}

/** The policies of the slots a spec names. */
export interface Slots {
  readonly budget?: RetryBudget.RetryBudget | undefined
  readonly retry?: Retry.Retry | undefined
  readonly hedge?: Hedge.Hedge | undefined
  readonly rateLimiter?: RateLimiter.RateLimiter | undefined
  readonly adaptiveThrottle?: AdaptiveThrottle.AdaptiveThrottle | undefined
  readonly circuitBreaker?: CircuitBreaker.CircuitBreaker | undefined
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
export const compile = (document: PolicySpec, bindings: Bindings = {}): Effect.Effect<Compiled, SpecError> =>
  Effect.flatMap(read(document), (spec) => assemble(spec, bindings, undefined))

/** Refuses a spec that cannot work, with the linter's arithmetic, and warns of what is rarely meant. */
const lint = (spec: Read): Effect.Effect<void, SpecError> =>
  Effect.withFiber((fiber) => {
    const findings = Lint.check(spec)
    const errors = findings.filter((finding) => finding.severity === "error")
    if (errors.length > 0) return Effect.fail(new SpecError({ message: Lint.text(errors) }))
    const receiver = CallEvent.receiverOf(fiber)
    for (const { message, path, rule } of receiver === undefined ? [] : findings) {
      receiver?.event({
        _tag: "Warning",
        policy: spec.name ?? "policy",
        why: `${rule} ${path}: ${message}`,
        atMillis: Timer.now(fiber)
      })
    }
    return Effect.void
  })

/** Makes each slot, or takes over the former one's where it says the same, or its state where that fits. */
const assemble = (
  spec: Read,
  bindings: Bindings,
  former: Compiled | undefined
): Effect.Effect<Compiled, SpecError> =>
  asSpecError(Effect.gen(function*() {
    const { name = "policy" } = spec
    yield* lint(spec)
    const stated = yield* options(spec, bindings)
    const old = former?.slots ?? {}
    const same = (slot: keyof Read): boolean =>
      former !== undefined && former.name === name && Equal.equals(former.spec[slot], spec[slot])
    /** `undefined` for an absent slot, the old policy for an unchanged one, else `make`'s. */
    const slot = <K extends keyof Slots & keyof StackOptions.StackOptions, P extends Slots[K] & object>(
      key: K,
      make: (slot: Exclude<StackOptions.StackOptions[K], false | undefined>) => Effect.Effect<P>
    ): Effect.Effect<P | undefined> => {
      const options = stated[key]
      if (options === undefined || options === false) return Effect.succeed(undefined)
      if (same(key) && old[key] !== undefined) return Effect.succeed(old[key] as P)
      return make(options as Exclude<StackOptions.StackOptions[K], false | undefined>)
    }

    const budgetOf = (of: Read["retry"]) => (of === undefined || of === false ? undefined : of.budget)
    const budget = stated.retry === undefined || stated.retry === false
      ? stated.hedge === undefined ? undefined : yield* StackOptions.budgetOf(name, {})
      : old.budget !== undefined && Equal.equals(budgetOf(former?.spec.retry), budgetOf(spec.retry))
      ? old.budget
      : yield* StackOptions.budgetOf(name, stated.retry)
    // What holds a budget is made anew with another one.
    const keepsBudget = budget === old.budget
    const slots: Slots = {
      budget,
      retry: yield* slot("retry", (options) => StackOptions.retry(name, options, budget)),
      hedge: keepsBudget || stated.hedge === undefined
        ? yield* slot("hedge", (options) => StackOptions.hedge(name, options, budget))
        : yield* StackOptions.hedge(name, stated.hedge, budget),
      rateLimiter: yield* slot("rateLimiter", (options) => StackOptions.simple.rateLimiter(name, options)),
      adaptiveThrottle: yield* slot(
        "adaptiveThrottle",
        (options) => StackOptions.simple.adaptiveThrottle(name, options)
      ),
      circuitBreaker: yield* slot("circuitBreaker", (options) => breaker(name, options, old.circuitBreaker)),
      bulkhead: yield* slot("bulkhead", (options) =>
        old.bulkhead === undefined
          ? StackOptions.simple.bulkhead(name, options)
          : Effect.as(old.bulkhead.resize(options.limit, options), old.bulkhead)),
      adaptiveLimiter: yield* slot("adaptiveLimiter", (options) => StackOptions.simple.adaptiveLimiter(name, options)),
      timeout: yield* slot("timeout", (options) => StackOptions.simple.timeout(name, options))
    }
    const stack = Policy.stack(slots)
    const { deadline, idempotent } = spec
    return Policy.make<StackError, never, "stack", Pick<Compiled, "spec" | "slots">>(
      {
        name,
        kind: "stack",
        run: (self) => {
          const guarded = deadline === undefined ? stack.run(self) : Timeout.withDeadline(stack.run(self), deadline)
          return idempotent === true ? CallContext.annotate(guarded, { idempotent }) : guarded
        }
      },
      { spec, slots }
    )
  }))

/** A breaker that goes on where the former one stood: open stays open, and what its window knows counts. */
const breaker = (
  name: string,
  options: StackOptions.CircuitBreakerSlot,
  former: CircuitBreaker.CircuitBreaker | undefined
): Effect.Effect<CircuitBreaker.CircuitBreaker> =>
  Effect.gen(function*() {
    const made = yield* StackOptions.circuitBreaker(name, options)
    if (former !== undefined) yield* made.restore(yield* former.snapshot)
    return made
  })

// Running ------------------------------------------------------------------------------------------

/** A stack whose spec can be replaced while it runs. */
export interface Running extends Policy.OfKind<"stack", StackError> {
  /** What runs now. */
  readonly current: Effect.Effect<Compiled>
  /**
   * Takes a new spec: the next call goes by it, calls in flight end by the old
   * one. A slot that says the same keeps its policy, a changed breaker goes on
   * in its state, a changed bulkhead is resized. A spec that cannot be compiled
   * fails with a `SpecError` and changes nothing; either way there is an event.
   */
  readonly reload: (document: unknown) => Effect.Effect<void, SpecError>
}

/** Makes the stack of a spec that can be replaced. */
export const make = (document: PolicySpec, bindings: Bindings = {}): Effect.Effect<Running, SpecError> =>
  Effect.map(compile(document, bindings), (first) => {
    let current = first
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
      Effect.flatMap(read(document), (spec) => assemble(spec, bindings, current)).pipe(
        Effect.matchEffect({
          onFailure: (error) => Effect.andThen(told(false, error.message), Effect.fail(error)),
          onSuccess: (next) =>
            Effect.suspend(() => {
              const changed = difference(current.spec, next.spec)
              current = next
              return told(true, changed)
            })
        })
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
    else lines.push(`${path} ${String(a)} -> ${String(b)}`)
  }
  walk("", encode(from), encode(to))
  return lines.join(", ") || "nothing changed"
}

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)
