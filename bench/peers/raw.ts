/**
 * The floor: a client and a server of the same frames with nothing around them.
 * No deadline, no cancel, no retry, no check of what arrives: what the wire costs.
 */
import * as Net from "node:net"

const header = (type: number, length: number, bytes: Buffer): void => {
  bytes.writeUInt32BE(0x4d430100 | type, 0)
  bytes.writeUInt32BE(length, 4)
}

/** Calls `onFrame` with each frame of a socket; what is incomplete waits for the next chunk. */
const frames = (
  socket: Net.Socket,
  onFrame: (type: number, bytes: Buffer, start: number, end: number) => void
): void => {
  let held: Array<Buffer> = []
  let size = 0
  let needed = 8
  socket.on("data", (chunk) => {
    held.push(chunk)
    size += chunk.length
    // Put together once all of a frame is there, or a large one is copied with each of its chunks.
    if (size < needed) return
    const bytes = held.length === 1 ? chunk : Buffer.concat(held)
    let at = 0
    needed = 8
    while (bytes.length - at >= 8) {
      const end = at + 8 + bytes.readUInt32BE(at + 4)
      if (end > bytes.length) {
        needed = end - at
        break
      }
      onFrame(bytes[at + 3]!, bytes, at + 8, end)
      at = end
    }
    size = bytes.length - at
    held = size === 0 ? [] : [bytes.subarray(at)]
  })
}

/** One write per turn of the event loop. */
const batching = (socket: Net.Socket) => {
  let out: Array<Buffer> = []
  const flush = () => {
    const batch = out
    out = []
    socket.write(batch.length === 1 ? batch[0]! : Buffer.concat(batch))
  }
  return (bytes: Buffer): void => {
    if (out.push(bytes) === 1) setImmediate(flush)
  }
}

interface Payload {
  readonly id?: number
  readonly data?: string
}

/** Answers every request for a user, or with the text it brought: read and written as JSON. */
export const serve = (): Promise<number> =>
  new Promise((resolve) => {
    const server = Net.createServer({ noDelay: true }, (socket) => {
      const write = batching(socket)
      socket.on("error", () => {})
      frames(socket, (type, bytes, start, end) => {
        if (type !== 1) return
        const method = bytes.readUInt16BE(start + 12)
        const value = JSON.parse(bytes.toString("utf8", start + 14 + method, end)) as Payload
        const answer = value.data === undefined
          ? { id: value.id, name: "Ada Lovelace", email: "ada@example.org", active: true }
          : { data: value.data }
        const body = JSON.stringify(answer)
        const length = Buffer.byteLength(body)
        const frame = Buffer.allocUnsafe(16 + length)
        header(2, 8 + length, frame)
        bytes.copy(frame, 8, start, start + 4)
        frame.writeUInt32BE(0x00010200, 12)
        frame.write(body, 16, "utf8")
        write(frame)
      })
    })
    server.listen(0, "127.0.0.1", () => resolve((server.address() as Net.AddressInfo).port))
  })

export interface RawClient {
  readonly call: (method: string, payload: unknown) => Promise<unknown>
  readonly close: () => void
}

/** A client with a table of slots, and a promise for each call. */
export const connect = (port: number): Promise<RawClient> =>
  new Promise((resolve, reject) => {
    const socket = Net.connect({ port, host: "127.0.0.1", noDelay: true })
    const slots: Array<((value: unknown) => void) | undefined> = []
    const free: Array<number> = []
    const write = batching(socket)
    frames(socket, (type, bytes, start, end) => {
      if (type !== 2) return
      const slot = bytes.readUInt32BE(start) & 0xffff
      const done = slots[slot]!
      slots[slot] = undefined
      free.push(slot)
      done(JSON.parse(bytes.toString("utf8", start + 8, end)))
    })
    socket.once("error", reject)
    socket.once("connect", () =>
      resolve({
        call: (method, payload) =>
          new Promise((done) => {
            const slot = free.pop() ?? slots.push(undefined) - 1
            slots[slot] = done
            const body = JSON.stringify(payload)
            const length = Buffer.byteLength(body)
            const frame = Buffer.allocUnsafe(8 + 14 + method.length + length)
            header(1, 14 + method.length + length, frame)
            frame.writeUInt32BE(slot, 8)
            frame.writeUInt32BE(0x01000101, 12)
            frame.writeUInt32BE(0xffffffff, 16)
            frame.writeUInt16BE(method.length, 20)
            frame.write(method, 22, "latin1")
            frame.write(body, 22 + method.length, "utf8")
            write(frame)
          }),
        close: () => socket.destroy()
      }))
  })
