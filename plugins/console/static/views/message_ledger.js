// The ledger of one message (docs/receipts.md): how many have it stored, delivered, acknowledged and read; and who, on which device, when.

import { get } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { number, person, time, today } from "../lib/format.js";
import { badge, button, card, code, connected, doing, link, trouble } from "../lib/parts.js";
import { every } from "../lib/refresh.js";
import { me } from "../lib/session.js";
import { pager, table } from "../lib/table.js";

const PAGE = 50;
const DEVICES = 10; // of each user
const COUNTED = 1000;
const PAGES = 10;

const STEPS = [["stored", "Stored for"], ["delivered", "Delivered to"], ["acknowledged", "Acknowledged by"], ["read", "Read by"]];
const REASONS = {
  filter: "none of its filters matches", since: "its filter came later", own: "its own message (No Local)", denied: "denied by access rules", expired: "the message has expired",
};
const KINDS = { acknowledged: "good", delivered: "warn" };

const none = () => ({ users: { stored: 0, delivered: 0, acknowledged: 0, read: 0 }, devices: { due: 0, delivered: 0, acknowledged: 0, not_due: 0 }, groups: { stored: 0, acknowledged: 0 } });

const add = (sum, more) => {
  for (const [of, counts] of Object.entries(more)) for (const [name, count] of Object.entries(counts)) sum[of][name] += count;
};

// When something happened: between two moments, of which one may not be known.
const between = (times) => {
  if (!times) return "–";
  const { after, until } = times;
  const words = after && until ? `${today(after)} – ${today(until)}` : until ? `before ${today(until)}` : after ? `after ${today(after)}` : "at a time not known";
  return h("span", { title: `between ${after ? time(after) : "an unknown time"} and ${until ? time(until) : "now"}` }, words);
};

const state = (row) =>
  row.state === "not_due" ? h("span", { class: "faint" }, REASONS[row.reason] || "not for it") : badge(row.state, KINDS[row.state]);

const columns = [
  { name: "User", cell: (row) => [row.channel ? `${person(row.user)}, in the channel ` : person(row.user), row.channel && code(row.channel)].filter(Boolean) },
  { name: "Entry", number: true, cell: (row) => number(row.entry) },
  { name: "Device", cell: (row) => (row.device === undefined ? h("span", { class: "faint" }, row.more ? `${number(row.more)} more devices` : "no device") : me.operator ? link(row.device || "(empty)", "clients", row.device, row.user) : row.device) },
  { name: "Now", cell: (row) => (row.device === undefined ? "–" : connected(row.connected)) },
  { name: "State", cell: state },
  { name: "Delivered", cell: (row) => between(row.delivered) },
  { name: "Acknowledged", cell: (row) => between(row.acknowledged) },
  { name: "Read by user", cell: (row) => (row.read ? [badge("read", "good"), " ", row.read_at ? between(row.read_at) : ""] : "no") },
];

// A row for each device that is told of, one for those beside them, and one for who has none.
const flat = (holders) =>
  holders.flatMap(({ devices, more_devices: more, ...holder }) => [
    ...(devices.length ? devices.map((device) => ({ ...holder, ...device })) : [holder]), ...(more ? [{ ...holder, more }] : []),
  ]);

const steps = () => {
  const found = STEPS.map(([name, words]) => ({ name, value: h("strong", {}, "–"), of: h("span", {}), bar: h("i", { class: "filled" }), words }));
  return {
    element: h("dl", { class: "tiles steps" }, found.map((one) => h("div", {}, h("dt", {}, one.words), h("dd", {}, one.value, one.of, h("i", { class: "track", "aria-hidden": "true" }, one.bar))))),
    update(users) {
      for (const one of found) {
        const share = users.stored ? users[one.name] / users.stored : 0;
        one.value.textContent = number(users[one.name]);
        one.of.textContent = one.name === "stored" ? (users.stored === 1 ? "user" : "users") : `${Math.round(share * 100)} %`;
        one.bar.style.width = `${one.name === "stored" ? (users.stored ? 100 : 0) : Math.min(100, share * 100)}%`;
      }
    },
  };
};

export const ledger = (message, signal) => {
  const path = `/messages/${message.id}`;
  const wrong = trouble();
  const tiles = steps();
  const more = h("p", { class: "faint" });
  const silent = h("p", { class: "trouble", hidden: true });
  const rows = table({ caption: "Who has it, device by device", columns, key: (row) => `${row.user}\n${row.channel}\n${row.device}\n${Boolean(row.more)}`, empty: "It is in nobody's inbox." });
  const pages = pager(() => page().catch(wrong.tell));
  const count = button("Count again", doing(wrong, () => counted()), { hidden: true });
  const off = h("p", { class: "empty", hidden: true }, "Who has a message is told by the plugin receipts, which is not on (docs/receipts.md).");
  const body = h("div", {}, tiles.element, more, silent, rows.element, h("div", { class: "buttons" }, pages.element, count));
  let whole = true; // whether the caller may know who, and not only how many
  let large = false; // more than are counted at once, again and again

  const tell = (sum, left) => {
    tiles.update(sum.users);
    const { devices, groups } = sum;
    more.textContent = [
      `Of their devices it is for ${number(devices.due)}: delivered to ${number(devices.delivered)}, acknowledged by ${number(devices.acknowledged)}${devices.not_due ? `; for ${number(devices.not_due)} it is not` : ""}.`,
      groups.stored ? `Shared subscriptions that have it: ${number(groups.stored)}, acknowledged by ${number(groups.acknowledged)}.` : "",
      left ? "There are more; these are the first that were counted." : "",
    ].filter(Boolean).join(" ");
  };
  const unanswered = (nodes) => {
    silent.hidden = !nodes.length;
    silent.textContent = `Nodes that do not answer, of whose devices storage tells, a second late: ${nodes.join(", ")}`;
  };

  // All pages of the counts, as far as is reasonable at once.
  const counted = async () => {
    const sum = none();
    let after = "";
    let left = PAGES;
    do {
      const found = await get(`${path}/counts`, { after, limit: COUNTED }, signal);
      add(sum, found.counts);
      unanswered(found.silent);
      after = found.next;
      left -= 1;
      large ||= Boolean(after);
      tell(sum, after);
    } while (after && left);
  };
  const page = async () => {
    const found = await get(`${path}/ledger`, { after: pages.at, limit: PAGE, devices: DEVICES }, signal);
    rows.update(flat(found.holders));
    pages.update(found.next);
    unanswered(found.silent);
    if (!pages.at && !found.next) tell(found.counts); // all of them are on this page
    else if (count.hidden) {
      count.hidden = false;
      await counted();
    }
  };
  const load = async () => {
    if (whole) {
      try {
        await page();
        return;
      } catch (error) {
        if (error.status !== 403) throw error;
        whole = false;
        rows.element.hidden = true;
      }
    }
    if (large) return;
    await counted();
    count.hidden = !large;
  };
  load().then(() => every(2000, signal, load, wrong.tell)).catch((error) => {
    if (error.name === "AbortError") return;
    body.hidden = error.status === 404;
    off.hidden = error.status !== 404;
    if (error.status !== 404) wrong.tell(error);
  });
  return card("Who has it", wrong.element, off, body);
};
