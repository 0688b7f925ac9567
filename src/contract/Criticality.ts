/**
 * How much it matters that a call is answered.
 *
 * Under overload, what is least critical is shed first. A call inherits the
 * criticality of the call it is made for, unless it states its own.
 *
 * Source: the four levels of Google SRE, "Handling Overload".
 */

/** Least to most important to shed: `criticalPlus` is shed last, `sheddable` first. */
export type Criticality = "criticalPlus" | "critical" | "sheddablePlus" | "sheddable"

/** The level of a call that states none. */
export const defaultCriticality: Criticality = "critical"

/** All levels, most critical first; the index is the level's number on the wire. */
export const levels: ReadonlyArray<Criticality> = ["criticalPlus", "critical", "sheddablePlus", "sheddable"]

/** The level's rank, 0 (shed last) to 3 (shed first): its number on the wire. */
export const rank = (criticality: Criticality): number => levels.indexOf(criticality)

/** The level of a rank. A rank this version does not know is the least critical, so that it is shed first. */
export const fromRank = (rank: number): Criticality => levels[rank] ?? "sheddable"
