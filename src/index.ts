/**
 * The map: what a call passes, in the order in which it passes it.
 *
 * ```
 *  client.UserService.GetUserInfo({ id: 1001 })
 *    │                      contract/   what can be called, and every word the layers share
 *    ▼ call level           client/     typed methods; the deadline is fixed here
 *  Fallback > Cache > Retry + Hedge (one loop, one counter, one budget)
 *    │                      policy/     whether and when to send
 *    ▼ attempt level                    state per dependency
 *  RateLimiter > AdaptiveThrottle
 *    │                      balancer/   where to send
 *    ▼ endpoint level                   state per endpoint
 *  CircuitBreaker > Bulkhead | AdaptiveLimiter > Timeout
 *    │                      transport/  how a request becomes bytes and comes back
 *    ▼ session, frame       wire/       bytes <-> frames
 *  ═══════════════ bytes ═══════════════
 *    ▲                      server/     the same way up, to the handler
 * ```
 *
 * Every name is a namespace: `import { Client, Policy, Retry } from "holdfast"`.
 * A folder alone is a subpath: `import { Retry } from "holdfast/policy"`.
 */
export * from "./contract/index.ts"
export * from "./client/index.ts"
export * from "./policy/index.ts"
export * from "./balancer/index.ts"
export * from "./transport/index.ts"
export * from "./wire/index.ts"
export * from "./server/index.ts"
export * from "./observe/index.ts"
