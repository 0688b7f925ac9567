/**
 * One run of fibers in an order of our choosing: a scheduler that stops fibers
 * and picks who goes on by a list of decisions, on a world of virtual time.
 *
 * A decision is about one point: "the second fiber stops before its 17th step",
 * "the 3rd time that several are ready, the second goes first". What no decision is about goes
 * on as in an ordinary run: a fiber until it waits, and the first that is ready
 * first. So the empty list is the plain order, and a shorter list is a simpler story.
 */
import * as Clock from "effect/Clock"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import * as Random from "effect/Random"
import * as Scheduler from "effect/Scheduler"
import { Dice } from "./simDraw.ts"
import { World } from "./simTime.ts"

/** What departs from the plain order. */
export type Decision =
  | { readonly _tag: "Stop"; readonly fiber: number; readonly step: number }
  | { readonly _tag: "Pick"; readonly round: number; readonly of: number; readonly index: number }

/** Where decisions come from: a list that was made before, or chance. */
export interface Source {
  readonly stop: (fiber: number, step: number) => boolean
  readonly pick: (round: number, of: number) => number
}

/**
 * Chance: a fiber is stopped at a share of its steps that is drawn once per run. In every other run who goes on is drawn
 * too: most races need no more than stops, and their stories are shorter without.
 */
export const randomly = (dice: Dice): Source => {
  const share = 0.02 + 0.4 * dice.nextDoubleUnsafe() ** 2
  const picks = dice.nextDoubleUnsafe() < 0.5
  return {
    stop: () => dice.nextDoubleUnsafe() < share,
    pick: (_, of) => picks ? Math.floor(dice.nextDoubleUnsafe() * of) : 0
  }
}

/** Exactly what a list says. */
export const by = (decisions: ReadonlyArray<Decision>): Source => {
  const stops = new Set<string>()
  const picks = new Map<number, number>()
  for (const decision of decisions) {
    if (decision._tag === "Stop") stops.add(`${decision.fiber}/${decision.step}`)
    else picks.set(decision.round, decision.index)
  }
  return {
    stop: (fiber, step) => stops.has(`${fiber}/${step}`),
    pick: (round, of) => Math.min(picks.get(round) ?? 0, of - 1)
  }
}

/** How a run ended, and what was decided in it. */
export interface Run {
  /** `undefined` where it did not end: its fibers wait for each other, or go on for ever. */
  readonly exit: Exit.Exit<unknown, unknown> | undefined
  readonly decisions: ReadonlyArray<Decision>
  readonly steps: number
}

/** A fiber: the how manieth it is, and its steps so far, not counting those that only stopping it made. */
interface Known {
  readonly name: number
  steps: number
  resuming: number
}

class Chooser implements Scheduler.Scheduler {
  readonly executionMode = "async"
  readonly decisions: Array<Decision> = []
  steps = 0
  private rounds = 0
  private readonly source: Source
  private readonly ready: Array<() => void> = []
  private readonly fibers = new Map<number, Known>()

  constructor(source: Source) {
    this.source = source
  }

  shouldYield(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    const known = this.known(fiber)
    const isLong = fiber.currentOpCount >= fiber.cache.maxOpsBeforeYield
    // The first fiber sets the others up and looks at what they leave: where it stops makes no difference.
    if (known.name === 0) return isLong
    this.steps++
    // Taken up again: the stop itself was a step, and then the step it was before.
    if (known.resuming > 0) {
      known.resuming--
      return isLong
    }
    known.steps++
    if (!this.source.stop(known.name, known.steps)) return isLong
    known.resuming = 2
    this.decisions.push({ _tag: "Stop", fiber: known.name, step: known.steps })
    return true
  }

  private known(fiber: Fiber.Fiber<unknown, unknown>): Known {
    let known = this.fibers.get(fiber.id)
    if (known === undefined) this.fibers.set(fiber.id, known = { name: this.fibers.size, steps: 0, resuming: 0 })
    return known
  }

  private readonly dispatcher: Scheduler.SchedulerDispatcher = {
    scheduleTask: (task) => void this.ready.push(task),
    flush: () => this.settle(Infinity)
  }

  makeDispatcher(): Scheduler.SchedulerDispatcher {
    return this.dispatcher
  }

  /** Runs what is ready, and what that makes ready, for at most so many steps. */
  settle(maxSteps: number): void {
    while (this.ready.length > 0 && this.steps < maxSteps) this.next()()
  }

  private next(): () => void {
    const of = this.ready.length
    if (of === 1) return this.ready.pop()!
    const round = ++this.rounds
    const index = this.source.pick(round, of)
    if (index > 0) this.decisions.push({ _tag: "Pick", round, of, index })
    return this.ready.splice(index, 1)[0]!
  }
}

/** What waits for longer waits for ever: thirty years. */
const longestMillis = 1e12

/** Runs an effect, whose first fiber is never stopped, to its end or to where it gets no further. */
export const run = (
  self: Effect.Effect<unknown, unknown>,
  context: Context.Context<never>,
  source: Source,
  seed: string | number,
  maxSteps: number
): Run => {
  const world = new World()
  const chooser = new Chooser(source)
  const fiber = self.pipe(
    Effect.provideService(Clock.Clock, world),
    Effect.provideService(Scheduler.Scheduler, chooser),
    Effect.provideService(Random.Random, new Dice(seed, "interleaved")),
    Effect.runForkWith(context)
  )
  const isOver = () => fiber.pollUnsafe() !== undefined || chooser.steps >= maxSteps
  chooser.settle(maxSteps)
  while (!isOver()) {
    const { events } = world
    world.advance(longestMillis, () => world.events > events)
    if (world.events === events) break
    // All of one instant: they are as many ways to go on.
    world.advance(world.now, () => false)
    chooser.settle(maxSteps)
  }
  return { exit: fiber.pollUnsafe(), decisions: chooser.decisions, steps: chooser.steps }
}
