/** Looking at a running application: a page, and the routes behind it. Outside the root import. */
export * as Dashboard from "./Dashboard.ts"
export * as SnapshotHttp from "./SnapshotHttp.ts"
