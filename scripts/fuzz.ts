/**
 * Throws hostile bytes at everything that reads from the wire.
 *
 * `node scripts/fuzz.ts --runs 1000000 --seed 1`
 *
 * One run is one byte string: random, or frames of ours with a few bytes
 * damaged. It is cut into random chunks, read as frames, and what comes out as
 * requests, responses, hellos, cancels and bodies. A run fails when anything
 * throws, when another chunking gives another result, when what was read cannot
 * be written and read again, or when more memory is held than twice what
 * arrived. It ends with exit code 1 on the first failure, on a run that does not
 * end, and on a heap that has grown; the message says how to repeat that one run.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { spawn } from "node:child_process"
import { isDeepStrictEqual } from "node:util"
import * as BodyCodec from "../src/wire/BodyCodec.ts"
import * as Frame from "../src/wire/Frame.ts"
import * as FrameCodec from "../src/wire/FrameCodec.ts"

export interface FuzzOptions {
  readonly runs: number
  readonly seed: number
  /** The number of the first run: a failed one is repeated with its own number and `runs: 1`. */
  readonly from?: number | undefined
  readonly onProgress?: ((done: number) => void) | undefined
}

export interface FuzzReport {
  readonly runs: number
  readonly bytes: number
  /** How byte strings ended: complete, in the middle of a frame, or with which error. */
  readonly ends: Readonly<Record<string, number>>
  /** What was read from the frames in them. */
  readonly reads: Readonly<Record<string, number>>
  /** The most memory a decoder held for an unfinished frame. */
  readonly maxHeldBytes: number
  /** The longest run, in milliseconds. */
  readonly slowestMillis: number
  readonly failure: string | undefined
}

// Chance ----------------------------------------------------------------------------------------------

/** A stream of chance per run, so that one run can be repeated alone. Source: Mulberry32, Tommy Ettinger, 2017. */
class Chance {
  private state: number
  constructor(seed: number, run: number) {
    this.state = (Math.imul(seed, 0x9e37_79b1) ^ Math.imul(run + 1, 0x85eb_ca6b)) | 0
  }
  /** An integer in `[0, below)`. */
  below(below: number): number {
    this.state = (this.state + 0x6d2b_79f5) | 0
    let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 0x1_0000_0000) * below)
  }
  oneIn(many: number): boolean {
    return this.below(many) === 0
  }
  pick<A>(values: ReadonlyArray<A>): A {
    return values[this.below(values.length)]!
  }
  bytes(length: number): Buffer {
    const bytes = Buffer.allocUnsafe(length)
    for (let at = 0; at < length; at++) bytes[at] = this.below(256)
    return bytes
  }
}

// Byte strings ----------------------------------------------------------------------------------------

const words = ["", "A.b", "UserService.GetUserInfo", "größer 漢 🜂", "\ud800", "x".repeat(300), "__proto__", "\0"]
const bodies = [
  "",
  "null",
  `{"id":1001}`,
  `{"id":1,"name":"Ada","tags":["a","b"]}`,
  `{"message":"shed","code":"ORD-E-102","cause":"INV-E-003","retry":"safe"}`,
  `{"_tag":"UserNotFound","id":7}`,
  `{"below":[{"below":[]}]}`,
  `{"below":[`.repeat(200) + "]}".repeat(200),
  "[".repeat(500),
  `"\\ud800"`
].map((body) => Buffer.from(body)).concat(
  // The same in binary: structs, a record, a tree, and counts that nothing stands behind.
  ["112081ae8dce1bd20fb0deb7ce4603416461", "0120", "0620ffffffff0f", "13207b2261223a5b312c2278222c6e756c6c5d7d"]
    .map((hex) => Buffer.from(hex, "hex"))
)
const strangers = [
  "GET / HTTP/1.1\r\n\r\n",
  "PRI * HTTP/2.0\r\n\r\n",
  "SSH-2.0-x\r\n",
  "\x16\x03\x01\x02\x00\x01",
  "MC"
]
  .map((said) => Buffer.from(said, "latin1"))
const edges = [0, 1, 2, 3, 7, 8, 9, 0x7f, 0x80, 0xfe, 0xff, 0x4d, 0x43]
const limits = [64, 1024, 64 * 1024, Frame.defaultMaxPayloadBytes]
const criticalities = ["criticalPlus", "critical", "sheddablePlus", "sheddable"] as const

