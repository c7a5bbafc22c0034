// One connection of a device, from CONNECT to its end: it subscribes, goes back to where the local copy is, and then messages come and go.
//
// It does not matter what the broker believes the device to have: each connection begins by going back to the offset of the
// local copy. So what is not here comes, and what comes twice is known by its id. Until then an offset is kept only
// of what follows the last one directly: what else comes may lie behind a gap.

import { NoAnswer, RequestFailed } from "./errors.js";
import { Link } from "./link.js";
import { Message, last, receiptOfJson } from "./model.js";
import { Requests } from "./requests.js";
import { Sender } from "./sender.js";

/** @typedef {import("./stores/store.js").Store} Store */
/** @typedef {import("./link.js").Settings & {start: "latest" | "earliest"}} Settings */

/**
 * What is told, to the app in the end; nothing of it throws.
 * @typedef {object} Told
 * @property {() => void} ready messages come and go
 * @property {(message: Message) => void} message
 * @property {(receipt: import("./model.js").Receipt) => void} receipt
 * @property {(topic: string, position: number) => void} read
 * @property {(topic: string) => void} membership
 * @property {(message: import("./model.js").Outgoing) => void} refused
 * @property {(words: string, error?: unknown) => void} trouble
 */

const PATIENCE = 10_000;

export class Line {
  #settings;
  #store;
  #told;
  #link;
  #requests;
  #sender;
  #settled = false;
  /** Resolves when the connection has ended: why, and whether the next one is to send one message at a time. @type {Promise<{error: Error, careful: boolean}>} */
  ended;

  /** @param {Settings} settings @param {Store} store @param {Iterable<string>} filters @param {Told} told @param {boolean} careful */
  constructor(settings, store, filters, told, careful) {
    this.#settings = settings;
    this.#store = store;
    this.#told = told;
    this.#link = new Link(settings, { arrived: (topic, payload, about) => this.#arrived(topic, payload, about) });
    this.#requests = new Requests(this.#link);
    this.#sender = new Sender(store, this.#link, told, careful);
    this.#begin(filters).catch((error) => {
      if (!(error instanceof NoAnswer)) told.trouble("the connection is given up, and tried again", error);
      this.#link.end();
    });
    this.ended = this.#end();
  }

  /** @param {Iterable<string>} filters */
  async #begin(filters) {
    const present = await this.#link.opened;
    const own = ["reply", "events", "receipts"].map((kind) => `$sync/${kind}/${this.#settings.device}`);
    await this.subscribe([...own, ...filters]);
    await this.#goBack(present);
    this.#settled = true;
    this.#told.ready();
    this.pump();
    for (const [topic, position] of await this.#store.untold()) await this.tellRead(topic, position);
  }

  async #end() {
    const error = await this.#link.ended;
    this.#requests.lost(error);
    const careful = await this.#sender.ended(error).catch((fault) => {
      this.#told.trouble("what the broker refused could not be kept", fault);
      return true;
    });
    return { error, careful };
  }

  /** Have the broker go on from what is here, unless that is of another copy of the data. @param {boolean} present the broker has a session of the device */
  async #goBack(present) {
    for (;;) {
      const { offset, dataEpoch } = await this.#store.mark();
      try {
        const known = dataEpoch ? { data_epoch: dataEpoch } : {};
        const found = await this.ask({ op: "sync", after: offset, limit: 1, ...known });
        const from = dataEpoch ? offset : await this.#first(present, found.head);
        if (!dataEpoch) await this.#store.begin(from, found.data_epoch);
        await this.ask({ op: "set-offset", offset: from });
        return;
      } catch (error) {
        if (!(error instanceof RequestFailed) || error.code !== "resync" || !dataEpoch) throw error;
        await this.#store.forget();
      }
    }
  }

  /** Where a local copy begins in which there is nothing yet. @param {boolean} present @param {number} head @returns {Promise<number>} */
  async #first(present, head) {
    if (this.#settings.start === "earliest") return 0;
    return present ? (await this.ask({ op: "device" })).offset : head;
  }

  /** @param {string} topic @param {Uint8Array} payload @param {import("./link.js").UserProperties} about */
  async #arrived(topic, payload, about) {
    if (topic.startsWith("$sync/")) {
      await this.#said(topic.split("/")[1], JSON.parse(new TextDecoder().decode(payload)));
      return;
    }
    const message = Message.ofPacket(topic, payload, about);
    if (!message) return; // of a topic that the broker does not keep
    const at = Number(last(about["tideline-inbox-seq"]));
    const known = this.#settled || at === (await this.#store.mark()).offset + 1; // nothing lies between
    if (await this.#store.take(message, known ? at : 0)) this.#told.message(message);
  }

  /** @param {string | undefined} kind @param {Record<string, any>} said */
  async #said(kind, said) {
    if (kind === "reply") this.#requests.answered(said);
    else if (kind === "receipts") this.#told.receipt(receiptOfJson(said));
    else if (said.event === "membership") this.#told.membership(said.topic);
    else if (said.event === "read") {
      await this.#store.read(said.topic, said.position, true);
      this.#told.read(said.topic, said.position);
    }
  }

  /** What was put into the outbox goes out. */
  pump() {
    this.#sender.pump();
  }

  /** @param {{op: string} & Record<string, unknown>} fields */
  ask(fields, timeout = PATIENCE) {
    return this.#requests.ask(fields, timeout);
  }

  /** @param {string[]} filters */
  async subscribe(filters) {
    for (const refused of await this.#link.subscribe(filters)) this.#told.trouble(`the broker refuses the subscription ${JSON.stringify(refused)}`);
  }

  /** @param {string} filter */
  unsubscribe(filter) {
    return this.#link.unsubscribe(filter);
  }

  /** Tell the broker how far the user has read; where it cannot be told now, it is by the next connection. @param {string} topic @param {number} position */
  async tellRead(topic, position) {
    try {
      await this.ask({ op: "read", topic, position });
      await this.#store.read(topic, position, true);
    } catch (error) {
      if (!(error instanceof NoAnswer)) this.#told.trouble(`that ${topic} was read up to ${position} is not told`, error);
    }
  }

  /** Say goodbye. */
  leave() {
    this.#link.leave();
  }
}
