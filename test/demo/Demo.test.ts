import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as TestClock from "effect/testing/TestClock"
import * as Load from "../../src/demo/Load.ts"
import * as Plan from "../../src/demo/Plan.ts"
import * as Report from "../../src/demo/Report.ts"
import * as Screen from "../../src/demo/Screen.ts"
import * as Summary from "../../src/demo/Summary.ts"
import { UserNotFound } from "../../src/demo/UserService.ts"

/** A client whose n-th call is the n-th answer. */
const clientOf = (...answers: ReadonlyArray<Effect.Effect<any, any>>): Load.UserClient => {
  let calls = 0
  const method = () => Effect.suspend(() => answers[calls++]!)
  return { UserService: { GetUserInfo: method, ListUsers: method, Search: method, UpdateEmail: method } }
}

const get: Load.Request = { method: "GetUserInfo", id: 1001 }

/** Calls as they would be after a run: when they were due, how long they took, whether they failed. */
const callsOf = (
  name: string,
  ...script: ReadonlyArray<readonly [due: number, took: number, failure?: string]>
): Load.Calls => {
  const calls = new Load.Calls(name)
  for (const [due, took, failure] of script) {
    const call = calls.begin(get, due)
    call.attempts = 1
    calls.end(call, due + took, failure)
  }
  return calls
}

const setup = (seconds: number): Summary.Setup => ({
  seconds,
  rate: 1,
  seed: 1,
  servers: ["tcp://127.0.0.1:1", "tcp://127.0.0.1:2"],
  plan: Plan.make(seconds, [1, 0]),
  startedAt: "2026-01-01T00:00:00.000Z",
  machine: "<a & b>"
})

describe("Load", () => {
  it.effect("makes calls when they are due, whatever happens to those before, and times them from then", () =>
    Effect.gen(function*() {
      const calls = new Load.Calls("client")
      const client = clientOf(
        Effect.delay(Effect.void, "1 second"),
        Effect.void,
        Effect.fail(new UserNotFound({ id: 1 })),
        Effect.die("broken")
      )
      const fiber = yield* Effect.forkChild(Load.run(calls, () => client, [get, get, get, get], 10, 0))
      yield* TestClock.adjust("300 millis")
      assert.strictEqual(calls.inFlight, 1)
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(
        calls.all.map(({ dueMillis, endMillis, failure }) => [dueMillis, endMillis! - dueMillis, failure]),
        [[0, 1000, undefined], [100, 0, undefined], [200, 0, undefined], [300, 0, "Defect"]]
      )
    }))

  it.effect("makes the same calls for the same seed", () =>
    Effect.gen(function*() {
      const requests = yield* Load.requests(500, 1)
      assert.deepStrictEqual(yield* Load.requests(500, 1), requests)
      assert.notDeepEqual(yield* Load.requests(500, 2), requests)
      assert.deepStrictEqual(
        [...new Set(requests.map(({ method }) => method))].toSorted(),
        ["GetUserInfo", "ListUsers", "Search", "UpdateEmail"]
      )
    }))
})

describe("Plan", () => {
  it("does all four faults, and under 30 seconds the kill and the freeze only", () => {
    const kinds = (seconds: number) => Plan.make(seconds, [0, 1, 2, 3, 4]).map(({ kind }) => kind)
    assert.deepStrictEqual(kinds(30), ["kill", "freeze", "slow", "errors"])
    assert.deepStrictEqual(kinds(29), ["kill", "freeze"])
  })

  it("lets one fault recover before the next begins, and ends with the run", () => {
    const plan = Plan.make(60, [0, 1, 2, 3, 4])
    for (const [i, { from, to, until }] of plan.entries()) {
      assert.isTrue(from < to && to < until)
      assert.strictEqual(until, plan[i + 1]?.from ?? 60)
    }
    assert.isUndefined(Plan.at(plan, 5.9))
    assert.strictEqual(Plan.at(plan, 6), plan[0])
    assert.strictEqual(Plan.at(plan, 60), plan[3])
  })
})

