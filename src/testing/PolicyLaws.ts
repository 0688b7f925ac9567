/**
 * Laws every policy has to hold, for your own as for ours.
 *
 * - Transparent: an answer passes as it is, and so do a defect and an interrupt.
 * - Errors are kept: a failure ends as itself, or as a `CallError` that carries it as its `last`.
 * - Conserved: whatever fails, dies, hangs or is interrupted at whatever step, in
 *   the end no permit is held, nobody waits, no timer runs, and everybody who
 *   called has been answered.
 * - Monotonic time only: leaps of the wall clock change no decision.
 * - Deterministic: the same calls, times and chance end the same.
 *
 * What is held is read off the policy's own words: what it announces to
 * `Policy.CurrentRegistry`, and `held` for one that announces nothing.
 *
 * The calls are generated, run in virtual time and in random orders; a broken
 * law is shrunk to the fewest, simplest calls. A policy that answers in place of
 * what it guards (a fallback, a cache) breaks the first two laws by design:
 * leave them out with `substitutes`.
 */
import * as Arbitrary from "effect/Arbitrary"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import * as Timer from "../contract/Timer.ts"
import * as Policy from "../policy/Policy.ts"
import * as Interleaver from "./internal/interleaver.ts"
import { Dice } from "./internal/simDraw.ts"
import * as Laws from "./Laws.ts"

export interface PolicyLawsOptions<P> extends Laws.CheckOptions {
  /** What the policy holds for calls that are in flight, where its announced state does not say. */
  readonly held?: ((policy: P) => Effect.Effect<number>) | undefined
  /** Whether it may answer instead of what it guards. Default `false`. */
  readonly substitutes?: boolean | undefined
}

/** What a policy is to these laws: it stands around an Effect. */
interface Guard {
  readonly name: string
  run<A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<unknown, unknown, unknown>
}

/** One call: when it is made, how long what it guards takes, how that ends, and when its caller leaves, if it does. */
export interface Call {
  readonly at: number
  readonly takes: number
  readonly ends: "succeeds" | "fails" | "dies" | "hangs"
  /** After how long the caller leaves; 0 for never. A call that hangs is left in any case. */
  readonly leaves: number
}

/** Calls of one case, and the seed of their order and chance. */
export interface Case {
  readonly calls: ReadonlyArray<Call>
  readonly seed: number
}

const int = (maximum: number) => Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum })))

/** Generates calls: at most eight within half a second, of which some fail, die, hang or are left. */
export const cases: Arbitrary.Arbitrary<Case> = Arbitrary.all({
  calls: Arbitrary.array(
    Arbitrary.all({
      // In coarse steps, so that much happens at the same time.
      at: Arbitrary.map(int(10), (n) => n * 50),
      takes: Arbitrary.map(int(12), (n) => n * 25),
      ends: Arbitrary.schema(Schema.Literals(["succeeds", "fails", "dies", "hangs"])),
      leaves: Arbitrary.map(int(16), (n) => n * 25)
    }),
    { minLength: 1, maxLength: 8 }
  ),
  seed: int(1e6)
})

/**
 * Checks the laws on generated calls; `make` makes the policy anew for each case. Fails with the first law that is broken.
 *
 * Dies with a `RangeError` when an option is out of range.
 */
export const check = <P extends Guard>(
  make: Effect.Effect<P>,
  options: PolicyLawsOptions<P> = {}
): Effect.Effect<void, Laws.LawBroken> =>
  Effect.withFiber((fiber) => {
    const play = (it: Case, leap: number) => run(make, options.held, it, fiber.context, leap)
    return Laws.check(cases, (it) =>
      Effect.gen(function*() {
        const first = play(it, 0)
        yield* judge(first, options.substitutes === true)
        const told = (other: Played) => () => `first ${first.story}, then ${other.story}`
        const again = play(it, 0)
        yield* Laws.holds(again.story === first.story, "the same calls end the same", told(again))
        const leapt = play(it, 3_600_000)
        yield* Laws.holds(leapt.story === first.story, "the wall clock decides nothing", told(leapt))
      }), options)
  })

/** How one call ended, and when. */
interface Ended {
  readonly call: Call
  readonly error: object
  readonly exit: Exit.Exit<unknown, unknown>
  /** Whether what it guards has begun and ended by itself. */
  readonly done: boolean
  readonly at: number
}

interface Played {
  /** `undefined` for a run that did not end. */
  readonly ended: ReadonlyArray<Ended> | undefined
  readonly held: ReadonlyArray<string>
  readonly timers: number
  /** Everything decided, as one line: what two runs are compared by. */
  readonly story: string
}

const judge = ({ ended, held, timers }: Played, substitutes: boolean): Effect.Effect<void, Laws.Breach> =>
  Effect.gen(function*() {
    yield* Laws.holds(ended !== undefined, "everybody is answered", () => "some call never ends")
    for (const one of substitutes ? [] : ended!) {
      const told = () => `a call that ${one.call.ends} ended with ${tell(one.exit)}`
      yield* Laws.holds(isTransparent(one), "what is guarded ends as it would without the policy", told)
    }
    yield* Laws.holds(held.length === 0, "everything is given back", () => held.join(", "))
    yield* Laws.holds(timers === 0, "no timer is left", () => `${timers} run`)
  })

