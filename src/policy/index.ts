/** Whether and when to send. Effect in, Effect out. */
export * as Policy from "./Policy.ts"
export * as Backoff from "./Backoff.ts"
export * as RetryBudget from "./RetryBudget.ts"
export * as Retry from "./Retry.ts"
export * as Hedge from "./Hedge.ts"
export * as AdaptiveThrottle from "./AdaptiveThrottle.ts"
export * as CircuitBreaker from "./CircuitBreaker.ts"
export * as Timeout from "./Timeout.ts"
