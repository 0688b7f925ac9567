/** Which answers are the same, where nobody says: those to one method and one `key`. Without a `key` none. */
import type * as CallContext from "../../contract/CallContext.ts"

export const keyOf = (call: CallContext.CallContext): string | undefined =>
  call.key === undefined ? undefined : `${call.name}:${call.key}`
