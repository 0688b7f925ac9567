/**
 * The wire against its specification: our codec, the byte vectors, and a second
 * codec that was written from `docs/protocol.md` alone have to agree.
 */
import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Result, Schema } from "effect"
import * as Fs from "node:fs"
import * as Path from "node:path"
import type { Criticality } from "../../src/contract/Criticality.ts"
import type { Reason } from "../../src/contract/Interruption.ts"
import * as BodyCodec from "../../src/wire/BodyCodec.ts"
import * as Frame from "../../src/wire/Frame.ts"
import * as FrameCodec from "../../src/wire/FrameCodec.ts"

// The shapes of vectors.json --------------------------------------------------------------------------

interface RequestVector {
  readonly type: "request"
  readonly id: number
  readonly codec: number
  readonly criticality: string
  readonly attempt: number
  readonly deadline: number | null
  readonly method: string
  readonly hedge: boolean
  readonly idempotent: boolean
  readonly trace: { readonly traceId: string; readonly spanId: string; readonly sampled: boolean } | null
  readonly idempotencyKey: string | null
  readonly metadata: Readonly<Record<string, string>>
  readonly body: string
}
interface ResponseVector {
  readonly type: "response"
  readonly id: number
  readonly status: number
  readonly codec: number
  readonly processed: boolean
  readonly retryAfter: number | null
  readonly metadata: Readonly<Record<string, string>>
  readonly body: string
}
interface HelloVector {
  readonly type: "hello"
  readonly features: number
  readonly maxPayload: number
  readonly maxInFlight: number
  readonly codecs: ReadonlyArray<number>
  readonly agent: string
}
type Decoded =
  | RequestVector
  | ResponseVector
  | HelloVector
  | { readonly type: "cancel"; readonly id: number; readonly reason: string }
  | { readonly type: "ping" | "pong"; readonly payload: string }
  | { readonly type: "goingAway"; readonly why: string }
type Ended =
  | { readonly _tag: "BadMagic" | "BadVersion"; readonly got: number }
  | { readonly _tag: "TooLong"; readonly length: number; readonly limit: number }
  | { readonly _tag: "BadPayload"; readonly type: number }
interface Cut {
  readonly frames: ReadonlyArray<readonly [type: number, payload: string]>
  readonly error: Ended | null
  readonly partial: boolean
}
interface Vectors {
  readonly frames: ReadonlyArray<
    { readonly name: string; readonly hex: string; readonly decoded: Decoded; readonly decodeOnly?: boolean }
  >
  readonly errors: ReadonlyArray<
    {
      readonly name: string
      readonly hex: string
      readonly error: Ended
      readonly early: number
      readonly limit?: number
    }
  >
  readonly bodies: ReadonlyArray<
    {
      readonly schema: keyof typeof bodySchemas
      readonly value: unknown
      readonly json: string
      readonly binary: string
    }
  >
  readonly streams: ReadonlyArray<Cut & { readonly name: string; readonly hex: string; readonly limit?: number }>
}

class UserNotFound extends Schema.TaggedError<UserNotFound>()("UserNotFound", { id: Schema.Int }) {}
const bodySchemas = {
  user: Schema.Struct({ id: Schema.Int, name: Schema.String, email: Schema.optionalKey(Schema.String) }),
  userNotFound: UserNotFound,
  none: Schema.Void,
  pair: Schema.Tuple([Schema.Number, Schema.Number])
}

const vectors = JSON.parse(
  Fs.readFileSync(Path.join(import.meta.dirname, "vectors.json"), "utf8")
) as Vectors

// A second codec, from docs/protocol.md alone ---------------------------------------------------------

const criticalities = ["criticalPlus", "critical", "sheddablePlus", "sheddable"]
const reasons = ["caller", "deadline", "attemptTimeout", "hedgeLost", "shutdown"]
const typeNumbers = { request: 1, response: 2, cancel: 3, ping: 4, pong: 5, goingAway: 6, hello: 9 } as const

const hexOf = (bytes: Iterable<number>): string =>
  Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")
const bytesOf = (hex: string): Array<number> => (hex.match(/../g) ?? []).map((pair) => Number.parseInt(pair, 16))
const utf8 = { decode: new TextDecoder("utf-8", { ignoreBOM: true }), encode: new TextEncoder() }

class Malformed extends Error {}

