/**
 * One ledger per target for everything that is sent more than once.
 *
 * A call whose first attempt succeeds earns a tenth of a token; a retry or a
 * hedge spends one. So the extra load on a target is a tenth of the calls that
 * work, and next to nothing when none do, however many attempts a policy allows.
 * A reserve, a twentieth of all calls but one token per `ttl` at most, lets a
 * client that makes few calls retry some. Backoff alone moves an overload, it
 * does not bound it.
 *
 * Share one budget between every `Retry` and `Hedge` that sends to the same
 * target: two ledgers are twice the load. One layer of a call deposits, the
 * others only withdraw; a `Retry` inside a `Retry` does neither.
 *
 * A budget starts empty and has no floor in tokens per second, so that attempts
 * per call stay at or below `1 + ratio + reserve` from the first call on, for one
 * client as for a thousand. The price is that nothing is retried before some
 * calls have succeeded, and that a client that makes fewer than twelve calls per
 * minute never has a token: give it no budget, or a larger `reserve`.
 *
 * It is not a rate limit and never waits: first attempts are never refused.
 *
 * Source: Finagle `RetryBudget`, which deposits on success only and forgets; the
 * ratio of 0.1, Google SRE, "Handling Overload".
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Options from "../contract/Options.ts"
import * as Timer from "../contract/Timer.ts"
import * as Core from "./internal/budget.ts"
import * as Policy from "./Policy.ts"

export interface RetryBudgetOptions {
  /** Names the budget in errors, events and the dashboard. Default `"RetryBudget"`. */
  readonly name?: string | undefined
  /** Tokens earned by a call whose first attempt succeeded: a number `>= 0`. Default 0.1. */
  readonly ratio?: number | undefined
  /** Tokens earned by the first attempt of any call, kept for 100 seconds, one per `ttl`: a number `>= 0`. Default 0.05. */
  readonly reserve?: number | undefined
  /**
   * How long what `ratio` earned may be spent, and so how much at once: 1 to 60 seconds. Default 3 seconds, which is
   * enough to repeat what was in flight when a third of the endpoints died, at latencies up to 1 s. In the collapse
   * simulation a slow overload costs 2 % of goodput with 3 s and 3 % with Finagle's 10.
   */
  readonly ttl?: Duration.Input | undefined
}

/** A token that was granted: spent, unless it is given back. */
export type Token = Core.Token

/** What a budget is at one moment. */
export interface Snapshot {
  /** Tokens that could be granted: a fraction, never negative. */
  readonly balance: number
  /** Tokens granted, refused and given back since the budget was made. */
  readonly granted: number
  readonly refused: number
  readonly refunded: number
}

export interface RetryBudget {
  readonly name: string
  /** Records that the first attempt of a call has ended; only a success earns `ratio`. */
  readonly deposit: (succeeded: boolean) => Effect.Effect<void>
  /** Takes a token and says whether there was one. */
  readonly tryWithdraw: Effect.Effect<boolean>
  /** Reading it changes nothing. */
  readonly snapshot: Effect.Effect<Snapshot>
  /**
   * Goes on by other options, all of them, under its name: what calls have earned and spent stays on the books. With
   * another `ttl` what `ratio` earned begins anew. Dies on what `make` dies on.
   */
  readonly reconfigure: (options: RetryBudgetOptions) => Effect.Effect<void>
  /** `deposit`, for a caller that has the time: milliseconds of the monotonic clock. */
  depositUnsafe(succeeded: boolean, nowMillis: number): void
  /** Takes a token, or says that there is none, in one step. The caller owes a `refundUnsafe` when it buys nothing. */
  withdrawUnsafe(nowMillis: number): Token | undefined
  /** Gives back a token that bought nothing: once per token. */
  refundUnsafe(token: Token, nowMillis: number): void
  /** Tokens that could be granted. */
  balanceUnsafe(nowMillis: number): number
}

/**
 * Creates an empty budget.
 *
 * Dies with a `RangeError` when a field is out of its range.
 */
export const make = (options: RetryBudgetOptions = {}): Effect.Effect<RetryBudget> =>
  Effect.withFiber((fiber) => {
    const { name = "RetryBudget" } = options
    const ledger = Core.make(checked("RetryBudget.make", options))
    let granted = 0
    let refused = 0
    let refunded = 0
    let latest = 0
    const budget: RetryBudget = {
      name,
      depositUnsafe: (succeeded, now) => Core.deposit(ledger, succeeded, latest = now),
      withdrawUnsafe: (now) => {
        const token = Core.withdraw(ledger, latest = now)
        if (token === undefined) refused++
        else granted++
        return token
      },
      refundUnsafe: (token, now) => {
        refunded++
        Core.refund(ledger, token, latest = now)
      },
      balanceUnsafe: (now) => Core.balance(ledger, now),
      deposit: (succeeded) =>
        Effect.withFiber((fiber) => {
          budget.depositUnsafe(succeeded, Timer.now(fiber))
          return Effect.void
        }),
      tryWithdraw: Effect.withFiber((fiber) => Effect.succeed(budget.withdrawUnsafe(Timer.now(fiber)) !== undefined)),
      snapshot: Effect.withFiber((fiber) => Effect.succeed(snapshot(Timer.now(fiber)))),
      reconfigure: (options) => Effect.sync(() => Core.change(ledger, checked("RetryBudget.reconfigure", options)))
    }
    const snapshot = (now: number): Snapshot => ({ balance: Core.balance(ledger, now), granted, refused, refunded })
    // A registry asks without a clock: as of the last movement.
    fiber.getRef(Policy.CurrentRegistry)?.register({ name, kind: "custom", snapshot: () => snapshot(latest) })
    return Effect.succeed(budget)
  })

const checked = (where: string, options: RetryBudgetOptions): Core.Options => {
  const ttlMillis = Options.millis(where, "ttl", options.ttl ?? "3 seconds")
  Options.check(ttlMillis >= 1000 && ttlMillis <= 60_000, where, "ttl", "from 1 to 60 seconds", options.ttl)
  return {
    ratio: Options.finite(where, "ratio", options.ratio ?? 0.1, 0),
    reserve: Options.finite(where, "reserve", options.reserve ?? 0.05, 0),
    ttlMillis
  }
}
