// The local copy in memory, as what a sequence of changes makes of nothing. No I/O: `MemoryStore` keeps it so, `FileStore` writes the changes down.

import { Message, fromBase64, toBase64 } from "../model.js";

/** @typedef {import("../model.js").Outgoing} Outgoing */

/**
 * @typedef {{do: "take", message: Message, offset: number}} Take
 * @typedef {{do: "read", topic: string, position: number, told: boolean}} Read
 * @typedef {{do: "put", message: Omit<Outgoing, "place">, place?: number}} Put
 * @typedef {{do: "sent", key: string}} Sent
 * @typedef {{do: "refused", key: string, reason: string}} Refused
 * @typedef {{do: "begin", offset: number, dataEpoch: string}} Begin
 * @typedef {{do: "forget"}} Forget
 * @typedef {Take | Read | Put | Sent | Refused | Begin | Forget} Change
 */

export class State {
  /** @type {Map<string, Message>} */
  #messages = new Map();
  /** @type {Map<string, string[]>} ids by topic, by sequence */
  #topics = new Map();
  /** @type {Map<string, {position: number, told: boolean}>} */
  #positions = new Map();
  /** @type {Map<string, Outgoing>} in order */
  #outbox = new Map();
  #place = 0;
  offset = 0;
  dataEpoch = "";

  /** Do a change; whether it was news. @param {Change} change */
  apply(change) {
    switch (change.do) {
      case "take": return this.#take(change);
      case "read": return this.#read(change);
      case "put": return this.#put(change);
      case "sent": return this.#sent(change);
      case "refused": return this.#refused(change);
      case "begin":
        this.offset = change.offset;
        this.dataEpoch = change.dataEpoch;
        return true;
      case "forget":
        for (const map of [this.#messages, this.#topics, this.#positions]) map.clear();
        this.offset = 0;
        this.dataEpoch = "";
        return true;
      default:
        throw new TypeError(`a change ${JSON.stringify(change)}: is of a kind that this version does not know`);
    }
  }

  /** Whether a change would make a difference. @param {Change} change */
  differs(change) {
    if (change.do === "take") {
      const had = this.#messages.get(change.message.id);
      return !had || change.offset > this.offset || (change.message.recalled && !had.recalled);
    }
    if (change.do === "read") return this.#newer(change);
    if (change.do === "sent") return this.#outbox.has(change.key);
    return true;
  }

  /** @param {Take} change */
  #take({ message, offset }) {
    this.offset = Math.max(this.offset, offset);
    for (const id of message.recalls) this.#blank(id);
    const had = this.#messages.get(message.id);
    if (had) {
      if (message.recalled) this.#blank(message.id);
      return false;
    }
    this.#messages.set(message.id, message);
    const ids = this.#topics.get(message.topic) ?? [];
    ids.splice(this.#from(ids, message.seq), 0, message.id);
    this.#topics.set(message.topic, ids);
    return true;
  }

  /** @param {string} id */
  #blank(id) {
    const had = this.#messages.get(id);
    if (had) this.#messages.set(id, had.without());
  }

  /** The first of a topic's ids with this sequence or a greater one. @param {string[]} ids @param {number} seq */
  #from(ids, seq) {
    let [low, high] = [0, ids.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#message(ids[middle]).seq < seq) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** @param {string | undefined} id */
  #message(id) {
    return /** @type {Message} */ (this.#messages.get(/** @type {string} */ (id)));
  }

  /** @param {Read} change */
  #newer({ topic, position, told }) {
    const had = this.#positions.get(topic) ?? { position: 0, told: true };
    return position > had.position || (position === had.position && told && !had.told);
  }

  /** @param {Read} change */
  #read(change) {
    if (!this.#newer(change)) return false;
    this.#positions.set(change.topic, { position: change.position, told: change.told });
    return true;
  }

  /** @param {Put} change */
  #put({ message, place = this.#place + 1 }) {
    this.#place = place;
    this.#set({ ...message, place });
    return true;
  }

  /** @param {Refused} change */
  #refused({ key, reason }) {
    const had = this.#outbox.get(key);
    if (had) this.#set({ ...had, reason });
    return Boolean(had);
  }

  /** @param {Sent} change */
  #sent({ key }) {
    return this.#outbox.delete(key);
  }

  /** @param {Outgoing} message */
  #set(message) {
    this.#outbox.set(message.key, message);
  }

  /** @param {string} topic @param {number} limit @param {number} before */
  history(topic, limit, before) {
    const ids = this.#topics.get(topic) ?? [];
    const end = before ? this.#from(ids, before) : ids.length;
    return ids.slice(Math.max(0, end - limit), end).map((id) => this.#message(id));
  }

  topics() {
    return [...this.#topics.keys()].sort();
  }

  /** @param {string} topic */
  unread(topic) {
    const ids = this.#topics.get(topic) ?? [];
    return ids.length - this.#from(ids, this.position(topic) + 1);
  }

  /** @param {string} topic */
  position(topic) {
    return this.#positions.get(topic)?.position ?? 0;
  }

  /** @returns {[string, number][]} */
  untold() {
    return [...this.#positions].filter(([, one]) => !one.told).map(([topic, one]) => [topic, one.position]);
  }

  /** @param {number} after @param {number} limit */
  waiting(after, limit) {
    const found = [];
    for (const one of this.#outbox.values()) {
      if (found.length >= limit) break;
      if (one.place > after) found.push(one);
    }
    return found;
  }

  /** Changes that make this of nothing. @returns {Generator<Change>} */
  *changes() {
    for (const message of this.#messages.values()) yield { do: "take", message, offset: 0 };
    for (const [topic, one] of this.#positions) yield { do: "read", topic, ...one };
    for (const { place, ...message } of this.#outbox.values()) yield { do: "put", message, place };
    yield { do: "begin", offset: this.offset, dataEpoch: this.dataEpoch };
  }
}

/** A change as JSON. @param {Change} change */
export const written = (change) =>
  "message" in change ? { ...change, message: { ...change.message, payload: toBase64(change.message.payload) } } : change;

/** The other way round. @param {any} found @returns {Change} */
export const change = (found) => {
  if (found.message === undefined) return found;
  const message = { ...found.message, payload: fromBase64(found.message.payload) };
  return { ...found, message: found.do === "take" ? new Message(message) : message };
};
