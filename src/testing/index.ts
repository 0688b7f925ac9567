/** For tests of policies and of what uses them. */
export * as Scenario from "./Scenario.ts"
