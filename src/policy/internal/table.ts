/**
 * The circuits of a keyed breaker, bounded.
 *
 * Calm circuits are Closed and may be evicted for room, the one used longest ago
 * first. The others are held: see `CircuitBreaker.keyed` for what becomes of
 * them.
 *
 * When a key was used is not noted with every call, which would be a reading of
 * the clock: it counts from when somebody looked next. So an idle circuit stays
 * a little longer than it may, and none goes too early.
 */
import * as Clock from "effect/Clock"
import type * as Fiber from "effect/Fiber"
import * as CallEvent from "../../contract/CallEvent.ts"
import * as Timer from "../../contract/Timer.ts"
import { Breaker, type Config, type Listener, type Snapshot, type State, type Tally, tell } from "./breaker.ts"
import * as Circuit from "./circuit.ts"
import * as Lru from "./lru.ts"

interface Entry extends Lru.Node {
  readonly key: string
  readonly breaker: Breaker
  /** Since when it has not been used, as far as anybody has looked. */
  idleSince: number | undefined
}

/** What a reader of all keys is told. */
export interface Change {
  readonly key: string
  readonly state: State
}

/** How many circuits are kept, and for how long one that nobody uses. */
export interface Bounds {
  readonly maxKeys: number
  readonly idleMillis: number
}

export class Table {
  readonly clock: Clock.Clock
  readonly listeners = new Set<Listener<Change>>()
  readonly tally: Tally = { failed: 0 }
  private config: Config
  private bounds: Bounds
  private readonly entries = new Map<string, Entry>()
  private readonly calm: Lru.Lru<Entry> = Lru.make()
  private readonly held: Lru.Lru<Entry> = Lru.make()
  /** What the keys share that find no room. */
  private shared: Breaker | undefined
  private sharing = false

  constructor(config: Config, fiber: Fiber.Fiber<unknown, unknown>, bounds: Bounds) {
    this.config = config
    this.clock = fiber.getRef(Clock.Clock)
    this.bounds = bounds
  }

  /** Goes on by another configuration, each circuit where it stands. */
  reconfigure(config: Config, bounds: Bounds, fiber: Fiber.Fiber<unknown, unknown>): void {
    this.config = { ...config, name: this.config.name }
    this.bounds = bounds
    for (const { breaker } of this.entries.values()) breaker.reconfigure(this.config, fiber)
    this.shared?.reconfigure(this.config, fiber)
  }

  /** The circuit for a call. */
  of(key: string, fiber: Fiber.Fiber<unknown, unknown>): Breaker {
    const entry = this.entries.get(key)
    if (entry !== undefined) return this.use(entry)
    const now = Timer.now(fiber)
    this.forgetIdle(this.calm, now)
    this.forgetIdle(this.held, now)
    if (!this.makeRoom()) return this.share(now, fiber)
    this.sharing = false
    return this.add(key, fiber)
  }

  /** The circuit for an operator, who is not told that there is no room. */
  keep(key: string, fiber: Fiber.Fiber<unknown, unknown>): Breaker {
    const entry = this.entries.get(key)
    if (entry !== undefined) return this.use(entry)
    this.makeRoom()
    return this.add(key, fiber)
  }

  /** Evicts Closed circuits until there is room for one more; whether there is. More than one where operators held more. */
  private makeRoom(): boolean {
    while (this.entries.size >= this.bounds.maxKeys) {
      const { oldest } = this.calm
      if (oldest === undefined) return false
      this.forget(oldest)
    }
    return true
  }

  wouldAdmit(key: string, now: number): boolean {
    const breaker = this.entries.get(key)?.breaker ?? (this.sharing ? this.shared : undefined)
    return breaker === undefined || Circuit.wouldAdmit(breaker.circuit, now, this.config)
  }

  states(now: number): ReadonlyMap<string, State> {
    const states = new Map<string, State>()
    for (const { breaker, key } of this.entries.values()) states.set(key, breaker.state(now))
    return states
  }

  snapshot(fiber: Fiber.Fiber<unknown, unknown>): Readonly<Record<string, Snapshot>> {
    const all = Array.from(this.entries.values(), ({ breaker, key }) => [key, breaker.snapshot(fiber)] as const)
    return Object.fromEntries(all)
  }

  restore(snapshot: Readonly<Record<string, Snapshot>>, fiber: Fiber.Fiber<unknown, unknown>): void {
    for (const [key, circuit] of Object.entries(snapshot)) {
      if (this.entries.has(key) || this.entries.size < this.bounds.maxKeys) {
        this.keep(key, fiber).restore(circuit, fiber)
      }
    }
  }

  private use(entry: Entry): Breaker {
    entry.idleSince = undefined
    Lru.touch(entry)
    return entry.breaker
  }

  private add(key: string, fiber: Fiber.Fiber<unknown, unknown>): Breaker {
    const breaker = new Breaker(this.config, `${this.config.name}[${key}]`, fiber, this.tally, (state, circuit) => {
      // A forgotten circuit may still have calls in flight.
      if (this.entries.get(key) === entry) Lru.put(circuit._tag === "Closed" ? this.calm : this.held, entry)
      tell(this.listeners, { key, state })
    })
    const entry: Entry = { key, breaker, idleSince: undefined, list: undefined, older: undefined, newer: undefined }
    this.entries.set(key, entry)
    Lru.put(this.calm, entry)
    return breaker
  }

  private share(now: number, fiber: Fiber.Fiber<unknown, unknown>): Breaker {
    const { name } = this.config
    if (!this.sharing) {
      this.sharing = true
      const why = `none of ${this.bounds.maxKeys} circuits is closed: further keys share one`
      CallEvent.receiverOf(fiber)?.event({ _tag: "Warning", policy: name, why, atMillis: now })
    }
    const moved = (state: State) => tell(this.listeners, { key: "*", state })
    return this.shared ??= new Breaker(this.config, `${name}[*]`, fiber, this.tally, moved)
  }

  private forget(entry: Entry): void {
    this.entries.delete(entry.key)
    Lru.remove(entry)
  }

  /** Looks at the one used longest ago. */
  private forgetIdle({ oldest }: Lru.Lru<Entry>, now: number): void {
    if (oldest === undefined) return
    const { circuit } = oldest.breaker
    // An operator's word does not age; whoever is behind it shall have his turn.
    if (Circuit.isOverride(circuit)) return Lru.touch(oldest)
    oldest.idleSince ??= now
    const calmSince = circuit._tag === "Open" ? Math.max(oldest.idleSince, circuit.until) : oldest.idleSince
    if (now >= calmSince + this.bounds.idleMillis) this.forget(oldest)
  }
}
