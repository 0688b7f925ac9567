/**
 * A queue whose waiters may leave from anywhere in it.
 *
 * A linked list through the waiters themselves: to join, to leave and to be next
 * each take constant time, however long the queue, so 50,000 waiters that give
 * up at once cost what 50,000 that are served do.
 */

/** What a waiter brings: its own links. It waits in one line at a time. */
export abstract class Waiter {
  /** Whether it is in a line. */
  queued = false
  older: this | undefined = undefined
  younger: this | undefined = undefined
}

/** First come, first served. */
export class Line<W extends Waiter> {
  size = 0
  oldest: W | undefined = undefined
  youngest: W | undefined = undefined

  push(waiter: W): void {
    waiter.queued = true
    waiter.older = this.youngest
    if (this.youngest === undefined) this.oldest = waiter
    else this.youngest.younger = waiter
    this.youngest = waiter
    this.size++
  }

  /** Takes a waiter out; whether it was in. */
  remove(waiter: W): boolean {
    if (!waiter.queued) return false
    const { older, younger } = waiter
    if (older === undefined) this.oldest = younger
    else older.younger = younger
    if (younger === undefined) this.youngest = older
    else younger.older = older
    waiter.queued = false
    waiter.older = waiter.younger = undefined
    this.size--
    return true
  }
}
