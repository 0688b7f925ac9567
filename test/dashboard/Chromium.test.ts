/**
 * The page in a real browser, while real servers fail. What it looked like is
 * left in `reports/`, to be looked at.
 */
import { assert, describe, it } from "@effect/vitest"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import * as Scope from "effect/Scope"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { chromium, type Page } from "playwright-core"
import * as Discovery from "../../src/balancer/Discovery.ts"
import * as Client from "../../src/client/Client.ts"
import type * as ClientStack from "../../src/client/ClientStack.ts"
import * as CallContext from "../../src/contract/CallContext.ts"
import * as Dashboard from "../../src/dashboard/Dashboard.ts"
import * as Faults from "../../src/demo/Faults.ts"
import { handlers, UserService } from "../../src/demo/UserService.ts"
import * as Explain from "../../src/observe/Explain.ts"
import * as Observe from "../../src/observe/Observe.ts"
import * as Snapshot from "../../src/observe/Snapshot.ts"
import * as Server from "../../src/server/Server.ts"
import * as Tcp from "../../src/transport/Tcp.ts"

const executablePath = "/usr/bin/chromium"
const isThere = Fs.existsSync(executablePath)
if (!isThere) console.log(`skipped: the dashboard's tests in a browser, because ${executablePath} is not there`)

const args = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync"
]
const wide = { width: 1280, height: 800 }
const narrow = { width: 390, height: 844 }
const reports = Path.resolve(import.meta.dirname, "../../reports")

const server = (faults: Faults.Faults) =>
  Effect.map(
    Server.make(UserService, { listen: "tcp://127.0.0.1:0" }).pipe(
      Effect.provide(Layer.provide(handlers, Layer.succeed(Faults.Current, faults)))
    ),
    ({ address }) => address
  )

const observed = (part: string) => Layer.build(Observe.layer(Snapshot.make({ part }), Explain.receiver))

/** Calls through both clients, one after the other, until the scope closes. */
const load = (addresses: ReadonlyArray<string>) =>
  Effect.gen(function*() {
    const through = Effect.fnUntraced(
      function*(part: string, policy: ClientStack.Options) {
        const context = yield* observed(part)
        const loop = Effect.gen(function*() {
          const { UserService: users } = yield* Client.make(UserService, { target: "users", policy })
          const call = Effect.exit(users.GetUserInfo({ id: 1001 }))
          yield* Effect.forkScoped(Effect.forever(Effect.andThen(call, Effect.sleep("4 millis"))))
        })
        yield* Effect.provide(loop, context)
      }
    )
    yield* through("naive", { retry: false, circuitBreaker: false })
    // Open long enough to be looked at.
    yield* through("resilient", { circuitBreaker: { openFor: { kind: "constant", base: "1500 millis" } } })
  }).pipe(Effect.provide([Tcp.layer({ agent: "test" }), Discovery.layerStatic({ users: addresses })]))

interface Browser {
  readonly page: Page
  /** What it complained of, and what it asked others for. */
  readonly complaints: ReadonlyArray<string>
}

const browse = (url: string) =>
  Effect.gen(function*() {
    const browser = yield* Effect.acquireRelease(
      Effect.promise(() => chromium.launch({ executablePath, args })),
      (browser) => Effect.promise(() => browser.close())
    )
    const page = yield* Effect.promise(() => browser.newPage({ viewport: wide, colorScheme: "light" }))
    const complaints: Array<string> = []
    page.on("pageerror", (error) => complaints.push(error.message))
    page.on("console", (message) => {
      if (message.type() === "error") complaints.push(message.text())
    })
    page.on("request", (request) => {
      if (!request.url().startsWith(url) && !request.url().startsWith("data:")) complaints.push(request.url())
    })
    yield* Effect.promise(() => page.goto(url))
    return { page, complaints } satisfies Browser
  })

const until = (page: Page, selector: string) =>
  Effect.promise(() => page.waitForSelector(selector, { timeout: 30_000 }))
const textOf = (page: Page, selector: string) => Effect.promise(() => page.locator(selector).first().innerText())

const shoot = (page: Page, name: string) =>
  Effect.promise(async () => {
    for (const colorScheme of ["light", "dark"] as const) {
      await page.emulateMedia({ colorScheme })
      await page.screenshot({ path: Path.join(reports, `dashboard-${name}-${colorScheme}.png`) })
    }
  })

const row = (address: string, state: string) =>
  `[data-part="resilient"] tr[data-endpoint="${address}"][data-state="${state}"]`

