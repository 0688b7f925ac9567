/**
 * What a policy does to you, before production does: clients that run the very
 * same policy code against simulated servers, in virtual time.
 *
 * ```ts
 * const result = yield* Simulator.run({
 *   policy: Profiles.idempotentRead,
 *   clients: 10,
 *   arrivals: { kind: "poisson", perSecond: 400 },
 *   dependency: { servers: 5, concurrency: 8, service: { lognormal: { p50: "50 ms", p99: "250 ms" } } },
 *   scenario: { phases: [{ do: "slow", factor: 10, from: "20 s", to: "40 s", servers: 1 }] },
 *   seed: 1,
 *   horizon: "2 minutes"
 * })
 * // result.totals.amplification, result.totals.latency.p99, result.series, result.transitions, …
 * ```
 *
 * What is real: `Client.make` with the policy's stack, its balancer, connections,
 * breakers, budgets, timers and backoffs. What is simulated: time, chance, the
 * network and the servers. The same options and seed give the same result, to the
 * byte; arrivals, service times and the policy's own draws have dice of their own,
 * so that two policies with one seed meet the same day.
 *
 * It does not measure what calls cost this process: policies take no virtual time.
 *
 * A spec is simulated as it stands: a slot it does not name is not there. (A
 * client would put its default retry, breaker and timeout there; `defaultPolicy`
 * is those.)
 */
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import * as CallContext from "../contract/CallContext.ts"
import * as CallError from "../contract/CallError.ts"
import type * as CallEvent from "../contract/CallEvent.ts"
import * as Options from "../contract/Options.ts"
import * as Timer from "../contract/Timer.ts"
import type * as PolicySpec from "../policy/PolicySpec.ts"
import * as FaultScript from "./FaultScript.ts"
import * as Arrivals from "./internal/simArrivals.ts"
import * as Draw from "./internal/simDraw.ts"
import * as Read from "./internal/simRead.ts"
import type { Quantiles, Result, Row, TierTotals, Transition } from "./internal/simResult.ts"
import * as Stats from "./internal/simStats.ts"
import * as System from "./internal/simSystem.ts"
import { World } from "./internal/simTime.ts"

export type {
  ArrivalsOptions,
  ClientsOptions,
  Dependency,
  Downstream,
  FailsAs,
  Latency,
  Phase,
  Rate,
  Scenario,
  Time,
  Which
} from "./internal/simRead.ts"
export { chart, html, table } from "./internal/simReport.ts"
export type { Chart } from "./internal/simReport.ts"
export type { Quantiles, Result, Row, TierTotals, Totals, Transition } from "./internal/simResult.ts"

/** What a policy is put into: everything but the policy. */
export interface Situation {
  /** How many clients, or more about them. Default 1. */
  readonly clients?: number | Read.ClientsOptions | undefined
  readonly arrivals: Read.ArrivalsOptions
  readonly dependency: Read.Dependency
  /** What goes wrong with the servers. */
  readonly scenario?: Read.Scenario | undefined
  /**
   * What goes wrong between the clients and the first tier: the script that `Chaos` and `ChaosProxy` run too. Refused are
   * faults of bytes (`bandwidth`, `slice`, `corrupt`, `limit`), for simulated requests have none.
   */
  readonly faults?: FaultScript.Input | undefined
  /** How long calls are made. What is in flight then has a minute more to end. */
  readonly horizon: Read.Time
  /** Length of a row of the time series. Default: a hundredth of the horizon, in whole 100 ms. */
  readonly interval?: Read.Time | undefined
}

export interface SimulatorOptions extends Situation {
  readonly policy: PolicySpec.PolicySpec
  readonly bindings?: PolicySpec.Bindings | undefined
  /** Default 1. */
  readonly seed?: string | number | undefined
  /** Is told how far it is, once per interval and outside virtual time: the share of the horizon, and calls made. */
  readonly progress?: ((share: number, calls: number) => Effect.Effect<void>) | undefined
}

/**
 * A situation from data, such as a file: its own fields are checked here, what is in them when it runs.
 *
 * Throws a `RangeError` on a field that is not one.
 */
