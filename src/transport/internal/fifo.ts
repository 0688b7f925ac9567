/**
 * A queue whose entries may be over before their turn: they are skipped when
 * they surface, so that leaving the middle of a long queue costs nothing.
 */
export class Fifo<A> {
  private items: Array<A> = []
  private head = 0
  private readonly isOver: (item: A) => boolean

  constructor(isOver: (item: A) => boolean) {
    this.isOver = isOver
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

  /** Removes what `peek` returned. */
  drop(): void {
    this.head++
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
  }
}