describe("Summary", () => {
  it("counts an answer with one of the contract's errors as an answer, and takes the times of failures too", () => {
    const { all } = callsOf("client", [0, 10], [1, 20, "ConnectionLost"], [2, 30], [3, 1000, "AttemptTimeout"])
    const { attempts, failures, max, p50, p99, success } = Summary.figures(all)
    assert.deepStrictEqual({ attempts, failures, max, p50, p99, success }, {
      attempts: 4,
      failures: { ConnectionLost: 1, AttemptTimeout: 1 },
      max: 1000,
      p50: 20,
      p99: 1000,
      success: 0.5
    })
  })

  it("never rounds what is not all up to all", () => {
    assert.strictEqual(Summary.percent(0.99999, 2), "99.99 %")
    assert.strictEqual(Summary.percent(1, 2), "100.00 %")
    assert.strictEqual(Summary.percent(0.57, 0), "57 %")
  })

  it("gives a call to the fault in whose time it was due", () => {
    const calls = callsOf("client", [0, 5], [999, 5], [1000, 9000], [5500, 5])
    const { rows } = Summary.make(setup(10), calls, calls)
    assert.deepStrictEqual(rows.map(({ kind, naive }) => [kind, naive.calls]), [["none", 2], ["kill", 1], [
      "freeze",
      1
    ]])
  })

  it("fails a run in which the resilient client was not the better one, and holds a minute to its targets", () => {
    const good = callsOf("good", [0, 1], [1, 1])
    const bad = callsOf("bad", [0, 1], [1, 1, "AttemptTimeout"])
    const worse = callsOf("worse", [0, 1, "AttemptTimeout"], [1, 1, "AttemptTimeout"])
    const passes = (seconds: number, naive: Load.Calls, resilient: Load.Calls) =>
      Summary.passed(Summary.make(setup(seconds), naive, resilient))
    assert.deepStrictEqual(
      [passes(10, bad, good), passes(10, good, good), passes(10, good, bad), passes(10, worse, bad)],
      [true, false, false, true]
    )
    assert.deepStrictEqual([passes(60, bad, good), passes(60, worse, bad)], [true, false])
  })
})

describe("Report", () => {
  const naive = callsOf("naive", [0, 5], [1500, 1000, "<Reason & more>"], [6000, 5])
  const resilient = callsOf("resilient", [0, 5], [1500, 10], [6000, 5])
  resilient.note({
    _tag: "Transition",
    policy: "users@tcp://127.0.0.1:2",
    from: "Closed",
    to: "Open",
    why: "10 > 9",
    atMillis: 2000
  }, 0)
  const run = Summary.make(setup(10), naive, resilient)

  it("is one page that loads nothing and runs nothing", () => {
    const html = Report.html(run)
    assert.notMatch(html, /<script|<link|<img|url\(|https?:/)
    assert.include(html, "&lt;Reason &amp; more&gt;")
    assert.include(html, "&lt;a &amp; b&gt;")
    assert.include(html, "10 &gt; 9")
    for (const state of ["Closed", "Open", "HalfOpen", "Recovering"]) assert.include(html, `</svg>${state}</span>`)
    assert.notInclude(html, "NaN")
    assert.notInclude(html, "undefined")
  })

  it("is also a table in the terminal, whose lines say the same", () => {
    const lines = Screen.summary(run, Screen.plain)
    assert.match(lines.find((line) => line.startsWith("overall"))!, /3 {2,}66\.66 % .*\| .*3 {2,}100\.00 %/)
  })

  it("draws no line wider than the terminal, however it is coloured", () => {
    const view = {
      elapsedSeconds: 3,
      seconds: 10,
      rate: 1,
      plan: run.plan,
      servers: run.servers.map((address) => ({ address, process: "running" })),
      naive,
      resilient
    }
    for (const columns of [40, 80, 200]) {
      for (const line of Screen.frame(view, columns, Screen.colours)) {
        // oxlint-disable-next-line no-control-regex -- colours take no room
        assert.isAtMost(line.replaceAll(/\u001b\[\d+m/g, "").length, columns)
      }
    }
  })
})
