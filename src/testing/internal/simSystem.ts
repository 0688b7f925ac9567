/**
 * A simulated system: tiers of servers, the real clients that call them, and what
 * goes wrong.
 *
 * Every client is `Client.make` with the policy's own stack, balancer and
 * connections; only its Transport, Clock, Scheduler and Random are the world's.
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import * as Scheduler from "effect/Scheduler"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { Discovery } from "../../balancer/Discovery.ts"
import * as Client from "../../client/Client.ts"
import type * as ClientStack from "../../client/ClientStack.ts"
import * as CallContext from "../../contract/CallContext.ts"
import * as CallEvent from "../../contract/CallEvent.ts"
import * as Contract from "../../contract/Contract.ts"
import type * as Timer from "../../contract/Timer.ts"
import * as PolicySpec from "../../policy/PolicySpec.ts"
import { Transport } from "../../transport/Transport.ts"
import * as Chaos from "../Chaos.ts"
import type * as FaultScript from "../FaultScript.ts"
import type * as Arrivals from "./simArrivals.ts"
import * as Draw from "./simDraw.ts"
import * as Read from "./simRead.ts"
import { type Fault, type Job, Server, type Work } from "./simServer.ts"
import { type Attempts, type Caller, type Host, isThere, Tier } from "./simTier.ts"
import type { World } from "./simTime.ts"

/** A policy as it is simulated: what its client needs, and what stands around that. */
interface Stack {
  readonly options: Client.ClientOptions<string, ClientStack.Options, {}>
  readonly group: RpcGroup.RpcGroup<any>
  readonly keyed: boolean
  /** A fallback and a cache, which a client has not. */
  readonly around: <A, E>(self: Effect.Effect<A, E>) => Effect.Effect<A, E>
}

/** Checks a spec as compiling it would, and says what a client of it is made from. */
export const read = (
  spec: PolicySpec.PolicySpec,
  bindings: PolicySpec.Bindings | undefined,
  target: string,
  method: string,
  idempotent: boolean
): Effect.Effect<
  { readonly make: Effect.Effect<Stack, PolicySpec.SpecError>; readonly breaks: boolean },
  PolicySpec.SpecError
> =>
  Effect.gen(function*() {
    yield* PolicySpec.compile(spec, bindings)
    const read = yield* PolicySpec.read(spec)
    const stated = yield* PolicySpec.options(read, bindings)
    const known = spec.idempotent ?? idempotent
    let calls = 0
    const rpc = Rpc.make(method, { payload: Schema.Void, success: Schema.Void })
      .annotate(Contract.Idempotent, known === "key" ? () => `call-${calls++}` : known)
    const { cache, fallback } = spec
    const options: Stack["options"] = {
      target,
      // A slot the document does not name is not there; a client would put its default in place of some.
      policy: {
        ...stated,
        retry: stated.retry ?? false,
        circuitBreaker: stated.circuitBreaker ?? false,
        timeout: stated.timeout ?? false
      },
      defaultDeadline: read.deadline ?? "Infinity"
    }
    const make = Effect.gen(function*() {
      const outer = cache === undefined && fallback === undefined ? undefined : yield* PolicySpec.compile(
        { name: spec.name ?? "policy", ...(cache && { cache }), ...(fallback && { fallback }) },
        bindings
      )
      return {
        options,
        group: RpcGroup.make(rpc) as RpcGroup.RpcGroup<any>,
        keyed: cache !== undefined,
        around: <A, E>(self: Effect.Effect<A, E>) => outer === undefined ? self : outer.run(self) as Effect.Effect<A, E>
      }
    })
    return { make, breaks: read.circuitBreaker !== undefined && read.circuitBreaker !== false }
  })

/** A mistake in the policy of a tier beyond the first, with where that stands. */
const ofTier = (number: number, { message }: PolicySpec.SpecError): PolicySpec.SpecError =>
  new PolicySpec.SpecError({
    message: Read.within(`dependency${".calls.dependency".repeat(number - 1)}.calls.policy`, message)
  })

/** Makes one call, and tells when and how it has ended. */
export interface Endpoint {
  readonly call: Effect.Effect<unknown, unknown>
  readonly keyed: boolean
  readonly context: Context.Context<never>
}

/** A tier and everything about it that is counted. */
export interface Level {
  readonly plan: Read.TierPlan
  readonly tier: Tier
  readonly servers: ReadonlyArray<Server>
  readonly callers: ReadonlyArray<Caller>
  readonly work: Work
  readonly attempts: Attempts
}

export interface SystemOptions {
  readonly world: World
  readonly seed: string | number
  readonly policy: PolicySpec.PolicySpec
  readonly bindings: PolicySpec.Bindings | undefined
  readonly clients: number
  readonly idempotent: boolean
  readonly method: string
  /** Whether calls have keys. */
  readonly keyed: boolean
  /** What happens between the clients and the first tier. */
  readonly faults: FaultScript.Script | undefined
  readonly plan: Read.TierPlan
  /** Who is told of a caller's events, at which tier. */
  readonly receiver: (tier: number, caller: number) => CallEvent.Receiver
}

