/**
 * Bytes to frames and back. Pure: no sockets, no clock, nothing thrown.
 *
 * Decoding is incremental over any chunking and copies a payload only when it
 * straddles chunks; a frame is announced by where it lies, not by a new object,
 * because a session decodes hundreds of thousands a second. A length is checked
 * against the limit before anything is kept for it, and what is kept is what has
 * arrived: a peer that announces 4 MiB and sends nothing costs 8 bytes.
 */
import * as Criticality from "../contract/Criticality.ts"
import * as Deadline from "../contract/Deadline.ts"
import type * as Interruption from "../contract/Interruption.ts"
import * as Frame from "./Frame.ts"

/** Told where a frame lies: its type, and its payload as `bytes[start, end)`, valid during the call. */
export type OnFrame = (type: number, bytes: Buffer, start: number, end: number) => Frame.FrameError | undefined

/** Highest frame type this version decodes; anything else is skipped by its length. */
const known = (type: number): boolean => type >= Frame.Type.request && type <= Frame.Type.hello

/**
 * Cuts a byte stream into frames.
 *
 * `push` returns the first error; after one the decoder ignores everything, as
 * the stream cannot be trusted any more. An error returned by `onFrame` counts.
 */
export class Decoder {
  private readonly limit: number
  private readonly onFrame: OnFrame
  /** Bytes of an unfinished frame, header included. */
  private parts: Array<Buffer> = []
  private held = 0
  /** Bytes the unfinished frame needs in all; the header alone while its length is unknown. */
  private needed = Frame.headerBytes
  /** Bytes of a skipped frame still to come. */
  private skip = 0
  private error: Frame.FrameError | undefined

  constructor(limit: number, onFrame: OnFrame) {
    this.limit = limit
    this.onFrame = onFrame
  }

  /** Whether a frame has begun and not ended. */
  get isPartial(): boolean {
    return this.held > 0 || this.skip > 0
  }

  push(chunk: Buffer): Frame.FrameError | undefined {
    if (this.error !== undefined) return this.error
    let bytes = chunk
    let at = 0
    while (at < bytes.length) {
      if (this.skip > 0) {
        const skipped = Math.min(this.skip, bytes.length - at)
        this.skip -= skipped
        at += skipped
        continue
      }
      if (this.held > 0) {
        // Complete the header first: only then is the length known, and checked, before more is kept.
        const take = Math.min(this.needed - this.held, bytes.length - at)
        this.parts.push(bytes.subarray(at, at + take))
        this.held += take
        at += take
        if (this.held < this.needed) return undefined
        const whole = this.parts.length === 1 ? this.parts[0]! : Buffer.concat(this.parts, this.held)
        this.parts = []
        this.held = 0
        const rest = at < bytes.length ? bytes.subarray(at) : undefined
        const consumed = this.take(whole, 0)
        if (this.error !== undefined) return this.error
        if (consumed === 0) {
          // The header is complete and asks for more than there is: keep it and go on collecting.
          this.parts.push(whole)
          this.held = whole.length
        }
        if (rest === undefined) return undefined
        bytes = rest
        at = 0
        continue
      }
      const consumed = this.take(bytes, at)
      if (this.error !== undefined) return this.error
      if (consumed === 0) {
        // A view keeps its whole chunk alive, so a small remainder is copied out of it.
        const rest = bytes.subarray(at)
        this.parts.push(rest.length < bytes.length >> 1 ? Buffer.from(rest) : rest)
        this.held = rest.length
        return undefined
      }
      at += consumed
    }
    return undefined
  }

  /** Takes one frame at `at`: the bytes consumed, or 0 when it is not all there. */
  private take(bytes: Buffer, at: number): number {
    const available = bytes.length - at
    this.needed = Frame.headerBytes
    if (available < Frame.headerBytes) return this.early(bytes, at, available)
    const magic = (bytes[at]! << 8) | bytes[at + 1]!
    if (magic !== Frame.magic) return this.fail({ _tag: "BadMagic", got: magic })
    if (bytes[at + 2] !== Frame.version) return this.fail({ _tag: "BadVersion", got: bytes[at + 2]! })
    const type = bytes[at + 3]!
    const length = bytes.readUInt32BE(at + 4)
    if (length > this.limit) return this.fail({ _tag: "TooLong", length, limit: this.limit })
    const total = Frame.headerBytes + length
    if (!known(type)) {
      const here = Math.min(total, available)
      this.skip = total - here
      return here
    }
    if (available < total) {
      this.needed = total
      return 0
    }
    const error = this.onFrame(type, bytes, at + Frame.headerBytes, at + total)
    if (error !== undefined) return this.fail(error)
    return total
  }

