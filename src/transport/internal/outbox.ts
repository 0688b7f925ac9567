/**
 * What one side of a session has to say, gathered and handed over once per tick.
 *
 * Frames written in one turn of the event loop leave in one write: 3 to 4 times
 * the throughput of a write per frame. A body too large to be worth copying goes
 * out as a buffer of its own between its neighbours.
 */
import type * as Interruption from "../../contract/Interruption.ts"
import type * as Frame from "../../wire/Frame.ts"
import { Encoder } from "../../wire/FrameCodec.ts"

/** A byte stream to one peer. */
export interface Pipe {
  readonly peer: string
  /** Hands the chunks over, in order; `false` when the peer is not keeping up, until `onDrain`. */
  readonly write: (chunks: ReadonlyArray<Uint8Array>) => boolean
  /** Ends our side once everything written has left. */
  readonly end: () => void
  /** Ends both sides now. */
  readonly destroy: () => void
  /** Stops and resumes reading from the peer. */
  readonly pause: () => void
  readonly resume: () => void
  /** Runs something at the end of the present turn of the event loop. */
  readonly defer: (run: () => void) => void
}

/** Bodies up to this are copied behind their frame; a second buffer per write costs about as much as copying 16 KiB. */
const copyLimit = 16 * 1024

/**
 * Most bytes handed over at a time. Whether a peer reads is only known by the
 * whole of what was handed over: at 256 KiB within 30 s a peer of 9 kB/s does.
 */
const pieceBytes = 256 * 1024

export class Outbox {
  private readonly pipe: Pipe
  private readonly encoder = new Encoder()
  private chunks: Array<Uint8Array> = []
  /** The first of `chunks` that has not been handed over. */
  private next = 0
  private chunkBytes = 0
  private scheduled = false
  private ended = false
  private closed = false
  /** Whether the peer keeps up. While it does not, nothing is handed over. */
  congested = false
  /** Flushes begun. A frame written now leaves with flush `flushes + 1`. */
  flushes = 0

  private readonly onCongested: () => void

  constructor(pipe: Pipe, onCongested: () => void) {
    this.pipe = pipe
    this.onCongested = onCongested
  }

  request(id: number, request: Frame.Request, nowMillis: number, metadataSize: number): void {
    this.encoder.request(id, request, nowMillis, metadataSize)
    this.body(request.body)
  }

  response(id: number, response: Frame.Response, metadataSize: number): void {
    this.encoder.response(id, response, metadataSize)
    this.body(response.body)
  }

  cancel(id: number, reason: Interruption.Reason): void {
    this.encoder.cancel(id, reason)
    this.schedule()
  }

  ping(type: 4 | 5, bytes: Uint8Array): void {
    this.encoder.ping(type, bytes)
    this.schedule()
  }

  goingAway(why: string): void {
    this.encoder.goingAway(why)
    this.schedule()
  }

  hello(hello: Frame.Hello): void {
    this.encoder.hello(hello)
    this.schedule()
  }

  /** Bytes that have not been handed over. */
  get unsentBytes(): number {
    return this.chunkBytes + this.encoder.length
  }

  private add(chunk: Uint8Array): void {
    this.chunks.push(chunk)
    this.chunkBytes += chunk.length
  }

  /** Ends our side of the stream behind what has been written. */
  end(): void {
    this.ended = true
    this.schedule()
  }

  /** Forgets what has not left, and takes nothing more: the session is over. */
  close(): void {
    this.closed = true
    this.chunks = []
    this.next = 0
  }

  /** The peer keeps up again. */
  drained(): void {
    this.congested = false
    this.schedule()
  }

  private body(body: Uint8Array): void {
    if (body.length <= copyLimit) this.encoder.body(body)
    else {
      this.add(this.encoder.take())
      this.add(body)
    }
    this.schedule()
  }

  private schedule(): void {
    if (this.scheduled || this.congested || this.closed) return
    this.scheduled = true
    this.pipe.defer(this.flush)
  }

  private readonly flush = (): void => {
    this.scheduled = false
    if (this.congested || this.closed) return
    this.flushes++
    if (this.encoder.length > 0) this.add(this.encoder.take())
    while (this.next < this.chunks.length && !this.congested) this.congested = !this.pipe.write(this.piece())
    if (this.congested) this.onCongested()
    if (this.next < this.chunks.length) return
    this.chunks = []
    this.next = 0
    if (this.ended) this.pipe.end()
  }

  /** The next bytes to hand over; a chunk that is too large is cut. */
  private piece(): ReadonlyArray<Uint8Array> {
    const piece: Array<Uint8Array> = []
    let room = pieceBytes
    while (room > 0 && this.next < this.chunks.length) {
      const chunk = this.chunks[this.next]!
      if (chunk.length > room) {
        piece.push(chunk.subarray(0, room))
        this.chunks[this.next] = chunk.subarray(room)
        this.chunkBytes -= room
        break
      }
      piece.push(chunk)
      this.chunkBytes -= chunk.length
      room -= chunk.length
      this.next++
    }
    return piece
  }
}
