import * as OtelTracer from "@effect/opentelemetry/OtelTracer"
import { assert, describe, it } from "@effect/vitest"
import { createTraceState, SpanStatusCode, trace, TraceFlags } from "@opentelemetry/api"
import { InMemoryLogRecordExporter, SimpleLogRecordProcessor } from "@opentelemetry/sdk-logs"
import { AlwaysOffSampler, type ReadableSpan, type Sampler, SamplingDecision } from "@opentelemetry/sdk-trace-base"
import { Context, Effect, Exit, Fiber, Layer, Metric, Option, Random, References, Tracer } from "effect"
import { HttpClient, HttpClientResponse } from "effect/http"
import { TestClock } from "effect/testing"
import type * as ClientStack from "../../src/client/ClientStack.ts"
import * as HttpPolicy from "../../src/client/HttpPolicy.ts"
import * as CallContext from "../../src/contract/CallContext.ts"
import type * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Interruption from "../../src/contract/Interruption.ts"
import * as Observe from "../../src/observe/Observe.ts"
import * as Tracing from "../../src/observe/Tracing.ts"
import * as Fallback from "../../src/policy/Fallback.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as Retry from "../../src/policy/Retry.ts"
import * as ClientTest from "../../src/testing/ClientTest.ts"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"
import { eventsOf, handlers, idOf, millisOf, nanos, parentOf, sdk, Shop, sorted, type Step } from "../support/shop.ts"

const quiet = Effect.provideService(References.MinimumLogLevel, "None")

type Buy = (steps: ReadonlyArray<Step>) => Effect.Effect<string, unknown>

/** What a test does with the one method of a client, and the spans it leaves; time stands still until it says otherwise. */
const recorded = <A, E>(
  policy: ClientStack.Options,
  use: (buy: Buy) => Effect.Effect<A, E>,
  options: Tracing.TracingOptions = {},
  recording: ReturnType<typeof sdk> = sdk()
) =>
  Effect.gen(function*() {
    const value = yield* Effect.gen(function*() {
      const client = yield* ClientTest.make(Shop, handlers, { policy })
      return yield* use((steps) => client.Shop.Buy({ steps }))
    }).pipe(
      Effect.scoped,
      Effect.provide(Layer.merge(Observe.layer(Tracing.make(options)), recording.layer)),
      Effect.provideService(References.MinimumLogLevel, "Fatal")
    )
    return { value, spans: recording.spans(), ...sorted(recording.spans()) }
  })

/** Runs an effect to its end, a minute at most. */
const lasting = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(Effect.exit(self), { startImmediately: true })
    yield* TestClock.adjust("1 minute")
    return yield* Fiber.join(fiber)
  })

/** The spans of one call. */
const traced = (policy: ClientStack.Options, steps: ReadonlyArray<Step>, options?: Tracing.TracingOptions) =>
  recorded(policy, (buy) => lasting(buy(steps)), options)

const retrying: ClientStack.Options = {
  retry: { attempts: 3, backoff: { kind: "constant", base: "40 millis", jitter: "none" }, budget: false },
  circuitBreaker: false
}
const once: ClientStack.Options = { retry: false, circuitBreaker: false }

const statusOf = ({ attributes, status }: ReadableSpan) => [
  status.code === SpanStatusCode.ERROR ? "error" : "no error",
  attributes["rpc.status_code"],
  attributes["error.type"]
]

/** A span that knows how often it was ended. */
class CountedSpan extends Tracer.NativeSpan {
  ends = 0

  override end(...args: Parameters<Tracer.NativeSpan["end"]>): void {
    this.ends++
    super.end(...args)
  }
}

/** A tracer of Effect's own that counts what it makes. */
const counting = () => {
  const spans: Array<CountedSpan> = []
  const tracer = Tracer.make({
    span: (options) => {
      const span = new CountedSpan(options)
      spans.push(span)
      return span
    }
  })
  return { spans, layer: Layer.succeed(Tracer.Tracer, tracer) }
}

