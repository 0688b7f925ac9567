/** Where to send: one attempt, one endpoint. */
export * as Balancer from "./Balancer.ts"
export * as Discovery from "./Discovery.ts"
export * as Endpoint from "./Endpoint.ts"
export * as PowerOfTwo from "./PowerOfTwo.ts"
