/**
 * The series every call writes to. A call of a known method and endpoint costs
 * one look-up per event; what is rare looks its series up when it happens.
 */
import * as CallError from "../../contract/CallError.ts"
import type * as CallEvent from "../../contract/CallEvent.ts"
import type { EndpointOutcome, Outcome } from "../../contract/Outcome.ts"
import { list } from "./metricList.ts"
import { type Histogram, Labelled, Names, other, release, type Store, type Value } from "./metricSeries.ts"

/**
 * What a call came to, for whoever made it. A rejection is a failure, and so is a
 * refusal that says nothing against its endpoint; a caller's own interruption is
 * nothing.
 */
const resultOf = (outcome: Outcome, error: unknown): EndpointOutcome =>
  CallError.isCallError(error) ? "failure" : outcome.endpoint

/** OpenTelemetry's `error.type`, from a closed set: a reason, the contract's own errors, or anything else. */
export const errorTypeOf = (outcome: Outcome, error: unknown): string => {
  if (CallError.isCallError(error)) return error.reason._tag
  return outcome.endpoint === "success" ? "Domain" : "_OTHER"
}

class Method {
  readonly inFlight: Value
  readonly calls: Labelled<typeof list.calls>
  readonly durations: Labelled<typeof list.callDuration>
  readonly attempts: Labelled<typeof list.attempts>
  // What nearly every call writes to.
  readonly succeeded: Value
  readonly duration: Histogram
  readonly firstSucceeded: Value

  constructor(store: Store, name: string) {
    this.inFlight = store.take(list.callsInFlight, [name])
    this.calls = new Labelled(store, list.calls, name)
    this.durations = new Labelled(store, list.callDuration, name)
    this.attempts = new Labelled(store, list.attempts, name)
    this.succeeded = this.calls.of("success")
    this.duration = this.durations.of("")
    this.firstSucceeded = this.attempts.of("first", "success")
  }
}

class Endpoint {
  readonly name: string
  readonly inFlight: Value
  readonly durations: Labelled<typeof list.attemptDuration>
  readonly duration: Histogram
  /** Discovery names it no more: its series go with its last attempt. */
  leaving = false

  constructor(store: Store, name: string) {
    this.name = name
    this.inFlight = store.take(list.attemptsInFlight, [name])
    this.durations = new Labelled(store, list.attemptDuration, name)
    this.duration = this.durations.of("success")
  }
}

export class Calls {
  private readonly methods: Names<Method>
  private readonly endpoints: Names<Endpoint>

  constructor(store: Store, cap: number) {
    this.methods = new Names(cap, (name) => new Method(store, name))
    this.endpoints = new Names(cap, (name) => new Endpoint(store, name))
  }

  started(event: CallEvent.CallStarted): void {
    this.methods.of(event.call.name).inFlight.value++
  }

  ended({ call, durationMillis, error, outcome }: CallEvent.CallEnded): void {
    const method = this.methods.of(call.name)
    method.inFlight.value--
    if (error === undefined && outcome.endpoint === "success") {
      method.succeeded.value++
      method.duration.record(durationMillis / 1000)
    } else {
      method.calls.of(resultOf(outcome, error)).value++
      method.durations.of(errorTypeOf(outcome, error)).record(durationMillis / 1000)
    }
  }

  attemptStarted({ endpoint = "" }: CallEvent.AttemptStarted): void {
    this.endpoints.of(endpoint).inFlight.value++
  }

  attemptEnded({ call, durationMillis, endpoint: address = "", outcome }: CallEvent.AttemptEnded): void {
    const endpoint = this.endpoints.of(address)
    const method = this.methods.of(call.name)
    const result = outcome.endpoint
    endpoint.inFlight.value--
    if (result === "success" && call.attempt === 1 && !call.hedge) {
      method.firstSucceeded.value++
      endpoint.duration.record(durationMillis / 1000)
    } else {
      method.attempts.of(call.hedge ? "hedge" : call.attempt === 1 ? "first" : "retry", result).value++
      endpoint.durations.of(result).record(durationMillis / 1000)
    }
    if (endpoint.leaving) this.leave(endpoint)
  }

  /** An endpoint came or went. Attempts that it still has keep its series until they end. */
  changed(address: string, present: boolean): void {
    const endpoint = this.endpoints.of(address)
    if (endpoint.name === other) return
    endpoint.leaving = !present
    if (endpoint.leaving) this.leave(endpoint)
  }

  private leave(endpoint: Endpoint): void {
    if (endpoint.inFlight.value > 0) return
    if (this.endpoints.drop(endpoint.name) === undefined) return
    endpoint.durations.release()
    release(endpoint.inFlight)
  }
}