/** The trace contexts that reach the server with a call. */
const received = <A, E, R>(use: (buy: Effect.Effect<string, unknown>) => Effect.Effect<A, E, R>, options = {}) =>
  Effect.gen(function*() {
    const traces: Array<CallContext.TraceContext | undefined> = []
    const { layer, spans } = counting()
    const looking: Effect.Effect<CallEvent.Receiver> = Effect.succeed({
      event: () => {},
      aroundHandler: (self, { trace }) => {
        traces.push(trace)
        return self
      }
    })
    yield* Effect.gen(function*() {
      const client = yield* ClientTest.make(Shop, handlers, { policy: once })
      yield* use(client.Shop.Buy({ steps: ["inner"] }))
    }).pipe(
      Effect.scoped,
      Effect.provide(Layer.mergeAll(Observe.layer(looking, Tracing.make(options)), layer)),
      quiet
    )
    return { traces, spans }
  })

const unsampled = Tracer.externalSpan({ traceId: "a".repeat(32), spanId: "b".repeat(16), sampled: false })

describe("Tracing", () => {
  it.effect("makes a span of a call, a child of it of each attempt, and a child of that at the server", () =>
    Effect.gen(function*() {
      const { attempts, calls, handlers, spans, value } = yield* traced(retrying, ["down", "down", "slow"])
      assert.deepStrictEqual(value, Exit.succeed("sold late"))
      assert.lengthOf(spans, 7)
      const [call] = calls
      assert.deepStrictEqual([call!.name, parentOf(call!)], ["Shop.Buy", undefined])
      assert.deepStrictEqual(attempts.map(({ name }) => name), Array(3).fill("Shop.Buy attempt"))
      assert.deepStrictEqual(attempts.map(parentOf), attempts.map(() => idOf(call!)))
      assert.deepStrictEqual(handlers.map(({ name }) => name), Array(3).fill("Shop.Buy"))
      assert.deepStrictEqual(handlers.map(parentOf), attempts.map(idOf))
      assert.isTrue(handlers.every((span) => span.parentSpanContext?.isRemote))
      assert.strictEqual(new Set(spans.map((span) => span.spanContext().traceId)).size, 1)
    }))

  it.effect("says which attempt it is, which it repeats, and what the call came to", () =>
    Effect.gen(function*() {
      const { attempts, calls } = yield* traced(retrying, ["down", "down", "slow"])
      assert.deepStrictEqual(
        attempts.map(({ attributes }) => [attributes["retry.is_retry"], attributes["retry.attempt"]]),
        [[false, 1], [true, 2], [true, 3]]
      )
      assert.deepStrictEqual(
        attempts.map(({ attributes }) => attributes["retry.parent_id"]),
        [undefined, ...attempts.slice(0, 2).map(idOf)]
      )
      assert.deepInclude(attempts[0]!.attributes, {
        "rpc.system.name": "holdfast",
        "rpc.method": "Shop.Buy",
        "rpc.status_code": "Unavailable",
        "error.type": "Unavailable",
        "server.address": "test-1",
        "holdfast.endpoint": "memory://test-1",
        "holdfast.sent": "no",
        "holdfast.hedge": false,
        "holdfast.deadline_ms": 10_000,
        "holdfast.queued_ms": 0
      })
      assert.deepInclude(calls[0]!.attributes, { "rpc.status_code": "OK", "holdfast.attempts": 3 })
      assert.isUndefined(calls[0]!.attributes["error.type"])
    }))

  it.effect("accounts for all the time of a call: attempts, and backoffs as events", () =>
    Effect.gen(function*() {
      const { attempts, calls, handlers } = yield* traced(retrying, ["down", "down", "slow"])
      const [call] = calls
      assert.deepStrictEqual(attempts.map(millisOf), [10, 10, 100])
      assert.deepStrictEqual(handlers.map(millisOf), [10, 10, 100])
      const backoffs = eventsOf(call!)
      assert.deepStrictEqual(
        backoffs,
        [2, 3].map((attempt) => ({
          name: "holdfast.retry",
          "retry.attempt": attempt,
          "holdfast.policy": "test",
          "holdfast.delay_ms": 40,
          "error.type": "Unavailable"
        }))
      )
      assert.strictEqual(millisOf(call!), 200)
      // Each begins when the one before it has ended and its backoff is over.
      assert.deepStrictEqual(
        attempts.map((span) => Number(nanos(span.startTime) - nanos(call!.startTime)) / 1e6),
        [0, 50, 100]
      )
      assert.deepStrictEqual(attempts.map(({ attributes }) => attributes["holdfast.queued_ms"]), [0, 0, 0])
    }))

  it.effect("shows hedges beside each other, and the loser as neither failed nor answered", () =>
    Effect.gen(function*() {
      const { attempts, calls, handlers } = yield* traced(
        { ...once, retry: { attempts: 2, budget: false }, hedge: { delay: "30 millis" } },
        ["never", "slow"]
      )
      const [first, hedge] = attempts
      assert.deepStrictEqual(attempts.map(millisOf), [130, 100])
      assert.deepStrictEqual(attempts.map(({ attributes }) => attributes["holdfast.hedge"]), [false, true])
      assert.deepInclude(hedge!.attributes, { "retry.is_retry": true, "retry.parent_id": idOf(first!) })
      assert.deepStrictEqual(attempts.map(statusOf), [
        ["no error", "Cancelled", undefined],
        ["no error", "OK", undefined]
      ])
      assert.deepStrictEqual(
        [first, hedge, ...handlers].map((span) => span!.attributes["holdfast.interrupted"]),
        ["hedgeLost", undefined, "hedgeLost", undefined]
      )
      assert.includeDeepMembers([...eventsOf(calls[0]!)], [{
        name: "holdfast.hedge",
        "retry.attempt": 2,
        "holdfast.policy": "test",
        "holdfast.delay_ms": 30
      }])
    }))

  it.effect("calls an error what the conventions do: any failure at the client, the server's own at the server", () =>
    Effect.gen(function*() {
      const status = (step: Step) =>
        Effect.map(
          traced({ ...once, timeout: "1 second" }, [step]),
          ({ attempts, calls, handlers }) => [...calls, ...attempts, ...handlers].map(statusOf)
        )
      const ok = ["no error", "OK", undefined]
      const error = (code: string, type = code) => ["error", code, type]
      assert.deepStrictEqual(yield* status("ok"), [ok, ok, ok])
      assert.deepStrictEqual(yield* status("soldOut"), [
        error("SoldOut"),
        error("SoldOut"),
        ["no error", "SoldOut", undefined]
      ])
      assert.deepStrictEqual(yield* status("denied"), [
        error("PermissionDenied"),
        error("PermissionDenied"),
        ["no error", "PermissionDenied", undefined]
      ])
      assert.deepStrictEqual(yield* status("overloaded"), Array(3).fill(error("Overloaded")))
      assert.deepStrictEqual(yield* status("die"), [error("MCP-F-1"), error("MCP-F-1"), error("MCP-F-1", "TypeError")])
      assert.deepStrictEqual(yield* status("never"), Array(3).fill(error("AttemptTimeout")))
    }))

  it.effect("names the error that ended the call, and the one before it", () =>
    Effect.gen(function*() {
      const { calls, handlers } = yield* recorded(
        {
          ...retrying,
          retry: { attempts: 2, budget: false, backoff: { kind: "constant", base: "1 millis", jitter: "none" } }
        },
        (buy) => lasting(buy(["down"]))
      )
      assert.deepInclude(calls[0]!.attributes, {
        "error.type": "RetriesExhausted",
        "holdfast.last_error": "Unavailable",
        "holdfast.sent": "no"
      })
      assert.include(calls[0]!.status.message, "gave up after 2 attempts")
      assert.lengthOf(handlers, 2)
    }))

  it.effect("ends the spans of a call that its caller or its deadline interrupts", () =>
    Effect.gen(function*() {
      const interrupted = yield* recorded(once, (buy) =>
        Effect.gen(function*() {
          const fiber = yield* Effect.forkChild(buy(["never"]), { startImmediately: true })
          yield* TestClock.adjust("1 second")
          yield* Fiber.interrupt(fiber)
        }))
      assert.lengthOf(interrupted.spans, 3)
      for (const span of interrupted.spans) {
        assert.deepStrictEqual(statusOf(span), ["no error", "Cancelled", undefined])
        assert.strictEqual(span.attributes["holdfast.interrupted"], "caller")
        assert.strictEqual(millisOf(span), 1000)
      }
      const late = yield* traced({ ...once, timeout: false, bulkhead: { limit: 1 } }, ["never"])
      assert.deepStrictEqual(
        late.spans.map(statusOf),
        late.spans.map(() => ["error", "DeadlineExceeded", "DeadlineExceeded"])
      )
      assert.deepStrictEqual(
        late.spans.map(millisOf),
        [10_000, 10_000, 10_000]
      )
    }))

  it.effect("says of every interruption why, and that it is an error where time or the server is gone", () =>
    Effect.gen(function*() {
      const { layer, spans } = counting()
      const { aroundHandler } = yield* Tracing.make()
      const ended = (reason: Interruption.Reason) =>
        Effect.gen(function*() {
          const handler = aroundHandler!(Effect.never, CallContext.empty, "peer")
          const fiber = yield* Effect.forkChild(handler, { startImmediately: true })
          fiber.interruptUnsafe(undefined, Interruption.annotations[reason])
          yield* Fiber.await(fiber)
          const { attributes, status } = spans.at(-1)!
          const isError = status._tag === "Ended" && Exit.isFailure(status.exit) && !Exit.hasInterrupts(status.exit)
          return [attributes.get("holdfast.interrupted"), attributes.get("rpc.status_code"), isError]
        }).pipe(Effect.provide(layer))
      assert.deepStrictEqual(yield* ended("caller"), ["caller", "Cancelled", false])
      assert.deepStrictEqual(yield* ended("hedgeLost"), ["hedgeLost", "Cancelled", false])
      assert.deepStrictEqual(yield* ended("deadline"), ["deadline", "DeadlineExceeded", true])
      assert.deepStrictEqual(yield* ended("attemptTimeout"), ["attemptTimeout", "AttemptTimeout", true])
      assert.deepStrictEqual(yield* ended("shutdown"), ["shutdown", "Unavailable", true])
    }))

  for (
    const [what, steps] of [
      ["a call that is answered", ["inner"]],
      ["one whose handler dies", ["die"]],
      ["one that hedges", ["never", "ok"]]
    ] as const
  ) {
    it.effect(`ends every span once of ${what}, wherever it is interrupted`, () =>
      Effect.gen(function*() {
        const { layer, spans } = counting()
        const policy: ClientStack.Options = what === "one that hedges"
          ? { ...retrying, hedge: { delay: "0 millis" } }
          : retrying
        let most = 0
        yield* Effect.gen(function*() {
          const client = yield* ClientTest.make(Shop, handlers, { policy })
          yield* interruptEverywhere(Effect.succeed({
            work: client.Shop.Buy({ steps }),
            check: (where) =>
              Effect.sync(() => {
                most = Math.max(most, spans.length)
                const wrong = spans.filter(({ ends }) => ends !== 1).map(({ ends, kind, name }) =>
                  `${kind} ${name}: ${ends}`
                )
                assert.deepStrictEqual(wrong, [], where)
                spans.length = 0
              })
          }))
        }).pipe(Effect.scoped, Effect.provide(Layer.merge(Observe.layer(Tracing.make()), layer)), quiet)
        assert.isAtLeast(most, what === "one that hedges" ? 5 : 3)
      }))
  }

  it.effect("puts what a handler traces beneath its own span, and calls beneath what makes them", () =>
    Effect.gen(function*() {
      const { calls, handlers, others } = yield* recorded(once, (buy) => Effect.withSpan(buy(["inner"]), "outer"))
      const outer = others.find(({ name }) => name === "outer")!
      const inner = others.find(({ name }) => name === "inner")!
      assert.deepStrictEqual([parentOf(calls[0]!), parentOf(inner)], [idOf(outer), idOf(handlers[0]!)])
    }))

  it.effect("is where logs find their ids, in a handler too", () =>
    Effect.gen(function*() {
      const logs = new InMemoryLogRecordExporter()
      const recording = sdk({ logRecordProcessor: new SimpleLogRecordProcessor({ exporter: logs }) })
      const records: Array<readonly [unknown, string | undefined, string | undefined]> = []
      const { handlers } = yield* recorded(
        once,
        (buy) =>
          buy(["log"]).pipe(
            Effect.tap(() =>
              Effect.sync(() => {
                for (const { attributes, body } of logs.getFinishedLogRecords()) {
                  records.push([body, `${attributes["traceId"]}`, `${attributes["spanId"]}`])
                }
              })
            )
          ),
        {},
        recording
      )
      assert.deepStrictEqual(records, [["selling", handlers[0]!.spanContext().traceId, idOf(handlers[0]!)]])
    }))

  it.effect("makes no span under a parent that is not sampled, and sends that parent's context on", () =>
    Effect.gen(function*() {
      const { spans, traces } = yield* received((buy) => Effect.withParentSpan(buy, unsampled))
      assert.deepStrictEqual(traces, [{ traceId: "a".repeat(32), spanId: "b".repeat(16), sampled: false }])
      // The handler's own span is a child of the same parent: made by the handler, and not sampled.
      assert.deepStrictEqual(spans.map(({ name, sampled, traceId }) => [name, sampled, traceId]), [
        ["inner", false, "a".repeat(32)]
      ])
    }))

  it.effect("leaves out what its sampler does, and says so to the server", () =>
    Effect.gen(function*() {
      const { spans, traces } = yield* received((buy) => buy, { sampleRatio: 0 })
      assert.lengthOf(traces, 1)
      assert.match(traces[0]!.traceId, /^[0-9a-f]{32}$/)
      assert.match(traces[0]!.spanId, /^[0-9a-f]{16}$/)
      assert.isFalse(traces[0]!.sampled)
      assert.deepStrictEqual(spans.map(({ name, sampled }) => [name, sampled]), [["inner", false]])
    }))

  it.effect("traces the given share of calls, each whole or not at all", () =>
    Effect.gen(function*() {
      const { spans, traces } = yield* received((buy) => Effect.replicateEffect(buy, 400), { sampleRatio: 0.25 })
      const sampled = traces.filter((trace) => trace!.sampled).length
      assert.isAtLeast(sampled, 70)
      assert.isAtMost(sampled, 130)
      const ours = spans.filter(({ name }) => name !== "inner")
      assert.lengthOf(ours, 3 * sampled)
      assert.strictEqual(new Set(traces.map((trace) => trace!.traceId)).size, 400)
    }).pipe(Random.withSeed("sampling")))

  it.effect("has a parent that is sampled overrule the share", () =>
    Effect.gen(function*() {
      const { spans } = yield* received((buy) => Effect.withSpan(buy, "outer"), { sampleRatio: 0 })
      assert.sameMembers(spans.map(({ name }) => name), ["outer", "Shop.Buy", "Shop.Buy attempt", "Shop.Buy", "inner"])
    }))

  it.effect("heeds the tracer's own sampler: nothing beneath a call that it leaves out", () =>
    Effect.gen(function*() {
      const { spans, value } = yield* recorded(
        once,
        (buy) => buy(["inner"]),
        {},
        sdk({
          tracerConfig: { sampler: new AlwaysOffSampler() }
        })
      )
      assert.deepStrictEqual([value, spans], ["sold", []])
    }))

  it.effect("refuses a share that is none", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(Tracing.make({ sampleRatio: 2 }))
      assert.include(String(exit), "Tracing.make: sampleRatio must be in [0, 1], got 2")
    }))

  it.effect("heeds what Effect's own spans do: annotations, links, levels, and being switched off", () =>
    Effect.gen(function*() {
      const linked = Tracer.externalSpan({ traceId: "c".repeat(32), spanId: "d".repeat(16) })
      const { calls } = yield* recorded(
        once,
        (buy) => buy(["ok"]).pipe(Effect.annotateSpans("tenant", "acme"), Effect.linkSpans(linked))
      )
      assert.strictEqual(calls[0]!.attributes["tenant"], "acme")
      assert.strictEqual(calls[0]!.links[0]!.context.spanId, "d".repeat(16))

      const off = yield* received((buy) => Effect.withTracerEnabled(buy, false))
      assert.deepStrictEqual(off.traces, [undefined])
      const within = yield* received((buy) => Effect.withParentSpan(Effect.withTracerEnabled(buy, false), linked))
      assert.deepStrictEqual(within.traces, [{ traceId: "c".repeat(32), spanId: "d".repeat(16), sampled: true }])
      const quiet = yield* received((buy) => Effect.provideService(buy, Tracer.MinimumTraceLevel, "Error"))
      assert.deepStrictEqual(quiet.spans.map(({ sampled }) => sampled), [false, false])
    }))

  it.effect("does not pass on a span that is marked as nobody's parent", () =>
    Effect.gen(function*() {
      const hidden = Tracer.externalSpan({
        traceId: "e".repeat(32),
        spanId: "f".repeat(16),
        sampled: false,
        annotations: Context.make(Tracer.DisablePropagation, true)
      })
      const { spans, traces } = yield* received((buy) => Effect.withParentSpan(buy, hidden))
      assert.isTrue(traces[0]!.sampled)
      assert.lengthOf(spans, 4)
    }))

  it.effect("takes the trace a call came with, where no span surrounds it", () =>
    Effect.gen(function*() {
      const trace = { traceId: "1".repeat(32), spanId: "2".repeat(16) }
      const seen = (sampled: boolean) => received((buy) => CallContext.annotate(buy, { trace: { ...trace, sampled } }))
      const yes = yield* seen(true)
      assert.deepStrictEqual(yes.spans.map(({ traceId }) => traceId), Array(4).fill(trace.traceId))
      const within = yield* received((buy) =>
        Effect.withSpan(CallContext.annotate(buy, { trace: { ...trace, sampled: true } }), "outer")
      )
      assert.strictEqual(Option.getOrThrow(within.spans[1]!.parent).spanId, within.spans[0]!.spanId)
      const no = yield* seen(false)
      assert.deepStrictEqual(no.traces, [{ ...trace, sampled: false }])
      assert.lengthOf(no.spans, 1)
    }))

  it.effect("passes on the tracestate of whoever calls, through the spans of both sides", () =>
    Effect.gen(function*() {
      const state = "vendor=1,other@system=a b"
      const caller = OtelTracer.makeExternalSpan({
        traceId: "1".repeat(32),
        spanId: "2".repeat(16),
        traceFlags: TraceFlags.SAMPLED,
        traceState: state
      })
      const { spans } = yield* recorded(once, (buy) => Effect.withParentSpan(buy(["inner"]), caller))
      assert.deepStrictEqual(spans.map((span) => span.spanContext().traceState?.serialize()), Array(4).fill(state))
    }))

  it.effect("passes on what a sampler of the SDK has put into the tracestate", () =>
    Effect.gen(function*() {
      const sampler: Sampler = {
        shouldSample: (context) => ({
          decision: SamplingDecision.RECORD_AND_SAMPLED,
          traceState: (trace.getSpanContext(context)?.traceState ?? createTraceState("first=1")).set("seen", "yes")
        }),
        toString: () => "Marking"
      }
      const { handlers } = yield* recorded(once, (buy) => buy(["ok"]), {}, sdk({ tracerConfig: { sampler } }))
      assert.strictEqual(handlers[0]!.spanContext().traceState?.serialize(), "seen=yes,first=1")
    }))

  it.effect("passes on the tracestate where it makes no span, and where the tracer knows nothing of it", () =>
    Effect.gen(function*() {
      const caller = { traceId: "1".repeat(32), spanId: "2".repeat(16), state: "vendor=1" }
      const states = (sampled: boolean) =>
        Effect.map(
          received((buy) => CallContext.annotate(buy, { trace: { ...caller, sampled } })),
          ({ traces }) => traces.map((trace) => trace?.state)
        )
      assert.deepStrictEqual(yield* states(true), ["vendor=1"])
      assert.deepStrictEqual(yield* states(false), ["vendor=1"])
    }))

  it.effect("has what a handler calls carry the tracestate on, sampled or not", () =>
    Effect.gen(function*() {
      const around = (yield* Tracing.make()).aroundHandler!
      const next = (sampled: boolean) => {
        const trace = { traceId: "1".repeat(32), spanId: "2".repeat(16), sampled, state: "vendor=1" }
        const calling = Effect.map(received((buy) => buy), ({ traces }) => traces.map((trace) => trace?.state))
        return around(calling, { ...CallContext.empty, trace }, "memory")
      }
      assert.deepStrictEqual(yield* next(true), ["vendor=1"])
      assert.deepStrictEqual(yield* next(false), ["vendor=1"])
    }))

  it.effect("is not needed for a trace and its tracestate to go on from a handler to what it calls", () =>
    Effect.gen(function*() {
      const trace = { traceId: "1".repeat(32), spanId: "2".repeat(16), sampled: true, state: "vendor=1" }
      const seen: Array<CallContext.TraceContext | undefined> = []
      const own = Effect.map(CallContext.Current, ({ trace }) => {
        seen.push(trace)
        return "sold"
      })
      const last = yield* ClientTest.make(Shop, Shop.toLayer({ "Shop.Buy": () => own }), { policy: once })
      const passing = Effect.andThen(own, Effect.orDie(last.Shop.Buy({ steps: [] })))
      const first = yield* ClientTest.make(Shop, Shop.toLayer({ "Shop.Buy": () => passing }), { policy: once })
      yield* CallContext.annotate(first.Shop.Buy({ steps: [] }), { trace })
      assert.deepStrictEqual(seen, [trace, trace])
    }).pipe(Effect.scoped))

  it.effect("tells of circuits, budgets and queues on the call's span", () =>
    Effect.gen(function*() {
      const { attempts, calls } = yield* recorded(
        {
          retry: {
            attempts: 2,
            budget: { reserve: 10 },
            backoff: { kind: "constant", base: "1 millis", jitter: "none" }
          },
          circuitBreaker: { consecutiveFailures: 1, openFor: "5 seconds", halfOpen: { probes: 1 } },
          bulkhead: { limit: 1, maxQueue: 10 }
        },
        (buy) =>
          Effect.gen(function*() {
            yield* lasting(buy(["down"]))
            yield* lasting(buy(["ok"]))
            const both = yield* Effect.forkChild(Effect.all([buy(["slow"]), buy(["ok"])], { concurrency: 2 }))
            yield* TestClock.adjust("1 second")
            yield* Fiber.join(both)
          })
      )
      const policy = "test@memory://test-1"
      assert.includeDeepMembers([...eventsOf(calls[0]!)], [{
        name: "holdfast.transition",
        "holdfast.policy": policy,
        "holdfast.from": "Closed",
        "holdfast.to": "Open",
        "holdfast.why": "1 failures in a row"
      }])
      assert.includeDeepMembers([...eventsOf(calls[0]!)], [{
        name: "holdfast.rejected",
        "holdfast.policy": policy,
        "holdfast.reason": "CircuitOpen",
        "holdfast.why": "1 failures in a row",
        "holdfast.circuit_breaker.state": "Open"
      }])
      const budget = eventsOf(calls[0]!).filter((event) => event["name"] === "holdfast.budget")
      assert.isNotEmpty(budget)
      assert.strictEqual(
        calls[0]!.attributes["holdfast.retry_budget.balance"],
        Object.values(budget.at(-1)!).at(-1)
      )
      // The probe says that it was one; what follows it found the circuit closed.
      assert.deepStrictEqual(
        attempts.map(({ attributes }) => attributes["holdfast.circuit_breaker.state"]),
        [undefined, "HalfOpen", undefined, undefined]
      )
      assert.includeDeepMembers([...eventsOf(calls[3]!)], [{
        name: "holdfast.queued",
        "holdfast.policy": policy,
        "holdfast.how": "admitted",
        "holdfast.queued_ms": 100
      }])
      assert.strictEqual(attempts[3]!.attributes["holdfast.queued_ms"], 100)
      assert.notInclude(eventsOf(calls[2]!).map((event) => event["name"]), "holdfast.queued")
    }))

  it.effect("tells of the policies around a plain Effect on the application's span", () =>
    Effect.gen(function*() {
      const { layer, spans } = counting()
      let runs = 0
      const policy = Policy.stack({
        retry: yield* Retry.make({ name: "retry", attempts: 2 }),
        fallback: yield* Fallback.make({ value: "instead", name: "fallback" })
      })
      const flaky = Effect.suspend(() => (runs++, Effect.fail("down")))
      const guarded = CallContext.annotate(Policy.apply(flaky, policy), { name: "search", idempotent: true })
      yield* lasting(Effect.withSpan(guarded, "page")).pipe(
        Effect.provide(Layer.merge(Observe.layer(Tracing.make()), layer))
      )
      assert.strictEqual(runs, 2)
      const [page] = spans
      assert.sameMembers(page!.events.map(([name]) => name), ["holdfast.retry", "holdfast.substituted"])
    }))

  it.effect("traces requests behind HttpPolicy, and has the HTTP client carry the attempt's context", () =>
    Effect.gen(function*() {
      const requested = (sampleRatio: number) =>
        Effect.gen(function*() {
          const headers: Array<string | undefined> = []
          const statuses = [503, 200]
          const client = HttpClient.make((request) => {
            headers.push(request.headers["traceparent"])
            return Effect.sync(() =>
              HttpClientResponse.fromWeb(request, new Response("", { status: statuses.shift()! }))
            )
          })
          const { layer, spans } = counting()
          yield* lasting(HttpPolicy.apply(client, yield* Retry.make({ attempts: 2 })).get("http://shop.test/carts"))
            .pipe(
              Effect.provide(Layer.merge(Observe.layer(Tracing.make({ sampleRatio })), layer))
            )
          return { headers, spans }
        })
      const { headers, spans } = yield* requested(1)
      const [call, first, firstSent, second, secondSent] = spans
      assert.deepStrictEqual(
        spans.map(({ name }) => name),
        ["", " attempt", undefined, " attempt", undefined].map((what) =>
          what === undefined ? "GET" : `GET http://shop.test${what}`
        )
      )
      assert.deepStrictEqual(
        [first, firstSent, second, secondSent].map((span) => Option.getOrThrow(span!.parent).spanId),
        [call, first, call, second].map((span) => span!.spanId)
      )
      assert.deepInclude(Object.fromEntries(second!.attributes), {
        "server.address": "shop.test",
        "retry.attempt": 2,
        "holdfast.endpoint": "http://shop.test"
      })
      assert.strictEqual(call!.attributes.get("holdfast.attempts"), 2)
      const status = ["http.response.status_code", "rpc.status_code", "error.type"]
      assert.deepStrictEqual([call, first, second].map((span) => status.map((name) => span!.attributes.get(name))), [
        [200, "OK", undefined],
        [503, "503", "503"],
        [200, "OK", undefined]
      ])
      assert.deepStrictEqual(
        [call, first, second].map(({ status }: any) => Exit.isFailure(status.exit)),
        [false, true, false]
      )
      assert.deepStrictEqual(
        headers,
        [firstSent, secondSent].map((span) => `00-${span!.traceId}-${span!.spanId}-01`)
      )

      const dropped = yield* requested(0)
      assert.deepStrictEqual(dropped.spans.map(({ sampled }) => sampled), [false, false])
      assert.match(`${dropped.headers[0]}`, /-00$/)
      assert.strictEqual(new Set(dropped.headers.map((header) => header!.slice(3, 35))).size, 1)
    }))

  it.effect("waits for nothing, so that no call needs a fiber on its account", () =>
    Effect.gen(function*() {
      const started = (receivers: Layer.Layer<never>) =>
        Effect.gen(function*() {
          const client = yield* ClientTest.make(Shop, handlers)
          let fibers = 0
          const metrics = { recordFiberStart: () => void fibers++, recordFiberEnd: () => {} }
          yield* Effect.provideService(client.Shop.Buy({ steps: ["ok"] }), Metric.FiberRuntimeMetrics, metrics)
          return fibers
        }).pipe(Effect.scoped, Effect.provide(receivers))
      const bare = yield* started(Layer.empty)
      const waiting: Effect.Effect<CallEvent.Receiver> = Effect.succeed({ event: () => {}, aroundCall: (self) => self })
      const silent: Effect.Effect<CallEvent.Receiver> = Effect.succeed({ event: () => {} })
      assert.strictEqual(yield* started(Observe.layer(Tracing.make(), silent)), bare)
      assert.isAbove(yield* started(Observe.layer(Tracing.make(), waiting)), bare)
    }))

  it.effect("tells nobody where no span is, or it has ended", () =>
    Effect.gen(function*() {
      const { layer, spans } = counting()
      yield* Effect.gen(function*() {
        const warning = { _tag: "Warning", policy: "p", why: "w", atMillis: 0 } as const
        const receiver = yield* Tracing.make()
        receiver.event(warning)
        yield* Effect.withSpan(Effect.sync(() => receiver.event(warning)), "open")
        const span = yield* Effect.makeSpan("ended")
        span.end(1n, Exit.void)
        yield* Effect.withParentSpan(Effect.sync(() => receiver.event(warning)), span)
      }).pipe(Effect.provide(layer))
      assert.deepStrictEqual(spans.map(({ events, name }) => [name, events.length]), [["open", 1], ["ended", 0]])
    }))
})
