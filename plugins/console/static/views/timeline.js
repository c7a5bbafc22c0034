// The timelines of one user as they grow: the store's conversations, the inbox that points into them, and how far each device is.

import { get } from "../lib/api.js";
import { h, show, unique } from "../lib/dom.js";
import { number } from "../lib/format.js";
import { badge, card, connected, field, heading, link, trouble } from "../lib/parts.js";
import { every } from "../lib/refresh.js";
import { me } from "../lib/session.js";
import { pager, table } from "../lib/table.js";
import { lanes } from "./timeline_lanes.js";

const USERS = 100;
const DEVICES = 12; // lanes of the picture, and rows below it
const FILTERS = 10;

// A user key as it is typed: u/alice is alice.
const plain = (user) => (user.startsWith("u/") ? user.slice(2) : user);

const filters = (row) => {
  const rest = row.subscriptions.length - FILTERS;
  return [h("code", {}, row.subscriptions.slice(0, FILTERS).map((one) => one.filter).join("  ")), rest > 0 && h("small", {}, ` and ${number(rest)} more`)].filter(Boolean);
};

export const timeline = (place, [asked], signal) => {
  const wrong = trouble();
  const picture = h("div", { class: "card lanes" });
  const rows = table({
    caption: "Devices", key: (row) => row.device, empty: "This user has no device with a session.",
    columns: [
      { name: "Device", cell: (row) => (me.operator ? link(row.device, "clients", row.device, row.user) : row.device) },
      { name: "State", cell: (row) => connected(row.connected) },
      { name: "Offset", number: true, cell: (row) => number(row.offset) },
      { name: "Inbox head", number: true, cell: (row) => number(row.head) },
      { name: "Lag", number: true, cell: (row) => (row.lag ? badge(number(row.lag), "warn") : row.lag === null ? "–" : "0") },
      { name: "Filters", cell: filters },
    ],
  });
  const turning = h("div");
  let following = new AbortController();
  signal.addEventListener("abort", () => following.abort());

  const follow = (user) => {
    following.abort();
    following = new AbortController();
    const drawn = lanes();
    show(picture, drawn.element);
    if (me.operator) history.replaceState(null, "", `#/timeline/${encodeURIComponent(user)}`);
    const of = me.operator ? { user } : {};
    const { signal: followed } = following;
    const load = async () => {
      const [inbox, devices] = await Promise.all([get("/inbox", { ...of, limit: drawn.shown }, followed), get("/devices", { ...of, after: pages.at, limit: DEVICES }, followed)]);
      drawn.update(inbox, devices.devices.filter((one) => one.offset !== null));
      rows.update(devices.devices);
      pages.update(devices.next);
    };
    const pages = pager(() => load().catch((error) => error.name === "AbortError" || wrong.tell(error)));
    show(turning, pages.element);
    every(1000, followed, load, wrong.tell);
  };

  const names = h("datalist", { id: unique("users") });
  const who = h("input", { list: names.id, autocomplete: "off", spellcheck: "false", autocapitalize: "none", placeholder: "alice, or c/sensor" });
  const chosen = () => { const name = who.value.trim(); if (name) follow(/^[uc]\//.test(name) ? name : `u/${name}`); };
  who.addEventListener("change", chosen);
  const begin = (user) => { who.value = plain(user); follow(user); };
  show(place,
    heading("Timelines", "A publish is appended to its conversation in the store, and to the inbox of each user that it is due to. Each device reads the inbox from its own offset.",
      me.operator && h("form", { onsubmit: (event) => { event.preventDefault(); chosen(); } }, field("User", who), names)),
    wrong.element, picture, card("Devices", rows.element, turning));
  if (!me.operator) {
    follow(me.user);
    return;
  }
  get("/devices", { limit: USERS }, signal).then(({ devices }) => {
    const users = [...new Set(devices.map((one) => one.user).filter((user) => /^[uc]\//.test(user)))];
    show(names, users.map((user) => h("option", { value: plain(user) })));
    if (asked || users.length) begin(asked || mostDevices(devices));
    else show(picture, h("p", { class: "empty" }, "No user has a device with a session yet."));
  }).catch((error) => error.name === "AbortError" || wrong.tell(error));

  const mostDevices = (devices) => {
    const counts = new Map();
    for (const one of devices) counts.set(one.user, (counts.get(one.user) || 0) + (one.subscriptions.length ? 1 : 0));
    const [user] = [...counts].filter(([key]) => /^[uc]\//.test(key)).sort((one, other) => other[1] - one[1])[0];
    return user;
  };
};
