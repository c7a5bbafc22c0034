// The client: a connection with a session that lasts, and a local copy behind it.
//
// - What comes is kept locally before it is acknowledged, so that whatever happens to the app it comes once more, or is there.
// - What is sent is kept locally before it goes out, under a key that the broker stores once: it is sent again, in order, until
//   the broker says that it has it, also by the next start of the app.

import { NoAnswer, RequestFailed } from "./errors.js";
import { Line } from "./line.js";
import { Message, bytesOf, conversationOfJson } from "./model.js";
import { checkFilter, checkTopic } from "./topics.js";

/** @typedef {import("./model.js").Outgoing} Outgoing */
/** @typedef {import("./model.js").Receipt} Receipt */
/** @typedef {import("./model.js").Conversation} Conversation */
/** @typedef {import("./stores/store.js").Store} Store */

/**
 * @typedef {object} Options
 * @property {string} device the client id: one device of a user
 * @property {Store} store the local copy, of this device of this user at this broker alone
 * @property {string} [user]
 * @property {string} [password]
 * @property {"latest" | "earliest"} [start] where a device that never connected begins: `latest`, or `earliest` for all that its user's inbox has
 * @property {Record<string, unknown>} [mqtt] further options of mqtt.js, such as `ca`
 */

const STATES = ["delivered", "acknowledged", "read"];
const SCHEMES = ["mqtt:", "mqtts:", "ws:", "wss:"];
const PATIENCE = 10_000;
const PAGE = 500;
const SOONEST = 500;
const LATEST = 30_000;

export class Client {
  /** A message that was not here before. @type {(message: Message) => unknown} */
  onMessage = () => undefined;
  /** How far a message of one's own is, where `send` asked for it. @type {(receipt: Receipt) => unknown} */
  onReceipt = () => undefined;
  /** Another device of the user has read a conversation up to a message. @type {(topic: string, position: number) => unknown} */
  onRead = () => undefined;
  /** Something about the user's membership in a conversation has changed. @type {(topic: string) => unknown} */
  onMembership = () => undefined;
  /** The broker will never take a message. It stays in `outbox` until `discard`. @type {(message: Outgoing) => unknown} */
  onRefused = () => undefined;
  /** Messages come in and go out; or they do not any more. @type {(connected: boolean) => unknown} */
  onConnected = () => undefined;
  /** What an operator should know: why there is no connection, what a callback threw. @type {(words: string, error?: unknown) => unknown} */
  onTrouble = (words, error) => console.warn(`tideline-client: ${words}`, error ?? "");

  #settings;
  /** @type {Set<string>} */
  #filters = new Set();
  /** @type {Promise<void> | null} */
  #opened = null;
  /** @type {Line | null} the connection, once messages come and go */
  #line = null;
  /** @type {Promise<void> | null} */
  #running = null;
  #ended = new AbortController();
  #careful = false;
  /** @type {Set<() => void>} */
  #waiting = new Set();