export interface System {
  readonly levels: ReadonlyArray<Level>
  readonly clients: ReadonlyArray<Endpoint>
  /** Circuits the first tier's callers have in all. */
  readonly circuits: number
}

const address = (tier: number, index: number): string => `sim://tier${tier}/server${index}`

/** Time and order of the world, for effects that belong to nobody. */
export const contextOfWorld = (world: World): Context.Context<never> =>
  Context.make(Clock.Clock, world as Clock.Clock).pipe(Context.add(Scheduler.Scheduler, world)) as Context.Context<
    never
  >

/** What a caller's effects find in the world. */
const contextOf = (
  options: SystemOptions,
  tier: number,
  index: number,
  transport: Transport["Service"],
  addresses: ReadonlyArray<string>
): Context.Context<never> =>
  contextOfWorld(options.world).pipe(
    Context.add(Random.Random, new Draw.Dice(options.seed, `policy/${tier}/${index}`)),
    Context.add(CallEvent.CurrentReceiver, options.receiver(tier, index)),
    Context.add(Transport, transport),
    Context.add(Discovery, { watch: () => Stream.succeed(addresses) })
  ) as Context.Context<never>

/** Builds a system. Needs a scope of the world, in which its clients live. */
export const make = (options: SystemOptions): Effect.Effect<System, PolicySpec.SpecError, Scope.Scope> =>
  Effect.gen(function*() {
    const { bindings, clients, idempotent, policy, seed, world } = options
    const source: Timer.Source = { clock: world, scheduler: world }
    const levels: Array<Level> = []
    let circuits = 0

    /** Callers of a tier as endpoints, once the tier is there. */
    const connect = Effect.fnUntraced(function*(
      level: Level,
      number: number,
      stack: Stack,
      caller: Caller
    ) {
      const { plan, tier } = level
      const dice = new Draw.Dice(seed, `proxy/${number}/${caller.index}`)
      const proxied = plan.balancer === "proxy"
      const route = () => {
        const there = tier.hosts.filter(isThere)
        const among = there.length === 0 ? tier.hosts : there
        return among[Math.floor(dice.nextDoubleUnsafe() * among.length)]!
      }
      const addresses = proxied ? [`sim://tier${number}/proxy`] : tier.hosts.map((host) => host.address)
      const servers = tier.transport(caller, proxied ? route : undefined)
      const { faults, keyed, method } = options
      const transport = faults === undefined || number > 0 ? servers : yield* Effect.orDie(Chaos.make(servers, faults))
      const context = contextOf(options, number, caller.index, transport, addresses)
      const client = yield* Effect.provideContext(
        Client.make(stack.group, stack.options),
        context as Context.Context<any>
      )
      const call = method.split(".").reduce<any>((node, segment) => node[segment], client) as () => Effect.Effect<
        unknown
      >
      return { call: stack.around(Effect.suspend(call)), keyed: stack.keyed || (keyed && number === 0), context }
    })

    const build = (
      plan: Read.TierPlan,
      number: number,
      callers: number
    ): Level => {
      const work: Work = { arrived: 0, refused: 0, busy: 0, useful: 0 }
      const attempts: Attempts = { sent: 0, hedges: 0, retries: 0, inFlight: 0 }
      // What a fault keeps from the servers has been sent all the same: then the clients' events count.
      const seen = options.faults === undefined || number > 0 ? attempts : { ...attempts }
      const servers = Array.from({ length: plan.servers }, (_, index) =>
        new Server(
          `server${index}`,
          world,
          plan.server,
          new Draw.Dice(seed, `server/${number}/${index}`),
          work,
          plan.calls === undefined ? undefined : (job, done) => beyond(number, index, job, done)
        ))
      const hosts = servers.map((server, index): Host => ({
        address: plan.addresses?.[index] ?? address(number, index),
        server,
        down: 0,
        draining: 0,
        sessions: new Set()
      }))
      const tier = new Tier(hosts, {
        world,
        source,
        dice: new Draw.Dice(seed, `network/${number}`),
        network: plan.network,
        retryAfterMillis: plan.retryAfterMillis,
        attempts: seen
      })
      return {
        plan,
        tier,
        servers,
        work,
        attempts,
        callers: Array.from({ length: callers }, (_, index) => ({ index, cut: [] }))
      }
    }

    /** What a request makes a server call itself: a step of its own for each call. */
    const inner: Array<ReadonlyArray<Endpoint>> = []
    const beyond = (tier: number, index: number, job: Job, done: (succeeded: boolean) => void): void => {
      const { inheritsDeadline, times } = levels[tier]!.plan.calls!
      const { call, context } = inner[tier]![index]!
      const given = inheritsDeadline && job.deadline !== Infinity
        ? Context.add(context, CallContext.Current, { ...CallContext.empty, deadline: job.deadline })
        : context
      const run = Effect.runForkWith(given)
      const next = (left: number): void => {
        if (left === 0) return done(true)
        const fiber = run(call)
        job.stop = () => fiber.interruptUnsafe()
        const ended = (exit: { readonly _tag: "Success" | "Failure" }) =>
          exit._tag === "Success" ? next(left - 1) : done(false)
        const exit = fiber.pollUnsafe()
        if (exit === undefined) fiber.addObserver(ended)
        else ended(exit)
      }
      next(times)
    }

    const plans = Read.tiers(options.plan)
    for (const [number, plan] of plans.entries()) {
      const callers = number === 0 ? clients : plans[number - 1]!.servers
      levels.push(build(plan, number, callers))
    }
    const connected: Array<ReadonlyArray<Endpoint>> = []
    for (const [number, level] of levels.entries()) {
      const spec = number === 0 ? policy : plans[number - 1]!.calls!.policy
      const target = number === 0 ? "service" : `tier${number}`
      const { breaks, make } = yield* Effect.mapError(
        read(spec, bindings, target, options.method, idempotent),
        (error) => number === 0 ? error : ofTier(number, error)
      )
      if (number === 0 && breaks) {
        circuits = clients * (level.plan.balancer === "proxy" ? 1 : level.plan.servers)
      }
      // Each caller has state of its own: a process does not share its breakers.
      connected.push(
        yield* Effect.forEach(
          level.callers,
          (caller) => Effect.flatMap(make, (stack) => connect(level, number, stack, caller))
        )
      )
    }
    inner.push(...connected.slice(1))
    return { levels, clients: connected[0]!, circuits }
  })

