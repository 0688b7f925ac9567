/** Seeing what calls went through. Nothing on the call path imports it: it receives. */
export * as Observe from "./Observe.ts"
export * as Snapshot from "./Snapshot.ts"
export * as Tracing from "./Tracing.ts"
