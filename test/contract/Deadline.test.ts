import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import * as Deadline from "../../src/contract/Deadline.ts"

const instant = Arbitrary.schema(
  Schema.NullOr(Schema.Int.check(Schema.isBetween({ minimum: -1000, maximum: 1_000_000 })))
)
  .pipe(Arbitrary.map((at) => at ?? Deadline.none))

describe("Deadline", () => {
  // DL-01
  it("the combination of two deadlines is the earlier one, whichever comes first", () => {
    assert.strictEqual(Deadline.combine(300, 200), 200)
    assert.strictEqual(Deadline.combine(200, 300), 200)
    assert.strictEqual(Deadline.combine(200, Deadline.none), 200)
    assert.strictEqual(Deadline.combine(Deadline.none, Deadline.none), Deadline.none)
  })

  it.prop(
    "combining is commutative, associative and idempotent, with none as identity",
    [instant, instant, instant],
    ([a, b, c]) => {
      const { combine } = Deadline
      assert.strictEqual(combine(a, b), combine(b, a))
      assert.strictEqual(combine(a, combine(b, c)), combine(combine(a, b), c))
      assert.strictEqual(combine(a, a), a)
      assert.strictEqual(combine(a, Deadline.none), a)
    }
  )

  // DL-02
  it("a second after a deadline of 200 ms it is exceeded by 800, and of 1200 ms 200 remain", () => {
    const short = Deadline.after(5000, "200 millis")
    const long = Deadline.after(5000, "1200 millis")
    assert.isTrue(Deadline.isExceeded(short, 6000))
    assert.strictEqual(6000 - short, 800)
    assert.strictEqual(Deadline.remainingMillis(short, 6000), 0)
    assert.isFalse(Deadline.isExceeded(long, 6000))
    assert.strictEqual(Deadline.remainingMillis(long, 6000), 200)
  })

  it("is exceeded at its instant, not before", () => {
    assert.isFalse(Deadline.isExceeded(100, 99.999))
    assert.isTrue(Deadline.isExceeded(100, 100))
    assert.isFalse(Deadline.isExceeded(Deadline.none, Number.MAX_VALUE))
  })

  it("an infinite duration is no deadline", () => {
    assert.strictEqual(Deadline.after(5, "Infinity"), Deadline.none)
    assert.strictEqual(Deadline.remainingMillis(Deadline.none, 5), Infinity)
  })

  it("travels as whole milliseconds rounded down, at least 1, and none as itself", () => {
    assert.strictEqual(Deadline.toWire(100, 0.4), 99)
    assert.strictEqual(Deadline.toWire(100, 99.5), 1)
    assert.strictEqual(Deadline.toWire(100, 500), 1)
    assert.strictEqual(Deadline.toWire(Deadline.none, 0), 0xffff_ffff)
    assert.strictEqual(Deadline.toWire(1e12, 0), 0xffff_fffe)
    assert.strictEqual(Deadline.fromWire(0xffff_ffff, 7), Deadline.none)
    assert.strictEqual(Deadline.fromWire(0xffff_fffe, 7), 7 + 0xffff_fffe)
  })

  it.prop(
    "a callee never believes it has more time than its caller, and loses less than a millisecond",
    { at: instant, now: Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1_000_000 })) },
    ({ at, now }) => {
      const remaining = Deadline.remainingMillis(Deadline.fromWire(Deadline.toWire(at, now), now), now)
      if (at === Deadline.none) return assert.strictEqual(remaining, Infinity)
      if (at - now >= 1) {
        assert.isAtMost(remaining, at - now + 1e-6)
        assert.isAbove(remaining, at - now - 1 - 1e-6)
      } else assert.closeTo(remaining, 1, 1e-6)
    }
  )
})