// What goes wrong ----------------------------------------------------------------------------------

/** Puts the phases of a scenario on the world's calendar. Gives what they make of the rate of calls. */
export const schedule = (
  world: World,
  system: System,
  scenario: Read.ScenarioPlan,
  where: string
): Arrivals.Load => {
  const loads: Array<Read.PhasePlan & { readonly factor: number }> = []
  for (const [index, plan] of scenario.phases.entries()) {
    const { from, phase, to } = plan
    const { callers, tier } = system.levels[plan.tier]!
    const hosts = tier.hosts.filter((_, i) => Read.isAmong(phase.servers, i))
    const during = (begin: () => void, end: () => void) => {
      world.at(from, begin)
      world.at(to, end)
    }
    const impose = (fault: Fault) =>
      during(
        () => hosts.forEach((host) => host.server.impose(fault)),
        () => hosts.forEach((host) => host.server.lift(fault))
      )
    switch (phase.do) {
      case "slow": {
        const { add, factor = 1, share } = phase
        const field = `scenario.phases.${index}.add`
        impose({
          factor: () => factor,
          add: add === undefined ? undefined : Read.distribution(where, field, add),
          share
        })
        break
      }
      case "cold":
        impose({ factor: (now) => phase.factor + (1 - phase.factor) * Math.min(1, (now - from) / (to - from)) })
        break
      case "error":
        impose({ ratio: phase.ratio, failsWith: Read.failsAs(where, `scenario.phases.${index}.as`, phase.as) })
        break
      case "swallow":
        impose({ swallows: true })
        break
      case "pause": {
        const fault: Fault = { freezes: true }
        during(
          () => {
            for (const { server, sessions } of hosts) {
              server.impose(fault)
              for (const session of sessions) session.watch(world)
            }
          },
          () => {
            for (const { server, sessions } of hosts) {
              server.lift(fault)
              for (const session of sessions) session.greet()
            }
          }
        )
        break
      }
      case "down":
        during(
          () => {
            for (const host of hosts) {
              host.down++
              host.server.lose()
              for (const session of host.sessions) session.close("reset by the peer")
            }
          },
          () => {
            for (const host of hosts) host.down--
          }
        )
        break
      case "drain":
        during(
          () => {
            for (const host of hosts) {
              host.draining++
              for (const session of host.sessions) session.goAway()
            }
          },
          () => {
            for (const host of hosts) host.draining--
          }
        )
        break
      case "partition": {
        const cut = callers.filter((caller) => Read.isAmong(phase.clients, caller.index))
        during(
          () => {
            for (const caller of cut) caller.cut.push(...hosts)
            for (const host of hosts) for (const session of host.sessions) session.watch(world)
          },
          () => {
            for (const caller of cut) for (const host of hosts) caller.cut.splice(caller.cut.indexOf(host), 1)
          }
        )
        break
      }
      case "load":
        loads.push({ ...plan, factor: phase.factor })
    }
  }
  return {
    most: loads.reduce((product, { factor }) => product * Math.max(1, factor), 1),
    at: (now) => {
      let factor = 1
      for (const load of loads) if (now >= load.from && now < load.to) factor *= load.factor
      return factor
    }
  }
}
