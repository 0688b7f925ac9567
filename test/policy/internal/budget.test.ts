import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import * as Budget from "../../../src/policy/internal/budget.ts"

const make = (options: Partial<Budget.Options> = {}) =>
  Budget.make({ ratio: 0.1, reserve: 0.05, ttlMillis: 10_000, ...options })

/** How many of `count` tokens are granted at one instant. */
const drain = (ledger: Budget.Ledger, now: number, count = 100_000) => {
  let granted = 0
  while (granted < count && Budget.withdraw(ledger, now) !== undefined) granted++
  return granted
}

/** First attempts, `perSecond` of them, in `[from, to)` seconds. */
const traffic = (ledger: Budget.Ledger, perSecond: number, from: number, to: number, succeeded = true) => {
  for (let i = from * perSecond; i < to * perSecond; i++) Budget.deposit(ledger, succeeded, (i * 1000) / perSecond)
}

/** The ledger as it is defined: everything is remembered, and summed up anew for every question. */
class Reference {
  private readonly options: Budget.Options
  private readonly firsts: Array<{ readonly at: number; readonly succeeded: boolean }> = []
  private readonly spent: Array<{ readonly at: number; readonly earned: number; readonly reserve: number }> = []
  constructor(options: Budget.Options) {
    this.options = options
  }
  deposit(succeeded: boolean, at: number) {
    this.firsts.push({ at, succeeded })
  }
  private in(window: number, now: number) {
    const slice = (at: number) => Math.floor(at / (window / 10))
    return ({ at }: { readonly at: number }) => slice(at) > slice(now) - 10
  }
  parts(now: number) {
    const { ratio, reserve, ttlMillis } = this.options
    const short = this.in(ttlMillis, now)
    const long = this.in(100_000, now)
    const sum = (spent: Reference["spent"], of: "earned" | "reserve") => spent.reduce((total, s) => total + s[of], 0)
    const earned = ratio * this.firsts.filter(short).filter((first) => first.succeeded).length -
      sum(this.spent.filter(short), "earned")
    const lasting = reserve * this.firsts.filter(long).length - sum(this.spent.filter(long), "reserve")
    const sudden = 1 - sum(this.spent.filter(short), "reserve")
    return { earned: Math.max(0, earned), reserve: Math.max(0, Math.min(lasting, sudden)) }
  }
  withdraw(now: number) {
    const { earned, reserve } = this.parts(now)
    if (earned + reserve < 1 - 1e-9) return undefined
    const spent = { at: now, earned: Math.min(1, earned), reserve: 1 - Math.min(1, earned) }
    this.spent.push(spent)
    return spent
  }
  refund(spent: Reference["spent"][number]) {
    this.spent.splice(this.spent.indexOf(spent), 1)
  }
}

const step = Schema.Struct({
  gap: Schema.Literals([0, 0, 0, 1, 400, 1100, 9500, 30_000]),
  move: Schema.Literals(["succeed", "succeed", "succeed", "fail", "withdraw", "withdraw", "refund"]),
  times: Schema.Literals([1, 3, 20])
})

