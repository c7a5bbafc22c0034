// Access rules, and the test of what somebody may do.

import { get, post, remove } from "../lib/api.js";
import { h, show } from "../lib/dom.js";
import { badge, button, card, code, confirm, doing, done, field, heading, select, trouble } from "../lib/parts.js";
import { cut, pager, table } from "../lib/table.js";

const ACTIONS = ["publish", "subscribe", "receive", "history", "search"];
const LIMIT = 50;
const words = (text) => text.split(/[\s,]+/).filter(Boolean);
const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean); // names may hold spaces and commas

export const access = (place, _, signal) => {
  const wrong = trouble();
  const pages = pager(() => load().catch(wrong.tell));
  const file = h("p", { class: "faint", hidden: true });

  const load = async () => {
    const found = await get("/acl/rules", {}, signal);
    const { page, next } = cut(found.rules, pages.at, LIMIT);
    rows.update(page);
    pages.update(next);
    file.hidden = !found.acl_file;
    file.textContent = `Beside them holds Mosquitto's file ${found.acl_file}.`;
  };
  const drop = (row) => doing(wrong, async () => {
    const sure = await confirm({ title: "Remove this rule?", text: `${row().allow ? "allow" : "deny"} ${(row().allow || row().deny).join(", ")} on ${row().topics.join(", ")}. Without the last rule everything may be done again.`, yes: "Remove" });
    if (!sure) return;
    await remove(`/acl/rules/${row().id}`);
    done("The rule is removed.");
    await load();
  });
  const rows = table({
    caption: "Access rules", key: (row) => row.place, empty: "There is no rule: everybody may do everything.",
    columns: [
      { name: "Rule", cell: (row) => code(row.place) },
      { name: "Says", cell: (row) => [badge(row.allow ? "allow" : "deny", row.allow ? "good" : "bad"), " ", (row.allow || row.deny).join(", ")] },
      { name: "Topics", cell: (row) => h("code", {}, row.topics.join("  ")) },
      { name: "Users", cell: (row) => (row.users ? row.users.join(", ") : "everybody") },
      { name: "Actions", once: true, cell: (row) => row().id && button("Remove", (event) => drop(row)(event), { class: "danger", "aria-label": `Remove rule ${row().id}` }) },
    ],
  });
  show(place, heading("Access rules", "What one denies is denied. Once there is a rule, what none allows is denied."), wrong.element,
    h("div", { class: "columns" }, tester(signal), adder(wrong, load)), rows.element, pages.element, file);
  load().catch(wrong.tell);
};

const tester = (signal) => {
  const wrong = trouble();
  const user = h("input", { placeholder: "empty: a client that nobody verified", autocomplete: "off", spellcheck: "false", autocapitalize: "none" });
  const client = h("input", { autocomplete: "off", spellcheck: "false", autocapitalize: "none" });
  const action = select(ACTIONS.map((name) => [name, name]));
  const topic = h("input", { required: true, placeholder: "home/kitchen", autocomplete: "off", spellcheck: "false", autocapitalize: "none" });
  const answer = h("p", { class: "answer", role: "status" });
  const ask = async () => {
    show(answer);
    const found = await get("/acl/check", { user: user.value, client: client.value, action: action.value, topic: topic.value }, signal);
    show(answer, badge(found.allowed ? "allowed" : "denied", found.allowed ? "good" : "bad"), " ", found.why, found.rule && [" ", code(found.rule)]);
  };
  return card("May somebody do something?",
    h("form", { onsubmit: doing(wrong, ask) }, field("User", user), field("Client id", client), field("Action", action), field("Topic, or filter", topic), h("button", { class: "strong" }, "Ask")),
    wrong.element, answer);
};

const adder = (wrong, load) => {
  const kind = select([["allow", "allow"], ["deny", "deny"]]);
  const actions = h("input", { required: true, placeholder: "publish, read, all …", value: "all", autocomplete: "off" });
  const topics = h("textarea", { rows: 2, required: true, placeholder: "home/#\ndevices/{client}/#", spellcheck: "false", autocapitalize: "none" });
  const users = h("textarea", { rows: 2, placeholder: "everybody", spellcheck: "false", autocapitalize: "none" });
  const add = async () => {
    const rule = { [kind.value]: words(actions.value), topics: lines(topics.value) };
    if (lines(users.value).length) rule.users = lines(users.value);
    await post("/acl/rules", rule);
    done("The rule holds.");
    topics.value = "";
    await load();
  };
  return card("New rule in storage",
    h("form", { onsubmit: doing(wrong, add) }, field("Says", kind), field("Actions", actions), field("Topics, one a line", topics), field("Users, one a line", users), h("button", { class: "strong" }, "Add the rule")));
};
