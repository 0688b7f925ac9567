/** The tests that pin the policies' cores, for the mutation run: no sockets, no processes, nothing slow. */
import base from "./vitest.config.ts"

export default { ...base, test: { ...base.test, include: ["test/policy/**/*.test.ts"] } }
