import { assert, describe, it } from "@effect/vitest"
import { Arbitrary, Schema } from "effect"
import * as Frame from "../../src/wire/Frame.ts"
import * as FrameCodec from "../../src/wire/FrameCodec.ts"

const { array, map, schema } = Arbitrary
const integer = (minimum: number, maximum: number) => schema(Schema.Int.check(Schema.isBetween({ minimum, maximum })))
const boolean = schema(Schema.Boolean)
const text = map(schema(Schema.String), (value) => value.toWellFormed())
const optional = <A>(self: Arbitrary.Arbitrary<A>) =>
  map(Arbitrary.all([boolean, self]), ([present, value]) => present ? value : undefined)
const bytes = map(array(integer(0, 255), { maxLength: 200 }), (values) => Buffer.from(values))

/** A frame of any type, its payload not looked at. */
const raw = (type: number, payload: Uint8Array, length = payload.length): Buffer => {
  const header = Buffer.from([0x4d, 0x43, 1, type, 0, 0, 0, 0])
  header.writeUInt32BE(length, 4)
  return Buffer.concat([header, payload])
}

/** What came out of a decoder, in a form that compares. */
const run = (chunks: ReadonlyArray<Buffer>, limit = 1024, fails = (_type: number) => false) => {
  const frames: Array<string> = []
  let arrived = 0
  let before = 0
  let delivered = 0
  let held = 0
  const decoder = new FrameCodec.Decoder(limit, (type, chunk, start, end) => {
    frames.push(`${type}:${chunk.toString("hex", start, end)}`)
    // The rest of the chunk that ends a frame belongs to the next.
    delivered = before
    return fails(type) ? { _tag: "BadPayload", type, why: "refused by the test" } : undefined
  })
  const errors: Array<Frame.FrameError | undefined> = []
  for (const chunk of chunks) {
    before = arrived
    arrived += chunk.length
    errors.push(decoder.push(chunk))
    held = Math.max(held, decoder.heldBytes)
    // A session's own memory is what matters: never more than twice what came since the last frame, nor than one frame.
    assert.isAtMost(decoder.heldBytes, Math.min(2 * Math.max(arrived - delivered, 8), limit + Frame.headerBytes))
  }
  return { frames, error: errors.at(-1), errors, isPartial: decoder.isPartial, held }
}

const cutAt = (stream: Buffer, cuts: ReadonlyArray<number>): Array<Buffer> => {
  const at = [0, ...cuts.map((cut) => cut % (stream.length + 1)).sort((a, b) => a - b), stream.length]
  // Copies, so that a decoder that looks outside its chunk finds nothing there.
  return at.slice(1).map((end, index) => Buffer.from(stream.subarray(at[index], end)))
}
const single = (stream: Buffer): Array<Buffer> => Array.from(stream, (byte) => Buffer.from([byte]))

/** Frames of known and unknown types, then perhaps something that ends the session, or half a frame. */
const stream = map(
  Arbitrary.all({
    frames: array(
      Arbitrary.all([schema(Schema.Literals([1, 1, 2, 2, 3, 4, 6, 9, 0, 5, 7, 8, 10, 255])), bytes]),
      { maxLength: 6 }
    ),
    tail: schema(Schema.Literals(["none", "half", "magic", "version", "long", "refused", "http", "random"])),
    more: bytes
  }),
  ({ frames, more, tail }) => {
    const tails = {
      none: [],
      half: [raw(1, more, more.length + 1)],
      magic: [Buffer.from([0x4d, 0x44]), more],
      version: [Buffer.from([0x4d, 0x43, 2]), more],
      long: [raw(more.length, more, 1025)],
      refused: [raw(5, more), raw(1, more)],
      http: [Buffer.from("POST /users HTTP/1.1\r\n")],
      random: [more]
    }
    return Buffer.concat([...frames.map(([type, payload]) => raw(type, payload)), ...tails[tail]])
  }
)

