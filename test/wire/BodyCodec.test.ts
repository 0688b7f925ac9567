// Numbers that are not finite are meant here.
// @effect-diagnostics schemaNumber:off
import { assert, describe, it } from "@effect/vitest"
import { Effect, Option, Result, Schema, SchemaGetter } from "effect"
import { SchemaBinary } from "effect/encoding"
import * as BodyCodec from "../../src/wire/BodyCodec.ts"

const { json } = BodyCodec

/** A value's JSON, as text. */
const written = <A>(schema: Schema.Codec<A, any>, value: A): string => {
  const encoded = json.compile(schema).encode(value)
  return Result.isSuccess(encoded) ? Buffer.from(encoded.success).toString() : assert.fail(encoded.failure)
}
const read = <A>(schema: Schema.Codec<A, any>, body: string | Uint8Array): A => {
  const decoded = json.compile(schema).decode(Buffer.from(body))
  return Result.isSuccess(decoded) ? decoded.success : assert.fail(decoded.failure)
}
const refusedToRead = <A>(schema: Schema.Codec<A, any>, body: string | Uint8Array): string => {
  const decoded = json.compile(schema).decode(Buffer.from(body))
  return Result.isFailure(decoded) ? decoded.failure : assert.fail(`read ${String(decoded.success)}`)
}
const refusedToWrite = <A>(schema: Schema.Codec<A, any>, value: A): string => {
  const encoded = json.compile(schema).encode(value)
  return Result.isFailure(encoded) ? encoded.failure : assert.fail(`wrote ${String(encoded.success)}`)
}

class UserNotFound extends Schema.TaggedError<UserNotFound>()("UserNotFound", { id: Schema.Int }) {}
class User extends Schema.Class<User>("User")({
  id: Schema.Int,
  name: Schema.String,
  email: Schema.optionalKey(Schema.String)
}) {}

