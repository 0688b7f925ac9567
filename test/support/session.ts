/** What a session under test is told. */
import { Effect } from "effect"
import * as Timer from "../../src/contract/Timer.ts"
import type { Env, Limits } from "../../src/transport/internal/session.ts"

const defaults: Limits = {
  maxPayloadBytes: 4 * 1024 * 1024,
  maxInFlight: 4096,
  maxQueued: 4096,
  pingIntervalMillis: 5000,
  pingTimeoutMillis: 4000,
  frameTimeoutMillis: 10_000,
  quarantineMillis: 30_000,
  stallMillis: 30_000
}

export const envOf = (limits: Partial<Limits>) =>
  Effect.withFiber((fiber) => {
    const env: Env = {
      source: Timer.sourceOf(fiber),
      limits: { ...defaults, ...limits },
      agent: "test",
      onClosed: () => {}
    }
    return Effect.succeed(env)
  })
