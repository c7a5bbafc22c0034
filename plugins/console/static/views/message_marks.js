// What a message said before it was edited, and who reacted to it.

import { request } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { bytes, number, person, time } from "../lib/format.js";
import { card } from "../lib/parts.js";
import { table } from "../lib/table.js";

const LONG = 2000;

// The content of this very version: what `GET /v1/messages/{id}` gives of a first version is the last one's.
const said = async (id, signal) => {
  const raw = await (await request("GET", `/messages/${id}/payload`, { signal })).arrayBuffer();
  try {
    const words = new TextDecoder("utf-8", { fatal: true }).decode(raw);
    return words.length > LONG ? `${words.slice(0, LONG)}…` : words;
  } catch {
    return `${bytes(raw.byteLength)} of binary data`;
  }
};

export const versions = (known, signal) =>
  card("Versions", h("ol", { class: "messages", "aria-label": "Versions, the first one first" }, known.map((one) => {
    const words = h("span", { class: "payload", dir: "auto" });
    said(one.id, signal).then((found) => { words.textContent = found; }).catch((error) => { if (error.name !== "AbortError") show(words, h("span", { class: "faint" }, error.message)); });
    return h("li", {},
      h("div", { class: "meta" }, h("a", { href: `#/message/${one.id}`, "aria-label": `version ${one.seq}` }, `#${one.seq}`), h("span", {}, person(one.sender)), h("time", {}, time(one.time))),
      one.recalled ? h("span", { class: "faint" }, "taken back") : words);
  })));

export const reactions = (given) => {
  const who = new Map();
  for (const { user, reaction } of given) who.set(reaction, [...(who.get(reaction) || []), person(user)]);
  const rows = table({
    caption: "Reactions", key: (row) => row.reaction,
    columns: [
      { name: "Reaction", cell: (row) => h("span", { dir: "auto" }, row.reaction) },
      { name: "Times", number: true, cell: (row) => number(row.users.length) },
      { name: "From", cell: (row) => row.users.join(", ") },
    ],
  });
  rows.update([...who].map(([reaction, users]) => ({ reaction, users })).sort((one, other) => other.users.length - one.users.length));
  return card("Reactions", rows.element);
};