const headers = (chance: Chance): Record<string, string> => {
  const result: Record<string, string> = {}
  for (let left = chance.below(4); left > 0; left--) result[chance.pick(words)] = chance.pick(words)
  return result
}

/** Frames as our encoder writes them. */
const goodFrames = (chance: Chance): Buffer => {
  const encoder = new FrameCodec.Encoder(512)
  for (let left = 1 + chance.below(4); left > 0; left--) {
    const id = (chance.below(0x1_0000) << 16 | chance.below(4)) >>> 0
    const body = chance.pick(bodies)
    const metadata = headers(chance)
    switch (chance.below(8)) {
      case 0:
        encoder.hello({
          features: chance.below(16),
          maxPayloadBytes: chance.pick(limits),
          maxInFlight: chance.below(1000),
          codecs: [1, 2, 3].slice(chance.below(3)),
          agent: chance.pick(words)
        })
        break
      case 1:
        encoder.cancel(id, chance.pick(Frame.cancelReasons))
        break
      case 2:
        encoder.ping(chance.pick([Frame.Type.ping, Frame.Type.pong]), chance.bytes(8))
        break
      case 3:
        encoder.goingAway(chance.pick(words))
        break
      case 4:
      case 5:
        encoder.response(id, {
          status: chance.below(16),
          codec: 1,
          body,
          processed: chance.oneIn(2),
          retryAfterMillis: chance.oneIn(2) ? chance.below(10_000) : undefined,
          headers: metadata
        }, FrameCodec.metadataBytes(metadata))
        encoder.body(body)
        break
      default:
        encoder.request(
          id,
          {
            method: chance.pick(words) || "A.b",
            codec: 1,
            body,
            deadline: chance.oneIn(4) ? Infinity : chance.below(10_000),
            attempt: 1 + chance.below(5),
            hedge: chance.oneIn(4),
            idempotent: chance.oneIn(2),
            criticality: chance.pick(criticalities),
            idempotencyKey: chance.oneIn(3) ? chance.pick(words) : undefined,
            trace: chance.oneIn(2)
              ? { traceId: chance.bytes(16).toString("hex"), spanId: chance.bytes(8).toString("hex"), sampled: true }
              : undefined,
            headers: metadata
          },
          0,
          FrameCodec.metadataBytes(metadata)
        )
        encoder.body(body)
    }
  }
  return encoder.take()
}

const damaged = (chance: Chance, good: Buffer): Buffer => {
  let bytes = Buffer.from(good)
  for (let left = 1 + chance.below(4); left > 0 && bytes.length > 0; left--) {
    const at = chance.below(bytes.length)
    const to = Math.min(bytes.length, at + chance.below(16))
    switch (chance.below(9)) {
      case 0:
        bytes[at]! ^= 1 << chance.below(8)
        break
      case 1:
      case 2:
        bytes[at] = chance.pick(edges)
        break
      case 3:
        // The lengths in the first frame's head: of the payload, of a method, of metadata.
        bytes[chance.below(Math.min(bytes.length, 48))] = chance.pick(edges)
        break
      case 4:
        bytes = bytes.subarray(0, at)
        break
      case 5:
        bytes = Buffer.concat([bytes.subarray(0, at), chance.bytes(chance.below(12)), bytes.subarray(at)])
        break
      case 6:
        bytes = Buffer.concat([bytes.subarray(0, at), bytes.subarray(to)])
        break
      case 7:
        bytes = Buffer.concat([bytes.subarray(0, to), bytes.subarray(at)])
        break
      default:
        if (bytes.length > 1) {
          bytes.writeUInt16BE(chance.pick([0, 1, 0x7fff, 0x8000, 0xffff]), Math.min(at, bytes.length - 2))
        }
    }
  }
  return bytes
}

/** A frame of up to a quarter of a megabyte, mostly not all there. */
const large = (chance: Chance): Buffer => {
  const bytes = Buffer.alloc(chance.below(256 * 1024) + Frame.headerBytes, 1)
  bytes.set([0x4d, 0x43, 1, chance.pick([Frame.Type.request, Frame.Type.response, 77])])
  bytes.writeUInt32BE(bytes.length - Frame.headerBytes, 4)
  return chance.oneIn(2) ? bytes : bytes.subarray(0, chance.below(bytes.length))
}

