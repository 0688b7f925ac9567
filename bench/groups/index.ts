/** What there is to measure, in the order in which it is shown. A group is measured in a process of its own. */
import { measure, type Options, type Row } from "../harness.ts"

export interface Group {
  readonly name: string
  /** Left out of a short run, unless asked for by name. */
  readonly long?: boolean
  readonly rows: (options: Options, short: boolean) => Promise<ReadonlyArray<Row>>
}

type Make = () => Promise<ReadonlyArray<Parameters<typeof measure>[1][number]>>

/** Modules are loaded by the process that measures them. */
const timed = <M>(name: string, load: () => Promise<M>, pick: (module: M) => Make): Group => ({
  name,
  rows: async (options) => measure(name, await pick(await load())(), options)
})

const policies = () => import("./policies.ts")
const wire = () => import("./wire.ts")
const codecs = () => import("./codecs.ts")

export const groups: ReadonlyArray<Group> = [
  timed("success", policies, (module) => module.success),
  timed("success, other policies", policies, (module) => module.successMore),
  timed("timeout, suspending", policies, (module) => module.suspending),
  timed("rejection", policies, (module) => module.rejection),
  timed("stack", policies, (module) => module.stack),
  timed("stack, suspending", policies, (module) => module.stackSuspending),
  timed("stack, rejection", policies, (module) => module.stackRejection),
  timed("one retry", policies, (module) => module.retried),
  timed("wire, 64 in flight", wire, (module) => module.calls(64)),
  { ...timed("wire, 512 in flight", wire, (module) => module.calls(512)), long: true },
  timed("codec, 100 B", codecs, (module) => module.small),
  timed("codec, 900 B", codecs, (module) => module.medium),
  { ...timed("codec, 18 kB", codecs, (module) => module.large), long: true },
  timed("balancer", () => import("./balancer.ts"), (module) => module.picks),
  timed("observability", () => import("./observe.ts"), (module) => module.looked),
  {
    name: "simulator",
    rows: async (options, short) => (await import("./simulator.ts")).rows("simulator", options, short)
  },
  { name: "memory", rows: async (_, short) => (await import("./memory.ts")).rows("memory", short) }
]
