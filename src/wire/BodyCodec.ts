/**
 * Values to body bytes and back, by schema.
 *
 * A codec is a number on the wire; a session uses what both sides listed in
 * their hello, and JSON where nobody did. Schemas are compiled once per
 * contract, not per call, and what a schema refuses is a value, not an
 * exception: a peer's bytes never crash a process.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"

/** A schema compiled for one codec. */
export interface Compiled<A> {
  /** The bytes of a value, or why the schema refuses it. */
  readonly encode: (value: A) => Result.Result<Uint8Array, string>
  /** The value of some bytes, or why they are none. */
  readonly decode: (bytes: Uint8Array) => Result.Result<A, string>
}

export interface BodyCodec {
  /** Its number in requests, responses and hellos: 1 to 255, as `docs/protocol.md` assigns them. */
  readonly id: number
  readonly name: string
  /**
   * Compiles a schema that needs no services. The result is synchronous: a
   * schema with an asynchronous transformation fails to encode and to decode.
   */
  readonly compile: <A>(schema: Schema.Codec<A, any>) => Compiled<A>
}

/** No value: what a void payload or success is encoded as. */
export const noBytes: Uint8Array = Buffer.alloc(0)

/**
 * JSON, through the schema's own JSON form: number 1, understood by every peer.
 *
 * An empty body is `null`: void needs no bytes.
 */
export const json: BodyCodec = {
  id: 1,
  name: "json",
  compile: (schema) => {
    const codec = Schema.toCodecJson(schema)
    const encode = Schema.encodeUnknownResult(codec)
    const decode = Schema.decodeUnknownResult(codec)
    return {
      encode: (value) =>
        Result.mapBoth(encode(value), {
          onSuccess: (encoded) =>
            encoded === undefined || encoded === null ? noBytes : Buffer.from(JSON.stringify(encoded)),
          onFailure: (error) => error.message
        }),
      decode: (bytes) =>
        Result.flatMap(parseJson(bytes), (value) => Result.mapError(decode(value), (error) => error.message))
    }
  }
}

/** JSON text to a value; the one place where a foreign parser's exception becomes a value. */
export const parseJson = (bytes: Uint8Array): Result.Result<unknown, string> =>
  bytes.length === 0 ? nothing : Result.try({
    try: (): unknown => JSON.parse(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8")),
    catch: (error) => error instanceof Error ? error.message : String(error)
  })
const nothing: Result.Result<unknown, string> = Result.succeed(null)

/** The codecs of this version, best first. */
export const all: ReadonlyArray<BodyCodec> = [json]