const byteString = (chance: Chance): Buffer => {
  if (chance.oneIn(200)) return large(chance)
  switch (chance.below(8)) {
    case 0:
      return chance.bytes(chance.below(400))
    case 1: {
      // A good header before random bytes: what is behind the first checks.
      const payload = chance.bytes(chance.below(200))
      const header = Buffer.from([0x4d, 0x43, 1, chance.below(12), 0, 0, 0, 0])
      header.writeUInt32BE(chance.oneIn(4) ? chance.below(2 ** 32) : payload.length, 4)
      return Buffer.concat([header, payload])
    }
    case 2:
      return damaged(chance, chance.pick(strangers))
    case 3:
      return goodFrames(chance)
    default:
      return damaged(chance, goodFrames(chance))
  }
}

// Reading ---------------------------------------------------------------------------------------------

interface Tree {
  readonly below: ReadonlyArray<Tree>
}
const Tree: Schema.Codec<Tree> = Schema.Struct({
  below: Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Tree))
})
const shapes: ReadonlyArray<Schema.Codec<any>> = [
  Schema.Struct({
    id: Schema.Int,
    name: Schema.optionalKey(Schema.String),
    tags: Schema.optionalKey(Schema.Array(Schema.String))
  }),
  Schema.Void,
  Schema.NullOr(Schema.Record(Schema.String, Schema.Unknown)),
  Tree
]
const schemas = shapes.flatMap((shape) => [BodyCodec.json.compile(shape), BodyCodec.binary.compile(shape)])

type Read = readonly [what: string, value: unknown]

const typeNames: Readonly<Record<number, string>> = Object.fromEntries(
  Object.entries(Frame.Type).map(([name, number]) => [number, name])
)

class Broken extends Error {}
const must = (holds: boolean, what: string): void => {
  if (!holds) throw new Broken(what)
}

/** Reads one payload as its type says; `null` for one that is malformed. */
const payload = (
  type: number,
  bytes: Buffer,
  start: number,
  end: number
): FrameCodec.Decoded<unknown> | undefined => {
  switch (type) {
    case Frame.Type.request:
      return FrameCodec.request(bytes, start, end, 0)
    case Frame.Type.response:
      return FrameCodec.response(bytes, start, end)
    case Frame.Type.cancel:
      return FrameCodec.cancel(bytes, start, end)
    case Frame.Type.hello:
      return FrameCodec.hello(bytes, start, end)
    default:
      return undefined
  }
}

/** What was understood can be said again, and is understood the same. */
const again = (type: number, id: number, value: unknown): void => {
  const encoder = new FrameCodec.Encoder(64)
  switch (type) {
    case Frame.Type.request: {
      const request = value as Frame.Request
      const metadata = FrameCodec.metadataBytes(request.headers)
      // A malformed text grows when it is replaced by U+FFFD, past its limit perhaps.
      if (FrameCodec.oversize(request, metadata, Infinity) !== undefined) return
      encoder.request(id, request, 0, metadata)
      encoder.body(request.body)
      break
    }
    case Frame.Type.response: {
      const response = value as Frame.Response
      const metadata = FrameCodec.metadataBytes(response.headers)
      if (FrameCodec.oversizeResponse(response, metadata, Infinity) !== undefined) return
      encoder.response(id, response, metadata)
      encoder.body(response.body)
      break
    }
    case Frame.Type.hello: {
      const hello = value as Frame.Hello
      if (hello.agent.length > 255) return
      encoder.hello(hello)
      break
    }
    default:
      return
  }
  const bytes = encoder.take()
  const decoded = payload(type, bytes, Frame.headerBytes, bytes.length)!
  must(decoded._tag === "Ok" && decoded.id === id, "what was written again cannot be read")
  const read = (decoded as { readonly value: unknown }).value
  const lost = type === Frame.Type.request && (value as Frame.Request).deadline === 0
  must(lost || isDeepStrictEqual(read, value), "what was written again is read differently")
}

interface Outcome {
  readonly reads: ReadonlyArray<Read>
  readonly end: string
  readonly held: number
}