export const situation = (document: unknown): Situation => {
  const known = ["clients", "arrivals", "dependency", "scenario", "faults", "horizon", "interval"]
  Read.fields("Simulator.situation", "document", document, known)
  return document as Situation
}

/** What a client has where it is told nothing: `ClientStack`'s retry, breaker and timeout. */
export const defaultPolicy = {
  name: "default",
  idempotent: true,
  deadline: "10 seconds",
  retry: {},
  circuitBreaker: {},
  timeout: "2 seconds"
} as const satisfies PolicySpec.PolicySpec

const where = "Simulator.run"
const maxTransitions = 1000
/** How long what is in flight at the horizon may still take. */
const graceMillis = 60_000

/** The tag of what a call failed with. */
const reasonOf = (cause: Cause.Cause<unknown>): string => {
  const error = Cause.squash(cause)
  if (CallError.isCallError(error)) return error.reason._tag
  return Cause.hasInterrupts(cause) ? "interrupted" : "died"
}

const quantiles = (of: Stats.Histogram): Quantiles => ({
  p50: Stats.round(of.quantile(0.5)),
  p90: Stats.round(of.quantile(0.9)),
  p99: Stats.round(of.quantile(0.99)),
  p999: Stats.round(of.quantile(0.999)),
  mean: Stats.round(of.mean()),
  max: Stats.round(of.max)
})

interface Settings {
  readonly horizon: number
  readonly interval: number
  readonly clients: number
  readonly fanOut: number
  readonly keys: number | undefined
  readonly method: string
  readonly idempotent: boolean
  readonly arrivals: Arrivals.Plan
  readonly tier: Read.TierPlan
  readonly scenario: Read.ScenarioPlan
}

const ofBytes: ReadonlySet<FaultScript.Kind> = new Set(["bandwidth", "slice", "corrupt", "limit"])

const inFaults = ({ message }: FaultScript.ScriptError): FaultScript.ScriptError =>
  new FaultScript.ScriptError({ message: Read.within("faults", message) })

/** The script, if every fault of it means something here. */
const readFaults = (faults: FaultScript.Input | undefined) =>
  faults === undefined ?
    Effect.succeed(undefined) :
    Effect.tap(Effect.mapError(FaultScript.from(faults), inFaults), ({ phases }) =>
      Effect.sync(() => {
        for (const { fault, name } of phases) {
          Options.check(
            !ofBytes.has(fault.kind),
            where,
            `faults: phase ${name}: kind`,
            "a fault of messages or connections: simulated requests have no bytes",
            fault.kind
          )
        }
      }))

/** A scenario that lasts as long as the faults too. */
const lasting = (scenario: Read.ScenarioPlan, faults: FaultScript.Script | undefined): Read.ScenarioPlan =>
  faults === undefined ? scenario : {
    ...scenario,
    from: Math.min(scenario.from ?? Infinity, ...faults.phases.map((phase) => phase.fromMillis)),
    until: Math.max(scenario.until ?? 0, faults.endMillis)
  }

const settings = (options: SimulatorOptions, faults: FaultScript.Script | undefined): Settings => {
  const clients = typeof options.clients === "object" ? options.clients : { count: options.clients }
  Read.fields(where, "clients", clients, ["count", "fanOut", "idempotent", "keys", "method"])
  const horizon = Read.millis(where, "horizon", options.horizon, false)
  const interval = options.interval === undefined
    ? Math.max(100, Math.round(horizon / 10_000) * 100)
    : Read.millis(where, "interval", options.interval, false)
  const count = Options.integer(where, "clients.count", clients.count ?? 1, 1, 100_000)
  const tier = Read.dependency(where, options.dependency)
  Options.check(
    horizon / interval <= 100_000,
    where,
    "interval",
    "at least a hundred thousandth of the horizon",
    interval
  )
  return {
    horizon,
    interval,
    clients: count,
    fanOut: Options.integer(where, "clients.fanOut", clients.fanOut ?? 1, 1, 10_000),
    keys: clients.keys === undefined ? undefined : Options.integer(where, "clients.keys", clients.keys, 1),
    method: clients.method ?? "Sim.Call",
    idempotent: clients.idempotent !== false,
    arrivals: Read.arrivals(where, options.arrivals),
    tier,
    scenario: lasting(Read.scenario(where, options.scenario, Read.tiers(tier), count), faults)
  }
}

