// A message as people read it.

import { h } from "./dom.js";
import { attached } from "./files.js";
import { bytes, number, person, time, today } from "./format.js";
import { badge, facts, link } from "./parts.js";

const LONG = 4000;

// Those that are offered; any other text is one, too.
export const REACTIONS = ["👍", "❤️", "😂", "🎉"];

const size = (message) =>
  message.encoding === "base64"
    ? Math.floor((message.payload.length * 3) / 4) - (message.payload.match(/=*$/)[0].length)
    : new TextEncoder().encode(text(message)).length;

export const text = (message) =>
  message.encoding === "json" ? JSON.stringify(message.payload) : message.encoding === "base64" ? "" : String(message.payload);

const named = (message, wanted) => message.properties.find(([name]) => name === wanted)?.[1];

// What a message does to another one (docs/recall.md): {to: its id, does: "recalls", "edits", "reacts" or "unreacts"}, or null.
export const concerns = (message) => {
  for (const does of ["recalls", "edits", "reacts", "unreacts"]) {
    const to = named(message, `tideline-${does}`);
    if (to) return { to, does };
  }
  return null;
};

const DOES = { recalls: "takes back an earlier message", reacts: "reacts with ", unreacts: "takes back the reaction " };

const faint = (...words) => h("span", { class: "faint" }, words);

const short = (found, most) => h("span", { class: "payload", dir: "auto" }, found.length > most ? `${found.slice(0, most)}…` : found);

// One line of a payload, for a list.
export const line = (message, most = 120) => {
  if (!message) return faint("expired or removed");
  if (message.recalled) return faint("taken back");
  const does = concerns(message)?.does;
  if (does === "recalls") return faint(DOES.recalls);
  if (does in DOES) return faint(DOES[does], short(text(message), most));
  const files = attached(message).length;
  const more = files > 0 && [" ", badge(files === 1 ? "attachment" : `${number(files)} attachments`)];
  if (message.encoding === "base64") return h("span", {}, faint(`${bytes(size(message))} of binary data`), more);
  const found = text(message).replace(/\s+/g, " ");
  return h("span", {}, found ? short(found, most) : faint("empty"), more);
};

// What became of it: edits, and reactions with how often each was given.
export const marks = (message) => {
  const found = [
    message.edited && badge(`edited, ${number(message.versions)} versions`),
    message.edits && badge("a later version"),
    ...Object.entries(message.reactions || {}).map(([reaction, count]) => h("span", { class: "badge", dir: "auto" }, `${reaction} ${number(count)}`)),
  ].filter(Boolean);
  return found.length > 0 && h("span", { class: "marks" }, found);
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

const TO = { recalls: "Takes back", edits: "A later version of", reacts: "Reacts to", unreacts: "Takes a reaction back from" };
const OURS = /^(tideline-(recalls|recalled|edits|reacts|unreacts)|attachment)$/; // shown in words, or as what they name

export const about = (message) => {
  const other = concerns(message);
  return facts([
    ["Topic", link(message.topic, "topics", message.topic)],
    ["Sequence", message.seq],
    ["From", person(message.sender)],
    ["Device", message.device],
    ["Stored", time(message.time)],
    ["Last edited", message.edited && time(message.edited_time)],
    ["QoS", message.qos],
    ["Retained", message.retain ? "yes" : null],
    ["Expires", message.expires ? time(message.expires) : null],
    ["Content type", message.content_type],
    ["Size", bytes(size(message))],
    ["Id", h("code", {}, message.id)],
    ["Taken back by", message.recalled && link(message.recalled, "message", message.recalled)],
    ...(other ? [[TO[other.does], link(other.to, "message", other.to)]] : []),
    ...message.properties.filter(([name]) => !OURS.test(name)),
  ]);
};

// A list of messages, each with a link to its own page.
export const list = (messages) =>
  h("ol", { class: "messages" }, messages.map((message) =>
    h("li", {},
      h("div", { class: "meta" },
        h("a", { href: `#/message/${message.id}`, "aria-label": `message ${message.seq}` }, `#${message.seq}`),
        h("span", {}, person(message.sender)),
        h("time", { datetime: new Date(message.time).toISOString() }, today(message.time)),
        marks(message)),
      line(message, 600))));