const feed = (chunks: ReadonlyArray<Buffer>, limit: number, deep: boolean): Outcome => {
  const reads: Array<Read> = []
  let arrived = 0
  let held = 0
  const decoder = new FrameCodec.Decoder(limit, (type, bytes, start, end) => {
    must(start <= end && end <= bytes.length && end - start <= limit, "a payload lies outside its buffer")
    const decoded = payload(type, bytes, start, end)
    if (decoded === undefined) {
      reads.push([typeNames[type]!, bytes.toString("hex", start, end)])
      return undefined
    }
    if (decoded._tag !== "Ok") return decoded
    reads.push([typeNames[type]!, decoded])
    const { value } = decoded
    if (deep && typeof value === "object" && value !== null && "body" in value) {
      const body = value.body as Uint8Array
      BodyCodec.parseJson(body)
      const schema = schemas[reads.length % schemas.length]!
      const read = schema.decode(body)
      reads.push([Result.isSuccess(read) ? "body" : "body refused", undefined])
      if (Result.isSuccess(read)) must(Result.isSuccess(schema.encode(read.success)), "a body cannot be written again")
    }
    if (deep) again(type, decoded.id, value)
    return undefined
  })
  let error: Frame.FrameError | undefined
  for (const chunk of chunks) {
    arrived += chunk.length
    error = decoder.push(chunk)
    if (decoder.heldBytes > held) held = decoder.heldBytes
    must(decoder.heldBytes <= 2 * arrived + 8, "more is held than twice what arrived")
    must(decoder.heldBytes <= limit + Frame.headerBytes, "more is held than a frame may have")
  }
  if (error !== undefined) must(Frame.describe(error).length < 200, "an error that is no line")
  const end = error === undefined
    ? (decoder.isPartial ? "half a frame" : "complete")
    : error._tag === "BadPayload"
    ? `BadPayload of a ${typeNames[error.type]}`
    : error._tag
  return { reads, end, held }
}

/** One run in a hundred arrives a byte at a time, the others in up to eight pieces. */
const chunksOf = (chance: Chance, bytes: Buffer): Array<Buffer> => {
  if (bytes.length < 4096 && chance.oneIn(100)) return Array.from(bytes, (byte) => Buffer.from([byte]))
  const cuts = Array.from({ length: chance.below(8) }, () => chance.below(bytes.length + 1)).sort((a, b) => a - b)
  return [0, ...cuts].map((from, at) => bytes.subarray(from, cuts[at] ?? bytes.length))
}

/** Runs until the first failure. Nothing it calls may throw: what is thrown is a failure. */
export const fuzz = (options: FuzzOptions): FuzzReport => {
  const { from = 0, onProgress, runs, seed } = options
  const ends: Record<string, number> = {}
  const reads: Record<string, number> = {}
  let bytes = 0
  let maxHeldBytes = 0
  let slowestMillis = 0
  let failure: string | undefined
  let run = from
  for (; run < from + runs && failure === undefined; run++) {
    const chance = new Chance(seed, run)
    const begun = performance.now()
    const string = byteString(chance)
    const limit = chance.pick(limits)
    const chunks = chunksOf(chance, string)
    try {
      const outcome = feed(chunks, limit, true)
      const whole = feed([string], limit, false)
      const frames = outcome.reads.filter(([what]) => !what.startsWith("body"))
      must(outcome.end === whole.end && isDeepStrictEqual(frames, whole.reads), "another chunking, another result")
      ends[outcome.end] = (ends[outcome.end] ?? 0) + 1
      for (const [what] of outcome.reads) reads[what] = (reads[what] ?? 0) + 1
      if (outcome.held > maxHeldBytes) maxHeldBytes = outcome.held
    } catch (error) {
      const what = error instanceof Broken ? error.message : String(error instanceof Error ? error.stack : error)
      failure = `${what}\n  repeat with: node scripts/fuzz.ts --seed ${seed} --from ${run} --runs 1\n  bytes: ${
        string.toString("hex")
      }`
    }
    bytes += string.length
    slowestMillis = Math.max(slowestMillis, performance.now() - begun)
    if (onProgress !== undefined && (run - from) % 5000 === 4999) onProgress(run - from + 1)
  }
  return { runs: run - from, bytes, ends, reads, maxHeldBytes, slowestMillis, failure }
}

// The program -----------------------------------------------------------------------------------------

/** A run that takes longer hangs: the usual one takes 20 µs. */
const hangMillis = 10_000
/** More than this on a collected heap is a leak: a run leaves nothing behind. */
const growthBytes = 16 * 1024 * 1024
/** The heap is used up before the machine's memory is. */
const heapMegabytes = 256

