/**
 * Which fault when: real ones in turn, each on one endpoint, each with time to
 * recover before the next. Numbers in, numbers out.
 */

/** What happens to an endpoint. */
export type Kind = "kill" | "freeze" | "slow" | "errors"

export interface Fault {
  readonly kind: Kind
  /** Which of the servers, from 0. */
  readonly server: number
  /** Seconds since the load began: the fault begins. */
  readonly from: number
  /** The fault is lifted. */
  readonly to: number
  /** The next one begins: calls due before count for this one. */
  readonly until: number
}

/** What is done to the server, as a person would say it. */
export const descriptions: Readonly<Record<Kind, string>> = {
  kill: "SIGKILL, started again later",
  freeze: "SIGSTOP, SIGCONT later",
  slow: "every answer 0.5 to 2.5 s late",
  errors: "every answer an error"
}

/** What `slow` means. */
export const lateness = { minMillis: 500, maxMillis: 2500 }

/** Share of the run before the first fault. */
const calm = 0.1
/** Share of a fault's time until it is lifted; the rest is for recovery. */
const active = 0.5
/** Shorter runs do the first two only: with four, none would last long enough to show. */
const enoughForAll = 30

/** The faults of a run; `victims` are servers, in the order in which it hits them. */
export const make = (seconds: number, victims: ReadonlyArray<number>): ReadonlyArray<Fault> => {
  const kinds: ReadonlyArray<Kind> = seconds < enoughForAll ? ["kill", "freeze"] : ["kill", "freeze", "slow", "errors"]
  const each = seconds * (1 - calm) / kinds.length
  return kinds.map((kind, i) => {
    const from = seconds * calm + i * each
    return { kind, server: victims[i % victims.length]!, from, to: from + each * active, until: from + each }
  })
}

/** The fault a second belongs to, its recovery included; `undefined` before the first. */
export const at = (plan: ReadonlyArray<Fault>, second: number): Fault | undefined =>
  plan.findLast((fault) => fault.from <= second)