  /** Wrong from the first bytes on: said at once, so that a stranger on the port is not waited for. */
  private early(bytes: Buffer, at: number, available: number): number {
    if (available >= 2) {
      const magic = (bytes[at]! << 8) | bytes[at + 1]!
      if (magic !== Frame.magic) return this.fail({ _tag: "BadMagic", got: magic })
    }
    if (available >= 3 && bytes[at + 2] !== Frame.version) {
      return this.fail({ _tag: "BadVersion", got: bytes[at + 2]! })
    }
    return 0
  }

  private fail(error: Frame.FrameError): number {
    this.error = error
    this.parts = []
    this.held = 0
    return 0
  }
}

/**
 * Where frames are written before they leave: one growing buffer per tick.
 *
 * `take` hands the bytes over and starts a new buffer of the size the last one
 * reached, so a busy session does not grow again every tick.
 */
export class Encoder {
  bytes: Buffer
  length = 0
  private readonly initial: number

  constructor(initialBytes = 8 * 1024) {
    this.initial = initialBytes
    this.bytes = Buffer.allocUnsafe(initialBytes)
  }

  reserve(more: number): void {
    const needed = this.length + more
    if (needed <= this.bytes.length) return
    const grown = Buffer.allocUnsafe(Math.max(needed, this.bytes.length * 2))
    this.bytes.copy(grown, 0, 0, this.length)
    this.bytes = grown
  }

  /** The bytes written since the last call; the encoder starts anew behind them. */
  take(): Buffer {
    const taken = this.bytes.subarray(0, this.length)
    // What is left is used for the next tick: one allocation serves many small ones.
    this.bytes = this.bytes.length - this.length >= 1024
      ? this.bytes.subarray(this.length)
      : Buffer.allocUnsafe(Math.min(64 * 1024, Math.max(this.initial, this.length * 2)))
    this.length = 0
    return taken
  }

  private header(type: number, payloadBytes: number): void {
    const { bytes } = this
    const at = this.length
    bytes[at] = 0x4d
    bytes[at + 1] = 0x43
    bytes[at + 2] = Frame.version
    bytes[at + 3] = type
    bytes.writeUInt32BE(payloadBytes, at + 4)
    this.length = at + Frame.headerBytes
  }

  /** Writes the header afterwards, once the payload's length is known. */
  private finish(type: number, start: number, bodyBytes: number): void {
    const end = this.length
    this.length = start
    this.header(type, end - start - Frame.headerBytes + bodyBytes)
    this.length = end
  }

  private u8(value: number): void {
    this.bytes[this.length++] = value
  }

  private u32(value: number): void {
    this.length = this.bytes.writeUInt32BE(value, this.length)
  }

  /** A string behind its length of 16 bits. Space for three bytes a character is reserved already. */
  private text(value: string): void {
    const written = this.bytes.write(value, this.length + 2, "utf8")
    this.bytes.writeUInt16BE(written, this.length)
    this.length += 2 + written
  }

  private metadata(headers: Readonly<Record<string, string>>): void {
    const start = this.length
    this.length += 2
    for (const name in headers) {
      this.text(name)
      this.text(headers[name]!)
    }
    this.bytes.writeUInt16BE(this.length - start - 2, start)
  }

  /**
   * A request up to its body, which the caller appends: with `body` when it is
   * small, as its own buffer when copying it would cost more than a second write.
   */
  request(id: number, request: Frame.Request, nowMillis: number, metadataSize: number): void {
    const key = request.idempotencyKey
    this.reserve(64 + request.method.length * 3 + (key === undefined ? 0 : key.length * 3) + metadataSize)
    const start = this.length
    this.length += Frame.headerBytes
    this.u32(id)
    this.u8(request.codec)
    this.u8(
      (request.trace === undefined ? 0 : 1) | (key === undefined ? 0 : 2) | (metadataSize === 0 ? 0 : 4) |
        (request.hedge ? 8 : 0) | (request.idempotent ? 16 : 0)
    )
    this.u8(Criticality.rank(request.criticality))
    this.u8(Math.min(255, request.attempt))
    this.u32(Deadline.toWire(request.deadline, nowMillis))
    this.text(request.method)
    if (request.trace !== undefined) {
      this.bytes.write(request.trace.traceId, this.length, 16, "hex")
      this.bytes.write(request.trace.spanId, this.length + 16, 8, "hex")
      this.bytes[this.length + 24] = request.trace.sampled ? 1 : 0
      this.length += 25
    }
    if (key !== undefined) this.text(key)
    if (metadataSize > 0) this.metadata(request.headers)
    this.finish(Frame.Type.request, start, request.body.length)
  }

