import { defineConfig } from "vitest/config"

const source = (path: string) => new URL(`src/${path}`, import.meta.url).pathname

export default defineConfig({
  resolve: {
    // Examples import the package by its name, as an application does.
    alias: [
      { find: /^holdfast$/, replacement: source("index.ts") },
      { find: /^holdfast\/(\w+)$/, replacement: source("$1/index.ts") }
    ]
  },
  test: {
    include: ["test/**/*.test.ts"],
    // Only what hangs is too slow: under coverage on a busy machine, sound tests have taken half a minute.
    testTimeout: 120_000,
    hookTimeout: 120_000,
    // Loading Effect anew for every file took half of the time (18.7 s against 7.1 s for the first 349 tests): files share
    // a process, one after the other, so whatever a test starts it must also end.
    isolate: false,
    reporters: process.env["CI"] ? ["default", ["json", { outputFile: "reports/tests.json" }]] : ["default"],
    coverage: {
      provider: "v8",
      include: ["src/**/*.ts"],
      exclude: ["src/cli/bin.ts", "src/demo/**", "src/**/index.ts"],
      reporter: ["text", "lcov"],
      reportOnFailure: true
    }
  }
})
