/** The same call over @grpc/grpc-js, unary, with JSON as its serialization. */
import * as Grpc from "@grpc/grpc-js"

const toBytes = (value: unknown): Buffer => Buffer.from(JSON.stringify(value))
const fromBytes = (bytes: Buffer): { readonly id: number } => JSON.parse(bytes.toString("utf8"))

const definition = {
  get: {
    path: "/Users/Get",
    requestStream: false,
    responseStream: false,
    requestSerialize: toBytes,
    requestDeserialize: fromBytes,
    responseSerialize: toBytes,
    responseDeserialize: fromBytes
  }
}

export const serve = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const server = new Grpc.Server()
    server.addService(definition, {
      get: (call: Grpc.ServerUnaryCall<{ readonly id: number }, unknown>, done: Grpc.sendUnaryData<unknown>) =>
        done(null, { id: call.request.id, name: "Ada Lovelace", email: "ada@example.org", active: true })
    })
    server.bindAsync("127.0.0.1:0", Grpc.ServerCredentials.createInsecure(), (error, port) =>
      error === null ? resolve(port) : reject(error))
  })

export const connect = (port: number) => {
  const Client = Grpc.makeClientConstructor(definition, "Users")
  const client = new Client(`127.0.0.1:${port}`, Grpc.credentials.createInsecure())
  return {
    call: (payload: unknown): Promise<unknown> =>
      new Promise((resolve, reject) => {
        client["get"]!(
          payload,
          (error: Error | null, value: unknown) => error === null ? resolve(value) : reject(error)
        )
      }),
    close: () => client.close()
  }
}