/** What one interval has seen so far. */
interface Counters {
  offered: number
  answered: number
  failed: number
  attempts: number
  rejected: number
}

/** Everything a run counts, and the calls it makes. */
class Run {
  readonly world = new World()
  readonly settings: Settings
  readonly answered = new Stats.Histogram()
  readonly all = new Stats.Histogram()
  private readonly now = new Stats.Histogram()
  private readonly failures = new Stats.Tally()
  private readonly rejections = new Stats.Tally()
  private readonly moves: Array<Transition> = []
  private moved = 0
  private trips = 0
  private substituted = 0
  private made = 0
  private succeeded = 0
  private open = 0
  private counts = true
  private readonly rows: Array<Row> = []
  private since: Counters = { offered: 0, answered: 0, failed: 0, attempts: 0, rejected: 0 }
  /** Calls made per interval, and those of them that were answered. */
  private readonly madeIn: Float64Array
  private readonly answeredIn: Float64Array
  /** Calls made before, during and after the scenario, and those of them that were answered. */
  private readonly madeAround = [0, 0, 0]
  private readonly answeredAround = [0, 0, 0]
  private circuits = new Stats.Circuits(0)
  private readonly keys: Draw.Dice
  private readonly turns: Draw.Dice
  system!: System.System

  private readonly options: SimulatorOptions

  constructor(options: SimulatorOptions, faults: FaultScript.Script | undefined) {
    this.options = options
    this.settings = settings(options, faults)
    const rows = Math.ceil(this.settings.horizon / this.settings.interval)
    this.madeIn = new Float64Array(rows)
    this.answeredIn = new Float64Array(rows)
    this.keys = new Draw.Dice(this.seed, "keys")
    this.turns = new Draw.Dice(this.seed, "clients")
  }

  get seed(): string | number {
    return this.options.seed ?? 1
  }

  get calls(): number {
    return this.made
  }

  /** Ends what is left, which counts as pending. */
  end(): void {
    this.counts = false
    for (const { tier } of this.system.levels) tier.end()
  }

  /** Whether every call has ended. */
  readonly isOver = (): boolean => this.open === 0

  receiver(tier: number, client: number): CallEvent.Receiver {
    const { faults } = this.options
    return {
      hearsCalls: faults !== undefined,
      event: (event) => {
        switch (event._tag) {
          case "AttemptStarted":
            if (tier === 0 && faults !== undefined) this.sent(event.call)
            break
          case "AttemptEnded":
            if (tier === 0 && faults !== undefined) this.system.levels[0]!.attempts.inFlight--
            break
          case "Transition":
            if (tier === 0) this.move({ ...event, at: Stats.round(event.atMillis), client })
            break
          case "Rejected":
            if (tier !== 0) break
            this.rejections.add(event.reason)
            this.since.rejected++
            break
          case "Substituted":
            this.substituted++
        }
      }
    }
  }

  private sent({ attempt, hedge }: CallContext.CallContext): void {
    const { attempts } = this.system.levels[0]!
    attempts.sent++
    attempts.inFlight++
    if (hedge) attempts.hedges++
    else if (attempt > 1) attempts.retries++
  }

  private move({ at, client, from, policy, to, why }: Transition): void {
    this.moved++
    if (to === "Open") this.trips++
    this.circuits.move(from, to, this.world.now)
    if (this.moves.length < maxTransitions) this.moves.push({ at, client, policy, from, to, why })
  }

  /** Begins: from now on calls are made. */
  start(system: System.System): void {
    this.system = system
    this.circuits = new Stats.Circuits(system.circuits)
    const { arrivals, horizon, scenario } = this.settings
    const load = System.schedule(this.world, system, scenario, where)
    const dice = new Draw.Dice(this.seed, "arrivals")
    Arrivals.start(arrivals, this.world, dice, horizon, load, (ended) => this.arrive(ended))
  }

