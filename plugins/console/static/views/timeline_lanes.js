// The picture of the timelines: a column for each of the inbox's last entries. It slides as the inbox grows.

import { h, show, svg } from "../lib/dom.js";
import { number } from "../lib/format.js";

const COLUMNS = 28;
const WIDTH = 34;
const ROW = 30;
const GUTTER = 205;
const TOPICS = 8;
const EDGE = 12;
const KEPT = 2 * COLUMNS;

const label = (text, row, kind = "") => svg("text", { x: 10, y: row * ROW + 20, class: `lane ${kind}` }, text.length > 25 ? `${text.slice(0, 24)}…` : text, svg("title", {}, text));

const cell = (offset, base, row, text, kind) =>
  svg("g", { class: `cell ${kind}` },
    svg("rect", { x: (offset - base - 1) * WIDTH + 1, y: row * ROW + 3, width: WIDTH - 2, height: ROW - 6, rx: 5 }),
    svg("text", { x: (offset - base - 1) * WIDTH + WIDTH / 2, y: row * ROW + 19, "text-anchor": "middle" }, String(text)));

export const lanes = () => {
  const names = svg("g");
  const cells = svg("g", { class: "slides" });
  const marks = svg("g", { class: "slides" });
  const late = svg("g");
  const window_ = svg("svg", { x: GUTTER, width: COLUMNS * WIDTH + EDGE, height: "100%" }, cells, marks, late);
  const picture = svg("svg", { role: "img", class: "timeline", "aria-label": "Nothing yet" }, names, window_);
  const element = h("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "The timelines, drawn" }, picture);
  const entries = new Map();
  const devices = new Map();
  const drawn = new Map();
  let topics = [];
  let base = 0;
  let layout = "";

  // The conversations of the window, in the order in which they came; a row stays while it is seen.
  const rows = (head) => {
    const seen = [...entries.values()].filter((one) => one.offset > head - COLUMNS && one.topic).map((one) => one.topic);
    const recent = [...new Set(seen.reverse())].slice(0, TOPICS);
    return [...topics.filter((topic) => recent.includes(topic)), ...recent.filter((topic) => !topics.includes(topic))].slice(0, TOPICS);
  };

  const draw = (inboxRow, list) => {
    show(names,
      svg("text", { x: 10, y: 18, class: "lane head" }, "STORE"), topics.map((topic, place) => label(topic, place + 1, "topic")),
      svg("text", { x: 10, y: inboxRow * ROW + 19, class: "lane head" }, "INBOX"),
      svg("text", { x: 10, y: (inboxRow + 1) * ROW + 22, class: "lane head" }, "DEVICES"),
      list.map((one, place) => label(one.device, inboxRow + 2 + place, one.connected ? "on" : "")));
    drawn.clear();
    show(cells);
    devices.clear();
    show(late);
    show(marks, list.map((one, place) => {
      const y = (inboxRow + 2 + place) * ROW;
      const bar = svg("rect", { class: `bar ${one.connected ? "on" : ""}`, x: -KEPT * WIDTH, y: y + 12, width: KEPT * WIDTH, height: 6 });
      const dot = svg("circle", { class: `dot ${one.connected ? "on" : ""}`, cx: 0, cy: y + 15, r: 8 });
      const behind = svg("text", { class: "behind", x: 6, y: y + 19 });
      devices.set(one.device, { bar, dot, behind });
      late.append(behind);
      return [bar, dot];
    }).flat());
  };

  // What is new gets cells, and what has slid out of the picture loses them.
  const fill = (inboxRow) => {
    for (const [offset, made] of drawn) {
      if (!entries.has(offset)) { made.forEach((one) => one.remove()); drawn.delete(offset); }
    }
    for (const [offset, one] of entries) {
      if (drawn.has(offset)) continue;
      const row = topics.indexOf(one.topic) + 1;
      const made = [cell(offset, base, inboxRow, offset, "inbox"), row > 0 && cell(offset, base, row, `#${one.seq}`, "store")].filter(Boolean);
      cells.append(...made);
      drawn.set(offset, made);
    }
  };

  const update = (inbox, list) => {
    if (!base) base = Math.max(0, inbox.head - COLUMNS);
    for (const one of inbox.entries) entries.set(one.offset, one);
    for (const offset of entries.keys()) if (offset <= inbox.head - KEPT) entries.delete(offset);
    topics = rows(inbox.head);
    const inboxRow = topics.length + 1;
    const now = JSON.stringify([topics, list.map((one) => [one.device, one.connected])]);
    if (now !== layout) {
      layout = now;
      draw(inboxRow, list);
      const height = (inboxRow + 2 + list.length) * ROW + 10;
      picture.setAttribute("viewBox", `0 0 ${GUTTER + COLUMNS * WIDTH + EDGE} ${height}`);
      picture.style.minWidth = "900px";
    }
    fill(inboxRow);
    const shift = (Math.max(0, inbox.head - COLUMNS) - base) * WIDTH;
    for (const one of [cells, marks]) one.style.transform = `translateX(${-shift}px)`;
    for (const one of list) {
      const { bar, dot, behind } = devices.get(one.device);
      behind.textContent = one.offset <= inbox.head - COLUMNS ? `◂ ${number(one.head - one.offset)} entries behind` : "";
      const right = (Math.max(one.offset, inbox.head - KEPT) - base) * WIDTH;
      for (const mark of [dot, bar]) mark.style.transform = `translateX(${right}px)`;
    }
    const words = list.map((one) => `${one.device}, ${one.connected ? "connected" : "away"}, at ${one.offset}`);
    picture.setAttribute("aria-label", `Inbox of ${inbox.user}: head ${inbox.head}, from ${topics.length} conversations. Devices: ${words.join("; ") || "none"}.`);
  };
  return { element, update, shown: COLUMNS };
};
