/**
 * Power of two choices: of two endpoints drawn at random, the one with less in
 * flight.
 *
 * Two draws are nearly as even as looking at all, and do not send everybody to
 * the one that happens to be idle. Endpoints that are not fit are drawn again, a
 * few times; then all are looked at, so that a fit one is found while there is
 * one and the least unfit is picked when there is none.
 *
 * Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing"
 * (2001).
 */
import * as Endpoint from "./Endpoint.ts"

/**
 * Pairs drawn before all are looked at. With half the endpoints unfit, four pairs
 * all miss with probability 0.5^8 = 0.4 %.
 */
const pairs = 4

/**
 * Picks one endpoint that is not in `tried`, or `undefined` when all are.
 * `level` is
 * the call's level of endpoint policies; `random` draws from `[0, 1)`.
 */
export const pick = (
  endpoints: ReadonlyArray<Endpoint.Endpoint>,
  tried: ReadonlyArray<Endpoint.Endpoint>,
  level: number,
  nowMillis: number,
  random: () => number
): Endpoint.Endpoint | undefined => {
  const count = endpoints.length
  if (count === 1) return tried.includes(endpoints[0]!) ? undefined : endpoints[0]
  const rounds = count > 1 ? pairs : 0
  for (let round = 0; round < rounds; round++) {
    const first = Math.floor(random() * count)
    // From the others, so that the two differ.
    const second = (first + 1 + Math.floor(random() * (count - 1))) % count
    const better = fitter(endpoints[first]!, endpoints[second]!, tried, level, nowMillis)
    if (better !== undefined) return better
  }
  let best: Endpoint.Endpoint | undefined
  let bestRank = Infinity
  const offset = Math.floor(random() * count)
  for (let i = 0; i < count; i++) {
    const endpoint = endpoints[(offset + i) % count]!
    if (tried.includes(endpoint)) continue
    const rank = Endpoint.rank(endpoint, level, nowMillis)
    if (rank < bestRank || (rank === bestRank && endpoint.inFlight < best!.inFlight)) {
      best = endpoint
      bestRank = rank
    }
  }
  return best
}

/** The less loaded of two, of which at least one must be ready; `undefined` if none is. */
const fitter = (
  a: Endpoint.Endpoint,
  b: Endpoint.Endpoint,
  tried: ReadonlyArray<Endpoint.Endpoint>,
  level: number,
  nowMillis: number
): Endpoint.Endpoint | undefined => {
  const aReady = !tried.includes(a) && Endpoint.rank(a, level, nowMillis) === Endpoint.Rank.ready
  const bReady = !tried.includes(b) && Endpoint.rank(b, level, nowMillis) === Endpoint.Rank.ready
  if (aReady && bReady) return b.inFlight < a.inFlight ? b : a
  return aReady ? a : bReady ? b : undefined
}
