/**
 * The example service: users in memory, some work for the CPU, typed errors.
 *
 * A stranger reads this file first to see what a contract, its annotations and
 * its handlers look like. Every process has its own store: it shows calls, not
 * storage, and an update is seen by the server that made it.
 */
import * as Effect from "effect/Effect"
import type * as Layer from "effect/Layer"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import * as Schema from "effect/Schema"
import { createHash } from "node:crypto"
import * as Contract from "../contract/Contract.ts"
import * as Faults from "./Faults.ts"

export class User extends Schema.Class<User>("User")({
  id: Schema.Int,
  name: Schema.String,
  email: Schema.String,
  /** One more with every update: an update sent twice is not the same as once. */
  version: Schema.Int,
  /** What a cache would compare. */
  etag: Schema.String
}) {}

export class UserNotFound extends Schema.TaggedError<UserNotFound>()("UserNotFound", { id: Schema.Int }) {}

export class InvalidEmail extends Schema.TaggedError<InvalidEmail>()("InvalidEmail", { email: Schema.String }) {}

const limit = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 100 }))

/** The contract. Reads may be sent twice; an update may not. */
export class UserService extends RpcGroup.make(
  Rpc.make("GetUserInfo", { payload: { id: Schema.Int }, success: User, error: UserNotFound })
    .annotate(Contract.Idempotent, true),
  Rpc.make("ListUsers", {
    payload: { after: Schema.Int, limit },
    success: Schema.Array(User)
  }).annotate(Contract.Idempotent, true),
  Rpc.make("Search", {
    payload: { text: Schema.NonEmptyString, limit },
    success: Schema.Array(User)
  }).annotate(Contract.Idempotent, true),
  Rpc.make("UpdateEmail", {
    payload: { id: Schema.Int, email: Schema.String },
    success: User,
    error: Schema.Union([UserNotFound, InvalidEmail])
  })
).prefix("UserService.") {}

/** Ids of the users that exist: 1001 and what follows. */
export const firstId = 1001
export const userCount = 500

const given = ["Ada", "Alan", "Barbara", "Edsger", "Grace", "Ken", "Leslie", "Margaret", "Radia", "Tony"]
const family = ["Dijkstra", "Hamilton", "Hoare", "Hopper", "Lamport", "Liskov", "Lovelace", "Perlman", "Thompson"]

type Row = Omit<User, "etag">

const seedRows = (): Map<number, Row> => {
  const rows = new Map<number, Row>()
  for (let i = 0; i < userCount; i++) {
    const name = `${given[i % given.length]} ${family[i % family.length]}`
    const id = firstId + i
    rows.set(id, { id, name, email: `${name.toLowerCase().replace(" ", ".")}.${id}@example.org`, version: 1 })
  }
  return rows
}

/** Rounds of hashing per user that is answered: about 0.1 ms, what a small handler's own work costs. */
const rounds = 50

const toUser = (row: Row): User => {
  let etag = `${row.id}:${row.version}:${row.email}`
  for (let i = 0; i < rounds; i++) etag = createHash("sha256").update(etag).digest("hex")
  return User.make({ ...row, etag: etag.slice(0, 16) }, { disableChecks: true })
}

/** How many edits make one word the other: what a search by likeness costs the CPU. */
const distance = (a: string, b: string): number => {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(next[j - 1]! + 1, row[j]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1)))
    }
    row = next
  }
  return row[b.length]!
}

/** The handlers, with a store of their own. What `Faults.Current` injects happens before a handler does anything. */
export const handlers: Layer.Layer<Rpc.ToHandler<RpcGroup.Rpcs<typeof UserService>>> = UserService.toLayer(
  Effect.gen(function*() {
    const faults = yield* Faults.Current
    const rows = seedRows()
    const find = (id: number) =>
      Effect.suspend(() => {
        const row = rows.get(id)
        return row === undefined ? Effect.fail(new UserNotFound({ id })) : Effect.succeed(row)
      })
    return UserService.of({
      "UserService.GetUserInfo": ({ id }) => Faults.inject(faults, Effect.map(find(id), toUser)),
      "UserService.ListUsers": ({ after, limit }) =>
        Faults.inject(
          faults,
          Effect.sync(() => Array.from(rows.values()).filter((row) => row.id > after).slice(0, limit).map(toUser))
        ),
      "UserService.Search": ({ limit, text }) =>
        Faults.inject(
          faults,
          Effect.sync(() => {
            const wanted = text.toLowerCase()
            const ranked = Array.from(rows.values(), (row) => ({ row, away: distance(wanted, row.name.toLowerCase()) }))
            return ranked.toSorted((a, b) => a.away - b.away || a.row.id - b.row.id).slice(0, limit)
              .map(({ row }) => toUser(row))
          })
        ),
      "UserService.UpdateEmail": ({ email, id }) =>
        Faults.inject(
          faults,
          Effect.gen(function*() {
            if (!/^\S+@\S+$/.test(email)) return yield* new InvalidEmail({ email })
            const row = yield* find(id)
            const updated = { ...row, email, version: row.version + 1 }
            rows.set(id, updated)
            return toUser(updated)
          })
        )
    })
  })
)
