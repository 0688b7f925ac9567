/**
 * Faults as data: which fault, when, in which direction, for whom, and until when.
 *
 * ```yaml
 * seed: checkout
 * phases:
 *   - name: slow
 *     from: 5 s
 *     for: 20 s
 *     fault: { kind: latency, delay: 300ms, jitter: 100ms }
 *     radius: { ratio: 0.3, of: key }
 *   - name: cut
 *     from: 30 s
 *     to: 35 s
 *     fault: { kind: reset }
 *     toxicity: 0.5
 * ```
 *
 * One script runs around a transport (`Chaos`), between two sockets
 * (`ChaosProxy`), in the simulator and in the demo. This module reads it and says
 * which faults are active at an instant for a target; it injects nothing.
 *
 * Time zero is the run's: whoever runs the script says when that was. Nothing
 * lasts for ever: a phase has an end of its own or the script's horizon. Draws
 * depend on the seed, the phase's name and what is drawn for, and on nothing else:
 * who is hit stays hit for the whole phase, in every runner alike.
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Yaml from "effect/encoding/Yaml"
import * as Schema from "effect/Schema"
import * as ErrorCode from "../contract/ErrorCode.ts"
import * as PolicySpec from "../policy/PolicySpec.ts"
import * as Draw from "./internal/simDraw.ts"

// The document -------------------------------------------------------------------------------------

const { Period, PeriodOrZero } = PolicySpec
const key = Schema.optionalKey
const ratio = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))
const positiveInt = Schema.Int.check(Schema.isGreaterThanOrEqualTo(1))
const kind = <const Kind extends string>(name: Kind) => ({ kind: Schema.Literal(name) })

/** `up`: from the client to the server. `down`: back. */
export const Direction = Schema.Literals(["up", "down", "both"])
export type Direction = typeof Direction.Type

/** Which way the fault works. Default `down`. */
const direction = { direction: key(Direction) }

/** Everything arrives `delay` later, spread by `jitter`; what came first still arrives first. */
const Latency = Schema.Struct({
  ...kind("latency"),
  ...direction,
  delay: PeriodOrZero,
  /** `uniform`: at most this much more or less. `normal`: its deviation. `exponential`: its mean, added. `pareto`: the least that is added, with a long tail. Default 0. */
  jitter: key(PeriodOrZero),
  /** Default `uniform`. */
  distribution: key(Schema.Literals(["uniform", "normal", "exponential", "pareto"]))
}).check(Schema.makeFilter(({ distribution, jitter }) =>
  distribution !== undefined && jitter === undefined
    ? { path: ["distribution"], issue: "only with a jitter" }
    : undefined
))

/** At most so many bytes a second, for each connection. */
const Bandwidth = Schema.Struct({ ...kind("bandwidth"), ...direction, bytesPerSecond: positiveInt })

/** Nothing arrives for a while, and then all of it, as when a packet is lost and sent again. Without `pause` until the phase ends. */
const Stall = Schema.Struct({
  ...kind("stall"),
  ...direction,
  pause: key(Period),
  /** Share of what is sent that stalls. Default 1. */
  ratio: key(ratio)
})

/** The connection is reset, for both sides, `after` it was opened or the phase began, whichever was later. */
const Reset = Schema.Struct({ ...kind("reset"), after: key(PeriodOrZero) })

/** One side of a connection is gone and the other is not told, until the phase ends and the connection is reset. */
const HalfOpen = Schema.Struct({
  ...kind("halfOpen"),
  /** Whose half stays open. Default `client`. */
  left: key(Schema.Literals(["client", "server"]))
})

/** What is sent arrives in pieces of `bytes`, spread by `variation`, with `gap` between them. */
const Slice = Schema.Struct({
  ...kind("slice"),
  ...direction,
  bytes: positiveInt,
  /** At most so many bytes more or less. Default 0. */
  variation: key(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))),
  /** Default 0. */
  gap: key(PeriodOrZero)
}).check(
  Schema.makeFilter(({ bytes, variation = 0 }) =>
    variation < bytes
      ? undefined
      : { path: ["variation"], issue: `must be less than bytes, ${bytes}, got ${variation}` }
  )
)

/** One bit of some of what is sent is flipped. */
const Corrupt = Schema.Struct({
  ...kind("corrupt"),
  ...direction,
  /** Share of what is sent. Default 1. */
  ratio: key(ratio)
})

