import * as wire from "./groups/wire.ts"
for (const c of await wire.calls(64, true)()) {
  for (const n of [640, 6400, 20000]) {
    const u = process.cpuUsage(); const t = performance.now()
    const r = await Promise.race([Promise.resolve(c.run(n)).then(() => "ok"), new Promise((d) => setTimeout(() => d("HANG"), 8000))])
    const v = process.cpuUsage(u)
    console.log(c.name, n, r, Math.round(n / (performance.now() - t) * 1000) + "/s", ((v.user + v.system) / n).toFixed(1) + " us cpu")
  }
}
wire.cleanup()
process.exit(0)
