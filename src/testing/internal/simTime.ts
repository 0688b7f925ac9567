/**
 * Virtual time: a clock, a scheduler and a queue of events that run on nothing
 * but a loop.
 *
 * Fibers run synchronously, in the order in which they became ready. When none
 * is ready, time jumps to the next event; of equal times, the one that was added
 * first goes first. So a run depends on its inputs only, and takes as long as its
 * events take to compute. `TestClock` yields to real time for every wake-up and
 * costs a hundred times as much.
 *
 * Nothing here waits for real input or output: a fiber that does is never
 * resumed. Each run has a world of its own.
 */
import type * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Fiber from "effect/Fiber"
import type * as Scheduler from "effect/Scheduler"

/** Something that happens at an instant, unless it is cancelled before. */
class Event {
  readonly at: number
  readonly order: number
  run: (() => void) | undefined
  constructor(at: number, order: number, run: () => void) {
    this.at = at
    this.order = order
    this.run = run
  }
}

const isBefore = (self: Event, that: Event): boolean =>
  self.at < that.at || (self.at === that.at && self.order < that.order)

/** Whole nanoseconds: what the clock can state, so that what it says is what is compared. */
const exact = (millis: number): number => Math.round(millis * 1e6) / 1e6

export class World implements Clock.Clock, Scheduler.Scheduler {
  /** Virtual milliseconds since the beginning. */
  now = 0
  /** Events that have happened. */
  events = 0
  private nanos = 0n
  private added = 0
  private readonly heap: Array<Event> = []
  private tasks: Array<() => void> = []
  private ran = 0

  // The queue of events ---------------------------------------------------------------------------

  /** Runs something at an instant, or now if that has passed. */
  at(millis: number, run: () => void): Event {
    const event = new Event(Math.max(this.now, exact(millis)), this.added++, run)
    const { heap } = this
    let child = heap.push(event) - 1
    while (child > 0) {
      const parent = (child - 1) >> 1
      if (isBefore(heap[parent]!, event)) break
      heap[child] = heap[parent]!
      child = parent
    }
    heap[child] = event
    return event
  }

  after(millis: number, run: () => void): Event {
    return this.at(this.now + millis, run)
  }

  /** Lets everything happen until `done`, or up to an instant. */
  advance(until: number, done: () => boolean): void {
    this.settle()
    while (!done()) {
      const next = this.heap[0]
      if (next === undefined || next.at > until) return this.moveTo(until)
      this.pop()
      const { run } = next
      if (run === undefined) continue
      this.moveTo(next.at)
      this.events++
      run()
      if (this.tasks.length > 0) this.settle()
    }
  }

  private moveTo(millis: number): void {
    if (millis === this.now) return
    this.now = exact(millis)
    this.nanos = BigInt(Math.round(millis * 1e6))
  }

  /** Runs what is ready, and what that makes ready. */
  private settle(): void {
    const { tasks } = this
    for (; this.ran < tasks.length; this.ran++) tasks[this.ran]!()
    tasks.length = this.ran = 0
  }

  private pop(): void {
    const { heap } = this
    const last = heap.pop()!
    if (heap.length === 0) return
    let parent = 0
    for (;;) {
      let child = 2 * parent + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && isBefore(heap[child + 1]!, heap[child]!)) child++
      if (isBefore(last, heap[child]!)) break
      heap[parent] = heap[child]!
      parent = child
    }
    heap[parent] = last
  }

  // Scheduler -------------------------------------------------------------------------------------

  readonly executionMode = "async"

  shouldYield(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    return fiber.currentOpCount >= fiber.cache.maxOpsBeforeYield
  }

  private readonly dispatcher: Scheduler.SchedulerDispatcher = {
    scheduleTask: (task) => void this.tasks.push(task),
    flush: () => this.settle()
  }

  makeDispatcher(): Scheduler.SchedulerDispatcher {
    return this.dispatcher
  }

  // Clock -----------------------------------------------------------------------------------------

  readonly currentTimeMillisUnsafe = (): number => Math.floor(this.now)
  readonly currentTimeNanosUnsafe = (): bigint => this.nanos
  readonly monotonicTimeNanosUnsafe = (): bigint => this.nanos
  readonly currentTimeMillis = Effect.sync(this.currentTimeMillisUnsafe)
  readonly currentTimeNanos = Effect.sync(this.currentTimeNanosUnsafe)
  readonly monotonicTimeNanos = Effect.sync(this.monotonicTimeNanosUnsafe)

  readonly sleep = (duration: Duration.Duration): Effect.Effect<void> => {
    const millis = Duration.toMillis(duration)
    if (millis <= 0) return Effect.yieldNow
    return Effect.callback((resume) => {
      if (millis === Infinity) return
      const event = this.after(millis, () => resume(Effect.void))
      return Effect.sync(() => {
        event.run = undefined
      })
    })
  }
}
