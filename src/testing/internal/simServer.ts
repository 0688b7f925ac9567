/**
 * A simulated server: requests come in, wait for one of `k` workers, take their
 * time and are answered. M/G/k with a bounded queue, whose service times grow
 * with what it holds, and whose faults come and go.
 *
 * It knows no policy and no fiber: only requests, the clock's queue of events and
 * its dice. Faults that overlap add up.
 *
 * ```
 * arrive ──> full? ──yes──> refused
 *              │no
 *            queue ──worker free──> expired or given up? ──yes──> dropped
 *                                        │no
 *                                     service ──> (calls other servers) ──> answered
 * ```
 */
import * as Draw from "./simDraw.ts"
import type { World } from "./simTime.ts"

/** How a request ends at the server. */
export type Answer = "ok" | "failed" | "unavailable" | "overloaded" | "expired"

/** What makes a request longer the more of them a server holds. */
export interface Contention {
  readonly above: number
  /** Share by which each request above makes service longer. */
  readonly factor: number
  /** What each request above adds, in milliseconds. */
  readonly perRequest: number
}

export interface ServerOptions {
  readonly concurrency: number
  readonly queue: number
  readonly service: Draw.Distribution
  readonly contention: Contention | undefined
  /** Share of requests that fail by themselves. */
  readonly failureRatio: number
  readonly failsWith: Answer
  /** What it stops when its caller has gone. */
  readonly cancels: "nothing" | "queued" | "everything"
  /** Whether it drops what has expired when its turn comes. */
  readonly dropsExpired: boolean
}

/** What a fault does to a server while it lasts. */
export interface Fault {
  /** Makes service longer. */
  readonly factor?: ((now: number) => number) | undefined
  readonly add?: Draw.Distribution | undefined
  /** Share of requests that fail. */
  readonly ratio?: number | undefined
  readonly failsWith?: Answer | undefined
  /** Share of requests the fault is for. Default 1. */
  readonly share?: number | undefined
  /** Answers nothing and works on nothing. */
  readonly freezes?: boolean | undefined
  /** Takes requests and never answers, but works on. */
  readonly swallows?: boolean | undefined
}

/** A request at a server. */
export interface Job {
  readonly deadline: number
  /** Tells the caller; called at most once. */
  readonly answer: (answer: Answer) => void
  /** Called where the server loses it. */
  readonly lost: () => void
  /** Whether the caller still waits. */
  readonly isWanted: () => boolean
  state: "sent" | "queued" | "running" | "done"
  /** When a worker took it. */
  startedAt: number
  /** Stops what it calls itself. */
  stop: (() => void) | undefined
}

/** What the servers of a tier have done. */
export interface Work {
  arrived: number
  refused: number
  /** Milliseconds workers were busy. */
  busy: number
  /** The part of it that answered somebody who still waited. */
  useful: number
}

export class Server {
  readonly name: string
  private readonly working = new Set<Job>()
  private readonly queue: Array<Job> = []
  private head = 0
  /** Those in the queue that have been given up. */
  private gone = 0
  private faults: ReadonlyArray<Fault> = []
  private frozen = false
  private frozenSince = 0
  private frozenFor = 0
  /** Work that goes on once it is frozen no more, and requests that have come meanwhile. */
  private readonly held: Array<() => void> = []
  private readonly outside: Array<Job> = []
  private readonly world: World
  private readonly options: ServerOptions
  private readonly dice: Draw.Dice
  private readonly work: Work
  /** What has to be done besides before a request is answered, for servers that call others. */
  private readonly beyond: ((job: Job, done: (succeeded: boolean) => void) => void) | undefined

  constructor(
    name: string,
    world: World,
    options: ServerOptions,
    dice: Draw.Dice,
    work: Work,
    beyond?: (job: Job, done: (succeeded: boolean) => void) => void
  ) {
    this.name = name
    this.world = world
    this.options = options
    this.dice = dice
    this.work = work
    this.beyond = beyond
  }

  /** Requests being worked on. */
  get running(): number {
    return this.working.size
  }

  /** Requests waiting for a worker. */
  get queued(): number {
    return this.queue.length - this.head - this.gone
  }

  get isFrozen(): boolean {
    return this.frozen
  }

  receive(job: Job): void {
    this.work.arrived++
    this.take(job)
  }

  private take(job: Job): void {
    // Given up on the way.
    if (job.state === "done") return
    // Who is frozen does not refuse either.
    if (this.frozen) return void this.outside.push(job)
    if (this.running < this.options.concurrency) return this.start(job)
    if (this.queued >= this.options.queue) {
      this.work.refused++
      return this.end(job, "overloaded")
    }
    job.state = "queued"
    this.queue.push(job)
  }

