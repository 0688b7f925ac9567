/**
 * Which circuits are not closed, from their transitions: what an attempt that
 * passes one, or a call that does not, can say about it.
 *
 * Bounded: a closed circuit is forgotten, as is one whose endpoint is gone; of
 * more than `most` the newest are not learned.
 */
import type { CallEvent, Rejected } from "../../contract/CallEvent.ts"
import type { Attributes } from "./traceNames.ts"

const most = 1000

const circuitStates: ReadonlySet<string> = new Set([
  "Open",
  "HalfOpen",
  "Recovering",
  "ForcedOpen",
  "Disabled",
  "MetricsOnly"
])

export class Circuits {
  /** By the policy's name, which for a circuit of an endpoint is `target@endpoint`. */
  private readonly states = new Map<string, string>()
  /** By endpoint. */
  private readonly endpoints = new Map<string, string>()

  heed(event: CallEvent): void {
    if (event._tag === "Transition") {
      const endpoint = endpointOf(event.policy)
      if (circuitStates.has(event.to)) {
        remember(this.states, event.policy, event.to)
        if (endpoint !== undefined) remember(this.endpoints, endpoint, event.to)
      } else if (event.to === "Closed") {
        this.states.delete(event.policy)
        if (endpoint !== undefined) this.endpoints.delete(endpoint)
      }
    } else if (event._tag === "EndpointChanged" && event.change === "removed") {
      this.states.delete(`${event.target}@${event.endpoint}`)
      this.endpoints.delete(event.endpoint)
    }
  }

  ofEndpoint(endpoint: string): string | undefined {
    return this.endpoints.get(endpoint)
  }

  ofRejection(event: Rejected): Attributes {
    return event.reason === "CircuitOpen" ? { "holdfast.circuit_breaker.state": this.states.get(event.policy) } : {}
  }
}

const endpointOf = (policy: string): string | undefined => {
  const at = policy.indexOf("@")
  return at < 0 ? undefined : policy.slice(at + 1)
}

const remember = (states: Map<string, string>, key: string, state: string): void => {
  if (states.has(key) || states.size < most) states.set(key, state)
}
