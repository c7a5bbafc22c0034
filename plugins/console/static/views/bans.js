// Who is kept out, and the end of that.

import { get, part, remove } from "../lib/api.js";
import { h } from "../lib/dom.js";
import { ago, number, person, time } from "../lib/format.js";
import { button, code, confirm, doing, done, trouble } from "../lib/parts.js";
import { every } from "../lib/refresh.js";
import { pager, table } from "../lib/table.js";

const LIMIT = 100;

const what = (row) => (row.kind === "user" ? person(row.what) : row.what);

export const bans = (signal) => {
  const wrong = trouble();
  const lift = (row) => doing(wrong, async () => {
    const sure = await confirm({ title: `Let ${row.kind} ${what(row)} in again?`, yes: "Lift the ban" });
    if (!sure) return;
    await remove(`/bans/${part(row.id)}`);
    done(`${what(row)} is banned no more.`);
    await load();
  });
  const rows = table({
    caption: "Bans", key: (row) => row.id, empty: "Nobody is banned.",
    columns: [
      { name: "Who", cell: (row) => [`${row.kind} `, code(what(row))] },
      { name: "Until", moves: true, cell: (row) => (row.until ? h("span", { title: time(row.until) }, ago(row.until)) : "for ever") },
      { name: "Why", cell: (row) => row.reason || "–" },
      { name: "By", cell: (row) => person(row.by) },
      { name: "Since", cell: (row) => time(row.since) },
      { name: "Actions", cell: (row) => button("Lift", lift(row), { "aria-label": `Lift the ban of ${what(row)}` }) },
    ],
  });
  const pages = pager(() => load().catch(wrong.tell));
  const summary = h("summary", {}, "Bans");
  const load = async () => {
    const { bans: found, next } = await get("/bans", { after: pages.at, limit: LIMIT }, signal);
    rows.update(found);
    pages.update(next);
    summary.textContent = pages.at || next ? "Bans" : found.length ? `Bans (${number(found.length)})` : "Bans";
  };
  every(5000, signal, load, wrong.tell);
  return h("details", {}, summary, wrong.element, rows.element, pages.element);
};
