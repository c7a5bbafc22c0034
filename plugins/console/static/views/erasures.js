// What is erased for good: a user with all that they published, or a conversation. Begun here with a name typed twice, and watched.

import { get, part, post, remove } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { number, person, time, today } from "../lib/format.js";
import { badge, button, card, code, confirm, doing, done, field, heading, select, trouble, words } from "../lib/parts.js";
import { every } from "../lib/refresh.js";
import { pager, table } from "../lib/table.js";

const LIMIT = 50;
const PHASES = {
  "": "begins", devices: "shuts out, and forgets devices", records: "removes what plugins keep", messages: "recalls messages",
  retained: "clears what is retained", inbox: "empties the inbox", leftovers: "looks once more",
};
const KINDS = {
  user: {
    label: "User name, or c/client-id", example: "alice", body: (name) => ({ user: key(name) }), named: key,
    text: "All that this user published is recalled on every device. Its account, tokens, devices and inbox go too. Nothing of it comes back.",
  },
  conversation: {
    label: "Conversation (topic)", example: "chat/room", body: (name) => ({ conversation: name }), named: (name) => name,
    text: "Every message of this conversation is recalled on every device, whoever sent it. Nothing of it comes back.",
  },
};

function key(name) {
  return /^[uc]\//.test(name) ? name : `u/${name}`;
}

const progress = (row) =>
  row.state === "done" ? `ended ${today(row.ended)}`
    : [h("progress", { value: row.permille, max: 1000, "aria-label": `Progress of the erasure of ${row.name}` }), h("small", { class: "block" }, `${Math.floor(row.permille / 10)} %, ${PHASES[row.phase] || row.phase}`)];

export const erasures = (place, _, signal) => {
  const wrong = trouble();
  const off = h("p", { class: "card", hidden: true }, "The plugin recall is not on, so nothing can be erased (docs/recall.md).");
  const kind = select([["user", "a user"], ["conversation", "a conversation"]]);
  const name = h("input", { required: true, placeholder: "alice", autocomplete: "off", spellcheck: "false", autocapitalize: "none", dir: "auto" });
  const named = h("div");
  const turn = () => {
    const { label, example } = KINDS[kind.value];
    name.placeholder = example;
    show(named, field(label, name));
  };
  const pages = pager(() => load().catch(wrong.tell));
  const erase = async () => {
    const { text, body, named: of } = KINDS[kind.value];
    const wanted = of(name.value);
    const sure = await confirm({ title: `Erase ${kind.value} ${wanted}?`, text, yes: "Erase for good", danger: true, ask: { label: `Type ${wanted} to confirm`, must: wanted } });
    if (!sure) return;
    await post("/erasures", body(name.value));
    done(`The erasure of ${wanted} has begun.`);
    name.value = "";
    await load();
  };
  const forget = (row) => doing(wrong, async () => {
    const sure = await confirm({ title: `Forget this erasure?`, text: `The list names ${row.name} no more. What was erased stays erased.`, yes: "Forget it" });
    if (!sure) return;
    await remove(`/erasures/${row.what}/${part(row.name)}`);
    done("It is forgotten.");
    await load();
  });
  const rows = table({
    caption: "Erasures", key: (row) => `${row.what}:${row.name}`, empty: "Nothing was erased.",
    columns: [
      { name: "Who, or what", cell: (row) => [row.what === "user" ? words(person(row.name)) : code(row.name), h("small", { class: "block" }, row.what)] },
      { name: "State", cell: (row) => badge(row.state === "done" ? "erased" : "under way", row.state === "done" ? "good" : "warn") },
      { name: "Progress", cell: progress },
      { name: "Looked through", number: true, cell: (row) => number(row.looked) },
      { name: "Recalled", number: true, cell: (row) => number(row.recalled) },
      { name: "Failed", number: true, cell: (row) => (row.failed ? badge(number(row.failed), "bad") : "0") },
      { name: "Asked for", cell: (row) => time(row.requested) },
      { name: "Actions", cell: (row) => row.state === "done" && button("Forget", forget(row), { "aria-label": `Forget the erasure of ${row.name}` }) },
    ],
  });
  const body = h("div", {},
    card("Erase", h("form", { class: "filters", onsubmit: doing(wrong, erase) }, field("What", kind), named, h("button", { class: "danger" }, "Erase …"))),
    rows.element, pages.element);
  const load = async () => {
    try {
      const page = await get("/erasures", { after: pages.at, limit: LIMIT }, signal);
      rows.update(page.erasures);
      pages.update(page.next);
    } catch (error) {
      if (error.status !== 404) throw error;
      off.hidden = false;
      body.hidden = true;
    }
  };
  kind.addEventListener("change", turn);
  turn();
  show(place, heading("Erasures", "A user with all that they published, or all of a conversation, taken back for good. It goes on over restarts. What failed is named in the broker's log."),
    wrong.element, off, body);
  every(2000, signal, load, wrong.tell);
};
