/** Bytes to frames and back. Pure. */
export * as BodyCodec from "./BodyCodec.ts"
export * as Frame from "./Frame.ts"
export * as FrameCodec from "./FrameCodec.ts"
export * as TraceState from "./TraceState.ts"
