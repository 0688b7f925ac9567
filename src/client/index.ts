/** Typed methods from a contract, and the order of what happens to a call. */
export * as Client from "./Client.ts"
export * as ClientStack from "./ClientStack.ts"
export * as HttpPolicy from "./HttpPolicy.ts"
