// One message: where it is, what it holds, and what stands around it.

import { get, part, post } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { about, line, list, payload, recalls } from "../lib/message.js";
import { button, card, confirm, doing, done, heading, trouble } from "../lib/parts.js";
import { me } from "../lib/session.js";

const AROUND = 5;

export const message = (place, [id], signal) => {
  const wrong = trouble();
  const body = h("div");
  const wanted = h("input", { "aria-label": "Message id", placeholder: "0c1f00a1b2c3d4e5", value: id || "", spellcheck: "false", required: true });
  show(place, heading("Message", ""), h("form", { class: "filters", onsubmit: (event) => {
    event.preventDefault();
    location.hash = `#/message/${encodeURIComponent(wanted.value.trim())}`;
  } }, wanted, h("button", {}, "Show the message")), wrong.element, body);
  if (id) load(body, id, signal).catch((error) => error.name === "AbortError" || wrong.tell(error));
};

const load = async (body, id, signal) => {
  const found = await get(`/messages/${encodeURIComponent(id)}`, {}, signal);
  const near = { after: Math.max(0, found.seq - AROUND - 1), before: found.seq + AROUND + 1, order: "oldest", limit: 2 * AROUND + 1 };
  const page = await get(`/conversations/${part(found.topic)}/messages`, near, signal);
  const wrong = trouble();
  const recall = button("Take it back", doing(wrong, async () => {
    const sure = await confirm({ title: "Take this message back?", text: "Its content is removed from the store, from inboxes and from the index. Who has it is told.", yes: "Take it back" });
    if (!sure) return;
    await post(`/messages/${encodeURIComponent(id)}/recall`);
    done("The message is taken back.");
    await load(body, id, signal);
  }), { class: "danger" });
  const mine = (me.operator || found.sender === me.user) && !found.recalled && !recalls(found);
  show(body, wrong.element, h("div", { class: "columns" }, card("What it says", found.recalled || recalls(found) ? line(found) : payload(found), mine && h("div", { class: "buttons" }, recall)), card("What is known of it", about(found)), card("Around it", list(page.messages))));
};
