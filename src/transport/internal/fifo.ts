/**
 * A queue whose entries may be over before their turn. They are skipped when they
 * surface, and forgotten when most of the queue is over: leaving the middle of a
 * long queue costs nothing, and a queue that never moves does not grow by those
 * who left.
 */
export class Fifo<A> {
  private items: Array<A> = []
  private head = 0
  /** Entries that have been over since the queue was last cleared of such; some may have surfaced. */
  private stale = 0
  private readonly isOver: (item: A) => boolean

  constructor(isOver: (item: A) => boolean) {
    this.isOver = isOver
  }

  /** Entries held, those that are over included: at most twice the others, and 64. */
  get held(): number {
    return this.items.length - this.head
  }

  push(item: A): void {
    this.items.push(item)
  }

  /** The first entry that is not over. */
  peek(): A | undefined {
    while (this.head < this.items.length && this.isOver(this.items[this.head]!)) this.head++
    if (this.head === this.items.length) this.clear()
    else if (this.head >= 1024 && this.head * 2 >= this.items.length) {
      this.items = this.items.slice(this.head)
      this.head = 0
    }
    return this.items[this.head]
  }

  /** Removes what `peek` returned, which is not over yet. */
  drop(): void {
    this.head++
  }

  /** Says that an entry of the queue is over: to be called once for each. */
  left(): void {
    if (++this.stale < 64 || this.stale * 2 < this.held) return
    this.items = this.takeAll()
  }

  /** All entries that are not over, in order; the queue is empty afterwards. */
  takeAll(): Array<A> {
    const all = this.items.slice(this.head).filter((item) => !this.isOver(item))
    this.clear()
    return all
  }

  private clear(): void {
    this.items = []
    this.head = 0
    this.stale = 0
  }
}
