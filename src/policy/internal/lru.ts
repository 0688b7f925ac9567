/**
 * Lists in order of use, whose nodes are what they order.
 *
 * A `Map` can keep this order by deleting and setting again, which with every
 * call is what makes a long-lived `Map` slow. Here a use is six assignments.
 */

export interface Node {
  list: List | undefined
  older: Node | undefined
  newer: Node | undefined
}

export interface List {
  oldest: Node | undefined
  newest: Node | undefined
}

/** A list of nodes that are `A`. */
export interface Lru<A extends Node> extends List {
  oldest: A | undefined
}

/** The fields of a node that is in no list. */
export const node: Node = { list: undefined, older: undefined, newer: undefined }

export const make = <A extends Node>(): Lru<A> => ({ oldest: undefined, newest: undefined })

/** What was used longest ago. */
export const oldest = <A extends Node>(list: Lru<A>): A | undefined => list.oldest

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
export const put = (list: List, node: Node): void => {
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