  /** A response up to its body. */
  response(id: number, response: Frame.Response, metadataSize: number): void {
    const { retryAfterMillis } = response
    this.reserve(32 + metadataSize)
    const start = this.length
    this.length += Frame.headerBytes
    this.u32(id)
    this.u8(response.status)
    this.u8(response.codec)
    this.u8((retryAfterMillis === undefined ? 0 : 1) | (response.processed ? 2 : 0) | (metadataSize === 0 ? 0 : 4))
    this.u8(0)
    if (retryAfterMillis !== undefined) this.u32(Math.min(0xffff_ffff, Math.max(0, Math.ceil(retryAfterMillis))))
    if (metadataSize > 0) this.metadata(response.headers)
    this.finish(Frame.Type.response, start, response.body.length)
  }

  /** Copies a small body behind the frame it belongs to. */
  body(bytes: Uint8Array): void {
    this.reserve(bytes.length)
    this.bytes.set(bytes, this.length)
    this.length += bytes.length
  }

  cancel(id: number, reason: Interruption.Reason): void {
    this.reserve(13)
    this.header(Frame.Type.cancel, 5)
    this.u32(id)
    this.u8(Frame.cancelReasons.indexOf(reason))
  }

  /** A ping or the pong that echoes it: eight bytes nobody interprets. */
  ping(type: typeof Frame.Type.ping | typeof Frame.Type.pong, bytes: Uint8Array): void {
    this.reserve(Frame.headerBytes + bytes.length)
    this.header(type, bytes.length)
    this.body(bytes)
  }

  goingAway(why: string): void {
    this.reserve(Frame.headerBytes + why.length * 3)
    const start = this.length
    this.length += Frame.headerBytes
    this.length += this.bytes.write(why, this.length, "utf8")
    this.finish(Frame.Type.goingAway, start, 0)
  }

  hello(hello: Frame.Hello): void {
    this.reserve(64 + hello.codecs.length + hello.agent.length * 3)
    const start = this.length
    this.length += Frame.headerBytes
    this.u32(hello.features)
    this.u32(hello.maxPayloadBytes)
    this.u32(hello.maxInFlight)
    this.u8(hello.codecs.length)
    for (const codec of hello.codecs) this.u8(codec)
    this.text(hello.agent)
    this.finish(Frame.Type.hello, start, 0)
  }
}

/** Encoded size of metadata, 0 for none; at most `Frame.maxMetadataBytes` fits. */
export const metadataBytes = (headers: Readonly<Record<string, string>>): number => {
  let size = 0
  for (const name in headers) size += 4 + Buffer.byteLength(name) + Buffer.byteLength(headers[name]!)
  return size === 0 ? 0 : size + 2
}

/** Reads fields in order; past the end everything is 0 or empty, and `overrun` says so. */
class Reader {
  readonly bytes: Buffer
  at: number
  readonly end: number
  overrun = false

  constructor(bytes: Buffer, start: number, end: number) {
    this.bytes = bytes
    this.at = start
    this.end = end
  }

  private take(size: number): number {
    const at = this.at
    if (at + size > this.end) {
      this.overrun = true
      this.at = this.end
      return -1
    }
    this.at = at + size
    return at
  }

  u8(): number {
    const at = this.take(1)
    return at < 0 ? 0 : this.bytes[at]!
  }

  u16(): number {
    const at = this.take(2)
    return at < 0 ? 0 : this.bytes.readUInt16BE(at)
  }

  u32(): number {
    const at = this.take(4)
    return at < 0 ? 0 : this.bytes.readUInt32BE(at)
  }

  string(size: number, encoding: "utf8" | "hex"): string {
    const at = this.take(size)
    return at < 0 ? "" : this.bytes.toString(encoding, at, at + size)
  }

  text(): string {
    return this.string(this.u16(), "utf8")
  }

