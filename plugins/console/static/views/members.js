// Conversations with members (docs/conversations.md): mine by activity, and who is in one. Nothing is shown by a broker without them.

import { get, part, post, put, remove } from "../lib/api.js";
import { h } from "../lib/dom.js";
import { ago, number, person, time } from "../lib/format.js";
import { line } from "../lib/message.js";
import { badge, button, confirm, doing, done, field, link, select, trouble } from "../lib/parts.js";
import { every } from "../lib/refresh.js";
import { me } from "../lib/session.js";
import { pager, table } from "../lib/table.js";

const ROLES = ["member", "admin", "owner", "read-only"];
const LIMIT = 50;

const key = (name) => (/^[uc]\//.test(name) ? name : `u/${name}`);

// Shows what `load` gives for as long as the view lasts, in a place that stays hidden where the broker has no such call.
const where = (place, signal, wrong, load) => {
  place.hidden = true;
  load().then(() => {
    place.hidden = false;
    every(3000, signal, load, wrong.tell);
  }).catch((error) => {
    if (error.status === 404 || error.name === "AbortError") return;
    place.hidden = false;
    wrong.tell(error);
  });
};

export const ownConversations = (signal) => {
  const wrong = trouble();
  const pages = pager(() => load().catch(wrong.tell));
  const join = (row) => doing(wrong, async () => {
    await post(`/conversations/${part(row.topic)}/join`);
    done(`You are a member of ${row.name || row.topic}.`);
    await load();
  });
  const rows = table({
    caption: "Conversations with members", key: (row) => row.topic, empty: "You are a member of none.",
    columns: [
      { name: "Conversation", cell: (row) => [link(row.name || row.topic, "conversations", row.topic), " ", badge(row.kind)] },
      { name: "Last message", cell: (row) => (row.last_message ? line(row.last_message) : "–") },
      { name: "Active", moves: true, cell: (row) => ago(row.active) },
      { name: "Messages", number: true, cell: (row) => number(row.total) },
      { name: "Unread", number: true, cell: (row) => (row.unread ? badge(number(row.unread), "warn") : "0") },
      { name: "Mentions", number: true, cell: (row) => (row.mentions ? badge(number(row.mentions), "warn") : "0") },
      { name: "My role", cell: (row) => (row.invited ? button("Accept the invitation", join(row), { "aria-label": `Accept the invitation to ${row.name || row.topic}` }) : row.role) },
    ],
  });
  const place = h("section", { "aria-label": "With members" }, h("h2", {}, "With members, what was active last first"), wrong.element, rows.element, pages.element);
  const load = async () => {
    const page = await get("/me/conversations", { after: pages.at, limit: LIMIT }, signal);
    rows.update(page.conversations);
    pages.update(page.next);
  };
  where(place, signal, wrong, load);
  return place;
};

export const members = (topic, signal) => {
  const wrong = trouble();
  const path = `/conversations/${part(topic)}`;
  const pages = pager(() => load().catch(wrong.tell));
  const about = h("p", { class: "faint" });
  const name = h("input", { required: true, placeholder: "alice", spellcheck: "false", autocapitalize: "none" });
  const role = select(ROLES.map((one) => [one, one]));
  const add = h("form", { class: "filters", hidden: true, onsubmit: doing(wrong, async () => {
    await put(`${path}/members/${part(key(name.value.trim()))}`, { role: role.value });
    done(`${name.value} is a member.`);
    name.value = "";
    await load();
  }) }, field("User", name), field("Role", role), h("button", {}, "Add the member"));
  const drop = (row) => doing(wrong, async () => {
    const mine = row.user === me.user;
    const sure = await confirm({ title: mine ? "Leave this conversation?" : `Remove ${person(row.user)}?`, text: "What comes from then on is not theirs any more.", yes: mine ? "Leave" : "Remove" });
    if (!sure) return;
    await remove(`${path}/members/${part(row.user)}`);
    done(`${person(row.user)} is no member any more.`);
    await load();
  });
  const rows = table({
    caption: "Members", key: (row) => row.user,
    columns: [
      { name: "User", cell: (row) => person(row.user) },
      { name: "Role", cell: (row) => [row.role, row.invited ? [" ", badge("invited", "warn")] : ""] },
      { name: "Since", cell: (row) => time(row.joined) },
      { name: "Actions", cell: (row) => button(row.user === me.user ? "Leave" : "Remove", drop(row), { class: "danger", "aria-label": `Remove ${person(row.user)}` }) },
    ],
  });
  const place = h("details", {}, h("summary", {}, "Members"), wrong.element, about, add, rows.element, pages.element);
  const load = async () => {
    const known = await get(`${path}/about`, {}, signal);
    about.textContent = `${known.kind}${known.name ? `, “${known.name}”` : ""}, begun ${time(known.created)} by ${person(known.creator)}`;
    add.hidden = !(me.operator || ["owner", "admin"].includes(known.mine?.role));
    const page = await get(`${path}/members`, { after: pages.at, limit: LIMIT }, signal);
    rows.update(page.members);
    pages.update(page.next);
  };
  where(place, signal, wrong, load);
  return place;
};