/** Takes numbers and bytes from the front; too few are malformed. */
class Fields {
  readonly bytes: ReadonlyArray<number>
  at = 0
  constructor(bytes: ReadonlyArray<number>) {
    this.bytes = bytes
  }
  raw(count: number): ReadonlyArray<number> {
    if (this.at + count > this.bytes.length) throw new Malformed()
    return this.bytes.slice(this.at, this.at += count)
  }
  number(size: 1 | 2 | 4): number {
    return this.raw(size).reduce((value, byte) => value * 256 + byte, 0)
  }
  text(): string {
    return utf8.decode.decode(Uint8Array.from(this.raw(this.number(2))))
  }
  metadata(): Record<string, string> {
    const block = new Fields(this.raw(this.number(2)))
    const pairs: Array<[string, string]> = []
    while (block.at < block.bytes.length) pairs.push([block.text(), block.text()])
    return Object.fromEntries(pairs)
  }
  rest(): string {
    return hexOf(this.raw(this.bytes.length - this.at))
  }
}

const readPayload = (type: number, payload: ReadonlyArray<number>): Decoded => {
  const fields = new Fields(payload)
  switch (type) {
    case 1: {
      const id = fields.number(4)
      const codec = fields.number(1)
      const flags = fields.number(1)
      const criticality = criticalities[Math.min(3, fields.number(1))]!
      const attempt = Math.max(1, fields.number(1))
      const remaining = fields.number(4)
      const method = fields.text()
      if (method === "") throw new Malformed()
      let trace: RequestVector["trace"] = null
      if (flags & 1) {
        const traceId = hexOf(fields.raw(16))
        const spanId = hexOf(fields.raw(8))
        const sampled = fields.number(1) % 2 === 1
        if (/[^0]/.test(traceId) && /[^0]/.test(spanId)) trace = { traceId, spanId, sampled }
      }
      const idempotencyKey = flags & 2 ? fields.text() : null
      const metadata = flags & 4 ? fields.metadata() : {}
      return {
        type: "request",
        id,
        codec,
        criticality,
        attempt,
        deadline: remaining === 0xffff_ffff ? null : remaining,
        method,
        hedge: (flags & 8) > 0,
        idempotent: (flags & 16) > 0,
        trace,
        idempotencyKey,
        metadata,
        body: fields.rest()
      }
    }
    case 2: {
      const [id, status, codec, flags] = [fields.number(4), fields.number(1), fields.number(1), fields.number(1)]
      fields.number(1)
      const retryAfter = flags & 1 ? fields.number(4) : null
      const metadata = flags & 4 ? fields.metadata() : {}
      return {
        type: "response",
        id,
        status,
        codec,
        processed: (flags & 2) > 0,
        retryAfter,
        metadata,
        body: fields.rest()
      }
    }
    case 3:
      return { type: "cancel", id: fields.number(4), reason: reasons[fields.number(1)] ?? "caller" }
    case 4:
    case 5:
      return { type: type === 4 ? "ping" : "pong", payload: fields.rest() }
    case 6:
      return { type: "goingAway", why: utf8.decode.decode(Uint8Array.from(payload)) }
    case 9: {
      const [features, maxPayload, maxInFlight] = [fields.number(4), fields.number(4), fields.number(4)]
      const codecs = [...fields.raw(fields.number(1))]
      return { type: "hello", features, maxPayload, maxInFlight, codecs, agent: fields.text() }
    }
    default:
      throw new Malformed()
  }
}

/** All frames of a byte string. Simple, because it has the whole string: the decoder of a session does not. */
const read = (bytes: ReadonlyArray<number>, limit = 4 * 1024 * 1024): Cut & { readonly decoded: Array<Decoded> } => {
  const frames: Array<readonly [number, string]> = []
  const decoded: Array<Decoded> = []
  let at = 0
  const ended = (error: Ended | null, partial = false) => ({ frames, decoded, error, partial })
  while (at < bytes.length) {
    const header = bytes.slice(at, at + 8)
    const magic = header[0]! * 256 + (header[1] ?? 0)
    if (header.length >= 2 && magic !== 0x4d43) return ended({ _tag: "BadMagic", got: magic })
    if (header.length >= 3 && header[2] !== 1) return ended({ _tag: "BadVersion", got: header[2]! })
    if (header.length < 8) return ended(null, true)
    const type = header[3]!
    const length = new Fields(header.slice(4)).number(4)
    if (length > limit) return ended({ _tag: "TooLong", length, limit })
    const payload = bytes.slice(at + 8, at + 8 + length)
    if (payload.length < length) return ended(null, true)
    at += 8 + length
    if (!Object.values(typeNumbers).some((known) => known === type)) continue
    frames.push([type, hexOf(payload)])
    try {
      decoded.push(readPayload(type, payload))
    } catch (error) {
      if (error instanceof Malformed) return ended({ _tag: "BadPayload", type })
      throw error
    }
  }
  return ended(null)
}

