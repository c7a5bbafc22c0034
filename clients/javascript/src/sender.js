// What is in the outbox goes out over one connection: in order, each message once, and is taken out when the broker has it.
//
// - A message that the broker could not take for a moment (its storage was away) goes out again a little later.
// - One that it will never take stays, with the reason.
// - Where the broker ends the connection because of what it was sent, it does not say which message that was. The next
//   connection sends one at a time, and the one at which that ends, too, is never sent again.

import { NoAnswer } from "./errors.js";

/** @typedef {import("./link.js").Link} Link */
/** @typedef {import("./model.js").Outgoing} Outgoing */
/** @typedef {import("./stores/store.js").Store} Store */

const WINDOW = 100;
const AGAIN = 5000;
const LATER = [0x80, 0x97];
/** The reason codes of a DISCONNECT that is due to a packet of ours: malformed, protocol error, topic name, packet too large, payload format. */
const BLAME = [0x81, 0x82, 0x90, 0x95, 0x99];

/**
 * @typedef {object} Told
 * @property {(message: Outgoing) => void} refused
 * @property {(words: string, error: unknown) => void} trouble
 */

export class Sender {
  #store;
  #link;
  #told;
  #window;
  #passed = 0;
  #place = 0;
  #pumping = false;
  #again = false;
  #stopped = false;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #later;
  /** @type {Map<string, Outgoing>} */
  #under = new Map();

  /** @param {Store} store @param {Link} link @param {Told} told @param {boolean} careful one at a time */
  constructor(store, link, told, careful) {
    this.#store = store;
    this.#link = link;
    this.#told = told;
    this.#window = careful ? 1 : WINDOW;
    this.#link.ended.then(() => clearTimeout(this.#later));
  }

  /** Send what is there, as far as the window has room. */
  pump() {
    this.#again = true;
    if (this.#pumping) return;
    this.#pumping = true;
    this.#pump()
      .catch((error) => {
        this.#stopped = true;
        this.#told.trouble("the outbox could not be read", error);
        this.#link.end();
      })
      .finally(() => {
        this.#pumping = false;
        if (this.#again && this.#goes) this.pump();
      });
  }

  get #goes() {
    return !this.#stopped && !this.#link.over;
  }

  async #pump() {
    while (this.#again && this.#goes) {
      this.#again = false;
      const room = this.#window - this.#under.size;
      if (room <= 0) return;
      const found = await this.#store.waiting(this.#place, room);
      for (const message of found) {
        this.#place = message.place;
        if (!message.reason && !this.#under.has(message.key)) this.#send(message);
      }
      if (found.length === room) this.#again = true; // some of them were not to be sent
    }
  }

  /** @param {Outgoing} message */
  #send(message) {
    this.#under.set(message.key, message);
    this.#sent(message)
      .catch((error) => {
        if (error instanceof NoAnswer) return; // the next connection sends it
        this.#told.trouble(`what became of a message to ${message.topic} could not be kept: it is sent again`, error);
        this.#link.end();
      })
      .finally(() => {
        if (!this.#link.over) this.#under.delete(message.key);
        this.pump();
      });
  }

  /** @param {Outgoing} message */
  async #sent(message) {
    if (message.topic.length + message.payload.length > this.#link.largest) {
      await this.#refused(message, `the message has ${message.payload.length} bytes: the broker takes packets of ${this.#link.largest} at most`);
      return;
    }
    const properties = { "message-id": message.key, ...(message.receipt.length ? { "tideline-receipt": message.receipt.join(",") } : {}) };
    const { code, reason } = await this.#link.publish(message.topic, message.payload, properties);
    if (this.#window < WINDOW && (this.#passed += 1) >= WINDOW) this.#window = WINDOW; // all that was under way then has gone through
    if (!code) await this.#store.sent(message.key);
    else if (LATER.includes(code)) this.#resume();
    else await this.#refused(message, reason);
  }

  /** @param {Outgoing} message @param {string} reason */
  async #refused(message, reason) {
    await this.#store.refused(message.key, reason);
    this.#told.refused({ ...message, reason });
  }

  #resume() {
    this.#later ??= setTimeout(() => {
      this.#later = undefined;
      this.#place = 0;
      this.pump();
    }, AGAIN);
  }

  /**
   * The connection has ended; whether the next one is to be careful.
   * @param {Error} error
   */
  async ended(error) {
    if (!BLAME.includes(this.#link.code) || !this.#under.size) return false;
    const [message] = this.#under.values();
    if (message && this.#under.size === 1) await this.#refused(message, error.message);
    return true;
  }
}
