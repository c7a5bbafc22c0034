// A local copy that is gone with the process: for tests, and for what may be lost.

import { State } from "./state.js";

/** @typedef {import("../model.js").Message} Message */
/** @typedef {import("../model.js").Outgoing} Outgoing */
/** @typedef {import("./state.js").Change} Change */

/** @implements {Store} */
export class MemoryStore {
  /** @protected */
  state = new State();

  async open() {}

  async close() {}

  /**
   * Do a change for good; whether it was news.
   * @protected
   * @param {Change} change
   */
  async write(change) {
    return this.state.apply(change);
  }

  /** @param {Message} message */
  async take(message, offset = 0) {
    return this.write({ do: "take", message, offset });
  }

  /** @param {string} topic @param {number} limit */
  async history(topic, limit, before = 0) {
    return this.state.history(topic, limit, before);
  }

  async topics() {
    return this.state.topics();
  }

  /** @param {string} topic */
  async unread(topic) {
    return this.state.unread(topic);
  }

  /** @param {string} topic */
  async position(topic) {
    return this.state.position(topic);
  }

  /** @param {string} topic @param {number} position @param {boolean} told */
  async read(topic, position, told) {
    await this.write({ do: "read", topic, position, told });
  }

  async untold() {
    return this.state.untold();
  }

  /** @param {Omit<Outgoing, "place">} message */
  async put(message) {
    await this.write({ do: "put", message });
  }

  async waiting(after = 0, limit = Infinity) {
    return this.state.waiting(after, limit);
  }

  /** @param {string} key */
  async sent(key) {
    await this.write({ do: "sent", key });
  }

  /** @param {string} key @param {string} reason */
  async refused(key, reason) {
    await this.write({ do: "refused", key, reason });
  }

  async mark() {
    return { offset: this.state.offset, dataEpoch: this.state.dataEpoch };
  }

  /** @param {number} offset @param {string} dataEpoch */
  async begin(offset, dataEpoch) {
    await this.write({ do: "begin", offset, dataEpoch });
  }

  async forget() {
    await this.write({ do: "forget" });
  }
}

/** @typedef {import("./store.js").Store} Store */
