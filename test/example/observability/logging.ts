import { Layer, Logger } from "effect"
import { Logging, Observe } from "holdfast"

/** Lines as JSON on the console, at most ten of a kind in a minute. */
export const logged = Observe.layer(Logging.make({ burst: 10, window: "1 minute" })).pipe(
  Layer.provideMerge(Logger.layer([Logger.consoleJson]))
)
