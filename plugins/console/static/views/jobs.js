// What the broker does by itself, when it did, and a run by hand.

import { get, post, remove } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { ago, number, time } from "../lib/format.js";
import { badge, button, doing, done, heading, trouble } from "../lib/parts.js";
import { every } from "../lib/refresh.js";
import { table } from "../lib/table.js";

const KINDS = { done: "good", failed: "bad", cancelled: "warn", interrupted: "warn" };

const last = ({ last: run }) =>
  run ? [badge(run.outcome || "under way", KINDS[run.outcome]), " ", h("span", { title: time(run.started) }, ago(run.started)), " ", h("small", {}, told(run.detail))] : "never";

const told = (detail) =>
  Object.entries(detail).filter(([, value]) => typeof value !== "object").map(([name, value]) => `${name.replaceAll("_", " ")} ${typeof value === "number" ? number(value) : value}`).join(", ");

const now = ({ running }) => {
  if (!running) return "–";
  const share = running.total ? running.done / running.total : null;
  return [
    h("progress", { value: share ?? undefined, max: 1, "aria-label": "progress" }), " ",
    `${running.what || "begins"}, ${number(running.done)}${running.total ? ` of ${number(running.total)}` : ""}`,
  ];
};

export const jobs = (place, _, signal) => {
  const wrong = trouble();
  const load = async () => rows.update((await get("/jobs", {}, signal)).jobs);
  const begin = (row) => doing(wrong, async () => {
    await post(`/jobs/${row.name}/run`);
    done(`The job ${row.name} runs.`);
    await load();
  });
  const cancel = (row) => doing(wrong, async () => {
    await remove(`/jobs/${row.name}/run`);
    done(`The job ${row.name} ends at its next step.`);
    await load();
  });
  const rows = table({
    caption: "Jobs", key: (row) => row.name,
    columns: [
      { name: "Job", cell: (row) => [h("b", {}, row.name), h("small", { class: "block" }, row.about)] },
      { name: "Schedule", cell: (row) => h("code", {}, row.schedule) },
      { name: "Next run", moves: true, cell: (row) => (row.next_run ? h("span", { title: time(row.next_run) }, ago(row.next_run)) : "none") },
      { name: "Last run", moves: true, cell: last },
      { name: "Under way", cell: now },
      { name: "Actions", cell: (row) => (row.running
        ? button("Cancel", cancel(row), { "aria-label": `Cancel the run of ${row.name}` })
        : button("Run now", begin(row), { "aria-label": `Run ${row.name} now` })) },
    ],
  });
  show(place, heading("Jobs", "In a cluster one node runs them; this is the same wherever it is asked."), wrong.element, rows.element);
  every(2000, signal, load, wrong.tell);
};
