/**
 * Laws of a store that several use at the same time: it does what a plain model
 * does, in some order.
 *
 * - Sequential: one client after the other, every answer is the model's.
 * - Linearizable: of clients at the same time, the answers are those of some
 *   order of their operations, in which nothing comes before what had ended when
 *   it began.
 *
 * The model is a pure function, such as a `Map` in three lines; the store is
 * anything: a cache, a token bucket in Redis, a table of idempotency keys. In
 * memory, `interleave` runs the clients in random orders of their steps. A store
 * behind a network runs as it is, and its network decides the order.
 *
 * Source: Wing and Gong, "Testing and Verifying Concurrent Objects" (1993): the
 * search for an order, here with a memory of what has led nowhere.
 */
import * as Arbitrary from "effect/Arbitrary"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Schema from "effect/Schema"
import * as Options from "../contract/Options.ts"
import * as Interleaver from "./internal/interleaver.ts"
import { Dice } from "./internal/simDraw.ts"
import * as Laws from "./Laws.ts"

/** A store and what it should do. State, operation and answer are plain JSON data: they are compared as such. */
export interface StoreLawsOptions<Store, Operation, State> extends Laws.CheckOptions {
  /** Makes an empty store: anew for each case. */
  readonly make: Effect.Effect<Store, unknown>
  /** What clients do with it. */
  readonly operations: Arbitrary.Arbitrary<Operation>
  /** Does one of them. A failure is an answer too, and must be the model's. */
  readonly apply: (store: Store, operation: Operation) => Effect.Effect<unknown, unknown>
  /** What an empty store holds. */
  readonly empty: State
  /** What an operation makes of the state, and its answer. */
  readonly model: (state: State, operation: Operation) => readonly [next: State, answer: unknown]
  /** Clients at the same time: an integer `>= 1`. Default 3. */
  readonly clients?: number | undefined
  /** Operations of each at most: an integer in `[1, 8]`. Default 4. */
  readonly operationsPerClient?: number | undefined
  /** Whether the clients' steps are put into random orders, in virtual time: only for what needs no input and output. Default `false`. */
  readonly interleave?: boolean | undefined
}

/** One operation as it was seen from outside: begun and ended at counts of a common counter. */
interface Done<Operation> {
  readonly operation: Operation
  readonly begun: number
  readonly ended: number
  readonly answer: string
}

const seeds = Arbitrary.schema(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1e6 })))

/**
 * Checks the laws on generated operations; fails with the first that is broken.
 *
 * Dies with a `RangeError` when an option is out of range.
 */
export const check = <Store, Operation, State>(
  options: StoreLawsOptions<Store, Operation, State>
): Effect.Effect<void, Laws.LawBroken> =>
  Effect.withFiber((fiber) => {
    const where = "StoreLaws.check"
    const clients = Options.integer(where, "clients", options.clients ?? 3, 1)
    const maxLength = Options.integer(where, "operationsPerClient", options.operationsPerClient ?? 4, 1, 8)
    const { empty, interleave = false, model } = options
    const cases = Arbitrary.all({
      clients: Arbitrary.array(Arbitrary.array(options.operations, { minLength: 1, maxLength }), {
        minLength: 1,
        maxLength: clients
      }),
      seed: seeds
    })
    return Laws.check(cases, ({ clients, seed }) =>
      Effect.gen(function*() {
        const alone = yield* history(options, [clients.flat()])
        yield* Laws.holds(
          isLinearizable(alone, empty, model),
          "one after the other, the answers are the model's",
          () => told(alone)
        )
        if (clients.length === 1) return
        const recorded: Array<Done<Operation>> = []
        if (interleave) {
          const whole = Effect.map(history(options, clients), (done) => recorded.push(...done))
          const source = Interleaver.randomly(new Dice(seed, "order"))
          const { exit } = Interleaver.run(whole, fiber.context, source, seed, 1e6)
          yield* Laws.holds(exit !== undefined, "everybody is answered", () => "some operation never ends")
          if (Exit.isFailure(exit!)) return yield* Effect.die(Cause.squash(exit.cause))
        } else recorded.push(...yield* history(options, clients))
        yield* Laws.holds(
          isLinearizable(recorded, empty, model),
          "at the same time, the answers are those of some order",
          () => told(recorded)
        )
      }), options)
  })

/** Runs the clients at the same time, each its operations in turn. */
const history = <Store, Operation, State>(
  { apply, make }: StoreLawsOptions<Store, Operation, State>,
  clients: ReadonlyArray<ReadonlyArray<Operation>>
): Effect.Effect<ReadonlyArray<Done<Operation>>> =>
  Effect.gen(function*() {
    const store = yield* Effect.orDie(make)
    const done: Array<Done<Operation>> = []
    let count = 0
    const client = (operations: ReadonlyArray<Operation>) =>
      Effect.forEach(operations, (operation) =>
        Effect.gen(function*() {
          const begun = count++
          const answer = yield* Effect.exit(apply(store, operation))
          done.push({ operation, begun, ended: count++, answer: answerOf(answer) })
        }), { discard: true })
    const fibers = yield* Effect.forEach(clients, (operations) => Effect.forkChild(client(operations)))
    for (const fiber of fibers) yield* Fiber.join(fiber)
    return done
  })

const answerOf = (exit: Exit.Exit<unknown, unknown>): string =>
  Exit.isSuccess(exit) ? shown(exit.value) : `fails: ${shown(Cause.squash(exit.cause))}`

const shown = (value: unknown): string => JSON.stringify(value) ?? "nothing"

const told = (history: ReadonlyArray<Done<unknown>>): string =>
  history.map(({ answer, begun, ended, operation }) => `[${begun}..${ended}] ${shown(operation)} → ${answer}`).join(
    "; "
  )

/** Whether some order explains all answers: of what may come next, each is tried, and a dead end is remembered. */
const isLinearizable = <Operation, State>(
  history: ReadonlyArray<Done<Operation>>,
  empty: State,
  model: (state: State, operation: Operation) => readonly [State, unknown]
): boolean => {
  const deadEnds = new Set<string>()
  const explains = (left: ReadonlyArray<Done<Operation>>, state: State): boolean => {
    if (left.length === 0) return true
    const here = `${left.map(({ begun }) => begun).join()}/${shown(state)}`
    if (deadEnds.has(here)) return false
    // Whatever has ended before another began comes before it.
    const firstEnd = Math.min(...left.map(({ ended }) => ended))
    for (const next of left) {
      if (next.begun > firstEnd) continue
      const [after, answer] = model(state, next.operation)
      if (shown(answer) === next.answer && explains(left.filter((other) => other !== next), after)) return true
    }
    deadEnds.add(here)
    return false
  }
  return explains(history, empty)
}