/** What is sent vanishes; the connection stays open, and is reset when the phase ends, since it has lost bytes. */
const BlackHole = Schema.Struct({
  ...kind("blackHole"),
  ...direction,
  /** Closes the connection this long after it was opened or the phase began. */
  closeAfter: key(PeriodOrZero)
})

/** No connection is accepted. Those that are open stay. */
const Refuse = Schema.Struct(kind("refuse"))

/** The connection is closed when so many bytes of the phase have passed. */
const Limit = Schema.Struct({
  ...kind("limit"),
  ...direction,
  bytes: Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
})

/** One side hears late that the other has closed. */
const SlowClose = Schema.Struct({ ...kind("slowClose"), ...direction, delay: Period })

/** Requests are answered with an error. */
const ErrorAnswer = Schema.Struct({
  ...kind("error"),
  reason: Schema.Literals([
    "Unavailable",
    "Overloaded",
    "RateLimited",
    "Remote",
    "InvalidRequest",
    "Unauthenticated",
    "PermissionDenied",
    "NotFound",
    "Unimplemented"
  ]),
  /** Share of the requests. Default 1. */
  ratio: key(ratio),
  /** How long the server asks to be left alone. */
  retryAfter: key(Period),
  /** The code of a `Remote`. Default `CHAOS-E-1`; an idempotent call may repeat it. */
  code: key(ErrorCode.ErrorCode),
  /** Whether the handler has run all the same: then only its answer is lost. Default `false`. */
  processed: key(Schema.Boolean)
}).check(
  Schema.makeFilter(({ reason, retryAfter }) =>
    retryAfter !== undefined && !["Unavailable", "Overloaded", "RateLimited"].includes(reason)
      ? { path: ["retryAfter"], issue: `only for Unavailable, Overloaded and RateLimited, not ${reason}` }
      : undefined
  )
)

/** What goes wrong. */
export const Fault = Schema.Union([
  Latency,
  Bandwidth,
  Stall,
  Reset,
  HalfOpen,
  Slice,
  Corrupt,
  BlackHole,
  Refuse,
  Limit,
  SlowClose,
  ErrorAnswer
])
export type Fault = typeof Fault.Type
export type Kind = Fault["kind"]
/** The faults of one kind. */
export type Of<K extends Kind> = Extract<Fault, { readonly kind: K }>

const Names = Schema.NonEmptyArray(Schema.NonEmptyString)

/** Whom a fault hits: who is on every list that is there, and is drawn. Default everybody. */
export const Radius = Schema.Struct({
  /** Keys of calls: tenants, shards. A `*` at the end of a name stands for any rest, here and below. */
  keys: key(Names),
  methods: key(Names),
  endpoints: key(Names),
  /** Share of those, by a draw that stays the same for the whole phase. */
  ratio: key(ratio),
  /** What is drawn: every key is in or out, or every method, endpoint or connection. What has none counts by its connection. Default `key`. */
  of: key(Schema.Literals(["key", "method", "endpoint", "connection"]))
}).check(
  Schema.makeFilter(({ of, ratio }) =>
    of !== undefined && ratio === undefined ? { path: ["of"], issue: "only with a ratio" } : undefined
  )
)
export type Radius = typeof Radius.Type

const everybody: Radius = {}

/** Faults of the connection itself, with all that is on it: they know neither methods nor keys. */
const wholeConnection: ReadonlySet<Kind> = new Set(["reset", "halfOpen", "refuse", "limit", "slowClose"])

/** What of a radius a fault of the whole connection cannot tell, if anything. */
const untellable = (fault: Fault, { keys, methods, of }: Radius): string | undefined => {
  if (!wholeConnection.has(fault.kind)) return undefined
  if (keys !== undefined) return "keys"
  if (methods !== undefined) return "methods"
  return of === "key" || of === "method" ? "of" : undefined
}

