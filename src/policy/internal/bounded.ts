/**
 * Values by key, so many at most: what was used longest ago goes for what is
 * new.
 *
 * The `Map` only finds them. It is not touched by a use, only by a key that
 * comes or goes: `lru.ts` keeps the order.
 */
import * as Lru from "./lru.ts"

interface Entry<A> extends Lru.Node {
  readonly key: string
  value: A
}

export class Bounded<A> {
  private capacity: number
  private readonly entries = new Map<string, Entry<A>>()
  private readonly order: Lru.Lru<Entry<A>> = Lru.make()

  constructor(capacity: number) {
    this.capacity = capacity
  }

  /** Holds so many at most from now on. */
  resize(capacity: number): void {
    this.capacity = capacity
    while (this.entries.size > capacity) this.delete(this.order.oldest!.key)
  }

  /** Replaces each value, which is no use of it. */
  update(change: (value: A) => A): void {
    for (const entry of this.entries.values()) entry.value = change(entry.value)
  }

  get size(): number {
    return this.entries.size
  }

  /** The value of a key, which is a use of it. */
  get(key: string): A | undefined {
    const entry = this.entries.get(key)
    if (entry === undefined) return undefined
    Lru.touch(entry)
    return entry.value
  }

  /** The value of a key, without using it. */
  peek(key: string): A | undefined {
    return this.entries.get(key)?.value
  }

  set(key: string, value: A): void {
    const entry = this.entries.get(key)
    if (entry !== undefined) {
      entry.value = value
      Lru.touch(entry)
      return
    }
    const { oldest } = this.order
    if (oldest !== undefined && this.entries.size >= this.capacity) this.delete(oldest.key)
    const added: Entry<A> = { key, value, list: undefined, older: undefined, newer: undefined }
    this.entries.set(key, added)
    Lru.put(this.order, added)
  }

  delete(key: string): void {
    const entry = this.entries.get(key)
    if (entry === undefined) return
    this.entries.delete(key)
    Lru.remove(entry)
  }

  clear(): void {
    for (const key of this.entries.keys()) this.delete(key)
  }
}
