/** The same call over HTTP/1.1: undici's pool of kept-alive connections, and Node's server. */
import * as Http from "node:http"
import type { AddressInfo } from "node:net"
import { Pool } from "undici"

export const serve = (): Promise<number> =>
  new Promise((resolve) => {
    const server = Http.createServer((request, response) => {
      let text = ""
      request.setEncoding("utf8")
      request.on("data", (chunk: string) => text += chunk)
      request.on("end", () => {
        const { id } = JSON.parse(text) as { readonly id: number }
        response.setHeader("content-type", "application/json")
        response.end(JSON.stringify({ id, name: "Ada Lovelace", email: "ada@example.org", active: true }))
      })
    })
    server.listen(0, "127.0.0.1", () => resolve((server.address() as AddressInfo).port))
  })

export const connect = (port: number, connections: number) => {
  const pool = new Pool(`http://127.0.0.1:${port}`, { connections })
  return {
    call: async (payload: unknown): Promise<unknown> => {
      const { body } = await pool.request({
        path: "/Users/Get",
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(payload)
      })
      return body.json()
    },
    close: () => void pool.destroy()
  }
}
