// A message as people read it.

import { h } from "./dom.js";
import { bytes, person, time, today } from "./format.js";
import { facts, link } from "./parts.js";

const LONG = 4000;

const size = (message) =>
  message.encoding === "base64"
    ? Math.floor((message.payload.length * 3) / 4) - (message.payload.match(/=*$/)[0].length)
    : new TextEncoder().encode(text(message)).length;

export const text = (message) =>
  message.encoding === "json" ? JSON.stringify(message.payload) : message.encoding === "base64" ? "" : String(message.payload);

// The id of the message that this one takes back (docs/recall.md).
export const recalls = (message) => message.properties.find(([name]) => name === "tideline-recalls")?.[1];

// One line of a payload, for a list.
export const line = (message, most = 120) => {
  if (!message) return h("span", { class: "faint" }, "expired or removed");
  if (message.recalled) return h("span", { class: "faint" }, "taken back by its sender");
  if (recalls(message)) return h("span", { class: "faint" }, "takes back an earlier message");
  if (message.encoding === "base64") return h("span", { class: "faint" }, `${bytes(size(message))} of binary data`);
  const found = text(message).replace(/\s+/g, " ");
  if (!found) return h("span", { class: "faint" }, "empty");
  return h("span", { class: "payload", dir: "auto" }, found.length > most ? `${found.slice(0, most)}…` : found);
};

export const payload = (message) => {
  if (message.encoding === "base64") return h("pre", { class: "payload", tabindex: 0 }, hex(message.payload));
  const found = message.encoding === "json" ? JSON.stringify(message.payload, null, 2) : text(message);
  return h("pre", { class: "payload", dir: "auto", tabindex: 0 }, found.length > 100 * LONG ? `${found.slice(0, 100 * LONG)}…` : found);
};

const hex = (base64) => {
  const raw = atob(base64.slice(0, LONG));
  const lines = [];
  for (let at = 0; at < raw.length; at += 16) {
    const codes = [...raw.slice(at, at + 16)].map((sign) => sign.charCodeAt(0));
    const signs = codes.map((code) => (code > 31 && code < 127 ? String.fromCharCode(code) : ".")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${codes.map((code) => code.toString(16).padStart(2, "0")).join(" ").padEnd(47)}  ${signs}`);
  }
  return lines.join("\n") + (base64.length > LONG ? "\n…" : "");
};

export const about = (message) =>
  facts([
    ["Topic", link(message.topic, "topics", message.topic)],
    ["Sequence", message.seq],
    ["From", person(message.sender)],
    ["Device", message.device],
    ["Stored", time(message.time)],
    ["QoS", message.qos],
    ["Retained", message.retain ? "yes" : null],
    ["Expires", message.expires ? time(message.expires) : null],
    ["Content type", message.content_type],
    ["Size", bytes(size(message))],
    ["Id", h("code", {}, message.id)],
    ["Taken back by", message.recalled && link(message.recalled, "message", message.recalled)],
    ...message.properties.map(([name, value]) => [name, value]),
  ]);

// A list of messages, each with a link to its own page.
export const list = (messages) =>
  h("ol", { class: "messages" }, messages.map((message) =>
    h("li", {},
      h("div", { class: "meta" },
        h("a", { href: `#/message/${message.id}`, "aria-label": `message ${message.seq}` }, `#${message.seq}`),
        h("span", {}, person(message.sender)),
        h("time", { datetime: new Date(message.time).toISOString() }, today(message.time))),
      line(message, 600))));
