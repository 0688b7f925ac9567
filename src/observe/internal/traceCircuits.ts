/**
 * Which endpoints are behind a circuit that is not closed, from its transitions:
 * what an attempt can say of the circuit it passed.
 *
 * Bounded: a closed circuit is forgotten, as is one whose endpoint is gone; of
 * more than `most` the newest are not learned. Two clients of one endpoint in one
 * process have a circuit each, and the last word counts.
 */
import type { CallEvent } from "../../contract/CallEvent.ts"

const most = 1000

const states: ReadonlySet<string> = new Set(["Open", "HalfOpen", "Recovering", "ForcedOpen", "Disabled", "MetricsOnly"])

export class Circuits {
  private readonly endpoints = new Map<string, string>()

  heed(event: CallEvent): void {
    if (event._tag === "EndpointChanged" && event.change === "removed") this.endpoints.delete(event.endpoint)
    if (event._tag !== "Transition") return
    const endpoint = endpointOf(event.policy)
    if (endpoint === undefined) return
    if (event.to === "Closed") this.endpoints.delete(endpoint)
    else if (states.has(event.to) && (this.endpoints.has(endpoint) || this.endpoints.size < most)) {
      this.endpoints.set(endpoint, event.to)
    }
  }

  /** The state of the circuit before an endpoint, `undefined` for closed and for none. */
  of(endpoint: string): string | undefined {
    return this.endpoints.get(endpoint)
  }
}

/** A circuit of an endpoint is called `target@endpoint`. */
const endpointOf = (policy: string): string | undefined => {
  const at = policy.indexOf("@")
  return at < 0 ? undefined : policy.slice(at + 1)
}
