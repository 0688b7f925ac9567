/** Seeing what calls went through. Nothing on the call path imports it: it receives. */
export * as Explain from "./Explain.ts"
export * as Logging from "./Logging.ts"
export * as Metrics from "./Metrics.ts"
export * as Observe from "./Observe.ts"
export * as Snapshot from "./Snapshot.ts"
export * as Tracing from "./Tracing.ts"
