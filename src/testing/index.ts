/** For tests of policies and of what uses them. */
export * as Chaos from "./Chaos.ts"
export * as ChaosProxy from "./ChaosProxy.ts"
export * as ClientTest from "./ClientTest.ts"
export * as FaultScript from "./FaultScript.ts"
export * as Scenario from "./Scenario.ts"
export * as Scenarios from "./Scenarios.ts"
export * as Simulator from "./Simulator.ts"