  private arrive(ended: () => void): void {
    const { clients } = this.system
    const client = clients.length === 1
      ? clients[0]!
      : clients[Math.floor(this.turns.nextDoubleUnsafe() * clients.length)]!
    const at = this.world.now
    let left = this.settings.fanOut
    let good = true
    const one = (succeeded: boolean) => {
      good &&= succeeded
      if (--left > 0) return
      const took = this.world.now - at
      this.all.record(took)
      if (good) {
        this.answered.record(took)
        this.now.record(took)
      }
      ended()
    }
    for (let i = this.settings.fanOut; i > 0; i--) this.call(client, at, one)
  }

  private call(client: System.Endpoint, at: number, done: (succeeded: boolean) => void): void {
    const { interval, scenario } = this.settings
    const row = Math.min(this.madeIn.length - 1, Math.floor(at / interval))
    const around = scenario.from === undefined || at < scenario.from ? 0 : at < scenario.until! ? 1 : 2
    this.made++
    this.open++
    this.since.offered++
    this.madeIn[row]!++
    this.madeAround[around]!++
    const ended = (exit: Exit.Exit<unknown, unknown>) => {
      if (!this.counts) return
      this.open--
      const succeeded = Exit.isSuccess(exit)
      if (succeeded) {
        this.succeeded++
        this.since.answered++
        this.answeredIn[row]!++
        this.answeredAround[around]!++
      } else {
        this.failures.add(reasonOf(exit.cause))
        this.since.failed++
      }
      done(succeeded)
    }
    const keyed = client.keyed
      ? CallContext.annotate(client.call, {
        key: `k${Math.floor(this.keys.nextDoubleUnsafe() * (this.settings.keys ?? 1))}`
      })
      : client.call
    const fiber = Effect.runForkWith(client.context)(keyed)
    const exit = fiber.pollUnsafe()
    if (exit === undefined) fiber.addObserver(ended)
    else ended(exit)
  }

  /** Ends an interval and begins the next. */
  row(index: number): void {
    const { settings, since, system, world } = this
    const at = index * settings.interval
    const seconds = (Math.min(world.now, settings.horizon) - at) / 1000
    const perSecond = (count: number) => Stats.round(count / seconds)
    const { attempts, servers } = system.levels[0]!
    const sum = (of: (server: typeof servers[number]) => number) => servers.reduce((total, one) => total + of(one), 0)
    this.rows.push({
      at,
      offered: perSecond(since.offered),
      goodput: perSecond(since.answered),
      failed: perSecond(since.failed),
      attempts: perSecond(attempts.sent - since.attempts),
      rejected: perSecond(since.rejected),
      success: undefined,
      p50: Stats.round(this.now.quantile(0.5)),
      p99: Stats.round(this.now.quantile(0.99)),
      inFlight: attempts.inFlight,
      queued: sum((server) => server.queued),
      running: sum((server) => server.running),
      circuits: this.circuits.take(world.now)
    })
    this.now.clear()
    this.since = { offered: 0, answered: 0, failed: 0, rejected: 0, attempts: attempts.sent }
  }

