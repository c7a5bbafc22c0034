// The nodes that serve the same data, and one that is to leave.

import { get, post } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { ago, number } from "../lib/format.js";
import { badge, button, card, confirm, doing, done, heading, trouble } from "../lib/parts.js";
import { every } from "../lib/refresh.js";
import { table } from "../lib/table.js";

const KINDS = { up: "good", leaving: "warn", dead: "bad" };

export const cluster = (place, _, signal) => {
  const wrong = trouble();
  const alone = h("p", { class: "empty", hidden: true }, "This broker's storage serves one node: there is no cluster. Over MongoDB many nodes share one (docs/cluster.md).");
  const leave = (row) => doing(wrong, async () => {
    const sure = await confirm({ title: `Have node ${row().name} leave?`, text: "Its clients are sent to other nodes, it lets nobody in, and its process ends.", yes: "Leave" });
    if (!sure) return;
    await post(`/cluster/${row().number}/leave`);
    done(`Node ${row().name} leaves.`);
  });
  const rows = table({
    caption: "Nodes", key: (row) => `${row.number} ${row.token}`, empty: "",
    columns: [
      { name: "Node", cell: (row) => [h("b", {}, row.name), row.me ? " (answers here)" : ""] },
      { name: "Number", number: true, cell: (row) => row.number },
      { name: "State", cell: (row) => badge(row.state, KINDS[row.state]) },
      { name: "Sessions", number: true, cell: (row) => number(row.sessions) },
      { name: "Last beat", number: true, cell: (row) => `${number(row.beat_age)} ms ago` },
      { name: "Routes", number: true, cell: (row) => number(row.routes) },
      { name: "Changes behind", number: true, cell: (row) => (row.lag ? badge(number(row.lag), "warn") : "0") },
      { name: "Started", moves: true, cell: (row) => ago(row.started) },
      { name: "Actions", once: true, cell: (row) => button("Leave", (event) => leave(row)(event), { class: "danger", "aria-label": `Have node ${row().name} leave` }) },
    ],
  });
  show(place, heading("Cluster", "The nodes that serve the same data."), wrong.element, card("", alone, rows.element));
  every(2000, signal, async () => {
    try {
      rows.update((await get("/cluster", {}, signal)).nodes);
      alone.hidden = true;
    } catch (error) {
      if (error.status !== 404) throw error;
      alone.hidden = false;
    }
  }, wrong.tell);
};
