/**
 * Lists in order of use, whose nodes are what they order.
 *
 * A `Map` can keep this order by deleting and setting again, but doing so with
 * every call is what makes a long-lived `Map` slow. Here a use is a few
 * assignments.
 */

/** A member of at most one list. */
export interface Node {
  list: Lru<any> | undefined
  older: Node | undefined
  newer: Node | undefined
}

export interface Lru<A extends Node> {
  /** What was used longest ago. */
  oldest: A | undefined
  newest: A | undefined
}

/** An empty list. */
export const make = <A extends Node>(): Lru<A> => ({ oldest: undefined, newest: undefined })

/** Takes a node out of its list. */
export const remove = (node: Node): void => {
  const { list, newer, older } = node
  if (list === undefined) return
  if (older === undefined) list.oldest = newer
  else older.newer = newer
  if (newer === undefined) list.newest = older
  else newer.older = older
  node.list = node.older = node.newer = undefined
}

/** Makes a node the newest of a list, out of the one it was in. */
export const put = <A extends Node>(list: Lru<A>, node: A): void => {
  if (list.newest === node) return
  remove(node)
  node.list = list
  node.older = list.newest
  if (list.newest === undefined) list.oldest = node
  else list.newest.newer = node
  list.newest = node
}

/** Makes a node the newest of its list. */
export const touch = (node: Node): void => {
  if (node.list !== undefined) put(node.list, node)
}
