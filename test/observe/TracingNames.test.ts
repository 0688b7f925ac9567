/** What a trace is made of: the lists in the code, what the code makes, the conventions, and the document. */
import * as OtelTracer from "@effect/opentelemetry/OtelTracer"
import { assert, describe, it } from "@effect/vitest"
import { createTraceState } from "@opentelemetry/api"
import * as Conventions from "@opentelemetry/semantic-conventions/incubating"
import { Context, Effect, Fiber, Layer, Tracer } from "effect"
import { HttpClientRequest, HttpClientResponse } from "effect/http"
import * as Fs from "node:fs"
import * as Path from "node:path"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Interruption from "../../src/contract/Interruption.ts"
import * as Address from "../../src/observe/internal/traceAddress.ts"
import { Circuits } from "../../src/observe/internal/traceCircuits.ts"
import * as State from "../../src/observe/internal/traceState.ts"
import * as Observe from "../../src/observe/Observe.ts"
import * as Tracing from "../../src/observe/Tracing.ts"

const root = Path.resolve(import.meta.dirname, "../..")
const read = (path: string) => Fs.readFileSync(Path.join(root, path), "utf8")
const chapter = read("docs/observability.md").split(/^## /m).find((text) => text.startsWith("Traces"))!

const call: CallContext.CallContext = { ...CallContext.empty, name: "Shop.Buy", deadline: 1000 }
const endpoint = "tcp://10.0.0.7:7070"
const lost = new CallError.CallError({ _tag: "ConnectionLost", target: "shop", detail: "reset", sent: "maybe" })
const exhausted = CallError.fail({
  _tag: "RetriesExhausted",
  method: "Shop.Buy",
  attempts: 2,
  elapsedMillis: 1,
  sent: "maybe",
  last: lost
})
const open = new CallError.CallError({ _tag: "CircuitOpen", policy: `shop@${endpoint}`, state: "Open", sent: "no" })

const told = { call, policy: `shop@${endpoint}`, why: "why", atMillis: 0 }
/** One of each that is told on a span. */
const each: ReadonlyArray<CallEvent.CallEvent> = [
  { _tag: "RetryScheduled", ...told, delayMillis: 1, retryAfterMillis: undefined, error: lost },
  { _tag: "HedgeStarted", ...told, afterMillis: 1 },
  { _tag: "Rejected", ...told, reason: "CircuitOpen", error: open, state: { why: "6 of 10", sinceMillis: 0 } },
  { _tag: "QueueLeft", ...told, how: "admitted", waitedMillis: 1 },
  { _tag: "Repicked", ...told, target: "shop", endpoint, error: open },
  { _tag: "Transition", ...told, from: "Closed", to: "HalfOpen" },
  { _tag: "LimitMoved", ...told, from: 1, to: 2 },
  { _tag: "BudgetMoved", ...told, change: "withdrawn", balance: 1 },
  { _tag: "Substituted", ...told, how: "stale", ageMillis: 1 },
  { _tag: "EndpointChanged", ...told, target: "other", endpoint, change: "ejected" },
  { _tag: "Warning", ...told }
]
/** Those that are not. */
const untold: ReadonlyArray<CallEvent.CallEvent> = [
  { _tag: "CallStarted", ...told },
  { _tag: "AttemptStarted", ...told, endpoint },
  { _tag: "Reloaded", ...told, accepted: true }
]

const response = HttpClientResponse.fromWeb(HttpClientRequest.get("http://shop.test"), new Response())

/** A call with three attempts that fails in every way, and its handler, told of everything. */
const everything = Effect.gen(function*() {
  const spans: Array<Tracer.NativeSpan> = []
  const tracer = Tracer.make({
    span: (options) => {
      const span = new Tracer.NativeSpan(options)
      spans.push(span)
      return span
    }
  })
  yield* Effect.gen(function*() {
    const receiver = (yield* CallEvent.CurrentReceiver)!
    /** In a fiber of its own, which may be interrupted. */
    const ended = (self: Effect.Effect<unknown, unknown>) => Effect.flatMap(Effect.forkChild(self), Fiber.await)
    const interrupted = Effect.withFiber<never>((fiber) => {
      fiber.interruptUnsafe(undefined, Interruption.annotations.deadline)
      return Effect.never
    })
    const attempt = (n: number, self: Effect.Effect<unknown, unknown>) =>
      ended(receiver.aroundAttempt!(() => self, { ...call, attempt: n }, endpoint))
    const calling = Effect.gen(function*() {
      for (const event of [...each, ...untold]) receiver.event(event)
      yield* attempt(1, exhausted)
      yield* attempt(2, interrupted)
      yield* attempt(3, Effect.succeed(response))
      return yield* exhausted
    })
    yield* ended(receiver.aroundCall!(calling, call))
    yield* ended(receiver.aroundCall!(interrupted, call))
    yield* ended(receiver.aroundCall!(Effect.succeed(response), call))
    yield* ended(receiver.aroundHandler!(Effect.die(new TypeError("no")), call, "10.0.0.8:52114"))
    yield* ended(receiver.aroundHandler!(interrupted, call, "10.0.0.8:52114"))
  }).pipe(Effect.provide(Layer.merge(Observe.layer(Tracing.make()), Layer.succeed(Tracer.Tracer, tracer))))
  return spans
})

const isAttempt = (name: string) => name.endsWith(" attempt")

describe("the names in a trace", () => {
  it.effect("are those that the lists have, all of them, on the spans that the lists say", () =>
    Effect.gen(function*() {
      const made = yield* everything
      for (const { attributes, kind, name } of Tracing.spans) {
        const seen = new Set(
          made.filter((span) => span.kind === kind && isAttempt(span.name) === isAttempt(name))
            .flatMap((span) => [...span.attributes.keys()])
        )
        assert.deepStrictEqual([...seen].toSorted(), [...attributes].toSorted(), `${kind} ${name}`)
      }
      const events = made.flatMap((span) => span.events).map((
        [name, , attributes]
      ) => [name, Object.keys(attributes).toSorted()])
      const listed = Object.entries(Tracing.events).map(([name, { attributes }]) => [name, [...attributes].toSorted()])
      assert.deepStrictEqual(events.toSorted(), listed.toSorted())
    }))

  it("are listed only where something carries them", () => {
    const carried = [...Tracing.spans, ...Object.values(Tracing.events)].flatMap(({ attributes }) => attributes)
    assert.deepStrictEqual(Object.keys(Tracing.attributes).toSorted(), [...new Set(carried)].toSorted())
  })

  it("are OpenTelemetry's where they are not ours", () => {
    const known: ReadonlySet<unknown> = new Set(
      Object.entries(Conventions).filter(([key]) => key.startsWith("ATTR_")).map(([, name]) => name)
    )
    const standard = Object.keys(Tracing.attributes).filter((name) => !/^(holdfast|retry)\./.test(name))
    assert.isAbove(standard.length, 8)
    assert.deepStrictEqual(standard.filter((name) => !known.has(name)), [])
    // What the conventions have replaced is still in the package.
    assert.deepStrictEqual(
      standard.filter((name) => name.startsWith("rpc.")),
      [Conventions.ATTR_RPC_SYSTEM_NAME, Conventions.ATTR_RPC_METHOD, Conventions.ATTR_RPC_STATUS_CODE]
    )
  })

  it("of the annotation for a tracestate is that of @effect/opentelemetry", () => {
    assert.strictEqual(State.Annotation.key, OtelTracer.OtelTraceState.key)
    const text = "a=1,b=2"
    const state = Context.getUnsafe(
      State.parent({ traceId: "1", spanId: "2", sampled: true, state: text }).annotations,
      State.Annotation
    )
    const theirs = createTraceState(text)
    for (const one of [state, theirs]) {
      assert.strictEqual(one.serialize(), text)
      assert.deepStrictEqual([one.get("b"), one.get("c")], ["2", undefined])
      assert.strictEqual(one.set("c", "3").serialize(), "c=3,a=1,b=2")
      assert.strictEqual(one.set("b", "3").serialize(), "b=3,a=1")
      assert.strictEqual(one.unset("a").serialize(), "b=2")
    }
  })

  it("are in the document, word for word", () => {
    const place = ({ kind, name }: (typeof Tracing.spans)[number]) =>
      isAttempt(name) ? "attempt" : kind === "server" ? "handler" : "call"
    const on = (attribute: string) => [
      ...Tracing.spans.filter(({ attributes }) => attributes.some((name) => name === attribute)).map(place),
      ...(Object.values(Tracing.events).some(({ attributes }) => attributes.some((name) => name === attribute))
        ? ["events"]
        : [])
    ]
    const rows = [
      ...Tracing.spans.map(({ about, kind, name }) => `| \`${name}\` | ${kind} | ${about} |`),
      ...Object.entries(Tracing.attributes).map(([name, about]) =>
        `| \`${name}\` | ${on(name).join(", ")} | ${about} |`
      ),
      ...Object.entries(Tracing.events).map(([name, { about, attributes }]) =>
        `| \`${name}\` | ${about} | ${attributes.map((attribute) => `\`${attribute}\``).join(", ")} |`
      )
    ]
    assert.deepStrictEqual(chapter.split("\n").filter((line) => line.startsWith("| `")), rows)
  })

  it("the document quotes the set-ups of test/example word for word", () => {
    const quoted = [...chapter.matchAll(/<!-- (test\/example\/observability\/\S+) -->\n```ts\n([\s\S]*?)```/g)]
    assert.deepStrictEqual(
      quoted.map(([, file]) => file),
      ["otel", "otlp"].map((name) => `test/example/observability/${name}.ts`)
    )
    for (const [, file, block] of quoted) assert.strictEqual(block, read(file!), file)
  })
})

describe("an address in a trace", () => {
  it("is a host, a port and a transport, as far as it says", () => {
    const places = [
      ["tcp://10.0.0.7:7070", "10.0.0.7", 7070, "tcp"],
      ["tcp://[::1]:7070", "::1", 7070, "tcp"],
      ["https://shop.example/v1", "shop.example", undefined, "tcp"],
      ["http://shop.example:80", "shop.example", 80, "tcp"],
      ["memory://shop-1", "shop-1", undefined, undefined],
      ["elsewhere", "elsewhere", undefined, undefined]
    ] as const
    for (const [address, host, port, transport] of places) {
      assert.deepStrictEqual(Address.ofEndpoint(address), { host, port, transport }, address)
    }
  })

  it("of a peer may be an address of version 6 without brackets, and no address at all", () => {
    const of = (peer: string) => [Address.ofPeer(peer).host, Address.ofPeer(peer).port]
    assert.deepStrictEqual(of("::ffff:10.0.0.8:52114"), ["::ffff:10.0.0.8", 52_114])
    assert.deepStrictEqual(of("memory"), ["memory", undefined])
    assert.deepStrictEqual(of("host:"), ["host:", undefined])
    assert.deepStrictEqual(of("host:99999"), ["host:99999", undefined])
  })
})

describe("circuits in a trace", () => {
  const moved = (endpoint: string, to: string): CallEvent.CallEvent => ({
    _tag: "Transition",
    policy: `shop@${endpoint}`,
    from: "Closed",
    to,
    why: "",
    atMillis: 0
  })

  it("are known while they are not closed and their endpoint is there", () => {
    const circuits = new Circuits()
    circuits.heed(moved("a", "Open"))
    circuits.heed(moved("b", "Open"))
    circuits.heed(moved("a", "HalfOpen"))
    circuits.heed({ ...moved("c", "Open"), policy: "no endpoint" } as CallEvent.CallEvent)
    circuits.heed(moved("d", "on"))
    assert.deepStrictEqual(["a", "b", "c", "d"].map((endpoint) => circuits.of(endpoint)), [
      "HalfOpen",
      "Open",
      undefined,
      undefined
    ])
    circuits.heed(moved("a", "Closed"))
    circuits.heed({ _tag: "EndpointChanged", target: "shop", endpoint: "b", change: "removed", why: "", atMillis: 0 })
    assert.deepStrictEqual(["a", "b"].map((endpoint) => circuits.of(endpoint)), [undefined, undefined])
  })

  it("are at most a thousand", () => {
    const circuits = new Circuits()
    for (let n = 0; n < 1500; n++) circuits.heed(moved(`${n}`, "Open"))
    circuits.heed(moved("999", "HalfOpen"))
    assert.deepStrictEqual([circuits.of("999"), circuits.of("1000")], ["HalfOpen", undefined])
  })
})
