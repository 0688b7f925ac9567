/**
 * `holdfast call`: one call to one address, JSON in and JSON out.
 *
 * It needs no contract: the method is an rpc made here, whose payload, success
 * and error are any JSON. What the server's contract makes of the payload, the
 * server says.
 */
import * as Cause from "effect/Cause"
import * as Argument from "effect/cli/Argument"
import * as Command from "effect/cli/Command"
import * as Flag from "effect/cli/Flag"
import * as Console from "effect/Console"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Rpc from "effect/rpc/Rpc"
import * as RpcGroup from "effect/rpc/RpcGroup"
import * as Schema from "effect/Schema"
import * as Stdio from "effect/Stdio"
import * as Discovery from "../balancer/Discovery.ts"
import * as Client from "../client/Client.ts"
import type * as ClientStack from "../client/ClientStack.ts"
import * as CallError from "../contract/CallError.ts"
import * as Contract from "../contract/Contract.ts"
import * as Explain from "../observe/Explain.ts"
import * as Tcp from "../transport/Tcp.ts"
import { duration, Ended, ExitCode, isAddress, noAddress } from "./Flags.ts"

const description = `Call a method and print its answer as JSON.

  An error of the method's contract, or of the call, is one line on standard error.
  With --explain, what was decided on the way comes below it, also when all is well.

  Exit codes: 0 the method answered; 1 the command line makes no sense;
  2 the method failed with an error of its contract; 3 the call failed (CallError).`

const config = {
  address: Argument.String("address").pipe(
    Argument.filter(isAddress, noAddress),
    Argument.withDescription("Where the server listens: tcp://host:port")
  ),
  method: Argument.String("method").pipe(
    Argument.filter((text) => /^[^.]+(\.[^.]+)*$/.test(text), (text) => `Service.Method, got ${text}`),
    Argument.withDescription("The method's full name, such as UserService.GetUserInfo")
  ),
  payload: Argument.String("payload").pipe(
    Argument.filterMap(Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Unknown)), () => "JSON"),
    Argument.withDescription("The payload as JSON; none is null"),
    Argument.optional
  ),
  deadline: duration("deadline").pipe(
    Flag.withDescription("How long the call may take in all, every attempt included (10s)"),
    Flag.optional
  ),
  attempts: Flag.Int("attempts").pipe(
    Flag.filter((count) => count >= 1 && count <= 10, (count) => `1 to 10, got ${count}`),
    Flag.withAlias("n"),
    Flag.withDescription(
      "How often it may be sent; more than once only what provably never arrived, or with --idempotent"
    ),
    Flag.withDefault(1)
  ),
  timeout: duration("timeout").pipe(
    Flag.withDescription("How long one attempt may take (no limit but the deadline)"),
    Flag.optional
  ),
  idempotent: Flag.Boolean("idempotent").pipe(
    Flag.withDescription("The call may be sent twice"),
    Flag.withDefault(false)
  ),
  explain: Flag.Boolean("explain").pipe(
    Flag.withDescription("Print what was decided, attempt by attempt, on standard error"),
    Flag.withDefault(false)
  ),
  json: Flag.Boolean("json").pipe(
    Flag.withDescription("Print errors as JSON, and what --explain says"),
    Flag.withDefault(false)
  )
}

/** The other side's name in messages, which state its address besides. */
const target = "server"

type Any = (payload: unknown, options: Client.CallOptions) => Effect.Effect<unknown, unknown>

/** The method where the client nests it. */
const methodOf = (client: unknown, name: string): Any =>
  name.split(".").reduce((node, segment) => (node as Record<string, unknown>)[segment], client) as Any

const stackOf = (attempts: number, timeout: Duration.Duration | undefined): ClientStack.Options => ({
  // One attempt fails for its own reason, not for being the last.
  // A person waits for this one call: there is no load to bound, and nothing yet to earn a budget with.
  retry: attempts === 1 ? false : { attempts, budget: false },
  circuitBreaker: false,
  timeout: timeout ?? false
})

export const call = Command.make("call", config, (input) =>
  Effect.gen(function*() {
    const rpc = Rpc.make(input.method, { payload: Schema.Unknown, success: Schema.Unknown, error: Schema.Unknown })
      .annotate(Contract.Idempotent, input.idempotent)
    const client = yield* Client.make(RpcGroup.make(rpc), {
      target,
      policy: stackOf(input.attempts, Option.getOrUndefined(input.timeout))
    })
    const deadline = Option.getOrUndefined(input.deadline)
    const made = methodOf(client, input.method)(Option.getOrNull(input.payload), { deadline })
    return yield* input.explain
      ? Explain.call(made)
      : Effect.map(Effect.exit(made), (exit) => ({ exit, log: undefined }))
  }).pipe(
    Effect.scoped,
    Effect.provide([
      Discovery.layerStatic({ [target]: [input.address] }),
      Tcp.layer({ agent: "holdfast call" })
    ]),
    Effect.flatMap(({ exit, log }) => {
      const said = Exit.isSuccess(exit) ? answered(exit.value) : failed(exit.cause, input.json)
      return log === undefined ? said : Effect.ensuring(said, explained(log, input.json))
    })
  )).pipe(Command.withDescription(description), Command.withShortDescription("Call a method, JSON in and JSON out"))

const answered = Effect.fnUntraced(function*(value: unknown) {
  const isTerminal = yield* (yield* Stdio.Stdio).stdoutIsTerminal
  yield* Console.log(JSON.stringify(value ?? null, null, isTerminal ? 2 : 0))
})

const explained = (log: Explain.Explanation, json: boolean): Effect.Effect<void> =>
  Console.error(json ? JSON.stringify(Explain.encode(log)) : Explain.text(log))

/** A schema says what is wrong over several lines. */
const oneLine = (text: string): string => text.replaceAll(/\s*\n\s*/g, " ")

const failed = Effect.fnUntraced(function*(cause: Cause.Cause<unknown>, json: boolean) {
  const [reason] = cause.reasons
  if (reason === undefined || !Cause.isFailReason(reason)) return yield* Effect.failCause(cause as Cause.Cause<never>)
  const { error } = reason
  if (CallError.isCallError(error)) {
    yield* Console.error(json ? JSON.stringify(error) : oneLine(`CallError ${error.reason._tag}: ${error.message}`))
    return yield* new Ended({ code: ExitCode.call })
  }
  const tag = typeof error === "object" && error !== null && "_tag" in error ? String(error._tag) : "error"
  yield* Console.error(json ? JSON.stringify(error) : `${tag} ${JSON.stringify(error)}`)
  return yield* new Ended({ code: ExitCode.domain })
})
