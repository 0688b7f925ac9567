/**
 * A client for tests of what uses one: the real client and the real server, with
 * no socket between them, under the test's clock.
 *
 * ```ts
 * const client = yield* ClientTest.make(UserService, handlers, { policy: Profiles.idempotentRead })
 * const user = yield* client.UserService.GetUserInfo({ id: 1001 })
 * ```
 *
 * Payloads and answers pass the codec, errors are the contract's, the policy is
 * whole: with `TestClock.adjust` a deadline passes and a circuit recovers. What a
 * dependency does badly, its handlers do: fail, die, wait, refuse with
 * `Server.refuse`; what the network does, a script of `faults` does. Each client
 * has a world of its own, with as many servers as it asks for.
 */
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Rpc from "effect/rpc/Rpc"
import type * as RpcGroup from "effect/rpc/RpcGroup"
import type * as Scope from "effect/Scope"
import * as Discovery from "../balancer/Discovery.ts"
import * as Client from "../client/Client.ts"
import type * as ClientStack from "../client/ClientStack.ts"
import * as Options from "../contract/Options.ts"
import * as Server from "../server/Server.ts"
import * as InMemory from "../transport/InMemory.ts"
import * as Chaos from "./Chaos.ts"
import type * as FaultScript from "./FaultScript.ts"
import * as Leaks from "./Leaks.ts"

export interface ClientTestOptions<
  Tag extends string,
  P extends ClientStack.Options,
  M extends { readonly [T in Tag]?: ClientStack.Options }
> extends Omit<Client.ClientOptions<Tag, P, M>, "target"> {
  /** Default `"test"`. */
  readonly target?: string | undefined
  /** How many endpoints serve the handlers: an integer `>= 1`. Default 1. */
  readonly endpoints?: number | undefined
  /** What goes wrong between the client and its servers, from when it was made. Default nothing. */
  readonly faults?: FaultScript.Input | undefined
}

/**
 * Creates a client of handlers, the group's own `toLayer`, for the life of the
 * scope. What they need besides, the test provides.
 *
 * Dies with a `RangeError` on what `Client.make` and `Server.make` die on, and of
 * a script that cannot be read.
 */
export const make = <
  R extends Rpc.Any,
  HE,
  HR,
  const P extends ClientStack.Options = {},
  const M extends { readonly [T in R["_tag"]]?: ClientStack.Options } = {}
>(
  group: RpcGroup.RpcGroup<R>,
  handlers: Layer.Layer<Rpc.ToHandler<R>, HE, HR>,
  options: ClientTestOptions<R["_tag"], P, M> = {}
): Effect.Effect<Client.Client<R, P, M>, HE, Rpc.Middleware<R> | HR | Scope.Scope> =>
  Effect.gen(function*() {
    const { endpoints = 1, faults, target = "test", ...rest } = options
    Options.integer("ClientTest.make", "endpoints", endpoints, 1)
    const addresses = Array.from({ length: endpoints }, (_, n) => `memory://${target}-${n + 1}`)
    const transport = faults === undefined
      ? Leaks.transport
      : Layer.orDie(Layer.provide(Chaos.layer(faults), Leaks.transport))
    const world = yield* Layer.build(
      Layer.mergeAll(Layer.provide(transport, InMemory.layer), Discovery.layerStatic({ [target]: addresses }), handlers)
    )
    return yield* Effect.gen(function*() {
      for (const listen of addresses) {
        // Nothing is in flight that a test would wait for.
        yield* Effect.orDie(Server.make(group, { listen, drainGrace: 0 }))
      }
      return yield* Client.make(group, { ...rest, target })
    }).pipe(Effect.provide(world))
  })

/** `make` as the Layer of a service that is the client. */
export const layer = <
  Self,
  R extends Rpc.Any,
  HE,
  HR,
  const P extends ClientStack.Options = {},
  const M extends { readonly [T in R["_tag"]]?: ClientStack.Options } = {}
>(
  service: Context.Key<Self, Client.Client<R, P, M>>,
  group: RpcGroup.RpcGroup<R>,
  handlers: Layer.Layer<Rpc.ToHandler<R>, HE, HR>,
  options: ClientTestOptions<R["_tag"], P, M> = {}
): Layer.Layer<Self, HE, Rpc.Middleware<R> | HR> => Layer.effect(service, make(group, handlers, options))
