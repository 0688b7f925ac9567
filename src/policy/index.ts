/** Whether and when to send. Effect in, Effect out. */
export * as Policy from "./Policy.ts"
export * as CircuitBreaker from "./CircuitBreaker.ts"
export * as Timeout from "./Timeout.ts"
