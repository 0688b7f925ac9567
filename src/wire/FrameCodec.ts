/**
 * Bytes to frames and back. Pure: no sockets, no clock, nothing thrown.
 *
 * Decoding is incremental over any chunking and copies a payload only when it
 * straddles chunks; a frame is announced by where it lies, not by a new object,
 * because a session decodes hundreds of thousands a second. A length is checked
 * against the limit before anything is kept for it, and what is kept is at most
 * twice what has arrived: a peer that announces 4 MiB and sends nothing costs 8 bytes.
 */
import type { TraceContext } from "../contract/CallContext.ts"
import * as Criticality from "../contract/Criticality.ts"
import * as Deadline from "../contract/Deadline.ts"
import type * as Interruption from "../contract/Interruption.ts"
import * as Frame from "./Frame.ts"

/**
 * Told where a frame lies: its type, and its payload as `bytes[start, end)`. The
 * bodies decoded from it are views of `bytes`, so whoever reads from a socket
 * must not read into the same memory again.
 */
export type OnFrame = (type: number, bytes: Buffer, start: number, end: number) => Frame.FrameError | undefined

/** Whether this version decodes a type; anything else, streams included, is skipped by its length. */
const known = (type: number): boolean =>
  type >= Frame.Type.request && type <= Frame.Type.goingAway || type === Frame.Type.hello

const nothing = Buffer.alloc(0)

/**
 * Cuts a byte stream into frames.
 *
 * `push` returns the first error; after one the decoder ignores everything, as
 * the stream cannot be trusted any more. An error returned by `onFrame` counts.
 */
export class Decoder {
  private readonly limit: number
  private readonly onFrame: OnFrame
  /** Begins with the `held` bytes of an unfinished frame, header included. */
  private buffer: Buffer = nothing
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

  /** Memory kept for an unfinished frame: at most twice the bytes of it that have arrived. */
  get heldBytes(): number {
    return this.buffer.length
  }

  push(chunk: Buffer): Frame.FrameError | undefined {
    let at = 0
    while (at < chunk.length && this.error === undefined) {
      if (this.skip > 0) {
        const skipped = Math.min(this.skip, chunk.length - at)
        this.skip -= skipped
        at += skipped
      } else if (this.held > 0) {
        at = this.hold(chunk, at)
        if (this.take(this.buffer, 0, this.held) > 0) this.release()
      } else {
        const consumed = this.take(chunk, at, chunk.length)
        if (consumed > 0) at += consumed
        else if (this.error === undefined) at = this.hold(chunk, at)
      }
    }
    return this.error
  }

  /**
   * Copies what the unfinished frame still needs out of a chunk. While its length
   * is unknown that is the header alone. Copied, because a view would keep the
   * whole chunk alive, and a view per byte of a trickled frame a hundred times it.
   */
  private hold(chunk: Buffer, at: number): number {
    const end = Math.min(chunk.length, at + this.needed - this.held)
    const size = this.held + end - at
    if (size > this.buffer.length) {
      const grown = Buffer.allocUnsafe(Math.min(this.needed, Math.max(size, this.buffer.length * 2)))
      this.buffer.copy(grown, 0, 0, this.held)
      this.buffer = grown
    }
    chunk.copy(this.buffer, this.held, at, end)
    this.held = size
    return end
  }

  private release(): void {
    this.buffer = nothing
    this.held = 0
  }

  /** Takes one frame of `bytes[at, end)`: the bytes consumed, or 0 when it is not all there. */
  private take(bytes: Buffer, at: number, end: number): number {
    const available = end - at
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
    this.release()
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
    this.length = this.bytes.writeUInt32BE(value >>> 0, this.length)
  }

  /** A string behind its length of 16 bits. Space is reserved and its size is checked already. */
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

  /** Nothing may throw between the first and the last byte of a frame: half a frame in here would spoil all behind it. */
  private check(what: string, sizeBytes: number, limitBytes: number): void {
    if (sizeBytes > limitBytes) {
      throw new RangeError(`FrameCodec.Encoder: ${what} must be at most ${limitBytes} bytes, got ${sizeBytes}`)
    }
  }

  /**
   * A request up to its body, which the caller appends: with `body` when it is
   * small, as its own buffer when copying it would cost more than a second write.
   *
   * Throws before anything is written for what `oversize` would have refused.
   */
  request(id: number, request: Frame.Request, nowMillis: number, metadataSize: number): void {
    const key = request.idempotencyKey
    this.check("method", textBytes(request.method), Frame.maxTextBytes)
    if (key !== undefined) this.check("idempotencyKey", textBytes(key), Frame.maxTextBytes)
    this.check("metadata", metadataSize, Frame.maxMetadataBytes)
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
    if (request.trace !== undefined && !this.trace(request.trace)) this.bytes[start + flagsAt]! &= ~1
    if (key !== undefined) this.text(key)
    if (metadataSize > 0) this.metadata(request.headers)
    this.finish(Frame.Type.request, start, request.body.length)
  }