describe("FrameCodec", () => {
  describe("Decoder", () => {
    it.prop(
      "gives the same frames and the same error however the bytes are cut",
      [stream, array(integer(0, 2000), { maxLength: 12 })],
      ([whole, cuts]) => {
        const refuses = (type: number) => type === 5
        const { error, frames, isPartial } = run([whole], 1024, refuses)
        for (const chunks of [cutAt(whole, cuts), single(whole)]) {
          const other = run(chunks, 1024, refuses)
          assert.deepStrictEqual(
            { frames: other.frames, error: other.error, isPartial: other.isPartial },
            { frames, error, isPartial }
          )
        }
      }
    )

    it("reads a frame at every cut and in every pair of cuts", () => {
      const whole = Buffer.concat([raw(1, Buffer.from("abc")), raw(77, Buffer.from("skip")), raw(2, Buffer.from("d"))])
      for (let a = 0; a <= whole.length; a++) {
        for (let b = a; b <= whole.length; b++) {
          const { frames, isPartial } = run([whole.subarray(0, a), whole.subarray(a, b), whole.subarray(b)])
          assert.deepStrictEqual(frames, ["1:616263", "2:64"])
          assert.isFalse(isPartial)
        }
      }
    })

    it("stands in the middle of a frame from its first byte to the one before its last, of unknown types too", () => {
      for (const type of [1, 77]) {
        const whole = raw(type, Buffer.from("abc"))
        for (let end = 0; end <= whole.length; end++) {
          assert.strictEqual(run([whole.subarray(0, end)]).isPartial, end > 0 && end < whole.length)
          assert.strictEqual(run(single(whole.subarray(0, end))).isPartial, end > 0 && end < whole.length)
        }
      }
    })

    it("hands over a payload that lies in one chunk without copying it, and a copy of one that does not", () => {
      const whole = raw(1, Buffer.from("abc"))
      const seen: Array<Buffer> = []
      const decoder = new FrameCodec.Decoder(1024, (_type, chunk, start, end) => {
        seen.push(chunk.subarray(start, end))
        return undefined
      })
      decoder.push(whole)
      const first = Buffer.from(whole.subarray(0, 9))
      const second = Buffer.from(whole.subarray(9))
      decoder.push(first)
      decoder.push(second)
      for (const chunk of [whole, first, second]) chunk.fill(0)
      assert.deepStrictEqual(seen.map(String), ["\0\0\0", "abc"])
    })

    it("a body decoded from a frame in pieces survives the frames after it", () => {
      const bodies: Array<Buffer> = []
      const decoder = new FrameCodec.Decoder(1024, (_type, chunk, start, end) => {
        bodies.push(chunk.subarray(start, end))
        return undefined
      })
      for (const value of ["first", "other", "third"]) {
        for (const chunk of single(raw(2, Buffer.from(value)))) decoder.push(chunk)
      }
      assert.deepStrictEqual(bodies.map(String), ["first", "other", "third"])
    })

    it("after an error everything is ignored, and the error stays", () => {
      const { errors, frames } = run([
        raw(1, Buffer.from("a")),
        Buffer.from("GET /"),
        raw(1, Buffer.from("b")),
        Buffer.from("SSH-")
      ])
      const error = { _tag: "BadMagic" as const, got: 0x4745 }
      assert.deepStrictEqual(errors, [undefined, error, error, error])
      assert.deepStrictEqual(frames, ["1:61"])
    })

    it("an error of the receiver ends it between two frames of one chunk", () => {
      const { error, frames } = run(
        [Buffer.concat([raw(1, noBody), raw(5, noBody), raw(1, noBody)])],
        1024,
        (type) => type === 5
      )
      assert.deepStrictEqual(frames, ["1:", "5:"])
      assert.deepStrictEqual(error, { _tag: "BadPayload", type: 5, why: "refused by the test" })
    })

    it("an empty chunk changes nothing", () => {
      const whole = raw(1, Buffer.from("abc"))
      const none = Buffer.alloc(0)
      assert.deepStrictEqual(run([none, whole.subarray(0, 3), none, whole.subarray(3), none]).frames, ["1:616263"])
    })

    describe("strangers on the port", () => {
      const strangers: ReadonlyArray<readonly [bytes: string, looksLike: string]> = [
        ["GET / HTTP/1.1\r\n", "an HTTP GET"],
        ["POST /x HTTP/1.1\r\n", "an HTTP POST"],
        ["PUT /x HTTP/1.1\r\n", "an HTTP PUT"],
        ["HEAD / HTTP/1.1\r\n", "an HTTP HEAD"],
        ["DELETE / HTTP/1.1\r\n", "an HTTP DELETE"],
        ["OPTIONS * HTTP/1.1\r\n", "an HTTP OPTIONS"],
        ["HTTP/1.1 200 OK\r\n", "an HTTP response"],
        ["PRI * HTTP/2.0\r\n", "an HTTP/2 preface"],
        ["SSH-2.0-OpenSSH\r\n", "an SSH banner"],
        ["\x16\x03\x01\x02\x00", "a TLS handshake"]
      ]
      for (const [said, looksLike] of strangers) {
        it(`${JSON.stringify(said)} is ${looksLike}, known with its second byte in any chunking`, () => {
          const whole = Buffer.from(said, "latin1")
          for (const chunks of [[whole], single(whole), [whole.subarray(0, 1), whole.subarray(1)]]) {
            const { error } = run(chunks)
            assert.strictEqual(error?._tag, "BadMagic")
            assert.include(Frame.describe(error!), `(looks like ${looksLike})`)
          }
          assert.isUndefined(run(single(whole.subarray(0, 1))).error)
          assert.isDefined(run(single(whole.subarray(0, 2))).error)
        })
      }

      it("another version is known with its third byte", () => {
        assert.isUndefined(run(single(Buffer.from([0x4d, 0x43]))).error)
        assert.deepStrictEqual(run(single(Buffer.from([0x4d, 0x43, 9]))).error, { _tag: "BadVersion", got: 9 })
      })
    })

    describe("memory", () => {
      it("a length over the limit is refused before anything is kept for it", () => {
        for (const type of [1, 2, 9, 77]) {
          const { error, held } = run(single(raw(type, noBody, 1025)))
          assert.deepStrictEqual(error, { _tag: "TooLong", length: 1025, limit: 1024 })
          assert.strictEqual(held, 8)
        }
        assert.isUndefined(run([raw(1, noBody, 1024)]).error)
      })

      it("announcing 4 MiB and sending nothing costs 8 bytes", () => {
        const { held, isPartial } = run([raw(1, noBody, Frame.defaultMaxPayloadBytes)], Frame.defaultMaxPayloadBytes)
        assert.isTrue(isPartial)
        assert.strictEqual(held, 8)
      })

      it("a megabyte trickled a byte at a time costs at most twice itself, and nothing once it is there", () => {
        const size = 1024 * 1024
        const decoder = new FrameCodec.Decoder(size, () => undefined)
        decoder.push(raw(1, noBody, size))
        const byte = Buffer.from([7])
        for (let arrived = 1; arrived < size; arrived++) {
          decoder.push(byte)
          if (decoder.heldBytes > 2 * (arrived + 8)) assert.fail(`${decoder.heldBytes} bytes held of ${arrived}`)
        }
        assert.isTrue(decoder.isPartial)
        assert.isUndefined(decoder.push(byte))
        assert.isFalse(decoder.isPartial)
        assert.strictEqual(decoder.heldBytes, 0)
      })

      it("a frame of an unknown type is skipped without being kept", () => {
        const { frames, held } = run(single(Buffer.concat([raw(77, Buffer.alloc(1000)), raw(1, noBody)])))
        assert.deepStrictEqual(frames, ["1:"])
        assert.strictEqual(held, 8)
      })
    })
  })

  describe("requests and responses", () => {
    const headers = map(
      array(Arbitrary.all([text, text]), { maxLength: 5 }),
      (pairs) => Object.fromEntries(pairs) as Readonly<Record<string, string>>
    )
    /** No deadline; a literal has to be finite. */
    const none = -1
    const anyRequest = Arbitrary.all({
      method: map(text, (value) => value === "" ? "UserService.GetUserInfo" : value),
      codec: integer(1, 255),
      body: bytes,
      remaining: map(
        schema(Schema.Union([
          Schema.Literals([0, 0.4, 1, 0xffff_fffe, 0xffff_ffff, 1e12, none]),
          Schema.Finite.check(Schema.isBetween({ minimum: 1, maximum: 100_000 }))
        ])),
        (millis) => millis === none ? Infinity : millis
      ),
      attempt: integer(1, 300),
      hedge: boolean,
      idempotent: boolean,
      criticality: schema(Schema.Literals(["criticalPlus", "critical", "sheddablePlus", "sheddable"])),
      idempotencyKey: optional(text),
      trace: optional(Arbitrary.Constant({
        traceId: "0123456789abcdef0123456789abcdef",
        spanId: "fedcba9876543210",
        sampled: true
      })),
      headers
    })

    it.prop(
      "a request arrives as it was sent, with a deadline of the receiver's clock that is not later than the sender's",
      [anyRequest, integer(0, 1e6), integer(0, 1e6)],
      ([{ remaining, ...rest }, sentAt, arrivedAt]) => {
        const sent: Frame.Request = { ...rest, deadline: sentAt + remaining }
        const decoded = reads(FrameCodec.request, writeRequest(9, sent, sentAt), arrivedAt)
        assert.strictEqual(decoded.id, 9)
        const { deadline, ...received } = decoded.value
        assert.deepEqual(
          { ...received, body: Buffer.from(received.body), headers: { ...received.headers } },
          { ...rest, attempt: Math.min(255, rest.attempt) }
        )
        if (remaining === Infinity) return assert.strictEqual(deadline, Infinity)
        assert.isAtLeast(deadline - arrivedAt, 1)
        assert.isAtMost(deadline - arrivedAt, Math.max(1, Math.min(remaining + 1e-6, 0xffff_fffe)))
      }
    )

    it.prop(
      "a response arrives as it was sent, with a retryAfter rounded up to a millisecond",
      [Arbitrary.all({
        status: integer(0, 255),
        codec: integer(0, 255),
        body: bytes,
        processed: boolean,
        retryAfterMillis: optional(schema(Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1e6 })))),
        headers
      })],
      ([sent]) => {
        const decoded = reads(FrameCodec.response, writeResponse(0xffff_ffff, sent))
        assert.strictEqual(decoded.id, 0xffff_ffff)
        const { value } = decoded
        assert.deepEqual({ ...value, body: Buffer.from(value.body), headers: { ...value.headers } }, {
          ...sent,
          // The sum is 0 where one generated -0.
          retryAfterMillis: sent.retryAfterMillis === undefined ? undefined : Math.ceil(sent.retryAfterMillis) + 0
        })
      }
    )

    it.prop(
      "a hello arrives as it was sent, its agent cut at 255 characters",
      [Arbitrary.all({
        features: integer(0, 0xffff_ffff),
        maxPayloadBytes: integer(0, 0xffff_ffff),
        maxInFlight: integer(0, 0xffff_ffff),
        codecs: array(integer(0, 255), { maxLength: 255 }),
        agent: text
      })],
      ([sent]) => {
        const encoder = new FrameCodec.Encoder()
        encoder.hello(sent)
        const { value } = reads(FrameCodec.hello, encoder.take())
        assert.deepStrictEqual(value, { ...sent, agent: sent.agent.slice(0, 255).toWellFormed() })
      }
    )

    it("a hello with too much to say says what fits", () => {
      const encoder = new FrameCodec.Encoder()
      encoder.hello({
        features: 7,
        maxPayloadBytes: Infinity,
        maxInFlight: -1,
        codecs: Array.from({ length: 300 }, () => 1),
        agent: "x".repeat(70_000)
      })
      const { value } = reads(FrameCodec.hello, encoder.take())
      assert.deepStrictEqual(
        [value.maxPayloadBytes, value.maxInFlight, value.codecs.length, value.agent.length],
        [0xffff_ffff, 0, 255, 255]
      )
    })

    it("metadata names of objects' own members are names like any other, and nothing is inherited", () => {
      const headers = JSON.parse(`{"__proto__":"a","constructor":"b","toString":"c"}`) as Record<string, string>
      const { value } = reads(FrameCodec.request, writeRequest(1, { ...plain, headers }, 0), 0)
      assert.deepStrictEqual(Object.entries(value.headers), Object.entries(headers))
      assert.isUndefined(value.headers["valueOf"])
      assert.isUndefined(reads(FrameCodec.request, writeRequest(1, plain, 0), 0).value.headers["constructor"])
    })

    it("a lone surrogate arrives as U+FFFD, and its length is counted as it is written", () => {
      const headers = { "a\ud800": "\udc00b" }
      const { value } = reads(FrameCodec.request, writeRequest(1, { ...plain, method: "m\ud800", headers }, 0), 0)
      assert.strictEqual(value.method, "m\ufffd")
      assert.deepStrictEqual({ ...value.headers }, { "a\ufffd": "\ufffdb" })
    })

    it("a trace context that is no hex is left out instead of sending whatever lay in memory", () => {
      const good = { traceId: "0123456789abcdef0123456789abcdef", spanId: "fedcba9876543210", sampled: true }
      const without = writeRequest(1, plain, 0).toString("hex")
      for (
        const bad of [
          { traceId: "" },
          { traceId: "x".repeat(32) },
          { traceId: `${good.traceId.slice(1)}g` },
          { traceId: `${good.traceId}00` },
          { spanId: "fedcba987654321" },
          { spanId: "fedcba98765432zz" },
          { spanId: "" }
        ]
      ) assert.strictEqual(writeRequest(1, { ...plain, trace: { ...good, ...bad } }, 0).toString("hex"), without)
      assert.notStrictEqual(writeRequest(1, { ...plain, trace: good }, 0).toString("hex"), without)
    })

    it("an id whose highest bit is set is the same id, signed or not", () => {
      const id = 0x8000 << 16 | 7
      assert.isBelow(id, 0)
      assert.strictEqual(reads(FrameCodec.request, writeRequest(id, plain, 0)).id, 0x8000_0007)
      assert.strictEqual(reads(FrameCodec.response, writeResponse(id, answered)).id, 0x8000_0007)
    })

    it("the id of a request that is otherwise malformed can be read, if it is there", () => {
      assert.strictEqual(FrameCodec.idOf(Buffer.from("ffffffff", "hex"), 0, 4), 0xffff_ffff)
      assert.strictEqual(FrameCodec.idOf(Buffer.from("00ffffffff00", "hex"), 1, 6), 0xffff_ffff)
      assert.strictEqual(FrameCodec.idOf(Buffer.from("ffffffff", "hex"), 1, 4), -1)
    })
  })

  describe("limits", () => {
    const long = "ü".repeat(32_767)
    const full: Readonly<Record<string, string>> = { a: "x".repeat(0xffff - 5) }

    it("fields of exactly the largest size are sent and arrive", () => {
      const sent: Frame.Request = { ...plain, method: `${long}m`, idempotencyKey: `${long}k`, headers: full }
      assert.strictEqual(FrameCodec.metadataBytes(full), Frame.maxMetadataBytes)
      assert.isUndefined(FrameCodec.oversize(sent, Frame.maxMetadataBytes, Frame.defaultMaxPayloadBytes))
      const { value } = reads(FrameCodec.request, writeRequest(1, sent, 0), 0)
      assert.deepEqual({ ...value, headers: { ...value.headers } }, sent)
      const answer = { ...answered, headers: full }
      const { value: response } = reads(FrameCodec.response, writeResponse(1, answer))
      assert.deepEqual({ ...response.headers }, full)
    })

    it("one byte more is refused with its size and its limit, and leaves no half frame behind", () => {
      const metadata = { a: `${full["a"]}x` }
      const cases: ReadonlyArray<readonly [string, Partial<Frame.Request>, number, number]> = [
        ["method", { method: `${long}mm` }, 0x1_0000, 0xffff],
        ["idempotencyKey", { idempotencyKey: `${long}kk` }, 0x1_0000, 0xffff],
        ["metadata", { headers: metadata }, 0x1_0002, 0x1_0001]
      ]
      for (const [what, fields, sizeBytes, limitBytes] of cases) {
        const request: Frame.Request = { ...plain, ...fields }
        const size = FrameCodec.metadataBytes(request.headers)
        assert.deepStrictEqual(FrameCodec.oversize(request, size, 1e9), { what, sizeBytes, limitBytes })
        const encoder = new FrameCodec.Encoder()
        encoder.cancel(1, "caller")
        const before = encoder.length
        assert.throws(() => encoder.request(1, request, 0, size), RangeError, what)
        assert.strictEqual(encoder.length, before)
      }
      assert.deepStrictEqual(
        FrameCodec.oversizeResponse({ ...answered, headers: metadata }, 0x1_0002, 1e9),
        { what: "metadata", sizeBytes: 0x1_0002, limitBytes: 0x1_0001 }
      )
      const encoder = new FrameCodec.Encoder()
      assert.throws(() => encoder.response(1, { ...answered, headers: metadata }, 0x1_0002), RangeError, "metadata")
      assert.strictEqual(encoder.length, 0)
    })

    it("a payload is refused from the first byte on that the peer would not accept", () => {
      for (let size = 900; size <= 1030; size++) {
        const response: Frame.Response = { ...answered, body: Buffer.alloc(size), retryAfterMillis: 1 }
        const answer = writeResponse(1, response).length - Frame.headerBytes
        const refusal = (sizeBytes: number) =>
          sizeBytes <= 1024 ? undefined : { what: "payload", sizeBytes, limitBytes: 1024 }
        assert.deepStrictEqual(FrameCodec.oversizeResponse(response, 0, 1024), refusal(answer))

        const request: Frame.Request = {
          ...plain,
          method: "漢",
          idempotencyKey: "字",
          trace: { traceId: "1".repeat(32), spanId: "2".repeat(16), sampled: false },
          headers: { a: "b" },
          body: Buffer.alloc(size)
        }
        const payload = writeRequest(1, request, 0).length - Frame.headerBytes
        const metadata = FrameCodec.metadataBytes(request.headers)
        assert.deepStrictEqual(FrameCodec.oversize(request, metadata, 1024), refusal(payload))
        // In ASCII, and without a trace context, it is counted as a little more than it is: never as less.
        const ascii: Frame.Request = { ...request, method: "A.b", trace: undefined }
        const less = writeRequest(1, ascii, 0).length - Frame.headerBytes
        if (FrameCodec.oversize(ascii, metadata, 1024) === undefined) assert.isAtMost(less, 1024)
      }
    })

    it("the encoder's own frames pass a decoder whatever the sizes, written one behind another", () => {
      const encoder = new FrameCodec.Encoder(16)
      const chunks: Array<Buffer> = []
      const sizes = Array.from({ length: 60 }, (_, at) => (at * at * 37) % 9000)
      for (const [at, size] of sizes.entries()) {
        const request: Frame.Request = { ...plain, method: "m".repeat((size % 50) + 1), body: Buffer.alloc(size, at) }
        encoder.request(at, request, 0, 0)
        encoder.body(request.body)
        encoder.ping(Frame.Type.ping, Buffer.alloc(8))
        if (at % 7 === 0) chunks.push(encoder.take())
      }
      chunks.push(encoder.take(), encoder.take())
      const bodies: Array<string> = []
      const decoder = new FrameCodec.Decoder(1e6, (type, chunk, start, end) => {
        if (type !== Frame.Type.request) return undefined
        const decoded = FrameCodec.request(chunk, start, end, 0)
        if (decoded._tag !== "Ok") return decoded
        bodies.push(`${decoded.id}:${Buffer.from(decoded.value.body).toString("hex")}`)
        return undefined
      })
      for (const chunk of chunks) assert.isUndefined(decoder.push(chunk))
      assert.deepStrictEqual(bodies, sizes.map((size, at) => `${at}:${Buffer.alloc(size, at).toString("hex")}`))
    })
  })
})