  /** @param {string} url such as `mqtt://localhost:1883`, or `wss://example.org/mqtt` @param {Options} options */
  constructor(url, { device, store, user, password, start = "latest", mqtt = {} }) {
    const scheme = URL.canParse(url) ? new URL(url).protocol : "";
    if (!SCHEMES.includes(scheme)) throw new TypeError(`url ${JSON.stringify(url)}: must begin with ${SCHEMES.map((one) => `${one}//`).join(", ")}`);
    if (typeof device !== "string" || !device || /[+#]/.test(device)) throw new TypeError(`device ${JSON.stringify(device)}: must be a client id without + and #`);
    if (typeof store?.take !== "function") throw new TypeError(`store ${String(store)}: must be a FileStore, an IndexedDbStore or another store`);
    if (start !== "latest" && start !== "earliest") throw new TypeError(`start ${JSON.stringify(start)}: must be latest or earliest`);
    this.store = store;
    this.#settings = { url, device, user, password, start, mqtt };
  }

  // --- the connection --------------------------------------------------------------------------------------------------

  /** Connect in the background, now and whenever the connection is lost; set the callbacks before. Resolves when the local copy is open. */
  async start() {
    await this.#open();
    this.#running ??= this.#run();
  }

  /** Disconnect, and close the local copy. What is in the outbox goes out at the next start, of another client. */
  async stop() {
    this.#ended.abort();
    await this.#opened?.catch(() => {}); // who opened it was told
    await this.#running;
    await this.store.close();
  }

  get connected() {
    return this.#line !== null;
  }

  /** Wait until messages come in and go out; whether they do within `timeout` ms. @param {number} timeout */
  waitConnected(timeout = PATIENCE) {
    if (this.connected) return Promise.resolve(true);
    return new Promise((resolve) => {
      const told = () => {
        clearTimeout(late);
        this.#waiting.delete(told);
        resolve(this.connected);
      };
      const late = setTimeout(told, timeout);
      this.#waiting.add(told);
    });
  }

  /** Get the messages of topics; the session keeps it. To be called at each start of the app, connected or not. @param {string} filter */
  subscribe(filter) {
    checkFilter(filter);
    this.#filters.add(filter);
    this.#line?.subscribe([filter]).catch((error) => this.#trouble(`subscribing to ${filter} waits for the next connection`, error));
  }

  /** Get them no longer. Only while connected: the session would go on. Rejects with `NoAnswer`. @param {string} filter */
  async unsubscribe(filter) {
    checkFilter(filter);
    const line = this.#connected("unsubscribe");
    this.#filters.delete(filter);
    await line.unsubscribe(filter);
  }

  #open() {
    return (this.#opened ??= this.store.open());
  }

  async #run() {
    let wait = SOONEST;
    while (!this.#ended.signal.aborted) {
      const well = await this.#connection();
      wait = well ? SOONEST : Math.min(LATEST, wait * 2);
      await this.#pause(wait * (0.5 + Math.random() / 2)); // not all devices at once after a broker was away
    }
  }

  /** @param {number} ms */
  #pause(ms) {
    const { signal } = this.#ended;
    return new Promise((resolve) => {
      if (signal.aborted) return resolve(undefined);
      const done = () => {
        clearTimeout(late);
        signal.removeEventListener("abort", done);
        resolve(undefined);
      };
      const late = setTimeout(done, ms);
      return signal.addEventListener("abort", done);
    });
  }

  /** One connection; whether messages came and went. */
  async #connection() {
    /** @type {import("./line.js").Told} */
    const told = {
      ready: () => this.#ready(line),
      message: (message) => this.#call(() => this.onMessage(message)),
      receipt: (receipt) => this.#call(() => this.onReceipt(receipt)),
      read: (topic, position) => this.#call(() => this.onRead(topic, position)),
      membership: (topic) => this.#call(() => this.onMembership(topic)),
      refused: (message) => this.#call(() => this.onRefused(message)),
      trouble: (words, error) => this.#trouble(words, error),
    };
    const { signal } = this.#ended;
    const line = new Line(this.#settings, this.store, this.#filters, told, this.#careful);
    const leave = () => line.leave();
    signal.addEventListener("abort", leave);
    const { error, careful } = await line.ended;
    signal.removeEventListener("abort", leave);
    this.#careful = careful;
    const was = this.connected;
    this.#line = null;
    if (!signal.aborted) this.#trouble(`no connection to ${this.#settings.url}: ${error.message || error}`);
    if (was) this.#call(() => this.onConnected(false));
    return was;
  }

  /** @param {Line} line */
  #ready(line) {
    this.#line = line;
    this.#call(() => this.onConnected(true));
    for (const told of this.#waiting) told();
  }

  // --- messages out ----------------------------------------------------------------------------------------------------

  /**
   * Send a message, now or as soon as there is a connection. Resolves with its key, which receipts name, when it is kept.
   * @param {string} topic
   * @param {string | Uint8Array} payload
   * @param {{receipt?: readonly ("delivered" | "acknowledged" | "read")[]}} [options] of which states one wants to hear
   */
  async send(topic, payload, { receipt = [] } = {}) {
    checkTopic(topic);
    if (typeof payload !== "string" && !(payload instanceof Uint8Array)) throw new TypeError(`payload ${String(payload)}: must be text or a Uint8Array`);
    const wrong = receipt.find((state) => !STATES.includes(state));
    if (wrong !== undefined) throw new RangeError(`receipt ${JSON.stringify(wrong)}: must be of ${STATES.join(", ")}`);
    const key = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    const message = { key, topic, payload: bytesOf(payload), receipt: [...receipt], reason: "" };
    await this.#open();
    await this.store.put(message);
    this.#line?.pump();
    return key;
  }

  /** What the broker does not have, in order; what it has refused says why. */
  async outbox() {
    await this.#open();
    return this.store.waiting();
  }

  /** Take a message out of the outbox: one that was refused, or is not to be sent any more. @param {string} key */
  async discard(key) {
    await this.#open();
    await this.store.sent(key);
  }

  // --- conversations ---------------------------------------------------------------------------------------------------

  /**
   * The newest messages of a conversation (with a lower sequence than `before`), the oldest first: those that are here, after
   * those that are missing were fetched, where there is a connection. Where the broker says that there is no such conversation,
   * or that one may not read it, those that are here: none, of one in which nobody has said anything.
   * @param {string} topic
   * @param {{limit?: number, before?: number}} [options]
   */
  async history(topic, { limit = 50, before = 0 } = {}) {
    checkTopic(topic);
    for (const [name, value] of [["limit", limit], ["before", before]]) {
      if (!Number.isSafeInteger(value) || Number(value) < 0) throw new RangeError(`${name} ${value}: must be a whole number from 0 on`);
    }
    await this.#open();
    if (this.connected && limit) await this.#fetch(topic, limit, before);
    return this.store.history(topic, limit, before);
  }

  /** @param {string} topic @param {number} limit @param {number} before */
  async #fetch(topic, limit, before) {
    try {
      let [cursor, left] = [{}, limit];
      while (left > 0) {
        const page = await this.request({ op: "history", topic, limit: Math.min(left, PAGE), order: "newest", before, ...cursor });
        for (const found of page.messages) await this.store.take(Message.ofJson(found));
        if (!page.next) return;
        left -= page.messages.length; // a page may be shorter than was asked for: it has at most 1 MiB
        cursor = { cursor: page.next };
      }
    } catch (error) {
      if (error instanceof RequestFailed && error.status === 404) return; // nobody has said anything there, or one may not read it
      if (!(error instanceof NoAnswer)) throw error;
      this.#trouble(`the history of ${topic} is what is here`, error);
    }
  }