const big = (value: number, size: number): Array<number> =>
  Array.from({ length: size }, (_, at) => Math.floor(value / 256 ** (size - 1 - at)) % 256)
const counted = (bytes: ReadonlyArray<number>): Array<number> => [...big(bytes.length, 2), ...bytes]
const textOf = (value: string): Array<number> => counted([...utf8.encode.encode(value)])
const metadataOf = (metadata: Readonly<Record<string, string>>): Array<number> =>
  counted(Object.entries(metadata).flatMap((pair) => pair.flatMap(textOf)))
const sum = (...flags: ReadonlyArray<readonly [boolean, number]>): number =>
  flags.reduce((total, [set, value]) => total + (set ? value : 0), 0)

const writePayload = (frame: Decoded): Array<number> => {
  switch (frame.type) {
    case "request": {
      const { idempotencyKey: key, metadata, trace } = frame
      const hasMetadata = Object.keys(metadata).length > 0
      return [
        ...big(frame.id, 4),
        frame.codec,
        sum([trace !== null, 1], [key !== null, 2], [hasMetadata, 4], [frame.hedge, 8], [frame.idempotent, 16]),
        criticalities.indexOf(frame.criticality),
        frame.attempt,
        ...big(frame.deadline ?? 0xffff_ffff, 4),
        ...textOf(frame.method),
        ...(trace === null ? [] : [...bytesOf(trace.traceId), ...bytesOf(trace.spanId), trace.sampled ? 1 : 0]),
        ...(key === null ? [] : textOf(key)),
        ...(hasMetadata ? metadataOf(metadata) : []),
        ...bytesOf(frame.body)
      ]
    }
    case "response": {
      const hasMetadata = Object.keys(frame.metadata).length > 0
      return [
        ...big(frame.id, 4),
        frame.status,
        frame.codec,
        sum([frame.retryAfter !== null, 1], [frame.processed, 2], [hasMetadata, 4]),
        0,
        ...(frame.retryAfter === null ? [] : big(frame.retryAfter, 4)),
        ...(hasMetadata ? metadataOf(frame.metadata) : []),
        ...bytesOf(frame.body)
      ]
    }
    case "cancel":
      return [...big(frame.id, 4), reasons.indexOf(frame.reason)]
    case "ping":
    case "pong":
      return bytesOf(frame.payload)
    case "goingAway":
      return [...utf8.encode.encode(frame.why)]
    case "hello":
      return [
        ...big(frame.features, 4),
        ...big(frame.maxPayload, 4),
        ...big(frame.maxInFlight, 4),
        frame.codecs.length,
        ...frame.codecs,
        ...textOf(frame.agent)
      ]
  }
}

const write = (frame: Decoded): Array<number> => {
  const payload = writePayload(frame)
  return [0x4d, 0x43, 1, typeNumbers[frame.type], ...big(payload.length, 4), ...payload]
}

// Our codec, in the shapes of the vectors -------------------------------------------------------------

/** Any instant will do: on the wire a deadline is relative. */
const now = 1_234_567.5

