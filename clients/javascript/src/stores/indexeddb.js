// A local copy in the browser's IndexedDB. Each change is one transaction, which is on disk when its promise resolves (durability: strict).

import { StoreInUse } from "../errors.js";
import { Message } from "../model.js";

/** @typedef {import("../model.js").Outgoing} Outgoing */
/** @typedef {import("./store.js").Store} Store */

const PATIENCE = 3000;
/** Of what is in the database. One that was made before may have an index of the outbox by topic, which nobody needs any more. */
const VERSION = 2;
/** Names that this page has given up to open, while another tab has an earlier version open: behind a request that waits for that,
 * the next one would wait without a word. @type {Set<string>} */
const givenUp = new Set();

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
const answer = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

/** @param {string} topic @param {number} first @param {number} last */
const range = (topic, first, last = Infinity) => IDBKeyRange.bound([topic, first], [topic, last]);

/** @implements {Store} */
export class IndexedDbStore {
  #name;
  /** @type {IDBDatabase | null} */
  #database = null;
  /** @type {() => void} */
  #release = () => {};

  /** @param {string} name of the database; it is made where there is none */
  constructor(name) {
    if (typeof name !== "string" || !name) throw new TypeError(`name ${JSON.stringify(name)}: must name a database, such as "chat"`);
    this.#name = `tideline:${name}`;
  }

  async open() {
    await this.#lock();
    try {
      this.#database = await this.#opened();
    } catch (error) {
      this.#release();
      throw error;
    }
  }

  /** One tab at a time has it. A page that is loaded again has to wait for its end first. */
  async #lock() {
    if (!navigator.locks) return; // a page that came by plain HTTP from elsewhere has none
    const late = AbortSignal.timeout(PATIENCE);
    await new Promise((resolve, reject) => {
      const held = () => new Promise((release) => {
        this.#release = () => release(undefined);
        resolve(undefined);
      });
      navigator.locks.request(this.#name, { signal: late }, held).catch((error) =>
        reject(late.aborted ? this.#inUse : error));
    });
  }

  get #inUse() {
    return new StoreInUse(`database ${this.#name}: another tab has it open; one tab for each device`);
  }

  /** Without locks, a tab with an earlier version of it may go on for ever. @returns {Promise<IDBDatabase>} */
  async #opened() {
    if (givenUp.has(this.#name)) throw this.#inUse;
    const request = indexedDB.open(this.#name, VERSION);
    request.onupgradeneeded = ({ oldVersion }) => {
      const database = request.result;
      if (oldVersion < 1) {
        database.createObjectStore("messages", { keyPath: "id" }).createIndex("place", ["topic", "seq"]);
        database.createObjectStore("positions", { keyPath: "topic" });
        database.createObjectStore("outbox", { keyPath: "place", autoIncrement: true }).createIndex("key", "key", { unique: true });
        database.createObjectStore("meta");
      }
    };
    const opened = answer(request);
    const late = new Promise((_, reject) => {
      request.onblocked = () => setTimeout(() => reject(this.#inUse), PATIENCE);
    });
    try {
      return await Promise.race([opened, late]);
    } catch (error) {
      givenUp.add(this.#name);
      opened.then((database) => database.close(), () => {}).finally(() => givenUp.delete(this.#name));
      throw error;
    }
  }

  async close() {
    this.#database?.close();
    this.#database = null;
    this.#release();
  }

  get #open() {
    if (!this.#database) throw new Error(`database ${this.#name}: is not open`);
    return this.#database;
  }

  /** @param {string} kind */
  #read(kind) {
    return this.#open.transaction(kind).objectStore(kind);
  }

  /**
   * Change things as one; resolves when that is on disk.
   * @template T
   * @param {string[]} kinds
   * @param {(...stores: IDBObjectStore[]) => Promise<T>} work
   */
  async #write(kinds, work) {
    const transaction = this.#open.transaction(kinds, "readwrite", { durability: "strict" });
    const ended = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error ?? new Error(`database ${this.#name}: a change was given up`));
    });
    const [result] = await Promise.all([work(...kinds.map((kind) => transaction.objectStore(kind))), ended]);
    return result;
  }

  /** @param {Message} message */
  take(message, offset = 0) {
    return this.#write(["messages", "meta"], async (messages, meta) => {
      const store = /** @type {IDBObjectStore} */ (messages);
      if (offset) await advance(/** @type {IDBObjectStore} */ (meta), offset);
      for (const id of message.recalls) await blank(store, id);
      if ((await answer(store.getKey(message.id))) === undefined) {
        await answer(store.add({ ...message }));
        return true;
      }
      if (message.recalled) await blank(store, message.id);
      return false;
    });
  }

