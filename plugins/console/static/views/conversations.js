// The caller's conversations with what is unread, and one of them.

import { get, part, put } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { ago, number } from "../lib/format.js";
import { line } from "../lib/message.js";
import { badge, button, doing, done, heading, link, trouble } from "../lib/parts.js";
import { every } from "../lib/refresh.js";
import { me } from "../lib/session.js";
import { pager, table } from "../lib/table.js";
import { conversation } from "./conversation.js";
import { ownConversations } from "./members.js";

export const conversations = (place, [topic], signal) => (topic ? one(place, topic, signal) : all(place, signal));

const one = (place, topic, signal) => {
  const body = h("div");
  show(place, heading("Conversation", "", h("a", { href: "#/conversations" }, "All conversations")), body);
  conversation(body, topic, signal);
};

const all = (place, signal) => {
  const wrong = trouble();
  const pages = pager(() => load().catch(wrong.tell));
  const read = (row) => doing(wrong, async () => {
    await put(`/conversations/${part(row().topic)}/position`, { position: row().last });
    done(`${row().topic} is read to its end.`);
    await load();
  });
  const rows = table({
    caption: "Conversations", key: (row) => row.topic, empty: "You take part in no conversation yet.",
    columns: [
      { name: "Topic", cell: (row) => link(row.topic, "conversations", row.topic) },
      { name: "Last message", cell: (row) => line(row.last_message) },
      { name: "When", moves: true, cell: (row) => (row.last_message ? ago(row.last_message.time) : "–") },
      { name: "Messages", number: true, cell: (row) => number(row.last) },
      { name: "Unread", number: true, cell: (row) => (row.unread ? badge(number(row.unread), "warn") : "0") },
      { name: "Actions", once: true, cell: (row) => button("Mark as read", (event) => read(row)(event), { "aria-label": `Mark ${row().topic} as read` }) },
    ],
  });
  const load = async () => {
    const page = await get("/conversations", { after: pages.at, limit: 50 }, signal);
    rows.update(page.conversations);
    pages.update(page.next);
  };
  show(place, heading("Conversations", "Where you published, or got something from, by name. The operator sees all."), !me.operator && ownConversations(signal), h("h2", {}, "All, by topic"), wrong.element, rows.element, pages.element);
  every(3000, signal, load, wrong.tell);
};
