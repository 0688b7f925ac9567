/**
 * Hands events to whoever watches, in bounded memory: who is slow loses the
 * oldest, and learns how many.
 *
 * A watcher takes what is there; `wake` is called once when there is something
 * again. Nobody waits for a watcher. What matters for longer is kept, the latest
 * of it, for those who come to watch afterwards.
 */

/** Events kept for a watcher that does not take them. */
export const capacity = 256

/** Events kept for those who come later. */
export const keptCapacity = 100

export class Watcher<A> {
  private events: Array<A> = []
  private first = 0
  private lost = 0
  /** Called once, when an event is there. */
  wake: (() => void) | undefined

  push(event: A): void {
    this.events.push(event)
    if (this.events.length - this.first > capacity) {
      this.first++
      this.lost++
      // The oldest go in blocks: taking each away by itself would move all that stay.
      if (this.first >= capacity) this.compact()
    }
    const { wake } = this
    this.wake = undefined
    wake?.()
  }

  get isEmpty(): boolean {
    return this.events.length === this.first
  }

  /** What came since it was last asked, and how many before these are lost. */
  take(): { readonly events: ReadonlyArray<A>; readonly lost: number } {
    this.compact()
    const { events, lost } = this
    this.events = []
    this.lost = 0
    return { events, lost }
  }

  private compact(): void {
    this.events = this.events.slice(this.first)
    this.first = 0
  }
}

export class Hub<A> {
  private readonly watchers = new Set<Watcher<A>>()
  private readonly past: Array<A> = []

  get size(): number {
    return this.watchers.size
  }

  add(): Watcher<A> {
    const watcher = new Watcher<A>()
    this.watchers.add(watcher)
    return watcher
  }

  remove(watcher: Watcher<A>): void {
    this.watchers.delete(watcher)
  }

  /** The latest of what was published to be kept, oldest first. */
  get kept(): ReadonlyArray<A> {
    return this.past.slice()
  }

  publish(event: A, isKept = false): void {
    if (isKept && this.past.push(event) > keptCapacity) this.past.shift()
    for (const watcher of this.watchers) watcher.push(event)
  }
}
