// Every stored topic as a tree; of one its last message, its rate, who gets it, and its history.

import { get } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { compact } from "../lib/format.js";
import { line } from "../lib/message.js";
import { heading, trouble } from "../lib/parts.js";
import { every } from "../lib/refresh.js";
import { tree } from "../lib/tree.js";
import { conversation } from "./conversation.js";

const LIMIT = 100;
const WINDOW = 15_000;

const heads = new Map();

// How many messages a topic has had, how many a second come now, and what the last one says.
const note = ({ topic, last, last_message: message }) => {
  const now = Date.now();
  const seen = heads.get(topic) || { at: now, seq: last };
  if (!heads.has(topic) || now - seen.at > WINDOW) heads.set(topic, { at: now, seq: last });
  const rate = now > seen.at ? (last - seen.seq) / ((now - seen.at) / 1000) : 0;
  return [`${compact(last)}`, rate > 0 ? `, ${compact(rate)}/s` : "", " ", line(message, 40)];
};

// A page of what is right below a prefix: a name may be a topic and a level at once, and is one node then.
const below = async (prefix, after, signal) => {
  const nodes = new Map();
  const page = await get("/topics", { prefix, after, limit: LIMIT }, signal);
  for (const topic of page.topics) nodes.set(topic.topic.slice(prefix.length), { topic: topic.topic, note: note(topic) });
  for (const level of page.levels) {
    const name = level.slice(prefix.length, -1);
    nodes.set(name, { ...nodes.get(name), below: level });
  }
  const found = [...nodes].map(([key, node]) => ({
    ...node, key, name: node.below ? `${key}/` : key, branch: Boolean(node.below), note: node.note || [],
  }));
  return { nodes: found.sort((one, other) => (one.key < other.key ? -1 : 1)), next: page.next };
};

export const topics = (place, [topic], signal) => {
  heads.clear();
  const wrong = trouble();
  const side = h("section", { class: "detail", "aria-label": "Topic" });
  const named = h("input", { "aria-label": "Topic name", placeholder: "home/kitchen/temp", spellcheck: "false", autocapitalize: "none", value: topic || "" });
  let at = new AbortController();
  signal.addEventListener("abort", () => at.abort());

  const open = (name) => {
    at.abort();
    at = new AbortController();
    named.value = name;
    history.replaceState(null, "", `#/topics/${encodeURIComponent(name)}`);
    conversation(side, name, at.signal);
  };
  const branches = tree({
    label: "Topics", failed: wrong.tell, pick: (node) => open(node.topic),
    below: (node, after) => below(node ? node.below : "", after, signal),
  });
  show(place,
    heading("Topics", "Every topic that something was ever stored for. Beside each: how many messages it has had, how many come a second, and the last one."),
    wrong.element,
    h("form", { class: "filters", onsubmit: (event) => { event.preventDefault(); if (named.value) open(named.value); } }, named, h("button", {}, "Open the topic")),
    h("div", { class: "halves" }, h("div", { class: "card scroll-y" }, branches.element), side));
  show(side, h("p", { class: "empty" }, "Choose a topic in the tree. Arrow keys move in it, Enter opens."));
  if (topic) open(topic);
  branches.load()
    .then(() => topic && branches.reveal((node) => topic.startsWith(node.below), (node) => node.topic === topic))
    .then(() => every(3000, signal, () => branches.renew(), wrong.tell))
    .catch(wrong.tell);
};