const isTransparent = ({ call, error, done, exit }: Ended): boolean => {
  if (Exit.isSuccess(exit)) return call.ends === "succeeds" && exit.value === error
  return exit.cause.reasons.every((reason) => {
    if (Cause.isInterruptReason(reason)) return call.leaves > 0 || call.ends === "hangs"
    if (Cause.isDieReason(reason)) return call.ends === "dies" && reason.defect === error
    // A policy may refuse what has not begun, and give up what takes too long; what has failed is to be found in its error.
    return !done || call.ends === "succeeds" || carries(reason.error, error)
  })
}

const carries = (error: unknown, original: object): boolean =>
  error === original || CallError.isCallError(error) && "last" in error.reason && carries(error.reason.last, original)

const tell = (exit: Exit.Exit<unknown, unknown>): string =>
  Exit.isSuccess(exit)
    ? "its answer"
    : exit.cause.reasons.map((reason) =>
      Cause.isInterruptReason(reason)
        ? "an interrupt"
        : Cause.isDieReason(reason)
        ? `the defect ${String(reason.defect)}`
        : CallError.isCallError(reason.error)
        ? reason.error.reason._tag
        : "its error"
    ).join(" and ")

/** Words of a policy's state that count calls in flight or waiting. */
const counts = ["inFlight", "queued", "waiting", "probes"]

const run = <P extends Guard>(
  make: Effect.Effect<P>,
  heldOf: ((policy: P) => Effect.Effect<number>) | undefined,
  { calls, seed }: Case,
  context: Context.Context<never>,
  leap: number
): Played => {
  const registered = new Set<Policy.Registered>()
  const register = (policy: Policy.Registered) => {
    registered.add(policy)
    return () => void registered.delete(policy)
  }
  const ended: Array<Ended> = []
  const held: Array<string> = []
  let timers = 0
  const all = Effect.gen(function*() {
    const policy = yield* make
    const clock = yield* Clock.Clock
    const fibers = yield* Effect.forEach(calls, (call, i) => Effect.forkDetach(play(policy, call, `${i}`, ended)))
    yield* Fiber.awaitAll(fibers)
    // What was left to itself, the loser of a hedge or work that ran out of time, has ended by then.
    yield* Effect.sleep("1 minute")
    for (const { name, snapshot } of registered) {
      for (const [field, value] of Object.entries(snapshot() as object)) {
        if (counts.includes(field) && value !== 0) held.push(`${name}: ${field} is ${String(value)}`)
      }
    }
    const own = heldOf === undefined ? 0 : yield* heldOf(policy)
    if (own !== 0) held.push(`${policy.name} holds ${own}`)
    timers = Timer.size(clock)
  })
  const observed = Effect.provideService(all, Policy.CurrentRegistry, { register })
  const leaping = leap === 0
    ? observed
    : Effect.updateService(observed, Clock.Clock, (clock) => leapingClock(clock, leap))
  const source = Interleaver.randomly(new Dice(seed, "order"))
  const { exit } = Interleaver.run(leaping, context, source, seed, 1e6)
  if (exit !== undefined && Exit.isFailure(exit)) throw Cause.squash(exit.cause)
  const lines = calls.map((call) => {
    const one = ended.find((ended) => ended.call === call)
    return one === undefined ? "never" : `${tell(one.exit)} at ${one.at} ms`
  })
  return { ended: exit === undefined ? undefined : ended, held, timers, story: lines.join("; ") }
}

/** Makes one call when its time has come, and its caller leave when that has. */
const play = (policy: Guard, call: Call, key: string, ended: Array<Ended>): Effect.Effect<void> =>
  Effect.gen(function*() {
    const error = { toString: () => "the call's own" }
    let done = false
    const work = Effect.sleep(Duration.millis(call.takes)).pipe(
      Effect.andThen(Effect.suspend((): Effect.Effect<unknown, unknown> => {
        done = call.ends !== "hangs"
        switch (call.ends) {
          case "succeeds":
            return Effect.succeed(error)
          case "fails":
            return Effect.fail(error)
          case "dies":
            return Effect.die(error)
          case "hangs":
            return Effect.never
        }
      }))
    )
    yield* Effect.sleep(Duration.millis(call.at))
    const guarded = policy.run(work) as Effect.Effect<unknown, unknown>
    const fiber = yield* Effect.forkDetach(CallContext.annotate(guarded, { name: "law", key, idempotent: true }))
    const leaves = call.leaves === 0 && call.ends === "hangs" ? 1000 : call.leaves
    if (leaves > 0) yield* Effect.forkDetach(Effect.delay(Fiber.interrupt(fiber), Duration.millis(leaves)))
    const exit = yield* Fiber.await(fiber)
    ended.push({ call, error, exit, done, at: Timer.nowOf(yield* Clock.Clock) })
  })

/** The same monotonic time, and a wall clock that leaps back and forth by an hour at every look. */
const leapingClock = (clock: Clock.Clock, by: number): Clock.Clock => {
  let sign = -1
  const millis = () => clock.currentTimeMillisUnsafe() + (sign = -sign) * by
  const nanos = () => BigInt(millis()) * 1_000_000n
  return {
    sleep: (duration) => clock.sleep(duration),
    monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe(),
    monotonicTimeNanos: clock.monotonicTimeNanos,
    currentTimeMillisUnsafe: millis,
    currentTimeMillis: Effect.sync(millis),
    currentTimeNanosUnsafe: nanos,
    currentTimeNanos: Effect.sync(nanos)
  }
}
