/**
 * Values to body bytes and back, by schema.
 *
 * A codec is a number on the wire; a session uses what both sides listed in
 * their hello, and JSON where nobody did. Schemas are compiled once per
 * contract, not per call, and whatever goes wrong is a value, not an exception:
 * a peer's bytes never crash a process. Messages say what was expected and
 * where, not what was found there.
 *
 * Nothing is negotiated here, and bytes carry no schema: whether two peers'
 * schemas agree is theirs to see to. What a codec lets them change one after
 * the other is in `docs/protocol.md`, section 8.
 */
import * as Cause from "effect/Cause"
import * as SchemaBinary from "effect/encoding/SchemaBinary"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaJITCompiler from "effect/schema/SchemaJITCompiler"

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
   * Compiles a schema that needs no services, or throws where the codec has no
   * form for it. The result is synchronous: a schema with an asynchronous
   * transformation fails to encode and to decode.
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
    generated(codec)
    const toJson = Schema.encodeUnknownSync(codec)
    const fromJson = Schema.decodeUnknownSync(codec)
    return {
      encode: attempted((value) => format(toJson(value))),
      decode: attempted((bytes) => fromJson(parse(bytes)))
    }
  }
}

/**
 * Effect's SchemaBinary, in the mode whose schemas may evolve: number 2, for
 * peers that have the same contract in Effect.
 *
 * Takes about half of JSON's bytes. A body pins the buffer of up to 64 KiB that
 * it was written into for as long as it is held. It carries values 512 levels
 * deep; a schema it has no form for (an opaque declaration, a union whose
 * members cannot be told apart) makes `compile` throw.
 */
export const binary: BodyCodec = {
  id: 2,
  name: "binary",
  compile: <A>(schema: Schema.Codec<A, any>): Compiled<A> => {
    const codec = SchemaBinary.toCodec(schema)
    generated(codec)
    // Without the schema around it where the layout alone checks everything: a tenth to a third off encoding.
    const { encode } = SchemaBinary.encoder(schema)
    const decode = Schema.decodeUnknownSync(codec)
    return {
      encode: attempted((value) => encode(value)),
      decode: attempted((bytes) => decode(owned(bytes)))
    }
  }
}

/** What throws as a value. Not `Result.try`, which takes two closures and an object for each body. */
const attempted = <A, B>(run: (input: A) => B) => (input: A): Result.Result<B, string> => {
  try {
    return Result.succeed(run(input))
  } catch (thrown) {
    return Result.fail(why(thrown))
  }
}

/** Bytes in a value are copied by `slice`, which a `Buffer` answers with a view of what it was read from. */
const owned = (bytes: Uint8Array): Uint8Array =>
  Buffer.isBuffer(bytes) ? new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength) : bytes

/**
 * Generated code instead of an interpreted schema takes 3 of the 5 µs off a
 * small call in JSON, and a third off a body of 900 bytes with checks in either
 * codec. Where a process forbids `new Function`, the interpreter stays.
 */
const generated = (codec: Schema.Codec<any, any>): void => {
  SchemaJITCompiler.enable(codec.ast)
  SchemaJITCompiler.enable(Schema.flip(codec).ast)
}

/** What a method's requests and responses carry, compiled for one codec. */
export interface Bodies {
  /** The codec's number. */
  readonly id: number
  readonly payload: Compiled<unknown>
  readonly success: Compiled<unknown>
  readonly error: Compiled<unknown>
}

/** A method's three schemas, or why the codec has no form for one of them. */
export const bodies = (
  codec: BodyCodec,
  payload: Schema.Top,
  success: Schema.Top,
  error: Schema.Top
): Result.Result<Bodies, string> => {
  const compile = (schema: Schema.Top) => codec.compile(schema as Schema.Codec<unknown, unknown>)
  return Result.try({
    try: () => ({ id: codec.id, payload: compile(payload), success: compile(success), error: compile(error) }),
    catch: why
  })
}

/** Some bytes of JSON as a value, or why they are none; no schema is asked. */
export const parseJson = (bytes: Uint8Array): Result.Result<unknown, string> =>
  Result.try({ try: () => parse(bytes), catch: why })

const format = (encoded: unknown): Uint8Array =>
  encoded === undefined || encoded === null ? noBytes : Buffer.from(JSON.stringify(encoded))

/** Costs what `toString` costs, and refuses what that would replace by U+FFFD. */
const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

const parse = (bytes: Uint8Array): unknown => bytes.length === 0 ? null : JSON.parse(utf8.decode(bytes))

/** A path of a message may name keys of the payload, and those are as long as the peer likes. */
const longestWhy = 1000

/**
 * One line about what was thrown: by the schema, by the JSON parser, by user
 * code inside a transformation, or by a value nested deeper than the stack.
 */
const why = (thrown: unknown): string => {
  // What a schema throws besides its own error carries the true cause of it.
  const error = thrown instanceof Error && Cause.isCause(thrown.cause) ? Cause.squash(thrown.cause) : thrown
  const message = error instanceof Error ? error.message : String(error)
  // The parser quotes the text it stumbled over, and payloads do not belong in messages.
  const said = error instanceof SyntaxError ? `not JSON: ${message.replace(/, (?:\.\.\.)?".*$/s, "")}` : message
  return said.length > longestWhy ? `${said.slice(0, longestWhy)}…` : said
}

/** The codecs of this version, best first. */
export const all: ReadonlyArray<BodyCodec> = [binary, json]
