// Questions to the broker over MQTT, and their answers: docs/sync.md of the broker.

import { NoAnswer, RequestFailed } from "./errors.js";
import { bytesOf } from "./model.js";

/** @typedef {import("./link.js").Link} Link */

const TOPIC = "$sync/request";
const AT_ONCE = 16; // the broker has at most 32 of a device wait
const MOST = 1000;

/** The requests of one connection. */
export class Requests {
  #link;
  #last = 0;
  #open = 0;
  /** @type {(() => void)[]} */
  #queue = [];
  /** @type {Map<number, {resolve: (answer: Record<string, any>) => void, reject: (error: Error) => void, op: unknown}>} */
  #waiting = new Map();

  /** @param {Link} link */
  constructor(link) {
    this.#link = link;
  }

  /**
   * The answer. Rejects with `RequestFailed`, and with `NoAnswer` after `timeout` ms or when the connection has ended.
   * @param {Record<string, unknown>} fields
   * @param {number} timeout
   * @returns {Promise<Record<string, any>>}
   */
  async ask(fields, timeout) {
    if (this.#queue.length >= MOST) throw new NoAnswer(`${fields.op}: ${MOST} requests wait already; wait for some of their answers`);
    if (this.#open >= AT_ONCE) await new Promise((go) => this.#queue.push(() => go(undefined)));
    else this.#open += 1;
    try {
      return await this.#answer(fields, timeout);
    } finally {
      const next = this.#queue.shift();
      if (next) next();
      else this.#open -= 1;
    }
  }

  /** @param {Record<string, unknown>} fields @param {number} timeout */
  async #answer(fields, timeout) {
    const id = (this.#last += 1);
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let late;
    try {
      const answer = await new Promise((resolve, reject) => {
        this.#waiting.set(id, { resolve, reject, op: fields.op });
        late = setTimeout(() => reject(new NoAnswer(`${fields.op}: no answer in ${timeout} ms`)), timeout);
        this.#link.publish(TOPIC, bytesOf(JSON.stringify({ ...fields, id }))).then(({ code, reason }) => {
          if (code) reject(new NoAnswer(`${fields.op}: the broker refuses ${TOPIC} (${reason}); its plugin requests answers it`));
        }, reject);
      });
      if (answer.error) throw new RequestFailed(answer.error);
      return answer;
    } finally {
      clearTimeout(late);
      this.#waiting.delete(id);
    }
  }

  /** An answer came. @param {Record<string, any>} answer */
  answered(answer) {
    this.#waiting.get(answer.id)?.resolve(answer);
  }

  /** The connection has ended: what waits is not answered any more. @param {Error} error */
  lost(error) {
    for (const { reject, op } of this.#waiting.values()) reject(new NoAnswer(`${op}: ${error.message}`));
  }
}