const PhaseSpec = Schema.Struct({
  /** What it is called wherever it is reported; unique in the script. */
  name: Schema.NonEmptyString,
  fault: Fault,
  /** When it begins. Default 0. */
  from: key(PeriodOrZero),
  /** When it ends; or `for` how long it lasts; or the script's `horizon`. */
  to: key(Period),
  for: key(Period),
  radius: key(Radius),
  /** Share of the connections it hits, drawn once for each. Default 1. */
  toxicity: key(ratio)
}).check(Schema.makeFilter((phase) => {
  const { fault, from = Duration.zero, radius = everybody, to } = phase
  const field = untellable(fault, radius)
  if (field !== undefined) {
    return {
      path: ["radius", field],
      issue: `must be by endpoint or connection: ${fault.kind} is of whole connections`
    }
  }
  if (to === undefined) return undefined
  if (phase.for !== undefined) return { path: ["for"], issue: "only without to, which also says when it ends" }
  return Duration.isLessThan(from, to)
    ? undefined
    : { path: ["to"], issue: `must be after from, ${Duration.format(from)}, got ${Duration.format(to)}` }
}))

const endOf = (phase: typeof PhaseSpec.Type, horizon: Duration.Duration | undefined): Duration.Duration | undefined =>
  phase.to ?? (phase.for === undefined ? horizon : Duration.sum(phase.from ?? Duration.zero, phase.for))

/** A script: its phases may overlap, and then their faults add up in the order in which they stand. */
export const FaultScript = Schema.Struct({
  /** Names the dice. Default `"chaos"`. */
  seed: key(Schema.Union([Schema.String, Schema.Finite])),
  phases: Schema.NonEmptyArray(PhaseSpec),
  /** When everything is over, at the latest. */
  horizon: key(Period)
}).check(Schema.makeFilter(({ horizon, phases }) => {
  const names = new Set<string>()
  for (const [i, phase] of phases.entries()) {
    const at = (field: string, issue: string) => ({ path: ["phases", i, field], issue })
    if (names.has(phase.name)) return at("name", `must be unique, got ${JSON.stringify(phase.name)} again`)
    names.add(phase.name)
    const end = endOf(phase, horizon)
    if (end === undefined) return at("to", "missing: to, for or the script's horizon must say when it ends")
    const from = phase.from ?? Duration.zero
    if (!Duration.isLessThan(from, end)) {
      return at("from", `must be before the horizon, ${Duration.format(end)}, got ${Duration.format(from)}`)
    }
    if (horizon !== undefined && Duration.isGreaterThan(end, horizon)) {
      return at(
        phase.to === undefined ? "for" : "to",
        `must not end after the horizon, ${Duration.format(horizon)}, got ${Duration.format(end)}`
      )
    }
  }
  return undefined
}))
/** A script as it is written. */
export type FaultScript = typeof FaultScript.Encoded

// Reading ------------------------------------------------------------------------------------------

/** A phase that is ready to be asked. Times are milliseconds since the script began. */
export interface Phase {
  readonly name: string
  readonly fromMillis: number
  /** Exclusive: at this instant it is over. */
  readonly toMillis: number
  readonly fault: Fault
  readonly radius: Radius
  readonly toxicity: number
}

/** A script that has been read. */
export interface Script {
  readonly seed: string | number
  /** In the order of the document. */
  readonly phases: ReadonlyArray<Phase>
  /** When the last phase has ended. */
  readonly endMillis: number
}

/** A script that cannot be read: one problem a line, each with where it stands, what must hold and what was there. */
export class ScriptError extends Schema.TaggedError<ScriptError>()("ScriptError", { message: Schema.String }) {}

const decode = Schema.decodeUnknownEffect(FaultScript)

/** A script as the runners take it: written, or read already. */
export type Input = FaultScript | Script

/** The script that an input is. */
export const from = (input: Input): Effect.Effect<Script, ScriptError> =>
  "endMillis" in input ? Effect.succeed(input) : read(input)

/** Reads a script from data. Every problem is reported at once, unknown fields too. */
export const read = (document: unknown): Effect.Effect<Script, ScriptError> =>
  Effect.map(
    Effect.mapError(
      decode(document, PolicySpec.strictly),
      (error) => new ScriptError({ message: PolicySpec.problems(error.issue).join("\n") })
    ),
    ({ horizon, phases, seed = "chaos" }) => {
      const compiled = phases.map((phase): Phase => ({
        name: phase.name,
        fromMillis: Duration.toMillis(phase.from ?? Duration.zero),
        toMillis: Duration.toMillis(endOf(phase, horizon)!),
        fault: phase.fault,
        radius: phase.radius ?? everybody,
        toxicity: phase.toxicity ?? 1
      }))
      return { seed, phases: compiled, endMillis: Math.max(...compiled.map(({ toMillis }) => toMillis)) }
    }
  )

