import * as InMemory from "../../src/transport/InMemory.ts"
import type { ClientSession } from "../../src/transport/internal/clientSession.ts"
import * as Tcp from "../../src/transport/Tcp.ts"
import { suite } from "./transport.ts"

suite({
  name: "InMemory",
  layer: InMemory.layer,
  listen: "memory://server",
  nowhere: "memory://nobody",
  pending: (session) => session.inFlight
})

suite({
  name: "Tcp",
  layer: Tcp.layer(),
  listen: "tcp://127.0.0.1:0",
  // Ports below 1024 are given to nobody who asks for any.
  nowhere: "tcp://127.0.0.1:1",
  pending: (session) => (session as ClientSession).pendingIds
})
