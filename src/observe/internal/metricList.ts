/**
 * Every metric, once: what creates them, what the documentation lists and what
 * the dashboard may use.
 *
 * Names are Prometheus's, but for the two that OpenTelemetry's conventions for
 * RPC name. Each label is a name that is capped (a method, an endpoint, a
 * policy, a target) or a value of a closed set.
 */
import type { Definition } from "./metricSeries.ts"

/** Seconds, from a call in memory to one that waits for minutes: steps of 2 to 2.5. */
const seconds = [
  0.000_05,
  0.0001,
  0.000_25,
  0.0005,
  0.001,
  0.0025,
  0.005,
  0.01,
  0.025,
  0.05,
  0.1,
  0.25,
  0.5,
  1,
  2.5,
  5,
  10,
  30,
  60,
  120,
  300
]

const rpc = { "rpc.system.name": "holdfast" }

export const list = {
  // Calls
  callDuration: {
    name: "rpc.client.call.duration",
    kind: "histogram",
    unit: "s",
    labels: ["rpc.method", "error.type"],
    constant: rpc,
    boundaries: seconds,
    description: "Time from making a call to its end, every attempt and every wait included"
  },
  calls: {
    name: "holdfast_calls_total",
    kind: "counter",
    labels: ["method", "result"],
    description: "Calls that ended: success is any answer of the contract, failure any other error, ignored a caller's"
      + " interruption"
  },
  callsInFlight: {
    name: "holdfast_calls_in_flight",
    kind: "gauge",
    labels: ["method"],
    description: "Calls that have begun and not ended"
  },
  // Attempts
  attempts: {
    name: "holdfast_attempts_total",
    kind: "counter",
    labels: ["method", "kind", "result"],
    description:
      "Attempts that ended, by whether they were a call's first, a retry or a hedge, and by what they said of"
      + " their endpoint"
  },
  attemptDuration: {
    name: "holdfast_attempt_duration_seconds",
    kind: "histogram",
    unit: "s",
    labels: ["endpoint", "result"],
    boundaries: seconds,
    description: "Time of one attempt at one endpoint"
  },
  attemptsInFlight: {
    name: "holdfast_attempts_in_flight",
    kind: "gauge",
    labels: ["endpoint"],
    description: "Attempts that have begun and not ended"
  },
  retryDelay: {
    name: "holdfast_retry_delay_seconds",
    kind: "histogram",
    unit: "s",
    labels: ["policy"],
    boundaries: seconds,
    description: "Backoff before each retry that was scheduled"
  },
  hedges: {
    name: "holdfast_hedges_total",
    kind: "counter",
    labels: ["policy"],
    description: "Hedges started because the attempt before was slow"
  },
  hedgeDelay: {
    name: "holdfast_hedge_delay_seconds",
    kind: "gauge",
    unit: "s",
    labels: ["policy"],
    description: "How long a hedge waits at present for the attempt before it"
  },
  // Decisions of policies
  rejections: {
    name: "holdfast_rejections_total",
    kind: "counter",
    labels: ["policy", "reason"],
    description: "Calls and attempts that a policy rejected before anything was sent"
  },
  substitutions: {
    name: "holdfast_substitutions_total",
    kind: "counter",
    labels: ["policy", "how"],
    description: "Answers of a fallback or a cache in place of the dependency's"
  },
  breakerState: {
    name: "circuit_breaker_state",
    kind: "gauge",
    labels: ["policy", "state"],
    description: "Circuits of the breaker in each state: 0 or 1, or as many as it has keys"
  },
  breakerOpened: {
    name: "circuit_breaker_open_total",
    kind: "counter",
    labels: ["policy"],
    description: "Times a circuit opened"
  },
  breakerFailed: {
    name: "circuit_breaker_calls_failed_total",
    kind: "counter",
    labels: ["policy"],
    description: "Calls behind the breaker that failed, as it classifies them"
  },
  transitions: {
    name: "holdfast_transitions_total",
    kind: "counter",
    labels: ["policy", "from", "to"],
    description: "Moves of a circuit or another state machine between its states"
  },
  limit: {
    name: "holdfast_limit",
    kind: "gauge",
    labels: ["policy", "kind"],
    description: "What a bulkhead, a limiter or a rate limiter admits at present"
  },
  limitMoves: {
    name: "holdfast_limit_moves_total",
    kind: "counter",
    labels: ["policy", "direction", "cause"],
    description: "Moves of a limit, and what moved it"
  },
  permits: {
    name: "holdfast_permits_in_use",
    kind: "gauge",
    labels: ["policy", "kind"],
    description: "Permits of a bulkhead or a limiter that are taken"
  },
  queued: {
    name: "holdfast_queued",
    kind: "gauge",
    labels: ["policy", "kind"],
    description: "Attempts that wait for a permit"
  },
  queueWait: {
    name: "holdfast_queue_wait_seconds",
    kind: "histogram",
    unit: "s",
    labels: ["policy", "how"],
    boundaries: seconds,
    description: "Time attempts spent in a queue, by how they left it"
  },
  throttleRatio: {
    name: "holdfast_throttle_rejection_ratio",
    kind: "gauge",
    labels: ["policy"],
    description: "Share of attempts that the adaptive throttle rejects, as of its last decision"
  },
  budgetBalance: {
    name: "holdfast_retry_budget_balance",
    kind: "gauge",
    labels: ["policy"],
    description: "Tokens left in the retry budget, as of its last movement"
  },
  budgetMoves: {
    name: "holdfast_retry_budget_moves_total",
    kind: "counter",
    labels: ["policy", "change"],
    description: "Tokens of the retry budget withdrawn, refunded and refused"
  },
  cacheEntries: {
    name: "holdfast_cache_entries",
    kind: "gauge",
    labels: ["policy"],
    description: "Answers a cache keeps"
  },
  reloads: {
    name: "holdfast_reloads_total",
    kind: "counter",
    labels: ["policy", "result"],
    description: "Specs a running policy took, or refused and went on with the old one"
  },
  warnings: {
    name: "holdfast_warnings_total",
    kind: "counter",
    labels: ["policy"],
    description: "Warnings about a setup that is allowed and rarely meant"
  },
  // Endpoints and sessions
  endpoints: {
    name: "holdfast_endpoints",
    kind: "gauge",
    labels: ["target"],
    description: "Endpoints discovery names at present"
  },
  endpointsEjected: {
    name: "holdfast_endpoints_ejected",
    kind: "gauge",
    labels: ["target"],
    description: "Endpoints that are ejected at present"
  },
  endpointChanges: {
    name: "holdfast_endpoint_changes_total",
    kind: "counter",
    labels: ["target", "change"],
    description: "Endpoints that came, went, were ejected or readmitted"
  },
  repicks: {
    name: "holdfast_repicks_total",
    kind: "counter",
    labels: ["target"],
    description: "Picks of another endpoint because nothing was sent to the one before"
  },
  sessions: {
    name: "holdfast_sessions",
    kind: "gauge",
    labels: ["side"],
    description: "Connections open at present"
  },
  sessionsOpened: {
    name: "holdfast_sessions_opened_total",
    kind: "counter",
    labels: ["side"],
    description: "Connections opened"
  },
  wireBytes: {
    name: "holdfast_wire_bytes_total",
    kind: "counter",
    unit: "By",
    labels: ["side", "direction"],
    description: "Bytes read from and written to connections"
  },
  // Serving
  serverDuration: {
    name: "rpc.server.call.duration",
    kind: "histogram",
    unit: "s",
    labels: ["rpc.method", "error.type"],
    constant: rpc,
    boundaries: seconds,
    description: "Time of a handler, from its start to its end"
  },
  serverInFlight: {
    name: "holdfast_server_requests_in_flight",
    kind: "gauge",
    labels: ["method"],
    description: "Handlers that run"
  },
  serverRefused: {
    name: "holdfast_server_refused_total",
    kind: "counter",
    labels: ["reason"],
    description: "Requests, or connections with reason protocol, that a server refused before any handler"
  }
} as const satisfies Readonly<Record<string, Definition>>
