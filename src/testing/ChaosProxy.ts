/**
 * The faults of a script between two sockets: a TCP proxy that passes bytes on,
 * and does to them what the script says.
 *
 * ```ts
 * const proxy = yield* ChaosProxy.make({ listen: "tcp://127.0.0.1:0", to: "tcp://127.0.0.1:7070", script })
 * // connect to proxy.address
 * ```
 *
 * It knows no protocol: any client and any server will do, in any language. So it
 * cannot see methods, keys or requests; phases that need them are left out, which
 * `leftOut` lists and a `Warning` says. Connections are what is drawn: a radius'
 * ratio and a toxicity are shares of them. It does not speak TLS; it passes it on.
 *
 * Time zero is when it listens. What it holds is bounded for each connection by
 * 64 KiB and a chunk each way; the sender waits. A phase that refuses everybody
 * closes the listener, and the port is listened on again at its end.
 *
 * Uses `node:net` itself: a reset is what `effect/socket` cannot send.
 */
import * as Data from "effect/Data"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import * as Net from "node:net"
import * as CallEvent from "../contract/CallEvent.ts"
import * as Timer from "../contract/Timer.ts"
import * as Tcp from "../transport/Tcp.ts"
import * as FaultScript from "./FaultScript.ts"
import { Link } from "./internal/chaosLink.ts"

export interface ChaosProxyOptions {
  /** Where clients connect: `tcp://host:port`, port 0 for any. Default `tcp://127.0.0.1:0`. */
  readonly listen?: string | undefined
  /** Where they are passed on to. */
  readonly to: string
  readonly script: FaultScript.Input
  /** Told of each phase as it begins and ends. Called outside any fiber; must not throw. */
  readonly onChange?: ((change: FaultScript.Change) => void) | undefined
}

export interface ChaosProxyStats {
  /** Connections accepted since the beginning, and open now. */
  readonly accepted: number
  readonly open: number
  /** Bytes passed on to the server, and back. */
  readonly bytesUp: number
  readonly bytesDown: number
  /** Bytes held back now. */
  readonly heldBytes: number
  /** Whether connections are accepted now. */
  readonly listening: boolean
}

export interface ChaosProxy {
  /** The address, with the port that was assigned where 0 was asked for. */
  readonly address: string
  /** The script it runs. */
  readonly script: FaultScript.Script
  /** Phases that bytes cannot show: of methods, of keys, of answers. */
  readonly leftOut: ReadonlyArray<FaultScript.Phase>
  readonly stats: () => ChaosProxyStats
}

/** The proxy cannot listen, or an address is none. */
export class ProxyError extends Data.TaggedError("ProxyError")<{ readonly message: string }> {}

const isVisible = ({ fault, radius }: FaultScript.Phase): boolean =>
  fault.kind !== "error" && radius.methods === undefined && radius.keys === undefined

/** Whether no connection at all is taken while the phase lasts. */
const refusesAll = ({ fault, radius, toxicity }: FaultScript.Phase, endpoint: string): boolean =>
  fault.kind === "refuse" && toxicity === 1 && (radius.ratio ?? 1) === 1 &&
  FaultScript.matches(radius.endpoints, endpoint)

const parse = (field: string, address: string) => {
  const target = Tcp.parse(address)
  return target === undefined
    ? Effect.fail(new ProxyError({ message: `${field} must be tcp://host:port, got ${JSON.stringify(address)}` }))
    : Effect.succeed(target)
}

/** How long the port is left alone when somebody else has taken it meanwhile. */
const relistenMillis = 100

/** Listens until the scope closes; then nothing of it is left. */
export const make = (
  options: ChaosProxyOptions
): Effect.Effect<ChaosProxy, FaultScript.ScriptError | ProxyError, Scope.Scope> =>
  Effect.gen(function*() {
    const script = yield* FaultScript.from(options.script)
    const listen = yield* parse("listen", options.listen ?? "tcp://127.0.0.1:0")
    const to = yield* parse("to", options.to)
    const { receiver, source } = yield* Effect.withFiber((fiber) =>
      Effect.succeed({ source: Timer.sourceOf(fiber), receiver: CallEvent.receiverOf(fiber) })
    )
    const leftOut = script.phases.filter((phase) => !isVisible(phase))
    const visible: FaultScript.Script = { ...script, phases: script.phases.filter(isVisible) }
    const proxy = yield* Effect.acquireRelease(
      Effect.sync(() => new Proxy(options.to, to, visible, source)),
      (proxy) => proxy.close
    )
    yield* proxy.listen(listen)
    proxy.begin((change) => {
      options.onChange?.(change)
      receiver?.event({
        _tag: "Transition",
        policy: `chaos ${change.phase.name}`,
        from: change.begins ? "Off" : "On",
        to: change.begins ? "On" : "Off",
        why: FaultScript.describe(change.phase.fault),
        atMillis: Timer.nowOf(source.clock)
      })
    })
    for (const { fault, name } of leftOut) {
      const why = `left out of the proxy, which sees bytes only: ${FaultScript.describe(fault)}`
      receiver?.event({ _tag: "Warning", policy: `chaos ${name}`, why, atMillis: Timer.nowOf(source.clock) })
    }
    const { host, port } = proxy.bound
    const address = `tcp://${host.includes(":") ? `[${host}]` : host}:${port}`
    return { address, script, leftOut, stats: proxy.stats }
  })

