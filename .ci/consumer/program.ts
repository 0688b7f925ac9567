import { Effect } from "effect"
import { Policy, Timeout } from "holdfast"
const timeout = await Effect.runPromise(Timeout.make({ timeout: "20 millis" }))
const reason = await Effect.runPromise(Effect.never.pipe(Policy.apply(timeout), Effect.flip, Effect.map((e) => e.reason)))
if (reason.timeoutMillis !== 20) throw new Error(`expected a timeout of 20 ms, got ${reason._tag}`)
