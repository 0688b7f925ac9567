/**
 * Checks of constructor options: a programmer's mistake dies at construction.
 *
 * Every message names the constructor, the field, the constraint and the value:
 * `RateLimiter.make: limit must be an integer >= 1, got 0`.
 */
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"

/** The error a failed check throws: a `RangeError`, which inside an Effect is a defect. */
export const invalid = (where: string, field: string, constraint: string, value: unknown): RangeError =>
  new RangeError(`${where}: ${field} must be ${constraint}, got ${show(value)}`)

const show = (value: unknown): string =>
  typeof value === "string"
    ? JSON.stringify(value)
    : Duration.isDuration(value)
    ? Duration.format(value)
    : isData(value)
    ? JSON.stringify(value)
    : String(value)

/** A list or an object of a document, whose `String` says nothing. */
const isData = (value: unknown): boolean =>
  Array.isArray(value) ||
  (typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype)

/** Throws unless `holds`. */
export const check = (holds: boolean, where: string, field: string, constraint: string, value: unknown): void => {
  if (!holds) throw invalid(where, field, constraint, value)
}

/** An integer in `[min, max]`. */
export const integer = (where: string, field: string, value: number, min: number, max = Infinity): number => {
  if (!(Number.isInteger(value) && value >= min && value <= max)) {
    throw invalid(where, field, max === Infinity ? `an integer >= ${min}` : `an integer in [${min}, ${max}]`, value)
  }
  return value
}

/** A finite number in `[min, max]`. */
export const finite = (where: string, field: string, value: number, min: number, max = Infinity): number => {
  if (!(Number.isFinite(value) && value >= min && value <= max)) {
    throw invalid(where, field, max === Infinity ? `a number >= ${min}` : `a number in [${min}, ${max}]`, value)
  }
  return value
}

/** A ratio: a number in `(0, 1]`, or `[0, 1]` with `zero`. */
export const ratio = (where: string, field: string, value: number, zero = false): number => {
  if (!(value <= 1 && (zero ? value >= 0 : value > 0))) {
    throw invalid(where, field, `in ${zero ? "[0" : "(0"}, 1]`, value)
  }
  return value
}

/** A duration that is positive and finite (or zero too, with `zero`), as milliseconds. */
export const millis = (where: string, field: string, value: Duration.Input, zero = false): number => {
  const duration = Option.getOrUndefined(Duration.fromInput(value))
  const millis = duration === undefined ? Number.NaN : Duration.toMillis(duration)
  if (!(millis < Infinity && (zero ? millis >= 0 : millis > 0))) {
    // A policy file takes `2s`; Effect does not.
    const written = duration === undefined && typeof value === "string" ? ` such as "2 seconds"` : ""
    throw invalid(
      where,
      field,
      `${zero ? "a duration >= 0 and finite" : "a positive and finite duration"}${written}`,
      value
    )
  }
  return millis
}