  /** @param {string} topic @param {number} limit @returns {Promise<Message[]>} */
  history(topic, limit, before = 0) {
    /** @type {Message[]} */
    const found = [];
    const request = this.#read("messages").index("place").openCursor(range(topic, 0, before ? before - 1 : Infinity), "prev");
    return new Promise((resolve, reject) => {
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (!cursor || found.length >= limit) resolve(found.reverse());
        else {
          found.push(new Message(cursor.value));
          cursor.continue();
        }
      };
    });
  }

  /** @returns {Promise<string[]>} */
  topics() {
    /** @type {string[]} */
    const found = [];
    const request = this.#read("messages").index("place").openKeyCursor();
    return new Promise((resolve, reject) => {
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (!cursor) return resolve(found);
        const [topic] = /** @type {[string, number]} */ (cursor.key);
        found.push(topic);
        return cursor.continue([topic, Infinity]);
      };
    });
  }

  /** @param {string} topic */
  async unread(topic) {
    const position = await this.position(topic);
    return answer(this.#read("messages").index("place").count(range(topic, position + 1)));
  }

  /** @param {string} topic @returns {Promise<number>} */
  async position(topic) {
    return (await answer(this.#read("positions").get(topic)))?.position ?? 0;
  }

  /** @param {string} topic @param {number} position @param {boolean} told */
  read(topic, position, told) {
    return this.#write(["positions"], async (store) => {
      const positions = /** @type {IDBObjectStore} */ (store);
      const had = (await answer(positions.get(topic))) ?? { position: 0, told: true };
      if (position > had.position || (position === had.position && told && !had.told)) positions.put({ topic, position, told });
    });
  }

  /** @returns {Promise<[string, number][]>} */
  async untold() {
    const all = await answer(this.#read("positions").getAll());
    return all.filter((one) => !one.told).map(({ topic, position }) => [topic, position]);
  }

  /** @param {Omit<Outgoing, "place">} message @returns {Promise<void>} */
  put(message) {
    return this.#write(["outbox"], async (outbox) => {
      outbox?.add({ ...message });
    });
  }

  /** @returns {Promise<Outgoing[]>} */
  waiting(after = 0, limit = Infinity) {
    return answer(this.#read("outbox").getAll(IDBKeyRange.lowerBound(after, true), limit === Infinity ? undefined : limit));
  }

  /** @param {string} key */
  sent(key) {
    return this.#outgoing(key, (outbox, place) => outbox.delete(place));
  }

  /** @param {string} key @param {string} reason */
  refused(key, reason) {
    return this.#outgoing(key, async (outbox, place) => {
      outbox.put({ ...(await answer(outbox.get(place))), reason });
    });
  }

  /** @param {string} key @param {(outbox: IDBObjectStore, place: IDBValidKey) => unknown} work */
  #outgoing(key, work) {
    return this.#write(["outbox"], async (store) => {
      const outbox = /** @type {IDBObjectStore} */ (store);
      const place = await answer(outbox.index("key").getKey(key));
      if (place !== undefined) await work(outbox, place);
    });
  }

  /** @returns {Promise<{offset: number, dataEpoch: string}>} */
  async mark() {
    const meta = this.#read("meta");
    const [offset, dataEpoch] = await Promise.all([answer(meta.get("offset")), answer(meta.get("dataEpoch"))]);
    return { offset: offset ?? 0, dataEpoch: dataEpoch ?? "" };
  }

  /** @param {number} offset @param {string} dataEpoch */
  begin(offset, dataEpoch) {
    return this.#write(["meta"], async (meta) => {
      meta?.put(offset, "offset");
      meta?.put(dataEpoch, "dataEpoch");
    });
  }

  forget() {
    return this.#write(["messages", "positions", "meta"], async (...stores) => {
      for (const store of stores) store.clear();
    });
  }
}

/** @param {IDBObjectStore} meta @param {number} offset */
const advance = async (meta, offset) => {
  if (offset > ((await answer(meta.get("offset"))) ?? 0)) meta.put(offset, "offset");
};

/** Take the content of a message that is here. @param {IDBObjectStore} messages @param {string} id */
const blank = async (messages, id) => {
  const had = await answer(messages.get(id));
  if (had) messages.put({ ...new Message(had).without() });
};
