// Who is online, by which devices, and since when (docs/presence.md).

import { get, part } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { ago, number, person, time, today } from "../lib/format.js";
import { badge, code, field, heading, select, trouble } from "../lib/parts.js";
import { every } from "../lib/refresh.js";
import { pager, table } from "../lib/table.js";

const LIMIT = 100;
const MOST = 5;

const since = (row) => (row.since ? h("span", { title: time(row.since) }, ago(row.since)) : "never seen");

const online = (yes) => badge(yes ? "online" : "away", yes ? "good" : "");

const devices = (row) => {
  const shown = row.devices.slice(0, MOST);
  const rest = row.devices.length - shown.length;
  return [
    h("ul", { class: "inline" }, shown.map((one) => h("li", {}, code(one.device), h("small", {}, one.online ? ` since ${today(one.since)}` : ` last seen ${today(one.since)}`)))),
    rest > 0 && h("small", {}, `and ${number(rest)} more`),
  ].filter(Boolean);
};

const columns = [
  { name: "User", cell: (row) => person(row.user) },
  { name: "State", cell: (row) => online(row.online) },
  { name: "Since", moves: true, cell: since },
  { name: "Devices", cell: devices },
];

export const presence = (place, [asked], signal) => {
  const wrong = trouble();
  const who = h("input", { placeholder: "alice, or c/sensor", spellcheck: "false", autocapitalize: "none", value: asked || "" });
  const which = select([["", "all"], ["online", "online"], ["away", "away"]]);
  const rows = table({ caption: "Users", columns, key: (row) => row.user, empty: "Nobody to show." });
  const pages = pager(() => load().catch(wrong.tell));
  const off = h("p", { class: "card", hidden: true }, "The plugin presence is not on, so nobody keeps who is online (docs/presence.md).");
  const tools = h("form", { class: "filters", onsubmit: (event) => { event.preventDefault(); again(); } }, field("User", who), field("State", which), h("button", {}, "Show"));

  const load = async () => {
    const name = who.value.trim();
    const wanted = (row) => !which.value || row.online === (which.value === "online");
    try {
      const page = name ? { users: [await get(`/presence/${part(/^[uc]\//.test(name) ? name : `u/${name}`)}`, {}, signal)], next: null } : await get("/presence", { after: pages.at, limit: LIMIT }, signal);
      rows.update(page.users.filter(wanted));
      pages.update(page.next);
    } catch (error) {
      if (error.status !== 404) throw error;
      off.hidden = false;
      for (const one of [tools, rows.element, pages.element]) one.hidden = true;
    }
  };
  const again = () => { pages.reset(); load().then(() => wrong.tell(null)).catch(wrong.tell); };
  which.addEventListener("change", again);
  who.addEventListener("change", again);

  show(place, heading("Presence", "Who is online, of those whom you may see. A device that has gone counts as online for a few seconds more."), wrong.element, tools, off, rows.element, pages.element);
  every(3000, signal, load, wrong.tell);
};
