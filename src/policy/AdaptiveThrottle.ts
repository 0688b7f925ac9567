/**
 * Rejects, by chance, the share of attempts that the server is refusing anyway.
 *
 * The throttle learns from outcomes: while the server accepts at least one of
 * `k` attempts nothing happens; beyond that the excess is rejected here, where it
 * costs neither side anything. An attempt counts as not accepted when its outcome
 * is a failure of the endpoint; one that is ignored (a caller that left, a policy
 * inside that rejected) counts as neither. It never waits, and it never rejects
 * everything: at most `maxRejection`, and after `forcedPass` without an attempt
 * one passes, or nobody would see the server recover.
 *
 * State is per value: share one throttle among all callers of a dependency. In a
 * stack it is inside the retry loop, since the server counts attempts, and
 * outside the pick, since it speaks of the dependency and not of one endpoint.
 *
 * Source: Google SRE, "Handling Overload"; go-zero `googlebreaker`, which is
 * `{ k: 1.5, kMin: 1.1, window: "10 seconds", maxRejection: 1 }`.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Options from "../contract/Options.ts"
import * as Outcome from "../contract/Outcome.ts"
import * as Timer from "../contract/Timer.ts"
import { type Options as RejectionOptions, type Pending, Rejection } from "./internal/rejection.ts"
import * as Policy from "./Policy.ts"

/** A policy that rejects what the server would refuse. */
export interface AdaptiveThrottle extends Policy.OfKind<"adaptiveThrottle", CallError.CallError<CallError.Throttled>> {
  /** The figures the next decision starts from. */
  readonly status: Effect.Effect<Status>
  /**
   * Goes on by other options, all of them, under its name: what the window knows counts, or with another `window`
   * nothing does. Dies on what `make` dies on.
   */
  readonly reconfigure: (options: AdaptiveThrottleOptions) => Effect.Effect<void>
}

export interface Status {
  /** Attempts in the window: ended, rejected here, or in flight for longer than expected. */
  readonly requests: number
  /** Attempts in the window that the server accepted. */
  readonly accepts: number
  /** Attempts in the window that were rejected here. */
  readonly rejections: number
  readonly inFlight: number
  /** How long an attempt takes on average; `Infinity` before one has ended. */
  readonly expectedMillis: number
  /** The share of attempts being rejected. */
  readonly ratio: number
}

export interface AdaptiveThrottleOptions {
  /**
   * How many attempts may be made for one that is accepted: a number `>= 1`. 2 lets as many fail as succeed before it
   * rejects; lower is stricter, and at 1 every failure is answered. Default 2.
   */
  readonly k?: number | undefined
  /** What `k` falls to while the server accepts nothing at all: in `[1, k]`. Default `k`. */
  readonly kMin?: number | undefined
  /**
   * How far back outcomes count, in 40 steps. After a recovery the last rejection is at most this long ago. Default 30
   * seconds: at one attempt per second still 30 outcomes, so that the ratio of one window means something.
   */
  readonly window?: Duration.Input | undefined
  /** Attempts the ratio forgives, so that a handful of failures rejects nothing: an integer `>= 0`. Default 5. */
  readonly minimumCalls?: number | undefined
  /** Largest share to reject: in `(0, 1]`. Default 0.9, so that one attempt in ten asks how the server is. */
  readonly maxRejection?: number | undefined
  /** An attempt passes when none has for this long, even at a ratio of 1: positive and finite. Default 1 second. */
  readonly forcedPass?: Duration.Input | undefined
  /** Name in errors, events and the dashboard. Default `"AdaptiveThrottle"`. */
  readonly name?: string | undefined
}

/**
 * Creates a throttle that has seen nothing yet and admits everything.
 *
 * Dies with a `RangeError` when an option is out of its range.
 */
export const make = (options: AdaptiveThrottleOptions = {}): Effect.Effect<AdaptiveThrottle> =>
  Effect.withFiber((maker) => {
    const { name = "AdaptiveThrottle" } = options
    let core = new Rejection(checked("AdaptiveThrottle.make", options))
    /** As of the last decision, for those who look without asking for one. */
    let ratio = 0

    const throttle = Policy.make<
      CallError.CallError<CallError.Throttled>,
      never,
      "adaptiveThrottle",
      Pick<AdaptiveThrottle, "status" | "reconfigure">
    >(
      {
        name,
        kind: "adaptiveThrottle",
        run: <A, E, R>(self: Effect.Effect<A, E, R>) =>
          Effect.withFiber<A, E | CallError.CallError<CallError.Throttled>, R>((fiber) => {
            let pending: Pending | undefined
            let admittedBy = core
            return Effect.onExitPrimitive(
              // Admitted in the step after the release is in place: between two steps a fiber may be interrupted.
              Effect.withFiber<A, E | CallError.CallError<CallError.Throttled>, R>(() => {
                const now = Timer.now(fiber)
                admittedBy = core
                ratio = core.ratio(now)
                if (ratio > 0 && !core.mustPass(now) && fiber.getRef(Random.Random).nextDoubleUnsafe() < ratio) {
                  core.reject(now)
                  const error = new CallError.CallError({ _tag: "Throttled", policy: name, sent: "no", ratio })
                  CallEvent.receiverOf(fiber)?.event({
                    _tag: "Rejected",
                    call: fiber.getRef(CallContext.Current),
                    policy: name,
                    reason: "Throttled",
                    error,
                    state: undefined,
                    atMillis: now
                  })
                  return Effect.fail(error)
                }
                pending = core.admit(now)
                return self
              }),
              (exit) => {
                if (pending === undefined) return undefined
                admittedBy.end(pending, Timer.now(fiber))
                // Classifying may run the caller's code, and that may throw: the attempt has ended by then.
                const { endpoint } = Outcome.ofExit(exit, fiber.getRef(CallContext.Current))
                if (endpoint !== "ignored") admittedBy.record(endpoint === "success")
                return undefined
              }
            )
          })
      },
      {
        status: Effect.withFiber((fiber) => {
          const now = Timer.now(fiber)
          const ratio = core.ratio(now)
          return Effect.succeed({ ...core.status(), ratio })
        }),
        reconfigure: (options) =>
          Effect.sync(() => {
            const wanted = checked("AdaptiveThrottle.reconfigure", options)
            if (!core.change(wanted)) core = new Rejection(wanted)
          })
      }
    )
    maker.getRef(Policy.CurrentRegistry)?.register({
      name,
      kind: throttle.kind,
      snapshot: () => ({ ...core.status(), ratio })
    })
    return Effect.succeed(throttle)
  })

const checked = (where: string, options: AdaptiveThrottleOptions): RejectionOptions => {
  const k = Options.finite(where, "k", options.k ?? 2, 1)
  return {
    k,
    kMin: Options.finite(where, "kMin", options.kMin ?? k, 1, k),
    windowMillis: Options.millis(where, "window", options.window ?? "30 seconds"),
    minimumCalls: Options.integer(where, "minimumCalls", options.minimumCalls ?? 5, 0),
    maxRejection: Options.ratio(where, "maxRejection", options.maxRejection ?? 0.9),
    forcedPassMillis: Options.millis(where, "forcedPass", options.forcedPass ?? "1 second")
  }
}