describe("BodyCodec.json", () => {
  describe("values", () => {
    it("void and undefined need no bytes, and null in words is read as well", () => {
      for (const schema of [Schema.Void, Schema.Undefined]) {
        assert.strictEqual(written(schema, undefined), "")
        assert.isUndefined(read(schema, ""))
        assert.isUndefined(read(schema, "null"))
        assert.isUndefined(read(schema, " null "))
      }
    })

    it("null needs no bytes either, and stays null where the schema has it", () => {
      assert.strictEqual(written(Schema.NullOr(Schema.String), null), "")
      assert.isNull(read(Schema.NullOr(Schema.String), ""))
      assert.isNull(read(Schema.Null, ""))
      assert.isUndefined(read(Schema.UndefinedOr(Schema.String), ""))
      assert.strictEqual(read(Schema.NullOr(Schema.String), written(Schema.NullOr(Schema.String), "")), "")
    })

    it("an option says which it is, and may hold null", () => {
      const schema = Schema.Option(Schema.NullOr(Schema.Int))
      assert.strictEqual(written(schema, Option.none()), `{"_tag":"None"}`)
      assert.strictEqual(written(schema, Option.some(3)), `{"_tag":"Some","value":3}`)
      for (const option of [Option.none(), Option.some(3), Option.some(null)]) {
        assert.isTrue(Option.makeEquivalence<number | null>(Object.is)(read(schema, written(schema, option)), option))
      }
    })

    it("a class is read as its instance, an absent optional field stays absent", () => {
      const user = new User({ id: 1001, name: "Ada" })
      assert.strictEqual(written(User, user), `{"id":1001,"name":"Ada"}`)
      const arrived = read(User, `{"id":1001,"name":"Ada"}`)
      assert.instanceOf(arrived, User)
      assert.deepStrictEqual(Object.keys(arrived), ["id", "name"])
    })

    it("a tagged error is an object with its tag, and is read as an error that can be thrown", () => {
      assert.strictEqual(written(UserNotFound, new UserNotFound({ id: 7 })), `{"_tag":"UserNotFound","id":7}`)
      const arrived = read(UserNotFound, `{"_tag":"UserNotFound","id":7}`)
      assert.instanceOf(arrived, UserNotFound)
      assert.instanceOf(arrived, Error)
      assert.strictEqual(arrived.id, 7)
    })

    it("a union of errors is told apart by the tag", () => {
      class Busy extends Schema.TaggedError<Busy>()("Busy", { id: Schema.Int }) {}
      const schema = Schema.Union([UserNotFound, Busy])
      assert.instanceOf(read(schema, `{"_tag":"Busy","id":1}`), Busy)
      assert.instanceOf(read(schema, `{"_tag":"UserNotFound","id":1}`), UserNotFound)
      refusedToRead(schema, `{"_tag":"Other","id":1}`)
    })

    it("what JSON cannot say travels as docs/protocol.md tells: bytes, dates, big integers, numbers that are not finite", () => {
      assert.strictEqual(written(Schema.Uint8Array, Uint8Array.of(1, 2, 255)), `"AQL/"`)
      assert.strictEqual(written(Schema.Date, new Date(0)), `"1970-01-01T00:00:00.000Z"`)
      assert.strictEqual(written(Schema.BigInt, 2n ** 70n), `"1180591620717411303424"`)
      for (const value of [Number.NaN, Infinity, -Infinity]) {
        assert.strictEqual(written(Schema.Number, value), `"${value}"`)
        assert.deepStrictEqual(read(Schema.Number, `"${value}"`), value)
      }
      assert.deepStrictEqual(read(Schema.Uint8Array, `"AQL/"`), Uint8Array.of(1, 2, 255))
    })

    it.prop("text of any kind arrives as it was sent", [Schema.String], ([value]) => {
      assert.strictEqual(read(Schema.String, written(Schema.String, value)), value)
    })

    it("a lone surrogate arrives as it was sent: JSON escapes it", () => {
      assert.strictEqual(written(Schema.String, "\ud800"), `"\\ud800"`)
      assert.strictEqual(read(Schema.String, `"\\ud800"`), "\ud800")
    })

    it.prop(
      "any value of a schema arrives as it was sent",
      [Schema.Struct({
        id: Schema.Int,
        ratio: Schema.Finite,
        tags: Schema.Array(Schema.String),
        note: Schema.NullOr(Schema.String),
        nick: Schema.optionalKey(Schema.String),
        by: Schema.Record(Schema.String, Schema.Boolean)
      })],
      ([value]) => {
        const schema = Schema.Struct({
          id: Schema.Int,
          ratio: Schema.Finite,
          tags: Schema.Array(Schema.String),
          note: Schema.NullOr(Schema.String),
          nick: Schema.optionalKey(Schema.String),
          by: Schema.Record(Schema.String, Schema.Boolean)
        })
        // JSON has one zero.
        const plus = { ...value, id: value.id + 0, ratio: value.ratio + 0 }
        assert.deepStrictEqual(read(schema, written(schema, value)), plus)
      }
    )

    it("bytes are read where they lie in a larger buffer", () => {
      const around = Buffer.from(`garbage{"id":7}garbage`)
      const decoded = json.compile(Schema.Struct({ id: Schema.Int })).decode(around.subarray(7, 15))
      assert.deepStrictEqual(decoded, Result.succeed({ id: 7 }))
    })

    it("a schema is compiled once and used as often as one likes", () => {
      const compiled = json.compile(User)
      for (let id = 0; id < 3; id++) {
        const body = Result.getOrThrow(compiled.encode(new User({ id, name: "x" })))
        assert.strictEqual(Result.getOrThrow(compiled.decode(body)).id, id)
      }
    })
  })

  describe("bad bytes", () => {
    it("what is no JSON is said so, with the place and without the text", () => {
      assert.match(refusedToRead(User, `{"id":1`), /^not JSON: .*position 7/)
      assert.match(refusedToRead(User, `{"id":1,}`), /^not JSON: /)
      for (const body of ["secret words", `{"password": hunter2}`, "hunter2"]) {
        const why = refusedToRead(User, body)
        assert.match(why, /^not JSON: Unexpected token '.'/)
        assert.notMatch(why, /secret|hunter/)
      }
    })

    it("malformed UTF-8 is refused, not replaced", () => {
      for (const bad of [[0xff], [0xc3], [0xed, 0xa0, 0x80], [0xc0, 0x80], [0xf4, 0x90, 0x80, 0x80]]) {
        const why = refusedToRead(Schema.String, Buffer.from([0x22, ...bad, 0x22]))
        assert.match(why, /utf-8/i)
      }
      assert.strictEqual(read(Schema.String, `"\ufffd"`), "\ufffd")
    })

    it("a byte order mark is no JSON", () => {
      assert.match(refusedToRead(Schema.String, "\ufeff\"a\""), /^not JSON/)
    })

    it("what the schema refuses is said with its place, and without what was there", () => {
      const why = refusedToRead(User, `{"id":"secret","name":"Ada"}`)
      assert.match(why, /number/)
      assert.match(why, /\["id"\]/)
      assert.notMatch(why, /secret/)
      refusedToRead(User, "")
      refusedToRead(User, "null")
      refusedToRead(User, `{"id":1.5,"name":"Ada"}`)
      refusedToRead(User, `{"id":1}`)
      refusedToRead(User, "[]")
    })

    it("a message that names a key of the payload is cut at 1000 characters", () => {
      const why = refusedToRead(Schema.Record(Schema.String, Schema.Int), JSON.stringify({ ["k".repeat(1e6)]: "x" }))
      assert.strictEqual(why.length, 1001)
      assert.isTrue(why.endsWith("…"))
    })

    it("nesting deeper than the stack is a refusal, not a crash", () => {
      interface Tree {
        readonly below: ReadonlyArray<Tree>
      }
      const Tree: Schema.Codec<Tree> = Schema.Struct({
        below: Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Tree))
      })
      const depth = 100_000
      refusedToRead(Tree, `{"below":[`.repeat(depth) + "]}".repeat(depth))
      assert.strictEqual(refusedToRead(Schema.Int, "[".repeat(1e6)).slice(0, 8), "not JSON")
      let tree: Tree = { below: [] }
      for (let i = 0; i < depth; i++) tree = { below: [tree] }
      refusedToWrite(Tree, tree)
    })

    it("a key called __proto__ changes no prototype", () => {
      const arrived = read(Schema.Record(Schema.String, Schema.Unknown), `{"__proto__":{"admin":true}}`)
      assert.strictEqual(Object.getPrototypeOf(arrived), Object.prototype)
      assert.isUndefined(arrived["admin"])
      const user = read(User, `{"id":1,"name":"Ada","__proto__":{"email":"x"}}`)
      assert.instanceOf(user, User)
      assert.isUndefined(user.email)
    })
  })

  describe("values the schema cannot carry", () => {
    it("a value that is not of the schema is refused", () => {
      refusedToWrite(Schema.Int, 1.5)
      refusedToWrite(User, { id: "x" } as unknown as User)
    })

    it("a cycle, a function and a big integer where anything goes are refused", () => {
      const cycle: { self?: unknown } = {}
      cycle.self = cycle
      refusedToWrite(Schema.Any, cycle)
      refusedToWrite(Schema.Unknown, 1n)
      refusedToWrite(Schema.Unknown, () => 1)
    })

    it("a transformation that throws, or that takes its time, is a refusal in both directions", () => {
      const via = (effect: (value: string) => Effect.Effect<string>) =>
        Schema.String.pipe(
          Schema.decodeTo(Schema.String, {
            decode: SchemaGetter.transformEffect(effect),
            encode: SchemaGetter.transformEffect(effect)
          })
        )
      const throwing = via(() => {
        throw new Error("out of luck")
      })
      assert.strictEqual(refusedToRead(throwing, `"x"`), "out of luck")
      assert.strictEqual(refusedToWrite(throwing, "x"), "out of luck")
      const dying = via(() => Effect.die(new Error("out of luck")))
      assert.strictEqual(refusedToRead(dying, `"x"`), "out of luck")
      const slow = via((value) => Effect.as(Effect.sleep(1), value))
      assert.isAbove(refusedToRead(slow, `"x"`).length, 0)
      assert.isAbove(refusedToWrite(slow, "x").length, 0)
    })
  })

  it("parseJson reads any JSON, and nothing as null", () => {
    assert.deepStrictEqual(BodyCodec.parseJson(Buffer.from(`{"message":"shed"}`)), Result.succeed({ message: "shed" }))
    assert.deepStrictEqual(BodyCodec.parseJson(BodyCodec.noBytes), Result.succeed(null))
    for (const bad of ["{", "\xff", "x"]) {
      assert.isTrue(Result.isFailure(BodyCodec.parseJson(Buffer.from(bad, "latin1"))))
    }
  })

  it("is number 1, understood by all, and the last of what a hello names", () => {
    assert.deepStrictEqual(BodyCodec.all.map(({ id, name }) => [id, name]), [[2, "binary"], [1, "json"]])
  })
})