  /** The conversations that have messages here. */
  async topics() {
    await this.#open();
    return this.store.topics();
  }

  /** How many messages of a conversation that are here are not read. @param {string} topic */
  async unread(topic) {
    await this.#open();
    return this.store.unread(topic);
  }

  /** The user has read up to a message. The user's other devices, and who asked for receipts, hear of it. @param {string} topic @param {number} seq */
  async markRead(topic, seq) {
    checkTopic(topic);
    if (!Number.isSafeInteger(seq) || seq < 1) throw new RangeError(`seq ${seq}: must be that of a message, from 1 on`);
    await this.#open();
    await this.store.read(topic, seq, false);
    await this.#line?.tellRead(topic, seq);
  }

  /**
   * How many users have a message, were given it, have acknowledged and read it: for who was away when it was told.
   * @param {string} messageId
   * @returns {Promise<Record<"stored" | "delivered" | "acknowledged" | "read", number>>}
   */
  async receipts(messageId) {
    const counts = { stored: 0, delivered: 0, acknowledged: 0, read: 0 };
    for (let after = ""; after !== null; ) {
      const page = await this.request({ op: "counts", message: messageId, after });
      for (const [state, count] of Object.entries(page.counts.users)) counts[/** @type {keyof typeof counts} */ (state)] += count;
      after = page.next;
    }
    return counts;
  }

  /** The conversations with members that the user is in or invited to, what was active last first. */
  async conversations() {
    /** @type {Conversation[]} */
    const found = [];
    for (let after = ""; after !== null; ) {
      const page = await this.request({ op: "conversation-list", ...(after ? { after } : {}) });
      found.push(...page.conversations.map(conversationOfJson));
      after = page.next;
    }
    return found;
  }

  /**
   * Ask the broker, `op` being what (docs/sync.md of Tideline). Rejects with `RequestFailed` and `NoAnswer`.
   * @param {{op: string} & Record<string, unknown>} fields
   * @param {number} timeout in ms
   */
  async request(fields, timeout = PATIENCE) {
    return this.#connected(fields.op).ask(fields, timeout);
  }

  /** @param {string} what */
  #connected(what) {
    if (!this.#line) throw new NoAnswer(`${what}: not connected`);
    return this.#line;
  }

  /** What an app's callback throws, or rejects with, is told, and stops nothing. @param {() => unknown} callback */
  #call(callback) {
    try {
      Promise.resolve(callback()).catch((error) => this.#trouble("a callback failed", error));
    } catch (error) {
      this.#trouble("a callback failed", error);
    }
  }

  /** @param {string} words @param {unknown} [error] */
  #trouble(words, error) {
    try {
      this.onTrouble(words, error);
    } catch (fault) {
      console.warn("tideline-client: onTrouble failed:", fault, words, error);
    }
  }
}
