import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, type Layer, Stream } from "effect"
import { HttpBody, HttpClient, HttpClientError, HttpClientRequest, HttpClientResponse } from "effect/http"
import { TestClock } from "effect/testing"
import * as Http from "node:http"
import type * as Net from "node:net"
import * as HttpPolicy from "../../src/client/HttpPolicy.ts"
import * as CallError from "../../src/contract/CallError.ts"
import * as CallEvent from "../../src/contract/CallEvent.ts"
import * as Backoff from "../../src/policy/Backoff.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as Retry from "../../src/policy/Retry.ts"
import * as Timeout from "../../src/policy/Timeout.ts"

type Answer =
  | { readonly status: number; readonly headers?: Record<string, string>; readonly after?: number }
  | { readonly code: string }
  | "hang"

/** A client that answers from a list, of which the last goes on, and keeps what it was asked. */
const fake = (...answers: ReadonlyArray<Answer>) => {
  const seen: Array<HttpClientRequest.HttpClientRequest> = []
  const client = HttpClient.make((request) => {
    seen.push(request)
    const answer = answers[Math.min(seen.length, answers.length) - 1]!
    if (answer === "hang") return Effect.never
    if ("code" in answer) {
      const cause = new TypeError("fetch failed", { cause: Object.assign(new Error("x"), { code: answer.code }) })
      return Effect.fail(
        new HttpClientError.HttpClientError({ reason: new HttpClientError.TransportError({ request, cause }) })
      )
    }
    const { after = 0, headers = {}, status } = answer
    const response = HttpClientResponse.fromWeb(
      request,
      new Response(status === 204 || status === 304 ? null : "body", { status, headers })
    )
    return Effect.delay(Effect.succeed(response), after)
  })
  return { client, seen }
}

const retry = Retry.make({ attempts: 3, backoff: Backoff.constant({ base: 100, jitter: "none" }) })

/** What a request ends with under three attempts: its status, or the tag of its error; and how often it was sent. */
const outcome = (
  answers: ReadonlyArray<Answer>,
  request: HttpClientRequest.HttpClientRequest = HttpClientRequest.get("http://shop.test/carts/1")
) =>
  Effect.gen(function*() {
    const { client, seen } = fake(...answers)
    const guarded = HttpPolicy.apply(client, yield* retry)
    const ended = Effect.match(guarded.execute(request), {
      onSuccess: (response) => response.status,
      onFailure: (error) => error.reason._tag
    })
    const fiber = yield* Effect.forkChild(ended, { startImmediately: true })
    yield* TestClock.adjust("1 minute")
    return [yield* Fiber.join(fiber), seen.length]
  })

const url = "http://shop.test/carts/1"
const text = HttpClientRequest.bodyText("an order")

