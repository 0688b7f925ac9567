import { assert, describe, it } from "@effect/vitest"
import * as Draw from "../../../src/testing/internal/simDraw.ts"
import { type Fault, type Job, Server, type ServerOptions } from "../../../src/testing/internal/simServer.ts"
import { World } from "../../../src/testing/internal/simTime.ts"

const make = (options: Partial<ServerOptions> = {}) => {
  const world = new World()
  const work = { arrived: 0, refused: 0, busy: 0, useful: 0 }
  const answers: Array<readonly [name: string, answer: string, at: number]> = []
  const server = new Server(
    "one",
    world,
    {
      concurrency: 1,
      queue: 1,
      service: { kind: "constant", millis: 100 },
      contention: undefined,
      failureRatio: 0,
      failsWith: "failed",
      cancels: "nothing",
      dropsExpired: false,
      ...options
    },
    new Draw.Dice(1, "server"),
    work
  )
  const job = (name: string, deadline = Infinity): Job => ({
    deadline,
    state: "sent",
    startedAt: 0,
    stop: undefined,
    lost: () => {},
    isWanted: () => true,
    answer: (answer) => answers.push([name, answer, world.now])
  })
  const send = (name: string, deadline?: number): Job => {
    const sent = job(name, deadline)
    server.receive(sent)
    return sent
  }
  const during = (from: number, to: number, fault: Fault) => {
    world.at(from, () => server.impose(fault))
    world.at(to, () => server.lift(fault))
  }
  const end = () => world.advance(10_000, () => false)
  return { world, work, server, job, send, during, end, answers }
}

describe("a simulated server", () => {
  it("works on one at a time, lets one wait, and refuses the third", () => {
    const { answers, end, send, work } = make()
    for (const name of ["a", "b", "c"]) send(name)
    end()
    assert.deepStrictEqual(answers, [["c", "overloaded", 0], ["a", "ok", 100], ["b", "ok", 200]])
    assert.deepStrictEqual(work, { arrived: 3, refused: 1, busy: 200, useful: 200 })
  })

  it("does nothing while it is frozen: what it had takes as much longer, whether it ends in the frost or after it", () => {
    const over = make()
    over.send("a")
    over.during(20, 40, { freezes: true })
    over.end()
    assert.deepStrictEqual(over.answers, [["a", "ok", 120]])
    const within = make()
    within.send("a")
    within.during(50, 150, { freezes: true })
    within.world.at(60, () => within.send("b"))
    within.end()
    assert.deepStrictEqual(within.answers, [["a", "ok", 200], ["b", "ok", 300]])
  })

  it("refuses nobody while it is frozen: who is too many hears of it afterwards, and who was killed in the frost never", () => {
    const { answers, during, end, send, work, world } = make()
    during(0, 50, { freezes: true })
    for (const name of ["a", "b", "c"]) world.at(10, () => send(name))
    end()
    assert.deepStrictEqual(answers, [["c", "overloaded", 50], ["a", "ok", 150], ["b", "ok", 250]])
    assert.deepStrictEqual([work.arrived, work.refused], [3, 1])
    const killed = make()
    killed.during(0, 50, { freezes: true })
    killed.world.at(10, () => killed.send("a"))
    killed.world.at(20, () => killed.server.lose())
    killed.end()
    assert.deepStrictEqual(killed.answers, [])
  })

  it("faults that overlap add up, and go one by one", () => {
    const { answers, during, end, send, world } = make({ concurrency: 10 })
    during(0, 50, { factor: () => 2 })
    during(0, 150, { factor: () => 3, add: { kind: "constant", millis: 7 } })
    for (const at of [10, 100, 200]) world.at(at, () => send(`at ${at}`))
    end()
    assert.deepStrictEqual(answers, [["at 200", "ok", 300], ["at 100", "ok", 407], ["at 10", "ok", 617]])
  })

  it("is longer at work the more it holds above a mark", () => {
    const { answers, end, send } = make({
      concurrency: 4,
      contention: { above: 1, factor: 0.5, perRequest: 3 }
    })
    for (const name of ["a", "b", "c"]) send(name)
    end()
    assert.deepStrictEqual(answers, [["a", "ok", 100], ["b", "ok", 100], ["c", "ok", 153]])
  })

  it("one that is given up in the queue makes room, where the server listens", () => {
    for (const cancels of ["nothing", "queued"] as const) {
      const { answers, end, send, server, world } = make({ cancels })
      send("a")
      const b = send("b")
      world.at(10, () => server.cancel(b))
      world.at(20, () => send("c"))
      end()
      assert.deepStrictEqual(
        answers.find(([name]) => name === "c"),
        cancels === "nothing" ? ["c", "overloaded", 20] : ["c", "ok", 200]
      )
      assert.strictEqual(answers.some(([name]) => name === "b"), cancels === "nothing")
      assert.strictEqual(server.queued, 0)
    }
  })

  it("one that is given up at work frees its worker, where the server stops for it", () => {
    const { answers, end, send, server, work, world } = make({ cancels: "everything" })
    const a = send("a")
    send("b")
    world.at(30, () => server.cancel(a))
    end()
    assert.deepStrictEqual(answers, [["b", "ok", 130]])
    assert.strictEqual(work.busy, 130)
  })

  it("drops what has expired when its turn comes, where it is told to", () => {
    const { answers, end, send } = make({ dropsExpired: true })
    send("a")
    send("b", 99)
    end()
    assert.deepStrictEqual(answers, [["b", "expired", 100], ["a", "ok", 100]])
  })

  it("what is given up before it arrives is never worked on, and takes nobody's place", () => {
    const { answers, end, job, send, server, work, world } = make({ cancels: "queued" })
    const early = job("early")
    server.cancel(early)
    world.at(10, () => server.receive(early))
    world.at(20, () => send("a"))
    end()
    assert.deepStrictEqual(answers, [["a", "ok", 120]])
    assert.deepStrictEqual([server.running, server.queued, work.busy], [0, 0, 100])
  })

  it("what was lost when it was killed is not given up once more", () => {
    const { answers, end, send, server, world } = make({ cancels: "everything" })
    const [a, b] = [send("a"), send("b")]
    world.at(50, () => server.lose())
    world.at(60, () => [a, b].forEach((lost) => server.cancel(lost)))
    world.at(70, () => ["c", "d"].forEach((name) => send(name)))
    end()
    assert.deepStrictEqual(answers, [["c", "ok", 170], ["d", "ok", 270]])
    assert.deepStrictEqual([server.running, server.queued], [0, 0])
  })

  it("loses everything when it is killed, and begins anew", () => {
    const { answers, end, send, server, world } = make()
    send("a")
    send("b")
    world.at(50, () => server.lose())
    world.at(60, () => send("c"))
    end()
    assert.deepStrictEqual(answers, [["c", "ok", 160]])
    assert.deepStrictEqual([server.running, server.queued], [0, 0])
  })
})
