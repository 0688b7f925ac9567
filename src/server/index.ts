/** Handlers for a contract, served on any transport. */
export * as Server from "./Server.ts"