interface Memory {
  readonly heap: number
  readonly buffers: number
}
interface Finished {
  readonly report: FuzzReport
  readonly before: Memory
  readonly after: Memory
  readonly seconds: number
}

/** In a process of its own, so that the one that was started can see it hang and can limit its memory. */
const work = (options: FuzzOptions): void => {
  const memory = (): Memory => {
    globalThis.gc!()
    const { arrayBuffers, heapUsed } = process.memoryUsage()
    return { heap: heapUsed, buffers: arrayBuffers }
  }
  // Everything is compiled and its caches are filled before the first look.
  fuzz({ ...options, runs: Math.min(options.runs, 20_000), onProgress: undefined })
  const before = memory()
  const begun = performance.now()
  const report = fuzz({ ...options, onProgress: (done) => process.send!(done) })
  const seconds = (performance.now() - begun) / 1000
  process.send!({ report, before, after: memory(), seconds } satisfies Finished)
}

const number = (value: number): string => Math.round(value).toLocaleString("en-US")

const print = ({ after, before, report, seconds }: Finished): boolean => {
  const row = (name: string, value: string) => console.log(`  ${name.padEnd(28)}${value.padStart(16)}`)
  row("runs", number(report.runs))
  row("bytes", number(report.bytes))
  const section = (title: string, counts: Readonly<Record<string, number>>) => {
    console.log(`${title}:`)
    for (const [name, count] of Object.entries(counts).sort((a, b) => b[1] - a[1])) row(name, number(count))
  }
  section("byte strings ended", report.ends)
  section("read from them", report.reads)
  console.log("memory and time:")
  row("most bytes held", number(report.maxHeldBytes))
  row("heap before", number(before.heap))
  row("heap after", number(after.heap))
  row("buffers before", number(before.buffers))
  row("buffers after", number(after.buffers))
  row("slowest run, ms", report.slowestMillis.toFixed(1))
  row("runs per second", number(report.runs / seconds))
  const grown = Math.max(after.heap - before.heap, after.buffers - before.buffers)
  if (report.failure !== undefined) console.error(`FAILED: ${report.failure}`)
  else if (grown > growthBytes) console.error(`FAILED: the heap has grown by ${number(grown)} bytes`)
  else console.log("nothing thrown, nothing hung, nothing left behind")
  return report.failure === undefined && grown <= growthBytes
}

const argument = (name: string, otherwise: number): number => {
  const at = process.argv.indexOf(`--${name}`)
  if (at < 0) return otherwise
  const value = Number(process.argv[at + 1])
  if (Number.isSafeInteger(value) && value >= 0) return value
  throw new RangeError(`fuzz: --${name} must be an integer >= 0, got ${process.argv[at + 1]}`)
}

const main = (options: FuzzOptions): void => {
  const child = spawn(
    process.execPath,
    ["--expose-gc", `--max-old-space-size=${heapMegabytes}`, import.meta.filename, "--work", ...process.argv.slice(2)],
    { stdio: ["ignore", "inherit", "inherit", "ipc"] }
  )
  const begun = performance.now()
  let passed = false
  const hung = () => {
    console.error(`\nFAILED: no progress for ${hangMillis / 1000} s`)
    child.kill("SIGKILL")
  }
  let watchdog = setTimeout(hung, hangMillis)
  child.on("message", (message: number | Finished) => {
    clearTimeout(watchdog)
    watchdog = setTimeout(hung, hangMillis)
    if (typeof message === "number") {
      const rate = number(message / ((performance.now() - begun) / 1000))
      const line = `${number(message)} of ${number(options.runs)} runs, ${rate} per second`
      if (process.stdout.isTTY) process.stdout.write(`\r${line}`)
      else if (message % 100_000 === 0) console.log(line)
      return
    }
    if (process.stdout.isTTY) process.stdout.write("\r\u001b[K")
    passed = print(message)
  })
  child.on("exit", (code, signal) => {
    clearTimeout(watchdog)
    if (!passed && code !== 0) console.error(`FAILED: the runs ended with ${signal ?? `exit code ${code}`}`)
    process.exitCode = passed ? 0 : 1
  })
}

if (import.meta.main) {
  const options = { runs: argument("runs", 1_000_000), seed: argument("seed", 1), from: argument("from", 0) }
  if (process.argv.includes("--work")) work(options)
  else main(options)
}