  /** Writes a trace context; nothing for ids that are no hex, which would leave old memory where they belong. */
  private trace(trace: TraceContext): boolean {
    const { bytes, length } = this
    if (trace.traceId.length !== 32 || trace.spanId.length !== 16) return false
    if (bytes.write(trace.traceId, length, 16, "hex") + bytes.write(trace.spanId, length + 16, 8, "hex") !== 24) {
      return false
    }
    bytes[length + 24] = trace.sampled ? 1 : 0
    this.length += 25
    return true
  }

  /** A response up to its body. Throws before anything is written when its metadata does not fit. */
  response(id: number, response: Frame.Response, metadataSize: number): void {
    const { retryAfterMillis } = response
    this.check("metadata", metadataSize, Frame.maxMetadataBytes)
    this.reserve(32 + metadataSize)
    const start = this.length
    this.length += Frame.headerBytes
    this.u32(id)
    this.u8(response.status)
    this.u8(response.codec)
    this.u8((retryAfterMillis === undefined ? 0 : 1) | (response.processed ? 2 : 0) | (metadataSize === 0 ? 0 : 4))
    this.u8(0)
    if (retryAfterMillis !== undefined) this.u32(clampU32(Math.ceil(retryAfterMillis)))
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

  /** A hello. At most 255 codecs and 255 characters of the agent are said. */
  hello(hello: Frame.Hello): void {
    const codecs = hello.codecs.slice(0, 255)
    const agent = hello.agent.slice(0, 255)
    this.reserve(64 + codecs.length + agent.length * 3)
    const start = this.length
    this.length += Frame.headerBytes
    this.u32(hello.features)
    this.u32(clampU32(hello.maxPayloadBytes))
    this.u32(clampU32(hello.maxInFlight))
    this.u8(codecs.length)
    for (const codec of codecs) this.u8(codec)
    this.text(agent)
    this.finish(Frame.Type.hello, start, 0)
  }
}

const clampU32 = (value: number): number => Math.min(0xffff_ffff, Math.max(0, value))

/** Where a request's flags lie in its frame: behind the header, the id and the codec. */
const flagsAt = Frame.headerBytes + 5

/** Encoded size of a text; an upper bound where that is short enough for any field. */
const textBytes = (value: string): number =>
  value.length * 3 <= Frame.maxTextBytes ? value.length * 3 : Buffer.byteLength(value)

/** What of a frame is larger than its limit. */
export interface Oversize {
  readonly what: "method" | "idempotencyKey" | "metadata" | "payload"
  readonly sizeBytes: number
  readonly limitBytes: number
}

/** Payload of a request besides its method, its key, its metadata and its body. */
const requestHeadBytes = 12 + 2 + 25 + 2
/** The same of a response. */
const responseHeadBytes = 8 + 4

/**
 * Why a request cannot be sent to a peer that accepts payloads of `limitBytes`;
 * `undefined` when it can. Counted upwards: method and key at three bytes a character.
 */
export const oversize = (request: Frame.Request, metadataSize: number, limitBytes: number): Oversize | undefined => {
  const method = textBytes(request.method)
  if (method > Frame.maxTextBytes) return { what: "method", sizeBytes: method, limitBytes: Frame.maxTextBytes }
  const key = request.idempotencyKey === undefined ? 0 : textBytes(request.idempotencyKey)
  if (key > Frame.maxTextBytes) return { what: "idempotencyKey", sizeBytes: key, limitBytes: Frame.maxTextBytes }
  return tooLong(metadataSize, requestHeadBytes + method + key + metadataSize + request.body.length, limitBytes)
}

/** The same of a response. */
export const oversizeResponse = (
  response: Frame.Response,
  metadataSize: number,
  limitBytes: number
): Oversize | undefined => tooLong(metadataSize, responseHeadBytes + metadataSize + response.body.length, limitBytes)

const tooLong = (metadataSize: number, sizeBytes: number, limitBytes: number): Oversize | undefined =>
  metadataSize > Frame.maxMetadataBytes
    ? { what: "metadata", sizeBytes: metadataSize, limitBytes: Frame.maxMetadataBytes }
    : sizeBytes > limitBytes
    ? { what: "payload", sizeBytes, limitBytes }
    : undefined

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

  /** A trace context; `undefined` for ids of zeros, which stand for none. */
  trace(): TraceContext | undefined {
    const traceId = this.string(16, "hex")
    const spanId = this.string(8, "hex")
    const sampled = (this.u8() & 1) === 1
    return traceId === noTraceId || spanId === noSpanId ? undefined : { traceId, spanId, sampled }
  }

  metadata(): Readonly<Record<string, string>> {
    const size = this.u16()
    const end = this.at + size
    const headers: Record<string, string> = Object.create(null)
    while (this.at < end && !this.overrun) {
      const name = this.text()
      headers[name] = this.text()
    }
    // A pair that reaches past the block's own length would read the body as metadata; a block past the payload's never ends.
    if (this.at !== end) this.overrun = true
    return headers
  }

  rest(): Buffer {
    return this.bytes.subarray(this.at, this.end)
  }
}

const noTraceId = "0".repeat(32)
const noSpanId = "0".repeat(16)
const noHeaders: Readonly<Record<string, string>> = Object.freeze(Object.create(null))
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
  const trace = (flags & 1) === 0 ? undefined : reader.trace()
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