const ours = {
  payload: (type: number, bytes: Buffer, start: number, end: number): Decoded | Frame.FrameError => {
    switch (type) {
      case Frame.Type.request: {
        const decoded = FrameCodec.request(bytes, start, end, now)
        if (decoded._tag !== "Ok") return decoded
        const { body, deadline, headers, idempotencyKey, trace, ...rest } = decoded.value
        return {
          type: "request",
          id: decoded.id,
          ...rest,
          body: hexOf(body),
          deadline: deadline === Infinity ? null : deadline - now,
          metadata: { ...headers },
          idempotencyKey: idempotencyKey ?? null,
          trace: trace ?? null
        }
      }
      case Frame.Type.response: {
        const decoded = FrameCodec.response(bytes, start, end)
        if (decoded._tag !== "Ok") return decoded
        const { body, headers, retryAfterMillis, ...rest } = decoded.value
        return {
          type: "response",
          id: decoded.id,
          ...rest,
          body: hexOf(body),
          metadata: { ...headers },
          retryAfter: retryAfterMillis ?? null
        }
      }
      case Frame.Type.cancel: {
        const decoded = FrameCodec.cancel(bytes, start, end)
        return decoded._tag === "Ok" ? { type: "cancel", id: decoded.id, reason: decoded.value } : decoded
      }
      case Frame.Type.ping:
      case Frame.Type.pong:
        return { type: type === Frame.Type.ping ? "ping" : "pong", payload: bytes.toString("hex", start, end) }
      case Frame.Type.goingAway:
        return { type: "goingAway", why: bytes.toString("utf8", start, end) }
      default: {
        const decoded = FrameCodec.hello(bytes, start, end)
        if (decoded._tag !== "Ok") return decoded
        const { maxPayloadBytes, ...rest } = decoded.value
        return { type: "hello", maxPayload: maxPayloadBytes, ...rest }
      }
    }
  },

  read: (chunks: ReadonlyArray<Buffer>, limit = Frame.defaultMaxPayloadBytes) => {
    const frames: Array<readonly [number, string]> = []
    const decoded: Array<Decoded> = []
    const decoder = new FrameCodec.Decoder(limit, (type, bytes, start, end) => {
      frames.push([type, bytes.toString("hex", start, end)])
      const one = ours.payload(type, bytes, start, end)
      if ("_tag" in one) return one
      decoded.push(one)
      return undefined
    })
    let error: Frame.FrameError | undefined
    let noticed = 0
    for (const chunk of chunks) {
      if (error === undefined) noticed += chunk.length
      error = decoder.push(chunk)
    }
    return { frames, decoded, error: error === undefined ? null : withoutWords(error), noticed, decoder }
  },

  write: (frame: Decoded): Buffer => {
    const encoder = new FrameCodec.Encoder()
    switch (frame.type) {
      case "request": {
        const request: Frame.Request = {
          ...frame,
          criticality: frame.criticality as Criticality,
          deadline: frame.deadline === null ? Infinity : now + frame.deadline,
          headers: frame.metadata,
          idempotencyKey: frame.idempotencyKey ?? undefined,
          trace: frame.trace ?? undefined,
          body: Buffer.from(frame.body, "hex")
        }
        encoder.request(frame.id, request, now, FrameCodec.metadataBytes(frame.metadata))
        encoder.body(request.body)
        break
      }
      case "response": {
        const response: Frame.Response = {
          ...frame,
          retryAfterMillis: frame.retryAfter ?? undefined,
          headers: frame.metadata,
          body: Buffer.from(frame.body, "hex")
        }
        encoder.response(frame.id, response, FrameCodec.metadataBytes(frame.metadata))
        encoder.body(response.body)
        break
      }
      case "cancel":
        encoder.cancel(frame.id, frame.reason as Reason)
        break
      case "ping":
      case "pong":
        encoder.ping(Frame.Type[frame.type], Buffer.from(frame.payload, "hex"))
        break
      case "goingAway":
        encoder.goingAway(frame.why)
        break
      case "hello":
        encoder.hello({ ...frame, maxPayloadBytes: frame.maxPayload })
    }
    return encoder.take()
  }
}

/** The wording of an error is nobody's contract. */
const withoutWords = (error: Frame.FrameError): Ended =>
  error._tag === "BadPayload" ? { _tag: "BadPayload", type: error.type } : error

const oneByOne = (bytes: Buffer): Array<Buffer> => Array.from(bytes, (_, at) => bytes.subarray(at, at + 1))

// The tests -------------------------------------------------------------------------------------------