  metadata(): Readonly<Record<string, string>> {
    const size = this.u16()
    const end = this.at + size
    if (end > this.end) {
      this.overrun = true
      return noHeaders
    }
    const headers: Record<string, string> = Object.create(null)
    while (this.at < end && !this.overrun) {
      const name = this.text()
      headers[name] = this.text()
    }
    // A pair that reaches past the block's own length would read the body as metadata.
    if (this.at !== end) this.overrun = true
    return headers
  }

  rest(): Buffer {
    return this.bytes.subarray(this.at, this.end)
  }
}

const noHeaders: Readonly<Record<string, string>> = {}
const bad = (type: number, why: string): Frame.FrameError => ({ _tag: "BadPayload", type, why })

/** What a decoded payload is, or why it is none. */
export type Decoded<A> = { readonly _tag: "Ok"; readonly id: number; readonly value: A } | Frame.FrameError

/** The id of a request or response frame, for answering one that is otherwise malformed; -1 when not even that is there. */
export const idOf = (bytes: Buffer, start: number, end: number): number =>
  end - start < 4 ? -1 : bytes.readUInt32BE(start)

/** Decodes a request's payload; its deadline becomes one of the receiver's clock. */
export const request = (bytes: Buffer, start: number, end: number, nowMillis: number): Decoded<Frame.Request> => {
  const reader = new Reader(bytes, start, end)
  const id = reader.u32()
  const codec = reader.u8()
  const flags = reader.u8()
  const criticality = Criticality.fromRank(reader.u8())
  const attempt = Math.max(1, reader.u8())
  const deadline = Deadline.fromWire(reader.u32(), nowMillis)
  const method = reader.text()
  const trace = (flags & 1) === 0
    ? undefined
    : { traceId: reader.string(16, "hex"), spanId: reader.string(8, "hex"), sampled: (reader.u8() & 1) === 1 }
  const idempotencyKey = (flags & 2) === 0 ? undefined : reader.text()
  const headers = (flags & 4) === 0 ? noHeaders : reader.metadata()
  if (reader.overrun) return bad(Frame.Type.request, "a field reaches past the end of the payload")
  if (method === "") return bad(Frame.Type.request, "no method")
  return {
    _tag: "Ok",
    id,
    value: {
      method,
      codec,
      body: reader.rest(),
      deadline,
      attempt,
      hedge: (flags & 8) !== 0,
      idempotent: (flags & 16) !== 0,
      criticality,
      idempotencyKey,
      trace,
      headers
    }
  }
}

/** Decodes a response's payload. */
export const response = (bytes: Buffer, start: number, end: number): Decoded<Frame.Response> => {
  const reader = new Reader(bytes, start, end)
  const id = reader.u32()
  const status = reader.u8()
  const codec = reader.u8()
  const flags = reader.u8()
  reader.u8()
  const retryAfterMillis = (flags & 1) === 0 ? undefined : reader.u32()
  const headers = (flags & 4) === 0 ? noHeaders : reader.metadata()
  if (reader.overrun) return bad(Frame.Type.response, "a field reaches past the end of the payload")
  return {
    _tag: "Ok",
    id,
    value: { status, codec, body: reader.rest(), processed: (flags & 2) !== 0, retryAfterMillis, headers }
  }
}

/** Decodes a cancel's payload. A reason of a later version is taken for the caller's. */
export const cancel = (bytes: Buffer, start: number, end: number): Decoded<Interruption.Reason> => {
  const reader = new Reader(bytes, start, end)
  const id = reader.u32()
  const reason = Frame.cancelReasons[reader.u8()] ?? "caller"
  return reader.overrun ? bad(Frame.Type.cancel, "shorter than 5 bytes") : { _tag: "Ok", id, value: reason }
}

/** Decodes a hello. Bytes behind the fields of this version belong to a later one and are ignored. */
export const hello = (bytes: Buffer, start: number, end: number): Decoded<Frame.Hello> => {
  const reader = new Reader(bytes, start, end)
  const features = reader.u32()
  const maxPayloadBytes = reader.u32()
  const maxInFlight = reader.u32()
  const codecs = Array.from({ length: reader.u8() }, () => reader.u8())
  const agent = reader.text()
  if (reader.overrun) return bad(Frame.Type.hello, "a field reaches past the end of the payload")
  return { _tag: "Ok", id: 0, value: { features, maxPayloadBytes, maxInFlight, codecs, agent } }
}