  /** The caller of a request does not wait any more, and has said so. */
  cancel(job: Job): void {
    const { cancels } = this.options
    if (cancels === "nothing" || job.state === "done") return
    if (job.state !== "running") {
      if (job.state === "queued") this.gone++
      job.state = "done"
    } else if (cancels === "everything") {
      this.free(job)
      job.stop?.()
    }
  }

  impose(fault: Fault): void {
    this.faults = [...this.faults, fault]
    this.thaw()
  }

  lift(fault: Fault): void {
    this.faults = this.faults.filter((other) => other !== fault)
    this.thaw()
  }

  /** Everything it holds is lost, as when its process is killed. */
  lose(): void {
    const lost = [...this.working, ...this.queue.slice(this.head), ...this.outside].filter((job) =>
      job.state !== "done"
    )
    for (const job of lost) job.state = "done"
    this.working.clear()
    this.queue.length =
      this.head =
      this.gone =
      this.held.length =
      this.outside.length =
        0
    for (const job of lost) {
      job.stop?.()
      job.lost()
    }
  }

  private thaw(): void {
    const { now } = this.world
    const frozen = this.faults.some((fault) => fault.freezes === true)
    if (frozen === this.frozen) return
    this.frozen = frozen
    if (frozen) {
      this.frozenSince = now
      return
    }
    this.frozenFor += now - this.frozenSince
    for (const resume of this.held.splice(0)) resume()
    this.next()
    for (const job of this.outside.splice(0)) this.take(job)
  }

  private start(job: Job): void {
    const { options, world } = this
    const { contention, dropsExpired } = options
    if (dropsExpired && world.now >= job.deadline) return this.end(job, "expired")
    job.state = "running"
    job.startedAt = world.now
    this.working.add(job)
    let millis = Draw.draw(options.service, this.dice)
    if (contention !== undefined) {
      const above = Math.max(0, this.running - 1 + this.queued - contention.above)
      millis = millis * (1 + contention.factor * above) + contention.perRequest * above
    }
    let answer: Answer = options.failureRatio > 0 && this.dice.nextDoubleUnsafe() < options.failureRatio
      ? options.failsWith
      : "ok"
    let swallowed = false
    for (const fault of this.faults) {
      if (fault.share !== undefined && this.dice.nextDoubleUnsafe() >= fault.share) continue
      if (fault.factor !== undefined) millis *= fault.factor(world.now)
      if (fault.add !== undefined) millis += Draw.draw(fault.add, this.dice)
      if (fault.ratio !== undefined && this.dice.nextDoubleUnsafe() < fault.ratio) answer = fault.failsWith ?? "failed"
      if (fault.swallows === true) swallowed = true
    }
    const finish = () => {
      if (job.state !== "running") return
      if (this.beyond === undefined || answer !== "ok") return this.finish(job, answer, swallowed)
      this.beyond(job, (succeeded) => {
        if (job.state === "running") this.finish(job, succeeded ? "ok" : "failed", swallowed)
      })
    }
    this.later(millis, finish)
  }

  /** Runs something after so much time in which the server was not frozen. */
  private later(millis: number, run: () => void): void {
    const { world } = this
    const before = this.frozenFor
    world.after(millis, () => {
      const missed = this.frozenFor - before + (this.frozen ? world.now - this.frozenSince : 0)
      if (this.frozen) this.held.push(() => this.later(missed, run))
      else if (missed > 0) this.later(missed, run)
      else run()
    })
  }

  private finish(job: Job, answer: Answer, swallowed: boolean): void {
    if (answer === "ok" && !swallowed && job.isWanted()) this.work.useful += this.world.now - job.startedAt
    this.free(job)
    if (!swallowed) job.answer(answer)
  }

  /** The worker of a request is free again. */
  private free(job: Job): void {
    this.work.busy += this.world.now - job.startedAt
    job.state = "done"
    this.working.delete(job)
    this.next()
  }

  /** Ends a request that no worker has taken. */
  private end(job: Job, answer: Answer): void {
    job.state = "done"
    job.answer(answer)
  }

  private next(): void {
    const { queue } = this
    while (!this.frozen && this.running < this.options.concurrency && this.head < queue.length) {
      const job = queue[this.head++]!
      if (job.state === "queued") this.start(job)
      else this.gone--
    }
    // What has left is forgotten in blocks: shifting one by one costs the length of the queue.
    if (this.head === queue.length) queue.length = this.head = 0
    else if (this.head > 1024 && this.head * 2 > queue.length) {
      queue.splice(0, this.head)
      this.head = 0
    }
  }
}
