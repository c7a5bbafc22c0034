// Messages that wait to be published, once or again and again (docs/schedules.md).

import { get, post, remove } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { ago, person, time } from "../lib/format.js";
import { line } from "../lib/message.js";
import { button, card, code, confirm, doing, done, field, heading, select, trouble } from "../lib/parts.js";
import { every } from "../lib/refresh.js";
import { me } from "../lib/session.js";
import { pager, table } from "../lib/table.js";

const LIMIT = 50;
const UNITS = [["1", "seconds"], ["60", "minutes"], ["3600", "hours"], ["86400", "days"]];

export const schedules = (place, _, signal) => {
  const wrong = trouble();
  const pages = pager(() => load().catch(wrong.tell));
  const off = h("p", { class: "card", hidden: true }, "The plugin schedules is not on, so nothing is published later (docs/schedules.md).");
  const cancel = (row) => doing(wrong, async () => {
    const sure = await confirm({ title: `Cancel the message to ${row().topic}?`, text: row().schedule ? "It is not published any more, this time and all others." : "It is not published.", yes: "Cancel the message", no: "Keep it" });
    if (!sure) return;
    // who acts as the operator cancels for the one whose message it is
    await remove(`/schedules/${row().id}`, me.operator && !row().sender.startsWith("b/") ? { user: row().sender } : {});
    done(`The message to ${row().topic} is cancelled.`);
    await load();
  });
  const rows = table({
    caption: "Messages that wait", key: (row) => row.id, empty: "No message waits.",
    columns: [
      { name: "Topic", cell: (row) => code(row.topic) },
      { name: "Due", moves: true, cell: (row) => [time(row.due), h("small", { class: "block" }, ago(row.due))] },
      { name: "Again", cell: (row) => (row.schedule ? [h("code", {}, row.schedule), row.timezone && h("small", { class: "block" }, row.timezone)].filter(Boolean) : "once") },
      { name: "Payload", cell: (row) => line(row) },
      { name: "From", cell: (row) => person(row.sender) },
      { name: "Actions", once: true, cell: (row) => button("Cancel", (event) => cancel(row)(event), { class: "danger", "aria-label": `Cancel the message to ${row().topic}` }) },
    ],
  });
  const load = async () => {
    try {
      const page = await get("/schedules", { after: pages.at, limit: LIMIT }, signal);
      rows.update(page.schedules);
      pages.update(page.next);
    } catch (error) {
      if (error.status !== 404) throw error;
      off.hidden = false;
      body.hidden = true;
    }
  };
  const body = h("div", {}, form(load), rows.element, pages.element);
  show(place, heading("Schedules", "Messages that are stored now, and published later, once or again and again."), wrong.element, off, body);
  every(3000, signal, load, wrong.tell);
};

const form = (load) => {
  const wrong = trouble();
  const topic = h("input", { required: true, placeholder: "home/lamp", autocomplete: "off", spellcheck: "false", autocapitalize: "none" });
  const words = h("textarea", { rows: 2, dir: "auto" });
  const kind = select([["delay", "after a while"], ["at", "at a time"], ["schedule", "again and again"]]);
  const delay = h("input", { type: "number", min: 0, step: "any", value: "10", required: true });
  const unit = select(UNITS, { "aria-label": "Unit" });
  unit.value = "60";
  const at = h("input", { type: "datetime-local", step: 1, required: true });
  const again = h("input", { required: true, placeholder: "6h, or 30 9 * * 1-5", spellcheck: "false", autocomplete: "off" });
  const zone = h("input", { placeholder: "the broker's", spellcheck: "false", autocomplete: "off" });
  const retain = h("input", { type: "checkbox" });
  const ways = {
    delay: h("div", { class: "filters" }, field("How many", delay), field("Unit", unit)),
    at: field("When", at),
    schedule: h("div", { class: "filters" }, field("How often", again, "An interval, or a cron line of five fields"), field("Time zone of a cron line", zone)),
  };
  const turn = () => {
    for (const [name, way] of Object.entries(ways)) {
      way.hidden = name !== kind.value;
      for (const input of way.querySelectorAll("input, select")) input.disabled = way.hidden;
    }
  };
  kind.addEventListener("change", turn);
  turn();
  const when = () => ({
    delay: () => ({ delay: Number(delay.value) * Number(unit.value) }),
    at: () => ({ at: new Date(at.value).getTime() }),
    schedule: () => ({ schedule: again.value.trim(), timezone: zone.value.trim() }),
  })[kind.value]();
  const add = async () => {
    const made = await post("/schedules", { topic: topic.value, payload: words.value, retain: retain.checked, ...when() });
    done(`The message to ${made.topic} is published ${ago(made.due)}.`);
    words.value = "";
    await load();
  };
  return h("details", { class: "card" }, h("summary", {}, "Publish a message later"), wrong.element,
    h("form", { onsubmit: doing(wrong, add) }, field("Topic", topic), field("Payload", words), field("Published", kind), Object.values(ways),
      h("div", { class: "filters" }, h("label", { class: "check" }, retain, " retain"), h("button", { class: "strong" }, "Schedule the message"))));
};
