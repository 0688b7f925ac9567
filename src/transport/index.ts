/** How a request becomes bytes and comes back. */
export * as Connection from "./Connection.ts"
export * as InMemory from "./InMemory.ts"
export * as Tcp from "./Tcp.ts"
export * as Transport from "./Transport.ts"
