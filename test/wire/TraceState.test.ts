import { assert, describe, it } from "@effect/vitest"
import * as Frame from "../../src/wire/Frame.ts"
import * as FrameCodec from "../../src/wire/FrameCodec.ts"
import * as TraceState from "../../src/wire/TraceState.ts"

const trace = { traceId: "1".repeat(32), spanId: "2".repeat(16), sampled: true }
const members = (count: number) => Array.from({ length: count }, (_, i) => `k${i}=v`).join(",")

const request: Frame.Request = {
  method: "A.b",
  codec: 1,
  body: new Uint8Array(),
  deadline: Infinity,
  attempt: 1,
  hedge: false,
  idempotent: false,
  criticality: "critical",
  idempotencyKey: undefined,
  trace,
  headers: {}
}

/** What a server makes of what a client sends. */
const sent = (state: string, headers: Frame.Request["headers"] = {}) =>
  TraceState.received({ ...request, headers: TraceState.carried(headers, { ...trace, state }) })?.state

describe("TraceState", () => {
  it("goes with the metadata and comes back out of it", () => {
    assert.strictEqual(sent("vendor=1,other@system=a b"), "vendor=1,other@system=a b")
    assert.deepStrictEqual(TraceState.carried({ tenant: "acme" }, { ...trace, state: "a=1" }), {
      tenant: "acme",
      tracestate: "a=1"
    })
  })

  it("is written without the space and the empty members that it may come with", () => {
    assert.strictEqual(TraceState.parse(" a=1 ,, b=2,"), "a=1,b=2")
  })

  it("leaves metadata and trace as they are where there is none", () => {
    const headers = { tenant: "acme" }
    assert.strictEqual(TraceState.carried(headers, trace), headers)
    assert.strictEqual(TraceState.carried(headers, undefined), headers)
    assert.strictEqual(TraceState.received(request), trace)
  })

  it("means nothing without a trace", () => {
    assert.isUndefined(TraceState.received({ ...request, trace: undefined, headers: { tracestate: "a=1" } }))
  })

  for (
    const [what, text] of [
      ["nothing", ""],
      ["a member without a value", "a=1,b"],
      ["a name in capitals", "A=1"],
      ["a second equals sign", "a=1=2"],
      ["a line break", "a=1\r\nset-cookie: x=1"],
      ["what is not ASCII", "a=ü"],
      ["33 members", members(33)],
      ["513 characters", `a=${"x".repeat(250)},b=${"x".repeat(257)}`]
    ] as const
  ) {
    it(`is dropped, neither sent nor received, for ${what}`, () => {
      assert.isUndefined(TraceState.parse(text))
      assert.isUndefined(sent(text))
      assert.strictEqual(TraceState.received({ ...request, headers: { tracestate: text } }), trace)
    })
  }

  it("has up to 32 members and 512 characters", () => {
    assert.strictEqual(sent(members(32)), members(32))
    const longest = `a=${"x".repeat(254)},b=${"x".repeat(253)}`
    assert.strictEqual(longest.length, 512)
    assert.strictEqual(sent(longest), longest)
  })

  it("stays away where the metadata has no room for it, rather than make the call too large", () => {
    const full = { a: "x".repeat(Frame.maxMetadataBytes - 7) }
    assert.strictEqual(FrameCodec.metadataBytes(full), Frame.maxMetadataBytes)
    assert.strictEqual(TraceState.carried(full, { ...trace, state: "a=1" }), full)
  })
})
