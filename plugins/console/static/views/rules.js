// The rules of the configuration: how each does on this node, and what they would do with a message.

import { get, post } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { number } from "../lib/format.js";
import { payload } from "../lib/message.js";
import { badge, card, code, doing, field, heading, select, trouble } from "../lib/parts.js";
import { every } from "../lib/refresh.js";
import { table } from "../lib/table.js";

// What went wrong within one: [its count, one of them, many of them, how bad].
const WRONG = [
  ["faults", "fault", "faults", "bad"], ["refused", "refused", "refused", "bad"], ["loops", "stopped in a circle", "stopped in a circle", "warn"], ["not_json", "not JSON", "not JSON", "warn"],
];

const troubles = (row) => {
  const found = WRONG.filter(([name]) => row[name]).map(([name, one, many, kind]) => badge(`${number(row[name])} ${row[name] === 1 ? one : many}`, kind));
  if (row.error) found.push(badge("webhook fails", "bad"), h("small", { class: "block" }, row.error));
  return found.length ? h("span", { class: "marks" }, found) : "none";
};

const lines = (texts) => h("ul", { class: "plain" }, texts.map((text) => h("li", {}, text)));

export const rules = (place, _, signal) => {
  const wrong = trouble();
  const off = h("p", { class: "card", hidden: true }, "The plugin rules is not on, so nothing is done with messages but to store and deliver them (docs/rules.md).");
  const rows = table({
    caption: "Rules", key: (row) => row.name, empty: "The configuration has no rule (docs/rules.md).",
    columns: [
      { name: "Rule", cell: (row) => h("b", {}, row.name) },
      { name: "Topics", cell: (row) => lines(row.topics.map((one) => code(one))) },
      { name: "Where", cell: (row) => (row.where ? code(row.where) : "always") },
      { name: "Does", cell: (row) => lines(row.does) },
      { name: "Matched", number: true, cell: (row) => number(row.matched) },
      { name: "Published again", number: true, cell: (row) => number(row.republished) },
      { name: "Told", number: true, cell: (row) => number(row.delivered) },
      { name: "Trouble", cell: troubles },
    ],
  });
  const body = h("div", {}, rows.element, tester(signal));
  show(place, heading("Rules", "What the configuration has done with messages, and how often this node did it since it started."), wrong.element, off, body);
  every(2000, signal, async () => {
    try {
      rows.update((await get("/rules", {}, signal)).rules);
    } catch (error) {
      if (error.status !== 404) throw error;
      off.hidden = false;
      body.hidden = true;
    }
  }, wrong.tell);
};

const outcome = ({ name, does, why_not: why, failed }) =>
  h("li", {}, h("b", {}, name), " ",
    failed ? badge("fails", "bad") : why ? badge("does nothing") : badge("acts", "good"), " ",
    h("span", { class: "payload", dir: "auto" }, why || does.join("; ") || "means it, and changes nothing"));

const tester = (signal) => {
  const wrong = trouble();
  const topic = h("input", { required: true, placeholder: "sensors/boiler/temperature", autocomplete: "off", spellcheck: "false", autocapitalize: "none", dir: "auto" });
  const words = h("textarea", { rows: 4, placeholder: "{\"celsius\": 31}", spellcheck: "false", dir: "auto" });
  const user = h("input", { placeholder: "nobody that was verified", autocomplete: "off", spellcheck: "false", autocapitalize: "none" });
  const client = h("input", { value: "test", required: true, autocomplete: "off", spellcheck: "false", autocapitalize: "none" });
  const qos = select([["0", "0"], ["1", "1"], ["2", "2"]]);
  qos.value = "1";
  const retain = h("input", { type: "checkbox" });
  const answer = h("div", { class: "answer", role: "status" });
  const ask = async () => {
    show(answer);
    const name = user.value.trim();
    const body = { topic: topic.value, payload: words.value, client: client.value, qos: Number(qos.value), retain: retain.checked };
    if (name) body.sender = /^[uc]\//.test(name) ? name : `u/${name}`;
    const found = await post("/rules/test", body, { signal });
    show(answer,
      found.rules.length ? h("ol", { class: "messages" }, found.rules.map(outcome)) : h("p", {}, "There is no rule."),
      h("h3", {}, "Stored on ", code(found.topic)), payload(found));
  };
  return card("What would they do?",
    h("form", { onsubmit: doing(wrong, ask) },
      field("Topic", topic), field("Payload", words),
      h("div", { class: "filters" }, field("User", user), field("Client id", client), field("QoS", qos), h("label", { class: "check" }, retain, " retain"), h("button", { class: "strong" }, "Try the rules"))),
    h("p", { class: "faint" }, "Nothing is published, stored or counted. Access rules are not asked."), wrong.element, answer);
};
