import { assert, describe, it } from "@effect/vitest"
import * as Hub from "../../src/observe/internal/snapshotHub.ts"
import * as Series from "../../src/observe/internal/snapshotSeries.ts"

/** A series in which one call ended at each of these instants. */
const seriesOf = (...ends: ReadonlyArray<readonly [at: number, millis: number, verdict?: Series.Verdict]>) => {
  const series = new Series.Series()
  for (const [at, millis, verdict = "answered"] of ends) {
    series.begin(at - millis)
    series.end(at, verdict, millis, 1)
  }
  return series
}

describe("Series", () => {
  it("shows nothing before it was used", () => {
    const { history, inFlight, p50Millis, rate, success } = new Series.Series().figures(5000)
    assert.deepStrictEqual({ history, inFlight, p50Millis, rate, success }, {
      history: { ended: [], failed: [], p50Millis: [], p99Millis: [] },
      inFlight: 0,
      p50Millis: null,
      rate: 0,
      success: null
    })
  })

  it("takes its figures over ten seconds, and of less than one says no more per second than there was", () => {
    const series = seriesOf([500, 0], [600, 0])
    assert.strictEqual(series.figures(600).rate, 2)
    assert.strictEqual(series.figures(4500).rate, 0.5)
    // The window begins with the second that is nine before this one.
    assert.strictEqual(series.figures(9999).rate, 0.211)
    assert.strictEqual(series.figures(10_000).rate, 0)
    assert.isNull(series.figures(10_000).success)
    assert.strictEqual(series.figures(10_000).total, 2)
  })

  it("counts what is ignored neither as answered nor as failed", () => {
    const series = seriesOf([1000, 10], [1000, 10, "failed"], [1000, 10, "ignored"], [1000, 10])
    const { failed, inFlight, success, total } = series.figures(1000)
    assert.deepStrictEqual({ failed, inFlight, success, total }, {
      failed: 1,
      inFlight: 0,
      success: 1 - 1 / 3,
      total: 3
    })
  })

  it("knows quantiles to a sixteenth of an octave, upwards, and never beyond the longest", () => {
    const series = seriesOf(...Array.from({ length: 100 }, (_, i) => [1000, i + 1] as const))
    const { p50Millis, p99Millis } = series.figures(1000)
    assert.isAtLeast(p50Millis!, 50)
    assert.isAtMost(p50Millis!, 50 * 2 ** (1 / 16))
    assert.isAtLeast(p99Millis!, 99)
    assert.isAtMost(p99Millis!, 100)
    assert.strictEqual(seriesOf([1000, 3]).figures(1000).p99Millis, 3)
    assert.strictEqual(seriesOf([1000, 0]).figures(1000).p50Millis, 0)
    const hours = 7 * 3_600_000
    assert.strictEqual(seriesOf([hours, hours], [hours, 1]).figures(hours).p99Millis, hours)
  })

  it("keeps a line of the sixty seconds before this one, with the quiet ones in it", () => {
    const series = seriesOf([1004, 4], [1999, 4, "failed"], [4000, 8])
    assert.deepStrictEqual(series.figures(5500).history, {
      ended: [2, 0, 0, 1],
      failed: [1, 0, 0, 0],
      p50Millis: [4, null, null, 8],
      p99Millis: [4, null, null, 8]
    })
    const later = series.figures(63_000).history.ended
    assert.deepStrictEqual([later.length, later[0], later[1]], [60, 0, 1])
    assert.deepStrictEqual(series.figures(600_000).history.ended, Array.from({ length: 60 }, () => 0))
  })

  it("counts what ends in a second that is over for the present one", () => {
    const series = seriesOf([3001, 1])
    series.figures(5000)
    series.end(4000, "answered", 1, 1)
    assert.deepStrictEqual(series.figures(6000).history.ended, [1, 0, 1])
  })

  it("keeps the five latest reasons, with how often and how long ago", () => {
    const series = seriesOf([0, 0])
    for (const [at, reason] of [[1, "a"], [2, "b"], [3, "c"], [4, "d"], [5, "e"], [6, "a"], [7, "f"]] as const) {
      series.because(reason, at)
    }
    assert.deepStrictEqual(
      series.figures(10).reasons.map(({ agoMillis, count, reason }) => [reason, count, agoMillis]),
      [
        ["f", 1, 3],
        ["a", 2, 4],
        ["e", 1, 5],
        ["d", 1, 6],
        ["c", 1, 7]
      ]
    )
  })

  it("never has less than nothing in flight, although it saw an end without its beginning", () => {
    const series = new Series.Series()
    series.end(0, "answered", 1, 1)
    assert.strictEqual(series.figures(0).inFlight, 0)
  })
})

describe("Table", () => {
  it("counts together what finds no room, until one has been idle for a minute", () => {
    const table = new Series.Table(2)
    for (const name of ["a", "b", "c", "d"]) table.of(name, 0).begin(0)
    assert.deepStrictEqual(
      table.entries().map(([name, series]) => [name, series.inFlight]),
      [[Series.overflow, 2], ["a", 1], ["b", 1]]
    )
    table.of("a", 1000).end(1000, "answered", 1000, 1)
    // In flight for however long, "b" stays.
    table.of("e", 61_000).begin(61_000)
    assert.isUndefined(table.get("e"))
    table.of("e", 61_001).begin(61_001)
    assert.deepStrictEqual(table.entries().map(([name]) => name), [Series.overflow, "b", "e"])
  })

  it("forgets what is idle and not wanted", () => {
    const table = new Series.Table(9)
    for (const name of ["busy", "idle", "wanted"]) table.of(name, 0).begin(0)
    for (const name of ["idle", "wanted"]) table.of(name, 0).end(0, "answered", 0, 1)
    table.sweep(60_000, () => false)
    assert.strictEqual(table.entries().length, 3)
    table.sweep(60_001, (name) => name === "wanted")
    assert.deepStrictEqual(table.entries().map(([name]) => name), ["busy", "wanted"])
  })
})

describe("Hub", () => {
  it("gives a watcher everything in order", () => {
    const hub = new Hub.Hub<number>()
    const watcher = hub.add()
    for (const n of [1, 2, 3]) hub.publish(n)
    assert.deepStrictEqual(watcher.take(), { events: [1, 2, 3], lost: 0 })
    assert.isTrue(watcher.isEmpty)
    assert.deepStrictEqual(watcher.take(), { events: [], lost: 0 })
  })

  it("keeps the last 256 for one that does not take them, and counts the lost", () => {
    const hub = new Hub.Hub<number>()
    const slow = hub.add()
    for (let n = 0; n < 5000; n++) hub.publish(n)
    const { events, lost } = slow.take()
    assert.deepStrictEqual([events.length, events[0], events.at(-1), lost], [256, 4744, 4999, 4744])
    hub.publish(7)
    assert.deepStrictEqual(slow.take(), { events: [7], lost: 0 })
  })

  it("wakes a watcher once, and one that has gone never", () => {
    const hub = new Hub.Hub<number>()
    const watcher = hub.add()
    let woken = 0
    watcher.wake = () => woken++
    hub.publish(1)
    hub.publish(2)
    assert.strictEqual(woken, 1)
    watcher.wake = () => woken++
    hub.remove(watcher)
    hub.publish(3)
    assert.deepStrictEqual([woken, hub.size], [1, 0])
  })
})
