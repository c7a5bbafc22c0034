// Who of a conversation is online, and who types (docs/presence.md): where the broker tells it.

import { h, show } from "../lib/dom.js";
import { ago, person } from "../lib/format.js";
import { badge } from "../lib/parts.js";

const TYPES = 6000; // milliseconds that somebody types for after having said so
const TELLS = 3000;
const MOST = 10;

const escaped = (user) => user.replaceAll("%", "%25").replaceAll("+", "%2B").replaceAll("#", "%23");

export class Present {
  constructor(device, topic, me) {
    Object.assign(this, { device, topic, me, on: false, seen: new Map(), types: new Map(), told: 0 });
    this.element = h("p", { class: "meta present", hidden: true });
    this.line = h("p", { class: "meta types", "aria-live": "polite" });
  }

  // Without the plugin `$typing/…` would be a topic as any other, and what is told there be kept.
  async begin() {
    const known = await this.device.ask({ op: "presence", user: this.me }).then(() => true, (error) => error.status === 403);
    if (!known) return;
    await this.device.subscribe(`$typing/${this.topic}`);
    this.on = true;
  }

  // Those who spoke last are followed, as far as one may.
  follow(users) {
    if (!this.on) return;
    for (const user of users) {
      if (user === this.me || this.seen.has(user) || !/^[uc]\//.test(user) || this.seen.size >= MOST) continue;
      this.seen.set(user, null);
      this.device.subscribe(`$presence/${escaped(user)}`).catch(() => null); // by the rules it may not be seen
    }
  }

  // Whether a message was about this.
  take({ topic, payload }) {
    if (topic.startsWith("$presence/")) {
      const told = parsed(payload);
      if (told && this.seen.has(told.user)) { this.seen.set(told.user, told); this.draw(); }
      return true;
    }
    if (topic !== `$typing/${this.topic}`) return topic.startsWith("$typing/");
    const { typing, user, device } = parsed(payload) || {};
    if (typeof user === "string" && device !== this.device.clientId) {
      clearTimeout(this.types.get(user));
      if (typing) this.types.set(user, setTimeout(() => this.stopped(user), TYPES));
      else this.types.delete(user);
      this.draw();
    }
    return true;
  }

  stopped(user) {
    clearTimeout(this.types.get(user));
    if (this.types.delete(user)) this.draw();
  }

  // This device's user types, or has sent it.
  typing(yes) {
    if (!this.on || !this.device.open || (yes && Date.now() - this.told < TELLS)) return;
    this.told = yes ? Date.now() : 0;
    this.device.publish(`$typing/${this.topic}`, JSON.stringify({ typing: yes, user: this.me, device: this.device.clientId })).catch(() => null); // of the moment
  }

  draw() {
    const known = [...this.seen.values()].filter(Boolean);
    this.element.hidden = !known.length;
    show(this.element, known.map((one) => h("span", {}, badge(person(one.user), one.online ? "good" : ""), one.online ? " online" : ` last seen ${ago(one.since)}`)));
    const names = [...this.types.keys()].map((user) => (user === this.me ? "you, on another device" : person(user)));
    const words = names.length ? `${names.slice(0, 3).join(", ")}${names.length > 3 ? " and others" : ""} typing …` : "";
    if (this.line.textContent !== words) this.line.textContent = words;
  }

  end() {
    for (const timer of this.types.values()) clearTimeout(timer);
    this.types.clear();
    this.on = false;
    this.line.textContent = "";
  }
}

const parsed = (payload) => {
  try {
    return JSON.parse(payload);
  } catch {
    return null;
  }
};