const noBody = Buffer.alloc(0)

const plain: Frame.Request = {
  method: "A.b",
  codec: 1,
  body: noBody,
  deadline: Infinity,
  attempt: 1,
  hedge: false,
  idempotent: false,
  criticality: "critical",
  idempotencyKey: undefined,
  trace: undefined,
  headers: {}
}
const answered: Frame.Response = {
  status: 0,
  codec: 1,
  body: noBody,
  processed: true,
  retryAfterMillis: undefined,
  headers: {}
}

const writeRequest = (id: number, request: Frame.Request, nowMillis: number): Buffer => {
  const encoder = new FrameCodec.Encoder()
  encoder.request(id, request, nowMillis, FrameCodec.metadataBytes(request.headers))
  encoder.body(request.body)
  return encoder.take()
}
const writeResponse = (id: number, response: Frame.Response): Buffer => {
  const encoder = new FrameCodec.Encoder()
  encoder.response(id, response, FrameCodec.metadataBytes(response.headers))
  encoder.body(response.body)
  return encoder.take()
}

/** Decodes the payload of one frame that is expected to be good, away from the start of its buffer. */
const reads = <A>(
  decode: (bytes: Buffer, start: number, end: number, nowMillis: number) => FrameCodec.Decoded<A>,
  frame: Buffer,
  nowMillis = 0
): { readonly id: number; readonly value: A } => {
  assert.strictEqual(frame.readUInt32BE(4), frame.length - Frame.headerBytes)
  const shifted = Buffer.concat([Buffer.from("before"), frame, Buffer.from("behind")])
  const decoded = decode(shifted, 6 + Frame.headerBytes, 6 + frame.length, nowMillis)
  if (decoded._tag !== "Ok") return assert.fail(Frame.describe(decoded))
  return decoded
}
