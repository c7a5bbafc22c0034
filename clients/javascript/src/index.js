// A client of a Tideline broker for apps that work offline: see `Client`.

export { Client } from "./client.js";
export { NoAnswer, RequestFailed, StoreDamaged, StoreInUse } from "./errors.js";
export { Message } from "./model.js";
export { MemoryStore } from "./stores/memory.js";

/** @typedef {import("./client.js").Options} Options */
/** @typedef {import("./model.js").Outgoing} Outgoing */
/** @typedef {import("./model.js").Receipt} Receipt */
/** @typedef {import("./model.js").Conversation} Conversation */
/** @typedef {import("./stores/store.js").Store} Store */