describe("HttpPolicy", () => {
  it.effect("an error that gives up says what the system called the last one, however deep it lies", () =>
    Effect.gen(function*() {
      const { client } = fake({ code: "ECONNREFUSED" })
      const guarded = HttpPolicy.apply(
        client,
        yield* Retry.make({ attempts: 2, backoff: Backoff.constant({ base: 0 }) })
      )
      const error = yield* Effect.flip(guarded.get("http://shop.test/carts/1"))
      assert.match(error.message, /gave up after 2 attempts in .*; last: .*\(ECONNREFUSED\)$/)
    }))

  const requests: ReadonlyArray<readonly [string, HttpClientRequest.HttpClientRequest, number]> = [
    ["GET", HttpClientRequest.get(url), 2],
    ["HEAD", HttpClientRequest.head(url), 2],
    ["OPTIONS", HttpClientRequest.options(url), 2],
    ["PUT", text(HttpClientRequest.put(url)), 2],
    ["DELETE", HttpClientRequest.delete(url), 2],
    ["POST", text(HttpClientRequest.post(url)), 1],
    ["PATCH", text(HttpClientRequest.patch(url)), 1],
    ["POST with a key", text(HttpClientRequest.post(url)).pipe(HttpClientRequest.setHeader("Idempotency-Key", "k")), 2],
    [
      "PUT of a stream",
      HttpClientRequest.put(url).pipe(HttpClientRequest.bodyStream(Stream.make(new Uint8Array(1)))),
      1
    ],
    ["PUT of a raw body", HttpClientRequest.put(url).pipe(HttpClientRequest.setBody(HttpBody.raw({}))), 1]
  ]
  for (const [what, request, sends] of requests) {
    it.effect(`sends ${what} ${sends === 1 ? "once" : "again"} after a 500`, () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(
          yield* outcome([{ status: 500 }, { status: 200 }], request),
          [sends === 1 ? 500 : 200, sends]
        )
      }))
  }

  it.effect("keeps the request as it was over all attempts", () =>
    Effect.gen(function*() {
      const { client, seen } = fake({ status: 503 }, { status: 200 })
      const guarded = client.pipe(HttpPolicy.apply(yield* retry))
      const request = HttpClientRequest.post(url).pipe(text, HttpClientRequest.setHeader("Idempotency-Key", "k"))
      const fiber = yield* Effect.forkChild(guarded.execute(request), { startImmediately: true })
      yield* TestClock.adjust(100)
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(seen.map(({ headers }) => headers["idempotency-key"]), ["k", "k"])
    }))

  const statuses: ReadonlyArray<readonly [number, number]> = [
    [200, 1],
    [204, 1],
    [304, 1],
    [400, 1],
    [404, 1],
    [408, 1],
    [409, 1],
    [429, 3],
    [500, 3],
    [501, 1],
    [502, 3],
    [503, 3],
    [504, 3],
    [505, 1]
  ]
  for (const [status, sends] of statuses) {
    it.effect(`answers with a ${status} that goes on, as a response, after ${sends} of 3 attempts`, () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* outcome([{ status }]), [status, sends])
      }))
  }

  it.effect("sends again after a 429 what was not processed, whatever the method", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* outcome([{ status: 429 }, { status: 201 }], text(HttpClientRequest.post(url))), [
        201,
        2
      ])
      assert.deepStrictEqual(yield* outcome([{ status: 503 }, { status: 201 }], text(HttpClientRequest.post(url))), [
        503,
        1
      ])
    }))

  const errors: ReadonlyArray<readonly [string, number, number]> = [
    ["ECONNREFUSED", 3, 3],
    ["ENOTFOUND", 3, 3],
    ["EHOSTUNREACH", 3, 3],
    ["UND_ERR_CONNECT_TIMEOUT", 3, 3],
    ["CERT_HAS_EXPIRED", 3, 3],
    ["ECONNRESET", 3, 1],
    ["EPIPE", 3, 1],
    ["UND_ERR_SOCKET", 3, 1]
  ]
  for (const [code, get, post] of errors) {
    it.effect(`sends a GET ${get} times and a POST ${post} when the network says ${code}`, () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* outcome([{ code }]), ["RetriesExhausted", get])
        assert.deepStrictEqual(
          yield* outcome([{ code }], text(HttpClientRequest.post(url))),
          [post === 1 ? "TransportError" : "RetriesExhausted", post]
        )
      }))
  }

  it.effect("sends a stream once even where it provably never arrived: nobody knows how far it was read", () =>
    Effect.gen(function*() {
      const request = HttpClientRequest.post(url).pipe(HttpClientRequest.bodyStream(Stream.make(new Uint8Array(1))))
      assert.deepStrictEqual(yield* outcome([{ code: "ECONNREFUSED" }], request), ["TransportError", 1])
      assert.deepStrictEqual(yield* outcome([{ status: 429 }], request), [429, 1])
    }))

  it.effect("ends with the error where the last attempt had no response, and with the response where it had one", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* outcome([{ status: 503 }, { status: 503 }, { code: "ECONNRESET" }]), [
        "RetriesExhausted",
        3
      ])
      assert.deepStrictEqual(yield* outcome([{ code: "ECONNRESET" }, { code: "ECONNRESET" }, { status: 503 }]), [
        503,
        3
      ])
    }))

  const waits: ReadonlyArray<readonly [string, Record<string, string>, number]> = [
    ["seconds", { "retry-after": "7" }, 7000],
    ["a date, against the response's own", {
      "retry-after": "Wed, 21 Oct 2015 07:28:09 GMT",
      date: "Wed, 21 Oct 2015 07:28:00 GMT"
    }, 9000],
    ["a date, against our clock", { "retry-after": "Thu, 01 Jan 1970 00:00:05 GMT" }, 5000],
    // RFC 9110 5.6.7: a recipient understands the two old forms, which are of GMT as well.
    ["a date as RFC 850 has it", {
      "retry-after": "Wednesday, 21-Oct-15 07:28:09 GMT",
      date: "Wed, 21 Oct 2015 07:28:00 GMT"
    }, 9000],
    ["a date as asctime has it, wherever we are", {
      "retry-after": "Wed Oct 21 07:28:09 2015",
      date: "Wed, 21 Oct 2015 07:28:00 GMT"
    }, 9000],
    ["a date of another zone", { "retry-after": "Wed, 31 Dec 1969 19:00:05 -0500" }, 5000],
    ["milliseconds, in a header of their own", { "retry-after-ms": "1500", "retry-after": "2" }, 1500],
    ["seconds with a fraction", { "retry-after": "2.5" }, 2500],
    ["a negative number, which is no hint", { "retry-after": "-30" }, 100],
    ["a date that is over", { "retry-after": "Thu, 01 Jan 1970 00:00:00 GMT" }, 100],
    ["nonsense", { "retry-after": "in a while" }, 100]
  ]
  for (const [what, headers, millis] of waits) {
    for (const status of [429, 503]) {
      it.effect(`waits at least as long as a ${status} says: ${what}`, () =>
        Effect.gen(function*() {
          const { client, seen } = fake({ status, headers }, { status: 200 })
          const guarded = HttpPolicy.apply(client, yield* retry)
          const fiber = yield* Effect.forkChild(guarded.get(url), { startImmediately: true })
          yield* TestClock.adjust(millis - 1)
          assert.lengthOf(seen, 1)
          // Upwards it is jittered by a fifth.
          yield* TestClock.adjust(Math.ceil(millis / 5) + 1)
          assert.strictEqual((yield* Fiber.join(fiber)).status, 200)
        }))
    }
  }

  it.effect("opens a circuit at what fails, not at what is refused, and then answers with an error", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ consecutiveFailures: 2, openFor: "10 seconds", jitter: 0 })
      const { client, seen } = fake({ status: 404 }, { status: 404 }, { status: 500 }, { status: 502 })
      const guarded = HttpPolicy.apply(client, breaker)
      const got: Array<number> = []
      for (let i = 0; i < 4; i++) got.push((yield* guarded.get(url)).status)
      assert.deepStrictEqual(got, [404, 404, 500, 502])
      const error = yield* Effect.flip(guarded.get(url))
      assert.isTrue(CallError.isCallError(error) && error.reason._tag === "CircuitOpen")
      assert.lengthOf(seen, 4)
    }))

  it.effect("opens a circuit for as long as a 503 says, and not for a 429", () =>
    Effect.gen(function*() {
      for (const [status, state] of [[503, "Open"], [429, "Closed"]] as const) {
        const breaker = yield* CircuitBreaker.make()
        const guarded = HttpPolicy.apply(fake({ status, headers: { "retry-after": "20" } }).client, breaker)
        yield* guarded.get(url)
        assert.strictEqual((yield* breaker.state)._tag, state)
      }
    }))

  it.effect("answers with the last response when a circuit opens in the middle, or the wait does not fit the deadline", () =>
    Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make({ consecutiveFailures: 1 })
      const policy = Policy.stack({ retry: yield* retry, circuitBreaker: breaker })
      const { client, seen } = fake({ status: 500 })
      const fiber = yield* Effect.forkChild(HttpPolicy.apply(client, policy).get(url), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([(yield* Fiber.join(fiber)).status, seen.length], [500, 1])
      const late = HttpPolicy.apply(fake({ status: 503, headers: { "retry-after": "25" } }).client, yield* retry)
      const response = yield* Timeout.withDeadline(late.get(url), "5 seconds")
      assert.deepStrictEqual([response.status, yield* response.text], [503, "body"])
    }))

  it.effect("answers with an error when the deadline passes during an attempt: what came before is closed by then", () =>
    Effect.gen(function*() {
      const guarded = HttpPolicy.apply(fake({ status: 503 }, "hang").client, yield* retry)
      const fiber = yield* Effect.forkChild(Effect.flip(Timeout.withDeadline(guarded.get(url), "5 seconds")), {
        startImmediately: true
      })
      yield* TestClock.adjust("5 seconds")
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(error.reason._tag, "DeadlineExceeded")
    }))

  it.effect("limits an attempt until the headers are there", () =>
    Effect.gen(function*() {
      const policy = Policy.stack({ retry: yield* retry, timeout: yield* Timeout.make({ timeout: "1 second" }) })
      const { client, seen } = fake("hang", { status: 200, after: 999 })
      const fiber = yield* Effect.forkChild(HttpPolicy.apply(client, policy).get(url), { startImmediately: true })
      yield* TestClock.adjust("3 seconds")
      assert.deepStrictEqual([(yield* Fiber.join(fiber)).status, seen.length], [200, 2])
    }))

  it.effect("names a call by method and origin, keys it by origin, and reports it and its attempts", () =>
    Effect.gen(function*() {
      const events: Array<CallEvent.CallEvent> = []
      const receiver: CallEvent.Receiver = { event: (event) => void events.push(event) }
      const guarded = HttpPolicy.apply(fake({ status: 500 }, { status: 200 }).client, yield* retry)
      const fiber = yield* guarded.get("https://shop.test:8443/carts/1?q=x").pipe(
        Effect.provideService(CallEvent.CurrentReceiver, receiver),
        Effect.forkChild({ startImmediately: true })
      )
      yield* TestClock.adjust(100)
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(events.map(({ _tag }) => _tag), [
        "CallStarted",
        "AttemptStarted",
        "AttemptEnded",
        "RetryScheduled",
        "AttemptStarted",
        "AttemptEnded",
        "CallEnded"
      ])
      const ended = events.flatMap((event) => event._tag === "AttemptEnded" ? [event] : [])
      assert.deepStrictEqual(
        ended.map(({ call, endpoint, outcome }) => [call.name, call.key, call.attempt, endpoint, outcome.endpoint]),
        [
          ["GET https://shop.test:8443", "https://shop.test:8443", 1, "https://shop.test:8443", "failure"],
          ["GET https://shop.test:8443", "https://shop.test:8443", 2, "https://shop.test:8443", "success"]
        ]
      )
    }))

  it.effect("reports a call that is answered with a status of failure as failed, and puts hooks around it", () =>
    Effect.gen(function*() {
      const told: Array<string> = []
      const receiver: CallEvent.Receiver = {
        event: (event) => {
          if (event._tag !== "AttemptEnded" && event._tag !== "CallEnded") return
          const { call, error, interrupted, outcome } = event
          const tag = error instanceof CallError.CallError ? error.reason._tag : "-"
          const attempts = event._tag === "CallEnded" ? event.attempts : call.attempt
          told.push(`${event._tag} ${attempts} ${outcome.endpoint} ${outcome.retry} ${tag} ${interrupted ?? "-"}`)
        },
        aroundCall: (self, call) => Effect.onExit(self, () => Effect.sync(() => told.push(`around ${call.name}`))),
        aroundAttempt: (self, call) =>
          Effect.onExit(self(undefined), () => Effect.sync(() => told.push(`around attempt ${call.attempt}`)))
      }
      const looked = Effect.provideService(CallEvent.CurrentReceiver, receiver)
      const { client } = fake({ status: 500 }, { status: 503 })
      const fiber = yield* HttpPolicy.apply(client, yield* retry).get(url).pipe(looked, Effect.forkChild)
      yield* TestClock.adjust("1 minute")
      assert.strictEqual((yield* Fiber.join(fiber)).status, 503)
      assert.deepStrictEqual(told.splice(0), [
        "around attempt 1",
        "AttemptEnded 1 failure ifIdempotent Remote -",
        "around attempt 2",
        "AttemptEnded 2 failure ifIdempotent Unavailable -",
        "around attempt 3",
        "AttemptEnded 3 failure ifIdempotent Unavailable -",
        "around GET http://shop.test",
        "CallEnded 3 failure ifIdempotent Unavailable -"
      ])
      const hung = yield* HttpPolicy.apply(fake("hang").client, yield* retry).get(url).pipe(looked, Effect.forkChild)
      yield* TestClock.adjust(1)
      yield* Fiber.interrupt(hung)
      assert.deepStrictEqual(told, [
        "around attempt 1",
        "AttemptEnded 1 ignored never - caller",
        "around GET http://shop.test",
        "CallEnded 1 ignored never - caller"
      ])
    }))

  it.effect("reports a failure of what cannot be sent again as final", () =>
    Effect.gen(function*() {
      const outcomes: Array<unknown> = []
      const receiver: CallEvent.Receiver = {
        event: (event) => {
          if (event._tag === "AttemptEnded" || event._tag === "CallEnded") outcomes.push(event.outcome)
        }
      }
      const request = HttpClientRequest.post(url).pipe(HttpClientRequest.bodyStream(Stream.make(new Uint8Array(1))))
      const guarded = HttpPolicy.apply(fake({ status: 503 }).client, yield* retry)
      const { status } = yield* guarded.execute(request).pipe(
        Effect.provideService(CallEvent.CurrentReceiver, receiver)
      )
      assert.strictEqual(status, 503)
      assert.lengthOf(outcomes, 2)
      for (const outcome of outcomes) assert.deepInclude(outcome, { endpoint: "failure", retry: "never" })
    }))

  it.effect("takes a name and a say about idempotency", () =>
    Effect.gen(function*() {
      const { client, seen } = fake({ status: 500 }, { status: 200 })
      const guarded = client.pipe(HttpPolicy.apply(yield* retry, { name: () => "search", idempotent: () => true }))
      const fiber = yield* Effect.forkChild(guarded.post(url), { startImmediately: true })
      yield* TestClock.adjust(100)
      assert.deepStrictEqual([(yield* Fiber.join(fiber)).status, seen.length], [200, 2])
    }))

  it.effect("leaves the interrupt of a caller an interrupt, before, during and between attempts", () =>
    Effect.gen(function*() {
      for (const answers of [["hang"], [{ status: 500 }]] as ReadonlyArray<ReadonlyArray<Answer>>) {
        const { client, seen } = fake(...answers)
        const fiber = yield* Effect.forkChild(HttpPolicy.apply(client, yield* retry).get(url), {
          startImmediately: true
        })
        yield* Fiber.interrupt(fiber)
        yield* TestClock.adjust("1 minute")
        assert.lengthOf(seen, 1)
      }
    }))
})