describe("budget", () => {
  it.prop(
    "decides like a ledger that remembers everything",
    {
      steps: Schema.Array(step),
      ratio: Schema.Literals([0, 0.1, 0.5, 2]),
      reserve: Schema.Literals([0, 0.05, 0.3]),
      ttlMillis: Schema.Literals([1000, 10_000, 60_000])
    },
    ({ steps, ...options }) => {
      const ledger = Budget.make(options)
      const reference = new Reference(options)
      const tokens: Array<readonly [Budget.Token, NonNullable<ReturnType<Reference["withdraw"]>>]> = []
      let now = 12_345
      for (const { gap, move, times } of steps) {
        now += gap
        for (let i = 0; i < times; i++) {
          if (move === "withdraw") {
            const token = Budget.withdraw(ledger, now)
            const expected = reference.withdraw(now)
            assert.strictEqual(token !== undefined, expected !== undefined)
            if (token !== undefined) tokens.push([token, expected!])
          } else if (move === "refund") {
            const pair = tokens.pop()
            if (pair === undefined) break
            Budget.refund(ledger, pair[0], now)
            reference.refund(pair[1])
          } else {
            Budget.deposit(ledger, move === "succeed", now)
            reference.deposit(move === "succeed", now)
          }
        }
        const { earned, reserve } = reference.parts(now)
        assert.closeTo(Budget.balance(ledger, now), earned + reserve, 1e-6)
      }
    }
  )

  it.prop(
    "never grants more than ratio × successes + reserve × first attempts",
    { steps: Schema.Array(step), ratio: Schema.Literals([0.1, 0.5]), reserve: Schema.Literals([0, 0.05, 0.3]) },
    ({ ratio, reserve, steps }) => {
      const ledger = make({ ratio, reserve })
      let [now, successes, firsts, granted] = [0, 0, 0, 0]
      for (const { gap, move, times } of steps) {
        now += gap
        for (let i = 0; i < times; i++) {
          // Whatever may be spent is spent at once.
          if (Budget.withdraw(ledger, now) !== undefined) granted++
          if (move === "refund" || move === "withdraw") continue
          Budget.deposit(ledger, move === "succeed", now)
          firsts++
          if (move === "succeed") successes++
          assert.isAtMost(granted, ratio * successes + reserve * firsts + 1e-6)
        }
      }
    }
  )

  it("holds nothing at the start", () => {
    assert.strictEqual(Budget.balance(make(), 0), 0)
    assert.isUndefined(Budget.withdraw(make({ ratio: 2, reserve: 1 }), 1e9))
  })

  // RT-22
  it.each([0.0001, 0.01, 0.1, 0.5, 0.9, 0.9999])(
    "a ratio of %d grants that share of 10,000 withdrawals, not the first",
    (ratio) => {
      const ledger = make({ ratio, reserve: 0 })
      assert.isUndefined(Budget.withdraw(ledger, 0))
      let granted = 0
      for (let i = 0; i < 10_000; i++) {
        Budget.deposit(ledger, true, 0)
        if (Budget.withdraw(ledger, 0) !== undefined) granted++
      }
      assert.isAtMost(Math.abs(granted - 10_000 * ratio), 1)
    }
  )

  // RT-23: there the reserve is 10 per second, which a thousand clients have a thousand times.
  it("10,000 deposits are worth 20,000 tokens at a ratio of 2, and 1,001 at 0.1 with the reserve", () => {
    const double = make({ ratio: 2, reserve: 0 })
    const usual = make()
    for (let i = 0; i < 10_000; i++) {
      Budget.deposit(double, true, 0)
      Budget.deposit(usual, true, 0)
    }
    assert.strictEqual(Budget.balance(double, 0), 20_000)
    assert.strictEqual(drain(usual, 0), 1001)
  })

  it("ten deposits of a tenth are a token", () => {
    const ledger = make({ reserve: 0 })
    for (let i = 0; i < 10; i++) Budget.deposit(ledger, true, i)
    assert.isDefined(Budget.withdraw(ledger, 10))
    assert.isUndefined(Budget.withdraw(ledger, 10))
  })

  it("a first attempt that failed earns the reserve alone", () => {
    const ledger = make()
    for (let i = 0; i < 19; i++) Budget.deposit(ledger, false, i)
    assert.isUndefined(Budget.withdraw(ledger, 20))
    Budget.deposit(ledger, false, 20)
    assert.isDefined(Budget.withdraw(ledger, 20))
  })

  it("what a success earned is forgotten after the ttl, the reserve after 100 s", () => {
    const ledger = make()
    traffic(ledger, 10, 0, 2)
    assert.closeTo(Budget.balance(ledger, 2000), 3, 1e-9)
    assert.closeTo(Budget.balance(ledger, 9999), 3, 1e-9)
    // The oldest tenth of the ttl is gone, and with it ten of the twenty.
    assert.closeTo(Budget.balance(ledger, 10_000), 2, 1e-9)
    assert.closeTo(Budget.balance(ledger, 12_000), 1, 1e-9)
    assert.closeTo(Budget.balance(ledger, 99_999), 1, 1e-9)
    assert.strictEqual(Budget.balance(ledger, 100_000), 0)
  })

  it("the reserve is a twentieth of the first attempts of 100 s, and one token per ttl", () => {
    // 25 per 100 s: one token, and one of the next 20; a thousand per second: one per ttl.
    for (const [perSecond, granted] of [[0.25, 5], [1000, 41]] as const) {
      const ledger = make({ ratio: 0 })
      let seen = 0
      for (let i = 0; i < 400 * perSecond; i++) {
        Budget.deposit(ledger, false, (i * 1000) / perSecond)
        if (Budget.withdraw(ledger, (i * 1000) / perSecond) !== undefined) seen++
      }
      assert.closeTo(seen, granted, 1)
    }
  })

  it("a client that makes a call every five seconds retries one in twenty", () => {
    const ledger = make()
    let granted = 0
    for (let i = 0; i < 200; i++) {
      Budget.deposit(ledger, false, i * 5000)
      if (Budget.withdraw(ledger, i * 5000) !== undefined) granted++
    }
    assert.strictEqual(granted, 10)
  })

  it.prop(
    "a refund leaves the ledger as if nothing had been taken",
    { successes: Schema.Literals([7, 12, 40]), fails: Schema.Literals([0, 13]), wait: Schema.Literals([0, 900, 1000]) },
    ({ fails, successes, wait }) => {
      const [untouched, ledger] = [make(), make()]
      for (const one of [untouched, ledger]) {
        for (let i = 0; i < successes; i++) Budget.deposit(one, true, 500)
        for (let i = 0; i < fails; i++) Budget.deposit(one, false, 600)
      }
      const token = Budget.withdraw(ledger, 1000)
      if (token !== undefined) Budget.refund(ledger, token, 1000 + wait)
      for (const now of [2000, 5000, 9999, 10_500, 11_500, 50_000, 99_000, 200_000]) {
        assert.closeTo(Budget.balance(ledger, now), Budget.balance(untouched, now), 1e-9)
      }
    }
  )

  it("a refund that comes after its slice was forgotten makes no token", () => {
    const ledger = make()
    traffic(ledger, 10, 0, 2)
    const token = Budget.withdraw(ledger, 2000)!
    traffic(ledger, 1, 21, 22)
    const before = Budget.balance(ledger, 22_000)
    Budget.refund(ledger, token, 22_000)
    assert.closeTo(Budget.balance(ledger, 22_000), before + token.reserve, 1e-9)
    Budget.refund(ledger, { ...token, reserve: 0 }, 22_000)
    assert.closeTo(Budget.balance(ledger, 22_000), before + token.reserve, 1e-9)
  })

  it("a refund one window later, when the ring is round, makes no token", () => {
    const earned = make({ reserve: 0 })
    traffic(earned, 10, 2, 3)
    const token = Budget.withdraw(earned, 2999)!
    Budget.refund(earned, token, 12_000)
    traffic(earned, 10, 12, 13)
    assert.closeTo(Budget.balance(earned, 12_999), 1, 1e-9)
    const reserve = make({ ratio: 0 })
    traffic(reserve, 100, 20, 21, false)
    const taken = Budget.withdraw(reserve, 20_999)!
    Budget.refund(reserve, taken, 120_000)
    traffic(reserve, 10, 120, 121, false)
    assert.closeTo(Budget.balance(reserve, 120_999), 0.5, 1e-9)
  })

  it("a clock that goes back changes nothing", () => {
    const ledger = make()
    traffic(ledger, 10, 50, 52)
    assert.closeTo(Budget.balance(ledger, 0), 3, 1e-9)
    Budget.deposit(ledger, true, 0)
    assert.closeTo(Budget.balance(ledger, 52_000), 3.1, 1e-9)
  })

  it("goes on with another ratio and reserve, which what is on the books is worth", () => {
    const ledger = make()
    traffic(ledger, 10, 0, 4)
    Budget.withdraw(ledger, 4000)
    assert.closeTo(Budget.balance(ledger, 4000), 3 + 1, 1e-9)
    Budget.change(ledger, { ratio: 0.2, reserve: 0, ttlMillis: 10_000 })
    assert.closeTo(Budget.balance(ledger, 4000), 7, 1e-9)
    // Spent more than it is worth now: there is none, and it is not forgotten.
    Budget.change(ledger, { ratio: 0.01, reserve: 0, ttlMillis: 10_000 })
    assert.strictEqual(Budget.balance(ledger, 4000), 0)
  })

  it("with another ttl forgets what the ratio earned and keeps the reserve; a token of before gives back only that", () => {
    const ledger = make({ ratio: 0.05, reserve: 0.05 })
    traffic(ledger, 10, 0, 1)
    const token = Budget.withdraw(ledger, 999)!
    assert.closeTo(token.earned, 0.5, 1e-9)
    Budget.change(ledger, { ratio: 0.05, reserve: 0.05, ttlMillis: 1000 })
    assert.strictEqual(Budget.balance(ledger, 999), 0)
    Budget.refund(ledger, token, 999)
    assert.closeTo(Budget.balance(ledger, 999), 0.5, 1e-9)
    traffic(ledger, 10, 1, 2)
    assert.closeTo(Budget.balance(ledger, 1999), 1.5, 1e-9)
    assert.closeTo(Budget.balance(ledger, 3500), 1, 1e-9)
  })
})