  result(timers: number): Result {
    const { answeredIn, madeIn, options, rows, settings, system } = this
    const share = (part: number, of: number): number | undefined => of === 0 ? undefined : Stats.round(part / of)
    const series = rows.map((row, i): Row => ({ ...row, success: share(answeredIn[i]!, madeIn[i]!) }))
    const around = (i: number) =>
      settings.scenario.from === undefined ? undefined : share(this.answeredAround[i]!, this.madeAround[i]!)
    const tiers = system.levels.map(({ attempts, work }, i): TierTotals => {
      const before = system.levels[i - 1]
      const calls = before === undefined ? this.made : before.work.arrived * (before.plan.calls?.times ?? 1)
      return {
        attempts: attempts.sent,
        retries: attempts.retries,
        hedges: attempts.hedges,
        amplification: share(attempts.sent, calls) ?? 0,
        arrived: work.arrived,
        refused: work.refused,
        busyMillis: Stats.round(work.busy),
        wasted: share(work.busy - work.useful, work.busy) ?? 0
      }
    })
    const busy = system.levels.reduce((sum, { work }) => sum + work.busy, 0)
    const useful = system.levels.reduce((sum, { work }) => sum + work.useful, 0)
    const seconds = settings.horizon / 1000
    const [first] = tiers
    const { from, until } = settings.scenario
    return {
      policy: options.policy.name ?? "policy",
      scenario: settings.scenario.name,
      seed: this.seed,
      horizonMillis: settings.horizon,
      intervalMillis: settings.interval,
      disturbance: from === undefined || until === undefined ? undefined : { from, until },
      clients: settings.clients,
      servers: settings.tier.servers,
      totals: {
        calls: this.made,
        answered: this.succeeded,
        failed: this.made - this.succeeded - this.open,
        arrivals: this.all.count,
        arrivalsAnswered: this.answered.count,
        pending: this.open,
        success: share(this.succeeded, this.made) ?? 0,
        offeredPerSecond: Stats.round(this.made / seconds),
        goodputPerSecond: Stats.round(this.succeeded / seconds),
        attemptsPerSecond: Stats.round(first!.attempts / seconds),
        amplification: first!.amplification,
        attempts: first!.attempts,
        retries: first!.retries,
        hedges: first!.hedges,
        wasted: share(busy - useful, busy) ?? 0,
        failures: this.failures.toJSON(),
        rejections: this.rejections.toJSON(),
        substituted: this.substituted,
        latency: quantiles(this.answered),
        latencyOfAll: quantiles(this.all),
        recoveryMillis: this.recovery(series),
        successBefore: around(0),
        successDuring: around(1),
        successAfter: around(2),
        transitions: this.moved,
        trips: this.trips
      },
      tiers,
      series,
      transitions: this.moves,
      timers
    }
  }

  private recovery(series: ReadonlyArray<Row>): number | null | undefined {
    const { interval, scenario } = this.settings
    if (scenario.until === undefined) return undefined
    const before = this.madeAround[0] === 0 ? 1 : this.answeredAround[0]! / this.madeAround[0]!
    const from = Math.ceil(scenario.until / interval)
    const row = Stats.recovered(series.map((row) => row.success), from, before)
    return row === undefined ? null : Math.max(0, row * interval - scenario.until)
  }
}

/** Runs an effect of the world to its end. */
const complete = <A, E>(world: World, effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
  Effect.suspend(() => {
    const fiber = Effect.runForkWith(System.contextOfWorld(world))(effect)
    world.advance(world.now + graceMillis, () => fiber.pollUnsafe() !== undefined)
    return fiber.pollUnsafe() ?? Effect.die(new Error(`${where}: a client did not come to be`))
  })

/**
 * Runs a simulation.
 *
 * Fails with a `SpecError` when the policy cannot be compiled and with a
 * `ScriptError` when the faults cannot be read; dies with a `RangeError` on any
 * other option that makes no sense.
 */
export const run = (
  options: SimulatorOptions
): Effect.Effect<Result, PolicySpec.SpecError | FaultScript.ScriptError> =>
  Effect.gen(function*() {
    const faults = yield* readFaults(options.faults)
    const run = new Run(options, faults)
    const { settings, world } = run
    const scope = yield* Scope.make()
    const system = yield* complete(
      world,
      Scope.provide(
        System.make({
          world,
          seed: run.seed,
          policy: options.policy,
          bindings: options.bindings,
          clients: settings.clients,
          idempotent: settings.idempotent,
          method: settings.method,
          keyed: settings.keys !== undefined,
          faults,
          plan: settings.tier,
          receiver: (tier, caller) => run.receiver(tier, caller)
        }),
        scope
      )
    )
    run.start(system)
    const rows = Math.ceil(settings.horizon / settings.interval)
    for (let index = 0; index < rows; index++) {
      world.advance(Math.min(settings.horizon, (index + 1) * settings.interval), () => false)
      run.row(index)
      // So that a long run can be interrupted, and others have their turn.
      yield* Effect.yieldNow
      if (options.progress !== undefined) yield* options.progress((index + 1) / rows, run.calls)
    }
    world.advance(settings.horizon + graceMillis, run.isOver)
    run.end()
    yield* complete(world, Scope.close(scope, Exit.void))
    return run.result(Timer.size(world))
  })