describe("HttpPolicy over a real server", () => {
  const listen = (handler: Http.RequestListener) =>
    Effect.acquireRelease(
      Effect.callback<Http.Server>((resume) => {
        const server = Http.createServer(handler)
        server.listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
      }),
      (server) =>
        Effect.sync(() => {
          server.closeAllConnections()
          server.close()
        })
    )
  const portOf = (server: Http.Server) => (server.address() as Net.AddressInfo).port
  const clients: ReadonlyArray<readonly [string, Layer.Layer<HttpClient.HttpClient>]> = [
    ["node:http", NodeHttpClient.layerNodeHttp],
    ["undici", NodeHttpClient.layerUndici]
  ]
  for (const [name, layer] of clients) {
    it.live(`retries a 503 over ${name}, closes its endless body, and reads the answer's`, () =>
      Effect.gen(function*() {
        let requests = 0
        const closed = Promise.withResolvers<void>()
        const server = yield* listen((_, response) => {
          if (++requests > 1) {
            // Only once the first one's body is closed.
            void closed.promise.then(() => response.end("at last"))
            return
          }
          response.on("close", () => closed.resolve())
          response.writeHead(503, { "content-type": "text/plain" })
          // And never ends.
          response.write("partial")
        })
        const http = yield* HttpClient.HttpClient
        const policy = yield* Retry.make({ attempts: 2, backoff: Backoff.constant({ base: 1 }) })
        const response = yield* HttpPolicy.apply(http, policy).get(`http://127.0.0.1:${portOf(server)}/`)
        assert.deepStrictEqual([response.status, yield* response.text, requests], [200, "at last", 2])
      }).pipe(Effect.scoped, Effect.provide(layer)))

    it.live(`knows a refused connection over ${name}, and repeats even a POST`, () =>
      Effect.gen(function*() {
        const server = yield* listen(() => {})
        const port = portOf(server)
        yield* Effect.callback<void>((resume) => void server.close(() => resume(Effect.void)))
        const http = yield* HttpClient.HttpClient
        const policy = yield* Retry.make({ attempts: 2, backoff: Backoff.constant({ base: 1 }) })
        const error = yield* Effect.flip(HttpPolicy.apply(http, policy).post(`http://127.0.0.1:${port}/`))
        assert.isTrue(CallError.isCallError(error) && error.reason._tag === "RetriesExhausted")
      }).pipe(Effect.scoped, Effect.provide(layer)))
  }
})
