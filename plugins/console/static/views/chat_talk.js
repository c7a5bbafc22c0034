// A conversation as one device knows it: its messages as they are now, how far its user has read, what became of its own. It shows nothing.

import { concerns } from "../lib/message.js";

const PAGE = 50;
const KEPT = 300; // messages, and receipts, that the page holds while more come; older ones can be asked for again
const SOON = 150;
const ASKED = 8; // requests at once; a device may have 32 that wait

// `me` is the user whose device it is. `changed()` is told that something is another; `failed(error)` what went wrong.
export class Talk {
  constructor(device, topic, me, changed, failed) {
    Object.assign(this, { device, topic, me, changed, failed, messages: new Map(), seqs: new Map(), receipts: new Map(), last: 0, position: 0, unread: 0, older: false, first: Infinity, earlier: 0, ended: false });
    this.stale = new Set();
    this.timer = 0;
    this.counting = 0;
  }

  get list() { return [...this.messages.values()].sort((one, other) => one.seq - other.seq); }

  // The last messages, or those before what is there. Where nothing was said, or this user takes no part, there are none.
  // What arrived while the last ones were asked for may be older than they are: then a page before them has nothing new.
  async load(earlier = false) {
    let page;
    let fresh;
    try {
      do {
        page = await this.device.ask({ op: "history", topic: this.topic, limit: PAGE, ...(earlier ? { before: this.first } : {}) });
        const had = this.messages.size;
        this.older = page.next !== null;
        for (const message of page.messages) this.take(message);
        fresh = this.messages.size - had;
        if (page.messages.length) this.first = Math.min(this.first, page.messages.at(-1).seq);
      } while (earlier && this.older && page.messages.length && !fresh);
      if (earlier) this.earlier += fresh;
      else this.reached(await this.device.ask({ op: "position", topic: this.topic }));
    } catch (error) {
      if (error.status !== 404) throw error;
    }
    this.changed();
  }

  take(message) {
    this.last = Math.max(this.last, message.seq);
    if (concerns(message)) return; // it has no place of its own here: what it concerns shows it
    this.messages.set(message.seq, message);
    this.seqs.set(message.id, message.seq);
  }

  // What is long ago makes room for what comes: also what was asked for, once its reader is back at the end.
  trim(back = true) {
    if (back) this.earlier = 0;
    const most = KEPT + this.earlier;
    if (this.messages.size <= most) return;
    const all = this.list;
    for (const { seq, id } of all.slice(0, -most)) {
      this.messages.delete(seq);
      this.seqs.delete(id);
      this.receipts.delete(id);
    }
    this.first = all.at(-most).seq;
    this.older = true;
  }

  // A message as it comes over MQTT. One without its place (a broker with message_properties: never) says no more than its words.
  arrived({ user, pairs, payload }) {
    if (!user["tideline-seq"]) {
      this.load().catch(this.failed);
      return;
    }
    const message = {
      id: user["tideline-id"], seq: Number(user["tideline-seq"]), sender: user["tideline-sender"], time: Number(user["tideline-time"]), properties: pairs,
      recalled: user["tideline-recalled"] || null, edited: null, reactions: {}, encoding: "text", payload,
    };
    this.take(message);
    this.trim(false);
    const about = concerns(message);
    if (about?.does === "recalls") this.recalled(pairs.filter(([name]) => name === "tideline-recalls").map(([, id]) => id));
    else if (about) this.again(about.to);
    this.changed();
    this.count();
  }

  recalled(ids) {
    for (const id of ids) {
      const known = this.messages.get(this.seqs.get(id));
      if (known) this.messages.set(known.seq, { ...known, recalled: "yes", payload: "", properties: [], reactions: {} });
    }
  }

  // Ask how a message is now, once for however much comes meanwhile.
  again(id) {
    if (!this.seqs.has(id)) return;
    this.stale.add(id);
    this.timer ||= setTimeout(() => this.renew().catch(this.failed), SOON);
  }

  async renew() {
    try {
      while (this.stale.size && this.device.open) {
        const ids = [...this.stale].slice(0, ASKED);
        ids.forEach((id) => this.stale.delete(id));
        for (const { message } of await Promise.all(ids.map((id) => this.device.ask({ op: "message", message: id })))) {
          if (this.seqs.has(message.id)) this.messages.set(message.seq, message);
        }
        this.changed();
      }
    } finally {
      this.timer = 0;
    }
  }

  // How many are unread: asked once for however many come meanwhile.
  count() {
    this.counting ||= setTimeout(() => {
      this.device.ask({ op: "position", topic: this.topic }).then((told) => this.reached(told)).catch(this.failed).finally(() => { this.counting = 0; });
    }, SOON);
  }

  reached({ position, unread }) {
    Object.assign(this, { position, unread });
    this.changed();
  }

  // Whether there is something to be read that this knows: not before it was asked for.
  get behind() { return this.unread > 0 && this.last > 0 && !this.ended; }

  async read() { this.reached(await this.device.ask({ op: "read", topic: this.topic, position: this.last })); }

  // A receipt (docs/receipts.md): how many of the others have a message of this device's so far.
  receipt({ message, state, count, of }) {
    if (this.receipts.size >= KEPT && !this.receipts.has(message)) this.receipts.delete(this.receipts.keys().next().value);
    this.receipts.set(message, { ...this.receipts.get(message), [state]: count, of });
    this.changed();
  }

  // React, or take it back where this user has reacted so before.
  async react(message, reaction) {
    const { reactions } = await this.device.ask({ op: "reactions", message: message.id });
    const back = reactions.some((one) => one.user === this.me && one.reaction === reaction);
    await this.device.ask({ op: "react", message: message.id, reaction, back });
  }

  recall(message) { return this.device.ask({ op: "recall", message: message.id }); }

  edit(message, payload) { return this.device.ask({ op: "edit", message: message.id, payload }); }

  end() {
    this.ended = true;
    clearTimeout(this.timer);
    clearTimeout(this.counting);
  }
}