/** Reads a script from YAML, of which JSON is a part. */
export const parse = (text: string): Effect.Effect<Script, ScriptError> =>
  Effect.flatMap(
    Effect.try({ try: () => Yaml.parse(text), catch: (error) => new ScriptError({ message: String(error) }) }),
    read
  )

// Asking -------------------------------------------------------------------------------------------

/** Whom to ask for: what is not known is left out, and a list that asks for it then does not match. */
export interface Target {
  readonly endpoint?: string | undefined
  readonly method?: string | undefined
  /** What the call is partitioned by: a tenant, a shard. */
  readonly key?: string | undefined
  /** Which connection: a number or a name that stays its own. */
  readonly connection?: string | number | undefined
}

/** Whether a name is on a list, on which a `*` at the end stands for any rest; without a list any is. */
export const matches = (names: ReadonlyArray<string> | undefined, name: string | undefined): boolean =>
  names === undefined ||
  (name !== undefined &&
    names.some((pattern) => pattern.endsWith("*") ? name.startsWith(pattern.slice(0, -1)) : name === pattern))

/** The draw of a phase for something that is known by a name: always the same. In `[0, 1)`. */
const drawFor = (script: Script, phase: Phase, what: string, name: string | number): number =>
  new Draw.Dice(script.seed, `${phase.name}/${what}/${name}`).nextDoubleUnsafe()

/** Whether a phase, while it is active, hits a target. */
export const hits = (script: Script, phase: Phase, target: Target): boolean => {
  const { radius, toxicity } = phase
  if (!matches(radius.methods, target.method)) return false
  if (!matches(radius.keys, target.key)) return false
  if (!matches(radius.endpoints, target.endpoint)) return false
  const connection = target.connection ?? ""
  if (radius.ratio !== undefined && radius.ratio < 1) {
    const of = radius.of ?? "key"
    const name = wholeConnection.has(phase.fault.kind) && of === "key" ? undefined : target[of]
    const drawn = name === undefined
      ? drawFor(script, phase, "connection", connection)
      : drawFor(script, phase, of, name)
    if (drawn >= radius.ratio) return false
  }
  return toxicity === 1 || drawFor(script, phase, "toxicity", connection) < toxicity
}

const none: ReadonlyArray<Phase> = []

/**
 * The phases whose faults hit a target at an instant, in the order of the script.
 *
 * Costs a comparison for each phase that is not active.
 */
export const faultsAt = (script: Script, atMillis: number, target: Target): ReadonlyArray<Phase> => {
  let active: Array<Phase> | undefined
  for (const phase of script.phases) {
    if (phase.fromMillis > atMillis || phase.toMillis <= atMillis) continue
    if (hits(script, phase, target)) (active ??= []).push(phase)
  }
  return active ?? none
}

/** A phase begins or ends. */
export interface Change {
  readonly atMillis: number
  readonly phase: Phase
  readonly begins: boolean
}

/** Every beginning and end, in time's order; of one instant, the ends first. */
export const changes = (script: Script): ReadonlyArray<Change> =>
  script.phases
    .flatMap((phase): ReadonlyArray<Change> => [
      { atMillis: phase.fromMillis, phase, begins: true },
      { atMillis: phase.toMillis, phase, begins: false }
    ])
    .toSorted((a, b) => a.atMillis - b.atMillis || Number(a.begins) - Number(b.begins))

/** A generator of its own for each runner of a script: what it draws for single messages depends on nobody else. */
export const dice = (script: Script, name: string): Draw.Dice => new Draw.Dice(script.seed, name)

/** Whether a fault works on what goes this way. Faults without a direction concern the whole connection. */
export const works = (fault: Fault, way: "up" | "down"): boolean => {
  const direction = ("direction" in fault ? fault.direction : undefined) ?? "down"
  return direction === "both" || direction === way
}

/** One line for people: `latency delay 300ms jitter 100ms, both`. */
export const describe = (fault: Fault): string => {
  const words = Object.entries(fault).flatMap(([field, value]) => {
    if (field === "direction") return []
    if (field === "kind") return [String(value)]
    return [`${field} ${Duration.isDuration(value) ? Duration.format(value) : String(value)}`]
  })
  const direction = "direction" in fault && fault.direction !== undefined ? `, ${fault.direction}` : ""
  return words.join(" ") + direction
}
