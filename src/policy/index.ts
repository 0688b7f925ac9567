/** Whether and when to send. Effect in, Effect out. */
export * as Policy from "./Policy.ts"
