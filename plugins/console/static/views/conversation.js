// One topic: last message, rate, who has it in a subscription, history page by page, and a message to publish.

import { get, part, post } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { chosen } from "../lib/files.js";
import { compact, number, person, time } from "../lib/format.js";
import { concerns, line, list, marks, payload } from "../lib/message.js";
import { button, code, doing, done, facts, field, link, select, trouble } from "../lib/parts.js";
import { every } from "../lib/refresh.js";
import { me } from "../lib/session.js";
import { pager, table } from "../lib/table.js";
import { members } from "./members.js";

const PAGE = 20;
const SUBSCRIBERS = 100;
const WINDOW = 30_000;

const newestOne = (message) =>
  message.recalled || ["recalls", "reacts", "unreacts"].includes(concerns(message)?.does) ? h("p", {}, line(message)) : [payload(message), marks(message)].filter(Boolean);

export const conversation = (place, topic, signal) => {
  const wrong = trouble();
  const path = `/conversations/${part(topic)}`;
  const state = h("div");
  const newest = h("div");
  const older = h("ol", { class: "messages" });
  const more = button("Earlier messages", doing(wrong, () => earlier()), { hidden: true });
  const readers = table({
    caption: "Subscribers", empty: "Nobody has a filter that matches.", key: (row) => `${row.user}\n${row.client}\n${row.filter}`,
    columns: [
      { name: "Client", cell: (row) => link(row.client, "clients", row.client, row.user) },
      { name: "User", cell: (row) => person(row.user) },
      { name: "Filter", cell: (row) => code(row.filter) },
      { name: "QoS", number: true, cell: (row) => row.qos },
    ],
  });
  const pages = pager(() => subscribers().catch(wrong.tell));
  let cursor = null;
  let began = false;
  let head = 0;
  let shown = "";
  const marks = [];

  const rate = () => {
    const [first, last] = [marks[0], marks.at(-1)];
    const passed = (last.at - first.at) / 1000;
    return passed ? `${compact((last.seq - first.seq) / passed)}/s` : "–";
  };

  const latest = async () => {
    const page = await get(`${path}/messages`, { limit: PAGE }, signal);
    head = page.last;
    marks.push({ at: Date.now(), seq: head });
    while (marks.length > 2 && marks[0].at < Date.now() - WINDOW) marks.shift();
    show(state, facts([
      ["Messages kept", head >= page.first ? `${number(head - page.first + 1)}, #${number(page.first)} to #${number(head)}` : "none"],
      ["Rate", rate()],
      ["Last", page.messages[0] && time(page.messages[0].time)],
    ]));
    const told = page.messages.map((message) => message.id).join();
    if (told === shown) return;
    shown = told;
    show(newest, page.messages.length ? [h("h3", {}, "Last message"), newestOne(page.messages[0]), h("h3", {}, "History"), list(page.messages)] : h("p", { class: "empty" }, "No message is kept."));
    if (!began) {
      began = true;
      cursor = page.next;
      more.hidden = !cursor;
    }
  };
  const earlier = async () => {
    const page = await get(`${path}/messages`, { cursor, limit: PAGE }, signal);
    older.append(...list(page.messages).childNodes);
    cursor = page.next;
    more.hidden = !cursor;
  };

  show(place, h("h2", {}, code(topic)), wrong.element, state, members(topic, signal), publisher(topic, path, wrong), newest, older, more,
    me.operator && h("details", { ontoggle: (event) => event.target.open && subscribers().catch(wrong.tell) }, h("summary", {}, "Who is subscribed"), readers.element, pages.element));
  const subscribers = async () => {
    const page = await get("/subscriptions", { topic, after: pages.at, limit: SUBSCRIBERS }, signal);
    readers.update(page.subscriptions);
    pages.update(page.next);
  };
  every(2000, signal, latest, wrong.tell);
};

const publisher = (topic, path, wrong) => {
  const words = h("textarea", { rows: 2, "aria-label": "Payload" });
  const qos = select([["0", "QoS 0"], ["1", "QoS 1"], ["2", "QoS 2"]], { "aria-label": "QoS" });
  qos.value = "1";
  const retain = h("input", { type: "checkbox" });
  const files = chosen("Attach files to the message");
  files.offer();
  return h("details", {}, h("summary", {}, "Publish a message"),
    h("form", { onsubmit: doing(wrong, async () => {
      const properties = await files.send(topic);
      const receipt = await post(`${path}/messages`, { payload: words.value, qos: Number(qos.value), retain: retain.checked, properties });
      words.value = "";
      done(`Message ${receipt.seq} of ${topic} is stored.`);
    }) }, field("Payload", words), h("div", { class: "filters" }, qos, h("label", { class: "check" }, retain, " retain"), files.element, h("button", { class: "strong" }, "Publish"))));
};
