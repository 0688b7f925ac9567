/** Bodies: JSON bare, our JSON, and binary; with and without checks in the schema. */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as BodyCodec from "../../src/wire/BodyCodec.ts"
import { called } from "../contenders.ts"
import type { Contender } from "../harness.ts"

const user = { id: 1001, name: "Ada Lovelace", email: "ada@example.org", active: true, seenAt: 1_750_000_000_000 }
const orderOf = (lines: number) => ({
  id: 4711,
  customer: {
    id: 1001,
    name: "Ada Lovelace",
    email: "ada@example.org",
    address: { street: "12 St James's Square", city: "London", zip: "SW1Y 4LB", country: "GB" }
  },
  lines: Array.from({ length: lines }, (_, i) => ({
    sku: `SKU-${1000 + i}`,
    title: `Item number ${i} of the catalogue`,
    quantity: i % 5 + 1,
    price: 9.99 + i,
    tags: ["new", "sale"]
  })),
  note: null,
  paid: true
})

/** The same shapes twice: numbers and text of any kind, or as a careful contract has them. */
const shapes = (Int: Schema.Codec<number>, Text: Schema.Codec<string>) => ({
  user: Schema.Struct({ id: Int, name: Text, email: Schema.String, active: Schema.Boolean, seenAt: Int }),
  order: Schema.Struct({
    id: Int,
    customer: Schema.Struct({
      id: Int,
      name: Text,
      email: Schema.String,
      address: Schema.Struct({ street: Schema.String, city: Schema.String, zip: Schema.String, country: Schema.String })
    }),
    lines: Schema.Array(
      Schema.Struct({
        sku: Text,
        title: Schema.String,
        quantity: Int,
        price: Schema.Number,
        tags: Schema.Array(Schema.String)
      })
    ),
    note: Schema.NullOr(Schema.String),
    paid: Schema.Boolean
  })
})
const plain = shapes(Schema.Number, Schema.String)
const checked = shapes(Schema.Int, Schema.NonEmptyString)

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

/** One body, encoded and decoded in every way. */
const body = (value: unknown, plain: Schema.Codec<any>, checked: Schema.Codec<any>): ReadonlyArray<Contender> => {
  const text = Buffer.from(JSON.stringify(value))
  const rows = [
    called("JSON encode", () => Buffer.from(JSON.stringify(value)), text.length),
    called("JSON decode", () => JSON.parse(utf8.decode(text)))
  ]
  for (const [suffix, schema] of [["", plain], [", checks", checked]] as const) {
    for (const codec of [BodyCodec.json, BodyCodec.binary]) {
      const { decode, encode } = codec.compile(schema)
      const bytes = Buffer.from(Result.getOrThrow(encode(value)))
      rows.push(
        called(`BodyCodec.${codec.name} encode${suffix}`, () => encode(value), bytes.length),
        called(`BodyCodec.${codec.name} decode${suffix}`, () => decode(bytes))
      )
    }
  }
  return rows
}

export const small = async (): Promise<ReadonlyArray<Contender>> => body(user, plain.user, checked.user)
export const medium = async (): Promise<ReadonlyArray<Contender>> => body(orderOf(6), plain.order, checked.order)
export const large = async (): Promise<ReadonlyArray<Contender>> => body(orderOf(150), plain.order, checked.order)
