/**
 * A snapshot over HTTP: `GET /holdfast/snapshot` as JSON, and
 * `GET /holdfast/events` as server-sent events. Where an `Explain` keeps logs,
 * `GET /holdfast/calls` has those of the last failed calls.
 *
 * The stream begins with an event `snapshot` and repeats it every interval, which
 * is its heartbeat. Behind the first comes `earlier`, a list of what happened
 * before, where there is any; in between come `event`s as they happen, and `lost` with a
 * count where the reader was too slow for some. It ends when the reader goes, and
 * with it everything that was kept for it. There is nothing to resume: a reader
 * that comes back begins with a new snapshot.
 *
 * It shows names of methods, addresses and policies to whoever may connect, and
 * checks nobody's identity: `Dashboard` listens on the loopback only.
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Sse from "effect/encoding/Sse"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import * as Options from "../contract/Options.ts"
import * as Explain from "../observe/Explain.ts"
import * as Snapshot from "../observe/Snapshot.ts"

export interface SnapshotHttpOptions {
  /** Between two snapshots of a stream: up to 15 seconds, because proxies end what is silent for longer. Default 1 second. */
  readonly interval?: Duration.Input | undefined
  /** Streams at the same time: an integer `>= 1`. Default 32; one more is answered 503. */
  readonly maxWatchers?: number | undefined
}

/** Nobody keeps what is true for a second. */
export const uncached = { "cache-control": "no-store", "x-content-type-options": "nosniff" }

/**
 * The two routes.
 *
 * Dies with a `RangeError` when an option is out of range.
 */
export const layer = (
  options: SnapshotHttpOptions = {}
): Layer.Layer<never, never, HttpRouter.HttpRouter | Snapshot.Snapshot> =>
  Layer.unwrap(Effect.gen(function*() {
    const where = "SnapshotHttp.layer"
    const { interval = "1 second", maxWatchers = 32 } = options
    const millis = Options.millis(where, "interval", interval)
    Options.check(millis <= 15_000, where, "interval", "at most 15 seconds", interval)
    Options.integer(where, "maxWatchers", maxWatchers, 1)
    const snapshot = yield* Snapshot.Snapshot
    const explain = yield* Effect.serviceOption(Explain.Explain)
    const failed = Option.match(explain, {
      onNone: () => Effect.succeed(null),
      onSome: ({ recent }) => Effect.map(recent, (logs) => logs.filter(isFailed).slice(0, maxCalls).map(told))
    })
    let watchers = 0
    // Counted where it runs: the answer to a HEAD is never run.
    const counted = Effect.acquireRelease(Effect.sync(() => watchers++), () => Effect.sync(() => watchers--))
    const events = Stream.unwrap(Effect.as(counted, snapshot.watch(interval))).pipe(
      Stream.map(encode),
      Stream.encodeText
    )
    return Layer.mergeAll(
      HttpRouter.add(
        "GET",
        "/holdfast/snapshot",
        Effect.map(snapshot.take, (taken) => HttpServerResponse.jsonUnsafe(taken, { headers: uncached }))
      ),
      HttpRouter.add(
        "GET",
        "/holdfast/calls",
        Effect.map(failed, (calls) => HttpServerResponse.jsonUnsafe(calls, { headers: uncached }))
      ),
      HttpRouter.add(
        "GET",
        "/holdfast/events",
        Effect.sync(() => {
          if (watchers >= maxWatchers) {
            return HttpServerResponse.text("too many watch already\n", { status: 503, headers: uncached })
          }
          return HttpServerResponse.stream(events, {
            contentType: "text/event-stream",
            // A proxy must not wait for more.
            headers: { ...uncached, "x-accel-buffering": "no" }
          })
        })
      )
    )
  }))

/** Failed calls that are told of. */
const maxCalls = 20

/** An error of the contract is an answer: only a `CallError` says whether the call was sent. */
const isFailed = ({ error, result }: Explain.Explanation): boolean => result === "failure" && error?.sent !== undefined

/** A log in words, of the error its tag only: what a server says in its message is for the caller. */
const told = ({ error, ...log }: Explain.Explanation) => ({
  endedAt: new Date(log.startedAtMillis + log.durationMillis).toISOString(),
  traceId: log.traceId ?? null,
  text: Explain.text({ ...log, error: { ...error!, message: undefined } })
})

const encode = (update: Snapshot.Update): string => {
  switch (update._tag) {
    case "Snapshot":
      return written("snapshot", update.snapshot)
    case "Event":
      return written("event", update.event)
    case "Earlier":
      return written("earlier", update.events)
    case "Lost":
      return written("lost", { count: update.count })
  }
}

const written = (event: string, data: unknown): string =>
  Sse.encoder.write({ _tag: "Event", event, id: undefined, data: JSON.stringify(data) })
