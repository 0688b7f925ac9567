/**
 * Which addresses a target has: a set that may change.
 *
 * `layerStatic` is a fixed table. Other sources (DNS, files, registries) are
 * more layers of the same service.
 */
import * as Context from "effect/Context"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import * as Options from "../contract/Options.ts"

/** The service. */
export class Discovery extends Context.Service<Discovery, {
  /**
   * The addresses of a target, whole, whenever they change: the present set
   * first, without waiting where it is known. A target nobody can know is a
   * programmer's mistake and dies.
   */
  readonly watch: (target: string) => Stream.Stream<ReadonlyArray<string>>
}>()("holdfast/balancer/Discovery") {}

/**
 * A fixed table of targets and their addresses.
 *
 * Dies with a `RangeError` when a target has no address or one twice, and when
 * somebody asks for a target the table does not have.
 */
export const layerStatic = (
  table: Readonly<Record<string, ReadonlyArray<string>>>
): Layer.Layer<Discovery> =>
  Layer.sync(Discovery, () => {
    const where = "Discovery.layerStatic"
    for (const [target, addresses] of Object.entries(table)) {
      Options.check(addresses.length > 0, where, target, "at least one address", "none")
      Options.check(new Set(addresses).size === addresses.length, where, target, "addresses that differ", addresses)
    }
    return {
      watch: (target) =>
        Stream.suspend(() => {
          const addresses = table[target]
          if (addresses === undefined) {
            throw Options.invalid(where, "target", `one of ${Object.keys(table).join(", ") || "none"}`, target)
          }
          return Stream.succeed(addresses)
        })
    }
  })
