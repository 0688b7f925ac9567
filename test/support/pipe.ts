/** A byte stream that goes nowhere: what a session hands over is kept, and turns of the event loop pass when told. */
import type { Pipe } from "../../src/transport/internal/outbox.ts"

export class FakePipe implements Pipe {
  readonly peer = "fake"
  readonly written: Array<Uint8Array> = []
  readonly told: Array<string> = []
  /** Whether the peer keeps up. */
  keepsUp = true
  private deferred: Array<() => void> = []

  readonly write = (chunks: ReadonlyArray<Uint8Array>): boolean => {
    this.written.push(Buffer.concat(chunks))
    return this.keepsUp
  }
  readonly end = (): void => void this.told.push("end")
  readonly destroy = (): void => void this.told.push("destroy")
  readonly pause = (): void => void this.told.push("pause")
  readonly resume = (): void => void this.told.push("resume")
  readonly defer = (run: () => void): void => void this.deferred.push(run)

  /** The end of a turn of the event loop. */
  turn(): void {
    for (const run of this.deferred.splice(0)) run()
  }

  get bytes(): Buffer {
    return Buffer.concat(this.written)
  }

  /** The frames handed over since the last time. */
  frames(): Array<{ readonly type: number; readonly payload: Buffer }> {
    const bytes = this.bytes
    const frames: Array<{ readonly type: number; readonly payload: Buffer }> = []
    for (let at = 0; at < bytes.length; at += 8 + bytes.readUInt32BE(at + 4)) {
      frames.push({ type: bytes[at + 3]!, payload: bytes.subarray(at + 8, at + 8 + bytes.readUInt32BE(at + 4)) })
    }
    this.written.length = 0
    return frames
  }
}
