/** The host and the port in an address, as the attributes of a span want them. */

export interface Place {
  readonly host: string
  readonly port: number | undefined
  readonly transport: "tcp" | undefined
}

/** What an endpoint's address (`tcp://10.0.0.7:7070`, `memory://name`) says; of anything else, all of it is the host. */
export const ofEndpoint = (address: string): Place => {
  const at = address.indexOf("://")
  const scheme = at < 0 ? "" : address.slice(0, at)
  const place = ofPeer(at < 0 ? address : address.slice(at + 3))
  const isTcp = scheme === "tcp" || scheme === "http" || scheme === "https"
  return isTcp ? { ...place, transport: "tcp" } : place
}

/** What a peer's address (`10.0.0.7:52114`, `[::1]:52114`, `::1:52114`, `memory`) says. */
export const ofPeer = (peer: string): Place => {
  const end = peer.indexOf("/")
  const authority = end < 0 ? peer : peer.slice(0, end)
  const colon = authority.lastIndexOf(":")
  const port = colon < 0 ? Number.NaN : Number(authority.slice(colon + 1))
  const isPort = Number.isInteger(port) && port >= 0 && port <= 65_535 && colon < authority.length - 1
  const host = isPort ? authority.slice(0, colon) : authority
  return { host: host.replace(/^\[|\]$/g, ""), port: isPort ? port : undefined, transport: undefined }
}