describe("BodyCodec.binary", () => {
  const { binary } = BodyCodec
  const bytesOf = <A>(schema: Schema.Codec<A, any>, value: A): Uint8Array =>
    Result.getOrThrowWith(binary.compile(schema).encode(value), (why) => new Error(why))
  /** What a reader with its own idea of the schema makes of a value. */
  const readAs = <A, B>(writer: Schema.Codec<A, any>, value: A, reader: Schema.Codec<B, any>) =>
    binary.compile(reader).decode(bytesOf(writer, value))
  const sameAs = <A>(schema: Schema.Codec<A, any>, value: A) =>
    assert.deepStrictEqual(readAs(schema, value, schema), Result.succeed(value))
  const refused = <A>(result: Result.Result<A, string>): string =>
    Result.isFailure(result) ? result.failure : assert.fail(`took ${String(result.success)}`)

  it("values of all kinds arrive as they were sent: classes, errors, options, bytes, dates, big and infinite numbers", () => {
    sameAs(Schema.Void, undefined)
    sameAs(Schema.NullOr(Schema.String), null)
    sameAs(Schema.Option(Schema.NullOr(Schema.Int)), Option.some(null))
    sameAs(User, new User({ id: 1001, name: "Ada" }))
    sameAs(UserNotFound, new UserNotFound({ id: 7 }))
    sameAs(Schema.Uint8Array, Uint8Array.of(1, 2, 255))
    sameAs(Schema.Date, new Date(0))
    sameAs(Schema.BigInt, 2n ** 70n)
    for (const value of [Number.NaN, Infinity, -Infinity, -0, 1e300, 2 ** 53]) sameAs(Schema.Number, value)
    sameAs(Schema.Unknown, { a: [1, "x", null] })
    sameAs(Schema.String, "größer 漢 🜂")
  })

  const Order = Schema.Struct({
    id: Schema.Int,
    ratio: Schema.Finite,
    tags: Schema.Array(Schema.NonEmptyString),
    note: Schema.NullOr(Schema.String),
    nick: Schema.optionalKey(Schema.String),
    by: Schema.Record(Schema.String, Schema.Boolean),
    lines: Schema.Array(Schema.Struct({ sku: Schema.String, quantity: Schema.Int }))
  })
  it.prop("any value of a schema arrives as it was sent", [Order], ([value]) => {
    // JSON escapes lone surrogates and nothing else of that range.
    if (!/\\ud[89a-f]/.test(JSON.stringify(value))) sameAs(Order, value)
  })

  it("a lone surrogate, which UTF-8 has no form for, arrives as U+FFFD", () => {
    assert.deepStrictEqual(readAs(Schema.String, "\ud800", Schema.String), Result.succeed("\ufffd"))
  })

  it("a repetitive body takes less than 60 % of its JSON", () => {
    const lines = Array.from({ length: 20 }, (_, i) => ({ sku: `SKU-${1000 + i}`, quantity: 1 + i % 5 }))
    const order = { id: 4711, ratio: 0.25, tags: ["new", "sale"], note: null, by: { ada: true }, lines }
    assert.isBelow(bytesOf(Order, order).length, 0.6 * written(Order, order).length)
  })

  it("bytes are read where they lie in a larger buffer, and hold nothing of it afterwards", () => {
    const sent = bytesOf(Schema.Uint8Array, Uint8Array.of(1, 2, 3))
    const around = Buffer.concat([Buffer.from("garbage"), sent, Buffer.from("garbage")])
    const read = Result.getOrThrow(binary.compile(Schema.Uint8Array).decode(around.subarray(7, 7 + sent.length)))
    assert.deepStrictEqual(read, Uint8Array.of(1, 2, 3))
    assert.notStrictEqual(read.buffer, around.buffer)
  })

  it("what was written before stays what it was: a body may wait to be sent, or be sent again", () => {
    const compiled = binary.compile(Schema.String)
    const first = Result.getOrThrow(compiled.encode("first"))
    const copy = Buffer.from(first)
    for (let i = 0; i < 10_000; i++) Result.getOrThrow(compiled.encode("another of some length"))
    assert.deepStrictEqual(Buffer.from(first), copy)
  })

  describe("schemas that differ, as docs/protocol.md says", () => {
    const V1 = Schema.Struct({ id: Schema.Int, name: Schema.String })
    const ada = { id: 1, name: "Ada" }
    const V2 = Schema.Struct({ name: Schema.String, email: Schema.optionalKey(Schema.String), id: Schema.Number })

    it("an optional field may be added or taken away, fields may change places, a check may be dropped", () => {
      assert.deepStrictEqual(readAs(V1, ada, V2), Result.succeed(ada))
      assert.deepStrictEqual(readAs(V2, { ...ada, email: "a@example.org" }, V1), Result.succeed(ada))
    })

    it("a struct and a class of the same fields are the same", () => {
      assert.deepStrictEqual(readAs(V1, ada, User), Result.succeed(new User(ada)))
    })

    it("a member may be added to a union that has at least two, and is refused by who does not know it", () => {
      const A = Schema.TaggedStruct("A", { a: Schema.Int })
      const B = Schema.TaggedStruct("B", { b: Schema.Int })
      const C = Schema.TaggedStruct("C", { c: Schema.Int })
      const a = A.make({ a: 1 })
      assert.deepStrictEqual(readAs(Schema.Union([A, B]), a, Schema.Union([C, B, A])), Result.succeed(a))
      refused(readAs(Schema.Union([A, B, C]), C.make({ c: 1 }), Schema.Union([A, B])))
    })

    it("a required field added, renamed or of another kind is refused where it is read", () => {
      const readers: ReadonlyArray<Schema.Codec<unknown, any>> = [
        Schema.Struct({ id: Schema.Int, name: Schema.String, email: Schema.String }),
        Schema.Struct({ id: Schema.Int, title: Schema.String }),
        Schema.Struct({ id: Schema.String, name: Schema.String }),
        Schema.Struct({ id: Schema.Int, name: Schema.NullOr(Schema.String) })
      ]
      for (const reader of readers) assert.match(refused(readAs(V1, ada, reader)), /^Missing key/)
    })

    it("an optional field of another kind is absent, which is why its name must change with it", () => {
      const reader = Schema.Struct({ id: Schema.Int, name: Schema.optionalKey(Schema.Int) })
      assert.deepStrictEqual(readAs(V1, ada, reader), Result.succeed({ id: 1 }))
    })

    it("a field may be renamed that had a number of its own from the start", () => {
      const before = Schema.Struct({ name: Schema.String.pipe(SchemaBinary.fieldId(1)) })
      const after = Schema.Struct({ title: Schema.String.pipe(SchemaBinary.fieldId(1)) })
      assert.deepStrictEqual(readAs(before, { name: "Ada" }, after), Result.succeed({ title: "Ada" }))
    })

    it("a schema whose values cannot be told apart dies where it is compiled", () => {
      const ambiguous = Schema.Union([Schema.Struct({ a: Schema.String }), Schema.Struct({ a: Schema.Int })])
      assert.throws(() => binary.compile(ambiguous), /not uniquely identifiable/)
      const bodies = BodyCodec.bodies(binary, Schema.Void, ambiguous, Schema.Never)
      assert.match(refused(bodies), /not uniquely identifiable/)
    })
  })

  describe("bad bytes", () => {
    it("too few, too many, another version, the other mode and no frame at all are refused", () => {
      const good = bytesOf(User, new User({ id: 1, name: "Ada" }))
      const compiled = binary.compile(User)
      for (let length = 0; length < good.length; length++) refused(compiled.decode(good.subarray(0, length)))
      refused(compiled.decode(Buffer.concat([good, Buffer.of(0)])))
      for (const hex of ["00", "0220", "022180", "0130", "ff", "ffffffffffffffffffff", "0520010203"]) {
        assert.isAbove(refused(compiled.decode(Buffer.from(hex, "hex"))).length, 0)
      }
    })

    it("what the schema refuses is said with its place, and without what was there", () => {
      const why = refused(
        readAs(Schema.Struct({ id: Schema.Number, name: Schema.String }), { id: 1.5, name: "x" }, User)
      )
      assert.match(why, /\["id"\]/)
      assert.notMatch(refused(binary.compile(User).encode({ id: "secret" } as unknown as User)), /secret/)
    })

    it("counts that nothing stands behind allocate nothing", () => {
      // An array of 2^32 - 1 strings in six bytes.
      const before = process.memoryUsage().arrayBuffers
      refused(binary.compile(Schema.Array(Schema.String)).decode(Buffer.from("0620ffffffff0f", "hex")))
      refused(binary.compile(Schema.Uint8Array).decode(Buffer.from("ffffffff0f20", "hex")))
      assert.isBelow(process.memoryUsage().arrayBuffers - before, 1 << 24)
    })

    it("a cycle, and nesting deeper than the stack, are refused in both directions", () => {
      interface Tree {
        readonly below: Array<Tree>
      }
      const Tree: Schema.Codec<Tree> = Schema.Struct({
        below: Schema.mutable(Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Tree)))
      })
      const cycle: Tree = { below: [] }
      cycle.below.push(cycle)
      refused(binary.compile(Tree).encode(cycle))
      let tree: Tree = { below: [] }
      for (let i = 0; i < 100_000; i++) tree = { below: [tree] }
      refused(binary.compile(Tree).encode(tree))
      const good = bytesOf(Tree, { below: [{ below: [] }] })
      sameAs(Tree, { below: [{ below: [] }] })
      refused(binary.compile(Tree).decode(Buffer.concat([Buffer.of(0xff, 0x7f), good, Buffer.alloc(0x3fff, 0x0a)])))
    })

    it("a key called __proto__ changes no prototype", () => {
      const schema = Schema.Record(Schema.String, Schema.Int)
      const arrived = Result.getOrThrow(readAs(schema, JSON.parse(`{"__proto__":1,"a":2}`), schema))
      assert.strictEqual(Object.getPrototypeOf(arrived), Object.prototype)
      assert.strictEqual(arrived["a"], 2)
    })

    it("damaged bodies make nothing throw", () => {
      const schemas: ReadonlyArray<readonly [Schema.Codec<any>, unknown]> = [
        [User, new User({ id: 1, name: "Ada" })],
        [Order, { id: 1, ratio: 0.5, tags: ["a"], note: null, by: { a: true }, lines: [{ sku: "s", quantity: 1 }] }],
        [Schema.Union([UserNotFound, User]), new UserNotFound({ id: 7 })],
        [Schema.Unknown, { a: [1, "x"] }]
      ]
      for (const [schema, value] of schemas) {
        const compiled = binary.compile(schema)
        const good = bytesOf(schema, value)
        for (let at = 0; at < good.length; at++) {
          for (const byte of [0, 1, 7, 8, 0x20, 0x7f, 0x80, 0xfe, 0xff]) {
            const bad = Buffer.from(good)
            bad[at] = byte
            const read = compiled.decode(bad)
            if (Result.isSuccess(read)) assert.isTrue(Result.isSuccess(compiled.encode(read.success)))
          }
        }
      }
    })
  })
})