describe.skipIf(!isThere)("Dashboard in Chromium", () => {
  it.live("shows a breaker that opens and recovers, both clients apart, and comes back by itself when it was cut off", () =>
    Effect.gen(function*() {
      const faults = Faults.none()
      const addresses = yield* Effect.all([server(faults), server(Faults.none())]).pipe(Effect.provide(Tcp.layer()))
      const [bad, good] = addresses as [string, string]
      const serving = yield* Scope.fork(yield* Effect.scope)
      const { url } = yield* Scope.provide(Dashboard.make({ port: 0, interval: "100 millis" }), serving)
      const { complaints, page } = yield* browse(url)
      yield* until(page, "#empty:not([hidden])")
      yield* load(addresses)

      yield* until(page, `${row(bad, "Closed")} .badge:text-is("Closed")`)
      assert.strictEqual(yield* textOf(page, "#status"), "live")
      yield* until(page, "[data-part=\"naive\"] [data-method=\"UserService.GetUserInfo\"]")

      Faults.control(faults, { errorRatio: 1 })
      // Each of them is awaited: the circuit goes on probing while this looks.
      yield* until(page, `${row(bad, "Open")} .badge:text-is("Open")`)
      yield* until(page, `${row(bad, "Open")} .sub:text-matches("[0-9].*probe")`)
      yield* until(page, "#announcer:text-matches(\"^resilient, users@tcp:.* → Open: \")")
      yield* until(page, "#events li[data-kind=\"Transition\"][data-tone=\"bad\"]")
      // The others are well, and the naive client is not.
      yield* until(page, row(good, "Closed"))
      yield* until(page, "[data-part=\"naive\"] .now dd[data-tone=\"bad\"]")
      yield* until(page, row(bad, "Open"))
      yield* until(page, "#trouble a[data-tone=\"bad\"]:text-matches(\"^resilient: 127.* Open for [0-9]+ s$\")")
      yield* until(page, "#trouble a:text-matches(\"^naive: [0-9.]+ % answered$\")")
      assert.match(yield* Effect.promise(() => page.title()), /^\d in trouble – holdfast$/)
      yield* shoot(page, "open")
      yield* Effect.promise(() => page.locator("#calls summary").first().press("Enter"))
      yield* until(page, "#calls details[open] pre:text-matches(\"attempt 1 -> 127\")")
      // Whoever comes later sees what happened before.
      yield* Effect.promise(() => page.reload())
      yield* until(page, "#events li[data-kind=\"Transition\"][data-tone=\"bad\"]:not(.new)")

      Faults.control(faults, { errorRatio: 0 })
      yield* until(page, row(bad, "Closed"))
      yield* until(page, "#events li[data-kind=\"Transition\"][data-tone=\"good\"]")

      yield* Effect.promise(() => page.setViewportSize(narrow))
      const width = yield* Effect.promise(() => page.evaluate("document.documentElement.scrollWidth"))
      assert.isAtMost(Number(width), narrow.width)
      yield* shoot(page, "narrow")

      // What comes from elsewhere is text, whatever it says.
      const snapshot = yield* Snapshot.Snapshot
      yield* snapshot.note("<b>part</b>", "<i>about</i>", "<img src=x onerror=alert(1)>")
      const line = yield* until(page, "#events li[data-kind=\"Note\"]")
      assert.include(yield* Effect.promise(() => line.innerText()), "<img src=x onerror=alert(1)>")
      assert.strictEqual(yield* Effect.promise(() => page.locator("#events :is(b, i, img)").count()), 0)

      assert.deepStrictEqual(complaints, [])
      yield* Scope.close(serving, Exit.void)
      yield* until(page, "body[data-stale] #status[data-tone=\"bad\"]")
      assert.match(yield* textOf(page, "#status"), /^disconnected, again in \d s$/)
      yield* Dashboard.make({ port: Number(new URL(url).port), interval: "100 millis" })
      yield* until(page, "body:not([data-stale]) #status[data-tone=\"good\"]")
    }).pipe(Effect.scoped, Effect.provide([Snapshot.layer, Explain.layer(), Logger.layer([])])))

  it.live("shows of a hundred endpoints with long names those in trouble first, and where their names differ", () =>
    Effect.gen(function*() {
      const { policies } = yield* Snapshot.make({ part: "checkout" })
      const address = (i: number) => `tcp://users-7f9c6d5b4-${i + 100}.production.svc.cluster.local:7070`
      for (let i = 0; i < 100; i++) {
        const name = `users@${address(i)}`
        const endpoint = { target: "users", address: address(i), connection: "open" }
        policies!.register({ name, kind: "endpoint", snapshot: () => endpoint })
        const circuit = { _tag: i === 77 ? "Open" : "Closed", why: i === 77 ? "6 of 10 failed" : "", sinceMillis: 0 }
        policies!.register({ name, kind: "circuitBreaker", snapshot: () => circuit })
      }
      const { url } = yield* Dashboard.make({ port: 0, interval: "100 millis" })
      const { complaints, page } = yield* browse(url)
      const rows = Effect.promise(() => page.locator("tr.endpoint").count())
      yield* until(page, `tr.endpoint:first-child[data-endpoint="${address(77)}"] .badge:text-is("Open")`)
      assert.strictEqual((yield* textOf(page, "tr.endpoint .name")).replace(/\s/g, ""), "users-7f9c6d5b4-177…")
      assert.strictEqual(yield* rows, 12)
      yield* shoot(page, "many")
      yield* Effect.promise(() =>
        page.locator("button.more:text-is(\"88 more endpoints, none in trouble\")").press("Enter")
      )
      yield* until(page, "button.more[aria-expanded=true]")
      assert.strictEqual(yield* rows, 100)
      yield* Effect.promise(() => page.locator("#trouble a").press("Enter"))
      yield* until(page, `tr.endpoint[data-endpoint="${address(77)}"]:target`)
      yield* Effect.promise(() => page.setViewportSize(narrow))
      const width = yield* Effect.promise(() => page.evaluate("document.documentElement.scrollWidth"))
      assert.isAtMost(Number(width), narrow.width)
      assert.deepStrictEqual(complaints, [])
    }).pipe(Effect.scoped, Effect.provide([Snapshot.layer, Logger.layer([])])))

  it.live("draws methods whatever dots are in their names", () =>
    Effect.gen(function*() {
      const { event } = yield* Snapshot.make({ part: "files" })
      for (const name of [".hidden", "Files.Read"]) {
        event({ _tag: "CallStarted", call: { ...CallContext.empty, name }, atMillis: 0 })
      }
      const { url } = yield* Dashboard.make({ port: 0, interval: "100 millis" })
      const { page } = yield* browse(url)
      yield* until(page, "tr:has-text(\"Files.Read\")")
    }).pipe(Effect.scoped, Effect.provide([Snapshot.layer, Logger.layer([])])))
})