interface Where {
  readonly host: string
  readonly port: number
}

class Proxy {
  bound: Where = { host: "", port: 0 }
  private readonly endpoint: string
  private readonly to: Where
  private readonly script: FaultScript.Script
  private readonly source: Timer.Source
  private readonly server: Net.Server
  private readonly links = new Set<Link>()
  private readonly timers = new Set<Timer.Timer>()
  private beganAt: number
  private accepted = 0
  private readonly bytes = { up: 0, down: 0 }
  private isClosed = false

  constructor(endpoint: string, to: Where, script: FaultScript.Script, source: Timer.Source) {
    this.endpoint = endpoint
    this.to = to
    this.script = script
    this.source = source
    this.beganAt = Timer.nowOf(source.clock)
    this.server = Net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => this.accept(socket))
  }

  listen(where: Where): Effect.Effect<void, ProxyError> {
    return Effect.callback((resume) => {
      const { server } = this
      const failed = (error: Error) => {
        resume(
          Effect.fail(new ProxyError({ message: `cannot listen on ${where.host}:${where.port}: ${error.message}` }))
        )
      }
      server.once("error", failed)
      server.listen({ ...where }, () => {
        server.off("error", failed)
        this.bound = { host: where.host, port: (server.address() as Net.AddressInfo).port }
        // An error later is of the port, listened on again: it has been somebody else's meanwhile.
        server.on("error", () => {
          if (!this.isClosed) this.plan(this.elapsed() + relistenMillis, () => this.adjust())
        })
        // A host by its name is looked up first, and meanwhile everything may have ended, or another phase begun.
        server.on("listening", () => {
          if (this.isClosed) server.close()
          else this.adjust()
        })
        resume(Effect.void)
      })
    })
  }

  /** Starts the script's clock. */
  begin(onChange: (change: FaultScript.Change) => void): void {
    this.beganAt = Timer.nowOf(this.source.clock)
    for (const change of FaultScript.changes(this.script)) {
      this.plan(change.atMillis, () => {
        onChange(change)
        this.adjust()
      })
    }
  }

  readonly stats = (): ChaosProxyStats => {
    let heldBytes = 0
    for (const link of this.links) heldBytes += link.heldBytes
    return {
      accepted: this.accepted,
      open: this.links.size,
      bytesUp: this.bytes.up,
      bytesDown: this.bytes.down,
      heldBytes,
      listening: this.server.listening
    }
  }

  readonly close: Effect.Effect<void> = Effect.callback((resume) => {
    this.isClosed = true
    for (const timer of this.timers) timer.cancel()
    for (const link of this.links) link.destroy()
    const done = () => {
      if (this.links.size === 0) resume(Effect.void)
    }
    this.drained = done
    if (!this.server.listening) return done()
    this.server.close(done)
  })
  private drained: () => void = () => {}

  private readonly elapsed = (): number => Timer.nowOf(this.source.clock) - this.beganAt

  private readonly schedule = (atMillis: number, run: () => void): Timer.Timer =>
    Timer.scheduleOn(this.source, this.beganAt + atMillis, run)

  private plan(atMillis: number, run: () => void): void {
    const timer = this.schedule(atMillis, () => {
      this.timers.delete(timer)
      run()
    })
    this.timers.add(timer)
  }

  /** Listens, or does not, as the phases of now say. */
  private adjust(): void {
    if (this.isClosed) return
    const now = this.elapsed()
    const refuses = this.script.phases.some((phase) =>
      phase.fromMillis <= now && now < phase.toMillis && refusesAll(phase, this.endpoint)
    )
    if (refuses && this.server.listening) this.server.close()
    else if (!refuses && !this.server.listening) this.server.listen({ ...this.bound })
  }

  private accept(client: Net.Socket): void {
    const connection = this.accepted++
    const target = { endpoint: this.endpoint, connection }
    const active = FaultScript.faultsAt(this.script, this.elapsed(), target)
    if (active.some(({ fault }) => fault.kind === "refuse")) {
      client.on("error", () => {})
      client.resetAndDestroy()
      return
    }
    const server = Net.connect({ ...this.to, allowHalfOpen: true })
    this.links.add(
      new Link(
        {
          script: this.script,
          elapsed: this.elapsed,
          schedule: this.schedule,
          passed: (way, bytes) => void (this.bytes[way] += bytes),
          gone: (link) => {
            this.links.delete(link)
            if (this.isClosed) this.drained()
          }
        },
        connection,
        this.endpoint,
        client,
        server
      )
    )
  }
}
