// One message: where it is, what it says and said, what others did with it, who has it, and what stands around it.

import { get, part, post, put, remove } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { attached, files } from "../lib/files.js";
import { REACTIONS, about, concerns, line, list, payload, text } from "../lib/message.js";
import { badge, button, card, confirm, doing, done, field, heading, trouble } from "../lib/parts.js";
import { me } from "../lib/session.js";
import { ledger } from "./message_ledger.js";
import { reactions, versions } from "./message_marks.js";

const AROUND = 5;
const EDITS = 50;

export const message = (place, [id], signal) => {
  const wrong = trouble();
  const body = h("div");
  const wanted = h("input", { "aria-label": "Message id", placeholder: "0c1f00a1b2c3d4e5", value: id || "", spellcheck: "false", required: true });
  show(place, heading("Message", "What it says, what became of it, and who has it."), h("form", { class: "filters", onsubmit: (event) => {
    event.preventDefault();
    location.hash = `#/message/${encodeURIComponent(wanted.value.trim())}`;
  } }, wanted, h("button", {}, "Show the message")), wrong.element, body);
  if (id) load(body, id, signal).catch((error) => error.name === "AbortError" || wrong.tell(error));
};

// What a broker without the plugin recall does not have.
const orNone = (asked) => asked.catch((error) => { if (error.status === 404) return null; throw error; });

const load = async (body, id, signal) => {
  const path = `/messages/${encodeURIComponent(id)}`;
  const found = await get(path, {}, signal);
  const near = { after: Math.max(0, found.seq - AROUND - 1), before: found.seq + AROUND + 1, order: "oldest", limit: 2 * AROUND + 1 };
  const [page, known, given] = await Promise.all([
    get(`/conversations/${part(found.topic)}/messages`, near, signal), orNone(get(`${path}/versions`, {}, signal)), orNone(get(`${path}/reactions`, {}, signal)),
  ]);
  const again = () => load(body, id, signal);
  const wrong = trouble();
  const plain = !found.recalled && concerns(found)?.does !== "recalls";
  show(body, wrong.element,
    h("div", { class: "columns" },
      h("div", {},
        card("What it says",
          found.edited && h("p", {}, badge(`edited, ${found.versions} versions`), " ", h("span", { class: "faint" }, "This is the last one.")),
          plain && !["reacts", "unreacts"].includes(concerns(found)?.does) ? payload(found) : line(found),
          plain && files(attached(found), wrong, signal),
          known && plain && actions(found, path, given.reactions, wrong, again)),
        known?.versions.length > 1 && versions(known.versions, signal),
        given?.reactions.length > 0 && reactions(given.reactions)),
      card("What is known of it", about(found))),
    ledger(found, signal),
    card("Around it", list(page.messages)));
};

const actions = (found, path, given, wrong, again) => {
  const does = concerns(found)?.does;
  const recall = doing(wrong, async () => {
    const sure = await confirm({ title: "Take this message back?", text: "Its content is removed from the store, from inboxes and from the index. Who has it is told.", yes: "Take it back" });
    if (!sure) return;
    await post(`${path}/recall`);
    done("The message is taken back.");
    await again();
  });
  const mine = found.sender === me.user;
  const parts = [
    !does && react(path, given, wrong, again),
    mine && !does && found.encoding !== "base64" && found.versions <= EDITS && edit(found, path, wrong, again),
    (mine || me.operator) && button("Take it back", recall, { class: "danger" }),
  ].filter(Boolean);
  return parts.length > 0 && h("div", { class: "acts" }, parts);
};

// Each of the reactions is a switch for one's own, and there may be another.
const react = (path, given, wrong, again) => {
  const counts = new Map(REACTIONS.map((one) => [one, 0]));
  for (const { reaction } of given) counts.set(reaction, (counts.get(reaction) || 0) + 1);
  const own = new Set(given.filter((one) => one.user === me.user).map((one) => one.reaction));
  const one = (reaction) => `${path}/reactions/${encodeURIComponent(reaction)}`;
  const turn = (reaction) => doing(wrong, async () => {
    await (own.has(reaction) ? remove(one(reaction)) : put(one(reaction), {}));
    done(own.has(reaction) ? "Your reaction is taken back." : "You reacted.");
    await again();
  });
  const other = h("input", { "aria-label": "Another reaction", placeholder: "other", maxlength: 64, required: true, size: 3, autocomplete: "off", dir: "auto" });
  return h("form", { class: "react", onsubmit: doing(wrong, async () => { await put(one(other.value.trim()), {}); done("You reacted."); await again(); }) },
    [...counts].map(([reaction, count]) => button(count ? `${reaction} ${count}` : reaction, turn(reaction), { "aria-pressed": String(own.has(reaction)), "aria-label": `${reaction}, given ${count} times` })),
    other, h("button", {}, "React"));
};

const edit = (found, path, wrong, again) => {
  const words = h("textarea", { rows: 4, value: text(found), required: true, dir: "auto" });
  return h("details", {}, h("summary", {}, "Edit it"),
    h("form", { onsubmit: doing(wrong, async () => {
      await post(`${path}/versions`, { payload: words.value, content_type: found.content_type });
      done("The message is edited.");
      await again();
    }) }, field("The new version", words), h("button", { class: "strong" }, "Save the new version")));
};