describe("MCP/TCP v1", () => {
  describe("byte vectors of frames", () => {
    for (const { decodeOnly, decoded, hex, name } of vectors.frames) {
      it(`${name}: read${decodeOnly ? "" : " and written"} by both codecs`, () => {
        const bytes = Buffer.from(hex, "hex")
        assert.deepStrictEqual(ours.read([bytes]).decoded, [decoded])
        assert.deepStrictEqual(ours.read(oneByOne(bytes)).decoded, [decoded])
        assert.deepStrictEqual(read([...bytes]).decoded, [decoded])
        if (decodeOnly) return
        assert.strictEqual(ours.write(decoded).toString("hex"), hex)
        assert.strictEqual(hexOf(write(decoded)), hex)
      })
    }
  })

  describe("byte vectors of errors", () => {
    for (const { early, error, hex, limit, name } of vectors.errors) {
      it(`${name} ends the session, noticed at byte ${early}`, () => {
        const bytes = Buffer.from(hex, "hex")
        assert.deepStrictEqual(ours.read([bytes], limit).error, error)
        const trickled = ours.read(oneByOne(bytes), limit)
        assert.deepStrictEqual(trickled.error, error)
        assert.strictEqual(trickled.noticed, early)
        assert.deepStrictEqual(read([...bytes], limit).error, error)
      })
    }
  })

  describe("byte vectors of streams", () => {
    for (const { error, frames, hex, limit, name, partial } of vectors.streams) {
      it(`${name}, in one piece and in every two`, () => {
        const bytes = Buffer.from(hex, "hex")
        const expected = { frames, error, partial }
        const { decoded: _, ...second } = read([...bytes], limit)
        assert.deepStrictEqual(second, expected)
        for (let cut = 0; cut <= bytes.length; cut++) {
          const result = ours.read([bytes.subarray(0, cut), bytes.subarray(cut)], limit)
          assert.deepStrictEqual(
            { frames: result.frames, error: result.error, partial: result.decoder.isPartial },
            expected
          )
        }
      })
    }
  })

  describe("byte vectors of bodies", () => {
    for (const { binary, json, schema, value } of vectors.bodies) {
      it(`${schema} ${json || "without a body"}: read and written in both codecs`, () => {
        const codec: Schema.Codec<any, any> = bodySchemas[schema]
        const given = schema === "userNotFound"
          ? new UserNotFound(value as { readonly id: number })
          : schema === "none"
          ? undefined
          : value
        const bodies = [[BodyCodec.json, Buffer.from(json)], [BodyCodec.binary, Buffer.from(binary, "hex")]] as const
        for (const [{ compile, name }, bytes] of bodies) {
          const compiled = compile(codec)
          assert.strictEqual(hexOf(Result.getOrThrow(compiled.encode(given))), bytes.toString("hex"), name)
          assert.deepStrictEqual(Result.getOrThrow(compiled.decode(bytes)), given, name)
        }
      })
    }
  })

  it("has a vector for every frame type, status, cancel reason, criticality, flag and error", () => {
    const decoded = vectors.frames.map((vector) => vector.decoded)
    const all = <A extends string | number>(values: Iterable<A>) => [...new Set(values)].sort()
    assert.deepStrictEqual(all(decoded.map((frame) => frame.type)), all(Object.keys(typeNumbers)))
    const statuses = all(decoded.flatMap((frame) => frame.type === "response" ? [frame.status] : []))
    assert.includeMembers(statuses, Object.values(Frame.Status))
    assert.includeMembers(
      decoded.flatMap((frame) => frame.type === "cancel" ? [frame.reason] : []),
      [...Frame.cancelReasons]
    )
    const requests = decoded.filter((frame) => frame.type === "request")
    assert.includeMembers(requests.map((frame) => frame.criticality), criticalities)
    const flagsOf = (type: string, offset: number) =>
      vectors.frames.filter((vector) => vector.decoded.type === type && vector.decodeOnly !== true)
        .reduce((seen, vector) => seen | Buffer.from(vector.hex, "hex")[offset]!, 0)
    assert.strictEqual(flagsOf("request", 13), 31)
    assert.strictEqual(flagsOf("response", 14), 7)
    const errors: Array<Frame.FrameError["_tag"]> = ["BadMagic", "BadPayload", "BadVersion", "TooLong"]
    assert.deepStrictEqual(all(vectors.errors.map((vector) => vector.error._tag)), errors)
  })

  it("the worked example of docs/protocol.md is byte for byte the vectors of its names", () => {
    const page = Fs.readFileSync(Path.join(import.meta.dirname, "../../docs/protocol.md"), "utf8")
    const examples = [...page.matchAll(/^```bytes (.+)\n([\s\S]*?)^```$/gm)]
    assert.strictEqual(examples.length, 6)
    assert.include(
      page.match(/^```binary a user\n([\s\S]*?)^```$/m)![1]!.split("\n").map((line) =>
        line.split(/ {2,}/)[0]!.replaceAll(" ", "")
      )
        .join(""),
      vectors.bodies[0]!.binary
    )
    for (const [, name, lines] of examples) {
      const hex = lines!.trimEnd().split("\n").map((line) => line.split(/ {2,}/)[0]!.replaceAll(" ", "")).join("")
      assert.strictEqual(hex, vectors.frames.find((vector) => vector.name === name)?.hex, name)
    }
  })

  it("the tables of docs/protocol.md have our numbers", () => {
    const page = Fs.readFileSync(Path.join(import.meta.dirname, "../../docs/protocol.md"), "utf8")
    for (const [name, number] of Object.entries(Frame.Status)) assert.include(page, `| ${number} | ${name} |`)
    for (const [name, number] of Object.entries(Frame.Feature)) assert.include(page, `| ${number} | ${name} |`)
    for (const [name, number] of Object.entries(Frame.Type)) {
      const title = name.replace(/[A-Z]/g, (letter) => `-${letter}`).toUpperCase()
      assert.include(page, `| ${number} | ${title} |`)
    }
  })

  describe("the two codecs agree", () => {
    const { array, map, schema } = Arbitrary
    const integer = (minimum: number, maximum: number) =>
      schema(Schema.Int.check(Schema.isBetween({ minimum, maximum })))
    const u32 = schema(Schema.Union([
      Schema.Literals([0, 1, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe]),
      Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 0xffff_fffe }))
    ]))
    const text = map(schema(Schema.String), (value) => value.toWellFormed())
    const hex = (size: number) => map(array(integer(0, 255), { minLength: size, maxLength: size }), hexOf)
    const body = map(array(integer(0, 255), { maxLength: 300 }), hexOf)
    const boolean = schema(Schema.Boolean)
    const orNull = <A>(self: Arbitrary.Arbitrary<A>) =>
      map(Arbitrary.all([boolean, self]), ([present, value]) => present ? value : null)
    const metadata = map(
      array(Arbitrary.all([text, text]), { maxLength: 4 }),
      // Integer keys come first in an object whatever their order on the wire.
      (pairs) => Object.fromEntries(pairs.map(([name, value]) => [`-${name}`, value]))
    )
    const trace = Arbitrary.all({
      traceId: map(hex(15), (id) => `${id}01`),
      spanId: map(hex(7), (id) => `${id}01`),
      sampled: boolean
    })
    const request = Arbitrary.all({
      type: Arbitrary.Constant("request" as const),
      id: u32,
      codec: integer(0, 255),
      criticality: schema(Schema.Literals(criticalities)),
      attempt: integer(1, 255),
      deadline: map(orNull(u32), (value) => value === 0 ? 1 : value),
      method: map(text, (value) => `m${value}`),
      hedge: boolean,
      idempotent: boolean,
      trace: orNull(trace),
      idempotencyKey: orNull(text),
      metadata,
      body
    })
    const response = Arbitrary.all({
      type: Arbitrary.Constant("response" as const),
      id: u32,
      status: integer(0, 255),
      codec: integer(0, 255),
      processed: boolean,
      retryAfter: orNull(u32),
      metadata,
      body
    })
    const hello = Arbitrary.all({
      type: Arbitrary.Constant("hello" as const),
      features: u32,
      maxPayload: u32,
      maxInFlight: u32,
      codecs: array(integer(0, 255), { maxLength: 20 }),
      agent: text
    })

    const agree = (frame: Decoded) => {
      const bytes = write(frame)
      assert.strictEqual(ours.write(frame).toString("hex"), hexOf(bytes))
      assert.deepStrictEqual(ours.read([Buffer.from(bytes)]).decoded, [frame])
      assert.deepStrictEqual(read(bytes).decoded, [frame])
    }
    it.prop("on any request", [request], ([frame]) => agree(frame))
    it.prop("on any response", [response], ([frame]) => agree(frame))
    it.prop("on any hello", [hello], ([frame]) => agree(frame))

    /** What a hostile peer does to a good frame. */
    const damage = Arbitrary.all({
      frames: array(Arbitrary.all([request, response, hello]), { minLength: 1, maxLength: 2 }),
      at: integer(0, 400),
      value: integer(0, 255),
      cut: integer(0, 500)
    })
    it.prop(
      "on what is left of good frames after one byte is changed and the end is cut off",
      [damage],
      ([{ at, cut, frames, value }]) => {
        const bytes = frames.flatMap(([a, b, c]) => [...write(a), ...write(b), ...write(c)])
        bytes[at % bytes.length] = value
        bytes.length = Math.max(1, bytes.length - (cut % 3 === 0 ? cut : 0))
        const { decoded, error, frames: cutFrames, partial } = read(bytes, 4096)
        const result = ours.read([Buffer.from(bytes)], 4096)
        assert.deepStrictEqual(
          [result.frames, result.decoded, result.error, result.decoder.isPartial],
          [cutFrames, decoded, error, partial]
        )
      }
    )
  })
})
