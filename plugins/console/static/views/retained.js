// The retained messages, and their end.

import { get, part, remove } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { ago, person, time } from "../lib/format.js";
import { line } from "../lib/message.js";
import { button, confirm, doing, done, field, heading, link, trouble } from "../lib/parts.js";
import { me } from "../lib/session.js";
import { pager, table } from "../lib/table.js";

export const retained = (place, _, signal) => {
  const wrong = trouble();
  const filter = h("input", { value: "#", required: true, spellcheck: "false", autocapitalize: "none" });
  const pages = pager(() => load().catch(wrong.tell));
  const load = async () => {
    const page = await get("/retained", { filter: filter.value, after: pages.at, limit: 50 }, signal);
    rows.update(page.messages);
    pages.update(page.next);
  };
  const clear = (row) => doing(wrong, async () => {
    const sure = await confirm({ title: `Clear the retained message of ${row().topic}?`, text: "Subscribers are told by an empty message. The conversation keeps what it has.", yes: "Clear" });
    if (!sure) return;
    await remove(`/retained/${part(row().topic)}`);
    done(`${row().topic} has no retained message any more.`);
    await load();
  });
  const rows = table({
    caption: "Retained messages", key: (row) => row.topic, empty: "No retained message matches.",
    columns: [
      { name: "Topic", cell: (row) => link(row.topic, me.operator ? "topics" : "conversations", row.topic) },
      { name: "Payload", cell: (row) => line(row) },
      { name: "From", cell: (row) => person(row.sender) },
      { name: "When", moves: true, cell: (row) => h("span", { title: time(row.time) }, ago(row.time)) },
      { name: "QoS", number: true, cell: (row) => row.qos },
      { name: "Actions", once: true, cell: (row) => button("Clear", (event) => clear(row)(event), { class: "danger", "aria-label": `Clear ${row().topic}` }) },
    ],
  });
  show(place, heading("Retained", "What a new subscriber is given at once. The broker's own below $SYS are not listed."), wrong.element,
    h("form", { class: "filters", onsubmit: doing(wrong, () => { pages.reset(); return load(); }) }, field("Filter", filter), h("button", {}, "Show")),
    rows.element, pages.element);
  load().catch(wrong.tell);
};
